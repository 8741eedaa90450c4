#!/usr/bin/env python3
"""How a CRM takes the commands off `recall`: an example to copy and to fill in `deliver` and `may_reach`.

What makes it safe, in this order (docs/crm.md says why):

1. It reads committed: what a worker took back, it never sees.
2. It puts a command into an inbox of its own, once an id, and then commits the offset: a crash loses nothing.
3. A cancellation, on the same topic under the same key, takes a command that waits out of the inbox. After an outage
   it reads to the end of the topic first: cancellations may lie behind the commands.
4. It carries out what is due, not before `not_before`, never after `not_after`, the highest priority first, and looks
   at consent once more.
5. It tells what became of it on `feedback`.

    python scripts/crm.py --broker localhost:9092 --respond 0.1

Answers are made up: by `--seed` the same ones for the same commands.
"""

import argparse
import json
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

CANCELLED = "shop.recall.intervention.cancelled.v1"
BATCH = 100
WAIT_S = 1.0
FLUSH_S = 30.0
CANCELLATION_KEPT = timedelta(days=90)
"""No command is valid for longer."""
BOUNCED = 0.02
"""Share of messages whose address is no good, made up."""
COST = {"in_app": "0", "push": "0.0005", "email": "0.001", "sms": "0.05", "human": "3"}
"""What a message costs, major units, made up: the provider's bill says."""

Command = dict[str, Any]


class Inbox:
    """The commands that were taken, and what became of them, until their time is over."""

    def __init__(self, path: str = ":memory:") -> None:
        self._db = sqlite3.connect(path)
        self._db.execute(
            """create table if not exists inbox (command_id text primary key, state text not null, value text,
               not_before text not null, not_after text not null, priority integer not null)"""
        )

    def take(self, kind: str, value: Command, now: datetime) -> str:
        """Take a command or a cancellation; return what became of it, in a word. `save` makes it last."""
        command_id = value["command_id"]
        row = self._db.execute("select state from inbox where command_id = ?", [command_id]).fetchone()
        if kind == CANCELLED:
            if row is None:  # remembered, should the command come after all
                self._put(command_id, "cancelled", None, now, now + CANCELLATION_KEPT, 0)
            elif row[0] == "waiting":
                self._mark(command_id, "cancelled")
            # What went out cannot be called back here: a mail program could still recall it.
            return "too late to cancel" if row is not None and row[0] == "done" else "cancelled"
        if row is not None:
            return "duplicate"
        not_after = datetime.fromisoformat(value["not_after"])
        if not_after < now:
            return "expired"
        not_before = datetime.fromisoformat(value["not_before"]) if value.get("not_before") else now
        self._put(command_id, "waiting", value, not_before, not_after, value["guards"]["priority"])
        return "accepted"

    def due(self, now: datetime) -> Iterator[Command]:
        """Yield what is to be carried out now, a batch at most; forget what is over and would be refused now."""
        self._db.execute("delete from inbox where not_after < ?", [_text(now)])
        rows = self._db.execute(
            """select value from inbox where state = 'waiting' and not_before <= ?
               order by priority desc, not_before, command_id limit ?""",
            [_text(now), BATCH],
        ).fetchall()
        for (value,) in rows:
            yield json.loads(value)

    def done(self, command: Command) -> None:
        """Note that a command was carried out, or is not to be."""
        self._mark(command["command_id"], "done")
        self.save()

    def save(self) -> None:
        """Make what was taken last; then the offsets may be committed."""
        self._db.commit()

    def _put(
        self,
        command_id: str,
        state: str,
        value: Command | None,
        not_before: datetime,
        not_after: datetime,
        priority: int,
    ) -> None:
        self._db.execute(
            "insert into inbox values (?, ?, ?, ?, ?, ?)",
            [command_id, state, json.dumps(value), _text(not_before), _text(not_after), priority],
        )

    def _mark(self, command_id: str, state: str) -> None:
        self._db.execute("update inbox set state = ?, value = null where command_id = ?", [state, command_id])


def _text(at: datetime) -> str:
    """Return a time as text that sorts as times do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def may_reach(command: Command) -> bool:
    """Look the user up by his id: his address, and whether consent for the channel and purpose holds now."""
    return bool(command["user_id"] and command["delivery"]["channel"] and command["guards"]["purpose"])


def deliver(command: Command) -> None:
    """Send the message. Yours goes here: template, variables and channel are in the command; give the provider its id.

    Where the provider is down, raise: the command stays in the inbox until its time is over.
    """
    action, delivery = command["action"], command["delivery"]
    print(f"deliver {command['command_id']}: {action['template']} to {command['user_id']} by {delivery['channel']}")


def answers(command: Command, seed: int, share: float) -> list[dict[str, str]]:
    """Make up what became of a message: bounced, or delivered and, of a share of the users, clicked."""
    draw = random.Random(f"{seed}/{command['command_id']}")  # noqa: S311 - made up
    cost = {"actual_cost": COST[command["delivery"]["channel"]], "currency": command["cost"]["currency"]}
    if draw.random() < BOUNCED:
        return [{"status": "bounced", **cost}]
    delivered = {"status": "delivered", **cost}
    return [delivered, {"status": "clicked"}] if draw.random() < share else [delivered]


def feedback(command: Command, told: dict[str, str], now: datetime) -> bytes:
    """Say what became of a command: its id, what happened, on which channel, and when is the least."""
    record = {
        "type": "feedback",
        "messageId": f"{command['command_id']}-{told['status']}",
        "userId": command["user_id"],
        "timestamp": now.isoformat(),
        "command_id": command["command_id"],
        "channel": command["delivery"]["channel"],
        **told,
    }
    return json.dumps(record).encode()


class Crm:
    """Carries out what is in the inbox; without a producer nobody hears of it."""

    def __init__(
        self, inbox: Inbox, producer: Producer | None, *, respond: float = 0.0, seed: int = 1, rate: float = 0.0
    ) -> None:
        self._inbox = inbox
        self._producer = producer
        self._respond, self._seed = respond, seed
        self._pause_s = 1 / rate if rate else 0.0

    def take(self, messages: list[Message]) -> None:
        """Put a batch into the inbox; after it, its offsets may be committed."""
        now = datetime.now(UTC)
        for message in messages:
            kind = dict(message.headers() or ())["ce_type"].decode()
            value = json.loads(message.value())
            outcome = self._inbox.take(kind, value, now)
            if outcome != "accepted":
                print(f"{outcome}: {value['command_id']}")
        self._inbox.save()

    def work(self) -> int:
        """Carry out what is due, a batch at most: between batches cancellations are read. Return how many were."""
        n = 0
        for n, command in enumerate(self._inbox.due(datetime.now(UTC)), 1):  # noqa: B007 - the last is returned
            if datetime.fromisoformat(command["not_after"]) < datetime.now(UTC):
                print(f"expired: {command['command_id']}")
            elif not may_reach(command):
                print(f"no consent: {command['command_id']}")
                self._tell(command, [{"status": "failed"}])
            else:
                deliver(command)
                self._tell(command, answers(command, self._seed, self._respond))
                time.sleep(self._pause_s)
            self._inbox.done(command)
        return n

    def _tell(self, command: Command, told: list[dict[str, str]]) -> None:
        if self._producer is None:
            return
        now = datetime.now(UTC)
        for n, one in enumerate(told):
            record = feedback(command, one, now + timedelta(milliseconds=n))
            self._producer.produce("feedback", record, key=command["user_id"])
        if self._producer.flush(FLUSH_S):
            raise RuntimeError("feedback was not taken by the broker")


def run(consumer: Consumer, crm: Crm, *, once: bool) -> None:
    """Read until stopped; with `once`, until the end of the topic.

    Nothing is carried out before the end of a partition was seen once: what is cancelled meanwhile must not go out.
    """
    seen: set[int | None] = set()
    while True:
        messages = []
        for message in consumer.consume(BATCH, WAIT_S):
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's only name for it
                seen.add(message.partition())
            else:
                raise KafkaException(error)
        if messages:
            crm.take(messages)
            consumer.commit(asynchronous=False)
        assigned = {place.partition for place in consumer.assignment()}
        if not assigned or not assigned <= seen:
            continue
        worked = crm.work()
        if once and not messages and not worked:
            return


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description="Carries out the commands on `recall`.")
    parser.add_argument("--broker", default="localhost:9092")
    parser.add_argument(
        "--property",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of librdkafka, as in security.protocol=SASL_SSL; may be repeated",
    )
    parser.add_argument("--group", default="crm")
    parser.add_argument("--inbox", default="crm.sqlite", help="file that keeps what was taken")
    parser.add_argument(
        "--respond", type=float, metavar="SHARE", help="send feedback; of what is delivered, this share is clicked"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the answers")
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second at most; 0 for no bound")
    parser.add_argument("--once", action="store_true", help="stop at the end of the topic")
    given = parser.parse_args()
    reach = {"bootstrap.servers": given.broker, **dict(line.split("=", 1) for line in given.property)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    consumer = Consumer(
        {
            **reach,
            "group.id": given.group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    # The worker and Java put a key into a partition by this hash; librdkafka's own is another.
    producer = Producer({**reach, "partitioner": "murmur2_random", "enable.idempotence": True})
    consumer.subscribe(["recall"])
    crm = Crm(
        Inbox(given.inbox),
        None if given.respond is None else producer,
        respond=given.respond or 0.0,
        seed=given.seed,
        rate=given.rate,
    )
    try:
        run(consumer, crm, once=given.once)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
