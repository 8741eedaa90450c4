"""What a user did, by channel and day: counts that do not depend on the order in which events came.

Two days are open, the clock's and the one before it, as short lists of counts; that is enough for a lateness of 24
hours. Closed days are sparse arrays `[day, channel, n, channel, n, ...]`, appended to one string of bytes; past 90 days
they are folded into buckets of 28 days, kept for a year.
"""

from __future__ import annotations

from itertools import chain, compress
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANNELS = (
    "session",
    "check_in",
    "sign_in",
    "view",
    "new_arrival_view",
    "search",
    "cart_add",
    "cart_remove",
    "wishlist",
    "checkout",
    "order",
    "refund",
    "message_click",
)
SESSION = 0
CHECK_IN = 1
SIGN_IN = 2
VIEW = 3
NEW_ARRIVAL_VIEW = 4
SEARCH = 5
CART_ADD = 6
CART_REMOVE = 7
WISHLIST = 8
CHECKOUT = 9
ORDER = 10
REFUND = 11
MESSAGE_CLICK = 12

DAYS_KEPT = 90
BUCKET_DAYS = 28
FOLD_SLACK_DAYS = BUCKET_DAYS
"""How many days gather past those kept before they are folded: to fold is to rewrite the whole history."""
BUCKETS_KEPT = 14
WEEKS_KEPT = 53
"""The current week and 52 complete ones."""

Sparse = tuple[int, ...]
"""Tuples, since those are decoded in half the time that lists take."""

_ALL = range(len(CHANNELS))
_FIX_ARRAY_MAX, _ARRAY_16_MAX = 15, 2**16 - 1
"""Lengths up to which the head of an array takes one byte, or three; else it takes five (msgpack)."""

_encode = msgspec.msgpack.Encoder().encode
_decode_ints = msgspec.msgpack.Decoder(list[int]).decode
_decode_arrays = msgspec.msgpack.Decoder(list[Sparse]).decode


def pack(values: list[int]) -> bytes:
    return _encode(values) if values else b""


def unpack(raw: bytes) -> list[int]:
    return _decode_ints(raw) if raw else []


def sparse(day: int, counts: list[int], sessions: int) -> Sparse:
    """Return the closed form of a day.

    >>> sparse(14_000, [0, 0, 0, 4], sessions=2)
    (14000, 0, 2, 3, 4)
    """
    array = [day, SESSION, sessions] if sessions else [day]
    for channel in compress(_ALL, counts):
        array += (channel, counts[channel])
    return tuple(array)


def sessions_in(mask: int) -> int:
    """Count the sessions of a day from its active half-hours, one bit each: neighbours are one session.

    >>> sessions_in(0b0110_0011)
    2
    """
    return (mask & ~(mask << 1)).bit_count()


class History(msgspec.Struct, array_like=True, gc=False):
    """Closed days, as they lie in the row: `n` sparse arrays end to end."""

    n: int = 0
    days: bytes = b""
    first_day: int = 0
    """The earliest day in `days`, or later where a late order was added."""
    buckets: bytes = b""

    def append(self, array: Sparse) -> None:
        """Add a closed day, or more of one."""
        if self.n == 0:
            self.first_day = array[0]
        self.days += _encode(array)
        self.n += 1

    def arrays(self) -> list[Sparse]:
        """Return the closed days of the last 90 days, and at most four weeks more."""
        return _decode_arrays(b"\xdd" + self.n.to_bytes(4, "big") + self.days)

    def months(self) -> Iterator[tuple[int, Sparse]]:
        """Yield (first day of 28, sparse array) of what is older than the days kept."""
        for array in self._months():
            yield array[0] * BUCKET_DAYS, array

    def _months(self) -> Iterator[Sparse]:
        flat, i = unpack(self.buckets), 0
        while i < len(flat):
            size = flat[i]
            yield tuple(flat[i + 1 : i + 1 + size])
            i += 1 + size

    def fold(self, today: int) -> None:
        """Move days that are past 90 days into buckets, once a bucket of them has gathered."""
        if self.n == 0 or self.first_day >= today - DAYS_KEPT - FOLD_SLACK_DAYS:
            return
        self.fold_before(today - DAYS_KEPT, today)

    def fold_before(self, limit: int, today: int) -> None:
        """Move the days before `limit` into buckets."""
        arrays = self.arrays()
        kept = [array for array in arrays if array[0] >= limit]
        folded: dict[int, dict[int, int]] = {}
        for array in arrays:
            if array[0] < limit:
                _add(folded.setdefault(array[0] // BUCKET_DAYS, {}), array)
        months = {array[0]: array for array in self._months()}
        for bucket, counts in folded.items():
            _add(counts, months.get(bucket, ()))
            months[bucket] = (bucket, *chain.from_iterable(sorted(counts.items())))
        oldest = today // BUCKET_DAYS - BUCKETS_KEPT
        self.buckets = pack([n for bucket in sorted(months) if bucket >= oldest for n in _sized(months[bucket])])
        self.n = len(kept)
        head_bytes = 1 if self.n <= _FIX_ARRAY_MAX else 3 if self.n <= _ARRAY_16_MAX else 5
        self.days = _encode(kept)[head_bytes:]
        self.first_day = min([array[0] for array in kept], default=0)


def _add(counts: dict[int, int], array: Sparse) -> None:
    for channel, n in zip(array[1::2], array[2::2], strict=True):
        counts[channel] = counts.get(channel, 0) + n


def _sized(array: Sparse) -> list[int]:
    return [len(array), *array]
