"""What the purchase models know of a user: how many days with orders, from when to when, and how old that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.recall.days import Days
    from worker.recall.profile import Profile


class History(NamedTuple):
    """Orders are counted by day: several on a day are one purchase, as in the papers."""

    repeats: int
    """Days with an order, after the first."""
    recency_days: int
    """From the first of them to the last."""
    age_days: int
    """From the first of them to the day that the history is of."""


def history(profile: Profile, t_day: int, days: Days) -> History | None:
    """Return the history as of the start of the day, or None where no order is known before it.

    A day whose orders were all cancelled later stays, and an order that came too late for its day is left out, since
    the row keeps gaps and not days; where all came too late, the first stands for them. Where the row has closed later
    days already, the history is as of the day after the last of them with an order.
    """
    account = profile.account
    _, order_days = profile.open_days_before(t_day)
    gaps = account.order_gaps.with_days(order_days)
    if gaps.last_day:
        recency = round(gaps.mean * gaps.n)
        return History(gaps.n, recency, max(t_day, gaps.last_day + 1) - gaps.last_day + recency)
    if 0 < account.first_order_at < days.start(t_day):
        return History(0, 0, t_day - days.of(account.first_order_at))
    return None
