"""Recency, frequency and monetary value, on the boundaries of the shop's days and weeks.

R is the number of whole days since the last order, F the number of orders and M the net revenue (orders less refunds,
in the weeks in which they happened), both over 52 complete weeks and the current one. Scores go from 1 to 5 (best)
against four cut points; a value on a cut point takes the lower score.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from worker.recall.windows import WEEKS_KEPT

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELDS = 4
"""A week is four numbers: week, orders, revenue of orders, refunds (minor units)."""


class Rfm(NamedTuple):
    """The three values; `m` in minor units."""

    r: int
    f: int
    m: int


class Scores(NamedTuple):
    """The three scores, 1 to 5."""

    r: int
    f: int
    m: int


class CutPoints(NamedTuple):
    """Four ascending bounds for each value: days, orders, minor units."""

    version: str
    r: tuple[int, int, int, int]
    f: tuple[int, int, int, int]
    m: tuple[int, int, int, int]

    def score(self, rfm: Rfm) -> Scores:
        """Return the scores.

        >>> cuts = CutPoints("c", (30, 60, 120, 240), (1, 2, 4, 8), (100, 200, 400, 800))
        >>> cuts.score(Rfm(r=29, f=9, m=801)), cuts.score(Rfm(r=30, f=8, m=100))
        (Scores(r=5, f=5, m=5), Scores(r=4, f=4, m=1))
        """
        return Scores(5 - bisect_right(self.r, rfm.r), 1 + bisect_left(self.f, rfm.f), 1 + bisect_left(self.m, rfm.m))

    def next_fall_day(self, last_order_day: int, today: int) -> int | None:
        """Return the next day on which the score of R falls by the passing of time alone."""
        i = bisect_right(self.r, today - last_order_day)
        return last_order_day + self.r[i] if i < len(self.r) else None


def quintiles(version: str, population: Sequence[Rfm]) -> CutPoints | None:
    """Return the cut points that divide a population into fifths; None where ties leave less than five scores.

    >>> quintiles("q", [Rfm(n, 2 * n, 100 * n) for n in range(1, 11)])
    CutPoints(version='q', r=(3, 5, 7, 9), f=(4, 8, 12, 16), m=(200, 400, 600, 800))
    """
    n, columns = len(population), [sorted(column) for column in zip(*population, strict=True)]
    # A fifth lies up to a bound of F and M, and below one of R: there ties take the lower score from the other side.
    r, f, m = (
        [column[fifth * n // 5 if rising else -(-fifth * n // 5) - 1] for fifth in range(1, 5)]
        for column, rising in zip(columns, (True, False, False), strict=True)
    )
    if any(low >= high for bounds in (r, f, m) for low, high in pairwise(bounds)):
        return None
    return CutPoints(version, (r[0], r[1], r[2], r[3]), (f[0], f[1], f[2], f[3]), (m[0], m[1], m[2], m[3]))


def add(weeks: list[int], week: int, *, orders: int = 0, revenue: int = 0, refunds: int = 0) -> None:
    """Add to the bucket of a week, keeping the buckets in order.

    >>> weeks = []
    >>> add(weeks, 7, orders=1, revenue=500); add(weeks, 6, orders=1, revenue=300); add(weeks, 7, refunds=200)
    >>> weeks
    [6, 1, 300, 0, 7, 1, 500, 200]
    """
    i = bisect_left(weeks[::FIELDS], week) * FIELDS
    if i == len(weeks) or weeks[i] != week:
        weeks[i:i] = (week, 0, 0, 0)
    weeks[i + 1] += orders
    weeks[i + 2] += revenue
    weeks[i + 3] += refunds


def first_week(weeks: list[int], week: int) -> int | None:
    """Return the first week with a bucket in the 53 weeks up to `week`, or later; None where there is none."""
    for i in range(0, len(weeks), FIELDS):
        if weeks[i] > week - WEEKS_KEPT:
            return weeks[i]
    return None


def prune(weeks: list[int], week: int) -> None:
    """Drop the buckets that no window from `week` on reaches."""
    while weeks and weeks[0] <= week - WEEKS_KEPT:
        del weeks[:FIELDS]


def window(weeks: list[int], week: int) -> tuple[int, int]:
    """Return F and M of the 53 weeks up to and with `week`.

    >>> window([6, 1, 300, 0, 7, 1, 500, 200], 59)
    (1, 300)
    """
    orders, revenue, refunds = sums(weeks, week - WEEKS_KEPT + 1, week + 1)
    return orders, revenue - refunds


def sums(weeks: list[int], first: int, end: int) -> tuple[int, int, int]:
    """Return orders, their revenue and refunds in the weeks from `first` to the one before `end`.

    >>> sums([6, 1, 300, 0, 7, 1, 500, 200], 6, 7)
    (1, 300, 0)
    """
    numbers = weeks[::FIELDS]
    begin, stop = FIELDS * bisect_left(numbers, first), FIELDS * bisect_left(numbers, end)
    return (
        sum(weeks[begin + 1 : stop : FIELDS]),
        sum(weeks[begin + 2 : stop : FIELDS]),
        sum(weeks[begin + 3 : stop : FIELDS]),
    )
