"""What workers work on while faults happen, and the verdict on what they left."""

import datetime as dt
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
    Tail,
    decided_without_model,
    ends,
    environment,
    ids,
    lay_down,
    read,
    state,
    without_risk,
)
from points import Gate

from schemas.topics import CONTROL, MODEL, TRAINING
from worker import settings, topics
from worker.replay import Fed
from worker.settings import DEFAULT_PLAYBOOK
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources.history import HistoryRecord
from worker.stream.processor import NEVER
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


def configured(playbook, **given):
    """Give the settings of the simulated shop."""
    return settings.load(currency=CURRENCY, timezone=TIMEZONE, playbook=playbook, clock="recorded", **given)


class Story:
    """A history of the simulated shop, and what the replay makes of it; made once for many rounds."""

    def __init__(self, directory):
        playbook = decided_without_model(directory / "playbook.toml")
        self.config = configured(playbook, live_from="2025-02-01T00:00:00Z", horizons_days=(14,))
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
        self._partitions = self._config.partitions
        self._changelog = changelog_of(self._config.app_id)
        cluster.drop_topics(EVERY_TOPIC)  # what another round has left: the names are fixed
        topics.create(self._config)
        self._progress = Progress(cluster.bootstrap, self._changelog, self._partitions)

    def main(self, name):
        """Give the code that a worker's process runs, and its environment."""
        config = self._config
        wall = "__import__('time').time_ns() // 1_000_000"
        return START.format(wall=wall), environment(config, config.broker, self._directory / name, **self._extra(name))

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
        rows, records = state(self._config.broker, self._changelog, self._partitions)
        rows = self._comparable(rows)
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

    def _extra(self, _name):
        """Give settings that are a process's own."""
        return {}

    def _comparable(self, rows):
        return without_risk(rows)


class Lessons(Replayed):
    """A replay, what it learned from, and what it learned: (id, payload) by topic."""

    def __init__(self, config, records):
        self.said = {MODEL: [], CONTROL: [], TRAINING: []}
        super().__init__(config, records)
        self.rows = dict(self.replay.rows())

    def _emit(self, number, output):
        super()._emit(number, output)
        if output.topic in self.said:
            partition = number if output.topic == CONTROL else 0
            self.said[output.topic].append(lesson(output.topic, partition, output.value))


def lesson(topic, partition, value):
    """Return the id and the payload of a record that has to do with learning.

    Where a snapshot is read on from depends on how the lines of the partitions came together.
    """
    record = orjson.loads(value)
    names = {
        MODEL: ("kind", "horizon_days", "version"),
        CONTROL: ("horizon_days", "version"),
        TRAINING: ("kind", "id", "horizon_days", "day", "partition"),
    }
    name = (partition, *(record.get(field) for field in names[topic]))
    return name, orjson.dumps(record | {"resume_offset": 0}) if topic == MODEL else value


class LearningStory:
    """A history from which a model is learned, and what replays learn; made once for many rounds.

    Workers have sixteen partitions. What goes onto the model's topic is that of a replay in one partition.
    """

    def __init__(self):
        self.config = configured(DEFAULT_PLAYBOOK, live_from="2100-01-01T00:00:00Z", horizons_days=(7,), partitions=16)
        history = list(simulate(users=320, days=75, seed=4))
        self.replayed = Lessons(self.config, history)
        in_one = Lessons(self.config.model_copy(update={"partitions": 1}), history)
        self.replayed.said[MODEL] = in_one.said[MODEL]
        self.last_learned = in_one.said[MODEL][-1][0]
        adoptions = self._adoptions(history[-1].recorded_at)
        self.records = sorted([*adoptions, *history], key=lambda record: record.recorded_at)

    def _adoptions(self, until):
        """Return the adoptions as records of the history: each waits for its snapshot, as those of the trainer would.

        Those that the trainer writes come behind the ticks of the whole history, when it is over.
        """
        days = self.config.shop().days
        for value in dict.fromkeys(value for _, value in self.replayed.said[CONTROL]):
            effective_at = dt.datetime.fromisoformat(orjson.loads(value)["effective_at"])
            at = days.start(days.of(round(effective_at.timestamp() * 1000)) - 1)
            if at <= until:
                yield HistoryRecord(CONTROL, b"", at, value)


class Learning(Shop):
    """The load of a worker that learns: beside rows, all that has to do with learning is what the replay has of it."""

    def __init__(self, story, cluster, directory, random):
        super().__init__(story, cluster, directory)
        self._has_names = random.random() < 1 / 2
        self._published = Tail(cluster.bootstrap, MODEL)
        self._gate = Gate(directory / "gate", NEVER)

    def main(self, name):
        main, environment = super().main(name)
        return f"points.heed({str(self._gate.path)!r})\n{main}", environment

    def hold(self):
        """Let the workers come no further than to some snapshots before the last."""
        [_, self._held_at] = ends(self._story.records, self._config.shop().days, 3)
        self._gate.open_to(self._held_at)

    def held(self):
        """Tell whether they have come so far."""
        return self._progress.passed(self._held_at)

    def go_on(self):
        self._gate.open_to(NEVER)

    def begin(self):
        config = self._config
        self._over = lay_down(config.broker, self._story.records, config.shop().days, partitions=config.partitions)

    def exhausted(self):
        return super().exhausted() and self._has_learned()

    def finish(self, until):
        super().finish(until)
        until(self._has_learned, "all snapshots are published")

    def close(self):
        super().close()
        self._published.close()

    def judge(self):
        findings = super().judge()
        for topic, wanted in self._story.replayed.said.items():
            messages = read(self._config.broker, topic, self._partitions if topic == CONTROL else 1)
            if topic == CONTROL:  # the history lies there too, under its own times
                messages = [message for message in messages if message.timestamp()[1] > self._over]
            said = [lesson(topic, message.partition(), message.value()) for message in messages]
            findings += compare(said, dict(wanted))
            if topic == MODEL:
                findings.changed += said != wanted  # in this order
        return findings

    def _has_learned(self):
        self._published.poll()
        found = self._published.found
        return bool(found) and lesson(MODEL, 0, found[-1].value())[0] == self._story.last_learned

    def _extra(self, name):
        return {"instance_id": name} if self._has_names else {}

    def _comparable(self, rows):
        return rows
