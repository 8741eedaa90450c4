"""Days of the shop as records of the topics, with what real streams have beside events.

What is put beside an event is drawn for the event, so it is the same whatever other customers do.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from schemas.values import rfc3339
from worker.recall.days import HOUR_MS, MINUTE_MS
from worker.simulate import behaviour as act
from worker.simulate.behaviour import CART_FROM, ORDERS_FROM, Orders
from worker.simulate.catalog import CATEGORIES, PER_CATEGORY, PRODUCTS, STOCK, Week
from worker.simulate.draws import pairs
from worker.simulate.parameters import CHANNELS, GIVEN
from worker.simulate.people import profile
from worker.simulate.responses import actual_cost
from worker.simulate.shop import CURRENCY, DAYS, Answer, Day, Shop
from worker.sources.history import HistoryRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CLICKSTREAM, _CART, _ORDERS = "clickstream", "cart", "orders"
_ODDITY_SLOTS: Final = 1 << 24
_LATE_MS: Final = 12 * HOUR_MS
_JOINED_MS: Final = 6 * HOUR_MS
_WEEK: Final = 7

_FIXED: Final = {
    act.SIGN_IN: '"Signed In","properties":{}',
    act.CHECK_IN: '"Checked In","properties":{}',
    act.SEARCH: '"Products Searched","properties":{"query":"gift"}',
    act.NEW_ARRIVALS: '"Product List Viewed","properties":{"list_id":"new-arrivals"}',
    act.INSTALL: '"Application Installed","properties":{}',
    act.UNINSTALL: '"Application Uninstalled","properties":{}',
    act.CART_VIEW: '"Cart Viewed","properties":{}',
}
_OF_PRODUCT: Final = {
    act.VIEW: ("Product Viewed", ""),
    act.NEW_VIEW: ("Product Viewed", ',"new_arrival":true'),
    act.WISH: ("Product Added to Wishlist", ""),
    act.ADD: ("Product Added", ',"quantity":1'),
    act.REMOVE: ("Product Removed", ',"quantity":1'),
}


@dataclass(slots=True)
class Oddities:
    """What the simulator has put into the stream so far, by what a reader has to make of it.

    records = profiles + catalog + feedback + events + duplicates + anonymous + pages + unknown + malformed; the late
    are among the events (their timestamp lies up to twelve hours before they were recorded).
    """

    records: int = 0
    profiles: int = 0
    catalog: int = 0
    feedback: int = 0
    events: int = 0
    late: int = 0
    duplicates: int = 0
    anonymous: int = 0
    pages: int = 0
    unknown: int = 0
    malformed: int = 0


# One number an event decides which of these it is, or has beside it.
_NAMES: Final = ("late", "duplicates", "anonymous", "pages", "unknown", "malformed")
_BOUNDS: Final = np.cumsum([getattr(GIVEN.oddities, name) for name in _NAMES])


class Recorder:
    """Makes records of the days of a shop, one after the other."""

    def __init__(self, shop: Shop, oddities: Oddities, *, catalog: bool = True) -> None:
        self._shop = shop
        self._tells_catalog = catalog
        self._oddities = oddities
        people = shop.people
        names = [f"user-{number}" for number in people.number.tolist()]
        self._keys = [name.encode() for name in names]
        zones = [GIVEN.profiles.timezones[zone] for zone in people.timezone.tolist()]
        # An event is this, its number, then the rest of the head, its time, what it is, and the tail.
        self._ids = [f'{{"type":"track","messageId":"{shop.seed}-{number}-' for number in people.number.tolist()]
        self._heads = [f'","userId":"{name}","timestamp":"' for name in names]
        self._tails = [f',"context":{{"timezone":"{zone}"}}}}' for zone in zones]
        self._names = names
        self._week = -1
        self._events: dict[int, list[str]] = {}
        self._items: list[str] = []
        self._year = 0

    def of(self, day: Day) -> list[HistoryRecord]:
        """Return a day's records in the order of time."""
        if day.number // _WEEK != self._week:
            self._turn_week(day.number // _WEEK)
        out = self._catalog(day) if self._tells_catalog and day.number % _WEEK == 0 else []
        out += self._profiles(day)
        events = self._track(day)
        out += events
        self._oddities.events += len(events)
        self._add_oddities(day, events, out)
        out += (self._answer(day, answer) for answer in day.answers)
        out.sort(key=attrgetter("recorded_at"))
        self._oddities.records += len(out)
        return out

    # -- events --------------------------------------------------------------------------------------------------------

    def _turn_week(self, number: int) -> None:
        self._week = number
        prices = self._shop.catalog.week(number).price.tolist()
        self._items = [
            f'"product_id":"p-{n}","category":"{CATEGORIES[n // PER_CATEGORY]}","price":"{_decimal(prices[n])}"'
            for n in range(PRODUCTS)
        ]
        self._events = {
            kind: [f'"{name}","properties":{{{item}{more}}}' for item in self._items]
            for kind, (name, more) in _OF_PRODUCT.items()
        }

    def _track(self, day: Day) -> list[HistoryRecord]:
        rows, orders, midnight, number = day.happened.rows, day.happened.orders, day.midnight, day.number
        ids, heads, tails, keys, events = self._ids, self._heads, self._tails, self._keys, self._events
        told = np.datetime_as_string((rows.at + midnight).astype("datetime64[ms]"), unit="ms").tolist()
        out = []
        for at, user, kind, seq, product, cents, order, time in zip(
            rows.at.tolist(),
            rows.user.tolist(),
            rows.kind.tolist(),
            rows.seq.tolist(),
            rows.product.tolist(),
            rows.cents.tolist(),
            rows.order.tolist(),
            told,
            strict=True,
        ):
            if kind in events:
                event = events[kind][product]
            elif kind in _FIXED:
                event = _FIXED[kind]
            else:
                event = self._of_order(kind, user, orders, order, cents)
            topic = _CLICKSTREAM if kind < CART_FROM else _CART if kind < ORDERS_FROM else _ORDERS
            value = f'{ids[user]}{number}-{seq}{heads[user]}{time}Z","event":{event}{tails[user]}'
            out.append(HistoryRecord(topic, keys[user], midnight + at, value.encode()))
        return out

    def _of_order(self, kind: int, user: int, orders: Orders, order: int, cents: int) -> str:
        if kind == act.REFUND:
            return (
                f'"Order Refunded","properties":{{"order_id":"{self._names[user]}-{order}",'
                f'"total":"{_decimal(cents)}","currency":"{CURRENCY}"}}'
            )
        order_id = f"{self._names[user]}-{orders.number[order]}"
        if kind == act.CANCEL:
            return f'"Order Cancelled","properties":{{"order_id":"{order_id}"}}'
        coupon = self._coupon(int(orders.touch[order]), int(orders.percent[order]))
        if kind == act.COUPON:
            return f'"Coupon Applied","properties":{{"order_id":"{order_id}","coupon_id":"{coupon}"}}'
        goods, discount, shipping = int(orders.goods[order]), int(orders.discount[order]), int(orders.shipping[order])
        value = _decimal(goods - discount)
        if kind == act.CHECKOUT:
            return f'"Checkout Started","properties":{{"order_id":"{order_id}","value":"{value}"}}'
        lines = orders.lines[order, : orders.pieces[order]].tolist()
        products = ",".join(f'{{{self._items[product]},"quantity":1}}' for product in lines)
        used = f'"coupon":"{coupon}",' if coupon else ""
        return (
            f'"Order Completed","properties":{{"order_id":"{order_id}","revenue":"{value}",'
            f'"total":"{_decimal(goods - discount + shipping)}","shipping":"{_decimal(shipping)}",'
            f'"discount":"{_decimal(discount)}",{used}"currency":"{CURRENCY}","products":[{products}]}}'
        )

    def _coupon(self, touch: int, percent: int) -> str:
        """Return a coupon's id: the command that gave it, or the percent that the shop itself gives."""
        if touch >= 0:
            return self._shop.touches[touch].command_id
        return str(percent) if percent else ""

    # -- beside events -------------------------------------------------------------------------------------------------

    def _add_oddities(self, day: Day, events: list[HistoryRecord], out: list[HistoryRecord]) -> None:
        rows, counts = day.happened.rows, self._oddities
        base = self._shop.people.base[rows.user]
        chosen, more = pairs(base, day.number, (_ODDITY_SLOTS + rows.seq).astype(np.uint64))
        begin = len(out) - len(events)
        # Who comes late follows something of the customer's that did not: so records do not change places with the
        # midnight before them, and a history merges whole as it did day by day.
        clicks = np.flatnonzero(rows.kind < CART_FROM)
        punctual = set(clicks[np.unique(rows.user[clicks], return_index=True)[1]].tolist())
        for i in np.flatnonzero(chosen < _BOUNDS[-1]).tolist():
            event, name = events[i], _NAMES[int(np.searchsorted(_BOUNDS, chosen[i], side="right"))]
            at, place = event.recorded_at, int(rows.user[i])
            where = f"{self._shop.seed}-{self._shop.people.number[place]}-{day.number}-{rows.seq[i]}-{name}"
            match name:
                case "late":
                    if event.topic != _CLICKSTREAM or i in punctual:
                        continue
                    earlier = at - int(MINUTE_MS + (_LATE_MS - MINUTE_MS) * more[i])
                    told, meant = rfc3339(at).encode(), rfc3339(earlier).encode()
                    out[begin + i] = event._replace(value=event.value.replace(told, meant))
                case "duplicates":
                    out.append(event._replace(recorded_at=at + 1 + int(MINUTE_MS * more[i])))
                case "malformed":
                    out.append(event._replace(value=event.value[: len(event.value) // 2]))
                case "anonymous":
                    visitor = f"visitor-{where}"
                    view = {"event": "Product Viewed", "properties": {"product_id": "p-1"}}
                    out.append(_beside(where, visitor, at, {"type": "track", "anonymousId": visitor, **view}))
                case "pages":
                    user = self._names[place]
                    out.append(_beside(where, user, at, {"type": "page", "userId": user, "name": "Home"}))
                case _:
                    user = self._names[place]
                    hovered = {"event": "Banner Hovered"}
                    out.append(_beside(where, user, at, {"type": "track", "userId": user, **hovered}))
            setattr(counts, name, getattr(counts, name) + 1)

    def _answer(self, day: Day, answer: Answer) -> HistoryRecord:
        """Return feedback on a touch."""
        place, at, number, status, cents = answer
        self._oddities.feedback += 1
        touch = self._shop.touches[number]
        value: dict[str, Any] = {
            "type": "feedback",
            "messageId": f"{touch.command_id}-{status}",
            "userId": self._names[place],
            "timestamp": rfc3339(day.midnight + at),
            "command_id": touch.command_id,
            "status": status,
            "channel": touch.channel,
        }
        if status == "delivered":
            value |= {"actual_cost": actual_cost(CHANNELS.index(touch.channel)), "currency": CURRENCY}
        elif cents:
            value |= {"actual_cost": _decimal(cents), "currency": CURRENCY}
        return HistoryRecord("feedback", self._keys[place], day.midnight + at, orjson.dumps(value))

    def _profiles(self, day: Day) -> Iterator[HistoryRecord]:
        people = self._shop.people
        for place in np.flatnonzero(people.joined == day.number).tolist():
            # Just before the first that the customer does.
            at = _JOINED_MS + int(people.number[place]) % HOUR_MS
            yield self._profile(day, place, at, "joined", profile(people, place))
        expire = rfc3339(DAYS.start(DAYS.number(DAYS.date(DAYS.of(day.midnight)).replace(month=12, day=31)) + 1))
        orders = day.happened.orders
        for i, (place, at) in enumerate(zip(orders.user.tolist(), orders.at.tolist(), strict=True)):
            balance = {"points": int(orders.points[i]), "points_expire_at": expire}
            yield self._profile(day, place, at + 1, "points", balance)
        for place, at in day.complaints:
            yield self._profile(day, place, at, "complaint", {"opt_out_messages": True})

    def _profile(self, day: Day, place: int, at: int, why: str, changes: dict[str, Any]) -> HistoryRecord:
        self._oddities.profiles += 1
        envelope = {
            "type": "profile",
            "messageId": f"{self._shop.seed}-{self._shop.people.number[place]}-{day.number}-{why}",
            "userId": self._names[place],
            "timestamp": rfc3339(day.midnight + at),
        }
        return HistoryRecord("profiles", self._keys[place], day.midnight + at, orjson.dumps(envelope | changes))

    def _catalog(self, day: Day) -> list[HistoryRecord]:
        """Return what the week changes of the catalogue, in force from its first midnight on."""
        catalog = self._shop.catalog
        number = day.number // _WEEK
        week = catalog.week(number)
        changed = catalog.changed(number).tolist()
        self._oddities.catalog += len(changed)
        return [self._product(day, week, product, new=product in week.arrivals) for product in changed]

    def _product(self, day: Day, week: Week, product: int, *, new: bool) -> HistoryRecord:
        price = int(week.price[product])
        margin = price - int(self._shop.catalog.cost[product])
        value: dict[str, Any] = {
            "product_id": f"p-{product}",
            "effective_at": rfc3339(day.midnight),
            "price": _decimal(price),
            "currency": CURRENCY,
            "category": CATEGORIES[product // PER_CATEGORY],
            "margin": f"-{_decimal(-margin)}" if margin < 0 else _decimal(margin),
            "stock": STOCK if week.stocked[product] else 0,
        }
        if new:
            value["arrived_at"] = rfc3339(day.midnight)
        return HistoryRecord("catalog", value["product_id"].encode(), day.midnight, orjson.dumps(value))


def _beside(message_id: str, key: str, at: int, call: Mapping[str, object]) -> HistoryRecord:
    value = orjson.dumps({"messageId": message_id, "timestamp": rfc3339(at), **call})
    return HistoryRecord(_CLICKSTREAM, key.encode(), at, value)


def _decimal(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
