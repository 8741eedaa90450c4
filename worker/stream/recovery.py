"""Recovery from the changelog by whole batches, inside Faust's own sequence.

What is overridden of Faust's internals is listed in `internals`, and checked there.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery, ServiceStopped
from mode import Service

from worker.stream.batches import from_offset
from worker.stream.exits import EXIT_REFUSED, EXIT_STORE_FAILED, EXIT_STUCK, die
from worker.stream.health import RecoveryState
from worker.stream.stores import Changelog, StoreError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from faust.types import TP

    from worker.stream.batches import Batch

RECOVERY_FETCH_BYTES = 4 * 1024 * 1024
"""Of one partition at once, while recovery reads; the broker's answer as a whole is bounded by aiokafka (50 MB)."""


class BatchRecovery(Recovery):  # type: ignore[misc]
    """Changelog batches are applied by the fetch loop itself."""

    _reading = False
    _records = 0
    """That this recovery has taken."""

    def progress(self) -> RecoveryState:
        """Return how far the recovery is, or the last one was; from any thread."""
        offsets = self.active_offsets
        remaining = 0
        for tp, last in list(self.active_highwaters.items()):
            seen = offsets.get(tp)
            remaining += max(0, last - (-1 if seen is None else seen))
        began, ended = self._recovery_started_at, monotonic() if self.in_recovery else self._recovery_ended_at
        return RecoveryState(self._records, remaining, 0.0 if began is None or ended is None else ended - began)

    def _set_recovery_started(self) -> None:
        self._records = 0
        super()._set_recovery_started()
        self.signal_recovery_end.clear()

    async def _build_highwaters(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Fence the predecessors, then ask where the changelog ends: else a zombie's last commit is missed."""
        if title == "active":
            self._reading = False  # positions are those of the recovery before
            await self.app.lanes.acquire(consumer.assignment())
        await super()._build_highwaters(consumer, tps, destination, title)

    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Open what was newly assigned, and go on from what the store holds of it."""
        if title == "active":
            app = self.app
            for tp, first in (await consumer.earliest_offsets(*tps)).items():
                if first and not app.commit_settings.transactional:  # nobody compacts it, so rows are gone
                    reason = f"{tp.topic} partition {tp.partition} begins at offset {first}: rows before it are gone"
                    die(EXIT_REFUSED, "refused to start", reason=f"{reason}. Start anew under another app_id")
                store = self.tp_to_table[tp].data
                if not store.is_open(tp.partition):
                    topic_id = app.topic_ids.get(tp.topic, "")
                    changelog = Changelog(topic_id, first or 0, self.active_highwaters[tp] + 1, app.tombstones_ms)
                    with ending_in_failure():
                        destination[tp] = store.open(tp.partition, changelog)
        await super()._build_offsets(consumer, tps, destination, title)

    async def _seek_offsets(self, consumer: Any, tps: set[TP], offsets: Any, title: str) -> None:
        await super()._seek_offsets(consumer, tps, offsets, title)
        if title == "active":
            self._reading = True
            consumer.fetch_at_once(RECOVERY_FETCH_BYTES)

    def apply(self, tp: TP, batches: Iterable[Batch]) -> None:
        """Take batches of changelog records."""
        if tp not in self.active_tps:
            return
        seen = self.active_offsets.get(tp)
        fresh = from_offset(batches, 0 if seen is None else seen + 1)
        if fresh:
            with ending_in_failure():
                self.tp_to_table[tp].data.recover(tp.partition, chain.from_iterable(fresh))
            self.active_offsets[tp] = fresh[-1].next - 1
            self._records += sum(map(len, fresh))

    def leave_out(self, fetched: Container[TP]) -> None:
        """Note that this was fetched and not applied: of a changelog, positions say nothing before the next seek.

        A fetch that was under way when the rebalance came may bring records of the sources after the seek. They say
        nothing of the changelogs, and nobody would seek again.
        """
        if any(tp in fetched for tp in self.active_tps):
            self._reading = False

    def check_ended(self, consumer: Any) -> None:
        """End by position, not by the last record: the log may end in markers or in what was aborted."""
        if not self.in_recovery or not self._reading:
            return
        for tp in self.active_tps:
            position = consumer.position_now(tp)
            if position is not None and position - 1 > (self.active_offsets.get(tp) or -1):
                self.active_offsets[tp] = position - 1
        if not self.need_recovery():
            self._reading = False
            self._set_recovery_ended()
            self.signal_recovery_end.set()

    def _set_recovery_ended(self) -> None:
        """Take note in the store, whether there was something to read or not.

        Faust also calls it where a rebalance or a stop came in between.
        """
        with ending_in_failure():
            for tp in self.active_tps:
                if (store := self.tp_to_table[tp].data).is_open(tp.partition) and self._read_to_end(tp):
                    store.recovered(tp.partition)
        self.app.consumer.fetch_at_once(self.app.conf.consumer_max_fetch_size)
        super()._set_recovery_ended()

    def _read_to_end(self, tp: TP) -> bool:
        seen, last = self.active_offsets.get(tp), self.active_highwaters[tp]
        return bool((-1 if seen is None else seen) >= last)

    async def _wait(self, coro: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109 - Faust's signature
        """Wait for a step of the recovery; Faust takes one that takes too long for a stop, and never recovers again."""
        try:
            await super()._wait(coro, timeout)
        except ServiceStopped:
            if not self.should_stop:
                event = "a step of the recovery, or the seek after it, took too long: is the broker slow?"
                die(EXIT_STUCK, event, allowed_s=timeout)
            raise

    @Service.task  # type: ignore[untyped-decorator]
    async def _slurp_changelogs(self) -> None:
        """Replace the loop that takes one record at a time: the fetch loop does it."""


@contextmanager
def ending_in_failure() -> Iterator[None]:
    """End the process where the store fails: Faust would log some of it and go on, and commit before a crash."""
    try:
        yield
    except StoreError as error:
        die(EXIT_STORE_FAILED, "store failed", error=str(error), exc_info=True)


class BatchTableManager(TableManager):  # type: ignore[misc]
    """Faust's table manager with recovery by batches."""

    _recovery: BatchRecovery | None

    @property
    def recovery(self) -> BatchRecovery:
        if self._recovery is None:
            self._recovery = BatchRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
