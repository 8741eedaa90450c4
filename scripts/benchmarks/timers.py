"""A day on which all users fall due at once: what a timer costs, and whether a unit stays bounded.

`woken`: every user has a timer at the same millisecond. `postponed`: every user had one there, and has put it off by a
day since. One event moves the clock past them. CPU microseconds a timer; the longest unit in wall and in CPU
milliseconds, since a machine that does other things too adds to the former.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from aggregate import Aggregate, Record, Totals, encode, spread

from worker.stream.dead_letters import DeadLetters
from worker.stream.partition import Layout, Partition
from worker.stream.process import calm_gc
from worker.stream.record import pack_row

DUE_MS = 1_735_689_600_000
DAY_MS = 86_400_000
PAGE_BYTES = 4096


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


def row(key, due):
    return pack_row(1, 0, due, encode(Totals(key, 1, 1, due)))


def measure(users, *, postponed):
    """Return what opening a partition of `users` rows takes, and what passing their timers does."""
    keys = [b"user-%08d" % i for i in range(users)]
    rows = {key: row(key, DUE_MS) for key in keys}
    before, begin = resident_mb(), time.process_time()
    partition = Partition(Layout(0, ("events",), DeadLetters("dead-letter", b"")), Aggregate(), rows)
    opened_s, heap_mb = time.process_time() - begin, resident_mb() - before
    if postponed:
        rows.update({key: row(key, DUE_MS + DAY_MS) for key in keys})
    event = json.dumps({"at": DUE_MS + 1, "amount": 1, "session": "", "page": ""}).encode()
    partition.feed("events", [Record(0, DUE_MS + 1, b"one", event)])
    walls, cpus, sizes, outputs, begin = [], [], [], 0, time.process_time()
    while True:
        unit_begin, unit_cpu_begin = time.perf_counter(), time.process_time()
        unit = partition.advance()
        if unit is None:
            break
        walls.append(time.perf_counter() - unit_begin)
        cpus.append(time.process_time() - unit_cpu_begin)
        sizes.append(len(unit.rows))
        outputs += len(unit.outputs)
    us = (time.process_time() - begin) / users * 1e6
    assert outputs == (0 if postponed else users)
    return {
        "us_a_timer": us,
        "longest_unit_ms": max(walls) * 1000,
        "longest_unit_cpu_ms": max(cpus) * 1000,
        "largest_unit_rows": max(sizes),
        "units": len(walls),
        "heap_bytes_a_timer": heap_mb * 1e6 / users,
        "us_to_open_a_row": opened_s / users * 1e6,
    }


CASES = {"woken": False, "postponed": True}


def add_arguments(parser):
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)


def run(arguments):
    if arguments.one:
        calm_gc()
        print(json.dumps(measure(arguments.users, postponed=CASES[arguments.one])))
        return
    report = {"python": sys.version.split()[0], "runs": arguments.runs, "users": arguments.users}
    for name in CASES:
        command = [sys.executable, Path(__file__).parent, "timers", "--one", name, "--users", str(arguments.users)]
        runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(arguments.runs)]  # noqa: S603
        report[name] = spread([json.loads(run.stdout) for run in runs])
    print(json.dumps(report, indent=2))
