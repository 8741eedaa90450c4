"""Deciding: which touch a user gets now, through all guards in their order, or why he gets none.

Of an episode the play is chosen once, at its first decision; later ones climb its rungs, or give the next step of a
task, and pass the same guards again. Every decision ends in a record with its reason. A user who is held out goes the
same way as a shadow: what would have come of it is recorded, and nothing is spent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec.structs import replace

from worker.recall import commands, value
from worker.recall.commands import Touch, Verdict
from worker.recall.days import DAY_MS, HOUR_MS, LATENESS_MS, MINUTE_MS
from worker.recall.intake import short_id
from worker.recall.lifetime.history import rhythms
from worker.recall.playbook.model import DO_NOTHING
from worker.recall.policy import budget, choice, content, costs, eligibility, episodes, ladder, quiet, subsidy
from worker.recall.policy.choice import Arm
from worker.recall.policy.episodes import Desk
from worker.recall.policy.holdout import CONTROL, uniform
from worker.recall.profile import Contact, Outcome
from worker.recall.tiers import Tier
from worker.stream.processor import NEVER, Count, Effect, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from worker.recall.lifetime.worth import Lifetime
    from worker.recall.playbook import Play
    from worker.recall.policy.catalog import Catalog
    from worker.recall.policy.choice import Priors
    from worker.recall.policy.costs import Cost
    from worker.recall.policy.ladder import Rung
    from worker.recall.profile import Episode, Profile
    from worker.recall.shop import InForce, Shared, Shop

APPROVAL_RETRY_MS: Final = 15 * MINUTE_MS
"""How often a proposed touch is looked at again."""

NO_PLAY: Final = "no play"


STEP_DONE: Final = "the step before was done"
CLIMBS: Final = {
    ladder.UNANSWERED: "the touch before was delivered and not answered",
    ladder.FAILED: "the touch before did not arrive",
}
"""Why the next rung is tried, by what became of the one before."""


class Case(NamedTuple):
    """All that a decision is taken from."""

    profile: Profile
    shared: Shared
    desk: Desk
    catalog: Catalog
    lifetime: Lifetime | None
    priors: Priors
    partition: int
    risk: Callable[[], Mapping[str, Any] | None]
    """Scores the user anew, for a command."""

    @property
    def at(self) -> int:
        return self.desk.at

    @property
    def book(self) -> InForce:
        return self.desk.book

    @property
    def shop(self) -> Shop:
        return self.desk.shop

    @property
    def episode(self) -> Episode:
        assert self.profile.episode is not None  # the caller has seen it
        return self.profile.episode

    @property
    def day(self) -> int:
        return self.shop.days.of(self.at)


class Plan(NamedTuple):
    """What is to come of a decision: a touch, or the reason why there is none now."""

    verdict: Verdict
    touch: Touch | None = None
    chosen: bool = False
    """Whether the guards before the choice were passed, so that something can be learned from what comes of it."""
    left_alone: float = 0.0
    """The probability with which nothing was chosen; in rule mode that does not happen."""


def decide(case: Case) -> tuple[Shared, list[Effect]]:
    """Settle what is open with the budgets, then decide what is due."""
    shared, effects = settle(case.profile, case.shared, case.day)
    case = case._replace(shared=shared)
    episode = case.profile.episode
    if episode is None or episodes.next_decision(episode) > case.at:
        return shared, effects
    if not episode.decided:
        shared, said = _first(case)
    else:
        shared, said = _again(case)
    return shared, effects + said


def settle(profile: Profile, shared: Shared, day: int) -> tuple[Shared, list[Effect]]:
    """Give back to the budgets what was charged and not spent, or take what was spent on top."""
    account = profile.account
    if not account.unsettled:
        return shared, []
    budgets = dict(shared.budgets)
    effects: list[Effect] = []
    for name, amounts in sorted(account.unsettled.items()):
        if name not in budgets:
            effects.append(Count("settled without a budget"))
            continue
        for amount, core in zip(amounts, (True, False), strict=True):
            if amount:
                budgets[name] = budget.settle(budgets[name], amount, core=core, day=day)
    account.unsettled, account.unsettled_at = {}, 0
    return replace(shared, budgets=budgets), effects


# -- the first decision ------------------------------------------------------------------------------------------------


def _first(case: Case) -> tuple[Shared, list[Effect]]:
    """Choose a play, or to do nothing; what holds it back is looked at again."""
    plan = _guarded(case, _choose(case))
    if case.episode.arm == CONTROL:
        return case.shared, _shadow(case, plan)
    if plan.verdict.until:
        return case.shared, _put_off(case, plan.verdict)
    return _settled(case, plan)


def _settled(case: Case, plan: Plan) -> tuple[Shared, list[Effect]]:
    """Take the first decision for good."""
    episode, touch = case.episode, plan.touch
    _decided(case, None if touch is None else touch.play)
    if touch is not None:
        _await_outcome(case, touch.play.name, episode.choice_propensity)
        return _send(case, touch, plan.verdict)
    if plan.chosen and plan.verdict.play is None:
        _await_outcome(case, DO_NOTHING, plan.left_alone)
    return case.shared, _told_once(case, plan.verdict.reason, plan.verdict)


def _decided(case: Case, play: Play | None) -> None:
    episode = case.episode
    episode.decided, episode.due = True, NEVER
    episode.play = None if play is None else play.name
    episode.ends_at = episodes.observe_until(play, case.book.playbook, case.at)


def _shadow(case: Case, plan: Plan) -> list[Effect]:
    """Record of a user who is held out what would have come of it."""
    name = plan.verdict.play
    _decided(case, None if name is None else case.book.playbook.play(name))
    if plan.chosen:
        _await_outcome(case, DO_NOTHING, plan.left_alone)
    verdict = plan.verdict._replace(outcome="suppressed", reason="holdout", shadow_outcome=plan.verdict.reason, until=0)
    return _told_once(case, plan.verdict.reason, verdict)


def _told_once(case: Case, reason: str, verdict: Verdict) -> list[Effect]:
    """Record that nothing was sent; where there is no play for the user, there is nothing to observe either."""
    effects = episodes.record(case.profile, case.episode, verdict, case.desk)
    if reason == NO_PLAY:
        case.profile.episode = None
    return effects


def _put_off(case: Case, verdict: Verdict) -> list[Effect]:
    """Look again later; a proposal is told of once, a hold each time."""
    episode = case.episode
    episode.due = verdict.until
    if verdict.outcome == "proposed":
        if episode.proposed_at:
            return []
        episode.proposed_at = case.at
    return episodes.record(case.profile, episode, verdict, case.desk)


def _await_outcome(case: Case, play: str, propensity: float) -> None:
    """Note what was done, to be learned from once it is known whether the user ordered.

    Arm and share of the holdout are those of the opening; a playbook that was adopted since may have another share, and
    other times of response.
    """
    episode, account = case.episode, case.profile.account
    due = case.at + case.book.playbook.choice.response_days * DAY_MS + LATENESS_MS
    held_out = episode.arm == CONTROL
    observed = choice.observed(play, propensity, episode.propensity if held_out else 1 - episode.propensity)
    if observed:
        outcome = Outcome(due, case.at, episode.segment, play, observed, held_out)
        account.outcomes = sorted([*account.outcomes, outcome], key=lambda outcome: outcome.due)


class Candidate(NamedTuple):
    """A play that could be played now."""

    play: Play
    rung: Rung
    variables: Mapping[str, Any]
    cost: Cost


def _choose(case: Case) -> Plan:
    """Choose among the plays that fit, can be said and reach the user."""
    profile, episode = case.profile, case.episode
    refusal = _user_refusal(case)
    if refusal is not None:
        return _refused(refusal, episode.text)
    if episode.potential == "low":
        potential = profile.account.potential
        why = "" if potential is None else potential.reason
        return _refused("low potential", f"low potential, not to be disturbed: {why}")
    candidates, left_out, reasons = _candidates(case)
    if not candidates:
        return _refused(reasons[0] if reasons else NO_PLAY, _told(left_out) or "no play fits", left_out=left_out)
    hold = _checkout_until(case)
    if hold > case.at and episode.arm != CONTROL:
        return _held("checkout", hold, "a checkout is in course")
    episode.segment = choice.segment(profile, episode)
    if case.book.playbook.choice.mode == "rule":
        episode.choice_propensity = 1.0
        first = candidates[0]
        return _planned(case, first, left_out, {}, "the first play that fits")
    return _learned(case, candidates, left_out)


def _learned(case: Case, candidates: Sequence[Candidate], left_out: Mapping[str, str]) -> Plan:
    """Choose by what has been seen to pay."""
    episode = case.episode
    worth = _value_of_return(case)
    arms = [Arm(candidate.play.name, worth, candidate.cost.total) for candidate in candidates]
    opened_at, step = episode.opened_at.to_bytes(8, "big"), episode.step.to_bytes(2, "big")
    draw = uniform(case.shop.salt, b"choice", case.profile.key, episode.trigger.encode(), opened_at, step)
    chosen = choice.choose(arms, episode.segment, case.priors, case.book.playbook.choice, draw)
    episode.choice_propensity = chosen.propensity
    left_out = {**left_out, **chosen.left_out}
    if chosen.play == DO_NOTHING:
        none_pays = len(chosen.left_out) == len(candidates)
        reason = choice.NOT_WORTH_IT if none_pays else "do nothing"
        plan = _refused(reason, chosen.reason, left_out=left_out, nets=chosen.nets)
    else:
        picked = next(candidate for candidate in candidates if candidate.play.name == chosen.play)
        plan = _planned(case, picked, left_out, chosen.nets, chosen.reason)
    return plan._replace(chosen=True, left_alone=chosen.propensities.get(DO_NOTHING, 0.0))


def _planned(
    case: Case, candidate: Candidate, left_out: Mapping[str, str], nets: Mapping[str, float], why: str
) -> Plan:
    play, rung = candidate.play, candidate.rung
    assert rung.channel is not None  # else it is no candidate
    touch = Touch(
        play,
        rung.rung,
        rung.channel,
        candidate.variables,
        candidate.cost,
        rung.passed_over,
        task=0 if play.steps else None,
    )
    return Plan(_sent(case, touch, why)._replace(left_out=left_out, nets=nets), touch, chosen=True)


def _candidates(case: Case) -> tuple[list[Candidate], dict[str, str], list[str]]:
    """Return the plays that could be played; of those that fit and cannot, why, in words and as reasons."""
    profile, episode, book = case.profile, case.episode, case.book
    found: list[Candidate] = []
    left_out: dict[str, str] = {}
    reasons: list[str] = []
    for play in _fitting(case):
        if eligibility.cools_down(profile, play, case.at):
            reason = why = "cool-down"
        else:
            rung = ladder.reachable(profile, episode, play, -1, book.playbook, case.at)
            if rung.channel is None:
                reason = why = rung.reason
            else:
                said = content.say(play, profile, episode, case.catalog, case.shop, case.at, book)
                if not isinstance(said, str):
                    cost = costs.cost(play, rung.channel, None, profile, book, _shadow_price(case, play), case.at)
                    found.append(Candidate(play, rung, said, cost))
                    continue
                reason, why = "nothing to say", said
        left_out[play.name] = why
        reasons.append(reason)
    return found, left_out, reasons


def _fitting(case: Case) -> Iterator[Play]:
    episode, standing = case.episode, case.profile.standing
    core = standing.is_core(episode.opened_at)
    for play in case.book.playbook.plays:
        if play.fits(
            trigger=episode.trigger,
            name=episode.name,
            core=core,
            origin=Tier(episode.origin),
            target=Tier(episode.target),
            tier=Tier(standing.tier),
            potential=episode.potential,
        ):
            yield play


def _value_of_return(case: Case) -> float:
    told = rhythms(case.profile, case.day + 1, case.shop.days)
    margin_rate = case.book.playbook.value.margin_rate
    categories = case.profile.taste.categories
    if categories:
        own = case.catalog.margin_rate(categories[0][0], case.at)
        margin_rate = margin_rate if own is None else own
    return choice.value_of_return(case.profile, told, case.lifetime, margin_rate, case.shop.currency)


# -- later decisions ---------------------------------------------------------------------------------------------------


def _again(case: Case) -> tuple[Shared, list[Effect]]:
    """Look at what became of the last touch: climb, give the next step of a task, or leave it at that."""
    profile, episode, shared = case.profile, case.episode, case.shared
    episode.due = NEVER
    play = None if episode.play is None else case.book.playbook.play(episode.play)
    contact = ladder.latest(profile, episode)
    if play is None or contact is None or episode.ordered_at:
        return shared, []
    if play.steps and episode.given < episode.task < len(play.steps):
        return _sent_or_recorded(case, _guarded(case, _climb(case, play, -1, STEP_DONE, task=episode.task)))
    became, reached = ladder.became(profile, contact), ladder.reached(play, contact.channel)
    shared, alarm = _listen(shared, contact, became, case)
    case = case._replace(shared=shared)
    if became == ladder.ANSWERED or ladder.is_last(play, reached):
        return shared, alarm
    if became == ladder.UNHEARD:
        verdict = Verdict("suppressed", "no feedback", "nothing was told of the last touch", play.name)
        return shared, alarm + episodes.record(profile, episode, verdict, case.desk)
    if became == ladder.UNANSWERED:
        over = contact.delivered_at + ladder.wait_ms(contact.channel, case.book.playbook)
        if over > case.at:
            episode.due = over
            return shared, alarm
    task = episode.given if play.steps else None
    shared, effects = _sent_or_recorded(case, _guarded(case, _climb(case, play, reached, CLIMBS[became], task=task)))
    return shared, alarm + effects


def _listen(shared: Shared, contact: Contact, became: str, case: Case) -> tuple[Shared, list[Effect]]:
    """Count touches in a row of which nothing at all was told: past the bound, feedback itself must be missing."""
    if contact.heard:
        return (replace(shared, unheard=0) if shared.unheard else shared), []
    if contact.unheard or became == ladder.ANSWERED:
        return shared, []
    contact.unheard = True
    shared = replace(shared, unheard=shared.unheard + 1)
    begins = shared.unheard == case.book.playbook.ladder.alarm_after
    return shared, [Count("feedback missing")] if begins else []


def _climb(  # noqa: PLR0911 - one way out for each guard
    case: Case, play: Play, after: int, why: str, *, task: int | None
) -> Plan:
    """Return the touch on the next rung after one that can be used."""
    profile, episode, book = case.profile, case.episode, case.book
    refusal = _user_refusal(case)
    if refusal is not None:
        return _refused(refusal, "", play)
    rung = ladder.reachable(profile, episode, play, after, book.playbook, case.at)
    if rung.channel is None:
        plan = _refused(rung.reason, f"the ladder ends here: {rung.reason}", play)
        return plan._replace(verdict=plan.verdict._replace(passed_over=rung.passed_over))
    hold = _checkout_until(case)
    if hold > case.at:
        return _held("checkout", hold, "a checkout is in course", play)
    said = content.say(play, profile, episode, case.catalog, case.shop, case.at, book)
    if isinstance(said, str):
        return _refused("nothing to say", said, play)
    face = None
    if play.incentive is not None and ladder.is_last(play, rung.rung):
        face, why = subsidy.incentive(profile, episode, play, rung.rung, book.playbook, case.at)
        if face is None:
            return _refused("no incentive", why, play)
        if not subsidy.share_allows(case.shared.subsidised, case.shop.days.week(case.day), book.playbook):
            return _refused("subsidy share", "too many commands of the last weeks held an incentive", play)
    cost = costs.cost(play, rung.channel, face, profile, book, _shadow_price(case, play), case.at)
    touch = Touch(play, rung.rung, rung.channel, said, cost, rung.passed_over, face=face, task=task)
    if book.playbook.choice.mode == "learned" and not _pays(case, touch):
        return _refused(choice.NOT_WORTH_IT, "the next rung costs more than it may bring", play)
    return Plan(_sent(case, touch, why), touch)


def _pays(case: Case, touch: Touch) -> bool:
    """Tell whether a touch on a higher rung may still pay."""
    added = case.priors.added(case.episode.segment, touch.play.name)
    return added.high * _value_of_return(case) > touch.cost.total


def _sent_or_recorded(case: Case, plan: Plan) -> tuple[Shared, list[Effect]]:
    if plan.verdict.until:
        return case.shared, _put_off(case, plan.verdict)
    if plan.touch is None:
        return case.shared, episodes.record(case.profile, case.episode, plan.verdict, case.desk)
    return _send(case, plan.touch, plan.verdict)


# -- guards that all touches pass --------------------------------------------------------------------------------------


def _user_refusal(case: Case) -> str | None:
    """Return why the user must not be touched at all, or None."""
    said = eligibility.forbids(case.profile)
    if said is not None:
        return said
    return "cap" if eligibility.capped(case.profile, case.book.playbook, case.at) else None


def _checkout_until(case: Case) -> int:
    """Return until when a checkout in course holds messages back; 0 where none is."""
    began = case.profile.checkout_at
    return began + case.book.playbook.checkout.hold_hours * HOUR_MS if began else 0


def _guarded(case: Case, plan: Plan) -> Plan:
    """Let what was planned pass the guards of money, people and time, and whether anything may leave at all.

    A shadow is not held back: what is of interest is whether the touch would have come, not when.
    """
    touch = plan.touch
    if touch is None:
        return plan
    short = _short_of(case, touch)
    if short is not None:
        return _stopped(plan, "suppressed", short, f"{short} for {touch.play.name}")
    shadow = case.episode.arm == CONTROL
    if not shadow:
        timezone = case.profile.account.timezone or case.shop.days.timezone
        over = quiet.until(case.at, touch.channel, timezone, case.book.playbook)
        if over > case.at:
            return _stopped(plan, "held", "quiet hours", "quiet hours of the user", until=over)
    if not _approved(case, touch.play):
        since = case.episode.proposed_at or case.at
        if case.at >= since + touch.play.valid_days * DAY_MS:
            return _stopped(plan, "suppressed", "not approved", f"nobody approved {touch.play.name} in time")
        text = f"{touch.play.name} waits for approval"
        return _stopped(plan, "proposed", "proposed", text, until=case.at + APPROVAL_RETRY_MS)
    barred = _barred(case, touch.play)
    return plan if barred is None else _stopped(plan, "suppressed", barred, plan.verdict.text)


def _short_of(case: Case, touch: Touch) -> str | None:
    """Return what there is not enough of for the touch, or None."""
    direct = touch.cost.direct
    if direct:
        rules, granted = case.book.playbook.budgets, case.shared.budgets.get(touch.play.budget)
        core = case.profile.standing.is_core(case.at)
        if budget.room(granted, core=core, core_share=rules.core_share, at=case.at, day=case.day) < direct:
            return "no budget"
    if touch.channel == "human":
        per_day = case.book.playbook.ladder.human_per_day
        left = budget.people_left(
            case.shared.human, per_day, partition=case.partition, partitions=case.shop.partitions, day=case.day
        )
        if not left:
            return "capacity"
    return None


def _approved(case: Case, play: Play) -> bool:
    if not play.approval:
        return True
    until = case.shared.approved.get(play.name)
    return until is not None and (not until or case.at < until)


def _barred(case: Case, play: Play) -> str | None:
    """Return why nothing may leave now, or None."""
    at, shop = case.at, case.shop
    if at < shop.live_from:
        return "before launch"
    not_after = _not_after(case, play)
    if any(clock <= at and not_after < wall for clock, wall in case.shared.resumed):
        return "stale"
    if case.shared.stopped:
        return "stopped"
    return "dry run" if shop.dry_run else None


def _not_after(case: Case, play: Play) -> int:
    """Return until when a touch may be delivered: not beyond its episode, since no order would call it back then."""
    ends_at = case.episode.ends_at or episodes.observe_until(play, case.book.playbook, case.at)
    return min(case.at + play.valid_days * DAY_MS, ends_at)


def _shadow_price(case: Case, play: Play) -> float:
    granted = case.shared.budgets.get(play.budget)
    return 0.0 if granted is None else granted.shadow_price


# -- sending -----------------------------------------------------------------------------------------------------------


def _send(case: Case, touch: Touch, verdict: Verdict) -> tuple[Shared, list[Effect]]:
    """Charge the touch, remember it, and write the command."""
    profile, episode, play, at = case.profile, case.episode, touch.play, case.at
    episode.command_id = commands.command_id(profile, episode, play.name)
    episode.not_after = _not_after(case, play)
    episode.channel, episode.purpose = touch.channel, play.purpose
    episode.rung, episode.proposed_at = touch.rung, 0
    if touch.task is not None:
        episode.given = touch.task
    episode.due = at + ladder.wait_ms(touch.channel, case.book.playbook)
    touch = touch._replace(escalate_after=0 if ladder.is_last(play, touch.rung) else episode.due)
    core = profile.standing.is_core(at)
    contact = Contact(
        at,
        touch.channel,
        play.name,
        episode.step,
        touch.rung,
        short_id(episode.command_id),
        contact_micros=touch.cost.contact,
        incentive_micros=touch.cost.incentive,
        face=0 if touch.face is None else touch.face + 1,
        budget=play.budget,
        core=core,
    )
    profile.account.contacts = [*profile.account.contacts, contact]
    shared = _charged(case, touch, core=core)
    effects: list[Effect] = [
        _command(case, touch),
        Count(f"command.{play.name}"),
        *costs.booked(play.name, touch.cost),
        *episodes.record(profile, episode, verdict._replace(until=touch.escalate_after), case.desk),
    ]
    episode.step += 1
    return shared, effects


def _charged(case: Case, touch: Touch, *, core: bool) -> Shared:
    shared, week = case.shared, case.shop.days.week(case.day)
    budgets = shared.budgets
    if touch.cost.direct:
        name, share = touch.play.budget, case.book.playbook.budgets.core_share
        charged = budget.charge(budgets[name], touch.cost.direct, core=core, core_share=share, at=case.at, day=case.day)
        budgets = {**budgets, name: charged}
    human = shared.human
    if touch.channel == "human":
        human = (case.day, (human[1] if human[0] == case.day else 0) + 1)
    subsidised = subsidy.after_sending(shared.subsidised, week, incentive=touch.face is not None)
    return replace(shared, budgets=budgets, human=human, subsidised=subsidised)


def _command(case: Case, touch: Touch) -> Output:
    values = value.rfm_of(case.profile, case.at, case.shop.days)
    assert values is not None  # an episode follows an order
    return commands.command(
        case.profile,
        case.episode,
        touch,
        case.at,
        shop=case.shop,
        rfm=values,
        risk=case.risk(),
        lifetime=case.lifetime,
        margin_rate=case.book.playbook.value.margin_rate,
        versions=case.desk.versions,
    )


# -- verdicts ----------------------------------------------------------------------------------------------------------


def _sent(case: Case, touch: Touch, why: str) -> Verdict:
    channel, play = touch.channel, touch.play.name
    return Verdict(
        "sent",
        "sent",
        f"{channel} {play}: {case.episode.text}; {why}",
        play,
        channel,
        touch.rung,
        passed_over=touch.passed_over,
        cost=touch.cost,
        budget=touch.budget,
    )


def _stopped(plan: Plan, outcome: str, reason: str, text: str, until: int = 0) -> Plan:
    """Return the plan without its touch; what it would have been is still told."""
    return plan._replace(
        touch=None, verdict=plan.verdict._replace(outcome=outcome, reason=reason, text=text, until=until)
    )


def _refused(
    reason: str,
    text: str,
    play: Play | None = None,
    *,
    left_out: Mapping[str, str] | None = None,
    nets: Mapping[str, float] | None = None,
) -> Plan:
    name = None if play is None else play.name
    verdict = Verdict("suppressed", reason, text or reason, name, left_out=left_out or {}, nets=nets or {})
    return Plan(verdict)


def _held(reason: str, until: int, text: str, play: Play | None = None) -> Plan:
    return Plan(Verdict("held", reason, text, None if play is None else play.name, until=until))


def _told(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{play}: {why}" for play, why in left_out.items())
