"""What came of choices, summed up by segment and play: what the next choices start from.

An outcome counts by one over the probability with which it came about (inverse propensity weighting, Horvitz and
Thompson 1952): within a segment, a play is rather given to users whose return is worth more, and these may return more
often anyway. A rate is the weighted mean, and counts for so many outcomes as it would of equal weights (Kish 1965).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker.recall.days import Days

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from schemas.snapshots import ChoicePriors

HALF_LIFE_DAYS: Final = 91
"""After so many days an outcome counts half: a season."""
WEIGHT_MAX: Final = 20.0
"""One over the floor of a propensity; a rarer outcome counts no more."""
CELLS_MAX: Final = 96
"""Pairs of segment and play that are kept: in a snapshot some 5 kB."""
_DIGITS: Final = 5
"""Significant ones: a day's decay is still seen in them."""


class Outcome(NamedTuple):
    """What came of a choice; see `schemas.training.Outcome`."""

    segment: str
    play: str
    y: int
    propensity: float


class Cell(NamedTuple):
    """Outcomes of a play in a segment."""

    weight: float = 0.0
    squares: float = 0.0
    returned: float = 0.0

    @property
    def n(self) -> float:
        """How many outcomes of equal weight would tell as much."""
        return self.weight**2 / self.squares if self.squares else 0.0

    @property
    def rate(self) -> float:
        """Share of those who ordered; 0 where there is none."""
        return self.returned / self.weight if self.weight else 0.0


NONE: Final = Cell()


class Responses:
    """Takes outcomes by day; the sums are a function of the set of outcomes.

    Sums are rounded at the end of each day, so that they are equal to the last bit where they are taken up again from
    a snapshot.

    >>> responses = Responses()
    >>> for day in (1, 1 + HALF_LIFE_DAYS):
    ...     responses.learn(day, [Outcome("drop/core/untouched", "memory", 1, 0.5)])
    >>> responses.cell("drop/core/untouched", "memory")
    Cell(weight=3.0, squares=6.0, returned=3.0)
    """

    def __init__(self, day: int = 0, segments: Mapping[str, Mapping[str, Cell]] | None = None) -> None:
        self.day = day
        """The last day whose outcomes are in; 0 before the first."""
        self.segments: Mapping[str, Mapping[str, Cell]] = segments or {}

    def learn(self, day: int, outcomes: Iterable[Outcome]) -> None:
        """Take the outcomes of a day, in an order that they alone determine.

        Raises:
            ValueError: if the day is before that of earlier ones.

        """
        if day < self.day:
            raise ValueError(f"day = {day}: allowed is {self.day} or later")
        kept = 0.5 ** ((day - self.day) / HALF_LIFE_DAYS)
        self.day = day
        sums = {
            (segment, play): [kept * part for part in cell]
            for segment, plays in self.segments.items()
            for play, cell in plays.items()
        }
        for segment, play, y, propensity in outcomes:
            weight = min(WEIGHT_MAX, 1 / propensity)
            cell = sums.setdefault((segment, play), [0.0, 0.0, 0.0])
            cell[0] += weight
            cell[1] += weight * weight
            cell[2] += weight * y
        segments: dict[str, dict[str, Cell]] = {}
        for (segment, play), parts in sorted(sums.items()):
            segments.setdefault(segment, {})[play] = Cell(*(float(f"{part:.{_DIGITS}g}") for part in parts))
        self.segments = _most(segments)

    def cell(self, segment: str, play: str) -> Cell:
        """Return what is known of a play in a segment."""
        return self.segments.get(segment, {}).get(play, NONE)

    def to_json(self) -> dict[str, Any] | None:
        """Return all sums, as plain JSON values; None before the first outcome."""
        if not self.day:
            return None
        segments = {name: {play: list(cell) for play, cell in plays.items()} for name, plays in self.segments.items()}
        return {"day": Days.date(self.day), "segments": segments}

    @classmethod
    def read(cls, told: ChoicePriors | None) -> Responses:
        """Return what a snapshot holds, equal to the last bit."""
        if told is None:
            return cls()
        segments = {name: {play: Cell(*cell) for play, cell in plays.items()} for name, plays in told.segments.items()}
        return cls(Days.number(told.day), segments)


def _most(segments: Mapping[str, Mapping[str, Cell]]) -> dict[str, Mapping[str, Cell]]:
    """Return the segments of most outcomes, whole, as many as may be kept."""
    told = {name: sum(cell.n for cell in plays.values()) for name, plays in segments.items()}
    kept, room = set(), CELLS_MAX
    for name in sorted(told, key=lambda name: (-told[name], name)):
        room -= len(segments[name])
        if room < 0:
            break
        kept.add(name)
    return {name: plays for name, plays in segments.items() if name in kept}
