"""A processor that knows no customers, and a naive interpreter of it: what the partition must come to, however it cuts.

The toy keeps a sum and a list of timers for each key. Its decisions draw on a budget that is shared, and number
themselves, so that equal outputs mean equal order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import orjson

from worker.stream.dead_letters import DeadLetters, dead_letter
from worker.stream.partition import Layout, Partition
from worker.stream.processor import NEVER, Attach, Count, Directive, Ignored, Output, Rejected, Tick
from worker.stream.record import PARTITION_KEY, QUARANTINED, PartitionRecord, Pending, attachment_key, pack_row
from worker.stream.work import WAKES_WITHOUT_PROGRESS_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.stream.processor import Context

TOPICS = ("left", "right", "control")
LAYOUT = Layout(0, TOPICS, DeadLetters("dead-letter", b"salt"))
DAY = 20
SILENCE = 7
NOTEBOOK = b"notebook"


class Record(NamedTuple):
    """A source record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes


class Op(msgspec.Struct, omit_defaults=True):
    """What a record says; `timers` are (delay after `at`, kind, left)."""

    at: int | None = None
    kind: str = "add"
    n: int = 0
    timers: list[tuple[int, str, int]] = []
    effective_at: int | None = None
    needs: str | None = None


class State(msgspec.Struct, array_like=True):
    key: bytes
    total: int = 0
    timers: list[tuple[int, str, int]] = []


class Shared(msgspec.Struct, array_like=True, frozen=True):
    budget: int = 0
    decisions: int = 0
    price: int = 1
    day_due: int = 0


_read = msgspec.json.Decoder(Op).decode
_decode = msgspec.msgpack.Decoder(State).decode
_decode_shared = msgspec.msgpack.Decoder(Shared).decode
_encode = msgspec.msgpack.Encoder().encode

DECISIONS = {"decide", "decide again", "bad decision", "stuck decision"}
WAKES = {"chain", "opens", "mine", "stuck", "back"}


class Toy:
    """`processor.Processor`; `loaded` names what no directive has to wait for."""

    version = 1

    def __init__(self, loaded: set[str] | None = None) -> None:
        self.earlier = {}
        self.loaded = set() if loaded is None else loaded

    def parse(self, topic: str, key: bytes | None, value: bytes | None, recorded_at: int) -> tuple[int | None, object]:
        del topic, key, recorded_at
        op = _read(value or b"")
        match op.kind:
            case "tick":
                return op.at, Tick(op.at or 0)
            case "ignored":
                return op.at, Ignored("of no use")
            case "rejected":
                return op.at, Rejected("not understood", "n")
            case "directive":
                return op.at, Directive(op.effective_at, op)
            case "assert in parse":
                raise AssertionError(op.kind)
        return op.at, op

    def new(self, key: bytes) -> State:
        return State(key)

    def decode(self, body: bytes) -> State:
        return _decode(body)

    def encode(self, state: State) -> bytes:
        return _encode(state)

    def next_due(self, state: State) -> int:
        return state.timers[0][0] if state.timers else NEVER

    def deciding(self, state: State) -> bool:
        return state.timers[0][1] in DECISIONS

    def apply(self, state: State, shared: Shared, at: int, body: Op, context: Context) -> Sequence[object]:
        state.total += body.n
        kept = [timer for timer in state.timers if timer[1] != "silence"]
        wanted = [(at + delay, kind, left) for delay, kind, left in body.timers]
        state.timers = sorted([*kept, (at + SILENCE, "silence", 0), *wanted])
        if body.kind == "raise":
            raise ValueError(body.kind)
        if body.kind == "assert":
            raise AssertionError(body.kind)
        return [_output("out", state.key, "apply", at, context.clock, state.total, shared.price), Count("applied")]

    def wake(self, state: State, shared: Shared, due: int, context: Context) -> Sequence[object]:
        wanted, kind, left = state.timers.pop(0)
        state.total += 1
        match kind:
            case "mine":
                raise ValueError(kind)
            case "stuck":
                self._set(state, wanted, kind, left)
            case "back":
                self._set(state, wanted - 3, "chain", left)
            case "opens":
                self._set(state, wanted, "decide", 0)
            case "chain" if left:
                self._set(state, wanted + left % 3, kind, left - 1)
        raw = context.attachment(NOTEBOOK)
        pages = 0 if raw is None else int(raw)
        note = Attach(NOTEBOOK, None if pages == 3 else b"%d" % (pages + 1))
        said = (kind, wanted, due, context.clock, state.total, pages, shared.price, context.offsets)
        return [_output("out", state.key, "wake", *said), note, Count(f"woken.{kind}")]

    def decide(self, state: State, shared: Shared, due: int, context: Context) -> tuple[Shared, Sequence[object]]:
        wanted, kind, left = state.timers.pop(0)
        state.total += 1
        granted = min(shared.budget, 2)
        shared = msgspec.structs.replace(shared, budget=shared.budget - granted, decisions=shared.decisions + 1)
        if kind == "bad decision":
            raise ValueError(kind)
        if kind == "stuck decision":
            self._set(state, wanted, kind, left)
        if kind == "decide again":
            self._set(state, wanted + left - 3, "decide", 0)
        said = (due, context.clock, state.total, shared.decisions, granted, shared.price, context.offsets)
        return shared, [_output("decisions", state.key, *said), Count("decided")]

    def decode_shared(self, raw: bytes | None) -> Shared:
        return Shared() if raw is None else _decode_shared(raw)

    def encode_shared(self, shared: Shared) -> bytes:
        return _encode(shared)

    def shared_due(self, shared: Shared) -> int:
        return shared.day_due

    def wake_shared(self, shared: Shared, due: int, context: Context) -> tuple[Shared, Sequence[object]]:
        day_due = due + DAY if due else max(DAY, context.clock // DAY * DAY)
        output = _output("days", None, due, context.clock, shared.budget, context.offsets)
        return msgspec.structs.replace(shared, day_due=day_due, budget=shared.budget + 1), [output, Count("days")]

    def direct(self, shared: Shared, directive: Directive, context: Context) -> tuple[Shared, Sequence[object]]:
        op = directive.body
        if op.n < 0:
            raise ValueError(op.n)
        output = _output("directed", None, op.n, context.clock, shared.budget, context.offsets)
        changed = msgspec.structs.replace(shared, price=shared.price + op.n, budget=shared.budget + op.n)
        return changed, [output, Count("directed")]

    def missing(self, directive: Directive) -> str | None:
        needs = directive.body.needs
        return None if needs in self.loaded else needs

    @staticmethod
    def _set(state: State, due: int, kind: str, left: int) -> None:
        state.timers = sorted([*state.timers, (due, kind, left)])


def _output(topic: str, key: bytes | None, *said: object) -> Output:
    return Output(topic, key, orjson.dumps(said, option=orjson.OPT_SORT_KEYS))


def history(**topics: Sequence[tuple[bytes | None, Op | bytes]]) -> dict[str, list[Record]]:
    """Return source records by topic, from (key, op); bytes stand for themselves."""
    return {
        topic: [
            Record(offset, 1000 + offset, key, op if isinstance(op, bytes) else msgspec.json.encode(op))
            for offset, (key, op) in enumerate(topics.get(topic, ()))
        ]
        for topic in TOPICS
    }


class Outcome(NamedTuple):
    """What must not depend on the cuts."""

    rows: dict[bytes, bytes]
    said: dict[bytes | None, list[tuple[str, bytes]]]
    """Outputs by key, in order; those of the partition under None."""
    decisions: list[tuple[int, bytes]]
    """(due, key) in the order in which they were taken."""
    dead: list[dict[str, object]]
    """Dead letters; their order among keys is free, and their detail names lines."""

    @property
    def record(self) -> PartitionRecord:
        return PartitionRecord.decode(self.rows[PARTITION_KEY])

    def state(self, key: bytes) -> State:
        return _decode(self.rows[key][10:])


def outcome(rows: Mapping[bytes, bytes], outputs: Sequence[Output]) -> Outcome:
    said: dict[bytes | None, list[tuple[str, bytes]]] = defaultdict(list)
    decisions, dead = [], []
    for output in outputs:
        value = orjson.loads(output.value)
        if output.topic == LAYOUT.dead_letters.topic:
            del value["detail"]
            dead.append(value)
            continue
        said[output.key].append((output.topic, output.value))
        if output.topic == "decisions":
            decisions.append((value[3], value[0], output.key))
    dead.sort(key=orjson.dumps)
    return Outcome(dict(rows), dict(said), [(due, key) for _, due, key in sorted(decisions)], dead)


class Interpreter:
    """One record at a time, one list of timers: slow, and plainly right."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.record = PartitionRecord()
        self.shared = toy.decode_shared(None)
        self.bodies: dict[bytes, bytes] = {}
        self.touched: dict[bytes, int] = {}
        self.resting: set[bytes] = set()
        self.progress: dict[bytes, tuple[int, int]] = {}
        self.notes: dict[bytes, bytes] = {}
        self.counts: Counter[str] = Counter()
        self.outputs: list[Output] = []
        self.directives: list[tuple[int, str, int, Directive, Pending]] = []
        # What `Context` says:
        self.clock = 0
        self.partition = LAYOUT.number
        self.key = b""

    @property
    def offsets(self) -> dict[str, int]:
        return dict(self.record.offsets)

    def attachment(self, name: bytes) -> bytes | None:
        return self.notes.get(attachment_key(self.key, name))

    def run(self, topics: Mapping[str, Sequence[Record]]) -> Outcome:
        parsed = {topic: self._parse(topic, records) for topic, records in topics.items()}
        while heads := [(parsed[topic][0][0], i) for i, topic in enumerate(TOPICS) if parsed[topic]]:
            topic = TOPICS[min(heads)[1]]
            at, body, record = parsed[topic].pop(0)
            self._take(topic, at, body, record)
            self.record.offsets[topic] = record.offset + 1
            self.record.times[topic] = at
        rows = {key: self._row(key) for key in self.bodies}
        self.record.row_version = self.toy.version if rows else 0
        self.record.counts = dict(self.counts)
        self.record.shared = self.toy.encode_shared(self.shared)
        self.record.pending = [pending for *_, pending in sorted(self.directives, key=lambda d: d[:3])]
        return outcome({**rows, **self.notes, PARTITION_KEY: self.record.encode()}, self.outputs)

    def _parse(self, topic: str, records: Sequence[Record]) -> list[tuple[int, object, Record]]:
        last, parsed = 0, []
        for record in records:
            try:
                at, body = self.toy.parse(topic, record.key, record.value, record.timestamp)
            except msgspec.MsgspecError:
                at, body = None, Rejected("parse raised", "")
            if record.key is not None and record.key.startswith(b"\0"):
                at, body = None, Rejected("reserved key", "")
            elif not record.key and not isinstance(body, Tick | Directive | Ignored | Rejected):
                body = Rejected("no key", "")
            last = last if at is None else at
            parsed.append((last, body, record))
        return parsed

    def _take(self, topic: str, at: int, body: object, record: Record) -> None:
        clock = self.record.clock
        if isinstance(body, Directive):
            self._run_timers(clock)
            if body.effective_at is not None and body.effective_at > clock:
                pending = Pending(body.effective_at, topic, *record)
                self.directives.append((body.effective_at, topic, record.offset, body, pending))
                return
            self.counts["directive.late"] += body.effective_at is not None and body.effective_at < clock
            self.counts = +self.counts
            self._direct(body, (topic, 0, record.offset, record.timestamp), record.key)
            return
        self._run_timers(max(clock, at))
        self.clock = self.record.clock = max(clock, at)
        source = (topic, 0, record.offset, record.timestamp)
        match body:
            case Tick():
                pass
            case Ignored():
                self.counts[f"ignored.{body.reason}"] += 1
            case Rejected():
                self._dead("parse", body.reason, record.key or None, source)
            case _:
                self.key = record.key or b""
                if self._stimulate(lambda state: self.toy.apply(state, self.shared, at, body, self), "step", source):
                    self.resting.discard(self.key)
                    self.progress.pop(self.key, None)

    def _run_timers(self, until: int) -> None:
        while True:
            due, rank, key = min(
                [
                    (self.toy.shared_due(self.shared), 0, b""),
                    *((d[0], 1, b"") for d in self.directives),
                    *((max(self._due(key), self.touched[key]), 2, key) for key in self.bodies),
                ]
            )
            if due >= until:
                return
            self.clock = self.record.clock = max(self.record.clock, due)
            if rank == 0:
                self.clock = until
                self.shared, effects = self.toy.wake_shared(self.shared, due, self)
                self._effects(effects)
            elif rank == 1:
                self.directives.sort(key=lambda d: d[:3])
                _, topic, offset, directive, pending = self.directives.pop(0)
                self._direct(directive, (topic, 0, offset, pending.recorded_at), pending.key)
            else:
                self.key = key
                self._timer(due)

    def _timer(self, due: int) -> None:
        wanted = self._due(self.key)
        furthest, repeats = self.progress.get(self.key, (-NEVER, 0))
        repeats = 0 if wanted > furthest else repeats + 1
        self.progress[self.key] = (max(wanted, furthest), repeats)

        def go(state: State) -> Sequence[object]:
            if repeats > WAKES_WITHOUT_PROGRESS_MAX:
                raise RuntimeError
            if self.toy.deciding(state):
                self.shared, effects = self.toy.decide(state, self.shared, due, self)
                return effects
            return self.toy.wake(state, self.shared, due, self)

        if not self._stimulate(go, "timer", None):
            self.resting.add(self.key)

    def _stimulate(self, go, stage: str, source: tuple[str, int, int, int] | None) -> bool:
        body = self.bodies.get(self.key)
        state = self.toy.new(self.key) if body is None else self.toy.decode(body)
        try:
            effects = go(state)
        except AssertionError:
            raise
        except Exception:  # noqa: BLE001 - what the partition must do too
            self._dead(stage, f"{stage} raised", self.key, source)
            return False
        self.bodies[self.key] = self.toy.encode(state)
        self.touched[self.key] = self.clock
        self._effects(effects)
        return True

    def _direct(self, directive: Directive, source: tuple[str, int, int, int], key: bytes | None) -> None:
        self.clock = self.record.clock
        while (name := self.toy.missing(directive)) is not None:
            self.toy.loaded.add(name)
        try:
            self.shared, effects = self.toy.direct(self.shared, directive, self)
        except ValueError:
            self._dead("directive", "directive raised", key, source)
        else:
            self._effects(effects)

    def _dead(self, stage: str, reason: str, key: bytes | None, source: tuple[str, int, int, int] | None) -> None:
        self.counts[f"dead.{reason}"] += 1
        self.outputs.append(
            dead_letter(LAYOUT.dead_letters, stage=stage, reason=reason, detail="", key=key, source=source)
        )

    def _effects(self, effects: Sequence[object]) -> None:
        for effect in effects:
            match effect:
                case Output():
                    self.outputs.append(effect)
                case Count():
                    self.counts[effect.name] += effect.n
                case Attach(name, None):
                    self.notes.pop(attachment_key(self.key, name), None)
                case Attach(name, value):
                    self.notes[attachment_key(self.key, name)] = value

    def _due(self, key: bytes) -> int:
        return NEVER if key in self.resting else self.toy.next_due(self.toy.decode(self.bodies[key]))

    def _row(self, key: bytes) -> bytes:
        flags = QUARANTINED if key in self.resting else 0
        due = max(self._due(key), self.touched[key])
        return pack_row(self.toy.version, flags, due, self.bodies[key])


class Driver:
    """Feeds a backlog to a partition, in pieces and with restarts, and keeps what came out."""

    def __init__(
        self,
        topics: Mapping[str, Sequence[Record]],
        *,
        rows_max: int = 64,
        records_max: int = 64,
        bytes_max: int | None = None,
        toy: Toy | None = None,
    ) -> None:
        self.topics = topics
        self.toy = Toy() if toy is None else toy
        self.rows_max, self.records_max, self.bytes_max = rows_max, records_max, bytes_max
        self.changelog: dict[bytes, bytes] = {}
        self.outputs: list[Output] = []
        self.units = 0
        self.restart()

    def restart(self) -> None:
        """Begin again with the committed rows alone."""
        self.partition = Partition(
            LAYOUT,
            self.toy,
            dict(self.changelog),
            rows_max=self.rows_max,
            records_max=self.records_max,
            bytes_max=self.bytes_max,
        )
        self.fed = dict.fromkeys(TOPICS, 0)
        for topic in TOPICS:
            self.feed(topic, 0)

    def feed(self, topic: str, n: int) -> None:
        """Feed the next `n` records of a topic; what follows is known to be there."""
        start = self.fed[topic]
        self.partition.feed(topic, self.topics[topic][start : start + n])
        self.fed[topic] = min(start + n, len(self.topics[topic]))
        self.partition.expect(topic, more=self.fed[topic] < len(self.topics[topic]))

    def advance(self) -> bool:
        """Do a unit of work; tell whether there was one."""
        unit = self.partition.advance()
        if unit is None:
            return False
        self.units += 1
        assert self.units < 20_000, "the partition does not come to an end"
        assert unit.records <= self.records_max
        keys = {key for key in unit.rows if not key.startswith(b"\0")}
        assert len(keys) <= self.rows_max
        assert unit.rows.keys() - keys <= {attachment_key(key, NOTEBOOK) for key in keys}
        for key, row in {**unit.rows, PARTITION_KEY: unit.record}.items():
            if row is None:
                self.changelog.pop(key, None)
            else:
                self.changelog[key] = row
        assert self.changelog == self.partition.rows
        self.outputs += unit.outputs
        return True

    def finish(self, n: int = 1000) -> Outcome:
        """Feed and work off all that is left, `n` records at a time."""
        while True:
            if self.advance():
                continue
            starving = self.partition.starving()
            if self.partition.held is not None:
                self.toy.loaded.add(self.partition.held)
            elif starving:
                for topic in starving:
                    self.feed(topic, n)
            else:
                return outcome(self.changelog, self.outputs)
