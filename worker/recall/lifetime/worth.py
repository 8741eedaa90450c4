"""What a customer is expected to bring within some time, and how far off that may be."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import msgspec

from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.history import History
from worker.recall.lifetime.spend import GammaGamma, OrderValue


class Lifetime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a population's orders say about any one customer, as it travels in a snapshot."""

    purchases: BgNbd
    spend: GammaGamma | None
    """None where all orders are worth much the same, or too few were seen."""
    fitted_day: int
    histories: int
    """How many it was fitted on."""


class Worth(NamedTuple):
    """An expected margin and its standard deviation, in minor units."""

    margin: float
    error: float


def worth(
    lifetime: Lifetime, history: History, orders: int, mean_value: float, margin_rate: float, days: float
) -> Worth:
    """Return the margin that a customer is expected to bring within the days after his history's end.

    `orders` and `mean_value` (minor units) are those that his order value is learned from.

    The expectation is exact: BG/NBD's number of orders times Gamma-Gamma's order value. For the error the number of
    orders of one who has not left is taken as negative binomial with BG/NBD's mean and the shape r + x of his rate,
    which it would be if nobody left within the days; the order values are exact, with what is not known of their mean
    in common.
    """
    purchases = lifetime.purchases
    n = purchases.expected_orders(history, days)
    alive = purchases.alive(history)
    n_alive = n / alive if alive else 0.0
    n_square = alive * (n_alive + n_alive * n_alive * (1 + 1 / (purchases.r + history.repeats)))
    value = (
        OrderValue(mean_value, mean_value * mean_value, 0.0)
        if lifetime.spend is None
        else lifetime.spend.order_value(orders, mean_value)
    )
    mean = n * value.mean
    variance = n * value.variance + n_square * value.square - mean * mean
    return Worth(margin_rate * mean, margin_rate * sqrt(max(0.0, variance)))
