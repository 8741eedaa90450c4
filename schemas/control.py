"""What steers a partition: time, budgets, adoptions, approvals, stop and resume. Written to every partition."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.values import Closed, Count, CurrencyCode, DecimalText, Id, Timestamp

EffectiveAt = Annotated[Timestamp, Field(description="From when on it holds, ahead of the partition's clock.")]


class Tick(Closed):
    """The wall clock, as a record."""

    kind: Literal["tick"] = Field(description="Kind of control record.")
    at: Timestamp = Field(description="The time that it is.")


class Heartbeat(Closed):
    """A source is up, and complete up to `at`."""

    kind: Literal["heartbeat"] = Field(description="Kind of control record.")
    source: Id = Field(description="Name of the source, such as orders.")
    at: Timestamp = Field(description="When the source was seen up.")


class Resumed(Closed):
    """The worker has taken the partition up again."""

    kind: Literal["resumed"] = Field(description="Kind of control record.")
    at: Timestamp = Field(description="The partition's committed clock.")
    wall: Timestamp = Field(
        description="The wall clock then; what was due before it is stale until the clock passes it."
    )


class AdoptSnapshot(Closed):
    """A snapshot of the model comes into force."""

    kind: Literal["adopt_snapshot"] = Field(description="Kind of control record.")
    effective_at: EffectiveAt
    horizon_days: Count = Field(description="The snapshot's horizon, days.")
    version: Count = Field(description="Version of the snapshot.")


class AdoptPlaybook(Closed):
    """A playbook comes into force."""

    kind: Literal["adopt_playbook"] = Field(description="Kind of control record.")
    effective_at: EffectiveAt
    version: Id = Field(description="Version of the playbook.")
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of users for whom it is in force, by a hash; below 1 the one before stays for the rest."
    )


class Stop(Closed):
    """No command leaves until `resume`; acts when read."""

    kind: Literal["stop"] = Field(description="Kind of control record.")
    at: Timestamp = Field(description="When it was said.")


class Resume(Closed):
    """Commands leave again; acts when read."""

    kind: Literal["resume"] = Field(description="Kind of control record.")
    at: Timestamp = Field(description="When it was said.")


class Grant(Closed):
    """Money for touches, to the partition that reads it; a later grant of the same id takes its place."""

    kind: Literal["grant"] = Field(description="Kind of control record.")
    effective_at: EffectiveAt
    budget_id: Id = Field(description="Id of the budget.")
    amount: DecimalText = Field(description="What may be spent, major units, to a millionth.")
    currency: CurrencyCode = Field(description="ISO 4217 code; must be the shop's currency.")
    shadow_price: DecimalText = Field(description="Opportunity cost of one unit of money spent (lambda), no unit.")
    period: Literal["day", "campaign"] = Field(
        "day", description="day: renewed each day of the shop's, what is left lapses; campaign: once."
    )
    until: Timestamp | None = Field(None, description="When it ends; null for never.")


class Approve(Closed):
    """A proposed play may be played."""

    kind: Literal["approve"] = Field(description="Kind of control record.")
    effective_at: EffectiveAt
    play: Id = Field(description="Name of the play.")
    until: Timestamp | None = Field(None, description="Until when; null for always.")


Control = Annotated[
    Tick | Heartbeat | Resumed | AdoptSnapshot | AdoptPlaybook | Stop | Resume | Grant | Approve,
    Field(discriminator="kind"),
]
