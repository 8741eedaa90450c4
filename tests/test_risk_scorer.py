from math import exp, inf, log, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import LIFETIME, MODELS, REGULAR, examples, snapshot_of, taught, thousandths

from worker.recall.days import Days
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.rfm import CutPoints
from worker.recall.risk.baselines import Baselines
from worker.recall.risk.features import NAMES, SCHEMA_HASH
from worker.recall.risk.scorer import RHYTHM, Scorer, SnapshotError, read_lifetime
from worker.recall.risk.vectorised import VectorisedModel

N = len(NAMES)
GONE = Rhythms(History(repeats=30, recency_days=100, age_days=700), History(90, 300, 700))
ONCE = Rhythms(History(repeats=0, recency_days=0, age_days=5), History(2, 4, 6))

LEARNER = taught(VectorisedModel)
SHARES = {
    "learner": {"learner_share": 1.0, "lifetime": None},
    "rhythm": {"learner_share": 0.0, "model": None},
    "both": {},
}
histories = st.integers(0, 3000).flatmap(
    lambda age: st.builds(
        lambda recency, repeats: History(min(repeats, recency), recency if repeats else 0, age),
        st.integers(0, age),
        st.integers(0, 300),
    )
)
rows = st.lists(st.integers(-32_767, 32_767), min_size=N, max_size=N)


def logit(p):
    return log(p / (1 - p))


def customer(seed=4):
    (features, *_) = next(examples(1, seed))
    return features


@pytest.mark.parametrize("make", MODELS)
def test_learner_alone_is_scored_as_it_predicts(make):
    model = taught(make)
    scorer = Scorer(snapshot_of(model, **SHARES["learner"]))
    for features, *_ in examples(300, seed=4):
        seen, predicted = thousandths(features), model.predict(features)
        assert 1 / (1 + exp(-scorer.logit(seen, REGULAR))) == pytest.approx(predicted, rel=1e-9)
        assert scorer.score(seen, REGULAR) == pytest.approx(predicted, abs=6e-7)


def test_before_there_are_labels_enough_the_rhythm_of_orders_is_the_score():
    for snapshot in (snapshot_of(None), snapshot_of(LEARNER, learner_share=0.0)):
        scorer = Scorer(snapshot)
        for rhythms in (REGULAR, ONCE):
            expected = scorer.lifetime.no_order(rhythms, 30)
            assert scorer.score(thousandths(customer()), rhythms) == pytest.approx(expected, abs=6e-7)


def test_score_is_the_mean_of_both_log_odds():
    scorer, features = Scorer(snapshot_of(LEARNER)), customer()
    no_order = scorer.lifetime.no_order(REGULAR, 30)
    expected = (logit(LEARNER.predict(features)) + logit(no_order)) / 2
    assert scorer.logit(thousandths(features), REGULAR) == pytest.approx(expected, abs=1e-9)


def test_rhythm_is_not_more_certain_than_one_in_a_thousand():
    scorer = Scorer(snapshot_of(None))
    assert scorer.lifetime.no_order(GONE, 30) > 0.999
    assert scorer.score([0] * N, GONE) == 0.999


@given(seen=rows, rhythms=st.builds(Rhythms, histories, histories), share=st.sampled_from(sorted(SHARES)))
@settings(max_examples=60, deadline=None)
def test_contributions_sum_up_to_the_logit(seen, rhythms, share):
    scorer = Scorer(snapshot_of(LEARNER, **SHARES[share]))
    told = scorer.contributions(seen, rhythms)
    assert [name for name, _ in told] == [*NAMES, RHYTHM]
    total = scorer.intercept + sum(part for _, part in told)
    assert total == pytest.approx(scorer.logit(seen, rhythms), rel=1e-9, abs=1e-9)


@given(seen=rows, rhythms=st.builds(Rhythms, histories, histories), share=st.sampled_from(sorted(SHARES)))
@settings(max_examples=60, deadline=None)
def test_scores_are_probabilities_of_6_decimals(seen, rhythms, share):
    scorer = Scorer(snapshot_of(LEARNER, **SHARES[share]))
    told = scorer.predictions(seen, rhythms)
    assert told.model == scorer.score(seen, rhythms)
    assert (told.bgnbd is None) == (share == "learner")
    for p in told:
        assert p is None or (0 <= p <= 1 and round(p, 6) == p)


def test_average_customer_with_the_rhythm_of_the_base_rate_has_the_intercept():
    scorer = Scorer(snapshot_of(LEARNER))
    told = dict(scorer.contributions([round(mean) for mean in scorer.means], REGULAR))
    rhythm = told.pop(RHYTHM)
    assert sum(map(abs, told.values())) < 0.01
    base_rate, no_order = 3 / 5, scorer.lifetime.no_order(REGULAR, 30)
    assert rhythm == pytest.approx((logit(no_order) - logit(base_rate)) / 2)
    assert scorer.intercept == pytest.approx((LEARNER.to_json()["intercept"] + logit(base_rate)) / 2)


def test_predictions_have_what_simpler_rules_say_beside_the_score():
    snapshot = snapshot_of(LEARNER)
    baselines = Baselines.from_json(snapshot.baselines)
    told = Scorer(snapshot).predictions(thousandths(customer()), Rhythms(History(2, 40, 43), History(8, 42, 43)))
    assert told.learner == pytest.approx(LEARNER.predict(customer()), abs=6e-7)
    assert (told.recency, told.constant) == (baselines.recency(3), baselines.constant())


def test_the_learner_says_nothing_where_it_has_no_share():
    told = Scorer(snapshot_of(LEARNER, learner_share=0.0)).predictions(thousandths(customer()), REGULAR)
    assert told.learner is None
    assert told.model == pytest.approx(told.bgnbd, abs=6e-7)


def test_carries_what_travels_with_the_snapshot():
    cuts = {"version": "c1", "recency_days": [9, 8, 7, 6], "frequency": [1, 2, 3, 4], "monetary": [-5, 0, 5, 10]}
    scorer = Scorer(snapshot_of(LEARNER, cut_points=cuts, alert_above=0.9))
    assert (scorer.version, scorer.horizon_days, scorer.alert_above) == (7, 30, 0.9)
    assert scorer.cut_points == CutPoints("c1", (9, 8, 7, 6), (1, 2, 3, 4), (-5, 0, 5, 10))
    assert scorer.means == pytest.approx([1000 * mean for mean in LEARNER.to_json()["means"]])
    assert Days.date(scorer.lifetime.fitted_day).isoformat() == LIFETIME["fitted_day"]
    assert (scorer.lifetime.spend.p, scorer.lifetime.spend.q, scorer.lifetime.spend.v) == (6.25, 3.75, 1544.0)


def test_spend_is_unknown_where_it_was_not_fitted():
    scorer = Scorer(snapshot_of(None, lifetime=LIFETIME | {"p": None, "q": None, "v": None}))
    assert scorer.lifetime.spend is None
    parameters = snapshot_of(None).lifetime.model_copy(update={"q": None})
    with pytest.raises(ValueError, match=r"lifetime: p, q, v = .*: allowed are three numbers or none"):
        read_lifetime(parameters)


def test_another_schema_is_refused():
    snapshot = snapshot_of(LEARNER, schema_hash="0123456789abcdef")
    with pytest.raises(SnapshotError, match=rf"snapshot 7: schema_hash = 0123456789abcdef: allowed is {SCHEMA_HASH}"):
        Scorer(snapshot)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None, "lifetime": None, "learner_share": 0.0}, "model = null, lifetime = null: one of them"),
        ({"model": None, "learner_share": 0.5}, "learner_share = 0.5: allowed is 0 where model is null"),
        ({"lifetime": None, "learner_share": 0.5}, "learner_share = 0.5: allowed is 1 where lifetime is null"),
        ({"model": {"kind": "forest"}}, "model: Invalid enum value 'forest'"),
        ({"baselines": {"labels": [1.0]}}, "baselines: labels: 1 numbers"),
        ({"lifetime": LIFETIME | {"v": None}}, "lifetime: p, q, v = "),
    ],
)
def test_snapshot_that_cannot_be_scored_with_is_refused(changes, said):
    with pytest.raises(SnapshotError, match=f"snapshot 7: {said}"):
        Scorer(snapshot_of(LEARNER, **changes))


@pytest.mark.parametrize("number", [nan, inf])
def test_snapshot_with_a_number_that_is_not_finite_is_refused(number):
    snapshot = snapshot_of(LEARNER)
    snapshot.model["weights"][3] = number
    with pytest.raises(SnapshotError, match=f"snapshot 7: model: weights: {number}; allowed are finite numbers"):
        Scorer(snapshot)
