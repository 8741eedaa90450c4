"""The events of the job that peers are compared by: the same ones every time, with what they must come to."""

import random
from typing import NamedTuple

import orjson
from confluent_kafka import Producer

from worker.partitioner import Partitioner

PARTITIONS = 4
USERS = 5_000
REPORT_EVERY = 192
FIRST = 24
"""Events that all report, so that every partition begins with one or nearly."""
BEGIN_MS = 1_735_689_600_000
NAMES = ("Product Viewed", "Product Added", "Products Searched", "Order Completed")


class Truth(NamedTuple):
    """What must come out: [count, total, seen] by user, and the number of results."""

    totals: dict[str, list[int]]
    results: int


def user(number):
    return f"user-{number:06}"


def event(draw, number, at, *, report):
    """Return a user's event of about 270 bytes; `draw` gives it some variety."""
    return {
        "type": "track",
        "event": NAMES[draw & 3],
        "userId": user(number),
        "messageId": f"{draw:032x}",
        "at": at,
        "properties": {"product": f"sku-{draw % 9973:05}", "price": draw % 20_000, "currency": "EUR", "quantity": 1},
        "context": {"page": f"/shop/products/{draw % 9973:05}", "agent": "shop-web/2.1"},
        "report": report,
    }


def generate(count):
    """Yield (user, event) `count` times: the first few report, one in 192, and the last of each user."""
    users = min(USERS, count // 10)
    draws = random.Random(1)  # noqa: S311 - the same events every time
    for number in range(count - users):
        draw = draws.getrandbits(64)
        chosen = draw % users
        yield user(chosen), event(draw, chosen, BEGIN_MS + number, report=number < FIRST or number % REPORT_EVERY == 0)
    for number in range(count - users, count):
        chosen = number - (count - users)
        yield user(chosen), event(draws.getrandbits(64), chosen, BEGIN_MS + number, report=True)


def producer(bootstrap, linger_ms=50, **more):
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": 1_000_000,
            "log_level": 2,
            **more,
        }
    )


def feed(bootstrap, topic, count):
    """Write the events to a topic, and return what must come of them."""
    out = producer(bootstrap)
    truth = write(out, topic, count)
    assert out.flush(60) == 0
    return truth


def write(out, topic, count):
    """Hand the events to a producer, and return what must come of them."""
    totals, results = {}, 0
    for name, content in generate(count):
        out.produce(topic, orjson.dumps(content), name.encode())
        out.poll(0)
        row = totals.setdefault(name, [0, 0, 0])
        row[0] += 1
        row[1] += content["properties"]["price"]
        row[2] = content["at"]
        results += content["report"]
    return Truth(totals, results)


def ask_again(bootstrap, topic, truth):
    """Write one more event to each partition, add it to the truth, and return whose they are."""
    partitioner = Partitioner(PARTITIONS)
    asked = {partitioner.of(user(number).encode()): number for number in range(100)}
    out = producer(bootstrap)
    for number in asked.values():
        row = truth.totals[user(number)]
        content = event(1, number, row[2] + 1, report=True)
        out.produce(topic, orjson.dumps(content), user(number).encode())
        row[0] += 1
        row[1] += content["properties"]["price"]
        row[2] += 1
    assert out.flush(60) == 0
    return [user(number) for number in asked.values()]
