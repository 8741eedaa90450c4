"""The shop's catalogue: given from outside, so that what one customer buys is never missing for another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from scipy.special import ndtri

from worker.simulate.draws import FOR_LIFE, bases, key_of, uniforms
from worker.simulate.parameters import GIVEN, cents

if TYPE_CHECKING:
    from numpy.typing import NDArray

CATEGORIES: Final = tuple(GIVEN.catalog.categories)
PER_CATEGORY: Final = GIVEN.catalog.products
PRODUCTS: Final = PER_CATEGORY * len(CATEGORIES)
ARRIVALS: Final = GIVEN.catalog.arrivals
STOCK: Final = 40
"""Pieces that a product in stock is said to have; nobody's order changes it."""


class Week(NamedTuple):
    """A week of the catalogue; cents by product."""

    price: NDArray[np.int64]
    stocked: NDArray[np.bool_]
    arrivals: NDArray[np.int64]
    """The new ones."""


class Catalog:
    """Products by number, by category and within it by price."""

    def __init__(self, key: int) -> None:
        given = GIVEN.catalog
        self._bases = bases(key_of(key, "catalog"), np.arange(PRODUCTS, dtype=np.uint64))
        spread = np.exp(given.spread * ndtri(uniforms(self._bases, FOR_LIFE, 0)))
        medians = np.repeat([cents(one.price) for one in given.categories.values()], PER_CATEGORY)
        drawn = np.sort((medians * spread).astype(np.int64).reshape(-1, PER_CATEGORY), axis=1).ravel()
        self.list_price = drawn // 100 * 100 + 99
        self.margin_rate = np.repeat([one.margin for one in given.categories.values()], PER_CATEGORY)
        self.cost = np.round(self.list_price * (1 - self.margin_rate)).astype(np.int64)
        self._order = np.argsort(uniforms(self._bases, FOR_LIFE, 1))
        """In which the products come to be new arrivals."""
        self._weeks: dict[int, Week] = {}

    def week(self, number: int) -> Week:
        """Return a week, counted from the simulation's first."""
        if number not in self._weeks:
            given = GIVEN.catalog
            reduced = uniforms(self._bases, number, 0) < given.reduced
            price = np.where(reduced, np.round(self.list_price * (1 - given.reduction)), self.list_price)
            stocked = uniforms(self._bases, number, 1) >= given.sold_out
            arrivals = self._order[(number * ARRIVALS + np.arange(ARRIVALS)) % PRODUCTS]
            # What has just come is there, and at its price.
            price[arrivals], stocked[arrivals] = self.list_price[arrivals], True
            self._weeks[number] = Week(price.astype(np.int64), stocked, arrivals)
        return self._weeks[number]

    def changed(self, number: int) -> NDArray[np.int64]:
        """Return the products of which a week tells something new."""
        week = self.week(number)
        if number == 0:
            return np.arange(PRODUCTS)
        before = self.week(number - 1)
        new = (week.price != before.price) | (week.stocked != before.stocked)
        new[week.arrivals] = True
        return np.flatnonzero(new)
