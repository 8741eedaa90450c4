"""How what a user does, and what the shop says of him, changes his profile.

Each function returns None, or the name of a counter where the record changes nothing.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from xxhash import xxh3_64_digest

from worker.recall import rfm
from worker.recall.bodies import Activity
from worker.recall.days import LATENESS_MS, Days
from worker.recall.profile import (
    FAVOURITES_KEPT,
    HALF_HOUR_MS,
    ID_BYTES,
    MESSAGE_IDS_KEPT,
    NAME_BYTES_MAX,
    ORDERS_KEPT,
    REFUND_IDS_KEPT,
    WISHES_KEPT,
    OpenDay,
    PastOrder,
    Profile,
    Taste,
)
from worker.recall.windows import CHECKOUT, MESSAGE_CLICK, ORDER, REFUND, WEEKS_KEPT, WISHLIST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.recall.bodies import App, Cancel, Feedback, Item, Order, ProfileUpdate, Refund

DUPLICATE = "duplicate"
LATE = "late"
UNKNOWN_ORDER = "unknown order"
APP_CHANNELS = ("in_app", "push")
"""What reaches a user through the shop's app."""


def short_id(text: str) -> bytes:
    """Return six bytes that stand for an id."""
    return xxh3_64_digest(text.encode())[:ID_BYTES]


def activity(profile: Profile, body: Activity, at: int, clock: int, days: Days) -> str | None:
    """Count what the user did; what is later than the lateness is left out."""
    begin, end, day = days.around(at)
    clock_day = day if begin <= clock < end else days.of(clock)
    if clock_day > profile.day:
        profile.roll(clock_day)
    open_day = profile.open_day(day)
    if open_day is None or at < clock - LATENESS_MS:
        return LATE
    ids = _with(open_day.message_ids, body.message_id, MESSAGE_IDS_KEPT)
    if ids is None:
        return DUPLICATE
    open_day.message_ids = ids
    channel = body.channel
    if channel is not None:
        open_day.add(channel)
        profile.saw(channel, day)
        if channel >= WISHLIST:
            _intends(profile, body, channel, at)
    _active(profile, open_day, at, begin)
    return None


def _intends(profile: Profile, body: Activity, channel: int, at: int) -> None:
    """Keep what comes close to an order."""
    if channel == WISHLIST and body.product_id is not None:
        _wish(profile.taste, body.product_id, body.price_minor)
    elif channel == CHECKOUT and at > profile.last_order_at:
        profile.checkout_at = max(profile.checkout_at, at)


def app(profile: Profile, body: App, at: int, clock: int, days: Days) -> str | None:
    """Note whether the app reaches the user; to open it is activity."""
    for channel in APP_CHANNELS:
        if body.state == "uninstalled":
            lose(profile, channel, at)
        else:
            reach(profile, channel, at)
    if body.state != "opened":
        return None
    return activity(profile, Activity(None, body.message_id), at, clock, days)


def lose(profile: Profile, channel: str, at: int) -> None:
    """Note that a channel does not reach the user."""
    unreachable = profile.account.unreachable
    profile.account.unreachable = {**unreachable, channel: max(at, unreachable.get(channel, 0))}


def reach(profile: Profile, channel: str, at: int) -> None:
    """Note that a channel reaches the user again, unless it was lost later."""
    unreachable = profile.account.unreachable
    if channel in unreachable and at >= unreachable[channel]:
        profile.account.unreachable = {name: since for name, since in unreachable.items() if name != channel}


def order(profile: Profile, body: Order, at: int, clock: int, days: Days) -> str | None:
    """Count an order, however late, while the weeks kept reach back to it."""
    account = profile.account
    day = days.of(at)
    week, this_week = days.week(day), days.week(days.of(clock))
    if week <= this_week - WEEKS_KEPT:
        return f"{LATE} order"
    order_id = short_id(body.order_id)
    past = account.find_order(order_id)
    if past is not None and past.at:
        return DUPLICATE
    open_day = _open(profile, day, at, clock, days.of(clock))
    rfm.add(account.weeks, week, orders=1, revenue=body.net_minor)
    rfm.prune(account.weeks, this_week)
    profile.orders += 1
    account.spent += body.net_minor
    account.first_order_at = min(account.first_order_at or at, at)
    profile.last_order_at = max(profile.last_order_at, at)
    if profile.checkout_at <= at:
        profile.checkout_at = 0
    past = past or _keep(profile, PastOrder(order_id, at), days)
    past.at, past.net = at, body.net_minor
    past.products = len({item.product_id for item in body.items})
    past.discounted = bool(body.coupon or body.discount_minor)
    account.products += past.products
    account.discounted += past.discounted
    _buy(profile.taste, body.items)
    profile.saw(ORDER, day)
    if open_day is None:
        profile.history.append((day, ORDER, 1))
        profile.first_at = min(profile.first_at or at, at)
        profile.active_at = max(profile.active_at, at)
    else:
        open_day.add(ORDER)
        _active(profile, open_day, at, days.start(day))
    if past.cancelled:
        _undo(profile, past, days)
    return None


def refund(profile: Profile, body: Refund, at: int, clock: int, days: Days) -> str | None:
    """Take a refund off the revenue, in the week in which it happened; without an amount, the full order.

    There is nothing to take off for an order that was cancelled.
    """
    account = profile.account
    order_id = short_id(body.order_id)
    past = account.find_order(order_id)
    amount = body.amount_minor
    if amount is None:
        if past is None or not past.at:
            return UNKNOWN_ORDER
        amount = past.net
    day = days.of(at)
    week, this_week = days.week(day), days.week(days.of(clock))
    if week <= this_week - WEEKS_KEPT:
        return f"{LATE} refund"
    ids = _with(account.refund_ids, body.message_id, REFUND_IDS_KEPT)
    if ids is None:
        return DUPLICATE
    account.refund_ids = ids
    open_day = _open(profile, day, at, clock, days.of(clock))
    if open_day is None:
        profile.history.append((day, REFUND, 1))
    else:
        open_day.add(REFUND)
    profile.saw(REFUND, day)
    past = past or _keep(profile, PastOrder(order_id), days)
    if past.cancelled:
        return None
    past.refunded += amount
    rfm.add(account.weeks, week, refunds=amount)
    rfm.prune(account.weeks, this_week)
    account.refunded += amount
    return None


def cancel(profile: Profile, body: Cancel, days: Days) -> str | None:
    """Undo an order and its refunds: a cancelled order is no order, also where its cancellation came first."""
    order_id = short_id(body.order_id)
    past = profile.account.find_order(order_id)
    past = past or _keep(profile, PastOrder(order_id), days)
    if past.cancelled:
        return DUPLICATE
    past.cancelled = True
    if not past.at:
        return UNKNOWN_ORDER
    _undo(profile, past, days)
    return None


def _undo(profile: Profile, past: PastOrder, days: Days) -> None:
    account = profile.account
    rfm.add(account.weeks, days.week(days.of(past.at)), orders=-1, revenue=-past.net, refunds=-past.refunded)
    profile.orders -= 1
    account.spent -= past.net
    account.products -= past.products
    account.discounted -= past.discounted
    account.refunded -= past.refunded
    past.refunded = 0
    standing = [other.at for other in account.latest_orders if other.at and not other.cancelled]
    if standing or not profile.orders:
        profile.last_order_at = max(standing, default=0)
    if len(standing) == profile.orders:
        account.first_order_at = min(standing, default=0)


def feedback(profile: Profile, body: Feedback, at: int, clock: int, days: Days) -> str | None:
    """Take what became of a command.

    A click or a visit is activity; an opening is not, since mail programs open by themselves. What bounced shows that
    its channel does not reach the user, what was delivered that it does.
    """
    if body.status == "bounced":
        lose(profile, body.channel, at)
        return None
    if body.status == "delivered":
        reach(profile, body.channel, at)
        return None
    if body.status == "unsubscribed":
        profile.account.consent = {**profile.account.consent, f"{body.channel}:marketing": False}
        return None
    if body.status not in {"clicked", "visited"}:
        return None
    return activity(profile, Activity(MESSAGE_CLICK, body.message_id), at, clock, days)


def update(profile: Profile, body: ProfileUpdate, at: int) -> None:
    """Take what the shop says of the user, all but erasure; what is None stays as it was.

    Consent that was not there before comes with an address: its channel is taken to reach him, but for the app's.
    """
    account = profile.account
    for channel, by in (body.consent or {}).items():
        for purpose, given in by.items():
            name = f"{channel}:{purpose}"
            if given and not account.consent.get(name) and channel not in APP_CHANNELS:
                reach(profile, channel, at)
            account.consent = {**account.consent, name: given}
    if body.points is not None:
        account.points = body.points
    if body.points_expire_at is not None:
        account.points_expire_at = body.points_expire_at
    if body.timezone is not None:
        account.timezone = body.timezone
    if body.opt_out_messages is not None:
        account.opted_out = body.opt_out_messages
    if body.opt_out_profiling is not None:
        account.profiling_opted_out = body.opt_out_profiling
    if body.excluded is not None:
        account.excluded = body.excluded


def _open(profile: Profile, day: int, at: int, clock: int, clock_day: int) -> OpenDay | None:
    """Return the open day of an event, or None where it comes too late for it."""
    if clock_day > profile.day:
        profile.roll(clock_day)
    return profile.open_day(day) if at >= clock - LATENESS_MS else None


def _with(ids: bytes, message_id: str, kept: int) -> bytes | None:
    """Return the ids with one more, the latest `kept` of them; None where it is among them already."""
    short = short_id(message_id)
    if short in ids:
        place = ids.find(short)
        while place >= 0:
            if place % ID_BYTES == 0:
                return None
            place = ids.find(short, place + 1)
    ids += short
    return ids if len(ids) <= kept * ID_BYTES else ids[-kept * ID_BYTES :]


def _keep(profile: Profile, order: PastOrder, days: Days) -> PastOrder:
    """Add to the orders seen lately; of one that it displaces the day stays, for the labels that look back so far."""
    account = profile.account
    orders = account.latest_orders = [*account.latest_orders, order]
    if len(orders) > ORDERS_KEPT:
        oldest = min(orders, key=lambda past: (past.at, past.id))
        orders.remove(oldest)
        if oldest.at and not oldest.cancelled:
            account.displace(oldest, days)
    return order


def _active(profile: Profile, open_day: OpenDay, at: int, begin: int) -> None:
    """Note the activity; `begin` is when its day began."""
    open_day.half_hours |= 1 << (at - begin) // HALF_HOUR_MS
    if at > profile.active_at:  # noqa: PLR1730 - max() costs a call
        profile.active_at = at
    if at < profile.first_at or not profile.first_at:
        profile.first_at = at


def short_name(name: str) -> str:
    """Return as much of a name as is kept, in whole characters."""
    return name[:NAME_BYTES_MAX] if name.isascii() else name.encode()[:NAME_BYTES_MAX].decode(errors="ignore")


def _buy(taste: Taste, items: Iterable[Item]) -> None:
    """Count what was bought among the favourites; it is wished for no more."""
    for item in items:
        name = short_name(item.product_id)
        _favour(taste.items, name)
        if item.category:
            _favour(taste.categories, short_name(item.category))
        if taste.wishes:
            taste.wishes = [wish for wish in taste.wishes if wish[0] != name]


def _favour(favourites: list[tuple[str, int]], name: str) -> None:
    """Count a name among the most frequent ones; a new one takes the place of the rarest (space-saving, ICDT 2005).

    >>> favourites = [("jam", 2), ("tea", 2)]
    >>> _favour(favourites, "tea")
    >>> favourites
    [('tea', 3), ('jam', 2)]
    """
    n = 0
    for i, (known, times) in enumerate(favourites):
        if known == name:
            n = times
            del favourites[i]
            break
    else:
        if len(favourites) >= FAVOURITES_KEPT:
            n = favourites.pop()[1]
    insort(favourites, (name, n + 1), key=_by_rank)


def _by_rank(favourite: tuple[str, int]) -> tuple[int, str]:
    return -favourite[1], favourite[0]


def _wish(taste: Taste, product_id: str, price: int | None) -> None:
    name = short_name(product_id)
    kept = [wish for wish in taste.wishes if wish[0] != name]
    taste.wishes = [*kept, (name, -1 if price is None else price)][-WISHES_KEPT:]
