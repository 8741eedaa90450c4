"""A live worker in a process of its own, and what it left on the topics."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import points
from confluent_kafka import Consumer, Producer, TopicPartition
from msgspec.structs import replace

from schemas.topics import TOPICS
from worker import replay, topics
from worker.from_kafka import Reader
from worker.partitioner import Partitioner
from worker.recall.playbook import load
from worker.recall.profile import Profile
from worker.recall.risk import labels
from worker.replay import Replay, by_topic
from worker.settings import DEFAULT_PLAYBOOK
from worker.stream.record import ATTACHMENT, HEADER_BYTES, PARTITION_KEY, RESERVED, PartitionRecord

PARTITIONS = 4
CHANGELOG = "recall-rows-changelog"
SESSION_S = 3
"""After which a worker that was killed is missed; the brokers that tests start allow less than is usual."""
ROOT = Path(__file__).parents[1]
EVERY_TOPIC = {topic.name: PARTITIONS if topic.partitions == "source" else 1 for topic in TOPICS.values()} | {
    CHANGELOG: PARTITIONS
}
START = """
from worker import settings
from worker.app import create_app, start
start(create_app(settings.load(), wall=lambda: {wall}))
"""


def environment(config, bootstrap, datadir, **extra):
    """Give a worker's variables for the settings of a replay."""
    shop = {
        name: getattr(config, name)
        for name in ("currency", "timezone", "playbook", "salt", "partitions", "app_id", "learner")
    }
    values = {
        **shop,
        "live_from": config.live_from.isoformat(),
        "horizons_days": ",".join(map(str, config.horizons_days)),
        "broker": bootstrap,
        "datadir": datadir,
        "web_port": 0,
        "session_timeout_s": SESSION_S,
        "clock": "recorded",
        **extra,
    }
    return os.environ | {f"RECALL_{name.upper()}": str(value) for name, value in values.items()}


@contextlib.contextmanager
def worker(env, log, wall="__import__('time').time_ns() // 1_000_000", fault=None, gate=None):
    """Run a worker, with a fault of `points` in it, or held by a gate; it is killed at the end if it still runs."""
    with Path(log).open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", points.program(START.format(wall=wall), fault, gate)],
            env=env,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def stop(process):
    """Stop a worker as an operator would, and return its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def parts(records, days, number):
    """Cut a history at midnights of the shop into so many parts of about one size."""
    found, left = [], records
    for more in range(number - 1, 0, -1):
        midnight = next(replay.midnights(left[len(left) // (more + 1)].recorded_at, days))
        found.append([record for record in left if record.recorded_at < midnight])
        left = left[len(found[-1]) :]
    return [*found, left]


def ends(records, days, number):
    """Return the midnights at which `parts` cuts."""
    return [next(replay.midnights(part[-1].recorded_at, days)) for part in parts(records, days, number)[:-1]]


def lay_down(bootstrap, records, days, *, ticks=True, partitions=PARTITIONS):
    """Write a history, and, as a feeder would, a tick at each midnight of the shop; return when the last one is.

    Control records that the history brings along go to every partition.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 2,
            "enable.idempotence": True,  # without it a retry may put records out of order
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    partitioner = Partitioner(partitions)
    midnights = replay.midnights(min(record.recorded_at for record in records), days)
    midnight = next(midnights)

    def control(value, at):
        for number in range(partitions):
            producer.produce("control", value, partition=number, timestamp=at)

    for record in records:
        while ticks and record.recorded_at >= midnight:
            control(replay.tick(midnight), midnight)
            midnight = next(midnights)
        producer.poll(0)
        if record.topic == "control":
            control(record.value, record.recorded_at)
            continue
        number = partitioner.of(record.key) if TOPICS[record.topic].partitions == "source" else 0
        producer.produce(record.topic, record.value, record.key, partition=number, timestamp=record.recorded_at)
    if ticks:
        control(replay.tick(midnight), midnight)
    assert producer.flush(60) == 0
    return midnight


def make_topics(config):
    """Make the worker's topics, and wait until each partition that a client may ask for has a leader."""
    plans = [outcome.plan for outcome in topics.create(config)]
    with Reader(config) as reader:
        for plan in plans:
            for number in range(plan.partitions):
                reader.span((plan.name, number))


def read(bootstrap, topic, partitions=None):
    """Return all committed records of a topic, by partition and offset; one of ours has its number of partitions."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 2,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": False,
        }
    )
    try:
        places = [TopicPartition(topic, number, 0) for number in range(partitions or EVERY_TOPIC[topic])]
        ends = {place.partition: consumer.get_watermark_offsets(place, timeout=10)[1] for place in places}
        consumer.assign(places)
        found, deadline = [], time.monotonic() + 60
        while any(at.offset < ends[at.partition] for at in consumer.position(places) if ends[at.partition]):
            assert time.monotonic() < deadline, f"{topic} was not read to its end"
            message = consumer.poll(0.2)
            if message is not None and not message.error():
                found.append(message)
        return found
    finally:
        consumer.close()


def state(bootstrap, changelog=CHANGELOG, partitions=PARTITIONS):
    """Return what the changelog holds: rows by key, and the partition records."""
    rows, records = {}, {}
    for message in read(bootstrap, changelog, partitions):
        if message.key() == PARTITION_KEY:
            records[message.partition()] = PartitionRecord.decode(message.value())
        elif message.value() is None:
            rows.pop(message.key(), None)
        else:
            rows[message.key()] = message.value()
    return rows, records


def decided_without_model(path):
    """Write the default playbook for histories that say nothing of consent, and without what a snapshot has a say in.

    A history is fed a thousand times faster than it was lived, so adoptions come too late, and not at the same place in
    every run: what the model decides would differ.
    """
    text = DEFAULT_PLAYBOOK.read_text()
    for old, new in (
        ('unknown = "deny"', 'unknown = "allow"'),
        ('"risk", ', ""),
        ("doubtful_below = 0.3", "doubtful_below = 0.0"),
        ("gone_below = 0.1", "gone_below = 0.0"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    assert "risk" not in {trigger for play in load(path).plays for trigger in play.opening}
    return path


def without_risk(rows):
    """Return rows in a form that can be compared, but for the risk: adoptions come when the trainer is ready."""
    decode = msgspec.msgpack.Decoder(Profile).decode
    plain = {}
    for key, row in rows.items():
        if key.startswith(ATTACHMENT):
            sighting = labels.unpack(row)
            plain[key] = row if sighting is None else sighting._replace(forecasts={}, lead_days=None)
            continue
        if key[:1] == RESERVED:
            plain[key] = row
            continue
        profile = decode(row[HEADER_BYTES:])
        account = profile.account
        account.risk, account.risk_at, account.risk_version, account.alerted_day = -1.0, 0, 0, 0
        account.risk_level, account.risk_opened_at = "", 0
        if account.potential is not None:
            account.potential = replace(account.potential, reason="")  # it names the probability to be alive
        profile.seal()
        plain[key] = (row[:HEADER_BYTES], msgspec.to_builtins(profile))
    return plain


class Replayed:
    """A replay, and what it emitted."""

    def __init__(self, config, records):
        self.ids = []
        self.replay = Replay(config, self._emit)
        self.replay.run(by_topic(iter(records)))
        self.rows = without_risk(dict(self.replay.rows()))

    def _emit(self, _number, output):
        if output.topic == "recall":
            self.ids.append(dict(output.headers)["ce_id"].decode())

    @property
    def clock(self):
        return min(partition.clock for partition in self.replay.partitions)


def ids(messages):
    """Return the ids of the events, in order."""
    return [dict(message.headers())["ce_id"].decode() for message in messages]


def wait_until(condition, process, log, timeout_s=120):
    """Wait for a condition; fail with the worker's last words when it dies or time is up."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        tail = Path(log).read_text()[-3000:]
        assert process.poll() is None, f"the worker ended with {process.returncode}:\n{tail}"
        assert time.monotonic() < deadline, f"not reached within {timeout_s} s:\n{tail}"
        time.sleep(0.1)


class Progress:
    """How far the worker has come, from the partition records in its changelog."""

    def __init__(self, bootstrap, changelog=CHANGELOG, partitions=PARTITIONS):
        self._partitions = partitions
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "log_level": 2,
                "group.id": "progress",
                "isolation.level": "read_committed",
            }
        )
        self._consumer.assign([TopicPartition(changelog, number, 0) for number in range(partitions)])
        self._records = {}

    def clocks(self):
        """Return the clocks of the partitions that have one."""
        while (message := self._consumer.poll(0.01)) is not None:
            if not message.error() and message.key() == PARTITION_KEY:
                self._records[message.partition()] = PartitionRecord.decode(message.value())
        return [record.clock for record in self._records.values()]

    def passed(self, at):
        """Tell whether all partitions have come to a time."""
        clocks = self.clocks()
        return len(clocks) == self._partitions and min(clocks) >= at

    def applied(self):
        """Return how many records of customers were applied; control apart."""
        self.clocks()
        return sum(n for record in self._records.values() for topic, n in record.offsets.items() if topic != "control")

    def close(self):
        self._consumer.close()


class Tail:
    """Reads a topic as it grows, since the embedded broker drops what is old."""

    def __init__(self, bootstrap, topic):
        self.found = []
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "log_level": 2, "group.id": "tail", "isolation.level": "read_committed"}
        )
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(EVERY_TOPIC[topic])])

    def poll(self, timeout_s=0.0):
        """Take what has come since."""
        while (message := self._consumer.poll(timeout_s)) is not None:
            if not message.error():
                self.found.append(message)

    def close(self):
        self._consumer.close()
