"""Weekly examples of a log: what the product's rows know at midnight, and what came after it.

Features are computed from rows of the product's own partition, to which everything before that midnight was applied and
nothing after it. Whether a user is eligible, and what came, is read from the log, independent of the rows.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from schemas.topics import CONTROL, SOURCE_TOPICS
from worker import bootstrap
from worker.recall.days import Days
from worker.recall.lifetime.history import Rhythms, Summary, activity, rhythms
from worker.recall.risk import features, labels
from worker.recall.value import order_value
from worker.replay import Fed, tick
from worker.settings import load
from worker.stream.partition import Partition
from worker.stream.record import HEADER_BYTES, RESERVED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from worker.evaluate.logs import Log, Target
    from worker.recall.profile import Profile
    from worker.recall.shop import Shared
    from worker.settings import Settings
    from worker.sources.history import HistoryRecord

    Ints = NDArray[np.int64]

SALT: Final = "evaluation"
ELIGIBLE_DAYS: Final = 180
"""A user is eligible for so long after the latest order, or activity where that is what is predicted."""
WEEK_DAYS: Final = 7
REFIT_DAYS: Final = 28
"""From one fit of what is not learned online to the next: BG/NBD, and the batch peers."""
NEVER: Final = 2**62


@dataclass(frozen=True)
class Examples:
    """All weekly examples of a log, in the order of time; arrays have an element for each. Days are the log's."""

    first_day: int
    """The log's day 0, as a number of `recall.days.Days`."""
    end: float
    t: Ints
    user: Ints
    """Index into `users`."""
    seen: NDArray[np.int16]
    """Features in thousandths, one row for each example."""
    histories: list[Rhythms]
    """Where activity is predicted, it stands for orders too."""
    next_days: NDArray[np.float64]
    """Days from t to what comes next; infinite where the log ends before."""
    ids: list[str]
    users: list[bytes]
    happened: list[list[int]]
    """By user, the days on which what is predicted happened."""
    summaries: dict[int, list[Summary]] = field(repr=False)
    """By day of a fit, of all users ever seen."""

    def due_within(self, horizon_days: int) -> Examples:
        """Return those whose horizon ends within the log."""
        kept = np.flatnonzero(self.t + horizon_days <= self.end)
        return Examples(
            self.first_day,
            self.end,
            self.t[kept],
            self.user[kept],
            self.seen[kept],
            [self.histories[i] for i in kept],
            self.next_days[kept],
            [self.ids[i] for i in kept],
            self.users,
            self.happened,
            self.summaries,
        )

    def labels(self, horizon_days: int) -> Ints:
        """Return 1 where nothing came within the horizon."""
        return (self.next_days > horizon_days).astype(np.int64)

    def weeks(self) -> Iterator[tuple[int, Ints]]:
        """Yield each t and the indices of its examples."""
        for t in np.unique(self.t):
            yield int(t), np.flatnonzero(self.t == t)


def build(log: Log, target: Target) -> Examples:
    """Run a log through the product's rows, and take an example of each eligible user at each midnight of the grid."""
    days = Days(log.timezone)
    # Live after the end: nobody in these logs was touched, so no row is to believe that he was.
    live_from = dt.datetime.combine(log.first, dt.time(), dt.UTC) + dt.timedelta(days=log.end + 2)
    settings = load(currency=log.currency, timezone=log.timezone, partitions=1, salt=SALT, live_from=live_from)
    first_day = days.number(log.first)
    rows, happenings = _Rows(settings), _HAPPENINGS[target]()
    look = rhythms if target == "order" else _activity
    records = iter(log.records)
    ahead = next(records, None)
    t: list[int] = []
    keys: list[bytes] = []
    seen: list[list[int]] = []
    histories: list[Rhythms] = []
    summaries: dict[int, list[Summary]] = {}
    for day in range(log.grid_from, int(log.end) + 1, WEEK_DAYS):
        midnight = days.start(first_day + day)
        week = []
        while ahead is not None and ahead.recorded_at < midnight:
            week.append(ahead)
            happenings.take(ahead)
            ahead = next(records, None)
        rows.apply(week, midnight)
        since = days.start(first_day + day - ELIGIBLE_DAYS)
        for key in happenings.eligible(since):
            profile = rows.profile(key)
            past = look(profile, first_day + day, days)
            assert past is not None  # the log says that it happened
            t.append(day)
            keys.append(key)
            seen.append(features.compute(profile, first_day + day, days))
            histories.append(past)
        if (day - log.grid_from) % REFIT_DAYS == 0:
            summaries[day] = list(rows.summaries(look, first_day + day, days))
    while ahead is not None:
        happenings.take(ahead)
        ahead = next(records, None)
    users = sorted(set(keys))
    index = {key: number for number, key in enumerate(users)}
    starts = [days.start(first_day + day) for day in t]
    nexts = [happenings.next(key, start) for key, start in zip(keys, starts, strict=True)]
    # In whole days and the part of a day: a day of the shop is not always 24 hours.
    next_days = [np.inf if at == NEVER else _day(at, days) - first_day - day for at, day in zip(nexts, t, strict=True)]
    return Examples(
        first_day,
        log.end,
        np.array(t, dtype=np.int64),
        np.array([index[key] for key in keys], dtype=np.int64),
        np.array(seen, dtype=np.int16).reshape(len(seen), len(features.NAMES)),
        histories,
        np.array(next_days, dtype=np.float64),
        [labels.example_id(settings.salt, key, first_day + day) for key, day in zip(keys, t, strict=True)],
        users,
        [sorted({days.of(at) - first_day for at in happenings.times[key]}) for key in users],
        summaries,
    )


def _activity(profile: Profile, t_day: int, days: Days) -> Rhythms | None:  # noqa: ARG001 - as for orders
    past = activity(profile, t_day)
    return None if past is None else Rhythms(past, past)


def _day(at: int, days: Days) -> float:
    """Return the day of a time, with the part of it that has passed."""
    begin, end, day = days.around(at)
    return day + (at - begin) / (end - begin)


class _Rows:
    """The rows of one partition of the product, without a model."""

    def __init__(self, settings: Settings) -> None:
        self._customers = bootstrap.customers(settings, {})
        self._partition: Partition[Profile, Shared] = Partition(
            bootstrap.layout(0, settings), self._customers, {}, rows_max=8192, records_max=32768
        )
        self._offsets = dict.fromkeys(SOURCE_TOPICS, 0)

    def apply(self, records: list[HistoryRecord], midnight: int) -> None:
        """Apply records that come before a midnight, and let it become midnight."""
        topics: dict[str, list[Fed]] = {CONTROL: [Fed(self._offsets[CONTROL], midnight, None, tick(midnight))]}
        for record in records:
            fed = topics.setdefault(record.topic, [])
            offset = self._offsets[record.topic] + len(fed)
            fed.append(Fed(offset, record.recorded_at, record.key or None, record.value))
        for topic, fed in topics.items():
            self._offsets[topic] += len(fed)
            self._partition.feed(topic, fed)
        while self._partition.advance() is not None:
            pass

    def profile(self, key: bytes) -> Profile:
        return self._customers.decode(self._partition.rows[key][HEADER_BYTES:])

    def summaries(
        self, look: Callable[[Profile, int, Days], Rhythms | None], t_day: int, days: Days
    ) -> Iterator[Summary]:
        for key in sorted(self._partition.rows):
            if key.startswith(RESERVED):
                continue
            profile = self.profile(key)
            past = look(profile, t_day, days)
            if past is not None:
                yield Summary(past, profile.orders, order_value(profile) if profile.orders else 0.0)


class _Activities:
    """When users did something, by key."""

    def __init__(self) -> None:
        self.times: dict[bytes, list[int]] = {}
        """In order."""

    def take(self, record: HistoryRecord) -> None:
        if record.topic != "profiles":
            self.times.setdefault(record.key, []).append(record.recorded_at)

    def eligible(self, since: int) -> list[bytes]:
        """Return whose latest is after a time."""
        return sorted(key for key, times in self.times.items() if times and times[-1] > since)

    def next(self, key: bytes, after: int) -> int:
        """Return the first time after another one."""
        times = self.times[key]
        place = bisect_right(times, after)
        return times[place] if place < len(times) else NEVER


class _Orders(_Activities):
    """When users ordered; an order that is cancelled is none, and one that comes twice is one."""

    def __init__(self) -> None:
        super().__init__()
        self._orders: dict[tuple[bytes, str], int] = {}
        self._cancelled: set[tuple[bytes, str]] = set()

    def take(self, record: HistoryRecord) -> None:
        if record.topic != "orders":
            return
        try:
            told = orjson.loads(record.value)
        except orjson.JSONDecodeError:
            return
        event, order_id = told["event"], told["properties"].get("order_id")
        order = (record.key, order_id)
        if event == "Order Completed" and order not in self._orders:
            self._orders[order] = record.recorded_at
            super().take(record)
        elif event == "Order Cancelled" and order in self._orders and order not in self._cancelled:
            self._cancelled.add(order)
            self.times[record.key].remove(self._orders[order])


_HAPPENINGS: Final[dict[Target, type[_Activities]]] = {"order": _Orders, "activity": _Activities}
