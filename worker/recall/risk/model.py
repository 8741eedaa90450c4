"""The model that learns, and the plain formula that workers score with.

The trainer learns with River; every worker scores with a `Scorer` made from a snapshot, a sum of products that equals
River's prediction. Both read the same versioned JSON, so that a snapshot is all there is to carry.
"""

from __future__ import annotations

from math import exp
from operator import mul
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec
from river import linear_model, optim, preprocessing, utils

from worker.recall.risk.features import NAMES, SCHEMA_HASH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.snapshots import Snapshot

PRIOR: Final = 0.5
"""What is predicted before anything was learned; no snapshot is published then."""
LEARNING_RATE: Final = 0.05
L2: Final = 0.001
INTERCEPT_RATE: Final = 0.5
"""The intercept's step is this over the root of the number of examples: the base rate is found soon, and then held."""
LOGIT_MAX: Final = 30.0
"""Beyond it River's probability is 0 or 1."""


class Model(Protocol):
    """Something that learns P(no order within the horizon), one example at a time."""

    def predict(self, features: Sequence[float]) -> float:
        """Return the probability; changes nothing."""

    def learn(self, features: Sequence[float], y: int, weight: float) -> None:
        """Take an example; `y` is 1 where there was no order, and the weight above 0."""

    def to_json(self) -> dict[str, Any]:
        """Return all that predicting and learning on depend on, as plain JSON values."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Model:
        """Return the model that `to_json` told of, equal to the last bit."""


class SnapshotError(ValueError):
    """A snapshot that cannot be used here."""


class _Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A logistic regression on scaled features, as it lies in a snapshot; lists are in the order of the features."""

    kind: Literal["river-logistic"]
    format: Literal[1]
    learned: int
    intercept: float
    weights: list[float]
    means: list[float]
    variances: list[float]
    squares: list[float]
    """Sums of squared gradients, AdaGrad's memory."""

    def __post_init__(self) -> None:
        for name in ("weights", "means", "variances", "squares"):
            n = len(getattr(self, name))
            if n != len(NAMES):
                raise ValueError(f"{name}: {n} numbers; allowed are as many as features, {len(NAMES)}")


def _read(data: Mapping[str, Any]) -> _Weights:
    try:
        return msgspec.convert(data, _Weights)
    except msgspec.ValidationError as error:
        raise SnapshotError(f"model: {error}") from error


def check_schema(snapshot: Snapshot) -> None:
    """Refuse a snapshot whose features are not those that are computed here."""
    if snapshot.schema_hash != SCHEMA_HASH:
        raise SnapshotError(
            f"snapshot {snapshot.version}: schema_hash = {snapshot.schema_hash}: allowed is {SCHEMA_HASH}, "
            "the features that this version computes; use a snapshot that it has learned"
        )


class RiverModel:
    """`Model`: River's scaler and logistic regression with AdaGrad.

    >>> model = RiverModel()
    >>> model.predict([0.0] * len(NAMES)) == PRIOR
    True
    """

    def __init__(self) -> None:
        self._learned = 0
        self._scaler = preprocessing.StandardScaler()
        self._regression = linear_model.LogisticRegression(
            optimizer=optim.AdaGrad(LEARNING_RATE),
            l2=L2,
            intercept_lr=optim.schedulers.InverseScaling(INTERCEPT_RATE, 0.5),
        )
        self._pipeline = self._scaler | self._regression

    def predict(self, features: Sequence[float]) -> float:
        return float(self._pipeline.predict_proba_one(_named(features))[True])

    def learn(self, features: Sequence[float], y: int, weight: float) -> None:
        self._pipeline.learn_one(_named(features), y, w=weight)
        self._learned += 1

    def to_json(self) -> dict[str, Any]:
        weights = self._regression.weights
        state = _Weights(
            kind="river-logistic",
            format=1,
            learned=self._learned,
            intercept=self._regression.intercept,
            weights=[weights.get(name, 0.0) for name in NAMES],
            means=[self._scaler.means.get(name, 0.0) for name in NAMES],
            variances=[self._scaler.vars.get(name, 0.0) for name in NAMES],
            squares=[self._regression.optimizer.g2.get(name, 0.0) for name in NAMES],
        )
        plain: dict[str, Any] = msgspec.to_builtins(state)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RiverModel:
        state = _read(data)
        model = cls()
        if state.learned == 0:
            return model
        model._learned = state.learned
        model._scaler.counts.update(dict.fromkeys(NAMES, state.learned))
        model._scaler.means.update(_named(state.means))
        model._scaler.vars.update(_named(state.variances))
        regression = model._regression
        regression.intercept = state.intercept
        regression._weights = utils.VectorDict(_named(state.weights))  # noqa: SLF001 - River takes initial weights in no other way
        regression.optimizer.g2.update(_named(state.squares))
        regression.optimizer.n_iterations = state.learned
        return model


class Scorer:
    """What workers score with: the model of a snapshot, as plain numbers."""

    def __init__(self, snapshot: Snapshot) -> None:
        check_schema(snapshot)
        state = _read(snapshot.model)
        self.version = snapshot.version
        self.horizon_days = snapshot.horizon_days
        self.intercept = state.intercept
        """The log odds of a customer who is average in everything."""
        self.means = state.means
        """Of the customers learned from, by feature."""
        self._slopes = [
            weight / variance**0.5 if variance else 0.0
            for weight, variance in zip(state.weights, state.variances, strict=True)
        ]
        self._offset: float = state.intercept - sum(map(mul, self._slopes, state.means))

    def logit(self, features: Sequence[float]) -> float:
        """Return the log odds of no order within the horizon."""
        moved: float = sum(map(mul, self._slopes, features))
        return self._offset + moved

    def score(self, features: Sequence[float]) -> float:
        """Return the probability of no order within the horizon, rounded to 6 decimals."""
        logit = self.logit(features)
        return round(1 / (1 + exp(-max(-LOGIT_MAX, min(LOGIT_MAX, logit)))), 6)

    def contributions(self, features: Sequence[float]) -> list[tuple[str, float]]:
        """Return by feature what its distance from the average adds; with the intercept, it sums up to the logit."""
        return [
            (name, slope * (feature - mean))
            for name, slope, feature, mean in zip(NAMES, self._slopes, features, self.means, strict=True)
        ]


def _named(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(NAMES, values, strict=True))
