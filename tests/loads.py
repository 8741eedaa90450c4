"""What workers work on while faults happen, and the verdict on what they left."""

import os
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from typing import NamedTuple
from uuid import uuid4

import counting
import orjson
from confluent_kafka import Producer
from counting import Job
from live import (
    EVERY_TOPIC,
    PARTITIONS,
    SESSION_S,
    START,
    Progress,
    Replayed,
    environment,
    ids,
    lay_down,
    read,
    state,
    without_risk,
)

from schemas.topics import CONTROL
from worker import settings, topics
from worker.replay import Fed
from worker.settings import DEFAULT_PLAYBOOK
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.stream.record import HEADER_BYTES, PARTITION_KEY, PartitionRecord
from worker.stream.topics import changelog_of


@dataclass
class Findings:
    """What a round left, against what it should have; all zero but `repeated` in plain mode."""

    lost: int = 0
    doubled: int = 0
    """Records that a row counts too seldom, or too often."""
    rows: int = 0
    """Rows and partition records that differ."""
    missing: int = 0
    extra: int = 0
    """Outputs, by id."""
    repeated: int = 0
    changed: int = 0
    """Ids with another payload than the one they should have."""
    exits: int = 0
    """Processes that ended by themselves with an exit code that the documentation does not name."""
    stuck: int = 0

    def __add__(self, other):
        return Findings(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def good(self, *, transactional):
        """Tell whether nothing is wrong."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        if not transactional:
            del found["repeated"]
        return not any(found.values())


class Marbles:
    """The load that knows no customers.

    It flows while faults happen; in plain mode it lies there from the start, since outputs may repeat there: they must
    say the same, which they do for the same merged order alone.
    """

    RATE_PER_S = 800
    LYING_THERE = 20_000
    KEYS = 400
    START_MS = 1_700_000_000_000

    def __init__(self, cluster, directory, random, *, plain=False):
        prefix = f"marbles-{uuid4().hex[:8]}-"
        self.cluster = cluster
        self.job = Job(
            prefix,
            cluster.bootstrap,
            str(directory),
            PARTITIONS,
            transactional=not plain,
            session_timeout_s=SESSION_S,
            on_disk=not plain and random.random() < 1 / 2,
        )
        self._random = random
        cluster.create_topics({**dict.fromkeys(self.job.topics, PARTITIONS), self.job.probe: 1})
        cluster.create_topics({self.job.changelog: PARTITIONS}, config={"cleanup.policy": "compact"})
        self._records = {(topic, number): [] for topic in self.job.sources for number in range(PARTITIONS)}
        self._made = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._flow)
        self._producer = Producer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "log_level": 0,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 120_000,
            }
        )
        self._progress = Progress(cluster.bootstrap, self.job.changelog)

    @property
    def transactional(self):
        return self.job.transactional

    def main(self, name):
        """Give the code that a worker's process runs, and its environment."""
        job = self.job._replace(datadir=f"{self.job.datadir}/{name}")
        return f"import counting\ncounting.run(counting.Job(*{tuple(job)!r}))", os.environ

    def begin(self):
        """Let the input come."""
        if self.transactional:
            self._thread.start()
            return
        for _ in range(self.LYING_THERE):
            self._throw()
        assert self._producer.flush(60) == 0

    def applied(self):
        """Return how many records have been applied and committed."""
        return self._progress.applied()

    def exhausted(self):
        """Tell whether nothing is left to work on while faults are still to come."""
        return not self.transactional and self.applied() == self._made

    def finish(self, until):
        """End the input and wait for all of it; then a last tick wakes the timers that are left."""
        self._stop()
        until(lambda: self.applied() == self._made, "all is applied")
        for number in range(PARTITIONS):
            self._put(self.job.sources[0], number, None, {"id": "tick", "at": self.START_MS * 2})
        assert self._producer.flush(120) == 0
        until(lambda: self.applied() == self._made, "the last tick is applied")

    def close(self):
        self._stop()
        self._progress.close()

    def judge(self):
        """Compare rows, partition records and outputs with those of the pure partition."""
        rows, records = state(self.job.bootstrap, self.job.changelog)
        truth = self._truth()
        findings = Findings()
        for key in rows.keys() | truth.rows.keys():
            findings.rows += rows.get(key) != truth.rows.get(key)
            for got, wanted in zip(counts(rows.get(key)), counts(truth.rows.get(key)), strict=True):
                findings.lost += max(0, wanted - got)
                findings.doubled += max(0, got - wanted)
        findings.rows += sum(records[number] != record for number, record in truth.records.items())
        said = [_Said.of(message.partition(), message.value()) for message in self._read(self.job.out)]
        findings += compare([(it.id, it.facts) for it in said], truth.said)
        if self.transactional:
            findings.changed += gaps((it.number, it.partition) for it in said)
        findings.extra += len(self._read(self.job.dead_letters))
        return findings

    def _read(self, topic):
        return read(self.job.bootstrap, topic, PARTITIONS)

    def _truth(self):
        rows, records, said = {}, {}, {}
        for number in range(PARTITIONS):
            partition = self.job.partition(number, {})
            partition.claim(dict.fromkeys(self.job.sources, PARTITIONS), {})
            for topic in self.job.sources:
                partition.feed(topic, self._records[topic, number])
            while (unit := partition.advance()) is not None:
                for output in unit.outputs:
                    it = _Said.of(number, output.value)
                    said[it.id] = it.facts
            records[number] = PartitionRecord.decode(partition.rows.pop(PARTITION_KEY))
            rows |= partition.rows
        return _Truth(rows, records, said)

    def _stop(self):
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _flow(self):
        started, thrown = time.monotonic(), 0
        while not self._ended.wait(0.02):
            due = int((time.monotonic() - started) * self.RATE_PER_S)
            for _ in range(due - thrown):
                self._throw()
            thrown = due
        assert self._producer.flush(120) == 0

    def _throw(self):
        draw = self._random
        key = draw.randrange(self.KEYS)
        at = self.START_MS + 5 * self._made + draw.randrange(-200, 200)
        marble = {"id": f"{self._made}", "at": at}
        if draw.random() < 1 / 6:
            marble |= {"then": draw.choice(("wake", "decide")), "delay": draw.randrange(1, 5000)}
        self._put(draw.choice(self.job.sources), key % PARTITIONS, b"key-%d" % key, marble)

    def _put(self, topic, number, key, marble):
        value = orjson.dumps(marble)
        records = self._records[topic, number]
        self._producer.produce(topic, value, key, partition=number)
        self._producer.poll(0)
        records.append(Fed(len(records), 0, key, value))
        self._made += 1


class _Truth(NamedTuple):
    rows: dict[bytes, bytes]
    records: dict[int, PartitionRecord]
    said: dict[str, object]
    """What each output says, by its id."""


class _Said(NamedTuple):
    """An output of the marbles; its number is the partition's to give."""

    partition: int
    id: str
    number: int | None
    facts: object

    @classmethod
    def of(cls, partition, value):
        said = orjson.loads(value)
        number = said.pop("number", None)
        return cls(partition, said.pop("id"), number, said)


def counts(row):
    """Return a row's counts by topic."""
    return [0] * len(counting.COLOURS) if row is None else counting.decode_row(row[HEADER_BYTES:]).counts


def compare(said, truth):
    """Find what is wrong with outputs, given as (id, payload), against the payloads that they should have by id."""
    seen = Counter(name for name, _ in said)
    return Findings(
        missing=len(truth.keys() - seen.keys()),
        extra=len(seen.keys() - truth.keys()),
        repeated=sum(n - 1 for n in seen.values()),
        changed=len({name for name, payload in said if payload != truth.get(name, payload)}),
    )


def gaps(numbers):
    """Count what is wrong with decisions that each partition numbers from one on, given as (number, partition)."""
    given = defaultdict(list)
    for number, partition in numbers:
        if number is not None:
            given[partition].append(number)
    return sum(sorted(each) != list(range(1, len(each) + 1)) for each in given.values())


class Story:
    """A history of the simulated shop, and what the replay makes of it; made once for many rounds."""

    def __init__(self, directory):
        playbook = directory / "playbook.toml"
        playbook.write_text(DEFAULT_PLAYBOOK.read_text().replace('unknown = "deny"', 'unknown = "allow"'))
        self.config = settings.load(
            currency=CURRENCY,
            timezone=TIMEZONE,
            playbook=playbook,
            live_from="2025-02-01T00:00:00Z",
            horizons_days=(14,),
            clock="recorded",
        )
        self.records = list(simulate(users=700, days=120, seed=7))
        self.replayed = Replayed(self.config, self.records)


class Shop:
    """The load of the whole worker: a simulated shop, whose history lies there from the start."""

    transactional = True

    def __init__(self, story, cluster, directory):
        self.cluster = cluster
        self._story = story
        self._directory = directory
        app_id = f"shop-{uuid4().hex[:8]}"
        self._config = story.config.model_copy(update={"broker": cluster.bootstrap, "app_id": app_id})
        self._changelog = changelog_of(self._config.app_id)
        cluster.drop_topics(EVERY_TOPIC)  # what another round has left: the names are fixed
        topics.create(self._config)
        self._progress = Progress(cluster.bootstrap, self._changelog)

    def main(self, name):
        """Give the code that a worker's process runs, and its environment."""
        config = self._config
        wall = "__import__('time').time_ns() // 1_000_000"
        return START.format(wall=wall), environment(config, config.broker, self._directory / name)

    def begin(self):
        """Lay the history down."""
        lay_down(self._config.broker, self._story.records, self._config.shop().days)

    def applied(self):
        """Return how many records have been applied and committed."""
        return self._progress.applied()

    def exhausted(self):
        """Tell whether nothing is left to work on while faults are still to come."""
        return self._progress.passed(self._story.replayed.clock)

    def finish(self, until):
        """Wait for the end of the history."""
        until(lambda: self._progress.passed(self._story.replayed.clock), "the history is worked off")

    def close(self):
        self._progress.close()

    def judge(self):
        """Compare rows, offsets and commands with those of the replay."""
        replayed, findings = self._story.replayed, Findings()
        rows, records = state(self._config.broker, self._changelog)
        rows = without_risk(rows)
        for key in rows.keys() | replayed.rows.keys():
            findings.rows += rows.get(key) != replayed.rows.get(key)
        for partition in replayed.replay.partitions:
            got = records[partition.layout.number].offsets
            for topic, wanted in partition.record.offsets.items():
                if topic != CONTROL:  # the trainer's adoptions lie there too
                    findings.lost += max(0, wanted - got.get(topic, 0))
                    findings.doubled += max(0, got.get(topic, 0) - wanted)
        sent = [(name, None) for name in ids(read(self._config.broker, "recall"))]
        return findings + compare(sent, dict.fromkeys(replayed.ids))
