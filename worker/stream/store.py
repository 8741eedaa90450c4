"""The rows of the partitions that this process has, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.stores import memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from faust.types import TP


class MemoryStore(memory.Store):  # type: ignore[misc]
    """Partition to rows, all bytes; a partition that is taken away leaves with its rows.

    Faust's own memory store keeps one mapping for all partitions and knows, after a rebalance, only the keys that it
    read in recovery.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._partitions: dict[int, dict[bytes, bytes]] = {}

    def rows(self, partition: int) -> dict[bytes, bytes]:
        """Return the rows of a partition; changes are seen at once."""
        return self._partitions.setdefault(partition, {})

    def recover(self, partition: int, records: Iterable[Any]) -> None:
        """Take changelog records, in their order."""
        rows = self.rows(partition)
        for record in records:
            if record.value is None:
                rows.pop(record.key, None)
            else:
                rows[record.key] = record.value

    async def on_rebalance(
        self,
        assigned: set[TP],  # noqa: ARG002 - Faust's signature
        revoked: set[TP],
        newly_assigned: set[TP],  # noqa: ARG002
        generation_id: int = 0,  # noqa: ARG002
    ) -> None:
        topics = self.table.changelog_topic.topics
        for tp in revoked:
            if tp.topic in topics:
                self._partitions.pop(tp.partition, None)
