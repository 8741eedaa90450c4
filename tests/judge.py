"""A judge of what went out: written from the contracts alone, by what happened and what was said.

It knows records, commands, decisions and playbooks, and none of the rules' own code. A fault is told with the story
that led to it, in words.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import xxhash
from customers import SALT, ms
from policies import RUNGS, START, Happened, Story, ToldShop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.recall.playbook import Playbook
    from worker.recall.playbook.model import Play

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MICRO = 1_000_000
LATE_MS = DAY_MS
"""What a user did is counted up to so long after."""
CORE_DAYS = 180
APP = ("in_app", "push")
GRAVER = ("near_tier", "tier_reached", "rhythm", "signal", "risk", "tier_drop", "silence")
ACTS = {
    "Product Viewed": "view",
    "Checked In": "check_in",
    "Product Added": "cart_add",
    "Checkout Started": "checkout",
    "Application Opened": "app",
}
zone = cache(ZoneInfo)


def at_of(text: str | None) -> int:
    return 0 if text is None else ms(text[:-1])


def micros(text: str | Decimal) -> int:
    return int(Decimal(text) * MICRO)


def uniform(*parts: bytes) -> float:
    """The published hash of the holdout: xxh3 of the salt and the parts, between zero bytes."""
    return xxhash.xxh3_64_intdigest(b"\0".join((SALT.encode(), *parts))) / 2.0**64


class Touch(NamedTuple):
    """A command."""

    at: int
    user: str
    value: dict[str, Any]

    @property
    def id(self) -> str:
        return self.value["command_id"]

    @property
    def episode(self) -> str:
        return self.value["episode_id"]

    @property
    def channel(self) -> str:
        return self.value["delivery"]["channel"]

    @property
    def rung(self) -> int:
        return self.value["delivery"]["rung"]

    @property
    def play(self) -> str:
        return self.value["action"]["play"]

    @property
    def task(self) -> int | None:
        task = self.value["action"]["task"]
        return None if task is None else task["step"]

    @property
    def incentive(self) -> dict[str, Any] | None:
        return self.value["action"]["price_incentive"]

    @property
    def direct(self) -> int:
        return micros(self.value["cost"]["direct"])


class Judge:
    """Holds a story that was lived to every contract."""

    def __init__(self, story: Story, shop: ToldShop) -> None:
        self.story, self.shop = story, shop
        self.books = {book.version: book for book in story.books}
        self.touches = [Touch(at_of(value["issued_at"]), value["user_id"], value) for value in shop.commands()]
        self.decisions = shop.of("recall-decisions")
        self.sent = {value["command_id"]: value for value in self.decisions if value["outcome"] == "sent"}
        self.by_user: dict[str, list[Happened]] = defaultdict(list)
        for happened in shop.happened:
            if happened.user is not None:
                self.by_user[happened.user].append(happened)
        self.clocks = {user: [happened.clock for happened in mine] for user, mine in self.by_user.items()}
        self.control = [happened for happened in shop.happened if happened.topic == "control"]
        self.adoptions = self._adoptions()
        self.ever_in_force = {version for _, *versions in self.adoptions for version in versions if version is not None}

    def judge(self) -> None:
        self.commands_are_told_once()
        self.episodes_are_one_at_a_time()
        self.openings_come_to_something()
        self.arms_are_those_of_the_hash()
        self.users_stay_with_their_playbook()
        self.propensities_are_sound()
        for touch in self.touches:
            self.nothing_was_said_against(touch)
            self.within_caps(touch)
            self.not_in_quiet_hours(touch)
            self.shop_lets_it_leave(touch)
            self.play_fits(touch)
            self.no_checkout(touch)
            self.no_order_before(touch)
            self.cost_adds_up(touch)
            self.incentive_is_earned(touch)
        for touches in self.by_episode().values():
            self.ladder_is_climbed(touches)
            self.nothing_is_left_in_silence(touches)
        self.budgets_hold()
        self.people_are_not_overrun()
        self.cancelled_what_is_called_for()

    def fail(self, user: str | None, at: int, what: str) -> None:
        raise AssertionError(f"{day(at)} {user}: {what}\n\n{self.tell(user, at)}")

    # -- what is known -------------------------------------------------------------------------------------------------

    def known(self, user: str, at: int) -> list[Happened]:
        """Return the user's records that a decision at a time knows: those taken while the clock was not past it."""
        return self.by_user[user][: bisect_right(self.clocks[user], at)]

    def said(self, user: str, at: int, field: str) -> Any:
        """Return what the shop last said of a user, whenever it was said to hold."""
        said = [told.value[field] for told in self.known(user, at) if told.topic == "profiles" and field in told.value]
        return said[-1] if said else None

    def consents(self, user: str, channel: str, at: int, book: Playbook) -> bool:
        given = book.consent.unknown == "allow"
        for told in self.known(user, at):
            value = told.value
            if told.topic == "profiles":
                given = (value.get("consent") or {}).get(channel, {}).get("marketing", given)
            elif told.topic == "feedback" and (value["status"], value["channel"]) == ("unsubscribed", channel):
                given = False
        return given

    def reaches(self, user: str, channel: str, at: int) -> tuple[bool, bool]:
        """Return whether the latest sign was that a channel reaches a user, and whether there ever was another."""
        lost = found = 0
        for told in self.known(user, at):
            value = told.value
            if channel in APP and value.get("event", "").startswith("Application"):
                if value["event"] == "Application Uninstalled":
                    lost = max(lost, told.at)
                else:
                    found = max(found, told.at)
            elif told.topic == "feedback" and value["channel"] == channel:
                if value["status"] == "bounced":
                    lost = max(lost, told.at)
                elif value["status"] == "delivered":
                    found = max(found, told.at)
            elif (
                told.topic == "profiles"
                and channel not in APP
                and (value.get("consent") or {}).get(channel, {}).get("marketing")
            ):
                found = max(found, told.at)
        return lost <= found, lost > 0

    def acts(self, user: str, at: int) -> list[tuple[int, str, int]]:
        """Return what the user did himself and counts: when, what, and the clock at which it was read."""
        done = []
        for told in self.known(user, at):
            value = told.value
            event = value.get("event")
            if event == "Order Completed":
                done.append((told.at, "order", told.clock))
            elif told.at < told.clock - LATE_MS:
                continue
            elif event in ACTS:
                done.append((told.at, ACTS[event], told.clock))
            elif told.topic == "feedback" and value["status"] in {"clicked", "visited"}:
                done.append((told.at, "click", told.clock))
        return done

    def heard(self, touch: Touch, at: int) -> dict[str, int]:
        """Return what channels told of a touch, and when it first happened as told."""
        told: dict[str, int] = {}
        for happened in self.known(touch.user, at):
            if happened.topic == "feedback" and happened.value["command_id"] == touch.id:
                told.setdefault(happened.value["status"], happened.at)
        return told

    def answered(self, touch: Touch, at: int) -> bool:
        told = self.heard(touch, at)
        if told.keys() & {"clicked", "visited", "converted"}:
            return True
        return any(when > touch.at for when, _, _ in self.acts(touch.user, at))

    def orders(self, user: str, at: int) -> dict[str, tuple[int, Happened]]:
        """Return the orders that stand: when, and the record."""
        found: dict[str, tuple[int, Happened]] = {}
        cancelled = set()
        for told in self.known(user, at):
            event = told.value.get("event")
            if event == "Order Completed":
                found.setdefault(told.value["properties"]["order_id"], (told.at, told))
            elif event == "Order Cancelled":
                cancelled.add(told.value["properties"]["order_id"])
        return {order: told for order, told in found.items() if order not in cancelled}

    def touched(self, user: str, since: int, until: int) -> list[Touch]:
        """Return the user's touches after one time and up to another."""
        return [touch for touch in self.touches if touch.user == user and since < touch.at <= until]

    def by_episode(self) -> dict[str, list[Touch]]:
        found: dict[str, list[Touch]] = defaultdict(list)
        for touch in self.touches:
            found[touch.episode].append(touch)
        return found

    def shop_day(self, at: int) -> dt.date:
        return dt.datetime.fromtimestamp(at / 1000, zone(self.story.timezone)).date()

    def directives(self, kind: str) -> list[tuple[int, int, dict[str, Any]]]:
        """Return control records of a kind in the order in which they act: from when on, their place, and what."""
        found = []
        for place, told in enumerate(self.control):
            if told.value["kind"] == kind:
                effective = at_of(told.value.get("effective_at"))
                late = effective <= told.clock
                found.append((max(effective, told.clock), 0 if late else 1, place, told.value))
        return [(at, place, value) for at, _, place, value in sorted(found, key=lambda item: item[:3])]

    def _adoptions(self) -> list[tuple[int, str, str | None]]:
        """Return from when on which playbook was in force, and which for a share of the users."""
        main, canary = self.story.books[0].version, None
        found: list[tuple[int, str, str | None]] = [(0, main, None)]
        for at, _, value in self.directives("adopt_playbook"):
            if value["share"] < 1:
                canary = value["version"]
            else:
                main, canary = value["version"], None
            found.append((at, main, canary))
        return found

    def in_force(self, at: int) -> set[str]:
        _, main, canary = [adoption for adoption in self.adoptions if adoption[0] <= at][-1]
        return {main} if canary is None else {main, canary}

    def book(self, told: dict[str, Any]) -> Playbook:
        """Return the playbook that a command or decision says it was made by."""
        return self.books[told["versions"]["playbook"]]

    def play(self, touch: Touch) -> Play:
        found = self.book(touch.value).play(touch.play)
        assert found is not None
        return found

    # -- what must hold ------------------------------------------------------------------------------------------------

    def commands_are_told_once(self) -> None:
        """Each command has its id and one decision that sent it; only what was sent is cancelled."""
        sent = [value for value in self.decisions if value["outcome"] == "sent"]
        for touch, value in zip(self.touches, sent, strict=True):
            expected = (touch.id, touch.episode, touch.user, touch.value["issued_at"], touch.play, touch.channel)
            said = tuple(value[name] for name in ("command_id", "episode_id", "user_id", "at", "play", "channel"))
            if expected != said or (touch.rung, touch.value["step"]) != (value["rung"], value["step"]):
                self.fail(touch.user, touch.at, f"command and decision differ: {expected} {said}")
            if touch.value["cost"] != value["cost"]:
                self.fail(touch.user, touch.at, "command and decision tell of other costs")
        ids = [touch.id for touch in self.touches]
        for touch in self.touches:
            if ids.count(touch.id) > 1:
                self.fail(touch.user, touch.at, f"two commands have the id {touch.id}")
        told = set()
        for value in self.shop.of("recall"):
            if "cancelled_at" not in value:
                told.add(value["command_id"])
                continue
            at, user = at_of(value["cancelled_at"]), value["user_id"]
            if value["command_id"] not in told:
                self.fail(user, at, "cancelled what was not sent, or twice")
            told.discard(value["command_id"])
            if at > at_of(self.command(value["command_id"]).value["not_after"]):
                self.fail(user, at, "cancelled what is no longer valid")
        ids = [value["decision_id"] for value in self.decisions]
        for value in self.decisions:
            if ids.count(value["decision_id"]) > 1:
                self.fail(value["user_id"], at_of(value["at"]), f"two decisions have the id {value['decision_id']}")

    def command(self, command_id: str) -> Touch:
        return next(touch for touch in self.touches if touch.id == command_id)

    def episodes_are_one_at_a_time(self) -> None:
        open_now: dict[str, str] = {}
        over = set()
        gone: dict[str, dict[str, Any]] = {}
        for value in self.decisions:
            user, episode, at = value["user_id"], value["episode_id"], at_of(value["at"])
            current = open_now.get(user)
            if value["reason"] == "episode open":
                if current == episode:
                    self.fail(user, at, "an episode is kept out by itself")
                continue
            if episode in over:
                self.fail(user, at, f"an episode that is over goes on: {value['outcome']}, {value['reason']}")
            if current not in {None, episode}:
                self.fail(user, at, f"a second episode beside an open one: {value['outcome']}, {value['reason']}")
            self.is_graver_than_before(value, gone.pop(user, None))
            if is_end(value):
                open_now.pop(user, None)
                over.add(episode)
                if value["reason"] == "upgraded":
                    gone[user] = value
            else:
                open_now[user] = episode
        for user, episode in open_now.items():
            self.fail(user, self.shop.clock, f"episode {episode} never ends")

    def is_graver_than_before(self, value: dict[str, Any], gone: dict[str, Any] | None) -> None:
        """An episode takes the place of another only by a graver opening, and at once."""
        if gone is not None and GRAVER.index(value["trigger"]) <= GRAVER.index(gone["trigger"]):
            self.fail(value["user_id"], at_of(value["at"]), f"{value['trigger']} in the place of {gone['trigger']}")

    def openings_come_to_something(self) -> None:
        """Every fall, silence and rise that a play opens on ends in a command or a recorded reason."""
        told = {(value["user_id"], value["trigger"], value["opened_at"]) for value in self.decisions}
        for move in self.shop.of("tier-changes"):
            if move["cause"] == "recut" or move["to_tier"] == "new":
                continue
            if move["cause"] == "silence":
                trigger = "silence"
            elif move["direction"] == "down":
                trigger = "tier_drop"
            elif move["from_tier"] == "silent":
                continue
            else:
                trigger = "tier_reached"
            wanted = all(
                any(trigger in play.opening for play in self.books[version].plays) for version in self.ever_in_force
            )
            if wanted and (move["user_id"], trigger, move["at"]) not in told:
                self.fail(move["user_id"], at_of(move["at"]), f"nothing came of an opening: {trigger}")

    def arms_are_those_of_the_hash(self) -> None:
        arms: dict[str, str] = {}
        upgraded: dict[tuple[str, str], str] = {}
        for value in self.decisions:
            user, at, opened_at = value["user_id"], at_of(value["at"]), at_of(value["opened_at"])
            arm = arms.setdefault(value["episode_id"], value["arm"])
            if arm != value["arm"]:
                self.fail(user, at, "the arm of an episode changes")
            days = (self.shop_day(opened_at) - dt.date(1970, 1, 1)).days
            allowed = set()
            for version in self.in_force(opened_at) | self.in_force(at):
                rules = self.books[version].holdout
                epoch = (days // rules.epoch_days).to_bytes(4, "big")
                held = uniform(b"holdout", epoch, user.encode()) < rules.share
                allowed.add("control" if held else "treated")
            allowed |= {upgraded[user, value["at"]]} if (user, value["at"]) in upgraded else set()
            if value["reason"] == "upgraded":
                upgraded[user, value["at"]] = arm
            elif arm not in allowed and self.opened_alone(value):
                self.fail(user, at, f"arm {arm} instead of {allowed}")
            if arm == "control" and value["outcome"] in {"sent", "held", "proposed"}:
                self.fail(user, at, f"a user who is held out: {value['outcome']}")
        for touch in self.touches:
            if touch.value["experiment"]["arm"] != "treated" or arms[touch.episode] != "treated":
                self.fail(touch.user, touch.at, "a command to a user who is held out")

    def opened_alone(self, value: dict[str, Any]) -> bool:
        """Tell whether the episode took no other's place, of which it would have the arm."""
        return not any(
            other["reason"] == "upgraded" and other["user_id"] == value["user_id"] for other in self.decisions
        )

    def users_stay_with_their_playbook(self) -> None:
        """While a canary is out, a user is either of those who have it, or not."""
        seen: dict[tuple[str, int], str] = {}
        for value in self.decisions:
            at, version = at_of(value["at"]), value["versions"]["playbook"]
            if version not in self.in_force(at):
                self.fail(value["user_id"], at, "decided by a playbook that is not in force")
            since = max(adoption[0] for adoption in self.adoptions if adoption[0] <= at)
            if at > since and seen.setdefault((value["user_id"], since), version) != version:
                self.fail(value["user_id"], at, "a user comes and goes between two playbooks")

    def propensities_are_sound(self) -> None:
        for value in self.decisions:
            user, at, rules = value["user_id"], at_of(value["at"]), self.book(value)
            joint, own = value["propensity"], value["choice_propensity"]
            if not (0 < joint <= 1 and 0 < own <= 1):
                self.fail(user, at, f"propensities {joint} and {own}")
            share = rules.holdout.share
            expected = share if value["arm"] == "control" else (1 - share) * own
            if len(self.adoptions) == 1 and abs(joint - expected) > 2e-6:
                self.fail(user, at, f"propensity {joint} instead of {expected}")
            if value["outcome"] != "sent":
                continue
            floor = min(book.choice.floor for book in self.story.books)
            if own < floor or (len(self.adoptions) == 1 and own < rules.choice.floor):
                self.fail(user, at, f"below the floor: {own}")
            if rules.choice.mode == "rule" and own != 1 and len(self.adoptions) == 1:
                self.fail(user, at, "a rule is no draw")
            if value["segment"] is None:
                self.fail(user, at, "chosen in no segment")
        for touch in self.touches:
            told, value = touch.value["experiment"], self.sent[touch.id]
            if any(told[name] != value[name] for name in ("arm", "propensity", "choice_propensity", "segment")):
                self.fail(touch.user, touch.at, "command and decision tell of other propensities")

    def nothing_was_said_against(self, touch: Touch) -> None:
        user, at, book = touch.user, touch.at, self.book(touch.value)
        for field in ("excluded", "opt_out_messages", "opt_out_profiling", "erase"):
            if self.said(user, at, field):
                self.fail(user, at, f"touched in spite of {field}")
        if not self.consents(user, touch.channel, at, book):
            self.fail(user, at, f"touched on {touch.channel} without consent")
        if not self.reaches(user, touch.channel, at)[0]:
            self.fail(user, at, f"touched on {touch.channel}, which does not reach the user")
        if touch.value["guards"]["purpose"] != "marketing":
            self.fail(user, at, "consent for another purpose")

    def within_caps(self, touch: Touch) -> None:
        user, at, caps = touch.user, touch.at, self.book(touch.value).caps
        if len(self.touched(user, at - caps.user.days * DAY_MS, at)) > caps.user.touches:
            self.fail(user, at, f"more than {caps.user.touches} touches within {caps.user.days} days")
        cap = caps.channel.get(touch.channel)
        if cap is not None and self.used(touch.channel, user, at, cap.days) > cap.touches:
            self.fail(user, at, f"more than {cap.touches} touches on {touch.channel} within {cap.days} days")

    def used(self, channel: str, user: str, at: int, days: int) -> int:
        return sum(touch.channel == channel for touch in self.touched(user, at - days * DAY_MS, at))

    def not_in_quiet_hours(self, touch: Touch) -> None:
        rules = self.book(touch.value).quiet_hours
        timezone = self.said(touch.user, touch.at, "timezone") or self.story.timezone
        if touch.channel in rules.channels:
            wall = f"{dt.datetime.fromtimestamp(touch.at / 1000, zone(timezone)):%H:%M}"
            begin, end = rules.start, rules.end
            quiet = begin <= wall < end if begin <= end else wall >= begin or wall < end
            if quiet:
                self.fail(touch.user, touch.at, f"{touch.channel} at {wall} in {timezone}, between {begin} and {end}")
        if touch.value["delivery"]["timezone"] != timezone:
            self.fail(touch.user, touch.at, f"timezone {touch.value['delivery']['timezone']} instead of {timezone}")

    def shop_lets_it_leave(self, touch: Touch) -> None:
        at = touch.at
        if self.story.dry_run:
            self.fail(touch.user, at, "sent in a dry run")
        if at < START + self.story.live_from_day * DAY_MS:
            self.fail(touch.user, at, "sent before the launch")
        stopped = False
        for told in self.control:
            if told.clock <= at and told.value["kind"] in {"stop", "resume"}:
                stopped = told.value["kind"] == "stop"
        if stopped:
            self.fail(touch.user, at, "sent while stopped")
        for told in self.control:
            resumed = told.value["kind"] == "resumed" and at_of(told.value["at"]) <= at and told.clock <= at
            if resumed and at_of(touch.value["not_after"]) < at_of(told.value["wall"]):
                self.fail(touch.user, at, "sent though it was stale")
        if touch.value["versions"]["playbook"] not in self.in_force(at):
            self.fail(touch.user, at, "by a playbook that is not in force")
        play = self.play(touch)
        if at_of(touch.value["not_after"]) != min(at + play.valid_days * DAY_MS, self.watched_until(touch)):
            self.fail(touch.user, at, "valid for another time than its play and its episode")
        if play.approval and not self.approved(play.name, at):
            self.fail(touch.user, at, f"{play.name} was not approved")

    def watched_until(self, touch: Touch) -> int:
        """Return until when the episode of a touch is observed, from its first one on."""
        first = self.by_episode()[touch.episode][0]
        book = self.book(first.value)
        return first.at + book.within_days(self.play(first)) * DAY_MS

    def approved(self, play: str, at: int) -> bool:
        """Tell whether the latest approval of a play holds."""
        said = [value for since, _, value in self.directives("approve") if since <= at and value["play"] == play]
        if not said:
            return False
        until = at_of(said[-1].get("until"))
        return not until or at < until

    def play_fits(self, touch: Touch) -> None:
        user, at, play, reason = touch.user, touch.at, self.play(touch), touch.value["reason"]
        potential, value = reason["potential"], touch.value["value"]
        if potential == "low":
            self.fail(user, at, "disturbed in spite of low potential")
        if potential == "middle" and touch.channel not in self.book(touch.value).potential.middle_rungs:
            self.fail(user, at, f"{touch.channel} for middle potential")
        if (touch.channel, touch.value["action"]["kind"]) != (play.rungs[touch.rung], play.kind):
            self.fail(user, at, "channel or kind is not the play's")
        if touch.value["step"]:
            return
        if reason["trigger"] not in play.opening:
            self.fail(user, at, f"{play.name} is not opened by {reason['trigger']}")
        if value["tier"] not in play.tiers:
            self.fail(user, at, f"{play.name} is not for tier {value['tier']}")
        moved = reason["trigger"] in {"tier_drop", "silence", "tier_reached"}
        if moved and (reason["from_tier"] not in play.from_tiers or reason["to_tier"] not in play.to_tiers):
            self.fail(user, at, f"{play.name} is not for a move from {reason['from_tier']} to {reason['to_tier']}")
        if potential is not None and play.potential and potential not in play.potential:
            self.fail(user, at, f"{play.name} is not for potential {potential}")
        core = any(
            at_of(move["at"]) <= at and "high" in {move["to_tier"], move["from_tier"]}
            for move in self.shop.of("tier-changes", user)
        )
        if play.audience == "core" and not core:
            self.fail(user, at, f"{play.name} is for core users")
        before = [other for other in self.touched(user, at - play.cool_down_days * DAY_MS, at) if other.id != touch.id]
        if any(other.play == play.name and other.at < at for other in before):
            self.fail(user, at, f"{play.name} again within {play.cool_down_days} days")

    def no_checkout(self, touch: Touch) -> None:
        hold = self.book(touch.value).checkout.hold_hours * HOUR_MS
        acts = self.acts(touch.user, touch.at)
        began = max((when for when, what, _ in acts if what == "checkout"), default=0)
        ordered = max((when for when, what, _ in acts if what == "order"), default=0)
        if began > ordered and touch.at < began + hold:
            self.fail(touch.user, touch.at, "a checkout is in course")

    def no_order_before(self, touch: Touch) -> None:
        """Nothing is sent after an order within the episode."""
        opened_at = at_of(self.sent[touch.id]["opened_at"])
        for when, what, _ in self.acts(touch.user, touch.at):
            if what == "order" and when > opened_at:
                self.fail(touch.user, touch.at, f"sent in spite of the order of {day(when)}")

    def cost_adds_up(self, touch: Touch) -> None:
        user, at, told, play = touch.user, touch.at, touch.value["cost"], self.play(touch)
        book = self.book(touch.value)
        contact, incentive = micros(told["contact"]), micros(told["incentive"])
        if touch.direct != contact + incentive:
            self.fail(user, at, "direct is not contact and incentive")
        own = play.cost.contact
        if contact != micros(book.channels.cost[touch.channel] if own is None else own):
            self.fail(user, at, f"contact costs {told['contact']}")
        given = touch.incentive
        if given is None:
            expected: int | None = 0
        else:
            assert play.incentive is not None
            redeemed, point = play.incentive.expected_redemption, book.subsidy.point_value
            beside = Decimal(given["points"]) * point
            face = Decimal(given["face_value"])
            unit = point if given["form"] == "points" else Decimal(1)
            expected = None
            if given["form"] != "percent":
                expected = round(float((face * unit + beside) * MICRO) * redeemed)
        if expected is None:
            if incentive <= 0:
                self.fail(user, at, "a percentage costs nothing")
        elif abs(incentive - expected) > 1:
            self.fail(user, at, f"the incentive costs {told['incentive']} instead of {expected} micros")
        price = self.price(play.budget, at)
        if price is not None and abs(micros(told["opportunity"]) - float(price) * touch.direct) > 1:
            self.fail(user, at, f"opportunity {told['opportunity']}: lambda is {price}")
        earlier = len([other for other in self.touched(user, at - 30 * DAY_MS, at) if other.id != touch.id])
        hidden = play.cost.hidden
        if hidden is None:
            hidden = book.costs.people + book.costs.upkeep + book.costs.brand[touch.channel]
        if micros(told["hidden"]) != micros(hidden + earlier * book.costs.fatigue):
            self.fail(user, at, f"hidden {told['hidden']} after {earlier} touches within 30 days")
        if told["budget"] != (play.budget if touch.direct else None):
            self.fail(user, at, f"budget {told['budget']}")

    def price(self, budget: str, at: int) -> str | None:
        """Return lambda of a budget; None where the grant changes at this very time."""
        told = [(since, value) for since, _, value in self.directives("grant") if value["budget_id"] == budget]
        known = [value for since, value in told if since <= at]
        return known[-1]["shadow_price"] if known else "0"

    def incentive_is_earned(self, touch: Touch) -> None:
        given = touch.incentive
        if given is None:
            return
        user, at, play, rules = touch.user, touch.at, self.play(touch), self.book(touch.value).subsidy
        if touch.value["step"] == 0:
            self.fail(user, at, "an incentive with the first touch")
        if touch.rung != len(play.rungs) - 1:
            self.fail(user, at, "an incentive before the last rung")
        assert play.incentive is not None
        faces = [Decimal(face) for face in play.incentive.face_values]
        if Decimal(given["face_value"]) not in faces or given["form"] != play.incentive.form:
            self.fail(user, at, f"{given} is none of the play's incentives")
        orders = self.orders(user, at)
        discounted = sum("discount" in told.value["properties"] for _, told in orders.values())
        share = (discounted + 0.5) / (len(orders) + 2)
        if len(orders) >= rules.min_orders and share > rules.hunter_above:
            self.fail(user, at, f"an incentive for a bargain hunter: {discounted} of {len(orders)} orders")
        earlier = [other for other in self.touched(user, 0, at) if other.incentive is not None and other.id != touch.id]
        if any(other.at > at - rules.cool_down_days * DAY_MS for other in earlier):
            self.fail(user, at, f"a second incentive within {rules.cool_down_days} days")
        self.face_is_sufficient(touch, faces, [other for other in earlier if other.play == touch.play])
        week = self.week(at)
        recent = [other for other in self.touches if week - 4 < self.week(other.at) and other.at < at]
        given_before = sum(other.incentive is not None for other in recent)
        if Fraction(given_before + 1, len(recent) + 1) > Fraction(str(rules.share_max)):
            self.fail(user, at, f"{given_before} of {len(recent)} commands of late had an incentive already")

    def face_is_sufficient(self, touch: Touch, faces: list[Decimal], earlier: list[Touch]) -> None:
        """The smallest goes first; a larger one only where the one before arrived and was not used."""
        assert touch.incentive is not None
        place = faces.index(Decimal(touch.incentive["face_value"]))
        if not earlier:
            if place:
                self.fail(touch.user, touch.at, "not the smallest incentive first")
            return
        last = earlier[-1]
        assert last.incentive is not None
        if len(self.adoptions) > 1:
            return
        told = self.heard(last, touch.at)
        before = faces.index(Decimal(last.incentive["face_value"]))
        larger = "delivered" in told and "converted" not in told
        if place != min(before + larger, len(faces) - 1):
            self.fail(touch.user, touch.at, f"incentive {place} after {before}, of which was told: {sorted(told)}")

    def week(self, at: int) -> int:
        return (self.shop_day(at).toordinal() - 1) // 7

    def ladder_is_climbed(self, touches: list[Touch]) -> None:
        """Rung by rung, each once; up only after what was delivered was not answered in its time."""
        first = touches[0]
        book = self.book(first.value)
        if [touch.value["step"] for touch in touches] != list(range(len(touches))):
            self.fail(first.user, first.at, "touches are not counted one by one")
        if len({touch.play for touch in touches}) > 1:
            self.fail(first.user, touches[-1].at, "an episode changes its play")
        for n, touch in enumerate(touches):
            before = touches[n - 1] if n else None
            book, play = self.book(touch.value), self.play(touch)
            if before is None:
                self.passed_over_with_reason(touch, -1)
            elif touch.task is not None and touch.task != before.task:
                self.task_was_done(touch, touches[:n])
                self.passed_over_with_reason(touch, -1)
            else:
                if RUNGS.index(touch.channel) <= RUNGS.index(before.channel):
                    self.fail(touch.user, touch.at, f"{touch.channel} after {before.channel}")
                if before.value["versions"]["playbook"] == touch.value["versions"]["playbook"]:
                    self.passed_over_with_reason(touch, before.rung)
                self.escalated_with_reason(touch, before, book)
            if touch.channel in {"sms", "human"}:
                self.is_of_the_top(touch, touches[:n], book)
            last = touch.rung == len(play.rungs) - 1
            if (touch.value["delivery"]["next_channel"] is None) != last:
                self.fail(touch.user, touch.at, "the next channel is not told as it is")

    def passed_over_with_reason(self, touch: Touch, after: int) -> None:
        user, at, book, play = touch.user, touch.at, self.book(touch.value), self.play(touch)
        told = [(passed["channel"], passed["reason"]) for passed in self.sent[touch.id]["passed_over"]]
        if [channel for channel, _ in told] != play.rungs[after + 1 : touch.rung]:
            self.fail(user, at, f"passed over {play.rungs[after + 1 : touch.rung]}, told is {told}")
        for channel, reason in told:
            cap = book.caps.channel.get(channel)
            true = {
                "no consent": not self.consents(user, channel, at, book),
                "unreachable": self.reaches(user, channel, at)[1],
                "channel cap": cap is not None and self.used(channel, user, at, cap.days) >= cap.touches,
            }
            if not true.get(reason):
                self.fail(user, at, f"{channel} was passed over: {reason}")

    def escalated_with_reason(self, touch: Touch, before: Touch, book: Playbook) -> None:
        told = self.heard(before, touch.at)
        if self.answered(before, touch.at):
            self.fail(touch.user, touch.at, f"{touch.channel} though the touch before was answered")
        if "delivered" in told:
            waited = touch.at - told["delivered"]
            if waited < book.ladder.wait_days[before.channel] * DAY_MS:
                self.fail(touch.user, touch.at, f"{touch.channel} only {waited / DAY_MS:.2f} days after delivery")
        elif not told.keys() & {"bounced", "failed"}:
            self.fail(touch.user, touch.at, f"{touch.channel} though the touch before was not told delivered")

    def nothing_is_left_in_silence(self, touches: list[Touch]) -> None:
        """Where a touch was not answered and a rung is left, it is climbed, or a reason is recorded."""
        touch = touches[-1]
        delivered = self.heard(touch, self.shop.clock).get("delivered")
        if delivered is None or touch.value["delivery"]["next_channel"] is None or len(self.adoptions) > 1:
            return
        mine = [value for value in self.decisions if value["episode_id"] == touch.episode]
        over = next(at_of(value["at"]) for value in mine if is_end(value))
        wait = self.book(touch.value).ladder.wait_days[touch.channel] * DAY_MS
        due = delivered + wait
        if due >= over or self.answered(touch, due):
            return
        told_in_time = "delivered" in self.heard(touch, due)
        if told_in_time and not any(at_of(value["at"]) > touch.at and not is_end(value) for value in mine):
            self.fail(touch.user, due, f"nothing came of the silence after {touch.channel} of {day(touch.at)}")

    def is_of_the_top(self, touch: Touch, before: list[Touch], book: Playbook) -> None:
        reason, top = touch.value["reason"], book.ladder.top
        if reason["potential"] is not None:
            is_top = reason["potential"] in top.potential
        else:
            is_top = bool({touch.value["value"]["tier"], reason["from_tier"]} & set(top.tiers))
        if not is_top:
            self.fail(touch.user, touch.at, f"{touch.channel} for a user who is not of the highest value")
        ignored = [
            other
            for other in before
            if "delivered" in self.heard(other, touch.at) and not self.answered(other, touch.at)
        ]
        if len(ignored) < 2:
            self.fail(touch.user, touch.at, f"{touch.channel} after {len(ignored)} touches without an answer")

    def task_was_done(self, touch: Touch, before: list[Touch]) -> None:
        play, given = self.play(touch), before[-1]
        assert touch.task is not None
        assert given.task is not None
        if touch.task < given.task or touch.task >= len(play.steps):
            self.fail(touch.user, touch.at, f"step {touch.task} after step {given.task}")
        if len(self.adoptions) > 1:  # the steps may have been others
            return
        wanted: dict[str, int] = defaultdict(int)
        for step in play.steps[: touch.task]:
            wanted[step.channel] += step.count
        done: dict[str, int] = defaultdict(int)
        for _, what, clock in self.acts(touch.user, touch.at):
            done[what] += clock > before[0].at
        short = {what for what, count in wanted.items() if done[what] < count}
        if short:
            self.fail(touch.user, touch.at, f"step {touch.task} before the ones before were done: {short}")

    # -- money and people ----------------------------------------------------------------------------------------------

    def budgets_hold(self) -> None:
        for budget in ("daily", "promo"):
            self.budget_holds(budget)

    def budget_holds(self, budget: str) -> None:
        """Hold every charge, and every refusal, to what was left.

        At the same time: what comes back counts first, what is owed last.
        """
        purse: _Purse | None = None
        for at, _, _, kind, what, back in sorted(self.moves(budget), key=lambda move: move[:3]):
            days = self.shop_day(at)
            if kind == "grant":
                purse = _Purse.granted(purse, what, at, days)
                continue
            if purse is None:
                if kind == "charge":
                    self.fail(what.user, at, f"charged to {budget}, which nobody granted")
                continue
            if kind == "refused":
                left = purse.left(at, days, False, self.book(what).budgets.core_share)
                if micros(what["cost"]["direct"]) <= left:
                    self.fail(what["user_id"], at, f"no money of {budget}, of which {left} micros are left")
                continue
            core = what.value["value"]["core"]
            if kind == "charge":
                left = purse.left(at, days, core, self.book(what.value).budgets.core_share)
                if what.direct > left:
                    self.fail(what.user, at, f"{what.direct} micros of {budget}, of which {left} are left")
            purse.move(days, -back, core=core)

    def moves(self, budget: str) -> Iterator[tuple[int, int, int, str, Any, int]]:
        """Yield what moves a budget: when, in which order at the same time, what, and how many micros come back."""
        for n, (at, _, value) in enumerate(self.directives("grant")):
            if value["budget_id"] == budget:
                yield at, 0, n, "grant", value, 0
        for n, touch in enumerate(self.touches):
            if self.play(touch).budget == budget:
                if touch.direct:
                    yield touch.at, 2, n, "charge", touch, -touch.direct
                for at, back in self.settled(touch):
                    yield at, 1 if back > 0 else 3, n, "back", touch, back
        for n, value in enumerate(self.decisions):
            if value["reason"] == "no budget" and value["cost"]["budget"] == budget:
                yield at_of(value["at"]), 4, n, "refused", value, 0

    def settled(self, touch: Touch) -> list[tuple[int, int]]:
        """Return when how much of a touch's charge came back (below 0: was owed on top)."""
        cost = touch.value["cost"]
        contact, incentive = micros(cost["contact"]), micros(cost["incentive"])
        found, converted = [], False
        ends = [
            at_of(value["at"]) for value in self.decisions if value["episode_id"] == touch.episode and is_end(value)
        ]
        over = ends[0]
        for told in self.by_user[touch.user]:
            value = told.value
            if value.get("erase"):
                break
            if told.topic != "feedback" or value["command_id"] != touch.id:
                continue
            actual = None if value.get("actual_cost") is None else micros(value["actual_cost"])
            if incentive and over < told.clock:
                found.append((over, incentive))
                incentive = 0
            if value["status"] == "converted":
                if converted:
                    continue
                converted = True
                if actual is None:
                    play = self.play(touch)
                    share = 1.0 if play.incentive is None else play.incentive.expected_redemption
                    actual = round(incentive / share)
                found.append((told.clock, incentive - actual))
                incentive = 0
            elif actual is not None:
                found.append((told.clock, contact - actual))
                contact = actual
        if incentive:
            found.append((over, incentive))
        return [(at, back) for at, back in found if back]

    def people_are_not_overrun(self) -> None:
        used: dict[dt.date, int] = defaultdict(int)
        for touch in self.touches:
            if touch.channel == "human":
                today = self.shop_day(touch.at)
                used[today] += 1
                if used[today] > self.book(touch.value).ladder.human_per_day:
                    self.fail(touch.user, touch.at, f"{used[today]} touches by people on {today}")

    def cancelled_what_is_called_for(self) -> None:
        """What is under way is called back by an order, an erasure, and by a wish to be left alone."""
        cancelled = {
            value["command_id"]: at_of(value["cancelled_at"])
            for value in self.shop.of("recall")
            if "cancelled_at" in value
        }
        ended = {
            value["episode_id"]: (at_of(value["at"]), value["reason"]) for value in self.decisions if is_end(value)
        }
        for touches in self.by_episode().values():
            touch = touches[-1]
            over, _ = ended[touch.episode]
            for told in self.by_user[touch.user]:
                if not touch.at < told.clock <= min(at_of(touch.value["not_after"]), over):
                    continue
                if self.calls_back(told, touch) and cancelled.get(touch.id, told.clock + 1) > told.clock:
                    self.fail(touch.user, told.clock, f"{touch.channel} of {day(touch.at)} was not called back")

    def calls_back(self, told: Happened, touch: Touch) -> bool:
        value = told.value
        if value.get("event") == "Order Completed":
            mine = [other for other in self.by_user[touch.user] if other.value.get("event") == "Order Cancelled"]
            gone = {other.value["properties"]["order_id"] for other in mine}
            return told.at > touch.at and value["properties"]["order_id"] not in gone
        if told.topic == "profiles":
            named = value.get("consent", {}).get(touch.channel, {}).get("marketing")
            return named is False or any(
                value.get(field) for field in ("erase", "excluded", "opt_out_messages", "opt_out_profiling")
            )
        return (value.get("status"), value.get("channel")) == ("unsubscribed", touch.channel)

    # -- in words ------------------------------------------------------------------------------------------------------

    def tell(self, user: str | None, until: int) -> str:
        """Tell the story of a user up to a time, and of control, in words."""
        lines: list[tuple[int, int, str]] = []
        for n, told in enumerate(self.shop.happened):
            if told.user == user or (told.topic == "control" and told.value["kind"] != "tick"):
                late = f" (read at {day(told.clock)})" if told.clock != told.at else ""
                lines.append((told.clock, n, f"{day(told.at)}{late} {_words(told)}"))
        for n, said in enumerate(self.shop.said):
            if said.user == user and said.topic != "churn-training":
                at = at_of(next(said.value[name] for name in ("at", "issued_at", "cancelled_at") if name in said.value))
                lines.append((at, 10**9 + n, f"{day(at)}      -> {_told(said.topic, said.value)}"))
        lines.sort()
        told = [line for at, _, line in lines if at <= until + DAY_MS]
        return "\n".join([*(str(book.model_dump(exclude_defaults=True)) for book in self.story.books), *told[-120:]])


class _Purse:
    """What is left of a grant, by the contract: a day's is renewed each day, but what was overspent is made up for."""

    def __init__(self, value: dict[str, Any], days: dt.date) -> None:
        self.amount = micros(value["amount"])
        self.period, self.until, self.days = value["period"], at_of(value.get("until")), days
        self.spent = self.outside = 0

    @classmethod
    def granted(cls, before: _Purse | None, value: dict[str, Any], at: int, days: dt.date) -> _Purse:
        purse = cls(value, days)
        if before is not None and before.period == purse.period and not 0 < before.until <= at:
            before.turn(days)
            purse.spent, purse.outside = before.spent, before.outside
        return purse

    def turn(self, days: dt.date) -> None:
        if self.period == "day" and days > self.days:
            owed = max(0, self.spent - self.amount * (days - self.days).days)
            self.spent, self.outside, self.days = owed, min(max(0, self.outside), owed), days

    def left(self, at: int, days: dt.date, core: bool, core_share: float) -> int:
        if 0 < self.until <= at:
            return 0
        self.turn(days)
        left = min(self.amount, self.amount - self.spent)
        if not core:
            left = min(left, int(self.amount * (1 - Fraction(str(core_share)))) - self.outside)
        return left

    def move(self, days: dt.date, amount: int, *, core: bool) -> None:
        self.turn(days)
        self.spent += amount
        self.outside += 0 if core else amount


def is_end(value: dict[str, Any]) -> bool:
    """Tell whether a decision is an episode's last; where there is no play for the user, that is all there is."""
    return value["outcome"] in {"ended", "void"} or "no play" in {value["reason"], value["shadow_outcome"]}


def day(at: int) -> str:
    return f"{dt.datetime.fromtimestamp(at / 1000, dt.UTC):%Y-%m-%d %H:%M:%S}"


def _words(told: Happened) -> str:
    value = told.value
    if told.topic == "feedback":
        cost = f", cost {value['actual_cost']}" if value.get("actual_cost") else ""
        return f"{value['channel']} {value['status']}{cost} ({value['command_id'][:6]})"
    if told.topic == "profiles":
        left = {"type", "messageId", "userId", "timestamp"}
        return f"says { ({name: what for name, what in value.items() if name not in left}) }"
    if told.topic == "control":
        return f"control: { ({name: what for name, what in value.items() if name != 'at'}) }"
    properties = value.get("properties", {})
    short = {name: properties[name] for name in ("order_id", "revenue", "discount") if name in properties}
    return f"{value['event']} {short or ''}"


def _told(topic: str, value: dict[str, Any]) -> str:
    if topic == "tier-changes":
        return f"{value['from_tier']} to {value['to_tier']} by {value['cause']}"
    if "cancelled_at" in value:
        return f"CANCEL {value['command_id'][:6]}: {value['reason']}"
    if topic == "recall":
        action, delivery = value["action"], value["delivery"]
        incentive = f", {action['price_incentive']}" if action["price_incentive"] else ""
        task = f", task {action['task']}" if action["task"] else ""
        place = f"step {value['step']}, rung {delivery['rung']}"
        return (
            f"SEND {delivery['channel']} {action['play']} ({value['command_id'][:6]}) {place}{incentive}{task}, "
            f"direct {value['cost']['direct']}, of episode {value['episode_id'][:6]}"
        )
    until = f" until {value['until']}" if value["until"] else ""
    shadow = f" (shadow: {value['shadow_play']}, {value['shadow_outcome']})" if value["shadow_outcome"] else ""
    return (
        f"{value['outcome']}: {value['reason']}{until}{shadow}; episode {value['episode_id'][:6]} by "
        f"{value['trigger']} {value['name'] or ''}of {value['opened_at']}; {value['text']}"
    )
