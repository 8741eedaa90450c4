"""What goes out, in the form of the contracts in `schemas`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from schemas.commands import CANCELLATION_TYPE, COMMAND_TYPE, cloud_event_headers
from schemas.values import rfc3339, schema_id
from worker.recall.lifetime.history import rhythms
from worker.recall.lifetime.worth import worth
from worker.recall.money import micros_text
from worker.recall.policy.holdout import CONTROL
from worker.recall.rfm import Scores
from worker.recall.tiers import Tier, Transition
from worker.recall.value import order_value
from worker.stream.processor import Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.recall.lifetime.worth import Lifetime
    from worker.recall.playbook import Play
    from worker.recall.policy.costs import Cost
    from worker.recall.profile import Episode, Profile
    from worker.recall.rfm import Rfm
    from worker.recall.shop import Shop

RECALL = "recall"
TIER_CHANGES = "tier-changes"
DECISIONS = "recall-decisions"
LTV_DAYS = (90, 365)


def fact_id(*facts: object) -> str:
    """Return an id that depends on the facts alone, so that a stretch of input run twice gives the same.

    >>> fact_id("user-1", "memory-email", 1_300_000_000_000, 0)
    '1bbc0f811ba098b1f0f302eb45ebf8a6'
    """
    text = orjson.dumps(facts)
    return hashlib.blake2b(text, digest_size=16).hexdigest()


class Verdict(NamedTuple):
    """What was decided, and why."""

    outcome: str
    reason: str
    text: str = ""
    play: str | None = None
    channel: str | None = None
    rung: int | None = None
    until: int = 0
    """When it is looked at again; 0 for never."""
    shadow_outcome: str | None = None
    """Of a user who was held out; `play` is then the one that would have been."""
    passed_over: tuple[tuple[str, str], ...] = ()
    """Channels that could not be used, each with the reason."""
    left_out: Mapping[str, str] = {}
    nets: Mapping[str, float] = {}
    """By play, micros."""
    cost: Cost | None = None
    budget: str | None = None


class Touch(NamedTuple):
    """A touch that is to be carried out."""

    play: Play
    rung: int
    channel: str
    variables: Mapping[str, Any]
    cost: Cost
    passed_over: tuple[tuple[str, str], ...] = ()
    face: int | None = None
    """Place of the incentive's face value; None for no incentive."""
    task: int | None = None
    """Step of a habit task; None where the play is none."""
    escalate_after: int = 0
    """When the next rung is looked at; 0 for never."""

    @property
    def budget(self) -> str | None:
        """Return the budget that is charged."""
        return self.play.budget if self.cost.direct else None

    @property
    def template(self) -> str:
        return self.play.template_of(self.channel) if self.task is None else self.play.steps[self.task].template


def episode_id(profile: Profile, episode: Episode) -> str:
    return fact_id(profile.key.decode(), episode.trigger, episode.name, episode.opened_at)


def command_id(profile: Profile, episode: Episode, rule: str) -> str:
    """Return the id of a touch: user, rule, what opened the episode and the event time that did, the step."""
    return fact_id(profile.key.decode(), rule, episode.trigger, episode.name, episode.opened_at, episode.step)


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
    verdict: Verdict,
    *,
    shop: Shop,
    versions: Mapping[str, Any],
    offsets: Mapping[str, int],
) -> Output:
    """Return the record of a decision, or of an episode's end."""
    held_out = verdict.shadow_outcome is not None
    user, facts = profile.key.decode(), (episode.trigger, episode.name, episode.opened_at)
    cost = verdict.cost
    return _json(
        DECISIONS,
        profile,
        {
            "decision_id": fact_id(user, *facts, verdict.outcome, verdict.reason, at),
            "episode_id": episode_id(profile, episode),
            "user_id": user,
            "at": rfc3339(at),
            "opened_at": rfc3339(episode.opened_at),
            "trigger": episode.trigger,
            "name": episode.name or None,
            "play": None if held_out else verdict.play,
            "channel": None if held_out else verdict.channel,
            "step": episode.step,
            "rung": None if held_out else verdict.rung,
            "outcome": verdict.outcome,
            "reason": verdict.reason,
            "text": verdict.text,
            "until": rfc3339(verdict.until) if verdict.until else None,
            "arm": episode.arm,
            "propensity": _joint(episode),
            "choice_propensity": episode.choice_propensity,
            "segment": episode.segment or None,
            "potential": episode.potential or None,
            "command_id": episode.command_id,
            "shadow_play": verdict.play if held_out else None,
            "shadow_outcome": verdict.shadow_outcome,
            "passed_over": [{"channel": channel, "reason": reason} for channel, reason in verdict.passed_over],
            "left_out": verdict.left_out,
            "nets": {play: micros_text(round(net)) for play, net in verdict.nets.items()},
            "cost": None if cost is None else _cost(cost, verdict.budget, shop.currency.code),
            "versions": versions,
            "offsets": dict(sorted(offsets.items())),
        },
    )


def command(
    profile: Profile,
    episode: Episode,
    touch: Touch,
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
    currency, play = shop.currency, touch.play
    assert episode.command_id is not None  # set by the decision
    not_after = rfc3339(episode.not_after)
    value = {
        "command_id": episode.command_id,
        "episode_id": episode_id(profile, episode),
        "step": episode.step,
        "user_id": profile.key.decode(),
        "issued_at": rfc3339(at),
        "not_before": None,
        "not_after": not_after,
        "reason": {
            "trigger": episode.trigger,
            "name": episode.name or None,
            "cause": episode.cause,
            "from_tier": Tier(episode.origin).label,
            "to_tier": Tier(episode.target).label,
            "fell": episode.fell,
            "scores_before": _scores(episode.before),
            "scores_after": _scores(episode.after),
            "potential": episode.potential or None,
            "text": episode.text,
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
            "price_incentive": _incentive(touch, shop),
            "task": _task(touch),
            "template": touch.template,
            "variables": {**play.variables, **touch.variables},
        },
        "delivery": {
            "channel": touch.channel,
            "rung": touch.rung,
            "next_channel": play.rungs[touch.rung + 1] if touch.rung + 1 < len(play.rungs) else None,
            "escalate_after": rfc3339(touch.escalate_after) if touch.escalate_after else None,
            "timezone": profile.account.timezone or shop.days.timezone,
            "not_before": None,
            "not_after": not_after,
        },
        "guards": {
            "purpose": play.purpose,
            "consent_checked_at": rfc3339(at),
            "cancel_if": ["ordered", "won", "void", "withdrawn", "erased", "upgraded"],
            "priority": play.priority,
        },
        "cost": _cost(touch.cost, touch.budget, currency.code),
        "experiment": {
            "id": "holdout",
            "arm": episode.arm,
            "propensity": _joint(episode),
            "choice_propensity": episode.choice_propensity,
            "segment": episode.segment or None,
        },
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


def _joint(episode: Episode) -> float:
    """Return the probability of arm and choice together; who is held out gets nothing, whatever is chosen."""
    if episode.arm == CONTROL:
        return episode.propensity
    return round(episode.propensity * episode.choice_propensity, 6)


def _incentive(touch: Touch, shop: Shop) -> dict[str, Any] | None:
    if touch.face is None:
        return None
    incentive = touch.play.incentive
    assert incentive is not None  # a face value is one of its
    return {
        "form": incentive.form,
        "face_value": f"{incentive.face_values[touch.face].normalize():f}",
        "currency": shop.currency.code if incentive.form == "amount" else None,
        "points": incentive.points,
    }


def _task(touch: Touch) -> dict[str, Any] | None:
    if touch.task is None:
        return None
    step = touch.play.steps[touch.task]
    return {"step": touch.task, "steps": len(touch.play.steps), "channel": step.channel, "count": step.count}


def _cost(cost: Cost, budget: str | None, currency: str) -> dict[str, Any]:
    return {
        "contact": micros_text(cost.contact),
        "incentive": micros_text(cost.incentive),
        "direct": micros_text(cost.direct),
        "opportunity": micros_text(cost.opportunity),
        "hidden": micros_text(cost.hidden),
        "currency": currency,
        "budget": budget,
    }


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
