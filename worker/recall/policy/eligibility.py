"""Whether a user may be touched at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.recall.days import DAY_MS

if TYPE_CHECKING:
    from worker.recall.playbook import Cap, Play, Playbook
    from worker.recall.profile import Contact, Profile


def forbids(profile: Profile, channel: str, purpose: str, playbook: Playbook) -> str | None:
    """Return what the user or the shop has said against such a touch, or None."""
    if profile.account.excluded:
        return "excluded"
    if profile.account.opted_out:
        return "opted out"
    if profile.account.profiling_opted_out:
        return "profiling opt-out"
    if not profile.account.consent.get(f"{channel}:{purpose}", playbook.consent.unknown == "allow"):
        return "no consent"
    return None


def refusal(profile: Profile, play: Play, playbook: Playbook, at: int) -> str | None:
    """Return why the play must not reach the user at this time, or None."""
    said = forbids(profile, play.rungs[0], play.purpose, playbook)
    if said is not None:
        return said
    caps = playbook.caps
    cap = caps.channel.get(play.rungs[0])
    on_channel = [contact for contact in profile.account.contacts if contact.channel == play.rungs[0]]
    if _reached(caps.user, profile.account.contacts, at) or (cap is not None and _reached(cap, on_channel, at)):
        return "cap"
    return None


def _reached(cap: Cap, contacts: list[Contact], at: int) -> bool:
    """Tell whether the rolling window that ends at `at` is full."""
    since = at - cap.days * DAY_MS
    return sum(contact.at > since for contact in contacts) >= cap.touches
