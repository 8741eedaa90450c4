"""What a touch costs in full, and the ledger of it; the calculator and its page."""

import pytest
from customers import make_shop, ms, playbook
from hypothesis import given
from hypothesis import strategies as st

from worker.recall.days import DAY_MS
from worker.recall.policy.costs import KINDS, Cost, booked, cost
from worker.recall.profile import Contact, Profile
from worker.recall.shop import InForce
from worker.stream.processor import NEVER

AT = ms("2025-03-01T12:00")
PACK = {
    "name": "comeback",
    "opening": ["silence"],
    "kind": "comeback",
    "template": "comeback",
    "rungs": ["in_app", "email", "sms"],
}


def book(*, form=None, faces=(), points=0, redeemed=0.1, currency="EUR", **changes):
    incentive = form and {
        "form": form,
        "face_values": list(faces),
        "points": points,
        "expected_redemption": redeemed,
    }
    costs = {"people": "0.02", "upkeep": "0.01", "fatigue": "0.5", "brand": {"email": "0.005", "sms": "0.03"}}
    sections = {
        "plays": [{**PACK, "incentive": incentive, **changes}],
        "choice": {"priors": {}},
        "costs": costs,
        "channels": {"cost": {"email": "0.001", "sms": "0.05"}},
    }
    return InForce.of(playbook(**sections), make_shop(currency=currency))


def user(*touched_days_ago, orders=4, spent=20_000):
    profile = Profile(key=b"user-1", due=NEVER, silence_due=NEVER, other_due=NEVER, orders=orders)
    profile.account.spent = spent
    profile.account.contacts = [Contact(AT - round(days * DAY_MS), "email") for days in touched_days_ago]
    return profile


def price(book, channel, face=None, profile=None, shadow_price=0.0):
    return cost(book.playbook.plays[0], channel, face, profile or user(), book, shadow_price, AT)


def test_a_message_costs_its_contact_and_what_no_invoice_shows():
    assert price(book(), "sms") == Cost(contact=50_000, incentive=0, opportunity=0, hidden=60_000)
    assert price(book(), "in_app") == Cost(contact=0, incentive=0, opportunity=0, hidden=30_000)


def test_a_coupon_costs_its_face_value_times_the_share_that_is_redeemed():
    paid = price(book(form="amount", faces=["20", "30"]), "sms", 0)
    assert (paid.contact, paid.incentive, paid.direct) == (50_000, 2_000_000, 2_050_000)
    assert price(book(form="amount", faces=["20", "30"]), "sms", 1).incentive == 3_000_000


def test_a_percentage_is_of_the_users_mean_order():
    assert price(book(form="percent", faces=["20"]), "sms", 0, user(orders=4, spent=20_000)).incentive == 1_000_000
    yen = book(form="percent", faces=["20"], currency="JPY")
    assert price(yen, "sms", 0, user(orders=4, spent=20_000)).incentive == 100_000_000


def test_points_cost_what_they_are_worth_beside_a_coupon_too():
    assert price(book(form="points", faces=["500"]), "sms", 0).incentive == 500_000
    assert price(book(form="amount", faces=["20"], points=100), "sms", 0).incentive == 2_100_000


def test_a_play_may_have_costs_of_its_own():
    own = book(cost={"contact": "0.4", "hidden": "0.2"})
    assert price(own, "sms") == Cost(contact=400_000, incentive=0, opportunity=0, hidden=200_000)


def test_the_shadow_price_makes_money_cost_more_than_it_is():
    paid = price(book(form="amount", faces=["20"]), "sms", 0, shadow_price=0.4)
    assert paid.opportunity == round(0.4 * 2_050_000)
    assert paid.total == paid.direct + paid.opportunity + paid.hidden


def test_each_touch_of_the_last_30_days_makes_the_next_one_cost_more():
    fresh, tired = price(book(), "sms"), price(book(), "sms", profile=user(1, 29.999, 30, 45))
    assert tired.hidden - fresh.hidden == 2 * 500_000


def test_the_ledger_takes_what_a_touch_costs_to_the_micro():
    spent = Cost(1_000, 2_000_000, 800_400, 8_000)
    taken = {count.name: count.n for count in booked("comeback", spent)}
    assert taken == {f"ledger.{kind}.comeback": getattr(spent, kind) for kind in KINDS}
    assert sum(taken.values()) == spent.total


@given(
    face=st.decimals("0.01", "9999", places=2),
    redeemed=st.floats(0.001, 1),
    shadow_price=st.floats(0, 5),
    touched=st.lists(st.floats(0, 60), max_size=10),
)
def test_no_kind_of_cost_is_ever_negative_and_fatigue_never_falls(face, redeemed, shadow_price, touched):
    of = book(form="amount", faces=[str(face)], redeemed=redeemed)
    paid, again = (
        price(of, "sms", 0, user(*touched), shadow_price),
        price(of, "sms", 0, user(*touched, 0), shadow_price),
    )
    assert all(amount >= 0 for amount in paid)
    assert again.hidden > paid.hidden
    assert paid.incentive == pytest.approx(float(face) * redeemed * 1e6, abs=1)
