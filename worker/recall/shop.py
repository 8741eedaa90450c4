"""What does not change while a worker runs, and what all keys of a partition share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from worker.recall.days import DAY_MS, SETTLE_MS, Days
from worker.recall.money import Currency
from worker.recall.policy.budget import Budget
from worker.recall.policy.costs import Prices
from worker.recall.policy.holdout import Holdout
from worker.recall.policy.signals import Signal, condition
from worker.recall.rfm import CutPoints
from worker.recall.tiers import TierRules
from worker.recall.windows import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.recall.playbook import Playbook, model

CONTACT_AFTERMATH_DAYS = 90
"""A holdout's epoch outlasts the risk's horizon by more than this."""


class Shop(NamedTuple):
    """Settings that the rules depend on; `live_from` in ms (before it nothing leaves), `stall_ms` of a heartbeat."""

    currency: Currency
    days: Days
    partitions: int
    salt: str
    live_from: int
    dry_run: bool = False
    horizons_days: tuple[int, ...] = (30,)
    """For which the risk is learned; the first is acted on."""
    example_share: float = 1.0
    """Share of users of whom is learned, above 0."""
    censoring_weight: float = 0.0
    """Of examples of users whom contact may have moved; 0 leaves them out."""
    require_heartbeat: tuple[str, ...] = ()
    stall_ms: int = 15 * 60_000
    source: str = "/recall"
    """`ce_source` of what goes out."""

    @property
    def horizon_days(self) -> int:
        """Return the horizon that is acted on."""
        return self.horizons_days[0]


class Track(NamedTuple):
    """What a play asks of a user: channels of `windows.CHANNELS` by number, each with how often."""

    items: tuple[tuple[int, int], ...]
    """All of these make a win."""
    steps: tuple[tuple[int, int], ...]
    """Of a task, one after the other."""

    @classmethod
    def of(cls, play: model.Play) -> Track:
        """Read off what a play asks for."""
        items = tuple((CHANNELS.index(name), count) for name, count in play.success.track.items())
        return cls(items, tuple((CHANNELS.index(step.channel), step.count) for step in play.steps))


class InForce(NamedTuple):
    """A playbook, in the forms that the rules take."""

    playbook: Playbook
    version: str
    rules: TierRules
    cuts: CutPoints
    holdout: Holdout
    silent_after_ms: int
    """How long after the last activity silence is noticed."""
    prices: Prices
    currency: Currency
    triggers: frozenset[str]
    """What any play opens on: nothing else opens an episode."""
    tracks: Mapping[str, Track]
    """By play."""
    signals: tuple[Signal, ...]
    order_value_bounds: tuple[int, int]
    """From which mean order value on, in minor units, a silent user's potential has one point, and two."""

    @classmethod
    def of(cls, playbook: Playbook, shop: Shop) -> InForce:
        """Prepare a playbook for a shop; an epoch of the holdout that is too short for a horizon is refused."""
        longest = max(shop.horizons_days)
        least = longest + CONTACT_AFTERMATH_DAYS
        if playbook.holdout.epoch_days <= least:
            raise ValueError(
                f"playbook {playbook.name}: holdout.epoch_days = {playbook.holdout.epoch_days}: allowed is more than "
                f"{least}, the horizon of {longest} days and {CONTACT_AFTERMATH_DAYS}"
            )
        holdout = Holdout(shop.salt, playbook.holdout.share, playbook.holdout.epoch_days)
        rules = playbook.tier_rules()
        silent_after_ms = rules.silence_days * DAY_MS + SETTLE_MS
        return cls(
            playbook=playbook,
            version=playbook.version,
            rules=rules,
            cuts=playbook.cut_points(shop.currency),
            holdout=holdout,
            silent_after_ms=silent_after_ms,
            prices=Prices.of(playbook, shop.currency),
            currency=shop.currency,
            triggers=frozenset(trigger for play in playbook.plays for trigger in play.opening),
            tracks={play.name: Track.of(play) for play in playbook.plays},
            signals=tuple(map(_compiled, playbook.signals)),
            order_value_bounds=playbook.order_value_bounds(shop.currency),
        )


def _compiled(signal: model.Signal) -> Signal:
    conditions = tuple(
        condition(given.feature, at_least=given.at_least, at_most=given.at_most, fell_by=given.fell_by)
        for given in signal.when
    )
    return Signal(signal.name, conditions, signal.cool_down_days * DAY_MS)


RESUMPTIONS_KEPT = 8


class Source(msgspec.Struct, array_like=True, frozen=True):
    """A source that has to give signs of life: its last one, and since when it is trusted again."""

    at: int
    trusted_from: int


class Shared(msgspec.Struct, array_like=True, frozen=True):
    """The customers' part of the partition record; moved by directives and days alone."""

    playbook: str = ""
    snapshots: dict[int, int] = {}
    """By horizon, the version of the model in force."""
    stopped: bool = False
    resumed: tuple[tuple[int, int], ...] = ()
    """When the worker took the partition up again: the partition's clock then, and the wall's."""
    day_due: int = 0
    """When the current day closes."""
    sources: dict[str, Source] = {}
    budgets: dict[str, Budget] = {}
    """By id, what was granted to this partition."""
    subsidised: dict[int, tuple[int, int]] = {}
    """By week, the commands that were sent, and those of them with a price incentive."""
    human: tuple[int, int] = (0, 0)
    """A day, and how many touches by people it has used."""
    unheard: int = 0
    """Touches in a row that came to their time without any feedback."""
    approved: dict[str, int] = {}
    """By play, until when it may be played; 0 for always."""
    canary: tuple[str, float] | None = None
    """A playbook that is in force for a share of the users, and the share."""
