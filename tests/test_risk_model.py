"""What every learner has to keep, and that all of them learn the same."""

from math import inf, isfinite, log, nan

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import MODELS, examples, taught

from worker.recall.risk.features import NAMES
from worker.recall.risk.model import LEARNING_RATE, PRIOR, RiverModel
from worker.recall.risk.vectorised import VectorisedModel

N = len(NAMES)
LISTS = ("weights", "means", "variances", "squares", "average_weights")

every_model = pytest.mark.parametrize("make", MODELS)


def written(model):
    return orjson.dumps(model.to_json())


def read(make, data):
    return make.from_json(orjson.loads(data))


@st.composite
def streams(draw):
    """Customers of whom a few features are not 0, up to the greatest that a row holds, each with label and weight."""
    features = st.dictionaries(st.integers(0, N - 1), st.integers(-32_767, 32_767), max_size=6)
    weights = st.sampled_from((1.0, 1.0, 0.25, 4.0, 64.0))
    stream = draw(st.lists(st.tuples(features, st.integers(0, 1), weights), max_size=30))
    return [([sparse.get(i, 0) / 1000 for i in range(N)], y, weight) for sparse, y, weight in stream]


def learn(model, stream, known=0):
    """Learn a stream, of which so many are known already, in label days of seven; the average reaches back ten days."""
    for n, (features, y, weight) in enumerate(stream, start=known + 1):
        model.learn(features, y, weight)
        if n % 7 == 0:
            model.settle(n, 10.0)
    return model


@every_model
class TestEveryModel:
    def test_prior_before_anything_was_learned(self, make):
        for model in (make(), read(make, written(make()))):
            assert model.predict([0.0] * N) == model.predict([3.0] * N) == PRIOR

    def test_learns_what_tells(self, make):
        model = taught(make, 2500)
        held_out = list(examples(500, seed=2))
        base = sum(y for _, y, _ in held_out) / len(held_out)
        loss = sum(-log(model.predict(x) if y else 1 - model.predict(x)) for x, y, _ in held_out) / len(held_out)
        assert loss < 0.85 * -(base * log(base) + (1 - base) * log(1 - base))
        assert abs(sum(model.predict(x) for x, *_ in held_out) / len(held_out) - base) < 0.05

    def test_predicting_changes_nothing(self, make):
        model = taught(make, 50)
        before = written(model)
        model.predict([1.0] * N)
        assert written(model) == before

    def test_predicts_by_the_average_over_label_days(self, make):
        averaged, latest = taught(make, 300), taught(make, 300)
        features, *_ = next(examples(1, seed=6))
        before = averaged.predict(features)
        for x, *_ in examples(300, seed=3):
            averaged.learn(x, 1, 1.0)
            latest.learn(x, 1, 1.0)
        averaged.settle(11, 10.0)
        latest.settle(11, 0.0)
        assert before < averaged.predict(features) < latest.predict(features)

    def test_learned_state_is_a_function_of_the_examples_and_their_order(self, make):
        stream = list(examples(60))
        assert written(learn(make(), stream)) == written(learn(make(), stream))
        assert written(learn(make(), stream)) != written(learn(make(), stream[::-1]))

    @given(stream=streams(), cut=st.integers(0, 30))
    @settings(max_examples=30, deadline=None)
    def test_goes_on_from_a_snapshot_as_if_it_had_never_stopped(self, make, stream, cut):
        whole = learn(make(), stream)
        restored = learn(read(make, written(learn(make(), stream[:cut]))), stream[cut:], len(stream[:cut]))
        assert written(restored) == written(whole)
        assert restored.predict([1.0] * N) == whole.predict([1.0] * N)

    @pytest.mark.parametrize("writer", MODELS)
    @pytest.mark.parametrize("n", [0, 1, 300])
    def test_reads_what_any_of_them_wrote_to_the_last_bit(self, make, writer, n):
        snapshot = written(taught(writer, n))
        assert written(read(make, snapshot)) == snapshot

    def test_weight_counts(self, make):
        features, y, _ = next(examples(1))
        once, more = taught(make, 100), taught(make, 100)
        once.learn(features, y, 0.5)
        more.learn(features, y, 2.0)
        once.settle(2, 0.0)
        more.settle(2, 0.0)
        assert (more.predict(features) - once.predict(features)) * (y - 0.5) > 0

    def test_feature_that_never_varied_moves_nothing(self, make):
        model = taught(make, 300)
        features, *_ = next(examples(1, seed=6))
        assert features[60] == 1.099
        same = model.predict(features)
        features[60] = 30.0
        assert model.predict(features) == same
        assert model.to_json()["weights"][60] == model.to_json()["variances"][60] == 0.0

    def test_what_one_customer_in_thousands_has_comes_in_gently(self, make):
        model = taught(make, 3000)
        features, *_ = next(examples(1, seed=6))
        assert model.to_json()["means"][30] == features[30] == 0.0
        before = model.predict(features)
        features[30] = 0.693
        assert model.predict(features) == before
        model.learn(features, 1, 1.0)
        model.settle(2, 0.0)
        learned = model.predict(features)
        features[30] = 0.0
        assert 0 < learned - model.predict(features) < 0.04

    @given(stream=streams())
    @settings(max_examples=30, deadline=None)
    def test_stays_finite_whatever_comes(self, make, stream):
        model = learn(make(), stream)
        state = model.to_json()
        intercepts = [state["intercept"], state["average_intercept"]]
        assert all(map(isfinite, [*intercepts, *(x for name in LISTS for x in state[name])]))
        for value in (-32.767, 0.0, 32.767):
            assert 0 <= model.predict([value] * N) <= 1

    @pytest.mark.parametrize("n", [0, N - 1, N + 1])
    def test_another_number_of_features_is_refused(self, make, n):
        model = taught(make, 20)
        before = written(model)
        with pytest.raises(ValueError, match=r"zip\(\) argument|features: "):
            model.predict([1.0] * n)
        with pytest.raises(ValueError, match=r"zip\(\) argument|features: "):
            model.learn([1.0] * n, 1, 1.0)
        assert written(model) == before

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"kind": "forest"}, r"Invalid enum value 'forest' - at `\$\.kind`"),
            ({"format": 1}, r"Invalid enum value 1 - at `\$\.format`"),
            ({"weights": [0.0]}, f"weights: 1 numbers; allowed are as many as features, {N}"),
            ({"means": ["a"]}, r"Expected `float`, got `str` - at `\$\.means"),
            ({"means": [0.0] * (N - 1) + [nan]}, "means: nan; allowed are finite numbers"),
            ({"weights": [-inf] + [0.0] * (N - 1)}, "weights: -inf; allowed are finite numbers"),
            ({"variances": [-1.0] * N}, "variances: -1.0; allowed are finite numbers from 0"),
            ({"squares": [inf] * N}, "squares: inf; allowed are finite numbers from 0"),
            ({"intercept": nan}, "intercept: nan; allowed are finite numbers"),
            ({"average_intercept": inf}, "average_intercept: inf; allowed are finite numbers"),
            ({"averaged": -1.0}, "averaged: -1.0; allowed are finite numbers from 0"),
            ({"learned": -1}, "learned: -1; allowed are whole numbers from 0"),
            ({"more": 1}, "unknown field `more`"),
        ],
    )
    def test_model_of_another_form_is_refused(self, make, changes, said):
        with pytest.raises(ValueError, match=f"model: .*{said}"):
            make.from_json(make().to_json() | changes)

    def test_state_is_small_enough_to_travel(self, make):
        assert len(written(taught(make, 300))) < 90 * N + 200


def assert_same(one, other):
    """Compare what was learned: to a billionth of it, or of a first step."""
    told, expected = one.to_json(), other.to_json()
    assert told["learned"] == expected["learned"]
    for name in ("intercept", "averaged", "average_intercept", *LISTS):
        assert told[name] == pytest.approx(expected[name], rel=1e-9, abs=LEARNING_RATE * 1e-9), name


class TestTwins:
    def test_learn_the_same_from_a_long_stream(self):
        river, vectorised = RiverModel(), VectorisedModel()
        for i, (features, y, weight) in enumerate(examples(6000)):
            if i % 20 == 0:
                assert vectorised.predict(features) == pytest.approx(river.predict(features), rel=1e-9)
            for model in (river, vectorised):
                model.learn(features, y, weight)
                if i % 50 == 0:
                    model.settle(i, 300.0)
        assert_same(vectorised, river)

    @given(stream=streams())
    @settings(max_examples=60, deadline=None)
    def test_learn_the_same_from_any_stream(self, stream):
        assert_same(learn(VectorisedModel(), stream), learn(RiverModel(), stream))

    @pytest.mark.parametrize(("first", "then"), [(RiverModel, VectorisedModel), (VectorisedModel, RiverModel)])
    def test_one_goes_on_where_the_other_stopped(self, first, then):
        stream = list(examples(1500))
        handed_over = learn(read(then, written(learn(first(), stream[:700]))), stream[700:], 700)
        assert_same(handed_over, learn(first(), stream))
