"""The one place where the model learns: from the records of `churn-training`, in an order that they alone determine.

There is one trainer for each horizon. A label day is learned as a whole, once every source partition has closed it: its
examples by id, each once, and the days one after the other, however many close at the same time. What was predicted is
measured first, then the learner's share, baselines and learner learn. What came of choices on the day is summed up by
the trainer of the horizon that is acted on. Every four weeks BG/NBD, Gamma-Gamma and the population's quintiles are
fitted to the summaries of the four weeks before; every week, until the first four weeks are full. So weights, sums,
fits and figures are a function of the set of records, however the partitions' lines were woven into one. Every few
label days a snapshot goes out, with the adoptions that bring it into force.

A snapshot, and the sums behind its figures, are all that a restart needs: it says from which offset on the topic has to
be read again, the lowest of all records that had not been learned from or are to be fitted to yet.

A shop begins without a label. Nothing is predicted before BG/NBD can be fitted, which needs 200 histories and no label;
then it alone is the prior, for the first labels are known a horizon later. From 500 of them on the learner has its
share (see `share`), or all where BG/NBD could not be fitted. Weights of the two that were learned freely (stacking),
and a calibration after them (Platt's), were measured on all data sets and were better on none than a mean of logits.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import orjson
from msgspec import Meta, Struct

from schemas.snapshots import MeasuresRecord, Snapshot
from schemas.topics import CONTROL, MODEL
from schemas.training import FEATURE_MAX
from schemas.values import AMOUNT_LIMIT, ID_CHARS_MAX, rfc3339
from worker.recall.days import LATENESS_MS, Days
from worker.recall.lifetime.history import History, Rhythms, Summary
from worker.recall.lifetime.worth import Lifetime
from worker.recall.policy import responses
from worker.recall.policy.responses import Responses
from worker.recall.rfm import CutPoints, Rfm, quintiles
from worker.recall.risk import labels
from worker.recall.risk.baselines import Baselines
from worker.recall.risk.features import NAMES, SCHEMA_HASH
from worker.recall.risk.metrics import Measures, Outcome
from worker.recall.risk.model import AVERAGED_HORIZONS, Model, RiverModel
from worker.recall.risk.scorer import SnapshotError, check_schema, cut_points_of, read_lifetime
from worker.recall.risk.share import Share
from worker.recall.risk.vectorised import VectorisedModel
from worker.stream.processor import Output

ADOPTED_AFTER_DAYS: Final = 2
"""From its label day to the day on whose start a snapshot comes into force: ahead of every partition's clock."""
REFIT_DAYS: Final = 28
"""How often lifetimes and quintiles are fitted, and of how many days the summaries are: each user's comes once."""
EARLY_REFIT_DAYS: Final = 7
"""How often before they are of so many days: a shop's first fit is to histories of a few days."""
SUMMARIES_MIN: Final = 200
"""So many histories are fitted to at least, and so many users' scores divided into quintiles."""
LESSONS_AT_ONCE: Final = 500
"""Learned without a pause: about 70 ms of River's."""
NONE_YET: Final = -1
REASONS: Final = (
    "malformed",
    "schema",
    "horizon",
    "label day",
    "partitions",
    "weight 0",
    "duplicate",
    "late",
    "not fitted",
)
"""Why a trainer did not learn from something."""

LEARNERS: Final[dict[str, type[RiverModel] | type[VectorisedModel]]] = {
    "river": RiverModel,
    "vectorised": VectorisedModel,
}

_Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}\Z")]
_Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
_Count = Annotated[int, Meta(ge=0, lt=2**53)]
_Feature = Annotated[float, Meta(ge=-FEATURE_MAX, le=FEATURE_MAX)]
_Probability = Annotated[float, Meta(ge=0, le=1)]


class _History(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `schemas.training.DayHistory`."""

    repeats: _Count
    recency_days: _Count
    age_days: _Count

    def read(self) -> History:
        return History(self.repeats, self.recency_days, self.age_days)


class _Predicted(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `schemas.training.Predicted`."""

    version: _Count
    model: _Probability
    learner: _Probability | None
    bgnbd: _Probability | None
    recency: _Probability
    constant: _Probability

    def measured(self) -> tuple[float, float | None, float, float]:
        """Return what `metrics.PREDICTORS` said."""
        return self.model, self.bgnbd, self.recency, self.constant


class _Values(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `schemas.training.Values`."""

    r: _Count
    f: _Count
    m: Annotated[int, Meta(gt=-(2**53), lt=2**53)]


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
    features: list[_Feature]
    schema_hash: _Hash
    history: _History
    active: _History
    predicted: _Predicted | None
    lead_days: _Count | None


class _Summary(Struct, frozen=True, gc=False, tag_field="kind", tag="summary", forbid_unknown_fields=True):
    """See `schemas.training.Summary`."""

    id: _Hash
    t: date
    history: _History
    active: _History
    orders: _Count
    mean_value: float
    rfm: _Values | None


class _Response(Struct, frozen=True, gc=False, tag_field="kind", tag="outcome", forbid_unknown_fields=True):
    """See `schemas.training.Outcome`."""

    id: _Hash
    day: date
    segment: _Id
    play: _Id
    y: Literal[0, 1]
    propensity: Annotated[float, Meta(gt=0, le=1)]
    held_out: bool


class _DayClosed(Struct, frozen=True, gc=False, tag_field="kind", tag="day_closed", forbid_unknown_fields=True):
    """See `schemas.training.DayClosed`."""

    day: date
    partition: _Count
    partitions: _Count


_decode = msgspec.json.Decoder(_Example | _Summary | _Response | _DayClosed).decode


class _Lesson(NamedTuple):
    outcome: Outcome
    predicted: _Predicted | None
    days_since_order: int
    features: "array[float]"
    """As doubles: a third of what a list takes."""


class _Past(NamedTuple):
    summary: Summary
    rfm: Rfm | None


class Trainer:
    """Takes the records of the training topic in the order of their offsets; pure but for its own state.

    What it did not learn from is in `counts`, by reason: `malformed`, `schema`, `horizon`, `label day`, `partitions`
    (the record does not fit this trainer), `weight 0`, `duplicate`, `late` (the label day had been learned, or the
    summary's four weeks are over; after a restart these are also the records learned from before and read again), and
    `not fitted` (days on which lifetimes could not be fitted).

    `notes` say what of the snapshot could not be gone on from.
    """

    def __init__(
        self,
        *,
        horizon_days: int,
        partitions: int,
        days: Days,
        snapshot: Snapshot | None = None,
        measures: MeasuresRecord | None = None,
        last_version: int = 0,
        learner: Literal["river", "vectorised"] = "river",
        lateness_ms: int = LATENESS_MS,
        publish_days: int = 7,
        labels_min: int = 500,
        sums_choices: bool = True,
    ) -> None:
        """Begin anew, or where a snapshot and its sums stand; a version up to `last_version` is not given again.

        From `labels_min` examples on the learner has its share. Of all trainers one sums up what came of choices.

        Raises:
            SnapshotError: where the snapshot is of another horizon.

        """
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.horizon_days = horizon_days
        self._days = days
        self._lateness_ms = lateness_ms
        self._publish_days = publish_days
        self._labels_min = labels_min
        self._model: Model = LEARNERS[learner]()
        self._baselines, self._measures, self._share = Baselines(), Measures(), Share()
        self._sums_choices = sums_choices
        self._responses = Responses()
        self._lifetime: Lifetime | None = None
        self._cut_points: CutPoints | None = None
        began = None if snapshot is None else snapshot.summaries_from
        self._summaries_from = NONE_YET if began is None else days.number(began)
        """The first day of the summaries that the first fit was to."""
        self._version = last_version
        self._learned = self._next_offset = 0
        self._learned_day = self._published_day = NONE_YET
        self._changed = False
        """Since the last snapshot."""
        if snapshot is not None:
            self._go_on(snapshot, measures, learner)
        self._closed = [self._learned_day] * partitions
        self._lessons: dict[int, dict[str, _Lesson]] = {}
        """By label day and id."""
        self._outcomes: dict[int, dict[str, responses.Outcome]] = {}
        """By day and id."""
        self._summaries: dict[int, dict[str, _Past]] = {}
        """By day and id, of the four weeks that are not fitted to yet."""
        self._first_offsets: dict[int, int] = {}
        """By label day, the lowest offset of an example or an outcome of it or of its close."""
        self._summary_offsets: dict[int, int] = {}
        """By day, the lowest offset of a summary of it."""

    def _go_on(self, snapshot: Snapshot, measures: MeasuresRecord | None, learner: str) -> None:
        """Take up what can be taken up; what cannot be read begins anew, under versions that go on."""
        if snapshot.horizon_days != self.horizon_days:
            raise SnapshotError(
                f"snapshot {snapshot.version}: horizon_days = {snapshot.horizon_days}: allowed is "
                f"{self.horizon_days}, the horizon that is learned"
            )
        self._version = max(self._version, snapshot.version)
        self._learned_day = self._published_day = self._days.number(snapshot.created_label_day)
        self._next_offset = snapshot.resume_offset
        self._responses = Responses.read(snapshot.choice_priors)
        self._take_up_learner(snapshot, learner)
        if snapshot.lifetime is not None:
            try:
                self._lifetime = read_lifetime(snapshot.lifetime)
            except ValueError as error:
                self.notes.append(f"lifetimes are fitted anew: snapshot {snapshot.version}: {error}")
        if snapshot.cut_points is not None:
            self._cut_points = cut_points_of(snapshot.cut_points)
        try:
            self._baselines = Baselines.from_json(snapshot.baselines)
        except ValueError as error:
            self.notes.append(f"the baselines begin anew: snapshot {snapshot.version}: {error}")
        if measures is None or measures.version != snapshot.version:
            self.notes.append(f"the figures begin anew: snapshot {snapshot.version}: its sums are not there")
            return
        try:
            self._measures = Measures.from_json(measures.sums)
        except ValueError as error:
            self.notes.append(f"the figures begin anew: snapshot {snapshot.version}: {error}")

    def _take_up_learner(self, snapshot: Snapshot, learner: str) -> None:
        """Take up the learner, and its share: what is known of that is of this learner."""
        try:
            check_schema(snapshot)
            if snapshot.model is not None:
                self._model = LEARNERS[learner].from_json(snapshot.model)
            self._learned = snapshot.learned
        except ValueError as error:
            self.notes.append(f"the learner begins anew: {error}")
            self._published_day, self._changed = NONE_YET, True  # for workers that refuse the last one
            return
        try:
            self._share = Share.from_json(snapshot.share)
        except ValueError as error:
            self.notes.append(f"the learner's share begins anew: snapshot {snapshot.version}: {error}")

    @property
    def version(self) -> int:
        """Version of the last snapshot; 0 before the first."""
        return self._version

    @property
    def resume_offset(self) -> int:
        """The lowest offset that a snapshot of now would have to be read on from."""
        return min([*self._first_offsets.values(), *self._summary_offsets.values()], default=self._next_offset)

    def report(self) -> dict[str, Any]:
        """Return the figures of the model and the baselines, as of now."""
        return self._measures.report()

    def take(self, offset: int, value: bytes) -> list[Output]:
        """Take a record; return the snapshots that it completes, each after its sums and before its adoptions."""
        return [output for output in self.steps(offset, value) if output is not None]

    def steps(self, offset: int, value: bytes) -> Iterator[Output | None]:
        """Take a record as `take` does, with a None wherever others may have a turn: a large day takes seconds."""
        self._next_offset = offset + 1
        try:
            record = _decode(value)
        except (ValueError, RecursionError):
            self.counts["malformed"] += 1
            return
        if type(record) is _DayClosed:
            yield from self._close(offset, record)
        elif type(record) is _Summary:
            self._keep_summary(offset, record)
        elif type(record) is _Example:
            self._keep(offset, record)
        elif type(record) is _Response and self._sums_choices:
            self._keep_outcome(offset, record)

    def _keep(self, offset: int, example: _Example) -> None:
        label_day = self._days.number(example.label_day)
        reason = self._refusal(example, label_day)
        if reason is not None:
            self.counts[reason] += 1
            return
        history, predicted = example.history, example.predicted
        outcome = Outcome(
            example.y,
            example.weight,
            None if predicted is None else predicted.measured(),
            example.tier,
            example.holdout,
            example.lead_days,
        )
        lesson = _Lesson(
            outcome,
            predicted,
            history.age_days - history.recency_days,
            array("d", example.features),
        )
        self._add(self._lessons.setdefault(label_day, {}), example.id, lesson)
        self._first_offsets.setdefault(label_day, offset)

    def _keep_outcome(self, offset: int, told: _Response) -> None:
        day = self._days.number(told.day)
        if day <= self._learned_day:
            self.counts["late"] += 1
            return
        outcome = responses.Outcome(told.segment, told.play, told.y, told.propensity)
        self._add(self._outcomes.setdefault(day, {}), told.id, outcome)
        self._first_offsets.setdefault(day, offset)

    def _keep_summary(self, offset: int, summary: _Summary) -> None:
        t_day = self._days.number(summary.t)
        if t_day <= self._fitted_to:
            self.counts["late"] += 1
            return
        rfm = None if summary.rfm is None else Rfm(summary.rfm.r, summary.rfm.f, summary.rfm.m)
        rhythms = Rhythms(summary.history.read(), summary.active.read())
        past = _Past(Summary(rhythms, summary.orders, summary.mean_value), rfm)
        self._add(self._summaries.setdefault(t_day, {}), summary.id, past)
        self._summary_offsets.setdefault(t_day, offset)

    def _add(self, known: dict[str, Any], name: str, taken: _Lesson | _Past | responses.Outcome) -> None:
        """Keep what was taken by its id, once; should two of an id differ, which one came first must not matter."""
        before = known.get(name)
        if before is None:
            known[name] = taken
            return
        self.counts["duplicate"] += 1
        if taken != before:
            known[name] = min(before, taken, key=repr)

    def _refusal(self, example: _Example, label_day: int) -> str | None:
        if example.schema_hash != SCHEMA_HASH or len(example.features) != len(NAMES):
            return "schema"
        if example.horizon_days != self.horizon_days:
            return "horizon"
        try:
            t_day = self._days.number(example.t)
            due = labels.label_day(t_day, self.horizon_days, self._days, self._lateness_ms)
        except (ValueError, OverflowError):  # at the ends of the calendar
            return "label day"
        if label_day != due:
            return "label day"
        if label_day <= self._learned_day:
            return "late"
        return None if example.weight > 0 else "weight 0"

    def _close(self, offset: int, closed: _DayClosed) -> Iterator[Output | None]:
        if closed.partitions != len(self._closed) or closed.partition >= closed.partitions:
            self.counts["partitions"] += 1
            return
        day = self._days.number(closed.day)
        if day <= self._learned_day:
            return
        self._first_offsets.setdefault(day, offset)
        self._closed[closed.partition] = max(self._closed[closed.partition], day)
        complete = min(self._closed)
        for over in range(self._first_day(complete), complete + 1):
            yield from self._learn(over)
            self._sum_up(over)
            self._refit(over)
            self._pass(over)
            if self._is_due(over):
                yield from self._publish(over)

    def _first_day(self, complete: int) -> int:
        """Return the first day that is not learned; at the beginning, the first of which anything is known."""
        if self._learned_day != NONE_YET:
            return self._learned_day + 1
        return max(0, min([complete, *self._lessons, *self._outcomes, *self._summaries]))

    def _learn(self, label_day: int) -> Iterator[None]:
        """Measure what was predicted of the customers of the day, then learn what came of them."""
        lessons = [lesson for _, lesson in sorted(self._lessons.pop(label_day, {}).items())]
        if not lessons:
            return
        self._measures.take(label_day, [lesson.outcome for lesson in lessons])
        for n, (outcome, said, days_since_order, features) in enumerate(lessons):
            if n % LESSONS_AT_ONCE == 0:
                yield
            if said is not None and said.learner is not None and said.bgnbd is not None:
                self._share.observe(label_day, outcome.y, outcome.weight, said.learner, said.bgnbd)
            self._baselines.learn(days_since_order, outcome.y, outcome.weight)
            self._model.learn(features, outcome.y, outcome.weight)
        reach_days = AVERAGED_HORIZONS * self.horizon_days if self._learned >= self._labels_min else 0.0
        self._model.settle(label_day, reach_days)
        self._learned += len(lessons)
        self._changed = True

    def _sum_up(self, day: int) -> None:
        """Take what came of choices."""
        came = self._outcomes.pop(day, {})
        if came:
            self._responses.learn(day, [outcome for _, outcome in sorted(came.items())])
            self._changed = True

    @property
    def _fitted_to(self) -> int:
        """Return the last day whose summaries no fit to come looks at."""
        fitted_day = NONE_YET if self._lifetime is None or self._is_early else self._lifetime.fitted_day
        return max(fitted_day, self._learned_day + 1 - REFIT_DAYS)

    @property
    def _is_early(self) -> bool:
        """Tell whether the last fit was to fewer than four weeks, since there were no more."""
        return self._lifetime is not None and self._lifetime.fitted_day < self._summaries_from + REFIT_DAYS - 1

    def _refit(self, day: int) -> None:
        """Fit to the last four weeks, where the time has come, something is new and enough was seen in them."""
        past = [t_day for t_day in self._summaries if day - REFIT_DAYS < t_day <= day]
        if self._lifetime is not None:
            fitted_day = self._lifetime.fitted_day
            due = fitted_day + (EARLY_REFIT_DAYS if self._is_early else REFIT_DAYS)
            if day < due or max(past, default=NONE_YET) <= fitted_day:
                return
        if sum(len(self._summaries[t_day]) for t_day in past) < SUMMARIES_MIN:
            return
        known = [seen for _, seen in sorted(item for t_day in past for item in self._summaries[t_day].items())]
        from worker.recall.lifetime.fit import fit  # noqa: PLC0415 - workers without a trainer do not load the optimiser

        try:
            lifetime = fit([seen.summary for seen in known], day)
        except ValueError:
            self.counts["not fitted"] += 1
            return
        if self._lifetime is None:
            self._summaries_from = min(past)
        self._lifetime = lifetime
        scored = [seen.rfm for seen in known if seen.rfm is not None]
        if len(scored) >= SUMMARIES_MIN:
            found = quintiles(f"quintiles-{self._days.date(day)}", scored)
            self._cut_points = found or self._cut_points
        self._changed = True

    def _pass(self, day: int) -> None:
        """Leave a day behind, and what was known of it and of those before."""
        self._learned_day = day
        for other in [other for other in self._first_offsets if other <= day]:
            del self._first_offsets[other]
        fitted_to = self._fitted_to
        for other in [other for other in self._summaries if other <= fitted_to]:
            del self._summaries[other], self._summary_offsets[other]

    def _learner_share(self, day: int) -> float | None:
        """Return the learner's share of the logit; None while nothing can be said."""
        if self._learned < self._labels_min:
            return None if self._lifetime is None else 0.0
        return 1.0 if self._lifetime is None else self._share.value(day)

    def _is_due(self, day: int) -> bool:
        if not self._changed or self._learner_share(day) is None:
            return False
        return self._published_day == NONE_YET or day >= self._published_day + self._publish_days

    def _publish(self, day: int) -> list[Output]:
        self._version += 1
        self._published_day = day
        self._changed = False
        sums = {
            "kind": "measures",
            "version": self._version,
            "horizon_days": self.horizon_days,
            "sums": self._measures.to_json(),
        }
        snapshot = {
            "kind": "snapshot",
            "version": self._version,
            "created_label_day": self._days.date(day),
            "learned": self._learned,
            "horizon_days": self.horizon_days,
            "schema_hash": SCHEMA_HASH,
            "model": self._model.to_json() if self._learned else None,
            "learner_share": self._learner_share(day),
            "share": self._share.to_json(),
            "lifetime": self._lifetime and _lifetime_json(self._lifetime, self._days),
            "summaries_from": None if self._summaries_from == NONE_YET else self._days.date(self._summaries_from),
            "baselines": self._baselines.to_json(),
            "alert_above": self._measures.alert_above(),
            "metrics": self._measures.report(),
            "resume_offset": self.resume_offset,
            "cut_points": self._cut_points and _cut_points_json(self._cut_points),
            "choice_priors": self._responses.to_json(),
        }
        adoption: dict[str, Any] = {
            "kind": "adopt_snapshot",
            "effective_at": rfc3339(self._days.start(day + ADOPTED_AFTER_DAYS)),
            "horizon_days": self.horizon_days,
            "version": self._version,
        }
        value = orjson.dumps(adoption)
        key = f"{self.horizon_days}/{self._version}".encode()
        sums_key = f"{self.horizon_days}/measures/{self._version % 2}".encode()
        return [
            Output(MODEL, sums_key, orjson.dumps(sums)),
            Output(MODEL, key, orjson.dumps(snapshot)),
            *(Output(CONTROL, None, value, partition=partition) for partition in range(len(self._closed))),
        ]


def _lifetime_json(lifetime: Lifetime, days: Days) -> dict[str, Any]:
    purchases, activity, spend = lifetime.purchases, lifetime.activity, lifetime.spend
    return {
        "r": purchases.r,
        "alpha": purchases.alpha,
        "a": purchases.a,
        "b": purchases.b,
        "activity": {"r": activity.r, "alpha": activity.alpha, "a": activity.a, "b": activity.b},
        "p": spend and spend.p,
        "q": spend and spend.q,
        "v": spend and spend.v,
        "fitted_day": days.date(lifetime.fitted_day),
        "histories": lifetime.histories,
    }


def _cut_points_json(cut_points: CutPoints) -> dict[str, Any]:
    return {
        "version": cut_points.version,
        "recency_days": cut_points.r,
        "frequency": cut_points.f,
        "monetary": cut_points.m,
    }
