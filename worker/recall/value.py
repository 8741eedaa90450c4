"""What a user is worth now: R, F and M of the profile, and the tier that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.recall import rfm, tiers
from worker.recall.days import DAY_MS, Days
from worker.recall.rfm import CutPoints, Rfm
from worker.recall.tiers import Tier, TierRules, Transition
from worker.recall.windows import WEEKS_KEPT
from worker.stream.processor import NEVER

if TYPE_CHECKING:
    from worker.recall.profile import Profile

SCORED_FROM_ORDERS = 2
"""A user with fewer orders is new."""
ACTIVE_DAYS = 180
"""A user without activity for longer is no longer visited weekly or predicted."""
REMEMBERED_DAYS = 104 * 7
"""A user whose last order is older no longer counts in what lifetimes are fitted to."""


def rfm_of(profile: Profile, at: int, days: Days) -> Rfm | None:
    """Return R, F and M as of a time, or None before the first order."""
    if profile.orders == 0:
        return None
    today = days.of(at)
    f, m = rfm.window(profile.account.weeks, days.week(today))
    return Rfm(today - days.of(profile.last_order_at), f, m)


def order_value(profile: Profile) -> float:
    """Return the mean of an order, net of refunds, in minor units; for users with one order at least."""
    return (profile.account.spent - profile.account.refunded) / profile.orders


def evaluate(profile: Profile, at: int, cause: str, cuts: CutPoints, rules: TierRules, days: Days) -> Transition | None:
    """Let what the user is worth at a time act on his tier; return the change, if there is one."""
    standing = profile.standing
    if still_silent(profile, at, rules):
        return None
    values = rfm_of(profile, at, days) if profile.orders >= SCORED_FROM_ORDERS else None
    if values is None:
        return tiers.move(standing, Tier.NEW, None, at, cause, rules)
    scores = cuts.score(values)
    standing.cut_points = cuts.version
    return tiers.move(standing, rules.tier(scores), scores, at, cause, rules)


def next_fall(profile: Profile, at: int, cuts: CutPoints, days: Days) -> int:
    """Return when a score may fall next by the passing of time alone.

    R crosses a cut point, or a week leaves the window of F and M.
    """
    if profile.orders < SCORED_FROM_ORDERS or profile.standing.tier <= Tier.SILENT:
        return NEVER
    today = days.of(at)
    falls = []
    day = cuts.next_fall_day(days.of(profile.last_order_at), today)
    if day is not None:
        falls.append(day)
    week = days.week(today)
    first = rfm.first_week(profile.account.weeks, week)
    if first is not None:
        falls.append(days.monday(first + WEEKS_KEPT))
    return days.start(min(falls)) if falls else NEVER


def silence_begins(profile: Profile, rules: TierRules) -> int:
    """Return when a user who has ordered becomes silent, unless he does something."""
    return profile.active_at + rules.silence_days * DAY_MS


def still_silent(profile: Profile, at: int, rules: TierRules) -> bool:
    """Tell whether the user is silent, and nothing that he has done ends it."""
    silent = profile.standing.tier == Tier.SILENT and profile.orders > 0
    return silent and silence_begins(profile, rules) <= at


def is_active(profile: Profile, at: int) -> bool:
    """Tell whether the user is still visited weekly and predicted."""
    return profile.orders > 0 and at - profile.active_at <= ACTIVE_DAYS * DAY_MS


def is_remembered(profile: Profile, at: int) -> bool:
    """Tell whether the user still counts in what lifetimes are fitted to."""
    return profile.orders > 0 and at - profile.last_order_at <= REMEMBERED_DAYS * DAY_MS
