import random
from math import log

import orjson
import pytest

from worker.recall.risk.metrics import ECE_BINS, Prequential


def outcomes(n, seed=1):
    draw = random.Random(seed)
    for _ in range(n):
        p = draw.random() ** 0.5
        yield p, int(draw.random() < p * 0.9), draw.choice((1.0, 1.0, 2.5))


def measured(pairs):
    figures = Prequential()
    for p, y, weight in pairs:
        figures.add(p, y, weight)
        figures.observe(y, weight)
    return figures


def mean(terms):
    return sum(term * weight for term, weight in terms) / sum(weight for _, weight in terms)


def test_figures_equal_their_definitions():
    pairs = list(outcomes(1500))
    report = measured(pairs).report()
    assert report["n"] == 1500
    assert report["base_rate"] == pytest.approx(mean([(y, w) for _, y, w in pairs]), abs=1e-6)
    assert report["log_loss"] == pytest.approx(mean([(-log(p if y else 1 - p), w) for p, y, w in pairs]), abs=1e-3)
    assert report["brier"] == pytest.approx(mean([((p - y) ** 2, w) for p, y, w in pairs]), abs=1e-6)
    assert report["accuracy"] == pytest.approx(mean([((p > 0.5) == y, w) for p, y, w in pairs]), abs=1e-6)
    bins = [[pair for pair in pairs if int(pair[0] * ECE_BINS) == i] for i in range(ECE_BINS)]
    total = sum(w for *_, w in pairs)
    ece = sum(abs(sum(w * (p - y) for p, y, w in members)) for members in bins) / total
    assert report["ece"] == pytest.approx(ece, abs=1e-6)


def test_auc_is_near_that_of_all_pairs():
    pairs = list(outcomes(1200))
    won = tried = 0.0
    for p, y, w in pairs:
        for q, z, v in pairs:
            if y > z:
                tried += w * v
                won += w * v * ((p > q) + (p == q) / 2)
    assert measured(pairs).report()["auc"] == pytest.approx(won / tried, abs=1e-3)


def test_constant_knows_what_was_observed_before_and_no_more():
    figures = Prequential()
    figures.add(0.9, 1)
    assert figures.report()["constant_log_loss"] == pytest.approx(log(2), abs=1e-6)
    for y in (1, 1, 1, 0):
        figures.observe(y)
    figures = Prequential.from_json(figures.to_json())
    figures.add(0.9, 1)
    assert figures.report()["constant_log_loss"] == pytest.approx((log(2) - log(3.5 / 5)) / 2, abs=1e-6)


def test_without_predictions_there_is_nothing_to_report():
    figures = Prequential()
    figures.observe(1)
    assert figures.report() == {"n": 0}


def test_certain_and_wrong_is_dear_but_finite():
    figures = Prequential()
    figures.add(1.0, 0)
    figures.add(0.0, 1)
    assert figures.report()["log_loss"] == pytest.approx(-log(1e-4), abs=1e-6)
    assert figures.report()["auc"] == 0.0


def test_state_travels_as_json_to_the_last_bit():
    pairs = list(outcomes(400))
    figures = measured(pairs)
    restored = Prequential.from_json(orjson.loads(orjson.dumps(figures.to_json())))
    assert restored.to_json() == figures.to_json()
    for p, y, weight in outcomes(100, seed=2):
        for each in (figures, restored):
            each.add(p, y, weight)
            each.observe(y, weight)
    assert restored.to_json() == figures.to_json()


@pytest.mark.parametrize("broken", [None, {"model": {"predicted": [0.0]}}, {"model": {"n": "many"}}])
def test_foreign_state_is_refused(broken):
    with pytest.raises(ValueError, match=r"^metrics: "):
        Prequential.from_json(broken)
