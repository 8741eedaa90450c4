"""What is learned depends on the set of records alone, and on nothing that a stop may lose."""

import datetime as dt
import itertools
import random

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.control import AdoptSnapshot, Control
from schemas.snapshots import MeasuresRecord, Snapshot, read_model
from schemas.training import Training
from worker.recall.days import Days
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.risk import labels
from worker.recall.risk.baselines import Baselines
from worker.recall.risk.features import NAMES, SCHEMA_HASH
from worker.recall.risk.model import RiverModel
from worker.recall.risk.scorer import Scorer, SnapshotError
from worker.recall.risk.share import PRIOR, Share
from worker.recall.risk.trainer import LESSONS_AT_ONCE, REASONS, REFIT_DAYS, SUMMARIES_MIN, Trainer
from worker.replay import Fed
from worker.training import TrainerWork

DAYS = Days("Europe/Berlin")
HORIZON = 30
PARTITIONS = 3
FIRST_T = DAYS.number(dt.date(2025, 9, 10))  # the clocks go back 46 days later
PUBLISH_DAYS = 3
LABELS_MIN = 60
SAID = 2 + PARTITIONS
"""What goes out with a snapshot: its sums, itself, the adoptions."""


def trainer(snapshot=None, measures=None, **changes):
    settings = {
        "publish_days": PUBLISH_DAYS,
        "labels_min": LABELS_MIN,
        "partitions": PARTITIONS,
        "learner": "vectorised",
    }
    return Trainer(horizon_days=HORIZON, days=DAYS, snapshot=snapshot, measures=measures, **settings | changes)


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
        "history": history(draw),
        "active": history(draw),
        "predicted": predicted(draw) if draw.random() < 0.8 else None,
        "lead_days": draw.choice((None, None, 5, 12)),
    }
    return orjson.dumps(record | changes)


def history(draw):
    age = draw.randrange(1, 300)
    recency = draw.randrange(age)
    return {"repeats": draw.randrange(1, recency + 1) if recency else 0, "recency_days": recency, "age_days": age}


def predicted(draw):
    p = {name: round(draw.random(), 6) for name in ("model", "learner", "bgnbd", "recency", "constant")}
    return {"version": 1, **p} | draw.choice(({}, {}, {"bgnbd": None}, {"learner": None}))


def summary(t, user, draw=None, /, **changes):
    draw = draw or random.Random(user)
    values = {"r": draw.randrange(200), "f": draw.randrange(2, 30), "m": draw.randrange(-500, 90_000)}
    record = {
        "kind": "summary",
        "id": labels.example_id("salt", b"user-%d" % user, t),
        "t": DAYS.date(t),
        "history": history(draw),
        "active": history(draw),
        "orders": draw.randrange(1, 9),
        "mean_value": round(draw.uniform(500, 9000), 2),
        "rfm": values if draw.random() < 0.8 else None,
    }
    return orjson.dumps(record | changes)


def outcome(day, user, draw=None, /, **changes):
    draw = draw or random.Random(user)
    play, held_out = draw.choice(
        (("memory-email", False), ("care-letter", False), ("nothing", False), ("nothing", True))
    )
    record = {
        "kind": "outcome",
        "id": labels.example_id("salt", b"user-%d" % user, day),
        "day": DAYS.date(day),
        "segment": draw.choice(("drop/core/untouched", "drop/marginal/ignored", "silent/high/answered")),
        "play": play,
        "y": int(draw.random() < 0.2),
        "propensity": round(draw.uniform(0.05, 1), 6),
        "held_out": held_out,
    }
    return orjson.dumps(record | changes)


def closed(label_day, partition, **changes):
    record = {"kind": "day_closed", "day": DAYS.date(label_day), "partition": partition, "partitions": PARTITIONS}
    return orjson.dumps(record | changes)


def lines(days=40, seed=1):
    """Return what each partition writes, by day: in no order examples, summaries and outcomes, then that it is closed.

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
    for day in by_day:
        for user in range(draw.randrange(4, 14)):
            by_day[day][draw.randrange(PARTITIONS - 1)].append(summary(day, user, draw))
        for user in range(draw.randrange(6)):
            by_day[day][draw.randrange(PARTITIONS - 1)].append(outcome(day, user, draw))
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


def model_of(outputs):
    return [read_model(output.value) for output in outputs if output.topic == "churn-model"]


def snapshots_of(outputs):
    return [record for record in model_of(outputs) if isinstance(record, Snapshot)]


def published(outputs):
    """Return every snapshot with its sums."""
    records = model_of(outputs)
    pairs = list(zip(records[1::2], records[::2], strict=True))
    assert all(snapshot.version == sums.version for snapshot, sums in pairs)
    return pairs


def without_offsets(outputs):
    records = [orjson.loads(output.value) for output in outputs if output.topic == "churn-model"]
    return [orjson.dumps(record | {"resume_offset": 0}) for record in records]


def test_what_is_published_is_a_function_of_the_set():
    by_day = lines()
    whole = fed(trainer(), woven(by_day, 0))
    assert len(snapshots_of(whole)) >= 5
    assert len(snapshots_of(whole)[-1].choice_priors.segments) == 3
    for seed in range(1, 6):
        learner = trainer()
        assert without_offsets(fed(learner, woven(by_day, seed))) == without_offsets(whole)
        assert learner.counts["duplicate"] > 10
        assert set(learner.counts) == {"duplicate", "weight 0"}


def test_one_partition_publishes_what_many_do():
    by_day = lines()
    whole = fed(trainer(), woven(by_day, 0))
    records = []
    for day, written in by_day.items():
        records += [*itertools.chain(*written), closed(day, 0, partitions=1)]
    assert without_offsets(fed(trainer(partitions=1), enumerate(records))) == without_offsets(whole)


def test_days_that_close_together_are_learned_one_after_the_other():
    by_day = lines()
    whole = fed(trainer(), woven(by_day, 0))
    queues = [[record for day, of in by_day.items() for record in (*of[p], closed(day, p))] for p in range(PARTITIONS)]
    records = list(enumerate(itertools.chain(*queues)))
    learner = trainer()
    assert not fed(learner, records[: -len(by_day)]), "the last partition has closed nothing yet"
    assert without_offsets(fed(learner, records[-len(by_day) :])) == without_offsets(whole)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_stop_anywhere_changes_nothing(seed):
    records = woven(lines(days=70), seed)
    whole = fed(trainer(), records)
    assert {snapshot.lifetime.fitted_day for snapshot in snapshots_of(whole) if snapshot.lifetime} != set()
    for snapshot, sums in published(whole):
        restarted = trainer(snapshot, sums)
        assert restarted.notes == []
        assert restarted.resume_offset == snapshot.resume_offset
        later = fed(restarted, records[snapshot.resume_offset :])
        assert later == whole[snapshot.version * SAID :]


def test_a_restart_that_reads_more_than_it_must_changes_nothing():
    records = woven(lines(days=70), 3)
    whole = fed(trainer(), records)
    for snapshot, sums in published(whole)[::4]:
        restarted = trainer(snapshot, sums)
        assert fed(restarted, records) == whole[snapshot.version * SAID :]
        assert restarted.counts["late"] > 0


def test_a_trainer_that_learned_all_reads_on_behind_it():
    records = [pair for pair in woven(lines(days=6), 0) if b"summary" not in pair[1]]
    learner = trainer()
    fed(learner, records)
    assert learner.resume_offset == records[-1][0] + 1


def test_a_large_day_is_learned_in_parts_and_read_past_when_all_is_learned():
    """Between two parts the process tells the broker that it lives; the day counts as read with the last one."""
    label_day = labels.label_day(FIRST_T, HORIZON, DAYS)
    values = [example(FIRST_T, user, weight=1.0) for user in range(2 * LESSONS_AT_ONCE + 1)]
    values += [closed(label_day, partition) for partition in range(PARTITIONS)]
    records = [Fed(offset, 0, None, value) for offset, value in enumerate(values)]
    work = TrainerWork([trainer()])
    work.feed("churn-training", records)
    units = list(iter(work.advance, None))
    assert [unit.offsets["churn-training"] for unit in units] == [0, 0, 0, len(records)]
    assert [unit.records for unit in units] == [0, 0, 0, len(records)]
    outputs = [output for unit in units for output in unit.outputs]
    assert outputs == fed(trainer(), list(enumerate(values))) != []


def test_outputs_keep_the_contracts():
    outputs = fed(trainer(), woven(lines(), 0))
    assert [output.topic for output in outputs[:SAID]] == ["churn-model"] * 2 + ["control"] * PARTITIONS
    for i in range(0, len(outputs), SAID):
        sums, model, *adoptions = outputs[i : i + SAID]
        snapshot = read_model(model.value)
        assert snapshot.version == i // SAID + 1
        assert model.key == f"30/{snapshot.version}".encode()
        assert sums.key == f"30/measures/{snapshot.version % 2}".encode()
        told = read_model(sums.value)
        assert isinstance(told, MeasuresRecord)
        assert (told.version, told.horizon_days) == (snapshot.version, HORIZON)
        assert len(model.value) < 20_000
        Scorer(snapshot)
        assert [(adoption.key, adoption.partition) for adoption in adoptions] == [(None, p) for p in range(PARTITIONS)]
        for adoption in adoptions:
            control = TypeAdapter(Control).validate_json(adoption.value)
            assert isinstance(control, AdoptSnapshot)
            assert (control.horizon_days, control.version) == (HORIZON, snapshot.version)
            comes = DAYS.start(DAYS.number(snapshot.created_label_day) + 2)
            assert control.effective_at.timestamp() * 1000 == comes


def test_publishes_every_few_label_days_from_the_first_with_enough_labels():
    made = [DAYS.number(snapshot.created_label_day) for snapshot in snapshots_of(fed(trainer(), woven(lines(), 0)))]
    assert all(later - earlier >= PUBLISH_DAYS for earlier, later in itertools.pairwise(made))
    assert not snapshots_of(fed(trainer(labels_min=10_000), woven(lines(days=20), 0)))


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
        due = labels.label_day(t, HORIZON, DAYS)
        records += [summary(due, user) for user in range(300)]
        records.append(closed(due, 0, partitions=1))
        outputs += fed(learner, enumerate(records))
    last = snapshots_of(outputs)[-1]
    assert last.lifetime
    assert last.cut_points
    assert max(len(output.value) for output in outputs if not output.key or b"measures" not in output.key) < 20_000


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
            late.take(offset, summary(FIRST_T, 100_000))
            late.take(offset, outcome(FIRST_T, 100_000))
    assert late.counts["late"] > 0
    assert without_offsets(outputs) == without_offsets(whole)


@pytest.mark.parametrize("kind", ["example", "summary", "outcome"])
def test_of_two_that_differ_under_one_id_the_order_does_not_choose(kind):
    day = labels.label_day(FIRST_T, HORIZON, DAYS)
    if kind == "example":
        pair = [example(FIRST_T, 1, y=y, weight=1.0) for y in (0, 1)]
    elif kind == "outcome":
        pair = [outcome(day, 1, y=y) for y in (0, 1)]
    else:
        pair = [summary(day, 1, orders=orders, rfm=rfm) for orders, rfm in ((2, None), (9, {"r": 1, "f": 2, "m": 3}))]
    told = []
    for records in (pair, pair[::-1]):
        learner = trainer(labels_min=1, partitions=1)
        others = [summary(day, user) for user in range(2, SUMMARIES_MIN + 2)] if kind != "example" else []
        outputs = fed(learner, enumerate([*records, *others, closed(day, 0, partitions=1)]))
        assert learner.counts == {"duplicate": 1}
        told.append(without_offsets(outputs))
    assert told[0] == told[1] != []


# -- from nothing to a model -------------------------------------------------------------------------------------------


def closing(learner, day, records=()):
    """Let the only partition close a day with these records; return the snapshots."""
    learner.at = getattr(learner, "at", 0)
    outputs = []
    for record in (*records, closed(day, 0, partitions=1)):
        outputs += learner.take(learner.at, record)
        learner.at += 1
    return snapshots_of(outputs)


def test_first_there_is_nothing_then_histories_are_the_prior_then_the_learner_has_its_share():
    learner = trainer(partitions=1)
    first = labels.label_day(FIRST_T, HORIZON, DAYS)
    assert not closing(learner, first, [summary(first, user) for user in range(SUMMARIES_MIN - 1)])
    (prior,) = closing(learner, first + 1, [summary(first + 1, 1000), example(FIRST_T + 1, 1, weight=1.0)])
    assert (prior.learner_share, prior.learned, prior.lifetime.histories) == (0.0, 1, SUMMARIES_MIN)
    known = Scorer(prior)
    seen = [0] * len(NAMES)
    told = Rhythms(History(3, 40, 60), History(9, 55, 60))
    assert known.predictions(seen, told).model == pytest.approx(known.predictions(seen, told).bgnbd, abs=1e-6)
    assert not closing(learner, first + 2), "nothing has changed"
    many = [example(FIRST_T + 4, user, weight=1.0) for user in range(LABELS_MIN)]
    (blend,) = closing(learner, first + 4, many)
    assert (blend.learner_share, blend.learned) == (PRIOR, LABELS_MIN + 1)


def test_what_was_predicted_and_came_moves_the_learners_share():
    learner, day = trainer(partitions=1), labels.label_day(FIRST_T, HORIZON, DAYS)
    said = {"version": 1, "model": 0.5, "learner": 0.2, "bgnbd": 0.9, "recency": 0.5, "constant": 0.5}
    known = [example(FIRST_T, user, weight=2.0, y=0, predicted=said) for user in range(LABELS_MIN)]
    silent = [example(FIRST_T, user, weight=2.0, y=0, predicted=said | {"learner": None}) for user in range(99, 200)]
    fits = [summary(day, user) for user in range(SUMMARIES_MIN)]
    (snapshot,) = closing(learner, day, [*known, *silent, *fits])
    expected = Share()
    for _ in known:
        expected.observe(day, y=0, weight=2.0, learner=0.2, rhythm=0.9)
    assert snapshot.share == expected.to_json()
    assert snapshot.learner_share == expected.value(day) > PRIOR


def test_labels_without_histories_leave_the_learner_alone():
    learner = trainer(partitions=1)
    day = labels.label_day(FIRST_T, HORIZON, DAYS)
    (snapshot,) = closing(learner, day, [example(FIRST_T, user, weight=1.0) for user in range(LABELS_MIN)])
    assert (snapshot.learner_share, snapshot.lifetime) == (1.0, None)


def test_lifetimes_are_fitted_every_week_until_four_are_full_then_every_four_weeks():
    learner, first = trainer(partitions=1), FIRST_T
    fitted = {}
    for day in range(first, first + 100):
        for snapshot in closing(learner, day, [summary(day, 1000 * day + n) for n in range(20)]):
            fitted.setdefault(snapshot.lifetime.fitted_day, snapshot.lifetime.histories)
    assert [DAYS.number(day) - first for day in fitted] == [9, 16, 23, 30, 58, 86]
    assert list(fitted.values()) == [200, 20 * 17, 20 * 24, *[20 * REFIT_DAYS] * 3]
    assert learner.resume_offset == 21 * 87, "of the days before the last fit nothing is needed any more"


def test_a_stop_between_early_fits_changes_nothing():
    records = []
    for day in range(FIRST_T, FIRST_T + 45):
        records += [*(summary(day, 1000 * day + n) for n in range(20)), closed(day, 0, partitions=1)]
    whole = fed(trainer(partitions=1), enumerate(records))
    snapshots = published(whole)
    assert [DAYS.number(snapshot.lifetime.fitted_day) - FIRST_T for snapshot, _ in snapshots] == [9, 16, 23, 30]
    for snapshot, sums in snapshots:
        restarted = trainer(snapshot, sums, partitions=1)
        later = list(enumerate(records))[snapshot.resume_offset :]
        assert fed(restarted, later) == whole[snapshot.version * 3 :]


def test_a_snapshot_that_does_not_tell_where_summaries_began_is_fitted_anew_after_four_weeks():
    learner = trainer(partitions=1)
    (snapshot,) = closing(learner, FIRST_T, [summary(FIRST_T, user) for user in range(SUMMARIES_MIN)])
    restarted = trainer(snapshot.model_copy(update={"summaries_from": None}), partitions=1)
    fitted = set()
    for day in range(FIRST_T + 1, FIRST_T + REFIT_DAYS + 1):
        for found in closing(restarted, day, [summary(day, 1000 * day + n) for n in range(20)]):
            fitted.add(DAYS.number(found.lifetime.fitted_day) - FIRST_T)
    assert fitted == {REFIT_DAYS}


def test_a_fit_that_is_due_waits_until_enough_was_seen_in_four_weeks():
    learner = trainer(partitions=1)
    closing(learner, FIRST_T, [summary(FIRST_T, user) for user in range(SUMMARIES_MIN)])
    fitted = []
    for day in range(FIRST_T + 1, FIRST_T + 80):
        n = SUMMARIES_MIN // 2
        seen = [summary(day, 1000 * day + user) for user in range(n)] if day - FIRST_T in {2, 40, 66} else []
        fitted += [snapshot.lifetime.fitted_day for snapshot in closing(learner, day, seen)]
    assert [DAYS.number(day) - FIRST_T for day in fitted] == [7, 66], (
        "after a week with those of both days; then 100 at most"
    )


def test_quintiles_come_with_the_fit_where_they_part_the_population():
    def cut(values):
        learner = trainer(partitions=1)
        seen = [summary(FIRST_T, n, rfm=rfm) for n, rfm in enumerate(values)]
        (snapshot,) = closing(learner, FIRST_T, seen)
        return snapshot.cut_points

    found = cut({"r": 10 * n, "f": 2 + n, "m": 100 * n} for n in range(SUMMARIES_MIN))
    assert found.version == f"quintiles-{DAYS.date(FIRST_T)}"
    assert (found.recency_days, found.frequency) == ([400, 800, 1200, 1600], [41, 81, 121, 161])
    assert found.monetary == [3900, 7900, 11900, 15900]
    assert cut({"r": n, "f": 2, "m": 100 * n} for n in range(SUMMARIES_MIN)) is None
    few = [None, *({"r": 10 * n, "f": 2 + n, "m": 100 * n} for n in range(SUMMARIES_MIN - 1))]
    assert cut(few) is None


# -- beginning anew ----------------------------------------------------------------------------------------------------


def test_after_a_change_of_features_the_learner_begins_anew_and_the_rest_goes_on():
    snapshot, sums = published(fed(trainer(), woven(lines(), 0)))[-1]
    assert snapshot.lifetime
    other = snapshot.model_copy(update={"schema_hash": "0123456789abcdef"})
    restarted = trainer(other, sums, partitions=1)
    (note,) = restarted.notes
    said = f"the learner begins anew: snapshot {other.version}: schema_hash = 0123456789abcdef: allowed is "
    assert note.startswith(said + SCHEMA_HASH)
    (next_one,) = closing(restarted, DAYS.number(snapshot.created_label_day) + 1)
    assert (next_one.version, next_one.schema_hash) == (snapshot.version + 1, SCHEMA_HASH)
    assert (next_one.learned, next_one.model, next_one.learner_share) == (0, None, 0.0)
    assert next_one.share == Share().to_json() != snapshot.share
    assert (next_one.lifetime, next_one.baselines) == (snapshot.lifetime, snapshot.baselines)
    assert next_one.metrics == snapshot.metrics
    Scorer(next_one)


def test_what_cannot_be_read_begins_anew_and_is_said():
    snapshot, sums = published(fed(trainer(), woven(lines(), 0)))[-1]
    for changes, measures, said in (
        ({"model": {"kind": "forest"}}, sums, "the learner begins anew: "),
        ({"baselines": {"kind": "other"}}, sums, "the baselines begin anew: "),
        ({"share": {"losses": [1.0]}}, sums, "the learner's share begins anew: "),
        ({}, None, "the figures begin anew: "),
        ({}, sums.model_copy(update={"version": 1}), "the figures begin anew: "),
        ({"lifetime": snapshot.lifetime.model_copy(update={"p": 1.0, "q": None})}, sums, "lifetimes are fitted anew: "),
    ):
        restarted = trainer(snapshot.model_copy(update=changes), measures)
        assert restarted.version == snapshot.version
        (note,) = restarted.notes
        assert note.startswith(said)


def test_no_version_is_given_twice():
    learner = trainer(partitions=1, last_version=41)
    (snapshot,) = closing(learner, FIRST_T, [summary(FIRST_T, user) for user in range(SUMMARIES_MIN)])
    assert snapshot.version == 42


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
    (example(FIRST_T, 1, features=[1e300] * len(NAMES)), "malformed"),
    (example(FIRST_T, 1, history=None), "malformed"),
    (example(FIRST_T, 1, active=None), "malformed"),
    (example(FIRST_T, 1, history={"repeats": -1, "recency_days": 0, "age_days": 0}), "malformed"),
    (example(FIRST_T, 1, predicted={**predicted(random.Random(1)), "model": 1.1}), "malformed"),
    (example(FIRST_T, 1, lead_days=-1), "malformed"),
    (summary(FIRST_T, 1, orders=-1), "malformed"),
    (summary(FIRST_T, 1, orders=1.5), "malformed"),
    (summary(FIRST_T, 1, rfm={"r": 1, "f": 2, "m": 10**18}), "malformed"),
    (summary(FIRST_T, 1, mean_value=None), "malformed"),
    (summary(FIRST_T, 1, user_id="user-1"), "malformed"),
    (summary(FIRST_T, 1, t="0001-01-01"), "late"),
    (outcome(FIRST_T, 1, y=2), "malformed"),
    (outcome(FIRST_T, 1, propensity=0.0), "malformed"),
    (outcome(FIRST_T, 1, propensity=1.1), "malformed"),
    (outcome(FIRST_T, 1, segment=""), "malformed"),
    (outcome(FIRST_T, 1, user_id="user-1"), "malformed"),
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
    assert reason in REASONS
    assert learner.resume_offset == 42


@pytest.mark.parametrize(("value", "reason"), BAD, ids=range(len(BAD)))
def test_what_is_malformed_is_what_the_contract_refuses(value, reason):
    contract = TypeAdapter(Training)
    if reason == "malformed":
        with pytest.raises(ValidationError):
            contract.validate_json(value)
    else:
        contract.validate_json(value)


def test_a_snapshot_of_another_horizon_is_refused():
    snapshot = snapshots_of(fed(trainer(), woven(lines(), 0)))[0]
    with pytest.raises(SnapshotError, match="horizon_days = 60: allowed is 30"):
        trainer(snapshot.model_copy(update={"horizon_days": 60}))


def test_a_day_is_learned_in_the_order_of_the_ids():
    draw = random.Random(9)
    model, baselines = RiverModel(), Baselines()
    records = sorted(
        (example(FIRST_T, user, draw, weight=1.0) for user in range(80)), key=lambda raw: orjson.loads(raw)["id"]
    )
    for raw in records:
        one = orjson.loads(raw)
        model.learn(one["features"], one["y"], 1.0)
        baselines.learn(one["history"]["age_days"] - one["history"]["recency_days"], one["y"], 1.0)
    day = labels.label_day(FIRST_T, HORIZON, DAYS)
    model.settle(day, 0.0)
    learner = trainer(partitions=1, learner="river")
    (snapshot,) = closing(learner, day, draw.sample(records, len(records)))
    assert snapshot.model == model.to_json()
    assert snapshot.baselines == baselines.to_json()


def test_the_vectorised_learner_goes_on_from_what_rivers_has_learned():
    records = woven(lines(), 0)
    by_river = fed(trainer(learner="river"), records)
    snapshot, sums = published(by_river)[2]
    later = snapshots_of(fed(trainer(snapshot, sums), records[snapshot.resume_offset :]))
    expected = snapshots_of(by_river)[3:]
    assert len(later) == len(expected) > 1
    for one, other in zip(later, expected, strict=True):
        for name in ("weights", "average_weights"):
            assert one.model[name] == pytest.approx(other.model[name], rel=1e-9, abs=1e-12)
        assert one.lifetime == other.lifetime


# -- what came of choices ----------------------------------------------------------------------------------------------


def known_by(snapshot):
    return Scorer(snapshot).priors


def test_what_came_of_choices_is_in_the_next_snapshot_once_all_have_closed_the_day():
    day = labels.label_day(FIRST_T, HORIZON, DAYS)
    learner = trainer(labels_min=1)
    said = {"segment": "drop/core/untouched", "play": "memory-email"}
    records = [outcome(day, user, **said, y=int(user < 3), propensity=0.5) for user in range(10)]
    records += [outcome(day, 10, **said | {"play": "nothing"}, y=0, propensity=0.1, held_out=True)]
    records += [outcome(day + 1, 11, **said), example(FIRST_T, 1, weight=1.0)]
    outputs = fed(learner, enumerate([*records, closed(day, 0), closed(day, 1)]))
    assert outputs == []
    (snapshot,) = snapshots_of(learner.take(len(records) + 2, closed(day, 2)))
    known = known_by(snapshot)
    assert known.day == day
    assert known.cell("drop/core/untouched", "memory-email") == (20.0, 40.0, 6.0)
    assert known.cell("drop/core/untouched", "nothing") == (10.0, 100.0, 0.0)
    assert snapshot.resume_offset == 11, "the outcome of the next day is read again"


def test_what_came_of_choices_is_published_where_nothing_else_is_new():
    learner, day = trainer(partitions=1), labels.label_day(FIRST_T, HORIZON, DAYS)
    (prior,) = closing(learner, day, [summary(day, user) for user in range(SUMMARIES_MIN)])
    assert prior.choice_priors is None
    (snapshot,) = closing(learner, day + PUBLISH_DAYS, [outcome(day + PUBLISH_DAYS, 1)])
    assert known_by(snapshot).day == day + PUBLISH_DAYS


def test_one_trainer_alone_sums_up_what_came_of_choices():
    by_day = lines()
    records = woven(by_day, 0)
    other = fed(trainer(sums_choices=False), records)
    assert {snapshot.choice_priors for snapshot in snapshots_of(other)} == {None}
    without = [(offset, value) for offset, value in records if b"outcome" not in value]
    assert without_offsets(fed(trainer(), without)) == without_offsets(other)


def test_choices_change_no_figure():
    records = woven(lines(), 0)
    of_all = {snapshot.created_label_day: snapshot for snapshot in snapshots_of(fed(trainer(), records))}
    for snapshot in snapshots_of(fed(trainer(sums_choices=False), records)):
        told = of_all.get(snapshot.created_label_day)
        if told is not None:
            assert told.metrics == snapshot.metrics
            assert told.model == snapshot.model


def test_a_snapshot_is_small_whatever_came_of_choices():
    draw = random.Random(7)
    learner, day = trainer(partitions=1, labels_min=1), labels.label_day(FIRST_T, HORIZON, DAYS)
    plays = [f"a-play-with-a-long-name-{n:02}" for n in range(12)]
    records = [
        outcome(day, user, segment=f"silent/potential/untouched-{draw.randrange(64)}", play=draw.choice(plays))
        for user in range(5000)
    ]
    (snapshot,) = closing(learner, day, [*records, *(example(FIRST_T, user, weight=1.0) for user in range(150))])
    assert len(snapshot.choice_priors.segments) == 8
    assert len(snapshot.choice_priors.model_dump_json()) < 6000
