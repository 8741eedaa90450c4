"""Gamma-Gamma: what a user's orders are worth.

P. Fader, B. Hardie: The Gamma-Gamma Model of Monetary Value (note of 2013, brucehardie.com/notes/025). Orders of a user
are Gamma(p, nu), and nu varies over the population as Gamma(q, v): the mean of few orders is drawn to the population's.
"""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import msgspec


class OrderValue(NamedTuple):
    """What is known of a user's orders to come, in minor units and their squares."""

    mean: float
    mean_variance: float
    """How uncertain the user's own mean is; all orders share it."""
    variance: float
    """Of an order about the user's own mean."""


class GammaGamma(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The population's parameters.

    >>> cdnow = GammaGamma(6.25, 3.74, 15.44)
    >>> round(cdnow.order_value(1, 20.0), 2), round(cdnow.order_value(9, 20.0), 2)
    (24.64, 20.71)
    """

    p: float
    q: float
    """Above 2, so that a mean and a variance exist from the first order on."""
    v: float
    """Minor units."""

    def __post_init__(self) -> None:
        for name, least in (("p", 0), ("q", 2), ("v", 0)):
            value = getattr(self, name)
            if not (isfinite(value) and value > least):
                raise ValueError(f"{name} = {value!r}: a finite number above {least} is allowed")

    def order_value(self, orders: int, mean: float) -> float:
        """Return the expected value of the user's next order, given the mean of those so far, in minor units.

        Formula 5 of the note. A mean below 0 (refunds) counts as 0.
        """
        return self.value(orders, mean).mean

    def value(self, orders: int, mean: float) -> OrderValue:
        """Return the moments of the user's orders to come: nu, given the orders so far, is Gamma(p x + q, v + x m)."""
        shape = self.p * orders + self.q
        rate = self.v + orders * max(0.0, mean)
        expected = self.p * rate / (shape - 1)
        return OrderValue(
            expected, expected * expected / (shape - 2), self.p * rate * rate / ((shape - 1) * (shape - 2))
        )
