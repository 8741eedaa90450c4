"""One key's way through a unit of work, and how it goes on when a record or a timer raises."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from worker.stream.dead_letters import dead_letter
from worker.stream.processor import NEVER, Attach, Count, Effect, Output, Processor
from worker.stream.record import HEADER_BYTES, QUARANTINED, attachment_key, pack_row, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.stream.merge import Entry

S = TypeVar("S")
H = TypeVar("H")

WAKES_WITHOUT_PROGRESS_MAX = 16
NONE: frozenset[Any] = frozenset()


def where(error: BaseException) -> str:
    """Name an exception by its type and the place that raised it; not by its message, which may hold personal data."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    frame = frames[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno}"


class Job(Generic[S]):
    """A key with its records of this unit, as (clock, entry), and a point to begin again from."""

    __slots__ = (
        "attachments",
        "effects",
        "entries",
        "failed",
        "floor",
        "furthest",
        "horizon",
        "index",
        "key",
        "popped",
        "repeats",
        "resting",
        "row",
        "saved",
        "skipped",
        "state",
        "woken",
    )

    state: S

    def __init__(self, key: bytes, row: bytes | None, floor: int) -> None:
        self.key = key
        self.row = row
        self.entries: list[tuple[int, Entry]] = []
        self.index = 0
        self.floor = floor
        """Nothing happens to the key before this clock."""
        self.horizon = 0
        """Timers due before it belong to this unit."""
        self.popped = False
        self.effects: list[Effect] = []
        self.attachments: dict[bytes, bytes | None] = {}
        self.woken = 0
        """How many times it was woken."""
        self.resting = False
        """Whether timers rest until the next record is applied, since one raised."""
        self.furthest = -NEVER
        """The latest time that a timer wanted since the last record, and how many have not gone beyond it."""
        self.repeats = 0
        self.skipped: frozenset[int] = NONE
        """Records that raised, by index."""
        self.failed: frozenset[tuple[int, int]] = NONE
        """Timers that raised, by the index of the next record and the times woken before."""

    def save(self, body: bytes | None) -> None:
        """Begin again from here, should what follows raise."""
        place = (self.index, self.floor, self.woken, self.resting, self.furthest, self.repeats)
        self.saved = (body, place, len(self.effects), dict(self.attachments))

    def rewind(self) -> bytes | None:
        """Go back to where `save` was called; return the body that was saved."""
        body, place, effects, attachments = self.saved
        self.index, self.floor, self.woken, self.resting, self.furthest, self.repeats = place
        del self.effects[effects:]
        self.attachments = dict(attachments)
        return body

    def progress(self, wanted: int) -> None:
        """Note when a timer was wanted; raise where too many in a row have not moved on."""
        if wanted > self.furthest:
            self.furthest, self.repeats = wanted, 0
        elif self.repeats == WAKES_WITHOUT_PROGRESS_MAX:
            raise RuntimeError(f"timer at {wanted} does not move on")
        else:
            self.repeats += 1

    def take(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if type(effect) is Attach:
                self.attachments[attachment_key(self.key, effect.name)] = effect.value
            else:
                self.effects.append(effect)


class Work:
    """What a unit has changed so far."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.outputs: list[Output] = []
        self.counts: Counter[str] = Counter()
        self.records = 0

    def take(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if type(effect) is Output:
                self.outputs.append(effect)
            elif type(effect) is Count:
                self.counts[effect.name] += effect.n
            else:
                raise TypeError(f"{effect!r}: allowed here are Output and Count")

    def bury(
        self,
        topic: str,
        *,
        stage: str,
        reason: str,
        detail: str,
        key: bytes | None,
        source: tuple[str, int, int, int] | None,
    ) -> None:
        """Send to the dead letters, and count; the arguments are those of `dead_letter`."""
        self.counts[f"dead.{reason}"] += 1
        self.outputs.append(dead_letter(topic, stage=stage, reason=reason, detail=detail, key=key, source=source))


class KeyContext:
    """`processor.Context`, moved along by the unit."""

    __slots__ = ("clock", "job", "offsets_at", "partition", "rows")

    def __init__(self, partition: int, rows: Mapping[bytes, bytes]) -> None:
        self.clock = 0
        self.partition = partition
        self.rows = rows
        self.job: Job[Any] | None = None
        self.offsets_at: Any = None

    @property
    def offsets(self) -> Mapping[str, int]:
        offsets: Mapping[str, int] = self.offsets_at(self.clock)
        return offsets

    def attachment(self, name: bytes) -> bytes | None:
        assert self.job is not None  # only a key has attachments
        key = attachment_key(self.job.key, name)
        attachments = self.job.attachments
        return attachments[key] if key in attachments else self.rows.get(key)


class KeyedWork(Generic[S, H]):
    """Runs jobs, whatever their records do.

    A record that raises goes to the dead letters and leaves the state as it was; so does a timer, and the key's timers
    rest until its next record. An assertion is no bad record: it ends the process.
    """

    def __init__(
        self, processor: Processor[S, H], context: KeyContext, topics: Sequence[str], dead_letters: str
    ) -> None:
        self._processor = processor
        self._context = context
        self._topics = topics
        self._dead_letters = dead_letters

    def open(self, job: Job[S]) -> None:
        """Decode the row."""
        row = job.row
        if row is None:
            job.state = self._processor.new(job.key)
            job.save(None)
            return
        header = read_header(row)
        if header.version != self._processor.version:
            raise RuntimeError(
                f"row: encoding version {header.version} was written by another version of the worker; "
                f"allowed is {self._processor.version}"
            )
        if header.flags & QUARANTINED:
            job.resting = True
        body = row[HEADER_BYTES:]
        job.state = self._processor.decode(body)
        job.save(body)

    def run(self, job: Job[S], shared: H, work: Work) -> int | None:
        """Bring the key up to its next decision, whose due time is returned, or to its horizon."""
        processor, context, entries = self._processor, self._context, job.entries
        next_due, apply = processor.next_due, processor.apply
        count = len(entries)
        context.job = job
        while True:
            index, state = job.index, job.state
            wanted = NEVER if job.resting else next_due(state)
            due = max(wanted, job.floor)
            clock, entry = entries[index] if index < count else (job.horizon, None)
            try:
                if due < clock:
                    if (index, job.woken) in job.failed:
                        job.resting = True
                        continue
                    job.progress(wanted)
                    if processor.deciding(state):
                        return due
                    job.floor = context.clock = due
                    effects = processor.wake(state, shared, due, context)
                    job.woken += 1
                elif entry is None:
                    return None
                else:
                    job.index = index + 1
                    if index in job.skipped:
                        continue
                    job.floor = context.clock = clock
                    effects = apply(state, shared, entry.at, entry.body, context)
                    job.resting, job.furthest = False, -NEVER
            except AssertionError:
                raise
            except Exception as error:  # noqa: BLE001 - dead-lettered, never swallowed
                self._failed(job, None if due < clock else entry, index, error, work)
                continue
            if effects:
                job.take(effects)

    def decide(self, job: Job[S], shared: H, due: int, work: Work) -> H:
        """Take the decision that `run` came to."""
        context = self._context
        context.job = job
        job.floor = context.clock = due
        try:
            shared, effects = self._processor.decide(job.state, shared, due, context)
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - dead-lettered, never swallowed
            self._failed(job, None, job.index, error, work)
            return shared
        job.take(effects)
        # What follows may raise, but `shared` has moved: the key goes back to here at most.
        job.save(self._processor.encode(job.state))
        return shared

    def close(self, job: Job[S], work: Work) -> int:
        """Encode the row into `work`; return when it wants to be woken next."""
        work.take(job.effects)
        work.rows.update(job.attachments)
        if job.row is None and len(job.skipped) == len(job.entries):
            return NEVER
        # A timer that is set too late stands in the row as what it is: due at the clock that set it.
        due = NEVER if job.resting else max(self._processor.next_due(job.state), job.floor)
        body = self._processor.encode(job.state)
        work.rows[job.key] = pack_row(self._processor.version, QUARANTINED if job.resting else 0, due, body)
        return due

    def _failed(self, job: Job[S], entry: Entry | None, index: int, error: Exception, work: Work) -> None:
        """Note the failure and begin again without its cause; what came before gives the same again."""
        if entry is None:
            job.failed |= {(index, job.woken)}
            stage, source = "timer", None
        else:
            job.skipped |= {index}
            stage = "step"
            source = (self._topics[entry.topic], self._context.partition, entry.offset, entry.recorded_at)
        work.bury(
            self._dead_letters,
            stage=stage,
            reason=f"{stage} raised",
            detail=where(error),
            key=job.key,
            source=source,
        )
        body = job.rewind()
        job.state = self._processor.new(job.key) if body is None else self._processor.decode(body)
