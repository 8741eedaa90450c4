"""Where a process keeps the rows of its partitions: in memory, or on disk by RocksDB, behind one contract.

A partition's rows change at once, before any commit. What is on disk never runs ahead of the changelog: it takes in
what was read there or has been committed there, together with the offset, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping


class StoreError(AssertionError):
    """The store cannot be used, or not any more; the message says what to do.

    An assertion, since the error handling of rules must not take it for a bad record: it ends the process.
    """


class Changelog(NamedTuple):
    """What the broker says of one partition of the changelog."""

    topic_id: str
    """Another one means that the topic was made anew, or is another cluster's."""
    first: int
    """The first offset that it holds."""
    end: int
    """The offset after the last one that is committed."""
    tombstones_ms: int
    """How long a dropped row's mark stays, at least (`delete.retention.ms`)."""


class ChangelogRecord(Protocol):
    """What is read of a changelog record."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes | None: ...


class PartitionStore(Protocol):
    """The rows of one partition."""

    @property
    def rows(self) -> MutableMapping[bytes, bytes]:
        """The rows; a change is seen at once. Nothing is changed while they are iterated."""

    @property
    def held(self) -> int | None:
        """The offset up to which it held the changelog when it was opened; None for nothing."""

    def row_count(self) -> int:
        """Return how many rows there are, about; costs nothing, unlike to count them on disk."""

    def recover(self, records: Iterable[ChangelogRecord]) -> None:
        """Take in changelog records, in their order."""

    def recovered(self) -> None:
        """Note that all that the changelog held when this was opened has been taken in."""

    def committed(self, rows: Mapping[bytes, bytes | None], offset: int) -> None:
        """Take in what a commit made durable (None: dropped), and the changelog's last offset of it.

        A row that was changed again since keeps its later value.
        """


class Store(Protocol):
    """The store of a process. Whatever fails raises `StoreError`."""

    def open(self, partition: int, changelog: Changelog) -> PartitionStore:
        """Return the rows of a partition, as far as they are kept here and can be gone on from."""

    def release(self, partition: int) -> None:
        """Let go of a partition; what was not committed is forgotten."""

    def close(self) -> None:
        """Let go of all."""
