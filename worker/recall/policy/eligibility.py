"""Whether a user may be touched: at all, on a channel, and by a play again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.recall.days import DAY_MS, LATENESS_MS
from worker.recall.policy.costs import FATIGUE_DAYS

if TYPE_CHECKING:
    from schemas.values import Channel
    from worker.recall.playbook import Cap, Play, Playbook
    from worker.recall.profile import Contact, Profile

INCENTIVE_DAYS: Final = 365
"""So long an incentive is remembered, so that the next one is not smaller than what is enough."""


def forbids(profile: Profile) -> str | None:
    """Return what the user or the shop has said against every touch, or None."""
    if profile.account.excluded:
        return "excluded"
    if profile.account.opted_out:
        return "opted out"
    return "profiling opt-out" if profile.account.profiling_opted_out else None


def allows(profile: Profile, channel: str, purpose: str, playbook: Playbook) -> bool:
    """Tell whether the user has consented to such a message, or may be assumed to."""
    return profile.account.consent.get(f"{channel}:{purpose}", playbook.consent.unknown == "allow")


def capped(profile: Profile, playbook: Playbook, at: int) -> bool:
    """Tell whether one more touch at this time, on any channel, would be above the user's cap."""
    return _full(profile, playbook.caps.user, at)


def channel_refusal(profile: Profile, channel: Channel, purpose: str, playbook: Playbook, at: int) -> str | None:
    """Return why the channel must not be used for the user at this time, or None."""
    if not allows(profile, channel, purpose, playbook):
        return "no consent"
    if channel in profile.account.unreachable:
        return "unreachable"
    cap = playbook.caps.channel.get(channel)
    return "channel cap" if cap is not None and _full(profile, cap, at, channel) else None


def cools_down(profile: Profile, play: Play, at: int) -> bool:
    """Tell whether it is too early to begin a play again that the user was touched by.

    Within its cool-down there are as many days as since the latest touch by it: at their end it may begin.
    """
    since = at - play.cool_down_days * DAY_MS
    return any(contact.play == play.name and contact.at > since for contact in profile.account.contacts)


def _full(profile: Profile, cap: Cap, at: int, channel: str | None = None) -> bool:
    """Tell whether the rolling window that ends at `at` is full.

    A touch is in it until just before the days have passed: then another may take its place. So no stretch of time of
    that length, wherever it begins, has more touches than the cap.
    """
    since = at - cap.days * DAY_MS
    touches = 0
    for contact in profile.account.contacts:
        touches += contact.at > since and channel in {None, contact.channel}
    return touches >= cap.touches


def kept(contacts: list[Contact], playbook: Playbook, at: int, days: int) -> list[Contact]:
    """Return the touches that a guard still looks back to, or that are younger than so many days."""
    caps, incentives = playbook.caps, max(INCENTIVE_DAYS, playbook.subsidy.cool_down_days)
    reach = max(
        days,
        FATIGUE_DAYS,
        caps.user.days,
        *(cap.days for cap in caps.channel.values()),
        *(play.cool_down_days for play in playbook.plays),
    )
    now = at - LATENESS_MS
    oldest, oldest_incentive = now - reach * DAY_MS, now - max(reach, incentives) * DAY_MS
    return [contact for contact in contacts if contact.at > (oldest_incentive if contact.face else oldest)]
