"""What Faust sees of the rows: one table, whose partitions come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faust
from faust.stores import memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from faust.types import TP

    from worker.stream.stores import Changelog, PartitionStore, Store


class TableStore(memory.Store):  # type: ignore[misc]
    """The partitions that this process has, over the app's store.

    Faust's own stores keep their offsets themselves, and ask for them before the predecessor is fenced; here recovery
    opens a partition, and is told then how far it holds the changelog.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._partitions: dict[int, PartitionStore] = {}

    @property
    def _store(self) -> Store:
        store: Store = self.app.row_store
        return store

    def open(self, partition: int, changelog: Changelog) -> int | None:
        """Open a partition, and return the offset up to which it holds the changelog."""
        opened = self._partitions[partition] = self._store.open(partition, changelog)
        return opened.held

    def is_open(self, partition: int) -> bool:
        return partition in self._partitions

    def rows(self, partition: int) -> MutableMapping[bytes, bytes]:
        """Return the rows of an open partition; changes are seen at once."""
        return self._partitions[partition].rows

    def row_count(self, partition: int) -> int:
        """Return about how many rows a partition has."""
        return self._partitions[partition].row_count()

    def recover(self, partition: int, records: Iterable[Any]) -> None:
        """Take in changelog records, in their order."""
        self._partitions[partition].recover(records)

    def recovered(self, partition: int) -> None:
        """Note that a partition has come to the changelog's end."""
        self._partitions[partition].recovered()

    def committed(self, partition: int, rows: Mapping[bytes, bytes | None], offset: int) -> None:
        """Take in what a commit made durable, and the changelog's last offset of it."""
        self._partitions[partition].committed(rows, offset)

    async def on_rebalance(
        self,
        assigned: set[TP],  # noqa: ARG002 - Faust's signature
        revoked: set[TP],
        newly_assigned: set[TP],  # noqa: ARG002
        generation_id: int = 0,  # noqa: ARG002
    ) -> None:
        topics = self.table.changelog_topic.topics
        for tp in revoked:
            if tp.topic in topics and self._partitions.pop(tp.partition, None) is not None:
                self._store.release(tp.partition)

    async def on_stop(self) -> None:
        self._partitions.clear()
        self._store.close()


class RowTable(faust.Table):  # type: ignore[misc]
    """A table of bytes, kept by partition."""

    def _new_store_by_url(self, url: Any) -> TableStore:
        return TableStore(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            value_type=self.value_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            loop=self.loop,
            options=self.options,
        )
