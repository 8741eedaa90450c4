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

    from schemas.snapshots import MeasuresRecord, Snapshot
    from worker.recall.policy.catalog import Catalog
    from worker.recall.risk.scorer import Scorer
    from worker.settings import Settings


def customers(
    settings: Settings, models: Mapping[tuple[int, int], Scorer | None], catalog: Catalog | None = None
) -> Customers:
    """Return the processor; `models` and `catalog` may grow while it runs."""
    paths = (settings.playbook, *settings.earlier_playbooks)
    return Customers(settings.shop(), [playbook.load(path) for path in paths], models, catalog)


def trainer(
    settings: Settings,
    horizon_days: int,
    snapshot: Snapshot | None = None,
    measures: MeasuresRecord | None = None,
    last_version: int = 0,
) -> Trainer:
    """Return the trainer of a horizon, where the snapshot left it."""
    return Trainer(
        horizon_days=horizon_days,
        partitions=settings.partitions,
        days=settings.shop().days,
        snapshot=snapshot,
        measures=measures,
        last_version=last_version,
        learner=settings.learner,
        sums_choices=horizon_days == settings.shop().horizon_days,
    )


def layout(number: int, settings: Settings) -> Layout:
    """Return where a source partition stands."""
    salt = hashlib.blake2b(settings.salt.encode(), digest_size=32, person=b"dead-letter").digest()
    return Layout(number, SOURCE_TOPICS, DeadLetters(DEAD_LETTERS, salt))
