"""The simulated shop beside public data: how often customers order again, for how much, and after how long.

And a mail to everybody beside a randomised test of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import orjson

from worker.recall.days import DAY_MS
from worker.simulate.parameters import CENTRAL, GIVEN
from worker.simulate.people import Ints
from worker.simulate.shop import Shop, Touch
from worker.sources import cdnow, online_retail
from worker.sources.source import Source

if TYPE_CHECKING:
    from pathlib import Path

WEEKS: Final = (4, 8, 13, 26, 39, 52)
QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
CUSTOMERS_LEAST: Final = 100
USERS, DAYS = 10_000, 540
_WEEK: Final = 7


class Purchases(NamedTuple):
    """Orders, those of one customer on one day as one, by customer and day; money in major units."""

    customer: Ints
    day: Ints
    amount: Ints


class Shape(NamedTuple):
    """The figures that are held against each other."""

    name: str
    customers: int
    """Whose first order is known as such."""
    repeats: list[float | None]
    """By `WEEKS`: orders after the first, by customer who was seen so long; None where too few were."""
    once: float
    """Share that ordered no second time."""
    gaps: list[float]
    """Days between orders, by `QUANTILES`."""
    mean_value: float
    values: list[float]
    """Order values, by `QUANTILES`."""
    spread: float
    """Their standard deviation by their mean."""


class Mailing(NamedTuple):
    """What one e-mail to every customer did, by 100 that were delivered."""

    name: str
    visits: float
    """Extra visits within two weeks."""
    orders: float
    """Extra orders within two weeks."""
    left: float
    """Customers driven away."""


HILLSTROM: Final = (Mailing("Hillstrom, men's", 7.66, 0.68, 0.0), Mailing("Hillstrom, women's", 4.52, 0.31, 0.0))
"""Randomised against no e-mail; the log does not tell who left."""
_MAILED_ON: Final = 150
_MAILED: Final = 20_000


def mailing(family: str, seed: int = 1) -> Mailing:
    """Mail every customer of a shop once, half a year in; return what it did against the same shop without."""
    mailed, without = (Shop(users=_MAILED, days=365, seed=seed, family=family) for _ in range(2))
    window = GIVEN.response.window_days
    there = np.flatnonzero(mailed.people.joined <= _MAILED_ON)
    touches = [Touch(int(mailed.people.number[place]), "memory", "email") for place in there]
    clicked = 0
    for day in range(_MAILED_ON + window):
        answers = mailed.live(touches if day == _MAILED_ON else ()).answers
        clicked += sum(answer.status == "clicked" for answer in answers)
        without.live()
    delivered = int(mailed.touched.sum())
    extra = mailed.effect(without, _MAILED_ON)[-1]
    return Mailing(family, *(100 * n / delivered for n in (clicked, extra.orders, extra.left)))


def shapes(data: Path, family: str = CENTRAL, seed: int = 1) -> list[Shape]:
    """Return the figures of CDNOW, Online Retail and the simulated shop."""
    retail = online_retail.read(data / "online_retail" / "online_retail.parquet")
    return [
        # All are new in the first quarter of 1997, by how the file was made.
        _shape("CDNOW", _of_source(cdnow.read(data / "cdnow" / "CDNOW_master.txt.gz")), 0),
        # Who orders in the first two months may have done so before.
        _shape("Online Retail", _of_source(retail), 60),
        _shape(f"simulated, {family}", _of_shop(family, seed), 1),
    ]


def _of_source(source: Source) -> Purchases:
    customers: dict[bytes, int] = {}
    found = []
    for record in source.records:
        event = orjson.loads(record.value)
        if event["event"] == "Order Completed" and float(event["properties"]["revenue"]) > 0:
            customer = customers.setdefault(record.key, len(customers))
            found.append((customer, record.recorded_at // DAY_MS, float(event["properties"]["revenue"])))
    return _merged(*(np.array(column) for column in zip(*found, strict=True)))


def _of_shop(family: str, seed: int) -> Purchases:
    shop = Shop(users=USERS, days=DAYS, seed=seed, family=family)
    days = [shop.live().happened.orders for _ in range(DAYS)]
    day = np.repeat(np.arange(DAYS), [len(orders.user) for orders in days])
    customer = np.concatenate([orders.user for orders in days])
    cents = np.concatenate([orders.revenue for orders in days])
    # Who was there before may have ordered before.
    new = shop.people.joined[customer] > 0
    return _merged(customer[new], day[new], cents[new] / 100)


def _merged(customer: Ints, day: Ints, amount: Ints) -> Purchases:
    """Put the orders of a customer and day together, in order."""
    day = day.astype(np.int64) - int(day.min())
    places, where = np.unique(customer.astype(np.int64) << 32 | day, return_inverse=True)
    return Purchases(places >> 32, places & 0xFFFFFFFF, np.bincount(where, amount))


def _shape(name: str, purchases: Purchases, known_from: int) -> Shape:
    """Return the figures of those whose first order lies on day `known_from` or later."""
    customer, day, amount = purchases
    starts = np.flatnonzero(np.diff(customer, prepend=-1))
    number = np.cumsum(np.diff(customer, prepend=-1) > 0) - 1
    first = day[starts]
    kept = first[number] >= known_from
    since, end = day - first[number], int(day.max())
    known = first[first >= known_from]
    repeats: list[float | None] = []
    for weeks in WEEKS:
        seen = end - first >= weeks * _WEEK
        seen &= first >= known_from
        again = seen[number] & (since > 0) & (since <= weeks * _WEEK)
        repeats.append(float(again.sum() / seen.sum()) if seen.sum() >= CUSTOMERS_LEAST else None)
    orders = np.bincount(number)[first >= known_from]
    gaps = np.diff(day)[(np.diff(number) == 0) & kept[1:]]
    values = amount[kept]
    return Shape(
        name,
        len(known),
        repeats,
        float((orders == 1).mean()),
        np.quantile(gaps, QUANTILES).tolist(),
        float(values.mean()),
        np.quantile(values, QUANTILES).tolist(),
        float(values.std() / values.mean()),
    )
