"""What the model sees of a customer: numbers from the row alone, as of the start of a day of the shop.

Only what happened on the days before it counts, also where the row has gone on already. Orders and money over weeks are
of 26 or 52 complete weeks and the days of the day's own week that are over; refunds are of the complete weeks. Of the
tier the row keeps no past: it is the one that it has now.

Heavy tails are drawn in by the signed log1p. All values are whole thousandths within +-32.767, so that two bytes hold
one exactly, and text shows it in few digits.
"""

from __future__ import annotations

import hashlib
from math import log1p, sqrt
from operator import sub
from typing import TYPE_CHECKING, Final, NamedTuple

from schemas.training import FEATURE_MAX
from worker.recall import rfm
from worker.recall.tiers import Tier
from worker.recall.windows import CHANNELS, DAYS_KEPT, SESSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.recall.days import Days
    from worker.recall.profile import Contact, Gaps, Profile
    from worker.recall.windows import Sparse

WINDOWS_DAYS: Final = (1, 7, 14, 30, 60, 90)
TREND_DAYS: Final = 30
RECENCY_MAX_DAYS: Final = DAYS_KEPT + 1
"""Stands for everything that the days kept do not reach, never included."""
NEVER_DAYS: Final = 999
"""Stands for never, where a recency is known beyond the days kept."""
ASSUMED_GAP_DAYS: Final = 30
"""One gap of this length is assumed beside those seen, so that a rhythm is defined from the first day on."""
LATE_DAYS: Final = 7
"""Added to the deviation of gaps: by how much even the most regular customer may be late."""
OVERDUE: Final = 2
"""After how many of the usual gaps a customer is overdue."""
MONEY_WEEKS: Final = (26, 52)
"""Of shorter times the money says nothing beside the counts of orders: measured, it made the model worse."""
CONTACT_DAYS: Final = (30, 90)
SILENCE: Final = (
    "active_recency_days",
    "active_gaps_since",
    "active_lateness",
    "order_gaps_since",
    "order_lateness",
    "sign_in_recency",
    "session_trend",
    "sign_in_trend",
)
"""What a silence is seen by. Each stands once more, times the share of orders with a discount: who buys at sales
may be silent until the next one, which a linear model can tell only by the product.
"""

SCALE: Final = 1000
_LIMIT: Final = round(FEATURE_MAX * SCALE)

_TREND_UNIT = f"log1p(count in {TREND_DAYS} days) - log1p(count in the {TREND_DAYS} days before)"


def _schema() -> Iterator[tuple[str, str]]:
    """Yield names and units, in order."""
    for days in WINDOWS_DAYS:
        for channel in CHANNELS:
            yield f"{channel}_{days}d", "log1p(count)"
    for channel in CHANNELS:
        yield f"{channel}_trend", _TREND_UNIT
    for channel in CHANNELS:
        yield f"{channel}_recency", f"log1p(days, at most {RECENCY_MAX_DAYS})"
    for rhythm in ("active", "order"):
        yield f"{rhythm}_days", "log1p(count)"
        yield f"{rhythm}_recency_days", f"log1p(days, at most {NEVER_DAYS})"
        yield f"{rhythm}_gap_mean", f"log1p(days, one gap of {ASSUMED_GAP_DAYS} assumed)"
        yield f"{rhythm}_gap_deviation", "log1p(days)"
        yield f"{rhythm}_gap_last", "log1p(days, 0 where not known)"
        yield f"{rhythm}_gaps_since", f"log1p({rhythm}_recency_days / {rhythm}_gap_mean, as days)"
        yield f"{rhythm}_lateness", f"signed log1p((recency - gap mean) / (gap deviation + {LATE_DAYS}), as days)"
        yield f"{rhythm}_overdue", f"0 or 1: recency over {OVERDUE} x gap mean, as days"
    for weeks in MONEY_WEEKS:
        yield f"orders_{weeks}w", "log1p(count)"
    for weeks in MONEY_WEEKS:
        yield f"net_revenue_{weeks}w", "signed log1p(minor units)"
    yield "order_value_52w", "log1p(minor units an order)"
    yield "refund_share_52w", "share of revenue, 0 to 1"
    yield "discount_share", "share of orders, 0 to 1"
    yield "products", "log1p(distinct ones of each order, over all orders)"
    yield "products_an_order", "log1p(count an order)"
    yield "products_last_order", "log1p(count)"
    yield "tenure", "log1p(days)"
    for tier in Tier:
        yield f"tier_{tier.label}", "0 or 1"
    yield "tier_age", f"log1p(days, at most {NEVER_DAYS})"
    for days in CONTACT_DAYS:
        yield f"touch_{days}d", "log1p(count)"
    yield "touch_recency", f"log1p(days, at most {RECENCY_MAX_DAYS})"


SCHEMA: Final = (*_schema(), *((f"discounted_{name}", f"discount_share x {name}") for name in SILENCE))
"""Name and unit of each feature, in order."""
NAMES: Final[tuple[str, ...]] = tuple(name for name, _ in SCHEMA)


def hash_of(schema: Sequence[tuple[str, str]]) -> str:
    """Return the hash of names, units and their order."""
    told = "\n".join(f"{name}: {unit}, in {SCALE}ths" for name, unit in schema)
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


SCHEMA_HASH: Final = hash_of(SCHEMA)
"""What was computed under another hash means something else: an example waiting beside a row is lost then and counted,
one on the topic is left out, and a snapshot is refused. Whoever changes what a feature means changes its unit's text.
"""


def plain(thousandths: Sequence[int]) -> list[float]:
    """Return features as the model takes them.

    >>> plain([693, -32_767, 0])
    [0.693, -32.767, 0.0]
    """
    return [value / SCALE for value in thousandths]


class _Orders(NamedTuple):
    """What the orders that the row knows singly say as of the start of a day; money in minor units."""

    last_day: int
    """With an order; 0 where there is none."""
    day_before: int
    """The last one with an order before that; 0 where it is not known."""
    last_products: int
    this_week: int
    """Orders in the days of the week that are over."""
    this_week_net: int
    later: int
    """Orders that the row has already, but of the day or after it, which are not to be seen."""
    later_products: int
    later_discounted: int


def compute(profile: Profile, t_day: int, days: Days) -> list[int]:
    """Return the features as of the start of the day, in thousandths and in the order of `NAMES`.

    The row is not to have gone on beyond that day, since it forgets days at the other end.
    """
    values: list[int] = []
    active_gap = _channels(profile, t_day, values)
    account = profile.account
    active_days, order_days = profile.open_days_before(t_day)
    active = profile.active_gaps.with_days(active_days)
    _rhythm(active, active.last_day, active_gap, t_day, values)
    start, week = days.start(t_day), days.week(t_day)
    orders = _orders(profile, start, days.start(days.monday(week)), days)
    order_gap = orders.last_day - orders.day_before if orders.day_before else 0
    _rhythm(account.order_gaps.with_days(order_days), orders.last_day, order_gap, t_day, values)
    _money(profile, week, orders, values)
    standing = profile.standing
    values.append(log_count(max(0, t_day - days.of(profile.first_at))) if profile.first_at else 0)
    values += _TIER_FLAGS[standing.tier]
    since = standing.since
    values.append(log_count(min(NEVER_DAYS, max(0, t_day - days.of(since)) if since else NEVER_DAYS)))
    _contacts(account.contacts, t_day, start, days, values)
    share = values[_DISCOUNT_SHARE]
    values += [round(share * values[i] / SCALE) for i in _SILENCE] if share else _NO_DISCOUNT
    return values


_DISCOUNT_SHARE: Final = NAMES.index("discount_share")
_SILENCE: Final = tuple(map(NAMES.index, SILENCE))
_NO_DISCOUNT: Final = (0,) * len(SILENCE)

_TIER_FLAGS: Final = {int(tier): [SCALE * (tier is other) for other in Tier] for tier in Tier}


def log(x: float) -> int:
    """Return the signed log1p in thousandths.

    >>> log(1), log(-1), log(1e30)
    (693, -693, 32767)
    """
    return min(_LIMIT, round(log1p(x) * SCALE)) if x >= 0 else -log(-x)


_LOGS: Final = tuple(map(log, range(2048)))


def log_count(n: int) -> int:
    """Return the log1p of a count in thousandths."""
    return _LOGS[n] if 0 <= n < len(_LOGS) else log(n)


_PERIOD_OF: Final = tuple(next(i for i, end in enumerate(WINDOWS_DAYS) if age <= end) for age in range(DAYS_KEPT + 1))
"""By age in days, the shortest window that reaches it."""
_COUNTS: Final = len(WINDOWS_DAYS) * len(CHANNELS)


def _place(window_days: int) -> slice:
    """Return where the counts of a window lie among those of all."""
    begin = WINDOWS_DAYS.index(window_days) * len(CHANNELS)
    return slice(begin, begin + len(CHANNELS))


_MONTH, _TWO_MONTHS = _place(TREND_DAYS), _place(2 * TREND_DAYS)


def _channels(profile: Profile, t_day: int, values: list[int]) -> int:
    """Append counts, trend and recency by channel; return the last gap between sessions in days, 0 where not known."""
    arrays = profile.counts_by_day()
    pairs: list[list[int]] = [[] for _ in WINDOWS_DAYS]
    for array in arrays:
        age = t_day - array[0]
        if 0 < age <= DAYS_KEPT:
            pairs[_PERIOD_OF[age]] += array[1:]
    counts = [0] * len(CHANNELS)
    numbers: list[int] = []
    for flat in pairs:
        flat_numbers = iter(flat)
        for channel, n in zip(flat_numbers, flat_numbers):  # noqa: B905 - pairs, since arrays are
            counts[channel] += n
        numbers += counts
    numbers += map(sub, numbers[_TWO_MONTHS], numbers[_MONTH])
    active = _last_sessions(arrays, t_day)
    recencies = _recencies(profile, arrays, t_day)
    recencies[SESSION] = active[0] if active else RECENCY_MAX_DAYS
    numbers += recencies
    # By place, since a call for each would take longer than all else here.
    logs = [_LOGS[n] for n in numbers] if max(counts) < len(_LOGS) else list(map(log, numbers))
    values += logs[:_COUNTS]
    values += map(sub, logs[_MONTH], logs[_COUNTS:])
    values += logs[-len(CHANNELS) :]
    return active[1] - active[0] if len(active) > 1 else 0


def _last_sessions(arrays: list[Sparse], t_day: int) -> list[int]:
    """Return the ages of the last two days with a session; a day has them in one part, and these parts in order."""
    ages: list[int] = []
    for array in reversed(arrays):
        age = t_day - array[0]
        if 0 < age <= DAYS_KEPT and len(array) > 1 and array[1] == SESSION:
            ages.append(age)
            if len(ages) == 2:  # noqa: PLR2004 - the last two
                break
    return ages


def _recencies(profile: Profile, arrays: list[Sparse], t_day: int) -> list[int]:
    """Return by channel how many days ago it was used last, before the day; the row knows where nothing came since."""
    last_days = profile.last_days or [0] * len(CHANNELS)
    recencies = [age if (age := t_day - last) < RECENCY_MAX_DAYS else RECENCY_MAX_DAYS for last in last_days]
    if max(last_days) >= t_day:
        for channel, recency in enumerate(recencies):
            if recency <= 0:
                ages = [t_day - array[0] for array in arrays if channel in array[1::2]]
                recencies[channel] = min((age for age in ages if 0 < age <= DAYS_KEPT), default=RECENCY_MAX_DAYS)
    return recencies


def _orders(profile: Profile, start: int, monday: int, days: Days) -> _Orders:
    """Go through the latest orders, as of the day that begins at `start` in the week that begins at `monday`."""
    last_at = last_products = this_week = this_week_net = later = later_products = later_discounted = 0
    times = []
    for order in profile.account.latest_orders:
        at = order.at
        if order.cancelled or not at:
            continue
        if at >= start:
            later += 1
            later_products += order.products
            later_discounted += order.discounted
            continue
        times.append(at)
        if at >= last_at:
            last_at, last_products = at, order.products
        if at >= monday:
            this_week += 1
            this_week_net += order.net
    last_day = day_before = 0
    if last_at:
        begin, _, last_day = days.around(last_at)
        before = max([at for at in times if at < begin], default=0)
        day_before = days.of(before) if before else 0
    elif 0 < profile.last_order_at < start:
        last_day = days.of(profile.last_order_at)
    return _Orders(
        last_day, day_before, last_products, this_week, this_week_net, later, later_products, later_discounted
    )


def _rhythm(gaps: Gaps, last_day: int, last_gap: int, t_day: int, values: list[int]) -> None:
    """Append what gaps say."""
    n = gaps.n
    recency = t_day - last_day
    if recency > NEVER_DAYS or not last_day:
        recency = NEVER_DAYS
    mean = (gaps.mean * n + ASSUMED_GAP_DAYS) / (n + 1)
    deviation = sqrt(gaps.m2 / (n - 1)) if n > 1 else 0.0
    late = (recency - mean) / (deviation + LATE_DAYS)
    values += (
        log_count(n + 1 if gaps.last_day else 0),
        _LOGS[recency],
        round(log1p(mean) * SCALE),
        round(log1p(deviation) * SCALE),
        log_count(last_gap),
        round(log1p(recency / mean) * SCALE),
        round(log1p(late) * SCALE) if late >= 0 else -round(log1p(-late) * SCALE),
        SCALE if recency > OVERDUE * mean else 0,
    )


def _money(profile: Profile, week: int, latest: _Orders, values: list[int]) -> None:
    """Append what was bought in the weeks before this one and in its days that are over; refunds are of whole weeks."""
    account = profile.account
    orders, revenue, refunds = latest.this_week, latest.this_week_net, 0
    nets = []
    end = week
    for weeks in MONEY_WEEKS:
        more_orders, more_revenue, more_refunds = rfm.sums(account.weeks, week - weeks, end)
        orders += more_orders
        revenue += more_revenue
        refunds += more_refunds
        values.append(log_count(orders))
        nets.append(log(revenue - refunds))
        end = week - weeks
    values += nets
    all_orders, products = profile.orders - latest.later, account.products - latest.later_products
    values += (
        log(revenue / orders) if orders > 0 else 0,
        _share(refunds, revenue),
        _share(account.discounted - latest.later_discounted, all_orders),
        log_count(products),
        log(products / all_orders) if all_orders > 0 else 0,
        log_count(latest.last_products),
    )


def _contacts(contacts: list[Contact], t_day: int, start: int, days: Days, values: list[int]) -> None:
    """Append how many touches were sent within some days, and how long ago the last one was."""
    if not contacts:
        values += _NO_CONTACTS
        return
    ages = [t_day - days.of(contact.at) for contact in contacts if contact.at < start]
    values += [log_count(sum([age <= reach for age in ages])) for reach in CONTACT_DAYS]
    values.append(log_count(min([RECENCY_MAX_DAYS, *ages])))


_NO_CONTACTS: Final = (*(0 for _ in CONTACT_DAYS), _LOGS[RECENCY_MAX_DAYS])


def _share(part: int, whole: int) -> int:
    return min(SCALE, max(0, round(SCALE * part / whole))) if whole > 0 else 0
