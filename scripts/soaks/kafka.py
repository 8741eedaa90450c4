"""Faults on a real Kafka: rounds of them until so many have happened, a table, and a verdict.

Every round is drawn from its seed: `--seed N --faults 1` runs the round of seed N again, as far as the machine lets
two runs be alike. The rounds' logs stay where something was wrong.
"""

import shutil
import tempfile
from collections import defaultdict
from dataclasses import fields
from itertools import count
from pathlib import Path

from chaos import Rounds
from kafka_server import real_kafka
from loads import Findings

from worker.embedded import EmbeddedBroker

COLUMNS = [field.name for field in fields(Findings)]


def add_arguments(parser):
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; those after it count on")
    parser.add_argument("--only", default="", help="kinds whose name contains this")


def run(arguments):
    directory = Path(tempfile.mkdtemp(prefix="recall-soak-"))
    results = []
    with real_kafka() as kafka, EmbeddedBroker() as embedded:
        rounds = Rounds(kafka, embedded, directory)
        names = [name for name in rounds.kinds if arguments.only in name]
        if not names:
            raise SystemExit(f"--only {arguments.only!r}: allowed is a part of one of {', '.join(rounds.kinds)}")
        for seed in count(arguments.seed):
            if sum(result.struck for result in results) >= arguments.faults:
                break
            result = rounds.run(names[seed % len(names)], seed)
            results.append(result)
            verdict = "as it should be" if result.good else f"WRONG: {result.findings}"
            about = f"{result.struck} faults, {result.seconds:.0f} s, ended with {result.ends}"
            print(f"{seed:5} {result.kind:40} {about}: {verdict}", flush=True)
            if result.good:
                shutil.rmtree(directory / str(seed))
            else:
                print(f"      logs: {directory / str(seed)}\n{result.why}", flush=True)
    print_table(results)
    bad = [result.seed for result in results if not result.good]
    print(f"WRONG in the rounds of seeds {bad}" if bad else "Nothing lost, nothing doubled.")
    return 1 if bad else 0


def print_table(results):
    """Print what was found, by kind."""
    by_kind = defaultdict(list)
    for result in results:
        by_kind[result.kind].append(result)
    print(f"\n{'kind':42}{'rounds':>8}{'faults':>8}", *(f"{name:>9}" for name in COLUMNS), sep="")
    for kind, those in [*sorted(by_kind.items()), ("all", results)]:
        total = sum((result.findings for result in those), Findings())
        struck = sum(result.struck for result in those)
        cells = [getattr(total, name) for name in COLUMNS]
        print(f"{kind:42}{len(those):8}{struck:8}", *(f"{cell:9}" for cell in cells), sep="")
