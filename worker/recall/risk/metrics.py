"""How well the predictions were, told beside a constant that knows nothing of the customer but the base rate.

Sums and histograms only: the memory is bounded, and all of it travels in the snapshot.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

BINS: Final = 120
"""For the AUC: pairs within a bin count as ties."""
ECE_BINS: Final = 15
"""Of equal width, each of whole bins."""
_GROUP: Final = BINS // ECE_BINS
CLIP: Final = 1e-4
"""A probability nearer to 0 or 1 counts as this near in the log loss."""
_DIGITS: Final = 6


class Meter(msgspec.Struct, forbid_unknown_fields=True):
    """The figures of one way to predict, weighted."""

    n: int = 0
    weight: float = 0.0
    log_loss: float = 0.0
    squared_error: float = 0.0
    hits: float = 0.0
    predicted: list[float] = msgspec.field(default_factory=lambda: [0.0] * ECE_BINS)
    """Sums of probabilities."""
    negatives: list[float] = msgspec.field(default_factory=lambda: [0.0] * BINS)
    positives: list[float] = msgspec.field(default_factory=lambda: [0.0] * BINS)

    def __post_init__(self) -> None:
        for name, bins in (("predicted", ECE_BINS), ("negatives", BINS), ("positives", BINS)):
            if len(getattr(self, name)) != bins:
                raise ValueError(f"{name}: {len(getattr(self, name))} numbers; allowed are {bins}")

    def add(self, p: float, y: int, weight: float) -> None:
        """Take a probability and what came."""
        clipped = min(1 - CLIP, max(CLIP, p))
        self.n += 1
        self.weight += weight
        self.log_loss -= weight * log(clipped if y else 1 - clipped)
        self.squared_error += weight * (p - y) ** 2
        self.hits += weight * ((p > 0.5) == (y == 1))  # noqa: PLR2004 - the more likely of two
        place = min(BINS - 1, int(p * BINS))
        self.predicted[place // _GROUP] += weight * p
        (self.positives if y else self.negatives)[place] += weight

    def report(self) -> dict[str, float]:
        """Return the figures by name; none before the first prediction."""
        if not self.weight:
            return {}
        return {
            "log_loss": self.log_loss / self.weight,
            "brier": self.squared_error / self.weight,
            "accuracy": self.hits / self.weight,
            "auc": self._auc(),
            "ece": self._ece(),
        }

    def _auc(self) -> float:
        """Return how often one without an order was given more than one with; one half where either is missing."""
        pairs = sum(self.positives) * sum(self.negatives)
        below = won = 0.0
        for negatives, positives in zip(self.negatives, self.positives, strict=True):
            won += positives * (below + negatives / 2)
            below += negatives
        return won / pairs if pairs else 0.5

    def _ece(self) -> float:
        """Return the mean distance between what was predicted and what came, over bins of probability."""
        return (
            sum(
                abs(predicted - sum(self.positives[i * _GROUP : (i + 1) * _GROUP]))
                for i, predicted in enumerate(self.predicted)
            )
            / self.weight
        )


class _State(msgspec.Struct, forbid_unknown_fields=True):
    model: Meter = msgspec.field(default_factory=Meter)
    constant: Meter = msgspec.field(default_factory=Meter)
    weight: float = 0.0
    positives: float = 0.0


class Prequential:
    """Predict first, learn after: each prediction is measured before its label is learned.

    >>> figures = Prequential()
    >>> for p, y in ((0.9, 1), (0.2, 0), (0.6, 1), (0.7, 0)):
    ...     figures.add(p, y)
    ...     figures.observe(y)
    >>> report = figures.report()
    >>> report["n"], report["base_rate"], report["accuracy"], report["auc"], report["constant_accuracy"]
    (4, 0.5, 0.75, 0.75, 0.0)
    """

    def __init__(self) -> None:
        self._state = _State()

    def add(self, p: float, y: int, weight: float = 1.0) -> None:
        """Measure a prediction, and the constant's: the base rate of what was observed before."""
        state = self._state
        state.model.add(p, y, weight)
        state.constant.add((state.positives + 0.5) / (state.weight + 1), y, weight)

    def observe(self, y: int, weight: float = 1.0) -> None:
        """Let the constant learn a label."""
        self._state.weight += weight
        self._state.positives += weight * y

    def report(self) -> dict[str, float]:
        """Return the model's figures, and the constant's under the same names with `constant_` before them."""
        state = self._state
        figures: dict[str, float] = {"n": state.model.n}
        if state.model.weight:
            figures["base_rate"] = sum(state.model.positives) / state.model.weight
        figures |= state.model.report()
        figures |= {f"constant_{name}": figure for name, figure in state.constant.report().items()}
        return {name: round(figure, _DIGITS) for name, figure in figures.items()}

    def to_json(self) -> dict[str, Any]:
        """Return all sums, as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self._state)
        return plain

    @classmethod
    def from_json(cls, data: object) -> Prequential:
        figures = cls()
        try:
            figures._state = msgspec.convert(data, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"metrics: {error}") from error
        return figures


class Outcome(NamedTuple):
    """A label, and what had been predicted of it by the snapshot in force at its time."""

    y: int
    """1: no order within the horizon."""
    weight: float
    predicted: tuple[float, float | None, float, float] | None
    """By the model, BG/NBD, recency and the constant, in this order; None where no snapshot was in force yet."""
    tier: str
    holdout: bool
    lead_days: int | None
    """From the first alert to the lapse, as the row saw it; None where there was no alert, or no lapse."""


class Measures:
    """Takes label days as they are learned; its memory is bounded."""

    def take(self, label_day: int, outcomes: Sequence[Outcome]) -> None:
        """Take a label day as a whole; the outcomes in an order that they alone determine."""

    def report(self) -> dict[str, Any]:
        """Return readable figures, as plain JSON values."""
        return {}

    def alert_above(self) -> float | None:
        """Return the score above which a tenth of the recent predictions lie; None while they are too few."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Return all sums, as plain JSON values."""
        return {}

    @classmethod
    def from_json(cls, data: object) -> Measures:  # noqa: ARG003
        """Return the measures that `to_json` told of, equal to the last bit."""
        return cls()
