"""A day of the customers: what they do is drawn at once for all of them, as arrays."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from worker.recall.days import HOUR_MS, MINUTE_MS
from worker.simulate.catalog import ARRIVALS, CATEGORIES, PER_CATEGORY, Catalog, Week
from worker.simulate.draws import Floats, pairs, uniforms
from worker.simulate.parameters import DRIFTING, FADING, GIVEN, GONE, HUNTER, RECOVERABLE, RETURNING, Effects
from worker.simulate.people import (
    BETWEEN_SALES_ORDER,
    CART_MAX,
    FADED_AFTER,
    FOREVER,
    Bools,
    Ints,
    People,
    drawn,
    turned,
)

SECOND_MS: Final = 1000
(
    SIGN_IN,
    CHECK_IN,
    SEARCH,
    NEW_ARRIVALS,
    VIEW,
    NEW_VIEW,
    WISH,
    INSTALL,
    UNINSTALL,
    ADD,
    REMOVE,
    CART_VIEW,
    COUPON,
    CHECKOUT,
    ORDER,
    CANCEL,
    REFUND,
) = range(17)
CART_FROM, ORDERS_FROM = ADD, ORDER
"""Kinds before the first lie on clickstream, before the second on cart, then on orders."""

# Slots of a day's draws; those of products looked at come after.
_PRESENCE, _SESSION, _BASKET, _ORDER, _AFTER, _BACK, _START, _CART, _APP, _RESTORED = range(10)
_VIEWS: Final = 64
_VIEW_SLOTS: Final = 4
# Numbers of a day's events of a customer; those of products looked at come after.
_SEQ_PRODUCTS: Final = 32
_SEQ_OF_PRODUCT: Final = 8
SEQ_BITS: Final = 10
_VIEWS_MAX: Final = 14
_PIECES_MAX: Final = 6
REMOVED: Final = 0.2
"""Share of the visits without order after which the last piece is taken out of the cart."""
FIRST_HOUR, HOURS = 7, 15
SHIPPING_CENTS: Final = 490
FREE_SHIPPING_CENTS: Final = 5000
SHOP_COUPON_PERCENT: Final = 20
NO_TOUCH: Final = -1


class Rows(NamedTuple):
    """The day's events in the order of time; `at` in ms since midnight of the shop, `user` the place among the people."""

    at: Ints
    user: Ints
    kind: Ints
    seq: Ints
    """Tells a customer's events of a day apart, the same whatever else happens."""
    product: Ints
    cents: Ints
    """The product's price, or what is given back."""
    order: Ints
    """Of orders and what belongs to them, the place among the day's orders; of refunds, the order's number."""


class Orders(NamedTuple):
    """The day's orders; money in cents."""

    user: Ints
    number: Ints
    """The how manieth of the customer, from 1."""
    at: Ints
    goods: Ints
    discount: Ints
    shipping: Ints
    cost: Ints
    """What the goods cost the shop."""
    percent: Ints
    """Of the coupon; 0 for none, or for an amount."""
    touch: Ints
    """The touch whose coupon was used; -1 for none."""
    lines: Ints
    """Products by place."""
    pieces: Ints
    cancelled: Bools
    points: Ints
    """The customer's balance afterwards."""

    @property
    def revenue(self) -> Ints:
        """Net of discount, without shipping."""
        return self.goods - self.discount


class Happened(NamedTuple):
    """A day."""

    rows: Rows
    orders: Orders
    refunds: Rows
    """Those of the rows that are refunds."""
    refund_cost: Ints
    seen: Bools
    """Who was there."""
    start: Ints
    """When a visit would begin, of everyone."""
    answered: Ints
    """Who visited because of a touch."""


class Today(NamedTuple):
    """What holds for all on a day."""

    season: float
    sale: bool


def live(people: People, day: int, today: Today, catalog: Catalog, effects: Effects) -> Happened:
    """Let the people live a day; they are changed by it."""
    week = catalog.week(day // 7)
    sign_in, check_in, shop, new, cart, conversion = _habits(people, day, today)
    came_by_touch = (people.visit_on == day) & (day < people.left)
    first = people.joined == day
    first &= day > 0
    u_sign, u_check = pairs(people.base, day, _PRESENCE)
    u_shop, u_size = pairs(people.base, day, _SESSION)
    signs, checks = u_sign < sign_in, u_check < check_in
    shops = (u_shop < shop) | came_by_touch | first
    seen = signs | checks | shops
    parts = _Parts()
    start = ((FIRST_HOUR + HOURS * uniforms(people.base, day, _START)) * HOUR_MS).astype(np.int64)
    signers, checkers = np.flatnonzero(signs), np.flatnonzero(checks)
    parts.add(signers, start[signers], SIGN_IN, 0)
    parts.add(checkers, start[checkers] + 2 * SECOND_MS, CHECK_IN, 1)
    shoppers = np.flatnonzero(shops)
    orders = _shop(
        people,
        day,
        shoppers,
        start[shoppers] + 5 * SECOND_MS,
        u_size,
        new,
        cart,
        conversion,
        today=today,
        week=week,
        catalog=catalog,
        effects=effects,
        parts=parts,
        must=first,
    )
    refunds, refund_cost = _give_back(people, day, parts)
    _remove_apps(people, day, parts)
    answered = np.flatnonzero(came_by_touch)
    _answer(people, day, answered, start, parts)
    rows = parts.rows()
    return Happened(rows, orders, refunds, refund_cost, seen, start, answered)


def _habits(people: People, day: int, today: Today) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """Return probabilities of sign-in, check-in, shopping; of new arrival, cart; of an order by shopping visit."""
    given, kind = GIVEN.habits, people.type
    active = given.active
    n = len(people)
    level = people.engagement.copy()
    fallen = turned(people, day)
    drifting = np.flatnonzero(fallen & (kind == DRIFTING))
    level[drifting] *= 0.5 ** ((day - people.turn[drifting]) / GIVEN.life.half_life_days)
    away = fallen & ((kind == GONE) | (kind == RECOVERABLE) | (kind == RETURNING))
    level[away | (day < people.joined) | (day >= people.left)] = 0.0
    sign_in, check_in, shop = level * active.sign_in, level * active.check_in, level * active.shop
    new, cart = np.full(n, active.new_arrival), np.full(n, active.cart)
    conversion = people.conversion.copy()
    fading = np.flatnonzero(fallen & (kind == FADING))
    if len(fading):
        since = day - people.turn[fading]
        own = level[fading]
        # The article's signals: from daily to weekly within two weeks; then less and less.
        sign_in[fading] = own * np.where(since < FADED_AFTER, np.maximum(active.sign_in - 0.05 * since, 1 / 7), 0.02)
        check_in[fading] = own * np.where(since < 28, 0.05, np.where(since < FADED_AFTER, 0.01, 0.0))
        shop[fading] = own * np.where(since < 28, active.shop, np.where(since < FADED_AFTER, 0.1, 0.01))
        # With the orders that still come, cart additions are 30% of what they were.
        new[fading], cart[fading] = 0.0, 0.2 * active.cart
        conversion[fading] *= np.where(since < 28, 0.6, 0.0)
    hunters = np.flatnonzero(kind == HUNTER)
    habits = given.sale if today.sale else given.between_sales
    own = level[hunters]
    sign_in[hunters], check_in[hunters], shop[hunters] = own * habits.sign_in, own * habits.check_in, own * habits.shop
    new[hunters], cart[hunters] = habits.new_arrival, habits.cart
    if not today.sale:
        conversion[hunters] *= BETWEEN_SALES_ORDER
    lately = np.maximum(day - people.ordered, 0)
    conversion *= 1 - GIVEN.orders.dip * np.exp(-lately / GIVEN.orders.dip_days)
    shop *= today.season
    sign_in = np.minimum(sign_in, 0.97)
    return sign_in, check_in, shop, new, cart, conversion


def _shop(
    people: People,
    day: int,
    who: Ints,
    start: Ints,
    u_size: Floats,
    new: Floats,
    cart: Floats,
    conversion: Floats,
    *,
    today: Today,
    week: Week,
    catalog: Catalog,
    effects: Effects,
    parts: _Parts,
    must: Bools,
) -> Orders:
    """Let customers look at products, fill their carts and order."""
    base = people.base[who]
    u_kept, u_removed = pairs(base, day, _CART)
    people.in_cart[who[u_kept >= GIVEN.orders.cart_kept]] = 0
    u_order, u_coupon = pairs(base, day, _ORDER)
    chance = conversion[who]
    touched = (people.visit_on[who] == day) & (day < people.left[who])
    chance = np.where(touched, np.maximum(chance, people.visit_order[who]), chance)
    orders = (u_order < chance) | must[who]
    pieces = people.pieces[who]
    basket = 1 + np.floor(np.log(uniforms(base, day, _BASKET)) / np.log(pieces / (1 + pieces))).astype(np.int64)
    basket = np.minimum(basket, _PIECES_MAX)
    looks = 2 + np.minimum(-2 * np.log1p(-u_size[who]), _VIEWS_MAX - 4).astype(np.int64)
    looks = np.where(orders, np.maximum(looks, basket), looks)
    # By product looked at.
    total = int(looks.sum())
    session = np.repeat(np.arange(len(who)), looks)
    begins = np.cumsum(looks) - looks
    place = np.arange(total) - begins[session]
    viewer = who[session]
    view_base = base[session]
    slot = (_VIEWS + _VIEW_SLOTS * place).astype(np.uint64)
    u_gap, u_new = pairs(view_base, day, slot)
    u_home, u_which = pairs(view_base, day, slot + np.uint64(1))
    u_cart, u_beside = pairs(view_base, day, slot + np.uint64(2))
    gaps = np.cumsum((5 * SECOND_MS + 55 * SECOND_MS * u_gap).astype(np.int64))
    before = np.concatenate(([0], gaps))[begins]
    at = start[session] + gaps - before[session]
    is_new = u_new < new[viewer]
    at_home = u_home < 0.7
    elsewhere = np.minimum((u_home - 0.7) / 0.3 * len(CATEGORIES), len(CATEGORIES) - 1).astype(np.int64) * PER_CATEGORY
    rank = (np.clip(people.taste[viewer] + 0.5 * (u_which - 0.5), 0, 0.999) * PER_CATEGORY).astype(np.int64)
    product = np.where(at_home, people.home[viewer], elsewhere) + rank
    product = np.where(is_new, week.arrivals[(u_which * ARRIVALS).astype(np.int64)], product)
    price = week.price[product]
    seq = _SEQ_PRODUCTS + _SEQ_OF_PRODUCT * place
    parts.add(viewer, at, np.where(is_new, NEW_VIEW, VIEW), seq, product, price)
    some = np.flatnonzero(u_beside < 0.1)
    parts.add(viewer[some], at[some] - 2 * SECOND_MS, SEARCH, seq[some] + 1)
    some = np.flatnonzero(is_new & (u_beside > 0.7))
    parts.add(viewer[some], at[some] - SECOND_MS, NEW_ARRIVALS, seq[some] + 2)
    adds = np.where(orders[session], place < basket[session], u_cart < cart[viewer]) & week.stocked[product]
    some = np.flatnonzero(~adds & (u_cart > 0.95))
    parts.add(viewer[some], at[some] + 3 * SECOND_MS, WISH, seq[some] + 3, product[some], price[some])
    running = np.cumsum(adds)
    rank_in_cart = running - np.concatenate(([0], running))[begins][session] - 1 + people.in_cart[viewer]
    some = np.flatnonzero(adds & (rank_in_cart < CART_MAX))
    people.cart[viewer[some], rank_in_cart[some]] = product[some]
    people.in_cart += np.bincount(viewer[some], minlength=len(people))
    parts.add(viewer[some], at[some] + 3 * SECOND_MS, ADD, seq[some] + 4, product[some], price[some])
    ends = at[begins + looks - 1] + 10 * SECOND_MS if total else start
    filled = people.in_cart[who] > 0
    buying = np.flatnonzero(orders & filled)
    leaving = np.flatnonzero(~orders & filled & (u_removed < REMOVED))
    _take_out(people, who[leaving], ends[leaving], week, parts)
    return _order(people, day, who[buying], ends[buying], u_coupon[buying], today, week, catalog, effects, parts)


def _take_out(people: People, who: Ints, at: Ints, week: Week, parts: _Parts) -> None:
    people.in_cart[who] -= 1
    product = people.cart[who, people.in_cart[who]]
    parts.add(who, at, REMOVE, 2, product, week.price[product])


def _order(
    people: People,
    day: int,
    who: Ints,
    at: Ints,
    u_coupon: Floats,
    today: Today,
    week: Week,
    catalog: Catalog,
    effects: Effects,
    parts: _Parts,
) -> Orders:
    base, kind = people.base[who], people.type[who]
    pieces, lines = people.in_cart[who], people.cart[who]
    held = np.arange(CART_MAX) < pieces[:, None]
    goods = np.where(held, week.price[lines], 0).sum(axis=1)
    cost = np.where(held, catalog.cost[lines], 0).sum(axis=1)
    of_touch = (people.coupon_until[who] >= day) & (u_coupon < effects.type_redeem[kind])
    in_sale = today.sale & (kind == HUNTER)
    habits = GIVEN.habits
    of_shop = ~of_touch & (u_coupon < np.where(in_sale, habits.coupon_in_sale, habits.coupon_else))
    percent = np.where(of_touch, people.coupon_percent[who], np.where(of_shop, SHOP_COUPON_PERCENT, 0))
    amount = np.where(of_touch, people.coupon_cents[who], 0)
    discount = np.minimum(goods * percent // 100 + amount, goods)
    touch = np.where(of_touch, people.coupon_touch[who], NO_TOUCH)
    people.coupon_until[who[of_touch]] = -1
    people.orders[who] += 1
    people.in_cart[who] = 0
    people.ordered[who] = day
    number = people.orders[who]
    revenue = goods - discount
    people.points[who] += revenue // 100 * GIVEN.profiles.points
    place = np.arange(len(who))
    parts.add(who, at, CART_VIEW, 3)
    some = np.flatnonzero(of_touch | of_shop)
    parts.add(who[some], at[some] + 5 * SECOND_MS, COUPON, 4, order=place[some])
    at = at + np.where(of_touch | of_shop, 15, 10) * SECOND_MS
    parts.add(who, at, CHECKOUT, 5, order=place)
    at = at + 45 * SECOND_MS
    parts.add(who, at, ORDER, 6, order=place)
    luck, u_when = pairs(base, day, _AFTER)
    cancelled = luck < habits.cancelled
    some = np.flatnonzero(cancelled)
    parts.add(
        who[some], at[some] + ((5 + 25 * u_when[some]) * MINUTE_MS).astype(np.int64), CANCEL, 7, order=place[some]
    )
    back = np.flatnonzero(~cancelled & (luck < habits.cancelled + habits.refunded) & (people.refund_on[who] < day))
    returned = who[back]
    u_whole, _ = pairs(base[back], day, _BACK)
    share = np.where(u_whole < 0.5, 1, 2)
    people.refund_on[returned] = day + drawn(u_when[back], (3, 11))
    people.refund_order[returned] = number[back]
    people.refund_cents[returned] = revenue[back] // share
    people.refund_cost[returned] = cost[back] // share
    return Orders(
        user=who,
        number=number,
        at=at,
        goods=goods,
        discount=discount,
        shipping=np.where(goods < FREE_SHIPPING_CENTS, SHIPPING_CENTS, 0),
        cost=cost,
        percent=percent,
        touch=touch,
        lines=lines,
        pieces=pieces,
        cancelled=cancelled,
        points=people.points[who],
    )


def _give_back(people: People, day: int, parts: _Parts) -> tuple[Rows, Ints]:
    who = np.flatnonzero(people.refund_on == day)
    at = ((9 + 9 * uniforms(people.base[who], day, _BACK)) * HOUR_MS).astype(np.int64)
    parts.add(who, at, REFUND, 8, cents=people.refund_cents[who], order=people.refund_order[who])
    return parts.last(), people.refund_cost[who]


def _remove_apps(people: People, day: int, parts: _Parts) -> None:
    who = np.flatnonzero((people.removes_app == day) & people.app)
    at = ((9 + 12 * uniforms(people.base[who], day, _APP)) * HOUR_MS).astype(np.int64)
    parts.add(who, at, UNINSTALL, 9)
    people.app[who] = False


def _answer(people: People, day: int, who: Ints, start: Ints, parts: _Parts) -> None:
    """Note who came because of a touch, and let those whom it restores take up the old habit."""
    people.answered[who], people.answered_on[who] = people.visit_touch[who], day
    back = who[people.restores[who]]
    people.turn[back] = day + drawn(uniforms(people.base[back], day, _RESTORED), GIVEN.response.restored_days)
    returning = people.type[back] == RETURNING
    people.back[back] = np.where(returning, people.turn[back] + GIVEN.life.absence_days[1], FOREVER)
    people.removes_app[back] = FOREVER
    again = back[~people.app[back]]
    parts.add(again, start[again] - SECOND_MS, INSTALL, 10)
    people.app[again] = True
    people.restores[who] = False
    people.visit_on[who] = -1


class _Parts:
    """The day's events as they come, by groups."""

    def __init__(self) -> None:
        self._parts: list[Rows] = []

    def add(
        self,
        user: Ints,
        at: Ints,
        kind: int | Ints,
        seq: int | Ints,
        product: int | Ints = 0,
        cents: int | Ints = 0,
        order: int | Ints = 0,
    ) -> None:
        columns = (np.broadcast_to(np.asarray(c, np.int64), user.shape) for c in (kind, seq, product, cents, order))
        self._parts.append(Rows(at, user, *columns))

    def last(self) -> Rows:
        return self._parts[-1]

    def rows(self) -> Rows:
        """Return all in the order of time, of customers at the same time, of their numbers within the day."""
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        rows = Rows(*columns)
        order = np.argsort((rows.at << 36) | (rows.user << SEQ_BITS) | rows.seq)
        return Rows(*(column[order] for column in rows))
