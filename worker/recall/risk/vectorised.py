"""The same learner as River's, on arrays: a ninth of its time.

Every line is one of River's formulas with its order of operations, so that the two differ in the order of one sum and
the last bit of a root, no more. That sum is NumPy's own, not a dot product: BLAS adds in an order that depends on the
processor.
"""

from __future__ import annotations

from math import exp, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.recall.risk.features import NAMES
from worker.recall.risk.model import EPSILON, INTERCEPT_RATE, L2, LEARNING_RATE, LOGIT_MAX, VARIANCE_MIN, Logistic, kept

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

_GRADIENT_LOGIT_MAX = 18.0
"""Beyond it River takes the logistic function's limit."""


class VectorisedModel:
    """`Model` on NumPy arrays."""

    def __init__(self) -> None:
        self._learned = 0
        self._intercept = 0.0
        self._weights = np.zeros(len(NAMES))
        self._means = np.zeros(len(NAMES))
        self._variances = np.zeros(len(NAMES))
        self._squares = np.zeros(len(NAMES))
        self._settled_day, self._averaged = 0, 0.0
        self._average_intercept = 0.0
        self._average_weights = np.zeros(len(NAMES))

    def predict(self, features: Sequence[float]) -> float:
        scaled = self._scaled(_vector(features))
        logit = _logit(self._average_weights, scaled, self._average_intercept)
        if abs(logit) > LOGIT_MAX:
            return float(logit > 0)
        return 1 / (1 + exp(-logit))

    def learn(self, features: Sequence[float], y: int, weight: float) -> None:
        x = _vector(features)
        step = self._intercept_step()
        self._learned += 1
        away = x - self._means
        self._means += away / self._learned
        away *= x - self._means
        away -= self._variances
        away /= self._learned
        self._variances += away
        scaled = self._scaled(x)
        slope = _gradient(_logit(self._weights, scaled, self._intercept), y) * weight
        self._intercept -= step * slope
        gradient = scaled * slope
        gradient += L2 * self._weights
        self._squares += gradient * gradient
        gradient *= LEARNING_RATE / np.sqrt(self._squares + EPSILON)
        self._weights -= gradient

    def settle(self, day: int, reach_days: float) -> None:
        self._averaged = 1 + self._averaged * kept(day - self._settled_day, reach_days)
        self._settled_day = day
        part = 1 / self._averaged
        self._average_intercept += (self._intercept - self._average_intercept) * part
        self._average_weights += (self._weights - self._average_weights) * part

    def to_json(self) -> dict[str, Any]:
        return Logistic(
            kind="logistic",
            format=2,
            learned=self._learned,
            intercept=self._intercept,
            weights=self._weights.tolist(),
            means=self._means.tolist(),
            variances=self._variances.tolist(),
            squares=self._squares.tolist(),
            settled_day=self._settled_day,
            averaged=self._averaged,
            average_intercept=self._average_intercept,
            average_weights=self._average_weights.tolist(),
        ).to_json()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> VectorisedModel:
        state = Logistic.read(data)
        model = cls()
        model._learned = state.learned
        model._intercept = state.intercept
        model._weights = np.array(state.weights)
        model._means = np.array(state.means)
        model._variances = np.array(state.variances)
        model._squares = np.array(state.squares)
        model._settled_day, model._averaged = state.settled_day, state.averaged
        model._average_intercept = state.average_intercept
        model._average_weights = np.array(state.average_weights)
        return model

    def _intercept_step(self) -> float:
        return INTERCEPT_RATE / sqrt(self._learned + 1)

    def _scaled(self, x: Vector) -> Vector:
        """Return distances from the mean in standard deviations."""
        return (x - self._means) / np.sqrt(np.maximum(self._variances, VARIANCE_MIN))


def _logit(weights: Vector, scaled: Vector, intercept: float) -> float:
    return float(np.add.reduce(weights * scaled)) + intercept


def _vector(features: Sequence[float]) -> Vector:
    """Return features as an array, without a copy where they are one of doubles already."""
    x = np.asarray(features, dtype=np.float64)
    if x.shape != (len(NAMES),):
        raise ValueError(f"features: {len(x)} numbers; allowed are {len(NAMES)}")
    return x


def _gradient(logit: float, y: int) -> float:
    """Return the slope of the logarithmic loss in the logit."""
    sign = 1 if y else -1
    margin = sign * logit
    if margin > _GRADIENT_LOGIT_MAX:
        return -sign * exp(-margin)
    return float(-sign) if margin < -_GRADIENT_LOGIT_MAX else -sign / (exp(margin) + 1)
