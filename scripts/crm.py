#!/usr/bin/env python3
"""How a CRM takes the commands off `recall`: an example to copy and to fill in `deliver`.

What makes it safe, in this order:

1. It reads committed: what a worker took back, it never sees.
2. It carries out a command id once. Kafka may hand a record over again after a restart; a worker in plain mode may too.
3. It honours `not_after` and cancellations, which come on the same topic under the same key.
4. It commits only what was carried out.

    python scripts/crm.py --broker localhost:9092 --feedback
"""

import argparse
import json
import signal
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

CANCELLED = "shop.recall.intervention.cancelled.v1"
BATCH = 100
WAIT_S = 1.0
FLUSH_S = 30.0
REMEMBERED = 100_000
"""Command ids; keep them in your database, and a restart forgets nothing."""

Command = dict[str, Any]


class Desk:
    """Decides what becomes of each record; holds the commands of a batch until `to_deliver`."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._done: OrderedDict[str, None] = OrderedDict()
        self._held: dict[str, Command] = {}

    def take(self, kind: str, value: Command, now: datetime) -> str:
        """Take a command or a cancellation; return what became of it, in a word."""
        command_id = value["command_id"]
        if kind == CANCELLED:
            self._remember(command_id)
            # What was delivered before cannot be called back here: a mail program could still recall it.
            return "cancelled" if self._held.pop(command_id, None) else "too late to cancel"
        if command_id in self._done:
            return "duplicate"
        self._remember(command_id)
        if datetime.fromisoformat(value["not_after"]) < now:
            return "expired"
        self._held[command_id] = value
        return "accepted"

    def to_deliver(self) -> list[Command]:
        """Hand out what was accepted and not cancelled since."""
        held, self._held = list(self._held.values()), {}
        return held

    def _remember(self, command_id: str) -> None:
        self._done[command_id] = None
        while len(self._done) > self._remembered:
            self._done.popitem(last=False)


def deliver(command: Command) -> None:
    """Send the message. Yours goes here: template, variables and channel are in the command."""
    action, delivery = command["action"], command["delivery"]
    print(f"deliver {command['command_id']}: {action['template']} to {command['user_id']} by {delivery['channel']}")


def feedback(command: Command, now: datetime) -> bytes:
    """Say that a command was delivered; the same for a click, a bounce or an unsubscription."""
    record = {
        "type": "feedback",
        "messageId": f"{command['command_id']}-delivered",
        "userId": command["user_id"],
        "timestamp": now.isoformat(),
        "command_id": command["command_id"],
        "status": "delivered",
        "channel": command["delivery"]["channel"],
    }
    return json.dumps(record).encode()


def handle(messages: list[Message], desk: Desk, producer: Producer | None) -> None:
    """Carry out a batch; after it, its offsets may be committed."""
    now = datetime.now(UTC)
    for message in messages:
        kind = dict(message.headers() or ())["ce_type"].decode()
        value = json.loads(message.value())
        outcome = desk.take(kind, value, now)
        if outcome != "accepted":
            print(f"{outcome}: {value['command_id']}")
    for command in desk.to_deliver():
        deliver(command)
        if producer is not None:
            producer.produce("feedback", feedback(command, now), key=command["user_id"])
    if producer is not None and producer.flush(FLUSH_S):
        raise RuntimeError("feedback was not taken by the broker")


def run(consumer: Consumer, producer: Producer | None, *, once: bool) -> None:
    """Read until stopped; with `once`, until the end of the topic."""
    desk = Desk()
    ended: set[int | None] = set()
    while True:
        messages = []
        for message in consumer.consume(BATCH, WAIT_S):
            error = message.error()
            if error is None:
                messages.append(message)
                ended.discard(message.partition())
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's only name for it
                ended.add(message.partition())
            else:
                raise KafkaException(error)
        if messages:
            handle(messages, desk, producer)
            consumer.commit(asynchronous=False)
        if once and ended and ended == {place.partition for place in consumer.assignment()}:
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
    parser.add_argument("--feedback", action="store_true", help="send what was delivered to the topic feedback")
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
    try:
        run(consumer, producer if given.feedback else None, once=given.once)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
