"""One order for the records of several topics: by the event times of their heads."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


BEFORE_ALL = (-(2**63), 0)


class Entry(NamedTuple):
    """A parsed record, waiting to be merged; `at` is its event time, or that of the record before it."""

    at: int
    topic: int
    offset: int
    key: bytes
    body: object
    recorded_at: int


class Merge:
    """A k-way merge that never reorders the records of one topic.

    Ties go to the topic that comes first in the fixed order. The merge waits only for a topic of which records are
    known to be there that have not been pushed yet. So a backlog merges the same way every time, and at the live edge
    arrival decides. What `head` has returned stays next until it is taken, since the clock may have moved for it.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self.topics = tuple(topics)
        self._expected = [False] * len(self.topics)
        self._queues: list[deque[Entry]] = [deque() for _ in self.topics]
        self._run: deque[Entry] | None = None
        self._bound = BEFORE_ALL
        self._shown = False

    def expect(self, topic: int, *, more: bool) -> None:
        """Say whether records of the topic are known to be there that have not been pushed yet."""
        self._expected[topic] = more
        self._reconsider()

    def push(self, topic: int, entries: Iterable[Entry]) -> None:
        """Append records of a topic, in its order."""
        queue = self._queues[topic]
        if not queue:
            self._reconsider()
        queue.extend(entries)

    def waiting(self, topic: int) -> int:
        """Return how many records of the topic are pushed and not merged."""
        return len(self._queues[topic])

    def starving(self) -> list[int]:
        """Return the topics without which the merge cannot go on."""
        return [i for i, queue in enumerate(self._queues) if not queue and self._expected[i]]

    def head(self) -> Entry | None:
        """Return the next record in the merged order, or None where there is none yet."""
        run = self._run
        if run is None:
            run = self._choose()
            if run is None:
                return None
        self._shown = True
        return run[0]

    def pop(self) -> None:
        """Take what `head` returned."""
        run = self._run
        assert run is not None  # pop follows head
        run.popleft()
        self._shown = False
        if not run or (run[0].at, run[0].topic) > self._bound:
            self._run = None

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Undo the latest pops, given in the order in which they were taken."""
        for entry in reversed(entries):
            self._run = self._queues[entry.topic]
            self._run.appendleft(entry)
            self._shown = True
        self._bound = BEFORE_ALL

    def _reconsider(self) -> None:
        """Choose anew: now, or as soon as the record that was shown is taken."""
        if self._shown:
            self._bound = BEFORE_ALL
        else:
            self._run = None

    def _choose(self) -> deque[Entry] | None:
        """Find the earliest head, and how far its topic may run before another comes first."""
        best: deque[Entry] | None = None
        first = bound = (2**63, 0)
        for index, queue in enumerate(self._queues):
            if queue:
                head = (queue[0].at, index)
                if head < first:
                    first, bound, best = head, first, queue
                elif head < bound:
                    bound = head
            elif self._expected[index]:
                return None
        self._run, self._bound = best, bound
        return best
