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

    def due(self, until: int, at_most: int) -> int:
        """Return how many entries are due before `until`, or `at_most` where there are more; sees only those."""
        heap = self._heap
        found, branches = 0, [0]
        while branches and found < at_most:
            i = branches.pop()
            if i < len(heap) and heap[i][0] < until:
                found += 1
                branches += (2 * i + 1, 2 * i + 2)
        return found

    def set(self, due: int, key: bytes) -> None:
        """Note that `key` wants to be woken at `due`."""
        heapq.heappush(self._heap, (due, key))

    def pop_due(
        self, horizon: int, keys: dict[bytes, None], *, keys_max: int, looks_max: int
    ) -> tuple[int, bytes] | None:
        """Move the keys whose timers are due before the horizon into `keys`, in the order of (due, key).

        Stops where `keys` would hold more than `keys_max`, and after `looks_max` entries that were not true. Returns
        where it stopped, as (due, key): no timer that is left comes before. None: nothing is left before the horizon.
        """
        heap, rows = self._heap, self._rows
        looks = 0
        while heap and heap[0][0] < horizon:
            entry = due, key = heap[0]
            true_due = next_due(rows[key])
            if due == true_due:
                if key not in keys:
                    if len(keys) == keys_max:
                        return entry
                    keys[key] = None
                heapq.heappop(heap)
                continue
            if looks == looks_max:
                return entry
            looks += 1
            if due < true_due < NEVER:
                heapq.heapreplace(heap, (true_due, key))
            else:  # dropped, or brought forward: then another entry has come up before
                heapq.heappop(heap)
        return None
