"""What a user is expected to bring: orders to come, times their value, times the margin."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.spend import GammaGamma, OrderValue

if TYPE_CHECKING:
    from worker.recall.lifetime.history import History, Rhythms


class Lifetime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All models, as fitted.

    Whether a user is still there shows in all that he does, and sooner than in his orders; how often he orders does
    not. So BG/NBD is fitted twice: on days with an order and on days with activity.
    """

    purchases: BgNbd
    activity: BgNbd
    spend: GammaGamma | None
    """None where too few users paid twice, or all pay the same: then users' own means stand."""
    fitted_day: int
    histories: int
    """How many it was fitted to."""

    def no_order(self, rhythms: Rhythms, days: int) -> float:
        """Return the probability of no order within the days to come: gone by the activity, or silent by the orders."""
        return 1.0 - self.alive(rhythms.active) * (1.0 - self.purchases.silent(rhythms.orders, days))

    def alive(self, active: History) -> float:
        """Return the probability that the user has not left for good, by the days with activity."""
        return self.activity.alive(active)


class Worth(NamedTuple):
    """Margin over some days to come, in minor units."""

    margin: float
    error: float
    """Predictive standard deviation."""


def day_value(history: History, orders: int, mean_value: float) -> float:
    """Return what the user brought per day with an order, in minor units: the models count days, the row orders."""
    return orders * mean_value / (history.repeats + 1)


def worth(lifetime: Lifetime, history: History, orders: int, mean_value: float, margin_rate: float, days: int) -> Worth:
    """Return the margin expected within the days to come; of `orders` so far, `mean_value` is the net mean.

    With N purchases to come, of which each varies by s^2 about the user's own mean, itself known as m with a
    variance w: E = E[N] m and Var = E[N] s^2 + E[N^2] w + Var[N] m^2. Exact in the models, for which number and value
    of a user's orders are independent; the error of the fitted parameters is left out, and so are seasons. Not
    discounted.
    """
    number = lifetime.purchases.orders(history, days)
    own = day_value(history, orders, mean_value)
    spend = lifetime.spend
    value = OrderValue(max(0.0, own), 0.0, 0.0) if spend is None else spend.value(history.repeats + 1, own)
    square = number.variance + number.mean**2
    variance = number.mean * value.variance + square * value.mean_variance + number.variance * value.mean**2
    return Worth(margin_rate * number.mean * value.mean, margin_rate * sqrt(variance))
