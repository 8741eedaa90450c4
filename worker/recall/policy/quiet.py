"""Quiet hours: when a user is not to be disturbed, by the clock on his wall."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from worker.recall.days import MINUTE_MS

if TYPE_CHECKING:
    from worker.recall.playbook import Playbook

DAY_MINUTES: Final = 24 * 60
_DAY_US: Final = DAY_MINUTES * MINUTE_MS * 1000
_zone = cache(ZoneInfo)


def until(at: int, channel: str, timezone: str, playbook: Playbook) -> int:
    """Return `at` where the channel may be used then, else when the quiet hours end that it lies in.

    `timezone` is the user's, or the shop's where his is not known.
    """
    quiet = playbook.quiet_hours
    return end(at, timezone, quiet.start_minute, quiet.end_minute) if channel in quiet.channels else at


def end(at: int, timezone: str, start: int, stop: int) -> int:
    """Return `at`, or when the quiet hours end: the first time at which the clock shows none of them.

    They run from minute `start` of the day to minute `stop`, which is not quiet any more, over midnight where `stop` is
    the smaller one. Where the clock is put forward over their end, they end then; where it is put back into them, they
    hold again. In a night that has lost an hour to summer time:

    >>> ten, seven = 22 * 60, 7 * 60
    >>> end(1_300_000_000_000, "UTC", ten, seven)  # 07:06:40
    1300000000000
    >>> (end(1_299_996_400_000, "America/New_York", ten, seven) - 1_299_996_400_000) / 3_600_000  # of 01:06:40
    4.888888888888889
    """
    zone = _zone(timezone)
    while True:
        left = _left_us(dt.datetime.fromtimestamp(at / 1000, zone), start, stop)
        if not left:
            return at
        then = at + left // 1000
        changed = _change(at, then, zone)
        if changed is None:
            return then
        at = changed


def _left_us(local: dt.datetime, start: int, stop: int) -> int:
    """Return how long by the clock the quiet hours go on, 0 where they do not hold."""
    clock = ((local.hour * 60 + local.minute) * 60 + local.second) * 1_000_000 + local.microsecond
    begun = (clock - start * 60_000_000) % _DAY_US
    length = (stop - start) % DAY_MINUTES * 60_000_000
    return length - begun if begun < length else 0


def _change(since: int, until: int, zone: ZoneInfo) -> int | None:
    """Return when the clock is put forward or back, after `since` and at `until` at the latest; None for not at all."""
    before = _offset(since, zone)
    if _offset(until, zone) == before:
        return None
    low, high = since // 1000, until // 1000 + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(middle * 1000, zone) == before:
            low = middle
        else:
            high = middle
    return high * 1000


def _offset(at: int, zone: ZoneInfo) -> dt.timedelta | None:
    return dt.datetime.fromtimestamp(at / 1000, zone).utcoffset()
