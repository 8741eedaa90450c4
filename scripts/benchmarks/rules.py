"""What an event costs: the replay end to end, the rules alone, and where the time goes. JSON on standard output.

Each run is a process of its own; figures are CPU microseconds for each event on one core: median, minimum, maximum.

The mix is about 16 events a user and weekly visit, and about 3 events a row and unit of work, timers included; what
they really were is part of the output. The simulated shop is calmer than that: five of its customers are three users
here. A model is in force, so that visits score. `whole` is measured without timers in it; `rules` and its stages are,
less what the timers cost, and `stream` is the rest: `whole` less `rules`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

from learners import snapshot_of

from schemas.topics import CONTROL
from schemas.values import rfc3339
from worker import bootstrap, settings
from worker.recall.risk.features import NAMES
from worker.recall.risk.model import RiverModel
from worker.recall.risk.scorer import Scorer
from worker.replay import Fed, Replay
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources import history
from worker.stream.partition import Partition
from worker.stream.process import calm_gc
from worker.stream.processor import Attach

EVENTS_A_CUSTOMER_AND_DAY = 1.27
DAYS = 182
LIVE_FROM = "2025-04-20T00:00:00Z"
AIM_US = {"parse": 1, "row": 1.5, "step": 2.5, "weekly": 3.5, "deciding": 1}
"""What each stage aims at: decoding, row, step, weekly visits and decisions, amortised over the events."""
STAGES = {"parse": "parse", "decode": "row", "encode": "row", "apply": "step", "wake": "weekly", "decide": "deciding"}
"""The stage that each method of the processor belongs to."""


class Timed:
    """A processor whose methods are timed by the thread's CPU clock, which does not count what other processes take."""

    def __init__(self, processor):
        self.processor = processor
        self.ns = Counter()
        self.calls = Counter()
        self.visits = 0
        self.visit_ns = 0
        for name in STAGES:
            setattr(self, name, self._timed(name, getattr(processor, name)))

    def __getattr__(self, name):
        return getattr(self.processor, name)

    def _timed(self, name, method):
        clock, ns, calls = time.thread_time_ns, self.ns, self.calls

        def timed(*args):
            begin = clock()
            result = method(*args)
            taken = clock() - begin
            ns[name] += taken
            calls[name] += 1
            if name == "wake" and any(type(effect) is Attach and effect.value is not None for effect in result):
                self.visits += 1
                self.visit_ns += taken
            return result

        return timed

    def us(self):
        """Return the time spent in each stage, without what the clock takes of it."""
        own_ns = self._own_ns()
        us = dict.fromkeys(AIM_US, 0.0)
        for name, stage in STAGES.items():
            us[stage] += (self.ns[name] - self.calls[name] * own_ns) / 1000
        return us

    def us_a_visit(self):
        """Return what a wake with a weekly visit takes; labels mostly come at wakes of their own."""
        return (self.visit_ns / self.visits - self._own_ns()) / 1000

    def _own_ns(self, rounds=200_000):
        """Return what a method that does nothing seems to take."""
        nothing = self._timed("nothing", lambda *_: None)
        for _ in range(rounds):
            nothing(None, None, None)
        return self.ns["nothing"] / rounds


def config():
    return settings.load(currency=CURRENCY, timezone=TIMEZONE, partitions=1, live_from=LIVE_FROM)


def shop(customers):
    """Yield the records of a simulated shop in which five customers are three users."""
    for record in simulate(users=customers, days=DAYS, seed=1):
        name, _, number = record.key.partition(b"-")
        if name == b"user":
            user = b"user-%d" % (int(number) * 3 // 5)
            value = record.value.replace(b'"userId":"%b"' % record.key, b'"userId":"%b"' % user)
            yield record._replace(key=user, value=value)
        else:
            yield record


def scorer():
    """Return a model that has learned something, since weights that are all zero might be cheaper."""
    learner, draw = RiverModel(), Random(1)  # noqa: S311 - a model of nothing
    for n in range(60):
        learner.learn([draw.random() * (1 + n % 2) for _ in NAMES], n % 2, 1.0)
    learner.settle(1, 0.0)
    return Scorer(snapshot_of(learner, version=1))


def run_replay(path):
    """Return CPU µs an event of the replay, from Parquet to outputs, trainer included."""
    topics = history.topics([path])
    replay = Replay(config(), lambda _number, _output: None)
    begin = time.process_time()
    replay.run({topic: history.read([path], topic) for topic in topics})
    events = sum(topics.values())
    us = (time.process_time() - begin) / events * 1e6
    return {"us": us, "events_per_s": 1e6 / us, "events": events, "users": replay.counts["tier.new>potential"]}


def run_whole(path):
    """Return CPU µs an event of partition and rules, over records in memory."""
    events, _, us = _through(path, bootstrap.customers(config(), {(30, 1): scorer()}))
    return {"us": us / events}


def run_rules(path):
    """Return CPU µs an event of the rules alone, by stage, and what the mix was."""
    customers = Timed(bootstrap.customers(config(), {(30, 1): scorer()}))
    events, partition, _ = _through(path, customers)
    stages = customers.us()
    sizes = sorted(len(row) for key, row in partition.rows.items() if key[:1] != b"\x00")
    return {
        "us": sum(stages.values()) / events,
        **{f"us_{stage}": us / events for stage, us in stages.items()},
        "us_a_visit": customers.us_a_visit(),
        "us_a_visit_and_its_labels": stages["weekly"] / customers.visits,
        "events": events,
        "events_per_row": events / customers.calls["encode"],
        "events_per_visit": events / customers.visits,
        "row_bytes_median": sizes[len(sizes) // 2],
        "row_bytes_max": sizes[-1],
    }


def _through(path, customers):
    """Put a history through a partition; return the number of events, the partition, and the CPU time in µs."""
    partition = Partition(bootstrap.layout(0, config()), customers, {}, rows_max=8192, records_max=32768)
    offsets = Counter()
    chunks = []
    for chunk in history.read([path]):
        fed = defaultdict(list)
        for record in chunk:
            fed[record.topic].append(Fed(offsets[record.topic], record.recorded_at, record.key or None, record.value))
            offsets[record.topic] += 1
        chunks.append(fed)
    first_at = min(records[0].timestamp for records in chunks[0].values())
    adoption = {"kind": "adopt_snapshot", "effective_at": rfc3339(first_at), "horizon_days": 30, "version": 1}
    partition.feed(CONTROL, [Fed(0, first_at, None, json.dumps(adoption).encode())])
    begin = time.process_time()
    for fed in chunks:
        for topic, records in fed.items():
            partition.feed(topic, records)
        while partition.advance() is not None:
            pass
    return sum(offsets.values()), partition, (time.process_time() - begin) * 1e6


RUNS = {"replay": run_replay, "whole": run_whole, "rules": run_rules}


def summary(results):
    """Return median, minimum and maximum of each figure."""
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
        for name in results[0]
        for values in [[result[name] for result in results]]
    }


def add_arguments(parser):
    parser.add_argument("--events", type=int, default=2_000_000, help="events of the simulated shop, about")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--history", type=Path, help="a history to use instead of a simulated one")
    parser.add_argument("--one", choices=RUNS, help=argparse.SUPPRESS)


def run(arguments):
    if arguments.one:
        calm_gc()
        print(json.dumps(RUNS[arguments.one](arguments.history)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.history
        if path is None:
            path = Path(scratch) / "history.parquet"
            history.write(path, shop(round(arguments.events / EVENTS_A_CUSTOMER_AND_DAY / DAYS)))
        results = defaultdict(list)
        for _ in range(arguments.runs):
            for name in RUNS:
                command = [sys.executable, Path(__file__).parent, "rules", "--one", name, "--history", str(path)]
                done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603
                results[name].append(json.loads(done.stdout))
        for whole, rules in zip(results["whole"], results["rules"], strict=True):
            whole["us_stream"] = whole["us"] - rules["us"]
        report = {"python": sys.version.split()[0], "runs": arguments.runs, "aim_us": AIM_US}
        print(json.dumps({**report, **{name: summary(results[name]) for name in RUNS}}, indent=2))
