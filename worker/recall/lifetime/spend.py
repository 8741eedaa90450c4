"""Gamma-Gamma: what a customer spends on an order lies about a mean of his own, and these means about a common one.

Fader and Hardie, "The Gamma-Gamma model of monetary value" (2013), brucehardie.com/notes/025. What is spent is taken
not to depend on how often.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec


class OrderValue(NamedTuple):
    """What is known of a customer's next orders, minor units and their squares."""

    mean: float
    square: float
    """Of his mean order value, expected: above the mean's square by how little is known of it."""
    variance: float
    """Of one order about his mean, expected."""


class GammaGamma(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The three parameters: an order is gamma distributed with shape `p`, the scale's inverse with `q` and `v`.

    `v` is in minor units.
    """

    p: float
    q: float
    v: float

    def __post_init__(self) -> None:
        for name in ("p", "q", "v"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)}: allowed is a finite number above 0")

    def order_value(self, orders: int, mean: float) -> OrderValue:
        """Return the expectation after so many orders of such a mean value.

        The fewer the orders, the nearer it is to the population's mean.

        >>> cdnow = GammaGamma(p=6.25, q=3.74, v=15.44)
        >>> round(cdnow.order_value(0, 0.0).mean, 2), round(cdnow.order_value(2, 50.0).mean, 2)
        (35.22, 47.34)
        """
        shape = max(_SHAPE_MIN, self.p * orders + self.q)
        scale = self.v + orders * mean
        square = scale * scale / ((shape - 1) * (shape - 2))
        return OrderValue(self.p * scale / (shape - 1), self.p * self.p * square, self.p * square)


_SHAPE_MIN: Final = 2.1
"""With less, the variance of what is known would be infinite."""
