"""What is learned from, as it is written: labelled examples, histories without a label, and what came of choices.

No record leads back to a user: each has an id by a salted hash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from schemas.topics import TRAINING
from worker.recall import value
from worker.recall.days import LATENESS_MS
from worker.recall.policy.holdout import CONTROL
from worker.recall.risk import features, labels
from worker.recall.tiers import Tier
from worker.stream.processor import Output

if TYPE_CHECKING:
    from worker.recall.lifetime.history import Rhythms
    from worker.recall.policy.holdout import Holdout
    from worker.recall.profile import Outcome, Profile
    from worker.recall.risk.labels import Sighting
    from worker.recall.shop import Shop


def summary(state: Profile, told: Rhythms, today: int, shop: Shop, *, active: bool) -> Output:
    """Write what was bought, without a label."""
    days, rfm = shop.days, None
    if active and state.orders >= value.SCORED_FROM_ORDERS:
        rfm = value.rfm_of(state, days.start(today), days)
    told_of = {
        "kind": "summary",
        "id": labels.example_id(shop.salt, state.key, today),
        "t": days.date(today),
        "history": told.orders._asdict(),
        "active": told.active._asdict(),
        "orders": state.orders,
        "mean_value": round(value.order_value(state), 2),
        "rfm": None if rfm is None else rfm._asdict(),
    }
    return Output(TRAINING, None, orjson.dumps(told_of), partition=0)


def example(state: Profile, day: int, horizon_days: int, sighting: Sighting, holdout: Holdout, shop: Shop) -> Output:
    """Write what was seen of a user at the beginning of a day, with its label."""
    days, last_day = shop.days, day + horizon_days
    since, until = days.start(day), days.start(last_day)
    # At both ends: between them a new epoch may draw him anew, or a playbook change the share.
    held_out = sighting.holdout and holdout.arm(state.key, last_day) == CONTROL
    uncontacted = held_out or until < shop.live_from
    forecast = sighting.forecasts.get(horizon_days)
    predicted = None if forecast is None else {"version": forecast.version, **forecast.predictions._asdict()}
    told_of = {
        "kind": "example",
        "id": labels.example_id(shop.salt, state.key, day),
        "t": days.date(day),
        "label_day": days.date(labels.label_day(day, horizon_days, days)),
        "horizon_days": horizon_days,
        "y": labels.no_order(state, day, horizon_days, days),
        "weight": 1.0 if uncontacted else shop.censoring_weight,
        "holdout": held_out,
        "treated": any(since < contact.at <= until for contact in state.account.contacts),
        "tier": Tier(sighting.tier).label,
        "features": features.plain(sighting.features),
        "schema_hash": features.SCHEMA_HASH,
        "history": sighting.rhythms.orders._asdict(),
        "active": sighting.rhythms.active._asdict(),
        "predicted": predicted,
        "lead_days": sighting.lead_days if horizon_days == shop.horizon_days else None,
    }
    return Output(TRAINING, None, orjson.dumps(told_of), partition=0)


def outcome(state: Profile, known: Outcome, shop: Shop) -> Output:
    """Write what came of a choice."""
    since, until = known.decided_at, known.due - LATENESS_MS
    orders = state.account.latest_orders
    told = {
        "kind": "outcome",
        "id": labels.outcome_id(shop.salt, state.key, since),
        "day": shop.days.date(shop.days.of(known.due)),
        "segment": known.segment,
        "play": known.play,
        "y": int(any(since < order.at <= until and not order.cancelled for order in orders)),
        "propensity": known.propensity,
        "held_out": known.held_out,
    }
    return Output(TRAINING, None, orjson.dumps(told), partition=0)
