"""The operator's file: how users are valued, whom to touch by which play, and what must never happen.

A playbook is TOML, checked whole before anything starts; a mistake is named by its field, its value and what is
allowed.
"""

from __future__ import annotations

import hashlib
import tomllib
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.recall.rfm import CutPoints, Scores
from worker.recall.tiers import Tier, TierRule, TierRules

if TYPE_CHECKING:
    from pathlib import Path

    from worker.recall.money import Currency

TierName = Literal["high", "potential", "marginal", "silent", "new"]
Channel = Literal["in_app", "push", "email", "sms", "human"]
Score = Annotated[int, Field(ge=1, le=5)]
Days = Annotated[int, Field(ge=0, le=3650)]
Amount = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=4)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class PlaybookError(ValueError):
    """The playbook cannot be used; the message says where and why."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LeastScores(_Section):
    """What a tier asks for at least."""

    r: Score = 1
    f: Score = 1
    m: Score = 1


class Tiers(_Section):
    """How scores become tiers, and how fast."""

    high: LeastScores
    potential: LeastScores
    silence_days: Annotated[int, Field(ge=1, le=365)] = 60
    hold_days: Days = 7
    guard_days: Days = 14


class Cuts(_Section):
    """Four ascending bounds each, and whether the population's quintiles take their place once they are known."""

    r_days: Annotated[list[int], Field(min_length=4, max_length=4)]
    f_orders: Annotated[list[int], Field(min_length=4, max_length=4)]
    m: Annotated[list[Amount], Field(min_length=4, max_length=4)]
    cut_points: Literal["playbook", "population"] = "playbook"

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for name in ("r_days", "f_orders", "m"):
            bounds = getattr(self, name)
            if any(low >= high for low, high in pairwise(bounds)):
                raise ValueError(f"{name} = {[str(b) for b in bounds]}: allowed are four bounds in rising order")
        return self


class ValueRules(_Section):
    """What turns revenue into margin."""

    margin_rate: Annotated[float, Field(ge=0, le=1)] = 0.35
    """Share of net revenue that is left after the cost of goods and delivery."""


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

    user: Cap = Cap(touches=2, days=14)
    channel: dict[Channel, Cap] = {}


class PlayCost(_Section):
    """What one touch costs, in major units of the shop's currency."""

    direct: Amount = Decimal(0)
    hidden: Amount = Decimal(0)


class Play(_Section):
    """A touch, and for whom it is."""

    name: Name
    trigger: Literal["tier_drop"]
    audience: Literal["all", "core"] = "all"
    from_tiers: list[TierName] = ["high", "potential", "marginal", "new"]
    to_tiers: list[TierName] = ["potential", "marginal", "silent"]
    kind: Name
    channel: Channel
    purpose: Literal["marketing"] = "marketing"
    template: Annotated[str, Field(min_length=1, max_length=128)]
    valid_days: Annotated[int, Field(ge=1, le=90)] = 3
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    cost: PlayCost = PlayCost()

    def fits(self, *, trigger: str, core: bool, origin: Tier, target: Tier) -> bool:
        """Tell whether the play is meant for this."""
        return (
            self.trigger == trigger
            and (core or self.audience == "all")
            and origin.label in self.from_tiers
            and target.label in self.to_tiers
        )


class Playbook(_Section):
    """The whole file."""

    name: Name
    tiers: Tiers
    rfm: Cuts
    value: ValueRules = ValueRules()
    holdout: HoldoutRules = HoldoutRules()
    consent: Consent = Consent()
    caps: Caps = Caps()
    observe_days: Annotated[int, Field(ge=1, le=365)] = 30
    """How long after a decision the user is watched before a new story may begin."""
    plays: Annotated[list[Play], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [play.name for play in self.plays]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"plays: the name {name!r} stands {names.count(name)} times; allowed is once")
        return self

    @property
    def version(self) -> str:
        """Name and content, shortened: two files with the same content are the same version."""
        return f"{self.name}@{hashlib.blake2b(self.model_dump_json().encode(), digest_size=5).hexdigest()}"

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


def load(path: Path) -> Playbook:
    """Read a playbook.

    Raises:
        PlaybookError: naming the file, and each wrong field with its value and what is allowed.

    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlaybookError(f"playbook {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlaybookError(f"playbook {path}: is not TOML: {error}") from error
    return parse(raw, str(path))


def parse(raw: dict[str, object], origin: str) -> Playbook:
    """Check a playbook that was read already; `origin` is named in errors.

    >>> parse({"name": "p"}, "p.toml")
    Traceback (most recent call last):
    worker.recall.playbook.PlaybookError: playbook p.toml:
      tiers: Field required
      rfm: Field required
      plays: Field required
    """
    try:
        return Playbook.model_validate(raw)
    except ValidationError as error:
        lines = [_line(detail["loc"], detail["msg"], detail["type"], detail["input"]) for detail in error.errors()]
        raise PlaybookError("\n  ".join([f"playbook {origin}:", *lines])) from error


def _line(place: tuple[int | str, ...], message: str, kind: str, value: object) -> str:
    field = ".".join(str(part) for part in place) or "playbook"
    if kind in {"missing", "value_error"}:
        return f"{field}: {message.removeprefix('Value error, ')}"
    return f"{field} = {value!r}: {message}"
