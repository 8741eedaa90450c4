"""Effects of being touched, with 95% intervals, from users who were held out at random.

A row is a user from the first time on that he could have been touched (a unit). The effect is the treated units' mean
less the held-out units' mean, whether or not anything was sent: intention to treat. Rows of a user count together
(cluster-robust); where the probability of being held out changed, held-out rows are weighted to the treated ones'.

CUPED (A. Deng, Y. Xu, R. Kohavi, T. Walker: Improving the Sensitivity of Online Controlled Experiments by Utilizing
Pre-Experiment Data, WSDM 2013) takes off what the time before already told: y - theta (x - mean of x), with theta from
within the arms. It moves no expectation, since x was settled before the arm was drawn, and narrows the interval by the
share of variance that x explains.

Intervals are Welch's: Student's t with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

LEVEL: Final = 0.95
POWER: Final = 0.8
Z_SUM: Final = 1.959964 + 0.841621
"""Quantiles of a two-sided 5% and of power .8: an effect of so many standard errors is seen four times in five."""
USERS_MIN: Final = 30
"""An arm with fewer users says nothing: Student's t does not hold for counts of orders."""
EVENTS_MIN: Final = 5
"""So many users of each arm have to have other than 0: an arm in which nothing happened has no spread to go by."""


class Effect(NamedTuple):
    """Difference of means between treated and held-out units."""

    value: float
    error: float
    """Standard error."""
    low: float
    high: float
    treated: float
    """Mean of the treated."""
    control: float
    """Mean of the held out, brought to the treated ones' past where CUPED was used."""

    @property
    def shown(self) -> bool:
        """Tell whether it differs from none: whether its interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def least(self) -> float:
        """Return the smallest effect that would be seen with power .8 at this error."""
        return Z_SUM * self.error

    def times(self, factor: float) -> Effect:
        """Return the effect of so many units together."""
        return Effect(*(factor * number for number in self))


@dataclass(frozen=True, slots=True)
class Units:
    """Who is compared with whom; arrays over units."""

    treated: Bools
    user: Ints
    """Numbers of users, from 0."""
    propensity: Floats
    """Probability of having been treated; between 0 and 1, both left out."""

    def __post_init__(self) -> None:
        low, high = float(self.propensity.min(initial=0.5)), float(self.propensity.max(initial=0.5))
        if not 0 < low <= high < 1:
            raise ValueError(f"propensity from {low} to {high}: allowed is above 0 and below 1, or nobody is compared")

    def __len__(self) -> int:
        return len(self.treated)

    @property
    def weight(self) -> Floats:
        """Return the weights that make the held out stand for the treated."""
        return np.where(self.treated, 1.0, self.propensity / (1 - self.propensity))

    def of(self, which: Bools) -> Units:
        """Return some of them."""
        return Units(self.treated[which], self.user[which], self.propensity[which])

    def users(self, *, treated: bool) -> int:
        """Return how many users an arm has."""
        return len(np.unique(self.user[self.treated == treated]))


def enough(units: Units, y: Floats) -> bool:
    """Tell whether both arms have users and events enough for an interval to hold."""
    return all(
        units.users(treated=arm) >= USERS_MIN
        and len(np.unique(units.user[(units.treated == arm) & (y != 0)])) >= EVENTS_MIN
        for arm in (True, False)
    )


def difference(units: Units, y: Floats) -> Effect:
    """Return the effect on a number that each unit has; both arms need two users.

    >>> four = Units(np.array([True, True, False, False]), np.arange(4), np.full(4, 0.5))
    >>> effect = difference(four, np.array([3.0, 5.0, 1.0, 2.0]))
    >>> effect.value, round(effect.error, 3), round(effect.low, 2), round(effect.high, 2)
    (2.5, 1.118, -4.42, 9.42)
    """
    weight = units.weight
    means = [_mean(y, weight, units.treated == arm) for arm in (True, False)]
    parts = [
        _influence(weight * (y - mean), weight, units.treated == arm)
        for arm, mean in zip((True, False), means, strict=True)
    ]
    return _effect(units, means[0], means[1], parts)


def adjusted(units: Units, y: Floats, before: Sequence[Floats]) -> Effect:
    """Return the effect by CUPED: what was known of each unit before its arm mattered is taken off."""
    weight = units.weight
    x = _columns(before)
    theta = _slope(units, y, x, weight)
    about = np.array([_mean(column, weight, units.treated) for column in x.T]).reshape(-1)
    return difference(units, y - (x - about) @ theta)


def narrower(units: Units, y: Floats, before: Sequence[Floats]) -> tuple[Effect, bool]:
    """Return the effect by CUPED where that narrows its interval, else the plain one; and whether it did."""
    plain, by_cuped = difference(units, y), adjusted(units, y, before)
    return (by_cuped, True) if by_cuped.error < plain.error else (plain, False)


def ratio(units: Units, over: Floats, under: Floats) -> Effect:
    """Return the difference of two ratios of sums, such as revenue by order; linearised (delta method)."""
    weight = units.weight
    ratios, parts = [], []
    for arm in (True, False):
        which = units.treated == arm
        base = float((weight * under)[which].sum())
        value = float((weight * over)[which].sum()) / base if base else math.nan
        ratios.append(value)
        parts.append(_influence(weight * (over - value * under), weight * under, which))
    return _effect(units, ratios[0], ratios[1], parts)


# -- how many it takes -------------------------------------------------------------------------------------------------


def units_needed(variance: float, effect: float, held_out: float) -> int:
    """Return how many units, both arms together, show an effect with power .8 at a two-sided 5%.

    >>> units_needed(variance=1.0, effect=0.2, held_out=0.5), units_needed(variance=1.0, effect=0.2, held_out=0.1)
    (785, 2181)
    """
    return math.ceil(Z_SUM**2 * variance * (1 / held_out + 1 / (1 - held_out)) / effect**2)


def longer(effect: Effect, size: float) -> float:
    """Return how many times as many units as there are it takes until an effect of a size is seen (1: it is now)."""
    return (effect.least / size) ** 2 if size else math.inf


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share (E. B. Wilson, 1927).

    >>> [round(bound, 4) for bound in wilson(5, 50)]
    [0.0435, 0.2136]
    """
    if not n:
        return 0.0, 1.0
    z = 1.959964
    centre, half = hits + z * z / 2, z * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, (centre - half) / (n + z * z)), min(1.0, (centre + half) / (n + z * z))


# -- parts -------------------------------------------------------------------------------------------------------------


def _mean(y: Floats, weight: Floats, which: Bools) -> float:
    total = float(weight[which].sum())
    return float((weight * y)[which].sum()) / total if total else math.nan


def _influence(deviations: Floats, base: Floats, which: Bools) -> Floats:
    """Return by row what it moves a mean by; 0 of the other arm."""
    total = float(base[which].sum())
    return np.where(which, deviations / total if total else math.nan, 0.0)


def _effect(units: Units, treated: float, control: float, parts: Sequence[Floats]) -> Effect:
    """Return the difference of two means with its interval; `parts` is the influence of each row on either mean."""
    value = treated - control
    users = int(units.user.max(initial=-1)) + 1
    sums, freedom_of = [], []
    for arm, part in zip((True, False), parts, strict=True):
        n = units.users(treated=arm)
        scale = math.sqrt(n / (n - 1)) if n > 1 else math.nan
        sums.append(np.bincount(units.user, part, users) * scale)
        freedom_of.append(n - 1)
    by_arm = [float(one @ one) for one in sums]
    between = sums[0] - sums[1]
    variance = float(between @ between)
    if not variance > 0:
        edge = math.nan if math.isnan(variance) else 0.0
        return Effect(value, edge, value - edge, value + edge, treated, control)
    freedom = sum(by_arm) ** 2 / sum(one**2 / n for one, n in zip(by_arm, freedom_of, strict=True))
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Effect(value, error, value - half, value + half, treated, control)


def _columns(before: Sequence[Floats]) -> Floats:
    """Return what is known before as a matrix; a number that is the same for all tells nothing."""
    kept = [column for column in before if len(column) and np.ptp(column) > 0]
    return np.column_stack(kept).astype(np.float64) if kept else np.zeros((len(before[0]), 0))


def _slope(units: Units, y: Floats, x: Floats, weight: Floats) -> Floats:
    """Return theta: how y goes with x within the arms, by weighted least squares."""
    if not x.shape[1]:
        return np.zeros(0)
    rows, goals = np.empty_like(x), np.empty_like(y)
    for arm in (True, False):
        which = units.treated == arm
        if which.any():
            root = np.sqrt(weight[which])
            rows[which] = (x[which] - np.average(x[which], axis=0, weights=weight[which])) * root[:, None]
            goals[which] = (y[which] - np.average(y[which], weights=weight[which])) * root
    scale = np.sqrt((rows**2).sum(axis=0))
    scale[scale == 0] = 1.0
    theta, *_ = np.linalg.lstsq(rows / scale, goals, rcond=None)
    solved: Floats = theta / scale
    return solved
