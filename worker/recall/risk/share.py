"""How much of the logit is the learner's, by what it and BG/NBD had said of those whose outcome is known by now.

How far the one goes beyond the other differs from shop to shop and from time to time: a shop with many channels tells
the learner more, one at its beginning less. So the share is the one with which the predictions of late would have lost
least, where these say so clearly, and else stays near where it is best over the data sets that were measured.

It never is 0: then nobody would be told any more what the learner says, and it could not prove itself again.
"""

from __future__ import annotations

from math import exp, log1p
from typing import Any, Final

import msgspec

from worker.recall.risk.metrics import CLIP
from worker.recall.risk.scorer import BGNBD_CLIP, log_odds

GRID: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Finer steps would change no score by much: the loss is flat at its least."""
PRIOR: Final = 0.6
"""On all data sets the loss is flat between .5 and .7."""
STRENGTH: Final = 1000.0
"""Nats that a share has to gain, by the square of its distance: 10 to move by .1, which chance rarely gives."""
HALF_LIFE_DAYS: Final = 28
"""After so many label days a prediction counts half: shorter than a season, and months of a small shop together."""


class _State(msgspec.Struct, forbid_unknown_fields=True):
    label_day: int = 0
    """As of which the sums are."""
    losses: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(GRID))
    """By share, the log losses that it would have had, nats; those of earlier days count less."""

    def __post_init__(self) -> None:
        if len(self.losses) != len(GRID):
            raise ValueError(f"losses: {len(self.losses)} numbers; allowed are {len(GRID)}")


class Share:
    """Takes predictions by label day, in an order that they alone determine.

    >>> share = Share()
    >>> share.value(20_000)
    0.6
    >>> for _ in range(100):
    ...     share.observe(20_000, y=1, weight=1.0, learner=0.2, rhythm=0.8)
    >>> share.value(20_000), share.value(20_000 + 28 * 6)
    (0.5, 0.6)
    """

    def __init__(self) -> None:
        self._state = _State()

    def observe(self, label_day: int, y: int, weight: float, learner: float, rhythm: float) -> None:
        """Take what came (`y` is 1 where there was no order), and the probability that each had given it at its time.

        Raises:
            ValueError: if the day is before that of an earlier one.

        """
        state = self._state
        if label_day != state.label_day:
            kept = self._kept(label_day)
            state.losses, state.label_day = [kept * loss for loss in state.losses], label_day
        by_learner, by_rhythm = log_odds(learner, CLIP), log_odds(rhythm, BGNBD_CLIP)
        for place, share in enumerate(GRID):
            logit = share * by_learner + (1 - share) * by_rhythm
            state.losses[place] += weight * _softplus(-logit if y else logit)

    def value(self, label_day: int) -> float:
        """Return the share of least loss as of the day."""
        kept = self._kept(label_day)
        costs = [
            kept * loss + STRENGTH * (share - PRIOR) ** 2 for share, loss in zip(GRID, self._state.losses, strict=True)
        ]
        return GRID[costs.index(min(costs))]

    def _kept(self, label_day: int) -> float:
        """Return what a day of now weighs at a later one."""
        passed = label_day - self._state.label_day
        if passed < 0:
            raise ValueError(f"label_day = {label_day}: allowed is {self._state.label_day} or later")
        return float(0.5 ** (passed / HALF_LIFE_DAYS))

    def to_json(self) -> dict[str, Any]:
        """Return all sums, as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self._state)
        return plain

    @classmethod
    def from_json(cls, data: object) -> Share:
        """Return the share that `to_json` told of, equal to the last bit."""
        share = cls()
        try:
            share._state = msgspec.convert(data, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"share: {error}") from error
        return share


def _softplus(x: float) -> float:
    """Return log(1 + e^x), the log loss of a logit of -x where it came.

    >>> round(_softplus(0.0), 6), _softplus(800.0), _softplus(-800.0)
    (0.693147, 800.0, 0.0)
    """
    return max(x, 0.0) + log1p(exp(-abs(x)))
