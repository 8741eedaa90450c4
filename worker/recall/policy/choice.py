"""Which play a user gets, or whether he is left alone: what a touch adds, not whom it finds.

A play is worth its added response (the probability of a return with it, less that without) times the value of a
return, less its costs; to do nothing is worth 0. Responses are known by posteriors, Beta distributions of what came of
earlier choices, and the choice is drawn by Thompson's rule (Biometrika 25, 1933; Chapelle and Li, NIPS 2011): each play
with the probability that it is the best one. So what is known little of is tried, and what makes users stay away (the
sleeping dogs) is left out, whatever their risk.

A segment's posteriors are pooled in part. Without a touch, users return at the segment's own rate, from the
playbook's on. With the play, the segment starts at its rate without, and what the play added in the other segments: a
rate does not carry over from one segment to another, since users who are silent return seldom with any play, but what
a play adds does, by and large. Each start counts for the playbook's strength in touches.

Nothing here is random: posteriors are looked at in 256 places that are stratified and depend on segment and play
alone, and the one draw is an argument. In all plays of a decision the rate without a touch is the same place of its
posterior.
"""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import xxhash
from scipy.special import betaincinv

from worker.recall.lifetime.worth import worth
from worker.recall.playbook.model import DO_NOTHING, Prior
from worker.recall.policy.responses import Responses
from worker.recall.tiers import Tier
from worker.recall.value import order_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from worker.recall.lifetime.history import Rhythms
    from worker.recall.lifetime.worth import Lifetime
    from worker.recall.money import Currency
    from worker.recall.playbook.model import ChoiceRules
    from worker.recall.policy.responses import Cell
    from worker.recall.profile import Episode, Profile

    Floats = NDArray[np.float64]

PLACES: Final = 256
"""In which a posterior is looked at."""
TAIL: Final = 0.05
"""Left out at each end of what a play may add."""
UNITS: Final = 1_000_000
"""Propensities are whole millionths, and sum up to 1 exactly."""
VALUE_DAYS: Final = 365
"""Over which the margin after a return is counted."""
NOT_WORTH_IT: Final = "not worth it"
_NEAREST: Final = 0.001
"""To 0 or 1, of a rate that a posterior starts at."""
_DRAWN_KEPT: Final = 1024
"""Of plays and segments whose posteriors were looked at; more are looked at anew."""
_PRIORS_KEPT: Final = 8
_MICROS: Final = 1_000_000
_OPENINGS: Final = {
    "near_tier": "up",
    "tier_reached": "up",
    "rhythm": "early",
    "signal": "early",
    "risk": "early",
    "tier_drop": "drop",
    "silence": "silent",
}
"""By trigger, how grave it is."""


class Arm(NamedTuple):
    """A play that could be played now, for one user."""

    play: str
    value_micros: float
    """Of a return."""
    cost_micros: int
    """Direct, hidden and opportunity."""


class Choice(NamedTuple):
    """What was chosen, and how."""

    play: str
    """Or "nothing"."""
    propensity: float
    """The probability with which it was drawn, exactly."""
    reason: str
    left_out: dict[str, str]
    """Plays that cannot pay, and why."""
    nets: dict[str, float]
    """By play, the expected net, micros; that of nothing is 0."""
    propensities: dict[str, float]
    """Of all that could be drawn, nothing among them."""


class Added(NamedTuple):
    """What a play adds to the probability of a return: expected, and the ends of the 90% that lie in the middle."""

    mean: float
    low: float
    high: float


UNKNOWN: Final = Prior.model_validate({"with": 0.06, "without": 0.05})
"""Of a play of which the playbook expects nothing: with the strength of some dozens it is soon outweighed."""


class Priors:
    """What is believed of plays' responses, from the playbook and the outcomes so far."""

    def __init__(self, responses: Responses, rules: ChoiceRules) -> None:
        self._responses, self._rules = responses, rules
        self._drawn: dict[tuple[str, tuple[str, ...]], _Drawn] = {}

    def added(self, segment: str, play: str) -> Added:
        """Return what a play is expected to add in a segment."""
        return self.drawn(segment, (play,)).told[0]

    def drawn(self, segment: str, plays: tuple[str, ...]) -> _Drawn:
        """Return what each play adds, in all places of the posteriors; kept for the next time."""
        drawn = self._drawn.get((segment, plays))
        if drawn is None:
            if len(self._drawn) >= _DRAWN_KEPT:
                self._drawn.clear()
            drawn = self._drawn[segment, plays] = self._draw(segment, plays)
        return drawn

    def _draw(self, segment: str, plays: tuple[str, ...]) -> _Drawn:
        added = np.zeros((len(plays) + 1, PLACES))
        told = []
        for i, play in enumerate(plays):
            without, with_ = self._posteriors(segment, play)
            added[i + 1] = with_.at(_places(segment, play)) - without.at(_places(segment, DO_NOTHING))
            inner = np.sort(added[i + 1])
            low, high = inner[round(TAIL * PLACES)], inner[-round(TAIL * PLACES) - 1]
            told.append(Added(with_.mean - without.mean, float(low), float(high)))
        return _Drawn(added, told)

    def _posteriors(self, segment: str, play: str) -> tuple[_Beta, _Beta]:
        """Return what is known of the rates without the play and with it."""
        expected, strength = self._rules.priors.get(play, UNKNOWN), self._rules.strength
        cell = self._responses.cell
        without = _Beta.of(expected.without, strength, cell(segment, DO_NOTHING))
        start = without.mean + self._elsewhere(segment, play, expected)
        return without, _Beta.of(start, strength, cell(segment, play))

    def _elsewhere(self, segment: str, play: str, expected: Prior) -> float:
        """Return what the play added in the other segments, starting from what the playbook expects.

        Differences are weighed by how well they are known: by n m / (n + m) for groups of n and m.
        """
        weight = self._rules.strength / 2
        total = weight * (expected.with_play - expected.without)
        for name in self._responses.segments:
            with_, without = self._responses.cell(name, play), self._responses.cell(name, DO_NOTHING)
            if name != segment and with_.n and without.n:
                n = with_.n * without.n / (with_.n + without.n)
                total += n * (with_.rate - without.rate)
                weight += n
        return total / weight


class _Beta(NamedTuple):
    a: float
    b: float

    @classmethod
    def of(cls, start: float, strength: float, cell: Cell) -> _Beta:
        """Start at a rate that counts for so many outcomes, and take what came."""
        rate = min(1 - _NEAREST, max(_NEAREST, start))
        came = cell.n * cell.rate
        return cls(strength * rate + came, strength * (1 - rate) + cell.n - came)

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    def at(self, places: Floats) -> Floats:
        """Return the quantiles."""
        found: Floats = betaincinv(self.a, self.b, places)
        return found


class _Drawn(NamedTuple):
    added: Floats
    """By place, what each play adds; in the first row what nothing does, 0."""
    told: list[Added]


def _places(segment: str, play: str) -> Floats:
    """Return the middles of 256 equal parts, in an order of their own for each segment and play."""
    seed = f"{segment}\0{play}".encode()
    order = sorted(range(PLACES), key=lambda i: xxhash.xxh3_64_intdigest(seed, i))
    return (np.array(order) + 0.5) / PLACES


_NO_RESPONSES: Final = Responses()
_priors: Final[dict[tuple[int, int], Priors]] = {}
"""By the identities of what they were made of, which each holds on to."""


def priors_of(responses: Responses | None, rules: ChoiceRules) -> Priors:
    """Return the priors under a snapshot's responses (None for no snapshot) and a playbook's rules; made once."""
    responses = _NO_RESPONSES if responses is None else responses
    known = id(responses), id(rules)
    made = _priors.get(known)
    if made is None:
        if len(_priors) >= _PRIORS_KEPT:
            _priors.clear()
        made = _priors[known] = Priors(responses, rules)
    return made


def segment(profile: Profile, episode: Episode) -> str:
    """Return the segment in which a response is learned, as in "drop/core/ignored": some dozens in all.

    Each of its three parts is what the row knows: how grave the opening is (up, early, drop or silent); who the user is
    (of those who are silent, the potential: high, middle or low; of others core, or the tier that they left or are in);
    and how he took touches (untouched; answered, one at least; ignored, all of them; or refused, where he withdrew a
    consent or unsubscribed from a channel).
    """
    if episode.potential:
        who = episode.potential
    elif profile.standing.is_core(episode.opened_at):
        who = "core"
    else:
        who = Tier(episode.origin).label
    return f"{_OPENINGS[episode.trigger]}/{who}/{_answer(profile)}"


def _answer(profile: Profile) -> str:
    account = profile.account
    if not all(account.consent.values()):
        return "refused"
    if not account.contacts:
        return "untouched"
    return "answered" if any(contact.responded_at for contact in account.contacts) else "ignored"


def choose(arms: Sequence[Arm], segment: str, priors: Priors, rules: ChoiceRules, draw: float) -> Choice:
    """Choose among plays and doing nothing, which is always possible and need not be among the arms.

    `draw` lies in [0, 1). A play whose net would not even be above 0 at the high end of what it may add is left out.
    The others are given the probability of being the best, but at least the playbook's floor; what would be without a
    touch the holdout tells, so to do nothing needs no floor.
    """
    candidates = [arm for arm in arms if arm.play != DO_NOTHING]
    drawn = priors.drawn(segment, tuple(arm.play for arm in candidates))
    nets, left_out, places, values, costs = {}, {}, [0], [0.0], [0.0]
    for place, (arm, added) in enumerate(zip(candidates, drawn.told, strict=True), 1):
        value = max(0.0, arm.value_micros)
        nets[arm.play] = added.mean * value - arm.cost_micros
        if added.high * value > arm.cost_micros:
            places.append(place)
            values.append(value)
            costs.append(arm.cost_micros)
        else:
            left_out[arm.play] = NOT_WORTH_IT
    of = _units(_times_best(drawn.added[places], values, costs), rules.floor)
    chosen = places[bisect(list(accumulate(of)), int(draw * UNITS))]
    names = [DO_NOTHING, *(arm.play for arm in candidates)]
    propensities = {names[place]: units / UNITS for place, units in zip(places, of, strict=True)}
    play = names[chosen]
    reason = _reason(candidates, drawn.told, nets, play, propensities[play])
    return Choice(play, propensities[play], reason, left_out, nets, propensities)


def _times_best(added: Floats, values: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Return in how many places each is the best; among equals it is the first, and so nothing before all."""
    if len(values) == 1:
        return [PLACES]
    nets = added * np.array(values)[:, None] - np.array(costs)[:, None]
    times: list[int] = np.bincount(nets.argmax(axis=0), minlength=len(values)).tolist()
    return times


def _units(times: Sequence[int], floor: float) -> list[int]:
    """Return propensities in millionths; the first of `times` is that of nothing, which has no floor.

    >>> _units([64, 192, 0], 0.05)
    [225000, 725000, 50000]
    >>> _units([256], 0.05)
    [1000000]
    """
    plays = len(times) - 1
    least = int(min(floor, 1 / max(1, plays)) * UNITS)
    rest = UNITS - plays * least
    units = [(least if place else 0) + rest * n // PLACES for place, n in enumerate(times)]
    units[times.index(max(times))] += UNITS - sum(units)
    return units


def _reason(arms: Sequence[Arm], told: Sequence[Added], nets: Mapping[str, float], play: str, propensity: float) -> str:
    """Say why in words; of nothing, what the best play would have been expected to bring."""
    chance = f"chosen with probability {propensity:.2f}"
    if not arms:
        return f"do nothing: there is no play; {chance}"
    name = max(nets, key=nets.__getitem__) if play == DO_NOTHING else play
    arm, added = next(pair for pair in zip(arms, told, strict=True) if pair[0].play == name)
    calculated = (
        f"{name}: {100 * added.mean:+.1f} points of return expected ({100 * added.low:.1f} to {100 * added.high:.1f}) "
        f"x {arm.value_micros / _MICROS:.2f} - {arm.cost_micros / _MICROS:.2f} = {nets[name] / _MICROS:+.2f}"
    )
    return f"do nothing, {chance}; {calculated}" if play == DO_NOTHING else f"{calculated}; {chance}"


def value_of_return(
    profile: Profile, rhythms: Rhythms | None, lifetime: Lifetime | None, margin_rate: float, currency: Currency
) -> float:
    """Return what a return of the user is worth, in micros: the margin of the order, and of what follows from it.

    That is the margin of a year to come after an order now, less what is expected of it as it is. Without a model it
    is the order's margin alone.
    """
    own = order_value(profile) if profile.orders else 0.0
    margin = margin_rate * own
    if lifetime is not None and rhythms is not None and profile.orders:
        known = rhythms.orders
        back = known._replace(repeats=known.repeats + 1, recency_days=known.age_days)
        after = worth(lifetime, back, profile.orders + 1, own, margin_rate, VALUE_DAYS).margin
        margin += after - worth(lifetime, known, profile.orders, own, margin_rate, VALUE_DAYS).margin
    return max(0.0, margin) * _MICROS / float(10**currency.exponent)


def observed(play: str, propensity: float, holdout_share: float) -> float:
    """Return the probability with which an outcome of this kind came to be observed, for `Outcome.propensity`.

    `propensity` is the choice's, of the play or, for "nothing", of doing nothing (`Choice.propensities`): a user who
    was held out is observed without a touch as one is for whom nothing was chosen. In rule mode that is 0.

    >>> observed("memory", 0.5, 0.1), observed("nothing", 0.5, 0.1), observed("nothing", 0.0, 0.1)
    (0.45, 0.55, 0.1)
    """
    treated = (1 - holdout_share) * propensity
    return round(holdout_share + treated if play == DO_NOTHING else treated, 6)
