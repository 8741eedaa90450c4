"""Rows in memory: all of them come back from the changelog at each start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from worker.stream.stores import Changelog, ChangelogRecord


class MemoryPartition:
    """Rows in a dictionary."""

    held: int | None = None

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def recover(self, records: Iterable[ChangelogRecord]) -> None:
        rows = self.rows
        for record in records:
            row = record.value
            if row is None:
                rows.pop(record.key, None)
            else:
                rows[record.key] = row

    def row_count(self) -> int:
        return len(self.rows)

    def recovered(self) -> None:
        """Nothing is to be noted."""

    def committed(self, rows: Mapping[bytes, bytes | None], offset: int) -> None:
        """Nothing is to be taken in: a change was seen at once."""


class MemoryStore:
    """A partition that is let go of leaves with its rows: its owner has the last reference."""

    def open(self, partition: int, changelog: Changelog) -> MemoryPartition:  # noqa: ARG002 - nothing was kept
        return MemoryPartition()

    def release(self, partition: int) -> None:
        """Nothing is held here."""

    def close(self) -> None:
        """Nothing is held here."""
