"""What a touch costs in full: money that leaves, what that would have earned elsewhere, and what no invoice shows.

All in micros. What feedback tells of actual costs is settled with the budget; here is what is expected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall.days import DAY_MS
from worker.recall.money import micros
from worker.recall.value import order_value
from worker.stream.processor import Count

if TYPE_CHECKING:
    from worker.recall.money import Currency
    from worker.recall.playbook import Play, Playbook
    from worker.recall.profile import Contact, Profile
    from worker.recall.shop import InForce

FATIGUE_DAYS: Final = 30
"""So long a touch makes the next one more of a burden."""
KINDS: Final = ("contact", "incentive", "opportunity", "hidden")
"""Of the ledger, as expected when a touch is sent."""


class Cost(NamedTuple):
    """What one touch is expected to cost, micros by kind."""

    contact: int
    incentive: int
    opportunity: int
    hidden: int

    @property
    def direct(self) -> int:
        """Return the money that leaves."""
        return self.contact + self.incentive

    @property
    def total(self) -> int:
        """Return the cost in full."""
        return self.contact + self.incentive + self.opportunity + self.hidden


class Face(NamedTuple):
    """What a face value is expected to cost: a sum, and a share of the order that it is used for."""

    fixed: float
    of_order: float


class Prices(NamedTuple):
    """The playbook's amounts in micros, by play and channel, so that a decision has only to look them up."""

    contact: dict[tuple[str, str], int]
    hidden: dict[tuple[str, str], int]
    """All but fatigue."""
    fatigue: int
    """For each touch of the last 30 days."""
    faces: dict[str, tuple[Face, ...]]
    """By play, in the order of its face values."""
    currency: Currency

    @classmethod
    def of(cls, playbook: Playbook, currency: Currency) -> Prices:
        """Read the amounts of a playbook."""
        costs = playbook.costs
        contact: dict[tuple[str, str], int] = {}
        hidden: dict[tuple[str, str], int] = {}
        for play in playbook.plays:
            for channel in play.rungs:
                own, usual = play.cost.contact, playbook.channels.cost[channel]
                contact[play.name, channel] = micros(usual if own is None else own)
                unseen = play.cost.hidden
                if unseen is None:
                    unseen = costs.people + costs.upkeep + costs.brand[channel]
                hidden[play.name, channel] = micros(unseen)
        return cls(contact, hidden, micros(costs.fatigue), _faces(playbook), currency)


def _faces(playbook: Playbook) -> dict[str, tuple[Face, ...]]:
    point = micros(playbook.subsidy.point_value)
    faces = {}
    for play in playbook.plays:
        if (incentive := play.incentive) is not None:
            redeemed = incentive.expected_redemption
            beside = incentive.points * point * redeemed
            if incentive.form == "percent":
                told = [Face(beside, float(value) / 100 * redeemed) for value in incentive.face_values]
            else:
                unit = point if incentive.form == "points" else micros(1)
                told = [Face(beside + float(value) * unit * redeemed, 0.0) for value in incentive.face_values]
            faces[play.name] = tuple(told)
    return faces


def cost(
    play: Play, channel: str, face: int | None, profile: Profile, book: InForce, shadow_price: float, at: int
) -> Cost:
    """Return what a touch by a play on a channel, with the incentive of that place or none, is expected to cost.

    A percentage is of the user's mean order.
    """
    prices, place = book.prices, (play.name, channel)
    contact = prices.contact[place]
    incentive = 0
    if face is not None:
        fixed, of_order = prices.faces[play.name][face]
        if of_order:
            fixed += of_order * prices.currency.micros_of_minor(1) * order_value(profile)
        incentive = round(fixed)
    since = at - FATIGUE_DAYS * DAY_MS
    touches = sum(since < touch.at <= at for touch in profile.account.contacts)
    return Cost(
        contact,
        incentive,
        round(shadow_price * (contact + incentive)),
        prices.hidden[place] + touches * prices.fatigue,
    )


def redeemed(contact: Contact, playbook: Playbook) -> int:
    """Return what a touch's incentive costs once it is used; what it was charged with where its play is gone."""
    play = playbook.play(contact.play)
    if play is None or play.incentive is None:
        return contact.incentive_micros
    return round(contact.incentive_micros / play.incentive.expected_redemption)


def booked(play: str, spent: Cost) -> list[Count]:
    """Return what the ledger takes of a touch that is sent: sums by kind and play, in the partition's counters.

    >>> booked("memory-email", Cost(1_000, 0, 500, 8_000))  # doctest: +NORMALIZE_WHITESPACE
    [Count(name='ledger.contact.memory-email', n=1000), Count(name='ledger.opportunity.memory-email', n=500),
     Count(name='ledger.hidden.memory-email', n=8000)]
    """
    amounts = zip(KINDS, spent, strict=True)
    return [Count(f"ledger.{kind}.{play}", amount) for kind, amount in amounts if amount]


def booked_actual(play: str, amount: int) -> Count:
    """Return what the ledger takes of money that has left, once feedback has told it.

    >>> booked_actual("memory-email", 900)
    Count(name='ledger.actual.memory-email', n=900)
    """
    return Count(f"ledger.actual.{play}", amount)
