"""Long runs that look for what short tests cannot show: `scripts/soak NAME --help` says what each does."""

import sys

from commands import parse

NAMES = ("kafka", "memory", "simulated")


def main():
    arguments = parse("scripts/soak", __doc__, NAMES)
    sys.exit(arguments.run(arguments))


if __name__ == "__main__":
    main()
