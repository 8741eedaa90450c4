"""The ledger of what was spent: recorded decisions, summed by play, channel and kind of cost."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from schemas.values import Channel
from worker.sources.history import connect

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TOPIC: Final = "recall-decisions"
KINDS: Final = ("contact", "incentive", "opportunity", "hidden")
_NOTHING: Final = (Decimal(0), Decimal(0), Decimal(0), Decimal(0))
_RUNGS: Final = get_args(Channel)
_FIELDS: Final = ("decision_id", "outcome", "reason", "play", "channel", "potential")
_PRICED: Final = f"""
with told as (
    select {", ".join(f"value->>'{field}' as {field}" for field in _FIELDS)}, value->>'$.cost.currency' as currency,
           {", ".join(f"(value->>'$.cost.{kind}')::decimal(38, 6) as {kind}" for kind in KINDS)}
    from {{source}}
    where json_type(value, '$.cost') = 'OBJECT' and (value->>'arm') = 'treated'
      and (value->>'outcome') in ('sent', 'suppressed')
), once as (select distinct on (decision_id) * from told)
select {", ".join(_FIELDS[1:])}, currency, count(*), {", ".join(f"sum({kind})" for kind in KINDS)}
from once
group by all
"""  # noqa: S608 - no user text


class Spent(NamedTuple):
    """Touches of a play on a channel, and what they were expected to cost when they were sent, in major units."""

    play: str
    channel: str
    potential: str
    """Of silent users; empty for all others."""
    touches: int
    contact: Decimal
    incentive: Decimal
    opportunity: Decimal
    hidden: Decimal

    @property
    def total(self) -> Decimal:
        """Return the cost in full."""
        return self.contact + self.incentive + self.opportunity + self.hidden

    def plus(self, other: Spent) -> Spent:
        """Return the sum with another one of the same play, channel and potential."""
        return self._replace(
            touches=self.touches + other.touches,
            contact=self.contact + other.contact,
            incentive=self.incentive + other.incentive,
            opportunity=self.opportunity + other.opportunity,
            hidden=self.hidden + other.hidden,
        )


class Ledger(NamedTuple):
    """What decisions that were recorded say of money."""

    currency: str
    sent: list[Spent]
    not_sent: dict[str, tuple[int, Decimal]]
    """By reason, touches that had a price and were not sent, and what they would have cost in full."""

    def by(self, *fields: str) -> list[Spent]:
        """Return what was sent, summed over all but these fields, in the order of the ladder.

        What is summed over is empty.
        """
        sums: dict[tuple[str, str, str], Spent] = {}
        for spent in self.sent:
            play, channel, potential = (
                getattr(spent, name) if name in fields else "" for name in ("play", "channel", "potential")
            )
            alone = spent._replace(play=play, channel=channel, potential=potential)
            before = sums.get((play, channel, potential))
            sums[play, channel, potential] = alone if before is None else before.plus(alone)
        return sorted(sums.values(), key=lambda spent: (spent.play, _place(spent.channel), spent.potential))

    @property
    def total(self) -> Spent:
        """Return the sum of all that was sent."""
        summed = self.by()
        return summed[0] if summed else Spent("", "", "", 0, *_NOTHING)


def read(path: Path) -> Ledger:
    """Read the decisions of a folder that a replay wrote, or of a file: as a replay writes it, or a decision a line.

    A decision that is told twice counts once.
    """
    found = [path] if path.is_file() else [path / f"{TOPIC}{ending}" for ending in (".jsonl", ".parquet")]
    file = next((candidate for candidate in found if candidate.is_file()), None)
    if file is None:
        raise ValueError(f"decisions = {path}: allowed is a file of decisions, or a folder with {TOPIC}.jsonl in it")
    if file.suffix == ".parquet":
        source = "(select value::json as value from read_parquet(?))"
    else:
        source = "(select coalesce(json_extract(json, '$.value'), json) as value from read_ndjson_objects(?))"
    with connect() as db:
        rows = db.execute(_PRICED.format(source=source), [str(file)]).fetchall()
    return _ledger(rows)


def _ledger(
    rows: Iterable[tuple[str, str, str | None, str | None, str | None, str, int, *tuple[Decimal, ...]]],
) -> Ledger:
    currencies: set[str] = set()
    sent: list[Spent] = []
    not_sent: dict[str, tuple[int, Decimal]] = {}
    for outcome, reason, play, channel, potential, currency, touches, *amounts in rows:
        currencies.add(currency)
        if outcome == "sent":
            contact, incentive, opportunity, hidden = amounts
            sent.append(
                Spent(play or "", channel or "", potential or "", touches, contact, incentive, opportunity, hidden)
            )
        else:
            number, cost = not_sent.get(reason, (0, Decimal(0)))
            not_sent[reason] = number + touches, cost + sum(amounts, Decimal(0))
    if len(currencies) > 1:
        raise ValueError(f"decisions: currencies {', '.join(sorted(currencies))}: allowed is one")
    return Ledger(next(iter(currencies), ""), sent, not_sent)


def _place(channel: str) -> int:
    return _RUNGS.index(channel) if channel in _RUNGS else -1
