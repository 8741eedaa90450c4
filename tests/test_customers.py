"""Who is touched, when, and who is not: episodes, guards and what comes between, by scenario and at random."""

from collections import Counter

import orjson
import pytest
from customers import SALT, Backlog, SmallShop, later, make_shop, ms, playbook, scorer, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.values import rfc3339
from worker.recall.days import DAY_MS, HOUR_MS
from worker.recall.policy.holdout import CONTROL, Holdout
from worker.recall.profile import Profile
from worker.recall.risk.scorer import Scorer
from worker.stream.processor import NEVER

# Two orders; the silence begins 60 days after the last and is decided an hour later.
FIRST = "2025-01-06T10"
SECOND = "2025-01-13T10"
SILENT = "2025-03-14T10"
DECIDED = "2025-03-14T11"


def shop_with_bob(*playbooks, until=None, **shop):
    """Return a shop whose user bob has ordered twice, and then does nothing."""
    small = SmallShop(*playbooks, **shop)
    small.buys_weekly("bob", FIRST, times=2)
    if until is not None:
        small.tick(until)
    return small


def sent(shop, user="bob"):
    """Return the one command."""
    (command,) = shop.commands(user)
    return command


# -- an episode and its end --------------------------------------------------------------------------------------------


def test_an_order_ends_the_episode_and_cancels_what_is_under_way():
    shop = shop_with_bob(until="2025-03-15")
    command = sent(shop)
    assert command["not_after"] == rfc3339(later(DECIDED, days=3))
    shop.orders("bob", "2025-03-16", "again")
    assert shop.cancellations("bob") == [(command["command_id"], "ordered")]
    assert shop.decisions("bob") == [("sent", "sent"), ("ended", "won")]
    assert shop.row("bob").episode is None


def test_a_touch_that_is_past_is_not_cancelled():
    shop = shop_with_bob(until="2025-03-15")
    shop.orders("bob", later(DECIDED, days=3) + 1, "again")
    assert shop.decisions("bob")[-1] == ("ended", "won")
    assert not shop.cancellations()


def test_a_graver_opening_takes_the_place_of_a_milder_one():
    shop = SmallShop(playbook(observe_days=90))
    shop.buys_weekly("ann", FIRST)
    shop.refunds("ann", "2025-02-04", "x", 300)
    shop.tick("2025-04-20")
    assert [move[1] for move in shop.moves("ann")] == ["potential", "high", "potential", "silent"]
    assert shop.decisions("ann") == [("sent", "sent"), ("ended", "upgraded"), ("sent", "sent")]
    dropped, silent = shop.commands("ann")
    assert (dropped["reason"]["trigger"], silent["reason"]["trigger"]) == ("tier_drop", "silence")
    assert dropped["experiment"]["arm"] == silent["experiment"]["arm"]
    assert not shop.cancellations(), "the touch before was past"


def test_an_episode_expires_when_it_was_observed_long_enough():
    shop = shop_with_bob(until=later(DECIDED, days=30))
    assert shop.row("bob").episode is not None
    shop.tick(later(DECIDED, days=30) + 1)
    assert shop.row("bob").episode is None
    assert shop.decisions("bob")[-1] == ("ended", "lost")
    assert shop.of("recall-decisions")[-1]["at"] == rfc3339(later(DECIDED, days=30))
    assert not shop.cancellations()


@pytest.mark.parametrize("what", ["a view", "a click", "an order"])
@pytest.mark.parametrize("early", [3_600_000, 1, 0])
def test_a_late_record_that_would_have_prevented_the_silence_voids_it(what, early):
    shop = shop_with_bob(until="2025-03-14T12")
    command = sent(shop)
    at = ms(SILENT) - early
    match what:
        case "a view":
            shop.views("bob", at)
        case "a click":
            shop.hears("bob", at, "visited")
        case _:
            shop.orders("bob", at, "o3")
    assert shop.cancellations("bob") == [(command["command_id"], "void")]
    assert shop.decisions("bob") == [("sent", "sent"), ("void", "void")]
    assert shop.tier("bob") == "potential"


def test_activity_after_the_silence_began_is_a_return_and_no_void():
    shop = shop_with_bob(until="2025-03-14T12")
    shop.views("bob", later(SILENT, minutes=1))
    assert shop.tier("bob") == "potential"
    assert shop.row("bob").episode is not None, "it was observed whether he orders"
    assert not shop.cancellations()


def test_a_late_order_from_before_the_silence_ends_nothing():
    shop = shop_with_bob(until="2025-03-15")
    shop.orders("bob", "2025-01-10", "o0")
    shop.tick("2025-03-16")
    assert shop.decisions("bob") == [("sent", "sent")]
    assert shop.moves("bob").count(("potential", "silent", "silence")) == 1
    assert shop.rfm("bob") == (62, 3, 45_000)


def test_what_is_said_after_sending_calls_the_touch_back():
    said = {
        "consent": {"consent": {"email": {"marketing": False}}},
        "no message": {"opt_out_messages": True},
        "no profiling": {"opt_out_profiling": True},
        "excluded": {"excluded": True},
    }
    for fields in said.values():
        shop = shop_with_bob(until="2025-03-15")
        shop.says("bob", "2025-03-15", **fields)
        assert shop.cancellations("bob") == [(sent(shop)["command_id"], "withdrawn")]
        assert shop.decisions("bob")[-1] == ("ended", "withdrawn")


def test_to_unsubscribe_calls_the_touch_back():
    shop = shop_with_bob(until="2025-03-15")
    shop.hears("bob", "2025-03-15", "unsubscribed", sent(shop)["command_id"])
    assert shop.cancellations("bob") == [(sent(shop)["command_id"], "withdrawn")]
    assert shop.row("bob").account.consent == {"email:marketing": False}


def test_a_withdrawal_reaches_a_touch_of_a_playbook_that_is_no_longer_in_force():
    old, new = playbook(), playbook("new")
    new = new.model_copy(update={"plays": [play.model_copy(update={"name": f"new-{play.name}"}) for play in new.plays]})
    shop = shop_with_bob(old, new, until="2025-03-15")
    shop.steers("adopt_playbook", effective_at="2025-03-15T01", version=new.version)
    shop.tick("2025-03-15T02")
    shop.says("bob", "2025-03-15T03", consent={"email": {"marketing": False}})
    assert shop.cancellations("bob") == [(sent(shop)["command_id"], "withdrawn")]


def test_what_does_not_concern_the_touch_leaves_it():
    shop = shop_with_bob(until="2025-03-15")
    shop.says("bob", "2025-03-15", consent={"sms": {"marketing": False}}, timezone="Europe/London")
    shop.hears("bob", "2025-03-15", "unsubscribed", channel="push")
    assert not shop.cancellations()
    assert shop.row("bob").account.timezone == "Europe/London"
    assert shop.row("bob").episode is not None


def test_a_withdrawal_is_too_late_for_a_touch_that_is_past():
    shop = shop_with_bob(until="2025-03-18")
    shop.says("bob", "2025-03-18", opt_out_messages=True)
    assert not shop.cancellations()
    assert shop.row("bob").episode is not None, "it goes on being observed"


# -- erasure -----------------------------------------------------------------------------------------------------------


def test_erasure_leaves_a_mark_and_nothing_else():
    shop = shop_with_bob(until="2025-02-20")
    assert shop.attached() > 0
    shop.tick("2025-03-15")
    shop.says("bob", "2025-03-15", erase=True)
    assert shop.cancellations("bob") == [(sent(shop)["command_id"], "erased")]
    mark = Profile(key=b"bob", due=NEVER, silence_due=NEVER, other_due=NEVER, erased=True)
    assert shop.row("bob") == mark
    assert shop.attached() == 0

    said, before = len(shop.said), shop.counts.get("erased", 0)
    shop.views("bob", "2025-03-16")
    shop.orders("bob", "2025-01-20", "o9")
    shop.says("bob", "2025-03-16", consent={"email": {"marketing": True}})
    shop.hears("bob", "2025-03-16", "clicked")
    assert shop.counts["erased"] == before + 4
    assert shop.row("bob") == mark
    shop.tick("2025-03-17")
    assert [topic for topic, *_ in shop.said[said:]] == ["churn-training"] * 2, "the days that closed"


def test_erasure_before_the_first_event_leaves_a_mark_too():
    shop = SmallShop()
    shop.says("eve", "2025-01-01", erase=True)
    shop.orders("eve", "2025-01-02", "o1")
    assert shop.row("eve").erased
    assert shop.rfm("eve") is None


def test_who_opts_out_of_profiling_is_not_predicted():
    shop = shop_with_bob(models={(30, 7): scorer()})
    shop.steers("adopt_snapshot", effective_at="2025-01-14", horizon_days=30, version=7)
    shop.tick("2025-02-20")
    assert shop.attached() > 0
    assert shop.row("bob").account.risk_version == 7
    shop.says("bob", "2025-02-20", opt_out_profiling=True)
    assert shop.attached() == 0
    shop.tick("2025-03-20")
    row = shop.row("bob")
    assert (row.account.risk, row.account.risk_at, row.account.risk_version, row.account.pending) == (-1.0, 0, 0, {})
    assert shop.decisions("bob") == [("suppressed", "profiling opt-out")]
    assert not any(value["kind"] == "example" and value["t"] > "2025-02-20" for value in shop.of("churn-training"))


# -- who is not touched, and why ---------------------------------------------------------------------------------------


def refused(shop, reason):
    """Hold that the one decision was not to send, for this reason, and that it is recorded."""
    assert not shop.commands()
    (decision,) = shop.of("recall-decisions", "bob")
    assert (decision["outcome"], decision["reason"], decision["command_id"]) == ("suppressed", reason, None)
    assert decision["at"] == rfc3339(ms(DECIDED))
    assert decision["versions"]["playbook"] == shop.customers._first
    assert decision["offsets"]["orders"] == 2
    assert shop.counts[f"suppressed.{reason}"] == 1
    assert not shop.row("bob").account.contacts


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("no consent", {"consent": {"email": {"marketing": False}}}),
        ("excluded", {"excluded": True, "opt_out_messages": True}),
        ("opted out", {"opt_out_messages": True}),
        ("profiling opt-out", {"opt_out_profiling": True}),
    ],
)
def test_what_was_said_before_is_heeded(reason, fields):
    shop = shop_with_bob()
    shop.says("bob", "2025-02-01", **fields)
    shop.tick("2025-03-15")
    refused(shop, reason)


@pytest.mark.parametrize(("unknown", "consent", "goes"), [("deny", None, False), ("deny", True, True)])
def test_consent_that_is_not_known(unknown, consent, goes):
    shop = shop_with_bob(playbook(consent={"unknown": unknown}))
    if consent is not None:
        shop.says("bob", "2025-02-01", consent={"email": {"marketing": consent}})
    shop.tick("2025-03-15")
    if goes:
        assert sent(shop)["guards"]["purpose"] == "marketing"
    else:
        refused(shop, "no consent")


@pytest.mark.parametrize(
    ("said", "shadow"), [({}, ("memory-email", "sent")), ({"opt_out_messages": True}, (None, "opted out"))]
)
def test_the_control_group_runs_as_a_shadow(said, shadow):
    shop = shop_with_bob(playbook(holdout={"share": 0.5}), salt="another salt 1")
    shop.says("bob", "2025-02-01", **said)
    shop.tick("2025-03-15")
    refused(shop, "holdout")
    (decision,) = shop.of("recall-decisions")
    assert (decision["arm"], decision["play"]) == ("control", None)
    assert (decision["shadow_play"], decision["shadow_outcome"]) == shadow
    assert shop.row("bob").episode.arm == CONTROL


def test_nothing_leaves_before_launch():
    shop = shop_with_bob(live_from=ms(DECIDED) + 1, until="2025-03-15")
    refused(shop, "before launch")
    assert sent(shop_with_bob(live_from=DECIDED, until="2025-03-15"))


def test_nothing_leaves_in_a_dry_run():
    refused(shop_with_bob(dry_run=True, until="2025-03-15"), "dry run")


def test_no_play_fits():
    book = playbook()
    book = book.model_copy(update={"plays": [book.plays[0]]})
    shop = shop_with_bob(book, until="2025-03-15")
    refused(shop, "no play")


def test_core_users_get_the_care_letter():
    shop = SmallShop()
    shop.buys_weekly("ann", FIRST)
    shop.refunds("ann", "2025-02-04", "x", 300)
    shop.tick("2025-02-05")
    assert sent(shop, "ann")["action"]["play"] == "care-letter"
    assert sent(shop, "ann")["value"]["core"]


def test_stop_and_resume_act_when_read():
    shop = shop_with_bob()
    shop.steers("stop", at="2025-03-01")
    shop.tick("2025-03-15")
    refused(shop, "stopped")
    shop.orders("cem", "2025-03-15", "c1")
    shop.steers("resume", at="2025-03-16")
    shop.tick("2025-06-15")
    assert len(shop.commands("cem")) == 1


def test_after_a_resumption_what_is_due_before_the_wall_clock_is_stale():
    def resumed(wall):
        shop = shop_with_bob(until="2025-03-01")
        shop.steers("resumed", at=shop.clock, wall=wall)
        shop.tick("2025-03-15")
        return shop

    refused(resumed(later(DECIDED, days=3) + 1), "stale")
    assert sent(resumed(later(DECIDED, days=3)))
    assert sent(resumed("2025-03-10")), "the clock has passed it"


@pytest.mark.parametrize(("early", "decision"), [(1, ("suppressed", "cap")), (0, ("sent", "sent"))])
def test_caps_are_rolling_windows(early, decision):
    shop = SmallShop(playbook(caps={"user": {"touches": 1, "days": 30}}))
    shop.buys_weekly("ann", FIRST)

    def order_and_refund(at, order_id):
        """From `high` to `potential`."""
        shop.orders("ann", later(at, hours=-1), order_id, 600)
        shop.refunds("ann", at, order_id, 900)
        shop.tick(later(at, hours=1))
        return shop.decisions("ann")[-1]

    assert order_and_refund("2025-02-04", "r1") == ("sent", "sent")
    assert order_and_refund(later("2025-02-04", days=30) - early, "r2") == decision


def test_caps_by_channel():
    caps = {"user": {"touches": 9, "days": 30}, "channel": {"email": {"touches": 0, "days": 1}}}
    refused(shop_with_bob(playbook(caps=caps), until="2025-03-15"), "cap")
    caps = {"user": {"touches": 9, "days": 30}, "channel": {"sms": {"touches": 0, "days": 1}}}
    assert sent(shop_with_bob(playbook(caps=caps), until="2025-03-15"))


# -- a source that is down ---------------------------------------------------------------------------------------------


def hours(first, until):
    return range(ms(first), ms(until), HOUR_MS)


def test_a_weekend_in_which_a_source_is_down_makes_nobody_silent():
    """2025-03-14 is a Friday: the orders stop that morning, before bob's silence, and come back on Monday."""
    shop = shop_with_bob(require_heartbeat=("orders",), stall_ms=2 * HOUR_MS)
    shop.orders("cem", "2025-01-14", "o1")
    for at in hours("2025-03-13", "2025-03-14T08"):
        shop.steers("heartbeat", source="orders", at=at)
    for at in hours("2025-03-14T08", "2025-03-17T08"):
        shop.tick(at)
    assert not shop.of("tier-changes", "cem")
    assert shop.tier("bob") == "potential"
    assert shop.counts["silence held"] >= 48

    # What was done in the weekend is told now: cem has ordered.
    back = ms("2025-03-17T08")
    shop.steers("heartbeat", source="orders", at=back)
    shop.orders("cem", "2025-03-15T12", "o2")
    for at in hours("2025-03-17T08", "2025-03-18T08"):
        shop.steers("heartbeat", source="orders", at=at)
    assert shop.tier("bob") == "potential", "one lateness longer"
    for at in hours("2025-03-18T08", "2025-03-18T12"):
        shop.steers("heartbeat", source="orders", at=at)
        shop.tick(at)
    change = shop.of("tier-changes", "bob")[-1]
    assert (change["to_tier"], change["at"]) == ("silent", rfc3339(ms(SILENT)))
    assert shop.tier("cem") == "potential"
    assert sent(shop)["issued_at"] >= rfc3339(ms("2025-03-18T08"))


def test_a_source_that_never_gave_a_sign_of_life_holds_the_silence():
    shop = shop_with_bob(require_heartbeat=("orders", "cart"), stall_ms=HOUR_MS)
    shop.tick("2025-03-14T12")
    for at in hours("2025-03-14T12", "2025-03-15"):
        shop.steers("heartbeat", source="orders", at=at)
        shop.tick(at)
    assert shop.tier("bob") == "potential"
    shop.steers("heartbeat", source="cart", at="2025-03-15")
    shop.steers("heartbeat", source="orders", at="2025-03-15")
    shop.tick("2025-03-15T01")
    assert shop.tier("bob") == "silent"


# -- the model ---------------------------------------------------------------------------------------------------------


def test_the_command_tells_the_risk_once_a_snapshot_is_in_force():
    assert sent(shop_with_bob(until="2025-03-15"))["risk"] is None
    shop = shop_with_bob(models={(30, 7): scorer()})
    shop.steers("adopt_snapshot", effective_at="2025-02-01", horizon_days=30, version=7)
    shop.tick("2025-03-15")
    command = sent(shop)
    assert command["risk"]["model_version"] == command["versions"]["snapshot"] == 7
    assert 0 < command["risk"]["probability"] < 1
    assert command["risk"]["top_factors"]
    assert shop.row("bob").account.risk == command["risk"]["probability"]


# -- at random ---------------------------------------------------------------------------------------------------------

USERS = ("ann", "bob", "cem", "dora", "eve", "finn")
START = ms(FIRST)
ACTS = ("view", "order", "order", "order", "refund", "cancel", "late order", "late view", "out", "in", "erase", "click")
histories = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 5, 26, 26, 24 * 7, 24 * 7, 24 * 21, 24 * 47, 24 * 61]),
        st.sampled_from(USERS),
        st.sampled_from(ACTS),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=30,
)


def live(shop, history):
    """Tell a history of (hours since the one before, user, act, number)."""
    at, placed = START, []
    for hours, user, act, number in history:
        at += hours * HOUR_MS + 60_000
        mine = [order for whose, order in placed if whose == user]
        match act:
            case "order" | "late order":
                placed.append((user, f"o{len(placed)}"))
                late = number * DAY_MS if act == "late order" else 0
                shop.orders(user, at - late, placed[-1][1], 10 * number + 20, products=[f"p{number}"])
            case "refund" if mine:
                shop.refunds(user, at, mine[number % len(mine)], number)
            case "cancel" if mine:
                shop.cancels(user, at, mine[number % len(mine)])
            case "late view":
                shop.views(user, at - number * HOUR_MS)
            case "out" | "in":
                shop.says(user, at, consent={"email": {"marketing": act == "in"}}, opt_out_profiling=number == 7)
            case "erase" if number < 5:
                shop.says(user, at, erase=True)
            case "click":
                shop.hears(user, at, "clicked" if number % 3 else "unsubscribed")
            case _:
                shop.views(user, at)
    shop.tick(later(at, days=70))
    return shop


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=histories, live_from=st.integers(0, 400))
def test_no_command_for_the_control_group_nor_before_launch(history, live_from):
    launch = START + live_from * DAY_MS
    book = playbook(holdout={"share": 0.5})
    shop = live(SmallShop(book, live_from=launch), history)
    held_out = Holdout(SALT, 0.5, book.holdout.epoch_days)
    days = shop.days
    opened = {value["episode_id"]: ms(value["opened_at"][:-1]) for value in shop.of("recall-decisions")}
    for command in shop.commands():
        assert ms(command["issued_at"][:-1]) >= launch
        assert held_out.arm(command["user_id"].encode(), days.of(opened[command["episode_id"]])) != CONTROL
    for decision in shop.of("recall-decisions"):
        day = days.of(ms(decision["opened_at"][:-1]))
        assert decision["arm"] == held_out.arm(decision["user_id"].encode(), day)
    # Every command has one decision that sent it, and every suppressed one its reason.
    decided = shop.of("recall-decisions")
    sent_ids = [value["command_id"] for value in decided if value["outcome"] == "sent"]
    assert sent_ids == [command["command_id"] for command in shop.commands()]
    assert len(set(sent_ids)) == len(sent_ids)
    suppressed = Counter(value["reason"] for value in decided if value["outcome"] == "suppressed")
    assert suppressed == {name[11:]: n for name, n in shop.counts.items() if name.startswith("suppressed.")}
    assert {command for command, _ in shop.cancellations()} <= set(sent_ids)


def test_both_arms_and_both_sides_of_the_launch_occur():
    """What the test above forbids would happen: the same history has commands, some held out, some too early."""
    history = [(26, user, "order", 9) for _ in range(2) for user in USERS] + [(24 * 100, "ann", "view", 0)]
    for launch, reasons in ((0, {"sent", "holdout"}), (START + 400 * DAY_MS, {"before launch", "holdout"})):
        shop = live(SmallShop(playbook(holdout={"share": 0.5}), live_from=launch), history)
        decided = {value["reason"] for value in shop.of("recall-decisions") if value["outcome"] != "ended"}
        assert decided >= reasons


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    history=histories,
    rows_max=st.sampled_from([2, 3, 5, 64]),
    records_max=st.sampled_from([1, 2, 7, 64]),
    n=st.sampled_from([1, 3, 1000]),
    restart_every=st.sampled_from([0, 3, 20]),
    adopted=st.integers(0, 200),
)
def test_the_cuts_change_nothing(history, rows_max, records_max, n, restart_every, adopted):
    new = playbook("new", tiers={"silence_days": 40}, rfm={"r_days": [5, 9, 50, 99]})
    books = [playbook(holdout={"share": 0.2}), new]
    models = {(30, 7): Scorer(snapshot(alert_above=0.5)), (45, 3): Scorer(snapshot(3, horizon_days=45))}
    shop = SmallShop(*books, models=models, horizons_days=(30, 45))
    day = START + adopted * DAY_MS
    shop.steers("adopt_snapshot", effective_at=day, horizon_days=30, version=7)
    shop.steers("adopt_snapshot", effective_at=day + DAY_MS, horizon_days=45, version=3)
    shop.steers("adopt_playbook", effective_at=day + 5 * DAY_MS, version=new.version)
    live(shop, history)

    def backlog(**cuts):
        return Backlog(shop.told, make_shop(horizons_days=(30, 45)), books, models=models, **cuts)

    whole = backlog(rows_max=4096, records_max=4096).finish()
    pieces = backlog(rows_max=rows_max, records_max=records_max).finish(n, restart_every)
    assert pieces.by_user == whole.by_user
    assert pieces.examples == whole.examples
    assert pieces.rows == whole.rows
    assert pieces.counts == whole.counts


def test_a_replay_gives_the_same_commands_and_what_the_decisions_had_seen():
    history = [(7, user, act, 9) for act in ("order", "order", "view") for user in USERS]
    shop = live(SmallShop(), [*history, (24 * 61, "ann", "order", 3), (24 * 61, "bob", "view", 3)])
    assert len(shop.commands()) >= len(USERS)
    for records_max in (1, 4096):
        replayed = Backlog(shop.told, make_shop(), [playbook()], records_max=records_max).finish()
        values = [(output.topic, orjson.loads(output.value)) for output in replayed.outputs]
        for topic in ("recall", "recall-decisions", "tier-changes"):
            again = sorted((orjson.dumps(value) for name, value in values if name == topic), key=bytes)
            assert again == sorted((orjson.dumps(value) for value in shop.of(topic)), key=bytes)
