"""Measurements, one a module: `scripts/bench NAME --help` says what each does. JSON on standard output."""

import signal
import sys

from commands import parse

NAMES = (
    "coverage",
    "latency",
    "model",
    "partition",
    "peers",
    "recovery",
    "report",
    "rules",
    "scale",
    "simulator",
    "timers",
)


def main():
    arguments = parse("scripts/bench", __doc__, NAMES)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped on the way out
    arguments.run(arguments)


if __name__ == "__main__":
    main()
