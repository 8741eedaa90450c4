"""When which key wants to be woken: a heap of (due, key), at least one entry for each key that has a timer."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from worker.stream.processor import NEVER
from worker.stream.record import RESERVED, next_due

if TYPE_CHECKING:
    from collections.abc import Mapping


class Timers:
    """The heap may hold entries that are no longer true; the row is the truth.

    A row that postpones its timer leaves the heap as it is, and is put back when the old entry comes up: activity,
    which only postpones, costs nothing here.
    """

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        """Build the heap from the rows' headers, without decoding a row."""
        self._heap = [(due, key) for key, row in rows.items() if key[:1] != RESERVED and (due := next_due(row)) < NEVER]
        heapq.heapify(self._heap)
        self._rows = rows

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, due: int, key: bytes) -> None:
        """Note that `key` wants to be woken at `due`."""
        heapq.heappush(self._heap, (due, key))

    def first(self) -> tuple[int, bytes] | None:
        """Return the earliest true (due, key), putting back what was postponed; None when there is none."""
        heap, rows = self._heap, self._rows
        while heap:
            entry = heap[0]
            due, key = entry
            true_due = next_due(rows[key])
            if true_due == due:
                return entry
            if true_due < NEVER:
                later = (true_due, key)
                heapq.heapreplace(heap, later)
            else:
                heapq.heappop(heap)
        return None

    def pop(self) -> None:
        """Drop the earliest entry, and its duplicates."""
        heap = self._heap
        entry = heapq.heappop(heap)
        while heap and heap[0] == entry:
            heapq.heappop(heap)
