"""A small closed loop, what the report says of it, and the truth: for the tests and for `scripts/bench coverage`."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from worker import settings
from worker.grants import Grant
from worker.outputs import Files
from worker.recall.playbook import load as read_playbook
from worker.report import figures, inputs, load
from worker.report.truth import Truth, of_units
from worker.settings import DEFAULT_PLAYBOOK
from worker.simulate import CURRENCY, FAMILIES, TIMEZONE, Shop
from worker.simulate.loop import Loop
from worker.simulate.shop import DAYS, START
from worker.sources import history

LIVE_AFTER_DAYS = 45
ONE_EPOCH_DAYS = 3650
"""So that nobody is drawn anew meanwhile."""


class Proof(NamedTuple):
    """What was reported, and what was true."""

    report: figures.Report
    truth: Truth


def prove(
    *,
    users: int,
    days: int,
    seed: int,
    strength: float = 1.0,
    held_out: float = 0.5,
    epoch_days: int = ONE_EPOCH_DAYS,
    form: str = "jsonl",
) -> Proof:
    """Run a closed loop under the default playbook, and report on it from files.

    `strength` multiplies the extra visits of a touch and the orders of them.
    """
    family = FAMILIES.development[seed % len(FAMILIES.development)]
    shop, without = (Shop(users=users, days=days, seed=seed, family=family) for _ in range(2))
    visit, order = strength * shop.effects.visit, strength * shop.effects.order
    shop.effects = shop.effects._replace(visit=visit, order=order)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        playbook = folder / "playbook.toml"
        told = DEFAULT_PLAYBOOK.read_text()
        changed = told.replace("share = 0.1\nepoch_days = 182", f"share = {held_out}\nepoch_days = {epoch_days}")
        assert changed != told
        playbook.write_text(changed)
        config = settings.load(
            currency=CURRENCY,
            timezone=TIMEZONE,
            playbook=playbook,
            live_from=datetime.fromtimestamp(DAYS.start(DAYS.number(START) + LIVE_AFTER_DAYS) / 1000, UTC),
            salt=f"proof-{seed}",
            partitions=1,
            learner="vectorised",
        )
        files = Files(folder, form)
        loop = Loop(shop, without, config, files.take, grants=[Grant.of("daily=100")])
        with files:
            history.write(folder / f"history.{form}", (record for records in loop.days() for record in records))
        frame = load.Frame(TIMEZONE, epoch_days, read_playbook(playbook).value.margin_rate)
        with load.loaded(inputs.find([folder]), frame) as db:
            report = figures.report(db, sms_price=0.05, about={"currency": CURRENCY})
            return Proof(report, of_units(db, shop, without))
