"""Workers that share the partitions of a topic: how they are split, what each does, how long a hand-over takes.

The job is that of `peers`, ours, transactional; it counts only if the last result of each user is the truth. All events
are written in one transaction, which is committed once every worker has its partitions: so they begin at once, and
their start-up is apart. `capacity_events_s` is what a core would do that a worker has to itself, by the CPU time of
its events. The rate of the sum is bounded by the cores that the workers share with the broker and with what feeds and
measures: `cores` is how many of them the workers had, `machine_busy` the share of all that was in use.

A commit's own cost shows where it holds one event: one worker, one event a partition each 20 ms, and before that none.

Then hand-overs, under the same trickle: a second worker joins, is stopped, joins again, is killed. From
the process's start, the signal or the kill until every partition has results from whoever has it now, and the longest
time without a result of one partition. A table of a few thousand users comes back at once: `recovery` says what more
rows take.
"""

import json
import random
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import engines
import orjson
import table
from events import USERS, event, producer, user, write
from kafka_server import real_kafka
from running import Offsets, Running, Sink

from worker.partitioner import Partitioner

ENGINE = engines.BY_NAME["ours"]
WORKERS = (1, 2, 4)
PROBE_S = 0.02
SETTLE_S = 2.0
HEARTBEAT_S = 2.5
"""By which workers hear of a rebalance; the next change comes at any moment between two."""
STEADY_S = 10.0
OFFSETS_A_COMMIT = 3
"""In the changelog: of one row, the partition record and the transaction's marker."""
TIMEOUT_S = 300.0
TRANSACTION_MS = 900_000
"""The longest that a broker allows, as it comes."""
ESTABLISHED = "01"
ACQUIRED = re.compile(r"lanes acquired.*")
LANE = re.compile(r"totals (\d+)")


class Worker(Running):
    """One of the workers of a group."""

    @property
    def lanes(self):
        """The partitions that it took at the last assignment."""
        found = ACQUIRED.findall(self._log.read_text(errors="replace"))
        return sorted(map(int, LANE.findall(found[-1]))) if found else []

    def connections(self, port):
        """Return how many it has to a port of this machine."""
        links = (str(link.readlink()) for link in Path(f"/proc/{self.process.pid}/fd").iterdir())
        mine = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
        lines = Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()[1:]
        sockets = [line.split() for line in lines]
        return sum(
            socket[9] in mine and socket[3] == ESTABLISHED and int(socket[2].rpartition(":")[2], 16) == port
            for socket in sockets
        )

    def rss_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class Crew:
    """The workers of one app, on topics of its own."""

    def __init__(self, kafka, scratch, app_id, partitions):
        self.kafka, self.partitions = kafka, partitions
        self.source, self.sink = f"{app_id}-events", f"{app_id}-results"
        self.workers = []
        """Those that are to live."""
        self._gone = []
        self._scratch, self._app_id, self._started = scratch, app_id, 0
        kafka.create_topics(dict.fromkeys((self.source, self.sink), partitions))
        own = [name.format(app_id=app_id) for name in ENGINE.topics]
        kafka.create_topics(dict.fromkeys(own, partitions), {"cleanup.policy": "compact"})

    def start(self):
        self._started += 1
        place = self._scratch / f"{self._app_id}-{self._started}"
        place.mkdir()
        arguments = [self.kafka.bootstrap, self.source, self.sink, self._app_id, str(place)]
        command = [*ENGINE.install(), *arguments, "transactional", str(self.partitions)]
        worker = Worker(command, self._scratch / f"{place.name}.log")
        self.workers.append(worker)
        return worker

    def end(self, worker, number):
        """Send a signal that ends a worker."""
        self.workers.remove(worker)
        self._gone.append(worker)
        worker.process.send_signal(number)

    def split(self):
        """Tell whether each worker has partitions, and each partition a worker."""
        lanes = [worker.lanes for worker in self.workers]
        return all(lanes) and sorted(chain(*lanes)) == list(range(self.partitions))

    def until(self, condition, what, sink=None):
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if sink is None:
                time.sleep(PROBE_S)
            else:
                sink.poll(PROBE_S)
            for worker in self.workers:
                if worker.ended() or time.monotonic() > deadline:
                    raise RuntimeError(f"waited until {what}; {worker.process.returncode}: {worker.tail()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in [*self._gone, *self.workers]:
            worker.__exit__()


def machine():
    """Return the CPU time of all cores, in use and in sum, in any unit."""
    times = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)


def together(kafka, scratch, app_id, arguments, count):
    """Let so many workers work off the events; return the figures of each, and of all."""
    out = producer(kafka.bootstrap, **{"transactional.id": f"{app_id}-feed", "transaction.timeout.ms": TRANSACTION_MS})
    with (
        Crew(kafka, scratch, app_id, arguments.partitions) as crew,
        Sink(kafka.bootstrap, crew.sink, arguments.partitions) as sink,
    ):
        out.init_transactions(30)
        out.begin_transaction()
        truth = write(out, crew.source, arguments.events)
        assert out.flush(60) == 0
        for _ in range(count):
            crew.start()
        crew.until(crew.split, "all partitions are shared out")
        time.sleep(SETTLE_S)
        assert crew.split(), "the partitions were moved once more"
        out.commit_transaction(60)
        begins, used = [worker.moment() for worker in crew.workers], machine()

        def done():
            latest = sink.latest
            return len(latest) == len(truth.totals) and all(
                latest[name][2] == row[2] for name, row in truth.totals.items()
            )

        crew.until(done, "all results are there", sink)
        ends, over = [worker.moment() for worker in crew.workers], machine()
        assert (sink.latest, sink.results) == (truth.totals, truth.results)
        port = int(kafka.bootstrap.rpartition(":")[2])
        partitioner = Partitioner(arguments.partitions)
        share = dict.fromkeys(range(arguments.partitions), 0)
        for name, row in truth.totals.items():
            share[partitioner.of(name.encode())] += row[0]
        each = []
        for worker, begin, end in zip(crew.workers, begins, ends, strict=True):
            events = sum(share[number] for number in worker.lanes)
            cpu = end.cpu - begin.cpu
            each.append(
                {
                    "partitions": len(worker.lanes),
                    "events": events,
                    "events_s": round(events / (max(sink.seen_at[number] for number in worker.lanes) - begin.wall)),
                    "cpu_s_per_million": round(cpu / events * 1e6, 2),
                    "capacity_events_s": round(events / cpu),
                    "connections": worker.connections(port),
                    "rss_mb": round(worker.rss_mb()),
                    "peak_rss_mb": round(worker.peak_rss_mb()),
                }
            )
        cpu = sum(end.cpu - begin.cpu for begin, end in zip(begins, ends, strict=True))
        wall = max(sink.seen_at.values()) - begins[0].wall
        return {
            "workers": count,
            "events_s": round(arguments.events / wall),
            "cpu_s_per_million": round(cpu / arguments.events * 1e6, 2),
            "capacity_events_s": sum(one["capacity_events_s"] for one in each),
            "cores": round(cpu / (ends[0].wall - begins[0].wall), 2),
            "machine_busy": round((over[0] - used[0]) / (over[1] - used[1]), 2),
            "connections": sum(one["connections"] for one in each),
            "each": each,
        }


@contextmanager
def probing(crew):
    """Send an event to each partition each 20 ms."""
    partitioner = Partitioner(crew.partitions)
    asked = {partitioner.of(user(number).encode()): number for number in range(USERS)}
    over = threading.Event()

    def send():
        out = producer(crew.kafka.bootstrap, linger_ms=0)
        while not over.wait(PROBE_S):
            for number in asked.values():
                content = event(1, number, time.time_ns() // 1_000_000, report=True)
                out.produce(crew.source, orjson.dumps(content), user(number).encode())
            out.poll(0)
        out.flush(60)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def commits(kafka, scratch, app_id, partitions):
    """Let one worker do next to nothing; return what it takes when there is nothing at all, and by commit."""
    with (
        Crew(kafka, scratch, app_id, partitions) as crew,
        Offsets(kafka.bootstrap, app_id, f"{app_id}-rows-changelog", partitions) as changelog,
    ):
        worker = crew.start()
        crew.until(crew.split, "the worker has its partitions")
        time.sleep(SETTLE_S)
        begin = worker.moment()
        time.sleep(STEADY_S)
        end = worker.moment()
        idle = (end.cpu - begin.cpu) / (end.wall - begin.wall)
        with probing(crew):
            time.sleep(SETTLE_S)
            begin, before = worker.moment(), sum(changelog.ends())
            time.sleep(STEADY_S)
            end, after = worker.moment(), sum(changelog.ends())
        count = (after - before) / OFFSETS_A_COMMIT
        return {
            "idle_cores": round(idle, 3),
            "commits_s": round(count / (end.wall - begin.wall)),
            "cpu_ms_a_commit": round(1000 * (end.cpu - begin.cpu) / count, 2),
        }


def hand_overs(kafka, scratch, app_id, partitions):
    """Let a second worker come and go; return by what happened what it took, seconds."""
    found = {}
    with Crew(kafka, scratch, app_id, partitions) as crew, Sink(kafka.bootstrap, crew.sink, partitions) as sink:

        def measure(what, change):
            began = time.monotonic()
            pauses, seen, worked = dict.fromkeys(range(partitions), 0.0), dict.fromkeys(range(partitions), began), {}
            change()

            def over():
                split = crew.split()
                for number, at in sink.seen_at.items():
                    pauses[number] = max(pauses[number], at - seen.get(number, at))
                    if at > began:
                        seen[number] = at
                        if split:
                            worked.setdefault(number, at)
                if not split:
                    worked.clear()
                return len(worked) == partitions

            crew.until(over, f"the workers have shared out the partitions: {what}", sink)
            took = max(worked.values()) - began
            until = time.monotonic() + SETTLE_S + random.uniform(0, HEARTBEAT_S)  # noqa: S311 - between two heartbeats
            crew.until(lambda: over() and time.monotonic() > until, "it is quiet", sink)
            found[what] = {"takes_s": round(took, 2), "longest_pause_s": round(max(pauses.values()), 2)}

        with probing(crew):
            measure("first start", crew.start)
            measure("join", crew.start)
            measure("stop", lambda: crew.end(crew.workers[-1], signal.SIGTERM))
            measure("second join", crew.start)
            measure("kill", lambda: crew.end(crew.workers[-1], signal.SIGKILL))
    return found


def add_arguments(parser):
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--workers", type=lambda text: [*map(int, text.split(","))], default=[1, 2, 4])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in a Markdown file")


def run(arguments):
    runs = {count: [] for count in arguments.workers}
    idle, changes = [], []
    with tempfile.TemporaryDirectory() as scratch, real_kafka() as kafka:
        for turn in range(arguments.runs):
            for count in arguments.workers:
                figures = together(kafka, Path(scratch), f"scale-{turn}-{count}", arguments, count)
                print(f"{count} workers: {figures}", file=sys.stderr)
                runs[count].append(figures)
            idle.append(commits(kafka, Path(scratch), f"commits-{turn}", arguments.partitions))
            print(f"commits: {idle[-1]}", file=sys.stderr)
            changes.append(hand_overs(kafka, Path(scratch), f"hand-over-{turn}", arguments.partitions))
            print(f"hand-overs: {changes[-1]}", file=sys.stderr)
    report = {
        "events": arguments.events,
        "partitions": arguments.partitions,
        "runs": arguments.runs,
        "workers": {count: middle(figures) for count, figures in runs.items()},
        "commits": middle(idle),
        "hand_overs": {what: spread([change[what] for change in changes]) for what in changes[0]},
    }
    print(json.dumps(report, indent=2))
    if arguments.write:
        table.write(arguments.write, "scale", block(report, arguments))


def middle(figures):
    """Return the median of each figure, of each worker too; the split is that of the last run.

    >>> middle([{"rate": 1, "each": [{"rate": 3}]}, {"rate": 2, "each": [{"rate": 5}]}])
    {'rate': 1.5, 'each': [{'rate': 4.0}]}
    """
    found = {name: statistics.median(one[name] for one in figures) for name in figures[0] if name != "each"}
    if "each" in figures[0]:
        found["each"] = [middle(those) for those in zip(*(one["each"] for one in figures), strict=True)]
    return found


def spread(figures):
    """Return median, minimum and maximum of each figure.

    >>> spread([{"takes_s": 1}, {"takes_s": 3}])
    {'takes_s': (2.0, 1, 3)}
    """
    columns = {name: [one[name] for one in figures] for name in figures[0]}
    return {name: (statistics.median(values), min(values), max(values)) for name, values in columns.items()}


def block(report, arguments):
    """Return the tables with what they were measured on."""
    command = f"scale --events {report['events']} --partitions {report['partitions']} --runs {report['runs']}"
    heads = (
        "workers",
        "partitions of each",
        "events/s, sum",
        "events/s, each",
        "CPU s/M events",
        "cores used",
        "machine busy",
        "events/s with a core for each",
        "connections of each",
        "RSS of each, MB",
    )
    lines = [table.cells(heads), table.cells(["---"] * len(heads))]
    for count, sums in report["workers"].items():
        each = sums["each"]
        cells = (
            str(count),
            span(each, "partitions"),
            f"{sums['events_s']:,.0f}",
            span(each, "events_s"),
            f"{sums['cpu_s_per_million']:.1f}",
            f"{sums['cores']:.2f}",
            f"{sums['machine_busy']:.0%}",
            f"{sums['capacity_events_s']:,.0f}",
            span(each, "connections"),
            span(each, "rss_mb"),
        )
        lines.append(table.cells(cells))
    lines += ["", table.cells(("hand-over", "takes, s", "longest pause of a partition, s")), table.cells(["---"] * 3)]
    for what, took in report["hand_overs"].items():
        lines.append(table.cells((what, table.span(took["takes_s"], 1), table.span(took["longest_pause_s"], 1))))
    lines += ["", few_events(report["commits"])]
    note = (
        f"Medians of {report['runs']} runs. The workers shared these cores with the broker: `machine busy` says that "
        f"the sum's rate is the machine's, not theirs. Least and greatest in brackets."
    )
    return "\n".join([f"{table.place(f'{command} --write {arguments.write}')} {note}", "", *lines, ""])


def few_events(figures):
    return (
        f"One event in a commit: {figures['commits_s']:.0f} commits a second, {figures['cpu_ms_a_commit']:.2f} ms of "
        f"the worker's CPU each. No event at all: {figures['idle_cores']:.1%} of a core."
    )


def span(each, name):
    """Return the least and the greatest of a figure.

    >>> span([{"rate": 1000}, {"rate": 2000.0}], "rate"), span([{"rate": 7}], "rate")
    ('1,000-2,000', '7')
    """
    low, high = (f"{pick(one[name] for one in each):,.0f}" for pick in (min, max))
    return low if low == high else f"{low}-{high}"
