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
from worker.stream.record import PARTITION_KEY, RESERVED, PartitionRecord, Pending
from worker.stream.timers import Timers
from worker.stream.work import Job, KeyContext, KeyedWork, Stimulus, Work, where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping, Sequence

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


class _Refused(NamedTuple):
    """A record that could not be understood, and its key, which names no row."""

    rejected: Rejected
    key: bytes | None


class _Taken(NamedTuple):
    """The next records of the merged order, by what they move."""

    count: int
    clock: int
    """After the last of them."""
    stimuli: dict[bytes, list[Stimulus]]
    others: list[Entry]


NO_KEY = frozenset({Tick, Directive, Ignored, Rejected})
"""Bodies that move no row."""


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
        if self.record.row_version > processor.version:
            raise ValueError(
                f"partition {layout.number}: a newer worker has written rows in encoding version "
                f"{self.record.row_version}, this one writes {processor.version} and would drop what it does not know: "
                f"upgrade all workers first"
            )
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
        self._context = KeyContext(layout.number, rows, self._offsets_at)
        self._keyed = KeyedWork(processor, self._context, layout.topics, layout.dead_letters)
        self._directives = [(p, self._directive_of(p)) for p in self.record.pending]
        self._taken: list[Entry] = []
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
        last, fed, rank = self._last_at[index], self._fed[index], self._merge.rank(index)
        entries: list[Entry] = []
        for record in records:
            offset = record.offset
            if offset < fed:
                continue
            fed = offset + 1
            key, recorded_at = record.key, record.timestamp
            try:
                at, body = parse(topic, key, record.value, recorded_at)
            except AssertionError:
                raise
            except Exception as error:  # noqa: BLE001 - dead-lettered, never swallowed
                at, body = None, Rejected("parse raised", where(error))
            if key and key[0] == RESERVED[0]:
                at, body = None, Rejected("reserved key", "a key must not begin with a zero byte")
            if at is not None:
                last = at
            if last > rank:
                rank = last
            if type(body) in NO_KEY:
                entries.append((rank, index, offset, last, None, self._without_key(topic, record, body), recorded_at))
            else:
                entries.append((rank, index, offset, last, key or b"", body, recorded_at))
        self._last_at[index], self._fed[index] = last, fed
        self._merge.push(index, entries)

    def _without_key(self, topic: str, record: SourceRecord, body: object) -> object:
        """Return what a record that moves no row waits as."""
        if type(body) is Rejected:
            return _Refused(body, record.key or None)
        if type(body) is Directive:
            if body.ahead:
                self._shared, _ = self._processor.direct(self._shared, body, self._context)
            place = (topic, record.offset, record.timestamp, record.key, record.value)
            return _Read(body, Pending(body.effective_at or 0, *place))
        return body

    def buffered(self, topic: str) -> int:
        """Return how many records of the topic were fed and not yet applied."""
        return self._merge.waiting(self._index[topic])

    def starving(self) -> list[str]:
        """Return the topics that must be fed before the partition can go on."""
        return [self.layout.topics[i] for i in self._merge.starving()]

    # -- work ----------------------------------------------------------------------------------------------------------

    def advance(self) -> Unit | None:
        """Do the next unit of work; None when there is nothing to do, or something to wait for (`held`, `starving`)."""
        ahead = self._merge.ahead(1)
        if not ahead:
            return None
        [head] = ahead
        _, _, _, at, _, body, _ = head
        if type(body) is _Read:
            if self.record.clock > (barrier := self._barrier()):
                return self._up_to(barrier, self.record.clock)
            return self._direct(body)
        clock, barrier = max(self.record.clock, at), self._barrier()
        return self._up_to(barrier, clock) if clock > barrier else self._records(barrier, clock)

    def _barrier(self) -> int:
        """Return when `shared` changes next."""
        due = self._processor.shared_due(self._shared)
        return min(due, self._directives[0][0].effective_at) if self._directives else due

    def _up_to(self, barrier: int, clock: int) -> Unit | None:
        """Bring all keys up to the barrier, then take what waits there; `clock` is what will be."""
        work = Work()
        due: set[bytes] = set()
        edge = self._pop_due(barrier, due)
        reached = self._run(work, due, {}, edge, barrier)
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

    def _direct(self, read: _Read) -> Unit | None:
        """Take a directive that was just merged, or lay it by until its time."""
        directive, pending = read
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
        return self._finish(work, self.record.clock, 1)

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
        due: set[bytes] = set()
        edge = self._pop_due(clock, due)
        taken = _Taken(0, clock, {}, [])
        if edge is None:
            taken = self._ahead(barrier)
            edge = self._pop_due(taken.clock, due)
            if edge is not None:
                taken = self._ahead(min(barrier, edge[0]))
        work = Work()
        for entry in taken.others:
            self._count(entry, work)
        reached = self._run(work, due, taken.stimuli, edge, taken.clock)
        return self._finish(work, reached, taken.count)

    def _ahead(self, barrier: int) -> _Taken:
        """Return as many of the next records as a unit holds, up to the barrier."""
        keys_max = self._keys_max
        stimuli: dict[bytes, list[Stimulus]] = {}
        known = stimuli.get
        others: list[Entry] = []
        clock, count = self.record.clock, 0
        ahead = self._merge.ahead(self._records_max)
        for entry in ahead:
            rank, _, _, at, key, body, _ = entry
            if key is None and type(body) is _Read:
                break
            reached = at if at > clock else clock
            if reached > barrier:
                break
            if key is None:
                others.append(entry)
            else:
                stimulus = entry if rank == reached else (reached, *entry[1:])
                mine = known(key)
                if mine is not None:
                    mine.append(stimulus)
                elif len(stimuli) < keys_max:
                    stimuli[key] = [stimulus]
                else:
                    break
            clock = reached
            count += 1
        self._taken = ahead[:count]
        return _Taken(count, clock, stimuli, others)

    def _count(self, entry: Entry, work: Work) -> None:
        """Take note of a record that moves no row."""
        _, topic, offset, _, _, body, recorded_at = entry
        if type(body) is Ignored:
            work.counts[f"ignored.{body.reason}"] += 1
        elif type(body) is _Refused:
            work.bury(
                self.layout.dead_letters,
                stage="parse",
                reason=body.rejected.reason,
                detail=body.rejected.detail,
                key=body.key,
                source=(self.layout.topics[topic], self.layout.number, offset, recorded_at),
            )

    def _pop_due(self, horizon: int, due: set[bytes]) -> tuple[int, bytes] | None:
        """Add the keys with a timer before the horizon to `due`; return the first timer that does not fit."""
        return self._timers.pop_due(horizon, due, keys_max=self._keys_max, looks_max=self._records_max)

    def _run(
        self,
        work: Work,
        due: set[bytes],
        stimuli: dict[bytes, list[Stimulus]],
        edge: tuple[int, bytes] | None,
        horizon: int,
    ) -> int:
        """Apply records and run the timers due before the horizon; return how far the clock came.

        Where more keys are due than a unit holds, it ends earlier, at the `edge`, the first timer that is left.
        """
        if edge is not None:
            horizon = edge[0]
        general: dict[bytes, Sequence[Stimulus]] = {key: stimuli.pop(key, ()) for key in due}
        general.update(self._keyed.sweep(stimuli, self._shared, horizon, work))
        jobs: dict[bytes, Job[S]] = {}
        decisions: list[tuple[int, bytes]] = []
        keyed, shared, clock = self._keyed, self._shared, self.record.clock
        # A key without a decision is done with at once: rows that are all alive together fall out of the CPU's caches.
        for key, mine in general.items():
            # Timers at the edge itself go by key: those before it are due now.
            job: Job[S] = Job(key, mine, clock, horizon + 1 if edge is not None and key < edge[1] else horizon)
            keyed.open(job)
            wanted = keyed.run(job, shared, work)
            if wanted is None:
                keyed.close(job, work, popped=key in due)
            else:
                jobs[key] = job
                decisions.append((wanted, key))
        heapq.heapify(decisions)
        while decisions:
            wanted, key = decisions[0]
            job = jobs[key]
            shared = keyed.decide(job, shared, wanted, work)
            again = keyed.run(job, shared, work)
            if again is None:
                heapq.heappop(decisions)
                keyed.close(jobs.pop(key), work, popped=key in due)
            else:
                heapq.heapreplace(decisions, (again, key))
        self._shared = shared
        return horizon

    def _finish(self, work: Work, clock: int, records: int = 0) -> Unit:
        """Stage what the unit changed, and return it; `records` of what was shown are taken."""
        record, rows, topics = self.record, self.rows, self.layout.topics
        for index, (_, _, offset, at, _, _, _) in self._merge.take(records).items():
            record.offsets[topics[index]] = offset + 1
            record.times[topics[index]] = at
        self._taken, self._marks = [], None
        record.clock = clock
        record.pending = [pending for pending, _ in self._directives]
        for name, n in work.counts.items():
            record.counts[name] = record.counts.get(name, 0) + n
        record.shared = self._processor.encode_shared(self._shared)
        if work.rows:
            record.row_version = self._processor.version
        for key, row in work.rows.items():
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        for due, key in work.timers:
            self._timers.set(due, key)
        raw = rows[PARTITION_KEY] = record.encode()
        return Unit(work.rows, work.outputs, dict(record.offsets), records, raw)

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
            at_last = self.record.clock
            for _, topic, offset, at, _, _, _ in self._taken:
                at_last = max(at_last, at)
                clocks, nexts = self._marks.setdefault(self.layout.topics[topic], ([], []))
                clocks.append(at_last)
                nexts.append(offset + 1)
        offsets = dict(self.record.offsets)
        for topic, (clocks, nexts) in self._marks.items():
            if n := bisect_right(clocks, clock):
                offsets[topic] = nexts[n - 1]
        return offsets
