"""Over random lives, feedback and wishes: no cap, quiet hour, consent, exclusion or budget is ever broken."""

import datetime as dt
from collections import Counter
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from customers import SmallShop, ms, playbook
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from schemas.values import rfc3339
from worker.recall.days import DAY_MS, HOUR_MS

START = "2025-01-06T08:00"
USERS = ("ann", "bob")
CHANNELS = ("push", "email", "sms")
COMEBACK = {
    "name": "comeback",
    "opening": ["silence", "tier_drop", "tier_reached"],
    "kind": "care",
    "template": "comeback",
    "rungs": list(CHANNELS),
    "cool_down_days": 0,
    "valid_days": 3,
    "success": {"track": {"order": 1}, "within_days": 7},
}
PLAYS = [
    {**COMEBACK, "incentive": {"form": "amount", "face_values": ["0.2", "0.4"], "expected_redemption": 0.25}},
    {**COMEBACK, "name": "letter", "rungs": ["email"]},
]


class Bounds(NamedTuple):
    """How tight the guards are."""

    touches: int
    emails: int
    grant: str
    share_max: float

    def playbook(self):
        return playbook(
            plays=PLAYS,
            choice={"priors": {}},
            signals=[],
            tiers={"silence_days": 3, "hold_days": 0, "guard_days": 0},
            caps={
                "user": {"touches": self.touches, "days": 14},
                "channel": {"email": {"touches": self.emails, "days": 7}},
            },
            quiet_hours={"from": "21:00", "to": "09:00", "channels": ["push", "sms"]},
            channels={"cost": {"push": "0.01", "email": "0.02", "sms": "0.05"}},
            ladder={"wait_days": {"push": 1, "email": 1}, "alarm_after": 1000},
            potential={"high": 1, "middle": 0},
            subsidy={"cool_down_days": 10, "share_max": self.share_max, "hunter_above": 0.9},
            observe_days=7,
        )


TIGHT = Bounds(touches=2, emails=1, grant="0.02", share_max=0.1)
LOOSE = Bounds(touches=20, emails=10, grant="5", share_max=0.3)
BOUNDS = [TIGHT, LOOSE, LOOSE._replace(touches=3), LOOSE._replace(grant="0.1"), LOOSE._replace(emails=1)]
ZONES = ["Asia/Shanghai", "America/New_York", "Europe/Berlin"]
"""Berlin is the shop's."""

ACTIONS = st.one_of(
    st.tuples(st.just("waits"), st.integers(1, 120)),
    st.tuples(st.just("lies low"), st.integers(3, 9)),
    st.tuples(st.just("lies low"), st.integers(6, 12)),
    st.tuples(st.just("views"), st.just(0)),
    st.tuples(st.just("orders"), st.booleans()),
    st.tuples(st.just("consents"), st.tuples(st.sampled_from(CHANNELS), st.booleans())),
    st.tuples(st.just("excluded"), st.booleans()),
    st.tuples(st.just("lives in"), st.sampled_from(ZONES)),
    st.tuples(st.just("feedback"), st.sampled_from(["delivered", "delivered", "clicked", "bounced", "converted"])),
)


class Life:
    """What was told of a user, and since when."""

    def __init__(self, user):
        self.user = user
        self.consent: dict[str, list[tuple[int, bool]]] = {channel: [(0, True)] for channel in CHANNELS}
        self.excluded = [(0, False)]
        self.zone = [(0, "Europe/Berlin")]

    @staticmethod
    def at(told, at):
        return [value for since, value in told if since <= at][-1]


def live(shop, life, action, what):
    """Let one thing happen, a minute after what was before."""
    now = shop.clock + 60_000
    match action:
        case "waits":
            shop.tick(now + what * HOUR_MS)
        case "lies low":
            for _ in range(what):
                shop.tick(shop.clock + 26 * HOUR_MS)
                live(shop, life, "feedback", "delivered")
        case "views":
            shop.views(life.user, now)
        case "orders":
            shop.orders(life.user, now, f"order {now}", coupon="SALE" if what else None)
        case "consents":
            channel, allowed = what
            life.consent[channel].append((now, allowed))
            shop.says(life.user, now, consent={channel: {"marketing": allowed}})
        case "excluded":
            life.excluded.append((now, what))
            shop.says(life.user, now, excluded=what)
        case "lives in":
            life.zone.append((now, what))
            shop.says(life.user, now, timezone=what)
        case "feedback" if shop.commands(life.user):
            command = shop.commands(life.user)[-1]
            shop.hears(life.user, now, what, command["command_id"], command["delivery"]["channel"])


def issued(command):
    return round(dt.datetime.fromisoformat(command["issued_at"]).timestamp() * 1000)


def shop_of(bounds):
    shop = SmallShop(bounds.playbook(), timezone="Europe/Berlin", daily=None)
    shop.grants(START, bounds.grant, until="2030-01-01")
    shop.tick(START)
    for n, user in enumerate(USERS):
        shop.buys_weekly(user, ms(START) + n * HOUR_MS)
    return shop


# A life that breaks a guard is told as it is: to shorten one takes minutes.
@settings(max_examples=80, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    bounds=st.sampled_from(BOUNDS),
    steps=st.lists(st.tuples(st.sampled_from(USERS), ACTIONS), min_size=10, max_size=40),
)
def test_no_guard_is_ever_broken(bounds, steps):
    shop, lives = shop_of(bounds), {user: Life(user) for user in USERS}
    for user, (action, what) in steps:
        live(shop, lives[user], action, what)
    for user, life in lives.items():
        _holds_for(life, shop.commands(user), bounds)
        assert _one_touch_a_rung(shop.commands(user))
    _spends_no_more_than_was_granted(shop, bounds)
    _few_hold_an_incentive(shop, bounds)


@pytest.mark.parametrize(
    ("bounds", "met"),
    [
        (TIGHT, {"sent", "no budget", "quiet hours"}),
        (LOOSE, {"sent", "quiet hours", "subsidy share"}),
        (LOOSE._replace(touches=3), {"sent", "cap"}),
        (LOOSE._replace(grant="0.1"), {"sent", "no budget"}),
    ],
)
def test_such_lives_do_run_into_the_guards(bounds, met):
    """Say by one long life that what is held above is not held of nothing."""
    shop, lives = shop_of(bounds), {user: Life(user) for user in USERS}
    for _ in range(10):
        for user in USERS:
            live(shop, lives[user], "lies low", 6)
            live(shop, lives[user], "orders", False)
    reasons = Counter(reason for _, reason in shop.decisions())
    assert met <= set(reasons), reasons


def test_the_ladder_is_climbed_to_its_end_and_the_last_touch_holds_the_incentive():
    shop, life = shop_of(LOOSE), Life("ann")
    for _ in range(20):
        live(shop, life, "lies low", 9)
        live(shop, life, "orders", False)
    commands = shop.commands("ann")
    assert {command["delivery"]["channel"] for command in commands} == set(CHANNELS)
    held = [command for command in commands if command["action"]["price_incentive"]]
    assert held
    assert all(Decimal(command["cost"]["incentive"]) > 0 for command in held)


def _holds_for(life, commands, bounds):
    times = [(issued(command), command["delivery"]["channel"]) for command in commands]
    for at, channel in times:
        assert Life.at(life.consent[channel], at)
        assert not Life.at(life.excluded, at)
        wall = dt.datetime.fromtimestamp(at / 1000, ZoneInfo(Life.at(life.zone, at)))
        assert channel == "email" or 9 <= wall.hour < 21
        window = [other for other, _ in times if at - 14 * DAY_MS < other <= at]
        assert len(window) <= bounds.touches
        emails = [other for other, by in times if by == "email" and at - 7 * DAY_MS < other <= at]
        assert len(emails) <= bounds.emails


def _one_touch_a_rung(commands):
    rungs = [(command["episode_id"], command["action"]["play"], command["delivery"]["channel"]) for command in commands]
    return len(set(rungs)) == len(rungs)


def _spends_no_more_than_was_granted(shop, bounds):
    """Of contacts nothing comes back here, so that a day's contacts may not cost more than its grant."""
    by_day: dict[int, Decimal] = {}
    for command in shop.commands():
        day = shop.days.of(issued(command))
        by_day[day] = by_day.get(day, Decimal(0)) + Decimal(command["cost"]["contact"])
        assert by_day[day] <= Decimal(bounds.grant), rfc3339(issued(command))
        assert command["cost"]["budget"] == "daily"


def _few_hold_an_incentive(shop, bounds):
    given = []
    for command in sorted(shop.commands(), key=issued):
        week = shop.days.week(shop.days.of(issued(command)))
        held = command["action"]["price_incentive"] is not None
        given.append((week, held))
        lately = [incentive for at, incentive in given if at > week - 4]
        assert not held or sum(lately) <= bounds.share_max * len(lately) + 1e-9
        assert not held or (command["step"] > 0 and command["delivery"]["channel"] == "sms")
