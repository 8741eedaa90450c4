"""Days and weeks of the shop: counted from 1970 in its timezone, weeks from Monday."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
LATENESS_MS = DAY_MS
"""How late a click may come and still be counted."""
SETTLE_MS = HOUR_MS
"""How far behind the clock silence is noticed, so that what is under way can still arrive."""

_EPOCH = dt.date(1970, 1, 1)


class Days:
    """The shop's calendar.

    >>> days = Days("Europe/London")
    >>> day = days.of(1_309_000_000_000)  # 2011-06-25T11:06:40Z
    >>> days.date(day), days.start(day), days.week(day)
    (datetime.date(2011, 6, 25), 1308956400000, 2164)
    >>> days.date(days.monday(2164))
    datetime.date(2011, 6, 20)
    """

    def __init__(self, timezone: str) -> None:
        self.timezone = timezone
        self._zone = ZoneInfo(timezone)
        self._starts: dict[int, int] = {}
        self._spans: dict[int, tuple[int, int, int]] = {}
        self._latest = (0, 0, 0)

    def of(self, at: int) -> int:
        """Return the day of a time."""
        return self.around(at)[2]

    def around(self, at: int) -> tuple[int, int, int]:
        """Return when the day of a time begins, when the next one does, and the day.

        Times come in clusters: the day asked for last is tried first.
        """
        latest = self._latest
        if latest[0] <= at < latest[1]:
            return latest
        # Not more than a day off, whatever the timezone: the starts of days have the last word.
        day = at // DAY_MS
        found = self._spans.get(day) or self._span(day)
        while at < found[0]:
            day -= 1
            found = self._spans.get(day) or self._span(day)
        while at >= found[1]:
            day += 1
            found = self._spans.get(day) or self._span(day)
        self._latest = found
        return found

    def _span(self, day: int) -> tuple[int, int, int]:
        span = self._spans[day] = (self.start(day), self.start(day + 1), day)
        return span

    def start(self, day: int) -> int:
        """Return the time at which the day begins."""
        start = self._starts.get(day)
        if start is None:
            midnight = dt.datetime.combine(self.date(day), dt.time(), self._zone)
            start = self._starts[day] = int(midnight.timestamp()) * 1000
        return start

    @staticmethod
    def date(day: int) -> dt.date:
        return _EPOCH + dt.timedelta(days=day)

    @staticmethod
    def number(day: dt.date) -> int:
        """Return the number of a date.

        >>> Days.number(dt.date(1970, 1, 8))
        7
        """
        return (day - _EPOCH).days

    @staticmethod
    def week(day: int) -> int:
        """Return the week of a day; 1970-01-01 was a Thursday."""
        return (day + 3) // 7

    @staticmethod
    def monday(week: int) -> int:
        """Return the first day of a week."""
        return week * 7 - 3
