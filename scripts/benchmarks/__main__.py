"""Measurements, one a module: `scripts/bench NAME --help` says what each does. JSON on standard output."""

import argparse
import importlib
import signal
import sys

NAMES = ("latency", "partition", "peers", "recovery", "rules", "scale", "timers")


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name in NAMES:
        module = importlib.import_module(name)
        about = module.__doc__
        command = commands.add_parser(name, help=about.partition("\n")[0], description=about)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped on the way out
    arguments.run(arguments)


if __name__ == "__main__":
    main()
