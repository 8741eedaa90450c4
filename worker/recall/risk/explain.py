"""What moved a score most, in words for the people who act on it.

Features that say much the same in different ways (the views of 7, of 30 and of 90 days) are one factor: their
contributions are summed, and the one that gave most gives name and words. Contributions are to the log odds, against
the average customer; over all factors, with the intercept, they sum up to the logit.
"""

from __future__ import annotations

from functools import partial
from math import expm1
from typing import TYPE_CHECKING, Any, Final

from worker.recall.risk.features import (
    CONTACT_DAYS,
    MONEY_WEEKS,
    NAMES,
    NEVER_DAYS,
    RECENCY_MAX_DAYS,
    SCALE,
    SILENCE,
    TREND_DAYS,
    WINDOWS_DAYS,
)
from worker.recall.risk.scorer import RHYTHM
from worker.recall.tiers import Tier
from worker.recall.windows import CHANNELS, DAYS_KEPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from worker.recall.lifetime.history import Rhythms
    from worker.recall.risk.scorer import Scorer

    Wording = Callable[[Mapping[str, float], Mapping[str, float]], str]
    """Takes a customer's features and the averages, by name."""

_NOUNS: Final = {
    "session": ("session", "sessions"),
    "check_in": ("check-in", "check-ins"),
    "sign_in": ("sign-in", "sign-ins"),
    "view": ("product view", "product views"),
    "new_arrival_view": ("view of new arrivals", "views of new arrivals"),
    "search": ("search", "searches"),
    "cart_add": ("cart addition", "cart additions"),
    "cart_remove": ("cart removal", "cart removals"),
    "wishlist": ("wish-list addition", "wish-list additions"),
    "checkout": ("checkout", "checkouts"),
    "order": ("order", "orders"),
    "refund": ("refund", "refunds"),
    "message_click": ("click in a message", "clicks in messages"),
    "touch": ("touch", "touches"),
}
_HABITS: Final = frozenset({"session", "check_in", "sign_in"})
"""Channels of which is said how often they are used, rather than how much."""
_PACES: Final = ((20, "daily"), (8, "several times a week"), (3, "weekly"), (1, "now and then"))
"""How often that is, by the least number of times in 30 days."""


def factors(scorer: Scorer, seen: Sequence[int], rhythms: Rhythms, top: int = 3) -> list[dict[str, Any]]:
    """Return the `top` factors that moved the score most, up or down, greatest first, as `schemas.commands.Factor`.

    `seen` are features in thousandths. What did not move it at all is left out.
    """
    groups: dict[str, list[tuple[str, float]]] = {}
    for name, contribution in scorer.contributions(seen, rhythms):
        groups.setdefault(_GROUPS[name], []).append((name, contribution))
    sums = [(sum(contribution for _, contribution in members), members) for members in groups.values()]
    sums.sort(key=lambda group: -abs(group[0]))
    features = {name: value / SCALE for name, value in zip(NAMES, seen, strict=True)}
    means = {name: mean / SCALE for name, mean in zip(NAMES, scorer.means, strict=True)}
    told = []
    for total, members in sums[:top]:
        contribution = round(total, 6)
        if contribution:
            name = max(members, key=lambda member: member[1] if total > 0 else -member[1])[0]
            text = _rhythm(rhythms) if name == RHYTHM else _WORDINGS[name](features, means)
            told.append({"feature": name, "contribution": contribution, "text": text})
    return told


def say(name: str, seen: Sequence[int]) -> str:
    """Say in words what a feature is, other than those of money, which are told against the average customer's."""
    values = {known: value / SCALE for known, value in zip(NAMES, seen, strict=True)}
    return _WORDINGS[name](values, values)


def _rhythm(rhythms: Rhythms) -> str:
    """Say what BG/NBD goes by.

    >>> from worker.recall.lifetime.history import History, Rhythms
    >>> _rhythm(Rhythms(orders=History(3, 60, 125), active=History(40, 122, 125)))
    'orders every 20 days as a rule, last one 65 days ago; last active 3 days ago'
    """
    orders = rhythms.orders
    since, since_active = (history.age_days - history.recency_days for history in rhythms)
    if orders.repeats:
        gap = _days(round(orders.recency_days / orders.repeats))
        told = f"orders every {gap} as a rule, last one {_days(since)} ago"
    else:
        told = f"one order so far, {_days(since)} ago"
    return f"{told}; last active {_days(since_active)} ago" if since_active < since else told


def _number(value: float) -> int:
    """Return the whole number that the log1p is of."""
    return round(expm1(value))


def some(n: int, channel: str) -> str:
    """Say a count.

    >>> some(0, "view"), some(1, "view"), some(1200, "view")
    ('no product views', '1 product view', '1,200 product views')
    """
    one, many = _NOUNS[channel]
    return f"1 {one}" if n == 1 else f"{n:,} {many}" if n else f"no {many}"


def _days(n: int) -> str:
    return "1 day" if n == 1 else f"{n} days"


def _count(channel: str, days: int, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    return f"{some(_number(seen[f'{channel}_{days}d']), channel)} in {_days(days)}"


def _trend(channel: str, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    month = seen[f"{channel}_{TREND_DAYS}d"]
    now, before = _number(month), max(0, _number(month - seen[f"{channel}_trend"]))
    many = _NOUNS[channel][1]
    if not now or not before:
        there = f"{before:,}" if before else "none"
        return f"{some(now, channel)} in {TREND_DAYS} days, {there} in the {TREND_DAYS} days before"
    if channel in _HABITS and (pace := _pace(now)) != (pace_before := _pace(before)):
        return f"{many} from {pace_before} to {pace}"
    change = round(100 * (now - before) / before)
    moved = f"{'up' if change > 0 else 'down'} {abs(change)}%" if change else "unchanged"
    return f"{many} {moved} against the {TREND_DAYS} days before"


def _pace(n: int) -> str:
    """Return how often something is done so many times in 30 days.

    >>> _pace(28), _pace(4)
    ('daily', 'weekly')
    """
    return next(pace for least, pace in _PACES if n >= least)


def _recency(channel: str, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    days = _number(seen[f"{channel}_recency"])
    one, many = _NOUNS[channel]
    return f"no {many} in {DAYS_KEPT} days" if days >= RECENCY_MAX_DAYS else f"last {one} {_days(days)} ago"


_RHYTHMS: Final = {"active": ("active day", "active days", "session"), "order": ("order", "orders", "order")}
"""By rhythm, what it is of, one and many, and the channel that it belongs to."""


def _last(rhythm: str, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    one, many = _RHYTHMS[rhythm][:2]
    days = _number(seen[f"{rhythm}_recency_days"])
    return f"no {many} known" if days >= NEVER_DAYS else f"last {one} {_days(days)} ago"


def _gap_mean(rhythm: str, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    return f"about {_days(_number(seen[f'{rhythm}_gap_mean']))} between {_RHYTHMS[rhythm][1]}"


def _gap_deviation(rhythm: str, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    return f"time between {_RHYTHMS[rhythm][1]} varies by {_days(_number(seen[f'{rhythm}_gap_deviation']))}"


def _gap_last(rhythm: str, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    days, many = _number(seen[f"{rhythm}_gap_last"]), _RHYTHMS[rhythm][1]
    return f"{_days(days)} between the last two {many}" if days else f"no time between {many} known"


def _gaps_since(rhythm: str, seen: Mapping[str, float], means: Mapping[str, float]) -> str:
    return f"{_last(rhythm, seen, means)}, {expm1(seen[f'{rhythm}_gaps_since']):.1f} times the usual gap"


def _lateness(rhythm: str, seen: Mapping[str, float], means: Mapping[str, float]) -> str:
    return f"{_last(rhythm, seen, means)}, after {_days(_number(seen[f'{rhythm}_gap_mean']))} as a rule"


def _overdue(rhythm: str, seen: Mapping[str, float], means: Mapping[str, float]) -> str:
    overdue = "overdue" if seen[f"{rhythm}_overdue"] else "not overdue"
    return f"{overdue}: {_lateness(rhythm, seen, means)}"


def _day_count(rhythm: str, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    one, many = _RHYTHMS[rhythm][:2]
    n = _number(seen[f"{rhythm}_days"])
    if rhythm == "active":
        return f"{n:,} {one if n == 1 else many} so far"
    return f"{many} on {_days(n)} so far"


def _orders(weeks: int, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    return f"{some(_number(seen[f'orders_{weeks}w']), 'order')} in {weeks} weeks"


def _products(value: float) -> str:
    n = _number(value)
    return "1 product" if n == 1 else f"{n:,} products"


def _against_average(name: str, words: str, seen: Mapping[str, float], means: Mapping[str, float]) -> str:
    return f"{words} {'above' if seen[name] > means[name] else 'below'} the average customer's"


def _discount(seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    share = seen["discount_share"]
    return f"{share:.0%} of the orders with a discount" if share else "no orders with a discount"


def _discounted(silence: str, seen: Mapping[str, float], means: Mapping[str, float]) -> str:
    """Say both that are multiplied, and not what follows: that may be a higher risk or a lower one."""
    return f"{_discount(seen, means)}, and {_WORDINGS[silence](seen, means)}"


def _tier(tier: Tier, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    return f"{'' if seen[f'tier_{tier.label}'] else 'not '}of the tier {tier.label}"


def _tier_age(seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    days = _number(seen["tier_age"])
    return "tier unchanged for long" if days >= NEVER_DAYS else f"tier unchanged for {_days(days)}"


def _wordings() -> Iterator[tuple[str, str, Wording]]:
    """Yield by feature the group that it belongs to, and its words."""
    for channel in CHANNELS:
        for days in WINDOWS_DAYS:
            yield f"{channel}_{days}d", channel, partial(_count, channel, days)
        yield f"{channel}_trend", channel, partial(_trend, channel)
        yield f"{channel}_recency", channel, partial(_recency, channel)
    for rhythm, (_, _, channel) in _RHYTHMS.items():
        yield f"{rhythm}_days", channel, partial(_day_count, rhythm)
        yield f"{rhythm}_recency_days", channel, partial(_last, rhythm)
        yield f"{rhythm}_gap_mean", channel, partial(_gap_mean, rhythm)
        yield f"{rhythm}_gap_deviation", channel, partial(_gap_deviation, rhythm)
        yield f"{rhythm}_gap_last", channel, partial(_gap_last, rhythm)
        yield f"{rhythm}_gaps_since", channel, partial(_gaps_since, rhythm)
        yield f"{rhythm}_lateness", channel, partial(_lateness, rhythm)
        yield f"{rhythm}_overdue", channel, partial(_overdue, rhythm)
    for weeks in MONEY_WEEKS:
        yield f"orders_{weeks}w", "order", partial(_orders, weeks)
        name = f"net_revenue_{weeks}w"
        yield name, "money", partial(_against_average, name, f"net revenue of {weeks} weeks")
    yield "order_value_52w", "money", partial(_against_average, "order_value_52w", "average order value")
    yield "refund_share_52w", "refund", lambda seen, _: f"{seen['refund_share_52w']:.0%} of the revenue refunded"
    yield "discount_share", "discount", _discount
    yield "products", "products", lambda seen, _: f"{_products(seen['products'])} bought so far"
    yield "products_an_order", "products", lambda seen, _: f"about {_products(seen['products_an_order'])} an order"
    yield (
        "products_last_order",
        "products",
        lambda seen, _: f"{_products(seen['products_last_order'])} in the last order",
    )
    yield "tenure", "tenure", lambda seen, _: f"customer for {_days(_number(seen['tenure']))}"
    for tier in Tier:
        yield f"tier_{tier.label}", "tier", partial(_tier, tier)
    yield "tier_age", "tier", _tier_age
    for days in CONTACT_DAYS:
        yield f"touch_{days}d", "touch", partial(_count, "touch", days)
    yield "touch_recency", "touch", partial(_recency, "touch")
    for name in SILENCE:
        yield f"discounted_{name}", "discount", partial(_discounted, name)


_WORDINGS: Final = {name: wording for name, _, wording in _wordings()}
_GROUPS: Final = {name: group for name, group, _ in _wordings()} | {RHYTHM: RHYTHM}
