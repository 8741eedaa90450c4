"""One user's story: opened when his value drops, decided once, observed until it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.recall import commands
from worker.recall.profile import Episode, Profile
from worker.recall.tiers import Tier, Transition
from worker.stream.processor import Count, Effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.recall.playbook import Play, Playbook
    from worker.recall.policy.holdout import Holdout
    from worker.recall.shop import Shop

TIER_DROP = "tier_drop"
NEVER_OPENS = frozenset({"recut"})
"""Causes of a drop that lie with the shop, not with the user."""


def opens(profile: Profile, transition: Transition) -> bool:
    """Tell whether the change of tier opens an episode: a drop does, unless one is open.

    To be new again is no drop: it tells of an order that was none.
    """
    falls = transition.drop and transition.target is not Tier.NEW
    return falls and transition.cause not in NEVER_OPENS and profile.episode is None


def open_episode(profile: Profile, transition: Transition, at: int, holdout: Holdout, day: int) -> Episode:
    """Open an episode; it is decided once the clock has passed `at`. The arm is frozen here."""
    arm = holdout.arm(profile.key, day)
    return Episode(
        opened_at=transition.at,
        trigger=TIER_DROP,
        cause=transition.cause,
        origin=int(transition.origin),
        target=int(transition.target),
        fell=transition.fell,
        before=transition.before,
        after=transition.after,
        arm=arm,
        due=at,
        propensity=holdout.propensity(arm),
    )


def choose(profile: Profile, episode: Episode, playbook: Playbook) -> Play | None:
    """Return the first play that fits."""
    core = profile.standing.is_core(episode.opened_at)
    for play in playbook.plays:
        if play.fits(
            trigger=episode.trigger,
            core=core,
            origin=Tier(episode.origin),
            target=Tier(episode.target),
            tier=Tier(profile.standing.tier),
        ):
            return play
    return None


def end(
    profile: Profile,
    at: int,
    reason: str,
    *,
    shop: Shop,
    versions: Mapping[str, object],
    outcome: str = "ended",
) -> list[Effect]:
    """End the open episode; a touch that may still be under way is cancelled."""
    episode = profile.episode
    assert episode is not None  # the caller has seen it
    effects: list[Effect] = [
        commands.decision(
            profile, episode, at, outcome=outcome, reason=reason, play=None, versions=versions, offsets={}
        ),
        Count(f"episode.{reason}"),
    ]
    if episode.command_id is not None and at <= episode.not_after and reason != "expired":
        effects.append(commands.cancellation(profile, episode, at, reason, shop))
        effects.append(Count("cancelled"))
    profile.episode = None
    return effects
