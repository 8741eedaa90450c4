"""Tmall: clicks, favourites, carts and purchases of an Alibaba shop's users, April to August 2013.

The file has no prices: every purchase is one order at one flat price (100.00 CNY unless told otherwise), so money
says nothing here beyond the number of orders. It knows days only (month and day of 2013): the actions of a user's
day are laid down in the file's order, one a second from 08:00 on, Shanghai's clock. A brand stands for a product.
"""

import csv
import datetime as dt
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from schemas.values import DECIMAL_PATTERN
from worker.sources.history import HistoryRecord, open_binary
from worker.sources.source import Accounting, Source, track

CURRENCY: Final = "CNY"
TIMEZONE: Final = "Asia/Shanghai"
PRICE: Final = "100.00"
HEADER: Final = ("user_id", "brand_id", "type", "visit_datetime")

_YEAR: Final = 2013
_HOUR: Final = 8
_BUY: Final = "1"
_EVENTS: Final = {
    "0": ("clickstream", "Product Viewed"),
    _BUY: ("orders", "Order Completed"),
    "2": ("clickstream", "Product Added to Wishlist"),
    "3": ("cart", "Product Added"),
}


def read(path: Path, price: str = PRICE) -> Source:
    """Read the actions of a CSV file (or .csv.gz); `price` is what each purchase costs, in yuan."""
    _check(price)
    with open_binary(path) as file:
        # Dates were published as 6月4日, in GBK: only the digits count, so any encoding of single bytes will do.
        rows = csv.reader(line.decode("latin-1") for line in file)
        header = tuple(next(rows, ()))
        if header != HEADER:
            raise ValueError(f"{path}, line 1: the columns are {','.join(header)}, and have to be {','.join(HEADER)}")
        records = list(_records(path, rows, price))
    records.sort(key=lambda record: record.recorded_at)
    accounting = Accounting(lines=len(records), carried=len(records), left_out={})
    return Source("tmall", CURRENCY, TIMEZONE, accounting, iter(records))


def _records(path: Path, rows: Iterator[Sequence[str]], price: str) -> Iterator[HistoryRecord]:
    earlier: Counter[tuple[str, int]] = Counter()
    days: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        try:
            user, brand, kind, date = row
            if date not in days:
                days[date] = _opening(date)
            topic, event = _EVENTS[kind]
        except (ValueError, KeyError) as error:
            allowed = f"{','.join(HEADER)} with a type of {', '.join(_EVENTS)} and a month and day"
            raise ValueError(f"{path}, line {number}: {row} is not {allowed}") from error
        day = days[date]
        at = day + 1000 * earlier[user, day]
        earlier[user, day] += 1
        properties: dict[str, object] = {"product_id": brand}
        if kind == _BUY:
            product = {"product_id": brand, "price": price, "quantity": 1}
            properties = {"order_id": str(number), "revenue": price, "currency": CURRENCY, "products": [product]}
        yield track(topic, f"tmall:{number}", user=user, at=at, event=event, properties=properties)


def _opening(date: str) -> int:
    """Return the time of a day's first action in milliseconds since the epoch, UTC.

    >>> _opening("6-4"), _opening("6月4日")
    (1370304000000, 1370304000000)
    """
    month, day = re.findall(r"\d+", date)
    time = dt.datetime(_YEAR, int(month), int(day), _HOUR, tzinfo=ZoneInfo(TIMEZONE))
    return int(time.timestamp()) * 1000


def _check(price: str) -> None:
    if not re.fullmatch(DECIMAL_PATTERN, price):
        raise ValueError(f"price is {price!r}, and has to be a decimal number from 0 on, such as {PRICE}")
