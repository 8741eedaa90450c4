"""Money for touches, as an operator grants it: for all partitions together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from schemas.values import rfc3339
from worker.recall.money import AmountError, exact, micros, micros_text
from worker.recall.policy.budget import Period, part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from worker.recall.playbook import Playbook


class GrantError(ValueError):
    """A grant that cannot be read, or that could pay for nothing; the message says why."""


class Grant(NamedTuple):
    """Money for all partitions together, in micros of the shop's currency."""

    budget: str
    amount: int
    period: Period = "day"
    until: int | None = None
    """ms; None: until it is used up, or replaced by another grant."""
    shadow_price: Decimal = exact(0)
    """Opportunity cost of a unit of money (lambda)."""

    @classmethod
    def of(cls, text: str) -> Grant:
        """Read a grant a day from text.

        >>> Grant.of("daily=100.00:0.5")
        Grant(budget='daily', amount=100000000, period='day', until=None, shadow_price=Decimal('0.5'))
        >>> Grant.of("daily")
        Traceback (most recent call last):
        worker.grants.GrantError: grant = 'daily': allowed is BUDGET=AMOUNT[:LAMBDA], such as daily=100.00:0.5
        """
        budget, _, rest = text.partition("=")
        amount, _, shadow_price = rest.partition(":")
        try:
            given = cls(budget, micros(amount), shadow_price=exact(shadow_price or "0"))
        except AmountError:
            given = None
        if given is None or not budget:
            raise GrantError(f"grant = {text!r}: allowed is BUDGET=AMOUNT[:LAMBDA], such as daily=100.00:0.5")
        return given

    def records(self, at: int, currency: str, partitions: int) -> list[bytes]:
        """Return the record of each partition; together they grant the amount, to the micro.

        >>> [orjson.loads(raw)["amount"] for raw in Grant("daily", 10_000_001).records(0, "EUR", 4)]
        ['2.5', '2.5', '2.5', '2.500001']
        """
        record: dict[str, Any] = {
            "kind": "grant",
            "effective_at": rfc3339(at),
            "budget_id": self.budget,
            "period": self.period,
            "currency": currency,
            "shadow_price": f"{self.shadow_price:f}",
        }
        if self.until is not None:
            record["until"] = rfc3339(self.until)
        shares = (part(self.amount, number, partitions) for number in range(partitions))
        return [orjson.dumps(record | {"amount": micros_text(share)}) for share in shares]


def check(given: Grant, books: Sequence[Playbook], currency: str, partitions: int) -> None:
    """Refuse a grant that no play of the playbooks pays with, and one that is less than a contact in each partition.

    Raises:
        GrantError: naming what would be allowed.

    """
    contacts = [contact for book in books for contact in _contacts(book) if contact.budget == given.budget]
    if not contacts:
        budgets = sorted({contact.budget for book in books for contact in _contacts(book)})
        raise GrantError(
            f"budget = {given.budget!r}: no play pays with it; allowed are {', '.join(budgets) or 'none'}, or --force"
        )
    cheapest = min(contacts)
    least = cheapest.cost * partitions
    if given.amount < least:
        raise GrantError(
            f"amount = {micros_text(given.amount)} {currency}: over {partitions} partitions that is less than one "
            f"contact in each, and the cheapest, {cheapest.play} by {cheapest.channel}, costs "
            f"{micros_text(cheapest.cost)}: allowed is {micros_text(least)} or more, or --force"
        )


class _Contact(NamedTuple):
    cost: int
    play: str
    channel: str
    budget: str


def _contacts(book: Playbook) -> Iterator[_Contact]:
    """Yield the contacts that cost money; of one that costs nothing but what it gives away, the contact's nothing."""
    for play in book.plays:
        for channel in play.rungs:
            own = play.cost.contact
            cost = micros(book.channels.cost[channel] if own is None else own)
            if cost or (play.incentive is not None and channel == play.rungs[-1]):
                yield _Contact(cost, play.name, channel, play.budget)
