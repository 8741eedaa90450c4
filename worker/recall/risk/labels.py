"""What came of a customer, when it is known, and how what was seen of him waits for it."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall.days import LATENESS_MS
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.risk.features import NAMES, SCHEMA_HASH
from worker.recall.risk.scorer import Predictions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.recall.days import Days
    from worker.recall.profile import Profile

ID_BYTES: Final = 16
NONE: Final = -1
"""In a packed sighting."""
_MILLION: Final = 1_000_000
_MARK: Final = bytes.fromhex(SCHEMA_HASH)[:4]
_SIGHTING: Final = struct.Struct(f"<4sB?7i{len(NAMES)}h")
_FORECAST: Final = struct.Struct("<HI5i")


def due(t_day: int, horizon_days: int, days: Days, lateness_ms: int = LATENESS_MS) -> int:
    """Return when the label of an example of day `t_day` is due: the horizon's end and the lateness, in ms."""
    return days.start(t_day + horizon_days) + lateness_ms


def label_day(t_day: int, horizon_days: int, days: Days, lateness_ms: int = LATENESS_MS) -> int:
    """Return the day on which the label is due."""
    return days.of(due(t_day, horizon_days, days, lateness_ms))


def no_order(profile: Profile, t_day: int, horizon_days: int, days: Days) -> int:
    """Return the label: 1 where no order that stands came in (start of `t_day`, `horizon_days` later].

    Right for horizons up to a year; an order displaced from the latest ones is known by its day, which is enough.
    """
    start, end = days.start(t_day), days.start(t_day + horizon_days)
    for order in profile.account.latest_orders:
        if start < order.at <= end and not order.cancelled:
            return 0
    return int(not profile.account.has_displaced(t_day, t_day + horizon_days))


def example_id(salt: str, user_key: bytes, t_day: int) -> str:
    """Return the id of an example or a summary; without the salt it does not lead back to the user.

    >>> example_id("salt", b"user-1", 20_000)
    'c4bc2dd110778e055cd596ff90bd738b'
    """
    told = b"\x00".join((salt.encode(), t_day.to_bytes(4, "big"), user_key))
    return hashlib.blake2b(told, digest_size=ID_BYTES).hexdigest()


def outcome_id(salt: str, user_key: bytes, decided_at: int) -> str:
    """Return the id of what came of a choice; without the salt it does not lead back to the user.

    >>> outcome_id("salt", b"user-1", 1_700_000_000_000) == outcome_id("salt", b"user-1", 1_700_000_000_001)
    False
    """
    told = b"\x00".join((salt.encode(), b"outcome", decided_at.to_bytes(8, "big"), user_key))
    return hashlib.blake2b(told, digest_size=ID_BYTES).hexdigest()


class Forecast(NamedTuple):
    """What a snapshot said of a user."""

    version: int
    predictions: Predictions


class Sighting(NamedTuple):
    """What was seen of a user on a day; lies beside the row until its last label is due."""

    tier: int
    holdout: bool
    """Whether he was held out on that day, under the playbook then in force."""
    rhythms: Rhythms
    lead_days: int | None
    """See `schemas.training.Example`."""
    features: Sequence[int]
    """In thousandths."""
    forecasts: Mapping[int, Forecast]
    """By horizon in days."""


def pack(sighting: Sighting) -> bytes:
    """Return a sighting in some 360 bytes: a mark of the schema of features, two bytes for each, what was predicted."""
    lead_days = NONE if sighting.lead_days is None else sighting.lead_days
    orders, active = sighting.rhythms
    packed = _SIGHTING.pack(_MARK, sighting.tier, sighting.holdout, *orders, *active, lead_days, *sighting.features)
    for horizon_days, (version, predictions) in sighting.forecasts.items():
        millionths = [NONE if p is None else round(p * _MILLION) for p in predictions]
        packed += _FORECAST.pack(horizon_days, version, *millionths)
    return packed


def unpack(packed: bytes) -> Sighting | None:
    """Return exactly what was packed; None where that was under another schema of features."""
    size = _SIGHTING.size
    if packed[: len(_MARK)] != _MARK or len(packed) < size or (len(packed) - size) % _FORECAST.size:
        return None
    _, tier, holdout, *told = _SIGHTING.unpack_from(packed)
    lead_days, features = told[6], told[7:]
    forecasts = {}
    for horizon_days, version, model, learner, bgnbd, recency, constant in _FORECAST.iter_unpack(packed[size:]):
        predictions = Predictions(
            model / _MILLION,
            None if learner == NONE else learner / _MILLION,
            None if bgnbd == NONE else bgnbd / _MILLION,
            recency / _MILLION,
            constant / _MILLION,
        )
        forecasts[horizon_days] = Forecast(version, predictions)
    rhythms = Rhythms(History(*told[:3]), History(*told[3:6]))
    return Sighting(tier, holdout, rhythms, None if lead_days == NONE else lead_days, features, forecasts)
