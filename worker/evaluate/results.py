"""The result of one task: all that is measured, as plain JSON values."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from worker.evaluate import ablation, alerts, peers, product
from worker.evaluate.figures import Ranked, compare, resamples
from worker.recall.days import Days

if TYPE_CHECKING:
    from worker.evaluate.examples import Examples
    from worker.evaluate.figures import Floats, Interval, Ints, Report
    from worker.evaluate.logs import Task
    from worker.evaluate.product import Learner

MODEL: Final = "Recall"
PEER: Final = "LightGBM"
CONSTANT: Final = "constant"
ECE_MAX: Final = 0.03
"""Calibrated well enough."""
MATCHED: Final = 0.002
"""A figure that is not worse than the reference's by more is matched."""
_PACKAGES: Final = ("lightgbm", "numpy", "river", "scikit-learn", "scipy")
_DIGITS: Final = 4
_POINTS: Final = np.linspace(0, 1, 51)
"""Of the curves."""


def evaluate(task: Task, examples: Examples, *, timezone: str, learner: Learner, draws: int) -> dict[str, Any]:
    """Predict, measure and compare; the same examples give the same result."""
    examples = examples.due_within(task.horizon_days)
    predicted = _predict(task, examples, learner, timezone)
    counted = examples.t >= task.evaluated_from
    for p in predicted.values():
        counted &= np.isfinite(p)
    here = np.flatnonzero(counted)
    if not len(here):
        raise ValueError(f"{task.name}: there is no week from day {task.evaluated_from} on that all models predict")
    y, t, weights = examples.labels(task.horizon_days)[here], examples.t[here], resamples(examples.user[here], draws)
    reports = compare({name: p[here] for name, p in predicted.items()}, y, t, weights, PEER)
    return {
        "task": task.name,
        "title": task.title,
        "horizon_days": task.horizon_days,
        "target": task.target,
        "learner": learner,
        "resamples": draws,
        "versions": {package: version(package) for package in _PACKAGES},
        "examples": len(here),
        "examples_expected": task.examples,
        "users": len(np.unique(examples.user[here])),
        "weeks": len(np.unique(t)),
        "base_rate": _rounded(float(y.mean())),
        "models": {
            name: {
                **_report(reports[name]),
                **_curves(Ranked(y, p[here], t), examples, t),
                **(_alerts(p, examples, task, here) if name != CONSTANT else {}),
            }
            for name, p in predicted.items()
        },
        "targets": _targets(task, reports[MODEL], len(here)),
        "ablation": _ablation(task, examples, here, weights) if task.ablated else None,
    }


def _predict(task: Task, examples: Examples, learner: Learner, timezone: str) -> dict[str, Floats]:
    x = peers.plain(examples)
    batch: dict[str, tuple[peers.Peer, Floats]] = {
        PEER: (peers.LightGbm(), x),
        "batch LR": (peers.BatchLogistic(), x),
        "recency": (peers.Recency(), peers.days_since(examples)),
        CONSTANT: (peers.Constant(), x),
    }
    own = product.predict(examples, task.horizon_days, learner, timezone)
    return {
        MODEL: own.model,
        "learner alone": own.learner,
        "BG/NBD": own.bgnbd,
        **{name: peers.predict(peer, seen, examples, task.horizon_days) for name, (peer, seen) in batch.items()},
    }


def _report(report: Report) -> dict[str, Any]:
    return {
        "figures": {
            name: {
                "value": _rounded(value),
                "interval": _interval(report.intervals[name]),
                **(
                    {"difference": _interval(report.differences[name]), "verdict": report.verdicts[name]}
                    if report.verdicts
                    else {}
                ),
            }
            for name, value in report.figures.items()
        }
    }


def _curves(ranked: Ranked, examples: Examples, t: Ints) -> dict[str, Any]:
    flagged, found = (np.append(0.0, each) for each in ranked.cumulated(np.ones(len(t))))
    missed = flagged - found
    recall, precision = found / found[-1], found[1:] / flagged[1:]
    operating = ranked.operating()
    weekly = []
    for week in np.unique(t):
        one = t == week
        if 0 < ranked.y[one].sum() < one.sum():
            figures = Ranked(ranked.y[one].astype(np.int64), ranked.p[one], t[one]).figures()
            weekly.append(
                {
                    "t": Days.date(examples.first_day + int(week)).isoformat(),
                    "lift": _rounded(figures["lift_top_10"]),
                    "auc": _rounded(figures["auc"]),
                }
            )
    return {
        "reliability": [
            {"predicted": _rounded(each["predicted"]), "came": _rounded(each["came"]), "n": each["n"]}
            for each in ranked.reliability()
        ],
        "roc": _line(np.interp(_POINTS, missed / missed[-1], recall)),
        # Below one per cent flagged, precision is luck: the curve begins there.
        "precision_by_recall": _line(np.interp(_POINTS, recall[1:], precision)),
        "least_recall_shown": _rounded(float(np.interp(0.01 * flagged[-1], flagged, recall))),
        "at_precision": {"recall": _rounded(operating.recall), "flagged": _rounded(operating.flagged)},
        "weekly": weekly,
    }


def _alerts(p: Floats, examples: Examples, task: Task, here: Ints) -> dict[str, Any]:
    ahead = alerts.in_advance(p, examples, task.horizon_days, here)
    lead = alerts.lead_time(p, examples, task.horizon_days, task.evaluated_from)
    return {
        "in_advance": {
            "precision": None if ahead.precision is None else _rounded(ahead.precision),
            "recall": _rounded(ahead.recall),
            "flagged": _rounded(ahead.flagged),
        },
        "lead_time": {"lapses": lead.lapses, "alerted": lead.alerted, "quartiles_days": lead.quartiles},
    }


def _targets(task: Task, report: Report, n: int) -> dict[str, Any]:
    """Say of each target what it is and whether it is met."""
    figures, verdicts = report.figures, report.verdicts
    compared = ("auc", "auc_within_week", "log_loss")
    told: dict[str, Any] = {
        f"never significantly worse than {PEER}": all(verdicts[name] != "worse" for name in compared),
        f"ECE at most {ECE_MAX}": figures["ece"] <= ECE_MAX,
    }
    if task.examples is not None:
        told[f"{task.examples:,} examples, as the protocol counts"] = n == task.examples
    if task.reference is not None:
        auc, log_loss, beats = task.reference
        told[f"AUC of the reference blend, {auc}, matched within {MATCHED}"] = figures["auc"] >= auc - MATCHED
        told[f"log loss of the reference blend, {log_loss}, matched within {MATCHED}"] = (
            figures["log_loss"] <= log_loss + MATCHED
        )
        if beats:
            told[f"significantly better than {PEER} on AUC and log loss"] = (
                verdicts["auc"] == verdicts["log_loss"] == "better"
            )
    return told


def _ablation(task: Task, examples: Examples, here: Ints, weights: list[Floats]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "features": one.features,
            **{
                figure: {
                    "value": _rounded(value),
                    **({"difference": _interval(one.differences[figure])} if one.differences else {}),
                }
                for figure, value in one.figures.items()
            },
        }
        for one in ablation.ablate(examples, task.horizon_days, here, weights)
    ]


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)


def _interval(interval: Interval) -> list[float]:
    return [_rounded(interval.low), _rounded(interval.high)]


def _line(values: Floats) -> list[float]:
    return [_rounded(float(value)) for value in values]
