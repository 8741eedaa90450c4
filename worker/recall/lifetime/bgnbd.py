"""BG/NBD: when users order, and whether they still will.

P. Fader, B. Hardie, K. L. Lee: "Counting Your Customers" the Easy Way: An Alternative to the Pareto/NBD Model,
Marketing Science 24:2 (2005), 275-284. While a user is alive, orders are a Poisson process; after each the user
leaves for good with a probability p. Rates vary as Gamma(r, alpha), p as Beta(a, b).
"""

from __future__ import annotations

import math
from math import exp, isfinite, log
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
from scipy.special import betaincinv, hyp2f1

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.recall.lifetime.history import History

_LOG_MAX: Final = 700.0
"""The exponential of more is no float."""
_POLE: Final = 1e-5
"""The moments are smooth in `a`, their formulas are not at 1 and 2: so near, this far off is taken."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_QUANTILES: Final = (_NODES + 1) / 2
"""Of p, closer together at both ends; Gauss and Legendre's."""
_P_MIN: Final = 1e-9
_SELDOM: Final = 1e-4


class Orders(NamedTuple):
    """Number of orders over some days to come."""

    mean: float
    variance: float


class BgNbd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The population's parameters; times are in days, and users' histories are as of now.

    >>> cdnow = BgNbd(0.243, 4.414 * 7, 0.793, 2.426)
    >>> from worker.recall.lifetime.history import History
    >>> round(cdnow.orders(History(2, 213, 272), 273).mean, 3)  # p. 280: 1.226
    1.226
    """

    r: float
    alpha: float
    """Days."""
    a: float
    b: float

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value!r}: a finite number above 0 is allowed")

    def alive(self, history: History) -> float:
        """Return the probability that the user has not left; 1 before the first repeat, since users leave after one.

        A note of the same authors of 2008, "Computing P(alive) Using the BG/NBD Model", formula 4.
        """
        repeats, recency, age = history
        if not repeats:
            return 1.0
        odds = log(self.a / (self.b + repeats - 1)) + (self.r + repeats) * log(
            (self.alpha + age) / (self.alpha + recency)
        )
        return 1.0 / (1.0 + exp(min(odds, _LOG_MAX)))

    def no_order(self, history: History, days: int) -> float:
        """Return the probability of no order within the days to come."""
        return 1.0 - self.alive(history) * (1.0 - self.silent(history, days))

    def silent(self, history: History, days: int) -> float:
        """Return the probability of no order within the days to come of a user who is alive.

        His rate is Gamma(r + x, alpha + T), of which a Poisson process is silent for H days with the probability
        ((alpha + T) / (alpha + T + H))^(r + x).
        """
        now = self.alpha + history.age_days
        return math.pow(now / (now + days), self.r + history.repeats)

    def orders(self, history: History, days: int) -> Orders:
        """Return mean (formula 10 of the paper) and variance of the days with an order within the days to come.

        Given rate and p, a user who is alive is expected to order (1 - exp(-rate p H)) / p times, and the second
        factorial moment is 2 (1 - p) / p^2 (1 - exp(-rate p H) (1 + rate p H)). Over the Gamma of the rate and the
        Beta(a, b + x) of p these are hypergeometric functions of -H / (alpha + T), here in Pfaff's form (Abramowitz
        and Stegun, 15.3.4), which has no great terms to cancel. Where SciPy has no number for one of them, as it may at
        the edge of what can be fitted, both are taken over quantiles of p.
        """
        if days <= 0:
            return Orders(0.0, 0.0)
        alive = self.alive(history)
        s = self.r + history.repeats
        a = next((pole + _POLE for pole in (1, 2) if abs(self.a - pole) < _POLE), self.a)
        c = a + self.b + history.repeats
        if abs(c - 1) < _POLE:
            c = 1 + _POLE
        tau = days / (self.alpha + history.age_days)
        z = tau / (1 + tau)
        first = (c - 1) / (a - 1)
        mean = first * (1 - _pfaff(c - 1 - s, a - 1, c - 1, z))
        # E[(1 - p) / p^2 (1 - (1 + p tau)^-s - s p tau (1 + p tau)^-(s + 1))], term by term.
        beta = c - a
        second = beta * (c - 1) / ((a - 1) * (a - 2))
        whole = 1 - _pfaff(c - 1 - s, a - 2, c - 1, z)
        part = beta / (a - 1) * s * tau * _pfaff(c - 1 - s, a - 1, c, z)
        factorial = 2 * (second * whole - part)
        if not (isfinite(mean) and isfinite(factorial)):
            mean, factorial = _over_quantiles(s, tau, betaincinv(self.a, self.b + history.repeats, _QUANTILES))
        mean *= alive
        return Orders(mean, max(0.0, alive * factorial + mean - mean * mean))


def _pfaff(a: float, b: float, c: float, z: float) -> float:
    """Return (1 - z)^b F(a, b; c; z), z in [0, 1), where F has no pole at 1.

    Elsewhere Euler's form of it, which has none there (Abramowitz and Stegun, 15.3.3): a product of 0 and infinity is
    no number.

    >>> round(_pfaff(1.0, 0.5, 3.0, 0.2), 9) == round(0.8**2 * float(hyp2f1(2.0, 2.5, 3.0, 0.2)), 9)
    True
    """
    if a + b > c:
        a, b = c - b, c - a
    return math.pow(1 - z, b) * float(hyp2f1(a, b, c, z))


def _over_quantiles(s: float, tau: float, quantiles: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return mean and second factorial moment of the orders of a user who is alive, by p at `_QUANTILES`."""
    p = np.maximum(quantiles, _P_MIN)
    u = p * tau
    logs = s * np.log1p(u)
    mean = -np.expm1(-logs) / p
    # Of a small rate the terms cancel; what is left then is the limit.
    seldom = s * (s + 1) * tau**2 * (1 - p)
    often = 2 * (1 - p) / p**2 * (1 - np.exp(-logs) * (1 + s * u / (1 + u)))
    square = np.where(s * u < _SELDOM, seldom, often)
    return float((mean * _WEIGHTS).sum()) / 2, float((square * _WEIGHTS).sum()) / 2
