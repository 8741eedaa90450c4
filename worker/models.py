"""The model's snapshots, as every worker has them at hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from schemas.snapshots import MeasuresRecord, Snapshot, read_model
from schemas.topics import MODEL
from worker.recall.risk.scorer import Scorer, SnapshotError
from worker.stream.exits import die

if TYPE_CHECKING:
    from worker.stream.connection import Connection

log = structlog.get_logger("recall.models")

EXIT_MODELS_FAILED = 74


class Models:
    """All snapshots of the model, read whole by every worker and kept up to date."""

    def __init__(self, connection: Connection) -> None:
        self.scorers: dict[tuple[int, int], Scorer | None] = {}
        """By horizon and version; None where a snapshot is refused here."""
        self.latest: dict[int, Snapshot] = {}
        """By horizon, also those that are refused: learning goes on after them."""
        self._measures: dict[tuple[int, int], MeasuresRecord] = {}
        self._last_versions: dict[int, int] = {}
        self._connection = connection
        self._caught_up = asyncio.Event()
        self._asked = False
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Wait until all that is there now has been read; the first call starts the reading."""
        if self._task is None:
            self._task = asyncio.create_task(self._run_guarded(), name="models")
        self._caught_up.clear()
        self._asked = True
        await self._caught_up.wait()

    async def on_shutdown(self, *_args: object, **_kwargs: object) -> None:
        """Stop reading; connected to Faust's signal."""
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
            **self._connection.aiokafka(),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            place = TopicPartition(MODEL, 0)
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = 0
            while True:
                if self._asked:
                    self._asked = False
                    end = (await consumer.end_offsets([place]))[place]
                fetched = await consumer.getmany(place, timeout_ms=100)
                for record in fetched.get(place, ()):
                    self._take(record.key, record.value, record.offset)
                if not self._asked and await consumer.position(place) >= end:
                    self._caught_up.set()
        finally:
            await consumer.stop()

    def measures(self, snapshot: Snapshot) -> MeasuresRecord | None:
        """Return the sums behind a snapshot's figures, or of another version where those are gone."""
        return self._measures.get((snapshot.horizon_days, snapshot.version % 2))

    def last_version(self, horizon_days: int) -> int:
        """Return the last version that was given to a horizon, also to a snapshot that cannot be read."""
        return self._last_versions.get(horizon_days, 0)

    def _take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """Keep a record; a snapshot that cannot be read holds only the partitions that adopt it.

        One that can be read and not be used, since it was learned on other features, holds none: the last good one
        stays in force.
        """
        horizon, _, version = (key or b"").decode(errors="replace").partition("/")
        if horizon.isdecimal() and version.isdecimal():
            self._last_versions[int(horizon)] = max(self._last_versions.get(int(horizon), 0), int(version))
        if value is None:
            return
        try:
            record = read_model(value)
        except ValidationError as error:
            log.warning("record of the model cannot be read", topic=MODEL, offset=offset, reason=str(error))
            return
        place = (record.horizon_days, record.version)
        if isinstance(record, MeasuresRecord):
            self._measures[record.horizon_days, record.version % 2] = record
            return
        try:
            self.scorers[place] = Scorer(record)
        except SnapshotError as error:
            self.scorers[place] = None
            log.warning("snapshot is refused: the last good one goes on", topic=MODEL, offset=offset, reason=str(error))
        latest = self.latest.get(record.horizon_days)
        if latest is None or record.version > latest.version:
            self.latest[record.horizon_days] = record
