"""The composition root: makes the parts that the drivers share."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from schemas.topics import DEAD_LETTERS, SOURCE_TOPICS
from worker.recall import playbook
from worker.recall.risk.trainer import Trainer
from worker.recall.step import Customers
from worker.stream.dead_letters import DeadLetters
from worker.stream.partition import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.snapshots import Snapshot
    from worker.recall.risk.model import Scorer
    from worker.settings import Settings


def customers(settings: Settings, models: Mapping[int, Scorer]) -> Customers:
    """Return the processor; `models` may grow while it runs."""
    paths = (settings.playbook, *settings.earlier_playbooks)
    return Customers(settings.shop(), [playbook.load(path) for path in paths], models)


def trainer(settings: Settings, snapshot: Snapshot | None = None) -> Trainer:
    """Return the trainer, where the snapshot left it."""
    shop = settings.shop()
    return Trainer(horizon_days=shop.horizon_days, partitions=settings.partitions, days=shop.days, snapshot=snapshot)


def layout(number: int, settings: Settings) -> Layout:
    """Return where a source partition stands."""
    salt = hashlib.blake2b(settings.salt.encode(), digest_size=32, person=b"dead-letter").digest()
    return Layout(number, SOURCE_TOPICS, DeadLetters(DEAD_LETTERS, salt))
