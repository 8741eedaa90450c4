"""The catalogue as of an event time: what a product cost, earned and was, and since when.

A record holds from its `effective_at` on, and says nothing of the fields that it leaves out: each field of a product
is a series of its own, so a record that comes out of order lands in its place. A lookup is by event time. It gives the
same whenever it is made, as long as the records up to that time had been read: who writes ahead of `effective_at`
gets decisions that a replay repeats.

Products go by their names as the rows keep them, see `intake.short_name`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker.recall.intake import short_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHANGES_KEPT: Final = 128
"""Of each field of a product. Past it goes what only repeats the value before it, or else the oldest: before the first
change that is kept, a field is not known."""
RATE_UNIT: Final = 1_000_000
"""Margin rates are summed in whole parts of a million: sums that come about in another order are the same."""


class Change(NamedTuple):
    """What holds of a product from a time on; None leaves as it was. Money is in minor units."""

    product_id: str
    effective_at: int
    price_minor: int | None = None
    category: str | None = None
    margin_minor: int | None = None
    stock: int | None = None
    arrived_at: int | None = None


class Product(NamedTuple):
    """A product as of a time; None for what was not known of it then."""

    price_minor: int | None
    category: str | None
    margin_rate: float | None
    """Margin by price; also None where the price is zero."""
    stock: int | None
    arrived_at: int | None
    """When it became a new arrival; may lie ahead."""
    back_in_stock_at: int | None
    """When the stock last went from none to some."""


class _Series:
    """A value that changes with time, bounded."""

    __slots__ = ("times", "values")

    def __init__(self) -> None:
        self.times: list[int] = []
        self.values: list[Any] = []

    def put(self, at: int, value: Any) -> bool:
        """Take a change; of two at one time the later read holds. Return whether one was forgotten for it."""
        times, values = self.times, self.values
        i = bisect_left(times, at)
        if i < len(times) and times[i] == at:
            values[i] = value
            return False
        times.insert(i, at)
        values.insert(i, value)
        if len(times) <= CHANGES_KEPT:
            return False
        i = self._spare()
        del times[i], values[i]
        return True

    def _spare(self) -> int:
        values = self.values
        return next((i for i in range(1, len(values)) if values[i] == values[i - 1]), 0)

    def place(self, at: int) -> int:
        """Return the place of the change in force at a time; -1 before the first."""
        return bisect_right(self.times, at) - 1

    def at(self, at: int) -> Any:
        i = bisect_right(self.times, at)
        return self.values[i - 1] if i else None


class _Stock(_Series):
    """The stock. It changes often; what matters of counts long ago is when it ran out and came back."""

    __slots__ = ()

    def _spare(self) -> int:
        values = self.values
        return next((i for i in range(1, len(values)) if bool(values[i]) == bool(values[i - 1])), 0)

    def back_at(self, at: int) -> int | None:
        """Return when it last went from none to some, up to a time."""
        for i in range(self.place(at), 0, -1):
            if self.values[i] and not self.values[i - 1]:
                return self.times[i]
        return None


class _Item:
    """A product."""

    __slots__ = ("arrived", "category", "margin", "price", "stock")

    def __init__(self) -> None:
        self.price = _NEVER_TOLD
        self.category = _NEVER_TOLD
        self.margin = _NEVER_TOLD
        self.arrived = _NEVER_TOLD
        self.stock = _NO_STOCK_TOLD

    def put(self, field: str, at: int, value: Any) -> bool:
        """Take a change of a field; return whether one was forgotten for it."""
        series: _Series = getattr(self, field)
        if not series.times:
            series = type(series)()
            setattr(self, field, series)
        return series.put(at, value)

    def rate(self, at: int) -> int | None:
        """Return the margin by price, in parts of a million."""
        margin, price = self.margin.at(at), self.price.at(at)
        return round(margin * RATE_UNIT / price) if margin is not None and price else None

    def priced(self, at: int) -> tuple[str, int] | None:
        """Return its category and margin rate, where both are known."""
        category, rate = self.category.at(at), self.rate(at)
        return None if category is None or rate is None else (category, rate)

    def priced_last(self) -> int:
        """Return when that was changed last; 0 for never."""
        return max((series.times[-1] for series in (self.price, self.margin, self.category) if series.times), default=0)

    def priced_times(self) -> list[int]:
        """Return all times at which that may have changed."""
        return sorted({*self.price.times, *self.margin.times, *self.category.times})


_NEVER_TOLD: Final = _Series()
_NO_STOCK_TOLD: Final = _Stock()
"""Stand in a product for the fields that were never told; nothing is put into them."""


class _Rates:
    """The sum and the number of the margin rates of a category's products, as they changed with time."""

    __slots__ = ("counts", "sums", "times")

    def __init__(self, steps: Iterable[tuple[int, int, int]]) -> None:
        """Take steps in any order: a time, and by how much sum and number change then."""
        ordered = sorted(steps)
        self.times = [at for at, _, _ in ordered]
        self.sums = list(accumulate(change for _, change, _ in ordered))
        self.counts = list(accumulate(n for _, _, n in ordered))

    def add(self, at: int, change: int, n: int) -> None:
        """Take a step that comes after all others, or together with the last."""
        self.times.append(at)
        self.sums.append(change + (self.sums[-1] if self.sums else 0))
        self.counts.append(n + (self.counts[-1] if self.counts else 0))

    def at(self, at: int) -> float | None:
        i = bisect_right(self.times, at) - 1
        return self.sums[i] / (self.counts[i] * RATE_UNIT) if i >= 0 and self.counts[i] else None


class Catalog:
    """All that was told of products.

    >>> catalog = Catalog()
    >>> catalog.put(Change("tea", 100, price_minor=400, category="drinks", margin_minor=100, stock=0))
    >>> catalog.put(Change("tea", 200, stock=7, arrived_at=200))
    >>> catalog.put(Change("tea", 150, price_minor=500))
    >>> catalog.product("tea", 120)
    Product(price_minor=400, category='drinks', margin_rate=0.25, stock=0, arrived_at=None, back_in_stock_at=None)
    >>> catalog.product("tea", 200)
    Product(price_minor=500, category='drinks', margin_rate=0.2, stock=7, arrived_at=200, back_in_stock_at=200)
    >>> catalog.margin_rate("drinks", 120), catalog.arrivals(["drinks"], 100, 200, 3)
    (0.25, ['tea'])
    """

    def __init__(self) -> None:
        self._items: dict[str, _Item] = {}
        self._members: dict[str, set[str]] = {}
        """By category, the products that were ever told to be of it."""
        self._arrivals: dict[str, list[tuple[int, str]]] = {}
        """By category, what ever arrived when; whether it still holds is looked up with the product."""
        self._rates: dict[str, _Rates] = {}
        """By category, summed when asked for; dropped by a change that does not come last."""
        self.forgotten = 0
        """Changes beyond what is kept of a product."""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, change: Change) -> None:
        """Take a record."""
        name, at = short_name(change.product_id), change.effective_at
        item = self._items.get(name)
        if item is None:
            item = self._items[name] = _Item()
        if change.stock is not None:
            self.forgotten += item.put("stock", at, change.stock)
        if change.arrived_at is not None:
            self.forgotten += item.put("arrived", at, change.arrived_at)
            for category in set(item.category.values):
                self._arrives(category, change.arrived_at, name)
        if change.price_minor is not None or change.margin_minor is not None or change.category is not None:
            self._reprice(name, item, change)

    def _reprice(self, name: str, item: _Item, change: Change) -> None:
        """Take what a margin rate comes from, and keep the sums right that it is part of."""
        at, before, last = change.effective_at, item.priced(change.effective_at), item.priced_last()
        category = None if change.category is None else short_name(change.category)
        known, forgotten = {*item.category.values}, 0
        for field, value in (("price", change.price_minor), ("margin", change.margin_minor), ("category", category)):
            if value is not None:
                forgotten += item.put(field, at, value)
        self.forgotten += forgotten
        if category is not None:
            self._members.setdefault(category, set()).add(name)
            for arrived_at in set(item.arrived.values):
                self._arrives(category, arrived_at, name)
        after = item.priced(at)
        if at < last or forgotten:
            for told in known.union(item.category.values):
                self._rates.pop(told, None)
        elif after != before:
            self._step(at, before, -1)
            self._step(at, after, 1)

    def _step(self, at: int, priced: tuple[str, int] | None, n: int) -> None:
        """Add a product to the sums of its category, or take it out, from a time on."""
        if priced is None:
            return
        category, rate = priced
        rates = self._rates.get(category)
        if rates is None:
            return
        if rates.times and at < rates.times[-1]:
            del self._rates[category]
        else:
            rates.add(at, n * rate, n)

    def _arrives(self, category: str, at: int, name: str) -> None:
        arrivals = self._arrivals.setdefault(category, [])
        i = bisect_left(arrivals, (at, name))
        if arrivals[i : i + 1] != [(at, name)]:
            arrivals.insert(i, (at, name))

    def product(self, name: str, at: int) -> Product | None:
        """Return a product as of a time; None where nothing had been told of it by then."""
        item = self._items.get(name)
        if item is None:
            return None
        rate = item.rate(at)
        product = Product(
            item.price.at(at),
            item.category.at(at),
            None if rate is None else rate / RATE_UNIT,
            item.stock.at(at),
            item.arrived.at(at),
            item.stock.back_at(at),
        )
        return None if product == _UNKNOWN else product

    def margin_rate(self, category: str, at: int) -> float | None:
        """Return the mean of margin by price of the category's products as of a time; None where none is known."""
        rates = self._rates.get(category)
        if rates is None:
            if category not in self._members:
                return None
            rates = self._rates[category] = _Rates(self._steps(category))
        return rates.at(at)

    def _steps(self, category: str) -> Iterator[tuple[int, int, int]]:
        for name in self._members[category]:
            item, counted = self._items[name], None
            for at in item.priced_times():
                priced = item.priced(at)
                rate = priced[1] if priced is not None and priced[0] == category else None
                if rate == counted:
                    continue
                change = (rate or 0) - (counted or 0)
                yield at, change, (rate is not None) - (counted is not None)
                counted = rate

    def arrivals(self, categories: Iterable[str], since: int, at: int, n: int) -> list[str]:
        """Return up to `n` products of the categories that arrived after `since` and up to `at`, the newest first.

        What is known to be out of stock is left out.
        """
        found: set[tuple[int, str]] = set()
        for category in categories:
            arrivals = self._arrivals.get(category, [])
            kept = 0
            for i in range(bisect_right(arrivals, at, key=_time) - 1, -1, -1):
                arrived_at, name = arrivals[i]
                if arrived_at <= since or kept == n:
                    break
                product = self.product(name, at)
                holds = product is not None and (product.arrived_at, product.category) == (arrived_at, category)
                if product is not None and holds and product.stock != 0:
                    found.add((arrived_at, name))
                    kept += 1
        return [name for _, name in sorted(found, key=lambda arrival: (-arrival[0], arrival[1]))[:n]]


def _time(arrival: tuple[int, str]) -> int:
    return arrival[0]


_UNKNOWN: Final = Product(None, None, None, None, None, None)
