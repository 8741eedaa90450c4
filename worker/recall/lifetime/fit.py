"""Finds the parameters of BG/NBD and Gamma-Gamma by maximum likelihood; for the trainer alone, since SciPy is large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, gammaln

from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.history import History
from worker.recall.lifetime.spend import GammaGamma
from worker.recall.lifetime.worth import Lifetime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Floats: TypeAlias = NDArray[np.float64]
Summary: TypeAlias = tuple[History, int, float]
"""A history, a number of orders, and their mean value in minor units."""

HISTORIES_MAX: Final = 20_000
"""More tell nothing new: at so many the likelihood is known to a hundredth, and the fit takes a second."""
PAYERS_MIN: Final = 50
"""So few repeated buyers say nothing of how order values differ."""
_DAYS: Final = 30.0
"""Time is fitted in months, where the parameters are near 1."""
_RIDGE: Final = 0.0005
"""On the logarithms of the parameters, so that a population that tells nothing of one does not send it away."""
_BOUND: Final = 6.0
_DIGITS: Final = 6
"""Significant ones: more differ from one processor to another."""
_SPREAD_MIN: Final = 1e-3
"""Relative deviation of order values below which prices are flat."""


def fit(summaries: Sequence[Summary], day: int) -> Lifetime:
    """Fit both models to what customers did up to a day; with more than enough of them, the first are taken.

    The same summaries in the same order give the same parameters.

    >>> fit([], 20_000)
    Traceback (most recent call last):
    ValueError: summaries: none; allowed is at least one history with a repeated order
    """
    chosen = summaries[:HISTORIES_MAX]
    if not any(history.repeats for history, _, _ in chosen):
        raise ValueError("summaries: none; allowed is at least one history with a repeated order")
    histories = np.array([history for history, _, _ in chosen], dtype=np.float64)
    r, alpha, a, b = _purchases(*histories.T)
    return Lifetime(BgNbd(r, alpha, a, b), _spend(chosen), day, len(chosen))


def purchases_likelihood(parameters: Floats, x: Floats, recency: Floats, age: Floats) -> Floats:
    """Return the log likelihood of each history (shape: n) under r, alpha, a, b; times are in one unit.

    Fader, Hardie and Lee (2005), equation 6, as in their note on computing it.
    """
    r, alpha, a, b = parameters
    repeats = np.maximum(x, 1)
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + betaln(a, b + x) - betaln(a, b)
    stayed = -(r + x) * np.log(alpha + age)
    left = np.where(x > 0, np.log(a) - np.log(b + repeats - 1) - (r + x) * np.log(alpha + recency), -np.inf)
    return np.asarray(common + np.logaddexp(stayed, left))


def spend_likelihood(parameters: Floats, orders: Floats, mean: Floats) -> Floats:
    """Return the log likelihood of each mean order value (shape: n) under p, q, v.

    Fader and Hardie (2013), equation 1a.
    """
    p, q, v = parameters
    shape = p * orders
    return np.asarray(
        gammaln(shape + q)
        - gammaln(shape)
        - gammaln(q)
        + q * np.log(v)
        + (shape - 1) * np.log(mean)
        + shape * np.log(orders)
        - (shape + q) * np.log(v + orders * mean)
    )


def _purchases(x: Floats, recency: Floats, age: Floats) -> list[float]:
    recency, age = recency / _DAYS, age / _DAYS
    starts = ((-0.5, 0.5, -0.5, 0.5), (0.0, 1.0, 0.0, 1.0))
    r, alpha, a, b = _maximise(lambda q: purchases_likelihood(q, x, recency, age), starts)
    return [_rounded(value) for value in (r, alpha * _DAYS, a, b)]


def _spend(summaries: Sequence[Summary]) -> GammaGamma | None:
    payers = [(orders, mean) for _, orders, mean in summaries if orders > 1 and mean > 0]
    if len(payers) < PAYERS_MIN:
        return None
    orders, means = np.array(payers, dtype=np.float64).T
    unit = float(means.mean())
    if float(means.std()) < _SPREAD_MIN * unit:
        return None
    p, q, v = _maximise(lambda parameters: spend_likelihood(parameters, orders, means / unit), ((1.0, 1.0, 0.0),))
    return GammaGamma(_rounded(p), _rounded(q), _rounded(v * unit))


def _maximise(likelihood: Callable[[Floats], Floats], starts: Sequence[tuple[float, ...]]) -> Floats:
    """Return the parameters of the greatest likelihood, found from several starts (logarithms)."""

    def cost(logs: Floats) -> float:
        return float(-likelihood(np.exp(logs)).mean() + _RIDGE * (logs**2).sum())

    bounds = [(-_BOUND, _BOUND)] * len(starts[0])
    found: list[Any] = [minimize(cost, np.array(start), method="L-BFGS-B", bounds=bounds) for start in starts]
    return np.asarray(np.exp(min(found, key=lambda result: float(result.fun)).x))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
