"""Long runs that look for what short tests cannot show: `scripts/soak NAME --help` says what each does."""

import argparse
import importlib
import sys
from pathlib import Path

NAMES = ("kafka", "memory", "simulated")


def main():
    sys.path.append(str(Path(__file__).parents[2] / "tests"))  # what is run there for a short while, and the broker
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name in NAMES:
        module = importlib.import_module(name)
        about = module.__doc__
        command = commands.add_parser(name, help=about.partition("\n")[0], description=about)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    sys.exit(arguments.run(arguments))


if __name__ == "__main__":
    main()
