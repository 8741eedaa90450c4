"""The one place where the model learns: from the records of `churn-training`, in an order that they alone determine.

A label day is learned as a whole, once every source partition has closed it: its examples by id, each once. So the
weights are a function of the set of records, however the partitions' lines were woven into one. Every few label days a
snapshot goes out, with the adoptions that bring it into force.

A snapshot is all that a restart needs: it says from which offset on the topic has to be read again, the lowest of all
records that had not been learned from.
"""

from array import array
from collections import Counter
from datetime import date
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import orjson
from msgspec import Meta, Struct

from schemas.snapshots import Snapshot
from schemas.topics import CONTROL, MODEL
from schemas.values import AMOUNT_LIMIT, rfc3339
from worker.recall.days import Days
from worker.recall.risk import labels
from worker.recall.risk.features import NAMES, SCHEMA_HASH
from worker.recall.risk.metrics import Prequential
from worker.recall.risk.model import Model, RiverModel, SnapshotError, check_schema
from worker.stream.processor import Output

ADOPTED_AFTER_DAYS: Final = 2
"""From its label day to the day on whose start a snapshot comes into force: ahead of every partition's clock."""
NONE_YET: Final = -1

_Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}\Z")]
_Count = Annotated[int, Meta(ge=0, lt=2**53)]


class _Example(Struct, frozen=True, gc=False, tag_field="kind", tag="example", forbid_unknown_fields=True):
    """See `schemas.training.Example`."""

    id: _Hash
    t: date
    label_day: date
    horizon_days: _Count
    y: Literal[0, 1]
    weight: Annotated[float, Meta(ge=0, lt=AMOUNT_LIMIT)]
    holdout: bool
    treated: bool
    tier: Literal["high", "potential", "marginal", "silent", "new"]
    features: list[float]
    schema_hash: _Hash


class _DayClosed(Struct, frozen=True, gc=False, tag_field="kind", tag="day_closed", forbid_unknown_fields=True):
    """See `schemas.training.DayClosed`."""

    day: date
    partition: _Count
    partitions: _Count


_decode = msgspec.json.Decoder(_Example | _DayClosed).decode


class _Lesson(NamedTuple):
    y: int
    weight: float
    features: "array[float]"
    """As doubles: a third of what a list takes."""


class Trainer:
    """Takes the records of the training topic in the order of their offsets; pure but for its own state.

    What it did not learn from is in `counts`, by reason: `malformed`, `schema`, `horizon`, `label day`, `partitions`
    (the record does not fit this trainer), `weight 0`, `duplicate`, and `late` (the label day had been learned; after a
    restart these are also the records learned from before and read again).
    """

    def __init__(
        self,
        *,
        horizon_days: int,
        partitions: int,
        days: Days,
        snapshot: Snapshot | None = None,
        publish_days: int = 7,
        labels_min: int = 500,
    ) -> None:
        """Begin anew, or where a snapshot stands; `labels_min` examples are learned before the first is published."""
        self.counts: Counter[str] = Counter()
        self._horizon_days = horizon_days
        self._days = days
        self._publish_days = publish_days
        self._labels_min = labels_min
        self._model: Model
        if snapshot is None:
            self._model, self._metrics = RiverModel(), Prequential()
            self._version = self._learned = self._next_offset = 0
            self._learned_day = self._published_day = NONE_YET
        else:
            check_schema(snapshot)
            if snapshot.horizon_days != horizon_days:
                raise SnapshotError(
                    f"snapshot {snapshot.version}: horizon_days = {snapshot.horizon_days}: allowed is {horizon_days}, "
                    "the horizon that is set; learn anew for another one"
                )
            self._model = RiverModel.from_json(snapshot.model)
            self._metrics = Prequential.from_json(snapshot.metrics.get("sums"))
            self._version = snapshot.version
            self._learned = snapshot.learned
            self._learned_day = self._published_day = days.number(snapshot.created_label_day)
            self._next_offset = snapshot.resume_offset
        self._closed = [self._learned_day] * partitions
        self._lessons: dict[int, dict[str, _Lesson]] = {}
        """By label day and id."""
        self._first_offsets: dict[int, int] = {}
        """By label day, the lowest offset of a record about it."""

    @property
    def version(self) -> int:
        """Version of the last snapshot; 0 before the first."""
        return self._version

    @property
    def resume_offset(self) -> int:
        """The lowest offset that a snapshot of now would have to be read on from."""
        return min(self._first_offsets.values(), default=self._next_offset)

    def report(self) -> dict[str, float]:
        """Return the figures of the model and the constant, as of now."""
        return self._metrics.report()

    def take(self, offset: int, value: bytes) -> list[Output]:
        """Take a record; return the snapshots that it completes, each with its adoptions."""
        self._next_offset = offset + 1
        try:
            record = _decode(value)
        except (ValueError, RecursionError):
            self.counts["malformed"] += 1
            return []
        if isinstance(record, _DayClosed):
            return self._close(offset, record)
        self._keep(offset, record)
        return []

    def _keep(self, offset: int, example: _Example) -> None:
        label_day = self._days.number(example.label_day)
        reason = self._refusal(example, label_day)
        if reason is not None:
            self.counts[reason] += 1
            return
        lesson = _Lesson(example.y, example.weight, array("d", example.features))
        lessons = self._lessons.setdefault(label_day, {})
        known = lessons.get(example.id)
        if known is not None:
            self.counts["duplicate"] += 1
        # Which one came first must not matter, should two of an id differ.
        lessons[example.id] = lesson if known is None else min(known, lesson)
        self._first_offsets.setdefault(label_day, offset)

    def _refusal(self, example: _Example, label_day: int) -> str | None:
        if example.schema_hash != SCHEMA_HASH or len(example.features) != len(NAMES):
            return "schema"
        if example.horizon_days != self._horizon_days:
            return "horizon"
        try:
            due = labels.label_day(self._days.number(example.t), self._horizon_days, self._days)
        except (ValueError, OverflowError):  # at the ends of the calendar
            return "label day"
        if label_day != due:
            return "label day"
        if label_day <= self._learned_day:
            return "late"
        return None if example.weight > 0 else "weight 0"

    def _close(self, offset: int, closed: _DayClosed) -> list[Output]:
        if closed.partitions != len(self._closed) or closed.partition >= closed.partitions:
            self.counts["partitions"] += 1
            return []
        day = self._days.number(closed.day)
        if day <= self._learned_day:
            return []
        self._first_offsets.setdefault(day, offset)
        self._closed[closed.partition] = max(self._closed[closed.partition], day)
        complete = min(self._closed)
        outputs: list[Output] = []
        for label_day in sorted(other for other in self._lessons if other <= complete):
            self._learn(label_day)
            self._pass(label_day)
            if self._is_due(label_day):
                outputs += self._publish(label_day)
        self._pass(complete)
        return outputs

    def _learn(self, label_day: int) -> None:
        """Measure what the model as it stands says of the day, then learn it.

        It has learned up to the day before; the snapshot that customers were scored with is older by the horizon.
        """
        lessons = [lesson for _, lesson in sorted(self._lessons.pop(label_day).items())]
        if self._learned >= self._labels_min:
            for y, weight, features in lessons:
                self._metrics.add(self._model.predict(features), y, weight)
        for y, weight, features in lessons:
            self._model.learn(features, y, weight)
            self._metrics.observe(y, weight)
        self._learned += len(lessons)

    def _pass(self, day: int) -> None:
        """Leave a day behind, and what was known of it and of those before."""
        self._learned_day = max(self._learned_day, day)
        for other in [other for other in self._first_offsets if other <= day]:
            del self._first_offsets[other]

    def _is_due(self, label_day: int) -> bool:
        if self._learned < self._labels_min:
            return False
        return self._published_day == NONE_YET or label_day >= self._published_day + self._publish_days

    def _publish(self, label_day: int) -> list[Output]:
        self._version += 1
        self._published_day = label_day
        snapshot = {
            "version": self._version,
            "created_label_day": self._days.date(label_day),
            "learned": self._learned,
            "horizon_days": self._horizon_days,
            "schema_hash": SCHEMA_HASH,
            "features": NAMES,
            "model": self._model.to_json(),
            "metrics": {**self._metrics.report(), "sums": self._metrics.to_json()},
            "resume_offset": self.resume_offset,
            "cut_points": None,
        }
        adoption: dict[str, Any] = {
            "kind": "adopt_snapshot",
            "effective_at": rfc3339(self._days.start(label_day + ADOPTED_AFTER_DAYS)),
            "version": self._version,
        }
        value = orjson.dumps(adoption)
        return [
            Output(MODEL, str(self._version).encode(), orjson.dumps(snapshot)),
            *(Output(CONTROL, None, value, partition=partition) for partition in range(len(self._closed))),
        ]
