"""Counts by day and channel against a naive recount, and what must not depend on the order of events."""

from collections import Counter

import pytest
from customers import SmallShop, later
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.recall import intake
from worker.recall.bodies import Activity, Cancel, Order, Refund
from worker.recall.days import DAY_MS, HOUR_MS, Days
from worker.recall.profile import HALF_HOUR_MS, MESSAGE_IDS_KEPT, ORDERS_KEPT, Gaps, Profile
from worker.recall.windows import (
    BUCKET_DAYS,
    BUCKETS_KEPT,
    CART_ADD,
    DAYS_KEPT,
    FOLD_SLACK_DAYS,
    MESSAGE_CLICK,
    ORDER,
    REFUND,
    SESSION,
    VIEW,
    WEEKS_KEPT,
    WISHLIST,
)
from worker.stream.processor import NEVER

UTC = Days("UTC")
FIRST_DAY = 20_000
FIRST = FIRST_DAY * DAY_MS
PLAIN = (VIEW, CART_ADD, WISHLIST, None)


def row():
    return Profile(key=b"ann", due=NEVER, silence_due=NEVER, other_due=NEVER)


def counted(profile):
    """Return the counts of the days that are known singly, by (day, channel)."""
    counts = Counter()
    for day, *pairs in profile.counts_by_day():
        for channel, n in zip(pairs[::2], pairs[1::2], strict=True):
            counts[day, channel] += n
    return counts


# -- the order of events -----------------------------------------------------------------------------------------------


def take(profile, body, at, clock):
    match body:
        case Activity():
            return intake.activity(profile, body, at, clock, UTC)
        case Order():
            return intake.order(profile, body, at, clock, UTC)
        case Refund():
            return intake.refund(profile, body, at, clock, UTC)
        case _:
            return intake.cancel(profile, body, UTC)


def summary(profile):
    """Return what must not depend on the order: all but favourites."""
    return {
        "counts": counted(profile),
        "months": list(profile.history.months()),
        "last days": profile.last_days,
        "active": (profile.first_at, profile.active_at),
        "half-hours": (profile.today.half_hours, profile.yesterday.half_hours),
        "orders": (profile.orders, profile.account.first_order_at, profile.last_order_at, profile.account.discounted),
        "weeks": [week for week in zip(*[iter(profile.account.weeks)] * 4, strict=True) if any(week[1:])],
        "sums": (profile.account.spent, profile.account.refunded),
        "latest": sorted(
            (past.id, past.at, past.net, past.cancelled, past.refunded) for past in profile.account.latest_orders
        ),
        "gaps": (profile.active_gaps, profile.account.order_gaps),
    }


hours = st.integers(0, 24 * 60)
order_ids = st.sampled_from(["o1", "o2", "o3"])
within_a_day = st.lists(
    st.one_of(
        st.tuples(st.just("do"), hours, st.sampled_from(PLAIN)),
        st.tuples(st.just("order"), hours, order_ids),
        st.tuples(st.just("refund"), hours, order_ids),
        st.tuples(st.just("cancel"), hours, order_ids),
    ),
    min_size=1,
    max_size=12,
)


def bodies(events):
    """Return (body, at) of each event; an order is placed once, and what is undone was placed."""
    placed = {which for what, _, which in events if what == "order"}
    ordered = set()
    for n, (what, minutes, which) in enumerate(events):
        at = FIRST + 9 * HOUR_MS + minutes * 60_000
        match what:
            case "do":
                yield Activity(which, f"m{n}", "p1", None, None), at
            case "order" if which not in ordered:
                ordered.add(which)
                yield Order(f"m{n}", which, 1000 + n, (), None, n % 2), at
            case "refund" if which in placed:
                yield Refund(f"m{n}", which, 100 + n), at
            case "cancel" if which in placed:
                yield Cancel(f"m{n}", which), at


@settings(max_examples=400, deadline=None)
@given(events=within_a_day, order=st.randoms(use_true_random=False), twice=st.randoms(use_true_random=False))
@example(events=[("order", 0, "o1"), ("refund", 60, "o1"), ("cancel", 90, "o1")], order=None, twice=None)
def test_the_order_within_the_lateness_does_not_matter(events, order, twice):
    told = list(bodies(events))
    expected = row()
    for body, at in sorted(told, key=lambda pair: pair[1]):
        take(expected, body, at, max(at, expected.active_at))

    shuffled = list(reversed(told))
    if order is not None:
        order.shuffle(shuffled)
        # A message that its producer sent again comes with a later offset.
        for pair in twice.sample(told, twice.randint(0, len(told))):
            shuffled.insert(twice.randint(shuffled.index(pair) + 1, len(shuffled)), pair)
    profile, clock = row(), 0
    for body, at in shuffled:
        clock = max(clock, at)
        take(profile, body, at, clock)
    # Both come to the same day.
    for each in (expected, profile):
        each.roll(FIRST_DAY + 1)
    assert summary(profile) == summary(expected)


def test_a_cancelled_order_leaves_no_money_whenever_it_was_refunded():
    sequence = [
        (Order("m1", "o1", 5000, (), None, 0), FIRST),
        (Refund("m2", "o1", 2000), FIRST + HOUR_MS),
        (Cancel("m3", "o1"), FIRST + 2 * HOUR_MS),
        (Refund("m4", "o1", 3000), FIRST + 3 * HOUR_MS),
    ]
    profile = row()
    for body, at in sequence:
        take(profile, body, at, at)
    assert (profile.orders, profile.account.spent, profile.account.refunded) == (0, 0, 0)
    assert not any(profile.account.weeks[1:])


def test_a_refund_without_amount_is_the_full_order():
    profile = row()
    assert take(profile, Refund("m1", "o1", None), FIRST, FIRST) == "unknown order"
    take(profile, Order("m2", "o1", 5000, (), None, 0), FIRST, FIRST)
    assert take(profile, Refund("m3", "o1", None), FIRST, FIRST) is None
    assert profile.account.weeks[1:] == [1, 5000, 5000]


# -- twice, and late ---------------------------------------------------------------------------------------------------


def test_a_message_that_was_sent_twice_is_applied_once():
    shop = SmallShop()
    shop.orders("ann", "2025-03-01T10", "o1", 100, message="m1")
    for _ in range(2):
        shop.does("ann", "2025-03-02T10", "Product Viewed", message="m2", product_id="p1")
        shop.refunds("ann", "2025-03-02T11", "o1", 30, message="m3")
        shop.orders("ann", "2025-03-01T10", "o1", 100, message="m1")
        shop.cancels("ann", "2025-03-02T12", "o9", message="m4")
    assert counted(shop.row("ann"))[shop.days.of(later("2025-03-02")), VIEW] == 1
    assert shop.rfm("ann")[1:] == (1, 7000)
    assert shop.counts["duplicate"] == 5
    assert shop.counts["unknown order"] == 1


def test_a_refund_that_is_told_again_after_days_is_applied_once():
    shop = SmallShop()
    shop.orders("ann", "2025-03-01T10", "o1", 100)
    shop.refunds("ann", "2025-03-02T10", "o1", 30, message="m1")
    shop.tick("2025-03-09")
    shop.refunds("ann", "2025-03-02T10", "o1", 30, message="m1")
    shop.refunds("ann", "2025-03-02T11", "o1", 5, message="m2")
    shop.refunds("ann", "2025-03-02T11", "o1", 5, message="m2")
    assert shop.rfm("ann").m == 6500
    assert shop.counts["duplicate"] == 2


def test_messages_are_known_again_for_a_day_up_to_their_bound():
    profile = row()
    told = [Activity(VIEW, f"m{n}") for n in range(MESSAGE_IDS_KEPT + 1)]
    assert [take(profile, body, FIRST, FIRST) for body in told] == [None] * len(told)
    assert [take(profile, body, FIRST, FIRST) for body in told[1:]] == ["duplicate"] * MESSAGE_IDS_KEPT
    assert take(profile, told[0], FIRST, FIRST) is None


def test_ids_of_messages_are_found_at_their_places_only():
    """Six bytes that stand across two ids are none of them."""
    a, b = b"abcdef", b"ghijkl"
    for ids, short, found in ((a + b, b"defghi", False), (a + b, b, True), (b"aaaaab" + b"aaaaaa", b"aaaaaa", True)):
        known = intake.short_id
        intake.short_id = lambda _, short=short: short
        try:
            assert (intake._with(ids, "m", 8) is None) is found
        finally:
            intake.short_id = known


@pytest.mark.parametrize(("hours", "counts"), [(24, 1), (24.01, 0), (30, 0), (47, 0)])
def test_clicks_count_up_to_the_lateness(hours, counts):
    shop = SmallShop()
    shop.tick("2025-03-05T23:30")
    at = later("2025-03-05T23:30", hours=-hours)
    shop.views("ann", at)
    assert counted(shop.row("ann"))[shop.days.of(at), VIEW] == counts
    assert shop.counts.get("late", 0) == 1 - counts
    shop.hears("ann", at, "clicked")
    assert counted(shop.row("ann"))[shop.days.of(at), MESSAGE_CLICK] == counts
    assert shop.counts.get("late", 0) == 2 * (1 - counts)


def test_orders_count_however_late_while_the_weeks_reach():
    shop = SmallShop()
    shop.tick("2025-12-31")  # a Wednesday
    monday = later("2025-12-29", days=-7 * (WEEKS_KEPT - 1))
    shop.orders("ann", monday, "o1", 100)
    shop.orders("ann", monday - 1, "o2", 100)
    shop.refunds("ann", monday, "o1", 10)
    shop.refunds("ann", monday - 1, "o1", 10)
    assert shop.rfm("ann") == (366, 1, 9000)
    assert shop.counts["late order"] == shop.counts["late refund"] == 1
    assert counted(shop.row("ann"))[shop.days.of(monday), ORDER] == 1
    assert counted(shop.row("ann"))[shop.days.of(monday), REFUND] == 1
    shop.tick("2026-01-05")
    assert shop.rfm("ann")[1:] == (0, 0), "the week has left the window"


def test_the_latest_orders_are_kept():
    profile = row()
    for n in range(ORDERS_KEPT + 3):
        take(profile, Order(f"m{n}", f"o{n}", 100, (), None, 0), FIRST + n * HOUR_MS, FIRST + n * HOUR_MS)
    assert [past.at for past in profile.account.latest_orders] == [
        FIRST + n * HOUR_MS for n in range(3, ORDERS_KEPT + 3)
    ]
    assert profile.orders == ORDERS_KEPT + 3


# -- the rings against a naive recount ---------------------------------------------------------------------------------


class Recount:
    """Every event that counts, and nothing thrown away."""

    def __init__(self):
        self.counts = Counter()
        self.half_hours = set()
        self.order_days = set()
        self.seen = set()
        self.last = {}

    def take(self, channel, at, clock, message):
        day = at // DAY_MS
        late = at < clock - DAY_MS
        if channel != ORDER:
            if late:
                return "late"
            if (day, message) in self.seen:
                return "duplicate"
            self.seen.add((day, message))
        self.counts[day, channel] += channel is not None
        self.last[channel] = max(self.last.get(channel, 0), day)
        if not late:
            self.half_hours.add(at // HALF_HOUR_MS)
            self.order_days |= {day} if channel == ORDER else set()
        return None

    def all(self):
        sessions = Counter()
        for half_hour in self.half_hours:
            day = half_hour * HALF_HOUR_MS // DAY_MS
            starts = half_hour - 1 not in self.half_hours or (half_hour * HALF_HOUR_MS) % DAY_MS == 0
            sessions[day, SESSION] += starts
        return +(self.counts + sessions)

    def gaps(self, days, before):
        gaps = Gaps()
        for day in sorted(days):
            if day < before:
                gaps.fold(day)
        return gaps

    @property
    def days(self):
        return {half_hour * HALF_HOUR_MS // DAY_MS for half_hour in self.half_hours}


steps = st.lists(
    st.tuples(
        # How the clock moves, in hours: the same day, the next, a gap of one, of weeks, of more than is kept.
        st.sampled_from(
            [0, 0, 1, 5, 12, 20, 24, 24, 30, 48, 72, 24 * 7, 24 * 30, 24 * 91, 24 * 98, 24 * 200, 24 * 500]
        ),
        st.sampled_from([VIEW, VIEW, CART_ADD, WISHLIST, None, ORDER]),
        st.sampled_from([0, 0, 0, 1, 3, 13, 23, 24, 25, 49, 24 * 20, 24 * 100]),
        st.sampled_from([None, None, "again"]),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(steps=steps)
@example(steps=[(24, VIEW, 0, None)] * 60)
@example(steps=[(24 * 3, VIEW, 0, None)] * 60)
@example(steps=[(0, VIEW, 0, "again"), (24, None, 0, None), (0, VIEW, 24, "again"), (48, VIEW, 0, "again")])
def test_the_rings_equal_a_naive_recount(steps):
    profile, naive, clock = row(), Recount(), FIRST
    for n, (hours, channel, late, message) in enumerate(steps):
        clock += hours * HOUR_MS + n % 7 * 600_000
        at = max(FIRST, clock - late * HOUR_MS)
        name = message or f"m{n}"
        if channel == ORDER:
            body = Order(name, f"o{n}", 100, (), None, 0)
            expected = None if at // DAY_MS >= UTC.monday(UTC.week(clock // DAY_MS) - WEEKS_KEPT + 1) else "late order"
            assert take(profile, body, at, clock) == expected
            if expected is None:
                naive.take(channel, at, clock, None)
        else:
            assert take(profile, Activity(channel, name), at, clock) == naive.take(channel, at, clock, name)
        agrees(profile, naive, clock // DAY_MS)


def agrees(profile, naive, today):
    # The row is rolled when the user does something; a late order that no ring reaches does nothing.
    today = min(today, profile.day)
    everything = naive.all()
    singly = counted(profile)
    recent = {key: n for key, n in everything.items() if key[0] >= today - DAYS_KEPT}
    assert {key: n for key, n in singly.items() if key[0] >= today - DAYS_KEPT} == recent
    by_month = Counter()
    for first_day, (bucket, *pairs) in profile.history.months():
        assert first_day == bucket * BUCKET_DAYS
        for channel, n in zip(pairs[::2], pairs[1::2], strict=True):
            by_month[bucket, channel] += n
    months = {bucket for bucket, _ in by_month}
    assert len(months) <= BUCKETS_KEPT + 1
    for (day, channel), n in singly.items():
        by_month[day // BUCKET_DAYS, channel] += n
    expected = Counter()
    for (day, channel), n in everything.items():
        expected[day // BUCKET_DAYS, channel] += n
    oldest = today // BUCKET_DAYS - BUCKETS_KEPT
    for counts in by_month, expected:
        for bucket, channel in list(counts):
            if bucket < oldest:
                del counts[bucket, channel]
    assert by_month == expected
    assert profile.active_gaps == naive.gaps(naive.days, profile.day - 1)
    assert profile.account.order_gaps == naive.gaps(naive.order_days, profile.day - 1)
    for channel, day in naive.last.items():
        assert channel is None or profile.last_days[channel] == day


# -- each way of rolling on --------------------------------------------------------------------------------------------


def visited(*days):
    profile = row()
    for day in days:
        at = day * DAY_MS + HOUR_MS
        take(profile, Activity(VIEW, f"m{day}"), at, at)
    return profile


def test_roll_to_the_same_day_changes_nothing():
    profile = visited(FIRST_DAY)
    for day in (FIRST_DAY, FIRST_DAY - 1):
        profile.roll(day)
        assert (profile.day, profile.history.n, profile.today.counts[VIEW]) == (FIRST_DAY, 0, 1)


def test_roll_to_the_next_day_keeps_yesterday_open():
    profile = visited(FIRST_DAY)
    profile.roll(FIRST_DAY + 1)
    assert (profile.history.n, profile.yesterday.counts[VIEW], profile.today.counts) == (0, 1, [])
    assert profile.active_gaps.last_day == 0, "a day is folded in once it is closed"
    profile.roll(FIRST_DAY + 2)
    assert (profile.history.n, profile.yesterday.counts, profile.active_gaps.last_day) == (1, [], FIRST_DAY)


@pytest.mark.parametrize("gap", [2, 3, 40])
def test_roll_over_a_gap_closes_both_days_in_their_order(gap):
    profile = visited(FIRST_DAY, FIRST_DAY + 1)
    profile.roll(FIRST_DAY + 1 + gap)
    assert [array[0] for array in profile.history.arrays()] == [FIRST_DAY, FIRST_DAY + 1]
    assert profile.active_gaps == Gaps(FIRST_DAY + 1, 1, 1.0, 0.0)
    assert profile.yesterday.message_ids == profile.today.message_ids == b""
    assert not profile.today.half_hours
    assert not profile.yesterday.half_hours


def test_messages_are_forgotten_with_their_day_and_not_before():
    profile = visited(FIRST_DAY)
    again = Activity(VIEW, f"m{FIRST_DAY}")
    at, clock = FIRST + HOUR_MS, FIRST + 20 * HOUR_MS
    assert take(profile, again, at, clock + 5 * HOUR_MS) == "duplicate", "the next day remembers the day before"
    assert take(profile, again, at + 2 * DAY_MS, clock + 2 * DAY_MS) is None, "after a gap the same id is another day's"
    assert profile.today.counts[VIEW] == 1


def test_nothing_is_folded_before_a_bucket_of_old_days_has_gathered():
    profile = visited(FIRST_DAY, FIRST_DAY + 3)
    edge = FIRST_DAY + DAYS_KEPT + FOLD_SLACK_DAYS
    profile.roll(edge)
    assert (profile.history.n, profile.history.buckets) == (2, b"")
    profile.roll(edge + 1)
    assert (profile.history.n, profile.history.days) == (0, b"")
    months = Counter()
    for _, (_, *pairs) in profile.history.months():
        months.update(dict(zip(pairs[::2], pairs[1::2], strict=True)))
    assert months == {VIEW: 2, SESSION: 2}


def test_days_within_the_window_stay_single_when_others_are_folded():
    kept = FIRST_DAY + FOLD_SLACK_DAYS + 1
    profile = visited(FIRST_DAY, kept, kept + 1)
    profile.roll(kept + DAYS_KEPT)
    assert [array[0] for array in profile.history.arrays()] == [kept, kept + 1]
    assert profile.history.first_day == kept


def test_months_are_kept_for_a_year():
    profile = visited(*range(FIRST_DAY, FIRST_DAY + 800, 4))
    buckets = [array[0] for _, array in profile.history.months()]
    today = profile.day // BUCKET_DAYS
    assert min(buckets) in {today - BUCKETS_KEPT, today - BUCKETS_KEPT - 1}
    assert buckets == list(range(min(buckets), max(buckets) + 1))
