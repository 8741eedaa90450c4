"""Fetched records by the batch, as they lie in the broker's answer: read where they are worked off.

aiokafka makes two objects of each record in the thread that fetches, all of a fetch at once. Here the thread looks at
the batches' headers alone; a record comes into being when a lane or the recovery asks for it, and is gone soon after.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from aiokafka.errors import CorruptRecordException

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aiokafka.consumer.fetcher import PartitionRecords


class Batch:
    """Records of one topic and partition, from offset `first` up to `next`; they can be read once."""

    __slots__ = ("_begins", "_packed", "first", "next")

    def __init__(self, packed: Any, position: int) -> None:
        """Take aiokafka's record batch; what lies before the position does not count."""
        self._packed = packed
        self._begins: int = -1 if packed.producer_id is None else packed.base_offset  # formats before v2 do not tell
        self.first = max(self._begins, position)
        self.next: int = packed.next_offset

    def __len__(self) -> int:
        """Return how many records there are at most: compaction leaves holes."""
        return self.next - self.first

    def __iter__(self) -> Iterator[Any]:
        if self._begins >= self.first:
            return islice(self._packed, None)  # aiokafka's own iterator does not let itself be taken up again
        return (record for record in self._packed if record.offset >= self.first)


def from_offset(batches: Iterable[Batch], offset: int) -> list[Batch]:
    """Return what the batches hold from an offset on."""
    fresh = []
    for batch in batches:
        batch.first = max(batch.first, offset)
        if batch.first < batch.next:
            fresh.append(batch)
    return fresh


def unpacked(fetched: PartitionRecords) -> Iterator[Batch]:
    """Yield batches where `PartitionRecords._unpack_records` yields their records.

    As there, under read_committed: what was aborted is left out, and so are markers; both move the position.

    Raises:
        CorruptRecordException: where a batch's checksum is wrong.

    """
    records = fetched._records  # noqa: SLF001 - throughout, aiokafka's
    while records.has_next():
        batch = records.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")  # noqa: SLF001
        aborted = False
        if batch.producer_id is not None:
            fetched._consume_aborted_up_to(batch.base_offset)  # noqa: SLF001
            producers = fetched._aborted_producers  # noqa: SLF001
            if batch.is_control_batch and fetched._contains_abort_marker(batch):  # noqa: SLF001
                producers.discard(batch.producer_id)
            aborted = batch.is_transactional and batch.producer_id in producers
        position = fetched.next_fetch_offset
        if batch.next_offset > position:
            fetched.next_fetch_offset = batch.next_offset
            if not (aborted or batch.is_control_batch):
                yield Batch(batch, position)
