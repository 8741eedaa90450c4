"""What the churn model costs: scoring, and learning with each learner. JSON on standard output.

Customers are drawn: half of the features are counts that most have, the rest ones that few or nobody have, as in a shop
without those channels. CPU microseconds an example, one by one: `score` is what a visit pays for the probability alone,
`predictions` for that and the simpler rules beside it, `explain` for the contributions; `learn` is the learner's part
of an example, `predict` its own prediction, which only its tests ask for. `score_and_learn` is what an example costs in
all. Of the snapshot, the bytes of its JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from array import array
from itertools import repeat
from math import exp
from pathlib import Path
from random import Random

import orjson
from aggregate import spread
from learners import snapshot_of, thousandths

from worker.recall.lifetime.history import History, Rhythms
from worker.recall.risk.features import NAMES
from worker.recall.risk.model import RiverModel
from worker.recall.risk.scorer import Scorer
from worker.recall.risk.vectorised import VectorisedModel
from worker.stream.process import calm_gc

LEARNERS = {"river": RiverModel, "vectorised": VectorisedModel}
AIM_US = {"river": {"score_and_learn": 200}, "vectorised": {"score_and_learn": 40}, "score": 30}
RARE = (1.0, 0.7, 0.7, 0.3, 0.02, 0.0)
"""How many have a feature, by place."""


def customers(n):
    """Draw features, label and histories."""
    draw = Random(1)  # noqa: S311 - customers of nothing
    for _ in range(n):
        features = [
            round(draw.expovariate(1), 3) if draw.random() < RARE[i % len(RARE)] else 0.0 for i in range(len(NAMES))
        ]
        age = draw.randrange(1, 700)
        recency = draw.randrange(age)
        y = int(draw.random() < 1 / (1 + exp(features[1] - features[0])))
        orders = History(min(recency, draw.randrange(12)), recency, age)
        yield array("d", features), y, Rhythms(orders, History(min(recency, draw.randrange(90)), recency, age))


def us(calls, n):
    """Return the CPU time a call; `calls` makes them."""
    begin = time.process_time()
    for _ in calls:
        pass
    return (time.process_time() - begin) / n * 1e6


def measure(learner, n):
    drawn = list(customers(n))
    features = [x for x, _, _ in drawn]
    labels = [y for _, y, _ in drawn]
    seen = [thousandths(x) for x in features]
    histories = [history for *_, history in drawn]
    model = LEARNERS[learner]()
    learn = us(map(model.learn, features, labels, repeat(1.0)), n)
    model.settle(1, 0.0)
    predict = us(map(model.predict, features), n)
    snapshot = snapshot_of(model)
    scorer = Scorer(snapshot)
    score = us(map(scorer.score, seen, histories), n)
    return {
        "score": score,
        "predictions": us(map(scorer.predictions, seen, histories), n),
        "explain": us(map(scorer.contributions, seen, histories), n),
        "predict": predict,
        "learn": learn,
        "score_and_learn": score + learn,
        "to_scorer": us(map(Scorer, repeat(snapshot, 100)), 100),
        "snapshot_bytes": len(orjson.dumps(snapshot.model_dump(mode="json"))),
    }


def add_arguments(parser):
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", choices=LEARNERS, help=argparse.SUPPRESS)


def run(arguments):
    if arguments.one:
        calm_gc()
        print(json.dumps(measure(arguments.one, arguments.examples)))
        return
    report = {"python": sys.version.split()[0], "runs": arguments.runs, "features": len(NAMES), "aim_us": AIM_US}
    for name in LEARNERS:
        command = [sys.executable, Path(__file__).parent, "model", "--one", name]
        command += ["--examples", str(arguments.examples)]
        runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(arguments.runs)]  # noqa: S603
        report[name] = spread([json.loads(run.stdout) for run in runs])
    print(json.dumps(report, indent=2))
