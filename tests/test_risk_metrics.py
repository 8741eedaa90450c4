"""The model's figures: each equals its definition, is bounded in memory, and goes on from any day."""

import datetime as dt
import random
from functools import cache
from math import exp, log

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from worker.recall.risk.metrics import BLOCK_DAYS, BLOCKS, Measures, Outcome, auc_of
from worker.recall.tiers import Tier

FIRST_DAY = 20_006
TIERS = [tier.label for tier in Tier]


def chance(logit):
    return round(1 / (1 + exp(-logit)), 6)


def outcomes(n, seed=1, *, slope=1.0, shift=0.2, weights=(1.0,), lead=0.1):
    """Customers whose risk the model knows up to a slope, BG/NBD less well, and recency in steps."""
    draw = random.Random(seed)
    for _ in range(n):
        truth = shift + draw.gauss(0, 1)
        predicted = (
            chance(slope * truth),
            chance(truth + draw.gauss(0, 0.5)),
            round(0.3 + 0.05 * draw.randrange(10), 6),
            round(0.5 + seed % 7 / 100, 6),
        )
        y = int(draw.random() < chance(truth))
        days = draw.randrange(60) if draw.random() < lead else None
        yield Outcome(y, draw.choice(weights), predicted, draw.choice(TIERS), draw.random() < 0.1, days)


def days_of(n_days, n, **options):
    return {FIRST_DAY + i: list(outcomes(n, i, **options)) for i in range(n_days)}


def measured(days):
    measures = Measures()
    for day, of_day in days.items():
        measures.take(day, of_day)
    return measures


def columns(of_days, predictor=0):
    y, p, w = zip(*((o.y, o.predicted[predictor], o.weight) for of_day in of_days for o in of_day), strict=True)
    return np.array(y), np.array(p), np.array(w)


@cache
def year_half(weights=(1.0,)):
    days = days_of(60, 400, weights=weights, slope=1.3)
    return days, measured(days).report()


# -- the figures and their definitions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 2.5)], ids=["alike", "weighted"])
@pytest.mark.parametrize("predictor", range(4), ids=["model", "bgnbd", "recency", "constant"])
def test_figures_equal_those_of_scikit_learn(predictor, weights):
    days, report = year_half(weights)
    name = ("model", "bgnbd", "recency", "constant")[predictor]
    figures = report["predictors"][name]
    y, p, w = columns(days.values(), predictor)
    assert figures["n"] == len(y)
    assert figures["auc"] == pytest.approx(reference.roc_auc_score(y, p, sample_weight=w), abs=0.001)
    assert figures["pr_auc"] == pytest.approx(reference.average_precision_score(y, p, sample_weight=w), abs=0.002)
    assert figures["log_loss"] == pytest.approx(reference.log_loss(y, p, sample_weight=w), abs=1e-4)
    assert figures["brier"] == pytest.approx(reference.brier_score_loss(y, p, sample_weight=w), abs=1e-4)
    assert figures["accuracy"] == pytest.approx(reference.accuracy_score(y, p > 0.5, sample_weight=w), abs=1e-4)
    assert report["base_rate"] == pytest.approx(np.average(y, weights=w), abs=1e-4)


@pytest.mark.parametrize("predictor", ["model", "bgnbd"])
def test_the_top_is_those_with_the_highest_scores(predictor):
    days, report = year_half()
    y, p, _ = columns(days.values(), ("model", "bgnbd").index(predictor))
    ranked = y[np.argsort(-p, kind="stable")]
    for name, share in (("top_1", 0.01), ("top_10", 0.1)):
        figures = report["predictors"][predictor][name]
        exact = ranked[: round(share * len(y))].mean()
        assert figures["precision"] == pytest.approx(exact, abs=0.01 if share == 0.01 else 0.002)
        assert figures["lift"] == pytest.approx(figures["precision"] / report["base_rate"], abs=1e-3)


def test_calibration_error_is_that_of_fifteen_bins_of_equal_mass():
    days, report = year_half()
    for predictor, name in enumerate(("model", "bgnbd")):
        y, p, _ = columns(days.values(), predictor)
        parts = np.array_split(np.argsort(p, kind="stable"), 15)
        exact = sum(len(part) / len(y) * abs(y[part].mean() - p[part].mean()) for part in parts)
        assert report["predictors"][name]["ece"] == pytest.approx(exact, abs=0.002)
    table = report["reliability"]
    assert len(table) == 15
    assert table == sorted(table)
    assert sum(share for *_, share in table) == pytest.approx(1, abs=0.001)
    assert sum(share * abs(p - came) for p, came, share in table) == pytest.approx(
        report["predictors"]["model"]["ece"], abs=2e-4
    )


def test_within_a_week_those_of_one_label_day_are_compared():
    days = days_of(20, 60)
    report = measured(days).report()
    for predictor, name in enumerate(("model", "bgnbd", "recency", "constant")):
        exact = np.mean([reference.roc_auc_score(y, p) for y, p, _ in (columns([d], predictor) for d in days.values())])
        assert report["predictors"][name]["auc_within_week"] == pytest.approx(exact, abs=6e-5)
    constant = report["predictors"]["constant"]
    assert constant["auc_within_week"] == 0.5
    assert constant["auc"] != 0.5, "from day to day it knows something"


@given(
    st.lists(st.tuples(st.integers(0, 20).map(lambda i: i / 20), st.integers(0, 1), st.integers(1, 5000)), min_size=1)
)
def test_auc_of_a_day_is_that_of_all_pairs(scored):
    pairs = [(p, q, w * v) for p, y, w in scored for q, z, v in scored if y > z]
    expected = sum(w * ((p > q) + (p == q) / 2) for p, q, w in pairs) / sum(w for *_, w in pairs) if pairs else None
    assert auc_of(scored) == (None if expected is None else pytest.approx(expected))


def test_the_point_at_92_is_the_largest_recall_at_that_precision():
    days = days_of(60, 400, slope=1.0, shift=1.0)
    y, p, _ = columns(days.values())
    order = np.argsort(-p, kind="stable")
    right, flagged = np.cumsum(y[order]), np.arange(1, len(y) + 1)
    at = np.flatnonzero(right >= 0.92 * flagged)[-1]
    point = measured(days).report()["predictors"]["model"]["at_92"]
    assert point["precision"] == 0.92
    assert point["recall"] == pytest.approx(right[at] / y.sum(), abs=0.02)
    assert point["flagged"] == pytest.approx(flagged[at] / len(y), abs=0.02)
    assert point["threshold"] == pytest.approx(p[order][at], abs=0.01)


def test_the_point_at_92_is_told_to_be_out_of_reach():
    days = days_of(30, 200, shift=-0.5)
    report = measured(days).report()
    y, p, _ = columns(days.values())
    order = np.argsort(-p, kind="stable")
    few = len(y) // 100
    assert not any(np.cumsum(y[order])[few:] >= 0.92 * np.arange(1, len(y) + 1)[few:]), "in this scenario"
    assert report["predictors"]["model"]["at_92"] is None
    assert report["predictors"]["constant"]["at_92"] is None


def test_lead_time_has_median_and_quartiles():
    days = days_of(10, 100, lead=0.3)
    leads = [o.lead_days for of_day in days.values() for o in of_day if o.lead_days is not None]
    told = measured(days).report()["lead_days"]
    lower, median, upper = (int(np.quantile(leads, q, method="inverted_cdf")) for q in (0.25, 0.5, 0.75))
    assert told == {"n": len(leads), "lower": lower, "median": median, "upper": upper}
    assert measured(days_of(3, 100, lead=0.0)).report()["lead_days"] is None


def test_tiers_and_holdout_are_told_apart():
    days, report = year_half()
    together = [o for of_day in days.values() for o in of_day]
    parts = {tier: [o for o in together if o.tier == tier] for tier in TIERS}
    assert report["tiers"].keys() == parts.keys()
    parts["holdout"] = [o for o in together if o.holdout]
    for name, members in parts.items():
        figures = report["holdout"] if name == "holdout" else report["tiers"][name]
        y, p, _ = columns([members])
        assert figures["n"] == len(members)
        assert figures["base_rate"] == pytest.approx(y.mean(), abs=1e-4)
        assert figures["mean"] == pytest.approx(p.mean(), abs=1e-4)
        assert figures["auc"] == pytest.approx(reference.roc_auc_score(y, p), abs=0.002)
        assert figures["log_loss"] == pytest.approx(reference.log_loss(y, p), abs=1e-4)


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_labels_without_a_prediction_only_count():
    measures = Measures()
    measures.take(FIRST_DAY, [Outcome(1, 1.0, None, "new", False, None)] * 3)
    assert measures.report() == {"n": 0, "unpredicted": 3}
    assert measures.alert_above() is None
    measures.take(FIRST_DAY + 1, [])
    measures.take(FIRST_DAY + 2, list(outcomes(50)))
    report = measures.report()
    assert (report["n"], report["unpredicted"]) == (50, 3)
    assert report["since"] == report["until"] == (dt.date(1970, 1, 1) + dt.timedelta(FIRST_DAY + 2)).isoformat()


def test_bgnbd_has_no_figures_while_it_cannot_be_fitted():
    bare = [o._replace(predicted=(o.predicted[0], None, *o.predicted[2:])) for o in outcomes(100)]
    report = measured({FIRST_DAY: bare}).report()
    assert report["predictors"].keys() == {"model", "recency", "constant"}


@pytest.mark.parametrize("y", [0, 1])
def test_with_one_outcome_alone_ranks_are_not_told(y):
    report = measured({FIRST_DAY: [o._replace(y=y) for o in outcomes(50)]}).report()
    model = report["predictors"]["model"]
    assert model["auc"] is None
    assert model["auc_within_week"] is None
    assert report["base_rate"] == y


def test_certain_and_wrong_is_dear_but_finite():
    wrong = [Outcome(0, 1.0, (1.0, 1.0, 1.0, 1.0), "new", False, None)]
    assert measured({FIRST_DAY: wrong}).report()["predictors"]["model"]["log_loss"] == pytest.approx(
        -log(1e-6), abs=1e-4
    )


# -- alerts ------------------------------------------------------------------------------------------------------------


def test_a_tenth_of_the_recent_predictions_lies_above_the_alert():
    days = days_of(56, 200)
    above = measured(days).alert_above()
    _, p, _ = columns(days.values())
    assert (p > above).mean() == pytest.approx(0.1, abs=0.005)
    later = {day + 100: of_day for day, of_day in days_of(56, 200, slope=0.5).items()}
    _, p, _ = columns(later.values())
    above = measured(days | later).alert_above()
    assert (p > above).mean() == pytest.approx(0.1, abs=0.005), "what was predicted long ago does not matter"


def test_few_predictions_give_no_alert():
    assert measured({FIRST_DAY: list(outcomes(499))}).alert_above() is None
    assert 0 < measured({FIRST_DAY: list(outcomes(500))}).alert_above() < 1


# -- memory ------------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_last_half_year():
    kept = days_of(BLOCKS * BLOCK_DAYS, 20, slope=0.7)
    first = FIRST_DAY // BLOCK_DAYS * BLOCK_DAYS + BLOCK_DAYS
    kept = {first + i: of_day for i, of_day in enumerate(kept.values())}
    before = {first - BLOCK_DAYS + i: list(outcomes(20, i, shift=3.0)) for i in range(BLOCK_DAYS)}
    fresh, aged = measured(kept).report(), measured(before | kept).report()
    del fresh["drift"], aged["drift"]  # the only ones that look further back
    assert aged == fresh
    assert aged["n"] == BLOCKS * BLOCK_DAYS * 20


def test_memory_is_bounded():
    sizes, told = [], []
    measures = Measures()
    for i in range(3 * BLOCKS * BLOCK_DAYS):
        measures.take(FIRST_DAY + i, list(outcomes(60, i, shift=2.0 * (i % 90 > 45), weights=(1.0, 3.3333))))
        if i % BLOCK_DAYS == 0:
            sizes.append(len(orjson.dumps(measures.to_json())))
            told.append(len(orjson.dumps(measures.report())))
    assert max(sizes) < 200_000
    assert max(told) < 4_000
    assert max(sizes[-BLOCKS:]) < 1.1 * sizes[2 * BLOCKS]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=6))
def test_cut_anywhere_and_restored_it_goes_on_to_the_last_bit(cuts):
    whole, restored = Measures(), Measures()
    for i in range(90):
        of_day = list(outcomes(15, i, weights=(1.0, 1 / 3)))
        whole.take(FIRST_DAY + i, of_day)
        restored.take(FIRST_DAY + i, of_day)
        if i in cuts:
            restored = Measures.from_json(orjson.loads(orjson.dumps(restored.to_json())))
    assert restored.to_json() == whole.to_json()
    assert restored.report() == whole.report()
    assert restored.alert_above() == whole.alert_above()


def broken(change):
    state = measured({FIRST_DAY: list(outcomes(3))}).to_json()
    change(state)
    return state


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"figures": 1},
        broken(lambda s: s["blocks"][0]["meters"].pop()),
        broken(lambda s: s["blocks"][0]["meters"][0]["lapsed"].pop()),
        broken(lambda s: s["blocks"][0]["holdout"]["ordered"].append(0)),
        broken(lambda s: s["blocks"][0].update(number="last")),
        broken(lambda s: s["days"][0].pop("mean")),
    ],
)
def test_foreign_state_is_refused(state):
    with pytest.raises(ValueError, match=r"^measures: "):
        Measures.from_json(state)


def test_the_smallest_weight_counts():
    measures = Measures()
    measures.take(FIRST_DAY, list(outcomes(60, weights=(0.0001,))))
    report = measures.report()
    assert report["n"] == 60
    assert report["since"] == report["until"]
