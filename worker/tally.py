"""Counts what a worker or a replay put out: the same figures for both."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from schemas.commands import CANCELLATION_TYPE
from worker.recall.money import micros

if TYPE_CHECKING:
    from collections.abc import Iterable

TIERS = ("high", "potential", "marginal", "silent", "new")
COSTS: Final = ("contact", "incentive", "opportunity", "hidden")
"""The kinds of cost: the first two leave as money."""


class Touch(NamedTuple):
    """What a command has in common with others; `potential` is "" of users who are not silent."""

    play: str
    channel: str
    potential: str


class Tally:
    """Outputs by kind. A command or a decision that came twice under one id counts once."""

    def __init__(self) -> None:
        self.commands: dict[str, str] = {}
        """Play by command id."""
        self.touches: Counter[Touch] = Counter()
        self.costs: defaultdict[Touch, Counter[str]] = defaultdict(Counter)
        """Micros by kind, as expected when it was sent."""
        self.currency = ""
        self.repeated = 0
        self.cancelled: Counter[str] = Counter()
        self.suppressed: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.proposed: Counter[str] = Counter()
        """By play."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """By arm and reason."""
        self.transitions: Counter[tuple[str, str]] = Counter()
        self.dead: Counter[str] = Counter()
        self.customers: set[bytes] = set()
        """Keys of orders; whoever uses the tally adds them."""
        self.snapshots = 0
        self.models: dict[int, dict[str, Any]] = {}
        """By horizon, the latest snapshot."""
        self._tiers: dict[str, str] = {}
        self._seen: set[str] = set()

    @property
    def plays(self) -> Counter[str]:
        """Commands by play."""
        return Counter(self.commands.values())

    def by(self, field: str) -> Counter[str]:
        """Return the commands by a field of `Touch`; what is empty is left out."""
        found: Counter[str] = Counter()
        for touch, n in self.touches.items():
            if getattr(touch, field):
                found[getattr(touch, field)] += n
        return found

    @property
    def cost(self) -> Counter[str]:
        """Micros by kind, of all commands together."""
        return sum(self.costs.values(), Counter())

    def endings(self, arm: str) -> Counter[str]:
        """Return the episodes of an arm that ended, by reason."""
        return Counter({reason: n for (of, reason), n in self.ended.items() if of == arm})

    @property
    def tiers(self) -> dict[str, int]:
        """Customers by tier, the highest first; one whose tier never changed is new."""
        counts = Counter(self._tiers.values())
        counts["new"] += max(0, len(self.customers) - len(self._tiers))
        return {tier: counts[tier] for tier in TIERS}

    def before(self, topic: str, value: bytes) -> None:
        """Take an output from before the time that is counted: it says where customers stand, no more."""
        if topic == "tier-changes":
            change = orjson.loads(value)
            self._tiers[change["user_id"]] = change["to_tier"]

    def take(self, topic: str, value: bytes, headers: Iterable[tuple[str, bytes]] = ()) -> dict[str, Any] | None:
        """Count an output; return what it says if it is a command that was not seen before."""
        if topic == "recall":
            return self._command(orjson.loads(value), dict(headers))
        if topic == "tier-changes":
            change = orjson.loads(value)
            self.transitions[change["from_tier"], change["to_tier"]] += 1
            self._tiers[change["user_id"]] = change["to_tier"]
        elif topic == "recall-decisions":
            self._decision(orjson.loads(value))
        elif topic == "dead-letter":
            self.dead[orjson.loads(value)["reason"]] += 1
        elif topic == "churn-model":
            record = orjson.loads(value)
            if "metrics" in record:  # the other records there hold sums
                self.snapshots += 1
                self.models[record["horizon_days"]] = record
        return None

    def _command(self, value: dict[str, Any], headers: dict[str, bytes]) -> dict[str, Any] | None:
        if headers["ce_type"] == CANCELLATION_TYPE.encode():
            if self._is_new(headers["ce_id"].decode()):
                self.cancelled[value["reason"]] += 1
            return None
        if value["command_id"] in self.commands:
            self.repeated += 1
            return None
        play, cost = value["action"]["play"], value["cost"]
        touch = Touch(play, value["delivery"]["channel"], value["reason"].get("potential") or "")
        self.commands[value["command_id"]] = play
        self.touches[touch] += 1
        self.costs[touch].update({kind: micros(cost[kind]) for kind in COSTS})
        self.currency = cost["currency"]
        return value

    def _decision(self, value: dict[str, Any]) -> None:
        if not self._is_new(value["decision_id"]):
            return
        outcome, reason = value["outcome"], value["reason"]
        if outcome == "suppressed":
            self.suppressed[reason] += 1
        elif outcome == "held":
            self.held[reason] += 1
        elif outcome == "proposed":
            self.proposed[value["play"]] += 1
        elif outcome in {"ended", "void"}:
            self.ended[value["arm"], reason] += 1

    def _is_new(self, name: str) -> bool:
        new = name not in self._seen
        self._seen.add(name)
        return new
