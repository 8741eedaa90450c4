"""What is known of one user, what was decided about him and why, and what comes next.

Nothing is changed by it: it works on copies. Times are RFC 3339 in UTC, money is in major units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import orjson
from msgspec.structs import replace

from schemas.feedback import Status
from schemas.values import Channel, rfc3339
from worker.recall import commands, value
from worker.recall.days import DAY_MS
from worker.recall.money import micros_text
from worker.recall.policy import eligibility
from worker.recall.shop import Source
from worker.recall.tiers import Tier
from worker.stream.processor import NEVER, Attach, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from worker.recall.profile import Contact, Episode, Profile
    from worker.recall.shop import Shared
    from worker.recall.step import Customers

AHEAD_DAYS: Final = 120
"""How far is looked ahead."""
STEPS_MAX: Final = 500
"""Of timers and decisions."""
DECISIONS_MAX: Final = 5
PURPOSE: Final = "marketing"
STATUSES: Final = get_args(Status)
_NEXT: Final = ("at", "outcome", "reason", "text", "play", "channel", "until", "shadow_play", "shadow_outcome")
"""What is told of a decision to come, by the contract's names."""


class Kept(NamedTuple):
    """What a partition keeps of a user."""

    state: Profile
    """A copy."""
    shared: Shared
    clock: int
    partition: int
    attachment: Callable[[bytes], bytes | None]
    resting: bool = False
    """Whether his timers rest, since one has raised: nothing is decided before he does something."""


class Ahead:
    """The context of what is tried out: nothing of it is kept."""

    def __init__(self, kept: Kept) -> None:
        self.clock = kept.clock
        self.partition = kept.partition
        self.offsets: Mapping[str, int] = {}
        self._attachment = kept.attachment
        self._attached: dict[bytes, bytes | None] = {}

    def attachment(self, name: bytes) -> bytes | None:
        return self._attached[name] if name in self._attached else self._attachment(name)

    def take(self, effects: Sequence[object]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Attach what is to be attached; yield decisions and commands, with their topics."""
        for effect in effects:
            if isinstance(effect, Attach):
                self._attached[effect.name] = effect.value
            elif isinstance(effect, Output) and effect.topic in {commands.DECISIONS, commands.RECALL}:
                yield effect.topic, orjson.loads(effect.value)


# -- told --------------------------------------------------------------------------------------------------------------


def explain(customers: Customers, kept: Kept, decisions: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Say what is known of a user, what was decided and why, and what comes next; `decisions` are those on record."""
    state, clock = kept.state, kept.clock
    head = {"user_id": state.key.decode(), "as_of": rfc3339(clock), "partition": kept.partition}
    if state.erased:
        return {**head, "erased": True}
    account = state.account
    potential = account.potential
    ahead = [] if kept.resting else foresee(customers, kept._replace(state=customers.decode(customers.encode(state))))
    return {
        **head,
        "erased": False,
        "resting": kept.resting,
        "value": _value(customers, kept),
        "risk": customers.risk(state, kept.shared, clock) if state.orders else None,
        "potential": None
        if potential is None
        else {"level": potential.level, "since": rfc3339(potential.at), "reason": potential.reason},
        "moves": [
            {
                "at": rfc3339(move.at),
                "from_tier": Tier(move.origin).label,
                "to_tier": Tier(move.target).label,
                "cause": move.cause,
            }
            for move in account.moves
        ],
        "reach": _reach(customers, kept),
        "touches": [_touch(contact) for contact in account.contacts],
        "episode": None if state.episode is None else _episode(state.episode),
        "decided": [
            {
                "at": rfc3339(one.at),
                "outcome": one.outcome,
                "reason": one.reason,
                "play": one.play or None,
                "channel": one.channel or None,
            }
            for one in account.decided
        ],
        "decisions": list(decisions),
        "next": ahead,
    }


def _value(customers: Customers, kept: Kept) -> dict[str, Any]:
    """Say what the user is worth."""
    state, at = kept.state, kept.clock
    shop, standing, taste = customers.shop, state.standing, state.taste
    book = customers.in_force(kept.shared, state.key)
    rfm = value.rfm_of(state, at, shop.days)
    text = shop.currency.to_text
    return {
        "tier": Tier(standing.tier).label,
        "since": _at(standing.since),
        "core": standing.is_core(at),
        "orders": state.orders,
        "first_order_at": _at(state.account.first_order_at),
        "last_order_at": _at(state.last_order_at),
        "active_at": _at(state.active_at),
        "rfm": None if rfm is None else {"r_days": rfm.r, "f_orders": rfm.f, "m": text(rfm.m)},
        "scores": None if rfm is None or state.orders < value.SCORED_FROM_ORDERS else book.cuts.score(rfm)._asdict(),
        "aov": text(round(value.order_value(state))) if state.orders else None,
        "currency": shop.currency.code,
        "points": None if state.account.points < 0 else state.account.points,
        "points_expire_at": _at(state.account.points_expire_at),
        "categories": [name for name, _ in taste.categories],
        "items": [name for name, _ in taste.items],
        "wishes": [name for name, _ in taste.wishes],
        **commands.prospects(state, at, shop, customers.lifetime(kept.shared), book.playbook.value.margin_rate),
    }


def _reach(customers: Customers, kept: Kept) -> dict[str, Any]:
    """Say by what the user may and can be reached now."""
    state, at = kept.state, kept.clock
    account, book = state.account, customers.in_force(kept.shared, state.key).playbook
    return {
        "forbidden": eligibility.forbids(state),
        "capped": eligibility.capped(state, book, at),
        "timezone": account.timezone or None,
        "channels": {
            channel: eligibility.channel_refusal(state, channel, PURPOSE, book, at) or "yes"
            for channel in get_args(Channel)
        },
        "consent": dict(sorted(account.consent.items())),
        "unreachable_since": {channel: rfc3339(since) for channel, since in sorted(account.unreachable.items())},
    }


def _touch(contact: Contact) -> dict[str, Any]:
    return {
        "at": rfc3339(contact.at),
        "channel": contact.channel,
        "play": contact.play or None,
        "step": contact.step,
        "heard": [status for bit, status in enumerate(STATUSES) if contact.heard >> bit & 1],
        "delivered_at": _at(contact.delivered_at),
        "responded_at": _at(contact.responded_at),
        "charged": micros_text(contact.contact_micros + contact.reserved),
        "with_incentive": bool(contact.face),
        "budget": contact.budget or None,
    }


def _episode(episode: Episode) -> dict[str, Any]:
    return {
        "opened_at": rfc3339(episode.opened_at),
        "trigger": episode.trigger,
        "name": episode.name or None,
        "text": episode.text,
        "from_tier": Tier(episode.origin).label,
        "to_tier": Tier(episode.target).label,
        "arm": episode.arm,
        "play": episode.play,
        "touches": episode.step,
        "rung": episode.rung if episode.rung >= 0 else None,
        "potential": episode.potential or None,
        "decided": episode.decided,
        "next_at": _at(episode.due),
        "ends_at": _at(episode.ends_at),
        "ordered_at": _at(episode.ordered_at),
        "progress": list(episode.progress),
        "proposed_at": _at(episode.proposed_at),
    }


def _at(at: int) -> str | None:
    return rfc3339(at) if 0 < at < NEVER else None


# -- what comes next ---------------------------------------------------------------------------------------------------


def foresee(customers: Customers, kept: Kept) -> list[dict[str, Any]]:
    """Run the user's own timers and decisions ahead, as if nothing else came: what would be decided, and when.

    It stops at the first touch, at a proposal, or after some months; `kept.state` is used up. Of what all users share
    budgets and playbooks stay as they are now, and sources are taken to stay up.
    """
    state, context, found = kept.state, Ahead(kept), []
    end = kept.clock + AHEAD_DAYS * DAY_MS
    up = {name: Source(end, source.trusted_from) for name, source in kept.shared.sources.items()}
    shared = replace(kept.shared, sources=up)
    for _ in range(STEPS_MAX):
        due = max(customers.next_due(state), context.clock)
        if due > end:
            break
        context.clock = due
        try:
            if customers.deciding(state):
                shared, effects = customers.decide(state, shared, due, context)
            else:
                effects = customers.wake(state, shared, due, context)
        except Exception as error:  # noqa: BLE001 - told as what it is: the worker will set the user's timers aside
            found.append(_raising(due, error))
            break
        told = list(context.take(effects))
        touches = {value["command_id"]: value for topic, value in told if "action" in value}
        found += [_decision(one, touches) for topic, one in told if topic == commands.DECISIONS]
        if touches or len(found) >= DECISIONS_MAX or any(one["outcome"] == "proposed" for one in found):
            break
    return found


def _raising(at: int, error: Exception) -> dict[str, Any]:
    """Return what is told of a timer that will raise: of the error its type alone, since its text may hold data."""
    return dict.fromkeys(_NEXT) | {
        "at": rfc3339(at),
        "outcome": "raises",
        "reason": type(error).__name__,
        "command": None,
    }


def _decision(decision: Mapping[str, Any], touches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what matters of a decision to come, with its command."""
    return {name: decision.get(name) for name in _NEXT} | {"command": touches.get(decision["command_id"])}
