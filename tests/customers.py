"""A small shop, in the domain's words: users do things at dates, and what goes out is held to its contract.

Dates are text in UTC, such as "2025-03-01" (midnight) or "2025-03-01T10:30". `SmallShop` works like a worker at the
live edge, record by record; `Backlog` takes a history that lies there, in pieces and with restarts.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from collections import defaultdict
from functools import cache
from random import Random
from typing import Any, NamedTuple, Union

import orjson
from pydantic import TypeAdapter

from schemas.snapshots import Snapshot
from schemas.topics import SOURCE_TOPICS, TOPICS
from schemas.values import rfc3339
from worker.recall.days import DAY_MS, Days
from worker.recall.money import Currency
from worker.recall.playbook import parse
from worker.recall.risk.baselines import Baselines
from worker.recall.risk.features import NAMES, SCHEMA_HASH
from worker.recall.risk.model import RiverModel
from worker.recall.risk.scorer import Scorer
from worker.recall.risk.share import Share
from worker.recall.shop import Shop
from worker.recall.step import Customers
from worker.recall.value import rfm_of
from worker.recall.wire import TOPIC_OF
from worker.stream.dead_letters import DeadLetters
from worker.stream.partition import Layout, Partition
from worker.stream.record import ATTACHMENT, HEADER_BYTES, PARTITION_KEY

LAYOUT = Layout(0, SOURCE_TOPICS, DeadLetters("dead-letter", b"salt"))
SALT = "salt"


def ms(date: str | int) -> int:
    """Return a date in ms; what is a number already stays."""
    if isinstance(date, int):
        return date
    return round(dt.datetime.fromisoformat(date).replace(tzinfo=dt.UTC).timestamp() * 1000)


def later(date: str | int, **by: float) -> int:
    """Return the time that lies so much later."""
    return ms(date) + round(dt.timedelta(**by).total_seconds() * 1000)


PLAYBOOK = tomllib.loads("""
[rfm]
m = ["50", "150", "500", "1500"]

[holdout]
share = 0.0

[consent]
unknown = "allow"

[caps]
user = { touches = 2, days = 14 }
channel = { email = { touches = 2, days = 14 } }

[quiet_hours]
from = "00:00"
to = "00:00"

[[plays]]
name = "care-letter"
opening = ["tier_drop", "silence"]
audience = "core"
to_tiers = ["potential", "marginal", "silent"]
kind = "care"
template = "care-letter-from-product-manager"
rungs = ["email"]
cost = { contact = "0.01", hidden = "0.20" }

[[plays]]
name = "memory-email"
opening = ["tier_drop", "silence"]
to_tiers = ["potential", "marginal", "silent"]
kind = "memory"
template = "memory-of-favourites"
rungs = ["email"]
cost = { contact = "0.01", hidden = "0.05" }
""")


def playbook(name="test", **sections):
    """Return a small playbook: no holdout, no quiet hours, consent taken for granted; sections change in part."""
    raw = dict(PLAYBOOK)
    for section, change in sections.items():
        raw[section] = {**raw.get(section, {}), **change} if isinstance(change, dict) else change
    return parse({**raw, "name": name}, "a test")


def make_shop(*, currency="EUR", timezone="UTC", live_from=0, salt=SALT, **settings) -> Shop:
    return Shop(Currency.of(currency), Days(timezone), 1, salt, ms(live_from), **settings)


def snapshot(version=7, **changes) -> Snapshot:
    """Return a snapshot of a model that has learned a little: who did much lately comes again."""
    learner, draw = RiverModel(), Random(version)
    for _ in range(60):
        gone = draw.random() < 0.5
        learner.learn([draw.random() * (1 if gone else 3) for _ in NAMES], int(gone), 1.0)
    learner.settle(1, 0.0)
    told = {
        "kind": "snapshot",
        "version": version,
        "created_label_day": dt.date(2025, 1, 1),
        "learned": 60,
        "horizon_days": 30,
        "schema_hash": SCHEMA_HASH,
        "model": learner.to_json(),
        "learner_share": 0.5,
        "share": Share().to_json(),
        "lifetime": {
            "r": 0.6,
            "alpha": 30.0,
            "a": 0.8,
            "b": 2.5,
            "activity": {"r": 0.5, "alpha": 2.0, "a": 0.4, "b": 9.0},
            "p": None,
            "q": None,
            "v": None,
            "fitted_day": dt.date(2025, 1, 1),
            "histories": 200,
        },
        "baselines": Baselines().to_json(),
        "alert_above": None,
        "metrics": {},
        "resume_offset": 0,
        "cut_points": None,
        "choice_priors": None,
    }
    return Snapshot.model_validate(told | changes)


@cache
def scorer(version=7) -> Scorer:
    return Scorer(snapshot(version))


class Fed(NamedTuple):
    """A record as a broker gives it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Said(NamedTuple):
    """An output."""

    topic: str
    user: str | None
    value: dict[str, Any]
    headers: dict[str, str]


@cache
def _contract(topic: str) -> TypeAdapter:
    return TypeAdapter(Union[TOPICS[topic].models])  # noqa: UP007 - from a tuple


def read_back(output) -> Said:
    """Read an output, checked against its contract."""
    _contract(output.topic).validate_json(output.value)
    user = None if output.key is None else output.key.decode()
    headers = {name: value.decode() for name, value in output.headers}
    return Said(output.topic, user, orjson.loads(output.value), headers)


def track(user, at, event, *, message, **properties) -> dict[str, Any]:
    return {
        "type": "track",
        "messageId": message,
        "userId": user,
        "timestamp": rfc3339(at),
        "event": event,
        "properties": properties,
    }


class SmallShop:
    """A partition at the live edge: what is told is worked off at once.

    `told` keeps every record, by topic. Touches are paid from `daily`, which is granted from the first day on; None
    grants nothing.
    """

    def __init__(self, *playbooks, models=None, rows=None, catalog=None, daily="1000000", **settings) -> None:
        self.shop = make_shop(**settings)
        self.days = self.shop.days
        self.customers = Customers(self.shop, playbooks or [playbook()], {} if models is None else models, catalog)
        self.rows: dict[bytes, bytes] = {} if rows is None else rows
        self.partition = Partition(LAYOUT, self.customers, self.rows)
        self.said: list[Said] = []
        self.told: dict[str, list[Fed]] = defaultdict(list)
        self._messages = 0
        if daily is not None and rows is None:
            self.grants(0, daily)

    # -- what happens --------------------------------------------------------------------------------------------------

    def does(self, user, date, event, *, message=None, **properties) -> None:
        """Let a user do something, called by its name in the stream."""
        at = ms(date)
        self.record(TOPIC_OF[event], user, at, track(user, at, event, message=self._message(message), **properties))

    def views(self, user, *dates) -> None:
        for date in dates:
            self.does(user, date, "Product Viewed", product_id="p1", category="shoes", price=20)

    def orders(self, user, date, order_id, revenue=150, *, message=None, products=(), **properties) -> None:
        currency = self.shop.currency.code
        products = [{"product_id": product, "category": "shoes"} for product in products]
        properties = {
            "order_id": order_id,
            "revenue": revenue,
            "currency": currency,
            "products": products,
            **properties,
        }
        self.does(user, date, "Order Completed", message=message, **properties)

    def refunds(self, user, date, order_id, total=None, *, message=None) -> None:
        amount = {} if total is None else {"total": total}
        self.does(user, date, "Order Refunded", message=message, order_id=order_id, **amount)

    def cancels(self, user, date, order_id, *, message=None) -> None:
        self.does(user, date, "Order Cancelled", message=message, order_id=order_id)

    def says(self, user, date, **fields) -> None:
        """Let a user's profile change."""
        self._own("profiles", user, ms(date), {"type": "profile", **fields})

    def hears(self, user, date, status, command_id="c1", channel="email", **fields) -> None:
        """Let a channel report on a touch."""
        fields = {"type": "feedback", "command_id": command_id, "status": status, "channel": channel, **fields}
        self._own("feedback", user, ms(date), fields)

    def tick(self, date) -> None:
        """Let time pass."""
        self.steers("tick", at=date)

    def steers(self, kind, **fields) -> None:
        """Write a control record; its times are `at`, `wall`, `effective_at` and `until`."""
        times = {name: ms(value) for name, value in fields.items() if name in {"at", "wall", "effective_at", "until"}}
        value = {"kind": kind, **fields, **{name: rfc3339(at) for name, at in times.items()}}
        self.record("control", None, times.get("at", self.clock), value)

    def grants(self, date, amount, budget_id="daily", *, shadow_price="0", **fields) -> None:
        """Grant money for touches."""
        currency = self.shop.currency.code
        fields = {
            "budget_id": budget_id,
            "amount": amount,
            "currency": currency,
            "shadow_price": shadow_price,
            **fields,
        }
        self.steers("grant", effective_at=date, **fields)

    def _own(self, topic, user, at, fields) -> None:
        value = {"messageId": self._message(None), "userId": user, "timestamp": rfc3339(at), **fields}
        self.record(topic, user, at, value)

    def _message(self, message) -> str:
        self._messages += 1
        return message or f"message {self._messages}"

    def record(self, topic, user, at, value) -> None:
        """Write any record; it is recorded when it happens, or now where that is later."""
        key = None if user is None else user.encode()
        records = self.told[topic]
        fed = Fed(len(records), max(self.clock, at), key, orjson.dumps(value))
        records.append(fed)
        self.partition.feed(topic, [fed])
        self.work()

    def work(self) -> None:
        while (unit := self.partition.advance()) is not None:
            self.said += map(read_back, unit.outputs)
        assert not self.of("dead-letter"), self.of("dead-letter")

    # -- what came of it -----------------------------------------------------------------------------------------------

    @property
    def clock(self) -> int:
        return self.partition.clock

    @property
    def counts(self) -> dict[str, int]:
        return self.partition.record.counts

    def row(self, user):
        return self.customers.decode(self.rows[user.encode()][HEADER_BYTES:])

    def rfm(self, user):
        return rfm_of(self.row(user), self.clock, self.days)

    def tier(self, user) -> str:
        return ("new", "silent", "marginal", "potential", "high")[self.row(user).standing.tier]

    def of(self, topic, user=None) -> list[dict[str, Any]]:
        """Return what was said to a topic (about a user)."""
        return [said.value for said in self.said if said.topic == topic and user in {None, said.user}]

    def moves(self, user) -> list[tuple[str, str, str]]:
        """Return a user's changes of tier: from, to, cause."""
        changes = self.of("tier-changes", user)
        return [(change["from_tier"], change["to_tier"], change["cause"]) for change in changes]

    def commands(self, user=None) -> list[dict[str, Any]]:
        return [value for value in self.of("recall", user) if "action" in value]

    def cancellations(self, user=None) -> list[tuple[str, str]]:
        """Return (command id, reason)."""
        return [(value["command_id"], value["reason"]) for value in self.of("recall", user) if "action" not in value]

    def decisions(self, user=None) -> list[tuple[str, str]]:
        """Return (outcome, reason)."""
        return [(value["outcome"], value["reason"]) for value in self.of("recall-decisions", user)]

    def attached(self) -> int:
        """Return how many values lie beside the rows."""
        return sum(key.startswith(ATTACHMENT) for key in self.rows)

    # -- lives ---------------------------------------------------------------------------------------------------------

    def buys_weekly(self, user, first, times=5, revenue=150) -> int:
        """Let a user order every week, which makes him `high` with the fifth; return the time of the last order."""
        for n in range(times):
            self.orders(user, later(first, days=7 * n), f"{user} {first} {n}", revenue)
        return later(first, days=7 * (times - 1))

    def lives_on(self, user, first, until, every_days=7) -> None:
        """Let a user look at something now and then."""
        for at in range(ms(first), ms(until), every_days * DAY_MS):
            self.views(user, at)


class Backlog:
    """A history that lies there: fed in pieces, cut into units of some size, with restarts from the rows."""

    def __init__(self, topics, shop, playbooks, *, models=None, rows_max=64, records_max=64) -> None:
        self.topics = {topic: topics.get(topic, []) for topic in SOURCE_TOPICS}
        self.shop, self.playbooks, self.models = shop, playbooks, models or {}
        self.rows_max, self.records_max = rows_max, records_max
        self.rows: dict[bytes, bytes] = {}
        self.outputs = []
        self.restart()

    def restart(self) -> None:
        """Go on with new objects, from the rows alone."""
        self.customers = Customers(self.shop, self.playbooks, self.models)
        self.partition = Partition(
            LAYOUT, self.customers, dict(self.rows), rows_max=self.rows_max, records_max=self.records_max
        )
        self.fed = {topic: self.partition.start_offset(topic) or 0 for topic in self.topics}
        for topic in self.topics:
            self.feed(topic, 0)

    def feed(self, topic, n) -> None:
        start, records = self.fed[topic], self.topics[topic]
        self.fed[topic] = min(start + n, len(records))
        self.partition.feed(topic, records[start : self.fed[topic]])
        self.partition.expect(topic, more=self.fed[topic] < len(records))

    def finish(self, n=1000, restart_every=0) -> Backlog:
        """Feed `n` records at a time and work off all, with a restart after so many units (0 for none)."""
        units = 0
        while True:
            unit = self.partition.advance()
            if unit is not None:
                units += 1
                self.outputs += unit.outputs
                self.rows = dict(self.partition.rows)
                if restart_every and units % restart_every == 0:
                    self.restart()
                continue
            starving = self.partition.starving()
            if not starving:
                return self
            for topic in starving:
                self.feed(topic, n)

    @property
    def by_user(self) -> dict[str | None, list[tuple[str, bytes]]]:
        """What was said of each user, in order; the order between users is free."""
        said = defaultdict(list)
        for output in self.outputs:
            if output.topic != "churn-training":  # of no user: see `examples`
                said[output.key].append((output.topic, output.value))
        return dict(said)

    @property
    def examples(self) -> list[bytes]:
        return sorted(output.value for output in self.outputs if output.topic == "churn-training")

    @property
    def counts(self) -> dict[str, int]:
        return self.partition.record.counts

    def profiles(self):
        """Yield every row, decoded."""
        for key, row in self.rows.items():
            if key != PARTITION_KEY and not key.startswith(ATTACHMENT):
                yield self.customers.decode(row[HEADER_BYTES:])
