"""The model's snapshots, as every worker has them at hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from schemas.snapshots import Snapshot
from schemas.topics import MODEL
from worker.recall.risk.model import Scorer, SnapshotError
from worker.stream.exits import die

if TYPE_CHECKING:
    from worker.stream.connection import Connection

log = structlog.get_logger("recall.models")

EXIT_MODELS_FAILED = 74


class Models:
    """All snapshots of the model, read whole by every worker and kept up to date."""

    def __init__(self, connection: Connection) -> None:
        self.scorers: dict[int, Scorer] = {}
        self.latest: Snapshot | None = None
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
                    self._take(record.value, record.offset)
                if not self._asked and await consumer.position(place) >= end:
                    self._caught_up.set()
        finally:
            await consumer.stop()

    def _take(self, value: bytes | None, offset: int) -> None:
        """Keep a snapshot; one that cannot be read holds only the partitions that adopt it."""
        if value is None:
            return
        try:
            snapshot = Snapshot.model_validate_json(value)
            self.scorers[snapshot.version] = Scorer(snapshot)
        except (ValidationError, SnapshotError) as error:
            log.warning("snapshot cannot be read", topic=MODEL, offset=offset, reason=str(error))
            return
        if self.latest is None or snapshot.version > self.latest.version:
            self.latest = snapshot
