"""CDNOW: all purchases, to mid-1998, of the customers who first bought in the first quarter of 1997.

Each line is one `Order Completed`, also the few of zero dollars. The file knows days only, and no time zone: an
order is placed at noon, UTC. The compact discs bought have no names there, so they are one product, `cd`.
"""

import datetime as dt
import re
from collections import Counter
from pathlib import Path
from typing import Final

from schemas.values import DECIMAL_PATTERN
from worker.sources.history import HistoryRecord, open_binary
from worker.sources.source import Accounting, Source, track

CURRENCY: Final = "USD"
TIMEZONE: Final = "UTC"
HEADER: Final = ("customer_id", "date", "number_of_cds", "dollar_value")


def read(path: Path) -> Source:
    """Read the purchases of a text file (or .gz) with four columns parted by white space, header or none."""
    with open_binary(path) as file:
        rows = [(number, line.decode().split()) for number, line in enumerate(file, 1)]
    rows = [(number, row) for number, row in rows if row and tuple(row) != HEADER]
    earlier: Counter[tuple[str, str]] = Counter()
    records = []
    for number, row in rows:
        try:
            records.append(_order(row, earlier))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {row} is not {' '.join(HEADER)}") from error
    records.sort(key=lambda record: record.recorded_at)
    accounting = Accounting(lines=len(rows), carried=len(records), left_out={})
    return Source("cdnow", CURRENCY, TIMEZONE, accounting, iter(records))


def is_row(columns: list[str]) -> bool:
    """Tell whether a line's columns are those of a purchase.

    >>> is_row(["00001", "19970101", "1", "11.77"]), is_row(list(HEADER))
    (True, False)
    """
    return len(columns) == len(HEADER) and re.fullmatch(r"\d{8}", columns[1]) is not None


def _order(row: list[str], earlier: Counter[tuple[str, str]]) -> HistoryRecord:
    customer, date, discs, dollars = row
    if not re.fullmatch(DECIMAL_PATTERN, dollars):
        raise ValueError(f"{dollars} is no amount")
    earlier[customer, date] += 1
    order_id = f"{customer}-{date}-{earlier[customer, date]}"
    noon = dt.datetime.strptime(date, "%Y%m%d").replace(hour=12, tzinfo=dt.UTC)
    properties = {
        "order_id": order_id,
        "revenue": dollars,
        "currency": CURRENCY,
        "products": [{"product_id": "cd", "quantity": int(discs)}],
    }
    at = int(noon.timestamp()) * 1000
    return track("orders", f"cdnow:{order_id}", user=customer, at=at, event="Order Completed", properties=properties)
