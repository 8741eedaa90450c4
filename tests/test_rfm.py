"""R, F and M of the profile against pandas by the same definitions, on all customers of two public data sets."""

import datetime as dt

import orjson
import pandas as pd
import pytest
from customers import Backlog, Fed, ms, playbook
from data import require

from worker.recall import value
from worker.recall.days import DAY_MS, HOUR_MS, Days
from worker.recall.money import Currency
from worker.recall.shop import Shop
from worker.replay import tick
from worker.sources import open_source

DATA = {
    "cdnow": (
        ("cdnow", "CDNOW_master.txt.gz"),
        ["1997-03-30T23:59:59", "1997-12-29T00:00", "1998-02-02T15:00", "1998-07-05T23:00", "1999-01-04T12:00"],
        23_570,
    ),
    "online retail": (
        ("online_retail", "online_retail.parquet"),
        ["2010-12-31T23:30", "2011-04-03T23:30", "2011-11-05T12:00", "2011-12-12T00:30", "2012-08-06T08:00"],
        4_372,
    ),
}


def told(records):
    """Return the orders and refunds of a source as a frame, money in minor units."""
    rows = []
    for record in records:
        event = orjson.loads(record.value)
        said = event["properties"]
        cents = round(float(said.get("revenue", said.get("total"))) * 100)
        rows.append((event["userId"], record.recorded_at, event["event"] == "Order Completed", cents))
    return pd.DataFrame(rows, columns=["user", "at", "order", "cents"])


def independently(frame, until, timezone):
    """Return R, F and M by user, from the definitions and nothing of the worker's."""
    frame = frame[frame["at"] <= until]
    local = pd.to_datetime(frame["at"], unit="ms", utc=True).dt.tz_convert(timezone).dt.tz_localize(None).dt.normalize()
    today = pd.Timestamp(until, unit="ms", tz="UTC").tz_convert(timezone).tz_localize(None).normalize()
    monday = today - pd.Timedelta(days=today.weekday())
    frame = frame.assign(day=local, inside=local >= monday - pd.Timedelta(weeks=52))
    orders = frame[frame["order"]]
    recency = (today - orders.groupby("user")["day"].max()).dt.days
    kept = frame[frame["inside"]]
    frequency = kept[kept["order"]].groupby("user").size()
    money = kept["cents"].where(kept["order"], -kept["cents"]).groupby(kept["user"]).sum()
    table = pd.DataFrame({"r": recency})
    table["f"] = frequency.reindex(table.index).fillna(0).astype(int)
    table["m"] = money.reindex(table.index).fillna(0).astype(int)
    return {user: tuple(row) for user, row in zip(table.index, table.itertuples(index=False), strict=True)}


@pytest.mark.data
@pytest.mark.parametrize("name", DATA)
def test_the_profile_says_what_pandas_says(name, monkeypatch):
    parts, dates, users = DATA[name]
    source = open_source(require(*parts))
    records = list(source.records)
    frame = told(records)
    days = Days(source.timezone)
    shop = Shop(Currency.of(source.currency), days, 1, "salt", ms("2100-01-01"))
    orders = [Fed(n, record.recorded_at, record.key, record.value) for n, record in enumerate(records)]
    # The weekly visits have no part in this and would take most of the time: none is followed by another.
    monkeypatch.setattr(value, "ACTIVE_DAYS", 0)
    backlog = Backlog({}, shop, [playbook()], rows_max=8192, records_max=32768)
    checked = fed = 0
    for number, date in enumerate(dates):
        until = ms(date)
        reached = sum(fed.timestamp <= until for fed in orders)
        partition = backlog.partition
        partition.feed("orders", orders[fed:reached])
        partition.expect("orders", more=False)
        partition.feed("control", [Fed(number, until, None, tick(until))])
        fed = reached
        while partition.advance() is not None:
            pass
        assert partition.clock == until
        backlog.rows = partition.rows
        expected = independently(frame, until, source.timezone)
        values = {profile.key.decode(): value.rfm_of(profile, until, days) for profile in backlog.profiles()}
        assert {user: tuple(rfm) for user, rfm in values.items() if rfm is not None} == expected
        checked += len(expected)
    assert frame["user"].nunique() == users
    assert checked > users


def test_the_weeks_end_where_the_shop_says():
    """An order on a Sunday night in London leaves the window a week before one of the same moment in Athens."""
    london, athens = Days("Europe/London"), Days("Europe/Athens")
    night = ms("2025-01-12T22:30")
    assert london.date(london.of(night)) == dt.date(2025, 1, 12)
    assert athens.date(athens.of(night)) == dt.date(2025, 1, 13)
    assert athens.week(athens.of(night)) == london.week(london.of(night)) + 1
    assert athens.start(athens.of(night)) == night - HOUR_MS // 2
    assert london.start(london.of(night) + 1) - london.start(london.of(night)) == DAY_MS
