"""The live worker: Faust, the lanes of the source partitions, the trainer's lane, the ticks.

`recall worker` runs it, and so does `faust -A worker.app worker`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from schemas.topics import CATALOG, CONTROL, MODEL, SOURCE_TOPICS, TRAINING
from schemas.values import rfc3339
from worker import bootstrap, settings, topics
from worker.catalog import Products
from worker.inquiry import Pages
from worker.models import Models
from worker.monitoring import CatalogCollector, CustomersCollector, ModelCollector, PolicyCollector, TrainingCollector
from worker.stream.committer import CommitSettings
from worker.stream.lane import Group, Work
from worker.stream.partition import Partition
from worker.stream.processor import Output
from worker.stream.stores.rocks import RocksStore
from worker.stream.transport import StreamApp
from worker.training import TrainerWork
from worker.whole_topics import WholeTopics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping

    from worker.recall.profile import Profile
    from worker.recall.risk.trainer import Trainer
    from worker.recall.shop import Shared
    from worker.settings import Settings

log = structlog.get_logger("recall.start")

PARTITION_LANES = "partition"
UNIT_ROWS_MAX = 2048
PLAIN_UNIT_ROWS_MAX = 100
"""In plain mode the rows of a unit must fit one record batch: so few do, as a rule, without a second attempt."""


def wall_ms() -> int:
    """Return the wall clock, ms; the only place where the worker looks at it."""
    return time.time_ns() // 1_000_000


def create_app(config: Settings, *, wall: Callable[[], int] = wall_ms) -> StreamApp:
    """Put the worker together; `wall` is what ticks are written from."""
    require_live_from(config)
    connection = config.connection()
    transactional = config.mode == "transactional"
    commits = CommitSettings(
        config.app_id,
        connection,
        transactional=transactional,
        interval_s=config.commit_interval_ms / 1000,
        stop_s=config.stop_timeout_s,
        # Whoever feeds in a history waits for each tick to be committed; a wall clock's ticks follow one another.
        idle_s=60.0 if config.clock == "wall" else 0.0,
        offsets_s=1.0 if config.clock == "wall" else 0.0,
    )
    models = Models()
    products = Products(config.shop().currency, lambda: _latest_clock(app))
    whole_topics = WholeTopics(connection, {MODEL: models.take, CATALOG: products.take})
    customers = bootstrap.customers(config, models.scorers, products.catalog)

    async def open_partition(number: int, rows: MutableMapping[bytes, bytes]) -> Work:
        await whole_topics.ready()
        partition: Partition[Profile, Shared] = Partition(
            bootstrap.layout(number, config),
            customers,
            rows,
            rows_max=UNIT_ROWS_MAX if transactional else PLAIN_UNIT_ROWS_MAX,
            bytes_max=commits.unit_bytes_max,
        )
        in_force = partition.shared.playbook
        if in_force and not customers.knows(in_force):
            raise ValueError(
                f"partition {number}: playbook {in_force} is in force and was not given: name its file in "
                f"RECALL_EARLIER_PLAYBOOKS until `recall adopt-playbook` has brought another one into force"
            )
        _require_snapshots(config, models, number, partition.shared)
        return partition

    async def open_trainer(_number: int, _rows: MutableMapping[bytes, bytes]) -> Work:
        await whole_topics.ready()
        return TrainerWork([_trainer(config, models, horizon_days) for horizon_days in config.horizons_days])

    def greet(number: int, work: Work) -> Iterable[Output]:
        """Say when the worker took the partition up again, so that nothing goes out late."""
        if config.clock == "wall":
            assert isinstance(work, Partition)  # opened above
            resumed = {"kind": "resumed", "at": rfc3339(work.clock), "wall": rfc3339(wall())}
            yield Output(CONTROL, None, orjson.dumps(resumed), partition=number)

    def unready(work: Work) -> list[str]:
        assert isinstance(work, Partition)  # opened above
        return customers.sources_down(work.shared, work.clock)

    app = StreamApp(
        commits,
        groups=(
            Group(PARTITION_LANES, SOURCE_TOPICS, open_partition, greet, first=CONTROL, unready=unready),
            Group("trainer", (TRAINING,), open_trainer, has_rows=False),
        ),
        partitions=config.partitions,
        session_timeout_s=config.session_timeout_s,
        row_store=RocksStore(config.datadir / "rows") if config.store == "rocksdb" else None,
        find_topic_ids=(lambda: asyncio.to_thread(topics.ids, config)) if transactional else None,
        stuck_s=config.stuck_s,
        instance_id=config.instance_id,
        web_port=config.web_port or 6066,
        web_enabled=config.web_port != 0,
        datadir=str(config.datadir),
    )
    app.metrics.registry.register(CustomersCollector(app.lanes))
    app.metrics.registry.register(PolicyCollector(app.lanes, customers))
    app.metrics.registry.register(TrainingCollector(app.lanes))
    app.metrics.registry.register(ModelCollector(models.latest.values, app.lanes, customers.shop.days))
    app.pages.append(Pages(app.lanes, customers, config).add)
    app.metrics.registry.register(CatalogCollector(products))
    app.on_before_shutdown.connect(whole_topics.on_shutdown)
    if config.clock == "wall":
        _write_ticks(app, config.tick_s, wall)
    return app


def _latest_clock(app: StreamApp) -> int:
    """Return how far the partition of this process is that is furthest; 0 while there is none."""
    return max((lane.work.clock for lane in app.lanes if isinstance(lane.work, Partition)), default=0)


def _require_snapshots(config: Settings, models: Models, number: int, shared: Shared) -> None:
    """Refuse to go on without a snapshot in force that is gone; one that is refused leaves the risk unknown."""
    for horizon_days, version in shared.snapshots.items():
        if horizon_days in config.horizons_days and (horizon_days, version) not in models.scorers:
            raise ValueError(
                f"partition {number}: snapshot {horizon_days}/{version} of the model is in force and cannot be read "
                f"from {MODEL}: keep every version there, as `recall topics create` sets it up, and restore this one"
            )


def _trainer(config: Settings, models: Models, horizon_days: int) -> Trainer:
    """Return the trainer of a horizon, where its last snapshot stands."""
    snapshot = models.latest.get(horizon_days)
    measures = None if snapshot is None else models.measures(snapshot)
    trainer = bootstrap.trainer(config, horizon_days, snapshot, measures, models.last_version(horizon_days))
    for note in trainer.notes:
        log.warning("not all of the snapshot can be gone on from", horizon_days=horizon_days, reason=note)
    return trainer


def _write_ticks(app: StreamApp, every_s: float, wall: Callable[[], int]) -> None:
    """Write the wall clock to the control topic of every partition that this process has."""

    @app.timer(every_s)  # type: ignore[untyped-decorator]
    async def write_ticks() -> None:
        if app.rebalancing or app.in_recovery:
            return
        value = orjson.dumps({"kind": "tick", "at": rfc3339(wall())})
        for lane in list(app.lanes):
            if lane.group.name == PARTITION_LANES and lane.work is not None:
                await app.write(Output(CONTROL, None, value, partition=lane.number))


def require_live_from(config: Settings) -> None:
    """Refuse a start that could message real customers about the past."""
    if config.live_from is None:
        raise settings.SettingsError(
            "settings: live_from is not set: allowed is the time from which on commands may leave, as in "
            "RECALL_LIVE_FROM=2026-01-05T00:00:00Z"
        )


def prepare(config: Settings) -> StreamApp:
    """Put the worker together, once the brokers are found to fit.

    Raises:
        SettingsError: where settings are missing.
        TopicsError: where the brokers do not take the worker in, or its topics do not fit.
        UnavailableError: where no broker answers.

    """
    require_live_from(config)
    warnings = topics.check(config)
    log_as_json()
    for warning in [*warnings, *(f"{name} is no setting: it is not read" for name in settings.strangers())]:
        log.warning("found at the start", warning=warning)
    return create_app(config)


def log_as_json() -> None:
    """Write logs as JSON lines."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # plain: variables may hold what a log must not
            structlog.processors.JSONRenderer(),
        ]
    )


def start(app: StreamApp) -> None:
    """Run an app as a process of its own, until SIGTERM."""
    log_as_json()
    app.run()


def __getattr__(name: str) -> Any:
    """Make `app` when it is asked for, as `faust -A worker.app` does: importing needs no settings."""
    if name == "app":
        app = globals()["app"] = prepare(settings.load())
        return app
    raise AttributeError(name)
