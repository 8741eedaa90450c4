"""A day of the customers: what they do is drawn at once for all of them, as arrays."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from worker.recall.days import HOUR_MS, MINUTE_MS
from worker.simulate.catalog import ARRIVALS, CATEGORIES, PER_CATEGORY, Catalog, Week
from worker.simulate.draws import Floats, Words, pairs, uniforms
from worker.simulate.parameters import DRIFTING, FADING, GIVEN, GONE, HUNTER, RECOVERABLE, RETURNING, Effects, cents
from worker.simulate.people import (
    CART_MAX,
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
_LOOKS: Final = 64
_SLOTS_A_LOOK: Final = 4
# Numbers of a day's events of a customer; those of products looked at come after.
_SEQ_PRODUCTS: Final = 32
_SEQ_A_LOOK: Final = 8
SEQ_BITS: Final = 10
NO_TOUCH: Final = -1


class Rows(NamedTuple):
    """The day's events in the order of time: `at` in ms since the midnight, `user` the place among the people."""

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

    day: int
    season: float
    sale: bool
    week: Week
    catalog: Catalog


class Habits(NamedTuple):
    """By customer, probabilities of a day, of a product looked at, and of an order by shopping visit."""

    sign_in: Floats
    check_in: Floats
    shop: Floats
    new_arrival: Floats
    cart: Floats
    order: Floats


class _Visits(NamedTuple):
    """Shopping visits."""

    who: Ints
    start: Ints
    base: Words
    orders: Bools
    """The visit is to end in an order."""
    basket: Ints
    """Pieces to be put in, where it is."""
    looks: Ints
    begins: Ints
    """Place of the first product looked at, among those of all visits."""


class _Looks(NamedTuple):
    """Products looked at, one visit after the other."""

    visit: Ints
    place: Ints
    """From 0 within the visit."""
    viewer: Ints
    at: Ints
    product: Ints
    seq: Ints
    u_cart: Floats


def live(people: People, today: Today, effects: Effects) -> Happened:
    """Let the people live a day; they are changed by it."""
    day = today.day
    habits = habits_of(people, today)
    came_by_touch = (people.visit_on == day) & (day < people.left)
    first = (people.joined == day) & (day > 0)
    u_sign, u_check = pairs(people.base, day, _PRESENCE)
    u_shop, u_size = pairs(people.base, day, _SESSION)
    signs, checks = u_sign < habits.sign_in, u_check < habits.check_in
    shops = (u_shop < habits.shop) | came_by_touch | first
    parts = _Parts()
    from_hour, to_hour = GIVEN.browsing.hours
    hour = from_hour + (to_hour - from_hour) * uniforms(people.base, day, _START)
    start = (hour * HOUR_MS).astype(np.int64)
    signers, checkers, shoppers = (np.flatnonzero(which) for which in (signs, checks, shops))
    parts.add(signers, start[signers], SIGN_IN, 0)
    parts.add(checkers, start[checkers] + 2 * SECOND_MS, CHECK_IN, 1)
    chance = np.where(came_by_touch, np.maximum(habits.order, people.visit_order), habits.order)
    chance[first] = 1.0
    visits = _visits(people, day, shoppers, start[shoppers] + 5 * SECOND_MS, u_size[shoppers], chance[shoppers])
    looks = _look(people, today, visits, habits, parts)
    _fill(people, today, visits, looks, habits, parts)
    orders = _leave(people, today, visits, looks, effects, parts)
    refunds, refund_cost = _give_back(people, day, parts)
    _remove_apps(people, day, parts)
    answered = np.flatnonzero(came_by_touch)
    _answer(people, day, answered, start, parts)
    return Happened(parts.rows(), orders, refunds, refund_cost, signs | checks | shops, start, answered)


def habits_of(people: People, today: Today) -> Habits:
    """Return what the customers are like to do on a day."""
    given, kind, day = GIVEN.habits, people.type, today.day
    active = given.active
    n = len(people)
    level = people.engagement.copy()
    fallen = turned(people, day)
    drifting = np.flatnonzero(fallen & (kind == DRIFTING))
    level[drifting] *= 0.5 ** ((day - people.turn[drifting]) / GIVEN.life.half_life_days)
    away = fallen & ((kind == GONE) | (kind == RECOVERABLE) | (kind == RETURNING))
    level[away | (day < people.joined) | (day >= people.left)] = 0.0
    habits = Habits(
        sign_in=level * active.sign_in,
        check_in=level * active.check_in,
        shop=level * active.shop,
        new_arrival=np.full(n, active.new_arrival),
        cart=np.full(n, active.cart),
        order=people.conversion.copy(),
    )
    _fade(people, day, np.flatnonzero(fallen & (kind == FADING)), level, habits)
    hunters = np.flatnonzero(kind == HUNTER)
    own, hunting = level[hunters], given.sale if today.sale else given.between_sales
    habits.sign_in[hunters] = own * hunting.sign_in
    habits.check_in[hunters] = own * hunting.check_in
    habits.shop[hunters] = own * hunting.shop
    habits.new_arrival[hunters], habits.cart[hunters] = hunting.new_arrival, hunting.cart
    if not today.sale:
        habits.order[hunters] *= given.between_sales_order
    habits.order[:] *= 1 - GIVEN.orders.dip * np.exp(-np.maximum(day - people.ordered, 0) / GIVEN.orders.dip_days)
    habits.shop[:] *= today.season
    return habits


def _fade(people: People, day: int, who: Ints, level: Floats, habits: Habits) -> None:
    """Let the habits of the fading be what they have become: first the signals, then no orders, then nothing."""
    active, fading = GIVEN.habits.active, GIVEN.habits.fading
    since, own = day - people.turn[who], level[who]
    ordering, faded = since < fading.orders_days, since >= fading.days
    sign_in = np.maximum(active.sign_in - fading.sign_in_falls * since, 1 / 7)
    habits.sign_in[who] = own * np.where(faded, fading.after.sign_in, sign_in)
    habits.check_in[who] = own * np.where(faded, fading.after.check_in, np.where(ordering, *fading.check_in))
    habits.shop[who] = own * np.where(faded, fading.after.shop, np.where(ordering, *fading.shop))
    habits.new_arrival[who], habits.cart[who] = 0.0, np.where(faded, fading.after.cart, fading.cart * active.cart)
    habits.order[who] *= np.where(ordering, fading.order, 0.0)


def _visits(people: People, day: int, who: Ints, start: Ints, u_size: Floats, chance: Floats) -> _Visits:
    """Draw how long the visits are, and which end in an order."""
    base, given = people.base[who], GIVEN.browsing
    u_kept, u_order = pairs(base, day, _ORDER)
    people.in_cart[who[u_kept >= GIVEN.orders.cart_kept]] = 0
    orders = u_order < chance
    pieces = people.pieces[who]
    basket = 1 + np.floor(np.log(uniforms(base, day, _BASKET)) / np.log(pieces / (1 + pieces))).astype(np.int64)
    basket = np.minimum(basket, GIVEN.orders.pieces_most)
    looks = 2 + np.minimum(-given.looks * np.log1p(-u_size), given.looks_most - 2).astype(np.int64)
    looks = np.where(orders, np.maximum(looks, basket), looks)
    return _Visits(who, start, base, orders, basket, looks, np.cumsum(looks) - looks)


def _look(people: People, today: Today, visits: _Visits, habits: Habits, parts: _Parts) -> _Looks:
    """Let customers look at products, and put some on their wish-lists."""
    given, day, week = GIVEN.browsing, today.day, today.week
    visit = np.repeat(np.arange(len(visits.who)), visits.looks)
    place = np.arange(len(visit)) - visits.begins[visit]
    viewer, base = visits.who[visit], visits.base[visit]
    slot = (_LOOKS + _SLOTS_A_LOOK * place).astype(np.uint64)
    u_gap, u_new = pairs(base, day, slot)
    u_home, u_which = pairs(base, day, slot + np.uint64(1))
    u_cart, u_beside = pairs(base, day, slot + np.uint64(2))
    shortest, longest = (seconds * SECOND_MS for seconds in given.seconds)
    gaps = np.cumsum((shortest + (longest - shortest) * u_gap).astype(np.int64))
    at = visits.start[visit] + gaps - np.concatenate(([0], gaps))[visits.begins][visit]
    is_new = u_new < habits.new_arrival[viewer]
    other = np.clip((u_home - given.at_home) / (1 - given.at_home) * len(CATEGORIES), 0, len(CATEGORIES) - 1)
    category = np.where(u_home < given.at_home, people.home[viewer], other.astype(np.int64) * PER_CATEGORY)
    rank = np.clip(people.taste[viewer] + given.taste * (u_which - 1 / 2), 0, 1 - 1 / PER_CATEGORY / 2) * PER_CATEGORY
    new_one = week.arrivals[(u_which * ARRIVALS).astype(np.int64)]
    product = np.where(is_new, new_one, category + rank.astype(np.int64))
    seq = _SEQ_PRODUCTS + _SEQ_A_LOOK * place
    parts.add(viewer, at, np.where(is_new, NEW_VIEW, VIEW), seq, product, week.price[product])
    some = np.flatnonzero(u_beside < given.search)
    parts.add(viewer[some], at[some] - 2 * SECOND_MS, SEARCH, seq[some] + 1)
    some = np.flatnonzero(is_new & (u_beside >= 1 - given.new_list))
    parts.add(viewer[some], at[some] - SECOND_MS, NEW_ARRIVALS, seq[some] + 2)
    some = np.flatnonzero(~visits.orders[visit] & (u_cart >= 1 - given.wish))
    parts.add(viewer[some], at[some] + 3 * SECOND_MS, WISH, seq[some] + 3, product[some], week.price[product[some]])
    return _Looks(visit, place, viewer, at, product, seq, u_cart)


def _fill(people: People, today: Today, visits: _Visits, looks: _Looks, habits: Habits, parts: _Parts) -> None:
    """Let customers put into the cart what is in stock, as much as it holds."""
    visit, place, viewer, at, product, seq, u_cart = looks
    adds = np.where(visits.orders[visit], place < visits.basket[visit], u_cart < habits.cart[viewer])
    adds &= today.week.stocked[product]
    running = np.cumsum(adds)
    before = np.concatenate(([0], running))[visits.begins][visit]
    spot = people.in_cart[viewer] + running - before - 1
    some = np.flatnonzero(adds & (spot < CART_MAX))
    people.cart[viewer[some], spot[some]] = product[some]
    people.in_cart += np.bincount(viewer[some], minlength=len(people))
    price = today.week.price[product[some]]
    parts.add(viewer[some], at[some] + 3 * SECOND_MS, ADD, seq[some] + 4, product[some], price)


def _leave(people: People, today: Today, visits: _Visits, looks: _Looks, effects: Effects, parts: _Parts) -> Orders:
    """End the visits: with an order, with something taken out of the cart, or just so."""
    who = visits.who
    u_coupon, u_removed = pairs(visits.base, today.day, _CART)
    ends = looks.at[visits.begins + visits.looks - 1] + 10 * SECOND_MS
    filled = people.in_cart[who] > 0
    some = np.flatnonzero(~visits.orders & filled & (u_removed < GIVEN.browsing.removed))
    _take_out(people, who[some], ends[some], today.week, parts)
    some = np.flatnonzero(visits.orders & filled)
    return _order(people, today, who[some], ends[some], u_coupon[some], effects, parts)


def _take_out(people: People, who: Ints, at: Ints, week: Week, parts: _Parts) -> None:
    people.in_cart[who] -= 1
    product = people.cart[who, people.in_cart[who]]
    parts.add(who, at, REMOVE, 2, product, week.price[product])


def _order(
    people: People, today: Today, who: Ints, at: Ints, u_coupon: Floats, effects: Effects, parts: _Parts
) -> Orders:
    """Let customers order what lies in their carts, with a coupon if they have one and care to use it."""
    day, given = today.day, GIVEN.orders
    kind = people.type[who]
    pieces, lines = people.in_cart[who], people.cart[who]
    held = np.arange(CART_MAX) < pieces[:, None]
    goods = np.where(held, today.week.price[lines], 0).sum(axis=1)
    cost = np.where(held, today.catalog.cost[lines], 0).sum(axis=1)
    of_touch = (people.coupon_until[who] >= day) & (u_coupon < effects.type_redeem[kind])
    in_sale = today.sale & (kind == HUNTER)
    habits = GIVEN.habits
    of_shop = ~of_touch & (u_coupon < np.where(in_sale, habits.coupon_in_sale, habits.coupon_else))
    percent = np.where(of_touch, people.coupon_percent[who], np.where(of_shop, given.coupon_percent, 0))
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
    cancelled = _after(people, day, who, at, number, revenue, cost, place, parts)
    return Orders(
        user=who,
        number=number,
        at=at,
        goods=goods,
        discount=discount,
        shipping=np.where(goods < cents(given.free_from), cents(given.shipping), 0),
        cost=cost,
        percent=percent,
        touch=touch,
        lines=lines,
        pieces=pieces,
        cancelled=cancelled,
        points=people.points[who],
    )


def _after(
    people: People, day: int, who: Ints, at: Ints, number: Ints, revenue: Ints, cost: Ints, place: Ints, parts: _Parts
) -> Bools:
    """Let some orders be cancelled at once, and some be refunded within days; return which were cancelled."""
    habits, given = GIVEN.habits, GIVEN.orders
    luck, u_when = pairs(people.base[who], day, _AFTER)
    cancelled = luck < habits.cancelled
    some = np.flatnonzero(cancelled)
    first, last = given.cancelled_minutes
    later = ((first + (last - first) * u_when[some]) * MINUTE_MS).astype(np.int64)
    parts.add(who[some], at[some] + later, CANCEL, 7, order=place[some])
    # One at a time: of another order meanwhile nothing comes back.
    back = np.flatnonzero(~cancelled & (luck < habits.cancelled + habits.refunded) & (people.refund_on[who] < day))
    returned = who[back]
    u_whole, _ = pairs(people.base[returned], day, _BACK)
    share = np.where(u_whole < 1 / 2, 1, 2)
    people.refund_on[returned] = day + drawn(u_when[back], given.refunded_days)
    people.refund_order[returned] = number[back]
    people.refund_cents[returned] = revenue[back] // share
    people.refund_cost[returned] = cost[back] // share
    return cancelled


def _give_back(people: People, day: int, parts: _Parts) -> tuple[Rows, Ints]:
    who = np.flatnonzero(people.refund_on == day)
    at = ((9 + 9 * uniforms(people.base[who], day, _BACK)) * HOUR_MS).astype(np.int64)
    parts.add(who, at, REFUND, 8, money=people.refund_cents[who], order=people.refund_order[who])
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
        money: int | Ints = 0,
        order: int | Ints = 0,
    ) -> None:
        columns = (np.broadcast_to(np.asarray(c, np.int64), user.shape) for c in (kind, seq, product, money, order))
        self._parts.append(Rows(at, user, *columns))

    def last(self) -> Rows:
        return self._parts[-1]

    def rows(self) -> Rows:
        """Return all in the order of time, of customers at the same time, of their numbers within the day."""
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        rows = Rows(*columns)
        order = np.argsort((rows.at << 36) | (rows.user << SEQ_BITS) | rows.seq)
        return Rows(*(column[order] for column in rows))
