"""What a worker tells of itself: whether it lives, whether it is ready, and if not, why.

Pure: `watch` sees what there is to see, the web server says it. No keys are in it, and nothing of the rows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from worker.stream.watchdog import Sample

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

Phase = Literal["starting", "rebalancing", "recovering", "running", "stopping"]
LOOK_S_MAX = 30.0
"""The watchdog looks each second or more often; a thread that did not for so long is dead."""


class LaneState(NamedTuple):
    """A lane at one moment."""

    name: str
    number: int
    lag: Mapping[str, int]
    """Records known to be there and not worked off, by topic."""
    opened: bool
    busy: bool
    """Whether its task is at work."""
    moved: Hashable
    """Its offsets, the changelog's and its clock."""
    clock: int | None
    """Event time, ms; None where it has none."""
    held: str | None
    """What it waits for, in words."""
    unready: Sequence[str]
    """What the domain says against its being ready."""

    @property
    def title(self) -> str:
        return f"{self.name} {self.number}"


class RecoveryState(NamedTuple):
    """How far the rows have come back from the changelog, the last time: in changelog records, and seconds."""

    records: int
    remaining: int
    seconds: float


class State(NamedTuple):
    """A worker at one moment."""

    phase: Phase
    rebalances: int
    turns: int
    """Of the fetch loop."""
    lanes: Sequence[LaneState]
    recovery: RecoveryState


def samples(state: State) -> Iterator[Sample]:
    """Return what has to move: the lanes, the fetch loop, and what leads up to them."""
    running = state.phase == "running"
    yield Sample(state.phase, int(not running), (state.rebalances, state.recovery.records))
    yield Sample("the fetch loop", int(running), state.turns)
    if running:
        for lane in state.lanes:
            work = sum(lane.lag.values()) + lane.busy + (not lane.opened)
            yield Sample(lane.title, work, lane.moved, lane.held)


def reasons_dead(stuck: Sequence[str], looked_s: float) -> list[str]:
    """Say why the process should be restarted; `looked_s` is how long ago the watchdog looked."""
    silent = [f"the watchdog has not looked for {looked_s:.0f} s"] if looked_s > LOOK_S_MAX else []
    return [*stuck, *silent]


def reasons_unready(state: State) -> list[str]:
    """Say why the worker does not do, or not do fully, what it is there for."""
    if state.phase == "recovering":
        recovery = state.recovery
        return [f"recovering: {recovery.records} changelog records read, {recovery.remaining} remain"]
    if state.phase != "running":
        return [state.phase]
    waiting = [f"{lane.title} waits for {lane.held}" for lane in state.lanes if lane.held is not None]
    return [*waiting, *(f"{lane.title}: {reason}" for lane in state.lanes for reason in lane.unready)]


def describe(state: State, reasons: Sequence[str], still: Mapping[str, float]) -> dict[str, Any]:
    """Return the body of an answer, for JSON; `still` are the watchdog's seconds."""
    return {
        "ok": not reasons,
        "reasons": list(reasons),
        "phase": state.phase,
        "recovery": {**state.recovery._asdict(), "seconds": round(state.recovery.seconds, 1)},
        "lanes": [
            {
                "lane": lane.name,
                "partition": lane.number,
                "lag": dict(lane.lag),
                "clock": None if lane.clock is None else _rfc3339(lane.clock),
                "waits_for": lane.held,
                "still_s": round(still.get(lane.title, 0.0), 1),
            }
            for lane in state.lanes
        ],
    }


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
