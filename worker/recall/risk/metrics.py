"""How well the predictions were: measured on the label day by what had been predicted at the time of the example.

So a figure is as late as the labels are, by the horizon and the lateness, and nothing in it was known to the model. The
same is told of BG/NBD, of a rule by recency and of the constant.

Each customer has a weekday of their own, on which an example is taken: those of a label day were all scored on one day,
and no one is among them twice. The AUC within a week is the exact one of each label day, the mean weighted by examples.

Sums and histograms only, by blocks of eight weeks, of which the last four are kept: the figures are those of the last
24 to 32 weeks of label days, the memory is bounded, and old days do not weigh for ever. Scores are counted in bins of
.05 of the logit. Weights are taken to whole thousandths, one at least, so that a bin takes few digits.
"""

from __future__ import annotations

from bisect import bisect_right
from math import exp, log
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from worker.recall.days import Days
from worker.recall.risk import drift
from worker.recall.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PREDICTORS: Final = ("model", "bgnbd", "recency", "constant")
BLOCK_DAYS: Final = 56
BLOCKS: Final = 4
DRIFT_BLOCKS: Final = 7
"""Blocks of which the days' figures are kept for the alarms: at most 392 days."""
RECENT_BLOCKS: Final = 2
"""Blocks whose scores say from where on a score is an alert."""
ALERT_SHARE: Final = 0.1
ALERT_LABELS_MIN: Final = 500
PRECISION_WANTED: Final = 0.92
"""What the claim of 92% would have to mean, were it of use: of those flagged, so many order nothing."""
FLAGGED_MIN: Final = 0.01
LEAD_DAYS_MAX: Final = 365
ALARMS_TOLD: Final = 8
CLIP: Final = 1e-6
"""A probability nearer to 0 or 1 counts as this near in the log loss; predictions have six decimals."""

_LOGIT_MAX: Final = 7.0
_BINS: Final = 280
_COARSE: Final = 2
"""Bins that are one by tier and on the holdout."""
_STEP: Final = 2 * _LOGIT_MAX / _BINS
_EDGES: Final = tuple(round(1 / (1 + exp(_LOGIT_MAX - i * _STEP)), 9) for i in range(1, _BINS))
"""Upper bounds of the bins but the last, as probabilities, not included."""
_UNIT: Final = 1000
"""Weights are counted in thousandths."""
_RELIABILITY_BINS: Final = 15
_DIGITS: Final = 4


_Predicted: TypeAlias = tuple[float, float | None, float, float]
"""By the predictors, in their order."""


class Outcome(NamedTuple):
    """A label, and what had been predicted of it by the snapshot in force at its time."""

    y: int
    """1: no order within the horizon."""
    weight: float
    predicted: _Predicted | None
    """By the model, BG/NBD, recency and the constant, in this order; None where no snapshot was in force yet."""
    tier: str
    holdout: bool
    lead_days: int | None
    """From the first alert to the lapse, as the row saw it; None where there was no alert, or no lapse."""


class Meter(msgspec.Struct, forbid_unknown_fields=True):
    """Sums over the predictions of one predictor; weights in thousandths."""

    lapsed: list[int]
    """By bin of the score, from the lowest, weights of those who ordered nothing."""
    ordered: list[int]
    """The same of those who ordered."""
    predicted: list[int]
    """The same: weight times probability."""
    n: int = 0
    hits: int = 0
    log_loss: float = 0.0
    squared_error: float = 0.0
    day_weight: int = 0
    """Of label days with both outcomes, the only ones that have an AUC of their own."""
    day_auc: float = 0.0
    """Their AUC times their weight."""

    @classmethod
    def empty(cls, bins: int) -> Meter:
        return cls([0] * bins, [0] * bins, [0] * bins)

    def add(self, p: float, y: int, weight: int) -> None:
        """Take a prediction and what came."""
        clipped = min(1 - CLIP, max(CLIP, p))
        place = bisect_right(_EDGES, p) * len(self.lapsed) // _BINS
        (self.lapsed if y else self.ordered)[place] += weight
        self.predicted[place] += round(weight * p)
        self.n += 1
        self.hits += weight * ((p > 0.5) == (y == 1))  # noqa: PLR2004 - the more likely of two
        self.log_loss -= weight * log(clipped if y else 1 - clipped)
        self.squared_error += weight * (p - y) ** 2

    def join(self, other: Meter) -> None:
        """Add the sums of another one."""
        for name in self.__struct_fields__:
            mine, its = getattr(self, name), getattr(other, name)
            joined = [a + b for a, b in zip(mine, its, strict=True)] if isinstance(mine, list) else mine + its
            setattr(self, name, joined)


class _Block(msgspec.Struct, forbid_unknown_fields=True):
    """Eight weeks of label days."""

    number: int
    """Days since 1970 over 56."""
    meters: list[Meter] = msgspec.field(default_factory=lambda: [Meter.empty(_BINS) for _ in PREDICTORS])
    tiers: dict[str, Meter] = msgspec.field(default_factory=dict)
    holdout: Meter = msgspec.field(default_factory=lambda: Meter.empty(_BINS // _COARSE))
    lead_days: list[int] = msgspec.field(default_factory=list)
    """Lapses by days of lead, as far as there are any."""
    unpredicted: int = 0
    """Labels of examples from before the first snapshot."""

    def __post_init__(self) -> None:
        if len(self.meters) != len(PREDICTORS):
            raise ValueError(f"meters: {len(self.meters)}; allowed are {len(PREDICTORS)}")
        coarse = _BINS // _COARSE
        for meter, bins in (*((meter, _BINS) for meter in self.meters), *((m, coarse) for m in self._parts())):
            for name in ("lapsed", "ordered", "predicted"):
                if len(getattr(meter, name)) != bins:
                    raise ValueError(f"{name}: {len(getattr(meter, name))} numbers; allowed are {bins}")

    def _parts(self) -> Iterator[Meter]:
        yield from self.tiers.values()
        yield self.holdout

    def add(self, outcome: Outcome, weight: int) -> None:
        if outcome.predicted is None:
            self.unpredicted += 1
            return
        for meter, p in zip(self.meters, outcome.predicted, strict=True):
            if p is not None:
                meter.add(p, outcome.y, weight)
        part = self.tiers.get(outcome.tier)
        if part is None:
            part = self.tiers[outcome.tier] = Meter.empty(_BINS // _COARSE)
        part.add(outcome.predicted[0], outcome.y, weight)
        if outcome.holdout:
            self.holdout.add(outcome.predicted[0], outcome.y, weight)
        if outcome.lead_days is not None:
            days = max(0, min(LEAD_DAYS_MAX, outcome.lead_days))
            self.lead_days += [0] * (days + 1 - len(self.lead_days))
            self.lead_days[days] += 1

    def join(self, other: _Block) -> None:
        """Add the sums of another one."""
        for mine, its in zip(self.meters, other.meters, strict=True):
            mine.join(its)
        for tier, its in other.tiers.items():
            self.tiers.setdefault(tier, Meter.empty(_BINS // _COARSE)).join(its)
        self.holdout.join(other.holdout)
        self.lead_days += [0] * (len(other.lead_days) - len(self.lead_days))
        for days, n in enumerate(other.lead_days):
            self.lead_days[days] += n
        self.unpredicted += other.unpredicted


class _State(msgspec.Struct, forbid_unknown_fields=True):
    blocks: list[_Block] = msgspec.field(default_factory=list)
    days: list[drift.Day] = msgspec.field(default_factory=list)


class Measures:
    """Takes label days as they are learned.

    >>> measures = Measures()
    >>> tries = ((1, 0.9), (0, 0.2), (1, 0.6), (0, 0.7))
    >>> measures.take(20_000, [Outcome(y, 1.0, (p, None, p, 0.5), "high", False, None) for y, p in tries])
    >>> figures = measures.report()
    >>> figures["n"], figures["base_rate"], figures["predictors"]["model"]["auc"]
    (4, 0.5, 0.75)
    """

    def __init__(self) -> None:
        self._state = _State()

    def take(self, label_day: int, outcomes: Sequence[Outcome]) -> None:
        """Take a label day as a whole, later than those before; the outcomes in an order that they alone determine."""
        block = self._block(label_day)
        weighted = [(outcome, max(1, round(outcome.weight * _UNIT))) for outcome in outcomes]
        for outcome, weight in weighted:
            block.add(outcome, weight)
        known = [(outcome.predicted, outcome.y, weight) for outcome, weight in weighted if outcome.predicted]
        for i, meter in enumerate(block.meters):
            day = [(p, y, weight) for predicted, y, weight in known if (p := predicted[i]) is not None]
            auc, weight = auc_of(day), sum(map(itemgetter(2), day))
            if auc is not None:
                meter.day_weight += weight
                meter.day_auc += weight * auc
        figures = _day(label_day, known)
        if figures is not None:
            self._state.days.append(figures)

    def report(self) -> dict[str, Any]:
        """Return readable figures, as plain JSON values: rates, and rounded to four decimals.

        Without a prediction that has its outcome, `n` is 0 and there are no figures.
        """
        state = self._state
        window = _Block(0)
        for block in state.blocks:
            window.join(block)
        model = window.meters[0]
        told: dict[str, Any] = {"n": model.n, "unpredicted": window.unpredicted}
        if not any(model.lapsed) and not any(model.ordered):
            return told
        days = [day.label_day for day in state.days if day.label_day // BLOCK_DAYS >= state.blocks[0].number]
        return told | {
            "since": _date(days[0]),
            "until": _date(days[-1]),
            "base_rate": _rounded(sum(model.lapsed) / _weight(model)),
            "predictors": {
                name: figures(meter) for name, meter in zip(PREDICTORS, window.meters, strict=True) if _weight(meter)
            },
            "reliability": [
                [_rounded(predicted), _rounded(came), _rounded(share)]
                for predicted, came, share in reliability(model, _RELIABILITY_BINS)
            ],
            "lead_days": _lead(window.lead_days),
            "tiers": {
                tier.label: _part(window.tiers[tier.label])
                for tier in Tier
                if tier.label in window.tiers and _weight(window.tiers[tier.label])
            },
            "holdout": _part(window.holdout) if _weight(window.holdout) else None,
            "drift": [
                {"signal": alarm.signal, "label_day": _date(alarm.label_day), "direction": alarm.direction}
                for alarm in drift.alarms(state.days)
                if alarm.label_day >= days[0]
            ][-ALARMS_TOLD:],
        }

    def alert_above(self) -> float | None:
        """Return the score above which a tenth of the recent predictions lie; None while they are too few."""
        recent = Meter.empty(_BINS)
        for block in self._state.blocks[-RECENT_BLOCKS:]:
            recent.join(block.meters[0])
        if recent.n < ALERT_LABELS_MIN or not _weight(recent):
            return None
        left = ALERT_SHARE * _weight(recent)
        for place in reversed(range(_BINS)):
            here = recent.lapsed[place] + recent.ordered[place]
            if here > left:
                low, high = _bounds(place)
                return round(high - (high - low) * left / here, 6)
            left -= here
        raise AssertionError("a tenth is less than all")

    def to_json(self) -> dict[str, Any]:
        """Return all sums, as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self._state)
        return plain

    @classmethod
    def from_json(cls, data: object) -> Measures:
        """Return the measures that `to_json` told of, equal to the last bit."""
        measures = cls()
        try:
            measures._state = msgspec.convert(data, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"measures: {error}") from error
        return measures

    def _block(self, label_day: int) -> _Block:
        """Return the block of a day, and drop what is older than what is kept."""
        state, number = self._state, label_day // BLOCK_DAYS
        if not state.blocks or state.blocks[-1].number != number:
            state.blocks = [block for block in state.blocks if block.number > number - BLOCKS]
            state.blocks.append(_Block(number))
            state.days = [day for day in state.days if day.label_day // BLOCK_DAYS > number - DRIFT_BLOCKS]
        return state.blocks[-1]


def _date(label_day: int) -> str:
    return Days.date(label_day).isoformat()


def _rounded(figure: float) -> float:
    return round(figure, _DIGITS)


# -- figures of a day --------------------------------------------------------------------------------------------------


def auc_of(scored: Iterable[tuple[float, int, int]]) -> float | None:
    """Return the exact AUC of (probability, y, weight); None where an outcome is missing.

    >>> round(auc_of([(0.9, 1, 1), (0.2, 0, 1), (0.2, 1, 2), (0.1, 0, 1)]), 4)
    0.8333
    """
    by_score: dict[float, list[int]] = {}
    for p, y, weight in scored:
        by_score.setdefault(p, [0, 0])[y] += weight
    ranked = [by_score[p] for p in sorted(by_score)]
    return _auc([lapsed for _, lapsed in ranked], [ordered for ordered, _ in ranked])


def _day(label_day: int, known: Sequence[tuple[_Predicted, int, int]]) -> drift.Day | None:
    """Return what is kept of a day for the alarms; None where it has no prediction."""
    model, constant = Meter.empty(1), Meter.empty(1)
    for predicted, y, weight in known:
        model.add(predicted[0], y, weight)
        constant.add(predicted[-1], y, weight)
    total = _weight(model)
    if not total:
        return None
    return drift.Day(
        label_day,
        model.n,
        _rounded(model.lapsed[0] / total),
        _rounded(model.predicted[0] / total),
        _rounded(model.log_loss / total),
        _rounded(constant.log_loss / total),
    )


# -- figures of a meter ------------------------------------------------------------------------------------------------


def figures(meter: Meter) -> dict[str, Any]:
    """Return all figures of a predictor."""
    total = _weight(meter)
    point = point_of_precision(meter)
    return {
        "n": meter.n,
        "auc": _or_none(_auc(meter.lapsed, meter.ordered)),
        "auc_within_week": _or_none(meter.day_auc / meter.day_weight if meter.day_weight else None),
        "pr_auc": _or_none(pr_auc(meter)),
        "log_loss": _rounded(meter.log_loss / total),
        "brier": _rounded(meter.squared_error / total),
        "ece": _rounded(ece(meter)),
        "accuracy": _rounded(meter.hits / total),
        "top_1": _top(meter, 0.01),
        "top_10": _top(meter, 0.1),
        "at_92": None if point is None else {name: _rounded(value) for name, value in point._asdict().items()},
    }


def _part(meter: Meter) -> dict[str, Any]:
    """Return the model's figures on a part of the customers."""
    total = _weight(meter)
    return {
        "n": meter.n,
        "base_rate": _rounded(sum(meter.lapsed) / total),
        "mean": _rounded(sum(meter.predicted) / total),
        "auc": _or_none(_auc(meter.lapsed, meter.ordered)),
        "log_loss": _rounded(meter.log_loss / total),
        "ece": _rounded(ece(meter)),
    }


def _or_none(figure: float | None) -> float | None:
    return None if figure is None else _rounded(figure)


def _weight(meter: Meter) -> int:
    return sum(meter.lapsed) + sum(meter.ordered)


def _bounds(place: int) -> tuple[float, float]:
    """Return the probabilities between which a fine bin lies."""
    return (_EDGES[place - 1] if place else 0.0), (_EDGES[place] if place < len(_EDGES) else 1.0)


def _auc(lapsed: Sequence[int], ordered: Sequence[int]) -> float | None:
    """Return how often one who lapsed was given more than one who ordered, a tie counting half.

    Of weights by score, from the lowest; None where an outcome is missing.
    """
    twice = below = 0
    for ones, zeros in zip(lapsed, ordered, strict=True):
        twice += ones * (2 * below + zeros)
        below += zeros
    pairs = sum(lapsed) * below
    return twice / (2 * pairs) if pairs else None


def _from_the_top(meter: Meter) -> Iterator[tuple[int, int, int]]:
    """Yield place, weight of those who lapsed, and of all, by bin from the highest score, empty ones left out."""
    for place in reversed(range(len(meter.lapsed))):
        lapsed, all_ = meter.lapsed[place], meter.lapsed[place] + meter.ordered[place]
        if all_:
            yield place, lapsed, all_


def pr_auc(meter: Meter) -> float | None:
    """Return the mean precision over the recall (average precision); None where no one lapsed."""
    area = 0.0
    caught = flagged = 0
    for _, lapsed, all_ in _from_the_top(meter):
        # As if the bin were mixed evenly: the precision half-way through it.
        area += lapsed * (caught + lapsed / 2) / (flagged + all_ / 2)
        caught, flagged = caught + lapsed, flagged + all_
    return area / caught if caught else None


def precision_of_top(meter: Meter, share: float) -> float:
    """Return which share of those with the highest scores lapsed; `share` of all are looked at."""
    wanted = left = share * _weight(meter)
    caught = 0.0
    for _, lapsed, all_ in _from_the_top(meter):
        taken = min(left, all_)
        caught += lapsed * taken / all_
        left -= taken
        if not left:
            break
    return caught / wanted


def _top(meter: Meter, share: float) -> dict[str, float | None]:
    precision, base_rate = precision_of_top(meter, share), sum(meter.lapsed) / _weight(meter)
    return {"precision": _rounded(precision), "lift": _or_none(precision / base_rate if base_rate else None)}


class Point(NamedTuple):
    """A point of the precision-recall curve, in hindsight."""

    precision: float
    recall: float
    flagged: float
    """Share of all."""
    threshold: float
    """The lowest score that is flagged."""


def point_of_precision(meter: Meter) -> Point | None:
    """Return the point of the largest recall at a precision of .92 with 1% flagged; None where it is not reachable."""
    total, all_lapsed = _weight(meter), sum(meter.lapsed)
    caught = flagged = 0
    best: Point | None = None
    for place, lapsed, all_ in _from_the_top(meter):
        surplus, cost = caught - PRECISION_WANTED * flagged, PRECISION_WANTED * all_ - lapsed
        # Of a bin that is below the wanted precision, as much as those above it make up for.
        part = 1.0 if cost <= surplus else surplus / cost if surplus > 0 else 0.0
        wide = flagged + part * all_
        if part and wide >= FLAGGED_MIN * total:
            low, high = _bounds(place)
            right = caught + part * lapsed
            best = Point(right / wide, right / all_lapsed, wide / total, high - part * (high - low))
        caught, flagged = caught + lapsed, flagged + all_
    return best


def reliability(meter: Meter, bins: int) -> list[tuple[float, float, float]]:
    """Return (mean prediction, share that lapsed, share of all) by bins of about equal weight, the lowest first."""
    total, below = _weight(meter), 0
    groups: dict[int, list[int]] = {}
    for lapsed, ordered, predicted in zip(meter.lapsed, meter.ordered, meter.predicted, strict=True):
        here = lapsed + ordered
        if here:
            group = groups.setdefault((2 * below + here) * bins // (2 * total), [0, 0, 0])
            for i, value in enumerate((predicted, lapsed, here)):
                group[i] += value
        below += here
    return [(predicted / here, lapsed / here, here / total) for predicted, lapsed, here in groups.values()]


def ece(meter: Meter) -> float:
    """Return the expected calibration error: the mean distance between prediction and outcome over 15 equal bins."""
    return sum(share * abs(predicted - came) for predicted, came, share in reliability(meter, _RELIABILITY_BINS))


def _lead(histogram: Sequence[int]) -> dict[str, int] | None:
    """Return the quartiles of the days of lead; None without any."""
    n = sum(histogram)
    if not n:
        return None
    told = {"n": n}
    for name, wanted in (("lower", 0.25), ("median", 0.5), ("upper", 0.75)):
        seen = 0
        for days, here in enumerate(histogram):
            seen += here
            if seen >= wanted * n:
                told[name] = days
                break
    return told
