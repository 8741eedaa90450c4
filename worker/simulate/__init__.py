"""A simulated shop: five kinds of customers, and the oddities of real streams. The same seed, the same bytes.

The kinds are hidden from the stream: `life_of` and `kind_of` tell them to tests and demonstrations.

- loyal: signs in most days, shops every few days, orders every other week or so.
- fading: from its turn on, sign-ins go from daily to weekly within two weeks, cart additions fall by 70%, new
  arrivals are looked at no more; four weeks later the orders stop, and after eight weeks next to nothing is left.
- gone at once: like the loyal, then nothing at all from one day to the next.
- bargain hunter: comes in the first days of every fourth week, with coupons, and rarely between.
- returning: like the loyal, gone for two to five months, then back.
"""

# ruff: noqa: PLR2004 - the numbers are the scenario
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from random import Random
from typing import Final, NamedTuple

import orjson

from schemas.values import rfc3339
from worker.sources.history import HistoryRecord

CURRENCY: Final = "EUR"
TIMEZONE: Final = "Europe/Berlin"
START: Final = dt.date(2025, 1, 6)
"""A Monday."""
KINDS: Final = ("loyal", "fading", "gone at once", "bargain hunter", "returning")

_SHARES: Final = (0.35, 0.2, 0.15, 0.15, 0.15)
_TIMEZONES: Final = (TIMEZONE,) * 7 + ("Europe/London", "Europe/Lisbon", "Europe/Athens")
_SECOND: Final = 1000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_FOREVER: Final = 1 << 31


@dataclass(slots=True)
class Oddities:
    """What the simulator has put into the stream so far, by what a reader has to make of it.

    records = profiles + events + duplicates + anonymous + pages + unknown + malformed; the late are among the
    events (their timestamp lies up to twelve hours before they were recorded).
    """

    records: int = 0
    profiles: int = 0
    events: int = 0
    late: int = 0
    duplicates: int = 0
    anonymous: int = 0
    pages: int = 0
    unknown: int = 0
    malformed: int = 0


# Share of the day's events that there are on top of them, or that are late.
_LATE: Final = 0.003
_DUPLICATES: Final = 0.002
_ANONYMOUS: Final = 0.003
_PAGES: Final = 0.003
_UNKNOWN: Final = 0.001
_MALFORMED: Final = 0.0005


class Life(NamedTuple):
    """What a user is, and when it shows: days counted from the start of the simulation."""

    kind: str
    joined: int
    turn: int
    """First day of fading or absence."""
    back: int
    """First day after an absence."""


class _Habits(NamedTuple):
    """Probabilities of a day (sign-in, check-in, shopping), of a look at a product, of an order from a cart."""

    sign_in: float
    check_in: float
    shop: float
    new_arrival: float
    cart: float
    order: float
    coupon: float = 0.05


_ACTIVE: Final = _Habits(sign_in=0.85, check_in=0.15, shop=0.2, new_arrival=0.25, cart=0.2, order=0.6)
_BETWEEN_SALES: Final = _Habits(sign_in=0.15, check_in=0.02, shop=0.06, new_arrival=0.05, cart=0.1, order=0.2)
_SALE: Final = _Habits(sign_in=0.6, check_in=0.05, shop=0.6, new_arrival=0.1, cart=0.35, order=0.6, coupon=0.9)
_SALE_EVERY: Final = 28
_SALE_DAYS: Final = 4
_FADING: Final = (
    *(_Habits(max(0.85 - 0.05 * day, 1 / 7), 0.05, 0.2, 0.0, 0.06, 0.6) for day in range(28)),
    *[_Habits(1 / 7, 0.01, 0.1, 0.0, 0.06, 0.0)] * 28,
)
_FADED: Final = _Habits(0.02, 0.0, 0.01, 0.0, 0.0, 0.0)


def kind_of(user_id: str, seed: int) -> str:
    """Tell which of the kinds a user is.

    >>> kind_of("user-3", seed=1) in KINDS
    True
    """
    return life_of(user_id, seed=seed, days=1).kind


def life_of(user_id: str, *, seed: int, days: int) -> Life:
    """Tell a user's kind and turns in a simulation of that many days."""
    return _life(_own(user_id, seed), days)


def simulate(
    *, users: int, days: int, seed: int, start: dt.date = START, oddities: Oddities | None = None
) -> Iterator[HistoryRecord]:
    """Yield the records of all topics in the order in which they were recorded, a day in memory at a time.

    Users are `user-1` to `user-<users>`; each one's first record is its profile. `oddities` is counted up as
    the records come.
    """
    if users < 1 or days < 1:
        raise ValueError(f"users is {users} and days is {days}: both have to be 1 or more")
    shop = _Shop(seed, oddities if oddities is not None else Oddities())
    customers = [_Customer(f"user-{number}", seed, days) for number in range(1, users + 1)]
    for day in range(days):
        yield from shop.live(day, start + dt.timedelta(days=day), customers)


def _own(user_id: str, seed: int) -> Random:
    return Random(f"{seed}:{user_id}")  # noqa: S311 - a simulation


def _life(random: Random, days: int) -> Life:
    kind = random.choices(KINDS, _SHARES)[0]
    joined = 0 if random.random() < 0.7 else int(random.random() * days / 2)
    turn = joined + int((days - joined) * (0.2 + 0.5 * random.random()))
    back = turn + 60 + int(90 * random.random())
    if kind in {"loyal", "bargain hunter"}:
        turn = back = _FOREVER
    elif kind != "returning":
        back = _FOREVER
    return Life(kind, joined, turn, back)


@dataclass(frozen=True, slots=True)
class _Product:
    """A product with its price in cents and the JSON of what can be done with it."""

    cents: int
    item: str
    view: str
    new_view: str
    wish: str
    add: str
    remove: str


def _product(number: int, category: str, cents: int) -> _Product:
    item = f'"product_id":"p-{number}","category":"{category}","price":"{_decimal(cents)}"'
    return _Product(
        cents,
        item,
        view=f'"Product Viewed","properties":{{{item}}}',
        new_view=f'"Product Viewed","properties":{{{item},"new_arrival":true}}',
        wish=f'"Product Added to Wishlist","properties":{{{item}}}',
        add=f'"Product Added","properties":{{{item},"quantity":1}}',
        remove=f'"Product Removed","properties":{{{item},"quantity":1}}',
    )


# Categories with the price of their median product, in cents.
_CATEGORIES: Final = {
    "shoes": 6900,
    "dresses": 4900,
    "shirts": 2900,
    "jackets": 9900,
    "bags": 5900,
    "jewellery": 3900,
    "sports": 3500,
    "home": 1900,
}
_IN_CATEGORY: Final = 25
_ARRIVALS: Final = 10
_CLICKSTREAM, _CART, _ORDERS = "clickstream", "cart", "orders"
_SIGN_IN: Final = '"Signed In","properties":{}'
_CHECK_IN: Final = '"Checked In","properties":{}'
_SEARCH: Final = '"Products Searched","properties":{"query":"gift"}'
_NEW_ARRIVALS: Final = '"Product List Viewed","properties":{"list_id":"new-arrivals"}'
_CART_VIEW: Final = '"Cart Viewed","properties":{}'


class _Customer:
    """A user's life, traits and unfinished business."""

    __slots__ = ("cart", "home", "key", "life", "orders", "profile", "refund", "tail", "user_id")

    def __init__(self, user_id: str, seed: int, days: int) -> None:
        random = _own(user_id, seed)
        self.user_id = user_id
        self.key = user_id.encode()
        self.life = _life(random, days)
        timezone = random.choice(_TIMEZONES)
        self.tail = f',"context":{{"timezone":"{timezone}"}}}}'
        self.home = random.randrange(len(_CATEGORIES)) * _IN_CATEGORY
        self.cart: list[_Product] = []
        self.orders = 0
        self.refund: tuple[int, str, int] | None = None  # day, order id, cents
        consent = {"in_app": 1.0, "push": 0.6, "email": 0.85, "sms": 0.3}
        self.profile: dict[str, object] = {
            "timezone": timezone,
            "consent": {channel: {"marketing": random.random() < share} for channel, share in consent.items()},
            "opt_out_messages": random.random() < 0.02,
            "opt_out_profiling": random.random() < 0.01,
            "excluded": random.random() < 0.01,
        }

    def habits(self, day: int) -> _Habits | None:
        """Return the user's habits on a day, None for a day of absence."""
        kind, joined, turn, back = self.life
        if day < joined:
            return None
        if kind == "bargain hunter":
            return _SALE if day % _SALE_EVERY < _SALE_DAYS else _BETWEEN_SALES
        if day < turn or day >= back:
            return _ACTIVE
        if kind != "fading":
            return None
        return _FADING[day - turn] if day - turn < len(_FADING) else _FADED


@dataclass(slots=True)
class _Shop:
    """The shop on one day after another; times within a day are in milliseconds since midnight, UTC."""

    seed: int
    oddities: Oddities
    random: Random = field(init=False)
    products: list[_Product] = field(init=False)
    arrivals: list[_Product] = field(init=False)
    messages: int = 0
    day: int = 0
    date: str = ""
    midnight: int = 0
    today: int = 0
    """How many events the day has, oddities aside."""
    out: list[HistoryRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)  # noqa: S311 - a simulation
        self.products = [
            _product(number, category, int(median * self.random.lognormvariate(0, 0.4)) // 100 * 100 + 99)
            for category_number, (category, median) in enumerate(_CATEGORIES.items())
            for number in range(category_number * _IN_CATEGORY, (category_number + 1) * _IN_CATEGORY)
        ]
        self.arrivals = self.products[:_ARRIVALS]

    def live(self, day: int, date: dt.date, customers: list[_Customer]) -> Iterator[HistoryRecord]:
        """Yield a day's records."""
        self.day, self.date = day, date.isoformat()
        self.midnight = int(dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()) * _SECOND
        first = day // 7 * _ARRIVALS % len(self.products)
        self.arrivals = self.products[first : first + _ARRIVALS]
        self.out = []
        for customer in customers:
            habits = customer.habits(day)
            if habits is not None:
                self._visit(customer, habits)
            if customer.refund is not None and customer.refund[0] == day:
                self._refund(customer, *customer.refund[1:])
                customer.refund = None
        self.today = len(self.out)
        self.oddities.events += self.today
        self._add_oddities()
        for number, customer in enumerate(customers):
            if customer.life.joined == day:
                self.out.append(self._profile(customer, 6 * _HOUR + number % _HOUR))
        self.out.sort(key=attrgetter("recorded_at"))
        self.oddities.records += len(self.out)
        yield from self.out

    def _emit(self, customer: _Customer, at: int, topic: str, event: str) -> None:
        self.messages += 1
        seconds, ms = divmod(at, 1000)
        minutes, second = divmod(seconds, 60)
        hour, minute = divmod(minutes, 60)
        value = (
            f'{{"type":"track","messageId":"{self.seed}-{self.messages}","userId":"{customer.user_id}",'
            f'"timestamp":"{self.date}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z","event":{event}{customer.tail}'
        )
        self.out.append(HistoryRecord(topic, customer.key, self.midnight + at, value.encode()))

    def _visit(self, customer: _Customer, habits: _Habits) -> None:
        random = self.random.random
        at = int((7 + 15 * random()) * _HOUR)
        if random() < habits.sign_in:
            self._emit(customer, at, _CLICKSTREAM, _SIGN_IN)
        if random() < habits.check_in:
            self._emit(customer, at + 2 * _SECOND, _CLICKSTREAM, _CHECK_IN)
        if random() < habits.shop:
            at = self._browse(customer, habits, at + 5 * _SECOND)
            if customer.cart and random() < habits.order:
                self._order(customer, at, coupon=random() < habits.coupon)
            elif customer.cart and random() < 0.2:
                self._emit(customer, at, _CART, customer.cart.pop().remove)

    def _browse(self, customer: _Customer, habits: _Habits, at: int) -> int:
        random = self.random.random
        for _ in range(2 + int(min(self.random.expovariate(0.5), 10))):
            at += int((5 + 55 * random()) * _SECOND)
            if random() < 0.1:
                self._emit(customer, at - 2 * _SECOND, _CLICKSTREAM, _SEARCH)
            if random() < habits.new_arrival:
                if random() < 0.3:
                    self._emit(customer, at - _SECOND, _CLICKSTREAM, _NEW_ARRIVALS)
                product = self.arrivals[int(random() * _ARRIVALS)]
                self._emit(customer, at, _CLICKSTREAM, product.new_view)
            else:
                home = customer.home if random() < 0.7 else int(random() * len(_CATEGORIES)) * _IN_CATEGORY
                product = self.products[home + int(random() ** 2 * _IN_CATEGORY)]
                self._emit(customer, at, _CLICKSTREAM, product.view)
            if random() < habits.cart:
                self._emit(customer, at + 3 * _SECOND, _CART, product.add)
                customer.cart.append(product)
            elif random() < 0.05:
                self._emit(customer, at + 3 * _SECOND, _CLICKSTREAM, product.wish)
        return at + 10 * _SECOND

    def _order(self, customer: _Customer, at: int, *, coupon: bool) -> None:
        customer.orders += 1
        order_id = f"{customer.user_id}-{customer.orders}"
        goods = sum(product.cents for product in customer.cart)
        discount = goods // 5 if coupon else 0
        shipping = 490 if goods < 5000 else 0
        self._emit(customer, at, _CART, _CART_VIEW)
        if coupon:
            at += 5 * _SECOND
            self._emit(
                customer, at, _CART, f'"Coupon Applied","properties":{{"order_id":"{order_id}","coupon_id":"20"}}'
            )
        at += 10 * _SECOND
        value = _decimal(goods - discount)
        checkout = f'"Checkout Started","properties":{{"order_id":"{order_id}","value":"{value}"}}'
        self._emit(customer, at, _CART, checkout)
        at += 45 * _SECOND
        products = ",".join(f'{{{product.item},"quantity":1}}' for product in customer.cart)
        completed = (
            f'"Order Completed","properties":{{"order_id":"{order_id}","revenue":"{value}",'
            f'"total":"{_decimal(goods - discount + shipping)}","shipping":"{_decimal(shipping)}",'
            f'"discount":"{_decimal(discount)}","currency":"{CURRENCY}","products":[{products}]}}'
        )
        self._emit(customer, at, _ORDERS, completed)
        customer.cart.clear()
        luck = self.random.random()
        if luck < 0.01:
            cancelled = f'"Order Cancelled","properties":{{"order_id":"{order_id}"}}'
            self._emit(customer, at + int((5 + 25 * self.random.random()) * _MINUTE), _ORDERS, cancelled)
        elif luck < 0.04:
            back = goods - discount if self.random.random() < 0.5 else (goods - discount) // 2
            customer.refund = (self.day + self.random.randint(3, 10), order_id, back)

    def _refund(self, customer: _Customer, order_id: str, cents: int) -> None:
        at = int((9 + 9 * self.random.random()) * _HOUR)
        properties = f'{{"order_id":"{order_id}","total":"{_decimal(cents)}","currency":"{CURRENCY}"}}'
        self._emit(customer, at, _ORDERS, f'"Order Refunded","properties":{properties}')

    def _profile(self, customer: _Customer, at: int) -> HistoryRecord:
        self.oddities.profiles += 1
        self.messages += 1
        envelope = {
            "type": "profile",
            "messageId": f"{self.seed}-{self.messages}",
            "userId": customer.user_id,
            "timestamp": rfc3339(self.midnight + at),
        }
        value = orjson.dumps(envelope | customer.profile)
        return HistoryRecord("profiles", customer.key, self.midnight + at, value)

    def _add_oddities(self) -> None:
        """Make some of the day's events late, and add what real streams have beside events."""
        random, counts = self.random.random, self.oddities
        for index in self.random.sample(range(self.today), self._number(_LATE)):
            event = self.out[index]
            if event.topic == _CLICKSTREAM:
                earlier = event.recorded_at - int(_MINUTE + (12 * _HOUR - _MINUTE) * random())
                told, meant = rfc3339(event.recorded_at).encode(), rfc3339(earlier).encode()
                self.out[index] = event._replace(value=event.value.replace(told, meant))
                counts.late += 1
        for event in self._some(_DUPLICATES):
            self.out.append(event._replace(recorded_at=event.recorded_at + 1 + int(_MINUTE * random())))
            counts.duplicates += 1
        for event in self._some(_MALFORMED):
            self.out.append(event._replace(value=event.value[: len(event.value) // 2]))
            counts.malformed += 1
        for event in self._some(_ANONYMOUS):
            visitor = f"visitor-{self.messages}"
            view = {"event": "Product Viewed", "properties": {"product_id": "p-1"}}
            self._beside(visitor, event.recorded_at, {"type": "track", "anonymousId": visitor, **view})
            counts.anonymous += 1
        for event in self._some(_PAGES):
            user_id = event.key.decode()
            self._beside(user_id, event.recorded_at, {"type": "page", "userId": user_id, "name": "Home"})
            counts.pages += 1
        for event in self._some(_UNKNOWN):
            user_id = event.key.decode()
            self._beside(user_id, event.recorded_at, {"type": "track", "userId": user_id, "event": "Banner Hovered"})
            counts.unknown += 1

    def _beside(self, key: str, at: int, call: dict[str, object]) -> None:
        self.messages += 1
        value = orjson.dumps({"messageId": f"{self.seed}-{self.messages}", "timestamp": rfc3339(at), **call})
        self.out.append(HistoryRecord(_CLICKSTREAM, key.encode(), at, value))

    def _some(self, share: float) -> list[HistoryRecord]:
        return self.random.sample(self.out[: self.today], self._number(share))

    def _number(self, share: float) -> int:
        """Draw a whole number of the day's events whose mean is the share of them."""
        return min(int(share * self.today + self.random.random()), self.today)


def _decimal(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
