"""Maximum likelihood for the purchase models, on the histories of many users at once.

A worker that is always on needs an answer within seconds and the same one each time, so the likelihoods of the papers
are maximised directly, by L-BFGS-B on the logarithms of the parameters. A small ridge on these keeps parameters finite
that the histories say nothing of; it moves the others by a few percent at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, digamma, expit, gammaln

from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.spend import GammaGamma
from worker.recall.lifetime.worth import Lifetime, day_value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from worker.recall.lifetime.history import History, Summary

    Vector = npt.NDArray[np.float64]

HISTORIES_MIN: Final = 200
HISTORIES_MAX: Final = 20_000
"""More would make the fit slower, not better; the first ones are taken."""
PAYERS_MIN: Final = 100
"""Users with two days of orders or more that Gamma-Gamma needs: one alone does not tell how a user's orders differ."""

_RIDGE: Final = 0.0005
TIME_UNIT: Final = 30.0
"""Days: so that all parameters are of the order of 1."""
LOG_MAX: Final = 5.0
"""Of the logarithms of the parameters: within it the formulas of the models hold for every history."""
_TO_THE_END: Final = {"ftol": 0.0, "gtol": 1e-9}
"""On to where rounding stops it: processors add in orders of their own, go ways of their own to the minimum, and in six
digits agree on nothing else."""
_SPREAD_MIN: Final = 1e-3
"""Of users' mean values, as a share of their mean: below it all pay the same."""


class FitError(ValueError):
    """Histories that no model can be fitted to."""


def fit(summaries: Sequence[Summary], day: int) -> Lifetime:
    """Fit to summaries of users who are a sample of all, those gone included.

    Raises:
        FitError: where there are too few, none repeats, or a history contradicts itself.

    """
    summaries = summaries[:HISTORIES_MAX]
    histories = [rhythms.orders for rhythms, _, _ in summaries]
    values = np.array([day_value(rhythms.orders, n, mean) for rhythms, n, mean in summaries], dtype=np.float64)
    orders = np.array([history.repeats + 1 for history in histories], dtype=np.float64)
    return Lifetime(
        purchases=fit_purchases(histories),
        activity=fit_purchases([rhythms.active for rhythms, _, _ in summaries]),
        spend=fit_spend(orders[orders > 1], values[orders > 1]),
        fitted_day=day,
        histories=len(summaries),
    )


def fit_purchases(histories: Sequence[History]) -> BgNbd:
    """Fit BG/NBD, to the days with orders or those with activity.

    Raises:
        FitError: as `fit`.

    """
    if len(histories) < HISTORIES_MIN:
        raise FitError(f"histories: {len(histories)} are too few; allowed are {HISTORIES_MIN} or more")
    x, recency, age = np.array(histories, dtype=np.float64).T
    wrong = np.flatnonzero(~((x >= 0) & (recency >= x) & (age >= recency) & ((x > 0) | (recency == 0))))
    if wrong.size:
        raise FitError(
            f"{histories[wrong[0]]}: allowed are 0 <= repeats <= recency_days <= age_days, no recency without a repeat"
        )
    if not x.any():
        raise FitError(f"histories: none of {len(histories)} has a repeat")

    # Equal histories are frequent: each counts as often as it is there.
    distinct, counts = np.unique(np.stack([x, recency, age]), axis=1, return_counts=True)
    x, recency, age = distinct[0], distinct[1] / TIME_UNIT, distinct[2] / TIME_UNIT
    weights = counts / counts.sum()

    def loss(logs: Vector) -> tuple[float, Vector]:
        parameters = np.exp(logs)
        slopes = purchase_slopes(parameters, x, recency, age) @ weights
        return float(-weights @ purchase_log_likelihoods(parameters, x, recency, age)), -slopes * parameters

    r, alpha, a, b = _minimise(loss, ([-0.5, 0.5, -0.5, 0.5], [0.0, 1.0, 0.0, 1.0]))
    return BgNbd(_rounded(r), _rounded(alpha * TIME_UNIT), _rounded(a), _rounded(b))


def purchase_log_likelihoods(parameters: Vector, repeats: Vector, recency: Vector, age: Vector) -> Vector:
    """Return the log likelihood of each history: formula 6 of the BG/NBD paper, times in the unit of alpha."""
    r, alpha, a, b = parameters
    shape = r + repeats
    common = gammaln(shape) - gammaln(r) + r * np.log(alpha) + betaln(a, b + repeats) - betaln(a, b)
    stayed = -shape * np.log(alpha + age)
    left = np.log(a) - np.log(b + np.maximum(repeats, 1) - 1) - shape * np.log(alpha + recency)
    return np.asarray(common + np.where(repeats > 0, np.logaddexp(stayed, left), stayed))


def purchase_slopes(parameters: Vector, repeats: Vector, recency: Vector, age: Vector) -> Vector:
    """Return the derivatives of the log likelihoods by r, alpha, a and b; shape (4, histories)."""
    r, alpha, a, b = parameters
    shape, before = r + repeats, b + np.maximum(repeats, 1) - 1
    odds = np.log(a) - np.log(before) - shape * np.log((alpha + recency) / (alpha + age))
    left = np.where(repeats > 0, expit(odds), 0.0)
    stayed = 1 - left
    all_left = digamma(a + b) - digamma(a + b + repeats)
    return np.stack(
        [
            digamma(shape) - digamma(r) + np.log(alpha) - stayed * np.log(alpha + age) - left * np.log(alpha + recency),
            r / alpha - shape * (stayed / (alpha + age) + left / (alpha + recency)),
            all_left + left / a,
            all_left + digamma(b + repeats) - digamma(b) - left / before,
        ]
    )


def fit_spend(orders: Vector, means: Vector) -> GammaGamma | None:
    """Fit Gamma-Gamma to numbers of orders and their mean values; who paid nothing is left out.

    None where too few remain, or all pay the same.
    """
    paid = means > 0
    orders, means = orders[paid], means[paid]
    if len(orders) < PAYERS_MIN or means.std() < _SPREAD_MIN * means.mean():
        return None
    unit = float(means.mean())
    means = means / unit

    def loss(logs: Vector) -> tuple[float, Vector]:
        own = np.exp(logs)
        parameters = own + np.array([0.0, 2.0, 0.0])
        slopes = spend_slopes(parameters, orders, means).mean(axis=1)
        return float(-spend_log_likelihoods(parameters, orders, means).mean()), -slopes * own

    p, beyond, v = _minimise(loss, ([0.0, 0.0, 0.0], [2.0, 1.0, 1.0]))
    return GammaGamma(_rounded(p), _rounded(2 + beyond), _rounded(v * unit))


def spend_log_likelihoods(parameters: Vector, orders: Vector, means: Vector) -> Vector:
    """Return the log likelihood of each user's mean: formula 1a of the Gamma-Gamma note, money in the unit of v."""
    p, q, v = parameters
    shape = p * orders
    return np.asarray(
        gammaln(shape + q)
        - gammaln(shape)
        - gammaln(q)
        + q * np.log(v)
        + (shape - 1) * np.log(means)
        + shape * np.log(orders)
        - (shape + q) * np.log(v + orders * means)
    )


def spend_slopes(parameters: Vector, orders: Vector, means: Vector) -> Vector:
    """Return the derivatives of the log likelihoods by p, q and v; shape (3, users)."""
    p, q, v = parameters
    shape, spent = p * orders, v + orders * means
    whole = digamma(shape + q)
    return np.stack(
        [
            orders * (whole - digamma(shape) + np.log(means) + np.log(orders) - np.log(spent)),
            whole - digamma(q) + np.log(v) - np.log(spent),
            q / v - (shape + q) / spent,
        ]
    )


def _minimise(loss: Callable[[Vector], tuple[float, Vector]], starts: Sequence[Sequence[float]]) -> list[float]:
    """Return the parameters of least loss, which comes with its gradient by their logarithms.

    Several starts, since the surface has flat places.
    """

    def ridged(logs: Vector) -> tuple[float, Vector]:
        least, gradient = loss(logs)
        return least + _RIDGE * float(logs @ logs), gradient + 2 * _RIDGE * logs

    best: Any = None
    for start in starts:
        bounds = [(-LOG_MAX, LOG_MAX)] * len(start)
        found = minimize(ridged, np.array(start), method="L-BFGS-B", jac=True, bounds=bounds, options=_TO_THE_END)
        if best is None or found.fun < best.fun:
            best = found
    return [float(value) for value in np.exp(best.x)]


def _rounded(value: float) -> float:
    """Round to six significant digits, so that the last bits of a processor's arithmetic do not show.

    >>> _rounded(0.123456789)
    0.123457
    """
    return float(f"{value:.6g}")
