"""How users move between the tiers, and when: by scenario."""

import pytest
from customers import SmallShop, later, ms, playbook

from schemas.values import rfc3339
from worker.recall.days import DAY_MS, HOUR_MS
from worker.recall.rfm import Rfm, Scores
from worker.recall.shop import InForce
from worker.recall.tiers import CORE_DAYS, Standing, Tier, TierRule, TierRules, Transition, move

RULES = TierRules((TierRule(Tier.HIGH, Scores(4, 4, 4)), TierRule(Tier.POTENTIAL, Scores(3, 2, 2))), 60, 7, 14)
HIGH, POTENTIAL, MARGINAL = Scores(5, 4, 4), Scores(3, 4, 4), Scores(1, 1, 1)

# Five orders, a week apart, make a user `high`; 45 days after the last one R asks for `potential`.
FIRST = "2025-01-06T10"
LAST = "2025-02-03T10"
FALLS = "2025-03-20"
# Two orders make a user `potential`; nothing falls for 90 days.
SECOND = "2025-01-13T10"
SILENT = "2025-03-14T10"


def high(**settings):
    """Return a shop whose user ann is `high` and goes on looking without buying."""
    shop = SmallShop(**settings)
    assert shop.buys_weekly("ann", FIRST) == ms(LAST)
    return shop


def potential(*playbooks, **settings):
    """Return a shop whose user bob has ordered twice."""
    shop = SmallShop(*playbooks, **settings)
    shop.buys_weekly("bob", FIRST, times=2)
    return shop


# -- the rules by themselves -------------------------------------------------------------------------------------------


def test_the_highest_tier_whose_scores_are_reached():
    assert RULES.tier(Scores(4, 4, 4)) is Tier.HIGH
    assert RULES.tier(Scores(3, 5, 5)) is Tier.POTENTIAL
    assert RULES.tier(Scores(2, 5, 5)) is RULES.tier(Scores(5, 1, 5)) is RULES.tier(Scores(5, 5, 1)) is Tier.MARGINAL


def test_ties_take_the_lower_score():
    cuts = InForce.of(playbook(), SmallShop().shop).cuts
    assert cuts.score(Rfm(20, 9, 150_001)) == (5, 5, 5)
    assert cuts.score(Rfm(21, 8, 150_000)) == (4, 4, 4)
    assert cuts.score(Rfm(180, 1, 5000)) == (1, 1, 1)
    assert cuts.score(Rfm(179, 2, 5001)) == (2, 2, 2)


def test_a_lower_tier_is_given_when_it_has_held_and_not_before():
    standing = Standing(Tier.HIGH, scores=HIGH)
    assert move(standing, Tier.POTENTIAL, POTENTIAL, DAY_MS, "time", RULES) is None
    assert move(standing, Tier.MARGINAL, MARGINAL, 5 * DAY_MS, "order", RULES) is None
    assert move(standing, Tier.POTENTIAL, POTENTIAL, 8 * DAY_MS - 1, "time", RULES) is None
    drop = move(standing, Tier.POTENTIAL, POTENTIAL, 8 * DAY_MS, "time", RULES)
    assert drop == Transition(8 * DAY_MS, Tier.HIGH, Tier.POTENTIAL, "recency", ("R",), HIGH, POTENTIAL)
    assert drop.drop
    assert standing.is_core((8 + CORE_DAYS) * DAY_MS)
    assert not standing.is_core((8 + CORE_DAYS) * DAY_MS + 1)


def test_a_lower_tier_that_passes_begins_anew():
    standing = Standing(Tier.HIGH, scores=HIGH)
    assert move(standing, Tier.POTENTIAL, POTENTIAL, DAY_MS, "time", RULES) is None
    assert move(standing, Tier.HIGH, HIGH, 6 * DAY_MS, "order", RULES) is None
    assert move(standing, Tier.POTENTIAL, POTENTIAL, 8 * DAY_MS, "time", RULES) is None
    assert move(standing, Tier.POTENTIAL, POTENTIAL, 15 * DAY_MS, "time", RULES) is not None


def test_no_drop_so_soon_after_a_rise_but_by_refund():
    for cause, expected in (("time", None), ("refund", Tier.MARGINAL), ("recut", Tier.MARGINAL)):
        standing = Standing(Tier.POTENTIAL, scores=POTENTIAL)
        assert move(standing, Tier.HIGH, HIGH, DAY_MS, "order", RULES).target is Tier.HIGH
        assert standing.rose_at == DAY_MS
        moved = move(standing, Tier.MARGINAL, MARGINAL, 2 * DAY_MS, cause, RULES)
        assert (moved and moved.target) == expected
        if moved is None:
            assert move(standing, Tier.MARGINAL, MARGINAL, 15 * DAY_MS - 1, cause, RULES) is None
            drop = move(standing, Tier.MARGINAL, MARGINAL, 15 * DAY_MS, cause, RULES)
            assert (drop.cause, drop.fell) == ("recency", ("R", "F", "M"))


def test_what_fell_most_gives_the_cause():
    for after, cause in ((Scores(3, 4, 4), "recency"), (Scores(4, 2, 4), "frequency"), (Scores(3, 3, 1), "spend")):
        standing = Standing(Tier.HIGH, scores=HIGH, lower_since=DAY_MS)
        assert move(standing, Tier.MARGINAL, after, 9 * DAY_MS, "time", RULES).cause == cause


def test_a_rise_by_time_alone_is_named_after_what_rose():
    standing = Standing(Tier.POTENTIAL, scores=Scores(4, 4, 3))
    assert move(standing, Tier.HIGH, Scores(4, 4, 4), DAY_MS, "time", RULES).cause == "spend"


def test_new_to_silent_is_a_drop_and_other_ways_up_are_none():
    def between(origin, target):
        return Transition(0, origin, target, "order", (), None, None).drop

    assert between(Tier.NEW, Tier.SILENT)
    assert not any(between(Tier.NEW, tier) for tier in (Tier.MARGINAL, Tier.POTENTIAL, Tier.HIGH))
    assert not any(between(Tier.SILENT, tier) for tier in (Tier.MARGINAL, Tier.POTENTIAL, Tier.HIGH))


# -- rises and drops in time -------------------------------------------------------------------------------------------


def test_rises_act_at_once():
    shop = high()
    assert shop.moves("ann") == [("new", "potential", "order"), ("potential", "high", "order")]
    assert [change["at"] for change in shop.of("tier-changes")] == [rfc3339(ms(SECOND)), rfc3339(ms(LAST))]
    assert not shop.commands()


def test_r_falls_at_midnight_and_the_drop_comes_when_it_has_held():
    shop = high()
    shop.lives_on("ann", LAST, "2025-04-01")
    change = shop.of("tier-changes", "ann")[-1]
    assert change["at"] == rfc3339(later(FALLS, days=7))
    assert (change["from_tier"], change["to_tier"], change["cause"], change["fell"]) == (
        "high",
        "potential",
        "recency",
        ["R"],
    )
    assert change["scores_before"] == {"r": 4, "f": 4, "m": 4}, "R has fallen once before, within the tier"
    assert change["scores_after"] == {"r": 3, "f": 4, "m": 4}
    assert change["direction"] == "down"
    assert change["core"]
    (command,) = shop.commands("ann")
    assert command["issued_at"] == change["at"]
    assert command["action"]["play"] == "care-letter", "core users hear from the product manager"
    assert shop.decisions("ann") == [("sent", "sent")]


def test_an_order_while_the_lower_tier_is_held_prevents_the_drop():
    shop = high()
    shop.lives_on("ann", LAST, "2025-03-26")
    assert shop.row("ann").standing.lower_since == ms(FALLS)
    shop.orders("ann", "2025-03-26T23:59", "again")
    shop.lives_on("ann", "2025-03-27", "2025-05-09")
    assert shop.tier("ann") == "high"
    assert shop.row("ann").standing.lower_since == 0


def test_no_drop_within_two_weeks_of_a_rise():
    """Low cut points: R falls two days after the last order, so that the guard is what holds the drop."""
    shop = SmallShop(playbook(rfm={"r_days": [1, 2, 90, 180]}))
    shop.buys_weekly("ann", FIRST)
    shop.lives_on("ann", LAST, "2025-03-01", every_days=1)
    change = shop.of("tier-changes", "ann")[-1]
    assert (change["to_tier"], change["at"]) == ("potential", rfc3339(later(LAST, days=14)))


def test_frequency_and_spend_fall_when_weeks_leave_the_window():
    shop = SmallShop(playbook(rfm={"r_days": [364, 365, 366, 367]}, tiers={"silence_days": 365}))
    shop.buys_weekly("ann", FIRST)
    shop.orders("ann", "2025-09-01", "o9", 1)
    shop.lives_on("ann", LAST, "2026-02-01")
    # The week of the first order leaves 53 weeks after it began: F is 5 then, M 601; the second takes both down.
    change = shop.of("tier-changes", "ann")[-1]
    assert change["at"] == rfc3339(later("2025-01-13", days=7 * 53 + 7))
    assert (change["cause"], change["fell"]) == ("frequency", ["F", "M"])


def test_a_refund_acts_at_once():
    shop = high()
    shop.refunds("ann", later(LAST, days=1), "ann 2025-01-06T10 0", 400)
    change = shop.of("tier-changes", "ann")[-1]
    assert (change["to_tier"], change["cause"], change["fell"]) == ("potential", "refund", ["M"])
    assert change["at"] == rfc3339(later(LAST, days=1))
    shop.tick(later(LAST, days=1, hours=1))
    assert len(shop.commands("ann")) == 1


def test_a_cancelled_order_is_no_order():
    shop = high()
    shop.cancels("ann", later(LAST, minutes=5), f"ann {FIRST} 4")
    change = shop.of("tier-changes", "ann")[-1]
    assert (change["from_tier"], change["to_tier"], change["cause"]) == ("high", "potential", "refund")
    assert change["fell"] == ["F"]
    assert shop.rfm("ann") == (7, 4, 60_000)


def test_without_a_second_order_a_user_is_new_again_and_nobody_to_be_called_back():
    shop = potential()
    shop.cancels("bob", later(SECOND, minutes=5), f"bob {FIRST} 1")
    assert shop.moves("bob")[-1] == ("potential", "new", "refund")
    shop.tick(later(SECOND, days=10))
    assert shop.row("bob").episode is None
    assert not shop.commands()
    shop.tick("2025-06-01")
    assert shop.moves("bob")[-1] == ("new", "silent", "silence"), "one order stands"


def test_without_any_order_nobody_is_silent():
    shop = potential()
    for n in range(2):
        shop.cancels("bob", later(SECOND, minutes=5 + n), f"bob {FIRST} {n}")
    shop.tick("2025-12-01")
    assert shop.moves("bob")[-1] == ("potential", "new", "refund")
    assert shop.rfm("bob") is None
    assert shop.row("bob").due > shop.clock


def test_the_last_order_cancelled_at_the_moment_of_a_decision_leaves_nothing_to_decide():
    shop = potential()
    at = later(SECOND, days=1)
    shop.refunds("bob", at, f"bob {FIRST} 0", 290)
    assert shop.row("bob").episode.due == at
    for n in range(2):
        shop.cancels("bob", at, f"bob {FIRST} {n}")
    shop.tick(at + HOUR_MS)
    assert shop.decisions("bob") == [("void", "void")]
    assert not shop.commands()


# -- silence -----------------------------------------------------------------------------------------------------------


def test_a_user_who_simply_stops_is_silent_from_the_right_moment():
    shop = potential()
    shop.tick(later(SILENT, hours=1))
    assert shop.tier("bob") == "potential", "what is under way may still arrive"
    shop.tick(later(SILENT, hours=1) + 1)
    change = shop.of("tier-changes", "bob")[-1]
    assert (change["from_tier"], change["to_tier"], change["cause"]) == ("potential", "silent", "silence")
    assert (change["fell"], change["at"]) == (["R"], rfc3339(ms(SILENT)))
    (command,) = shop.commands("bob")
    assert command["issued_at"] == rfc3339(later(SILENT, hours=1))
    assert command["action"]["play"] == "memory-email"
    assert command["value"]["orders"] == 2
    assert command["value"]["net_revenue"] == "300.00"
    (decision,) = shop.of("recall-decisions", "bob")
    assert decision["opened_at"] == rfc3339(ms(SILENT))


def test_new_to_silent_is_a_drop_that_opens_an_episode():
    shop = SmallShop()
    shop.orders("cem", SECOND, "o1")
    shop.tick(later(SILENT, hours=2))
    assert shop.moves("cem") == [("new", "silent", "silence")]
    assert shop.of("tier-changes")[0]["direction"] == "down"
    assert len(shop.commands("cem")) == 1


def test_without_an_order_there_is_no_silence():
    shop = SmallShop()
    shop.views("dora", FIRST)
    shop.tick("2026-01-01")
    assert not shop.of("tier-changes")
    assert not shop.of("recall-decisions")


@pytest.mark.parametrize("back", ["a view", "a click on a message", "an order"])
def test_activity_ends_the_silence(back):
    shop = potential()
    shop.tick("2025-04-01")
    date = "2025-04-10T10"
    match back:
        case "a view":
            shop.views("bob", date)
        case "an order":
            shop.orders("bob", date, "again")
        case _:
            shop.hears("bob", date, "clicked")
    change = shop.of("tier-changes", "bob")[-1]
    cause = "order" if back == "an order" else "activity"
    assert (change["from_tier"], change["cause"], change["direction"]) == ("silent", cause, "up")
    assert shop.tier("bob") != "silent"
    shop.tick("2025-06-09T11")
    assert shop.tier("bob") != "silent"
    shop.tick("2025-06-09T12")
    assert shop.tier("bob") == "silent"


def test_an_opened_message_is_no_activity():
    shop = potential()
    shop.tick("2025-04-01")
    for status in ("delivered", "opened", "bounced"):
        shop.hears("bob", "2025-04-02", status)
    assert shop.tier("bob") == "silent"


@pytest.mark.parametrize("what", ["refund", "cancel", "late order"])
def test_what_is_no_activity_leaves_a_silent_user_silent(what):
    shop = potential()
    shop.orders("bob", later(SECOND, hours=1), "o3", 10)
    shop.tick("2025-03-16")
    moves, commands = shop.moves("bob"), shop.commands("bob")
    assert len(commands) == 1
    match what:
        case "refund":
            shop.refunds("bob", "2025-03-16", "o3", 10)
        case "cancel":
            shop.cancels("bob", "2025-03-16", "o3")
        case _:
            shop.orders("bob", FIRST, "o0", 10)
    shop.tick("2025-03-20")
    assert shop.tier("bob") == "silent"
    assert shop.moves("bob") == moves
    assert shop.commands("bob") == commands
    assert not shop.cancellations()


@pytest.mark.parametrize("share", [1.0, 0.999_999])
def test_a_playbook_with_a_later_silence_makes_nobody_silent_by_the_timer_of_the_one_before(share):
    old, new = playbook(), playbook("later", tiers={"silence_days": 90})
    shop = potential(old, new)
    shop.steers("adopt_playbook", effective_at=later(SILENT, hours=-1), version=new.version, share=share)
    shop.tick(later(SILENT, hours=1) + 1)
    assert shop.tier("bob") == "potential"
    assert not shop.decisions("bob")
    shop.tick(later(SILENT, days=30, hours=1) + 1)
    assert shop.tier("bob") == "silent"
    (decision,) = shop.of("recall-decisions", "bob")
    assert decision["opened_at"] == rfc3339(later(SILENT, days=30))
    assert decision["at"] == rfc3339(later(SILENT, days=30, hours=1))


def test_visits_begin_again_after_a_long_absence_that_is_no_silence():
    shop = potential(playbook(tiers={"silence_days": 365}))
    shop.tick("2025-09-01")
    assert shop.row("bob").visit_due - ms("2025-09-02") > 7 * DAY_MS, "for summaries alone"
    shop.views("bob", "2025-09-02")
    assert 0 < shop.row("bob").visit_due - ms("2025-09-02") <= 7 * DAY_MS


# -- new cut points ----------------------------------------------------------------------------------------------------

STRICT = {"m": ["50", "150", "800", "1500"]}


def test_new_cut_points_move_a_user_at_his_weekly_visit_and_open_nothing():
    old, new = playbook(), playbook("strict", rfm=STRICT)
    shop = SmallShop(old, new)
    shop.buys_weekly("ann", FIRST)
    adopted = later(LAST, days=1)
    shop.steers("adopt_playbook", effective_at=adopted, version=new.version)
    visit = shop.row("ann").visit_due
    assert adopted < visit <= later(LAST, days=7)
    shop.tick(visit)
    assert shop.tier("ann") == "high"
    shop.tick(visit + 1)
    change = shop.of("tier-changes", "ann")[-1]
    assert (change["from_tier"], change["to_tier"], change["cause"]) == ("high", "potential", "recut")
    assert (change["at"], change["cut_points"]) == (rfc3339(visit), new.version)
    assert shop.row("ann").episode is None
    shop.tick(later(visit, days=20))
    assert not shop.commands()
    assert not shop.of("recall-decisions")


def test_a_refund_after_new_cut_points_is_judged_by_them_alone():
    """What the cut points take is theirs; what the refund takes after it is the refund's, and opens an episode."""
    old, new = playbook(), playbook("strict", rfm=STRICT)
    shop = SmallShop(old, new)
    shop.buys_weekly("ann", FIRST)
    shop.steers("adopt_playbook", effective_at=later(LAST, minutes=1), version=new.version)
    shop.refunds("ann", later(LAST, hours=1), f"ann {FIRST} 0", 710)
    assert shop.moves("ann")[-2:] == [("high", "potential", "recut"), ("potential", "marginal", "refund")]
    shop.tick(later(LAST, hours=2))
    (command,) = shop.commands("ann")
    assert command["reason"]["cause"] == "refund"
    assert command["versions"]["cut_points"] == new.version


def test_an_adoption_that_is_not_given_holds_the_partition():
    shop = potential()
    shop.steers("adopt_playbook", effective_at="2025-02-01", version="other@1")
    shop.tick("2025-06-01")
    assert shop.partition.held == "playbook other@1"
    assert shop.clock == ms("2025-02-01")


def test_a_start_without_the_playbook_in_force_is_refused():
    shop = potential()
    shop.tick("2025-02-01")
    with pytest.raises(ValueError, match=rf"^playbook {playbook().version} is in force and was not given: .*other@"):
        SmallShop(playbook("other"), rows=shop.rows)
