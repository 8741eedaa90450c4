"""How good predictions were: figures of one way to predict, and intervals by resampling users.

Every figure takes weights, so that a resample of users is a vector of how often each was drawn. Weeks of one user are
correlated; to resample users, not examples, is what makes the intervals honest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Ints: TypeAlias = NDArray[np.int64]

ECE_BINS: Final = 15
"""Of equal mass."""
CLIP: Final = 1e-4
"""A probability nearer to 0 or 1 counts as this near in the log loss."""
PRECISION: Final = 0.92
"""What the founding article claims, as accuracy; of alerts it would be a precision."""
FLAGGED_MIN: Final = 0.01
"""A threshold that flags fewer is no threshold: among few, precision is luck."""
SEED: Final = 0

LOWER_IS_BETTER: Final = frozenset({"log_loss", "brier", "ece"})
FIGURES: Final = (
    "auc",
    "auc_within_week",
    "pr_auc",
    "log_loss",
    "brier",
    "ece",
    "accuracy",
    "precision_top_1",
    "precision_top_10",
    "lift_top_1",
    "lift_top_10",
    "recall_at_precision",
)


class Operating(NamedTuple):
    """The lowest threshold whose alerts are precise enough: recall and share flagged, 0 where there is none."""

    recall: float
    flagged: float
    threshold: float | None


class Ranked:
    """Predictions in order, for many weightings."""

    def __init__(self, y: Ints, p: Floats, week: Ints) -> None:
        self.y, self.p = y.astype(np.float64), p
        self._falling = np.argsort(-p, kind="stable")
        sorted_p = p[self._falling]
        self._ends = np.flatnonzero(np.append(sorted_p[1:] != sorted_p[:-1], True))
        """Of each run of equal predictions, the last place."""
        self.thresholds = sorted_p[self._ends]
        self._weekly = np.lexsort((-p, week))
        weeks, scores = week[self._weekly], p[self._weekly]
        new_week = np.append(True, weeks[1:] != weeks[:-1])
        self._run = np.cumsum(new_week | np.append(True, scores[1:] != scores[:-1])) - 1
        """By place, in order of week and falling prediction, the run of equal predictions."""
        self._week_starts = np.unique(self._run[new_week])
        clipped = np.clip(p, CLIP, 1 - CLIP)
        self._losses = -np.where(y == 1, np.log(clipped), np.log(1 - clipped))
        self._squares = (p - self.y) ** 2
        self._hits = ((p > 0.5) == (y == 1)).astype(np.float64)  # noqa: PLR2004 - the more likely of two

    def figures(self, weight: Floats | None = None) -> dict[str, float]:
        """Return all figures by name, see `FIGURES`."""
        w = np.ones(len(self.p)) if weight is None else weight
        flagged, found = self.cumulated(w)
        base = found[-1] / flagged[-1]
        top_1, top_10 = (_top(share, flagged, found) for share in (0.01, 0.1))
        precision = found / np.maximum(flagged, np.finfo(np.float64).tiny)
        told = {
            "auc": _area(found, flagged - found),
            "auc_within_week": self._within_week(w),
            "pr_auc": float((np.diff(found, prepend=0.0) * precision).sum() / found[-1]),
            "log_loss": float(np.average(self._losses, weights=w)),
            "brier": float(np.average(self._squares, weights=w)),
            "ece": self._ece(w),
            "accuracy": float(np.average(self._hits, weights=w)),
            "precision_top_1": top_1,
            "precision_top_10": top_10,
            "lift_top_1": top_1 / base,
            "lift_top_10": top_10 / base,
            "recall_at_precision": self.operating(w).recall,
        }
        return {name: float(value) for name, value in told.items()}

    def cumulated(self, weight: Floats) -> tuple[Floats, Floats]:
        """Return by falling threshold how many are flagged, and how many of them came true."""
        w = weight[self._falling]
        return np.cumsum(w)[self._ends], np.cumsum(w * self.y[self._falling])[self._ends]

    def operating(self, weight: Floats | None = None, precision: float = PRECISION) -> Operating:
        """Return the point with the greatest recall among those precise enough, known with hindsight."""
        flagged, found = self.cumulated(np.ones(len(self.p)) if weight is None else weight)
        good = np.flatnonzero((found >= precision * flagged) & (flagged >= FLAGGED_MIN * flagged[-1]))
        if not len(good):
            return Operating(0.0, 0.0, None)
        place = good[-1]
        return Operating(
            float(found[place] / found[-1]), float(flagged[place] / flagged[-1]), float(self.thresholds[place])
        )

    def _bins(self, w: Floats) -> Ints:
        """Return the bin of equal mass of each prediction, in falling order."""
        middle = np.cumsum(w) - w / 2
        places: Ints = np.minimum(ECE_BINS - 1, (middle * (ECE_BINS / w.sum())).astype(np.int64))
        return places

    def _ece(self, weight: Floats) -> float:
        w = weight[self._falling]
        apart = np.bincount(self._bins(w), w * (self.y - self.p)[self._falling], ECE_BINS)
        return float(np.abs(apart).sum() / w.sum())

    def reliability(self) -> list[dict[str, float]]:
        """Return by bin of equal mass the mean prediction, the share that came true, and how many there are."""
        w = np.ones(len(self.p))
        bins = self._bins(w)
        n = np.bincount(bins, minlength=ECE_BINS)
        predicted = np.bincount(bins, self.p[self._falling], ECE_BINS)
        came = np.bincount(bins, self.y[self._falling], ECE_BINS)
        return [
            {"predicted": float(a / k), "came": float(b / k), "n": int(k)}
            for a, b, k in zip(predicted[::-1], came[::-1], n[::-1], strict=True)
            if k
        ]

    def _within_week(self, weight: Floats) -> float:
        """Return the mean of the weeks' AUCs, by their examples; weeks with one outcome alone have none."""
        w, y = weight[self._weekly], self.y[self._weekly]
        found = np.bincount(self._run, w * y)
        missed = np.bincount(self._run, w * (1 - y))
        starts = self._week_starts
        before = np.cumsum(found) - found
        before -= np.repeat(before[starts], np.diff(np.append(starts, len(found))))
        won = np.add.reduceat(missed * (before + found / 2), starts)
        found_by_week, missed_by_week = np.add.reduceat(found, starts), np.add.reduceat(missed, starts)
        pairs = found_by_week * missed_by_week
        both = pairs > 0
        if not both.any():
            return 0.5
        return float(np.average(won[both] / pairs[both], weights=(found_by_week + missed_by_week)[both]))


def _top(share: float, flagged: Floats, found: Floats) -> float:
    """Return the precision of the top share; of those with equal predictions, part is flagged, whoever they are."""
    n = share * flagged[-1]
    return float(np.interp(n, np.append(0.0, flagged), np.append(0.0, found))) / float(n)


def _area(found: Floats, missed: Floats) -> float:
    """Return the AUC from what each falling threshold finds and wrongly flags; 0.5 where there is one outcome alone."""
    pairs = found[-1] * missed[-1]
    if not pairs:
        return 0.5
    heights = (found + np.append(0.0, found[:-1])) / 2
    return float((heights * np.diff(missed, prepend=0.0)).sum() / pairs)


def resamples(user: Ints, n: int) -> list[Floats]:
    """Return for each of `n` resamples of the users how often each example counts. The same every time."""
    _, of = np.unique(user, return_inverse=True)
    users = int(of.max()) + 1
    random = np.random.default_rng(SEED)
    return [np.bincount(random.integers(0, users, users), minlength=users).astype(np.float64)[of] for _ in range(n)]


class Interval(NamedTuple):
    """The middle 95% of resamples."""

    low: float
    high: float


class Report(NamedTuple):
    """Figures of one way to predict; the difference and the verdict are to the peer."""

    figures: dict[str, float]
    intervals: dict[str, Interval]
    differences: dict[str, Interval]
    verdicts: dict[str, str]
    """By figure: `better`, `worse` or `no difference`, at 95%."""


def compare(
    predicted: Mapping[str, Floats], y: Ints, week: Ints, weights: list[Floats], peer: str
) -> dict[str, Report]:
    """Return a report of each way to predict, resampled in the same way for all."""
    ranked = {name: Ranked(y, p, week) for name, p in predicted.items()}
    drawn = {
        name: np.array([[figures[figure] for figure in FIGURES] for figures in map(one.figures, weights)])
        for name, one in ranked.items()
    }
    reports = {}
    for name, one in ranked.items():
        differences = {} if name == peer else _intervals(drawn[name] - drawn[peer])
        verdicts = {figure: _verdict(figure, interval) for figure, interval in differences.items()}
        reports[name] = Report(one.figures(), _intervals(drawn[name]), differences, verdicts)
    return reports


def _intervals(drawn: NDArray[np.float64]) -> dict[str, Interval]:
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return {figure: Interval(float(a), float(b)) for figure, a, b in zip(FIGURES, low, high, strict=True)}


def _verdict(figure: str, difference: Interval) -> str:
    """Say what a difference means.

    >>> _verdict("auc", Interval(0.001, 0.01)), _verdict("log_loss", Interval(0.001, 0.01))
    ('better', 'worse')
    >>> _verdict("auc", Interval(-0.001, 0.01))
    'no difference'
    """
    low, high = (-difference.high, -difference.low) if figure in LOWER_IS_BETTER else difference
    return "better" if low > 0 else "worse" if high < 0 else "no difference"
