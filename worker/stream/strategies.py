"""How a commit becomes durable, chosen explicitly.

Transactional: one transactional producer for each lane, whose epoch fences a stalled predecessor; one short transaction
for each commit. (The producer's epoch is the only fence: aiokafka commits offsets without member or generation.)

Plain, for brokers without transactions: outputs first, awaited; then rows and partition record, which holds the
offsets, in one record batch, which is atomic. After a crash outputs may come again with the same id. No fence: one
process.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka import TopicPartition

from worker.stream.producer import LaneProducer
from worker.stream.record import PARTITION_KEY

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Mapping

    from worker.stream.committer import CommitSettings, Gathered, Strategy
    from worker.stream.processor import Output


class Producer(Protocol):
    """What is needed of aiokafka's producer."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def begin_transaction(self) -> None: ...
    async def commit_transaction(self) -> None: ...
    async def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, int], group_id: str) -> None: ...
    def create_batch(self) -> Any: ...
    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Future[Any]: ...
    async def send(
        self, topic: str, value: bytes, key: bytes | None, partition: int | None, *, headers: Any
    ) -> Future[Any]: ...


class Transactional:
    """Rows, outputs and offsets in one transaction."""

    row_bytes_max = sys.maxsize  # in as many batches as it takes
    tells_group = True

    def __init__(self, producer: Producer, number: int, changelog: str | None, settings: CommitSettings) -> None:
        """Take a producer with a transactional id that belongs to the lane alone."""
        self._producer = producer
        self._number = number
        self._changelog = changelog
        self._group = settings.group
        self._batch_bytes_max = settings.batch_bytes_max
        self.start, self.stop = producer.start, producer.stop

    async def commit(self, gathered: Gathered) -> int | None:
        producer, number = self._producer, self._number
        rows_wanted = self._changelog is not None and gathered.units
        batches = batches_of(producer, gathered, self._batch_bytes_max) if rows_wanted else []
        await producer.begin_transaction()
        # Outputs first: what is sent in one go is added to the transaction in one request.
        outputs = [await send(producer, output) for output in gathered.outputs]
        rows = [(await producer.send_batch(batch, self._changelog or "", partition=number), batch) for batch in batches]
        offsets = {TopicPartition(topic, number): offset for topic, offset in gathered.group_offsets.items()}
        if offsets:  # aiokafka takes none for a mistake
            await producer.send_offsets_to_transaction(offsets, self._group)
        # commit_transaction() commits even where a batch was refused: look at every answer first.
        changelog_offset = None
        for future, batch in rows:
            changelog_offset = last_offset(await future, batch)
        for output in outputs:
            await output
        await producer.commit_transaction()
        return changelog_offset


class Plain:
    """Outputs, then rows and offsets in one record batch."""

    tells_group = False

    def __init__(
        self,
        producer: Producer,
        number: int,
        changelog: str | None,
        settings: CommitSettings,
        check_stall: Callable[[], None],
    ) -> None:
        """Take an idempotent producer.

        `check_stall` ends the process where it stood still for so long that another one may have the lane.
        """
        self.row_bytes_max = settings.batch_bytes_max
        self._check_stall = check_stall
        self._producer = producer
        self._number = number
        self._changelog = changelog
        self.start, self.stop = producer.start, producer.stop

    async def commit(self, gathered: Gathered) -> int | None:
        producer = self._producer
        self._check_stall()
        for output in [await send(producer, output) for output in gathered.outputs]:
            await output
        if self._changelog is None:
            return None
        self._check_stall()
        [batch] = batches_of(producer, gathered, self.row_bytes_max)
        return last_offset(await (await producer.send_batch(batch, self._changelog, partition=self._number)), batch)


def choose(
    settings: CommitSettings, name: str, number: int, changelog: str | None, check_stall: Callable[[], None]
) -> Strategy:
    """Return the strategy that the settings name, for a lane."""
    if settings.transactional:
        producer = LaneProducer(settings, f"{settings.group}-{name}-{number}")
        return Transactional(producer, number, changelog, settings)
    return Plain(LaneProducer(settings, None), number, changelog, settings, check_stall)


async def send(producer: Producer, output: Output) -> Future[Any]:
    """Hand an output to the producer; what is returned says whether it arrived."""
    headers = list(output.headers) or None
    return await producer.send(output.topic, output.value, output.key, output.partition, headers=headers)


def batches_of(producer: Producer, gathered: Gathered, batch_bytes_max: int) -> list[Any]:
    """Return the changelog's record batches; the partition record is the last one in the last.

    Raises:
        ValueError: where a row alone is larger than a batch may be.

    """
    batch = producer.create_batch()
    batches = [batch]
    for key, row in [*gathered.rows.items(), (PARTITION_KEY, gathered.record)]:
        if batch.append(key=key, value=row, timestamp=None) is None:
            batch = producer.create_batch()
            batches.append(batch)
            if batch.append(key=key, value=row, timestamp=None) is None:
                raise ValueError(f"a row of {len(row or b'')} bytes was refused by an empty record batch")
    for batch in batches:  # aiokafka takes the first record whatever its size
        if batch.size() > batch_bytes_max:
            raise ValueError(f"a row makes a record batch of {batch.size()} bytes: allowed are {batch_bytes_max}")
    return batches


def last_offset(metadata: Any, batch: Any) -> int:
    offset: int = metadata.offset + batch.record_count() - 1
    return offset
