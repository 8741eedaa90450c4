"""Random stories of a small shop: playbooks, customers' lives, a CRM that answers what it was told to do, control.

A story is drawn as plain data and then lived record by record at the live edge; what the CRM tells depends on the
commands that came. `judge.py` holds what went out to the contracts.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

from customers import SmallShop, ms, playbook, scorer
from hypothesis import strategies as st

from worker.recall.days import DAY_MS, HOUR_MS, MINUTE_MS
from worker.recall.playbook import Playbook

START = ms("2025-01-06T06:00")
RUNGS = ("in_app", "push", "email", "sms", "human")
USERS = ("ann", "bob", "cid")
TIMEZONES = ("UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland", "Asia/Kolkata")
DOWN = ["tier_drop", "silence"]
ANY = ["tier_drop", "silence", "risk", "signal", "rhythm", "tier_reached", "near_tier"]
SIGNALS = [
    {"name": "quiet", "when": [{"feature": "view_before", "at_least": 2}, {"feature": "view_30d", "at_most": 1}]}
]


def often(usual, *others):
    """Return a strategy that gives the first value half of the time."""
    return st.sampled_from([usual] * len(others) + list(others))


# -- playbooks ---------------------------------------------------------------------------------------------------------

LADDERS = [list(RUNGS), ["in_app", "push", "email"], ["push", "email", "human"], ["push", "email"], ["email"]]
ladders = st.one_of(
    st.sampled_from(LADDERS),
    st.sampled_from(LADDERS),
    st.sets(st.sampled_from(RUNGS), min_size=1).map(lambda chosen: [rung for rung in RUNGS if rung in chosen]),
)
incentives = st.fixed_dictionaries(
    {
        "form": often("amount", "percent", "points"),
        "face_values": st.sampled_from([["5"], ["5", "10"], ["2", "4", "8"]]),
        "expected_redemption": st.sampled_from([0.1, 0.5, 1.0]),
        "points": st.sampled_from([0, 0, 100]),
    }
)
steps = st.lists(
    st.builds(
        lambda channel, count: {"channel": channel, "count": count, "template": f"do-{channel}"},
        st.sampled_from(["view", "check_in", "cart_add"]),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=3,
)
tracks = st.sampled_from([{"order": 1}, {"order": 1}, {"view": 2}, {"check_in": 1, "order": 1}, {"order": 2}])


@st.composite
def plays(draw, name):
    play: dict[str, Any] = {
        "name": name,
        "opening": draw(st.sampled_from([ANY, ANY, DOWN, ["silence"], ["rhythm", "risk", "signal"], ["tier_reached"]])),
        "kind": draw(often("memory", "care", "vip", "points_expiry", "habit")),
        "template": f"{name}-template",
        "rungs": draw(ladders),
        "budget": draw(often("daily", "promo")),
        "cool_down_days": draw(st.sampled_from([0, 5, 30])),
        "approval": draw(often(False, *[False] * 3, True)),
        "success": {"track": draw(tracks), "within_days": draw(st.sampled_from([20, 30, 60]))},
        "valid_days": draw(st.sampled_from([1, 2, 5])),
    }
    if draw(st.booleans()):
        play["incentive"] = draw(incentives)
    if play["kind"] == "habit":
        play["steps"] = draw(steps)
    if draw(often(False, False, True)):
        play["cost"] = draw(st.sampled_from([{"contact": "0.25"}, {"contact": "0"}, {"hidden": "0.5"}]))
    if draw(often(False, False, False, True)):
        play |= draw(
            st.sampled_from(
                [
                    {"audience": "core"},
                    {"tiers": ["silent", "marginal"]},
                    {"from_tiers": ["high", "potential"]},
                    {"potential": ["high"]},
                ]
            )
        )
    return play


quiet_hours = st.sampled_from(
    [
        {"from": "00:00", "to": "00:00"},
        {"from": "21:00", "to": "09:00"},
        {"from": "05:30", "to": "13:00"},
        {"from": "22:15", "to": "06:45", "channels": ["email", "push"]},
        {"from": "09:00", "to": "08:00", "channels": list(RUNGS)},
    ]
)
caps = st.fixed_dictionaries(
    {
        "user": st.builds(
            lambda touches, days: {"touches": touches, "days": days},
            st.sampled_from([9, 9, 9, 9, 4, 3, 2, 1, 0]),
            st.sampled_from([14, 28, 7, 1]),
        ),
        "channel": st.just({})
        | st.dictionaries(
            st.sampled_from(RUNGS),
            st.builds(
                lambda touches, days: {"touches": touches, "days": days},
                st.integers(0, 2),
                st.sampled_from([3, 10, 28]),
            ),
            max_size=2,
        ),
    }
)


@st.composite
def books(draw, name="first"):
    """Draw a playbook; what makes for little to see is drawn seldom."""
    chosen = draw(st.integers(1, 3))
    raw: dict[str, Any] = {
        "tiers": {
            "silence_days": draw(st.sampled_from([10, 7, 20])),
            "hold_days": draw(st.sampled_from([0, 5])),
            "guard_days": draw(st.sampled_from([0, 10])),
        },
        "rfm": {"r_days": [4, 8, 16, 40]},
        "holdout": {"share": draw(often(0.0, 0.0, 0.2, 0.5)), "epoch_days": draw(st.sampled_from([125, 182]))},
        "consent": {"unknown": draw(often("allow", "allow", "allow", "deny"))},
        "caps": draw(caps),
        "quiet_hours": draw(quiet_hours),
        "checkout": {"hold_hours": draw(st.sampled_from([2, 0, 48]))},
        "ladder": {
            "wait_days": {rung: draw(st.integers(1, 3)) for rung in RUNGS},
            "top": draw(
                st.sampled_from(
                    [
                        {"tiers": ["high", "potential", "marginal"], "potential": ["high", "middle"]},
                        {"tiers": ["high"], "potential": ["high"]},
                        {"tiers": [], "potential": []},
                    ]
                )
            ),
            "human_per_day": draw(st.sampled_from([1, 5, 0])),
            "alarm_after": draw(st.sampled_from([20, 20, 2])),
        },
        "potential": draw(
            st.sampled_from(
                [
                    {"order_value": ["10", "20"], "orders_a_year": [0.5, 1.0]},
                    {"order_value": ["100", "400"], "orders_a_year": [1.0, 6.0], "middle_rungs": ["push", "email"]},
                ]
            )
        ),
        "rhythm": {"min_orders": 3, "factor": 1.2, "deviations": 0.5},
        "near_tier": {"tiers": ["potential", "marginal"], "short_by": 3, "cool_down_days": 20},
        "subsidy": {
            "hunter_above": draw(st.sampled_from([0.6, 0.4])),
            "min_orders": 2,
            "cool_down_days": draw(st.sampled_from([5, 40])),
            "share_max": draw(st.sampled_from([1.0, 0.5, 0.3])),
        },
        "choice": {
            "mode": draw(st.sampled_from(["rule", "learned"])),
            "floor": draw(st.sampled_from([0.05, 0.0, 0.2])),
            "response_days": draw(st.sampled_from([7, 28])),
            "priors": {f"play{n}": {"with": draw(st.sampled_from([0.1, 0.4])), "without": 0.1} for n in range(chosen)},
        },
        "budgets": {"core_share": draw(st.sampled_from([0.3, 0.0, 0.9]))},
        "observe_days": draw(st.sampled_from([20, 40])),
        "signals": SIGNALS,
        "plays": [draw(plays(f"play{n}")) for n in range(chosen)],
    }
    return playbook(name, **raw)


# -- lives -------------------------------------------------------------------------------------------------------------


class Phase(NamedTuple):
    """A stretch of a user's life: so many times something, so many hours apart."""

    does: str
    n: int = 1
    hours: int = 24
    fields: tuple[tuple[str, Any], ...] = ()


def fields(**told):
    return tuple(told.items())


SAYS = [
    fields(timezone="Asia/Kolkata"),
    fields(timezone="America/New_York"),
    fields(points=100, points_expire_at="2025-04-20T00:00:00Z"),
    fields(consent={"email": {"marketing": False}}),
    fields(consent={channel: {"marketing": True} for channel in RUNGS}),
    fields(consent={"push": {"marketing": False}, "in_app": {"marketing": False}}),
    fields(opt_out_messages=True),
    fields(opt_out_messages=False),
    fields(opt_out_profiling=True),
    fields(opt_out_profiling=False),
    fields(excluded=True),
    fields(excluded=False),
    fields(erase=True),
]
buying = st.builds(
    lambda n, days, revenue, discount: Phase("orders", n, 24 * days, fields(revenue=revenue, discount=discount)),
    st.integers(2, 6),
    st.integers(1, 6),
    st.sampled_from([20, 150, 600]),
    often(0, 5),
)
being_gone = st.builds(lambda days: Phase("is gone", days), st.sampled_from([25, 12, 40, 3]))
phases = st.one_of(
    buying,
    being_gone,
    being_gone,
    st.builds(lambda n, hours: Phase("views", n, hours), st.integers(1, 6), st.sampled_from([5, 24, 80])),
    st.builds(lambda what, n: Phase(what, n, 9), st.sampled_from(["checks in", "adds to cart"]), st.integers(1, 3)),
    st.sampled_from(
        [
            Phase("checks out", 1, 3),
            Phase("refunds", 1, 5),
            Phase("cancels", 1, 5),
            Phase("uninstalls", 1, 20),
            Phase("uninstalls", 1, 50),
            Phase("opens the app", 1, 20),
            Phase("ordered long ago", 1, 2, fields(days=3)),
            Phase("ordered long ago", 1, 2, fields(days=25)),
            Phase("looked long ago", 1, 2, fields(days=12)),
        ]
    ),
    st.builds(lambda said: Phase("says", 1, 7, said), st.sampled_from(SAYS)),
)
lives = st.builds(
    lambda begin, rest, hour: (Phase("is born", 1, hour), *begin, *rest),
    st.tuples(buying, being_gone),
    st.lists(phases, max_size=6),
    st.integers(0, 23),
)

# -- the CRM -----------------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What a channel tells of a command: so long after it was issued, and how much later that is read."""

    status: str
    after_hours: float
    late_hours: float = 0.0
    cost: str | None = None
    times: int = 1


class Reaction(NamedTuple):
    """What becomes of a command; `then` is what the user does himself, so long after it was issued."""

    told: tuple[Told, ...] = ()
    then: tuple[str, float] | None = None


DELIVERED = Told("delivered", 0.5)
REACTIONS = (
    Reaction(),
    Reaction((DELIVERED, Told("opened", 2))),
    Reaction((Told("delivered", 1, times=2), Told("opened", 1.5, times=2))),
    Reaction((Told("delivered", 1, cost="0.5"),)),
    Reaction((Told("delivered", 1, cost="0", times=2),)),
    Reaction((Told("delivered", 2, late_hours=60),)),
    Reaction((Told("delivered", 2, late_hours=200),)),
    Reaction((DELIVERED, Told("clicked", 5))),
    Reaction((DELIVERED, Told("clicked", 5, late_hours=80), Told("clicked", 6, times=2))),
    Reaction((DELIVERED, Told("visited", 30)), ("views", 30.1)),
    Reaction((DELIVERED,), ("views", 10)),
    Reaction((DELIVERED,), ("orders", 20)),
    Reaction((DELIVERED,), ("checks in", 4)),
    Reaction((DELIVERED,), ("checks out", 23)),
    Reaction((DELIVERED, Told("converted", 20.5, cost="3")), ("orders", 20)),
    Reaction((DELIVERED, Told("converted", 20.5, times=2)), ("orders", 20)),
    Reaction((DELIVERED,), ("uninstalls", 3)),
    Reaction((Told("bounced", 1),)),
    Reaction((Told("bounced", 1, cost="0", times=2), Told("delivered", 30))),
    Reaction((Told("failed", 2, late_hours=30),)),
    Reaction((DELIVERED, Told("unsubscribed", 3))),
)
unanswered = Reaction((DELIVERED,))
reactions = st.one_of(st.just([unanswered]), st.lists(often(unanswered, *REACTIONS), min_size=1, max_size=8))

# -- control -----------------------------------------------------------------------------------------------------------


class Steer(NamedTuple):
    """A control record on a day of the story; an effective time lies so many hours ahead of it."""

    day: float
    kind: str
    ahead_hours: float = 1.0
    fields: tuple[tuple[str, Any], ...] = ()


def grant(budget, amount, period, price, until_days=None):
    return fields(budget_id=budget, amount=amount, period=period, shadow_price=price, until_days=until_days)


grants = st.builds(
    lambda day, ahead, told: Steer(day, "grant", ahead, told),
    st.sampled_from([0, 0, 10, 30.4, 60]),
    st.sampled_from([1, 30, -5]),
    st.builds(
        grant,
        st.sampled_from(["daily", "promo"]),
        st.sampled_from(["1000", "1", "0.2", "4", "0"]),
        often("day", "campaign"),
        st.sampled_from(["0", "0.5", "2"]),
        st.sampled_from([None, None, 20]),
    ),
)
steering = st.one_of(
    grants,
    st.builds(lambda day, kind: Steer(day, kind, 0), st.floats(5, 90), st.sampled_from(["stop", "resume", "resume"])),
    st.builds(lambda day, days: Steer(day, "resumed", 0, fields(days=days)), st.floats(5, 90), st.sampled_from([1, 7])),
    st.builds(
        lambda day, play, days: Steer(day, "approve", 1, fields(play=play, until_days=days)),
        st.sampled_from([1, 20.2, 40.7]),
        st.sampled_from(["play0", "play1"]),
        st.sampled_from([None, 20]),
    ),
    st.builds(
        lambda day, book, share: Steer(day, "adopt_playbook", 1, fields(book=book, share=share)),
        st.floats(5, 80),
        st.sampled_from([0, 1]),
        st.sampled_from([1.0, 0.5]),
    ),
    st.builds(
        lambda day: Steer(day, "adopt_snapshot", 1, fields(horizon_days=30, version=7)), st.sampled_from([5, 30.3])
    ),
)


class Story(NamedTuple):
    """Everything that a shop's fate depends on."""

    books: tuple[Playbook, ...]
    lives: dict[str, tuple[Phase, ...]]
    reactions: list[Reaction]
    steering: list[Steer]
    timezone: str
    tick_hours: int
    live_from_day: int
    dry_run: bool
    late: bool
    """Whether records come late; without, the topics merge again in the order in which they came."""


RICH = (
    Steer(0, "grant", 1, grant("daily", "1000", "day", "0.5")),
    Steer(0, "grant", 1, grant("promo", "1000", "campaign", "0")),
)


@st.composite
def stories(draw):
    told = draw(st.lists(steering, max_size=5))
    return Story(
        books=(draw(books()), draw(books("second"))),
        lives={user: draw(lives) for user in USERS[: draw(st.sampled_from([3, 2, 1]))]},
        reactions=draw(reactions),
        steering=[*(RICH if draw(often(True, True, False)) else ()), *told],
        timezone=draw(st.sampled_from(TIMEZONES[:3])),
        tick_hours=draw(st.sampled_from([12, 5, 30])),
        live_from_day=draw(often(0, 0, 0, 30)),
        dry_run=draw(often(False, *[False] * 8, True)),
        late=draw(st.booleans()),
    )


# -- how it is lived ---------------------------------------------------------------------------------------------------


class Happened(NamedTuple):
    """A record as it was taken: `clock` is the partition's after it, so a decision at that time or later knows it."""

    topic: str
    user: str | None
    at: int
    clock: int
    value: dict[str, Any]


class ToldShop(SmallShop):
    """A shop that remembers what happened in order."""

    def __init__(self, *playbooks, **settings) -> None:
        self.happened: list[Happened] = []
        super().__init__(*playbooks, daily=None, **settings)

    def record(self, topic, user, at, value) -> None:
        super().record(topic, user, at, value)
        self.happened.append(Happened(topic, user, at, self.clock, value))


MODELS = {(30, 7): scorer()}


def shop_settings(story: Story) -> dict[str, Any]:
    return {
        "timezone": story.timezone,
        "live_from": START + story.live_from_day * DAY_MS,
        "dry_run": story.dry_run,
    }


def live(story: Story) -> ToldShop:
    """Live a story to its end, and on until every episode is over."""
    shop = ToldShop(*story.books, models=MODELS, **shop_settings(story))
    _Life(shop, story).live()
    return shop


class _Life:
    """What is to happen, in the order of the times at which it is written."""

    def __init__(self, shop: ToldShop, story: Story) -> None:
        self.shop, self.story = shop, story
        self.ahead: list[tuple[int, int, tuple[Any, ...]]] = []
        self.n = 0
        self.heard = 0
        self.commands = 0
        self.orders: dict[str, list[str]] = {user: [] for user in story.lives}

    def live(self) -> None:
        self.plan(START, "tick")
        for steer in self.story.steering:
            self.plan(START + round(steer.day * DAY_MS), "steers", steer)
        end = max(self.plan_life(user, phases) for user, phases in self.story.lives.items())
        for at in range(START, end + 30 * DAY_MS, self.story.tick_hours * HOUR_MS):
            self.plan(at, "tick")
        self.plan(end + 60 * DAY_MS, "tick")
        while self.ahead:
            at, _, what = heapq.heappop(self.ahead)
            self.happens(at if what[0] == "tick" else max(self.shop.clock + 1, at), *what)
            self.react()
        self.shop.tick(self.shop.clock + 200 * DAY_MS)

    def plan(self, at, *what) -> None:
        """Plan something; no two things are planned for the same ms, so that time tells their order."""
        self.n += 1
        heapq.heappush(self.ahead, (at // MINUTE_MS * MINUTE_MS + self.n % 60_000, self.n, what))

    def plan_life(self, user, phases) -> int:
        at = START
        for phase in phases:
            if phase.does == "is gone":
                at += phase.n * DAY_MS
            elif phase.does == "is born":
                at += phase.hours * HOUR_MS
            else:
                for _ in range(phase.n):
                    self.plan(at, "does", user, phase.does, dict(phase.fields))
                    at += phase.hours * HOUR_MS
        return at

    def happens(self, at, kind, *what) -> None:
        shop = self.shop
        if kind == "tick":
            if at > shop.clock:
                shop.tick(at)
        elif kind == "steers":
            self.steers(at, *what)
        elif kind == "does":
            self.does(at, *what)
        elif kind == "hears":
            user, told, command, issued_at = what
            happened_at = issued_at + round(told.after_hours * HOUR_MS)
            cost = {} if told.cost is None else {"actual_cost": told.cost}
            message = f"{command['command_id']} {told.status}"
            self.shop.hears(
                user,
                happened_at if self.story.late else at,
                told.status,
                command["command_id"],
                command["delivery"]["channel"],
                messageId=message,
                **cost,
            )

    def steers(self, at, steer) -> None:
        shop, told = self.shop, dict(steer.fields)
        effective_at = at + round(steer.ahead_hours * HOUR_MS)
        if (days := told.pop("until_days", None)) is not None:
            told["until"] = at + days * DAY_MS
        if steer.kind == "grant":
            shop.steers("grant", effective_at=effective_at, currency="EUR", **told)
        elif steer.kind in {"approve", "adopt_snapshot"}:
            shop.steers(steer.kind, effective_at=effective_at, **told)
        elif steer.kind == "adopt_playbook":
            version = self.story.books[told["book"]].version
            shop.steers("adopt_playbook", effective_at=effective_at, version=version, share=told["share"])
        elif steer.kind == "resumed":
            shop.steers("resumed", at=shop.clock, wall=at + told["days"] * DAY_MS)
        else:
            shop.steers(steer.kind, at=at)

    def does(self, at, user, what, told) -> None:
        shop, orders = self.shop, self.orders[user]
        if what in {"ordered long ago", "looked long ago"}:
            if self.story.late:
                at -= told["days"] * DAY_MS
            what = "orders" if what.startswith("ordered") else "views"
        if what == "orders":
            order = f"{user} {len(orders)}"
            orders.append(order)
            discount = {"discount": told["discount"]} if told.get("discount") else {}
            shop.orders(user, at, order, told.get("revenue", 80), products=["p1"], **discount)
        elif what in {"refunds", "cancels"}:
            if orders:
                (shop.refunds if what == "refunds" else shop.cancels)(user, at, orders[-1])
        elif what == "says":
            shop.says(user, at, **told)
        elif what == "views":
            shop.views(user, at)
        elif what == "adds to cart":
            shop.does(user, at, "Product Added", product_id="p2", category="hats", price=9)
        else:
            events = {
                "checks in": "Checked In",
                "checks out": "Checkout Started",
                "uninstalls": "Application Uninstalled",
                "opens the app": "Application Opened",
            }
            shop.does(user, at, events[what])

    def react(self) -> None:
        """Let the CRM carry out what has come."""
        for said in self.shop.said[self.heard :]:
            if said.topic != "recall" or "action" not in said.value:
                continue
            reaction = self.story.reactions[self.commands % len(self.story.reactions)]
            self.commands += 1
            issued_at = ms(said.value["issued_at"][:-1])
            for told in reaction.told:
                for again in range(told.times):
                    at = issued_at + round((told.after_hours + told.late_hours + 3 * again) * HOUR_MS)
                    self.plan(max(at, self.shop.clock), "hears", said.user, told, said.value, issued_at)
            if reaction.then is not None:
                what, after_hours = reaction.then
                self.plan(max(issued_at + round(after_hours * HOUR_MS), self.shop.clock), "does", said.user, what, {})
        self.heard = len(self.shop.said)
