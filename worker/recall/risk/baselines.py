"""What the model has to beat: the base rate, and the base rate of customers whose last order lies as far back.

Both learn from the same labels as the model, at the same time. A rate is (n1 + 1) / (n + 2), the rule of succession:
one half before the first label.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

import msgspec

RECENCY_EDGES: Final = (1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 17, 21, 25, 30, 36, 43, 51, 60, 75, 90, 105, 120, 150, 180)
"""Days since the last order up to which a bin reaches, that day included; the last bin is all beyond."""
_BINS: Final = len(RECENCY_EDGES) + 1
_DIGITS: Final = 6


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """By bin of recency, weights of all labels and of those without an order."""

    labels: list[float] = msgspec.field(default_factory=lambda: [0.0] * _BINS)
    lapsed: list[float] = msgspec.field(default_factory=lambda: [0.0] * _BINS)
    all_labels: float = 0.0
    all_lapsed: float = 0.0

    def __post_init__(self) -> None:
        for name in ("labels", "lapsed"):
            n = len(getattr(self, name))
            if n != _BINS:
                raise ValueError(f"{name}: {n} numbers; allowed are {_BINS}")


class Baselines:
    """P(no order within the horizon) as two simple rules have it, rounded to 6 decimals.

    >>> baselines = Baselines()
    >>> for days, y in ((3, 0), (3, 0), (80, 1)):
    ...     baselines.learn(days, y, 1.0)
    >>> baselines.constant(), baselines.recency(3), baselines.recency(80), baselines.recency(30)
    (0.4, 0.25, 0.666667, 0.5)
    """

    def __init__(self) -> None:
        self._state = _State()

    def learn(self, days_since_order: int, y: int, weight: float) -> None:
        """Take a label; `y` is 1 where there was no order."""
        state, place = self._state, bisect_left(RECENCY_EDGES, days_since_order)
        state.labels[place] += weight
        state.lapsed[place] += weight * y
        state.all_labels += weight
        state.all_lapsed += weight * y

    def constant(self) -> float:
        """Return the base rate."""
        return _rate(self._state.all_lapsed, self._state.all_labels)

    def recency(self, days_since_order: int) -> float:
        """Return the rate of the bin of recency."""
        place = bisect_left(RECENCY_EDGES, days_since_order)
        return _rate(self._state.lapsed[place], self._state.labels[place])

    def by_recency(self) -> tuple[float, ...]:
        """Return the rates of 0 days since the last order and on; the last of them stands for all beyond."""
        return tuple(map(self.recency, range(RECENCY_EDGES[-1] + 2)))

    def to_json(self) -> dict[str, Any]:
        """Return all sums, as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self._state)
        return plain

    @classmethod
    def from_json(cls, data: object) -> Baselines:
        """Return the baselines that `to_json` told of, equal to the last bit."""
        baselines = cls()
        try:
            baselines._state = msgspec.convert(data, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"baselines: {error}") from error
        return baselines


def _rate(lapsed: float, labels: float) -> float:
    return round((lapsed + 1) / (labels + 2), _DIGITS)
