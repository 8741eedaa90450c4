"""Named signals: conditions on what the model sees of a user, in the units that an operator thinks in.

A condition names a feature of `risk.features.NAMES`, or `{channel}_before`: the count in the 30 days before the last
30. It is turned once, when the playbook is read, into whole thousandths, which is how features are computed: at a visit
it costs a comparison, and it holds exactly where it would of the plain numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from difflib import get_close_matches
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall.risk import explain, features
from worker.recall.risk.features import NAMES, SCALE, SCHEMA, TREND_DAYS
from worker.recall.windows import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COUNT_MAX: Final = 1000
"""Up to it every count has thousandths of its own."""
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
_COUNTS: Final = [features.log_count(n) for n in range(COUNT_MAX + 1)]
_UNITS: Final = dict(SCHEMA)
_PLACES: Final = {name: place for place, name in enumerate(NAMES)}
_TRENDS: Final = {f"{channel}_trend": channel for channel in CHANNELS}
_BEFORE: Final = {f"{channel}_before": channel for channel in CHANNELS}
FEATURES: Final = (
    *(name for name, unit in SCHEMA if not name.startswith("discounted_") and "minor units" not in unit),
    *_BEFORE,
)
"""What may stand in a condition: all that has a plain unit, but money, which tiers and potential judge."""


class ConditionError(ValueError):
    """A condition that cannot be held against features; the message names field, value and what is allowed."""


class Condition(NamedTuple):
    """What `seen` is held against; see `condition`."""

    holds: Callable[[Sequence[int]], bool]
    tell: Callable[[Sequence[int]], str]
    """Says in plain words and figures what is seen."""


class Signal(NamedTuple):
    """Holds where all of its conditions do."""

    name: str
    conditions: tuple[Condition, ...]
    cool_down_ms: int

    def holds(self, seen: Sequence[int]) -> bool:
        for condition in self.conditions:  # noqa: SIM110 - a generator would take longer than what it yields
            if not condition.holds(seen):
                return False
        return True

    def tell(self, seen: Sequence[int]) -> str:
        return "; ".join(condition.tell(seen) for condition in self.conditions)


def count_of(thousandths: int) -> int:
    """Return the count that a feature stands for: exact up to `COUNT_MAX`, and for more the next one.

    >>> count_of(693), count_of(0), count_of(9_000)
    (1, 0, 1001)
    """
    return bisect_left(_COUNTS, thousandths)


def condition(
    feature: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    fell_by: float | None = None,
) -> Condition:
    """Return a condition on a feature, in plain units: counts, days, shares.

    `at_least` and `at_most` include their bounds. `fell_by` is of trends: the share, above 0 and up to 1, by which the
    count in the last 30 days is less than that in the 30 days before, in which there was something. Counts and days
    are held to their bounds exactly, what is no whole number (gaps, shares) to a thousandth of its log1p.

    >>> few = condition("sign_in_14d", at_most=2)
    >>> seen = [0] * len(NAMES)
    >>> few.holds(seen), few.tell(seen)
    (True, 'no sign-ins in 14 days')
    >>> condition("sign_in_15d", at_most=2)
    Traceback (most recent call last):
        ...
    worker.recall.policy.signals.ConditionError: feature = 'sign_in_15d': no such feature; near it: sign_in_14d, \
sign_in_1d, sign_in_7d
    """
    if feature not in FEATURES:
        near = ", ".join(sorted(get_close_matches(feature, FEATURES)))
        known = f"; near it: {near}" if near else ""
        raise ConditionError(f"feature = {feature!r}: no such feature{known}")
    if feature in _TRENDS:
        if fell_by is None or at_least is not None or at_most is not None:
            raise ConditionError(f"feature = {feature!r}: is a trend, of which fell_by alone is allowed")
        return _fall(_TRENDS[feature], fell_by)
    if fell_by is not None or (at_least is None and at_most is None):
        raise ConditionError(f"feature = {feature!r}: is no trend; allowed is at_least, at_most, or both")
    if feature in _BEFORE:
        channel = _BEFORE[feature]
        low = 0 if at_least is None else _count("at_least", at_least)
        high = COUNT_MAX + 1 if at_most is None else _count("at_most", at_most)
        before = _before(channel)
        return Condition(lambda seen: low <= before(seen) <= high, partial(_tell_before, channel, before))
    place = _PLACES[feature]
    lowest = _LOWEST if at_least is None else _thousandths(feature, "at_least", at_least)
    highest = _HIGHEST if at_most is None else _thousandths(feature, "at_most", at_most)
    return Condition(lambda seen: lowest <= seen[place] <= highest, partial(explain.say, feature))


def _count(word: str, bound: float) -> int:
    """Return a bound of counts or days."""
    if bound != int(bound) or not 0 <= bound <= COUNT_MAX:
        raise ConditionError(f"{word} = {bound}: allowed is a whole number from 0 to {COUNT_MAX}")
    return int(bound)


def _thousandths(feature: str, word: str, bound: float) -> int:
    """Return a bound in the thousandths that the feature has where it is just that."""
    unit = _UNITS[feature]
    if unit.startswith("0 or 1"):
        if bound not in {0, 1}:
            raise ConditionError(f"{word} = {bound}: allowed is 0 or 1")
        return int(bound) * SCALE
    if unit.startswith("share"):
        if not 0 <= bound <= 1:
            raise ConditionError(f"{word} = {bound}: allowed is a share from 0 to 1")
        return round(bound * SCALE)
    if feature.endswith(_REAL):
        if bound < 0 and not unit.startswith("signed"):
            raise ConditionError(f"{word} = {bound}: allowed is a number from 0 on")
        return features.log(float(bound))
    return features.log_count(_count(word, bound))


_REAL: Final = ("_gap_mean", "_gap_deviation", "_gaps_since", "_lateness", "products_an_order")
"""Ends of the names of features that are no whole numbers."""


def _fall(channel: str, share: float) -> Condition:
    """Return a condition on a count that fell; compared in whole numbers, since shares are written as decimals."""
    if not 0 < share <= 1:
        raise ConditionError(f"fell_by = {share}: allowed is a share above 0, up to 1")
    left = 1 - Fraction(str(share))
    part, whole = left.numerator, left.denominator
    now, before = _PLACES[f"{channel}_30d"], _before(channel)

    def holds(seen: Sequence[int]) -> bool:
        had = before(seen)
        return had > 0 and count_of(seen[now]) * whole <= had * part

    return Condition(holds, partial(_tell_fall, channel, now, before))


def _before(channel: str) -> Callable[[Sequence[int]], int]:
    """Return what tells the count in the 30 days before the last 30."""
    two_months, month = _PLACES[f"{channel}_60d"], _PLACES[f"{channel}_30d"]
    return lambda seen: count_of(seen[two_months]) - count_of(seen[month])


def _tell_before(channel: str, before: Callable[[Sequence[int]], int], seen: Sequence[int]) -> str:
    return f"{explain.some(before(seen), channel)} in the {TREND_DAYS} days before the last {TREND_DAYS}"


def _tell_fall(channel: str, now: int, before: Callable[[Sequence[int]], int], seen: Sequence[int]) -> str:
    count, had = count_of(seen[now]), before(seen)
    return (
        f"{explain.some(count, channel)} in {TREND_DAYS} days, down {round(100 * (had - count) / had)}% from {had} in "
        f"the {TREND_DAYS} days before"
    )
