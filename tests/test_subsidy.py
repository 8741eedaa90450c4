"""Coupons: to whom, when, how large, and how often: never first, never to bargain hunters, never the larger before."""

import pytest
from customers import ms, playbook
from hypothesis import given
from hypothesis import strategies as st

from schemas.feedback import Status
from worker.recall.days import DAY_MS
from worker.recall.playbook import Play
from worker.recall.policy import subsidy
from worker.recall.profile import Contact, Episode, Profile
from worker.stream.processor import NEVER

AT = ms("2025-03-01T12:00")
WEEK = 2_900
BOOK = playbook(subsidy={"hunter_above": 0.6, "min_orders": 3, "cool_down_days": 90, "share_max": 0.2})
PACK = Play.model_validate(
    {
        "name": "comeback",
        "opening": ["silence"],
        "kind": "comeback",
        "template": "comeback",
        "rungs": ["push", "email"],
        "incentive": {"form": "amount", "face_values": [5, 10, 20]},
    }
)
LAST = 1
TOLD = {status: 1 << place for place, status in enumerate(Status.__args__)}


def user(orders=10, discounted=0, *contacts):
    profile = Profile(key=b"user-1", due=NEVER, silence_due=NEVER, other_due=NEVER, orders=orders)
    profile.account.discounted = discounted
    profile.account.contacts = list(contacts)
    return profile


def coupon(days_ago, face, *told, play="comeback"):
    at = AT - round(days_ago * DAY_MS)
    heard = sum(TOLD[status] for status in told)
    return Contact(at, "email", play, face=face, heard=heard, delivered_at=at if "delivered" in told else 0)


def episode(step):
    return Episode(AT, "silence", "silence", 2, 0, (), None, None, "treated", AT, step=step)


def given_to(profile, *, step=1, rung=LAST, at=AT, play=PACK):
    return subsidy.incentive(profile, episode(step), play, rung, BOOK, at)


# -- dependence --------------------------------------------------------------------------------------------------------


def test_who_buys_by_coupon_alone_is_a_bargain_hunter_and_it_is_said_why():
    depends = subsidy.dependence(user(9, 8), BOOK)
    assert depends.hunter
    assert depends.reason == "8 of 9 orders with a discount, score 0.77: bargain hunter, above 0.6"


def test_who_seldom_uses_a_coupon_is_none():
    assert not subsidy.dependence(user(9, 2), BOOK).hunter


def test_of_two_orders_nothing_can_be_told():
    depends = subsidy.dependence(user(2, 2), BOOK)
    assert not depends.hunter
    assert "fewer than 3 orders" in depends.reason


@given(orders=st.integers(0, 500), discounted=st.integers(0, 500))
def test_the_score_is_a_share_that_rises_with_coupons(orders, discounted):
    score = subsidy.dependence(user(orders, discounted), BOOK).score
    assert 0 < score < 1
    assert score <= subsidy.dependence(user(orders, discounted + 1), BOOK).score


# -- when --------------------------------------------------------------------------------------------------------------


def test_the_last_rung_holds_the_smallest_coupon():
    assert given_to(user()) == (0, "the smallest")


def test_never_with_the_first_touch_even_where_there_is_one_rung():
    alone = PACK.model_copy(update={"rungs": ["email"]})
    assert given_to(user(), step=0, rung=0, play=alone) == (None, "never with the first touch")


def test_never_before_the_last_rung():
    assert given_to(user(), rung=0) == (None, "only with the last rung")


def test_a_play_without_an_incentive_gives_none():
    assert given_to(user(), play=PACK.model_copy(update={"incentive": None})) == (None, "the play has none")


def test_a_bargain_hunter_gets_none_and_the_reason_is_told():
    place, why = given_to(user(9, 9))
    assert place is None
    assert "bargain hunter" in why


@pytest.mark.parametrize("play", ["comeback", "another"])
def test_none_within_the_cool_down_whichever_play_gave_the_last_one(play):
    assert given_to(user(10, 0, coupon(90, 1, "delivered", play=play)))[0] is not None
    assert given_to(user(10, 0, coupon(89.999, 1, "delivered", play=play))) == (None, "had one within 90 days")


def test_a_touch_without_a_coupon_starts_no_cool_down():
    assert given_to(user(10, 0, coupon(1, 0, "delivered")))[0] == 0


# -- how large ---------------------------------------------------------------------------------------------------------


def test_the_next_larger_only_where_the_smaller_one_arrived_and_was_not_redeemed():
    assert given_to(user(10, 0, coupon(100, 1, "delivered"))) == (1, "the smaller one was not redeemed")


def test_what_was_enough_stays_enough():
    assert given_to(user(10, 0, coupon(200, 1, "delivered"), coupon(100, 2, "delivered", "converted"))) == (
        1,
        "was enough before",
    )


def test_what_did_not_arrive_proves_nothing():
    assert given_to(user(10, 0, coupon(100, 1, "bounced"))) == (0, "did not arrive before")


def test_there_is_none_larger_than_the_largest():
    assert given_to(user(10, 0, coupon(100, 3, "delivered")))[0] == 2


def test_a_playbook_with_fewer_face_values_than_were_given():
    fewer = PACK.model_copy(update={"incentive": PACK.incentive.model_copy(update={"face_values": [5]})})
    assert given_to(user(10, 0, coupon(100, 3, "delivered")), play=fewer)[0] == 0


MOMENTS = st.tuples(
    st.integers(0, 120), st.integers(0, 2), st.integers(0, 1), st.sampled_from(["arrives", "is redeemed", "is lost"])
)


@given(moments=st.lists(MOMENTS, max_size=30), orders=st.integers(0, 12), discounted=st.integers(0, 12))
def test_over_any_history_of_touches(moments, orders, discounted):
    """No coupon is first, before the last rung, a hunter's, within a cool-down, or larger without a smaller in vain."""
    profile, at = user(orders, discounted), AT
    hunter = subsidy.dependence(profile, BOOK).hunter
    in_vain: set[int] = set()
    last = None
    for days, step, rung, outcome in moments:
        at += days * DAY_MS
        place, why = given_to(profile, step=step, rung=rung, at=at)
        assert why
        if place is None:
            continue
        assert step > 0
        assert rung == LAST
        assert not hunter
        assert last is None or at - last >= 90 * DAY_MS
        assert place == 0 or place - 1 in in_vain
        told = {"arrives": ["delivered"], "is redeemed": ["delivered", "converted"], "is lost": ["failed"]}[outcome]
        heard = sum(TOLD[status] for status in told)
        delivered_at = at if "delivered" in told else 0
        contact = Contact(at, "email", PACK.name, step, rung, face=place + 1, heard=heard, delivered_at=delivered_at)
        profile.account.contacts.append(contact)
        last = at
        if outcome == "arrives":
            in_vain.add(place)


# -- how many ----------------------------------------------------------------------------------------------------------


def test_one_in_five_commands_may_hold_an_incentive():
    assert not subsidy.share_allows({WEEK: (3, 0)}, WEEK, BOOK)
    assert subsidy.share_allows({WEEK: (4, 0)}, WEEK, BOOK)
    assert not subsidy.share_allows({WEEK: (4, 1)}, WEEK, BOOK)


def test_four_weeks_count_and_no_earlier_one():
    assert subsidy.share_allows({WEEK - 3: (9, 1)}, WEEK, BOOK)
    assert not subsidy.share_allows({WEEK - 4: (100, 0)}, WEEK, BOOK)


@given(
    sends=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=200), share=st.sampled_from([0, 0.2, 0.29, 1])
)
def test_no_incentive_is_sent_that_takes_the_share_above_its_bound(sends, share):
    book, week, sums, log = playbook(subsidy={"share_max": share}), WEEK, {}, []
    for weeks, wanted in sends:
        week += weeks
        incentive = wanted and subsidy.share_allows(sums, week, book)
        sums = subsidy.after_sending(sums, week, incentive=incentive)
        log.append((week, incentive))
        lately = [given for at, given in log if at > week - 4]
        assert subsidy.share_of(sums, week) == (len(lately), sum(lately))
        if incentive:
            assert sum(lately) <= share * len(lately) + 1e-9
    assert len(sums) <= 8


def test_the_alarm_sounds_where_the_share_climbs_towards_its_bound():
    calm, before = {WEEK: (100, 5)}, {WEEK - 4: (100, 12), WEEK: (100, 12)}
    climbing = {WEEK - 4: (100, 5), WEEK: (100, 12)}
    assert not subsidy.climbs(calm, WEEK, BOOK)
    assert not subsidy.climbs(before, WEEK, BOOK)
    assert subsidy.climbs(climbing, WEEK, BOOK)
