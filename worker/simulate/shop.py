"""The shop, from day to day: customers live, touches are carried out, money is counted."""

from __future__ import annotations

import copy
import datetime as dt
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from worker.recall.days import Days
from worker.simulate.behaviour import Happened, Orders, Today, live
from worker.simulate.catalog import Catalog
from worker.simulate.draws import key_of
from worker.simulate.parameters import CENTRAL, CHANNELS, GIVEN, IN_APP, KINDS, OTHER, effects
from worker.simulate.people import Ints, born
from worker.simulate.responses import Carried, Touches, touch
from worker.simulate.truth import Effect, Ledger, Sums, by_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CURRENCY: Final = "EUR"
TIMEZONE: Final = "Europe/Berlin"
START: Final = dt.date(2025, 1, 6)
"""A Monday."""
DAYS: Final = Days(TIMEZONE)
_WEEK: Final = 7


class Touch(NamedTuple):
    """A touch to be carried out; times in ms since the epoch, UTC. `user` is the customer's number."""

    user: int
    kind: str
    channel: str
    percent: int = 0
    """A coupon's, 0 for none."""
    cents: int = 0
    """A coupon's amount, 0 for none."""
    not_after: int = 1 << 60
    command_id: str = ""


class Answer(NamedTuple):
    """What the system that carries touches out tells of one."""

    place: int
    at: int
    """In ms since midnight."""
    touch: int
    """Its number in the shop's list."""
    status: str
    cents: int = 0
    """What a coupon gave away."""


class Day(NamedTuple):
    """A day of the shop; `at` throughout in ms since its midnight."""

    number: int
    midnight: int
    happened: Happened
    answers: list[Answer]
    complaints: list[tuple[int, int]]
    """Who wants no message any more, and since when."""


class Shop:
    """A shop of a family and a seed.

    Without touches, `live` gives the days as they would have been anyway. `users` are numbered from 1; with `numbers`
    only those live, each as it does among all.
    """

    def __init__(
        self,
        *,
        users: int,
        days: int,
        seed: int,
        family: str = CENTRAL,
        judging: bool = False,
        start: dt.date = START,
        numbers: Sequence[int] | None = None,
    ) -> None:
        if users < 1 or days < 1:
            raise ValueError(f"users is {users} and days is {days}: both have to be 1 or more")
        self.effects = effects(family, judging=judging)
        self.seed, self.days = seed, days
        key = key_of(family, seed)
        self.people = born(key, np.arange(1, users + 1) if numbers is None else np.asarray(numbers, np.int64), days)
        self.catalog = Catalog(key)
        self.day = 0
        """The next one."""
        self.ledger = Ledger(len(self.people))
        self.touches: list[Touch] = []
        self.touched = np.zeros(len(self.people), np.int64)
        """Touches that reached the customer."""
        self.cost_micros = np.zeros(len(self.people), np.int64)
        self.driven_away = np.zeros(len(self.people), np.bool_)
        self._first = Days.number(start)
        self._place = {int(number): place for place, number in enumerate(self.people.number)}
        self._in_app: list[int] = []
        """Touches that wait for the customer's next visit."""

    def place(self, user: int) -> int:
        """Return where a customer stands in the arrays; allowed are numbers of this shop."""
        return self._place[user]

    def midnight(self, day: int) -> int:
        """Return when a day begins, in ms since the epoch."""
        return DAYS.start(self._first + day)

    def date(self, day: int) -> dt.date:
        return Days.date(self._first + day)

    def live(self, touches: Iterable[Touch] = (), cancelled: Iterable[str] = ()) -> Day:
        """Live the next day, carrying out new touches, and not those (by command id) that are cancelled."""
        day, midnight = self.day, self.midnight(self.day)
        if self.date(day).timetuple().tm_yday == 1:
            self.people.points[:] = 0
        dropped = set(cancelled)
        answers: list[Answer] = []
        complaints: list[tuple[int, int]] = []
        begin = len(self.touches)
        self.touches += (one for one in touches if one.command_id not in dropped)
        new = range(begin, len(self.touches))
        self._in_app = [n for n in self._in_app if self.touches[n].command_id not in dropped]
        self._in_app += (n for n in new if self.touches[n].channel == CHANNELS[IN_APP])
        others = [n for n in new if self.touches[n].channel != CHANNELS[IN_APP]]
        self._carry_out(day, others, None, answers, complaints)
        happened = live(self.people, self._today(day), self.effects)
        self._show(day, midnight, happened, answers, complaints)
        self._count(day, happened)
        self._attribute(day, happened, answers)
        self.day += 1
        return Day(day, midnight, happened, answers, complaints)

    def some(self, numbers: Sequence[int]) -> Self:
        """Return a copy of the shop as it stands with these customers only, to see what would become of them."""
        places = np.array([self._place[number] for number in numbers], np.int64)
        other = copy.copy(self)
        other.people = self.people.take(places)
        other.ledger = Ledger(len(numbers))
        other.touched, other.cost_micros = (np.zeros(len(numbers), np.int64) for _ in range(2))
        other.driven_away = np.zeros(len(numbers), np.bool_)
        other.touches = list(self.touches)
        places_of = other._place = {number: place for place, number in enumerate(numbers)}  # noqa: SLF001 - a copy
        other._in_app = [n for n in self._in_app if self.touches[n].user in places_of]  # noqa: SLF001 - a copy
        return other

    def outcomes(self, choices: Mapping[str, Sequence[Touch]], numbers: Sequence[int], days: int) -> dict[str, Sums]:
        """Tell what would come of each choice of touches, made on the next day, for these customers within `days`.

        The customers' own future is used: an empty choice is what comes without touch. Contacts' costs are not in it.
        """
        found = {}
        for name, touches in choices.items():
            world = self.some(numbers)
            world.live(touches)
            for _ in range(days - 1):
                world.live()
            found[name] = world.ledger.sums(self.day, self.day + days)
        return found

    def effect(self, without: Shop, first: int = 0, end: int = 1 << 30) -> list[Effect]:
        """Return the true effect of this shop's touches, by type: against the same shop without any."""
        return by_type(
            self.people.type,
            self.ledger.sums(first, end),
            without.ledger.sums(first, end),
            touches=self.touched,
            cost_micros=self.cost_micros,
            left=self.driven_away,
        )

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _today(self, day: int) -> Today:
        date = self.date(day)
        given = GIVEN.habits
        season = GIVEN.season.week[date.weekday()] * GIVEN.season.year[date.month - 1]
        sale = day % given.sale_every_days < given.sale_days
        return Today(day, season, sale, self.catalog.week(day // _WEEK), self.catalog)

    def _carry_out(
        self,
        day: int,
        numbers: list[int],
        seen_at: Ints | None,
        answers: list[Answer],
        complaints: list[tuple[int, int]],
    ) -> None:
        """Carry touches out, those of one customer one after the other."""
        ordinal = 0
        while numbers:
            now: dict[int, int] = {}
            later = []
            for number in numbers:
                place = self._place[self.touches[number].user]
                if place in now:
                    later.append(number)
                else:
                    now[place] = number
            batch = self._arrays(now)
            # What is seen in the app has slots of its own: it may come on top of the morning's touches.
            at = None if seen_at is None else seen_at[batch.user]
            carried = touch(
                self.people,
                day,
                batch,
                self.effects,
                ordinal=ordinal + (_IN_APP_FROM if at is not None else 0),
                seen_at=at,
            )
            self._tell(batch, carried, answers, complaints)
            numbers, ordinal = later, ordinal + 1

    def _arrays(self, touches: Mapping[int, int]) -> Touches:
        chosen = [self.touches[number] for number in touches.values()]
        columns = (
            touches.keys(),
            [_KIND.get(one.kind, OTHER) for one in chosen],
            [_CHANNEL[one.channel] for one in chosen],
            [one.percent for one in chosen],
            [one.cents for one in chosen],
            touches.values(),
        )
        return Touches(*(np.fromiter(column, np.int64, len(chosen)) for column in columns))

    def _tell(
        self,
        batch: Touches,
        carried: Carried,
        answers: list[Answer],
        complaints: list[tuple[int, int]],
    ) -> None:
        reached = batch.user[carried.delivered]
        self.touched[reached] += 1
        self.cost_micros[reached] += _COST_MICROS[batch.channel[carried.delivered]]
        self.driven_away[batch.user[carried.left]] = True
        columns = (batch.user, batch.touch, *carried[:5])
        for place, number, at, delivered, bounced, unsubscribed, complained in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            answers.append(Answer(place, at, number, "delivered" if delivered else "bounced" if bounced else "failed"))
            if unsubscribed:
                answers.append(Answer(place, at + _LATER_MS, number, "unsubscribed"))
            if complained:
                complaints.append((place, at + 2 * _LATER_MS))

    def _show(
        self,
        day: int,
        midnight: int,
        happened: Happened,
        answers: list[Answer],
        complaints: list[tuple[int, int]],
    ) -> None:
        """Show in the app what waits there to those who came; and tell who came because of a touch."""
        if self._in_app:
            waiting = [n for n in self._in_app if self.touches[n].not_after >= midnight]
            unseen = sorted(set(self._in_app) - set(waiting))
            answers += (Answer(self._place[self.touches[n].user], _LATER_MS, n, "failed") for n in unseen)
            came = [n for n in waiting if happened.seen[self._place[self.touches[n].user]]]
            self._in_app = sorted(set(waiting) - set(came))
            self._carry_out(day, came, happened.start, answers, complaints)
        people = self.people
        for place in happened.answered.tolist():
            number = int(people.answered[place])
            status = "visited" if self.touches[number].channel in {"in_app", "human"} else "clicked"
            answers.append(Answer(place, int(happened.start[place]) - _LATER_MS, number, status))

    def _count(self, day: int, happened: Happened) -> None:
        orders = happened.orders
        kept = ~orders.cancelled
        revenue = np.where(kept, orders.revenue, 0)
        margin = np.where(kept, orders.revenue - orders.cost, 0)
        self.ledger.add(day, orders.user, kept.astype(np.int64), revenue, margin)
        back = happened.refunds
        self.ledger.add(day, back.user, np.zeros_like(back.user), -back.cents, happened.refund_cost - back.cents)

    def _attribute(self, day: int, happened: Happened, answers: list[Answer]) -> None:
        """Tell of orders with a touch's coupon, or within two weeks of a click, as systems of that kind do."""
        orders, people = happened.orders, self.people
        recent = (people.answered[orders.user] >= 0) & (
            people.answered_on[orders.user] > day - GIVEN.response.window_days
        )
        for i in np.flatnonzero(recent | (orders.touch >= 0)).tolist():
            place, with_coupon = int(orders.user[i]), int(orders.touch[i])
            number = with_coupon if with_coupon >= 0 else int(people.answered[place])
            given = int(orders.discount[i]) if with_coupon >= 0 else 0
            answers.append(Answer(place, int(orders.at[i]) + _LATER_MS, number, "converted", given))
            people.answered[place] = -1


def _micros(amount: str) -> int:
    return round(float(amount) * 1_000_000)


_LATER_MS: Final = 30_000
_IN_APP_FROM: Final = 1 << 10
_KIND: Final = {kind: number for number, kind in enumerate(KINDS)}
_CHANNEL: Final = {channel: number for number, channel in enumerate(CHANNELS)}
_COST_MICROS: Final = np.array([_micros(one.cost) for one in GIVEN.channels.values()], np.int64)

__all__ = ["CURRENCY", "DAYS", "START", "TIMEZONE", "Answer", "Day", "Orders", "Shop", "Touch"]
