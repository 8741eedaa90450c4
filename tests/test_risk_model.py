"""What every model has to keep, and that workers score what the trainer learned."""

import random
from math import exp, log

import orjson
import pytest

from schemas.snapshots import Snapshot
from worker.recall.risk.features import NAMES, SCHEMA_HASH
from worker.recall.risk.model import PRIOR, RiverModel, Scorer, SnapshotError

MODELS = [RiverModel]


def examples(n, seed=1):
    """Draw customers of whom three features tell something, one nothing, the rest are always the same."""
    draw = random.Random(seed)
    for _ in range(n):
        features = [0.0] * len(NAMES)
        for i in (0, 10, 40, 70):
            features[i] = round(draw.expovariate(1), 3)
        features[99] = round(draw.gauss(8, 3), 3)
        features[50] = 0.693 * (draw.random() < 0.003)
        logit = features[0] - 2 * features[10] + 0.3 * (features[99] - 8)
        yield features, int(draw.random() < 1 / (1 + exp(-logit))), draw.choice((1.0, 1.0, 3.0))


def taught(make, n=800):
    model = make()
    for features, y, weight in examples(n):
        model.learn(features, y, weight)
    return model


def snapshot_of(learner, **changes):
    fields = {
        "version": 7,
        "created_label_day": "2026-01-05",
        "learned": 800,
        "horizon_days": 30,
        "schema_hash": SCHEMA_HASH,
        "features": NAMES,
        "model": learner.to_json(),
        "metrics": {},
        "resume_offset": 0,
        "cut_points": None,
    }
    return Snapshot.model_validate_json(orjson.dumps(fields | changes))


@pytest.mark.parametrize("make", MODELS)
class TestEveryModel:
    def test_prior_before_anything_was_learned(self, make):
        model = make()
        assert model.predict([0.0] * len(NAMES)) == model.predict([3.0] * len(NAMES)) == PRIOR

    def test_learns_what_tells(self, make):
        model = taught(make, 2500)
        held_out = list(examples(500, seed=2))
        base = sum(y for _, y, _ in held_out) / len(held_out)
        loss = sum(-log(model.predict(x) if y else 1 - model.predict(x)) for x, y, _ in held_out) / len(held_out)
        assert loss < 0.85 * -(base * log(base) + (1 - base) * log(1 - base))
        assert abs(sum(model.predict(x) for x, *_ in held_out) / len(held_out) - base) < 0.05

    def test_predicting_changes_nothing(self, make):
        model = taught(make, 50)
        before = orjson.dumps(model.to_json())
        model.predict([1.0] * len(NAMES))
        assert orjson.dumps(model.to_json()) == before

    @pytest.mark.parametrize("n", [0, 1, 300])
    def test_snapshot_restores_to_the_last_bit(self, make, n):
        model = taught(make, n)
        restored = make.from_json(snapshot_of(model).model)
        for features, y, weight in examples(200, seed=3):
            assert restored.predict(features) == model.predict(features)
            model.learn(features, y, weight)
            restored.learn(features, y, weight)
        assert orjson.dumps(restored.to_json()) == orjson.dumps(model.to_json())

    def test_weight_counts(self, make):
        features, y, _ = next(examples(1))
        once, twice = taught(make, 100), taught(make, 100)
        once.learn(features, y, 0.5)
        twice.learn(features, y, 2.0)
        assert (twice.predict(features) - once.predict(features)) * (y - 0.5) > 0

    def test_scorer_equals_it(self, make):
        model = taught(make)
        scorer = Scorer(snapshot_of(model))
        for features, *_ in examples(300, seed=4):
            probability = 1 / (1 + exp(-scorer.logit(features)))
            assert probability == pytest.approx(model.predict(features), abs=1e-9)
            assert scorer.score(features) == pytest.approx(model.predict(features), abs=6e-7)
            assert scorer.score(features) == round(scorer.score(features), 6)

    def test_contributions_sum_up_to_the_logit(self, make):
        scorer = Scorer(snapshot_of(taught(make)))
        for features, *_ in examples(50, seed=5):
            told = scorer.contributions(features)
            assert [name for name, _ in told] == list(NAMES)
            assert scorer.intercept + sum(part for _, part in told) == pytest.approx(scorer.logit(features), abs=1e-9)


def test_extreme_features_stay_a_probability():
    scorer = Scorer(snapshot_of(taught(RiverModel)))
    scores = {scorer.score([sign * 1e6] * len(NAMES)) for sign in (1, -1)}
    assert scores == {0.0, 1.0}


def test_another_schema_is_refused():
    snapshot = snapshot_of(RiverModel(), schema_hash="0123456789abcdef")
    with pytest.raises(SnapshotError, match=rf"snapshot 7: schema_hash = 0123456789abcdef: allowed is {SCHEMA_HASH}"):
        Scorer(snapshot)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "forest"}, "kind"),
        ({"format": 2}, "format"),
        ({"weights": [0.0]}, "weights: 1 numbers; allowed are as many as features, 100"),
        ({"means": ["a"]}, "means"),
        ({"more": 1}, "more"),
    ],
)
def test_model_of_another_form_is_refused(changes, said):
    data = RiverModel().to_json() | changes
    with pytest.raises(SnapshotError, match=said):
        RiverModel.from_json(data)
    with pytest.raises(SnapshotError, match=said):
        Scorer(snapshot_of(RiverModel(), model=data))
