"""From channel to channel: what became of a touch, and whether the next rung may be tried.

Up it goes only where a touch was told delivered and was not answered within its rung's time. An answer is a click, a
visit, a conversion, or anything that the user does himself; an opening is none, since mail programs open by themselves.
A touch that did not arrive is no touch without an answer: nothing escalates on its account, but the next rung may take
its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from schemas.feedback import Status
from schemas.values import Channel
from worker.recall.days import DAY_MS
from worker.recall.intake import short_id
from worker.recall.policy.costs import booked_actual, redeemed
from worker.recall.policy.eligibility import channel_refusal
from worker.recall.policy.episodes import unsettled
from worker.recall.tiers import Tier

if TYPE_CHECKING:
    from worker.recall.bodies import Feedback
    from worker.recall.playbook import Play, Playbook
    from worker.recall.profile import Contact, Episode, Profile
    from worker.stream.processor import Count

BITS: Final[dict[str, int]] = {status: 1 << place for place, status in enumerate(get_args(Status))}
ANSWERS: Final = frozenset({"clicked", "visited", "converted"})
NOT_DELIVERED: Final = BITS["bounced"] | BITS["failed"]
ARRIVAL: Final = BITS["delivered"] | NOT_DELIVERED
"""Whether it arrived: what tells it first tells what the contact cost."""
RESERVED: Final = frozenset({"sms", "human"})
"""Rungs for the highest value alone, after two touches without an answer."""
RESERVED_AFTER: Final = 2

_ORDER: Final[dict[str, int]] = {channel: place for place, channel in enumerate(get_args(Channel))}
"""Of the channels, as every play has them."""

ANSWERED, UNANSWERED, FAILED, UNHEARD = "answered", "unanswered", "failed", "unheard"


def touch_of(profile: Profile, command_id: str) -> Contact | None:
    """Return the touch that a command was; None where it is not remembered."""
    short = short_id(command_id)
    return next((contact for contact in reversed(profile.account.contacts) if contact.id == short), None)


def latest(profile: Profile, episode: Episode) -> Contact | None:
    """Return the last touch of an episode."""
    return None if episode.command_id is None else touch_of(profile, episode.command_id)


def wait_ms(channel: str, playbook: Playbook) -> int:
    """Return how long after its delivery an answer to a touch is waited for."""
    days = next(days for rung, days in playbook.ladder.wait_days.items() if rung == channel)
    return days * DAY_MS


def heard(profile: Profile, body: Feedback, at: int, clock: int, playbook: Playbook) -> bool:
    """Take what a channel tells of a touch; tell whether it is one that is remembered."""
    contact = touch_of(profile, body.command_id)
    if contact is None:
        return False
    bit, costs = BITS[body.status], _tells_cost(contact, body)
    first = not contact.heard & bit
    contact.heard |= bit
    if body.status == "delivered":
        contact.delivered_at = contact.delivered_at or at
    if body.status in ANSWERS:
        contact.responded_at = contact.responded_at or at
    if costs:
        _settle(profile, contact, body, clock, playbook)
    episode = profile.episode
    if episode is not None and episode.decided and not episode.ordered_at and contact is latest(profile, episode):
        if body.status == "delivered" and first:
            if episode.task <= episode.given:  # else the next step is due already
                episode.due = contact.delivered_at + wait_ms(contact.channel, playbook)
        elif bit & NOT_DELIVERED and first and not contact.delivered_at:
            episode.due = clock
    return True


def _tells_cost(contact: Contact, body: Feedback) -> bool:
    """Tell whether this says first what the contact, or its incentive, did cost; what says it again changes nothing."""
    bit = BITS[body.status]
    if body.status == "converted":
        return not contact.heard & bit
    return bool(bit & ARRIVAL) and not contact.heard & ARRIVAL


def _settle(profile: Profile, contact: Contact, body: Feedback, clock: int, playbook: Playbook) -> None:
    """Put what the touch did cost in the place of what was expected.

    An incentive that is used costs its face value, not the share of it that was expected of all who got it; also where
    its episode is over, often by the very order that it was used for.
    """
    if body.status == "converted":
        actual = redeemed(contact, playbook) if body.cost_micros is None else body.cost_micros
        unsettled(profile, contact.budget, contact.reserved - actual, clock, core=contact.core)
        contact.incentive_micros = 0
    elif body.cost_micros is not None:
        unsettled(profile, contact.budget, contact.contact_micros - body.cost_micros, clock, core=contact.core)
        contact.contact_micros = body.cost_micros


def booked(profile: Profile, body: Feedback) -> list[Count]:
    """Return what the ledger takes of feedback that `heard` is about to take: money that has left, told once."""
    contact = touch_of(profile, body.command_id)
    if contact is None or not body.cost_micros or not _tells_cost(contact, body):
        return []
    return [booked_actual(contact.play, body.cost_micros)]


def became(profile: Profile, contact: Contact) -> str:
    """Say what became of a touch."""
    if contact.responded_at or profile.active_at > contact.at:
        return ANSWERED
    if contact.delivered_at:
        return UNANSWERED
    return FAILED if contact.heard & NOT_DELIVERED else UNHEARD


class Rung(NamedTuple):
    """A rung that can be used, or, where `channel` is None, why there is none."""

    rung: int
    channel: str | None
    passed_over: tuple[tuple[str, str], ...]
    reason: str = ""


def reachable(profile: Profile, episode: Episode, play: Play, after: int, playbook: Playbook, at: int) -> Rung:
    """Return the first rung after one (-1: from the first on) that the user can be reached on.

    Rungs are passed over for want of consent or reach, or for a channel's cap, and for nothing else: one that is kept
    for others ends the ladder.
    """
    passed_over: list[tuple[str, str]] = []
    for rung, channel in enumerate(play.rungs):
        if rung <= after:
            continue
        reason = _kept(profile, episode, channel, playbook)
        if reason is not None:
            return Rung(rung, None, tuple(passed_over), reason)
        refusal = channel_refusal(profile, channel, play.purpose, playbook, at)
        if refusal is None:
            return Rung(rung, channel, tuple(passed_over))
        passed_over.append((channel, refusal))
    reasons = {reason for _, reason in passed_over}
    reason = reasons.pop() if len(reasons) == 1 else "no reach"
    return Rung(len(play.rungs), None, tuple(passed_over), "cap" if reason == "channel cap" else reason)


def _kept(profile: Profile, episode: Episode, channel: str, playbook: Playbook) -> str | None:
    """Return why a channel is kept for others, or None."""
    if episode.potential == "middle" and channel not in playbook.potential.middle_rungs:
        return "middle potential"
    if channel not in RESERVED:
        return None
    if not is_top(profile, episode, playbook):
        return "not of the highest value"
    return None if without_answer(profile, episode) >= RESERVED_AFTER else "too early on the ladder"


def is_top(profile: Profile, episode: Episode, playbook: Playbook) -> bool:
    """Tell whether the user is of the highest value: by potential where he is silent, else by his tiers."""
    top = playbook.ladder.top
    if episode.potential:
        return episode.potential in top.potential
    tiers = {Tier(profile.standing.tier).label, Tier(episode.origin).label}
    return not tiers.isdisjoint(top.tiers)


def without_answer(profile: Profile, episode: Episode) -> int:
    """Count the touches of an episode that were delivered and not answered."""
    return sum(
        contact.at >= episode.opened_at and became(profile, contact) == UNANSWERED
        for contact in profile.account.contacts
    )


def reached(play: Play, channel: str) -> int:
    """Return the play's highest rung up to a channel; -1 where all are above it.

    It is the channel's own, but where a playbook that was adopted meanwhile has other rungs: no channel comes twice.
    """
    return sum(_ORDER[rung] <= _ORDER[channel] for rung in play.rungs) - 1


def is_last(play: Play, rung: int) -> bool:
    return rung + 1 >= len(play.rungs)
