"""What the product is compared with: batch models retrained every four weeks, and two simple rules.

All see the same examples and the product's own features, and learn from the labels released by then, none other. The
hyperparameters are those that were chosen for LightGBM on the same weeks among three sets: the peer is slightly
favoured.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from worker.evaluate.examples import REFIT_DAYS
from worker.recall.risk.features import SCALE

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.evaluate.examples import Examples
    from worker.evaluate.figures import Floats, Ints

LABELS_MIN: Final = 500
"""Nobody predicts before so many labels are released."""
_RECENCY_BINS: Final = 30
_LEAF_SHARE, _LEAF_MIN, _LEAF_MAX = 40, 20, 600
"""A leaf of LightGBM has at least this part of the examples, within these bounds."""


class Peer(Protocol):
    """Something that is fitted to all released labels at once."""

    def fit(self, x: Floats, y: Ints) -> Callable[[Floats], Floats]:
        """Return what gives probabilities; `x` has a row for each example."""


def released(examples: Examples, horizon_days: int, t: int) -> Ints:
    """Return the indices of the examples whose horizon is over at the start of day `t`, of both classes alike."""
    return np.flatnonzero(examples.t + horizon_days <= t)


def predict(peer: Peer, x: Floats, examples: Examples, horizon_days: int, refit_days: int = REFIT_DAYS) -> Floats:
    """Predict each week with what was fitted at most `refit_days` before; NaN before there are labels enough."""
    y = examples.labels(horizon_days)
    predicted = np.full(len(y), np.nan)
    fitted, fitted_at = None, 0
    for t, week in examples.weeks():
        past = released(examples, horizon_days, t)
        if len(past) < LABELS_MIN:
            continue
        if fitted is None or t - fitted_at >= refit_days:
            fitted, fitted_at = peer.fit(x[past], y[past]), t
        predicted[week] = fitted(x[week])
    return predicted


def plain(examples: Examples) -> Floats:
    """Return features as the batch models take them: what the product's learner takes."""
    return examples.seen / float(SCALE)


def days_since(examples: Examples) -> Floats:
    """Return days since the latest order, or activity, as a column."""
    return np.array(
        [[past.orders.age_days - past.orders.recency_days] for past in examples.histories], dtype=np.float64
    )


class LightGbm:
    """200 trees with 7 leaves."""

    def fit(self, x: Floats, y: Ints) -> Callable[[Floats], Floats]:
        import lightgbm  # noqa: PLC0415 - a peer is loaded when it is asked for

        trees = lightgbm.LGBMClassifier(
            n_estimators=200,
            learning_rate=0.04,
            num_leaves=7,
            min_child_samples=int(min(_LEAF_MAX, max(_LEAF_MIN, len(y) // _LEAF_SHARE))),
            subsample=0.7,
            subsample_freq=1,
            colsample_bytree=0.5,
            reg_lambda=20.0,
            n_jobs=1,
            random_state=1,
            verbose=-1,
        )
        return _probabilities(trees.fit(x, y))


class BatchLogistic:
    """Logistic regression on scaled features, C = .05."""

    def fit(self, x: Floats, y: Ints) -> Callable[[Floats], Floats]:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - the same
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - the same
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - the same

        varies = np.flatnonzero(x.min(axis=0) != x.max(axis=0))
        logistic = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=300))
        probabilities = _probabilities(logistic.fit(x[:, varies], y))
        return lambda rows: probabilities(rows[:, varies])


class Recency:
    """The rate of those whose latest order lies about as far back: 30 bins of equal mass."""

    def fit(self, x: Floats, y: Ints) -> Callable[[Floats], Floats]:
        edges = np.unique(np.quantile(x[:, 0], np.linspace(0, 1, _RECENCY_BINS + 1)[1:-1]))
        places, bins = np.digitize(x[:, 0], edges), len(edges) + 1
        rates = (np.bincount(places, y, bins) + 1) / (np.bincount(places, minlength=bins) + 2)

        def rate(rows: Floats) -> Floats:
            found: Floats = rates[np.digitize(rows[:, 0], edges)]
            return found

        return rate


class Constant:
    """The base rate of all released labels."""

    def fit(self, x: Floats, y: Ints) -> Callable[[Floats], Floats]:  # noqa: ARG002 - it knows nothing of the user
        base = float(y.mean())
        return lambda rows: np.full(len(rows), base)


def _probabilities(classifier: Any) -> Callable[[Floats], Floats]:
    def probabilities(rows: Floats) -> Floats:
        with warnings.catch_warnings():
            # Scikit-learn asks for the names that LightGBM gives to columns without one.
            warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
            found: Floats = classifier.predict_proba(rows)[:, 1]
        return found

    return probabilities
