import random

import orjson
import pytest

from worker.recall.risk.baselines import RECENCY_EDGES, Baselines


def test_nothing_known_is_one_half():
    assert Baselines().constant() == Baselines().recency(12) == 0.5


def test_the_constant_is_the_base_rate_and_recency_that_of_its_bin():
    baselines = Baselines()
    for _ in range(98):
        baselines.learn(5, 0, 1.0)
        baselines.learn(100, 1, 2.0)
    assert baselines.constant() == round(197 / 296, 6)
    assert baselines.recency(5) == 0.01
    assert baselines.recency(100) == baselines.recency(91) == round(197 / 198, 6)
    assert baselines.recency(90) == 0.5, "nothing was learned of that bin"


def test_every_recency_has_a_bin():
    baselines = Baselines()
    for days in (0, *RECENCY_EDGES, 999, 10**6):
        baselines.learn(days, 1, 1.0)
        assert baselines.recency(days) > 0.5


def test_baselines_travel_as_json_to_the_last_bit():
    draw = random.Random(4)
    labels = [(draw.randrange(400), draw.randrange(2), draw.choice((1.0, 1 / 3, 2.7))) for _ in range(500)]
    whole, cut = Baselines(), Baselines()
    for i, label in enumerate(labels):
        whole.learn(*label)
        cut.learn(*label)
        if i % 100 == 17:
            cut = Baselines.from_json(orjson.loads(orjson.dumps(cut.to_json())))
    assert cut.to_json() == whole.to_json()
    assert len(orjson.dumps(whole.to_json())) < 1000


@pytest.mark.parametrize("broken", [None, {"labels": [0.0]}, {"all_labels": "many"}, {"more": 1}])
def test_foreign_state_is_refused(broken):
    with pytest.raises(ValueError, match=r"^baselines: "):
        Baselines.from_json(broken)
