"""What commands and changes of tier say a user will bring."""

import pytest
from customers import SmallShop, make_shop, ms, playbook, read_back

from worker.recall import commands
from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.history import History
from worker.recall.lifetime.spend import GammaGamma
from worker.recall.lifetime.worth import Lifetime, worth
from worker.recall.playbook import PlaybookError
from worker.recall.tiers import Tier, Transition

LIFETIME = Lifetime(BgNbd(0.8, 40.0, 0.9, 3.0), BgNbd(0.5, 2.0, 0.4, 9.0), GammaGamma(6.0, 4.0, 15_000.0), 20_000, 2000)


def told(shop, row, date, lifetime=LIFETIME, margin_rate=0.35):
    """Return what a change of tier at a date tells, checked against the contract."""
    change = Transition(ms(date), Tier.NEW, Tier.MARGINAL, "order", (), None, None)
    return read_back(commands.tier_change(row, change, shop=shop, lifetime=lifetime, margin_rate=margin_rate)).value


@pytest.fixture
def shop():
    shop = SmallShop()
    shop.orders("u", "2025-03-01T10:00", "o1", 100)
    shop.orders("u", "2025-03-11T10:00", "o2", 200)
    shop.orders("u", "2025-03-21T10:00", "o3", 120)
    shop.refunds("u", "2025-03-21T12:00", "o3", 60)
    return shop


def test_ltv_is_the_margin_expected_of_orders_and_net_revenue_so_far_the_day_included(shop):
    value = told(shop.shop, shop.row("u"), "2025-03-21T12:00")
    known = History(2, 20, 21)
    quarter, year = (worth(LIFETIME, known, 3, 12_000.0, 0.35, days) for days in (90, 365))
    assert value["ltv"] == {
        "margin_90d": f"{round(quarter.margin) / 100:.2f}",
        "error_90d": f"{round(quarter.error) / 100:.2f}",
        "margin_365d": f"{round(year.margin) / 100:.2f}",
        "error_365d": f"{round(year.error) / 100:.2f}",
    }
    assert value["alive"] == pytest.approx(LIFETIME.alive(known), abs=1e-6)


def test_a_user_who_comes_without_ordering_is_silent_and_not_gone(shop):
    for day in range(22, 31):
        shop.views("u", f"2025-03-{day}")
    then = told(shop.shop, shop.row("u"), "2025-03-31T12:00")
    assert then["alive"] == pytest.approx(LIFETIME.alive(History(11, 29, 31)), abs=1e-6)
    assert then["alive"] > LIFETIME.alive(History(2, 20, 31))


def test_a_user_with_one_order_may_be_gone():
    shop = SmallShop()
    for day in range(1, 9):
        shop.views("v", f"2025-03-0{day}")
    shop.orders("v", "2025-03-09", "o1", 100)
    value = told(shop.shop, shop.row("v"), "2025-06-09T12:00")
    assert value["alive"] < 0.01


def test_ltv_is_in_major_units_of_the_shops_currency(shop):
    yen = make_shop(currency="JPY")
    value = told(yen, shop.row("u"), "2025-03-21T12:00")
    assert value["ltv"]["margin_90d"].isdecimal()


def test_nothing_is_expected_before_the_models_are_fitted(shop):
    value = told(shop.shop, shop.row("u"), "2025-03-21T12:00", lifetime=None)
    assert (value["ltv"], value["alive"]) == (None, None)


def test_nothing_is_expected_of_a_user_whose_only_order_was_cancelled(shop):
    shop.orders("v", "2025-03-22", "o9", 50)
    shop.cancels("v", "2025-03-22T01:00", "o9")
    value = told(shop.shop, shop.row("v"), "2025-03-22T02:00")
    assert (value["ltv"], value["alive"]) == (None, None)


def test_a_user_who_objects_to_profiling_is_not_valued(shop):
    row = shop.row("u")
    row.account.profiling_opted_out = True
    value = told(shop.shop, row, "2025-03-22")
    assert (value["ltv"], value["alive"]) == (None, None)


def test_the_margin_rate_is_the_playbooks_and_a_share():
    assert playbook().value.margin_rate == 0.35
    assert playbook(value={"margin_rate": 0.2}).value.margin_rate == 0.2
    with pytest.raises(PlaybookError, match=r"value.margin_rate = 35: allowed is 1 or less"):
        playbook(value={"margin_rate": 35})


def test_the_margin_rate_changes_the_playbooks_version():
    assert playbook(value={"margin_rate": 0.2}).version != playbook().version


def test_a_command_without_a_model_expects_nothing():
    shop = SmallShop()
    last = shop.buys_weekly("u", "2025-01-06T10:00")
    shop.tick(last + 100 * 86_400_000)
    commands = shop.commands("u")
    assert commands
    assert {(command["value"]["ltv"], command["value"]["alive"]) for command in commands} == {(None, None)}
