"""The learner: logistic regression, one example at a time; River's is the reference.

Features are scaled by their running mean and deviation, and each weight has a step of its own, which shrinks with the
gradients that it has seen: AdaGrad (Duchi, Hazan and Singer, Journal of Machine Learning Research 12, 2011). A feature
that few customers have comes in gently: its deviation is taken to be no less than a bound. Without that the first to
have it after thousands who had not lies a hundred deviations off, moves the weight as far, and stops it there. Every
implementation of `Model` learns the same and writes the same versioned JSON, so that any can go on from what another
has learned, and scoring does not ask which it was.

What predicts is an average of the weights at the ends of label days, the later ones counting more (Polyak and Juditsky,
SIAM Journal on Control and Optimization 30:4, 1992, decaying here). A label is as old as the horizon is long: a learner
that follows each day's base rate runs behind every season, and the longer the horizon, the more out of step. So the
average reaches back in proportion to the horizon. It also allows for longer steps.
"""

from __future__ import annotations

from math import exp, isfinite
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec
from river import linear_model, optim, preprocessing, utils

from worker.recall.risk.features import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRIOR: Final = 0.5
"""What is predicted before anything was learned; a snapshot gives the learner no share then."""
LEARNING_RATE: Final = 0.05
L2: Final = 0.03
INTERCEPT_RATE: Final = 0.5
"""The intercept's step is this over the root of the number of examples: the base rate is found soon, and then held."""
EPSILON: Final = 1e-8
"""Keeps AdaGrad from dividing by 0."""
VARIANCE_MIN: Final = 0.05
"""A feature that varies less is scaled as if it varied so much: about as a count that one in eight has, once."""
LOGIT_MAX: Final = 30.0
"""Beyond it River's probability is 0 or 1."""
AVERAGED_HORIZONS: Final = 0.5
"""How far the average reaches back."""


class Model(Protocol):
    """Something that learns P(no order within the horizon); features are plain numbers in the order of `NAMES`."""

    def predict(self, features: Sequence[float]) -> float:
        """Return the probability, `PRIOR` where nothing was learned; changes nothing."""

    def learn(self, features: Sequence[float], y: int, weight: float) -> None:
        """Take an example; `y` is 1 where there was no order, and the weight above 0 scales its gradient.

        The weights that predict stay as they are until the next `settle`.
        """

    def settle(self, day: int, reach_days: float) -> None:
        """Take the weights of now, as of the day, into the average that predicts.

        Those of `reach_days` before count for 1/e of them; where it is 0, they alone are the average.
        """

    def to_json(self) -> dict[str, Any]:
        """Return all that predicting and learning on depend on, as plain JSON values: see `Logistic`."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Model:
        """Return the model that `to_json` told of, equal to the last bit.

        Raises:
            ValueError: if it is of another kind, format or number of features, or has a number that is not finite.

        """


_LISTS: Final = ("weights", "means", "variances", "squares", "average_weights")


class Logistic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A logistic regression on scaled features, as it lies in a snapshot; lists are in the order of the features."""

    kind: Literal["logistic"]
    format: Literal[2]
    learned: int
    intercept: float
    weights: list[float]
    means: list[float]
    variances: list[float]
    squares: list[float]
    """Sums of squared gradients, AdaGrad's memory."""
    settled_day: int
    averaged: float
    """What all weights in the average count for, where the last ones count for 1; 0 before the first."""
    average_intercept: float
    average_weights: list[float]

    def __post_init__(self) -> None:
        lists = {name: getattr(self, name) for name in _LISTS}
        for name, numbers in lists.items():
            if len(numbers) != len(NAMES):
                raise ValueError(f"{name}: {len(numbers)} numbers; allowed are as many as features, {len(NAMES)}")
        for name in ("intercept", "average_intercept", "averaged"):
            lists[name] = [getattr(self, name)]
        for name, numbers in lists.items():
            least = 0.0 if name in {"variances", "squares", "averaged"} else float("-inf")
            for number in numbers:
                if not isfinite(number) or number < least:
                    told = "finite numbers" if least else "finite numbers from 0"
                    raise ValueError(f"{name}: {number}; allowed are {told}")
        if self.learned < 0:
            raise ValueError(f"learned: {self.learned}; allowed are whole numbers from 0")

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Logistic:
        """Check what `Model.to_json` returned.

        >>> Logistic.read({"kind": "forest"})
        Traceback (most recent call last):
            ...
        ValueError: model: Invalid enum value 'forest' - at `$.kind`
        """
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"model: {error}") from error

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class _BoundedScaler(preprocessing.StandardScaler):  # type: ignore[misc]  # River has no types
    """River's scaler, but that no variance is taken to be less than `VARIANCE_MIN`."""

    def transform_one(self, x: dict[str, float]) -> dict[str, float]:
        means, variances = self.means, self.vars
        return {name: (value - means[name]) / max(variances[name], VARIANCE_MIN) ** 0.5 for name, value in x.items()}


class RiverModel:
    """`Model`: River's scaler and logistic regression with AdaGrad.

    >>> model = RiverModel()
    >>> model.predict([0.0] * len(NAMES)) == PRIOR
    True
    """

    def __init__(self) -> None:
        self._learned = 0
        self._scaler = _BoundedScaler()
        self._regression = linear_model.LogisticRegression(
            optimizer=optim.AdaGrad(LEARNING_RATE, EPSILON),
            l2=L2,
            intercept_lr=optim.schedulers.InverseScaling(INTERCEPT_RATE, 0.5),
        )
        self._pipeline = self._scaler | self._regression
        self._settled_day, self._averaged = 0, 0.0
        self._average = linear_model.LogisticRegression()

    def predict(self, features: Sequence[float]) -> float:
        return float(self._average.predict_proba_one(self._scaler.transform_one(_named(features)))[True])

    def learn(self, features: Sequence[float], y: int, weight: float) -> None:
        self._pipeline.learn_one(_named(features), y, w=weight)
        self._learned += 1

    def settle(self, day: int, reach_days: float) -> None:
        self._averaged = 1 + self._averaged * kept(day - self._settled_day, reach_days)
        self._settled_day = day
        part = 1 / self._averaged
        average, weights = self._average, self._average.weights
        average.intercept += (self._regression.intercept - average.intercept) * part
        for name, weight in self._regression.weights.items():
            before = weights.get(name, 0.0)
            weights[name] = before + (weight - before) * part
        _set_weights(average, weights)

    def to_json(self) -> dict[str, Any]:
        weights = self._regression.weights
        return Logistic(
            kind="logistic",
            format=2,
            learned=self._learned,
            intercept=self._regression.intercept,
            weights=[weights.get(name, 0.0) for name in NAMES],
            means=[self._scaler.means.get(name, 0.0) for name in NAMES],
            variances=[self._scaler.vars.get(name, 0.0) for name in NAMES],
            squares=[self._regression.optimizer.g2.get(name, 0.0) for name in NAMES],
            settled_day=self._settled_day,
            averaged=self._averaged,
            average_intercept=self._average.intercept,
            average_weights=[self._average.weights.get(name, 0.0) for name in NAMES],
        ).to_json()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RiverModel:
        state = Logistic.read(data)
        model = cls()
        model._settled_day, model._averaged = state.settled_day, state.averaged
        model._average.intercept = state.average_intercept
        _set_weights(model._average, _named(state.average_weights))
        if state.learned == 0:
            return model
        model._learned = state.learned
        model._scaler.counts.update(dict.fromkeys(NAMES, state.learned))
        model._scaler.means.update(_named(state.means))
        model._scaler.vars.update(_named(state.variances))
        regression = model._regression
        regression.intercept = state.intercept
        _set_weights(regression, _named(state.weights))
        regression.optimizer.g2.update(_named(state.squares))
        regression.optimizer.n_iterations = state.learned
        return model


def _set_weights(regression: linear_model.LogisticRegression, weights: dict[str, float]) -> None:
    regression._weights = utils.VectorDict(weights)  # noqa: SLF001 - River takes weights in no other way


def kept(days: int, reach_days: float) -> float:
    """Return what weights so many days old count for in the average.

    >>> kept(0, 15.0), round(kept(15, 15.0), 3), kept(1, 0.0)
    (1.0, 0.368, 0.0)
    """
    return exp(-days / reach_days) if reach_days else 0.0


def _named(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(NAMES, values, strict=True))
