"""A customer's orders as three numbers, which is all that the purchase model asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from worker.recall.windows import ORDER

if TYPE_CHECKING:
    from worker.recall.profile import Profile


class History(NamedTuple):
    """Days with an order, however many orders they have: x, t_x and T of Fader, Hardie and Lee (2005)."""

    repeats: int
    """Such days after the first."""
    recency_days: int
    """From the first to the last."""
    age_days: int
    """From the first to the day of the snapshot."""


def history(profile: Profile, t_day: int) -> History | None:
    """Return the history as of the start of a day; None where nothing was ordered before it.

    The row is not to have gone on for more than a day beyond it: the rhythm keeps no single days.
    """
    gaps = profile.account.order_gaps
    first = gaps.last_day - round(gaps.mean * gaps.n) if gaps.last_day else 0
    last, repeats = gaps.last_day, gaps.n
    for day, open_day in ((profile.day - 1, profile.yesterday), (profile.day, profile.today)):
        if day < t_day and open_day.counts and open_day.counts[ORDER]:
            if last:
                repeats += 1
            first, last = first or day, day
    if not last:
        return None
    return History(repeats, last - first, t_day - first)
