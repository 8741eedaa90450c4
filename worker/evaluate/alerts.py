"""What alerts would have been worth, with thresholds chosen in advance: each week from the past alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from worker.evaluate.figures import PRECISION, Ranked
from worker.evaluate.peers import LABELS_MIN, released

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.evaluate.examples import Examples
    from worker.evaluate.figures import Floats, Ints

ALERTED_SHARE: Final = 0.1
"""An alert is a prediction in the top tenth of those of the four weeks before."""
_LOOKBACK_DAYS: Final = 28


class InAdvance(NamedTuple):
    """Alerts above the threshold that the released labels promised the precision for."""

    precision: float | None
    """None where nobody was flagged."""
    recall: float
    flagged: float
    """Share of the examples."""


class LeadTime(NamedTuple):
    """From the first alert since the latest order to the lapse: the day when the horizon without an order is over."""

    lapses: int
    """Those whose whole silence was watched."""
    alerted: int
    """Before the lapse, or at the latest on its day."""
    quartiles: tuple[float, float, float] | None
    """Days; None without an alert."""


def in_advance(
    predicted: Floats, examples: Examples, horizon_days: int, counted: Ints, precision: float = PRECISION
) -> InAdvance:
    """Flag each week above the threshold that would have kept the precision on all labels released by then."""
    y = examples.labels(horizon_days)
    counts = np.zeros(len(y), dtype=bool)
    counts[counted] = True
    flagged = np.zeros(len(y), dtype=bool)
    for t, week in examples.weeks():
        past = released(examples, horizon_days, t)
        past = past[np.isfinite(predicted[past])]
        if len(past) < LABELS_MIN:
            counts[week] = False
            continue
        threshold = Ranked(y[past], predicted[past], examples.t[past]).operating(precision=precision).threshold
        if threshold is not None:
            flagged[week] = predicted[week] >= threshold
    flagged &= counts
    n, found = int(flagged.sum()), int(y[flagged].sum())
    lapsed = int(y[counts].sum())
    return InAdvance(found / n if n else None, found / lapsed if lapsed else 0.0, n / max(1, int(counts.sum())))


def alerts(predicted: Floats, examples: Examples) -> NDArray[np.bool_]:
    """Return which predictions are alerts."""
    raised = np.zeros(len(predicted), dtype=bool)
    for t, week in examples.weeks():
        before = predicted[(examples.t < t) & (examples.t >= t - _LOOKBACK_DAYS)]
        before = before[np.isfinite(before)]
        if len(before):
            raised[week] = predicted[week] > np.quantile(before, 1 - ALERTED_SHARE)
    return raised


def lead_time(predicted: Floats, examples: Examples, horizon_days: int, since: int) -> LeadTime:
    """Measure lead times of the lapses that follow an order from day `since` on."""
    raised = np.flatnonzero(alerts(predicted, examples))
    by_user: dict[int, list[int]] = {}
    for i in raised:
        by_user.setdefault(int(examples.user[i]), []).append(int(examples.t[i]))
    lapses, leads = 0, []
    for user, happened in enumerate(examples.happened):
        for day, following in zip(happened, [*happened[1:], np.inf], strict=True):
            lapse = day + horizon_days
            if day < since or following <= lapse or lapse > examples.end:
                continue
            lapses += 1
            first = min((t for t in by_user.get(user, ()) if day < t <= lapse), default=None)
            if first is not None:
                leads.append(lapse - first)
    if not leads:
        return LeadTime(lapses, 0, None)
    low, median, high = np.quantile(leads, (0.25, 0.5, 0.75))
    return LeadTime(lapses, len(leads), (float(low), float(median), float(high)))
