"""Runs the worker's own rules over a recorded history, without a broker.

The history is split by key as the topics are, and merged as the worker merges a backlog. Where it has no control
records, the replay writes what a worker fed with it would read: a tick at each midnight of the shop, what the trainer
says, and what was granted, from the first midnight on. All partitions come to a midnight before the trainer runs and
any goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import orjson

from schemas.snapshots import Snapshot, read_model
from schemas.topics import CATALOG, CONTROL, SOURCE_TOPICS, TRAINING
from schemas.values import rfc3339
from worker import bootstrap
from worker.catalog import Products
from worker.partitioner import Partitioner
from worker.recall.risk.scorer import Scorer
from worker.stream.partition import Partition, Unit
from worker.stream.record import PARTITION_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from worker.grants import Grant
    from worker.recall.days import Days
    from worker.recall.profile import Profile
    from worker.recall.shop import Shared
    from worker.settings import Settings
    from worker.sources.history import HistoryRecord
    from worker.stream.processor import Output


Chunks: TypeAlias = Iterator[list["HistoryRecord"]]


class Fed(NamedTuple):
    """A record as a broker would have given it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class History(Protocol):
    """Where a replay's records come from: each topic in its order, some thousand records at a time."""

    @property
    def topics(self) -> Collection[str]:
        """Those that hold anything."""

    def catalogue(self) -> Iterable[Fed]:
        """Yield the records of the catalogue."""

    def control(self) -> Iterable[tuple[int, Fed]]:
        """Yield all of control beforehand, with the partition of each record; `read` gives it again."""

    def read(self, topic: str, number: int) -> Mapping[int, Sequence[Fed] | None]:
        """Return the next records of a topic by partition, those of one among them; None where nothing is left."""


def tick(at: int) -> bytes:
    """Return the control record that says what time it is."""
    return orjson.dumps({"kind": "tick", "at": rfc3339(at)})


def midnights(first: int, days: Days) -> Iterator[int]:
    """Yield the shop's midnights after a time, ms."""
    day = days.of(first) + 1
    while True:
        yield days.start(day)
        day += 1


def by_topic(records: Iterable[HistoryRecord]) -> dict[str, Chunks]:
    """Split records that fit into memory by topic."""
    topics: dict[str, list[HistoryRecord]] = {}
    for record in records:
        topics.setdefault(record.topic, []).append(record)
    return {topic: iter([chunk]) for topic, chunk in topics.items()}


class Split:
    """A history that tells nothing of partitions: split by key, as producers split it over topics."""

    def __init__(
        self,
        topics: Mapping[str, Chunks],
        partitioner: Partitioner,
        offsets: Counter[tuple[str, int]],
        progress: Callable[[int], None],
    ) -> None:
        """Go on after the `offsets`, by topic and partition, that were given out before, and count on."""
        self._chunks = dict(topics)
        self._partitioner = partitioner
        self._offsets = offsets
        self._progress = progress

    @property
    def topics(self) -> Collection[str]:
        return self._chunks.keys()

    def catalogue(self) -> Iterator[Fed]:
        for chunk in self._chunks.get(CATALOG, ()):
            for record in chunk:
                yield Fed(self._offsets[CATALOG, 0], record.recorded_at, record.key or None, record.value)
                self._offsets[CATALOG, 0] += 1
            self._progress(len(chunk))

    def control(self) -> Iterator[tuple[int, Fed]]:
        whole = [record for chunk in self._chunks.get(CONTROL, ()) for record in chunk]
        if whole:
            self._chunks[CONTROL] = iter([whole])
        for _, key, recorded_at, value in whole:
            for number in self._addressed(key):
                yield number, Fed(self._offsets[CONTROL, number], recorded_at, None, value)

    def read(self, topic: str, _number: int) -> Mapping[int, Sequence[Fed] | None]:
        numbers = range(self._partitioner.partitions)
        chunk = next(self._chunks[topic], None)
        if chunk is None:
            return dict.fromkeys(numbers)
        found: list[list[Fed]] = [[] for _ in numbers]
        of, offsets = self._partitioner.of, self._offsets
        for record in chunk:
            key = record.key
            for n in self._addressed(key) if topic == CONTROL else (of(key),):
                place = (topic, n)
                found[n].append(Fed(offsets[place], record.recorded_at, key or None, record.value))
                offsets[place] += 1
        self._progress(len(chunk))
        return dict(enumerate(found))

    def _addressed(self, key: bytes) -> Iterable[int]:
        """Return the partitions of a control record: its key is a number, or empty for all of them."""
        return (int(key),) if key else range(self._partitioner.partitions)


class Replay:
    """A worker's partitions, in one process and one thread.

    `emit` gets every output with the number of its partition, in an order that is the same for the same history.
    """

    def __init__(
        self,
        settings: Settings,
        emit: Callable[[int, Output], None],
        *,
        grants: Iterable[Grant] = (),
        progress: Callable[[int], None] = lambda _: None,
        rows_max: int = 8192,
        records_max: int = 32768,
    ) -> None:
        self.settings = settings
        self.models: dict[tuple[int, int], Scorer | None] = {}
        """By horizon and version; None where one cannot be used. The trainers add theirs."""
        self.products = Products(settings.shop().currency)
        self.customers = bootstrap.customers(settings, self.models, self.products.catalog)
        self.trainers = [bootstrap.trainer(settings, horizon_days) for horizon_days in settings.horizons_days]
        self.partitions: list[Partition[Profile, Shared]] = [
            Partition(bootstrap.layout(n, settings), self.customers, {}, rows_max=rows_max, records_max=records_max)
            for n in range(settings.partitions)
        ]
        self._grants = list(grants)
        """Those that are still to be written."""
        self._emit = emit
        self._progress = progress
        self._partitioner = Partitioner(settings.partitions)
        self._offsets: Counter[tuple[str, int]] = Counter()
        self._waited_for: set[tuple[str, int]] = set()
        """Topics and partitions of the history that may hold more."""
        self._learns = True
        self._training: list[bytes] = []
        self._trained = 0
        self._earliest, self._latest = 2**63, 0

    @property
    def counts(self) -> Counter[str]:
        """The counters of all partitions together."""
        return sum((Counter(partition.record.counts) for partition in self.partitions), Counter[str]())

    def partition_of(self, key: bytes) -> Partition[Profile, Shared]:
        """Return the partition that a key belongs to."""
        return self.partitions[self._partitioner.of(key)]

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, row) of every user and reserved key, but not the partitions' own records."""
        for partition in self.partitions:
            yield from ((key, row) for key, row in partition.rows.items() if key != PARTITION_KEY)

    def run(self, topics: Mapping[str, Chunks]) -> None:
        """Go through the whole history, and to the first midnight after it; through its catalogue before all else."""
        self.follow(Split(topics, self._partitioner, self._offsets, self._progress))

    def follow(self, history: History) -> None:
        """Do what `run` does with a history that may know partitions and offsets of its own.

        Where it has control records, all goes as they say: no tick is written, and no trainer runs.
        """
        self._stock(history.catalogue())
        recorded = CONTROL in history.topics
        if recorded and self._grants:
            raise ValueError("grants: allowed where the history has no control records; this one brings its own")
        self._learns = not recorded
        for topic in sorted(set(SOURCE_TOPICS) & set(history.topics)):
            self._waited_for.update((topic, partition.layout.number) for partition in self.partitions)
            self._expect(topic, more=True)
        self._expect(CONTROL, more=True)
        self._foresee(history.control())
        self._read_on(history)
        if not recorded:
            for midnight in midnights(self._earliest, self.customers.shop.days):
                self._close_day(midnight, history)
                if not self._waited_for and midnight > self._latest:
                    break
        self.close()

    def advance(self, midnight: int, records: Iterable[HistoryRecord]) -> None:
        """Take what is recorded up to a midnight of the shop, and go there: so a history can answer to what comes out.

        Midnights come one after the other, each with the records since the one before; `close` ends the history.
        """
        self._expect(CONTROL, more=True)
        history = Split(by_topic(records), self._partitioner, self._offsets, self._progress)
        self._stock(history.catalogue())
        for topic in sorted(set(SOURCE_TOPICS) & set(history.topics)):
            self._read(topic, 0, history)
        self._close_day(midnight, history)

    def close(self) -> None:
        """End the history: work off what is left."""
        self._expect(CONTROL, more=False)
        self._work()
        held = {partition.held for partition in self.partitions if partition.held}
        if held:
            raise ValueError(f"the history adopts what was not given: {', '.join(sorted(held))}")

    # -- input ---------------------------------------------------------------------------------------------------------

    def _expect(self, topic: str, *, more: bool) -> None:
        for partition in self.partitions:
            partition.expect(topic, more=more)

    def _foresee(self, control: Iterable[tuple[int, Fed]]) -> None:
        """Let act what acts before it is merged, however far behind it lies."""
        for number, record in control:
            self.partitions[number].foresee(CONTROL, record)

    def _read_on(self, history: History) -> None:
        """Work, and feed what the partitions wait for, until they wait for control or for nothing."""
        while True:
            self._work()
            wanted = False
            for partition in self.partitions:
                for topic in partition.starving():
                    if (topic, partition.layout.number) in self._waited_for:
                        self._read(topic, partition.layout.number, history)
                        wanted = True
            if not wanted:
                return

    def _close_day(self, midnight: int, history: History) -> None:
        """Bring all partitions to a midnight; then the trainers learn. What was granted holds from the first one on."""
        for given in self._grants:
            for number, value in enumerate(given.records(midnight, self.settings.currency, self.settings.partitions)):
                self._control(value, midnight, number)
        self._grants.clear()
        self._control(tick(midnight), midnight)
        self._read_on(history)
        self._train()

    def _read(self, topic: str, number: int, history: History) -> None:
        """Feed the next records of a topic."""
        for n, records in history.read(topic, number).items():
            if records is None:
                self._waited_for.discard((topic, n))
                self.partitions[n].expect(topic, more=False)
            elif records:
                times = [record.timestamp for record in records]
                self._earliest, self._latest = min(self._earliest, *times), max(self._latest, *times)
                self.partitions[n].feed(topic, records)

    def _stock(self, records: Iterable[Fed]) -> None:
        """Take records of the catalogue."""
        for record in records:
            self.products.take(record.key, record.value, record.offset)

    def _control(self, value: bytes, recorded_at: int, number: int | None = None) -> None:
        """Write a control record, to one partition or to all."""
        for n in range(len(self.partitions)) if number is None else (number,):
            place = (CONTROL, n)
            self.partitions[n].feed(CONTROL, [Fed(self._offsets[place], recorded_at, None, value)])
            self._offsets[place] += 1

    # -- output --------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        for partition in self.partitions:
            while (unit := partition.advance()) is not None:
                self._take(partition.layout.number, unit)

    def _take(self, number: int, unit: Unit) -> None:
        for output in unit.outputs:
            if output.topic == TRAINING and self._learns:
                self._training.append(output.value)
            self._emit(number, output)

    def _train(self) -> None:
        """Let the trainers learn the day that all partitions have closed."""
        for value in self._training:
            for trainer in self.trainers:
                for output in trainer.take(self._trained, value):
                    if output.topic == CONTROL:
                        self._control(output.value, self._latest, output.partition)
                    else:
                        record = read_model(output.value)
                        if isinstance(record, Snapshot):
                            self.models[record.horizon_days, record.version] = Scorer(record)
                    self._emit(output.partition or 0, output)
            self._trained += 1
        self._training.clear()
