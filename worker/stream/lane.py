"""A lane: what one process does for one partition of co-partitioned topics, from its records to its commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping

    from worker.stream.partition import SourceRecord, Unit
    from worker.stream.processor import Output


class Work(Protocol):
    """What a lane drives; `Partition` is one."""

    held: str | None

    def feed(self, topic: str, records: Iterable[SourceRecord]) -> None: ...
    def buffered(self, topic: str) -> int: ...
    def expect(self, topic: str, *, more: bool) -> None: ...
    def advance(self) -> Unit | None: ...

    def claim(self, partitions: Mapping[str, int], topic_ids: Mapping[str, str]) -> None:
        """Refuse to go on from a state that belongs to another cluster or layout."""

    def start_offset(self, topic: str) -> int | None:
        """Return the next offset to read, or None where nothing was read yet."""


class Group(NamedTuple):
    """Co-partitioned topics, and how a partition of them is worked off.

    `open` gets the partition's number and its rows; `greet` returns what is written before its first record is merged.
    Nothing is merged before all that `first` held at the start has been fed.
    """

    name: str
    topics: tuple[str, ...]
    open: Callable[[int, MutableMapping[bytes, bytes]], Awaitable[Work]]
    greet: Callable[[int, Work], Iterable[Output]]
    has_rows: bool
    first: str | None = None
