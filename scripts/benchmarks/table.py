"""Tables in the docs, between two marks; what stands around them is left as it is. And the table of the peers."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import engines
from kafka_server import KAFKA_VERSION

BEGIN = "<!-- written by scripts/bench {name}: do not edit -->"
END = "<!-- end -->"
BARE = "bare"
WORKER_TITLE = "Recall's worker, its full job (other events)"
HEADER = (
    "peer",
    "state",
    "events/s",
    "of the bare loop",
    "CPU s/M events",
    "of the bare loop",
    "peak RSS, MB",
    "start, s (CPU)",
    "restart, s",
)


def write(path, name, block):
    """Replace what lies between a benchmark's marks in a Markdown file, which is made where it is not there."""
    begin = BEGIN.format(name=name)
    text = path.read_text() if path.exists() else f"# Benchmarks\n\n{begin}\n{END}\n"
    before, mark, rest = text.partition(begin)
    if not mark or END not in rest:
        raise ValueError(f"{path}: there must be a line {begin!r}, and after it a line {END!r}")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before}{begin}\n\n{block}\n{END}{rest.partition(END)[2]}")


def block(report):
    """Return the table with what it was measured on."""
    bare = report["peers"].get(BARE)
    lines = [cells(HEADER), cells(["---"] * len(HEADER))]
    lines += [cells(row(name, figures, bare, report["restart_s"])) for name, figures in report["peers"].items()]
    failures = [
        f"- {title(name)} was not measured: {reason.splitlines()[-1]}" for name, reason in report["failed"].items()
    ]
    command = f"peers --events {report['events']} --runs {report['runs']} --write docs/benchmarks.md"
    medians = f"Medians of {report['runs']} runs in turn, least and greatest in brackets."
    return "\n".join([f"{place(command)} {medians}", "", *lines, "", *failures, ""])


def row(name, figures, bare, restarts):
    durable = engines.BY_NAME[name].durable if name in engines.BY_NAME else "Kafka, exactly once"
    compared = bare is not None and name in engines.BY_NAME
    restart = restarts.get(name)
    return (
        title(name),
        durable,
        span(figures["events_s"]),
        ratio(figures, bare, "events_s") if compared else "",
        span(figures["cpu_s"], 1),
        ratio(figures, bare, "cpu_s") if compared else "",
        span(figures["rss_mb"]),
        f"{figures['start_s'][0]:.1f} ({figures['start_cpu_s'][0]:.1f})",
        "" if restart is None else f"{restart:.1f}",
    )


def title(name):
    if name not in engines.BY_NAME:
        return WORKER_TITLE
    engine = engines.BY_NAME[name]
    share = "" if engine.share == 1 else f" ({engine.share:.0%} of the events)"
    return engine.title + share


def cells(values):
    return f"| {' | '.join(values)} |"


def span(figure, digits=0):
    """Return median and range.

    >>> span((1234.5, 1000, 2000))
    '1,234 [1,000-2,000]'
    """
    median, low, high = (f"{value:,.{digits}f}" for value in figure)
    return f"{median} [{low}-{high}]"


def ratio(figures, bare, name):
    return f"{figures[name][0] / bare[name][0]:.2f}"


def place(command):
    """Say where and when, and how to measure it again."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    load = os.getloadavg()[1]
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} at commit {commit} by `scripts/bench {command}`: "
        f"{os.cpu_count()} cores of "
        f"{cpu[1] if cpu else platform.machine()}, {platform.system()}, Python {platform.python_version()}, "
        f"aiokafka {version('aiokafka')}, Apache Kafka {KAFKA_VERSION} on the same cores, load {load:.1f} at the end."
    )
