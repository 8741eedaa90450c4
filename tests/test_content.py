"""What each kind of play has to say to a user, and when it has nothing to say."""

import orjson
import pytest
from customers import later, make_shop, ms, playbook
from hypothesis import given
from hypothesis import strategies as st

from worker.recall import rfm
from worker.recall.playbook.model import Kind, Play
from worker.recall.policy.catalog import Catalog, Change
from worker.recall.policy.content import NAMES_MAX, POINTS_EXPIRE_DAYS, RECENT_DAYS, say
from worker.recall.profile import Episode, Profile
from worker.recall.shop import InForce
from worker.recall.tiers import Tier
from worker.stream.processor import NEVER

SHOP = make_shop()
BOOK = InForce.of(
    playbook(rfm={"r_days": [21, 45, 90, 180], "f_orders": [1, 2, 4, 8], "m": [50, 150, 500, 1500]}), SHOP
)
NOW = ms("2025-06-02T12:00")
STEPS = [{"channel": "session", "template": "a"}, {"channel": "check_in", "count": 3, "template": "b"}]


def play(kind, **fields):
    told = {"name": "p", "opening": ["silence"], "kind": kind, "template": "t", "rungs": ["email"]}
    return Play.model_validate({**told, **({"steps": STEPS} if kind == "habit" else {}), **fields})


def user(*, orders=5, spent=300, last_order="2025-05-01", tier=Tier.POTENTIAL, **fields):
    """Return a user with orders of the last year, who did nothing since the last one."""
    profile = Profile(key=b"user-1", due=NEVER, silence_due=NEVER, other_due=NEVER)
    profile.orders, profile.last_order_at, profile.active_at = orders, ms(last_order), ms(last_order)
    profile.standing.tier = tier
    profile.account.first_order_at = ms("2024-11-20") if orders else 0
    week = SHOP.days.week(SHOP.days.of(ms(last_order)))
    rfm.add(profile.account.weeks, week, orders=orders, revenue=spent * 100)
    for name, value in fields.items():
        setattr(profile.taste if hasattr(profile.taste, name) else profile.account, name, value)
    return profile


def episode(**fields):
    return Episode(NOW, "silence", "silence", Tier.HIGH, Tier.SILENT, (), None, None, "treated", NOW, **fields)


def catalog(*changes):
    catalog = Catalog()
    for product, date, fields in changes:
        catalog.put(Change(product, ms(date), **fields))
    return catalog


def said(kind, profile, products=None, at=NOW, **fields):
    asked = episode(task=fields.pop("task", 0))
    return say(play(kind, **fields), profile, asked, products or Catalog(), SHOP, at, BOOK)


@pytest.mark.parametrize("kind", ["memory", "care", "vip"])
def test_memories_and_letters_tell_of_favourites_and_since_when(kind):
    items, categories = [("tea", 4), ("jam", 3), ("mug", 2), ("pot", 1)], [("drinks", 6)]
    assert said(kind, user(items=items, categories=categories)) == {
        "favourite_products": ["tea", "jam", "mug"],
        "favourite_categories": ["drinks"],
        "customer_since": "2024-11-20",
        "orders": 5,
        "days_since_last_order": 32,
    }


def test_a_memory_without_any_products_is_still_one():
    assert said("memory", user())["favourite_products"] == []
    assert said("memory", user(orders=0))["customer_since"] is None


def test_points_that_expire_soon_are_told_with_their_day():
    assert said("points_expiry", user(points=120, points_expire_at=ms("2025-06-10T08:00"))) == {
        "points": 120,
        "expire_on": "2025-06-10",
        "days_left": 8,
    }


@pytest.mark.parametrize(
    ("points", "expire_at", "why"),
    [
        (-1, 0, "no points are known of"),
        (0, later(NOW, days=1), "no points are known of"),
        (10, 0, "no points expire within 30 days"),
        (10, NOW, "no points expire within 30 days"),
        (10, later(NOW, days=POINTS_EXPIRE_DAYS) + 1, "no points expire within 30 days"),
    ],
)
def test_of_points_that_are_not_there_or_do_not_expire_soon_nothing_is_said(points, expire_at, why):
    assert said("points_expiry", user(points=points, points_expire_at=expire_at)) == why


def test_a_usual_product_that_is_back_in_stock_or_has_arrived_is_told():
    products = catalog(
        ("tea", "2025-05-01", {"stock": 0, "price_minor": 450}),
        ("tea", "2025-05-30", {"stock": 12}),
        ("jam", "2025-05-28", {"arrived_at": ms("2025-05-28")}),
    )
    assert said("usual_item", user(items=[("jam", 5), ("tea", 4)]), products) == {
        "products": [
            {"product": "jam", "price": None, "here_since": "2025-05-28"},
            {"product": "tea", "price": {"amount": "4.50", "currency": "EUR"}, "here_since": "2025-05-30"},
        ]
    }


NOT_COME = "none of the user's usual products has come in lately"


CAME = [("tea", "2025-05-28", {"arrived_at": ms("2025-05-28")})]
SOLD_OUT_AGAIN = [("tea", date, {"stock": n}) for date, n in (("2025-05-20", 0), ("2025-05-30", 3), (NOW, 0))]


@pytest.mark.parametrize(
    ("changes", "profile"),
    [
        pytest.param([], {}, id="the catalogue does not know it"),
        pytest.param([("tea", "2025-01-01", {"stock": 5})], {}, id="it was there all along"),
        pytest.param([("tea", "2025-05-30", {"price_minor": 100})], {}, id="its arrival is not told"),
        pytest.param(SOLD_OUT_AGAIN, {}, id="it is out again"),
        pytest.param([("tea", "2025-05-30", {"arrived_at": NOW + 1})], {}, id="it has yet to arrive"),
        pytest.param([("tea", 0, {"arrived_at": later(NOW, days=-RECENT_DAYS)})], {}, id="it came long ago"),
        pytest.param(CAME, {"last_order": "2025-05-29"}, id="he has ordered since"),
        pytest.param(CAME, {"items": [("tea", 1)]}, id="he bought it once"),
    ],
)
def test_of_a_usual_product_nothing_is_claimed_where(changes, profile):
    told = said("usual_item", user(**{"items": [("tea", 4)], **profile}), catalog(*changes))
    assert told == "none of the user's usual products has come in lately"


def test_new_arrivals_are_those_of_the_users_categories_since_he_was_there():
    products = catalog(
        ("old", "2025-04-01", {"category": "drinks", "arrived_at": ms("2025-04-01")}),
        ("cup", "2025-05-10", {"category": "home", "arrived_at": ms("2025-05-10"), "price_minor": 900}),
        ("chai", "2025-05-20", {"category": "drinks", "arrived_at": ms("2025-05-20")}),
        ("toy", "2025-05-25", {"category": "toys", "arrived_at": ms("2025-05-25")}),
    )
    assert said("new_arrivals", user(categories=[("home", 3), ("drinks", 2)]), products) == {
        "products": [
            {"product": "chai", "price": None, "category": "drinks"},
            {"product": "cup", "price": {"amount": "9.00", "currency": "EUR"}, "category": "home"},
        ]
    }
    assert said("new_arrivals", user(), products) == "no category of the user's is known"
    nothing = "nothing has arrived in the user's categories since the last activity"
    assert said("new_arrivals", user(categories=[("garden", 3)]), products) == nothing


def test_for_one_who_was_only_just_here_the_last_two_weeks_are_new():
    products = catalog(("chai", "2025-05-20", {"category": "drinks", "arrived_at": ms("2025-05-20")}))
    here = user(categories=[("drinks", 2)])
    here.active_at = NOW
    assert said("new_arrivals", here, products)["products"][0]["product"] == "chai"


def test_a_comeback_tells_of_saved_products_that_became_cheaper_the_deepest_fall_first():
    products = catalog(
        ("pot", "2025-01-01", {"price_minor": 2000}),
        ("pot", "2025-05-20", {"price_minor": 1500}),
        ("mug", "2025-05-20", {"price_minor": 400}),
        ("cup", "2025-05-20", {"price_minor": 900}),
        ("tin", "2025-05-20", {"price_minor": 100, "stock": 0}),
        ("jar", "2025-05-20", {"price_minor": 1}),
    )
    wishes = [("pot", 2000), ("mug", 1000), ("cup", 900), ("tin", 1000), ("jar", -1), ("gone", 500)]
    assert said("comeback", user(wishes=wishes), products) == {
        "products": [
            {
                "product": "mug",
                "price_when_saved": {"amount": "10.00", "currency": "EUR"},
                "price": {"amount": "4.00", "currency": "EUR"},
            },
            {
                "product": "pot",
                "price_when_saved": {"amount": "20.00", "currency": "EUR"},
                "price": {"amount": "15.00", "currency": "EUR"},
            },
        ]
    }
    assert said("comeback", user(wishes=wishes), products, at=ms("2025-05-01")) == (
        "no product on the wish-list has become cheaper"
    )


def test_a_habit_task_tells_its_step_and_what_is_done():
    assert said("habit", user()) == {"step": 1, "steps": 2, "activity": "session", "times": 1, "done": []}
    assert said("habit", user(), task=1) == {
        "step": 2,
        "steps": 2,
        "activity": "check_in",
        "times": 3,
        "done": ["session"],
    }
    assert said("habit", user(), task=2) == "every step of the task is done"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # high asks for a 4 of each: 5 orders and more than 500
        ({"orders": 4, "spent": 430}, ("high", 1, "70.01")),
        ({"orders": 2, "spent": 600}, ("high", 3, "0.00")),
        ({"orders": 6, "spent": 600}, ("high", 1, "0.00")),  # only the last order lies too long ago
        ({"orders": 2, "spent": 40, "tier": Tier.MARGINAL}, ("potential", 1, "10.01")),
    ],
)
def test_an_incentive_task_tells_what_is_missing_to_the_next_tier(fields, expected):
    task = said("incentive_task", user(last_order="2025-04-10", **fields))
    assert (task["next_tier"], task["orders_missing"], task["spend_missing"]["amount"]) == expected
    scores = BOOK.cuts.score(rfm.Rfm(0, fields["orders"] + task["orders_missing"], 10_000_000))
    assert scores.f >= next(rule.least.f for rule in BOOK.rules.table if rule.tier.label == expected[0])


def test_what_is_missing_is_just_enough():
    short = user(orders=4, spent=430)
    task = said("incentive_task", short)
    values = rfm.Rfm(0, 4 + task["orders_missing"], 43_000 + round(float(task["spend_missing"]["amount"]) * 100))
    assert BOOK.rules.tier(BOOK.cuts.score(values)) is Tier.HIGH
    assert BOOK.rules.tier(BOOK.cuts.score(values._replace(m=values.m - 1))) is not Tier.HIGH
    assert BOOK.rules.tier(BOOK.cuts.score(values._replace(f=values.f - 1))) is not Tier.HIGH


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tier": Tier.HIGH}, "no tier is next to high"),
        ({"tier": Tier.SILENT}, "no tier is next to silent"),
        ({"tier": Tier.NEW, "orders": 1}, "no tier is next to new"),
        ({"orders": 9, "spent": 900, "last_order": "2025-05-30"}, "nothing is missing to the tier high"),
    ],
)
def test_where_no_tier_is_next_there_is_no_task(fields, why):
    assert said("incentive_task", user(**fields)) == why


NAMES = st.sampled_from(["tea", "jam", "mug", "茶壶", "a" * 64])
FAVOURITES = st.lists(st.tuples(NAMES, st.integers(1, 9)), max_size=8, unique_by=lambda item: item[0])
CHANGES = st.lists(
    st.tuples(
        NAMES,
        st.integers(NOW - 40 * 86_400_000, NOW + 86_400_000),
        st.fixed_dictionaries(
            {},
            optional={
                "price_minor": st.integers(0, 5000),
                "category": NAMES,
                "stock": st.integers(0, 2),
                "arrived_at": st.integers(NOW - 40 * 86_400_000, NOW + 86_400_000),
            },
        ),
    ),
    max_size=12,
)


@given(
    st.sampled_from(Kind.__args__),
    FAVOURITES,
    FAVOURITES,
    st.lists(st.tuples(NAMES, st.integers(-1, 5000)), max_size=16, unique_by=lambda wish: wish[0]),
    CHANGES,
    st.integers(-1, 100),
    st.integers(0, NOW + 10**10),
    st.sampled_from(Tier),
    st.integers(0, 12),
)
def test_whatever_is_said_is_small_and_json_and_names_nobody(
    kind, items, categories, wishes, changes, points, expire_at, tier, orders
):
    profile = user(
        orders=orders,
        tier=tier,
        items=items,
        categories=categories,
        wishes=wishes,
        points=points,
        points_expire_at=expire_at,
    )
    told = said(kind, profile, catalog(*changes))
    if isinstance(told, str):
        assert told
        return
    text = orjson.dumps(told)
    assert b"user-1" not in text
    assert len(text) < 1500
    assert all(len(value) <= NAMES_MAX for value in told.values() if isinstance(value, list))
    assert told == said(kind, profile, catalog(*changes)), "the same again"
