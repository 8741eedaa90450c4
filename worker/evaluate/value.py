"""Whether users bring what they were expected to: predicted at a day from the orders before it, held to those after.

Only orders count, in full: what is compared is revenue before refunds, at a margin rate of 1. Beside the models stand
two predictions that need none: the population's mean, which is what a user spent a day over all of them, and the
user's own past rate going on.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson
from scipy.stats import spearmanr

from worker.recall.lifetime.fit import fit
from worker.recall.lifetime.history import History, Rhythms, Summary
from worker.recall.lifetime.worth import worth

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from worker.recall.days import Days
    from worker.recall.money import Currency
    from worker.sources.history import HistoryRecord

    Vector = npt.NDArray[np.float64]
    OrdersByDay = Mapping[str, Mapping[int, list[int]]]


class Figures(NamedTuple):
    """How far predictions of users' revenue were off; money in minor units."""

    mae: float
    rmse: float
    total: float
    """What was predicted for all users together, over what came."""
    rank_correlation: float | None
    """Spearman's; None where all predictions are equal, or all that came."""
    within_one: float | None = None
    """Share of users who came within one predicted error, and within two; None where none is predicted."""
    within_two: float | None = None


class Report(NamedTuple):
    """Figures by predictor, and what they are of."""

    day: int
    horizon_days: int
    users: int
    came: float
    """Mean revenue of a user within the horizon, minor units."""
    model: Figures
    population_mean: Figures
    own_rate: Figures


def orders_by_day(records: Iterable[HistoryRecord], currency: Currency, days: Days) -> OrdersByDay:
    """Return the revenues (minor units) of users' orders, by user and day, from the records of a source."""
    orders: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        event = orjson.loads(record.value)
        if event.get("event") == "Order Completed":
            revenue = currency.to_minor(event["properties"]["revenue"], "revenue")
            orders[event["userId"]][days.of(record.recorded_at)].append(revenue)
    return orders


def held_to_what_came(orders: OrdersByDay, day: int, horizon_days: int) -> Report:
    """Fit at the start of a day to all users who ordered before it, and compare with the days from it on.

    The log has to reach to the horizon's end. With one fit to all, users who are predicted are those fitted to, as at
    work; what they do later is not seen.

    Raises:
        FitError: as `fit`.
        ValueError: where nobody spent anything within the horizon.

    """
    told: list[Summary] = []
    came = []
    for _, by_day in sorted(orders.items()):
        before = sorted(past for past in by_day if past < day)
        if not before:
            continue
        revenues = [revenue for past in before for revenue in by_day[past]]
        known = History(len(before) - 1, before[-1] - before[0], day - before[0])
        # Of activity nothing is known here; no worth depends on it.
        told.append(Summary(Rhythms(known, known), len(revenues), sum(revenues) / len(revenues)))
        came.append(sum(sum(by_day[later]) for later in by_day if day <= later < day + horizon_days))
    lifetime = fit(told, day)
    if not any(came):
        raise ValueError(
            f"horizon of {horizon_days} days from day {day}: nothing was spent; allowed is a log that reaches on"
        )
    worths = [worth(lifetime, known.orders, n, mean, 1.0, horizon_days) for known, n, mean in told]
    margins, errors = np.array(worths, dtype=np.float64).T
    spent = np.array([n * mean for _, n, mean in told], dtype=np.float64)
    ages = np.array([known.orders.age_days for known, _, _ in told], dtype=np.float64)
    real = np.array(came, dtype=np.float64)
    return Report(
        day,
        horizon_days,
        len(told),
        float(real.mean()),
        _figures(margins, real, errors),
        _figures(np.full(len(told), spent.sum() / ages.sum() * horizon_days), real),
        _figures(spent / ages * horizon_days, real),
    )


def _figures(predicted: Vector, came: Vector, errors: Vector | None = None) -> Figures:
    off = predicted - came
    return Figures(
        mae=float(np.abs(off).mean()),
        rmse=float(np.sqrt((off * off).mean())),
        total=float(predicted.sum() / came.sum()),
        rank_correlation=float(spearmanr(predicted, came).statistic) if np.ptp(predicted) and np.ptp(came) else None,
        within_one=None if errors is None else float((np.abs(off) <= errors).mean()),
        within_two=None if errors is None else float((np.abs(off) <= 2 * errors).mean()),
    )
