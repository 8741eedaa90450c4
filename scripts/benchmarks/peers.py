"""Our stream beside other engines: one job on one Apache Kafka, events a second, CPU and memory.

The same events (JSON, 270 bytes, 5,000 users, 4 partitions) are fed once and read by each peer from the beginning, in
turn, the order moving on by one a round. A peer's file under `peers/` says what the job is there, and what is durable.
Rates run from the first record consumed to the last result that a consumer that reads committed sees, and, where the
peer commits offsets, to their commit at the end of the topic; CPU likewise, so start-up is apart. A peer counts only if
the last result of each user is the truth. Stock Faust gets a tenth of the events. A restart, after all runs, takes from
the start of the process until a new event of each partition is answered out of the old state.

Last, the worker's full job on a simulated shop; there the start-up, some two seconds of CPU, is in the figures.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import engines
import shop
import table
from events import PARTITIONS, Truth, ask_again, feed
from kafka_server import Kafka, real_kafka
from running import Figures, Offsets, Running, Sink

EVENTS = 500_000
RUNS = 3
TIMEOUT_S = 300.0
WORKER = "worker"
"""The worker's full job, beside the engines: other events, other work."""
WORKER_SHARE = 0.4


class Bench:
    """The cluster, and the topics with the truth about each."""

    def __init__(self, kafka: Kafka, scratch: Path, commands: dict[str, list[str]]):
        self.kafka = kafka
        self.scratch = scratch
        self.commands = commands
        self.sources: dict[int, tuple[str, Truth]] = {}
        self._last: dict[str, tuple[str, Truth, str]] = {}
        self._numbers = itertools.count()

    def source(self, events):
        """Return the topic of so many events, and what must come of them; fed when it is first asked for."""
        if events not in self.sources:
            topic = f"events-{events}"
            self.kafka.create_topics({topic: PARTITIONS})
            self.sources[events] = topic, feed(self.kafka.bootstrap, topic, events)
        return self.sources[events]

    def run(self, engine, events):
        """Start an engine on topics of its own, and wait until it has done all events.

        Returns:
            Figures, or in words what went wrong.

        """
        events = round(events * engine.share)
        topic, truth = self.source(events)
        app_id = f"{engine.name}-{next(self._numbers)}"
        self.kafka.create_topics({f"{app_id}-results": PARTITIONS})
        if engine.topics:
            names = [name.format(app_id=app_id, source=topic) for name in engine.topics]
            self.kafka.create_topics(dict.fromkeys(names, PARTITIONS), {"cleanup.policy": "compact"})
        (self.scratch / app_id).mkdir()
        with (
            Sink(self.kafka.bootstrap, f"{app_id}-results", PARTITIONS) as sink,
            Offsets(self.kafka.bootstrap, app_id, topic, PARTITIONS) as offsets,
            self._start(engine, topic, app_id) as running,
        ):
            ends = offsets.ends()

            def done():
                complete = len(sink.latest) == len(truth.totals) and all(
                    sink.latest[user][2] == row[2] for user, row in truth.totals.items()
                )
                return complete and (not engine.commits or offsets.committed() == ends)

            if failure := self._wait(done, sink, running):
                return failure
            figures = Figures.between(running, running.began, events=events)
        if sink.latest != truth.totals:
            wrong = sum(sink.latest[user] != row for user, row in truth.totals.items())
            return f"wrong totals for {wrong} of {len(truth.totals)} users"
        if engine.every_result and sink.results != truth.results:
            return f"{sink.results} results in place of {truth.results}"
        self._last[engine.name] = topic, truth, app_id
        return figures

    def restart(self, engine):
        """Start an engine again where its last run left it.

        Returns:
            Seconds from its start until a new event of each partition is answered out of the old state, or what went
            wrong.

        """
        topic, truth, app_id = self._last[engine.name]
        with (
            Sink(self.kafka.bootstrap, f"{app_id}-results", PARTITIONS) as sink,
            self._start(engine, topic, app_id) as running,
        ):
            asked = ask_again(self.kafka.bootstrap, topic, truth)

            def done():
                return all(sink.latest.get(user) == truth.totals[user] for user in asked)

            return self._wait(done, sink, running) or time.monotonic() - running.started

    def _start(self, engine, topic, app_id):
        directory = self.scratch / app_id
        arguments = [self.kafka.bootstrap, topic, f"{app_id}-results", app_id, str(directory), *engine.options]
        return Running([*self.commands[engine.name], *arguments], self.scratch / f"{app_id}.log")

    @staticmethod
    def _wait(done, sink, running):
        """Wait, reading the sink; return in words why it was given up, or None."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            sink.poll(0.02)
            if done():
                return None
            if running.ended():
                return f"ended with {running.process.returncode}: {running.tail()}"
            if time.monotonic() > deadline:
                return f"not done after {TIMEOUT_S:.0f} s, {sink.results} results: {running.tail()}"


def add_arguments(parser):
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--runs", type=int, default=RUNS)
    names = [*engines.BY_NAME, WORKER]
    parser.add_argument("--only", type=lambda only: only.split(","), default=names, help=f"of {','.join(names)}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in a Markdown file")


def run(arguments):
    commands, failed = engines.install(name for name in arguments.only if name != WORKER)
    chosen = [engines.BY_NAME[name] for name in commands]
    runs = {name: [] for name in arguments.only}
    restarts = {name: [] for name in arguments.only}
    with tempfile.TemporaryDirectory() as scratch, real_kafka() as kafka:
        bench = Bench(kafka, Path(scratch), commands)
        for turn in range(arguments.runs):
            first = turn % max(1, len(chosen))
            for engine in chosen[first:] + chosen[:first]:
                if engine.name not in failed:
                    note(engine.name, bench.run(engine, arguments.events), runs, failed)
        for engine in chosen:
            if engine.recovers and engine.name not in failed:
                note(engine.name, bench.restart(engine), restarts, failed)
    if WORKER in arguments.only:
        records = shop.history(arguments.events * WORKER_SHARE)
        for _ in range(arguments.runs):
            with tempfile.TemporaryDirectory() as scratch, real_kafka() as kafka:
                note(WORKER, shop.run(kafka, Path(scratch), records), runs, failed)
    report = {
        "events": arguments.events,
        "runs": arguments.runs,
        "peers": {name: summary(figures) for name, figures in runs.items() if figures and name not in failed},
        "restart_s": {name: values[0] for name, values in restarts.items() if values},
        "failed": failed,
    }
    print(json.dumps(report, indent=2))
    if arguments.write:
        table.write(arguments.write, "peers", table.block(report))


def note(name, outcome, runs, failed):
    print(f"{name}: {outcome}", file=sys.stderr)
    if isinstance(outcome, str):
        failed[name] = outcome
    else:
        runs[name].append(outcome)


def summary(figures):
    """Return median, minimum and maximum of each figure.

    >>> summary([Figures(1, 2, 3, 4, 5), Figures(3, 2, 3, 4, 5)])["events_s"]
    (2.0, 1, 3)
    """
    columns = zip(Figures._fields, zip(*figures, strict=True), strict=True)
    return {name: (statistics.median(values), min(values), max(values)) for name, values in columns}
