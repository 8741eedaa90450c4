"""When to end the process: work that does not move, and a process that itself stood still.

Pure: whoever looks says what was seen, and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

STEP_S_MAX = 5.0
"""Of the time between two looks no more than this counts: in the rest the process itself stood still."""


class Sample(NamedTuple):
    """What is seen of one thing that is to move, such as a lane."""

    name: str
    work: int
    """How much there is to do; nothing to do is not stuck."""
    moved: Hashable
    """Changes with all that counts as progress."""
    held: str | None = None
    """What it waits for, in words, and what can be mended from outside: waiting for it is not stuck."""


class Watchdog:
    """Tells how long each thing has had work and not moved.

    >>> watchdog = Watchdog(stuck_s=4)
    >>> for second in (0, 2, 4):
    ...     watchdog.look(second, [Sample("partition 0", work=7, moved=100), Sample("partition 1", work=0, moved=3)])
    >>> watchdog.still
    {'partition 0': 4.0, 'partition 1': 0.0}
    >>> watchdog.stuck()
    ['partition 0 has stood still for 4 s with work to do']
    """

    def __init__(self, stuck_s: float) -> None:
        self.stuck_s = stuck_s
        self.still: dict[str, float] = {}
        """Seconds, by name."""
        self._moved: dict[str, Hashable] = {}
        self._looked_at: float | None = None

    def look(self, now: float, samples: Iterable[Sample]) -> None:
        """Take note of all that there is to see; `now` in seconds of a clock that only goes forward."""
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, STEP_S_MAX)
        still: dict[str, float] = {}
        moved: dict[str, Hashable] = {}
        for sample in samples:
            name = sample.name
            same = name in self._moved and self._moved[name] == sample.moved
            stands = same and sample.work > 0 and sample.held is None
            still[name] = self.still[name] + passed if stands else 0.0
            moved[name] = sample.moved
        self.still, self._moved, self._looked_at = still, moved, now

    def stuck(self) -> list[str]:
        """Say what has stood still for too long."""
        return [
            f"{name} has stood still for {seconds:.0f} s with work to do"
            for name, seconds in self.still.items()
            if seconds >= self.stuck_s
        ]


class StallGuard:
    """Tells whether the process stood still for so long that the group may have given its partitions to another.

    Where there is no fence, it must not commit after that.
    """

    def __init__(self, gap_s_max: float, now: float) -> None:
        self._gap_s_max = gap_s_max
        self._beat_at = now

    def beat(self, now: float) -> None:
        """Note that the process runs."""
        self._beat_at = now

    def stalled(self, now: float) -> str | None:
        """Say for how long nothing ran, where that was too long."""
        gap = now - self._beat_at
        if gap <= self._gap_s_max:
            return None
        return f"the process stood still for {gap:.1f} s, allowed are {self._gap_s_max:.1f}"
