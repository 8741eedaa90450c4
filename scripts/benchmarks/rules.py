"""What an event costs: the replay end to end, the rules alone, and where the time goes. JSON on standard output.

Each run is a process of its own; figures are CPU microseconds for each event on one core: median, minimum, maximum.
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

from worker import bootstrap, settings
from worker.replay import Fed, Replay
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources import history
from worker.stream.partition import Partition

EVENTS_A_USER_AND_DAY = 1.44
DAYS = 182
LIVE_FROM = "2025-04-20T00:00:00Z"
AIM_US = {"parse": 1, "row": 1.5, "step": 2.5, "weekly": 3.5, "deciding": 1}
"""What each stage aims at: decoding, row, step, weekly visits and decisions, amortised over the events."""


class Timed:
    """A processor whose methods are timed; what a timer costs itself is measured and taken off."""

    def __init__(self, processor, methods):
        self.processor = processor
        self.ns = defaultdict(int)
        self.calls = Counter()
        for name in methods:
            setattr(self, name, self._timed(name, getattr(processor, name)))

    def __getattr__(self, name):
        return getattr(self.processor, name)

    def _timed(self, name, method):
        clock, ns, calls = time.perf_counter_ns, self.ns, self.calls

        def timed(*args):
            begin = clock()
            result = method(*args)
            ns[name] += clock() - begin
            calls[name] += 1
            return result

        return timed

    def us(self, name, own_ns):
        """Return the time spent in a method, without what the clock costs."""
        return max(0.0, (self.ns[name] - self.calls[name] * own_ns) / 1000)


def config():
    return settings.load(currency=CURRENCY, timezone=TIMEZONE, partitions=1, live_from=LIVE_FROM)


def run_replay(path):
    """Return CPU µs an event of the replay, from Parquet to outputs, trainer included."""
    topics = history.topics([path])
    replay = Replay(config(), lambda _number, _output: None)
    begin = time.process_time()
    replay.run({topic: history.read([path], topic) for topic in topics})
    events = sum(topics.values())
    us = (time.process_time() - begin) / events * 1e6
    return {"us": us, "events_per_s": 1e6 / us, "events": events, "users": replay.counts["tier.new>potential"]}


def run_step(path):
    """Return CPU µs an event of partition and rules alone, over records in memory, by stage."""
    shop = config()
    methods = ("parse", "decode", "encode", "apply", "wake", "decide")
    customers = Timed(bootstrap.customers(shop, {}), methods)
    partition = Partition(bootstrap.layout(0), customers, {}, rows_max=8192, records_max=32768)
    offsets = Counter()
    chunks = []
    for chunk in history.read([path]):
        fed = defaultdict(list)
        for record in chunk:
            fed[record.topic].append(Fed(offsets[record.topic], record.recorded_at, record.key or None, record.value))
            offsets[record.topic] += 1
        chunks.append(fed)
    events = sum(offsets.values())
    rows = 0
    begin = time.process_time()
    for fed in chunks:
        for topic, records in fed.items():
            partition.feed(topic, records)
        while (unit := partition.advance()) is not None:
            rows += len(unit.rows)
    total = (time.process_time() - begin) * 1e6
    own_ns = clock_cost_ns()
    stages = {
        "parse": customers.us("parse", own_ns),
        "row": customers.us("decode", own_ns) + customers.us("encode", own_ns),
        "step": customers.us("apply", own_ns),
        "weekly": customers.us("wake", own_ns),
        "deciding": customers.us("decide", own_ns),
    }
    stages["partition"] = total - sum(stages.values()) - sum(customers.calls.values()) * own_ns * 2 / 1000
    sizes = sorted(len(row) for key, row in partition.rows.items() if key[:1] != b"\x00")
    return {
        "us": sum(stages.values()) / events,
        "events": events,
        "events_per_row": events / customers.calls["encode"],
        "row_bytes_median": sizes[len(sizes) // 2],
        "row_bytes_max": sizes[-1],
        **{f"us_{stage}": us / events for stage, us in stages.items()},
    }


def clock_cost_ns(rounds=200_000):
    clock = time.perf_counter_ns
    begin = clock()
    for _ in range(rounds):
        clock()
    return (clock() - begin) / rounds


RUNS = {"replay": run_replay, "step": run_step}


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
        bootstrap.calm_gc()
        print(json.dumps(RUNS[arguments.one](arguments.history)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.history
        if path is None:
            path = Path(scratch) / "history.parquet"
            users = round(arguments.events / EVENTS_A_USER_AND_DAY / DAYS)
            history.write(path, simulate(users=users, days=DAYS, seed=1))
        report = {"python": sys.version.split()[0], "runs": arguments.runs, "aim_us": AIM_US}
        for name in RUNS:
            command = [sys.executable, Path(__file__).parent, "rules", "--one", name, "--history", str(path)]
            runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(arguments.runs)]  # noqa: S603
            report[name] = summary([json.loads(run.stdout) for run in runs])
        print(json.dumps(report, indent=2))
