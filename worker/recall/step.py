"""The customers, as a processor of the stream: what each record, timer, decision and directive does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
from msgspec.structs import replace

from schemas.topics import TRAINING
from worker.recall import commands, intake, lessons, tiers, value
from worker.recall.bodies import (
    Activity,
    AdoptPlaybook,
    AdoptSnapshot,
    App,
    Approve,
    Cancel,
    Feedback,
    Grant,
    Heartbeat,
    Order,
    ProfileUpdate,
    Refund,
    Resume,
    Resumed,
    Stop,
)
from worker.recall.days import DAY_MS, HOUR_MS, LATENESS_MS
from worker.recall.events import parse
from worker.recall.lifetime.history import Rhythms, rhythms
from worker.recall.policy import budget, deciding, eligibility, episodes, ladder, openings, potential
from worker.recall.policy.catalog import Catalog
from worker.recall.policy.choice import priors_of
from worker.recall.policy.deciding import Case
from worker.recall.policy.episodes import Desk
from worker.recall.policy.holdout import CONTROL, uniform
from worker.recall.profile import MOVES_KEPT, VERSION, Move, Profile
from worker.recall.risk import explain, features, labels
from worker.recall.risk.labels import Forecast, Sighting
from worker.recall.shop import RESUMPTIONS_KEPT, InForce, Shared, Shop, Source
from worker.recall.tiers import Tier, Transition
from worker.recall.windows import MESSAGE_CLICK
from worker.stream.processor import NEVER, Attach, Context, Count, Directive, Effect, Output, Parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.recall.lifetime.worth import Lifetime
    from worker.recall.playbook import Playbook
    from worker.recall.policy.choice import Priors
    from worker.recall.policy.openings import Opening
    from worker.recall.risk.scorer import Scorer

HELD_RETRY_MS = HOUR_MS
"""How often a silence that is held back is looked at again."""
VISIT_DAYS: Final = 7
SUMMARY_DAYS: Final = 28
SOON_MS: Final = 8 * DAY_MS
"""The next weekly visit is nearer, whatever the clocks do."""
LAPSED: Final = -1
SILENT: Final = int(Tier.SILENT)
NOTHING: Final[tuple[Effect, ...]] = ()


class Customers:
    """`Processor[Profile, Shared]`.

    `models` maps horizon and version of the model to what scores with it, or to None where it is refused; the driver
    may add to it, and to `catalog`, while the worker runs. The first of `playbooks` is in force until a directive says
    otherwise.
    """

    version = VERSION

    def __init__(
        self,
        shop: Shop,
        playbooks: Sequence[Playbook],
        models: Mapping[tuple[int, int], Scorer | None],
        catalog: Catalog | None = None,
    ) -> None:
        self.shop = shop
        self.earlier: Mapping[int, Callable[[bytes], Profile]] = {}
        self._days = shop.days
        self._currency = shop.currency
        self._playbooks = {book.version: InForce.of(book, shop) for book in playbooks}
        self._first = playbooks[0].version
        self._models = models
        self._catalog = Catalog() if catalog is None else catalog
        self._recuts: dict[tuple[str, int], InForce] = {}
        self._decode = msgspec.msgpack.Decoder(Profile).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_shared = msgspec.msgpack.Decoder(Shared).decode

    def knows(self, playbook: str) -> bool:
        """Tell whether a version of the playbook is among those given."""
        return playbook in self._playbooks

    # -- rows ----------------------------------------------------------------------------------------------------------

    def parse(self, topic: str, key: bytes | None, value: bytes | None, recorded_at: int) -> Parsed:
        return parse(topic, key, value, recorded_at, self._currency)

    def new(self, key: bytes) -> Profile:
        return Profile(key=key, due=NEVER, silence_due=NEVER, other_due=NEVER)

    def decode(self, body: bytes) -> Profile:
        return self._decode(body)

    def encode(self, state: Profile) -> bytes:
        state.seal()
        return self._encode(state)

    def next_due(self, state: Profile) -> int:
        return state.due

    def deciding(self, state: Profile) -> bool:
        """Tell whether a decision comes next; at the same time, it comes after all else."""
        return self._decision_due(state) < min(state.silence_due, self._quiet_due(state))

    # -- records -------------------------------------------------------------------------------------------------------

    def apply(  # noqa: PLR0911 - the most frequent first
        self, state: Profile, shared: Shared, at: int, body: object, context: Context
    ) -> Sequence[Effect]:
        if state.erased:
            return (Count("erased"),)
        if type(body) is Activity:
            counted = intake.activity(state, body, at, context.clock, self._days)
            if counted is not None:
                return (Count(counted),)
            if state.episode is not None:
                return self._acted(state, shared, body.channel, at, context)
            if state.orders:
                return self._was_active(state, shared, at, context)
            return NOTHING
        if type(body) in {Order, Refund, Cancel}:
            return [*self._recut(state, shared, context), *self._applied(state, shared, at, body, context)]
        return self._applied(state, shared, at, body, context)

    def _applied(  # noqa: PLR0911 - a way out for every body
        self, state: Profile, shared: Shared, at: int, body: object, context: Context
    ) -> Sequence[Effect]:
        """Take what comes seldom."""
        clock, days = context.clock, self._days
        if type(body) is Order:
            counted = intake.order(state, body, at, clock, days)
            return (Count(counted),) if counted else self._ordered(state, shared, at, body, context)
        if type(body) is Refund:
            counted = intake.refund(state, body, at, clock, days)
            return (Count(counted),) if counted else self._evaluated(state, shared, "refund", context)
        if type(body) is Cancel:
            counted = intake.cancel(state, body, days)
            return (Count(counted),) if counted else self._cancelled(state, shared, body, context)
        if type(body) is Feedback:
            return self._heard(state, shared, at, body, context)
        if type(body) is ProfileUpdate:
            return self._updated(state, shared, at, body, context)
        if type(body) is App:
            counted = intake.app(state, body, at, clock, days)
            if counted is not None:
                return (Count(counted),)
            opened = body.state == "opened"
            return self._acted(state, shared, None, at, context) if opened else NOTHING
        raise TypeError(f"body {type(body).__name__}: no rule for it")

    def _was_active(self, state: Profile, shared: Shared, at: int, context: Context) -> Sequence[Effect]:
        """Postpone the silence, or end it."""
        if state.standing.tier == SILENT or not state.visit_due or state.visit_due > context.clock + SOON_MS:
            effects: list[Effect] = []
            if state.episode is not None and episodes.preventable(state.episode, at):
                effects = episodes.end(state, "void", self._desk(state, shared, context))
            self._visit_next(state, context.clock)
            return [*effects, *self._evaluated(state, shared, "activity", context)]
        due = state.silence_due = self._silence_due(state, self._in_force(shared, state.key))
        state.due = due if due < state.other_due else state.other_due  # noqa: FURB136 - min() costs a call
        return NOTHING

    def _acted(
        self, state: Profile, shared: Shared, channel: int | None, at: int, context: Context
    ) -> Sequence[Effect]:
        """Take an activity of a user of whom an episode may be open: it may be a step on its track."""
        effects = list(self._was_active(state, shared, at, context)) if state.orders else []
        episode = state.episode
        if episode is not None:
            due = episode.due
            won = episodes.acted(episode, channel, at, context.clock, self._in_force(shared, state.key))
            if won:
                effects += episodes.end(state, "won", self._desk(state, shared, context))
            if won or due != episode.due:
                self._schedule(state, shared, context.clock)
        return effects

    def _heard(self, state: Profile, shared: Shared, at: int, body: Feedback, context: Context) -> Sequence[Effect]:
        """Take what a channel tells of a touch."""
        playbook = self._in_force(shared, state.key).playbook
        effects: list[Effect] = [*ladder.booked(state, body)]
        known = ladder.heard(state, body, at, context.clock, playbook)
        counted = intake.feedback(state, body, at, context.clock, self._days)
        effects.append(Count(counted or f"feedback.{body.status}"))
        if body.status == "unsubscribed":
            effects += self._withdrawn(state, shared, context)
        elif counted is None and body.status in {"clicked", "visited"}:
            effects += self._acted(state, shared, MESSAGE_CLICK, at, context)
        if known:
            self._schedule(state, shared, context.clock)
        return effects

    def _ordered(self, state: Profile, shared: Shared, at: int, body: Order, context: Context) -> Sequence[Effect]:
        """Stop the touches of the episode; but an order from before a silence, told of late, is no return from it.

        One whose cancellation came first is no order: what is left of it is an activity.
        """
        past = state.account.find_order(intake.short_id(body.order_id))
        if past is not None and past.cancelled:
            return self._acted(state, shared, None, at, context)
        effects: list[Effect] = []
        book, episode = self._in_force(shared, state.key), state.episode
        if episode is not None and not value.still_silent(state, context.clock, book.rules):
            desk = self._desk(state, shared, context)
            if episodes.voided_by_order(episode, at):
                effects += episodes.end(state, "void", desk)
            else:
                effects += episodes.ordered(state, at, desk)
        state.account.alerted_day = 0
        self._visit_next(state, context.clock)
        tier = state.standing.tier
        effects += self._evaluated(state, shared, "order", context)
        if state.standing.tier == tier:
            near = openings.near_tier(state, book, context.clock, self._days)
            effects += self._opened(state, shared, [near], context)
            self._schedule(state, shared, context.clock)
        return effects

    def _cancelled(self, state: Profile, shared: Shared, body: Cancel, context: Context) -> Sequence[Effect]:
        """Value the user without the order; without any he is nobody to be called back."""
        effects: list[Effect] = []
        episode = state.episode
        if episode is not None and not state.orders:
            effects += episodes.end(state, "void", self._desk(state, shared, context))
        elif episode is not None:
            order = state.account.find_order(intake.short_id(body.order_id))
            assert order is not None  # it has just been cancelled
            episodes.order_cancelled(episode, order.at, self._in_force(shared, state.key))
        return [*effects, *self._evaluated(state, shared, "refund", context)]

    def _updated(
        self, state: Profile, shared: Shared, at: int, body: ProfileUpdate, context: Context
    ) -> Sequence[Effect]:
        """Take consent and the like at once, whenever it was said; erasure leaves nothing but its mark."""
        if body.erase:
            effects: list[Effect] = [Count("erasures")]
            if state.episode is not None:
                effects += episodes.end(state, "erased", self._desk(state, shared, context))
            effects += [Attach(_name(day), None) for day in state.account.pending_days()]
            account = state.account
            unsettled, unsettled_at = account.unsettled, account.unsettled_at
            state.erase()
            if unsettled:  # money of the budgets, nothing of his: the decision that is due at once takes it
                state.account.unsettled, state.account.unsettled_at = unsettled, unsettled_at
                self._schedule(state, shared, context.clock)
            return effects
        intake.update(state, body, at)
        effects = []
        if state.account.profiling_opted_out:
            account = state.account
            effects += [Attach(_name(day), None) for day in account.pending_days()]
            account.pending, account.alerted_day = {}, 0
            account.risk, account.risk_at, account.risk_version = -1.0, 0, 0
            account.risk_level, account.signals, account.potential, account.outcomes = "", {}, None, []
        effects += self._withdrawn(state, shared, context)
        self._schedule(state, shared, context.clock)
        return effects

    def _withdrawn(self, state: Profile, shared: Shared, context: Context) -> list[Effect]:
        """Call back a touch that the user does not allow any more."""
        episode = state.episode
        if episode is None or not episodes.under_way(episode, context.clock):
            return []
        book = self._in_force(shared, state.key).playbook
        allowed = eligibility.allows(state, episode.channel, episode.purpose, book)
        if allowed and eligibility.forbids(state) is None:
            return []
        effects = episodes.end(state, "withdrawn", self._desk(state, shared, context))
        self._schedule(state, shared, context.clock)
        return effects

    # -- tiers ---------------------------------------------------------------------------------------------------------

    def _evaluated(self, state: Profile, shared: Shared, cause: str, context: Context) -> list[Effect]:
        """Let the user's worth act on his tier, and set his timers."""
        book = self._in_force(shared, state.key)
        transition = value.evaluate(state, context.clock, cause, book.cuts, book.rules, self._days)
        effects = [] if transition is None else self._moved(state, shared, transition, context)
        state.rhythm_due = openings.rhythm_due(state, book)
        self._schedule(state, shared, context.clock)
        return effects

    def _recut(self, state: Profile, shared: Shared, context: Context) -> list[Effect]:
        """Let new cut points act, before anything else moves the user."""
        book, standing = self._in_force(shared, state.key), state.standing
        if standing.tier <= Tier.SILENT or standing.cut_points == book.cuts.version:
            return []
        transition = value.evaluate(state, context.clock, "recut", book.cuts, book.rules, self._days)
        return [] if transition is None else self._moved(state, shared, transition, context)

    def _moved(self, state: Profile, shared: Shared, transition: Transition, context: Context) -> list[Effect]:
        effects: list[Effect] = [
            commands.tier_change(
                state,
                transition,
                shop=self.shop,
                lifetime=self._lifetime(shared),
                margin_rate=self._in_force(shared, state.key).playbook.value.margin_rate,
            ),
            Count(f"tier.{transition.origin.label}>{transition.target.label}"),
        ]
        book, account = self._in_force(shared, state.key), state.account
        moved = Move(transition.at, int(transition.origin), int(transition.target), transition.cause)
        account.moves = [*account.moves, moved][-MOVES_KEPT:]
        scored = self._scored(state, shared, context.clock)
        if transition.target is Tier.SILENT:
            if not account.profiling_opted_out:
                account.potential = potential.judge(
                    state, book, self._catalog, self._lifetime(shared), transition.at, self._days
                )
            account.rhythm_order_at = max(account.rhythm_order_at, state.last_order_at)  # the silence says more
        else:
            account.potential = None
        found = [openings.by_move(transition, book)]
        if scored is not None:
            found.append(openings.by_risk(state, account.risk, book, context.clock))
        return effects + self._opened(state, shared, found, context)

    def _opened(
        self, state: Profile, shared: Shared, found: Sequence[Opening | None], context: Context
    ) -> list[Effect]:
        """Let what was found at the same time open an episode, the gravest first."""
        effects: list[Effect] = []
        for opening in sorted(filter(None, found), key=lambda opening: -openings.GRADE[opening.trigger]):
            effects += episodes.opened(state, opening, self._desk(state, shared, context))
        return effects

    # -- timers --------------------------------------------------------------------------------------------------------

    def wake(self, state: Profile, shared: Shared, due: int, context: Context) -> Sequence[Effect]:
        effects: list[Effect] = []
        episode = state.episode
        if episode is not None and episodes.ends(episode) <= due:  # first: what opens now finds it closed
            effects += episodes.end(state, episodes.time_over(episode), self._desk(state, shared, context))
        if state.account.pending:
            effects += self._labelled(state, shared, due, context)
        if state.visit_due and state.visit_due <= due:
            effects += self._visited(state, shared, due, context)
        if state.account.outcomes:
            effects += self._learned(state, due)
        if state.silence_due <= due:
            effects += self._silent(state, shared, due, context)
        if state.rhythm_due <= due:
            effects += self._off_rhythm(state, shared, due, context)
        if state.fall_due <= due:
            effects += self._recut(state, shared, context)
            effects += self._evaluated(state, shared, "time", context)
        self._schedule(state, shared, due)
        return effects

    def _silent(self, state: Profile, shared: Shared, due: int, context: Context) -> list[Effect]:
        """Drop to silent, unless a source is down: that looks like customers who leave.

        The timer may be of a playbook with an earlier silence than that of now: then it is set anew.
        """
        book = self._in_force(shared, state.key)
        if self._silence_due(state, book) > due:
            return []
        if not self._sources_live(shared, due):
            state.held_until = due + HELD_RETRY_MS
            return [Count("silence held")]
        began = value.silence_begins(state, book.rules)
        return self._moved(state, shared, tiers.silence(state.standing, began), context)

    def _off_rhythm(self, state: Profile, shared: Shared, due: int, context: Context) -> list[Effect]:
        """Note that an order is overdue, unless a source is down."""
        if not self._sources_live(shared, due):
            state.rhythm_due = due + HELD_RETRY_MS
            return [Count("rhythm held")]
        book = self._in_force(shared, state.key)
        effects = self._opened(state, shared, [openings.by_rhythm(state, book, due)], context)
        state.rhythm_due = openings.rhythm_due(state, book)
        return effects

    def sources_down(self, shared: Shared, at: int) -> list[str]:
        """Say which required sources give no sign of life at a time."""
        down = []
        for name in self.shop.require_heartbeat:
            source = shared.sources.get(name)
            if source is None:
                down.append(f"no heartbeat yet from {name}")
            elif at - source.at > self.shop.stall_ms:
                down.append(f"no heartbeat from {name} for {(at - source.at) // 1000} s")
        return down

    def _sources_live(self, shared: Shared, at: int) -> bool:
        for name in self.shop.require_heartbeat:
            source = shared.sources.get(name)
            if source is None or at - source.at > self.shop.stall_ms or at < source.trusted_from:
                return False
        return True

    def _visited(self, state: Profile, shared: Shared, due: int, context: Context) -> list[Effect]:
        """Do what is due weekly: new cut points first, then the risk and what is to be learned from.

        Of users who are no longer active what was bought is summed up every four weeks, and nothing else.
        """
        book, days, account = self._in_force(shared, state.key), self._days, state.account
        effects = self._recut(state, shared, context)
        self._forget(state, book, due)
        today = days.of(due)
        if state.trim(today):
            effects.append(Count("rows trimmed"))
        active = value.is_active(state, due)
        sampled = not account.profiling_opted_out and self._is_sampled(state.key)
        remembered = sampled and value.is_remembered(state, due)
        if not active and not remembered:
            state.visit_due = 0
            return effects
        weekday, summary_day = self._phases(state.key)
        if active:
            state.visit_due = days.start(_next(today, weekday, VISIT_DAYS))
        else:
            state.visit_due = days.start(_next(today, summary_day, SUMMARY_DAYS))
        if account.profiling_opted_out:
            return effects
        told = rhythms(state, today, self._days)
        if told is None:  # all orders came late
            return [*effects, Count("history unknown")]
        if remembered and (today - summary_day) % SUMMARY_DAYS < VISIT_DAYS:
            effects.append(lessons.summary(state, told, today, self.shop, active=active))
        if active:
            state.rhythm_due = openings.rhythm_due(state, book)  # under the playbook of now
            effects += self._seen(state, shared, told, due, context, sampled=sampled)
        return effects

    def _seen(
        self, state: Profile, shared: Shared, told: Rhythms, due: int, context: Context, *, sampled: bool
    ) -> Sequence[Effect]:
        """Score the user, keep what was seen of him until it is known what came of it, and see what it opens."""
        shop, book, today = self.shop, self._in_force(shared, state.key), self._days.of(due)
        seen = features.compute(state, today, self._days)
        acted_on = self._scorer(shared, shop.horizon_days)
        forecasts: dict[int, Forecast] = {}
        score = None
        if sampled:
            for horizon_days in shop.horizons_days:
                scorer = self._scorer(shared, horizon_days)
                if scorer is not None:
                    forecasts[horizon_days] = Forecast(scorer.version, scorer.predictions(seen, told))
            if acted_on is not None:
                score = forecasts[shop.horizon_days].predictions.model
        elif acted_on is not None:
            score = acted_on.score(seen, told)
        alert = False
        found = [openings.by_signals(seen, state, book, due)]
        if acted_on is not None and score is not None:
            _keep_risk(state, acted_on, score, due)
            alert = acted_on.alert_above is not None and score > acted_on.alert_above
            found.append(openings.by_risk(state, score, book, due))
        effects = self._opened(state, shared, found, context)
        if not sampled:
            return effects
        lead_days = self._lead_days(state, today, alert=alert)
        pending = state.account.pending
        for horizon_days in shop.horizons_days:
            pending.setdefault(horizon_days, []).append(today)
        held_out = book.holdout.arm(state.key, today) == CONTROL
        sighting = Sighting(state.standing.tier, held_out, told, lead_days, seen, forecasts)
        return [*effects, Attach(_name(today), labels.pack(sighting))]

    def _lead_days(self, state: Profile, today: int, *, alert: bool) -> int | None:
        """Note the first alert since the last order; return by how much it came before the horizon passed, once."""
        account = state.account
        if account.alerted_day == LAPSED:
            return None
        lapse = self._days.of(state.last_order_at) + self.shop.horizon_days
        if today > lapse:
            alerted, account.alerted_day = account.alerted_day, LAPSED
            return lapse - alerted if 0 < alerted <= lapse else None  # later where an order was cancelled since
        if alert and not account.alerted_day:
            account.alerted_day = today
        return None

    def _is_sampled(self, user: bytes) -> bool:
        """Tell whether something is learned of the user."""
        shop = self.shop
        return shop.example_share >= 1 or uniform(shop.salt, b"example", user) < shop.example_share

    def _forget(self, state: Profile, book: InForce, at: int) -> None:
        """Drop the contacts that no rule and no feature reaches any more."""
        if state.account.contacts:
            days = max(*self.shop.horizons_days, *features.CONTACT_DAYS)
            state.account.contacts = eligibility.kept(state.account.contacts, book.playbook, at, days)

    def _visit_next(self, state: Profile, at: int) -> None:
        """Begin the weekly visits, where there are none."""
        if not state.visit_due or state.visit_due > at + SOON_MS:
            weekday, _ = self._phases(state.key)
            state.visit_due = self._days.start(_next(self._days.of(at), weekday, VISIT_DAYS))

    def _phases(self, user: bytes) -> tuple[int, int]:
        """Return the days of the user's own, of 7 for the weekly visits, and which of four is that of the summary."""
        phase = int(uniform(self.shop.salt, b"visit", user) * SUMMARY_DAYS)
        weekday, quarter = divmod(phase, SUMMARY_DAYS // VISIT_DAYS)
        return weekday, weekday + VISIT_DAYS * quarter

    def _labelled(self, state: Profile, shared: Shared, due: int, context: Context) -> list[Effect]:
        """Write the examples whose outcome is known now; what was seen goes with the last horizon that waits for it."""
        effects: list[Effect] = []
        pending, holdout = state.account.pending, self._in_force(shared, state.key).holdout
        for horizon_days, waiting in list(pending.items()):
            day = waiting[0]
            if labels.due(day, horizon_days, self._days) > due:
                continue
            del waiting[0]
            if not waiting:
                del pending[horizon_days]
            name = _name(day)
            if horizon_days in self.shop.horizons_days:  # else learned no more
                raw = context.attachment(name)
                sighting = None if raw is None else labels.unpack(raw)
                if sighting is None:
                    effects.append(Count("example lost"))
                else:
                    effects.append(lessons.example(state, day, horizon_days, sighting, holdout, self.shop))
            if not any(day in others for others in pending.values()):
                effects.append(Attach(name, None))
        return effects

    def _learned(self, state: Profile, due: int) -> list[Effect]:
        """Write what came of the choices whose outcome is known now."""
        account = state.account
        known = [outcome for outcome in account.outcomes if outcome.due <= due]
        if known:
            account.outcomes = [outcome for outcome in account.outcomes if outcome.due > due]
        return [lessons.outcome(state, outcome, self.shop) for outcome in known]

    def _scored(self, state: Profile, shared: Shared, at: int) -> tuple[Scorer, list[int], Rhythms] | None:
        """Score anew by the horizon that is acted on; return what scored, and of what. None where there is no score."""
        scorer = self._scorer(shared, self.shop.horizon_days)
        if scorer is None or state.account.profiling_opted_out:
            return None
        today = self._days.of(at)
        told = rhythms(state, today, self._days)
        if told is None:
            return None
        seen = features.compute(state, today, self._days)
        _keep_risk(state, scorer, scorer.score(seen, told), at)
        return scorer, seen, told

    # -- decisions -----------------------------------------------------------------------------------------------------

    def decide(self, state: Profile, shared: Shared, due: int, context: Context) -> tuple[Shared, Sequence[Effect]]:
        """Settle money with the budgets, and decide what is due; see `policy.deciding`."""
        book = self._in_force(shared, state.key)
        case = Case(
            profile=state,
            shared=shared,
            desk=self._desk(state, shared, context)._replace(at=due, offsets=context.offsets),
            catalog=self._catalog,
            lifetime=self._lifetime(shared),
            priors=self._priors(shared, book),
            partition=context.partition,
            risk=partial(self._risk, state, shared, due),
        )
        shared, effects = deciding.decide(case)
        if state.erased:
            state.erase()
        else:
            self._schedule(state, shared, due)
        return shared, effects

    def _priors(self, shared: Shared, book: InForce) -> Priors:
        """Return what is believed of the plays' effects: by the snapshot in force, and by the playbook."""
        scorer = self._scorer(shared, self.shop.horizon_days)
        return priors_of(None if scorer is None else scorer.priors, book.playbook.choice)

    def _desk(self, state: Profile, shared: Shared, context: Context) -> Desk:
        """Return what the records of an episode need."""
        return Desk(self.shop, self._in_force(shared, state.key), self._versions(state, shared), context.clock)

    def _risk(self, state: Profile, shared: Shared, at: int) -> dict[str, Any] | None:
        """Score anew, and say what moved the score."""
        scored = self._scored(state, shared, at)
        if scored is None:
            return None
        model, seen, told = scored
        return {
            "probability": state.account.risk,
            "horizon_days": model.horizon_days,
            "level": openings.risk_level(
                state.account.risk_level, state.account.risk, self._in_force(shared, state.key).playbook.risk
            ),
            "model_version": model.version,
            "top_factors": explain.factors(model, seen, told),
        }

    def _versions(self, state: Profile, shared: Shared) -> dict[str, Any]:
        book = self._in_force(shared, state.key)
        snapshot = shared.snapshots.get(self.shop.horizon_days)
        return {"playbook": book.version, "snapshot": snapshot, "cut_points": book.cuts.version}

    # -- for those who ask ---------------------------------------------------------------------------------------------

    def in_force(self, shared: Shared, key: bytes) -> InForce:
        """Return the playbook that holds for a user."""
        return self._in_force(shared, key)

    def lifetime(self, shared: Shared) -> Lifetime | None:
        """Return what tells users' worth, if there is anything yet."""
        return self._lifetime(shared)

    def risk(self, state: Profile, shared: Shared, at: int) -> dict[str, Any] | None:
        """Score a copy of a user anew, as for a command; None where no model is to tell."""
        return self._risk(state, shared, at)

    # -- scheduling ----------------------------------------------------------------------------------------------------

    def _schedule(self, state: Profile, shared: Shared, at: int) -> None:
        """Set all timers anew."""
        book = self._in_force(shared, state.key)
        state.fall_due = value.next_fall(state, at, book.cuts, self._days)
        drop_due = tiers.drop_due(state.standing, book.rules)
        if drop_due is not None:
            state.fall_due = min(state.fall_due, drop_due)
        state.silence_due = self._silence_due(state, book)
        state.other_due = min(self._quiet_due(state), self._decision_due(state))
        state.due = min(state.other_due, state.silence_due)

    def _silence_due(self, state: Profile, book: InForce) -> int:
        if state.orders == 0 or state.standing.tier == SILENT:
            return NEVER
        due = state.active_at + book.silent_after_ms
        return due if due > state.held_until else state.held_until  # noqa: FURB136 - max() costs a call

    def _quiet_due(self, state: Profile) -> int:
        """Return the earliest of the timers that are neither silence nor a decision."""
        due = min(state.fall_due, state.rhythm_due)
        if state.visit_due:
            due = min(due, state.visit_due)
        if state.episode is not None:
            due = min(due, episodes.ends(state.episode))
        if state.account.outcomes:
            due = min(due, state.account.outcomes[0].due)
        for horizon_days, pending in state.account.pending.items():
            due = min(due, labels.due(pending[0], horizon_days, self._days))
        return due

    def _decision_due(self, state: Profile) -> int:
        """Return when the budgets or the episode ask for a decision."""
        account, episode = state.account, state.episode
        due = account.unsettled_at if account.unsettled else NEVER
        return due if episode is None else min(due, episodes.next_decision(episode))

    # -- what all keys share -------------------------------------------------------------------------------------------

    def decode_shared(self, raw: bytes | None) -> Shared:
        shared = Shared() if raw is None else self._decode_shared(raw)
        used = [shared.playbook, *(() if shared.canary is None else shared.canary[:1])]
        for version in used:
            if version and version not in self._playbooks:
                raise ValueError(
                    f"playbook {version} is in force and was not given: allowed is to start with it, "
                    f"beside another that is to be adopted; given: {', '.join(self._playbooks)}"
                )
        return shared

    def encode_shared(self, shared: Shared) -> bytes:
        return self._encode(shared)

    def shared_due(self, shared: Shared) -> int:
        return shared.day_due

    def wake_shared(self, shared: Shared, due: int, context: Context) -> tuple[Shared, Sequence[Effect]]:
        """Close the day that is over: its labels are all written. The first time, find the place in time."""
        days = self._days
        if not shared.day_due:
            day_due = days.start(days.of(context.clock) + 1)
            return replace(shared, day_due=day_due, playbook=shared.playbook or self._first), NOTHING
        today = days.of(due)
        closed = {
            "kind": "day_closed",
            "day": days.date(today - 1),
            "partition": context.partition,
            "partitions": self.shop.partitions,
        }
        effects = (Output(TRAINING, None, orjson.dumps(closed), partition=0),)
        return replace(shared, day_due=days.start(today + 1)), effects

    def direct(  # noqa: PLR0911 - a way out for each
        self,
        shared: Shared,
        directive: Directive,
        context: Context,
    ) -> tuple[Shared, Sequence[Effect]]:
        """Take a directive; see `schemas.control`."""
        body = directive.body
        match body:
            case Heartbeat(source, at):
                return self._beat(shared, source, at), NOTHING
            case Resumed(at, wall):
                resumed = sorted({*shared.resumed, (at, wall)})[-RESUMPTIONS_KEPT:]
                return replace(shared, resumed=tuple(resumed)), (Count("resumed"),)
            case AdoptSnapshot(horizon_days, version):
                return self._adopt(shared, horizon_days, version)
            case AdoptPlaybook(version, share):
                if share < 1:
                    return replace(shared, canary=(version, share)), (Count("adopted canary"),)
                return replace(shared, playbook=version, canary=None), (Count("adopted playbook"),)
            case Grant():
                return self._granted(shared, body, context.clock), (Count("granted"),)
            case Approve(play, until):
                return replace(shared, approved={**shared.approved, play: until}), (Count("approved"),)
            case Stop():
                return replace(shared, stopped=True), (Count("stopped"),)
            case Resume():
                return replace(shared, stopped=False), (Count("resumed by operator"),)
        raise TypeError(f"directive {body!r}: no rule for it")

    def _granted(self, shared: Shared, grant: Grant, at: int) -> Shared:
        """Take a grant; it takes the place of an earlier one of the same name."""
        granted = budget.granted(
            shared.budgets.get(grant.budget_id),
            amount=grant.amount_micros,
            period=grant.period,
            until=grant.until,
            shadow_price=grant.shadow_price,
            at=at,
            day=self._days.of(at),
        )
        return replace(shared, budgets={**shared.budgets, grant.budget_id: granted})

    def _adopt(self, shared: Shared, horizon_days: int, version: int) -> tuple[Shared, Sequence[Effect]]:
        """Bring a snapshot into force; one that cannot be used here leaves the last good one."""
        if horizon_days not in self.shop.horizons_days:
            return shared, (Count("snapshot of another horizon"),)
        if self._models.get((horizon_days, version)) is None:
            return shared, (Count("refused snapshot"),)
        snapshots = {**shared.snapshots, horizon_days: version}
        return replace(shared, snapshots=snapshots), (Count("adopted snapshot"),)

    def missing(self, directive: Directive) -> str | None:
        match directive.body:
            case AdoptSnapshot(horizon_days, version) if (
                horizon_days in self.shop.horizons_days and (horizon_days, version) not in self._models
            ):
                return f"snapshot {horizon_days}/{version} of the model"
            case AdoptPlaybook(version, _) if version not in self._playbooks:
                return f"playbook {version}"
        return None

    def _beat(self, shared: Shared, name: str, at: int) -> Shared:
        """Note a source's sign of life; after an outage it is trusted again once what was late can have come."""
        before = shared.sources.get(name)
        if before is None:
            source = Source(at, at)
        elif at <= before.at:
            return shared
        elif at - before.at > self.shop.stall_ms:
            source = Source(at, at + LATENESS_MS)
        else:
            source = Source(at, before.trusted_from)
        return replace(shared, sources={**shared.sources, name: source})

    def _in_force(self, shared: Shared, key: bytes) -> InForce:
        """Return a user's playbook, with the population's cut points where it asks for them and they are known."""
        book = self._playbooks[shared.playbook or self._first]
        if shared.canary is not None:
            version, share = shared.canary
            if uniform(self.shop.salt, b"canary", version.encode(), key) < share:
                book = self._playbooks[version]
        if book.playbook.rfm.cut_points == "playbook":
            return book
        scorer = self._scorer(shared, self.shop.horizon_days)
        if scorer is None or scorer.cut_points is None:
            return book
        place = (book.version, scorer.version)
        recut = self._recuts.get(place)
        if recut is None:
            recut = self._recuts[place] = book._replace(cuts=scorer.cut_points)
        return recut

    def _lifetime(self, shared: Shared) -> Lifetime | None:
        """Return what tells users' worth: the snapshot's of the horizon that is acted on."""
        scorer = self._scorer(shared, self.shop.horizon_days)
        return None if scorer is None else scorer.lifetime

    def _scorer(self, shared: Shared, horizon_days: int) -> Scorer | None:
        """Return what scores; None before the first snapshot, and where the one in force is refused here."""
        return self._models.get((horizon_days, shared.snapshots.get(horizon_days, 0)))


def _name(day: int) -> bytes:
    """Return the name under which the features of a day lie beside the row."""
    return day.to_bytes(8, "big")


def _next(today: int, phase: int, period: int) -> int:
    """Return the next day of a phase.

    >>> _next(20, 0, 7), _next(20, 6, 7), _next(20, 5, 7)
    (21, 27, 26)
    """
    return today + 1 + (phase - today - 1) % period


def _keep_risk(state: Profile, scorer: Scorer, score: float, at: int) -> None:
    account = state.account
    account.risk, account.risk_at, account.risk_version = score, at, scorer.version
