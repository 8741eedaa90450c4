"""How often the report's interval holds the truth, in small closed loops. JSON on standard output.

Each run is a simulated shop under the default playbook, half of the users held out; the truth is the same shop without
any touch. Over 200 runs a 95% interval should hold it in 182 to 197. Beside it the error of the naive figure, before
and after.
"""

import json
import multiprocessing
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from worker import settings
from worker.grants import Grant
from worker.outputs import Files
from worker.recall.playbook import load as book
from worker.report import figures, inputs, load
from worker.report.truth import of_units
from worker.settings import DEFAULT_PLAYBOOK
from worker.simulate import CURRENCY, FAMILIES, TIMEZONE, Shop
from worker.simulate.loop import Loop
from worker.simulate.shop import DAYS, START
from worker.sources import history

MEASURES = ("orders", "revenue", "margin")
HELD_OUT = 0.5
EPOCH_DAYS = 3650
"""So that nobody is drawn anew meanwhile."""
AIM_OF_200 = (182, 197)


def add_arguments(parser):
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--days", type=int, default=240)
    parser.add_argument("--strength", type=float, default=1.0, help="factor on extra visits, and on orders of them")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)


def run(arguments):
    of = [
        (arguments.users, arguments.days, arguments.first_seed + n, arguments.strength) for n in range(arguments.runs)
    ]
    with multiprocessing.Pool(arguments.jobs, maxtasksperchild=8) as pool:
        found = list(pool.imap(measured, of))
    told = {
        "runs": len(found),
        "users": arguments.users,
        "days": arguments.days,
        "strength": arguments.strength,
        "aim_of_200": AIM_OF_200,
    }
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
    """Run a closed loop and report on it."""
    users, days, seed, strength = given
    shop, without = (Shop(users=users, days=days, seed=seed, family=family_of(seed)) for _ in range(2))
    visit, order = strength * shop.effects.visit, strength * shop.effects.order
    shop.effects = shop.effects._replace(visit=visit, order=order)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        playbook = folder / "playbook.toml"
        told = DEFAULT_PLAYBOOK.read_text()
        playbook.write_text(
            told.replace("share = 0.1\nepoch_days = 182", f"share = {HELD_OUT}\nepoch_days = {EPOCH_DAYS}")
        )
        config = settings.load(
            currency=CURRENCY,
            timezone=TIMEZONE,
            playbook=playbook,
            live_from=datetime.fromtimestamp(DAYS.start(DAYS.number(START) + 45) / 1000, UTC),
            salt=f"coverage-{seed}",
            partitions=1,
            learner="vectorised",
        )
        files = Files(folder)
        loop = Loop(shop, without, config, files.take, grants=[Grant.of("daily=100")])
        with files:
            history.write(folder / "history.jsonl", (record for records in loop.days() for record in records))
        frame = load.Frame(TIMEZONE, EPOCH_DAYS, book(playbook).value.margin_rate)
        with load.loaded(inputs.find([folder]), frame) as db:
            report = figures.report(db, sms_price=0.05, about={})
            truth = of_units(db, shop, without)
    return compared(report, truth)


def compared(report, truth):
    """Set what was reported beside the truth."""
    found = {}
    for name in MEASURES:
        measure = report.headline[name]
        plain, total, n = measure.plain, measure.total, measure.treated_units
        unit = 1 if name == "orders" else 100
        found[name] = {
            "truth": getattr(truth, name) / unit,
            "estimate": total.value,
            "low": total.low,
            "high": total.high,
            "plain_half": (plain.high - plain.low) / 2 * n,
        }
    return found | {"naive": report.naive.claimed_orders, "claimed_returns": report.naive.claimed_returns}


def family_of(seed):
    """Take the families that are not kept for judging in turn."""
    return FAMILIES.development[seed % len(FAMILIES.development)]
