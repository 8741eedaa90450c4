"""What another policy would have brought, from a log of one that drew with known propensities.

Three estimators of the mean reward: inverse propensity scoring (IPS), which needs the propensities alone; the
self-normalised one (SNIPS: A. Swaminathan, T. Joachims: The Self-Normalized Estimator for Counterfactual Learning,
NIPS 2015), which does not move when a constant is added to all rewards and varies less, at the price of a bias that
vanishes with n; and the doubly robust one (M. Dudik, J. Langford, L. Li: Doubly Robust Policy Evaluation and Learning,
ICML 2011), which starts from a model of the rewards and corrects it by the log: unbiased whatever the model says, as
long as it was not fitted to these rows, and the less variable the better the model.

A target is a matrix: by row of the log, the probability of each action. All but SNIPS are linear in it, so that the
difference of two targets gives the difference of their values, with the interval that belongs to it. Intervals are
95%, normal, over users: rows of a user count together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from worker.evaluate.figures import Floats, Ints

Z: Final = 1.959964
"""Of 95%."""


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """What was done, with which propensity, and what it brought; a row for each decision."""

    action: Ints
    propensity: Floats
    """Of the action that was taken, above 0."""
    reward: Floats
    user: Ints

    def __post_init__(self) -> None:
        least = float(self.propensity.min(initial=1.0))
        if not least > 0:
            raise ValueError(f"propensity = {least}: allowed is above 0, or nothing can be said of the action")


class Estimate(NamedTuple):
    """Mean reward of a policy."""

    value: float
    error: float
    """Standard error."""

    @property
    def low(self) -> float:
        return self.value - Z * self.error

    @property
    def high(self) -> float:
        return self.value + Z * self.error


def ips(log: DecisionLog, target: Floats) -> Estimate:
    """Return the value by inverse propensity scoring."""
    return _mean(_weights(log, target) * log.reward, log.user)


def snips(log: DecisionLog, target: Floats) -> Estimate:
    """Return the value by self-normalised inverse propensity scoring; `target` is a policy, no difference of two.

    Raises:
        ValueError: if the log never does what the target may do.

    """
    weights = _weights(log, target)
    total = float(weights.mean())
    if total <= 0:
        raise ValueError("target: the log holds none of its actions")
    value = float((weights * log.reward).mean()) / total
    return Estimate(value, _mean(weights * (log.reward - value) / total, log.user).error)


def doubly_robust(log: DecisionLog, target: Floats, predicted: Floats) -> Estimate:
    """Return the doubly robust value; `predicted` is the reward of each action, by a model not fitted to these rows."""
    taken = predicted[np.arange(len(log.action)), log.action]
    return _mean((target * predicted).sum(axis=1) + _weights(log, target) * (log.reward - taken), log.user)


def _weights(log: DecisionLog, target: Floats) -> Floats:
    taken: Floats = target[np.arange(len(log.action)), log.action] / log.propensity
    return taken


def _mean(told: Floats, user: Ints) -> Estimate:
    """Return the mean over rows, with the error that users, not rows, are independent."""
    n = len(told)
    value = float(told.mean())
    _, of = np.unique(user, return_inverse=True)
    apart = np.bincount(of, told - value)
    return Estimate(value, float(np.sqrt((apart**2).sum())) / n)
