"""`recall model` and the model's gauges: what an operator is told of the newest snapshots."""

import datetime as dt
import os
import re
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from confluent_kafka import Producer
from customers import SmallShop, scorer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from test_risk_metrics import FIRST_DAY, days_of, measured
from typer.testing import CliRunner

from schemas.topics import MODEL
from worker.cli import app
from worker.console import COLUMNS, outcome
from worker.monitoring import CustomersCollector, ModelCollector, TrainingCollector
from worker.recall.days import DAY_MS, Days
from worker.recall.risk.metrics import Measures, Outcome
from worker.recall.risk.trainer import REASONS, Trainer
from worker.stream.partition import Partition
from worker.tally import Tally
from worker.training import TrainerWork

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RECALL_") and name != "RECALL_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def snapshot(version=1, horizon_days=30, measures=None, **changes):
    measures = measures or Measures()
    return {
        "kind": "snapshot",
        "version": version,
        "created_label_day": "2025-02-11",
        "learned": 4_321,
        "horizon_days": horizon_days,
        "learner_share": 0.5,
        "alert_above": measures.alert_above(),
        "metrics": measures.report(),
    } | changes


@pytest.fixture(scope="module")
def half_a_year():
    return measured(days_of(60, 40))


@pytest.fixture
def show(tmp_path):
    """Show records as a replay has written them."""

    def show(*records, code=0):
        path = tmp_path / "churn-model.jsonl"
        path.write_bytes(b"".join(orjson.dumps({"partition": 0, "value": record}) + b"\n" for record in records))
        result = CliRunner().invoke(app, ["model", "--file", str(path)])
        assert result.exit_code == code, result.output
        assert max(map(len, result.stdout.splitlines()), default=0) <= COLUMNS
        return result.stderr if code else result.stdout

    return show


def row(told, label):
    """Return the cells of the first row with a label."""
    [line, *_] = [line for line in told.splitlines() if line.startswith(label)]
    return re.split(r"\s{2,}", line.removeprefix(label).strip())


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_model_stands_beside_what_it_has_to_beat(show, half_a_year):
    told = show(snapshot(measures=half_a_year))
    figures = half_a_year.report()
    predictors = figures["predictors"].values()
    assert row(told, " " * 20) == ["model", "BG/NBD", "recency", "constant"]
    assert row(told, "AUC  ") == [f"{each['auc']:.4f}" for each in predictors]
    assert row(told, "log loss *") == [f"{each['log_loss']:.4f}" for each in predictors]
    assert row(told, "top 10%: precision") == [f"{each['top_10']['precision']:.1%}" for each in predictors]
    assert row(told, "92% precision: recall")[-1] == "out of reach"
    assert row(told, "base rate") == [f"{figures['base_rate']:.1%} ordered nothing"]
    assert "2,400 predictions of label days 2024-10-10 to 2024-12-08" in told
    assert "50% learner, 50% BG/NBD" in told


def test_reliability_tiers_holdout_and_lead_time_are_shown(show, half_a_year):
    told = show(snapshot(measures=half_a_year))
    figures = half_a_year.report()
    for predicted, came, share in figures["reliability"]:
        assert re.search(rf"^ +{predicted:.1%} +{came:.1%} +{share:.1%}  [.xo8]+$", told, re.MULTILINE)
    for tier, part in figures["tiers"].items():
        assert row(told, f"{tier} ")[:2] == [f"{part['n']:,}", f"{part['base_rate']:.1%}"]
    assert row(told, "held out")[0] == f"{figures['holdout']['n']}"
    assert f"{figures['lead_days']['median']} days (median)" in told
    assert "no alarm" in told


def test_drift_is_told_with_its_day(show):
    measures = measured(days_of(60, 100))
    for i in range(60, 100):
        bare = [Outcome(1, 1.0, (0.3, None, 0.3, 0.3), "new", False, None)] * 50
        measures.take(FIRST_DAY + i, bare)
    told = show(snapshot(measures=measures))
    alarms = re.findall(r"(20\d\d-\d\d-\d\d)  (.+) went (up|down) *$", told, re.MULTILINE)
    assert {alarm[1:] for alarm in alarms} == {("base rate", "up"), ("mean prediction less base rate", "down")}
    assert [day for day, *_ in alarms] == sorted(day for day, *_ in alarms)
    assert alarms[0][0] > "2024-12-08", "the last day before it moved"


def test_the_newest_snapshot_of_each_horizon_counts(show):
    told = show(
        snapshot(9, 60),
        snapshot(10, 30),
        {"kind": "measures", "version": 11, "horizon_days": 30, "sums": {}},
        snapshot(9, 30),
        snapshot(2, 60),
    )
    assert re.findall(r"^(?:horizon|snapshot) +(\d+ days|version \d+)", told, re.MULTILINE) == [
        "30 days",
        "version 10",
        "60 days",
        "version 9",
    ]


def test_before_anything_is_measured_that_is_said(show):
    told = show(snapshot(learner_share=0.0, learned=0))
    assert "BG/NBD alone predicts" in told
    assert "nothing yet: the first predictions wait for what comes of them" in told
    measures = measured({FIRST_DAY: [Outcome(1, 1.0, None, "new", False, None)]})
    assert "beside 1 label of days before the first prediction" in show(snapshot(measures=measures))
    assert "no snapshot yet" in show()


def test_few_customers_of_one_kind_are_shown_too(show):
    measures = measured({FIRST_DAY: [Outcome(1, 1.0, (0.9, None, 0.8, 0.7), "new", False, None)]})
    told = show(snapshot(measures=measures, learner_share=1))
    assert row(told, "AUC  ") == ["-", "-", "-"]
    assert "the learner alone predicts" in told
    assert "not yet: too few predictions" in told
    assert "not known: told of the horizon that is acted on alone" in told


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b"{", "churn-model.jsonl:1: is no JSON"),
        (b"[]", "churn-model.jsonl:1: allowed are lines with a value"),
        (b'{"value": {}}', "kind is missing"),
        (b'{"value": {"kind": "snapshot"}}', "a snapshot without alert_above"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, record, said):
    path = tmp_path / "churn-model.jsonl"
    path.write_bytes(record)
    result = CliRunner().invoke(app, ["model", "--file", str(path)])
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", "")


def test_snapshots_are_read_from_the_broker(embedded, monkeypatch, half_a_year):
    monkeypatch.setenv("RECALL_BROKER", embedded.address)
    embedded.create_topic(MODEL, 1)
    assert "no snapshot yet" in CliRunner().invoke(app, ["model"]).stdout
    producer = Producer({"bootstrap.servers": embedded.address, "log_level": 2})
    for record in (snapshot(1), snapshot(2, measures=half_a_year)):
        producer.produce(MODEL, orjson.dumps(record), f"30/{record['version']}", partition=0)
    producer.produce(MODEL, None, "30/1", partition=0)
    assert producer.flush(10) == 0
    told = CliRunner().invoke(app, ["model"]).stdout
    assert "version 2," in told
    assert "2,400 predictions" in told


# -- after a replay ----------------------------------------------------------------------------------------------------


def test_a_replay_tells_ranking_and_loss_by_horizon(half_a_year, capsys):
    tally = Tally()
    for record in (
        {"kind": "measures", "version": 1, "horizon_days": 30, "sums": {}},
        snapshot(1),
        snapshot(2, measures=half_a_year),
        snapshot(1, 60),
    ):
        tally.take(MODEL, orjson.dumps(record))
    rows = dict(zip(*(column.cells for column in outcome(tally, {}).columns), strict=True))
    assert rows["model"] == "3 snapshots"
    assert rows["  30 days"] == "4,321 labels learned, 2,400 predictions measured"
    assert rows["  60 days"] == "4,321 labels learned, 0 predictions measured"
    assert re.fullmatch(r"model 0\.\d+, BG/NBD 0\.\d+, recency 0\.\d+, constant 0\.\d+", rows["  AUC"])
    assert capsys.readouterr().out == ""


# -- gauges ------------------------------------------------------------------------------------------------------------


class Clocked(Partition):
    """A partition that has come to a time."""

    def __init__(self, clock):
        self._at = clock

    @property
    def clock(self):
        return self._at


def gauges(snapshots, clocks=()):
    lanes = [SimpleNamespace(work=Clocked(clock)) for clock in clocks]
    return samples_of(ModelCollector(lambda: snapshots, lanes, Days("UTC")))


def samples_of(collector):
    """Return samples by name and labels, as Prometheus gets them."""
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_gauges_tell_the_figures_of_the_newest_snapshots(half_a_year):
    told = half_a_year.report()
    day = dt.date(2025, 2, 11)
    known = SimpleNamespace(horizon_days=30, created_label_day=day, metrics=told)
    fresh = SimpleNamespace(horizon_days=60, created_label_day=day, metrics=Measures().report())
    clocks = [(Days.number(day) + 9) * DAY_MS, (Days.number(day) + 8) * DAY_MS]
    samples = gauges([known, fresh], clocks)
    assert samples["recall_model_snapshot_age_days", "30"] == samples["recall_model_snapshot_age_days", "60"] == 9
    assert samples["recall_model_predictions", "30"] == 2400
    for predictor, figures in told["predictors"].items():
        for name in ("auc", "auc_within_week", "pr_auc", "log_loss", "brier", "ece", "accuracy"):
            assert samples[f"recall_model_{name}", "30", predictor] == figures[name]
        assert samples["recall_model_top_precision", "30", predictor, "0.01"] == figures["top_1"]["precision"]
    assert samples["recall_model_recall_at_92", "30", "constant"] == 0, "out of reach"
    assert samples["recall_model_lead_days", "30", "0.5"] == told["lead_days"]["median"]
    assert samples["recall_model_drift_alarms", "30", "calibration"] == 0
    assert ("recall_model_predictions", "60") not in samples


def test_gauges_have_the_labels_that_are_documented(half_a_year):
    registry = CollectorRegistry()
    known = SimpleNamespace(horizon_days=30, created_label_day=dt.date(2025, 2, 11), metrics=half_a_year.report())
    registry.register(ModelCollector(lambda: [known], [SimpleNamespace(work=Clocked(0))], Days("UTC")))
    exported = {
        family.name: set().union(*(sample.labels for sample in family.samples))
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }
    rows = re.findall(r"^\| `(recall_model_\w+)` \| gauge \|([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    del documented["recall_model_version"]
    assert exported == documented


def test_without_a_snapshot_or_a_partition_there_are_no_samples(half_a_year):
    assert gauges([]) == {}
    known = SimpleNamespace(horizon_days=30, created_label_day=dt.date(2025, 2, 11), metrics=half_a_year.report())
    assert ("recall_model_snapshot_age_days", "30") not in gauges([known])


def test_what_the_trainers_left_out_is_told_by_horizon_and_reason():
    trainers = [Trainer(horizon_days=horizon_days, partitions=2, days=Days("UTC")) for horizon_days in (30, 60)]
    lanes = [SimpleNamespace(work=None), SimpleNamespace(work=Clocked(0)), SimpleNamespace(work=TrainerWork(trainers))]
    closed = orjson.dumps({"kind": "day_closed", "day": "2025-02-11", "partition": 0, "partitions": 4})
    for offset, value in enumerate((b"no JSON", closed, closed)):
        trainers[1].take(offset, value)
    samples = samples_of(TrainingCollector(lanes))
    assert samples.keys() == {("recall_training_left_out_total", h, reason) for h in ("30", "60") for reason in REASONS}
    told = {name[1:]: n for name, n in samples.items() if n}
    assert told == {("60", "malformed"): 1, ("60", "partitions"): 2}
    assert samples_of(TrainingCollector(lanes[:2])) == {}, "no trainer in this process"


def test_what_became_of_snapshots_and_examples_is_told_by_partition():
    shop = SmallShop(models={(30, 7): scorer(), (30, 8): None})
    for at, version, horizon_days in (("2025-01-02", 7, 30), ("2025-01-03", 8, 30), ("2025-01-04", 9, 90)):
        shop.steers("adopt_snapshot", effective_at=at, horizon_days=horizon_days, version=version)
    shop.tick("2025-01-05")
    samples = samples_of(CustomersCollector([SimpleNamespace(number=3, work=shop.partition)]))
    told = {event: n for (name, event, *_), n in samples.items() if name == "recall_model_events_total"}
    assert told == {
        "adopted snapshot": 1,
        "refused snapshot": 1,
        "snapshot of another horizon": 1,
        "example lost": 0,
        "history unknown": 0,
    }
    assert samples["recall_model_version", "30", "3"] == 7


def test_reasons_and_events_are_those_that_are_documented():
    """Each by name, in the row of its metric."""
    rows = dict(re.findall(r"^\| `(recall_(?:training|model)_\w+_total)` (\|.*)$", DOCUMENT.read_text(), re.MULTILINE))
    shop = samples_of(CustomersCollector([SimpleNamespace(number=3, work=SmallShop().partition)]))
    events = {event for name, event, *_ in shop if name == "recall_model_events_total"}
    for metric, names in (("recall_training_left_out_total", REASONS), ("recall_model_events_total", events)):
        assert {name for name in names if f"`{name}`" not in rows[metric]} == set()
