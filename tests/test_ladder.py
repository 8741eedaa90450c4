"""From rung to rung: when the next channel is tried, and when it is not."""

import pytest
from customers import SmallShop, later, ms, playbook

from schemas.values import rfc3339
from worker.recall.days import DAY_MS

# Five orders make ann `high`; she is silent 60 days after the last one, which is decided an hour later.
FIRST = "2025-01-06T10"
DECIDED = ms("2025-04-04T11")
RUNGS = ["in_app", "push", "email", "sms", "human"]
WAIT = {"in_app": 2, "push": 2, "email": 4, "sms": 4, "human": 7}


def ladder(*rungs, **changes):
    """Return a playbook with one play for silent users, by those rungs."""
    play = {
        "name": "letter",
        "opening": ["silence"],
        "kind": "memory",
        "template": "letter",
        "rungs": list(rungs or RUNGS),
        "success": {"track": {"order": 1}, "within_days": 60},
        "cool_down_days": 90,
        **changes.pop("play", {}),
    }
    sections = {"caps": {"user": {"touches": 9, "days": 28}, "channel": {}}, "ladder": {"human_per_day": 10}}
    return playbook(plays=[play], **{**sections, **changes})


def silent_ann(book, user="ann", **settings):
    """Return a shop whose user was of the highest value, and then does nothing."""
    shop = SmallShop(book, **settings)
    assert shop.buys_weekly(user, FIRST, times=5) == ms("2025-02-03T10")
    shop.tick(DECIDED + 1)
    return shop


def touches(shop, user="ann"):
    """Return (channel, days since the first decision) of each command."""
    first = ms(shop.commands(user)[0]["issued_at"][:-1])
    return [
        (command["delivery"]["channel"], (ms(command["issued_at"][:-1]) - first) / DAY_MS)
        for command in shop.commands(user)
    ]


def told(shop, at, status="delivered", user="ann", **fields):
    """Let the channel of the last touch report on it."""
    command = shop.commands(user)[-1]
    shop.hears(user, at, status, command["command_id"], command["delivery"]["channel"], **fields)


def test_each_rung_follows_when_the_one_before_was_delivered_and_not_answered_in_its_time():
    shop = silent_ann(ladder())
    at = DECIDED
    for rung in RUNGS:
        assert touches(shop)[-1][0] == rung
        told(shop, at)
        at += WAIT[rung] * DAY_MS
        shop.tick(at)
        shop.tick(at + 1)
    assert touches(shop) == [("in_app", 0), ("push", 2), ("email", 4), ("sms", 8), ("human", 12)]
    assert [command["step"] for command in shop.commands()] == [0, 1, 2, 3, 4]
    assert len({command["command_id"] for command in shop.commands()}) == len(RUNGS)
    assert len({command["episode_id"] for command in shop.commands()}) == 1


def test_a_command_says_what_comes_next_and_when():
    shop = silent_ann(ladder("in_app", "push"))
    (first,) = shop.commands()
    assert first["delivery"]["rung"] == 0
    assert first["delivery"]["next_channel"] == "push"
    assert first["delivery"]["escalate_after"] == rfc3339(DECIDED + 2 * DAY_MS)
    told(shop, DECIDED + 1)
    shop.tick(DECIDED + 3 * DAY_MS)
    last = shop.commands()[-1]["delivery"]
    assert (last["rung"], last["next_channel"], last["escalate_after"]) == (1, None, None)


def test_the_wait_counts_from_delivery():
    shop = silent_ann(ladder("in_app", "push"))
    told(shop, DECIDED + DAY_MS)
    shop.tick(DECIDED + 3 * DAY_MS)
    assert len(shop.commands()) == 1
    shop.tick(DECIDED + 3 * DAY_MS + 1)
    assert touches(shop) == [("in_app", 0), ("push", 3)]


def test_what_is_told_late_still_lets_the_ladder_go_on():
    shop = silent_ann(ladder("in_app", "push"))
    shop.tick(DECIDED + 5 * DAY_MS)
    assert shop.decisions()[-1] == ("suppressed", "no feedback")
    told(shop, DECIDED + 5 * DAY_MS)
    shop.tick(DECIDED + 7 * DAY_MS + 1)
    assert touches(shop) == [("in_app", 0), ("push", 7)]


@pytest.mark.parametrize("answer", ["a click", "a visit", "a conversion", "a view", "the app"])
def test_an_answer_ends_the_ladder(answer):
    shop = silent_ann(ladder())
    told(shop, DECIDED + 1)
    at = DECIDED + DAY_MS
    match answer:
        case "a click":
            told(shop, at, "clicked")
        case "a visit":
            told(shop, at, "visited")
        case "a conversion":
            told(shop, at, "converted")
        case "the app":
            shop.does("ann", at, "Application Opened")
        case _:
            shop.views("ann", at)
    shop.tick(DECIDED + 30 * DAY_MS)
    assert touches(shop) == [("in_app", 0)]
    assert shop.decisions("ann")[0] == ("sent", "sent")


def test_an_opening_is_no_answer():
    shop = silent_ann(ladder("in_app", "push"))
    told(shop, DECIDED + 1)
    told(shop, DECIDED + 2, "opened")
    shop.tick(DECIDED + 3 * DAY_MS)
    assert len(shop.commands()) == 2


@pytest.mark.parametrize("status", ["failed", "bounced"])
def test_a_touch_that_did_not_arrive_is_replaced_by_the_next_rung_at_once(status):
    shop = silent_ann(ladder("in_app", "email", "sms"))
    told(shop, DECIDED + DAY_MS, status)
    shop.tick(DECIDED + DAY_MS + 1)
    assert touches(shop) == [("in_app", 0), ("email", 1)]
    told(shop, DECIDED + DAY_MS + 2)
    shop.tick(DECIDED + 7 * DAY_MS)
    assert shop.decisions("ann")[-1] == ("suppressed", "too early on the ladder"), "one touch without answer is not two"


def test_rungs_without_consent_or_reach_are_passed_over_and_recorded():
    shop = SmallShop(ladder())
    shop.buys_weekly("ann", FIRST)
    shop.says("ann", "2025-02-04", consent={"push": {"marketing": False}})
    shop.does("ann", "2025-02-03T11", "Application Uninstalled")
    shop.tick(DECIDED + 1)
    (decision,) = shop.of("recall-decisions", "ann")
    assert decision["passed_over"] == [
        {"channel": "in_app", "reason": "unreachable"},
        {"channel": "push", "reason": "no consent"},
    ]
    assert (decision["channel"], decision["rung"]) == ("email", 2)
    told(shop, DECIDED + 1)
    shop.tick(DECIDED + 5 * DAY_MS)
    assert touches(shop) == [("email", 0)]
    assert shop.decisions("ann")[-1] == ("suppressed", "too early on the ladder")


def test_no_rung_reaches_the_user():
    book = ladder(
        "push", "email", caps={"user": {"touches": 9, "days": 28}, "channel": {"email": {"touches": 0, "days": 1}}}
    )
    shop = SmallShop(book)
    shop.buys_weekly("ann", FIRST)
    shop.does("ann", "2025-02-03T11", "Application Uninstalled")
    shop.tick(DECIDED + 1)
    assert shop.decisions("ann") == [("suppressed", "no reach")]
    assert not shop.commands()


def test_sms_and_people_are_for_the_highest_value():
    book = ladder("in_app", "email", "sms", potential={"order_value": ["1", "999999"], "high": 2})
    shop = silent_ann(book)
    for days in (0, 2):
        told(shop, DECIDED + days * DAY_MS + 1)
        shop.tick(DECIDED + (days + 2) * DAY_MS + 2)
    shop.tick(DECIDED + 9 * DAY_MS)
    assert [channel for channel, _ in touches(shop)] == ["in_app", "email"]
    assert shop.row("ann").episode.potential == "middle"
    assert shop.decisions("ann")[-1] == ("suppressed", "middle potential")


def test_people_have_only_so_much_time_a_day():
    shop = SmallShop(ladder("in_app", "push", "human", ladder={"human_per_day": 1}))
    for user in ("ann", "bob"):
        shop.buys_weekly(user, FIRST)
    shop.tick(DECIDED + 1)
    for days in (0, 2):
        for user in ("ann", "bob"):
            told(shop, DECIDED + days * DAY_MS + 1, user=user)
        shop.tick(DECIDED + (days + 2) * DAY_MS + 2)
    by_people = [command["user_id"] for command in shop.commands() if command["delivery"]["channel"] == "human"]
    assert by_people == ["ann"]
    assert shop.decisions("bob")[-1] == ("suppressed", "capacity")


def test_an_order_stops_the_ladder_and_calls_back_what_is_under_way():
    shop = silent_ann(ladder(play={"success": {"track": {"order": 2}, "within_days": 20}}))
    told(shop, DECIDED + 1)
    shop.orders("ann", DECIDED + DAY_MS, "back")
    (command,) = shop.commands()
    assert shop.cancellations() == [(command["command_id"], "ordered")]
    shop.tick(DECIDED + 19 * DAY_MS)
    assert len(shop.commands()) == 1
    assert shop.row("ann").episode is not None, "it goes on being observed"
    shop.tick(DECIDED + 20 * DAY_MS + 1)
    assert shop.decisions("ann")[-1] == ("ended", "lost")


# -- no feedback at all ------------------------------------------------------------------------------------------------


def many(n, **changes):
    """Return a shop with many silent users whose touches nobody tells anything of."""
    shop = SmallShop(ladder("in_app", "push", ladder={"alarm_after": 3, **changes}))
    for i in range(n):
        shop.buys_weekly(f"user {i}", later(FIRST, hours=i), times=2)
    return shop


def test_where_no_feedback_comes_at_all_an_alarm_is_raised_once_and_nothing_escalates():
    shop = many(5)
    shop.tick("2025-04-30")
    assert len(shop.commands()) == 5
    assert {command["delivery"]["channel"] for command in shop.commands()} == {"in_app"}
    assert shop.counts["feedback missing"] == 1
    assert shop.counts["suppressed.no feedback"] == 5
    assert shop.partition.shared.unheard == 5


def test_the_first_feedback_ends_the_alarm():
    shop = many(5)
    shop.tick("2025-03-30")
    assert shop.partition.shared.unheard == 5
    shop.buys_weekly("ann", "2025-03-01", times=2)
    shop.tick("2025-05-07T02")
    told(shop, "2025-05-07T02", user="ann")
    shop.tick("2025-05-09T03")
    assert shop.partition.shared.unheard == 0
    assert [channel for channel, _ in touches(shop)] == ["in_app", "push"]
