"""What a playbook may say: its sections, their defaults, and what is allowed.

Amounts are in major units of the shop's currency, shares from 0 to 1, days and hours whole numbers. Every section has
a default but `rfm` (bounds of money mean nothing without knowing the currency) and the plays.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticCustomError

from schemas.values import Channel, Purpose
from schemas.values import Tier as TierName
from worker.recall.policy.signals import FEATURES, ConditionError, condition
from worker.recall.rfm import CutPoints, Scores
from worker.recall.tiers import Tier, TierRule, TierRules
from worker.recall.windows import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.recall.money import Currency

Trigger = Literal["tier_drop", "silence", "risk", "signal", "rhythm", "tier_reached", "near_tier"]
"""What opens an episode."""
MOVES: Final = frozenset({"tier_drop", "silence", "tier_reached"})
"""Openings that are a change of tier: only they have an origin and a target."""
PotentialLevel = Literal["high", "middle", "low"]
Kind = Literal[
    "memory",
    "points_expiry",
    "care",
    "usual_item",
    "new_arrivals",
    "comeback",
    "habit",
    "vip",
    "incentive_task",
]
"""What a play says: it decides what the template is filled with."""
RUNGS: Final[tuple[Channel, ...]] = get_args(Channel)
"""The channels from the gentlest to the most costly: the order of every ladder."""
Score = Annotated[int, Field(ge=1, le=5)]
Days = Annotated[int, Field(ge=0, le=3650)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=6)]
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Template = Annotated[str, Field(min_length=1, max_length=128)]
CLOCK_PATTERN: Final = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
Clock = Annotated[str, Field(pattern=CLOCK_PATTERN)]
Activity = Literal[
    "session",
    "check_in",
    "sign_in",
    "view",
    "new_arrival_view",
    "search",
    "cart_add",
    "cart_remove",
    "wishlist",
    "checkout",
    "order",
    "refund",
    "message_click",
]
"""What is counted of the stream: `windows.CHANNELS`."""
assert get_args(Activity) == CHANNELS

ALL_TIERS: Final[list[TierName]] = ["high", "potential", "marginal", "silent", "new"]
DO_NOTHING: Final = "nothing"
"""The arm that is always there; no play may be called so."""


def wrong(place: tuple[int | str, ...], said: str, value: object = None) -> PydanticCustomError:
    """Return an error about a place below what is being checked; `value` is what stands there, else what is checked."""
    return PydanticCustomError("playbook", "{said}", {"said": said, "place": place, **_shown(value)})


def unknown(place: tuple[int | str, ...], name: str, what: str, allowed: tuple[str, ...]) -> PydanticCustomError:
    """Return an error about a name that stands for nothing."""
    told = {"what": what, "place": place, "allowed": allowed, **_shown(name)}
    return PydanticCustomError("unknown_name", "no such {what}", told)


def _shown(value: object) -> dict[str, object]:
    return {} if value is None else {"value": value}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LeastScores(_Section):
    """What a tier asks for at least."""

    r: Score = 1
    f: Score = 1
    m: Score = 1


class Tiers(_Section):
    """How scores become tiers, and how fast."""

    high: LeastScores = LeastScores(r=4, f=4, m=4)
    potential: LeastScores = LeastScores(r=3, f=2, m=2)
    silence_days: Annotated[int, Field(ge=1, le=365)] = 60
    hold_days: Days = 7
    guard_days: Days = 14


class Cuts(_Section):
    """Four ascending bounds each, and whether the population's quintiles take their place once they are known."""

    r_days: Annotated[list[int], Field(min_length=4, max_length=4)] = [21, 45, 90, 180]
    f_orders: Annotated[list[int], Field(min_length=4, max_length=4)] = [1, 2, 4, 8]
    m: Annotated[list[Amount], Field(min_length=4, max_length=4)]
    cut_points: Literal["playbook", "population"] = "playbook"

    @field_validator("r_days", "f_orders", "m")
    @classmethod
    def _ascending(cls, bounds: list[Any]) -> list[Any]:
        if any(low >= high for low, high in pairwise(bounds)):
            raise wrong((), "allowed are four bounds in rising order")
        return bounds


class ValueRules(_Section):
    """What turns revenue into margin."""

    margin_rate: Share = 0.35
    """Share of net revenue left after the cost of goods and delivery, where the catalog has no category's own."""


class HoldoutRules(_Section):
    """Who is left alone for comparison."""

    share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    epoch_days: Annotated[int, Field(ge=1, le=3650)] = 182


class Consent(_Section):
    """What may be assumed of users who never said anything."""

    unknown: Literal["allow", "deny"] = "deny"


class Cap(_Section):
    """At most so many touches within a rolling window."""

    touches: Annotated[int, Field(ge=0, le=1000)]
    days: Annotated[int, Field(ge=1, le=365)]


class Caps(_Section):
    """Limits for a user, over all channels and by channel."""

    user: Cap = Cap(touches=4, days=28)
    channel: dict[Channel, Cap] = {}


class QuietHours(_Section):
    """When nothing that makes a sound goes out, in the user's own timezone; the same time twice means never."""

    start: Annotated[Clock, Field(alias="from")] = "21:00"
    end: Annotated[Clock, Field(alias="to")] = "09:00"
    channels: list[Channel] = ["push", "email", "sms", "human"]

    @property
    def start_minute(self) -> int:
        """Return the first quiet minute of the day."""
        return _minute(self.start)

    @property
    def end_minute(self) -> int:
        """Return the first minute of the day that is quiet no longer; before the first quiet one over midnight."""
        return _minute(self.end)


class Checkout(_Section):
    """How long a checkout in course holds messages back."""

    hold_hours: Annotated[int, Field(ge=0, le=72)] = 2


class RiskLevels(_Section):
    """From which probability of no order on a level is reached; left once the risk lies `margin` below it."""

    raised: Share = 0.85
    high: Share = 0.95
    margin: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    cool_down_days: Days = 30
    """No further opening by risk within so many days of the last one."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.margin < self.raised < self.high:
            allowed = f"allowed is above margin ({self.margin:g}) and below high ({self.high:g})"
            raise wrong(("raised",), allowed, self.raised)
        return self


class Rhythm(_Section):
    """When the time since the last order is too long for the user's own rhythm.

    That is `factor` times the mean gap between his days with an order, and `deviations` times their deviation.
    """

    min_orders: Annotated[int, Field(ge=3, le=100)] = 4
    """Before so many orders there is no rhythm."""
    factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    deviations: Annotated[float, Field(ge=0, le=10)] = 1.0


class NearTier(_Section):
    """Who is near the next tier: active, of one of `tiers`, short of the next one by a few scores."""

    tiers: list[Literal["potential", "marginal"]] = ["potential"]
    short_by: Annotated[int, Field(ge=1, le=4)] = 1
    """At most so many scores in all, over R, F and M."""
    cool_down_days: Days = 90
    """No further opening of the kind within so many days of the last one."""


class PotentialRules(_Section):
    """What a silent user was worth before he fell silent.

    Each criterion has no point, one from its first bound on, or two from the second on. The mean over all that are
    known decides, so that one that is not known is left out. Who has probably left for good is worth less than that.
    """

    order_value: Annotated[list[Amount], Field(min_length=2, max_length=2)] | None = None
    """Mean order value; if not given the two lowest bounds of `rfm.m`."""
    orders_a_year: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)] = [2.0, 6.0]
    """After the first, in the year before the last activity; over half a year at least."""
    high_value_margin: Share = 0.45
    """From which margin rate on, by the catalog, a category is of high value."""
    high_value_share: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.2, 0.5]
    """Share of such categories in what was bought."""
    high: Annotated[float, Field(gt=0, le=2)] = 1.5
    """Mean points from which on the potential is high."""
    middle: Annotated[float, Field(ge=0, le=2)] = 0.75
    """Mean points from which on it is middle; else low: do not disturb."""
    doubtful_below: Share = 0.3
    """Below this probability not to have left for good, by the orders, the potential is a level lower."""
    gone_below: Share = 0.1
    """Below this one it is low, whatever the points."""
    middle_rungs: list[Channel] = ["in_app", "push", "email"]

    @field_validator("order_value", "orders_a_year", "high_value_share")
    @classmethod
    def _ascending(cls, bounds: list[Any] | None) -> list[Any] | None:
        if bounds is not None and bounds[0] >= bounds[1]:
            raise wrong((), "allowed are two bounds in rising order")
        return bounds

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.middle >= self.high:
            raise wrong(("middle",), f"allowed is below high ({self.high:g})", self.middle)
        return self


class Top(_Section):
    """Whose value is the highest: SMS and people are for them."""

    tiers: list[TierName] = ["high"]
    """Of this tier now, or before the fall that opened the episode."""
    potential: list[PotentialLevel] = ["high"]
    """Of silent users: of this potential."""


WAIT_DAYS: Final[dict[Channel, int]] = {"in_app": 2, "push": 2, "email": 4, "sms": 4, "human": 7}
CONTACT_COST: Final[dict[Channel, Decimal]] = {
    "in_app": Decimal(0),
    "push": Decimal(0),
    "email": Decimal("0.001"),
    "sms": Decimal("0.05"),
    "human": Decimal(3),
}
BRAND_COST: Final[dict[Channel, Decimal]] = {
    "in_app": Decimal(0),
    "push": Decimal("0.005"),
    "email": Decimal("0.005"),
    "sms": Decimal("0.03"),
    "human": Decimal("0.05"),
}


def _completed(given: object, defaults: dict[Channel, int] | dict[Channel, Decimal]) -> object:
    """Let what is not said of a channel be its default."""
    return {**defaults, **given} if isinstance(given, dict) else given


class Ladder(_Section):
    """How a play climbs from channel to channel where nothing is answered."""

    wait_days: dict[Channel, Annotated[int, Field(ge=1, le=90)]] = WAIT_DAYS
    """After delivery, before the next rung; by the channel that was delivered."""
    top: Top = Top()
    human_per_day: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Touches by people a day of the shop, over all partitions."""
    alarm_after: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Touches in a row of a partition without any feedback, after which nothing escalates."""

    @field_validator("wait_days", mode="before")
    @classmethod
    def _with_defaults(cls, given: object) -> object:
        return _completed(given, WAIT_DAYS)


class Channels(_Section):
    """What one contact costs, by channel."""

    cost: dict[Channel, Amount] = CONTACT_COST

    @field_validator("cost", mode="before")
    @classmethod
    def _with_defaults(cls, given: object) -> object:
        return _completed(given, CONTACT_COST)


class HiddenCosts(_Section):
    """What no invoice shows, of each touch."""

    people: Amount = Decimal("0.002")
    """The team's time: planning and looking after."""
    upkeep: Amount = Decimal("0.001")
    """Of the system."""
    fatigue: Amount = Decimal("0.01")
    """For each touch that the user got within the last 30 days."""
    brand: dict[Channel, Amount] = BRAND_COST
    """What an unwanted message does to the shop's name, by channel."""

    @field_validator("brand", mode="before")
    @classmethod
    def _with_defaults(cls, given: object) -> object:
        return _completed(given, BRAND_COST)


class Subsidy(_Section):
    """How the shop keeps from teaching its customers to wait for coupons."""

    hunter_above: Share = 0.6
    """Share of orders with a discount above which a user is a bargain hunter and gets none."""
    min_orders: Annotated[int, Field(ge=1, le=100)] = 3
    """Before so many orders nobody is one."""
    cool_down_days: Days = 90
    """Between two incentives of a user."""
    share_max: Share = 0.2
    """Of a partition's commands of four weeks that may hold an incentive."""
    point_value: Amount = Decimal("0.01")
    """What one point of the shop's scheme is worth."""


class Prior(_Section):
    """Shares of users who order within `choice.response_days`, as believed before there is data."""

    with_play: Annotated[float, Field(gt=0, lt=1, alias="with")]
    without: Annotated[float, Field(gt=0, lt=1)]


class ChoiceRules(_Section):
    """Which of the plays that fit is played."""

    mode: Literal["rule", "learned"] = "rule"
    """`rule`: the first in the file's order. `learned`: by what has been seen to pay, do nothing among it."""
    floor: Annotated[float, Field(ge=0, le=0.2)] = 0.05
    """Probability of every arm that may pay."""
    response_days: Annotated[int, Field(ge=1, le=90)] = 28
    strength: Annotated[float, Field(gt=0, le=100_000)] = 50
    """How many users a prior counts for."""
    priors: dict[Name, Prior] = {}
    """By play."""


class BudgetRules(_Section):
    """How a grant is shared."""

    core_share: Share = 0.3
    """Kept for core users."""


class Condition(_Section):
    """What a feature has to be, in plain units: counts, days, shares, gaps; see `policy.signals`."""

    feature: str
    at_least: float | None = None
    at_most: float | None = None
    fell_by: float | None = None
    """Of trends: by what share the last 30 days lie below the 30 before, of which there must have been some."""

    @field_validator("feature")
    @classmethod
    def _known(cls, feature: str) -> str:
        if feature not in FEATURES:
            raise unknown((), feature, "feature", FEATURES)
        return feature

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise wrong(("at_least",), f"allowed is up to at_most ({self.at_most:g})", self.at_least)
        try:
            condition(self.feature, at_least=self.at_least, at_most=self.at_most, fell_by=self.fell_by)
        except ConditionError as error:
            raise wrong((), str(error)) from error
        return self


class Signal(_Section):
    """A named sign of leaving: seen where all conditions hold that did not all hold at the last weekly visit."""

    name: Name
    when: Annotated[list[Condition], Field(min_length=1)]
    cool_down_days: Days = 60
    """No further opening by the signal within so many days of its last one."""


class Incentive(_Section):
    """Money given away with the last rung."""

    form: Literal["percent", "amount", "points"]
    face_values: Annotated[list[Annotated[Amount, Field(gt=0)]], Field(min_length=1, max_length=8)]
    """Percent, major units or points. The smallest goes first, the next only where a smaller one was not redeemed."""
    expected_redemption: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of those who get it that use it."""
    points: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Given beside it, without a threshold."""

    @model_validator(mode="after")
    def _sane(self) -> Self:
        shown = [str(value) for value in self.face_values]
        if any(low >= high for low, high in pairwise(self.face_values)):
            raise wrong(("face_values",), "allowed are values in rising order", shown)
        if self.form == "percent" and self.face_values[-1] > 100:  # noqa: PLR2004 - percent
            raise wrong(("face_values",), "allowed is up to 100 percent", shown)
        return self


class PlayCost(_Section):
    """What a touch of this play costs in place of what its channel does."""

    contact: Amount | None = None
    hidden: Amount | None = None


class Success(_Section):
    """What makes a win: so many of each activity since the opening."""

    track: Annotated[dict[Activity, Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1)] = {"order": 1}
    within_days: Annotated[int, Field(ge=1, le=365)] | None = None
    """After the decision; if not given, `observe_days`."""


class Step(_Section):
    """A step of a habit task: so many of an activity, then the next step's message is due."""

    channel: Activity
    count: Annotated[int, Field(ge=1, le=100)] = 1
    template: Template


class Play(_Section):
    """What is done, for whom, and how far it may go."""

    name: Name
    opening: Annotated[list[Trigger], Field(min_length=1)]
    signals: list[Name] = []
    """Of an opening by signal only these; none named means any."""
    audience: Literal["all", "core"] = "all"
    from_tiers: Annotated[list[TierName], Field(min_length=1)] = ALL_TIERS
    """Where the opening is a change of tier: the one before."""
    to_tiers: Annotated[list[TierName], Field(min_length=1)] = ALL_TIERS
    """Where the opening is a change of tier: the one after."""
    tiers: Annotated[list[TierName], Field(min_length=1)] = ALL_TIERS
    """The tier when it is decided."""
    potential: list[PotentialLevel] = []
    """Of silent users; none named means any. Low potential is never disturbed."""
    kind: Kind
    purpose: Purpose = "marketing"
    template: Template
    templates: dict[Channel, Template] = {}
    """Where a rung has a template of its own."""
    variables: dict[str, JsonValue] = {}
    """Given to the template as they are."""
    rungs: Annotated[list[Channel], Field(min_length=1)]
    incentive: Incentive | None = None
    cost: PlayCost = PlayCost()
    budget: Name = "daily"
    cool_down_days: Days = 30
    """Before the play may begin again for a user, since his latest touch by it."""
    approval: bool = False
    success: Success = Success()
    steps: Annotated[list[Step], Field(max_length=8)] = []
    valid_days: Annotated[int, Field(ge=1, le=90)] = 3
    priority: Annotated[int, Field(ge=0, le=100)] = 50

    @field_validator("name")
    @classmethod
    def _not_nothing(cls, name: str) -> str:
        if name == DO_NOTHING:
            raise wrong((), "allowed is any other name: this one stands for leaving a user alone")
        return name

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.rungs != [rung for rung in RUNGS if rung in self.rungs]:
            raise wrong(("rungs",), f"allowed is each once, in the order {', '.join(RUNGS)}", self.rungs)
        for channel, template in self.templates.items():
            if channel not in self.rungs:
                raise wrong(("templates", channel), f"allowed is for its rungs: {', '.join(self.rungs)}", template)
        if self.signals and "signal" not in self.opening:
            raise wrong(("signals",), "allowed is with an opening by signal", self.signals)
        if self.steps and self.kind != "habit":
            raise wrong(("kind",), "allowed is 'habit' where there are steps", self.kind)
        if self.kind == "habit" and not self.steps:
            raise wrong(("kind",), "allowed is with steps, at least one", self.kind)
        return self

    def fits(
        self,
        *,
        trigger: str,
        name: str = "",
        core: bool,
        origin: Tier,
        target: Tier,
        tier: Tier,
        potential: str = "",
    ) -> bool:
        """Tell whether the play is meant for this.

        `name` is the signal's where one opened the episode, `tier` the one that the user has now, `potential` empty
        where the user is not silent.
        """
        return (
            trigger in self.opening
            and (trigger != "signal" or not self.signals or name in self.signals)
            and (core or self.audience == "all")
            and (trigger not in MOVES or (origin.label in self.from_tiers and target.label in self.to_tiers))
            and tier.label in self.tiers
            and (not potential or not self.potential or potential in self.potential)
        )

    def template_of(self, channel: str) -> str:
        """Return the template's key on a rung."""
        return next((own for rung, own in self.templates.items() if rung == channel), self.template)


class Playbook(_Section):
    """The whole file."""

    name: Name
    tiers: Tiers = Tiers()
    rfm: Cuts
    value: ValueRules = ValueRules()
    holdout: HoldoutRules = HoldoutRules()
    consent: Consent = Consent()
    caps: Caps = Caps()
    quiet_hours: QuietHours = QuietHours()
    checkout: Checkout = Checkout()
    risk: RiskLevels = RiskLevels()
    rhythm: Rhythm = Rhythm()
    near_tier: NearTier = NearTier()
    potential: PotentialRules = PotentialRules()
    ladder: Ladder = Ladder()
    channels: Channels = Channels()
    costs: HiddenCosts = HiddenCosts()
    subsidy: Subsidy = Subsidy()
    choice: ChoiceRules = ChoiceRules()
    budgets: BudgetRules = BudgetRules()
    observe_days: Annotated[int, Field(ge=1, le=365)] = 30
    """How long after a decision the user is watched before a new story may begin."""
    signals: list[Signal] = []
    plays: Annotated[list[Play], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_known_and_unique(self) -> Self:
        mistakes = [*self._named_twice(), *self._unknown_names()]
        if mistakes:
            raise PydanticCustomError("mistakes", "names that are unknown, or stand twice", {"mistakes": mistakes})
        return self

    def _named_twice(self) -> Iterator[PydanticCustomError]:
        for section in ("signals", "plays"):
            names = [entry.name for entry in getattr(self, section)]
            for i, name in enumerate(names):
                if name in names[:i]:
                    yield wrong((section, i, "name"), f"stands {names.count(name)} times; allowed is once", name)

    def _unknown_names(self) -> Iterator[PydanticCustomError]:
        signals = tuple(signal.name for signal in self.signals)
        for i, play in enumerate(self.plays):
            for j, name in enumerate(play.signals):
                if name not in signals:
                    yield unknown(("plays", i, "signals", j), name, "signal", signals)
        plays = tuple(play.name for play in self.plays)
        for name in self.choice.priors:
            if name not in plays:
                yield unknown(("choice", "priors", name), name, "play", plays)

    @property
    def version(self) -> str:
        """Name and content, shortened: two files with the same content are the same version."""
        return f"{self.name}@{hashlib.blake2b(self.model_dump_json().encode(), digest_size=5).hexdigest()}"

    def play(self, name: str) -> Play | None:
        """Return the play of a name; None where this playbook has none."""
        return next((play for play in self.plays if play.name == name), None)

    def within_days(self, play: Play) -> int:
        """Return how long after the decision a play's success may be complete; so long the user is watched."""
        return play.success.within_days or self.observe_days

    def tier_rules(self) -> TierRules:
        tiers = self.tiers
        table = tuple(
            TierRule(tier, Scores(least.r, least.f, least.m))
            for tier, least in ((Tier.HIGH, tiers.high), (Tier.POTENTIAL, tiers.potential))
        )
        return TierRules(table, tiers.silence_days, tiers.hold_days, tiers.guard_days)

    def cut_points(self, currency: Currency) -> CutPoints:
        r, f, m = self.rfm.r_days, self.rfm.f_orders, [currency.to_minor(bound) for bound in self.rfm.m]
        return CutPoints(self.version, (r[0], r[1], r[2], r[3]), (f[0], f[1], f[2], f[3]), (m[0], m[1], m[2], m[3]))

    def order_value_bounds(self, currency: Currency) -> tuple[int, int]:
        """Return from which mean order value on, in minor units, a silent user's potential has one point, and two."""
        first, second = self.potential.order_value or self.rfm.m[:2]
        return currency.to_minor(first), currency.to_minor(second)


def _minute(clock: str) -> int:
    hours, minutes = clock.split(":")
    return 60 * int(hours) + int(minutes)
