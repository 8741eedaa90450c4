"""What the stream itself costs an event: a trivially small aggregate over records in memory, beside the same by hand.

Both read the same events of 256 bytes, keep a count and a sum for each user over 4 partitions, and write one
output in 192 events. `by_hand` is a loop that decodes, adds and encodes as a program without a stream would: no order,
no clock, no timers, no failures. Each run is a process of its own; CPU microseconds an event on one core.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from aggregate import OUTPUT_EVERY, Aggregate, Record, Totals, decode, encode, read, spread

from worker.stream.dead_letters import DeadLetters
from worker.stream.partition import Layout, Partition
from worker.stream.process import calm_gc
from worker.stream.processor import Output

PARTITIONS = 4
EVENT_BYTES = 256
UNIT_RECORDS = 8_000
ROWS_MAX = 16_384
START_MS = 1_735_689_600_000


def events(n, users):
    """Return the records of one topic, by partition."""
    rng = random.Random(1)  # noqa: S311 - figures want the same events each time
    partitions = [[] for _ in range(PARTITIONS)]
    for i in range(n):
        user = rng.randrange(users)
        event = {"at": START_MS + i, "amount": rng.randrange(10_000), "session": f"{rng.getrandbits(64):016x}"}
        page = "p" * (EVENT_BYTES - len(json.dumps({**event, "page": ""})))
        records = partitions[user % PARTITIONS]
        value = json.dumps({**event, "page": page}).encode()
        records.append(Record(len(records), START_MS + i, b"user-%06d" % user, value))
    return partitions


def chunks(records):
    return [records[i : i + UNIT_RECORDS] for i in range(0, len(records), UNIT_RECORDS)]


def by_stream(fetched):
    """Work off the chunks of one partition; return how many rows were written."""
    layout = Layout(0, ("events",), DeadLetters("dead-letter", b""))
    partition = Partition(layout, Aggregate(), {}, rows_max=ROWS_MAX, records_max=UNIT_RECORDS)
    written = 0
    for records in fetched:
        partition.feed("events", records)
        while (unit := partition.advance()) is not None:
            written += len(unit.rows)
    return written


def by_hand(fetched):
    rows, outputs, written = {}, [], 0
    for records in fetched:
        alive = {}
        for record in records:
            key, event = record.key, read(record.value)
            state = alive.get(key)
            if state is None:
                row = rows.get(key)
                state = alive[key] = Totals(key) if row is None else decode(row)
            state.count += 1
            state.amount += event.amount
            if state.count % OUTPUT_EVERY == 0:
                outputs.append(Output("totals", key, encode(state)))
        rows.update({key: encode(state) for key, state in alive.items()})
        written += len(alive)
    return written


def measure(n, users):
    """Return CPU µs an event of both, chunk for chunk of each partition in turn."""
    us = {"stream": 0.0, "by_hand": 0.0}
    rows = dict.fromkeys(us, 0)
    for records in events(n, users):
        fetched = chunks(records)
        for name, work in ("stream", by_stream), ("by_hand", by_hand):
            begin = time.process_time()
            rows[name] += work(fetched)
            us[name] += (time.process_time() - begin) * 1e6 / n
    assert rows["stream"] == rows["by_hand"]
    return {**us, "stream_alone": us["stream"] - us["by_hand"], "events_per_row": n / rows["stream"]}


def add_arguments(parser):
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)


def run(arguments):
    if arguments.one:
        calm_gc()
        print(json.dumps(measure(arguments.events, arguments.users)))
        return
    size = ["--events", str(arguments.events), "--users", str(arguments.users)]
    command = [sys.executable, Path(__file__).parent, "partition", "--one", *size]
    runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(arguments.runs)]  # noqa: S603
    report = {
        "python": sys.version.split()[0],
        "runs": arguments.runs,
        "events": arguments.events,
        "users": arguments.users,
    }
    print(json.dumps({**report, "us": spread([json.loads(run.stdout) for run in runs])}, indent=2))
