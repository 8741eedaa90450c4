"""What moved a score most, in words for the people who act on it.

Features that say much the same in different ways (the views of 7, of 30 and of 90 days) are one factor: their
contributions are summed, and the one that gave most gives name and words. Contributions are to the log odds, against
the average customer; over all factors, with the intercept, they sum up to the logit.
"""

from __future__ import annotations

from functools import partial
from math import expm1
from typing import TYPE_CHECKING, Any, Final

from worker.recall.risk.features import NAMES, NEVER_DAYS, RECENCY_MAX_DAYS, SCALE, TREND_DAYS, WINDOWS_DAYS
from worker.recall.risk.scorer import RHYTHM
from worker.recall.tiers import Tier
from worker.recall.windows import CHANNELS, DAYS_KEPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from worker.recall.lifetime.history import History
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
}


def factors(scorer: Scorer, seen: Sequence[int], history: History, top: int = 3) -> list[dict[str, Any]]:
    """Return the `top` factors that moved the score most, up or down, greatest first, as `schemas.commands.Factor`."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for name, contribution in scorer.contributions(seen, history):
        groups.setdefault(_WORDINGS[name][0], []).append((name, contribution))
    sums = [(sum(contribution for _, contribution in members), members) for members in groups.values()]
    sums.sort(key=lambda group: -abs(group[0]))
    features = {name: value / SCALE for name, value in zip(NAMES, seen, strict=True)}
    means = {name: mean / SCALE for name, mean in zip(NAMES, scorer.means, strict=True)}
    told = []
    for total, members in sums[:top]:
        name = max(members, key=lambda member: member[1] if total > 0 else -member[1])[0]
        told.append({"feature": name, "contribution": round(total, 6), "text": _WORDINGS[name][1](features, means)})
    return told


def _number(value: float) -> int:
    """Return the whole number that the log1p is of."""
    return round(expm1(value))


def _some(n: int, channel: str) -> str:
    """Say a count.

    >>> _some(0, "view"), _some(1, "view"), _some(1200, "view")
    ('no product views', '1 product view', '1,200 product views')
    """
    one, many = _NOUNS[channel]
    return f"1 {one}" if n == 1 else f"{n:,} {many}" if n else f"no {many}"


def _days(n: int) -> str:
    return "1 day" if n == 1 else f"{n} days"


def _count(channel: str, days: int, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    return f"{_some(_number(seen[f'{channel}_{days}d']), channel)} in {_days(days)}"


def _trend(channel: str, seen: Mapping[str, float], _: Mapping[str, float]) -> str:
    month = seen[f"{channel}_{TREND_DAYS}d"]
    now, before = _number(month), _number(month - seen[f"{channel}_trend"])
    many = _NOUNS[channel][1]
    if not now or not before:
        there = f"{before:,}" if before else "none"
        return f"{_some(now, channel)} in {TREND_DAYS} days, {there} in the {TREND_DAYS} days before"
    change = round(100 * (now - before) / before)
    moved = f"{'up' if change > 0 else 'down'} {abs(change)}%" if change else "unchanged"
    return f"{many} {moved} against the {TREND_DAYS} days before"


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


def _overdue(rhythm: str, seen: Mapping[str, float], means: Mapping[str, float]) -> str:
    return f"{_last(rhythm, seen, means)}, {expm1(seen[f'{rhythm}_overdue']):.1f} times the usual gap"


def _against_average(name: str, words: str, seen: Mapping[str, float], means: Mapping[str, float]) -> str:
    return f"{words} {'above' if seen[name] > means[name] else 'below'} the average customer's"


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
        yield f"{rhythm}_recency_days", channel, partial(_last, rhythm)
        yield f"{rhythm}_gap_mean", channel, partial(_gap_mean, rhythm)
        yield f"{rhythm}_gap_deviation", channel, partial(_gap_deviation, rhythm)
        yield f"{rhythm}_gap_last", channel, partial(_gap_last, rhythm)
        yield f"{rhythm}_overdue", channel, partial(_overdue, rhythm)
    yield "orders_52w", "order", lambda seen, _: f"{_some(_number(seen['orders_52w']), 'order')} in 52 weeks"
    for name, words in (("net_revenue_52w", "net revenue of 52 weeks"), ("order_value_52w", "average order value")):
        yield name, "money", partial(_against_average, name, words)
    yield "refund_share_52w", "refund", lambda seen, _: f"{seen['refund_share_52w']:.0%} of the revenue refunded"
    yield "discount_share", "discount", lambda seen, _: f"{seen['discount_share']:.0%} of the orders with a discount"
    yield "tenure", "tenure", lambda seen, _: f"customer for {_days(_number(seen['tenure']))}"
    for tier in Tier:
        yield f"tier_{tier.label}", "tier", partial(_tier, tier)
    yield "tier_age", "tier", _tier_age
    yield RHYTHM, "rhythm", lambda _seen, _means: "the rhythm of orders so far"


_WORDINGS: Final = {name: (group, wording) for name, group, wording in _wordings()}
