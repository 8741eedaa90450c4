"""The logs that are evaluated on, each with its calendar. Days are counted from the log's first day, day 0."""

from __future__ import annotations

import datetime as dt
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from worker import simulate
from worker.sources import cdnow, online_retail, tmall
from worker.sources.history import connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.sources.history import HistoryRecord

Target: TypeAlias = Literal["order", "activity"]

SIMULATED_USERS: Final = 3000
SIMULATED_DAYS: Final = 365
SIMULATED_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Log:
    """Records in the order of time, and when snapshots are taken: weekly from day `grid_from` on, at midnight."""

    name: str
    currency: str
    timezone: str
    first: dt.date
    grid_from: int
    end: float
    """Where the log ends, in days: a label whose horizon reaches beyond is not known."""
    records: Iterable[HistoryRecord]


class Reference(NamedTuple):
    """The figures of a blend of BG/NBD and River on features made for the purpose, by the same protocol."""

    auc: float
    log_loss: float
    beats_peer: bool
    """It is significantly better than LightGBM on both."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question put to a log: who orders nothing, or does nothing, within the horizon."""

    name: str
    title: str
    log: str
    target: Target
    horizon_days: int
    evaluated_from: int
    """Day from which predictions count."""
    examples: int | None
    """How many the protocol counts on the public log; None for a simulated one."""
    reference: Reference | None = None
    ablated: bool = False
    """Where there are channels enough to tell groups of features apart."""


TASKS: Final[dict[str, Task]] = {
    task.name: task
    for task in (
        Task(
            "cdnow", "CDNOW, no order within 60 days", "cdnow", "order", 60, 230, 86_147, Reference(0.727, 0.528, True)
        ),
        Task(
            "retail-30",
            "Online Retail, no order within 30 days",
            "retail",
            "order",
            30,
            86,
            87_750,
            Reference(0.736, 0.527, False),
        ),
        Task(
            "retail-60",
            "Online Retail, no order within 60 days",
            "retail",
            "order",
            60,
            116,
            66_962,
            Reference(0.740, 0.586, True),
        ),
        Task(
            "retail-90",
            "Online Retail, no order within 90 days",
            "retail",
            "order",
            90,
            146,
            48_548,
            Reference(0.746, 0.587, True),
        ),
        Task(
            "tmall-activity",
            "Tmall, no activity within 7 days",
            "tmall",
            "activity",
            7,
            35,
            10_018,
            Reference(0.832, 0.432, False),
        ),
        Task(
            "tmall-orders",
            "Tmall, no order within 14 days",
            "tmall",
            "order",
            14,
            42,
            6_101,
            Reference(0.675, 0.642, True),
            ablated=True,
        ),
        Task(
            "simulated",
            "Simulated shop, no order within 30 days",
            "simulated",
            "order",
            30,
            86,
            None,
            ablated=True,
        ),
    )
}


def open_log(name: str, data: Path) -> Log:
    """Open a log by the name that tasks have for it; `data` is the folder of the public data sets."""
    if name == "simulated":
        return simulated()
    return {"cdnow": _cdnow, "retail": _retail, "tmall": _tmall}[name](data)


def simulated(users: int = SIMULATED_USERS, days: int = SIMULATED_DAYS, seed: int = SIMULATED_SEED) -> Log:
    """Return a simulated shop's log, with views, carts, sign-ins and coupons beside orders."""
    records = simulate.simulate(users=users, days=days, seed=seed)
    return Log("simulated", simulate.CURRENCY, simulate.TIMEZONE, simulate.START, 28, float(days), records)


def _cdnow(data: Path) -> Log:
    """Every third customer, by number: the reference's sample."""
    source = cdnow.read(data / "cdnow" / "CDNOW_master.txt.gz")
    records = list(source.records)
    kept = set(sorted({record.key for record in records}, key=int)[::3])
    sample = [record for record in records if record.key in kept]
    return Log("cdnow", cdnow.CURRENCY, cdnow.TIMEZONE, dt.date(1997, 1, 1), 97, 546.0, sample)


_SALES: Final = """
copy (
    select * from read_parquet(?)
    where CustomerID is not null and not starts_with(InvoiceNo::varchar, 'C') and Quantity > 0 and UnitPrice > 0
      and Country = 'United Kingdom'
) to '{path}' (format parquet)"""


def _retail(data: Path) -> Log:
    """Sales to known customers in the United Kingdom: no cancellations, quantity and price above 0."""
    file = data / "online_retail" / "online_retail.parquet"
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there: --data is the folder of the data sets")
    with tempfile.TemporaryDirectory() as folder:
        sales = Path(folder) / "sales.parquet"
        with connect() as db:
            db.execute(_SALES.format(path=str(sales).replace("'", "''")), [str(file)])
        records = list(online_retail.read(sales).records)
    currency, timezone = online_retail.CURRENCY, online_retail.TIMEZONE
    return Log("retail", currency, timezone, dt.date(2010, 12, 1), 28, 373.5, records)


def _tmall(data: Path) -> Log:
    records = list(tmall.read(data / "tmall" / "tmall.csv.gz").records)
    return Log("tmall", tmall.CURRENCY, tmall.TIMEZONE, dt.date(2013, 4, 15), 14, 123.0, records)
