"""One order for the records of several topics: by the event times of their heads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from worker.stream.processor import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.stream.entries import Entry

BEFORE_ALL = -NEVER


class Merge:
    """A k-way merge that never reorders the records of one topic.

    To take the earliest head again and again is to sort by rank, the greatest event time in the topic's queue up to the
    record: what stands behind a later one comes right after it. Ties go to the topic that comes first in the fixed
    order. So whatever may be merged is sorted at once.

    The merge waits only for a topic of which records are known to be there that have not been pushed yet. So a backlog
    merges the same way every time, and at the live edge arrival decides. What was shown and not taken stays next until
    it is taken, since the clock may have moved for it.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self.topics = tuple(topics)
        self._expected = [False] * len(self.topics)
        self._queues: list[list[Entry]] = [[] for _ in self.topics]
        self._ordered: list[Entry] = []
        """The beginning of the merged order, as far as it is known."""
        self._merged = [0] * len(self.topics)
        """How much of each queue is in it."""
        self._shown = 0
        self._promised: int | None = None

    def promise(self, topic: int) -> None:
        """Let the topic's next record come first, as it was to before a restart."""
        self._promised = topic

    def expect(self, topic: int, *, more: bool) -> None:
        """Say whether records of the topic are known to be there that have not been pushed yet."""
        if more != self._expected[topic]:
            self._expected[topic] = more
            self._reconsider()

    def rank(self, topic: int) -> int:
        """Return the rank of the topic's last record that waits."""
        queue = self._queues[topic]
        return queue[-1][0] if queue else BEFORE_ALL

    def push(self, topic: int, entries: list[Entry]) -> None:
        """Append records of a topic, in its order; their ranks go on from `rank`."""
        if entries and self._ordered and entries[0] < self._ordered[-1]:
            self._reconsider()
        self._queues[topic] += entries

    def waiting(self, topic: int) -> int:
        """Return how many records of the topic are pushed and not taken."""
        return len(self._queues[topic])

    def starving(self) -> list[int]:
        """Return the topics without which the merge cannot go on."""
        return [i for i, queue in enumerate(self._queues) if not queue and self._expected[i]]

    def ahead(self, n: int) -> list[Entry]:
        """Show the next records in the merged order: `n`, or as many as there are yet."""
        if self._promised is not None and not self._keep_promise(self._promised):
            return []
        if len(self._ordered) < n:
            self._extend()
        shown = self._ordered[:n]
        self._shown = max(self._shown, len(shown))
        return shown

    def take(self, n: int) -> dict[int, Entry]:
        """Take `n` of what was shown; return the last record of each topic among them."""
        last: dict[int, Entry] = {}
        if n:
            ordered = self._ordered
            first, rest = ordered[0], ordered[n : n + 1]
            for topic, (queue, merged) in enumerate(zip(self._queues, self._merged, strict=True)):
                count = bisect_left(queue, rest[0], 0, merged) if rest else merged
                if topic == first[1]:
                    count = max(count, 1)  # what stayed next may have been overtaken since
                if count:
                    last[topic] = queue[count - 1]
                    del queue[:count]
                    self._merged[topic] -= count
            del ordered[:n]
            self._shown -= n
        return last

    def _keep_promise(self, topic: int) -> bool:
        """Put what was promised first; tell whether the merge may go on."""
        if self._queues[topic]:
            self._ordered, self._shown = self._queues[topic][:1], 1
            self._merged[topic] = 1
        elif self._expected[topic]:
            return False
        self._promised = None
        return True

    def _reconsider(self) -> None:
        """Let what was not shown be merged anew."""
        del self._ordered[1 if self._shown else 0 :]
        self._shown = len(self._ordered)
        self._merged = [0] * len(self.topics)
        for entry in self._ordered:
            self._merged[entry[1]] = 1

    def _extend(self) -> None:
        """Merge up to the last record of each topic of which more is known to be there."""
        cut = (NEVER, len(self.topics))
        for topic, queue in enumerate(self._queues):
            if self._expected[topic]:
                if len(queue) == self._merged[topic]:
                    return
                cut = min(cut, (queue[-1][0], topic))
        bound = (cut[0], cut[1] + 1)
        parts = 0
        start = len(self._ordered)
        for topic, queue in enumerate(self._queues):
            begin = self._merged[topic]
            end = self._merged[topic] = bisect_right(queue, bound, begin)
            if end > begin:
                self._ordered += queue[begin:end]
                parts += 1
        if parts > 1:
            self._ordered[start:] = sorted(self._ordered[start:])
