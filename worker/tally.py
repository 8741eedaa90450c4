"""Counts what a worker or a replay put out: the same figures for both."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from schemas.commands import CANCELLATION_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable

TIERS = ("high", "potential", "marginal", "silent", "new")


class Tally:
    """Outputs by kind. A command or a decision that came twice under one id counts once."""

    def __init__(self) -> None:
        self.commands: dict[str, str] = {}
        """Play by command id."""
        self.repeated = 0
        self.cancelled: Counter[str] = Counter()
        self.suppressed: Counter[str] = Counter()
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

    @property
    def tiers(self) -> dict[str, int]:
        """Customers by tier, the highest first; one whose tier never changed is new."""
        counts = Counter(self._tiers.values())
        counts["new"] += max(0, len(self.customers) - len(self._tiers))
        return {tier: counts[tier] for tier in TIERS}

    def take(self, topic: str, value: bytes, headers: Iterable[tuple[str, bytes]] = ()) -> dict[str, Any] | None:
        """Count an output; return what it says if it is a command that was not seen before."""
        if topic == "recall":
            return self._command(orjson.loads(value), dict(headers))
        if topic == "tier-changes":
            change = orjson.loads(value)
            self.transitions[change["from_tier"], change["to_tier"]] += 1
            self._tiers[change["user_id"]] = change["to_tier"]
        elif topic == "recall-decisions":
            decision = orjson.loads(value)
            if decision["outcome"] == "suppressed" and self._is_new(decision["decision_id"]):
                self.suppressed[decision["reason"]] += 1
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
        self.commands[value["command_id"]] = value["action"]["play"]
        return value

    def _is_new(self, name: str) -> bool:
        new = name not in self._seen
        self._seen.add(name)
        return new
