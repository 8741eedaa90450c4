"""How often the report's interval holds the truth, in small closed loops. JSON on standard output.

Each run is a simulated shop under the default playbook, half of the users held out; the truth is the same shop without
any touch. Over 200 runs a 95% interval should hold it in 182 to 197. Beside it the error of the naive figure, before
and after.
"""

import json
import multiprocessing
import sys

from proving import prove

MEASURES = {"orders": 1, "revenue": 100, "margin": 100}
"""Each with its minor units."""
AIM_OF_200 = (182, 197)


def add_arguments(parser):
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--days", type=int, default=240)
    parser.add_argument("--strength", type=float, default=1.0, help="factor on extra visits, and on orders of them")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)


def run(arguments):
    shape = {"users": arguments.users, "days": arguments.days, "strength": arguments.strength}
    of = [shape | {"seed": arguments.first_seed + n} for n in range(arguments.runs)]
    found = []
    with multiprocessing.Pool(arguments.jobs, maxtasksperchild=8) as pool:
        for one in pool.imap(measured, of):
            found.append(one)
            print(json.dumps(one), file=sys.stderr, flush=True)
    told = {"runs": len(found), **shape, "aim_of_200": AIM_OF_200}
    for name in MEASURES:
        told[name] = {
            "covered": sum(one[name]["low"] <= one[name]["truth"] <= one[name]["high"] for one in found),
            "mean_truth": mean(one[name]["truth"] for one in found),
            "mean_error": mean(one[name]["estimate"] - one[name]["truth"] for one in found),
            "mean_half_width": mean((one[name]["high"] - one[name]["low"]) / 2 for one in found),
            "mean_half_width_without_cuped": mean(one[name]["plain_half"] for one in found),
        }
    told["naive"] = {
        "before_and_after_mean_error": mean(one["naive"] - one["orders"]["truth"] for one in found),
        "before_and_after_mean_absolute_error": mean(abs(one["naive"] - one["orders"]["truth"]) for one in found),
        "recalled_users_claimed": mean(one["claimed_returns"] for one in found),
    }
    print(json.dumps(told, indent=2))


def mean(numbers):
    numbers = list(numbers)
    return round(sum(numbers) / len(numbers), 2)


def measured(given):
    """Run a closed loop, and set what was reported beside the truth."""
    report, truth = prove(**given)
    found = {"seed": given["seed"]}
    for name, unit in MEASURES.items():
        measure = report.headline[name]
        plain, total = measure.plain, measure.total
        found[name] = {
            "truth": getattr(truth, name) / unit,
            "estimate": total.value,
            "low": total.low,
            "high": total.high,
            "plain_half": (plain.high - plain.low) / 2 * measure.treated_units,
        }
    return found | {"naive": report.naive.claimed_orders, "claimed_returns": report.naive.claimed_returns}
