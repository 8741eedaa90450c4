"""One key's way through a unit of work, and how it goes on when a record or a timer raises."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from worker.stream.dead_letters import DeadLetters, dead_letter
from worker.stream.entries import where
from worker.stream.processor import NEVER, Attach, Count, Effect, Output, Processor
from worker.stream.record import (
    HEADER_BYTES,
    QUARANTINED,
    attachment_key,
    changelog_bytes,
    next_due,
    pack_row,
    unpack_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.stream.entries import Entry

S = TypeVar("S")
H = TypeVar("H")
Stimulus: TypeAlias = "Entry"
"""A record of a key, with the clock at it in place of its rank."""

WAKES_WITHOUT_PROGRESS_MAX = 16
NONE: frozenset[Any] = frozenset()
BEFORE_ALL = -NEVER


class Job(Generic[S]):
    """A key with its records of this unit, and a point to begin again from."""

    __slots__ = (
        "attachments",
        "effects",
        "failed",
        "floor",
        "furthest",
        "horizon",
        "index",
        "key",
        "repeats",
        "resting",
        "saved",
        "skipped",
        "state",
        "stimuli",
        "woken",
    )

    state: S

    def __init__(self, key: bytes, stimuli: Sequence[Stimulus], floor: int, horizon: int) -> None:
        self.key = key
        self.stimuli = stimuli
        self.index = 0
        self.floor = floor
        """Nothing happens to the key before this clock."""
        self.horizon = horizon
        """Timers due before it belong to this unit."""
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


class Work:
    """What a unit has changed so far."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.timers: list[tuple[int, bytes]] = []
        """(due, key) of timers that no entry of the heap stands for yet."""
        self.outputs: list[Output] = []
        self.counts: Counter[str] = Counter()

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
        to: DeadLetters,
        *,
        stage: str,
        reason: str,
        detail: str,
        key: bytes | None,
        source: tuple[str, int, int, int] | None,
    ) -> None:
        """Send to the dead letters, and count; the arguments are those of `dead_letter`."""
        self.counts[f"dead.{reason}"] += 1
        self.outputs.append(dead_letter(to, stage=stage, reason=reason, detail=detail, key=key, source=source))

    def size(self) -> int:
        """Return how many bytes the rows take in the changelog, at most."""
        return changelog_bytes(self.rows)


class KeyContext:
    """`processor.Context`, moved along by the unit."""

    __slots__ = ("attachments", "clock", "key", "offsets_at", "partition", "rows")

    def __init__(
        self, partition: int, rows: Mapping[bytes, bytes], offsets_at: Callable[[int], dict[str, int]]
    ) -> None:
        self.clock = 0
        self.partition = partition
        self.rows = rows
        self.offsets_at = offsets_at
        self.key: bytes | None = None
        """None between keys: only a key has attachments."""
        self.attachments: dict[bytes, bytes | None] = {}
        """What the unit has changed beside the key's row."""

    @property
    def offsets(self) -> Mapping[str, int]:
        return self.offsets_at(self.clock)

    def attachment(self, name: bytes) -> bytes | None:
        assert self.key is not None
        key = attachment_key(self.key, name)
        attachments = self.attachments
        return attachments[key] if key in attachments else self.rows.get(key)

    def split(self, effects: Sequence[Effect], others: list[Effect]) -> None:
        """Take what is attached to the key; add all else to `others`."""
        for effect in effects:
            if type(effect) is Attach:
                assert self.key is not None
                self.attachments[attachment_key(self.key, effect.name)] = effect.value
            else:
                others.append(effect)


class KeyedWork(Generic[S, H]):
    """Runs keys through a unit, whatever their records do.

    A record that raises goes to the dead letters and leaves the state as it was; so does a timer, and the key's timers
    rest until its next record. An assertion is no bad record: it ends the process.

    The fast way, `sweep`, is for keys to which nothing happens but that their records are applied. It gives up a key
    where anything else comes up, and leaves no trace of it: the general way, `open` to `close`, begins at its row.
    """

    def __init__(
        self, processor: Processor[S, H], context: KeyContext, topics: Sequence[str], dead_letters: DeadLetters
    ) -> None:
        self._processor = processor
        self._context = context
        self._topics = topics
        self._dead_letters = dead_letters

    def sweep(
        self, stimuli: Mapping[bytes, Sequence[Stimulus]], shared: H, horizon: int, work: Work
    ) -> dict[bytes, Sequence[Stimulus]]:
        """Apply the records of keys that want nothing else up to and with the horizon; return what is left to do."""
        processor, context, version = self._processor, self._context, self._processor.version
        decode, encode = processor.decode, processor.encode
        rows, changed = context.rows, work.rows
        left: dict[bytes, Sequence[Stimulus]] = {}
        context.attachments = {}
        for key, mine in stimuli.items():
            row = rows.get(key)
            if row is None:
                scheduled = NEVER
                state = processor.new(key)
            else:
                written, flags, scheduled = unpack_header(row)
                if written != version or flags:
                    left[key] = mine
                    continue
                state = decode(row[HEADER_BYTES:])
            context.key = key
            effects: list[Effect] = []
            due = self._apply_all(state, scheduled, mine, shared, effects)
            if due > horizon:
                changed[key] = pack_row(version, 0, due, encode(state))
                if due < scheduled:
                    work.timers.append((due, key))
                if effects:
                    work.take(effects)
                if context.attachments:
                    changed.update(context.attachments)
            else:
                left[key] = mine
            if context.attachments:
                context.attachments = {}
        return left

    def _apply_all(self, state: S, due: int, stimuli: Sequence[Stimulus], shared: H, effects: list[Effect]) -> int:
        """Apply records one after the other; return when the state wants to be woken, before all time to give up."""
        context, apply, next_due = self._context, self._processor.apply, self._processor.next_due
        try:
            for clock, _, _, at, _, body, _ in stimuli:
                if due < clock:
                    return BEFORE_ALL
                context.clock = clock
                said = apply(state, shared, at, body, context)
                if said:
                    context.split(said, effects)
                due = next_due(state)
        except AssertionError:
            raise
        except Exception:  # noqa: BLE001 - it comes again in the general way, which says what it was
            return BEFORE_ALL
        return due

    def open(self, job: Job[S]) -> None:
        """Decode the row."""
        processor, row = self._processor, self._context.rows.get(job.key)
        if row is None:
            job.state = processor.new(job.key)
            job.save(None)
            return
        version, flags, _ = unpack_header(row)
        body = row[HEADER_BYTES:]
        if version == processor.version:
            job.state = processor.decode(body)
        elif version in processor.earlier:
            job.state = processor.earlier[version](body)
            body = processor.encode(job.state)
        else:
            raise RuntimeError(
                f"row: encoding version {version} is not read by this worker, "
                f"allowed are {sorted([*processor.earlier, processor.version])}"
            )
        job.resting = bool(flags & QUARANTINED)
        job.save(body)

    def run(self, job: Job[S], shared: H, work: Work) -> int | None:
        """Bring the key up to its next decision, whose due time is returned, or to its horizon."""
        processor, context, stimuli = self._processor, self._context, job.stimuli
        due_of, apply = processor.next_due, processor.apply
        count = len(stimuli)
        context.key, context.attachments = job.key, job.attachments
        while True:
            index, state = job.index, job.state
            wanted = NEVER if job.resting else due_of(state)
            due = max(wanted, job.floor)
            stimulus = stimuli[index] if index < count else None
            clock = job.horizon if stimulus is None else stimulus[0]
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
                elif stimulus is None:
                    return None
                else:
                    job.index = index + 1
                    if index in job.skipped:
                        continue
                    job.floor = context.clock = clock
                    _, _, _, at, _, body, _ = stimulus
                    effects = apply(state, shared, at, body, context)
                    job.resting, job.furthest = False, -NEVER
            except AssertionError:
                raise
            except Exception as error:  # noqa: BLE001 - dead-lettered, never swallowed
                self._failed(job, None if due < clock else stimulus, index, error, work)
                continue
            if effects:
                context.split(effects, job.effects)

    def decide(self, job: Job[S], shared: H, due: int, work: Work) -> H:
        """Take the decision that `run` came to."""
        context = self._context
        context.key, context.attachments = job.key, job.attachments
        job.floor = context.clock = due
        try:
            shared, effects = self._processor.decide(job.state, shared, due, context)
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - dead-lettered, never swallowed
            self._failed(job, None, job.index, error, work)
            return shared
        context.split(effects, job.effects)
        # What follows may raise, but `shared` has moved: the key goes back to here at most.
        job.save(self._processor.encode(job.state))
        return shared

    def close(self, job: Job[S], work: Work, *, popped: bool) -> None:
        """Encode the row into `work`; `popped` tells that the heap has let go of the key's timer."""
        work.take(job.effects)
        work.rows.update(job.attachments)
        row = self._context.rows.get(job.key)
        if row is None and len(job.skipped) == len(job.stimuli):
            return
        # A timer that is set too late stands in the row as what it is: due at the clock that set it.
        due = NEVER if job.resting else max(self._processor.next_due(job.state), job.floor)
        body = self._processor.encode(job.state)
        work.rows[job.key] = pack_row(self._processor.version, QUARANTINED if job.resting else 0, due, body)
        if due < (NEVER if popped or row is None else next_due(row)):
            work.timers.append((due, job.key))

    def _failed(self, job: Job[S], stimulus: Stimulus | None, index: int, error: Exception, work: Work) -> None:
        """Note the failure and begin again without its cause; what came before gives the same again."""
        if stimulus is None:
            job.failed |= {(index, job.woken)}
            stage, source = "timer", None
        else:
            job.skipped |= {index}
            stage = "step"
            _, topic, offset, _, _, _, recorded_at = stimulus
            source = (self._topics[topic], self._context.partition, offset, recorded_at)
        work.bury(
            self._dead_letters,
            stage=stage,
            reason=f"{stage} raised",
            detail=where(error),
            key=job.key,
            source=source,
        )
        body = job.rewind()
        self._context.attachments = job.attachments
        job.state = self._processor.new(job.key) if body is None else self._processor.decode(body)
