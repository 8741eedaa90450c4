"""BG/NBD: customers order at a rate of their own until they leave for good, which none of them says.

Fader, Hardie and Lee, "Counting your customers" the easy way, Marketing Science 24:2 (2005); equations by its numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from scipy.special import hyp2f1

if TYPE_CHECKING:
    from worker.recall.lifetime.history import History

_NEAR_ONE: Final = 1e-6


class BgNbd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The four parameters; time is in days.

    Rates are gamma distributed with shape `r` and rate `alpha`, the probability of leaving after an order is beta
    distributed with `a` and `b`.
    """

    r: float
    alpha: float
    a: float
    b: float

    def __post_init__(self) -> None:
        for name in ("r", "alpha", "a", "b"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)}: allowed is a finite number above 0")

    def alive(self, history: History) -> float:
        """Return the probability that the customer has not left for good.

        It is 1 without a repeated order, since customers of this model leave after those alone: it tells gone from
        merely silent among those who came back once, and is no risk of churn.

        >>> from worker.recall.lifetime.history import History
        >>> cdnow = BgNbd(r=0.243, alpha=4.414, a=0.793, b=2.426)
        >>> cdnow.alive(History(0, 0, 39)), round(cdnow.alive(History(2, 30, 39)), 3)
        (1.0, 0.72)
        """
        x = history.repeats
        if not x:
            return 1.0
        odds: float = (self.a / (self.b + x - 1)) * (
            (self.alpha + history.age_days) / (self.alpha + history.recency_days)
        ) ** (self.r + x)
        return 1 / (1 + odds)

    def no_order(self, history: History, days: float) -> float:
        """Return the probability of no order within the days after the history's end.

        Of those who have not left, the rate is gamma distributed with shape r + x and rate alpha + T.
        """
        beyond = self.alpha + history.age_days
        still: float = (beyond / (beyond + days)) ** (self.r + history.repeats)
        return 1 - self.alive(history) * (1 - still)

    def expected_orders(self, history: History, days: float) -> float:
        """Return the expected number of days with an order within the days after the history's end (equation 10)."""
        if not days:
            return 0.0
        r, a, b, x = self.r, self.a, self.b, history.repeats
        beyond = self.alpha + history.age_days
        # At a = 1 the formula is 0 / 0; next to it, it is smooth.
        a = a if abs(a - 1) > _NEAR_ONE else 1 + _NEAR_ONE
        series = hyp2f1(r + x, b + x, a + b + x - 1, days / (beyond + days))
        grown = 1 - (beyond / (beyond + days)) ** (r + x) * series
        return float((a + b + x - 1) / (a - 1) * grown) * self.alive(history)
