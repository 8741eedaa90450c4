"""How long `recall report` takes over a year of a large shop, and how much memory. JSON on standard output.

A closed loop of a small shop is copied under other user ids until there are enough users; the report reads the whole
history, clicks included, in Parquet.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from worker import settings
from worker.grants import Grant
from worker.outputs import Files
from worker.report.inputs import OUTPUTS, quoted
from worker.simulate import CURRENCY, TIMEZONE, Shop
from worker.simulate.loop import Loop
from worker.sources import history
from worker.stream.process import calm_gc

DAYS = 365
LIVE_FROM = "2025-04-01T00:00:00Z"
AIM = {"seconds": 60, "memory_mb": 2000}
IDS = ("decision_id", "episode_id", "command_id", "messageId", "user_id", "userId", "order_id")


def add_arguments(parser):
    parser.add_argument("--users", type=int, default=2000, help="of the closed loop")
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the data; what is there is used again")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)


def run(arguments):
    if arguments.one:
        print(json.dumps(once(arguments.one)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        large = folder / "large"
        if not large.exists():
            make(folder / "small", arguments.users)
            copy(folder / "small", large, arguments.copies)
        command = [sys.executable, Path(__file__).parent, "report", "--one", large]
        done = [subprocess.run(command, check=True, capture_output=True) for _ in range(arguments.runs)]  # noqa: S603
        found = [json.loads(one.stdout) for one in done]
        told = {"users": arguments.users * arguments.copies, "days": DAYS, "aim": AIM}
        told["mb"] = {path.name: round(path.stat().st_size / 1e6) for path in sorted(large.iterdir())}
        for figure in ("seconds", "cpu_seconds", "memory_mb"):
            told[figure] = sorted(one[figure] for one in found)
        print(json.dumps(told, indent=2))


def make(folder, users):
    """Run the small shop."""
    calm_gc()
    config = settings.load(currency=CURRENCY, timezone=TIMEZONE, live_from=LIVE_FROM, learner="vectorised")
    shop, without = (Shop(users=users, days=DAYS, seed=1) for _ in range(2))
    files = Files(folder, "parquet")
    loop = Loop(shop, without, config, files.take, grants=[Grant.of("daily=1000")])
    with files:
        history.write(folder / "history.parquet", (record for records in loop.days() for record in records))


def copy(small, large, copies):
    """Write the shop many times, each copy's users and ids with its number before them."""
    large.mkdir()
    for topic in (*OUTPUTS, "history"):
        source, target = (quoted(str(folder / f"{topic}.parquet")) for folder in (small, large))
        value = "value"
        for field in IDS:
            value = f"""replace({value}, '"{field}":"', '"{field}":"' || n || '-')"""
        key = "if(topic = 'catalog', key, n || '-' || key)" if topic == "history" else "n || '-' || key"
        once_only = "where topic <> 'catalog' or n = 0" if topic == "history" else ""
        with history.connect() as db:
            db.execute(
                f"""copy (select * replace ({value} as value, {key} as key) from range({copies}) as t(n),
                                 read_parquet({source}) {once_only})
                    to {target} (format parquet, compression zstd)"""  # noqa: S608 - our own names
            )


def once(folder):
    """Report on a folder, with all that can be written, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "worker.cli", "report", folder, "--currency", CURRENCY, "--timezone", TIMEZONE]
        command += ["--html", Path(name) / "report.html", "--parquet", Path(name) / "tables"]
        begin = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        seconds = time.monotonic() - begin
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "memory_mb": round(used.ru_maxrss / 1024),
    }
