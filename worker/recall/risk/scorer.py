"""What workers score with: a snapshot as plain formulas.

The logit is learner_share parts the learner's and the rest BG/NBD's, that of P(no order within the horizon): a mean of
logits once there are labels enough, BG/NBD alone before. The learner's is a sum of products over features as
they lie in a row, whole thousandths, and equals what the learner itself predicts.
"""

from __future__ import annotations

from math import exp, log
from operator import mul
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall import rfm
from worker.recall.days import Days
from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.spend import GammaGamma
from worker.recall.lifetime.worth import Lifetime
from worker.recall.policy.responses import Responses
from worker.recall.risk.baselines import Baselines
from worker.recall.risk.features import NAMES, SCALE, SCHEMA_HASH
from worker.recall.risk.model import LOGIT_MAX, VARIANCE_MIN, Logistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.snapshots import CutPoints, LifetimeParameters, Snapshot
    from worker.recall.lifetime.history import Rhythms

RHYTHM: Final = "rhythm"
"""What BG/NBD adds to a score goes by this name: it sees the rhythms of orders and of activity, nothing else."""
BGNBD_CLIP: Final = 0.001
"""A probability of BG/NBD nearer to 0 or 1 counts as this near."""
_DIGITS: Final = 6


class SnapshotError(ValueError):
    """A snapshot that cannot be used here; the message names it, the field, and what is allowed."""


class Predictions(NamedTuple):
    """P(no order within the horizon) in several ways, each rounded to 6 decimals."""

    model: float
    """What is acted on."""
    learner: float | None
    """Alone; None where it has no share."""
    bgnbd: float | None
    """None where it has not been fitted."""
    recency: float
    constant: float


def check_schema(snapshot: Snapshot) -> None:
    """Refuse a snapshot whose features are not those that are computed here."""
    if snapshot.schema_hash != SCHEMA_HASH:
        raise SnapshotError(
            f"snapshot {snapshot.version}: schema_hash = {snapshot.schema_hash}: allowed is {SCHEMA_HASH}, "
            "the features that this version computes; use a snapshot that it has learned"
        )


def read_lifetime(parameters: LifetimeParameters) -> Lifetime:
    """Return what is known of purchases and their value; spend is None where it was not fitted.

    Raises:
        ValueError: if some of the parameters of spend are there and some are not.

    """
    activity, spend = parameters.activity, (parameters.p, parameters.q, parameters.v)
    known = [parameter for parameter in spend if parameter is not None]
    if known and len(known) < len(spend):
        raise ValueError(f"lifetime: p, q, v = {spend}: allowed are three numbers or none")
    return Lifetime(
        purchases=BgNbd(parameters.r, parameters.alpha, parameters.a, parameters.b),
        activity=BgNbd(activity.r, activity.alpha, activity.a, activity.b),
        spend=GammaGamma(*known) if known else None,
        fitted_day=Days.number(parameters.fitted_day),
        histories=parameters.histories,
    )


class Scorer:
    """The formulas of one snapshot.

    Raises:
        SnapshotError: if the snapshot was learned on other features, lacks what its shares need, or cannot be read.

    """

    def __init__(self, snapshot: Snapshot) -> None:
        check_schema(snapshot)
        try:
            learner = None if snapshot.model is None else Logistic.read(snapshot.model)
            lifetime = None if snapshot.lifetime is None else read_lifetime(snapshot.lifetime)
            baselines = Baselines.from_json(snapshot.baselines)
            _check_share(snapshot)
        except ValueError as error:
            raise SnapshotError(f"snapshot {snapshot.version}: {error}") from error
        self.version = snapshot.version
        self.horizon_days = snapshot.horizon_days
        self.lifetime = lifetime
        self.cut_points = None if snapshot.cut_points is None else cut_points_of(snapshot.cut_points)
        self.alert_above = snapshot.alert_above
        self.priors = Responses.read(snapshot.choice_priors)
        """What came of choices."""
        self.means = [0.0] * len(NAMES) if learner is None else [mean * SCALE for mean in learner.means]
        """Of the customers learned from, by feature, in thousandths; 0 before the first."""
        self._share = share = snapshot.learner_share
        self._rhythm_share = 1 - share
        self._constant, self._by_recency = baselines.constant(), baselines.by_recency()
        self._usual = log_odds(self._constant)
        self._slopes = [0.0] * len(NAMES) if learner is None else [share * slope for slope in _slopes(learner)]
        learned = 0.0 if learner is None else share * learner.average_intercept
        self._offset: float = learned - sum(map(mul, self._slopes, self.means))
        self.intercept = learned + self._rhythm_share * self._usual
        """The log odds of a customer who is average in every feature, and whose rhythm tells of the base rate."""

    def logit(self, seen: Sequence[int], rhythms: Rhythms) -> float:
        """Return the log odds of no order within the horizon; `seen` are features in thousandths."""
        return self._blend(self._learned(seen), self._no_order(rhythms))

    def score(self, seen: Sequence[int], rhythms: Rhythms) -> float:
        """Return the probability of no order within the horizon, rounded to 6 decimals."""
        return _probability(self.logit(seen, rhythms))

    def predictions(self, seen: Sequence[int], rhythms: Rhythms) -> Predictions:
        """Return the score, and what simpler ways would have said."""
        learned, no_order = self._learned(seen), self._no_order(rhythms)
        days_since_order = rhythms.orders.age_days - rhythms.orders.recency_days
        return Predictions(
            model=_probability(self._blend(learned, no_order)),
            learner=_probability(learned / self._share) if self._share else None,
            bgnbd=None if no_order is None else round(no_order, _DIGITS),
            recency=self._by_recency[min(days_since_order, len(self._by_recency) - 1)],
            constant=self._constant,
        )

    def contributions(self, seen: Sequence[int], rhythms: Rhythms) -> list[tuple[str, float]]:
        """Return what each feature adds, and the rhythms; with `intercept`, they sum up to the logit.

        A feature adds by its distance from the average, the rhythm by that of BG/NBD's log odds from the base rate's.
        """
        told = [
            (name, slope * (value - mean))
            for name, slope, value, mean in zip(NAMES, self._slopes, seen, self.means, strict=True)
        ]
        no_order = self._no_order(rhythms)
        apart = 0.0 if no_order is None else log_odds(no_order) - self._usual
        told.append((RHYTHM, self._rhythm_share * apart))
        return told

    def _no_order(self, rhythms: Rhythms) -> float | None:
        return None if self.lifetime is None else self.lifetime.no_order(rhythms, self.horizon_days)

    def _learned(self, seen: Sequence[int]) -> float:
        """Return the learner's part of the logit."""
        learned: float = self._offset + sum(map(mul, self._slopes, seen))
        return learned

    def _blend(self, learned: float, no_order: float | None) -> float:
        return learned if no_order is None else learned + self._rhythm_share * log_odds(no_order)


def _check_share(snapshot: Snapshot) -> None:
    share = snapshot.learner_share
    if snapshot.model is None and snapshot.lifetime is None:
        raise ValueError("model = null, lifetime = null: one of them at least is needed")
    if snapshot.model is None and share != 0:
        raise ValueError(f"learner_share = {share}: allowed is 0 where model is null")
    if snapshot.lifetime is None and share != 1:
        raise ValueError(f"learner_share = {share}: allowed is 1 where lifetime is null")


def _slopes(learner: Logistic) -> list[float]:
    """Return what a thousandth of each feature moves the learner's logit."""
    return [
        weight / max(variance, VARIANCE_MIN) ** 0.5 / SCALE
        for weight, variance in zip(learner.average_weights, learner.variances, strict=True)
    ]


def cut_points_of(cut_points: CutPoints) -> rfm.CutPoints:
    """Return cut points as scores are made from them."""
    r, f, m = cut_points.recency_days, cut_points.frequency, cut_points.monetary
    return rfm.CutPoints(
        cut_points.version, (r[0], r[1], r[2], r[3]), (f[0], f[1], f[2], f[3]), (m[0], m[1], m[2], m[3])
    )


def log_odds(p: float, nearest: float = BGNBD_CLIP) -> float:
    """Return the logit of a probability, not nearer to 0 or 1 than `nearest`.

    >>> log_odds(0.5), log_odds(0.0) == log_odds(0.001)
    (0.0, True)
    """
    clipped = min(1 - nearest, max(nearest, p))
    return log(clipped / (1 - clipped))


def _probability(logit: float) -> float:
    """Return the probability of a logit.

    >>> _probability(0.0), _probability(-1e6), _probability(1e6)
    (0.5, 0.0, 1.0)
    """
    return round(1 / (1 + exp(-max(-LOGIT_MAX, min(LOGIT_MAX, logit)))), _DIGITS)
