"""An episode from its opening to its end: what is held back, proposed, paid, counted and told."""

import pytest
from customers import SmallShop, later, ms, playbook
from test_ladder import DECIDED, FIRST, ladder, silent_ann, told, touches

from schemas.values import rfc3339
from worker.recall.days import DAY_MS, HOUR_MS
from worker.recall.policy.holdout import Holdout, uniform
from worker.recall.profile import Profile
from worker.stream.processor import NEVER

MINUTE_MS = 60_000


def outcomes(shop, user="ann"):
    """Return (outcome, reason, time) of each decision."""
    return [(said["outcome"], said["reason"], said["at"]) for said in shop.of("recall-decisions", user)]


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_an_episode_is_won_by_the_whole_track():
    success = {"track": {"session": 2, "cart_add": 1, "order": 2}, "within_days": 28}
    shop = silent_ann(ladder("in_app", play={"success": success}))
    shop.orders("ann", DECIDED + DAY_MS, "back")
    shop.does("ann", DECIDED + 2 * DAY_MS, "Product Added", product_id="p1", category="shoes")
    assert shop.row("ann").episode.progress[:3] == [2, 1, 1]
    shop.orders("ann", DECIDED + 3 * DAY_MS, "again")
    assert shop.decisions("ann")[-1] == ("ended", "won")
    assert shop.row("ann").episode is None


def test_what_was_before_the_opening_does_not_count():
    shop = silent_ann(ladder("in_app", play={"success": {"track": {"view": 1}}}))
    opened_at = shop.row("ann").episode.opened_at
    shop.views("ann", later(opened_at, hours=2))
    assert shop.decisions("ann")[-1] == ("ended", "won")


def test_an_order_whose_cancellation_came_first_wins_and_stops_nothing():
    shop = silent_ann(ladder("in_app", "push"))
    told(shop, DECIDED + 1)
    shop.cancels("ann", DECIDED + 2, "back")
    shop.orders("ann", DECIDED + 2, "back")
    episode = shop.row("ann").episode
    assert (episode.ordered_at, episode.progress) == (0, [0, 0])
    assert not shop.cancellations("ann")
    assert shop.decisions("ann") == [("sent", "sent")]


@pytest.mark.parametrize("held", [False, True])
def test_a_late_order_that_led_up_to_a_rise_calls_nothing_back(held):
    quiet = {"from": "10:00", "to": "09:00", "channels": ["push"] if held else []}
    play = {"opening": ["tier_reached"], "to_tiers": ["high"]}
    shop = SmallShop(ladder("push", play=play, quiet_hours=quiet))
    reached = shop.buys_weekly("ann", FIRST)
    shop.tick(reached + HOUR_MS)
    shop.orders("ann", reached - HOUR_MS, "late")
    shop.tick(reached + DAY_MS)
    said = [("held", "quiet hours")] if held else []
    assert shop.decisions("ann")[-1 - held :] == [*said, ("sent", "sent")]
    assert not shop.cancellations("ann")


def test_a_win_without_an_order_calls_back_what_is_under_way():
    shop = silent_ann(ladder("email", play={"success": {"track": {"session": 1}}}))
    shop.views("ann", DECIDED + HOUR_MS)
    (command,) = shop.commands("ann")
    assert shop.decisions("ann") == [("sent", "sent"), ("ended", "won")]
    assert shop.cancellations("ann") == [(command["command_id"], "won")]


def test_no_touch_outlives_its_episode_whose_order_would_not_call_it_back():
    shop = silent_ann(ladder("email", play={"valid_days": 7, "success": {"within_days": 3}}))
    (command,) = shop.commands("ann")
    assert command["not_after"] == command["delivery"]["not_after"] == rfc3339(DECIDED + 3 * DAY_MS)
    shop.tick(DECIDED + 3 * DAY_MS + 1)
    assert shop.decisions("ann")[-1] == ("ended", "lost")
    assert not shop.cancellations("ann")


def test_nothing_was_sent_and_nothing_came():
    shop = SmallShop(ladder("in_app"), dry_run=True)
    shop.buys_weekly("ann", FIRST)
    shop.tick(DECIDED + 30 * DAY_MS + 1)
    assert outcomes(shop) == [
        ("suppressed", "dry run", rfc3339(DECIDED)),
        ("ended", "expired", rfc3339(DECIDED + 30 * DAY_MS)),
    ]


def test_what_opens_at_the_moment_when_an_episode_is_over_opens_the_next_one():
    signals = [
        {"name": f"at-most-{n}", "when": [{"feature": "order_30d", "at_most": n}], "cool_down_days": 0}
        for n in (3, 2, 1)
    ]
    play = {"opening": ["signal"], "cool_down_days": 0, "success": {"within_days": 7}}
    shop = SmallShop(ladder("in_app", signals=signals, play=play))
    last = shop.buys_weekly("ann", FIRST, times=6)
    shop.tick(later(last, days=45))
    opened = {said["name"]: said["reason"] for said in shop.of("recall-decisions", "ann") if said["outcome"] != "ended"}
    assert opened == {"at-most-3": "sent", "at-most-2": "sent", "at-most-1": "sent"}


def test_a_milder_opening_is_recorded_while_a_graver_one_is_open():
    rules = {"min_orders": 3, "factor": 1.5, "deviations": 0.0}
    shop = SmallShop(ladder("in_app", rhythm=rules, play={"opening": ["rhythm", "tier_drop"]}))
    last = shop.buys_weekly("ann", FIRST)
    shop.refunds("ann", later(last, days=1), f"ann {FIRST} 4", 650)
    shop.tick(later(last, days=14))
    dropped, rhythm = shop.of("recall-decisions", "ann")
    assert (dropped["trigger"], dropped["outcome"]) == ("tier_drop", "sent")
    assert (rhythm["trigger"], rhythm["outcome"], rhythm["reason"]) == ("rhythm", "suppressed", "episode open")
    assert dropped["episode_id"] != rhythm["episode_id"]
    assert shop.row("ann").episode.trigger == "tier_drop"


def test_a_graver_opening_calls_back_what_the_milder_one_has_under_way():
    rules = {"min_orders": 3, "factor": 1.5, "deviations": 0.0}
    shop = SmallShop(ladder("in_app", rhythm=rules, play={"opening": ["rhythm", "tier_drop"], "cool_down_days": 0}))
    last = shop.buys_weekly("ann", FIRST)
    decided = later(last, days=10.5, hours=1)
    shop.tick(decided + 1)
    (milder,) = shop.commands("ann")
    shop.refunds("ann", later(decided, days=1), f"ann {FIRST} 4", 650)
    shop.tick(later(decided, days=1, hours=1))
    assert shop.cancellations("ann") == [(milder["command_id"], "upgraded")]
    assert shop.decisions("ann") == [("sent", "sent"), ("ended", "upgraded"), ("sent", "sent")]
    assert [command["reason"]["trigger"] for command in shop.commands("ann")] == ["rhythm", "tier_drop"]


# -- what holds it back ------------------------------------------------------------------------------------------------


def test_quiet_hours_hold_a_touch_until_they_end_in_the_users_own_timezone():
    quiet = {"from": "12:00", "to": "09:00", "channels": ["push"]}
    shop = SmallShop(ladder("push", quiet_hours=quiet))
    shop.buys_weekly("ann", FIRST)
    shop.says("ann", "2025-02-04", timezone="Europe/Berlin")
    shop.tick("2025-04-05T07:01")
    assert outcomes(shop) == [
        ("held", "quiet hours", rfc3339(DECIDED)),  # 13:00 in Berlin
        ("sent", "sent", rfc3339(ms("2025-04-05T07"))),
    ]


def test_after_a_hold_every_guard_is_asked_again():
    quiet = {"from": "10:00", "to": "09:00", "channels": ["push"]}
    shop = silent_ann(ladder("push", quiet_hours=quiet))
    shop.says("ann", "2025-04-05T08", opt_out_messages=True)
    shop.tick("2025-04-05T09:01")
    assert shop.decisions("ann") == [("held", "quiet hours"), ("suppressed", "opted out")]
    assert not shop.commands()


def test_an_order_during_a_hold_ends_it_all():
    quiet = {"from": "10:00", "to": "09:00", "channels": ["push"]}
    shop = silent_ann(ladder("push", quiet_hours=quiet))
    shop.orders("ann", "2025-04-04T20", "back")
    shop.tick("2025-04-06")
    assert shop.decisions("ann") == [("held", "quiet hours"), ("ended", "ordered")]


def test_a_checkout_in_course_holds_messages_back():
    rules = {"min_orders": 3, "factor": 1.5, "deviations": 0.0}
    shop = SmallShop(ladder("in_app", rhythm=rules, play={"opening": ["rhythm"]}))
    last = shop.buys_weekly("ann", FIRST)
    due = later(last, days=10.5, hours=1)
    shop.does("ann", due - HOUR_MS, "Checkout Started")
    shop.tick(due + HOUR_MS + 1)
    assert outcomes(shop) == [
        ("held", "checkout", rfc3339(due)),
        ("sent", "sent", rfc3339(due + HOUR_MS)),
    ]


def test_a_play_that_needs_approval_is_proposed_once_and_sent_once_it_is_approved():
    shop = silent_ann(ladder("in_app", play={"approval": True}))
    shop.tick(DECIDED + HOUR_MS)
    assert outcomes(shop) == [("proposed", "proposed", rfc3339(DECIDED))]
    shop.steers("approve", effective_at=DECIDED + 61 * MINUTE_MS, play="letter")
    shop.tick(DECIDED + 2 * HOUR_MS)
    assert outcomes(shop)[1:] == [("sent", "sent", rfc3339(DECIDED + 75 * MINUTE_MS))]


def test_what_nobody_approves_in_time_is_not_sent():
    shop = silent_ann(ladder("in_app", play={"approval": True, "valid_days": 1}))
    shop.steers("approve", effective_at=DECIDED + 61 * MINUTE_MS, play="letter", until=DECIDED + 62 * MINUTE_MS)
    shop.tick(DECIDED + 2 * DAY_MS)
    assert outcomes(shop) == [
        ("proposed", "proposed", rfc3339(DECIDED)),
        ("suppressed", "not approved", rfc3339(DECIDED + DAY_MS)),
    ]


def test_low_potential_is_not_disturbed():
    book = ladder("in_app", potential={"order_value": ["999998", "999999"], "orders_a_year": [998, 999]})
    shop = silent_ann(book)
    (decision,) = shop.of("recall-decisions", "ann")
    assert (decision["reason"], decision["potential"], decision["play"]) == ("low potential", "low", None)
    assert "low potential, not to be disturbed: " in decision["text"]


# -- a task of several steps -------------------------------------------------------------------------------------------

TASK = {
    "kind": "habit",
    "steps": [
        {"channel": "view", "count": 2, "template": "look"},
        {"channel": "check_in", "count": 1, "template": "check-in"},
    ],
    "success": {"track": {"order": 1}, "within_days": 28},
}


def test_each_step_of_a_task_is_given_when_the_one_before_is_done():
    shop = silent_ann(ladder("in_app", play=TASK))
    done = DECIDED + DAY_MS
    shop.views("ann", done, done + 1)
    shop.tick(done + 2)
    first, second = shop.commands("ann")
    assert (first["action"]["template"], second["action"]["template"]) == ("look", "check-in")
    assert (first["action"]["task"]["step"], second["action"]["task"]["step"]) == (0, 1)
    assert second["issued_at"] == rfc3339(done + 1)
    shop.does("ann", done + DAY_MS, "Checked In")
    shop.tick(done + 20 * DAY_MS)
    assert len(shop.commands("ann")) == 2
    shop.orders("ann", done + 20 * DAY_MS, "back")
    assert shop.decisions("ann")[-1] == ("ended", "won")


def test_a_next_step_that_is_held_does_not_wait_for_what_the_channel_tells_of_the_last_one():
    quiet = {"from": "12:00", "to": "09:00", "channels": ["in_app"]}
    shop = silent_ann(ladder("in_app", play=TASK, quiet_hours=quiet))
    shop.views("ann", DECIDED + 2 * HOUR_MS, DECIDED + 2 * HOUR_MS + 1)
    told(shop, DECIDED + 3 * HOUR_MS)
    shop.tick("2025-04-05T09:01")
    assert [command["issued_at"] for command in shop.commands("ann")][1:] == [rfc3339(ms("2025-04-05T09"))]


def test_a_next_step_passes_the_guards_too():
    shop = silent_ann(ladder("in_app", play=TASK, caps={"user": {"touches": 1, "days": 28}, "channel": {}}))
    shop.views("ann", DECIDED + DAY_MS, DECIDED + DAY_MS + 1)
    shop.tick(DECIDED + 2 * DAY_MS)
    assert shop.decisions("ann") == [("sent", "sent"), ("suppressed", "cap")]


# -- money -------------------------------------------------------------------------------------------------------------


def letters(cost="0.10", **changes):
    return ladder("email", channels={"cost": {"email": cost}}, budgets={"core_share": 0.0}, **changes)


def left(shop, budget="daily"):
    """Return what is spent of a budget, in micros."""
    return shop.partition.shared.budgets[budget].spent


def test_what_costs_and_has_no_budget_is_not_sent():
    shop = silent_ann(letters(), daily=None)
    assert shop.decisions("ann") == [("suppressed", "no budget")]
    free = silent_ann(letters("0"), daily=None)
    assert free.decisions("ann") == [("sent", "sent")]


def test_a_days_budget_goes_to_who_is_decided_first_and_is_renewed_at_midnight():
    shop = SmallShop(letters(), daily="0.25")
    for i, user in enumerate(("ann", "bob", "cem", "dora")):
        shop.buys_weekly(user, later(FIRST, minutes=i))
    shop.buys_weekly("eve", later(FIRST, days=1))
    shop.tick(DECIDED + 2 * DAY_MS)
    decided = {user: shop.decisions(user) for user in ("ann", "bob", "cem", "dora", "eve")}
    sent, refused = [("sent", "sent")], [("suppressed", "no budget")]
    assert decided == {"ann": sent, "bob": sent, "cem": refused, "dora": refused, "eve": sent}


def test_what_feedback_says_it_cost_is_settled():
    shop = silent_ann(letters())
    assert left(shop) == 100_000
    told(shop, DECIDED + HOUR_MS, actual_cost="0.03", currency="EUR")
    shop.tick(DECIDED + 2 * HOUR_MS)
    assert left(shop) == 30_000
    assert not shop.row("ann").account.unsettled


def test_what_a_contact_cost_is_told_once_by_what_says_whether_it_arrived():
    shop = silent_ann(letters())
    cost = {"actual_cost": "0.03", "currency": "EUR"}
    for hours, status in enumerate(("opened", "delivered", "delivered", "bounced", "clicked"), 1):
        told(shop, DECIDED + hours * HOUR_MS, status, **cost)
    shop.tick(DECIDED + 6 * HOUR_MS)
    assert left(shop) == 30_000
    assert shop.counts["ledger.actual.letter"] == 30_000


def test_a_command_tells_what_it_costs_in_full():
    book = letters(costs={"people": "0.02", "upkeep": "0.01", "fatigue": "0.5", "brand": {"email": "0.005"}})
    shop = SmallShop(book, daily=None)
    shop.grants(0, "10", shadow_price="0.5")
    shop.buys_weekly("ann", FIRST)
    shop.tick(DECIDED + 1)
    (command,) = shop.commands()
    assert command["cost"] == {
        "contact": "0.1",
        "incentive": "0",
        "direct": "0.1",
        "opportunity": "0.05",
        "hidden": "0.035",
        "currency": "EUR",
        "budget": "daily",
    }
    (decision,) = shop.of("recall-decisions")
    assert decision["cost"] == command["cost"]


COUPON = {
    "incentive": {"form": "amount", "face_values": ["10", "20"], "expected_redemption": 0.1},
    "success": {"track": {"order": 1}, "within_days": 30},
}


def coupon(**changes):
    return ladder("in_app", "email", subsidy={"share_max": 1.0}, play=COUPON, **changes)


def with_coupon(book, **settings):
    """Return a shop in which ann got her coupon with the second touch."""
    shop = silent_ann(book, **settings)
    told(shop, DECIDED + 1)
    shop.tick(DECIDED + 2 * DAY_MS + 2)
    return shop


def test_an_incentive_comes_with_the_last_rung_never_with_the_first_touch():
    first, last = with_coupon(coupon()).commands("ann")
    assert first["action"]["price_incentive"] is None
    assert last["action"]["price_incentive"] == {"form": "amount", "face_value": "10", "currency": "EUR", "points": 0}
    assert last["cost"]["incentive"] == "1"


def test_an_incentive_that_nobody_uses_is_given_back():
    shop = with_coupon(coupon())
    assert left(shop) == 1_000_000 + 1_000
    shop.tick(DECIDED + 30 * DAY_MS + 2)
    assert shop.decisions("ann")[-1] == ("ended", "lost")
    assert left(shop) <= 0, "of the day: what came back is of an earlier one"


@pytest.mark.parametrize("fields", [{}, {"actual_cost": "10", "currency": "EUR"}])
def test_an_incentive_that_the_winning_order_used_is_paid_for_when_it_is_told(fields):
    shop = with_coupon(coupon())
    shop.orders("ann", DECIDED + 3 * DAY_MS, "back", coupon="TEN")
    assert shop.decisions("ann")[-1] == ("ended", "won")
    told(shop, DECIDED + 3 * DAY_MS + 1, "converted", **fields)
    told(shop, DECIDED + 3 * DAY_MS + 2, "converted", **fields)
    shop.tick(DECIDED + 3 * DAY_MS + 3)
    assert left(shop) == 10_000_000 - 1_000_000, "of the day: the expected cost went back, the face value came"


def test_what_was_reserved_for_an_erased_user_is_given_back_and_nothing_of_him_stays():
    shop = with_coupon(coupon())
    shop.says("ann", DECIDED + 2 * DAY_MS + 3, erase=True)
    shop.tick(DECIDED + 2 * DAY_MS + 4)
    assert left(shop) == 1_000, "the e-mail itself"
    assert shop.row("ann") == Profile(key=b"ann", due=NEVER, silence_due=NEVER, other_due=NEVER, erased=True)


def test_bargain_hunters_get_none():
    shop = SmallShop(coupon())
    for n in range(5):
        shop.orders("ann", later(FIRST, days=7 * n), f"o{n}", coupon="TEN")
    shop.tick(DECIDED + 1)
    told(shop, DECIDED + 1)
    shop.tick(DECIDED + 3 * DAY_MS)
    assert len(shop.commands("ann")) == 1
    assert shop.decisions("ann")[-1] == ("suppressed", "no incentive")
    assert "bargain hunter" in shop.of("recall-decisions", "ann")[-1]["text"]


def test_the_share_of_commands_with_an_incentive_is_bounded():
    shop = with_coupon(ladder("in_app", "email", subsidy={"share_max": 0.2}, play=COUPON))
    assert shop.decisions("ann") == [("sent", "sent"), ("suppressed", "subsidy share")]


# -- a playbook for some -----------------------------------------------------------------------------------------------


def test_a_canary_holds_for_its_share_of_the_users_until_it_is_adopted_for_all():
    old, new = ladder("in_app"), playbook("new", plays=[*ladder("push", play={"name": "badge"}).model_dump()["plays"]])
    shop = SmallShop(old, new)
    shop.steers("adopt_playbook", effective_at="2025-01-01", version=new.version, share=0.5)
    users = [f"user {i}" for i in range(40)]
    for user in users:
        shop.buys_weekly(user, FIRST)
    shop.tick(DECIDED + 1)
    got = {command["user_id"]: command["versions"]["playbook"] for command in shop.commands()}
    chosen = {user for user in users if uniform("salt", b"canary", new.version.encode(), user.encode()) < 0.5}
    assert got == {user: new.version if user in chosen else old.version for user in users}
    assert 10 < len(chosen) < 30
    shop.steers("adopt_playbook", effective_at=DECIDED + 2, version=new.version)
    shop.tick(DECIDED + DAY_MS)
    assert shop.partition.shared.canary is None
    assert shop.partition.shared.playbook == new.version


def test_a_playbook_that_asks_for_something_else_takes_nothing_for_what_it_is_not():
    tracks = {"session": 5, "order": 3}, {"order": 2}
    before, after = (ladder("in_app", play={"success": {"track": track, "within_days": 30}}) for track in tracks)
    shop = SmallShop(before, after)
    shop.buys_weekly("ann", FIRST)
    shop.tick(DECIDED + 1)
    shop.views("ann", DECIDED + HOUR_MS)
    shop.steers("adopt_playbook", effective_at=DECIDED + 2 * HOUR_MS, version=after.version)
    shop.orders("ann", DECIDED + 3 * HOUR_MS, "one")
    assert shop.row("ann").episode is not None
    shop.orders("ann", DECIDED + 4 * HOUR_MS, "two")
    assert shop.decisions("ann")[-1] == ("ended", "won")


# -- what is learned from, and what is remembered ----------------------------------------------------------------------


def learned(shop):
    return [value for value in shop.of("churn-training") if value["kind"] == "outcome"]


def salt_for(arm):
    """Return a salt under which ann is in that arm."""
    day = DECIDED // DAY_MS
    return next(f"salt {n}" for n in range(99) if Holdout(f"salt {n}", 0.1, 182).arm(b"ann", day) == arm)


@pytest.mark.parametrize("back", [True, False])
def test_what_came_of_a_touch_is_told_when_it_is_due(back):
    shop = silent_ann(ladder("in_app", holdout={"share": 0.1}), salt=salt_for("treated"))
    if back:
        shop.orders("ann", DECIDED + 27 * DAY_MS, "back")
    shop.tick(DECIDED + 29 * DAY_MS)
    assert not learned(shop)
    shop.tick(DECIDED + 29 * DAY_MS + 1)
    (outcome,) = learned(shop)
    assert (outcome["play"], outcome["y"], outcome["propensity"]) == ("letter", int(back), 0.9)
    assert (outcome["segment"], outcome["held_out"]) == ("silent/high/untouched", False)
    assert "user_id" not in outcome


def test_what_came_of_leaving_alone_is_told_of_the_holdout():
    shop = silent_ann(ladder("in_app", holdout={"share": 0.1}), salt=salt_for("control"))
    assert shop.decisions("ann") == [("suppressed", "holdout")]
    shop.tick(DECIDED + 29 * DAY_MS + 1)
    (outcome,) = learned(shop)
    assert (outcome["play"], outcome["y"], outcome["propensity"], outcome["held_out"]) == ("nothing", 0, 0.1, True)


def test_of_who_opts_out_of_profiling_nothing_is_learned():
    shop = silent_ann(ladder("in_app"))
    shop.says("ann", DECIDED + DAY_MS, opt_out_profiling=True)
    shop.tick(DECIDED + 30 * DAY_MS)
    assert not learned(shop)


def test_outcomes_are_told_on_their_day_also_under_another_response_time():
    play = {"opening": ["tier_drop", "silence"], "cool_down_days": 0, "success": {"within_days": 1}}
    slow, fast = (ladder("in_app", choice={"response_days": days}, play=play) for days in (90, 7))
    shop = SmallShop(slow, fast)
    shop.buys_weekly("ann", FIRST)
    shop.steers("adopt_playbook", effective_at=DECIDED + 2 * DAY_MS, version=fast.version)
    shop.orders("ann", DECIDED + 3 * DAY_MS, "back")
    shop.refunds("ann", DECIDED + 4 * DAY_MS, f"ann {FIRST} 4", 650)
    shop.tick(DECIDED + 12 * DAY_MS + 1)
    (outcome,) = learned(shop)
    assert outcome["day"] == "2025-04-16"
    assert outcome["segment"].startswith("drop/")


def test_the_propensity_is_that_under_which_the_arm_was_drawn():
    quiet = {"from": "10:00", "to": "09:00", "channels": ["push"]}
    before, after = (ladder("push", quiet_hours=quiet, holdout={"share": share}) for share in (0.1, 0.3))
    shop = SmallShop(before, after, salt=salt_for("treated"))
    shop.buys_weekly("ann", FIRST)
    shop.steers("adopt_playbook", effective_at=DECIDED + HOUR_MS, version=after.version)
    shop.tick(DECIDED + 30 * DAY_MS)
    (sent,) = (said for said in shop.of("recall-decisions", "ann") if said["outcome"] == "sent")
    (outcome,) = learned(shop)
    assert sent["versions"]["playbook"] == after.version
    assert (sent["propensity"], outcome["propensity"]) == (0.9, 0.9)


def test_the_row_remembers_moves_and_decisions():
    account = silent_ann(ladder("in_app")).row("ann").account
    assert [(move.origin, move.target, move.cause) for move in account.moves][-1] == (3, 1, "silence")
    (decided,) = account.decided
    assert (decided.at, decided.outcome, decided.play, decided.channel) == (DECIDED, "sent", "letter", "in_app")


def test_learned_mode_may_leave_a_user_alone_and_says_why():
    rules = {"mode": "learned", "priors": {"letter": {"with": 0.05, "without": 0.05}}, "strength": 50_000}
    shop = silent_ann(ladder("email", choice=rules, channels={"cost": {"email": "5"}}))
    (decision,) = shop.of("recall-decisions", "ann")
    assert (decision["outcome"], decision["reason"]) == ("suppressed", "not worth it")
    assert decision["left_out"] == {"letter": "not worth it"}
    assert decision["nets"]["letter"].startswith("-5")
    assert not shop.commands()


def test_learned_mode_records_with_what_probability_it_chose():
    rules = {"mode": "learned", "priors": {"letter": {"with": 0.4, "without": 0.05}}, "strength": 500}
    shop = silent_ann(ladder("in_app", "push", choice=rules))
    (decision,) = shop.of("recall-decisions", "ann")
    assert decision["outcome"] == "sent"
    assert decision["choice_propensity"] > 0.9
    assert decision["segment"] == "silent/high/untouched"
    told(shop, DECIDED + 1)
    shop.tick(DECIDED + 3 * DAY_MS)
    assert [channel for channel, _ in touches(shop)] == ["in_app", "push"]
