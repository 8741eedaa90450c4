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
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from worker.stream.dead_letters import DeadLetters
from worker.stream.entries import Entry, Read, Reader, Refused, where
from worker.stream.merge import Merge
from worker.stream.processor import Directive, Ignored, Output, Processor
from worker.stream.record import PARTITION_KEY, PartitionRecord, Pending, next_due
from worker.stream.timers import Timers
from worker.stream.work import Job, KeyContext, KeyedWork, Stimulus, Work

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, MutableMapping, Sequence

    from worker.stream.entries import SourceRecord

S = TypeVar("S")
H = TypeVar("H")


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


class Vitals(NamedTuple):
    """What a partition shows to those who watch it, also from another thread: nothing is decoded or copied for it."""

    clock: int
    counts: Mapping[str, int]
    timers: Timers


class Layout(NamedTuple):
    """Where a partition stands; `topics` in merge order."""

    number: int
    topics: tuple[str, ...]
    dead_letters: DeadLetters


UNKNOWN = object()


class _Limits(NamedTuple):
    """How many keys a unit holds on account of records, and as many of timers; and how many records."""

    keys: int
    records: int

    def halved(self) -> _Limits:
        return _Limits(max(1, self.keys // 2), max(1, self.records // 2))


class _Taken(NamedTuple):
    """The next records in the merged order, `number` of them, by what they move."""

    number: int
    clock: int
    """After the last of them."""
    stimuli: dict[bytes, list[Stimulus]]
    others: list[Entry]


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
        bytes_max: int | None = None,
    ) -> None:
        """Take up the partition where its record in `rows` left it.

        `rows_max` bounds the rows and `records_max` the records of a unit. Where `bytes_max` is given, its rows are no
        larger than that in the changelog, unless those of a single record and a single timer are.
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
        self._encoded: object = UNKNOWN
        """The `shared` that the record holds."""
        self._merge = Merge(layout.topics)
        self._index = {topic: i for i, topic in enumerate(layout.topics)}
        if self.record.next:
            self._merge.promise(self._index[self.record.next])
        self._reader = Reader(processor, layout.topics, self.record.offsets, self.record.times, self._take_ahead)
        self._timers = Timers(rows)
        self._limits = _Limits(max(1, rows_max // 2), records_max)
        self._bytes_max = bytes_max
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

    def vitals(self) -> Vitals:
        return Vitals(self.record.clock, self.record.counts, self._timers)

    def expect(self, topic: str, *, more: bool) -> None:
        """Say whether records of the topic are known to be there that were not fed yet; the merge waits for them."""
        self._merge.expect(self._index[topic], more=more)

    def feed(self, topic: str, records: Iterable[SourceRecord]) -> None:
        """Buffer records of a topic, in its order; those that were fed or applied before are left out."""
        index = self._index[topic]
        self._merge.push(index, self._reader.read(index, records, self._merge.rank(index)))

    def foresee(self, topic: str, record: SourceRecord) -> None:
        """Let a record act now that acts before it is merged and would be fed too late for that; `feed` takes it again.

        To be given each record of the topic, from the first one that was not applied on.
        """
        self._reader.foresee(self._index[topic], record)

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
        if type(body) is Read:
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
        work, reached, _ = self._fitting(barrier, barrier, records=False)
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

    def _direct(self, read: Read) -> Unit | None:
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
        work, reached, count = self._fitting(barrier, clock, records=True)
        return self._finish(work, reached, count)

    def _fitting(self, barrier: int, clock: int, *, records: bool) -> tuple[Work, int, int]:
        """Attempt what a unit may hold, then half of it, until the rows fit; return what `_attempt` does.

        Rows are written only when a unit is finished, and `shared` is never changed in place: an attempt leaves nothing
        behind but the timers it has taken out of the heap.
        """
        limits, smallest = self._limits, _Limits(1, 1)
        while True:
            due: dict[bytes, None] = {}
            work, shared, reached, count = self._attempt(limits, due, barrier, clock, records=records)
            if self._bytes_max is None or limits == smallest or work.size() <= self._bytes_max:
                self._shared = shared
                return work, reached, count
            for key in due:
                self._timers.set(next_due(self.rows[key]), key)
            limits = limits.halved()

    def _attempt(
        self, limits: _Limits, due: dict[bytes, None], barrier: int, clock: int, *, records: bool
    ) -> tuple[Work, H, int, int]:
        """Bring keys up to `clock`, then take records up to the barrier; the keys that were woken go into `due`.

        Returns what changed, `shared` after it, how far the clock came, and the number of records.
        """
        taken = _Taken(0, clock, {}, [])
        edge = self._timers.pop_due(clock, due, keys_max=limits.keys, looks_max=limits.records)
        if edge is None and records:
            taken = self._ahead(limits, barrier)
            edge = self._timers.pop_due(taken.clock, due, keys_max=limits.keys, looks_max=limits.records)
            if edge is not None:
                taken = self._ahead(limits, min(barrier, edge[0]))
        work = Work()
        for entry in taken.others:
            self._count(entry, work)
        general: dict[bytes, Sequence[Stimulus]] = {key: taken.stimuli.pop(key, ()) for key in due}
        reached = taken.clock if edge is None else edge[0]
        general.update(self._keyed.sweep(taken.stimuli, self._shared, reached, work))
        return work, self._run(work, general, due, edge, reached), reached, taken.number

    def _ahead(self, limits: _Limits, barrier: int) -> _Taken:
        """Return as many of the next records as a unit holds, up to the barrier."""
        stimuli: dict[bytes, list[Stimulus]] = {}
        others: list[Entry] = []
        known, clock, count = stimuli.get, self.record.clock, 0
        ahead = self._merge.ahead(limits.records)
        for entry in ahead:
            rank, _, _, at, key, body, _ = entry
            reached = at if at > clock else clock  # noqa: FURB136 - max() is five times as slow
            if reached > barrier:
                break
            if key is None:
                if type(body) is Read:
                    break
                others.append(entry)
            else:
                stimulus = entry if rank == reached else (reached, *entry[1:])
                mine = known(key)
                if mine is not None:
                    mine.append(stimulus)
                elif len(stimuli) < limits.keys:
                    stimuli[key] = [stimulus]
                else:
                    break
            clock = reached
            count += 1
        self._taken, self._marks = ahead[:count], None
        return _Taken(count, clock, stimuli, others)

    def _count(self, entry: Entry, work: Work) -> None:
        """Take note of a record that moves no row."""
        _, topic, offset, _, _, body, recorded_at = entry
        if type(body) is Ignored:
            work.counts[f"ignored.{body.reason}"] += 1
        elif type(body) is Refused:
            work.bury(
                self.layout.dead_letters,
                stage="parse",
                reason=body.rejected.reason,
                detail=body.rejected.detail,
                key=body.key,
                source=(self.layout.topics[topic], self.layout.number, offset, recorded_at),
            )

    def _run(
        self,
        work: Work,
        general: Mapping[bytes, Sequence[Stimulus]],
        due: Container[bytes],
        edge: tuple[int, bytes] | None,
        horizon: int,
    ) -> H:
        """Apply records and run the timers due before the horizon; return `shared` after it.

        Timers at the edge, the first that is left to a later unit, go by key: those before it belong to this one.
        """
        jobs: dict[bytes, Job[S]] = {}
        decisions: list[tuple[int, bytes]] = []
        keyed, shared, clock = self._keyed, self._shared, self.record.clock
        # A key without a decision is done with at once: rows that are all alive together fall out of the CPU's caches.
        for key, mine in general.items():
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
        self._context.key = None
        return shared

    def _finish(self, work: Work, clock: int, records: int = 0) -> Unit:
        """Stage what the unit changed, and return it; `records` of what was shown are taken."""
        record, rows, topics = self.record, self.rows, self.layout.topics
        for index, (_, _, offset, at, _, _, _) in self._merge.take(records).items():
            record.offsets[topics[index]] = offset + 1
            record.times[topics[index]] = at
        if not records:  # the clock moves for the record that is shown: it stays next over a restart too
            [(_, index, *_)] = self._merge.ahead(1)
        record.next = "" if records else topics[index]
        self._taken, self._marks = [], None
        record.clock = clock
        record.pending = [pending for pending, _ in self._directives]
        for name, n in work.counts.items():
            record.counts[name] = record.counts.get(name, 0) + n
        if self._shared is not self._encoded:
            record.shared, self._encoded = self._processor.encode_shared(self._shared), self._shared
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

    def _take_ahead(self, directive: Directive) -> None:
        try:
            self._shared, _ = self._processor.direct(self._shared, directive, self._context)
        except AssertionError:
            raise
        except Exception:  # noqa: BLE001 - it comes again when it is merged, and is dead-lettered there
            return

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
            reached = self.record.clock
            for _, index, offset, at, _, _, _ in self._taken:
                reached = max(reached, at)
                clocks, nexts = self._marks.setdefault(self.layout.topics[index], ([], []))
                clocks.append(reached)
                nexts.append(offset + 1)
        offsets = dict(self.record.offsets)
        for topic, (clocks, nexts) in self._marks.items():
            if n := bisect_right(clocks, clock):
                offsets[topic] = nexts[n - 1]
        return offsets
