"""The model's snapshots, as every worker has them at hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.snapshots import Snapshot
from worker.recall.risk.model import Scorer
from worker.stream.committer import die

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = "churn-model"
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
