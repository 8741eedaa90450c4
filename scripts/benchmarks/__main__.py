"""Measurements, one a module: `scripts/bench NAME --help` says what each does. JSON on standard output."""

import argparse
import importlib

NAMES = ("partition", "recovery", "rules", "timers")


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
    arguments.run(arguments)


if __name__ == "__main__":
    main()
