"""An episode: one story of a user, opened by what calls for a decision, observed until it is won or over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall import commands
from worker.recall.commands import Verdict
from worker.recall.days import DAY_MS
from worker.recall.policy.openings import GRADE, SILENCE, TIER_REACHED
from worker.recall.profile import DECISIONS_KEPT, HALF_HOUR_MS, Decided, Episode, Profile
from worker.recall.shop import Track
from worker.recall.windows import ORDER, SESSION
from worker.stream.processor import NEVER, Count, Effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.recall.playbook import Play, Playbook
    from worker.recall.policy.holdout import Holdout
    from worker.recall.policy.openings import Opening
    from worker.recall.shop import InForce, Shop

ONE_ORDER: Final = Track(((ORDER, 1),), ())
"""What wins an episode in which no play was chosen."""
SILENT_ENDS: Final = frozenset({"lost", "expired"})
"""Ends by time, when that of every touch is over too."""


class Desk(NamedTuple):
    """What every record of an episode needs to say."""

    shop: Shop
    book: InForce
    versions: Mapping[str, object]
    at: int
    """The clock."""
    offsets: Mapping[str, int] = {}
    """Known to decisions alone."""


# -- how it begins -----------------------------------------------------------------------------------------------------


def begin(profile: Profile, opening: Opening, at: int, holdout: Holdout, day: int) -> Episode:
    """Return the episode of an opening; it is decided once the clock has passed `at`. The arm is frozen here."""
    arm = holdout.arm(profile.key, day)
    potential = profile.account.potential
    return Episode(
        opened_at=opening.at,
        trigger=opening.trigger,
        cause=opening.cause,
        origin=opening.origin,
        target=opening.target,
        fell=opening.fell,
        before=opening.before,
        after=opening.after,
        arm=arm,
        due=at,
        propensity=holdout.propensity(arm),
        name=opening.name,
        potential="" if potential is None else potential.level,
        text=opening.text,
    )


def opened(profile: Profile, opening: Opening, desk: Desk) -> list[Effect]:
    """Let an opening begin an episode, in the place of a milder one; while a graver one is open, record it.

    What no play of the playbook opens on is no opening.
    """
    if opening.trigger not in desk.book.triggers:
        return []
    new = begin(profile, opening, desk.at, desk.book.holdout, desk.shop.days.of(opening.at))
    current = profile.episode
    effects: list[Effect] = []
    if current is not None:
        if GRADE[current.trigger] >= GRADE[opening.trigger]:
            verdict = Verdict("suppressed", "episode open", f"an episode by {current.trigger} is open")
            return record(profile, new, verdict, desk)
        new.arm, new.propensity = current.arm, current.propensity
        effects = end(profile, "upgraded", desk)
    profile.episode = new
    return effects


# -- what happens meanwhile --------------------------------------------------------------------------------------------


def next_decision(episode: Episode) -> int:
    """Return when something is decided next; rows from before the ladder were decided once."""
    return NEVER if episode.decided and not episode.ends_at else episode.due


def ends(episode: Episode) -> int:
    """Return until when the episode is observed, once it is decided."""
    if not episode.decided:
        return NEVER
    return episode.ends_at or episode.due


def under_way(episode: Episode, at: int) -> bool:
    """Tell whether a touch may still reach the user."""
    return episode.command_id is not None and at <= episode.not_after


def preventable(episode: Episode, at: int) -> bool:
    """Tell whether an activity at this time lies before the silence that it comes too late to prevent."""
    return episode.cause == SILENCE and at <= episode.opened_at


def voided_by_order(episode: Episode, at: int) -> bool:
    """Tell whether an order at this time comes too late to prevent the episode; those that lead up it does not."""
    return at <= episode.opened_at and GRADE[episode.trigger] > GRADE[TIER_REACHED]


def track(episode: Episode, book: InForce) -> Track:
    """Return what the episode's play asks for; where there is none, an order wins."""
    return ONE_ORDER if episode.play is None else book.tracks.get(episode.play, ONE_ORDER)


def acted(episode: Episode, channel: int | None, at: int, clock: int, book: InForce) -> bool:
    """Count what the user did to the track, and to the step that he was given; tell whether the track is complete."""
    if at <= episode.opened_at:
        return False
    session = at - episode.seen_at > HALF_HOUR_MS
    episode.seen_at = max(at, episode.seen_at)
    if channel is None and not session:
        return False
    items, steps = track(episode, book)
    size = len(items) + 1  # the last one counts for the step
    progress = episode.progress
    if len(progress) != size:  # a playbook that was adopted meanwhile asks for something else: that begins anew
        progress = episode.progress = [0] * size
    counted = False
    for i, (wanted, _) in enumerate(items):
        if wanted == channel or (session and wanted == SESSION):
            progress[i] += 1
            counted = True
    if episode.step and episode.task < len(steps):
        wanted, count = steps[episode.task]
        if wanted == channel or (session and wanted == SESSION):
            progress[-1] += 1
            if progress[-1] >= count:
                _next_step(episode, len(steps), clock)
    return counted and all(done >= count for done, (_, count) in zip(progress, items, strict=False))


def _next_step(episode: Episode, steps: int, clock: int) -> None:
    """Have the next step of a task given, if there is one and no order has come."""
    episode.progress[-1] = 0
    episode.task += 1
    if episode.task < steps and not episode.ordered_at:
        episode.due = clock


def ordered(profile: Profile, at: int, desk: Desk) -> list[Effect]:
    """Call back what is under way and send nothing more; the episode goes on until its track is complete.

    One that nothing was decided on yet ends with the order. An order from before the opening has led up to it, and
    changes nothing.
    """
    episode = profile.episode
    assert episode is not None  # the caller has seen it
    if at <= episode.opened_at:
        return []
    if not episode.decided:
        return end(profile, "ordered", desk)
    effects = call_back(profile, episode, "ordered", desk)
    episode.ends_at = ends(episode)
    episode.ordered_at = episode.ordered_at or at
    episode.due = NEVER
    if acted(episode, ORDER, at, desk.at, desk.book):
        effects += end(profile, "won", desk)
    return effects


def order_cancelled(episode: Episode, ordered_at: int, book: InForce) -> None:
    """Take an order off the track; nothing more is sent all the same."""
    for i, (wanted, _) in enumerate(track(episode, book).items):
        if wanted == ORDER and ordered_at > episode.opened_at and i < len(episode.progress):
            episode.progress[i] = max(0, episode.progress[i] - 1)


def call_back(profile: Profile, episode: Episode, reason: str, desk: Desk) -> list[Effect]:
    """Cancel a touch that may still be under way."""
    if not under_way(episode, desk.at):
        return []
    episode.not_after = 0
    return [commands.cancellation(profile, episode, desk.at, reason, desk.shop), Count("cancelled")]


# -- how it ends -------------------------------------------------------------------------------------------------------


def end(profile: Profile, reason: str, desk: Desk) -> list[Effect]:
    """End the open episode; a touch that may still be under way is cancelled, an incentive not used is given back."""
    episode = profile.episode
    assert episode is not None  # the caller has seen it
    verdict = Verdict("void" if reason == "void" else "ended", reason, play=episode.play)
    effects = [*record(profile, episode, verdict, desk), Count(f"episode.{reason}")]
    if episode.play is not None:
        effects.append(Count(f"ended.{episode.arm}.{episode.play}.{reason}"))
    if reason not in SILENT_ENDS:
        effects += call_back(profile, episode, reason, desk)
    give_back(profile, episode, desk.at)
    profile.episode = None
    return effects


def time_over(episode: Episode) -> str:
    """Return the reason for an end by time alone."""
    return "lost" if episode.step else "expired"


def give_back(profile: Profile, episode: Episode, at: int) -> None:
    """Return to the budgets what was reserved for incentives of this episode that nobody has used so far."""
    for contact in profile.account.contacts:
        if contact.at >= episode.opened_at and contact.reserved:
            unsettled(profile, contact.budget, contact.reserved, at, core=contact.core)
            contact.returned = True


def unsettled(profile: Profile, budget: str, micros: int, at: int, *, core: bool) -> None:
    """Note money that a budget gets back (below 0: that it has to give), until the next decision."""
    account = profile.account
    if not micros:
        return
    of_core, of_others = account.unsettled.get(budget, (0, 0))
    amounts = (of_core + micros, of_others) if core else (of_core, of_others + micros)
    account.unsettled = {**account.unsettled, budget: amounts}
    account.unsettled_at = account.unsettled_at or at


def record(profile: Profile, episode: Episode, verdict: Verdict, desk: Desk) -> list[Effect]:
    """Write a decision, and remember it in the row."""
    account = profile.account
    remembered = Decided(desk.at, verdict.outcome, verdict.reason, verdict.play or "", verdict.channel or "")
    account.decided = [*account.decided, remembered][-DECISIONS_KEPT:]
    effects: list[Effect] = [
        commands.decision(
            profile, episode, desk.at, verdict, shop=desk.shop, versions=desk.versions, offsets=desk.offsets
        )
    ]
    if verdict.outcome == "proposed":
        effects.append(Count(f"proposed.{verdict.play}"))
    elif verdict.outcome in {"suppressed", "held"}:
        effects.append(Count(f"{verdict.outcome}.{verdict.reason}"))
    return effects


def observe_until(play: Play | None, playbook: Playbook, at: int) -> int:
    """Return until when an episode is observed whose play was chosen at a time."""
    days = playbook.observe_days if play is None else playbook.within_days(play)
    return at + days * DAY_MS
