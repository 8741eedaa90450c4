"""Money and people that a partition may use: never above the grant, renewed at the shop's midnight, to the micro."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from worker.recall.days import DAY_MS, Days
from worker.recall.policy.budget import (
    Budget,
    BudgetError,
    capacity,
    charge,
    granted,
    part,
    people_left,
    room,
    settle,
)

DAYS = Days("America/New_York")
TODAY = 20_000
MIDNIGHT = DAYS.start(TODAY)
EURO = 1_000_000


def daily(amount=100 * EURO, **changes):
    terms = {"period": "day", "until": 0, "shadow_price": 0.5, "at": MIDNIGHT, "day": TODAY}
    return granted(None, amount=amount, **(terms | changes))


def campaign(amount=100 * EURO, **changes):
    return daily(amount, period="campaign", **changes)


def left(budget, at=MIDNIGHT, *, core=True, core_share=0.0):
    return room(budget, core=core, core_share=core_share, at=at, day=DAYS.of(at))


def spend(budget, amount, at=MIDNIGHT, *, core=True, core_share=0.0):
    return charge(budget, amount, core=core, core_share=core_share, at=at, day=DAYS.of(at))


def test_without_a_grant_there_is_no_room():
    assert left(None) == 0


def test_what_is_spent_leaves_less():
    assert left(spend(daily(), 30 * EURO)) == 70 * EURO


def test_the_last_micro_may_be_spent_and_not_one_more():
    budget = spend(daily(), 100 * EURO - 1)
    assert left(spend(budget, 1)) == 0
    with pytest.raises(BudgetError, match="charge = 2 micros: allowed are 0 to 1"):
        spend(budget, 2)


def test_a_day_ends_at_the_shops_midnight():
    budget = spend(daily(), 100 * EURO, MIDNIGHT + 1)
    last_ms = DAYS.start(TODAY + 1) - 1
    assert last_ms // DAY_MS > TODAY  # in UTC the next day began hours ago
    assert left(budget, last_ms) == 0
    assert left(budget, last_ms + 1) == 100 * EURO


def test_what_a_day_leaves_is_gone():
    assert left(spend(daily(), 10 * EURO), DAYS.start(TODAY + 5)) == 100 * EURO


def test_a_campaign_is_not_renewed():
    assert left(spend(campaign(), 10 * EURO), DAYS.start(TODAY + 5)) == 90 * EURO


@pytest.mark.parametrize("make", [daily, campaign])
def test_nothing_is_spent_from_its_end_on(make):
    budget = make(until=MIDNIGHT + 1000)
    assert left(budget, MIDNIGHT + 999) == 100 * EURO
    assert left(budget, MIDNIGHT + 1000) == 0


def test_a_share_is_kept_for_core_users():
    budget = spend(daily(), 60 * EURO, core=False, core_share=0.4)
    assert left(budget, core=False, core_share=0.4) == 0
    assert left(budget, core=True, core_share=0.4) == 40 * EURO


def test_core_users_may_use_all_of_it():
    budget = spend(daily(), 90 * EURO, core=True, core_share=0.4)
    assert left(budget, core=False, core_share=0.4) == 10 * EURO


def test_what_came_back_may_be_spent_again_on_that_day():
    budget = settle(spend(daily(), 100 * EURO), 20 * EURO, core=True, day=TODAY)
    assert left(budget) == 20 * EURO


def test_what_comes_back_of_an_earlier_day_gives_no_more_than_the_grant():
    budget = settle(spend(daily(), 100 * EURO), 20 * EURO, core=True, day=TODAY + 1)
    assert left(budget, DAYS.start(TODAY + 1)) == 100 * EURO


def test_what_came_back_counts_against_what_is_spent_later_that_day():
    budget = spend(settle(daily(), 20 * EURO, core=True, day=TODAY), 100 * EURO)
    assert left(budget) == 20 * EURO


def test_what_users_outside_the_core_have_cost_too_much_they_make_up_for():
    budget = settle(spend(daily(), 60 * EURO, core=False, core_share=0.4), -70 * EURO, core=False, day=TODAY)
    tomorrow = DAYS.start(TODAY + 1)
    assert left(budget, tomorrow, core=True, core_share=0.4) == 70 * EURO
    assert left(budget, tomorrow, core=False, core_share=0.4) == 30 * EURO


def test_what_cost_more_than_a_day_had_is_made_up_for_by_the_days_after():
    budget = settle(spend(daily(), 100 * EURO), -130 * EURO, core=True, day=TODAY)
    assert left(budget) == 0
    assert left(budget, DAYS.start(TODAY + 1)) == 0
    assert left(budget, DAYS.start(TODAY + 2)) == 70 * EURO
    assert left(budget, DAYS.start(TODAY + 3)) == 100 * EURO


def test_a_later_grant_takes_the_place_and_what_was_spent_stays_spent():
    before = spend(campaign(), 70 * EURO)
    terms = {"period": "campaign", "until": 0, "shadow_price": 2.0, "at": MIDNIGHT, "day": TODAY}
    after = granted(before, amount=80 * EURO, **terms)
    assert (left(after), after.shadow_price) == (10 * EURO, 2.0)
    assert left(granted(before, amount=50 * EURO, **terms)) == 0


def test_after_its_end_a_campaign_of_the_same_name_begins_anew():
    before = spend(campaign(until=MIDNIGHT + 1), 70 * EURO)
    after = granted(before, amount=100 * EURO, period="campaign", until=0, shadow_price=0.0, at=MIDNIGHT + 1, day=TODAY)
    assert left(after, MIDNIGHT + 1) == 100 * EURO


def test_a_budget_survives_the_partition_record():
    budget = spend(daily(), 7, core=False, core_share=0.25)
    assert msgpack.decode(msgpack.encode(budget), type=Budget) == budget


# -- invariants --------------------------------------------------------------------------------------------------------

AMOUNTS = st.integers(0, 40)
STEPS = st.lists(
    st.tuples(st.integers(0, 3 * DAY_MS), st.sampled_from(["charge", "settle"]), AMOUNTS, st.booleans()), max_size=40
)


@given(
    amount=st.integers(0, 100),
    period=st.sampled_from(["day", "campaign"]),
    core_share=st.sampled_from([0.0, 0.3, 1 / 3, 1.0]),
    steps=STEPS,
)
def test_whatever_happens_spend_stays_within_the_grant(amount, period, core_share, steps):
    """Where nothing comes back and nothing costs more: charges of a day (of all time) never pass what was granted."""
    budget, at = daily(amount, period=period), MIDNIGHT
    charged: dict[int, int] = {}
    outside: dict[int, int] = {}
    for wait, _, wanted, core in steps:
        at += wait
        least = min(wanted, left(budget, at, core=core, core_share=core_share))
        budget = spend(budget, least, at, core=core, core_share=core_share)
        span = DAYS.of(at) if period == "day" else 0
        charged[span] = charged.get(span, 0) + least
        outside[span] = outside.get(span, 0) + (0 if core else least)
        assert charged[span] <= amount
        assert outside[span] <= amount * (1 - core_share) + 1e-9
        if least < wanted and core:
            assert charged[span] == amount  # refused only where nothing is left


@given(amount=st.integers(0, 100), core_share=st.sampled_from([0.0, 0.3]), steps=STEPS)
def test_settling_loses_no_micro(amount, core_share, steps):
    """A campaign's books are those of a clerk who writes down every sum, and charges stop where his are full."""
    budget, at = campaign(amount), MIDNIGHT
    spent = outside = 0
    for i, (wait, what, wanted, core) in enumerate(steps):
        at += wait
        if what == "charge":
            micros = min(wanted, left(budget, at, core=core, core_share=core_share))
            budget = spend(budget, micros, at, core=core, core_share=core_share)
            assert spent + micros <= amount or micros == 0
        else:
            micros = wanted if i % 2 else -wanted
            budget = settle(budget, -micros, core=core, day=DAYS.of(at))
        spent += micros
        outside += 0 if core else micros
        assert (budget.spent, budget.spent_outside_core) == (spent, outside)


@given(amount=st.integers(1, 100), steps=STEPS)
def test_overruns_of_days_are_made_up_for_to_the_micro(amount, steps):
    """What the days cost together never passes what was granted for them, but for what is still owed."""
    budget, at, cost = daily(amount), MIDNIGHT, 0
    for wait, what, wanted, core in steps:
        at += wait
        micros = wanted
        if what == "charge":
            micros = min(wanted, left(budget, at, core=core))
            budget = spend(budget, micros, at, core=core)
        else:
            budget = settle(budget, -micros, core=core, day=DAYS.of(at))
        cost += micros
        days_granted = DAYS.of(at) - TODAY + 1
        owed = max(0, budget.spent - amount)
        assert cost <= days_granted * amount + owed


@given(total=st.integers(0, 10**15), parts=st.integers(1, 512))
def test_a_grant_is_split_without_a_micro_lost(total, parts):
    split = [part(total, number, parts) for number in range(parts)]
    assert sum(split) == total
    assert max(split) - min(split) <= 1


# -- people ------------------------------------------------------------------------------------------------------------


@given(per_day=st.integers(0, 500), partitions=st.integers(1, 64), day=st.integers(0, 40_000))
def test_the_partitions_have_the_days_capacity_together(per_day, partitions, day):
    shares = [capacity(per_day, partition=p, partitions=partitions, day=day) for p in range(partitions)]
    assert sum(shares) == per_day
    assert max(shares) - min(shares) <= 1


@settings(max_examples=20)
@given(per_day=st.integers(0, 20), partitions=st.integers(1, 16))
def test_over_as_many_days_each_partition_has_the_same(per_day, partitions):
    served = [
        sum(capacity(per_day, partition=p, partitions=partitions, day=d) for d in range(partitions))
        for p in range(partitions)
    ]
    assert set(served) == {per_day}


def test_people_who_are_used_up_are_there_again_the_next_day():
    assert people_left((TODAY, 3), 5, partition=0, partitions=1, day=TODAY) == 2
    assert people_left((TODAY, 5), 5, partition=0, partitions=1, day=TODAY) == 0
    assert people_left((TODAY, 5), 5, partition=0, partitions=1, day=TODAY + 1) == 5
