"""What a touch does to a customer. Its draws belong to the customer and the day, so they are settled before any policy.

A touch that is likelier to bring a visit does so wherever a less likely one would have: the same number is compared.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from worker.recall.days import HOUR_MS
from worker.simulate.draws import Floats, pairs, uniforms
from worker.simulate.parameters import (
    CHANNELS,
    GIVEN,
    HUNTER,
    IN_APP,
    LOYAL,
    PUSH,
    SLEEPING_DOG,
    ChannelGiven,
    Effects,
    geometric,
)
from worker.simulate.people import Bools, Ints, People, turned

_SLOTS: Final = 1 << 20
"""Above all slots of behaviour."""
_A_TOUCH: Final = 8
_MOST: Final = 0.9

_RESPONSE: Final = GIVEN.response
_LAG: Final = geometric(_RESPONSE.lag_days)


def _by_channel(name: str) -> Floats:
    return np.array([getattr(one, name) for one in GIVEN.channels.values()], dtype=np.float64)


assert set(ChannelGiven.__struct_fields__) >= {"reached", "bounced", "unsubscribe", "complaint"}
_REACHED, _BOUNCED, _UNSUBSCRIBE, _COMPLAINT = map(_by_channel, ("reached", "bounced", "unsubscribe", "complaint"))


class Touches(NamedTuple):
    """Touches of a day, at most one for a customer; `user` is the place among the people."""

    user: Ints
    kind: Ints
    channel: Ints
    percent: Ints
    """Of a coupon; 0 for none."""
    cents: Ints
    """Of a coupon that names an amount; 0 for none."""
    touch: Ints
    """The shop's number of the touch."""


class Carried(NamedTuple):
    """What became of touches at once, each an array over them."""

    at: Ints
    """In ms since midnight."""
    delivered: Bools
    bounced: Bools
    unsubscribed: Bools
    complained: Bools
    left: Bools


def touch(
    people: People, day: int, touches: Touches, effects: Effects, *, ordinal: int, seen_at: Ints | None = None
) -> Carried:
    """Carry touches out, the `ordinal`th of that day for these customers; `people` are changed by it.

    In the morning, or, for what is seen in the app alone, at `seen_at`: then it brings a visit on a later day.
    """
    who, channel, kind = touches.user, touches.channel, touches.kind
    base, slot = people.base[who], _SLOTS + _A_TOUCH * ordinal
    u_reached, u_bounced = pairs(base, day, slot)
    delivered = (u_reached < _REACHED[channel]) & ((channel != PUSH) | people.app[who]) & (people.joined[who] <= day)
    bounced = ~delivered & (u_bounced < _BOUNCED[channel])
    fatigue = people.fatigue[who] * np.exp((people.fatigue_at[who] - day) / _RESPONSE.fatigue_days)
    own = people.type[who]
    fallen = turned(people, day)[who]
    as_type = np.where(fallen | (own == HUNTER) | (own == SLEEPING_DOG), own, LOYAL)
    coupon = (touches.percent > 0) | (touches.cents > 0)
    visit = visit_probability(as_type, kind, channel, coupon, fatigue, effects)
    u_visit, u_lag = pairs(base, day, slot + 1)
    u_restored, u_left = pairs(base, day, slot + 2)
    u_unsubscribed, u_complained = pairs(base, day, slot + 3)
    comes = delivered & (u_visit < visit) & (people.visit_on[who] < day)
    lag = np.minimum(np.floor(np.log1p(-u_lag) / _LAG), _RESPONSE.window_days - 1).astype(np.int64)
    if seen_at is not None:
        lag = np.maximum(lag, 1)
    left = delivered & (u_left < effects.leave * effects.type_leave[own] * effects.channel_intrusion[channel])
    left &= people.left[who] > day
    worn = 1 + _RESPONSE.fatigue_unsubscribe * fatigue
    unsubscribed = delivered & (u_unsubscribed < _UNSUBSCRIBE[channel] * worn)
    complained = delivered & (u_complained < _COMPLAINT[channel] * worn)
    coming = who[comes]
    people.visit_on[coming] = day + lag[comes]
    order = effects.order * effects.type_order[as_type] * np.where(coupon, _RESPONSE.coupon_order, 1.0)
    people.visit_order[coming] = np.minimum(order, _MOST)[comes]
    people.visit_touch[coming] = touches.touch[comes]
    restored = effects.type_restore[as_type] * effects.kind_restore[kind]
    people.restores[coming] = (fallen & (u_restored < np.minimum(restored, _MOST)))[comes]
    people.fatigue[who] = fatigue + delivered
    people.fatigue_at[who] = day
    given = delivered & coupon
    lucky = who[given]
    people.coupon_until[lucky] = day + _RESPONSE.coupon_days
    people.coupon_percent[lucky] = touches.percent[given]
    people.coupon_cents[lucky] = touches.cents[given]
    people.coupon_touch[lucky] = touches.touch[given]
    gone = who[left]
    people.left[gone] = day + 1
    u_removed, u_when = pairs(base[left], day, slot + 4)
    removed = gone[u_removed < _RESPONSE.uninstall]
    people.removes_app[removed] = day + 1 + (7 * u_when[u_removed < _RESPONSE.uninstall]).astype(np.int64)
    morning = ((_RESPONSE.morning_hour + uniforms(base, day, slot + 5)) * HOUR_MS).astype(np.int64)
    return Carried(morning if seen_at is None else seen_at, delivered, bounced, unsubscribed, complained, left)


def visit_probability(
    as_type: Ints, kind: Ints, channel: Ints, coupon: Bools, fatigue: Floats, effects: Effects
) -> Floats:
    """Return the probability that a delivered touch brings a visit; types as they respond, not as they are."""
    factors = effects.type_visit[as_type] * effects.type_kind[as_type, kind] * effects.kind_visit[kind]
    factors = factors * effects.channel_attention[channel] * np.where(coupon, effects.type_coupon[as_type], 1.0)
    worn = (1 - _RESPONSE.fatigue) ** fatigue
    probability: Floats = np.minimum(effects.visit * factors * worn, _MOST)
    return probability


def actual_cost(channel: int) -> str:
    """Return what a touch of a channel costs the shop, major units."""
    return GIVEN.channels[CHANNELS[channel]].cost


__all__ = ["IN_APP", "Carried", "Touches", "actual_cost", "touch", "visit_probability"]
