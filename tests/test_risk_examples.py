"""What the rows give to learn from: who is seen when, what is told of him when it is known, and what was said then."""

from itertools import pairwise

import pytest
from customers import Backlog, SmallShop, later, make_shop, ms, playbook, scorer, snapshot

from worker.recall.days import DAY_MS
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.profile import ORDERS_KEPT
from worker.recall.risk.features import NAMES
from worker.recall.risk.scorer import Scorer
from worker.recall.step import LAPSED

FIRST = "2025-01-01"
HORIZONS = (30, 60)


def examples(shop, horizon_days=30):
    return [
        value
        for value in shop.of("churn-training")
        if value["kind"] == "example" and value["horizon_days"] == horizon_days
    ]


def summaries(shop):
    return [value for value in shop.of("churn-training") if value["kind"] == "summary"]


def closes_labels(shop):
    """See that every label came on its day: after the day before was closed, and before it was closed itself."""
    open_day = None
    for value in shop.of("churn-training"):
        if value["kind"] == "day_closed":
            assert open_day in {None, value["day"]}
            open_day = str(shop.days.date(shop.days.number(shop.days.date(0).fromisoformat(value["day"])) + 1))
        elif open_day is not None:
            assert value.get("label_day", value.get("t")) == open_day


def adopted(version=7, horizon_days=30, **changes):
    """Return models with one snapshot of a horizon."""
    return {(horizon_days, version): Scorer(snapshot(version, horizon_days=horizon_days, **changes))}


def adopts(shop, at, version=7, horizon_days=30):
    shop.steers("adopt_snapshot", effective_at=at, horizon_days=horizon_days, version=version)


# -- weekly, for every horizon -----------------------------------------------------------------------------------------


def test_an_active_user_gives_an_example_a_week_and_horizon_each_when_its_label_is_due():
    shop = SmallShop(horizons_days=HORIZONS, live_from="2100-01-01")
    shop.orders("bob", FIRST, "o1")
    shop.lives_on("bob", "2025-01-02", "2025-05-01")
    shop.tick("2025-05-01")
    short, long = examples(shop), examples(shop, 60)
    assert len(short) == (ms("2025-05-01") - ms("2025-02-01") - DAY_MS) // (7 * DAY_MS) + 1
    assert [value["t"] for value in long] == [value["t"] for value in short[: len(long)]]
    assert 0 < len(long) == len(short) - 4
    assert [value["features"] for value in long] == [value["features"] for value in short[: len(long)]]
    assert {value["y"] for value in (*short, *long)} == {1}
    closes_labels(shop)
    assert shop.attached() == len(shop.row("bob").account.pending[60]), "what was seen waits for the last horizon"


def test_what_was_seen_goes_with_the_last_label():
    shop = SmallShop(horizons_days=HORIZONS)
    shop.orders("bob", FIRST, "o1")
    shop.tick("2025-07-10")  # long after 180 days without a sign of life
    assert shop.attached() == len(shop.row("bob").account.pending[60]) > 0
    shop.tick("2025-09-10")
    assert shop.attached() == 0
    assert shop.row("bob").account.pending == {}
    assert len(examples(shop)) == len(examples(shop, 60)) > 20


def test_a_label_tells_of_each_horizon_whether_an_order_that_stands_came():
    shop = SmallShop(horizons_days=HORIZONS)
    shop.orders("bob", FIRST, "o1")
    shop.orders("bob", "2025-02-20T10:00", "o2")
    shop.orders("bob", "2025-03-25", "o3")
    shop.cancels("bob", "2025-03-26", "o3")
    shop.tick("2025-06-01")
    for horizon_days in HORIZONS:
        for value in examples(shop, horizon_days):
            came = value["t"] <= "2025-02-20" <= str(later_day(shop, value["t"], horizon_days - 1))
            assert value["y"] == (not came), value
    assert {value["y"] for value in examples(shop)} == {0, 1}


def test_a_cancellation_after_the_label_is_due_changes_no_label():
    shop = SmallShop()
    shop.orders("bob", FIRST, "o1")
    shop.orders("bob", "2025-02-20T10:00", "o2")
    shop.tick("2025-04-01")
    told = examples(shop)
    shop.cancels("bob", "2025-04-01", "o2")
    shop.tick("2025-06-01")
    assert {value["y"] for value in told} == {0, 1}
    assert examples(shop)[: len(told)] == told
    assert len({value["id"] for value in examples(shop)}) == len(examples(shop)), "nothing is told again"


def test_a_cancellation_of_an_order_that_is_no_longer_kept_undoes_nothing():
    shop = SmallShop()
    shop.orders("bob", f"{FIRST}T10:00", "o1")
    for n in range(ORDERS_KEPT):
        shop.orders("bob", later("2025-01-20", days=n / 100), f"o{n + 2}")
    before = shop.row("bob").orders, shop.row("bob").account.spent
    shop.cancels("bob", "2025-01-21", "o1")
    assert (shop.row("bob").orders, shop.row("bob").account.spent) == before
    assert shop.counts["unknown order"] == 1
    day = shop.days.of(ms(FIRST))
    assert shop.row("bob").account.has_displaced(day, day + 1)


def later_day(shop, day, days):
    return shop.days.date(shop.days.of(ms(day)) + days)


@pytest.mark.parametrize(("before", "after"), [((30, 60), (30,)), ((30, 60), (60,)), ((30,), (30, 60)), ((60,), (30,))])
def test_a_change_of_the_horizons_leaves_nothing_behind(before, after):
    shop = SmallShop(horizons_days=before)
    shop.orders("bob", FIRST, "o1")
    shop.tick("2025-03-15")
    changed = SmallShop(horizons_days=after, rows=shop.rows)
    changed.told = shop.told
    changed.tick("2025-03-30")
    assert {value["horizon_days"] for value in changed.of("churn-training") if value["kind"] == "example"} <= {*after}
    changed.tick("2025-12-30")
    assert changed.attached() == 0
    assert changed.row("bob").account.pending == {}
    assert {value["horizon_days"] for value in changed.of("churn-training") if value["kind"] == "example"} == {*after}
    assert "example lost" not in changed.counts


def test_of_a_share_of_users_is_learned_and_all_are_scored():
    shop = SmallShop(models={(30, 7): scorer()}, example_share=0.5)
    users = [f"user-{n}" for n in range(40)]
    for user in users:
        shop.orders(user, FIRST, f"{user} 1")
    adopts(shop, "2025-01-02")
    shop.tick("2025-02-25")
    learned = [user for user in users if shop.row(user).account.pending]
    assert 10 < len(learned) < 30
    assert {shop.row(user).account.risk_version for user in users} == {7}
    ids = {value["id"] for value in examples(shop)}
    shop.tick("2025-03-25")
    assert len(ids) < len({value["id"] for value in examples(shop)}) <= 12 * len(learned)


def test_the_weight_is_that_of_the_setting_where_contact_may_have_moved_the_user():
    launch = "2025-03-01"
    shop = SmallShop(playbook(holdout={"share": 0.5}), live_from=launch, censoring_weight=0.25)
    users = [f"user-{n}" for n in range(12)]
    for user in users:
        shop.orders(user, FIRST, f"{user} 1")
    shop.tick("2025-06-01")
    weights = {}
    for value in examples(shop):
        ends = str(later_day(shop, value["t"], 30))
        weights.setdefault((value["holdout"], ends < launch), set()).add(value["weight"])
    assert weights == {(True, True): {1.0}, (True, False): {1.0}, (False, True): {1.0}, (False, False): {0.25}}


# -- what was said then ------------------------------------------------------------------------------------------------


def test_an_example_carries_what_the_snapshots_in_force_at_its_time_said():
    models = adopted() | adopted(3, 60)
    shop = SmallShop(models=models, horizons_days=HORIZONS)
    shop.orders("bob", FIRST, "o1")
    shop.tick("2025-01-20")
    adopts(shop, "2025-01-21")
    adopts(shop, "2025-02-10", 3, 60)
    shop.tick("2025-05-20")
    for horizon_days, version, since in ((30, 7, "2025-01-21"), (60, 3, "2025-02-10")):
        told = examples(shop, horizon_days)
        assert [value["predicted"] is None for value in told] == [value["t"] < since for value in told]
        said = next(value for value in told if value["predicted"])
        seen = [round(1000 * x) for x in said["features"]]
        predictions = models[horizon_days, version].predictions(
            seen, Rhythms(History(**said["history"]), History(**said["active"]))
        )
        assert said["predicted"] == {"version": version, **predictions._asdict()}
    assert shop.row("bob").account.risk_version == 7


def test_the_tier_is_that_of_the_day_that_was_seen():
    shop = SmallShop()
    shop.buys_weekly("ann", FIRST)
    shop.tick("2025-05-20")
    assert shop.tier("ann") == "silent"
    assert {value["tier"] for value in examples(shop)} >= {"high"}
    assert examples(shop)[0]["tier"] == "new"


def test_lead_is_told_once_when_the_horizon_after_the_last_order_has_passed():
    shop = SmallShop(models=adopted(alert_above=0.0))
    adopts(shop, FIRST)
    shop.orders("bob", "2025-01-02", "o1")
    shop.tick("2025-01-20")
    shop.orders("bob", "2025-01-20", "o2")
    shop.tick("2025-05-01")
    told = [(value["t"], value["lead_days"]) for value in examples(shop) if value["lead_days"] is not None]
    first_alert = min(value["t"] for value in examples(shop) if value["t"] > "2025-01-20")
    [(day, lead_days)] = told
    assert day == min(value["t"] for value in examples(shop) if value["t"] > "2025-02-19")
    assert lead_days == (ms("2025-02-19") - ms(first_alert)) // DAY_MS


def test_an_alert_after_the_lapse_is_no_lead():
    """The cancelled order had put the lapse off; without it the first alert came after the lapse."""
    shop = SmallShop(models=adopted(alert_above=0.0))
    adopts(shop, "2025-02-03")
    shop.orders("bob", "2025-01-02", "o1")
    shop.orders("bob", "2025-01-12", "o2")
    shop.cancels("bob", "2025-02-11", "o2")
    shop.tick("2025-05-01")
    assert shop.row("bob").account.alerted_day == LAPSED
    assert {value["lead_days"] for value in examples(shop)} == {None}


def test_lead_is_told_of_the_horizon_that_is_acted_on():
    shop = SmallShop(models=adopted(alert_above=0.0), horizons_days=HORIZONS)
    adopts(shop, FIRST)
    shop.orders("bob", "2025-01-02", "o1")
    shop.tick("2025-05-01")
    assert {value["lead_days"] is None for value in examples(shop)} == {True, False}
    assert {value["lead_days"] for value in examples(shop, 60)} == {None}


def test_without_an_alert_there_is_no_lead():
    shop = SmallShop(models=adopted(alert_above=1.0))
    adopts(shop, FIRST)
    shop.orders("bob", "2025-01-02", "o1")
    shop.tick("2025-05-01")
    assert {value["lead_days"] for value in examples(shop)} == {None}


def test_who_is_held_out_only_later_was_not_held_out():
    """A larger holdout takes users in who might have been touched before."""
    small, large = playbook(), playbook("large", holdout={"share": 0.5})
    shop = SmallShop(small, large, live_from=FIRST)
    users = [f"u{i}" for i in range(8)]
    for user in users:
        shop.orders(user, FIRST, f"o-{user}")
    shop.steers("adopt_playbook", effective_at="2025-01-20", version=large.version)
    shop.tick("2025-04-01")
    assert {value["holdout"] for value in examples(shop) if value["t"] < "2025-01-20"} == {False}
    assert {value["holdout"] for value in examples(shop) if value["t"] > "2025-01-20"} == {True, False}
    assert all(value["weight"] == value["holdout"] for value in examples(shop))


# -- summaries ---------------------------------------------------------------------------------------------------------


def test_every_user_with_orders_is_summed_up_once_in_four_weeks_for_two_years():
    shop = SmallShop()
    shop.orders("bob", FIRST, "o1", 100)
    shop.orders("bob", "2025-01-15", "o2", 200)
    shop.refunds("bob", "2025-01-16", "o2", 50)
    shop.views("eve", FIRST)
    shop.tick("2027-06-01")
    told = [(value["t"], value["rfm"]) for value in summaries(shop)]
    days = [ms(day) // DAY_MS for day, _ in told]
    assert {later - earlier for earlier, later in pairwise(days)} == {28}
    assert ms(told[-1][0]) <= later("2025-01-15", days=104 * 7) < later(told[-1][0], days=28)
    assert [rfm is not None for _, rfm in told] == [
        ms("2025-01-15") <= ms(day) <= later("2025-01-16", days=180) for day, _ in told
    ]
    last = summaries(shop)[-1]
    assert last["history"] == {"repeats": 1, "recency_days": 14, "age_days": days[-1] - ms(FIRST) // DAY_MS}
    assert (last["orders"], last["mean_value"]) == (2, 12500.0)
    assert told[1][1] == {"r": days[1] - ms("2025-01-15") // DAY_MS, "f": 2, "m": 25000}
    assert shop.row("bob").visit_due == 0, "nobody looks any more"


def test_a_user_with_one_order_is_summed_up_without_scores():
    shop = SmallShop()
    shop.orders("bob", FIRST, "o1")
    shop.tick("2025-03-01")
    assert [value["rfm"] for value in summaries(shop)] == [None] * 2


@pytest.mark.parametrize("fields", [{"erase": True}, {"opt_out_profiling": True}])
def test_who_is_erased_or_opts_out_is_not_summed_up(fields):
    shop = SmallShop()
    shop.orders("bob", FIRST, "o1")
    shop.tick("2025-03-01")
    told = len(summaries(shop))
    assert told
    shop.says("bob", "2025-03-01", **fields)
    shop.tick("2026-01-01")
    assert len(summaries(shop)) == told
    assert shop.attached() == 0


def test_of_whom_nothing_is_learned_nothing_is_summed_up():
    shop = SmallShop(example_share=1e-9)
    shop.orders("bob", FIRST, "o1")
    shop.tick("2025-09-01")
    assert summaries(shop) == examples(shop) == []
    assert shop.row("bob").visit_due == 0


# -- snapshots in force ------------------------------------------------------------------------------------------------


def test_a_refused_snapshot_leaves_the_last_good_one_in_force():
    shop = SmallShop(models={(30, 7): scorer(), (30, 8): None, (30, 9): scorer(9)})
    shop.orders("bob", FIRST, "o1")
    adopts(shop, "2025-01-02", 7)
    adopts(shop, "2025-02-01", 8)
    shop.tick("2025-02-20")
    assert shop.counts["refused snapshot"] == 1
    assert shop.row("bob").account.risk_version == 7
    adopts(shop, "2025-02-21", 9)
    shop.tick("2025-03-01")
    assert shop.row("bob").account.risk_version == 9


def test_a_start_under_a_snapshot_that_is_refused_works_without_a_risk_until_the_next():
    shop = SmallShop(models={(30, 7): scorer()})
    shop.orders("bob", FIRST, "o1")
    adopts(shop, "2025-01-02", 7)
    shop.tick("2025-01-20")
    restarted = SmallShop(models={(30, 7): None, (30, 8): scorer(8)}, rows=shop.rows)
    restarted.told = shop.told
    restarted.orders("eve", "2025-01-21", "o2")
    restarted.buys_weekly("ann", "2025-01-21")
    restarted.tick("2025-05-15")
    assert restarted.row("eve").account.risk == -1.0
    (command, *_) = restarted.commands("ann")
    assert command["risk"] is None
    adopts(restarted, "2025-05-16", 8)
    restarted.orders("eve", "2025-05-17", "o3")
    restarted.tick("2025-05-26")
    assert restarted.row("eve").account.risk_version == 8


def test_a_snapshot_that_is_not_there_holds_the_partition_and_one_of_another_horizon_does_not():
    shop = SmallShop(models={})
    shop.orders("bob", FIRST, "o1")
    adopts(shop, "2025-01-02", 7, 90)
    shop.tick("2025-01-10")
    assert shop.counts["snapshot of another horizon"] == 1
    adopts(shop, "2025-01-11", 7, 30)
    shop.tick("2025-01-20")
    assert shop.partition.held == "snapshot 30/7 of the model"
    shop.customers._models[30, 7] = scorer()
    shop.work()
    assert shop.partition.held is None
    shop.tick("2025-01-20T01:00")
    assert shop.row("bob").account.risk_version == 7


CUTS = {
    "version": "quintiles-2025-02-01",
    "recency_days": [1, 2, 3, 4],
    "frequency": [50, 60, 70, 80],
    "monetary": [10**6, 10**7, 10**8, 10**9],
}


@pytest.mark.parametrize("cut_points", ["playbook", "population"])
def test_the_populations_quintiles_act_at_the_weekly_visit_where_the_playbook_asks_for_them(cut_points):
    book = playbook(rfm={"cut_points": cut_points})
    shop = SmallShop(book, models=adopted(cut_points=CUTS))
    shop.buys_weekly("ann", FIRST)
    adopts(shop, "2025-02-01")
    shop.tick("2025-02-12")
    recut = [move for move in shop.moves("ann") if move[2] == "recut"]
    if cut_points == "playbook":
        assert recut == []
        return
    assert recut == [("high", "marginal", "recut")]
    assert not shop.decisions("ann")
    (change,) = (value for value in shop.of("tier-changes", "ann") if value["cause"] == "recut")
    assert change["cut_points"] == CUTS["version"]
    restarted = Backlog(shop.told, make_shop(), [book], models=adopted(cut_points=CUTS)).finish(restart_every=1)
    assert restarted.by_user[b"ann"][-1][0] == "tier-changes"


def test_features_are_told_in_full():
    shop = SmallShop()
    shop.orders("bob", FIRST, "o1")
    shop.tick("2025-03-01")
    assert {len(value["features"]) for value in examples(shop)} == {len(NAMES)}
