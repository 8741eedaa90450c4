"""Every decision, the one not to send too."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.commands import Cost
from schemas.values import (
    Arm,
    Channel,
    Closed,
    Count,
    Id,
    Level,
    Probability,
    SignedDecimalText,
    Timestamp,
    UserId,
    Versions,
)

OUTCOMES = ("sent", "suppressed", "held", "proposed", "void", "ended")
SUPPRESSED = (
    "dry run",
    "holdout",
    "before launch",
    "stale",
    "stopped",
    "excluded",
    "opted out",
    "profiling opt-out",
    "no consent",
    "unreachable",
    "no reach",
    "cap",
    "no play",
    "cool-down",
    "nothing to say",
    "middle potential",
    "not of the highest value",
    "too early on the ladder",
    "low potential",
    "not worth it",
    "do nothing",
    "no budget",
    "capacity",
    "no incentive",
    "subsidy share",
    "no feedback",
    "not approved",
    "episode open",
)
HELD = ("quiet hours", "checkout")
ENDED = ("won", "lost", "expired", "ordered", "erased", "withdrawn", "upgraded")
REASONS = ("sent", *SUPPRESSED, *HELD, "proposed", "void", *ENDED)
"""The reasons known today; a consumer must bear new ones."""


class PassedOver(Closed):
    """A rung of the ladder that could not be used."""

    channel: Channel = Field(description="Channel of the rung.")
    reason: Id = Field(description="Why: no consent, unreachable, or channel cap.")


class Decision(Closed):
    """What was decided for a user, and from what."""

    decision_id: Id = Field(description="Id of the decision, made from facts.")
    episode_id: Id = Field(description="Id of the episode.")
    user_id: UserId = Field(description="The shop's own id of the user, and the record's key.")
    at: Timestamp = Field(description="Event time of the decision.")
    opened_at: Timestamp = Field(description="Event time that opened the episode.")
    trigger: Id = Field(description="What opened the episode, such as tier_drop.")
    name: Id | None = Field(None, description="Name of the signal or level that opened it; null where it has none.")
    play: Id | None = Field(description="Play that was chosen; null for none.")
    channel: Channel | None = Field(description="Channel that was chosen; null for none.")
    step: Count = Field(description="Number of the touch within the episode, from 0.")
    rung: Count | None = Field(None, description="Place of the channel on the play's ladder, from 0; null for none.")
    outcome: Literal["sent", "suppressed", "held", "proposed", "void", "ended"] = Field(description="What came of it.")
    reason: Id = Field(description="Why; new reasons may be added.", examples=list(REASONS))
    text: str = Field("", description="The same in plain words, for a person to read.")
    until: Timestamp | None = Field(
        None, description="When it is looked at again: the end of a hold, or the time of the next rung; null for never."
    )
    arm: Arm = Field(description="Arm of the user; a control runs as a shadow.")
    propensity: Probability = Field(description="Probability with which arm and play were chosen.")
    choice_propensity: Probability = Field(1.0, description="Probability of the play alone, or of doing nothing.")
    segment: Id | None = Field(None, description="Segment in which the choice was made; null where none was.")
    potential: Level | None = Field(None, description="Potential of a silent user; null of all others.")
    command_id: Id | None = Field(description="The command; null where none was made.")
    shadow_play: Id | None = Field(description="The play that would have been; null where the user was not held out.")
    shadow_outcome: Id | None = Field(
        None, description="Of a user who was held out: sent, or the reason why nothing would have been."
    )
    passed_over: list[PassedOver] = Field([], description="Rungs that could not be used, in their order.")
    left_out: dict[str, str] = Field({}, description="By play, why it was no candidate.")
    nets: dict[str, SignedDecimalText] = Field(
        {}, description="By play, what was expected to be gained net of all costs, major units; empty in rule mode."
    )
    cost: Cost | None = Field(None, description="What the touch costs or would have cost; null where none was priced.")
    versions: Versions = Field(description="What was in force.")
    offsets: dict[str, Count] = Field(description="By topic, the next offset when this was decided: what it had seen.")
