"""What came of a customer, when it is known, and how an example waits for it."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

from worker.recall.days import LATENESS_MS
from worker.recall.risk.features import NAMES, SCHEMA_HASH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.recall.days import Days
    from worker.recall.profile import Profile

ID_BYTES: Final = 16
_MARK: Final = bytes.fromhex(SCHEMA_HASH)[:4]
_PACKED: Final = struct.Struct(f"<4s{len(NAMES)}h")


def due(t_day: int, horizon_days: int, days: Days) -> int:
    """Return when the label of an example of day `t_day` is due: the horizon's end and the lateness, in ms."""
    return days.start(t_day + horizon_days) + LATENESS_MS


def label_day(t_day: int, horizon_days: int, days: Days) -> int:
    """Return the day on which the label is due."""
    return days.of(due(t_day, horizon_days, days))


def no_order(profile: Profile, t_day: int, horizon_days: int, days: Days) -> int:
    """Return the label: 1 where no order that stands came in (start of `t_day`, `horizon_days` later].

    To be asked when it is due: the row keeps the latest orders only.
    """
    start, end = days.start(t_day), days.start(t_day + horizon_days)
    return int(not any(start < order.at <= end and not order.cancelled for order in profile.account.latest_orders))


def example_id(salt: str, user_key: bytes, t_day: int) -> str:
    """Return the id of an example; without the salt it does not lead back to the user.

    >>> example_id("salt", b"user-1", 20_000)
    'c4bc2dd110778e055cd596ff90bd738b'
    """
    told = b"\x00".join((salt.encode(), t_day.to_bytes(4, "big"), user_key))
    return hashlib.blake2b(told, digest_size=ID_BYTES).hexdigest()


def pack(thousandths: Sequence[int]) -> bytes:
    """Return features as they lie beside the row: a mark of the schema, then two bytes each."""
    return _PACKED.pack(_MARK, *thousandths)


def unpack(packed: bytes) -> list[int] | None:
    """Return exactly what was packed; None where that was under another schema of features."""
    if len(packed) != _PACKED.size:
        return None
    mark, *values = _PACKED.unpack(packed)
    return values if mark == _MARK else None
