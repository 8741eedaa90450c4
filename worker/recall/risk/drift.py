"""Alarms where daily figures have moved and stay there. They alert; nothing acts on them.

ADWIN (Bifet and Gavalda, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007), as River has it, is run
anew over the days that are kept: alarms are a function of the figures, and no detector's state is stored.

Measured on years of 392 binomial days around one half, with 30 to 1,000 labels a day: no alarm in 180 years of a steady
rate, 15 in 180 of one that wanders by .03; a move by .2 is found within three weeks, one by .1 within three to eight.
Without the scale that takes 20 weeks and more; Page-Hinkley gave up to ten alarms a year of the rate that wanders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
from river import drift

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DELTA: Final = 0.002
"""ADWIN's bound on a false alarm."""
SCALE: Final = 5.0
"""ADWIN takes values in [0, 1]; days' means move within about a fifth of it."""
LABELS_MIN: Final = 20
"""A day of fewer labels is passed over."""

Direction = Literal["up", "down"]


class Day(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The figures of a label day, of predicted outcomes alone."""

    label_day: int
    n: int
    base_rate: float
    mean: float
    """Of the model's predictions."""
    log_loss: float
    constant_log_loss: float


class Alarm(NamedTuple):
    """A figure that has moved, on the label day that made it plain."""

    signal: str
    label_day: int
    direction: Direction


SIGNALS: Final[Mapping[str, Callable[[Day], float]]] = {
    "base rate": lambda day: day.base_rate,
    "calibration": lambda day: day.mean - day.base_rate,
    "log loss": lambda day: day.log_loss - day.constant_log_loss,
}
"""What is watched: how many order nothing; the mean prediction less that; the log loss less the constant's."""


def alarms(days: Iterable[Day]) -> list[Alarm]:
    """Return the alarms of days given in their order, by label day."""
    watched = [day for day in days if day.n >= LABELS_MIN]
    found: list[Alarm] = []
    for signal, figure in SIGNALS.items():
        detector: Any = drift.ADWIN(delta=DELTA, clock=1)
        for day in watched:
            before = detector.estimation
            detector.update(SCALE * figure(day))
            if detector.drift_detected:
                direction: Direction = "up" if detector.estimation > before else "down"
                found.append(Alarm(signal, day.label_day, direction))
    return sorted(found, key=lambda alarm: (alarm.label_day, alarm.signal))
