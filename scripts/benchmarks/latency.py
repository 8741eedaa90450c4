"""How long from a source record's production until what follows from it is visible to a consumer that reads committed.

`aggregate`: our stream's job of `peers`; the results carry the time at which their event was produced. `worker`: the
worker's full job on a simulated shop, told by its decisions; one waits for the record that moves the clock past its
time, which is found by the offsets that the decision says it had seen. Milliseconds; the first five seconds are left
out. One line of JSON on standard output.
"""

import json
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import engines
import orjson
import shop
from confluent_kafka import Consumer, TopicPartition
from events import PARTITIONS, REPORT_EVERY, USERS, event, producer, user
from kafka_server import real_kafka
from live import EVERY_TOPIC, environment
from running import Offsets, Running

from schemas.topics import CONTROL
from worker.partitioner import Partitioner
from worker.recall.days import DAY_MS
from worker.replay import midnights, tick

DECISIONS = "recall-decisions"
START_TIMEOUT_S = 60.0
WARM_UP_S = 5.0
PAUSE_S = 0.005
SETTLE_S = 3.0


def now_ms():
    return time.time_ns() / 1e6


def paced(items, rate):
    """Yield the items at a rate a second, in small bursts; None between them."""
    begin = time.monotonic()
    for sent, item in enumerate(items):
        while sent >= (time.monotonic() - begin) * rate:
            yield None
            time.sleep(PAUSE_S)
        yield item


def feed_events(bootstrap, topic, rate, seconds):
    """Produce events that say when they were produced."""
    out = producer(bootstrap, linger_ms=2)
    for number in paced(range(round(rate * seconds)), rate):
        if number is None:
            out.poll(0)
            continue
        draw = number * 2_654_435_761 % 2**32
        content = event(draw, draw % USERS, round(now_ms()), report=number % REPORT_EVERY == 0)
        out.produce(topic, orjson.dumps(content), user(draw % USERS).encode())
    assert out.flush(60) == 0


def send_ticks(out, at):
    for number in range(PARTITIONS):
        out.produce(CONTROL, tick(at), partition=number, timestamp=at)
    assert out.flush(60) == 0


def feed_shop(bootstrap, records, days, rate):
    """Produce a history with its ticks, of which one lies there; return by place when each record was produced, ms."""
    out = producer(bootstrap, linger_ms=2)
    partitioner = Partitioner(PARTITIONS)
    times = defaultdict(list) | {(CONTROL, number): [0.0] for number in range(PARTITIONS)}
    ticks = midnights(records[0].recorded_at, days)
    midnight = next(ticks)
    for record in paced(records, rate):
        if record is None:
            out.poll(0)
            continue
        while record.recorded_at >= midnight:
            for number in range(PARTITIONS):
                times[CONTROL, number].append(now_ms())
            send_ticks(out, midnight)
            midnight = next(ticks)
        number = partitioner.of(record.key)
        times[record.topic, number].append(now_ms())
        out.produce(record.topic, record.value, record.key, partition=number, timestamp=record.recorded_at)
    assert out.flush(60) == 0
    return dict(times)


def await_commit(bootstrap, group, topic, running):
    """Wait until a group has committed all of a topic: then it has started."""
    with Offsets(bootstrap, group, topic, PARTITIONS) as offsets:
        ends = offsets.ends()
        deadline = time.monotonic() + START_TIMEOUT_S
        while offsets.committed() != ends:
            if running.ended() or time.monotonic() > deadline:
                raise RuntimeError(f"{group} has not started: {running.tail()}")
            time.sleep(0.1)


def visible(bootstrap, topic, partitions, running, feeding):
    """Return (when it was seen, message) of a topic, until a while after the feeding has ended."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "latency",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 500,
            "log_level": 2,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found, until = [], None
    while until is None or time.monotonic() < until:
        message = consumer.poll(0.1)
        if message is not None and not message.error():
            found.append((now_ms(), message))
        if until is None and feeding.done():
            until = time.monotonic() + SETTLE_S
        if running.ended():
            raise RuntimeError(f"ended with {running.process.returncode}: {running.tail()}")
    consumer.close()
    return found


def aggregate(kafka, scratch, pool, arguments):
    """Return (when produced, when seen) of results, ms."""
    engine = engines.BY_NAME["ours" if arguments.mode == "transactional" else "plain"]
    kafka.create_topics(dict.fromkeys(("events", "results", "latency-probe"), PARTITIONS))
    kafka.create_topics({"latency-rows-changelog": PARTITIONS}, {"cleanup.policy": "compact"})
    command = [*engine.install(), kafka.bootstrap, "events", "results", "latency", str(scratch), *engine.options]
    with Running(command, scratch / "log") as running:
        pool.submit(feed_events, kafka.bootstrap, "events", 1_000, 1).result()
        await_commit(kafka.bootstrap, "latency", "events", running)
        feeding = pool.submit(feed_events, kafka.bootstrap, "events", arguments.rate, arguments.seconds)
        found = visible(kafka.bootstrap, "results", PARTITIONS, running, feeding)
        feeding.result()
    return [(orjson.loads(message.value())["at"], seen) for seen, message in found]


def worker(kafka, scratch, pool, arguments):
    """Return (when the record that set it free was produced, when seen) of decisions, ms."""
    chosen = shop.config(kafka, scratch)
    records = shop.history(arguments.rate * arguments.seconds)
    env = environment(chosen, kafka.bootstrap, scratch / "worker", mode=arguments.mode)
    with Running(shop.COMMAND, scratch / "log", env) as running:
        first = next(midnights(records[0].recorded_at, chosen.shop().days)) - DAY_MS
        send_ticks(producer(kafka.bootstrap), first)
        await_commit(kafka.bootstrap, "recall", CONTROL, running)
        feeding = pool.submit(feed_shop, kafka.bootstrap, records, chosen.shop().days, arguments.rate)
        found = visible(kafka.bootstrap, DECISIONS, EVERY_TOPIC[DECISIONS], running, feeding)
        times = feeding.result()
    partitioner = Partitioner(PARTITIONS)
    pairs = []
    for seen, message in found:
        number = partitioner.of(message.key())
        offsets = orjson.loads(message.value())["offsets"]
        following = [
            produced[offsets.get(topic, 0)]
            for (topic, partition), produced in times.items()
            if partition == number and offsets.get(topic, 0) < len(produced)
        ]
        if following:
            pairs.append((min(following), seen))
    return pairs


JOBS = {"aggregate": aggregate, "worker": worker}


def add_arguments(parser):
    parser.add_argument("--job", choices=JOBS, default="aggregate")
    parser.add_argument("--mode", choices=["transactional", "plain"], default="transactional")
    parser.add_argument("--rate", type=int, default=20_000, help="source records a second")
    parser.add_argument("--seconds", type=int, default=30)


def run(arguments):
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as scratch,
        real_kafka() as kafka,
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
    ):
        pairs = JOBS[arguments.job](kafka, Path(scratch), pool, arguments)
    first = max(produced for produced, _ in pairs) - (arguments.seconds - WARM_UP_S) * 1000
    delays = sorted(seen - produced for produced, seen in pairs if produced >= first)
    percentiles = statistics.quantiles(delays, n=100, method="inclusive")
    print(
        json.dumps(
            {
                "job": arguments.job,
                "mode": arguments.mode,
                "rate": arguments.rate,
                "samples": len(delays),
                "p50_ms": round(percentiles[49], 1),
                "p99_ms": round(percentiles[98], 1),
                "max_ms": round(delays[-1], 1),
            }
        )
    )
