"""What is wrong with a playbook though every value is allowed: plays that no one gets, rules that shut each other out.

An error is what cannot work as it is written; a warning, what hardly anybody will have meant. Each finding says what to
do. What no rule here can know (consent, reach, what there is to say) is taken to be there.
"""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from difflib import get_close_matches
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker.recall.money import micros, micros_text
from worker.recall.playbook.lines import line_of
from worker.recall.playbook.model import ALL_TIERS, MOVES, Play
from worker.recall.playbook.read import ALIKE, Finding, name_of, nearest
from worker.recall.policy.budget import part
from worker.recall.policy.ladder import RESERVED, RESERVED_AFTER
from worker.recall.shop import CONTACT_AFTERMATH_DAYS
from worker.recall.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from schemas.values import Channel
    from worker.recall.playbook.lines import Place
    from worker.recall.playbook.model import Condition, Playbook
    from worker.recall.playbook.read import Level, Read

AWAKE_MINUTES_MIN: Final = 60
COOL_DOWN_DAYS_MAX: Final = 365
ALWAYS_SPEAKS: Final = frozenset({"memory", "care", "vip", "habit"})
"""Kinds of plays that have something to say to every user."""
_DAY_MINUTES: Final = 24 * 60
_WINDOW: Final = re.compile(r"(?P<channel>\w+?)_(?P<days>\d+)d")


class Situation(NamedTuple):
    """Somebody for whom an episode opens; potential is empty where he is not silent."""

    trigger: str
    name: str
    core: bool
    origin: Tier
    target: Tier
    tier: Tier
    potential: str

    def top(self, playbook: Playbook) -> bool:
        """Tell whether this is somebody of the highest value, as the ladder judges it."""
        top = playbook.ladder.top
        if self.potential:
            return self.potential in top.potential
        return bool({self.tier.label, self.origin.label} & set(top.tiers))


def check(
    read: Read, *, grants: Mapping[str, int] | None = None, partitions: int = 1, horizons_days: Sequence[int] = (30,)
) -> list[Finding]:
    """Return what is wrong, in the order of the file.

    `grants` are micros by budget, for all partitions together; without any, it is not asked what they pay for.
    """
    found = _Check(read, partitions)
    found.holdout(max(horizons_days))
    found.quiet_hours()
    found.people()
    found.signals()
    found.priors()
    for i, play in enumerate(read.playbook.plays):
        reached = list(filter(_fits(play), found.situations))
        if reached:
            found.openings(i, play, reached)
            found.ladder(i, play, reached)
            found.pays(i, play, reached, grants or {})
        else:
            found.nobody(i, play)
        found.incentive(i, play)
        found.cool_down(i, play)
    found.behind()
    found.budgets(grants or {})
    return sorted(found.findings, key=lambda finding: finding.line or 0)


class _Check:
    """Gathers what is found."""

    def __init__(self, read: Read, partitions: int) -> None:
        self.playbook, self.lines, self.partitions = read.playbook, read.lines, partitions
        self.raw = read.playbook.model_dump()
        self.situations = list(_situations(read.playbook))
        self.findings: list[Finding] = []

    def error(self, place: Place, text: str) -> None:
        self._add("error", place, text)

    def warning(self, place: Place, text: str) -> None:
        self._add("warning", place, text)

    def _add(self, level: Level, place: Place, text: str) -> None:
        self.findings.append(Finding(level, line_of(self.lines, place), f"{name_of(place, self.raw)}{text}"))

    # -- sections ------------------------------------------------------------------------------------------------------

    def holdout(self, horizon_days: int) -> None:
        """Look whether what is measured is over before the arms are drawn anew."""
        days = self.playbook.holdout.epoch_days
        longest = max(horizon_days, *(self.playbook.within_days(play) for play in self.playbook.plays))
        least = longest + CONTACT_AFTERMATH_DAYS
        if days <= least:
            self.error(
                ("holdout", "epoch_days"),
                f" = {days}: too short: allowed is more than {least}, the longest time that is looked at ({longest} "
                f"days) and {CONTACT_AFTERMATH_DAYS}",
            )

    def quiet_hours(self) -> None:
        rules = self.playbook.quiet_hours
        awake = _DAY_MINUTES - (rules.end_minute - rules.start_minute) % _DAY_MINUTES
        if awake < AWAKE_MINUTES_MIN:
            self.error(
                ("quiet_hours",),
                f": from {rules.start} to {rules.end} leaves {awake} minutes a day, in which all that waits goes out "
                f"at once; leave {AWAKE_MINUTES_MIN} at least",
            )

    def people(self) -> None:
        per_day, partitions = self.playbook.ladder.human_per_day, self.partitions
        if any("human" in play.rungs for play in self.playbook.plays) and 0 < per_day < partitions:
            self.warning(
                ("ladder", "human_per_day"),
                f" = {per_day}: split over {partitions} partitions, {partitions - per_day} of them have nobody on a "
                f"day (their turn comes another day); {partitions} or more serve everybody",
            )

    def signals(self) -> None:
        for i, signal in enumerate(self.playbook.signals):
            listens = any(
                "signal" in play.opening and (not play.signals or signal.name in play.signals)
                for play in self.playbook.plays
            )
            if not listens:
                self.warning(
                    ("signals", i),
                    ": no play listens to it, so that what it opens is recorded as 'no play'; add 'signal' to the "
                    "opening of one, or take the signal out",
                )
            for (_, one), (j, other) in combinations(enumerate(signal.when), 2):
                if _exclude(one, other) or _exclude(other, one):
                    self.error(
                        ("signals", i, "when", j),
                        f": {_told(other)} and {_told(one)} never hold together: the signal is never seen",
                    )

    def priors(self) -> None:
        for name, prior in self.playbook.choice.priors.items():
            if prior.with_play <= prior.without:
                self.warning(
                    ("choice", "priors", name),
                    f": with = {prior.with_play:g} is not above without = {prior.without:g}: the play is believed to "
                    "bring nothing and will hardly be tried",
                )

    # -- who is reached ------------------------------------------------------------------------------------------------

    def nobody(self, i: int, play: Play) -> None:
        """Name the first field without which somebody would be reached."""
        if set(play.potential) == {"low"}:
            self.error(("plays", i, "potential"), " = ['low']: no one can reach the play: low is never disturbed")
            return
        if set(play.opening) == {"signal"} and not self.playbook.signals:
            self.error(("plays", i, "opening"), " = ['signal']: no one can reach the play: there are no [[signals]]")
            return
        for field, anything in _ANYTHING.items():
            if any(map(_fits(play.model_copy(update={field: anything})), self.situations)):
                self.error(
                    ("plays", i, field),
                    f" = {getattr(play, field)!r}: no one can reach the play: this contradicts its opening by "
                    f"{', '.join(play.opening)}",
                )
                return
        fields = ", ".join(field for field in _ANYTHING if field in play.model_fields_set)
        self.error(("plays", i), f": no one can reach the play: {fields} and opening contradict each other")

    def openings(self, i: int, play: Play, reached: Sequence[Situation]) -> None:
        """Look for what says nothing in a play that is reached."""
        for j, trigger in enumerate(play.opening):
            if trigger not in {situation.trigger for situation in reached}:
                self.warning(
                    ("plays", i, "opening", j),
                    f" = {trigger!r}: brings no one, for the tiers, potential and audience of the play or for want of "
                    "a signal; take it out",
                )
        if play.potential and "silence" not in play.opening:
            self.warning(
                ("plays", i, "potential"),
                f" = {play.potential}: is asked of silent users alone, and opening has no 'silence': it says nothing "
                "here; take it out",
            )
        for field in ("from_tiers", "to_tiers"):
            if field in play.model_fields_set and not MOVES & set(play.opening):
                self.warning(
                    ("plays", i, field),
                    f" = {getattr(play, field)}: is asked of changes of tier alone ({', '.join(sorted(MOVES))}): it "
                    "says nothing here; say tiers instead",
                )

    def behind(self) -> None:
        """In rule mode the first play that fits is played; look for those whose turn never comes."""
        if self.playbook.choice.mode != "rule":
            return
        plays = self.playbook.plays
        for i, play in enumerate(plays):
            before = [one for one in plays[:i] if self._leaves_nobody(one) and set(play.rungs) <= set(one.rungs)]
            reached = filter(_fits(play), self.situations)
            takers = [next((one for one in before if _fits(one)(situation)), None) for situation in reached]
            first = [one for one in takers if one is not None]
            if not first or len(first) < len(takers):
                continue
            names = ", ".join(one.name for one in before if one in first)
            text = f": stands behind {names}, which fits all of its users (choice.mode = 'rule'): "
            if any(one.cool_down_days for one in first):
                text += "its turn comes only where a story ends early, within a cool-down"
                self.warning(("plays", i), f"{text}; put it first, or narrow the other's tiers or audience")
            else:
                self.error(("plays", i), f"{text}no one can reach it; put it first, or narrow the other")

    def _leaves_nobody(self, play: Play) -> bool:
        """Tell whether a play always has something to say, and its cool-down is over when the next story begins."""
        return play.kind in ALWAYS_SPEAKS and play.cool_down_days <= self.playbook.within_days(play)

    # -- how far it climbs ---------------------------------------------------------------------------------------------

    def ladder(self, i: int, play: Play, reached: Sequence[Situation]) -> None:
        playbook, rungs = self.playbook, play.rungs
        for j, rung in enumerate(rungs):
            why = self._rung_refused(j, rung, reached)
            if why is not None:
                self.error(("plays", i, "rungs", j), f" = {rung!r}: no one gets so far: {why}")
        cheap = playbook.potential.middle_rungs
        if all(situation.potential == "middle" for situation in reached) and not set(rungs) & set(cheap):
            self.error(
                ("plays", i, "rungs"),
                f" = {rungs}: no one can reach the play: users of middle potential get {', '.join(cheap) or 'none'} "
                "alone (potential.middle_rungs)",
            )
        climbed = sum(playbook.ladder.wait_days[rung] for rung in rungs[:-1])
        if climbed >= playbook.within_days(play):
            self.error(
                ("plays", i, "rungs", len(rungs) - 1),
                f" = {rungs[-1]!r}: no one gets so far: it comes {climbed} days after the first touch at the earliest "
                f"(ladder.wait_days), and the play is over after {playbook.within_days(play)} (success.within_days)",
            )
        if play.kind == "points_expiry" and "in_app" not in rungs:
            self.warning(
                ("plays", i, "rungs"),
                f" = {rungs}: points that expire are best told by a badge in the app, which costs nothing; add "
                "'in_app' as the first rung",
            )
        self._caps(i, play)

    def _rung_refused(self, j: int, rung: Channel, reached: Sequence[Situation]) -> str | None:
        playbook = self.playbook
        if rung in RESERVED:
            if j < RESERVED_AFTER:
                return f"it comes after {RESERVED_AFTER} touches without an answer, and before it there are {j}"
            if not any(situation.top(playbook) for situation in reached):
                return "it is for the highest value alone (ladder.top), and the play is for others"
        if rung == "human" and playbook.ladder.human_per_day == 0:
            return "nobody has time for it (ladder.human_per_day = 0)"
        cap = playbook.caps.channel.get(rung)
        if cap is not None and cap.touches == 0:
            return f"caps.channel.{rung} allows no touch"
        return None

    def _caps(self, i: int, play: Play) -> None:
        """Look for a rung for which the user's cap is full by the rungs before it alone."""
        cap = self.playbook.caps.user
        days = [0]
        for rung in play.rungs[:-1]:
            days.append(days[-1] + self.playbook.ladder.wait_days[rung])
        for j, day in enumerate(days):
            if sum(earlier > day - cap.days for earlier in days[:j]) >= cap.touches:
                self.error(
                    ("plays", i, "rungs", j),
                    f" = {play.rungs[j]!r}: no one gets so far: it is touch {j + 1} of the play, {day} days after the "
                    f"first, and caps.user allows {cap.touches} in {cap.days} days; raise the cap, lengthen "
                    "ladder.wait_days, or take the rung out",
                )
                break
        if len(play.steps) > cap.touches:
            self.warning(
                ("plays", i, "steps"),
                f": each of the {len(play.steps)} steps is a message, and caps.user allows {cap.touches} in {cap.days} "
                "days: who is quick gets no message for the later ones",
            )

    # -- what goes with it ---------------------------------------------------------------------------------------------

    def incentive(self, i: int, play: Play) -> None:
        if play.incentive is None:
            return
        if len(play.rungs) == 1:
            self.error(
                ("plays", i, "incentive"),
                ": is never given: it goes with the last rung and never with the first touch, and there is but one "
                "rung; add one before it",
            )
        if self.playbook.subsidy.share_max == 0:
            self.error(("plays", i, "incentive"), ": is never given: subsidy.share_max = 0")

    def cool_down(self, i: int, play: Play) -> None:
        if play.cool_down_days > COOL_DOWN_DAYS_MAX:
            self.warning(
                ("plays", i, "cool_down_days"),
                f" = {play.cool_down_days}: longer than the year that users are valued over: one gets the play once "
                f"and no more; {COOL_DOWN_DAYS_MAX} or less is usual",
            )

    # -- money ---------------------------------------------------------------------------------------------------------

    def pays(self, i: int, play: Play, reached: Sequence[Situation], grants: Mapping[str, int]) -> None:
        """Look whether the play's grant pays for one touch at least, in each partition."""
        costs = list(self._costs(play))
        if not grants or not any(costs):
            return
        if play.budget not in grants:
            near = nearest(play.budget, tuple(grants))
            self.error(("plays", i, "budget"), f" = {play.budget!r}: no grant of this name{near}")
            return
        granted = grants[play.budget]
        least = min(part(granted, n, self.partitions) for n in range(self.partitions))
        kept = 0.0 if all(situation.core for situation in reached) else self.playbook.budgets.core_share
        room = least - round(least * kept)
        for j, cost in enumerate(costs):
            if cost > room:
                split = f" over {self.partitions} partitions" if self.partitions > 1 else ""
                less = f", less {kept:.0%} for core users," if kept else ""
                self.error(
                    ("plays", i, "rungs", j),
                    f" = {play.rungs[j]!r}: one touch costs {micros_text(cost)}, and {micros_text(granted)} for "
                    f"{play.budget}{split}{less} leaves {micros_text(room)} in one; grant more",
                )

    def _costs(self, play: Play) -> Iterator[int]:
        """Yield the direct cost of each rung in micros, with the smallest incentive; a percentage is left out."""
        point = self.playbook.subsidy.point_value
        for j, rung in enumerate(play.rungs):
            contact = self.playbook.channels.cost[rung] if play.cost.contact is None else play.cost.contact
            given, worth = play.incentive, Decimal(0)
            if given is not None and 0 < j == len(play.rungs) - 1:
                unit = {"amount": Decimal(1), "points": point, "percent": Decimal(0)}[given.form]
                worth = given.face_values[0] * unit + given.points * point
                worth *= Decimal(str(given.expected_redemption))
            yield micros(contact + worth)

    def budgets(self, grants: Mapping[str, int]) -> None:
        names = tuple(dict.fromkeys(play.budget for play in self.playbook.plays))
        for name in grants:
            if name not in names:
                self.error((), f"grant {name!r}: no play pays with it{nearest(name, names)}")
        uses = Counter(play.budget for play in self.playbook.plays)
        for i, play in enumerate(self.playbook.plays):
            others = [name for name in names if uses[name] > uses[play.budget]]
            if (
                uses[play.budget] == 1
                and play.budget not in grants
                and get_close_matches(play.budget, others, 1, ALIKE)
            ):
                self.warning(
                    ("plays", i, "budget"),
                    f" = {play.budget!r}: no other play has this one{nearest(play.budget, others)}",
                )


_ANYTHING: Final[dict[str, Any]] = {
    "tiers": ALL_TIERS,
    "to_tiers": ALL_TIERS,
    "from_tiers": ALL_TIERS,
    "potential": [],
    "audience": "all",
}
"""By field that narrows a play, what does not."""


def _fits(play: Play) -> Callable[[Situation], bool]:
    """Return what tells whether a play is meant for a situation."""
    return lambda situation: play.fits(**situation._asdict())


def _situations(playbook: Playbook) -> Iterator[Situation]:
    """Yield everybody for whom an episode may open, by what opens it."""
    active = [Tier.HIGH, Tier.POTENTIAL, Tier.MARGINAL]
    moves = {
        "tier_drop": [(old, new) for old in active for new in active if new < old],
        "tier_reached": [(old, new) for old in (*active, Tier.NEW) for new in active if new > old],
        "silence": [(old, Tier.SILENT) for old in (*active, Tier.NEW)],
    }
    stays = {
        "risk": [*active, Tier.NEW],
        "signal": [*active, Tier.NEW],
        "rhythm": active,
        "near_tier": [tier for tier in active if tier.label in playbook.near_tier.tiers],
    }
    for trigger, tiers in stays.items():
        moves[trigger] = [(tier, tier) for tier in tiers]
    names = [signal.name for signal in playbook.signals]
    for trigger, pairs in moves.items():
        for origin, target in pairs:
            surely = Tier.HIGH in {origin, target}
            for core in (True,) if surely else (True, False):
                for potential in ("high", "middle") if target is Tier.SILENT else ("",):
                    for name in names if trigger == "signal" else ("",):
                        yield Situation(trigger, name, core, origin, target, target, potential)


def _exclude(one: Condition, other: Condition) -> bool:
    """Tell whether what one condition asks for at least is more than the other one allows.

    A count within fewer days is no greater than that within more.
    """
    if one.at_least is None or other.at_most is None or one.at_least <= other.at_most:
        return False
    if one.feature == other.feature:
        return True
    short, long = _WINDOW.fullmatch(one.feature), _WINDOW.fullmatch(other.feature)
    return (
        short is not None
        and long is not None
        and short["channel"] == long["channel"]
        and int(short["days"]) < int(long["days"])
    )


def _told(condition: Condition) -> str:
    bounds = [f"at_least = {condition.at_least:g}"] if condition.at_least is not None else []
    bounds += [f"at_most = {condition.at_most:g}"] if condition.at_most is not None else []
    return f"{condition.feature} with {' and '.join(bounds)}"
