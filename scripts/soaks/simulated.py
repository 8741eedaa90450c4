"""Faults under a simulated broker, thousands of seeds: each is a history, a schedule of faults, and their course.

Workers crash, stall, come and go, answers get lost, produces are refused; in the end rows, outputs and offsets must be
those of an undisturbed run. A seed that fails is told with the smallest schedule found that still fails.
"""

import time

import orjson
import structlog
from simulated_workers import plan_of, shrink, tell
from simulated_workers import run as run_plan


def add_arguments(parser):
    parser.add_argument("--seeds", type=int, default=10_000, help="how many (10,000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")


def run(arguments):
    """Print what failed, then the sum; return 1 where anything did."""
    structlog.configure(processors=[_drop])
    began, failed = time.process_time(), []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        plan = plan_of(seed)
        if run_plan(plan) is not None:
            failed.append(seed)
            smallest = shrink(plan)
            print(tell(smallest, run_plan(smallest)), flush=True)
    cpu_s = time.process_time() - began
    told = {"seeds": arguments.seeds, "failed": failed, "cpu_s": round(cpu_s, 1)}
    print(orjson.dumps(told | {"cpu_ms_a_seed": round(1000 * cpu_s / max(1, arguments.seeds), 2)}).decode())
    return int(bool(failed))


def _drop(_logger, _name, _event):
    """Workers die by the thousand here; what they say on it would drown the rest."""
    raise structlog.DropEvent
