"""Features of a row against a naive recount from the events, and against what must not be seen."""

import datetime as dt
import itertools
import re
from collections import defaultdict
from math import copysign, expm1, log1p
from pathlib import Path
from statistics import stdev

import pytest
from data import require
from hypothesis import given, settings
from hypothesis import strategies as st

from worker import bootstrap
from worker import settings as worker_settings
from worker.recall import intake
from worker.recall.bodies import Activity, Cancel, Item, Order, Refund
from worker.recall.days import Days
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.profile import Contact, Profile
from worker.recall.risk import features, labels
from worker.recall.risk.features import NAMES, compute, plain
from worker.recall.windows import CHANNELS, MESSAGE_CLICK, ORDER, REFUND, SESSION
from worker.replay import Fed, tick
from worker.sources import open_source
from worker.sources.source import track
from worker.stream.partition import Partition
from worker.stream.processor import NEVER
from worker.stream.record import ATTACHMENT, ATTACHMENT_NAME_BYTES, HEADER_BYTES

ROOT = Path(__file__).resolve().parent.parent
DAYS = Days("Europe/Berlin")
FIRST_DAY = DAYS.of(1_740_000_000_000)  # 2025-02-19, so that the histories cross both changes of the clocks
HOUR = 3_600_000


def new_row():
    return Profile(key=b"user-1", due=NEVER, silence_due=NEVER, other_due=NEVER)


def basket(amount):
    """Return what was bought for so much: a product may stand there twice."""
    return tuple(Item(f"p{i % 5}", None) for i in range(amount % 8))


def put(row, number, at, kind, channel, amount):
    """Let an event act on the row, as the stream would."""
    name = f"m{number}"
    match kind:
        case "activity":
            intake.activity(row, Activity(channel, name), at, at, DAYS)
        case "order":
            discount = amount % 2
            intake.order(row, Order(name, f"o{number}", amount, basket(amount), None, discount), at, at, DAYS)
        case "refund":
            intake.refund(row, Refund(name, "o", amount), at, at, DAYS)


events = st.lists(
    st.tuples(
        st.integers(0, 140),
        st.integers(0, 47),
        st.sampled_from(["activity", "activity", "activity", "order", "refund"]),
        st.integers(1, MESSAGE_CLICK).filter(lambda channel: channel not in {ORDER, REFUND}),
        st.integers(0, 90_000),
    ),
    max_size=120,
).map(sorted)


def at_of(day, half_hour):
    return DAYS.start(FIRST_DAY + day) + half_hour * HOUR // 2 + 1


def build(history):
    row = new_row()
    for number, (day, half_hour, kind, channel, amount) in enumerate(history):
        put(row, number, at_of(day, half_hour), kind, channel, amount)
    return row


def named(row, t_day):
    return dict(zip(NAMES, plain(compute(row, t_day, DAYS)), strict=True))


def logs(x):
    return pytest.approx(copysign(log1p(abs(x)), x), abs=0.0006)


def sessions(half_hours):
    return len([half_hour for half_hour in half_hours if half_hour - 1 not in half_hours])


def share(part, whole):
    return pytest.approx(min(1, part / whole) if whole else 0, abs=0.0006)


def products_with_discount(wanted):
    """Return what is multiplied; both are rounded before, and what comes of it once more. A trend is of two rounded."""
    share = wanted["discount_share"].expected
    silence = {name: wanted[name].expected for name in features.SILENCE}
    return {
        f"discounted_{name}": pytest.approx(share * value, abs=0.0018 + 0.0006 * abs(value))
        for name, value in silence.items()
    }


def recount(history, t_day):
    """Return what the features are to be, from the events alone."""
    told = [(DAYS.of(at_of(day, half)), *rest, at_of(day, half)) for day, half, *rest in history]
    told = [event for event in told if event[0] < t_day]
    by_day = {}
    active_half_hours = {}
    for day, kind, channel, _, at in told:
        where = {"activity": channel, "order": ORDER, "refund": REFUND}[kind]
        by_day.setdefault(where, []).append(day)
        if kind != "refund":
            active_half_hours.setdefault(day, set()).add((at - DAYS.start(day)) // (HOUR // 2))
    by_day[SESSION] = [day for day, halves in active_half_hours.items() for _ in range(sessions(halves))]
    wanted = {}
    for channel, name in enumerate(CHANNELS):
        ages = [t_day - day for day in by_day.get(channel, []) if t_day - day <= 90]
        for window in (1, 7, 14, 30, 60, 90):
            wanted[f"{name}_{window}d"] = logs(sum(age <= window for age in ages))
        wanted[f"{name}_recency"] = logs(min(ages, default=91))
        month, before = sum(age <= 30 for age in ages), sum(30 < age <= 60 for age in ages)
        wanted[f"{name}_trend"] = pytest.approx(log1p(month) - log1p(before), abs=0.0012)
    for rhythm, days in (("active", sorted(active_half_hours)), ("order", sorted(set(by_day.get(ORDER, []))))):
        gaps = [b - a for a, b in itertools.pairwise(days)]
        mean = (sum(gaps) + 30) / (len(gaps) + 1)
        recency = t_day - days[-1] if days else 999
        deviation = stdev(gaps) if len(gaps) > 1 else 0
        wanted[f"{rhythm}_days"] = logs(len(days))
        wanted[f"{rhythm}_recency_days"] = logs(recency)
        wanted[f"{rhythm}_gap_mean"] = logs(mean)
        wanted[f"{rhythm}_gap_deviation"] = logs(deviation)
        if rhythm == "order" or len([day for day in days if t_day - day <= 90]) > 1:
            wanted[f"{rhythm}_gap_last"] = logs(gaps[-1] if gaps else 0)
        wanted[f"{rhythm}_gaps_since"] = logs(recency / mean)
        wanted[f"{rhythm}_lateness"] = logs((recency - mean) / (deviation + 7))
        if abs(recency - 2 * mean) > 1e-9:  # else the rounding of a mean tells
            wanted[f"{rhythm}_overdue"] = recency > 2 * mean
    week = DAYS.week(t_day)
    orders = [(day, amount) for day, kind, _, amount, _ in told if kind == "order"]
    refunds = [(day, amount) for day, kind, _, amount, _ in told if kind == "refund" and DAYS.week(day) < week]
    for weeks in (26, 52):
        first_day = DAYS.monday(week - weeks)
        bought = [amount for day, amount in orders if day >= first_day]
        back = sum(amount for day, amount in refunds if day >= first_day)
        wanted[f"orders_{weeks}w"] = logs(len(bought))
        wanted[f"net_revenue_{weeks}w"] = logs(sum(bought) - back)
    wanted["order_value_52w"] = logs(sum(bought) / len(bought) if bought else 0)
    wanted["refund_share_52w"] = share(back, sum(bought))
    wanted["discount_share"] = share(sum(amount % 2 for _, amount in orders), len(orders))
    products = [min(5, amount % 8) for _, amount in orders]
    wanted["products"] = logs(sum(products))
    wanted["products_an_order"] = logs(sum(products) / len(products) if products else 0)
    wanted["products_last_order"] = logs(products[-1] if products else 0)
    wanted |= products_with_discount(wanted)
    wanted |= {"touch_30d": 0, "touch_90d": 0, "touch_recency": logs(91)}
    firsts = [day for day, kind, *_ in told if kind != "refund"]
    wanted["tenure"] = logs(t_day - min(firsts) if firsts else 0)
    return wanted


@given(events, st.booleans())
def test_features_equal_a_recount(history, rolled):
    t_day = FIRST_DAY + max((day for day, *_ in history), default=0) + 1
    row = build(history)
    if rolled:
        row.roll(t_day)
    seen = named(row, t_day)
    wanted = recount(history, t_day)
    assert {name: seen[name] for name in wanted} == wanted
    assert set(seen) - set(wanted) <= {
        "active_gap_last",
        "active_overdue",
        "order_overdue",
        "tier_age",
        *(name for name in NAMES if name.startswith("tier_")),
    }


@given(events, st.integers(0, 140))
def test_features_see_nothing_of_the_day_itself(history, cut):
    t_day = FIRST_DAY + cut
    before = [event for event in history if event[0] < cut]
    with_day = [event for event in history if event[0] <= cut]
    assert compute(build(with_day), t_day, DAYS) == compute(build(before), t_day, DAYS)


def test_event_at_the_very_midnight_is_not_seen():
    row = new_row()
    put(row, 1, DAYS.start(FIRST_DAY) - 1, "order", None, 500)
    before = compute(row, FIRST_DAY, DAYS)
    for number, kind in enumerate(("order", "activity", "refund"), 2):
        put(row, number, DAYS.start(FIRST_DAY), kind, SESSION + 3, 500)
    assert compute(row, FIRST_DAY, DAYS) == before


def test_a_cancelled_order_is_not_the_last_one():
    row = new_row()
    for number, day in enumerate((0, 10, 30)):
        put(row, number, at_of(day, 20), "order", None, 500)
    seen = named(row, FIRST_DAY + 40)
    assert (round(expm1(seen["order_recency_days"])), round(expm1(seen["order_gap_last"]))) == (10, 20)
    intake.cancel(row, Cancel("c", "o2"), DAYS)
    seen = named(row, FIRST_DAY + 40)
    assert (round(expm1(seen["order_recency_days"])), round(expm1(seen["order_gap_last"]))) == (30, 10)
    assert round(expm1(seen["orders_52w"])) == 2


def test_what_a_cancelled_order_brought_is_taken_back():
    row, without = new_row(), new_row()
    put(row, 1, at_of(0, 20), "order", None, 503)
    put(without, 1, at_of(0, 20), "order", None, 503)
    put(row, 2, at_of(10, 20), "order", None, 906)
    intake.cancel(row, Cancel("c", "o2"), DAYS)
    names = ["discount_share", "products", "products_an_order", "products_last_order", "net_revenue_26w"]
    seen, wanted = named(row, FIRST_DAY + 40), named(without, FIRST_DAY + 40)
    assert [seen[name] for name in names] == [wanted[name] for name in names]


@pytest.mark.parametrize(("amounts", "share"), [((500, 502), 0), ((500, 503), 0.5), ((501, 503), 1)])
def test_a_silence_counts_once_more_by_the_share_of_orders_with_a_discount(amounts, share):
    row = new_row()
    for number, amount in enumerate(amounts):
        put(row, number, at_of(10 * number, 20), "order", None, amount)
    seen = named(row, FIRST_DAY + 45)
    assert seen["discount_share"] == share
    for name in features.SILENCE:
        assert seen[f"discounted_{name}"] == pytest.approx(share * seen[name], abs=0.00051)
    assert seen["active_recency_days"] == seen["order_recency_days"] == logs(35)


def test_orders_of_the_week_that_has_begun_count_and_what_is_of_the_day_itself_does_not():
    monday = DAYS.monday(DAYS.week(FIRST_DAY) + 1) - FIRST_DAY
    row = new_row()
    for number, day in enumerate((monday - 1, monday, monday + 2)):
        put(row, number, at_of(day, 20), "order", None, 500)
    assert named(row, FIRST_DAY + monday + 1)["orders_26w"] == logs(2)
    assert named(row, FIRST_DAY + monday + 2)["net_revenue_52w"] == logs(1000)
    assert named(row, FIRST_DAY + monday + 3)["net_revenue_52w"] == logs(1500)


def test_touches_are_told_by_how_long_ago_they_were():
    row = new_row()
    for day in (0, 40, 60, 90):
        row.account.contacts.append(Contact(at_of(day, 12), "email"))
    seen = named(row, FIRST_DAY + 90)
    assert (seen["touch_30d"], seen["touch_90d"]) == (logs(1), logs(3))
    assert seen["touch_recency"] == logs(30)
    assert named(row, FIRST_DAY)["touch_recency"] == logs(91)
    row.account.contacts = row.account.contacts[:1]
    assert named(row, FIRST_DAY + 300)["touch_recency"] == logs(91)


def test_a_cancellation_of_an_order_that_fell_out_of_the_windows_leaves_no_negative_count():
    row = new_row()
    row.account.weeks = [DAYS.week(FIRST_DAY) - 1, -1, -500, 0]
    seen = named(row, FIRST_DAY)
    assert seen["net_revenue_52w"] == logs(-500)
    assert seen["order_value_52w"] == 0


def test_the_greatest_row_stays_within_two_bytes():
    row = new_row()
    row.account.weeks = [DAYS.week(FIRST_DAY) - 1, 10**6, 10**17, 10**16]
    row.history.append([FIRST_DAY - 1, *(n for channel in range(len(CHANNELS)) for n in (channel, 10**9))])
    row.last_days = [FIRST_DAY - 1] * len(CHANNELS)
    row.orders = row.account.discounted = 10**9
    seen = compute(row, FIRST_DAY, DAYS)
    assert plain(seen)[NAMES.index("view_90d")] == logs(10**9)
    by_name = dict(zip(NAMES, seen, strict=True))
    assert by_name["discount_share"] == 1000
    assert [by_name[f"discounted_{name}"] for name in features.SILENCE] == [by_name[n] for n in features.SILENCE]
    sighting = labels.Sighting(0, False, Rhythms(History(0, 0, 0), History(0, 0, 0)), None, seen, {})
    assert labels.unpack(labels.pack(sighting)) == sighting


# -- through the worker's own rules ------------------------------------------------------------------------------------

EVENTS = ("Signed In", "Product Viewed", "Product Added", "Product Added to Wishlist")
MONEY = {"revenue": "12.50", "currency": "EUR"}
AS_NOW = ("tier_",)
"""Features that are as the row has them now."""


class Shop:
    """A worker that has read a log up to a time, and what it saw of users at its weekly visits by (user, day)."""

    def __init__(self, records, until, timezone="Europe/Berlin", currency="EUR"):
        config = worker_settings.load(currency=currency, timezone=timezone, partitions=1)
        self.days = config.shop().days
        self._processor = bootstrap.customers(config, {})
        self._partition = Partition(bootstrap.layout(0, config), self._processor, {})
        self.seen = {}
        fed = defaultdict(list)
        for record in records:
            if record.recorded_at < until:
                topic = fed[record.topic]
                topic.append(Fed(len(topic), record.recorded_at, record.key, record.value))
        fed["control"] = [Fed(0, until, None, tick(until))]
        for topic, mine in fed.items():
            self._partition.feed(topic, mine)
        while (unit := self._partition.advance()) is not None:
            for key, value in unit.rows.items():
                if key.startswith(ATTACHMENT) and value is not None:
                    name = key.removeprefix(ATTACHMENT)
                    day = int.from_bytes(name[:ATTACHMENT_NAME_BYTES], "big")
                    self.seen[name[ATTACHMENT_NAME_BYTES:], day] = labels.unpack(value).features

    def features(self, user, t_day):
        return compute(self._processor.decode(self._partition.rows[user][HEADER_BYTES:]), t_day, self.days)


def record_of(number, at, event, user):
    properties = {"product_id": f"p{number % 7}", "new_arrival": number % 3 == 0}
    topic = "cart" if event == "Product Added" else "clickstream"
    match event:
        case "Order Completed":
            topic, products = "orders", [{"product_id": f"p{i}", "quantity": 1} for i in range(number % 4)]
            properties = {**MONEY, "order_id": f"o{number}", "products": products, "discount": str(number % 2)}
        case "Order Refunded":
            topic, properties = "orders", {"order_id": f"r{number}", "total": "2.50", "currency": "EUR"}
        case "Order Cancelled":
            topic, properties = "orders", {"order_id": f"o{number // 2}"}
    return track(topic, f"m{number}", user=user, at=at, event=event, properties=properties)


logs_of_events = st.lists(
    st.tuples(
        st.integers(0, 260),
        st.integers(0, 47),
        st.sampled_from([*EVENTS, *["Order Completed"] * 3, "Order Refunded", "Order Cancelled"]),
        st.sampled_from(["user-1", "user-2"]),
    ),
    min_size=1,
    max_size=80,
).map(lambda told: [record_of(n, at_of(day, half), *rest) for n, (day, half, *rest) in enumerate(sorted(told))])


def without(values, prefixes):
    return {name: value for name, value in zip(NAMES, values, strict=True) if not name.startswith(prefixes)}


@given(logs_of_events, st.data())
@settings(max_examples=60, deadline=None)
def test_a_log_cut_at_a_day_gives_what_the_whole_log_gave_on_that_day(records, data):
    whole = Shop(records, at_of(300, 0))
    if not whole.seen:
        return
    for user, t_day in data.draw(st.lists(st.sampled_from(sorted(whole.seen)), max_size=4, unique=True)):
        cut = Shop(records, DAYS.start(t_day))
        assert whole.seen[user, t_day] == cut.features(user, t_day)


@given(logs_of_events, st.integers(1, 260))
@settings(max_examples=60, deadline=None)
def test_a_row_that_has_gone_on_through_the_day_shows_what_it_showed_at_its_start(records, cut):
    t_day = FIRST_DAY + cut
    at_start, at_end = Shop(records, DAYS.start(t_day)), Shop(records, DAYS.start(t_day + 1) - 1)
    for user in {record.key for record in records if record.recorded_at < DAYS.start(t_day)}:
        before, after = at_start.features(user, t_day), at_end.features(user, t_day)
        assert without(before, AS_NOW) == without(after, AS_NOW)


def test_a_cut_log_of_online_retail_gives_what_the_whole_one_gave():
    source = open_source(require("online_retail", "online_retail.parquet"))
    records = [record for record in source.records if int(record.key) % 50 == 7]
    place = {"timezone": source.timezone, "currency": source.currency}
    whole = Shop(records, records[-1].recorded_at + 1, **place)
    compared = 0
    for date in ((2011, 2, 14), (2011, 5, 25), (2011, 9, 1), (2011, 11, 6)):
        t_day = whole.days.number(dt.date(*date))
        cut = Shop(records, whole.days.start(t_day), **place)
        visited = [user for user, day in whole.seen if day == t_day]
        for user in visited:
            assert whole.seen[user, t_day] == cut.features(user, t_day)
        compared += len(visited)
    assert compared > 20


# -- the schema --------------------------------------------------------------------------------------------------------


def test_schema_is_the_one_that_examples_and_snapshots_were_made_with():
    """Change this together with the features: what lies on the topics then belongs to another schema."""
    assert len(NAMES) == len(set(NAMES)) == 148
    assert features.SCHEMA_HASH == "d7a5a5210d2def6f"


def test_documents_tell_how_many_features_there_are():
    told = {
        "README.md": r"\n- (\d+) features",
        "CHANGELOG.md": r"features \((\d+)\)",
        "docs/churn.md": r"\n(\d+) numbers",
    }
    for document, pattern in told.items():
        assert re.findall(pattern, (ROOT / document).read_text()) == [str(len(NAMES))], document
    table = (ROOT / "docs" / "churn.md").read_text().partition("| group | features | number |")[2].partition("\n\n")[0]
    assert sum(int(number) for number in re.findall(r"\| (\d+) \|\n?", table)) == len(NAMES)


@pytest.mark.parametrize(
    "changed",
    [
        features.SCHEMA[1:],
        (*features.SCHEMA, ("new", "log1p(count)")),
        (features.SCHEMA[1], features.SCHEMA[0], *features.SCHEMA[2:]),
        ((features.SCHEMA[0][0], "count"), *features.SCHEMA[1:]),
        (("renamed", features.SCHEMA[0][1]), *features.SCHEMA[1:]),
    ],
    ids=["one fewer", "one more", "other order", "other unit", "other name"],
)
def test_any_change_of_the_schema_changes_its_hash(changed):
    assert features.hash_of(features.SCHEMA) == features.SCHEMA_HASH
    assert features.hash_of(changed) != features.SCHEMA_HASH
