"""The customers: what they are for life, and what they are just now. Arrays over customers throughout.

A `People` of some customers lives exactly as those do among all: nothing depends on the others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from worker.simulate.catalog import CATEGORIES, PER_CATEGORY
from worker.simulate.draws import FOR_LIFE, Floats, Words, bases, uniforms
from worker.simulate.parameters import (
    DRIFTING,
    FADING,
    GIVEN,
    GONE,
    HUNTER,
    RECOVERABLE,
    RETURNING,
    TYPES,
)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FOREVER: Final = 1 << 30
NEVER: Final = -FOREVER
CART_MAX: Final = 8
_TURNING: Final = (DRIFTING, FADING, GONE, RECOVERABLE, RETURNING)


@dataclass(slots=True)
class People:
    """Customers; days are counted from the start of the simulation."""

    # For life.
    number: Ints
    base: Words
    type: Ints
    joined: Ints
    engagement: Floats
    conversion: Floats
    """Orders by shopping visit while active."""
    pieces: Floats
    """Pieces in a basket beyond the first, on average."""
    taste: Floats
    """Place among the prices of a category, 0 to 1."""
    home: Ints
    """First product of the category that is looked at most."""
    timezone: Ints
    # Just now.
    turn: Ints
    """First day of drifting, fading or absence."""
    back: Ints
    """First day after an absence."""
    left: Ints
    """First day after having left for good."""
    removes_app: Ints
    """Day on which the app is removed."""
    app: Bools
    cart: Ints
    """Products, by place in the cart; as many as `in_cart` hold."""
    in_cart: Ints
    orders: Ints
    ordered: Ints
    """Day of the last order."""
    refund_on: Ints
    refund_order: Ints
    refund_cents: Ints
    refund_cost: Ints
    """What the goods given back cost the shop."""
    points: Ints
    # Of touches.
    fatigue: Floats
    fatigue_at: Ints
    """Day on which the fatigue was that."""
    visit_on: Ints
    """Day of the visit that a touch brings."""
    visit_order: Floats
    """Probability that it ends in an order."""
    visit_touch: Ints
    """The touch, a number in the shop's list of them."""
    restores: Bools
    """The visit restores the habit."""
    coupon_until: Ints
    """Last day of a touch's coupon."""
    coupon_percent: Ints
    coupon_cents: Ints
    coupon_touch: Ints
    answered: Ints
    """The touch that was last answered, for attribution; -1 for none."""
    answered_on: Ints

    def __len__(self) -> int:
        return len(self.number)

    def take(self, index: Ints) -> Self:
        """Return a copy of some of them, who live on by themselves."""
        return replace(self, **{field.name: getattr(self, field.name)[index] for field in fields(self)})


def born(key: int, numbers: Ints, days: int) -> People:
    """Return the customers of these numbers, in a simulation of that many days."""
    life, given = GIVEN.life, list(GIVEN.types.values())
    base = bases(key, numbers.astype(np.uint64))
    n = len(numbers)

    def u(slot: int) -> Floats:
        return uniforms(base, FOR_LIFE, slot)

    shares = np.cumsum([one.share for one in given])
    kind = np.minimum(np.searchsorted(shares, u(0), side="right"), len(TYPES) - 1)
    joined = np.where(u(1) < life.there, 0, 1 + (u(2) * days * life.join_within).astype(np.int64))
    first, last = life.turn
    turn = joined + ((days - joined) * (first + (last - first) * u(3))).astype(np.int64)
    turn = np.where(np.isin(kind, _TURNING), turn, FOREVER)
    absence = drawn(u(4), life.absence_days)
    by_itself = np.where(u(5) < life.by_themselves, turn + drawn(u(6), life.by_themselves_days), FOREVER)
    back = np.where(kind == RETURNING, turn + absence, np.where(kind == RECOVERABLE, by_itself, FOREVER))
    app = u(7) < GIVEN.profiles.app
    removes = u(8) < GIVEN.response.uninstall
    habits, orders = GIVEN.habits, GIVEN.orders
    gone = np.where(kind == GONE, turn, np.where(kind == FADING, turn + habits.fading.days, FOREVER))
    removes_app = np.where(removes & (gone < FOREVER), gone + (7 * u(9)).astype(np.int64), FOREVER)
    engagement = np.clip(gamma(u(10), habits.engagement_shape), 0.15, 2.0)
    browse = np.array([one.browse for one in given])[kind] * engagement
    own = np.where(joined == 0, orders.there * gamma(u(11), orders.there_shape), gamma(u(11), orders.shape))
    rate = np.array([one.orders for one in given])[kind] / 365 * own
    visits = np.where(kind == HUNTER, _hunts(browse), habits.active.shop * browse)
    conversion = np.minimum(rate / visits, 0.9)
    none = np.full(n, -1, np.int64)
    zeros = np.zeros(n, np.int64)
    return People(
        number=numbers.astype(np.int64),
        base=base,
        type=kind,
        joined=joined,
        engagement=browse,
        conversion=conversion,
        pieces=orders.pieces * gamma(u(12), orders.pieces_shape),
        taste=u(13),
        home=(u(14) * len(CATEGORIES)).astype(np.int64) * PER_CATEGORY,
        timezone=(u(15) * len(GIVEN.profiles.timezones)).astype(np.int64),
        turn=turn,
        back=back,
        left=np.full(n, FOREVER, np.int64),
        removes_app=removes_app,
        app=app,
        cart=np.zeros((n, CART_MAX), np.int64),
        in_cart=zeros.copy(),
        orders=zeros.copy(),
        ordered=np.full(n, NEVER, np.int64),
        refund_on=none.copy(),
        refund_order=none.copy(),
        refund_cents=zeros.copy(),
        refund_cost=zeros.copy(),
        points=zeros.copy(),
        fatigue=np.zeros(n),
        fatigue_at=zeros.copy(),
        visit_on=none.copy(),
        visit_order=np.zeros(n),
        visit_touch=none.copy(),
        restores=np.zeros(n, np.bool_),
        coupon_until=none.copy(),
        coupon_percent=zeros.copy(),
        coupon_cents=zeros.copy(),
        coupon_touch=none.copy(),
        answered=none.copy(),
        answered_on=np.full(n, NEVER, np.int64),
    )


def drawn(u: Floats, bounds: tuple[int, int]) -> Ints:
    """Return whole numbers drawn evenly, from the first bound to before the second."""
    numbers: Ints = (bounds[0] + u * (bounds[1] - bounds[0])).astype(np.int64)
    return numbers


def gamma(u: Floats, shape: float) -> Floats:
    """Return gamma factors of mean 1."""
    factors: Floats = gammaincinv(shape, u) / shape
    return factors


def turned(people: People, day: int) -> Bools:
    """Tell who has fallen away, and is not back of itself."""
    fallen: Bools = (people.turn <= day) & (day < people.back)
    return fallen


def _hunts(browse: Floats) -> Floats:
    """Return a bargain hunter's visits of a day, over sales and between, each by how likely it ends in an order."""
    habits = GIVEN.habits
    share = habits.sale_days / habits.sale_every_days
    between = habits.between_sales_order * habits.between_sales.shop
    visits: Floats = browse * (habits.sale.shop * share + between * (1 - share))
    return visits


def profile(people: People, i: int) -> dict[str, Any]:
    """Return what a customer's first profile says."""
    given = GIVEN.profiles
    base = people.base[i : i + 1]
    slots = range(20, 20 + len(given.consent))
    consent = {
        channel: {"marketing": bool(uniforms(base, FOR_LIFE, slot)[0] < share)}
        for slot, (channel, share) in zip(slots, given.consent.items(), strict=True)
    }
    others = ("opt_out_messages", "opt_out_profiling", "excluded")
    shares = (given.opt_out_messages, given.opt_out_profiling, given.excluded)
    chosen = {
        name: bool(uniforms(base, FOR_LIFE, 30 + slot)[0] < share)
        for slot, (name, share) in enumerate(zip(others, shares, strict=True))
    }
    return {"timezone": given.timezones[people.timezone[i]], "consent": consent, **chosen, "points": 0}
