"""Features of a row against a naive recount from the events, and against what must not be seen."""

import itertools
from math import copysign, expm1, log1p
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.recall import intake
from worker.recall.bodies import Activity, Cancel, Order, Refund
from worker.recall.days import Days
from worker.recall.profile import Profile
from worker.recall.risk import features, labels
from worker.recall.risk.features import NAMES, compute, plain
from worker.recall.windows import CHANNELS, MESSAGE_CLICK, ORDER, REFUND, SESSION
from worker.stream.processor import NEVER

DAYS = Days("Europe/Berlin")
FIRST_DAY = DAYS.of(1_740_000_000_000)  # 2025-02-19, so that the histories cross both changes of the clocks
HOUR = 3_600_000


def new_row():
    return Profile(key=b"user-1", due=NEVER, silence_due=NEVER, other_due=NEVER)


def put(row, number, at, kind, channel, amount):
    """Let an event act on the row, as the stream would."""
    name = f"m{number}"
    match kind:
        case "activity":
            intake.activity(row, Activity(channel, name), at, at, DAYS)
        case "order":
            intake.order(row, Order(name, f"o{number}", amount, (), None, 0), at, at, DAYS)
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
        for window in (1, 7, 30, 90):
            wanted[f"{name}_{window}d"] = logs(sum(age <= window for age in ages))
        wanted[f"{name}_recency"] = logs(min(ages, default=91))
        month, before = sum(age <= 30 for age in ages), sum(30 < age <= 60 for age in ages)
        wanted[f"{name}_trend"] = pytest.approx(log1p(month) - log1p(before), abs=0.0012)
    for rhythm, days in (("active", sorted(active_half_hours)), ("order", sorted(set(by_day.get(ORDER, []))))):
        gaps = [b - a for a, b in itertools.pairwise(days)]
        mean = (sum(gaps) + 30) / (len(gaps) + 1)
        recency = t_day - days[-1] if days else 999
        wanted[f"{rhythm}_recency_days"] = logs(recency)
        wanted[f"{rhythm}_gap_mean"] = logs(mean)
        wanted[f"{rhythm}_gap_deviation"] = logs(stdev(gaps) if len(gaps) > 1 else 0)
        if rhythm == "order" or len([day for day in days if t_day - day <= 90]) > 1:
            wanted[f"{rhythm}_gap_last"] = logs(gaps[-1] if gaps else 0)
        wanted[f"{rhythm}_overdue"] = logs(recency / mean)
    week = DAYS.week(t_day)
    orders = [amount for day, kind, _, amount, _ in told if kind == "order" and DAYS.week(day) < week]
    refunds = [amount for day, kind, _, amount, _ in told if kind == "refund" and DAYS.week(day) < week]
    wanted["orders_52w"] = logs(len(orders))
    wanted["net_revenue_52w"] = logs(sum(orders) - sum(refunds))
    wanted["order_value_52w"] = logs(sum(orders) / len(orders) if orders else 0)
    wanted["refund_share_52w"] = pytest.approx(min(1, sum(refunds) / sum(orders)) if sum(orders) else 0, abs=0.0006)
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
        "discount_share",
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
    seen = compute(row, FIRST_DAY, DAYS)
    assert plain(seen)[NAMES.index("view_90d")] == logs(10**9)
    assert labels.unpack(labels.pack(seen)) == seen


def test_schema_is_the_one_that_examples_and_snapshots_were_made_with():
    """Change this together with the features: what lies on the topics then belongs to another schema."""
    assert len(NAMES) == len(set(NAMES)) == 100
    assert features.SCHEMA_HASH == "fcaa61c052bf2233"
