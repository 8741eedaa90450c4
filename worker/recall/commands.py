"""What goes out, in the form of the contracts in `schemas`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

from schemas.commands import CANCELLATION_TYPE, COMMAND_TYPE, cloud_event_headers
from schemas.values import rfc3339, schema_id
from worker.recall.lifetime.history import rhythms
from worker.recall.lifetime.worth import worth
from worker.recall.rfm import Scores
from worker.recall.tiers import Tier, Transition
from worker.recall.value import order_value
from worker.stream.processor import Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.recall.lifetime.worth import Lifetime
    from worker.recall.playbook import Play
    from worker.recall.profile import Episode, Profile
    from worker.recall.rfm import Rfm
    from worker.recall.shop import Shop

RECALL = "recall"
TIER_CHANGES = "tier-changes"
DECISIONS = "recall-decisions"
FIRST_STEP = 0
VARIABLES_MAX = 3
LTV_DAYS = (90, 365)


def fact_id(*facts: object) -> str:
    """Return an id that depends on the facts alone, so that a stretch of input run twice gives the same.

    >>> fact_id("user-1", "memory-email", 1_300_000_000_000, 0)
    '1bbc0f811ba098b1f0f302eb45ebf8a6'
    """
    text = orjson.dumps(facts)
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def episode_id(profile: Profile, episode: Episode) -> str:
    return fact_id(profile.key.decode(), episode.trigger, episode.opened_at)


def command_id(profile: Profile, episode: Episode, rule: str) -> str:
    """Return the id of a touch: user, rule, the event time that opened the episode, the step."""
    return fact_id(profile.key.decode(), rule, episode.opened_at, FIRST_STEP)


def tier_change(
    profile: Profile, transition: Transition, *, shop: Shop, lifetime: Lifetime | None, margin_rate: float
) -> Output:
    standing = profile.standing
    return _json(
        TIER_CHANGES,
        profile,
        {
            "user_id": profile.key.decode(),
            "at": rfc3339(transition.at),
            "from_tier": transition.origin.label,
            "to_tier": transition.target.label,
            "direction": "down" if transition.drop else "up",
            "cause": transition.cause,
            "fell": transition.fell,
            "scores_before": _scores(transition.before),
            "scores_after": _scores(transition.after),
            "core": standing.is_core(transition.at),
            "cut_points": standing.cut_points,
            **prospects(profile, transition.at, shop, lifetime, margin_rate),
        },
    )


def decision(
    profile: Profile,
    episode: Episode,
    at: int,
    *,
    outcome: str,
    reason: str,
    play: Play | None,
    versions: Mapping[str, Any],
    offsets: Mapping[str, int],
) -> Output:
    """Return the record of a decision, or of an episode's end."""
    held_out = reason == "holdout"
    return _json(
        DECISIONS,
        profile,
        {
            "decision_id": fact_id(profile.key.decode(), episode.trigger, episode.opened_at, outcome, reason, at),
            "episode_id": episode_id(profile, episode),
            "user_id": profile.key.decode(),
            "at": rfc3339(at),
            "opened_at": rfc3339(episode.opened_at),
            "trigger": episode.trigger,
            "play": play.name if play and not held_out else None,
            "channel": play.rungs[0] if play and not held_out else None,
            "step": FIRST_STEP,
            "outcome": outcome,
            "reason": reason,
            "arm": episode.arm,
            "propensity": episode.propensity,
            "command_id": episode.command_id,
            "shadow_play": play.name if play and held_out else None,
            "versions": versions,
            "offsets": dict(sorted(offsets.items())),
        },
    )


def command(
    profile: Profile,
    episode: Episode,
    play: Play,
    at: int,
    *,
    shop: Shop,
    rfm: Rfm,
    risk: Mapping[str, Any] | None,
    lifetime: Lifetime | None,
    margin_rate: float,
    versions: Mapping[str, Any],
) -> Output:
    """Return the touch that a CRM is to carry out."""
    currency = shop.currency
    assert episode.command_id is not None  # set by the decision
    not_after = rfc3339(episode.not_after)
    value = {
        "command_id": episode.command_id,
        "episode_id": episode_id(profile, episode),
        "step": FIRST_STEP,
        "user_id": profile.key.decode(),
        "issued_at": rfc3339(at),
        "not_before": None,
        "not_after": not_after,
        "reason": {
            "trigger": episode.trigger,
            "cause": episode.cause,
            "from_tier": Tier(episode.origin).label,
            "to_tier": Tier(episode.target).label,
            "fell": episode.fell,
            "scores_before": _scores(episode.before),
            "scores_after": _scores(episode.after),
            "as_of": rfc3339(at),
        },
        "value": {
            "tier": Tier(profile.standing.tier).label,
            "core": profile.standing.is_core(at),
            "orders": rfm.f,
            "net_revenue": currency.to_text(rfm.m),
            "aov": currency.to_text(round(rfm.m / rfm.f) if rfm.f else 0),
            "top_category": profile.taste.categories[0][0] if profile.taste.categories else None,
            "currency": currency.code,
            **prospects(profile, at, shop, lifetime, margin_rate),
        },
        "risk": risk,
        "action": {
            "play": play.name,
            "kind": play.kind,
            "price_incentive": None,
            "template": play.template,
            "variables": {
                "favourite_products": _names(profile.taste.items),
                "favourite_categories": _names(profile.taste.categories),
                "days_since_last_order": rfm.r,
            },
        },
        "delivery": {
            "channel": play.rungs[0],
            "timezone": profile.account.timezone or shop.days.timezone,
            "not_before": None,
            "not_after": not_after,
        },
        "guards": {
            "purpose": play.purpose,
            "consent_checked_at": rfc3339(at),
            "cancel_if": ["ordered", "void", "withdrawn", "erased"],
            "priority": play.priority,
        },
        "cost": {
            "direct": f"{play.cost.contact or 0:f}",
            "opportunity": "0",
            "hidden": f"{play.cost.hidden or 0:f}",
            "currency": currency.code,
        },
        "experiment": {"id": "holdout", "arm": episode.arm, "propensity": episode.propensity},
        "versions": versions,
    }
    headers = cloud_event_headers(
        id=episode.command_id,
        type=COMMAND_TYPE,
        subject=profile.key.decode(),
        time_ms=at,
        dataschema=schema_id("command"),
        source=shop.source,
    )
    return _json(RECALL, profile, value, headers)


def cancellation(profile: Profile, episode: Episode, at: int, reason: str, shop: Shop) -> Output:
    """Return the order to drop a touch that was sent and may still be under way."""
    assert episode.command_id is not None  # only what was sent is cancelled
    value = {
        "command_id": episode.command_id,
        "episode_id": episode_id(profile, episode),
        "user_id": profile.key.decode(),
        "cancelled_at": rfc3339(at),
        "reason": reason,
    }
    headers = cloud_event_headers(
        id=fact_id(episode.command_id, "cancelled"),
        type=CANCELLATION_TYPE,
        subject=profile.key.decode(),
        time_ms=at,
        dataschema=schema_id("cancellation"),
        source=shop.source,
    )
    return _json(RECALL, profile, value, headers)


def _json(
    topic: str, profile: Profile, value: Mapping[str, Any], headers: tuple[tuple[str, bytes], ...] = ()
) -> Output:
    return Output(topic, profile.key, orjson.dumps(value), headers)


def prospects(profile: Profile, at: int, shop: Shop, lifetime: Lifetime | None, margin_rate: float) -> dict[str, Any]:
    """Return what is expected of the user, the orders of the day itself included; null where no model is to tell."""
    account = profile.account
    day = shop.days.of(at)
    known = None if account.profiling_opted_out else rhythms(profile, day + 1, shop.days)
    if lifetime is None or known is None or not profile.orders:
        return {"ltv": None, "alive": None}
    mean_value = order_value(profile)
    ltv = {}
    for days in LTV_DAYS:
        margin, error = worth(lifetime, known.orders, profile.orders, mean_value, margin_rate, days)
        ltv[f"margin_{days}d"] = shop.currency.to_text(round(margin))
        ltv[f"error_{days}d"] = shop.currency.to_text(round(error))
    return {"ltv": ltv, "alive": round(lifetime.alive(known.active), 6)}


def _scores(scores: Sequence[int] | None) -> dict[str, int] | None:
    return None if scores is None else Scores(*scores)._asdict()


def _names(favourites: list[tuple[str, int]]) -> list[str]:
    return [name for name, _ in favourites[:VARIABLES_MAX]]
