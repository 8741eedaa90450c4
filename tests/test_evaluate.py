"""The evaluation: figures as others compute them, and predictions that know nothing of what comes later."""

import datetime as dt
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from typer.testing import CliRunner

from worker import cli
from worker.evaluate import ablation, alerts, command, examples, figures, logs, peers, product
from worker.recall.risk.features import NAMES

HORIZON = 14
DAYS = 112
USERS = 280
CUT = 84


def short(task, **changes):
    return replace(task, evaluated_from=70, horizon_days=HORIZON, **changes)


@pytest.fixture(scope="module")
def log():
    whole = logs.simulated(users=USERS, days=DAYS, seed=3)
    return replace(whole, records=list(whole.records))


@pytest.fixture(scope="module")
def built(log):
    return examples.build(log, "order")


@pytest.fixture(scope="module")
def due(built):
    return built.due_within(HORIZON)


# -- figures -----------------------------------------------------------------------------------------------------------


def drawn(seed, n=600, digits=2):
    """Predictions with ties, and outcomes that follow them."""
    random = np.random.default_rng(seed)
    p = random.random(n).round(digits)
    return (random.random(n) < p).astype(np.int64), p, np.sort(random.integers(0, 5, n)), random.integers(0, 4, n)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_figures_are_those_of_scikit_learn_with_weights(seed):
    y, p, week, weight = drawn(seed)
    found = figures.Ranked(y, p, week).figures(weight.astype(float))
    clipped = np.clip(p, figures.CLIP, 1 - figures.CLIP)
    assert found["auc"] == pytest.approx(roc_auc_score(y, p, sample_weight=weight))
    assert found["pr_auc"] == pytest.approx(average_precision_score(y, p, sample_weight=weight))
    assert found["log_loss"] == pytest.approx(log_loss(y, clipped, sample_weight=weight))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p, sample_weight=weight))
    assert found["accuracy"] == pytest.approx(np.average((p > 0.5) == y, weights=weight))
    weekly = [roc_auc_score(y[k], p[k], sample_weight=weight[k]) for k in (week == one for one in range(5))]
    assert found["auc_within_week"] == pytest.approx(np.average(weekly, weights=np.bincount(week, weight)))


def test_ece_is_the_mean_distance_over_fifteen_bins_of_equal_mass():
    y, p, week, _ = drawn(1, digits=9)
    order = np.argsort(-p)
    apart = [abs(y[k].mean() - p[k].mean()) for k in np.split(order, figures.ECE_BINS)]
    assert figures.Ranked(y, p, week).figures()["ece"] == pytest.approx(np.mean(apart))


def test_top_shares_are_what_they_say():
    y, p, week, _ = drawn(2, digits=9)
    top = np.argsort(-p)[:60]
    found = figures.Ranked(y, p, week).figures()
    assert found["precision_top_10"] == pytest.approx(y[top].mean())
    assert found["lift_top_10"] == pytest.approx(y[top].mean() / y.mean())


def test_equal_predictions_flag_nobody_before_others():
    y = np.array([1, 0] * 50)
    found = figures.Ranked(y, np.full(100, 0.5), np.zeros(100, dtype=np.int64)).figures()
    assert found["precision_top_1"] == found["precision_top_10"] == 0.5
    assert found["auc"] == found["auc_within_week"] == 0.5


def test_point_at_a_precision_is_the_greatest_recall_or_not_there():
    y = np.array([1] * 9 + [0] + [1] * 5 + [0] * 85)
    ranked = figures.Ranked(y, np.linspace(1, 0, 100), np.zeros(100, dtype=np.int64))
    found = ranked.operating(precision=0.9)
    assert (found.recall, found.flagged) == (pytest.approx(14 / 14), pytest.approx(0.15))
    assert figures.Ranked(1 - y, np.linspace(1, 0, 100), np.zeros(100, dtype=np.int64)).operating().threshold is None


def test_user_resampled_counts_with_all_his_weeks():
    user = np.repeat(np.arange(30), 7)
    for weight in figures.resamples(user, 5):
        assert weight.sum() == len(user)
        assert all(len(set(weight[user == one])) == 1 for one in range(30))


def test_better_is_said_of_a_model_that_knows_more_and_not_of_its_copy():
    y, p, week, _ = drawn(3)
    noise = np.random.default_rng(4).random(len(p))
    told = figures.compare(
        {"peer": noise, "model": p, "copy": noise}, y, week, figures.resamples(np.arange(len(p)) // 3, 50), "peer"
    )
    assert told["model"].verdicts["auc"] == told["model"].verdicts["log_loss"] == "better"
    assert set(told["copy"].verdicts.values()) == {"no difference"}
    assert told["peer"].verdicts == {}


# -- protocol ----------------------------------------------------------------------------------------------------------


def test_labels_are_known_only_where_the_horizon_ends_within_the_log(built, due):
    assert built.t.max() + HORIZON > DAYS >= due.t.max() + HORIZON
    assert 0 < due.labels(HORIZON).mean() < 1
    orders = [np.array(days) for days in due.happened]
    for i in range(0, len(due.t), 17):
        within = (orders[due.user[i]] >= due.t[i]) & (orders[due.user[i]] < due.t[i] + HORIZON)
        assert due.labels(HORIZON)[i] == (not within.any())


def test_only_those_whose_order_lies_within_half_a_year_are_predicted(built):
    since = [past.orders.age_days - past.orders.recency_days for past in built.histories]
    assert 0 < min(since) <= max(since) <= examples.ELIGIBLE_DAYS


def scrambled(log, day):
    """The log with all that happened from a day on happening to others."""
    midnight = int(dt.datetime.combine(log.first, dt.time(), dt.UTC).timestamp() * 1000) + day * 86_400_000
    past = [record for record in log.records if record.recorded_at < midnight]
    future = [record for record in log.records if record.recorded_at >= midnight and record.topic == "orders"]
    keys = sorted({record.key for record in future})
    other = dict(zip(keys, [*keys[7:], *keys[:7]], strict=True))
    # Orders are numbered by user: those of others get numbers that nobody has.
    moved = [
        record._replace(
            key=other[record.key],
            value=record.value.replace(b'"order_id":"', b'"order_id":"of-').replace(record.key, other[record.key]),
        )
        for record in future
    ]
    return replace(log, records=[*past, *moved])


@pytest.fixture(scope="module")
def others(log):
    return examples.build(scrambled(log, CUT), "order").due_within(HORIZON)


@pytest.mark.parametrize("peer", [peers.LightGbm(), peers.BatchLogistic()], ids=["LightGBM", "batch LR"])
def test_peer_is_blind_to_what_comes_later(due, others, peer):
    before = slice(0, int((due.t < CUT).sum()))
    first, second = (peers.predict(peer, peers.plain(each), each, HORIZON)[before] for each in (due, others))
    assert np.isfinite(first).any()
    np.testing.assert_array_equal(first, second)


def test_product_is_blind_to_what_comes_later(log, due, others):
    assert due.t.max() > CUT
    before = np.flatnonzero(due.t < CUT)
    assert not np.array_equal(due.labels(HORIZON)[before], others.labels(HORIZON)[: len(before)])
    np.testing.assert_array_equal(due.seen[before], others.seen[: len(before)])
    first, second = (product.predict(each, HORIZON, "vectorised", log.timezone) for each in (due, others))
    assert np.isfinite(first.model[before]).any()
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[before], other[: len(before)])


def test_nobody_predicts_before_there_are_labels_enough(log, due):
    labels = np.array([(due.t + HORIZON <= t).sum() for t in due.t])
    few = labels < peers.LABELS_MIN
    assert few.any()
    for p in (
        product.predict(due, HORIZON, "vectorised", log.timezone).model,
        peers.predict(peers.Constant(), peers.plain(due), due, HORIZON),
    ):
        assert np.isnan(p[few]).all()
        assert np.isfinite(p[~few]).all()


def test_lead_time_is_from_the_first_alert_to_the_end_of_the_horizon(due):
    certain = due.labels(HORIZON) - peers.days_since(due)[:, 0] / 1000  # the sooner after an order, the surer
    lead = alerts.lead_time(certain, due, HORIZON, since=70)
    assert 0 < lead.alerted <= lead.lapses
    low, median, high = lead.quartiles
    assert 0 <= low <= median <= high < HORIZON


def test_every_feature_belongs_to_a_group():
    assert {ablation.group_of(name) for name in NAMES} >= {"orders", "browsing", "carts", "rhythm", "money", "discount"}


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The results of a small shop, as the command writes them."""
    folder = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(logs.TASKS, "simulated", short(logs.TASKS["simulated"]))
        small = logs.simulated(users=USERS, days=DAYS, seed=3)
        patch.setattr(logs, "simulated", lambda: small)
        line = ["evaluate", "simulated", "--data", str(folder), "--out", str(folder), "--resamples", "20"]
        result = CliRunner().invoke(cli.app, [*line, "--learner", "vectorised"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_command_fits_a_terminal_and_says_what_was_found(written):
    _, output = written
    assert max(map(len, output.splitlines())) <= 80
    assert "against LightGBM: AUC" in output
    assert "targets: " in output


def test_results_are_whole_and_say_whether_targets_are_met(written):
    folder, _ = written
    result = json.loads((folder / "simulated.json").read_text())
    assert set(result["models"]) >= {"Recall", "LightGBM", "batch LR", "BG/NBD", "recency", "constant"}
    for model in result["models"].values():
        assert set(model["figures"]) == set(figures.FIGURES)
    assert all(isinstance(met, bool) for met in result["targets"].values())
    assert {one["name"] for one in result["ablation"]} >= {"all", "only orders", "without carts"}


def test_page_needs_no_network(written):
    folder, _ = written
    page = (folder / command.PAGE).read_text()
    [script] = re.findall(r"<script>.*</script>", page, re.DOTALL)
    around = page.replace(script, "")
    assert not re.findall(r"<script|<link|<img|<iframe|@import|url\(|\ssrc=|https?:", around)
    assert '"simulated-reliability"' in page
    assert "vegaEmbed" in page


def test_set_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"set = cdnwo: allowed are cdnow, hillstrom, retail, .*simulated"):
        command.chosen(["cdnwo"])
