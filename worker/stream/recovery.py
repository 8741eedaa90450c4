"""Recovery from the changelog by whole batches, inside Faust's own sequence.

Overrides internals of faust-streaming 0.15.3: `TableManager.recovery` and, of `Recovery`, the highwaters (the fence
comes first), the seek, the record-by-record loop and the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from mode import Service

from worker.stream.exits import EXIT_REFUSED, die

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faust.types import TP


class BatchRecovery(Recovery):  # type: ignore[misc]
    """Changelog batches are applied by the fetch loop itself."""

    _reading = False

    def _set_recovery_started(self) -> None:
        super()._set_recovery_started()
        self.signal_recovery_end.clear()

    async def _build_highwaters(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Fence the predecessors, then ask where the changelog ends: else a zombie's last commit is missed."""
        if title == "active":
            self._reading = False  # positions are those of the recovery before
            await self.app.lanes.acquire(consumer.assignment())
        await super()._build_highwaters(consumer, tps, destination, title)

    async def _seek_offsets(self, consumer: Any, tps: set[TP], offsets: Any, title: str) -> None:
        await super()._seek_offsets(consumer, tps, offsets, title)
        if title == "active":
            self._reading = True

    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Any, title: str) -> None:
        """Refuse a changelog whose beginning is gone: without transactions nobody compacts it, so rows are gone too."""
        if not self.app.commit_settings.transactional:
            for tp, earliest in (await consumer.earliest_offsets(*tps)).items():
                if earliest:
                    reason = f"{tp.topic} partition {tp.partition} begins at offset {earliest}: rows before it are gone"
                    die(EXIT_REFUSED, "refused to start", reason=f"{reason}. Start anew under another app_id")
        await super()._build_offsets(consumer, tps, destination, title)

    def apply(self, tp: TP, records: Sequence[Any]) -> None:
        """Take a batch of changelog records."""
        offsets = self.active_offsets if tp in self.active_tps else self.standby_offsets
        if tp not in self.active_tps and tp not in self.standby_tps:
            return
        seen = offsets.get(tp)
        if seen is not None and records[0].offset <= seen:
            records = [record for record in records if record.offset > seen]
        if records:
            self.tp_to_table[tp].data.recover(tp.partition, records)
            offsets[tp] = records[-1].offset

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

    @Service.task  # type: ignore[untyped-decorator]
    async def _slurp_changelogs(self) -> None:
        """Replace the loop that takes one record at a time: the fetch loop does it."""


class BatchTableManager(TableManager):  # type: ignore[misc]
    """Faust's table manager with recovery by batches."""

    _recovery: BatchRecovery | None

    @property
    def recovery(self) -> BatchRecovery:
        if self._recovery is None:
            self._recovery = BatchRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
