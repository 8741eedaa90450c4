"""What a report should have found: the truth of a simulated shop, for the units that a report compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from worker.simulate.shop import DAYS

if TYPE_CHECKING:
    import duckdb

    from worker.simulate.shop import Shop


class Truth(NamedTuple):
    """What touches have added for the treated units within their windows; money in cents.

    What touches of an earlier epoch still bring comes to both arms alike, and no comparison of the arms of an epoch can
    tell it: as much of it as the held out have on average is taken off.
    """

    orders: float
    revenue: float
    margin: float


def of_units(db: duckdb.DuckDBPyConnection, shop: Shop, without: Shop) -> Truth:
    """Return the difference of the two worlds over the units' windows: entry's day up to before `until`."""
    first = DAYS.of(shop.midnight(0))
    rows = db.execute("select user_id, moment, until, treated from units where phase = 'live'").fetchall()
    places = np.array([shop.place(int(row[0].removeprefix("user-"))) for row in rows], np.int64)
    begin, end = (np.array([DAYS.of(row[i]) - first for row in rows], np.int64) for i in (1, 2))
    treated = np.array([row[3] for row in rows], np.bool_)
    sums = np.zeros((2, 3))
    for day in range(shop.day):
        added = shop.ledger.sums(day, day + 1) - without.ledger.sums(day, day + 1)
        there = (begin <= day) & (day < end)
        for arm in (False, True):
            which = places[there & (treated == arm)]
            sums[int(arm)] += [float(part[which].sum()) for part in added]
    carried = sums[0] * treated.sum() / max((~treated).sum(), 1)
    return Truth(*(sums[1] - carried).tolist())
