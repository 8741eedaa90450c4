"""The live worker: Faust, the lanes of the source partitions, the trainer's lane, the ticks.

`recall worker` runs it, and so does `faust -A worker.app worker`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import faust
import orjson
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.snapshots import Snapshot
from schemas.topics import SOURCE_TOPICS
from schemas.values import rfc3339
from worker import bootstrap, settings
from worker.recall.risk.model import Scorer
from worker.stream.committer import CommitSettings, die
from worker.stream.lane import Group, Work
from worker.stream.partition import Partition, Unit
from worker.stream.processor import Output
from worker.stream.transport import StreamApp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableMapping

    from worker.recall.profile import Profile
    from worker.recall.risk.trainer import Trainer
    from worker.recall.shop import Shared
    from worker.settings import Settings
    from worker.stream.partition import SourceRecord

log = structlog.get_logger("recall.worker")

CONTROL = "control"
MODEL = "churn-model"
TRAINING = "churn-training"
PLAIN_ROWS_MAX = 100
"""Rows of a unit in plain mode: even the largest ones fit one record batch."""
EXIT_MODELS_FAILED = 74


class Models:
    """All snapshots of the model, read whole by every worker and kept up to date."""

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self.scorers: dict[int, Scorer] = {}
        self.latest: Snapshot | None = None
        self._connection = connection
        self._caught_up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Wait until what was there at the start has been read; the first call starts the reading."""
        if self._task is None:
            self._task = asyncio.create_task(self._run_guarded(), name="models")
        await self._caught_up.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run_guarded(self) -> None:
        try:
            await self.run()
        except Exception as error:  # noqa: BLE001 - without the models adoptions would hold for ever
            die(EXIT_MODELS_FAILED, "reading the models failed", error=repr(error), exc_info=True)

    async def run(self) -> None:
        """Read for ever."""
        consumer = AIOKafkaConsumer(
            **self._connection, isolation_level="read_committed", auto_offset_reset="earliest", enable_auto_commit=False
        )
        await consumer.start()
        try:
            place = TopicPartition(MODEL, 0)
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while True:
                fetched = await consumer.getmany(place, timeout_ms=500)
                for record in fetched.get(place, ()):
                    self._take(record.value)
                if await consumer.position(place) >= end:
                    self._caught_up.set()
        finally:
            await consumer.stop()

    def _take(self, value: bytes | None) -> None:
        if value is None:
            return
        snapshot = Snapshot.model_validate_json(value)
        self.scorers[snapshot.version] = Scorer(snapshot)
        if self.latest is None or snapshot.version > self.latest.version:
            self.latest = snapshot


class TrainerWork:
    """The trainer as the work of a lane: its state is its last snapshot and the records after it."""

    held: str | None = None

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._records: list[SourceRecord] = []
        self._start = trainer.resume_offset

    def feed(self, topic: str, records: Iterable[SourceRecord]) -> None:  # noqa: ARG002 - of the protocol
        self._records.extend(records)

    def buffered(self, topic: str) -> int:  # noqa: ARG002 - of the protocol
        return len(self._records)

    def expect(self, topic: str, *, more: bool) -> None:
        """Nothing to wait for: there is one topic."""

    def claim(self, partitions: Mapping[str, int], topic_ids: Mapping[str, str]) -> None:
        """Nothing to refuse: no state but what the topics hold."""

    def start_offset(self, topic: str) -> int | None:  # noqa: ARG002 - of the protocol
        return self._start or None

    def advance(self) -> Unit | None:
        if not self._records:
            return None
        records, self._records = self._records, []
        outputs: list[Output] = []
        for record in records:
            outputs += self._trainer.take(record.offset, record.value or b"")
        return Unit({}, outputs, {TRAINING: records[-1].offset + 1}, len(records), b"")


def wall_ms() -> int:
    """Return the wall clock, ms; the only place where the worker looks at it."""
    return time.time_ns() // 1_000_000


def create_app(config: Settings, *, wall: Callable[[], int] = wall_ms) -> StreamApp:
    """Put the worker together; `wall` is what ticks are written from."""
    require_guards(config)
    connection = {"bootstrap_servers": config.broker}
    models = Models(connection)
    customers = bootstrap.customers(config, models.scorers)
    rows_max = 2048 if config.mode == "transactional" else PLAIN_ROWS_MAX

    async def open_partition(number: int, rows: MutableMapping[bytes, bytes]) -> Work:
        await models.ready()
        partition: Partition[Profile, Shared] = Partition(bootstrap.layout(number), customers, rows, rows_max=rows_max)
        return partition

    async def open_trainer(_number: int, _rows: MutableMapping[bytes, bytes]) -> Work:
        await models.ready()
        return TrainerWork(bootstrap.trainer(config, models.latest))

    def greet(number: int, work: Work) -> Iterable[Output]:
        """Say when the worker took the partition up again, so that nothing goes out late."""
        if config.clock != "wall":
            return ()
        assert isinstance(work, Partition)  # opened above
        resumed = {"kind": "resumed", "at": rfc3339(work.clock), "wall": rfc3339(wall())}
        return (Output(CONTROL, None, orjson.dumps(resumed), partition=number),)

    app = StreamApp(
        config.app_id,
        groups=(
            Group("partition", SOURCE_TOPICS, open_partition, greet, has_rows=True),
            Group("trainer", (TRAINING,), open_trainer, lambda _number, _work: (), has_rows=False),
        ),
        partitions=config.partitions,
        commit_settings=CommitSettings(
            group=config.app_id,
            transactional=config.mode == "transactional",
            interval_s=config.commit_interval_ms / 1000,
            connection=connection,
        ),
        session_timeout_s=config.session_timeout_s,
        broker=f"kafka://{config.broker}",
        web_port=config.web_port or 6066,
        web_enabled=config.web_port != 0,
        datadir=str(config.datadir),
    )

    @app.on_before_shutdown.connect
    async def stop_models(*_args: object, **_kwargs: object) -> None:
        await models.stop()

    if config.clock == "wall":

        @app.timer(config.tick_s)
        async def write_ticks() -> None:
            if app.rebalancing or app.in_recovery:
                return
            at = rfc3339(wall())
            value = orjson.dumps({"kind": "tick", "at": at})
            for lane in list(app.lanes):
                if lane.group.name == "partition" and lane.work is not None:
                    await app.write(Output(CONTROL, None, value, partition=lane.number))

    return app


def require_guards(config: Settings) -> None:
    """Refuse a start that could reach real customers unawares."""
    if config.live_from is None:
        raise settings.SettingsError(
            "settings: live_from is not set: allowed is the time from which on commands may leave, as in "
            "RECALL_LIVE_FROM=2026-01-05T00:00:00Z"
        )
    if config.mode == "transactional" and not (config.dry_run or config.accept_missing_guards):
        raise settings.SettingsError(
            "settings: quiet hours, choice and budgets are not there yet. Allowed is RECALL_DRY_RUN=true, which records "
            "what would be sent, or RECALL_ACCEPT_MISSING_GUARDS=true, which sends it"
        )


def run(config: Settings) -> None:
    """Run the worker until it is told to stop."""
    start(create_app(config))


def start(app: StreamApp) -> None:
    """Run an app as a process of its own; SIGTERM commits what is in hand and ends it."""
    app.finalize()
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()


def __getattr__(name: str) -> Any:
    """Make `app` when it is asked for, as `faust -A worker.app` does: importing needs no settings."""
    if name == "app":
        app = globals()["app"] = create_app(settings.load())
        return app
    raise AttributeError(name)
