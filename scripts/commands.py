"""A command that is a folder of modules, each with what it does as docstring, `add_arguments` and `run`."""

import argparse
import importlib


def parse(prog, about, names):
    """Read the command line; `run` of what is returned is the chosen module's."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    commands = parser.add_subparsers(dest="name", required=True)
    for name in names:
        module = importlib.import_module(name)
        says = module.__doc__
        command = commands.add_parser(name, help=says.partition("\n")[0], description=says)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser.parse_args()
