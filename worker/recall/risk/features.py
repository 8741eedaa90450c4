"""What the model sees of a customer: numbers from the row alone, as of the start of a day of the shop.

Only what happened on the days before it counts, also where the row has gone on already. Money is of the 52 complete
weeks before the day's own. Two things are as the row has them, since it keeps no days of them: the share of discounted
orders, and the tier.

Heavy tails are drawn in by the signed log1p. All values are whole thousandths within +-32.767, so that two bytes hold
one exactly, and text shows it in few digits.
"""

from __future__ import annotations

import hashlib
from math import log1p, sqrt
from typing import TYPE_CHECKING, Final

from worker.recall import rfm
from worker.recall.profile import Gaps
from worker.recall.tiers import Tier
from worker.recall.windows import CHANNELS, DAYS_KEPT, ORDER, SESSION, WEEKS_KEPT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.recall.days import Days
    from worker.recall.profile import Profile
    from worker.recall.windows import Sparse

WINDOWS_DAYS: Final = (1, 7, 30, 90)
TREND_DAYS: Final = 30
RECENCY_MAX_DAYS: Final = DAYS_KEPT + 1
"""Stands for everything that the days kept do not reach, never included."""
NEVER_DAYS: Final = 999
"""Stands for never, where a recency is known beyond the days kept."""
ASSUMED_GAP_DAYS: Final = 30
"""One gap of this length is assumed beside those seen, so that a rhythm is defined from the first day on."""

SCALE: Final = 1000
_LIMIT: Final = 32_767

_TREND_UNIT = f"log1p(count in {TREND_DAYS} days) - log1p(count in the {TREND_DAYS} days before)"


def _schema() -> Iterator[tuple[str, str]]:
    """Yield names and units, in order."""
    for channel in CHANNELS:
        for days in WINDOWS_DAYS:
            yield f"{channel}_{days}d", "log1p(count)"
        yield f"{channel}_trend", _TREND_UNIT
        yield f"{channel}_recency", f"log1p(days, at most {RECENCY_MAX_DAYS})"
    for rhythm in ("active", "order"):
        yield f"{rhythm}_recency_days", f"log1p(days, at most {NEVER_DAYS})"
        yield f"{rhythm}_gap_mean", f"log1p(days, one gap of {ASSUMED_GAP_DAYS} assumed)"
        yield f"{rhythm}_gap_deviation", "log1p(days)"
        yield f"{rhythm}_gap_last", "log1p(days, 0 where not known)"
        yield f"{rhythm}_overdue", f"log1p({rhythm}_recency_days / {rhythm}_gap_mean, as days)"
    yield "orders_52w", "log1p(count)"
    yield "net_revenue_52w", "signed log1p(minor units)"
    yield "order_value_52w", "log1p(minor units an order)"
    yield "refund_share_52w", "share of revenue, 0 to 1"
    yield "discount_share", "share of orders, 0 to 1"
    yield "tenure", "log1p(days)"
    for tier in Tier:
        yield f"tier_{tier.label}", "0 or 1"
    yield "tier_age", f"log1p(days, at most {NEVER_DAYS})"


_SCHEMA = tuple(_schema())
NAMES: Final[tuple[str, ...]] = tuple(name for name, _ in _SCHEMA)
SCHEMA_HASH: Final[str] = hashlib.blake2b(
    "\n".join(f"{name}: {unit}, in {SCALE}ths" for name, unit in _SCHEMA).encode(), digest_size=8
).hexdigest()
"""Of names, units and their order: what was computed under another hash means something else."""


def plain(thousandths: Sequence[int]) -> list[float]:
    """Return features as the model takes them.

    >>> plain([693, -32_767, 0])
    [0.693, -32.767, 0.0]
    """
    return [value / SCALE for value in thousandths]


def compute(profile: Profile, t_day: int, days: Days) -> list[int]:
    """Return the features as of the start of the day, in thousandths and in the order of `NAMES`.

    The row is not to have gone on beyond that day, since it forgets days at the other end.
    """
    values: list[int] = []
    active = _channels(profile, t_day, values)
    active_days, order_days = _open_days(profile, t_day)
    last_active = t_day - active[0] if active else max([*active_days, profile.active_gaps.last_day])
    _rhythm(
        profile.active_gaps, active_days, last_active, active[1] - active[0] if len(active) > 1 else 0, t_day, values
    )
    last_order, order_before = _last_orders(profile, days.start(t_day), days)
    _rhythm(
        profile.account.order_gaps,
        order_days,
        last_order,
        last_order - order_before if order_before else 0,
        t_day,
        values,
    )
    _money(profile, days.week(t_day), values)
    standing = profile.standing
    values.append(_log_count(max(0, t_day - days.of(profile.first_at))) if profile.first_at else 0)
    values += _TIER_FLAGS[standing.tier]
    since = standing.since
    values.append(_log_count(min(NEVER_DAYS, max(0, t_day - days.of(since)) if since else NEVER_DAYS)))
    return values


_TIER_FLAGS: Final = {int(tier): [SCALE * (tier is other) for other in Tier] for tier in Tier}


def _log(x: float) -> int:
    """Return the signed log1p in thousandths.

    >>> _log(1), _log(-1), _log(1e30)
    (693, -693, 32767)
    """
    return min(_LIMIT, round(log1p(x) * SCALE)) if x >= 0 else -_log(-x)


_LOGS: Final = tuple(map(_log, range(1024)))


def _log_count(n: int) -> int:
    return _LOGS[n] if 0 <= n < len(_LOGS) else _log(n)


_PERIOD_ENDS: Final = (1, 7, TREND_DAYS, 2 * TREND_DAYS, DAYS_KEPT)
_PERIOD_OF: Final = tuple(next(i for i, end in enumerate(_PERIOD_ENDS) if age <= end) for age in range(DAYS_KEPT + 1))
"""By age in days, the period that it lies in."""


_UNUSED: Final = (0, 0, 0, 0, 0, _LOGS[RECENCY_MAX_DAYS])
"""Of a channel without an event in the days kept."""


def _channels(profile: Profile, t_day: int, values: list[int]) -> list[int]:
    """Append counts, trend and recency by channel; return the ages of the last two days with a session."""
    arrays = profile.counts_by_day()
    periods = [[0] * len(CHANNELS) for _ in _PERIOD_ENDS]
    for array in arrays:
        numbers = iter(array)
        age = t_day - next(numbers)
        if 0 < age <= DAYS_KEPT:
            period = periods[_PERIOD_OF[age]]
            for channel in numbers:
                period[channel] += next(numbers)
    active = _last_sessions(arrays, t_day)
    recencies = _recencies(profile, arrays, t_day)
    recencies[SESSION] = active[0] if active else RECENCY_MAX_DAYS
    for day, week, month, month_before, rest, recency in zip(*periods, recencies, strict=True):
        if recency == RECENCY_MAX_DAYS:
            values += _UNUSED
            continue
        in_week = day + week
        in_month = in_week + month
        in_all = in_month + month_before + rest
        logs = _LOGS if in_all < len(_LOGS) else {n: _log(n) for n in (day, in_week, in_month, in_all, month_before)}
        month_log = logs[in_month]
        values += (
            logs[day],
            logs[in_week],
            month_log,
            logs[in_all],
            month_log - logs[month_before],
            _LOGS[recency],
        )
    return active


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


def _open_days(profile: Profile, t_day: int) -> tuple[list[int], list[int]]:
    """Return the days with activity and with orders that the statistics of gaps have yet to take."""
    active, ordered = [], []
    for day, open_day in ((profile.day - 1, profile.yesterday), (profile.day, profile.today)):
        if open_day.half_hours and day < t_day:
            active.append(day)
            if open_day.counts and open_day.counts[ORDER]:
                ordered.append(day)
    return active, ordered


def _last_orders(profile: Profile, start: int, days: Days) -> tuple[int, int]:
    """Return the last two days with an order before `start`; 0 where there is none, or it is not known."""
    last = 0
    orders = [order.at for order in profile.account.latest_orders if order.at < start and not order.cancelled]
    for at in sorted(orders, reverse=True):
        day = days.of(at)
        if last and day < last:
            return last, day
        last = day
    if not last and 0 < profile.last_order_at < start:
        last = days.of(profile.last_order_at)
    return last, 0


def _rhythm(gaps: Gaps, more: list[int], last_day: int, last_gap: int, t_day: int, values: list[int]) -> None:
    """Append what gaps say; `more` are days that come after those folded in."""
    folded = Gaps(gaps.last_day, gaps.n, gaps.mean, gaps.m2) if more else gaps
    for day in more:
        folded.fold(day)
    recency = min(NEVER_DAYS, t_day - last_day) if last_day else NEVER_DAYS
    mean = (folded.mean * folded.n + ASSUMED_GAP_DAYS) / (folded.n + 1)
    values += (_log_count(recency), _log(mean), _log(sqrt(folded.variance)), _log_count(last_gap), _log(recency / mean))


def _money(profile: Profile, week: int, values: list[int]) -> None:
    """Append what was bought in the 52 weeks before the week."""
    orders, revenue, refunds = rfm.sums(profile.account.weeks, week - WEEKS_KEPT + 1, week)
    values += (
        _log_count(orders),
        _log(revenue - refunds),
        _log(revenue / orders) if orders > 0 else 0,
        _share(refunds, revenue),
        _share(profile.account.discounted, profile.orders),
    )


def _share(part: int, whole: int) -> int:
    return min(SCALE, max(0, round(SCALE * part / whole))) if whole > 0 else 0
