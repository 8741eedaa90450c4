"""What a report should have found: the truth of a simulated shop, for the units that a report compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from worker.simulate.shop import DAYS

if TYPE_CHECKING:
    import duckdb

    from worker.simulate.shop import Shop


class Truth(NamedTuple):
    """What touches have added for the treated units within their windows; money in cents."""

    orders: int
    revenue: int
    margin: int


def of_units(db: duckdb.DuckDBPyConnection, shop: Shop, without: Shop) -> Truth:
    """Return the difference of the two worlds over the treated units' windows: entry's day up to before `until`."""
    first = DAYS.of(shop.midnight(0))
    rows = db.execute("select user_id, moment, until from units where phase = 'live' and treated").fetchall()
    places = np.array([shop.place(int(user.removeprefix("user-"))) for user, _, _ in rows], np.int64)
    begin, end = (np.array([DAYS.of(row[i]) - first for row in rows], np.int64) for i in (1, 2))
    sums = np.zeros(3, np.int64)
    for day in range(shop.day):
        which = places[(begin <= day) & (day < end)]
        added = shop.ledger.sums(day, day + 1) - without.ledger.sums(day, day + 1)
        sums += [int(part[which].sum()) for part in added]
    return Truth(*sums.tolist())
