"""What is learned depends on the set of records alone, and on nothing that a stop may lose."""

import datetime as dt
import itertools
import random

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.control import AdoptSnapshot, Control
from schemas.snapshots import Snapshot
from schemas.training import Training
from worker.recall.days import Days
from worker.recall.risk import labels
from worker.recall.risk.features import NAMES, SCHEMA_HASH
from worker.recall.risk.model import RiverModel, Scorer, SnapshotError
from worker.recall.risk.trainer import Trainer

DAYS = Days("Europe/Berlin")
HORIZON = 30
PARTITIONS = 3
FIRST_T = DAYS.number(dt.date(2025, 9, 10))  # the clocks go back 46 days later
PUBLISH_DAYS = 3
LABELS_MIN = 60


def trainer(snapshot=None, **changes):
    settings = {"publish_days": PUBLISH_DAYS, "labels_min": LABELS_MIN, "partitions": PARTITIONS} | changes
    return Trainer(horizon_days=HORIZON, days=DAYS, snapshot=snapshot, **settings)


def example(t, user, draw=None, /, **changes):
    draw = draw or random.Random(user)
    features = [round(draw.expovariate(1), 3) if i % 7 == 0 else 0.0 for i in range(len(NAMES))]
    record = {
        "kind": "example",
        "id": labels.example_id("salt", b"user-%d" % user, t),
        "t": DAYS.date(t),
        "label_day": DAYS.date(labels.label_day(t, HORIZON, DAYS)),
        "horizon_days": HORIZON,
        "y": int(draw.random() < (0.8 if features[0] > 0.7 else 0.3)),
        "weight": draw.choice((1.0, 1.0, 2.0, 0.0)),
        "holdout": False,
        "treated": False,
        "tier": "marginal",
        "features": features,
        "schema_hash": SCHEMA_HASH,
    }
    return orjson.dumps(record | changes)


def closed(label_day, partition, **changes):
    record = {"kind": "day_closed", "day": DAYS.date(label_day), "partition": partition, "partitions": PARTITIONS}
    return orjson.dumps(record | changes)


def lines(days=40, seed=1):
    """Return what each partition writes, by label day: examples in no order, then that the day is closed.

    The last partition has no customers, and some days no example; at the change of the clocks one label day has those
    of two days.
    """
    draw = random.Random(seed)
    first = labels.label_day(FIRST_T, HORIZON, DAYS)
    by_day = {first + day: [[] for _ in range(PARTITIONS)] for day in range(days)}
    user = 0
    for t in range(FIRST_T, FIRST_T + days):
        if t % 5 == 2:
            continue
        for _ in range(draw.randrange(4, 16)):
            user += 1
            where = by_day.get(labels.label_day(t, HORIZON, DAYS))
            if where is not None:
                where[draw.randrange(PARTITIONS - 1)].append(example(t, user, draw))
    return by_day


def woven(by_day, seed):
    """Weave the partitions' lines into one topic: each runs ahead of the others as it likes."""
    draw = random.Random(seed)
    queues = []
    for partition in range(PARTITIONS):
        queue = []
        for day, written in by_day.items():
            records = list(written[partition])
            records += draw.sample(records, len(records) // 4)
            draw.shuffle(records)
            queue += [*records, closed(day, partition)]
        queues.append(queue)
    topic = []
    while any(queues):
        queue = draw.choice([queue for queue in queues if queue])
        burst = draw.randrange(1, 60)
        topic += queue[:burst]
        del queue[:burst]
    return list(enumerate(topic))


def fed(learner, records):
    return [output for offset, value in records for output in learner.take(offset, value)]


def snapshots_of(outputs):
    return [Snapshot.model_validate_json(output.value) for output in outputs if output.topic == "churn-model"]


def without_offsets(outputs):
    snapshots = [orjson.loads(output.value) for output in outputs if output.topic == "churn-model"]
    return [orjson.dumps({**snapshot, "resume_offset": 0}) for snapshot in snapshots]


def test_weights_are_a_function_of_the_set():
    by_day = lines()
    whole = fed(trainer(), woven(by_day, 0))
    assert len(snapshots_of(whole)) >= 5
    for seed in range(1, 6):
        learner = trainer()
        assert without_offsets(fed(learner, woven(by_day, seed))) == without_offsets(whole)
        assert learner.counts["duplicate"] > 10
        assert set(learner.counts) == {"duplicate", "weight 0"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_stop_anywhere_changes_nothing(seed):
    records = woven(lines(), seed)
    whole = fed(trainer(), records)
    for snapshot in snapshots_of(whole):
        restarted = trainer(snapshot)
        assert restarted.resume_offset == snapshot.resume_offset
        later = fed(restarted, records[snapshot.resume_offset :])
        assert later == whole[snapshot.version * (1 + PARTITIONS) :]


def test_a_restart_that_reads_more_than_it_must_changes_nothing():
    records = woven(lines(), 3)
    whole = fed(trainer(), records)
    snapshot = snapshots_of(whole)[2]
    restarted = trainer(snapshot)
    assert fed(restarted, records) == whole[3 * (1 + PARTITIONS) :]
    assert restarted.counts["late"] > 0


def test_a_trainer_that_learned_all_reads_on_behind_it():
    records = woven(lines(days=6), 0)
    learner = trainer()
    fed(learner, records)
    assert learner.resume_offset == len(records)


def test_outputs_keep_the_contracts():
    outputs = fed(trainer(), woven(lines(), 0))
    assert [output.topic for output in outputs[: 1 + PARTITIONS]] == ["churn-model", *["control"] * PARTITIONS]
    for i in range(0, len(outputs), 1 + PARTITIONS):
        model, *adoptions = outputs[i : i + 1 + PARTITIONS]
        snapshot = Snapshot.model_validate_json(model.value)
        assert model.key == str(snapshot.version).encode()
        assert snapshot.version == i // (1 + PARTITIONS) + 1
        assert snapshot.learned >= LABELS_MIN
        assert len(model.value) < 20_000
        assert [(adoption.key, adoption.partition) for adoption in adoptions] == [(None, p) for p in range(PARTITIONS)]
        for adoption in adoptions:
            control = TypeAdapter(Control).validate_json(adoption.value)
            assert isinstance(control, AdoptSnapshot)
            assert control.version == snapshot.version
            comes = DAYS.start(DAYS.number(snapshot.created_label_day) + 2)
            assert control.effective_at.timestamp() * 1000 == comes


def test_publishes_every_few_label_days_from_the_first_with_enough_labels():
    made = [DAYS.number(snapshot.created_label_day) for snapshot in snapshots_of(fed(trainer(), woven(lines(), 0)))]
    assert all(later - earlier >= PUBLISH_DAYS for earlier, later in itertools.pairwise(made))
    assert not snapshots_of(fed(trainer(labels_min=10_000), woven(lines(), 0)))


def test_a_snapshot_is_small_whatever_the_weights():
    draw = random.Random(5)
    learner = trainer(labels_min=1, partitions=1)
    outputs = []
    for day in range(8):
        t = FIRST_T + day
        records = [
            example(t, user, weight=draw.random() * 10, features=[round(draw.gauss(5, 4), 3) for _ in NAMES])
            for user in range(150)
        ]
        records.append(closed(labels.label_day(t, HORIZON, DAYS), 0, partitions=1))
        outputs += fed(learner, enumerate(records))
    assert learner.report()["n"] == 7 * 150
    assert max(len(output.value) for output in outputs) < 20_000


def test_nothing_is_learned_before_all_partitions_closed_the_day():
    day = labels.label_day(FIRST_T, HORIZON, DAYS)
    learner = trainer(labels_min=1)
    for user in range(5):
        assert learner.take(user, example(FIRST_T, user, weight=1.0)) == []
    assert learner.take(5, closed(day, 0)) == []
    assert learner.take(6, closed(day + 3, 1)) == []
    assert learner.take(7, closed(day - 1, 2)) == []
    assert learner.resume_offset == 0
    (snapshot,) = snapshots_of(learner.take(8, closed(day, 2)))
    assert (snapshot.learned, snapshot.resume_offset) == (5, 6)


def test_late_examples_are_counted_and_left_out():
    records = woven(lines(), 0)
    whole = fed(trainer(), records)
    late = trainer()
    outputs = []
    for offset, value in records:
        outputs += late.take(offset, value)
        if outputs:
            late.take(offset, example(FIRST_T, 100_000, weight=1.0))
    assert late.counts["late"] > 0
    assert without_offsets(outputs) == without_offsets(whole)


def test_of_two_that_differ_under_one_id_the_order_does_not_choose():
    day = labels.label_day(FIRST_T, HORIZON, DAYS)
    pair = [example(FIRST_T, 1, y=y, weight=1.0) for y in (0, 1)]
    told = []
    for records in (pair, pair[::-1]):
        outputs = fed(trainer(labels_min=1, partitions=1), enumerate([*records, closed(day, 0, partitions=1)]))
        told.append(without_offsets(outputs))
    assert told[0] == told[1]


def test_figures_are_of_predictions_made_before_the_day_was_learned():
    learner = trainer(partitions=1, labels_min=20)
    model = RiverModel()
    draw = random.Random(9)
    squares = []
    for day in range(5):
        t = FIRST_T + day
        records = sorted(
            (example(t, user, draw, weight=1.0) for user in range(20)), key=lambda raw: orjson.loads(raw)["id"]
        )
        told = [orjson.loads(raw) for raw in records]
        if day:
            squares += [(model.predict(one["features"]) - one["y"]) ** 2 for one in told]
        for one in told:
            model.learn(one["features"], one["y"], 1.0)
        fed(learner, enumerate([*records, closed(labels.label_day(t, HORIZON, DAYS), 0, partitions=1)]))
    report = learner.report()
    assert report["n"] == 80
    assert report["brier"] == pytest.approx(sum(squares) / 80, abs=1e-6)
    assert report["constant_brier"] > report["brier"] - 0.1


GOOD = orjson.loads(example(FIRST_T, 1))
BAD = [
    (b"", "malformed"),
    (b"\xff", "malformed"),
    (b"[" * 100_000, "malformed"),
    (b'{"kind":"other"}', "malformed"),
    (example(FIRST_T, 1, y=2), "malformed"),
    (example(FIRST_T, 1, weight=-1.0), "malformed"),
    (example(FIRST_T, 1, id="user-1"), "malformed"),
    (example(FIRST_T, 1, user_id="user-1"), "malformed"),
    (example(FIRST_T, 1, features=None), "malformed"),
    (example(FIRST_T, 1, features=["a"]), "malformed"),
    (example(FIRST_T, 1, t="today"), "malformed"),
    (example(FIRST_T, 1).replace(b'"features":[', b'"features":[1e999,'), "malformed"),
    (closed(FIRST_T, -1), "malformed"),
    (example(FIRST_T, 1, schema_hash="0123456789abcdef"), "schema"),
    (example(FIRST_T, 1, features=[0.0]), "schema"),
    (example(FIRST_T, 1, horizon_days=31), "horizon"),
    (example(FIRST_T, 1, label_day="2025-12-01"), "label day"),
    (example(FIRST_T, 1, t="0001-01-01", label_day="0001-02-01"), "late"),
    (example(FIRST_T, 1, t="9999-12-20", label_day="9999-12-31"), "label day"),
    (example(FIRST_T, 1, weight=0.0), "weight 0"),
    (closed(FIRST_T, 3), "partitions"),
    (closed(FIRST_T, 0, partitions=4), "partitions"),
]


@pytest.mark.parametrize(("value", "reason"), BAD, ids=range(len(BAD)))
def test_what_does_not_fit_is_counted_and_changes_nothing(value, reason):
    learner = trainer()
    assert learner.take(41, value) == []
    assert learner.counts == {reason: 1}
    assert learner.resume_offset == 42


@pytest.mark.parametrize(("value", "reason"), BAD, ids=range(len(BAD)))
def test_what_is_malformed_is_what_the_contract_refuses(value, reason):
    contract = TypeAdapter(Training)
    if reason == "malformed":
        with pytest.raises(ValidationError):
            contract.validate_json(value)
    else:
        contract.validate_json(value)


def test_a_snapshot_of_another_schema_or_horizon_is_refused():
    snapshot = snapshots_of(fed(trainer(), woven(lines(), 0)))[0]
    for changes, said in (
        ({"schema_hash": "0123456789abcdef"}, "schema_hash = 0123456789abcdef: allowed is " + SCHEMA_HASH),
        ({"horizon_days": 60}, "horizon_days = 60: allowed is 30"),
    ):
        with pytest.raises(SnapshotError, match=said):
            trainer(snapshot.model_copy(update=changes))
    with pytest.raises(ValueError, match="metrics: "):
        trainer(snapshot.model_copy(update={"metrics": {}}))


def test_workers_score_with_what_is_published():
    outputs = fed(trainer(), woven(lines(), 0))
    snapshot = snapshots_of(outputs)[-1]
    scorer, model = Scorer(snapshot), RiverModel.from_json(snapshot.model)
    assert scorer.score(GOOD["features"]) == pytest.approx(model.predict(GOOD["features"]), abs=1e-6)
    assert (scorer.version, scorer.horizon_days) == (snapshot.version, HORIZON)
