"""The pure heart of the worker: records in, rows and outputs out, for one partition of the source topics.

A unit of work takes a merged prefix of the records, groups it by key, and brings each key up to the new clock: its row
is decoded once, records and timers are taken in order, the row is encoded once. Keys do not see each other there, so
their order is free. What draws on shared state is a decision; decisions are taken across keys in the order of (due,
key). Hence the same input cut into units in any way gives the same effects.

What makes that true:

- A timer due at t runs when the clock has passed t, so after all records at t.
- A key's timers run before a record that moves the clock past them; one that is set too late runs as if it were due at
  the clock that set it.
- A directive that changes `shared` ends the unit before it; one for later ends the unit at its time.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from worker.stream.merge import Entry, Merge
from worker.stream.processor import NEVER, Directive, Ignored, Output, Processor, Rejected, Tick
from worker.stream.record import PARTITION_KEY, RESERVED, PartitionRecord, Pending, next_due
from worker.stream.timers import Timers
from worker.stream.work import Job, KeyContext, KeyedWork, Work, where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

S = TypeVar("S")
H = TypeVar("H")


class SourceRecord(Protocol):
    """What is read of a source record; aiokafka's `ConsumerRecord` is one."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


class Unit(NamedTuple):
    """What one piece of work changed; rows (None: dropped), outputs and offsets stand or fall together."""

    rows: dict[bytes, bytes | None]
    outputs: list[Output]
    offsets: dict[str, int]
    """The next offset to read, of every topic that the partition has read."""
    records: int
    record: bytes
    """The partition record after it, also in the partition's rows under `record.PARTITION_KEY`."""

    @property
    def idle(self) -> bool:
        """Tell whether nothing moved but the partition record."""
        return not self.rows and not self.outputs


class Layout(NamedTuple):
    """Where a partition stands; `topics` in merge order."""

    number: int
    topics: tuple[str, ...]
    dead_letters: str


class _Read(NamedTuple):
    """A directive as it was read, in case that it has to wait."""

    directive: Directive
    pending: Pending


class Partition(Generic[S, H]):
    """State and order of one partition.

    `rows` is the store's mapping, changed at once and before any commit. Memory is bounded by the caller: it feeds a
    topic while little of it is `buffered`, and works off units until None comes.
    """

    def __init__(
        self,
        layout: Layout,
        processor: Processor[S, H],
        rows: MutableMapping[bytes, bytes],
        *,
        rows_max: int = 2048,
        records_max: int = 8192,
    ) -> None:
        """Take up the partition where its record in `rows` left it.

        `rows_max` bounds the rows and `records_max` the records of a unit.
        """
        raw = rows.get(PARTITION_KEY)
        self.layout = layout
        self.rows = rows
        self.record = PartitionRecord() if raw is None else PartitionRecord.decode(raw)
        self.held: str | None = None
        """What must be loaded before the next directive can be taken, in words."""
        self._processor = processor
        self._shared = processor.decode_shared(self.record.shared)
        self._merge = Merge(layout.topics)
        self._index = {topic: i for i, topic in enumerate(layout.topics)}
        self._last_at = [self.record.times.get(topic, 0) for topic in layout.topics]
        self._fed = [self.record.offsets.get(topic, 0) for topic in layout.topics]
        self._timers = Timers(rows)
        self._keys_max = max(1, rows_max // 2)
        self._records_max = records_max
        self._context = KeyContext(layout.number, rows)
        self._context.offsets_at = self._offsets_at
        self._keyed = KeyedWork(processor, self._context, layout.topics, layout.dead_letters)
        self._directives = [(p, self._directive_of(p)) for p in self.record.pending]
        self._taken: list[Entry] = []
        self._clocks: list[int] = []
        self._marks: dict[str, tuple[list[int], list[int]]] | None = None
        """By topic: the clocks of the records taken, and the offsets after them."""

    # -- place ---------------------------------------------------------------------------------------------------------

    def claim(self, partitions: Mapping[str, int], topic_ids: Mapping[str, str]) -> None:
        """Bind the state to a layout and, where known, to a cluster's topics; refuse those of others.

        Raises:
            ValueError: saying what the state belongs to, and what to do.

        """
        record, number = self.record, self.layout.number
        count = partitions[self.layout.topics[0]]
        if record.partitions not in {0, count}:
            raise ValueError(
                f"partition {number}: its state was kept under {record.partitions} partitions, now there are {count}: "
                f"keys lie elsewhere now. Go back to {record.partitions}, or start anew under another app_id"
            )
        for topic, topic_id in topic_ids.items():
            if record.topic_ids.get(topic, topic_id) != topic_id:
                raise ValueError(
                    f"partition {number}: topic {topic} is not the one that the state was kept for (its id has "
                    f"changed): it was made anew, or this is another cluster. Start anew under another app_id"
                )
        record.partitions = count
        record.topic_ids.update(topic_ids)

    def start_offset(self, topic: str) -> int | None:
        """Return the next offset to read, or None where nothing was read yet."""
        return self.record.offsets.get(topic)

    # -- input ---------------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> int:
        """The greatest event time of data and ticks applied, ms."""
        return self.record.clock

    @property
    def shared(self) -> H:
        return self._shared

    def expect(self, topic: str, *, more: bool) -> None:
        """Say whether records of the topic are known to be there that were not fed yet; the merge waits for them."""
        self._merge.expect(self._index[topic], more=more)

    def feed(self, topic: str, records: Iterable[SourceRecord]) -> None:
        """Buffer records of a topic, in its order; those that were fed or applied before are left out."""
        index = self._index[topic]
        parse = self._processor.parse
        last, fed = self._last_at[index], self._fed[index]
        entries = []
        for record in records:
            if record.offset < fed:
                continue
            fed = record.offset + 1
            key, value, recorded_at = record.key, record.value, record.timestamp
            try:
                at, body = parse(topic, key, value, recorded_at)
            except AssertionError:
                raise
            except Exception as error:  # noqa: BLE001 - dead-lettered, never swallowed
                at, body = None, Rejected("parse raised", where(error))
            if key and key[:1] == RESERVED:
                at, body = None, Rejected("reserved key", "a key must not begin with a zero byte")
            if at is not None:
                last = at
            if type(body) is Directive:
                if body.ahead:
                    self._shared, _ = self._processor.direct(self._shared, body, self._context)
                pending = Pending(body.effective_at or 0, topic, record.offset, recorded_at, key, value)
                body = _Read(body, pending)
            entries.append(Entry(last, index, record.offset, key or b"", body, recorded_at))
        self._last_at[index], self._fed[index] = last, fed
        self._merge.push(index, entries)

    def buffered(self, topic: str) -> int:
        """Return how many records of the topic were fed and not yet applied."""
        return self._merge.waiting(self._index[topic])

    def starving(self) -> list[str]:
        """Return the topics that must be fed before the partition can go on."""
        return [self.layout.topics[i] for i in self._merge.starving()]

    # -- work ----------------------------------------------------------------------------------------------------------

    def advance(self) -> Unit | None:
        """Do the next unit of work; None when there is nothing to do, or something to wait for (`held`, `starving`)."""
        head = self._merge.head()
        if head is None:
            return None
        directive = type(head.body) is _Read
        clock = self.record.clock if directive else max(self.record.clock, head.at)
        barrier = self._barrier()
        if clock > barrier:
            return self._up_to(barrier, clock)
        if directive:
            return self._direct(head)
        return self._records(barrier, clock)

    def _barrier(self) -> int:
        """Return when `shared` changes next."""
        due = self._processor.shared_due(self._shared)
        return min(due, self._directives[0][0].effective_at) if self._directives else due

    def _up_to(self, barrier: int, clock: int) -> Unit | None:
        """Bring all keys up to the barrier, then take what waits there; `clock` is what will be."""
        work = Work()
        jobs: dict[bytes, Job[S]] = {}
        edge = self._pop_due(jobs, barrier)
        reached = self._run(work, jobs, edge, barrier)
        if reached == barrier:
            processor, context = self._processor, self._context
            if processor.shared_due(self._shared) <= barrier:
                context.clock = clock
                self._shared, effects = processor.wake_shared(self._shared, barrier, context)
                work.take(effects)
            elif not self._holds(self._directives[0][1]):
                pending, directive = self._directives.pop(0)
                self._take_directive(directive, pending, barrier, work)
            elif not work.rows:
                return None
        return self._finish(work, max(self.record.clock, reached))

    def _direct(self, head: Entry) -> Unit | None:
        """Take a directive that was just merged, or lay it by until its time."""
        assert isinstance(head.body, _Read)  # seen by the caller
        directive, pending = head.body
        work = Work()
        if directive.effective_at is not None and directive.effective_at > self.record.clock:
            self._directives.append((pending, directive))
            self._directives.sort(key=lambda item: (item[0].effective_at, item[0].topic, item[0].offset))
        elif self._holds(directive):
            return None
        else:
            if directive.effective_at is not None and directive.effective_at < self.record.clock:
                work.counts["directive.late"] += 1
            self._take_directive(directive, pending, self.record.clock, work)
        self._merge.pop()
        self._taken = [head]
        work.records = 1
        return self._finish(work, self.record.clock)

    def _take_directive(self, directive: Directive, pending: Pending, clock: int, work: Work) -> None:
        self._context.clock = clock
        try:
            self._shared, effects = self._processor.direct(self._shared, directive, self._context)
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - dead-lettered, never swallowed
            source = (pending.topic, self.layout.number, pending.offset, pending.recorded_at)
            work.bury(
                self.layout.dead_letters,
                stage="directive",
                reason="directive raised",
                detail=where(error),
                key=pending.key,
                source=source,
            )
        else:
            work.take(effects)

    def _records(self, barrier: int, clock: int) -> Unit:
        """Run what is due before the next record, which moves the clock to `clock`; then take it, and more."""
        work = Work()
        jobs: dict[bytes, Job[S]] = {}
        edge = self._pop_due(jobs, clock)
        if edge is None:
            clock = self._take_records(barrier)
            edge = self._pop_due(jobs, clock)
        return self._finish(work, self._run(work, jobs, edge, clock))

    def _take_records(self, barrier: int) -> int:
        """Take as many records as a unit holds, up to the barrier; return the clock after them."""
        merge, keys_max, records_max = self._merge, self._keys_max, self._records_max
        taken: list[Entry] = []
        clocks: list[int] = []
        keys: set[bytes] = set()
        clock = self.record.clock
        while len(taken) < records_max and (head := merge.head()) is not None:
            at, _, _, key, body, _ = head
            if at > clock:
                if at > barrier:
                    break
            else:
                at = clock
            if type(body) is _Read:
                break
            if key not in keys:
                if len(keys) == keys_max:
                    break
                keys.add(key)
            clock = at
            merge.pop()
            taken.append(head)
            clocks.append(at)
        self._taken, self._clocks = taken, clocks
        return clock

    def _run(self, work: Work, jobs: dict[bytes, Job[S]], edge: tuple[int, bytes] | None, horizon: int) -> int:
        """Apply records and run the timers due before the horizon; return how far the clock came.

        Where more keys are due than a unit holds, it ends earlier, at the `edge`, the first timer that is left, and
        puts the later records back.
        """
        if edge is not None:
            horizon = edge[0]
            kept = bisect_right(self._clocks, horizon)
            self._merge.put_back(self._taken[kept:])
            del self._taken[kept:], self._clocks[kept:]
        work.records = len(self._taken)
        self._group(jobs, work)
        pending: list[tuple[int, bytes]] = []
        keyed, shared = self._keyed, self._shared
        # A key without a decision is done with at once: rows that are all alive together fall out of the CPU's caches.
        for key in list(jobs):
            job = jobs[key]
            # Timers at the edge itself go by key: those before it are due now.
            job.horizon = horizon + 1 if edge is not None and key < edge[1] else horizon
            keyed.open(job)
            due = keyed.run(job, shared, work)
            if due is None:
                self._close(jobs.pop(key), work)
            else:
                pending.append((due, key))
        heapq.heapify(pending)
        while pending:
            due, key = heapq.heappop(pending)
            job = jobs[key]
            shared = keyed.decide(job, shared, due, work)
            again = keyed.run(job, shared, work)
            if again is None:
                self._close(jobs.pop(key), work)
            else:
                heapq.heappush(pending, (again, key))
        self._shared = shared
        self._context.job = None
        return horizon

    def _pop_due(self, jobs: dict[bytes, Job[S]], horizon: int) -> tuple[int, bytes] | None:
        """Open a job for each key with a timer before the horizon; return the first timer that does not fit."""
        timers, rows, clock = self._timers, self.rows, self.record.clock
        while (first := timers.first()) is not None and first[0] < horizon:
            key = first[1]
            if key not in jobs:
                if len(jobs) == self._keys_max:
                    return first
                job: Job[S] = Job(key, rows[key], clock)
                job.popped = True
                jobs[key] = job
            timers.pop()
        return None

    def _group(self, jobs: dict[bytes, Job[S]], work: Work) -> None:
        """Give each key its records; count what has none."""
        rows, clock = self.rows, self.record.clock
        for at, entry in zip(self._clocks, self._taken, strict=True):
            body = entry.body
            kind = type(body)
            if kind is Tick:
                continue
            if kind is Ignored:
                work.counts[f"ignored.{body.reason}"] += 1  # type: ignore[attr-defined]
                continue
            if kind is Rejected:
                self._reject(entry, body, work)  # type: ignore[arg-type]
                continue
            key = entry.key
            job = jobs.get(key)
            if job is None:
                job = jobs[key] = Job(key, rows.get(key), clock)
            job.entries.append((at, entry))

    def _reject(self, entry: Entry, body: Rejected, work: Work) -> None:
        source = (self.layout.topics[entry.topic], self.layout.number, entry.offset, entry.recorded_at)
        work.bury(
            self.layout.dead_letters,
            stage="parse",
            reason=body.reason,
            detail=body.detail,
            key=entry.key or None,
            source=source,
        )

    def _close(self, job: Job[S], work: Work) -> None:
        """Encode the row, and set its timer."""
        due = self._keyed.close(job, work)
        scheduled = NEVER if job.popped or job.row is None else next_due(job.row)
        if due < scheduled:
            self._timers.set(due, job.key)

    def _finish(self, work: Work, clock: int) -> Unit:
        """Stage what the unit changed, and return it."""
        record = self.record
        names = self.layout.topics
        last = {entry.topic: entry for entry in self._taken}
        for topic, entry in last.items():
            record.offsets[names[topic]] = entry.offset + 1
            record.times[names[topic]] = entry.at
        self._taken, self._clocks, self._marks = [], [], None
        record.clock = clock
        record.pending = [pending for pending, _ in self._directives]
        for name, n in work.counts.items():
            record.counts[name] = record.counts.get(name, 0) + n
        record.shared = self._processor.encode_shared(self._shared)
        raw = record.encode()
        rows = self.rows
        for key, row in work.rows.items():
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        rows[PARTITION_KEY] = raw
        return Unit(work.rows, work.outputs, dict(record.offsets), work.records, raw)

    def _holds(self, directive: Directive) -> bool:
        self.held = self._processor.missing(directive)
        return self.held is not None

    def _directive_of(self, pending: Pending) -> Directive:
        _, body = self._processor.parse(pending.topic, pending.key, pending.value, pending.recorded_at)
        if type(body) is not Directive:
            raise TypeError(f"pending directive of {pending.topic} at offset {pending.offset} reads as {body!r}")
        return body

    def _offsets_at(self, clock: int) -> dict[str, int]:
        """Return the next offsets of what was merged up to and with `clock`."""
        if self._marks is None:
            self._marks = {}
            for at, entry in zip(self._clocks, self._taken, strict=True):
                clocks, nexts = self._marks.setdefault(self.layout.topics[entry.topic], ([], []))
                clocks.append(at)
                nexts.append(entry.offset + 1)
        offsets = dict(self.record.offsets)
        for topic, (clocks, nexts) in self._marks.items():
            if n := bisect_right(clocks, clock):
                offsets[topic] = nexts[n - 1]
        return offsets
