"""How fast rows come back: a changelog on Apache Kafka, read by the worker's own recovery. JSON on standard output.

The changelog holds rows of the simulated shop, under as many keys as are asked for, in transactions of the size of a
commit. With `rocksdb` the worker is then started a second time, over what the first one left. CPU is that of the
worker's process, RocksDB's threads included; the broker runs beside it.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import Producer

from worker import settings, topics
from worker.app import create_app, start
from worker.replay import Replay, by_topic
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.stream.record import RESERVED
from worker.stream.topics import changelog_of

USERS = 400
DAYS = 182
LIVE_FROM = "2025-04-20T00:00:00Z"
COMMIT_ROWS = 2000


class Timed:
    """A store that tells what it took from the first partition's opening until the last one was recovered."""

    def __init__(self, store, partitions):
        self.store = store
        self.waiting = partitions
        self.opened = []
        self.records = 0

    def open(self, partition, changelog):
        if not self.opened:
            self.began, self.cpu = time.perf_counter(), time.process_time()
        opened = self.store.open(partition, changelog)
        self.opened.append(opened)
        recover, recovered = opened.recover, opened.recovered

        def counted(records):
            records = list(records)
            self.records += len(records)
            recover(records)

        def last():
            recovered()
            opened.recovered = recovered
            self.waiting -= 1
            if not self.waiting:
                self.report()

        opened.recover, opened.recovered = counted, last
        return opened

    def report(self):
        wall, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        began = time.perf_counter()
        rows = sum(1 for opened in self.opened for _ in opened.rows.items())
        scan = time.perf_counter() - began
        self.store.close()
        result = {"records": self.records, "rows": rows, "wall_s": wall, "cpu_s": cpu, "rss_mb": rss / 1e6}
        print(json.dumps({**result, "scan_s": scan}), flush=True)
        os._exit(0)


def config(bootstrap, partitions, **more):
    return settings.load(
        broker=bootstrap, partitions=partitions, currency=CURRENCY, timezone=TIMEZONE, live_from=LIVE_FROM,
        app_id="bench", dry_run=True, web_port=0, **more
    )  # fmt: skip


def sample():
    """Return real rows."""
    shop = settings.load(currency=CURRENCY, timezone=TIMEZONE, partitions=1, live_from=LIVE_FROM)
    replay = Replay(shop, lambda _number, _output: None)
    replay.run(by_topic(iter(simulate(users=USERS, days=DAYS, seed=1))))
    return [row for key, row in replay.rows() if key[:1] != RESERVED]


def fill(shop, count):
    """Write the changelog; return the median of the rows' sizes."""
    topics.create(shop)
    rows = sample()
    producer = Producer(
        {
            "bootstrap.servers": shop.broker,
            "transactional.id": "fill",
            "linger.ms": 50,
            "batch.size": 900_000,
            "message.max.bytes": 2_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "log_level": 2,
        }
    )
    producer.init_transactions(30)
    changelog = changelog_of(shop.app_id)
    for first in range(0, count, COMMIT_ROWS * shop.partitions):
        producer.begin_transaction()
        for number in range(first, min(count, first + COMMIT_ROWS * shop.partitions)):
            partition = (number - first) // COMMIT_ROWS
            producer.produce(changelog, rows[number % len(rows)], b"user-%07d" % number, partition=partition)
        producer.commit_transaction(60)
    return statistics.median(map(len, rows))


def measure(arguments, bootstrap, datadir):
    command = [sys.executable, Path(__file__).parent, "recovery", "--one", datadir, "--bootstrap", bootstrap]
    command += ["--store", arguments.store, "--partitions", str(arguments.partitions)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    result = json.loads(done.stdout.splitlines()[-1])
    if result["records"]:
        millions = result["records"] / 1e6
        result |= {
            "rows_per_s": round(result["records"] / result["wall_s"]),
            "cpu_s_per_million": round(result["cpu_s"] / millions, 2),
        }
    return {name: round(value, 2) for name, value in result.items()}


def add_arguments(parser):
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--store", choices=("memory", "rocksdb"), default="memory")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bootstrap", help="a Kafka that has no topics yet; else one is started, as the tests do")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def run(arguments):
    if arguments.one:
        shop = config(arguments.bootstrap, arguments.partitions, store=arguments.store, datadir=arguments.one)
        app = create_app(shop)
        app.row_store = Timed(app.row_store, shop.partitions)
        start(app)
        return
    with contextlib.ExitStack() as stack:
        bootstrap = arguments.bootstrap
        if bootstrap is None:
            sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
            from kafka_server import real_kafka  # noqa: PLC0415 - only where one is to be started

            bootstrap = stack.enter_context(real_kafka()).bootstrap
        size = fill(config(bootstrap, arguments.partitions), arguments.rows)
        report = {"store": arguments.store, "partitions": arguments.partitions, "row_bytes_median": size}
        starts = ("recovery", "restart") if arguments.store == "rocksdb" else ("recovery",)
        for _, name in itertools.product(range(arguments.runs), starts):
            if name == "recovery":
                datadir = stack.enter_context(tempfile.TemporaryDirectory())
            report.setdefault(name, []).append(measure(arguments, bootstrap, datadir))
        print(json.dumps(report, indent=2))
