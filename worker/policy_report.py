"""What a replay's policy did, as a page of Markdown: commands, refusals and costs over a whole population."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from schemas.values import Channel, Level
from worker.recall.money import micros_text
from worker.tally import COSTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.grants import Grant
    from worker.settings import Settings
    from worker.tally import Tally, Touch

CHANNELS: Final = get_args(Channel)
POTENTIALS: Final = ("", *get_args(Level))


def page(
    tally: Tally, settings: Settings, playbook: str, records: int, grants: Sequence[Grant], since: str | None = None
) -> str:
    """Return the page; the same for the same replay, whatever machine it ran on. What came before `since` is not in."""
    head = _head(tally, settings, playbook, records, grants)
    told = [] if since is None else [f"Of what came out from {since} on.", ""]
    return "\n".join([*head, *told, *_commands(tally), *_others(tally)]) + "\n"


def _head(tally: Tally, settings: Settings, playbook: str, records: int, grants: Sequence[Grant]) -> Iterator[str]:
    granted = ", ".join(
        f"{micros_text(given.amount)} {settings.currency} a {given.period} for `{given.budget}` "
        f"(lambda {given.shadow_price:f})"
        for given in grants
    )
    yield (
        f"Playbook `{playbook}`, {records:,} records in {settings.partitions} partitions, {len(tally.customers):,} "
        f"customers with an order; granted: {granted or 'nothing'}."
    )
    yield ""


def _commands(tally: Tally) -> Iterator[str]:
    """Yield the commands by play, rung and potential, with what they were expected to cost."""
    yield f"| play | rung | potential | commands | {' | '.join(COSTS)} |"
    yield f"|---|---|---|{'---:|' * (1 + len(COSTS))}"
    for touch in sorted(tally.touches, key=_place):
        costs = " | ".join(_money(tally.costs[touch][kind]) for kind in COSTS)
        yield f"| {touch.play} | {touch.channel} | {touch.potential or '-'} | {tally.touches[touch]:,} | {costs} |"
    total = " | ".join(_money(tally.cost[kind]) for kind in COSTS)
    yield f"| all | | | {len(tally.commands):,} | {total} |"
    yield ""


def _place(touch: Touch) -> tuple[str, int, int]:
    return touch.play, CHANNELS.index(touch.channel), POTENTIALS.index(touch.potential)


def _others(tally: Tally) -> Iterator[str]:
    yield "| decision | reason | number |"
    yield "|---|---|---:|"
    yield from _rows("not sent", tally.suppressed)
    yield from _rows("put off", tally.held)
    yield from _rows("proposed", tally.proposed)
    yield from _rows("called back", tally.cancelled)
    yield from _rows("ended, treated", tally.endings("treated"))
    yield from _rows("ended, held out", tally.endings("control"))


def _rows(what: str, counts: Mapping[str, int]) -> Iterable[str]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return (f"| {what} | {reason} | {n:,} |" for reason, n in ranked)


def _money(amount: int) -> str:
    return micros_text(round(amount, -3))
