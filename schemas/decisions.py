"""Every decision, the one not to send too."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.values import Arm, Channel, Closed, Count, Id, Probability, Timestamp, UserId, Versions

REASONS = (
    "sent",
    "dry run",
    "holdout",
    "before launch",
    "stale",
    "stopped",
    "excluded",
    "opted out",
    "profiling opt-out",
    "no consent",
    "cap",
    "no play",
    "ordered",
    "void",
    "expired",
    "erased",
)
"""The reasons known today; a consumer must bear new ones."""


class Decision(Closed):
    """What was decided for a user, and from what."""

    decision_id: Id = Field(description="Id of the decision, made from facts.")
    episode_id: Id = Field(description="Id of the episode.")
    user_id: UserId = Field(description="The shop's own id of the user, and the record's key.")
    at: Timestamp = Field(description="Event time of the decision.")
    opened_at: Timestamp = Field(description="Event time that opened the episode.")
    trigger: Id = Field(description="What opened the episode, such as tier_drop.")
    play: Id | None = Field(description="Play that was chosen; null for none.")
    channel: Channel | None = Field(description="Channel that was chosen; null for none.")
    step: Count = Field(description="Number of the touch within the episode, from 0.")
    outcome: Literal["sent", "suppressed", "void", "ended"] = Field(description="What came of it.")
    reason: Id = Field(description="Why; new reasons may be added.", examples=list(REASONS))
    arm: Arm = Field(description="Arm of the user; a control runs as a shadow.")
    propensity: Probability = Field(description="Probability with which this was chosen.")
    command_id: Id | None = Field(description="The command; null where none was made.")
    shadow_play: Id | None = Field(description="The play that would have been; null where the user was not held out.")
    versions: Versions = Field(description="What was in force.")
    offsets: dict[str, Count] = Field(description="By topic, the next offset when this was decided: what it had seen.")
