"""What a silent user could be worth: judged once, when the silence begins, by the time before it."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall import rfm
from worker.recall.lifetime.history import rhythms
from worker.recall.profile import Potential
from worker.recall.value import order_value
from worker.recall.windows import WEEKS_KEPT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.recall.days import Days
    from worker.recall.lifetime.worth import Lifetime
    from worker.recall.policy.catalog import Catalog
    from worker.recall.profile import Profile
    from worker.recall.shop import InForce

HIGH: Final = "high"
MIDDLE: Final = "middle"
LOW: Final = "low"
_LEVELS: Final = (LOW, MIDDLE, HIGH)
YEAR_DAYS: Final = 365
LEAST_DAYS: Final = 182
"""A shorter acquaintance is taken for this long: two orders in a week are not fifty a year."""


class _Criterion(NamedTuple):
    """What counts for a user, as it is told, and its points; None where it is not known."""

    text: str
    points: int | None


def judge(
    profile: Profile, book: InForce, catalog: Catalog, lifetime: Lifetime | None, at: int, days: Days
) -> Potential:
    """Judge a user who falls silent at a time; he has ordered.

    The time before the last activity counts: the value of his orders, how often they came, whether they were of
    categories of high value. Then how probable it is, when he falls silent, that he has not left for good.
    """
    rules = book.playbook.potential
    criteria = [
        _order_value(profile, book),
        _orders_a_year(profile, rules.orders_a_year, days),
        _high_value_share(profile, catalog, rules.high_value_margin, rules.high_value_share, at),
    ]
    points = [criterion.points for criterion in criteria if criterion.points is not None]
    mean = sum(points) / len(points)
    place = (mean >= rules.middle) + (mean >= rules.high)
    alive = _alive(profile, lifetime, at, days)
    if alive is None:
        last = "alive not known"
    elif alive < rules.gone_below:
        place, last = 0, f"alive {alive:.2f} by orders: probably gone for good"
    elif alive < rules.doubtful_below:
        place, last = max(0, place - 1), f"alive {alive:.2f} by orders: doubtful, a level lower"
    else:
        last = f"alive {alive:.2f} by orders"
    level = _LEVELS[place]
    return Potential(level, at, f"{', '.join(criterion.text for criterion in criteria)}, {last} -> {level}")


def _told(text: str, value: float, bounds: Sequence[float]) -> _Criterion:
    """Give a point for each bound that is reached."""
    points = bisect_right(bounds, value)
    return _Criterion(f"{text} ({_LEVELS[points]})", points)


def _order_value(profile: Profile, book: InForce) -> _Criterion:
    value = order_value(profile)
    return _told(f"order value {book.currency.to_text(round(value))}", value, book.order_value_bounds)


def _orders_a_year(profile: Profile, bounds: Sequence[float], days: Days) -> _Criterion:
    """Tell how often he ordered in the year before the last activity, or since the first order where that is less.

    The first order does not count: only those after it lie within the time that is measured from it.
    """
    account, last_day = profile.account, days.of(profile.active_at)
    week = days.week(last_day)
    orders, _, _ = rfm.sums(account.weeks, week - WEEKS_KEPT + 1, week + 1)
    begin, first_day = days.monday(week - WEEKS_KEPT + 1), days.of(account.first_order_at)
    if first_day >= begin:
        orders, begin = orders - 1, first_day
    a_year = round(orders * YEAR_DAYS / max(LEAST_DAYS, last_day - begin), 1)
    return _told("one order" if profile.orders == 1 else f"{a_year:.1f} orders a year", a_year, bounds)


def _high_value_share(
    profile: Profile, catalog: Catalog, margin: float, bounds: Sequence[float], at: int
) -> _Criterion:
    """Tell how much of what he bought was of categories of high value, among those whose margin is known."""
    known = high = 0
    for category, times in profile.taste.categories:
        rate = catalog.margin_rate(category, at)
        if rate is not None:
            known += times
            high += times * (rate >= margin)
    if not known:
        return _Criterion("margins of his categories not known", None)
    share = high / known
    return _told(f"{share:.0%} of categories of high value", share, bounds)


def _alive(profile: Profile, lifetime: Lifetime | None, at: int, days: Days) -> float | None:
    """Return the probability that he has not left for good; None without a model.

    By days with an order: by days with any activity, of which there are many, whoever is silent is gone for certain.
    """
    if lifetime is None:
        return None
    known = rhythms(profile, days.of(at), days)
    return None if known is None else lifetime.purchases.alive(known.orders)
