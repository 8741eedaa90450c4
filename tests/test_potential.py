"""What a silent user could be worth: from the time before the silence, frozen with it, and said in words."""

import pytest
from customers import SmallShop, later, make_shop, ms, playbook, scorer
from hypothesis import given
from hypothesis import strategies as st

from worker.recall.days import DAY_MS, HOUR_MS
from worker.recall.lifetime.history import rhythms
from worker.recall.policy.catalog import Catalog, Change
from worker.recall.policy.potential import judge
from worker.recall.shop import InForce

FIRST = "2024-01-08T10"
RULES = {
    "order_value": ["40", "80"],
    "orders_a_year": [2.0, 6.0],
    "high_value_margin": 0.45,
    "high_value_share": [0.2, 0.5],
    "high": 1.5,
    "middle": 0.75,
    "doubtful_below": 0.3,
    "gone_below": 0.1,
}
SILENCE_DAYS = 60


def a_shop(*, models=None, **settings):
    """Return a shop with a model in force from the first day on, where one is given."""
    shop = SmallShop(playbook(potential=RULES), models=models, **settings)
    if models:
        shop.steers("adopt_snapshot", effective_at="2024-01-01", horizon_days=30, version=7)
    return shop


def in_force():
    return InForce.of(playbook(potential=RULES), make_shop())


def catalog(**margins):
    """Return a catalogue with a product of each category, of which a margin is known from 2024 on."""
    known = Catalog()
    for category, margin in margins.items():
        change = Change(
            f"{category}-1", ms("2024-01-01"), price_minor=1000, category=category, margin_minor=round(1000 * margin)
        )
        known.put(change)
    return known


def buys(shop, user, every_days, times, revenue, first=FIRST):
    """Let a user order shoes at a steady pace; return the time of the last order."""
    for n in range(times):
        shop.orders(user, later(first, days=every_days * n), f"{user} {first} {n}", revenue, products=["p1"])
    return later(first, days=every_days * (times - 1))


def falls_silent(shop, last):
    """Let the time pass until the silence is noticed."""
    shop.tick(later(last, days=SILENCE_DAYS, hours=1) + 1)


def potential(shop, user="bob"):
    return shop.row(user).account.potential


@pytest.mark.parametrize(
    ("every_days", "times", "revenue", "reason"),
    [
        (50, 8, 84, "order value 84.00 (high), 7.3 orders a year (high)"),
        (50, 8, 50, "order value 50.00 (middle), 7.3 orders a year (high)"),
        (50, 8, 20, "order value 20.00 (low), 7.3 orders a year (high)"),
        (40, 2, 84, "order value 84.00 (high), 2.0 orders a year (middle)"),
        (1, 1, 84, "order value 84.00 (high), one order (low)"),
    ],
)
def test_value_and_frequency_of_orders_are_told_and_judged(every_days, times, revenue, reason):
    shop = a_shop()
    falls_silent(shop, buys(shop, "bob", every_days, times, revenue))
    assert potential(shop).reason.startswith(reason)


@pytest.mark.parametrize(
    ("every_days", "times", "revenue", "level"),
    [
        (50, 8, 84, "high"),  # 2 and 2 points
        (50, 8, 50, "high"),  # 1 and 2
        (50, 8, 20, "middle"),  # 0 and 2
        (40, 2, 50, "middle"),  # 1 and 1
        (40, 2, 20, "low"),  # 0 and 1
        (300, 2, 50, "low"),  # 1 and 0
        (1, 1, 84, "middle"),  # 2 and 0: one order is no frequency
        (1, 1, 50, "low"),
    ],
)
def test_the_mean_of_the_points_decides(every_days, times, revenue, level):
    shop = a_shop()
    falls_silent(shop, buys(shop, "bob", every_days, times, revenue))
    assert potential(shop).level == level
    assert potential(shop).reason.endswith(f"margins of his categories not known, alive not known -> {level}")


def test_a_refund_makes_the_orders_worth_less():
    shop = a_shop()
    last = buys(shop, "bob", 50, 8, 84)
    for n in range(8):
        shop.refunds("bob", last + n, f"bob {FIRST} {n}", 60)
    falls_silent(shop, last + 7)
    assert potential(shop).reason.startswith("order value 24.00 (low)")


def test_categories_of_high_value_count_where_the_catalogue_knows_them():
    shop = a_shop()
    buys(shop, "bob", 50, 3, 50)
    profile = shop.row("bob")
    profile.taste.categories = [("shoes", 3), ("watches", 2), ("toys", 5)]
    at = ms("2024-07-01")

    def told(known):
        return judge(profile, in_force(), known, None, at, shop.days).reason.split(", ")[2]

    assert told(catalog()) == "margins of his categories not known"
    assert told(catalog(shoes=0.3)) == "0% of categories of high value (low)"
    assert told(catalog(shoes=0.3, watches=0.5)) == "40% of categories of high value (middle)"
    assert told(catalog(shoes=0.45, watches=0.5)) == "100% of categories of high value (high)"
    assert told(catalog(shoes=0.3, watches=0.5, toys=0.1)) == "20% of categories of high value (middle)"


@pytest.mark.parametrize(
    ("every_days", "told", "level"),
    [(3, "probably gone for good", "low"), (8, "doubtful, a level lower", "middle"), (30, "", "high")],
)
def test_the_probability_to_have_left_for_good_lowers_what_he_was_worth(every_days, told, level):
    """The more often somebody came, the more his absence says."""
    shop = a_shop(models={(30, 7): scorer()})
    last = buys(shop, "bob", every_days, 10, 200)
    falls_silent(shop, last)
    began = shop.days.of(later(last, days=SILENCE_DAYS))
    alive = scorer().lifetime.purchases.alive(rhythms(shop.row("bob"), began, shop.days).orders)
    assert {"probably gone for good": alive < 0.1, "": alive >= 0.3}.get(told, 0.1 <= alive < 0.3)
    assert potential(shop).level == level
    told = f": {told}" if told else ""
    assert potential(shop).reason.endswith(f"of his categories not known, alive {alive:.2f} by orders{told} -> {level}")


def test_who_looked_around_daily_is_not_gone_for_good_because_he_stopped():
    """By all that he did he would be, and so would everybody who is silent."""
    shop = a_shop(models={(30, 7): scorer()})
    last = buys(shop, "bob", 30, 8, 84)
    shop.lives_on("bob", last + 1, later(last, days=30), every_days=1)
    last = later(last, days=29) + 1
    falls_silent(shop, last)
    known = rhythms(shop.row("bob"), shop.days.of(later(last, days=SILENCE_DAYS)), shop.days)
    assert scorer().lifetime.alive(known.active) < 0.1
    assert potential(shop).level == "high"


def test_who_may_not_be_profiled_is_not_judged():
    shop = a_shop(models={(30, 7): scorer()})
    last = buys(shop, "bob", 60, 6, 84)
    shop.says("bob", last + 1, opt_out_profiling=True)
    falls_silent(shop, last)
    assert shop.tier("bob") == "silent"
    assert potential(shop) is None


# -- frozen ------------------------------------------------------------------------------------------------------------


def test_there_is_none_before_the_silence_and_it_is_there_when_the_silence_is_noticed():
    shop = a_shop()
    last = buys(shop, "bob", 50, 8, 84)
    shop.tick(later(last, days=SILENCE_DAYS, hours=1) - 1)
    assert potential(shop) is None
    falls_silent(shop, last)
    assert potential(shop).at == later(last, days=SILENCE_DAYS), "when the silence began"
    assert shop.row("bob").episode.potential == potential(shop).level


def test_nothing_that_is_told_of_late_changes_it():
    shop = a_shop()
    last = buys(shop, "bob", 50, 8, 84)
    falls_silent(shop, last)
    judged = potential(shop)
    shop.views("bob", later(last, days=3))  # later than the lateness: left out
    shop.orders("bob", later(last, days=-1), "late", 2000)
    shop.refunds("bob", later(last, days=-1), "late", 1000)
    shop.tick(later(last, days=120))
    assert shop.tier("bob") == "silent"
    assert potential(shop) == judged


def test_it_goes_when_the_user_comes_back_and_the_next_silence_judges_anew():
    shop = a_shop()
    last = buys(shop, "bob", 50, 8, 84)
    falls_silent(shop, last)
    back = later(last, days=70)
    shop.views("bob", back)
    assert potential(shop) is None
    for n in range(9):
        shop.orders("bob", back + n + 1, f"cheap {n}", 1)
    falls_silent(shop, back + 9)
    assert potential(shop).at == back + 9 + SILENCE_DAYS * DAY_MS
    assert potential(shop).reason.startswith("order value 40.06 (middle)")


def test_a_click_that_prevents_the_silence_after_all_takes_it_away():
    shop = a_shop()
    last = buys(shop, "bob", 50, 8, 84)
    falls_silent(shop, last)
    shop.views("bob", later(last, days=SILENCE_DAYS) - 1)
    assert shop.tier("bob") != "silent"
    assert potential(shop) is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["click", "order", "refund", "tick"]), st.integers(0, 59), st.integers(1, 500)),
        max_size=12,
    )
)
def test_while_the_silence_goes_on_the_potential_stays_as_it_was_judged(happenings):
    """Only what lies before the silence is told here, each time later than the lateness: no return from it."""
    shop = a_shop()
    last = buys(shop, "bob", 50, 4, 84)
    falls_silent(shop, last)
    shop.tick(later(last, days=SILENCE_DAYS + 2))
    judged = potential(shop)
    for n, (what, day, amount) in enumerate(happenings):
        at = later(last, days=-day)
        match what:
            case "click":
                shop.views("bob", at)
            case "order":
                shop.orders("bob", at, f"late {n}", amount)
            case "refund":
                shop.refunds("bob", at, f"bob {FIRST} 0", amount)
            case _:
                shop.tick(shop.clock + day * HOUR_MS)
        assert shop.tier("bob") == "silent"
        assert potential(shop) == judged


@given(
    value=st.integers(1, 200),
    orders=st.integers(1, 12),
    margin=st.one_of(st.none(), st.floats(0.05, 0.9)),
)
def test_more_value_never_means_less_potential(value, orders, margin):
    """A higher order value, with all else the same, never lowers the level, and the reason ends with it."""
    order = ["low", "middle", "high"]
    levels = []
    for revenue in (value, value + 50):
        shop = a_shop()
        buys(shop, "bob", 5, orders, revenue)
        known = catalog() if margin is None else catalog(shoes=margin)
        judged = judge(shop.row("bob"), in_force(), known, None, shop.clock, shop.days)
        assert judged.reason.endswith(f"-> {judged.level}")
        levels.append(order.index(judged.level))
    assert levels[0] <= levels[1]
