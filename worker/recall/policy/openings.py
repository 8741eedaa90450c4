"""What opens an episode: a user's value falls or rises, his risk crosses a level, his habits break.

What no play of the playbook opens on is not looked for; a level of risk is kept all the same.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall.days import DAY_MS, SETTLE_MS
from worker.recall.rfm import Scores
from worker.recall.tiers import Tier
from worker.recall.value import SCORED_FROM_ORDERS, rfm_of
from worker.stream.processor import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.recall.days import Days
    from worker.recall.playbook.model import RiskLevels
    from worker.recall.profile import Gaps, Profile
    from worker.recall.rfm import Rfm
    from worker.recall.shop import InForce
    from worker.recall.tiers import Transition

NEAR_TIER: Final = "near_tier"
TIER_REACHED: Final = "tier_reached"
RHYTHM: Final = "rhythm"
SIGNAL: Final = "signal"
RISK: Final = "risk"
TIER_DROP: Final = "tier_drop"
SILENCE: Final = "silence"
GRADE: Final = {
    trigger: grade for grade, trigger in enumerate((NEAR_TIER, TIER_REACHED, RHYTHM, SIGNAL, RISK, TIER_DROP, SILENCE))
}
"""From the mildest on; a graver opening takes the place of an episode that a milder one opened."""


class Opening(NamedTuple):
    """Something that calls for a decision."""

    trigger: str
    name: str
    """Of the signal, of the risk's level, or of the tier that is reached or near; else empty."""
    cause: str
    at: int
    """When it came about, in ms."""
    origin: int
    """Tier before; where the tier did not change, that and `target` are the user's."""
    target: int
    fell: tuple[str, ...]
    before: tuple[int, int, int] | None
    """Scores."""
    after: tuple[int, int, int] | None
    text: str
    """In plain words and figures."""


RISK_LEVELS: Final = ("low", "raised", "high")
_DIMENSIONS: Final = ("R", "F", "M")
_PLACES: Final = 6
"""Scores are rounded to six decimals: what floats add to a difference must not tell."""


def by_move(transition: Transition, book: InForce) -> Opening | None:
    """Return what a change of tier opens.

    New cut points open nothing, and neither does to be new again, which tells of an order that was none. Whoever comes
    back from silence reaches no tier: he is where he was.
    """
    origin, target = transition.origin, transition.target
    if transition.cause == "recut" or target is Tier.NEW:
        return None
    if transition.cause == SILENCE:
        trigger, name = SILENCE, ""
        text = f"silent: no activity for {_some(book.rules.silence_days, 'day')}, {origin.label} before"
    else:
        if transition.drop:
            trigger, name, verb = TIER_DROP, "", "fell"
        elif origin is Tier.SILENT:
            return None
        else:
            trigger, name, verb = TIER_REACHED, target.label, "rose"
        text = f"{verb} from {origin.label} to {target.label} by {transition.cause}{_changes(transition)}"
    before, after = transition.before, transition.after
    return Opening(
        trigger, name, transition.cause, transition.at, int(origin), int(target), transition.fell, before, after, text
    )


def _changes(transition: Transition) -> str:
    """Say which scores changed, and how."""
    before, after = transition.before, transition.after
    if before is None or after is None:
        return ""
    moved = [
        f"{dimension} {old} to {new}"
        for dimension, old, new in zip(_DIMENSIONS, before, after, strict=True)
        if old != new
    ]
    return f" ({', '.join(moved)})" if moved else ""


def risk_level(before: str, score: float, rules: RiskLevels) -> str:
    """Return the level of a risk: reached from its bound on, and left once the risk lies `margin` below it.

    >>> from worker.recall.playbook.model import RiskLevels
    >>> rules = RiskLevels(raised=0.6, high=0.8, margin=0.1)
    >>> risk_level("low", 0.6, rules), risk_level("raised", 0.5, rules), risk_level("low", 0.5, rules)
    ('raised', 'raised', 'low')
    """
    if score >= rules.high or (before == "high" and score >= round(rules.high - rules.margin, _PLACES)):
        return "high"
    if score >= rules.raised or (before in {"raised", "high"} and score >= round(rules.raised - rules.margin, _PLACES)):
        return "raised"
    return "low"


def by_risk(profile: Profile, score: float, book: InForce, at: int) -> Opening | None:
    """Move the user's level of risk; return what that opens.

    The first score sets the level. Of one who is silent already a higher risk says nothing new.
    """
    account, rules = profile.account, book.playbook.risk
    before = account.risk_level
    level = risk_level(before, score, rules)
    if level == before:
        return None
    account.risk_level = level
    if not before or RISK_LEVELS.index(level) < RISK_LEVELS.index(before) or profile.standing.tier == Tier.SILENT:
        return None
    if RISK not in book.triggers:
        return None
    if account.risk_opened_at and at < account.risk_opened_at + rules.cool_down_days * DAY_MS:
        return None
    account.risk_opened_at = at
    bound = rules.high if level == "high" else rules.raised
    text = f"risk of no order {score:.2f}: {level} (from {bound:g} on), {before} before"
    return _of_standing(profile, RISK, level, RISK, at, text)


def by_signals(seen: Sequence[int], profile: Profile, book: InForce, at: int) -> Opening | None:
    """Hold the named signals against the features of a weekly visit; return what the first one opens that is new.

    A signal is new where it did not hold at the last visit and its cool-down is over; others that are new at the same
    time are told with the first. Of one who is silent already they say nothing new.
    """
    if not book.signals or profile.standing.tier == Tier.SILENT or SIGNAL not in book.triggers:
        return None
    known = profile.account.signals
    holding = [signal for signal in book.signals if signal.holds(seen)]
    if not holding and not known:
        return None
    told, new = {}, []
    for signal in book.signals:
        opened = known.get(signal.name, 0)  # negated where it has not held since
        if signal not in holding:
            if opened:
                told[signal.name] = -abs(opened)
        elif opened > 0 or (opened and at < signal.cool_down_ms - opened):
            told[signal.name] = opened
        else:
            told[signal.name] = at
            new.append(signal)
    profile.account.signals = told
    if not new:
        return None
    text = f"signal {new[0].name}: {new[0].tell(seen)}"
    if len(new) > 1:
        text += f"; also {', '.join(signal.name for signal in new[1:])}"
    return _of_standing(profile, SIGNAL, new[0].name, SIGNAL, at, text)


def rhythm_due(profile: Profile, book: InForce) -> int:
    """Return when it is noticed that no order came as long as the user's rhythm allows for; NEVER where it is not.

    The hour in which what is under way may still arrive is part of it, as for silence. Once for each last order.
    """
    rules = book.playbook.rhythm
    if profile.orders < rules.min_orders or profile.standing.tier == Tier.SILENT or RHYTHM not in book.triggers:
        return NEVER
    account, last_at = profile.account, profile.last_order_at
    if last_at <= account.rhythm_order_at:
        return NEVER
    gaps = order_gaps(profile)
    if not gaps.n:
        return NEVER
    return last_at + round((rules.factor * gaps.mean + rules.deviations * sqrt(gaps.variance)) * DAY_MS) + SETTLE_MS


def order_gaps(profile: Profile) -> Gaps:
    """Return the gaps between days with an order, the open days among them."""
    _, open_days = profile.open_days_before(profile.day + 1)
    return profile.account.order_gaps.with_days(open_days)


def by_rhythm(profile: Profile, book: InForce, at: int) -> Opening | None:
    """Return what the timer of the user's rhythm opens when it is due."""
    if rhythm_due(profile, book) > at:
        return None
    profile.account.rhythm_order_at = profile.last_order_at
    gaps, began = order_gaps(profile), at - SETTLE_MS
    text = (
        f"no order for {_some((began - profile.last_order_at) // DAY_MS, 'day')}, where one came every "
        f"{gaps.mean:.1f} days (deviation {sqrt(gaps.variance):.1f}, {profile.orders} orders)"
    )
    return _of_standing(profile, RHYTHM, "", RHYTHM, began, text)


def near_tier(profile: Profile, book: InForce, at: int, days: Days) -> Opening | None:
    """Return what an order opens that leaves the user a few scores short of the next tier."""
    rules, account = book.playbook.near_tier, profile.account
    tier = Tier(profile.standing.tier)
    if NEAR_TIER not in book.triggers or tier.label not in rules.tiers:
        return None
    if account.near_at and at < account.near_at + rules.cool_down_days * DAY_MS:
        return None
    values = rfm_of(profile, at, days)
    if values is None or profile.orders < SCORED_FROM_ORDERS:
        return None
    rule = min((rule for rule in book.rules.table if rule.tier > tier), key=lambda rule: rule.tier)
    scores = book.cuts.score(values)
    if not 0 < sum(max(0, least - score) for least, score in zip(rule.least, scores, strict=True)) <= rules.short_by:
        return None
    account.near_at = at
    text = f"near {rule.tier.label}: {' and '.join(_missing(values, scores, rule.least, book))}"
    return _of_standing(profile, NEAR_TIER, rule.tier.label, NEAR_TIER, at, text, scores)


def _missing(values: Rfm, scores: Scores, least: Scores, book: InForce) -> Iterator[str]:
    """Say what has to be reached for the scores to be at least those."""
    cuts = book.cuts
    if scores.r < least.r:
        yield f"an order less than {_some(cuts.r[5 - least.r], 'day')} old is missing"
    if scores.f < least.f:
        yield f"{_some(cuts.f[least.f - 2] + 1 - values.f, 'order')} within the year missing"
    if scores.m < least.m:
        missing = book.currency.to_text(cuts.m[least.m - 2] + 1 - values.m)
        yield f"{missing} {book.currency.code} within the year missing"


def _of_standing(
    profile: Profile, trigger: str, name: str, cause: str, at: int, text: str, scores: Scores | None = None
) -> Opening:
    """Return an opening for which the tier does not change."""
    standing = profile.standing
    own = Scores(*standing.scores) if any(standing.scores) else None
    tier = int(standing.tier)
    return Opening(trigger, name, cause, at, tier, tier, (), own, scores or own, text)


def _some(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
