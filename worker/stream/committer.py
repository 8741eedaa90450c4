"""Rows, outputs and source offsets of a lane go out together.

The committer gathers the units of a lane and decides when a commit is due; how it is made durable is a strategy's
(`strategies`). Any failure ends the process without a commit: what was staged in memory can no longer be trusted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, Protocol

from worker.stream.exits import EXIT_COMMIT_FAILED, EXIT_LEFTOVER
from worker.stream.record import PARTITION_KEY, RECORD_OVERHEAD_BYTES, changelog_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.stream.connection import Connection
    from worker.stream.exits import Die
    from worker.stream.partition import Unit
    from worker.stream.processor import Output

GATHERED_BYTES_MAX = 8_000_000
"""What may wait for a commit before the lane stops working ahead; a unit that is larger waits alone."""
PARTITION_RECORD_BYTES_MAX = 100_000


class CommitSettings(NamedTuple):
    """How commits are made, and over which connection."""

    group: str
    """The consumer group, and the app's id: the name under which everything is kept."""
    connection: Connection
    transactional: bool = True
    interval_s: float = 0.025
    idle_s: float = 60.0
    """How often offsets are committed where nothing but the clock moves."""
    offsets_s: float = 1.0
    """How far the group's offsets may lag behind the commits. They are for monitors: what counts lies in the partition
    record, in every commit. To tell the group is half of a transaction's time and a third of its CPU."""
    batch_bytes_max: int = 900_000
    """Of a record batch; below the broker's `message.max.bytes`."""
    transaction_timeout_s: float = 20.0
    deadline_s: float = 30.0
    """For a commit, a fence or a good-bye as a whole; aiokafka waits for ever in places."""
    stop_s: float = 8.0
    """For the last commits of all lanes, when they are taken away or the worker stops."""
    retry_backoff_ms: int = 10

    @property
    def unit_bytes_max(self) -> int | None:
        """What the rows of a unit of work may come to; None for any.

        Without transactions a unit's rows and, beside them, the partition record must fit one record batch.
        """
        return None if self.transactional else self.batch_bytes_max - PARTITION_RECORD_BYTES_MAX


class Commit(NamedTuple):
    """What a commit has made durable, and what it took."""

    partition: int
    offsets: dict[str, int]
    """The next source offsets, by topic."""
    changelog_offset: int | None
    """The last offset in the changelog; None where the lane has none."""
    rows: dict[bytes, bytes | None]
    """Those of the changelog, partition record included; None for those that were dropped."""
    records: int
    """Source records whose effects it holds."""
    outputs: int
    bytes: int
    """About what it wrote, rows and outputs together."""
    duration_s: float


class Gathered:
    """Units that are to be committed as one."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.outputs: list[Output] = []
        self.offsets: dict[str, int] = {}
        self.group_offsets: dict[str, int] = {}
        """What the consumer group is told with this commit."""
        self.record = b""
        self.records = 0
        self.units = 0
        self.idle = True
        """Whether nothing moved but the partition record."""
        self.row_bytes = 0
        self.output_bytes = 0

    @property
    def bytes(self) -> int:
        return self.row_bytes + self.output_bytes

    def add(self, unit: Unit) -> None:
        self.rows.update(unit.rows)
        self.outputs += unit.outputs
        self.offsets, self.record = unit.offsets, unit.record
        self.records += unit.records
        self.units += 1
        self.idle = self.idle and unit.idle
        self.row_bytes += row_bytes(unit)
        self.output_bytes += output_bytes(unit)


def row_bytes(unit: Unit) -> int:
    """Return how many bytes the unit takes in the changelog, at most."""
    header = RECORD_OVERHEAD_BYTES
    return header + changelog_bytes(unit.rows) + changelog_bytes({PARTITION_KEY: unit.record})


def output_bytes(unit: Unit) -> int:
    """Return about how many bytes the unit's outputs take."""
    return sum(len(output.key or b"") + len(output.value) + RECORD_OVERHEAD_BYTES for output in unit.outputs)


class Strategy(Protocol):
    """How units become durable, all or nothing of their rows and offsets."""

    row_bytes_max: int
    """Of the rows of one commit."""
    tells_group: bool
    """Whether the group's offsets are part of the commit."""

    async def start(self) -> None:
        """Connect; where there is a fence, shut out whoever had the lane before."""

    async def stop(self) -> None:
        """Let go of the broker."""

    async def commit(self, gathered: Gathered) -> int | None:
        """Return the last offset in the changelog, once all is durable; raise where that is not certain.

        Where no units were gathered, only the group is told; None is returned.
        """


class Committer:
    """Commits the units of one lane, in their order.

    The first unit after a quiet interval goes out at once; those that follow gather for the rest of theirs.
    """

    def __init__(
        self,
        name: str,
        number: int,
        settings: CommitSettings,
        strategy: Strategy,
        committed: Callable[[Commit], Awaitable[None]],
        *,
        die: Die,
    ) -> None:
        """Make a committer for a lane; `committed` is called after each commit."""
        self.name = name
        self.number = number
        self._place = {"lane": name, "partition": number}
        self._settings = settings
        self._strategy = strategy
        self._committed = committed
        self._die = die
        self._gathered = Gathered()
        self._owed: dict[str, int] = {}
        """Offsets that are committed and that the group was not told."""
        self._busy = False
        self._draining = False
        self._due = asyncio.Event()
        self._done = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._time = asyncio.get_running_loop().time
        self._last_commit = self._time()
        self._last_told = -settings.offsets_s

    async def start(self) -> None:
        """Fence whoever had the lane before; only then may its changelog's end and its offsets be read."""
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                await self._strategy.start()
        except Exception as error:  # noqa: BLE001 - refused, timed out: a new process tries again
            self._die(EXIT_COMMIT_FAILED, "no producer", **self._place, error=repr(error), exc_info=True)
        self._task = asyncio.create_task(self._run(), name=f"committer {self.name} {self.number}")

    async def stop(self) -> None:
        """Let go of the lane; units that were not committed cannot be left behind."""
        if self._busy or self._gathered.units:
            self._die(EXIT_LEFTOVER, "units left uncommitted", **self._place)
        self._disarm()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                await self._strategy.stop()
        except Exception as error:  # noqa: BLE001 - nothing is lost, but who knows what still runs
            self._die(EXIT_COMMIT_FAILED, "no end of the producer", **self._place, error=repr(error), exc_info=True)

    async def add(self, unit: Unit) -> None:
        """Take a unit; waits while it does not fit beside those that wait for their commit."""
        size, allowed = row_bytes(unit), self._strategy.row_bytes_max
        if size > allowed:
            self._die(EXIT_COMMIT_FAILED, "unit too large for a commit", **self._place, size=size, allowed=allowed)
        total = size + output_bytes(unit)
        while (gathered := self._gathered).units and (
            gathered.row_bytes + size > allowed or gathered.bytes + total > GATHERED_BYTES_MAX
        ):
            self._due.set()
            await self._next_commit()
        gathered.add(unit)
        if not self._busy:
            self._arm()

    def owe(self, offsets: dict[str, int]) -> None:
        """Tell the group where the lane begins: its predecessor may have died before it did."""
        if self._strategy.tells_group and offsets:
            self._owed = offsets
            self._arm()

    async def drain(self) -> None:
        """Commit all that was added, without waiting for the interval, and tell the group."""
        self._draining = True
        while self._busy or self._open:
            if self._open:
                self._due.set()
            await self._next_commit()
        self._draining = False

    @property
    def _open(self) -> bool:
        return self._gathered.units > 0 or bool(self._owed)

    async def _next_commit(self) -> None:
        self._done.clear()
        await self._done.wait()

    def _arm(self) -> None:
        """See to it that what has gathered is committed in its time."""
        settings = self._settings
        wait = max(settings.idle_s, settings.interval_s) if self._gathered.idle else settings.interval_s
        at = self._last_commit + wait
        if self._owed:
            at = min(at, self._last_told + settings.offsets_s)
        if at <= self._time():
            self._due.set()
        elif self._timer is None or at < self._timer.when():
            self._disarm()
            self._timer = asyncio.get_running_loop().call_at(at, self._due.set)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _run(self) -> None:
        try:
            while True:
                await self._due.wait()
                self._disarm()
                self._due.clear()
                if self._open:
                    await self._commit()
        except Exception as error:  # noqa: BLE001 - fenced, timed out, refused: a new process takes over
            self._die(EXIT_COMMIT_FAILED, "commit failed", **self._place, error=repr(error), exc_info=True)

    async def _commit(self) -> None:
        gathered, self._gathered = self._gathered, Gathered()
        self._busy = True
        began = self._time()
        offsets = gathered.offsets or self._owed
        tell = self._strategy.tells_group and (self._draining or began >= self._last_told + self._settings.offsets_s)
        if tell:
            gathered.group_offsets = offsets
        async with asyncio.timeout(self._settings.deadline_s):
            changelog_offset = await self._strategy.commit(gathered)
            commit = Commit(
                partition=self.number,
                offsets=offsets,
                changelog_offset=changelog_offset,
                rows={} if changelog_offset is None else {**gathered.rows, PARTITION_KEY: gathered.record},
                records=gathered.records,
                outputs=len(gathered.outputs),
                bytes=gathered.bytes,
                duration_s=self._time() - began,
            )
            await self._committed(commit)
        self._busy = False
        self._last_commit = self._time()
        self._owed = offsets if self._strategy.tells_group and not tell else {}
        if tell:
            self._last_told = began
        if self._open:
            self._arm()
        self._done.set()
