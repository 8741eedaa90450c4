"""What happened in money, by customer: in two worlds, one with touches and one without, it tells their true effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from worker.simulate.parameters import TYPES
from worker.simulate.people import Bools, Ints

if TYPE_CHECKING:
    from numpy.typing import NDArray

MICROS_PER_CENT: Final = 10_000


class Sums(NamedTuple):
    """By customer: orders that were not cancelled, and cents of net revenue and of margin, refunds taken off."""

    orders: Ints
    revenue: Ints
    margin: Ints

    def __sub__(self, other: Sums) -> Sums:
        return Sums(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


class Ledger:
    """Orders and refunds day by day; margin is net revenue less what the goods cost."""

    def __init__(self, customers: int) -> None:
        self.customers = customers
        self._entries: list[tuple[int, Ints, Ints, Ints, Ints]] = []

    def add(self, day: int, user: Ints, orders: Ints, revenue: Ints, margin: Ints) -> None:
        if len(user):
            self._entries.append((day, user, orders, revenue, margin))

    def sums(self, first: int = 0, end: int = 1 << 30) -> Sums:
        """Return the sums of the days from `first` to before `end`."""
        found = [entry[1:] for entry in self._entries if first <= entry[0] < end]
        if not found:
            none = np.zeros(self.customers, np.int64)
            return Sums(none, none, none)
        user, *columns = (np.concatenate(column) for column in zip(*found, strict=True))
        # Sums of cents below 2**53 are exact as floats.
        return Sums(*(np.bincount(user, column, self.customers).astype(np.int64) for column in columns))


class Effect(NamedTuple):
    """What touches did to a group of customers: with them less without them. Money in cents."""

    group: str
    customers: int
    touched: int
    touches: int
    orders: int
    """Orders that there would not have been otherwise, less those that were lost."""
    orders_without: int
    revenue: int
    margin: int
    cost: float
    """Of the touches; what a coupon gives away is missing from revenue and margin."""
    left: int
    """Customers driven away."""

    @property
    def net(self) -> float:
        """Margin less cost."""
        return self.margin - self.cost


def by_type(
    kinds: Ints, with_touches: Sums, without: Sums, *, touches: Ints, cost_micros: NDArray[np.int64], left: Bools
) -> list[Effect]:
    """Return the effect on each type, and on all; the arrays are over customers."""
    difference = with_touches - without
    groups = [(name, kinds == number) for number, name in enumerate(TYPES)]
    groups.append(("all", np.ones(len(kinds), np.bool_)))
    return [
        Effect(
            group=name,
            customers=int(which.sum()),
            touched=int((touches[which] > 0).sum()),
            touches=int(touches[which].sum()),
            orders=int(difference.orders[which].sum()),
            orders_without=int(without.orders[which].sum()),
            revenue=int(difference.revenue[which].sum()),
            margin=int(difference.margin[which].sum()),
            cost=float(cost_micros[which].sum()) / MICROS_PER_CENT,
            left=int(left[which].sum()),
        )
        for name, which in groups
    ]
