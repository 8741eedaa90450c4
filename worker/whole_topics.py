"""Topics of one partition that every worker reads whole and keeps up with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from worker.stream.exits import die

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.stream.connection import Connection

EXIT_WHOLE_TOPICS_FAILED = 74


class Take(Protocol):
    """What becomes of a record; it must not raise for what a record holds."""

    def __call__(self, key: bytes | None, value: bytes | None, offset: int, /) -> None: ...


class WholeTopics:
    """Reads the topics, each record by the function of its topic, as one consumer that is in no group."""

    def __init__(self, connection: Connection, takes: Mapping[str, Take]) -> None:
        self._connection = connection
        self._takes = {TopicPartition(topic, 0): take for topic, take in takes.items()}
        self._caught_up = asyncio.Event()
        self._asked = False
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Wait until all that is there now has been read; the first call starts the reading."""
        if self._task is None:
            self._task = asyncio.create_task(self._run_guarded(), name="whole topics")
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
        except Exception as error:  # noqa: BLE001 - without them partitions would wait for ever
            told = ", ".join(place.topic for place in self._takes)
            die(EXIT_WHOLE_TOPICS_FAILED, f"reading {told} failed", error=repr(error), exc_info=True)

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
            places = list(self._takes)
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends: dict[TopicPartition, int] = {}
            while True:
                if self._asked:
                    self._asked = False
                    ends = await consumer.end_offsets(places)
                for place, records in (await consumer.getmany(*places, timeout_ms=100)).items():
                    take = self._takes[place]
                    for record in records:
                        take(record.key, record.value, record.offset)
                if not self._asked and all([await consumer.position(place) >= end for place, end in ends.items()]):
                    self._caught_up.set()
        finally:
            await consumer.stop()
