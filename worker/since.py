"""What came out from a time on: a replay needs the time before for its state, and reports what came after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from schemas.values import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.stream.processor import Output

_TIMES: Final = {
    "recall": ("issued_at", "cancelled_at"),
    "tier-changes": ("at",),
    "recall-decisions": ("at",),
}
"""Where an output says when it came about, by topic; one of the fields is there."""


class Since:
    """Tells what counts from `at` (ms) on.

    Commands, decisions and tier changes go by their own event time, to the millisecond. The others (dead letters,
    examples to learn from) have none: they go by the clock of their partition, `clock`, after the unit they are from.
    """

    def __init__(self, at: int, clock: Callable[[int], int]) -> None:
        self.at = at
        self.text = rfc3339(at)
        self._clock = clock

    def counts(self, number: int, output: Output) -> bool:
        """Tell whether an output of a partition counts."""
        fields = _TIMES.get(output.topic)
        if fields is None:
            return self._clock(number) >= self.at
        value = orjson.loads(output.value)
        return any(value[name] >= self.text for name in fields if name in value)
