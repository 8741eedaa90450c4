"""What the simulated shop costs: as rows, as records, and in closed loop with the rules. JSON on standard output.

Each run is a process of its own; figures are events a second of CPU time on one core: median, minimum, maximum. `rows`
are the structured events before JSON; `closed` is all of it: the shop, the same shop untouched beside it, records,
reading them, the rules and the vectorised learner, under the default playbook.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rules import LIVE_FROM

from worker import settings
from worker.simulate import CURRENCY, TIMEZONE, Oddities, Recorder, Shop
from worker.simulate.loop import Loop
from worker.stream.process import calm_gc

DAYS = 182
AIM_A_SECOND = {"rows": 100_000, "closed": 20_000}


def shop(users):
    return Shop(users=users, days=DAYS, seed=1)


def run_rows(users):
    one = shop(users)
    begin = time.process_time()
    events = sum(len(one.live().happened.rows.at) for _ in range(DAYS))
    return events, time.process_time() - begin


def run_records(users):
    one = shop(users)
    recorder = Recorder(one, Oddities())
    begin = time.process_time()
    events = sum(len(recorder.of(one.live())) for _ in range(DAYS))
    return events, time.process_time() - begin


def run_closed(users):
    config = settings.load(
        currency=CURRENCY, timezone=TIMEZONE, partitions=1, live_from=LIVE_FROM, learner="vectorised"
    )
    loop = Loop(shop(users), shop(users), config)
    begin = time.process_time()
    events = sum(len(records) for records in loop.days())
    return events, time.process_time() - begin


RUNS = {"rows": run_rows, "records": run_records, "closed": run_closed}


def add_arguments(parser):
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", choices=RUNS, help=argparse.SUPPRESS)


def run(arguments):
    if arguments.one:
        calm_gc()
        events, took_s = RUNS[arguments.one](arguments.users)
        print(json.dumps({"events": events, "events_per_s": events / took_s}))
        return
    report = {"python": sys.version.split()[0], "users": arguments.users, "days": DAYS, "aim_a_second": AIM_A_SECOND}
    for name in RUNS:
        command = [sys.executable, Path(__file__).parent, "simulator", "--one", name, "--users", str(arguments.users)]
        done = [subprocess.run(command, check=True, capture_output=True) for _ in range(arguments.runs)]  # noqa: S603
        found = [json.loads(one.stdout) for one in done]
        rates = [one["events_per_s"] for one in found]
        report[name] = {
            "events": found[0]["events"],
            "events_per_s": {
                "median": round(statistics.median(rates)),
                "min": round(min(rates)),
                "max": round(max(rates)),
            },
        }
    print(json.dumps(report, indent=2))
