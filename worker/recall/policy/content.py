"""What a play has to say to a user: what its template is filled with, or why there is nothing to say.

Nothing here is a person's data: products, categories, counts, dates and amounts. What costs money (a coupon, points)
is no content: it goes with the command's price incentive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall.days import DAY_MS
from worker.recall.tiers import Tier
from worker.recall.value import rfm_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import JsonValue

    from worker.recall.playbook import Play
    from worker.recall.policy.catalog import Catalog, Product
    from worker.recall.profile import Episode, Profile
    from worker.recall.shop import InForce, Shop

NAMES_MAX: Final = 3
"""Of each list in what is said."""
POINTS_EXPIRE_DAYS: Final = 30
"""Points that expire later are no news."""
RECENT_DAYS: Final = 14
"""How long something that has come counts as new."""
BOUGHT_OFTEN: Final = 2
"""A product that was bought so many times is a usual one."""


def say(
    play: Play, profile: Profile, episode: Episode, catalog: Catalog, shop: Shop, at: int, book: InForce
) -> dict[str, JsonValue] | str:
    """Return the template's variables, or the reason why the play has nothing to say to this user now, in words."""
    return _BY_KIND[play.kind](_Occasion(play, profile, episode, catalog, shop, at, book))


class _Occasion(NamedTuple):
    """All that may be spoken of."""

    play: Play
    profile: Profile
    episode: Episode
    catalog: Catalog
    shop: Shop
    at: int
    book: InForce

    def date(self, at: int) -> str:
        """Return the shop's date of a time."""
        return self.shop.days.date(self.shop.days.of(at)).isoformat()

    def money(self, minor: int) -> dict[str, JsonValue]:
        return {"amount": self.shop.currency.to_text(minor), "currency": self.shop.currency.code}

    def shown(self, name: str, product: Product) -> dict[str, JsonValue]:
        """Return a product with its price, where that is known."""
        price = product.price_minor
        return {"product": name, "price": None if price is None else self.money(price)}


def _story(on: _Occasion) -> dict[str, JsonValue]:
    """Return what the user and the shop have behind them."""
    profile, first = on.profile, on.profile.account.first_order_at
    values = rfm_of(profile, on.at, on.shop.days)
    return {
        "favourite_products": _names(profile.taste.items),
        "favourite_categories": _names(profile.taste.categories),
        "customer_since": on.date(first) if first else None,
        "orders": profile.orders,
        "days_since_last_order": None if values is None else values.r,
    }


def _points_expiry(on: _Occasion) -> dict[str, JsonValue] | str:
    account, at = on.profile.account, on.at
    if account.points <= 0:
        return "no points are known of"
    left = account.points_expire_at - at
    if not 0 < left <= POINTS_EXPIRE_DAYS * DAY_MS:
        return f"no points expire within {POINTS_EXPIRE_DAYS} days"
    days = on.shop.days
    return {
        "points": account.points,
        "expire_on": on.date(account.points_expire_at),
        "days_left": days.of(account.points_expire_at) - days.of(at),
    }


def _usual_item(on: _Occasion) -> dict[str, JsonValue] | str:
    """Speak of usual products that came since the last order, and lately.

    The catalogue has to say so itself: of a product that it does not know nothing is claimed. One whose stock was never
    told and that has just arrived is taken to be there.
    """
    since = max(on.profile.last_order_at, on.at - RECENT_DAYS * DAY_MS)
    found: list[JsonValue] = []
    for name, times in on.profile.taste.items:
        product = on.catalog.product(name, on.at) if times >= BOUGHT_OFTEN else None
        if product is None or product.stock == 0:
            continue
        came = max(
            (time for time in (product.arrived_at, product.back_in_stock_at) if time is not None and time <= on.at),
            default=0,
        )
        if came > since:
            found.append({**on.shown(name, product), "here_since": on.date(came)})
    return {"products": found[:NAMES_MAX]} if found else "none of the user's usual products has come in lately"


def _new_arrivals(on: _Occasion) -> dict[str, JsonValue] | str:
    """Speak of what arrived since the user's last activity, or lately where that was only just."""
    categories = [name for name, _ in on.profile.taste.categories]
    if not categories:
        return "no category of the user's is known"
    since = min(on.profile.active_at, on.at - RECENT_DAYS * DAY_MS)
    found: list[JsonValue] = []
    for name in on.catalog.arrivals(categories, since, on.at, NAMES_MAX):
        product = on.catalog.product(name, on.at)
        assert product is not None  # it has arrived
        found.append({**on.shown(name, product), "category": product.category})
    return {"products": found} if found else "nothing has arrived in the user's categories since the last activity"


def _comeback(on: _Occasion) -> dict[str, JsonValue] | str:
    """Speak of products that were saved, not bought, and have become cheaper, the deepest fall first.

    Without any there is nothing to say: what is left of the pack would be a coupon like any other.
    """
    drops: list[tuple[float, str, int, int]] = []
    for name, saved in on.profile.taste.wishes:
        product = on.catalog.product(name, on.at) if saved > 0 else None
        if product is None or product.price_minor is None or product.stock == 0 or product.price_minor >= saved:
            continue
        drops.append((product.price_minor / saved, name, saved, product.price_minor))
    if not drops:
        return "no product on the wish-list has become cheaper"
    told: list[JsonValue] = [
        {"product": name, "price_when_saved": on.money(saved), "price": on.money(now)}
        for _, name, saved, now in sorted(drops)[:NAMES_MAX]
    ]
    return {"products": told}


def _habit(on: _Occasion) -> dict[str, JsonValue] | str:
    steps, done = on.play.steps, on.episode.task
    if done >= len(steps):
        return "every step of the task is done"
    return {
        "step": done + 1,
        "steps": len(steps),
        "activity": steps[done].channel,
        "times": steps[done].count,
        "done": [step.channel for step in steps[:done]],
    }


def _incentive_task(on: _Occasion) -> dict[str, JsonValue] | str:
    """Speak of the orders and the money that are missing to the next tier, within the year's window."""
    tier = Tier(on.profile.standing.tier)
    values = rfm_of(on.profile, on.at, on.shop.days)
    rule = next((rule for rule in reversed(on.book.rules.table) if rule.tier > tier), None)
    if tier <= Tier.SILENT or rule is None or values is None:
        return f"no tier is next to {tier.label}"
    cuts, scores = on.book.cuts, on.book.cuts.score(values)
    # A value on a bound takes the lower score.
    orders = _short_of(cuts.f, rule.least.f, values.f)
    spend = _short_of(cuts.m, rule.least.m, values.m)
    if not (orders or spend) and scores.r >= rule.least.r:
        return f"nothing is missing to the tier {rule.tier.label}"
    return {
        "next_tier": rule.tier.label,
        "orders_missing": max(orders, 1),  # without another order nothing rises
        "spend_missing": on.money(spend),
    }


def _short_of(bounds: tuple[int, ...], score: int, value: int) -> int:
    """Return what is missing to a score.

    >>> _short_of((1, 2, 4, 8), 4, 3), _short_of((1, 2, 4, 8), 4, 5), _short_of((1, 2, 4, 8), 1, 0)
    (2, 0, 0)
    """
    return max(0, bounds[score - 2] + 1 - value) if score > 1 else 0


def _names(favourites: list[tuple[str, int]]) -> list[JsonValue]:
    return [name for name, _ in favourites[:NAMES_MAX]]


_BY_KIND: Final[Mapping[str, Callable[[_Occasion], dict[str, JsonValue] | str]]] = {
    "memory": _story,
    "care": _story,
    "vip": _story,
    "points_expiry": _points_expiry,
    "usual_item": _usual_item,
    "new_arrivals": _new_arrivals,
    "comeback": _comeback,
    "habit": _habit,
    "incentive_task": _incentive_task,
}
