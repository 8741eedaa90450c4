"""Drift alarms: what moves and stays is told, what wanders is not, and a report has those of its half year."""

import random

import pytest

from worker.recall.risk.drift import LABELS_MIN, Alarm, Day, alarms
from worker.recall.risk.metrics import Measures, Outcome

STEADY = {"base_rate": 0.5, "mean": 0.5, "log_loss": 0.6, "constant_log_loss": 0.69}
NOISE = {"base_rate": 0.035, "mean": 0.005, "log_loss": 0.03, "constant_log_loss": 0.01}


def days(*spans, n=200, seed=3):
    """Spans of (days, what is other than steady), one after the other."""
    draw = random.Random(seed)
    day = 20_000
    for length, other in spans:
        for _ in range(length):
            figures = STEADY | other
            yield Day(day, n, **{name: draw.gauss(figures[name], NOISE[name]) for name in NOISE})
            day += 1


@pytest.mark.parametrize("seed", range(5))
def test_a_steady_year_gives_no_alarm(seed):
    assert alarms(days((392, {}), seed=seed)) == []


@pytest.mark.parametrize(
    ("moved", "alarm"),
    [
        ({"base_rate": 0.65, "mean": 0.65}, ("base rate", "up")),
        ({"base_rate": 0.35, "mean": 0.35}, ("base rate", "down")),
        ({"mean": 0.65}, ("calibration", "up")),
        ({"mean": 0.35}, ("calibration", "down")),
        ({"log_loss": 0.75}, ("log loss", "up")),
        ({"log_loss": 0.45}, ("log loss", "down")),
    ],
)
def test_what_moves_and_stays_is_told_within_four_weeks(moved, alarm):
    found = alarms(days((200, {}), (60, moved)))
    assert [(signal, direction) for signal, _, direction in found] == [alarm]
    assert 20_200 < found[0].label_day < 20_228


def test_a_model_that_is_no_worse_than_the_constant_was_is_no_alarm():
    assert alarms(days((200, {}), (60, {"log_loss": 0.5, "constant_log_loss": 0.59}))) == []


def test_days_of_few_labels_are_passed_over():
    assert alarms(days((100, {}), (60, {"mean": 0.9}), n=LABELS_MIN - 1)) == []


def test_alarms_come_by_day():
    found = alarms(days((100, {}), (60, {"mean": 0.8}), (60, {"mean": 0.8, "log_loss": 0.9})))
    assert [alarm.label_day for alarm in found] == sorted(alarm.label_day for alarm in found)
    assert {alarm.signal for alarm in found} == {"calibration", "log loss"}
    assert all(isinstance(alarm, Alarm) for alarm in found)


def test_a_report_has_the_alarms_of_its_half_year():
    draw = random.Random(8)
    measures = Measures()
    for i in range(130):
        truth = 0.3 if i < 90 else 0.7
        measures.take(
            20_020 + i,
            [Outcome(int(draw.random() < truth), 1.0, (0.3, None, 0.3, 0.3), "new", False, None) for _ in range(100)],
        )
        if i == 89:
            assert measures.report()["drift"] == []
    told = {(alarm["signal"], alarm["direction"]) for alarm in measures.report()["drift"]}
    assert told == {("base rate", "up"), ("calibration", "down")}
    for i in range(130, 330):
        measures.take(20_020 + i, [Outcome(draw.randrange(10) < 7, 1.0, (0.7,) * 4, "new", False, None)] * 30)
    assert all(alarm["label_day"] >= measures.report()["since"] for alarm in measures.report()["drift"])
