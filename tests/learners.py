"""Customers to learn from and to score, and snapshots made of what was learned."""

import random
from math import exp

import orjson

from schemas.snapshots import Snapshot
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.risk.baselines import Baselines
from worker.recall.risk.features import NAMES, SCALE, SCHEMA_HASH
from worker.recall.risk.model import RiverModel
from worker.recall.risk.share import Share
from worker.recall.risk.vectorised import VectorisedModel

MODELS = [RiverModel, VectorisedModel]
LIFETIME = {
    "r": 0.25,
    "alpha": 4.5,
    "a": 0.8,
    "b": 2.4,
    "activity": {"r": 0.5, "alpha": 2.0, "a": 0.4, "b": 9.0},
    "p": 6.25,
    "q": 3.75,
    "v": 1544.0,
    "fitted_day": "2025-12-29",
    "histories": 2357,
}
REGULAR = Rhythms(
    History(repeats=9, recency_days=200, age_days=210), History(repeats=60, recency_days=220, age_days=230)
)


def examples(n, seed=1):
    """Draw customers of whom three features tell something, two nothing, the rest are always the same."""
    draw = random.Random(seed)
    for _ in range(n):
        features = [0.0] * len(NAMES)
        for i in (0, 10, 40, 70):
            features[i] = round(draw.expovariate(1), 3)
        features[-1] = round(draw.gauss(8, 3), 3)
        features[50] = 0.693 * (draw.random() < 0.003)
        features[60] = 1.099
        logit = features[0] - 2 * features[10] + 0.3 * (features[-1] - 8)
        yield features, int(draw.random() < 1 / (1 + exp(-logit))), draw.choice((1.0, 1.0, 3.0))


def taught(make, n=800, seed=1):
    """Return a model that has learned `n` examples."""
    model = make()
    for features, y, weight in examples(n, seed):
        model.learn(features, y, weight)
    model.settle(1, 0.0)
    return model


def thousandths(features):
    return [round(SCALE * value) for value in features]


def snapshot_of(learner, **changes):
    """Return a snapshot in which the learner has half of the say; None is no learner."""
    baselines = Baselines()
    for days_since_order, y in ((3, 0), (10, 1), (90, 1)):
        baselines.learn(days_since_order, y, 1.0)
    fields = {
        "kind": "snapshot",
        "version": 7,
        "created_label_day": "2026-01-05",
        "learned": 800,
        "horizon_days": 30,
        "schema_hash": SCHEMA_HASH,
        "model": None if learner is None else learner.to_json(),
        "learner_share": 0.0 if learner is None else 0.5,
        "share": Share().to_json(),
        "lifetime": LIFETIME,
        "baselines": baselines.to_json(),
        "alert_above": None,
        "metrics": {},
        "resume_offset": 0,
        "cut_points": None,
        "choice_priors": None,
    }
    return Snapshot.model_validate_json(orjson.dumps(fields | changes))
