"""The product's own predictions: its trainer learns what is released, and its scorer scores the week's users.

The trainer reads records of `churn-training` as workers write them, with lateness 0, and publishes every day on which
something changed: a week is scored by the snapshot that knows all labels released by then, and none other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import orjson

from schemas.snapshots import Snapshot
from schemas.topics import MODEL
from worker.recall.days import Days
from worker.recall.risk.features import SCHEMA_HASH, plain
from worker.recall.risk.labels import example_id
from worker.recall.risk.scorer import Scorer
from worker.recall.risk.trainer import Trainer
from worker.recall.tiers import Tier

if TYPE_CHECKING:
    from typing import Literal

    from worker.evaluate.examples import Examples
    from worker.evaluate.figures import Floats
    from worker.recall.lifetime.history import Summary

    Learner: TypeAlias = Literal["river", "vectorised"]

LABELS_MIN: Final = 500


class Predicted(NamedTuple):
    """P(nothing comes within the horizon), by example; NaN before there are labels enough."""

    model: Floats
    """What is acted on."""
    learner: Floats
    """Alone."""
    bgnbd: Floats
    """The classical one, of nothing but days with what is predicted."""


def predict(examples: Examples, horizon_days: int, learner: Learner, timezone: str) -> Predicted:
    """Let the trainer learn week by week, and score each week with its latest snapshot."""
    training = _Training(horizon_days, learner, timezone)
    due = examples.t + horizon_days
    release = iter(np.argsort(due, kind="stable").tolist())
    y = examples.labels(horizon_days)
    ahead = next(release, None)
    predicted = Predicted(*(np.full(len(y), np.nan) for _ in range(3)))
    said: dict[int, dict[str, Any]] = {}
    for t, week in examples.weeks():
        while ahead is not None and due[ahead] <= t:
            training.example(examples, ahead, int(y[ahead]), said.get(ahead))
            ahead = next(release, None)
        training.summaries(examples.summaries.get(t, []), examples.first_day + t)
        snapshot = training.close(examples.first_day + t)
        if snapshot is None or snapshot.learned < LABELS_MIN:
            continue
        scorer = Scorer(snapshot)
        for i in week:
            seen, rhythms = examples.seen[i].tolist(), examples.histories[i]
            told = scorer.predictions(seen, rhythms)
            said[i] = {"version": snapshot.version, **told._asdict()}
            predicted.model[i] = told.model
            if told.learner is not None:
                predicted.learner[i] = told.learner
            if scorer.lifetime is not None:
                predicted.bgnbd[i] = scorer.lifetime.purchases.no_order(rhythms.orders, horizon_days)
    return predicted


class _Training:
    """The training topic of one source partition, and the trainer that reads it."""

    def __init__(self, horizon_days: int, learner: Learner, timezone: str) -> None:
        self._horizon_days = horizon_days
        self._trainer = Trainer(
            horizon_days=horizon_days,
            partitions=1,
            days=Days(timezone),
            learner=learner,
            lateness_ms=0,
            publish_days=1,
            labels_min=LABELS_MIN,
        )
        self._offset = 0
        self._snapshot: Snapshot | None = None

    def example(self, examples: Examples, i: int, y: int, said: dict[str, Any] | None) -> None:
        t_day = examples.first_day + int(examples.t[i])
        self._write(
            {
                "kind": "example",
                "id": examples.ids[i],
                "t": Days.date(t_day),
                "label_day": Days.date(t_day + self._horizon_days),
                "horizon_days": self._horizon_days,
                "y": y,
                "weight": 1.0,
                "holdout": False,
                "treated": False,
                "tier": Tier.NEW.label,  # nothing learned depends on it
                "features": plain(examples.seen[i].tolist()),
                "schema_hash": SCHEMA_HASH,
                "history": examples.histories[i].orders._asdict(),
                "active": examples.histories[i].active._asdict(),
                "predicted": said,
                "lead_days": None,
            }
        )

    def summaries(self, summaries: list[Summary], t_day: int) -> None:
        for number, summary in enumerate(summaries):
            self._write(
                {
                    "kind": "summary",
                    "id": example_id("summary", number.to_bytes(4, "big"), t_day),
                    "t": Days.date(t_day),
                    "history": summary.rhythms.orders._asdict(),
                    "active": summary.rhythms.active._asdict(),
                    "orders": summary.orders,
                    "mean_value": summary.mean_value,
                    "rfm": None,
                }
            )

    def close(self, day: int) -> Snapshot | None:
        """Close a label day; return the latest snapshot."""
        self._write({"kind": "day_closed", "day": Days.date(day), "partition": 0, "partitions": 1})
        refused = {reason: n for reason, n in self._trainer.counts.items() if reason != "not fitted"}
        assert not refused, f"the trainer left out {refused}"
        return self._snapshot

    def _write(self, record: dict[str, Any]) -> None:
        for output in self._trainer.take(self._offset, orjson.dumps(record)):
            if output.topic == MODEL and orjson.loads(output.value)["kind"] == "snapshot":
                self._snapshot = Snapshot.model_validate_json(output.value)
        self._offset += 1
