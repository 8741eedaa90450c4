"""A lane: what one process does for one partition of co-partitioned topics, from its records to its commits."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from worker.stream.exits import EXIT_LEFTOVER, EXIT_STOP_TIMEOUT, EXIT_WORK_FAILED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping

    from worker.stream.committer import Committer
    from worker.stream.entries import SourceRecord
    from worker.stream.exits import Die
    from worker.stream.partition import Unit, Vitals
    from worker.stream.processor import Output

log = structlog.get_logger("recall.stream")

FEED_RECORDS = 512
"""About how many records are parsed before they are worked off: many more would leave the CPU's caches in between."""
HELD_POLL_S = 0.2
"""How often a lane that waits for something to be loaded looks again."""


class Records(Protocol):
    """Fetched records of one topic, in its order; read once."""

    def __len__(self) -> int:
        """Return how many there are at most."""

    def __iter__(self) -> Iterator[SourceRecord]: ...


class Work(Protocol):
    """What a lane drives; `Partition` is one."""

    held: str | None

    def feed(self, topic: str, records: Iterable[SourceRecord]) -> None: ...
    def buffered(self, topic: str) -> int: ...
    def expect(self, topic: str, *, more: bool) -> None: ...
    def advance(self) -> Unit | None: ...

    def vitals(self) -> Vitals | None:
        """Return what there is to watch."""

    def claim(self, partitions: Mapping[str, int], topic_ids: Mapping[str, str]) -> None:
        """Refuse to go on from a state that belongs to another cluster or layout."""

    def start_offset(self, topic: str) -> int | None:
        """Return the next offset to read, or None where nothing was read yet."""


class Group(NamedTuple):
    """Co-partitioned topics, and how a partition of them is worked off.

    `open` gets the partition's number and its rows; `greet` returns what is written before its first record is merged.
    Nothing is merged before all that `first` held at the start has been fed. `unready` says, in words, what speaks
    against calling the work ready; it is also called from another thread.
    """

    name: str
    topics: tuple[str, ...]
    open: Callable[[int, MutableMapping[bytes, bytes]], Awaitable[Work]]
    greet: Callable[[int, Work], Iterable[Output]] = lambda _number, _work: ()
    has_rows: bool = True
    first: str | None = None
    unready: Callable[[Work], Iterable[str]] = lambda _work: ()


class Lane:
    """A lane in this process: its work, its committer, and the task that drives them.

    Each lane has a task of its own, so that one with much to do holds up neither the others nor the fetches; it yields
    after each unit, and waits while its commits lag behind.
    """

    def __init__(self, group: Group, number: int, committer: Committer, *, die: Die) -> None:
        self.group = group
        self.number = number
        self.committer = committer
        self.work: Work | None = None
        self.ends: dict[str, int] = {}
        """By topic, the end at the start, where that was not fetched yet."""
        self.busy = False
        """Whether its task is at work; it may be waiting for a commit."""
        self._die = die
        self._inbox: deque[tuple[str, Iterable[SourceRecord], int]] = deque()
        self._waiting: Counter[str] = Counter()
        """Records in the inbox, by topic."""
        self._unread: set[str] = set()
        """Topics that hold more at the start than was handed over."""
        self._in_hand = False
        self._closing = False
        self._held: str | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Work, ends: Mapping[str, int]) -> None:
        """Begin; `ends` names the topics that hold more than was read, and where they end now.

        A lane that is closed already does not: what it told the group would be under way when its producer goes.
        """
        if self._closing:
            return
        self.work = work
        self.ends = dict(ends)
        self._unread = set(ends)
        self._expect(work)
        starts = {topic: work.start_offset(topic) for topic in self.group.topics}
        self.committer.owe({topic: start for topic, start in starts.items() if start is not None})
        self._task = asyncio.create_task(self._run(), name=f"lane {self.group.name} {self.number}")

    def put(self, topic: str, records: Records) -> None:
        """Hand over fetched records, each once and in order."""
        iterator, count = iter(records), len(records)
        for first in range(0, count, FEED_RECORDS):
            self._inbox.append((topic, islice(iterator, FEED_RECORDS), min(FEED_RECORDS, count - first)))
        self._waiting[topic] += count
        self._wake.set()

    def reached(self, topic: str) -> None:
        """Say that all that the topic held at the start has been handed over."""
        self._unread.discard(topic)
        self._wake.set()

    def hungry(self, topic: str, records_max: int) -> bool:
        """Tell whether more of the topic may be fetched: little of it waits, or nothing goes on without it."""
        if self.work is None:
            return False
        if topic == self.group.first and topic in self._unread:
            return True
        return self.backlog(topic) < records_max

    def backlog(self, topic: str) -> int:
        """Return how many records of the topic were handed over and not worked off."""
        return self._waiting[topic] + (0 if self.work is None else self.work.buffered(topic))

    async def close(self) -> None:
        """Finish the unit in hand and commit; what is buffered is read again by whoever has the lane next."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])  # which does not cancel it, should this be cancelled
        await self.committer.drain()

    async def stop(self) -> None:
        """Let go of the lane; what was not committed ends the process."""
        if self._in_hand:
            self._die(EXIT_LEFTOVER, "unit left uncommitted", lane=self.group.name, partition=self.number)
        if self._task is not None:
            self._task.cancel()
        await self.committer.stop()

    async def _run(self) -> None:
        try:
            while not self._closing:
                await self._wake.wait()
                self._wake.clear()
                self.busy = True
                await self._work_off()
                self.busy = False
        except Exception as error:  # noqa: BLE001 - a crash that goes through Faust would commit first
            self._die(EXIT_WORK_FAILED, "work failed", lane=self.group.name, error=repr(error), exc_info=True)

    async def _work_off(self) -> None:
        """Do what can be done with what was handed over, of which some is fed whenever nothing else is left to do."""
        work = self.work
        assert work is not None  # set before the task begins
        first = self.group.first
        while not self._closing:
            self._expect(work)
            waits = first is not None and self._is_expected(first)
            unit = None if waits else work.advance()
            if unit is not None:
                self._in_hand = True
                await self.committer.add(unit)
                self._in_hand = False
            elif self._inbox:
                self._feed(work)
                continue
            else:
                break
            await asyncio.sleep(0)
        if work.held != self._held:
            self._held = work.held
            event = "partition waits" if self._held else "partition goes on"
            log.warning(event, partition=self.number, waits_for=self._held)
        if self._held:
            asyncio.get_running_loop().call_later(HELD_POLL_S, self._wake.set)

    def _feed(self, work: Work) -> None:
        room = FEED_RECORDS
        while self._inbox and room > 0:
            topic, records, count = self._inbox.popleft()
            self._waiting[topic] -= count
            work.feed(topic, records)
            room -= count

    def _expect(self, work: Work) -> None:
        """Let the merge wait for what is known to be there and was not fed yet."""
        for topic in self.group.topics:
            work.expect(topic, more=self._is_expected(topic))

    def _is_expected(self, topic: str) -> bool:
        return topic in self._unread or self._waiting[topic] > 0


class Lanes:
    """The lanes that are assigned to this process; `make` makes one, with its committer."""

    def __init__(self, groups: Iterable[Group], make: Callable[[Group, int], Lane], stop_s: float, *, die: Die) -> None:
        self._group_of = {topic: group for group in groups for topic in group.topics}
        self._make = make
        self._stop_s = stop_s
        self._die = die
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._changing = asyncio.Lock()

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def of(self, topic: str, number: int) -> Lane | None:
        """Return the lane of a source partition, where it is assigned."""
        group = self._group_of.get(topic)
        return None if group is None else self._lanes.get((group.name, number))

    async def acquire(self, assignment: Iterable[tuple[str, int]]) -> None:
        """Take the lanes of an assignment, as (topic, partition): from here on nobody else can commit for them.

        May be cancelled by the next assignment, and then leaves nothing behind.
        """
        wanted = {(group.name, number): group for topic, number in assignment if (group := self._group_of.get(topic))}
        async with self._changing:
            await self._release()
            self._lanes = {place: self._make(group, place[1]) for place, group in sorted(wanted.items())}
            try:
                async with asyncio.TaskGroup() as starts:
                    for lane in self._lanes.values():
                        starts.create_task(lane.committer.start())
            except BaseException:
                await self._release()
                raise
        log.info("lanes acquired", lanes=[f"{name} {number}" for name, number in self._lanes])

    async def release(self) -> None:
        async with self._changing:
            await self._release()

    async def _release(self) -> None:
        lanes, self._lanes = self._lanes, {}
        # Whoever waits may be cancelled; producers are not let go of by halves.
        await asyncio.shield(asyncio.gather(*(lane.stop() for lane in lanes.values())))

    async def close(self) -> None:
        """Commit all that the lanes have in hand, and let them do no more."""
        try:
            async with asyncio.timeout(self._stop_s):
                await asyncio.gather(*(lane.close() for lane in self._lanes.values()))
        except TimeoutError:
            event = "stopped without the last commits: they took too long, and will be done again"
            self._die(EXIT_STOP_TIMEOUT, event, allowed_s=self._stop_s)
