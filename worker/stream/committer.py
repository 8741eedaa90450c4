"""Rows, outputs and source offsets of a lane go out together.

Transactional: one transactional producer for each lane, whose epoch fences a stalled predecessor; one short transaction
for each commit. (The producer's epoch is the only fence: aiokafka commits offsets without member or generation.)

Plain, for brokers without transactions: outputs first, awaited; then rows and partition record, which holds the
offsets, in one record batch, which is atomic. After a crash outputs may come again with the same id. No fence: one
process.

Any failure ends the process without a commit: what was staged in memory can no longer be trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition

from worker.stream.record import PARTITION_KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.stream.partition import Unit
    from worker.stream.processor import Output

log = structlog.get_logger("recall.commit")

EXIT_COMMIT_FAILED = 70
EXIT_LEFTOVER = 71
EXIT_REFUSED = 78
PENDING_BYTES_MAX = 8_000_000
"""What may wait for a commit before the lane stops working ahead."""
RECORD_OVERHEAD_BYTES = 64


class CommitSettings(NamedTuple):
    """How commits are made; `connection` are aiokafka's keywords for reaching the broker."""

    group: str
    transactional: bool
    interval_s: float
    connection: dict[str, Any]
    idle_s: float = 60.0
    """How often offsets are committed where nothing but the clock moves."""
    batch_bytes_max: int = 900_000
    """Of a record batch; below the broker's `message.max.bytes`."""
    transaction_timeout_s: float = 20.0
    deadline_s: float = 30.0
    """For a commit as a whole; aiokafka waits for ever in places."""
    retry_backoff_ms: int = 10


class Commit(NamedTuple):
    """What a commit has made durable: the next source offsets, and the last offset in the changelog."""

    partition: int
    offsets: dict[str, int]
    changelog_offset: int | None


def die(code: int, event: str, **fields: object) -> None:
    """End the process at once: no further commit, and no clean-up that might make one."""
    log.critical(event, **fields)
    os._exit(code)


class _Pending:
    """Units that wait for the next commit, as one."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.outputs: list[Output] = []
        self.last: Unit | None = None
        self.size = 0

    def add(self, unit: Unit) -> None:
        self.rows.update(unit.rows)
        self.outputs += unit.outputs
        self.last = unit
        self.size += size_of(unit)


def size_of(unit: Unit) -> int:
    """Return about how many bytes the unit's rows take in the changelog."""
    return sum(len(key) + len(row or b"") + RECORD_OVERHEAD_BYTES for key, row in unit.rows.items()) + len(unit.record)


class Committer:
    """Commits the units of one lane, in their order."""

    def __init__(
        self,
        name: str,
        number: int,
        settings: CommitSettings,
        changelog: str | None,
        committed: Callable[[Commit], Awaitable[None]],
    ) -> None:
        """Make a committer for a lane; `committed` is called after each commit."""
        self.name = name
        self.number = number
        self._settings = settings
        self._changelog = changelog
        self._committed = committed
        self._bytes_max = PENDING_BYTES_MAX if settings.transactional else settings.batch_bytes_max
        self._pending = _Pending()
        self._busy = False
        self._due = asyncio.Event()
        self._hurry = asyncio.Event()
        self._done = asyncio.Condition()
        self._last_commit = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._producer = self._make_producer()

    def _make_producer(self) -> AIOKafkaProducer:
        settings = self._settings
        options: dict[str, Any] = {
            **settings.connection,
            "acks": "all",
            "enable_idempotence": True,
            "max_batch_size": settings.batch_bytes_max,
            "max_request_size": settings.batch_bytes_max + 100_000,
            "request_timeout_ms": int(settings.transaction_timeout_s * 1000),
            "retry_backoff_ms": settings.retry_backoff_ms,
        }
        if settings.transactional:
            options["transactional_id"] = f"{settings.group}-{self.name}-{self.number}"
            options["transaction_timeout_ms"] = int(settings.transaction_timeout_s * 1000)
        return AIOKafkaProducer(**options)

    async def start(self) -> None:
        """Fence whoever had the lane before; only then may its changelog's end and its offsets be read."""
        await asyncio.wait_for(self._producer.start(), self._settings.deadline_s)
        self._task = asyncio.create_task(self._run(), name=f"committer {self.name} {self.number}")

    async def stop(self) -> None:
        """Let go of the lane; units that were not committed cannot be left behind."""
        if self._busy or self._pending.last is not None:
            die(EXIT_LEFTOVER, "units left uncommitted", lane=self.name, partition=self.number)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._producer.stop()

    async def add(self, unit: Unit) -> None:
        """Take a unit; waits while it does not fit beside those that wait for their commit."""
        size = size_of(unit)
        if size > self._bytes_max and not self._settings.transactional:
            place = {"lane": self.name, "partition": self.number}
            die(EXIT_COMMIT_FAILED, "unit too large for a record batch", **place, size=size, allowed=self._bytes_max)
        async with self._done:
            while self._pending.last is not None and self._pending.size + size > self._bytes_max:
                self._due.set()
                await self._done.wait()
        self._pending.add(unit)
        if not unit.idle or time.monotonic() - self._last_commit >= self._settings.idle_s:
            self._due.set()

    async def drain(self) -> None:
        """Commit all that was added, without waiting for the interval."""
        self._hurry.set()
        async with self._done:
            while self._busy or self._pending.last is not None:
                if self._pending.last is not None:
                    self._due.set()
                await self._done.wait()
        self._hurry.clear()

    async def _run(self) -> None:
        try:
            while True:
                await self._due.wait()
                await self._wait_for_interval()
                self._due.clear()
                pending, self._pending = self._pending, _Pending()
                if pending.last is None:
                    continue
                self._busy = True
                await asyncio.wait_for(self._commit(pending, pending.last), self._settings.deadline_s)
                self._busy = False
                self._last_commit = time.monotonic()
                async with self._done:
                    self._done.notify_all()
        except Exception as error:  # noqa: BLE001 - fenced, timed out, refused: a new process takes over
            place = {"lane": self.name, "partition": self.number}
            die(EXIT_COMMIT_FAILED, "commit failed", **place, error=repr(error), exc_info=True)

    async def _wait_for_interval(self) -> None:
        """Let units gather until the last commit is an interval ago."""
        wait = self._last_commit + self._settings.interval_s - time.monotonic()
        if wait > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), wait)

    async def _commit(self, pending: _Pending, last: Unit) -> None:
        if self._settings.transactional:
            changelog_offset = await self._commit_transaction(pending, last)
        else:
            changelog_offset = await self._commit_plainly(pending, last)
        await self._committed(Commit(self.number, last.offsets, changelog_offset))

    async def _commit_transaction(self, pending: _Pending, last: Unit) -> int | None:
        producer = self._producer
        await producer.begin_transaction()
        batches = []
        if self._changelog is not None:
            batches = [
                (await producer.send_batch(batch, self._changelog, partition=self.number), batch)
                for batch in self._batches(pending.rows, last.record)
            ]
        outputs = [await self._send(output) for output in pending.outputs]
        offsets = {TopicPartition(topic, self.number): offset for topic, offset in last.offsets.items()}
        if offsets:  # before the first record there are none, and aiokafka takes that for a mistake
            await producer.send_offsets_to_transaction(offsets, self._settings.group)
        # commit_transaction() commits even where a batch was refused: look at every answer first.
        changelog_offset = None
        for future, batch in batches:
            changelog_offset = (await future).offset + batch.record_count() - 1
        for future in outputs:
            await future
        await producer.commit_transaction()
        return changelog_offset

    async def _commit_plainly(self, pending: _Pending, last: Unit) -> int | None:
        for future in [await self._send(output) for output in pending.outputs]:
            await future
        if self._changelog is None:
            return None
        [batch] = self._batches(pending.rows, last.record)
        metadata = await (await self._producer.send_batch(batch, self._changelog, partition=self.number))
        offset: int = metadata.offset + batch.record_count() - 1
        return offset

    async def _send(self, output: Output) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = await self._producer.send(
            output.topic,
            output.value,
            key=output.key,
            partition=output.partition,
            headers=list(output.headers) or None,
        )
        return future

    def _batches(self, rows: dict[bytes, bytes | None], record: bytes) -> list[Any]:
        """Return the changelog's record batches; the partition record is the last one in the last."""
        batch = self._producer.create_batch()
        batches = [batch]
        for key, row in [*rows.items(), (PARTITION_KEY, record)]:
            if batch.append(key=key, value=row, timestamp=None) is None:
                batch = self._producer.create_batch()
                batches.append(batch)
                if batch.append(key=key, value=row, timestamp=None) is None:
                    raise ValueError(f"a row of {len(row or b'')} bytes does not fit a record batch")
        return batches
