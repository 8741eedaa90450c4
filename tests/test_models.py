"""What a worker has at hand of the model's topic, and where the trainers of several horizons go on from."""

import orjson
import pytest
from customers import snapshot
from structlog.testing import capture_logs

from worker import settings
from worker.app import _require_snapshots, _trainer
from worker.models import Models
from worker.recall.risk.features import SCHEMA_HASH
from worker.recall.risk.metrics import Measures
from worker.recall.shop import Shared
from worker.training import TrainerWork

OTHER_SCHEMA = "0123456789abcdef"


def read(*records):
    """Read the topic with these snapshots and sums on it."""
    models = Models()
    for offset, record in enumerate(records):
        if isinstance(record, tuple):
            models.take(*record, offset)
            continue
        part = f"measures/{record['version'] % 2}" if record["kind"] == "measures" else record["version"]
        models.take(f"{record['horizon_days']}/{part}".encode(), orjson.dumps(record), offset)
    return models


def model(version, **changes):
    return snapshot(version, **changes).model_dump(mode="json")


def sums(version, horizon_days=30):
    return {"kind": "measures", "version": version, "horizon_days": horizon_days, "sums": Measures().to_json()}


def config(**changes):
    return settings.load(horizons_days="30,60", **changes)


def test_every_version_of_every_horizon_is_at_hand_and_the_last_sums():
    models = read(sums(1), model(1), sums(1, 60), model(1, horizon_days=60), sums(2), model(2))
    assert set(models.scorers) == {(30, 1), (60, 1), (30, 2)}
    assert {horizon: last.version for horizon, last in models.latest.items()} == {30: 2, 60: 1}
    assert models.measures(models.latest[30]).version == 2


def test_a_snapshot_learned_on_other_features_is_refused_and_the_last_good_one_goes_on():
    with capture_logs() as logs:
        models = read(model(1), model(2, schema_hash=OTHER_SCHEMA))
    assert models.scorers[30, 1] is not None
    assert models.scorers[30, 2] is None
    (told,) = logs
    assert told["event"] == "snapshot is refused: the last good one goes on"
    assert f"snapshot 2: schema_hash = {OTHER_SCHEMA}: allowed is {SCHEMA_HASH}" in told["reason"]
    _require_snapshots(config(), models, 0, Shared(snapshots={30: 2}))


def test_a_snapshot_in_force_that_is_gone_stops_the_start():
    models = read(model(1), (b"30/2", b"{}"))
    for version in (2, 3):
        with pytest.raises(ValueError, match=f"snapshot 30/{version} of the model is in force and cannot be read"):
            _require_snapshots(config(), models, 0, Shared(snapshots={30: version}))
    _require_snapshots(config(), models, 0, Shared(snapshots={30: 1, 90: 5}))


def test_a_trainer_goes_on_from_the_last_snapshot_and_gives_no_version_twice():
    models = read(sums(1), model(1, resume_offset=40), (b"30/2", b"{}"))
    with capture_logs() as logs:
        trainer = _trainer(config(), models, 30)
    assert (trainer.version, trainer.resume_offset, logs) == (2, 40, [])


def test_a_trainer_under_other_features_begins_anew_and_says_so():
    models = read(sums(6), model(6, schema_hash=OTHER_SCHEMA))
    with capture_logs() as logs:
        trainer = _trainer(config(), models, 30)
    assert trainer.version == 6
    (told,) = logs
    assert told["reason"].startswith("the learner begins anew: snapshot 6: schema_hash = ")
    assert (told["log_level"], told["horizon_days"]) == ("warning", 30)


def test_the_topic_is_read_from_where_the_first_of_the_trainers_needs_it():
    models = read(sums(1), model(1, resume_offset=40), sums(1, 60), model(1, horizon_days=60, resume_offset=25))
    both = [_trainer(config(), models, horizon_days) for horizon_days in (30, 60)]
    assert TrainerWork(both).start_offset("churn-training") == 25
    added = [both[0], _trainer(config(), models, 90)]
    assert TrainerWork(added).start_offset("churn-training") is None, "from the beginning"
