"""The row: what is written is what is read, and how large it is."""

import datetime as dt
from statistics import median
from typing import get_args, get_origin

import msgspec
import pytest
from customers import Backlog, Fed, SmallShop, make_shop, ms, playbook
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.values import rfc3339
from worker.recall import intake
from worker.recall.bodies import Activity, Item, Order, Refund
from worker.recall.days import DAY_MS, HOUR_MS, Days
from worker.recall.profile import FAVOURITES_KEPT, NAME_BYTES_MAX, ROW_BYTES_MAX, Account, Profile, Taste
from worker.recall.windows import BUCKET_DAYS, CHANNELS, DAYS_KEPT, SESSION, WISHLIST, History
from worker.replay import tick
from worker.simulate import simulate
from worker.stream.processor import NEVER
from worker.stream.record import read_header

UTC = Days("UTC")
CUSTOMERS = SmallShop().customers


def structs(kind):
    """Return structs with any values of their fields' types."""
    return st.builds(kind, **{field.name: values(field.type) for field in msgspec.structs.fields(kind)})


KNOWN = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=8),
    bytes: st.binary(max_size=8),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(kind):
    if kind in KNOWN:
        return KNOWN[kind]
    origin, arguments = get_origin(kind), [argument for argument in get_args(kind) if argument is not Ellipsis]
    inner = [values(argument) for argument in arguments]
    if origin is list:
        return st.lists(*inner, max_size=3)
    if origin is dict:
        return st.dictionaries(*inner, max_size=3)
    if origin is tuple:
        return st.lists(*inner, max_size=3).map(tuple) if Ellipsis in get_args(kind) else st.tuples(*inner)
    return st.one_of(inner) if inner else structs(kind)


@settings(max_examples=100, deadline=None)
@given(account=structs(Account))
def test_the_account_is_kept_in_the_row(account):
    profile = Profile(key=b"ann", due=NEVER, silence_due=NEVER, other_due=NEVER)
    untouched = CUSTOMERS.decode(CUSTOMERS.encode(profile))
    profile.account = account
    read = CUSTOMERS.decode(CUSTOMERS.encode(profile))
    assert read.account == account
    assert untouched.account == Account()


@settings(max_examples=100, deadline=None)
@given(taste=structs(Taste))
def test_the_taste_is_kept_in_the_row(taste):
    profile = Profile(key=b"ann", due=NEVER, silence_due=NEVER, other_due=NEVER)
    profile.taste = taste
    read = CUSTOMERS.decode(CUSTOMERS.encode(profile))
    assert read.taste == taste
    assert read.account == Account()


@pytest.mark.parametrize("days", [1, 15, 16, 2**16])
def test_days_that_are_kept_stay_as_they_are_when_others_are_folded(days):
    history = History()
    for day in range(20_000, 20_001 + days):
        history.append((day, SESSION, 2))
    history.fold_before(20_001, 20_001)
    assert history.arrays() == [(day, SESSION, 2) for day in range(20_001, 20_001 + days)]
    assert list(history.months()) == [(20_000 // BUCKET_DAYS * BUCKET_DAYS, (20_000 // BUCKET_DAYS, SESSION, 2))]


@settings(max_examples=100, deadline=None)
@given(profile=structs(Profile))
def test_what_is_written_is_what_is_read(profile):
    body = CUSTOMERS.encode(profile)
    assert CUSTOMERS.decode(body) == profile
    assert CUSTOMERS.encode(CUSTOMERS.decode(body)) == body


def test_a_row_of_before_a_field_was_added_is_read():
    """Fields are only appended, with defaults: a shorter array is a row of an earlier worker."""
    profile = Profile(key=b"ann", due=1, silence_due=2, other_due=3, orders=4)
    whole = msgspec.msgpack.decode(CUSTOMERS.encode(profile))
    for n in range(4, len(whole)):
        assert CUSTOMERS.decode(msgspec.msgpack.encode(whole[:n])).key == b"ann"
    with pytest.raises(msgspec.ValidationError):
        CUSTOMERS.decode(msgspec.msgpack.encode(whole[:3]))


def test_the_defaults_of_two_rows_are_two_things():
    one, other = (Profile(key=key, due=NEVER, silence_due=NEVER, other_due=NEVER) for key in (b"a", b"b"))
    one.today.add(SESSION)
    one.last_days.append(1)
    one.account.latest_orders.append(1)
    one.account.consent["a"] = True
    assert other == Profile(key=b"b", due=NEVER, silence_due=NEVER, other_due=NEVER)


def test_the_header_tells_when_the_row_wants_to_be_woken():
    shop = SmallShop()
    shop.buys_weekly("bob", "2025-01-06T10", times=2)
    assert read_header(shop.rows[b"bob"]).next_due == shop.row("bob").due
    shop.says("bob", "2025-01-20", erase=True)
    assert read_header(shop.rows[b"bob"]).next_due == NEVER


# -- size --------------------------------------------------------------------------------------------------------------


def test_a_year_of_a_shop_makes_rows_of_less_than_two_kilobytes(record_property):
    topics = {}
    for record in simulate(users=200, days=365, seed=3):
        records = topics.setdefault(record.topic, [])
        records.append(Fed(len(records), record.recorded_at, record.key, record.value))
    until = ms("2026-01-07")
    topics["control"] = [Fed(0, until, None, tick(until))]
    shop = make_shop(timezone="Europe/Berlin", live_from="2100-01-01")
    backlog = Backlog(topics, shop, [playbook()], rows_max=4096, records_max=4096).finish(4096)
    sizes = sorted(len(row) for key, row in backlog.rows.items() if not key.startswith(b"\0"))
    record_property("median row bytes", median(sizes))
    record_property("greatest row bytes", sizes[-1])
    assert len(sizes) == 200
    assert median(sizes) < 2048
    assert sizes[-1] < ROW_BYTES_MAX // 2
    assert "rows trimmed" not in backlog.counts


def greedy(days):
    """Return a row that has all of everything: each channel in each half-hour, the longest names, much money."""
    profile = Profile(key=b"u" * 64, due=NEVER, silence_due=NEVER, other_due=NEVER)
    first = 20_000
    for day in range(first, first + days):
        for n in range(26):
            at = day * DAY_MS + n * 2 * HOUR_MS // 3
            name = f"{day}-{n}".ljust(256, "买")
            intake.activity(profile, Activity(n % len(CHANNELS), name, name, None, 10**13), at, at, UTC)
            intake.activity(profile, Activity(WISHLIST, f"w{name}", name, None, 10**13), at, at, UTC)
        at = (day + 1) * DAY_MS - 1
        body = Order(name, name, 10**14, (Item(name, name),) * 2, "c", 1)
        intake.order(profile, body, at, at, UTC)
        intake.refund(profile, Refund(name, name, 10**14), at, at, UTC)
        open_day = profile.open_day(day)
        open_day.counts = [70_000] * len(CHANNELS)
    return profile


def test_whatever_a_user_does_the_row_stays_within_its_bound():
    profile = greedy(800)
    day = profile.day
    assert len(CUSTOMERS.encode(profile)) > ROW_BYTES_MAX
    before = sum(n for array in profile.counts_by_day() for n in array[2::2])
    months = sum(n for _, array in profile.history.months() for n in array[2::2])
    assert profile.trim(day)
    assert len(CUSTOMERS.encode(profile)) <= ROW_BYTES_MAX
    after = sum(n for array in profile.counts_by_day() for n in array[2::2])
    assert after < before
    moved = sum(n for _, array in profile.history.months() for n in array[2::2]) - months
    assert after + moved == before, "days are folded early, oldest first, and not lost"
    assert min(array[0] for array in profile.counts_by_day()) > day - DAYS_KEPT
    assert not profile.trim(day)


def test_a_row_within_its_bound_is_left_alone():
    shop = SmallShop()
    shop.buys_weekly("bob", "2025-01-06T10", times=20)
    row = shop.row("bob")
    before = CUSTOMERS.encode(row)
    assert not row.trim(row.day)
    assert CUSTOMERS.encode(row) == before


def test_a_trimmed_row_is_counted_at_the_weekly_visit(monkeypatch):
    monkeypatch.setattr("worker.recall.profile.ROW_BYTES_MAX", 400)
    shop = SmallShop()
    shop.buys_weekly("bob", "2025-01-06T10", times=20)
    shop.tick("2025-06-01")
    assert shop.counts["rows trimmed"] > 0
    assert shop.tier("bob") == "high"


def test_names_are_kept_in_whole_characters():
    assert intake.short_name("a" * 300) == "a" * NAME_BYTES_MAX
    assert intake.short_name("买" * 300) == "买" * (NAME_BYTES_MAX // 3)
    assert intake.short_name("茶") == "茶"


def test_ids_of_users_may_be_anything_but_nul():
    shop = SmallShop()
    user = "käufer-买家 \U0001f6d2"
    shop.buys_weekly(user, "2025-01-06T10", times=2)
    shop.tick("2025-03-15")
    assert shop.commands(user)[0]["user_id"] == user
    (headers,) = [said.headers for said in shop.said if said.topic == "recall"]
    assert headers["ce_subject"] == user
    assert headers["ce_time"] == rfc3339(ms("2025-03-14T11"))
    assert dt.datetime.fromisoformat(headers["ce_time"]).tzinfo is not None


@given(st.lists(st.sampled_from([f"item {n}" for n in range(2 * FAVOURITES_KEPT)]), max_size=60))
def test_favourites_are_the_most_frequent_where_the_rarest_gives_way(names):
    user, plain = Profile(key=b"ann", due=NEVER, silence_due=NEVER, other_due=NEVER), {}
    for n, name in enumerate(names):
        intake.order(user, Order(f"m{n}", f"o{n}", 100, (Item(name, name),), None, 0), DAY_MS, DAY_MS, UTC)
        if name not in plain and len(plain) == FAVOURITES_KEPT:
            rarest = max(plain, key=lambda known: (-plain[known], known))
            plain[name] = plain.pop(rarest)
        plain[name] = plain.get(name, 0) + 1
        assert user.taste.items == sorted(plain.items(), key=lambda item: (-item[1], item[0]))
    assert user.taste.categories == user.taste.items
