"""Value tiers and how a user moves between them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from worker.recall.days import DAY_MS
from worker.recall.rfm import Scores

if TYPE_CHECKING:
    from collections.abc import Sequence


class Tier(IntEnum):
    """What a user is worth, in rising order; `NEW`, before the second order, stands outside of it."""

    NEW = 0
    SILENT = 1
    MARGINAL = 2
    POTENTIAL = 3
    HIGH = 4

    @property
    def label(self) -> str:
        return self.name.lower()


CORE_DAYS = 180
"""A core user was `high` within so many days."""


class TierRule(NamedTuple):
    """The least scores that a tier asks for."""

    tier: Tier
    least: Scores


class TierRules(NamedTuple):
    """The playbook's table: from the highest tier down, the first whose least scores are reached; else marginal.

    >>> rules = TierRules((TierRule(Tier.HIGH, Scores(4, 4, 4)), TierRule(Tier.POTENTIAL, Scores(3, 2, 2))), 60, 7, 14)
    >>> rules.tier(Scores(5, 4, 4)).label, rules.tier(Scores(5, 4, 3)).label, rules.tier(Scores(1, 5, 5)).label
    ('high', 'potential', 'marginal')
    """

    table: tuple[TierRule, ...]
    silence_days: int
    hold_days: int
    """How long a lower tier must hold before the drop."""
    guard_days: int
    """How long after a rise there is no drop."""

    def tier(self, scores: Scores) -> Tier:
        for tier, least in self.table:
            if scores.r >= least.r and scores.f >= least.f and scores.m >= least.m:
                return tier
        return Tier.MARGINAL


class Standing(msgspec.Struct, array_like=True, gc=False):
    """A user's tier, as it lies in the row; times in ms, 0 for never."""

    tier: int = Tier.NEW
    since: int = 0
    rose_at: int = 0
    lower_since: int = 0
    """Since when the scores ask for a lower tier that has not been given yet."""
    high_at: int = 0
    """When the user was last seen in `high`."""
    scores: tuple[int, int, int] = (0, 0, 0)
    """As of the last time when they asked for this tier or a higher one."""
    cut_points: str = ""

    def is_core(self, at: int) -> bool:
        return self.tier == Tier.HIGH or (self.high_at > 0 and at - self.high_at <= CORE_DAYS * DAY_MS)


class Transition(NamedTuple):
    """A change of tier."""

    at: int
    origin: Tier
    target: Tier
    cause: str
    fell: tuple[str, ...]
    before: Scores | None
    after: Scores | None

    @property
    def drop(self) -> bool:
        """Tell whether the user fell: lower in the order, or from new to silent."""
        return self.target < self.origin or (self.origin is Tier.NEW and self.target is Tier.SILENT)


AT_ONCE = frozenset({"refund", "silence", "recut"})
"""Causes of a drop that wait for nothing."""

_UNSCORED = (0, 0, 0)
_DIMENSIONS = ("R", "F", "M")
_CAUSE_OF = {"R": "recency", "F": "frequency", "M": "spend"}


def fell(before: Sequence[int], after: Sequence[int]) -> tuple[str, ...]:
    """Return the dimensions that fell, the deepest fall first.

    >>> fell((5, 4, 4), (4, 4, 1))
    ('M', 'R')
    """
    falls = [(old - new, i) for i, (old, new) in enumerate(zip(before, after, strict=True)) if new < old]
    return tuple(_DIMENSIONS[i] for _, i in sorted(falls, key=lambda fall: (-fall[0], fall[1])))


def _name(cause: str, dimensions: Sequence[str]) -> str:
    return _CAUSE_OF[dimensions[0]] if dimensions else cause


def drop_due(standing: Standing, rules: TierRules) -> int | None:
    """Return when the lower tier that is asked for would be given; None where none is."""
    if not standing.lower_since:
        return None
    held = standing.lower_since + rules.hold_days * DAY_MS
    return max(held, standing.rose_at + rules.guard_days * DAY_MS) if standing.rose_at else held


def move(
    standing: Standing, target: Tier, scores: Scores | None, at: int, cause: str, rules: TierRules
) -> Transition | None:
    """Let the scores act on the standing, at the time `at`; return the change of tier, if there is one.

    Scores are None before the second order. Out of silence every way leads up, that to new too.
    A rise acts at once. A drop waits until the lower tier has held and the guard after a rise is over, but for the
    causes in `AT_ONCE`; its cause is then named after the dimension that fell most, as is that of a rise which came
    with time alone (an old refund leaves the window) after the one that rose.
    """
    origin = Tier(standing.tier)
    if target >= origin or origin is Tier.SILENT:
        standing.lower_since = 0
        if cause == "time":
            cause = _name(cause, fell(scores or _UNSCORED, standing.scores))
        transition = None if target is origin else _change(standing, target, scores, at, cause)
        standing.scores = scores or _UNSCORED
        if transition is not None:
            standing.rose_at = at
        return transition
    if cause not in AT_ONCE:
        standing.lower_since = standing.lower_since or at
        due = drop_due(standing, rules)
        if due is None or at < due:
            return None
        cause = _name(cause, fell(standing.scores, scores or _UNSCORED))
    transition = _change(standing, target, scores, at, cause)
    standing.scores = scores or _UNSCORED
    return transition


def silence(standing: Standing, at: int) -> Transition:
    """Drop to silent, as of the moment `at` when the silence became too long."""
    return _change(standing, Tier.SILENT, None, at, "silence")


def _change(standing: Standing, target: Tier, scores: Scores | None, at: int, cause: str) -> Transition:
    origin = Tier(standing.tier)
    before = Scores(*standing.scores) if any(standing.scores) else None
    if origin is Tier.HIGH:
        standing.high_at = at
    standing.tier = int(target)
    standing.since = at
    standing.lower_since = 0
    down = fell(before, scores) if before is not None and scores is not None else ()
    return Transition(at, origin, target, cause, down or (("R",) if cause == "silence" else ()), before, scores)
