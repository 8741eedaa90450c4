"""What the purchase models know of a user: how many days with something, from when to when, and how old that is.

There are two rhythms: that of the days with an order, and that of the days with any activity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.recall.days import Days
    from worker.recall.profile import Gaps, Profile


class History(NamedTuple):
    """Things are counted by day: several orders on a day are one purchase, as in the papers."""

    repeats: int
    """Days with an order, or with activity, after the first."""
    recency_days: int
    """From the first of them to the last."""
    age_days: int
    """From the first of them to the day that the history is of."""


class Rhythms(NamedTuple):
    """Both histories of a user, as of the same day."""

    orders: History
    active: History


class Summary(NamedTuple):
    """What the models are fitted to, of one user."""

    rhythms: Rhythms
    orders: int
    """In all time."""
    mean_value: float
    """Net revenue an order, in minor units."""


def rhythms(profile: Profile, t_day: int, days: Days) -> Rhythms | None:
    """Return the histories as of the start of the day, or None where no order is known before it.

    A day whose orders were all cancelled later stays, and an order that came too late for its day is left out, since
    the row keeps gaps and not days; where all came too late, the first stands for them, as it does for activity of
    which all came too late.
    """
    active, ordered = profile.open_days_before(t_day)
    orders = _history(profile.account.order_gaps, ordered, t_day)
    first_order_at = profile.account.first_order_at
    if orders is None and 0 < first_order_at < days.start(t_day):
        orders = History(0, 0, t_day - days.of(first_order_at))
    return None if orders is None else Rhythms(orders, _history(profile.active_gaps, active, t_day) or orders)


def activity(profile: Profile, t_day: int) -> History | None:
    """Return the history of the days with activity, orders among them; None where there is none before the day."""
    active, _ = profile.open_days_before(t_day)
    return _history(profile.active_gaps, active, t_day)


def _history(gaps: Gaps, open_days: list[int], t_day: int) -> History | None:
    """Return what closed days' gaps and open days, which are later, tell.

    Where the row has closed later days already, it is as of the day after the last of them.
    """
    repeats = gaps.n + len(open_days)
    if gaps.last_day:
        first = gaps.last_day - round(gaps.mean * gaps.n)
    elif open_days:
        first = open_days[0]
        repeats -= 1
    else:
        return None
    last = open_days[-1] if open_days else gaps.last_day
    return History(repeats, last - first, max(t_day, last + 1) - first)
