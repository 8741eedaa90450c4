"""Transitions between value tiers, up and down."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.values import Closed, Dimension, Ltv, Probability, Scores, Tier, Timestamp, UserId

Cause = Literal["silence", "recency", "frequency", "spend", "refund", "recut", "order", "activity"]


class TierChange(Closed):
    """A user went from one tier to another."""

    user_id: UserId = Field(description="The shop's own id of the user, and the record's key.")
    at: Timestamp = Field(description="Event time of the change.")
    from_tier: Tier = Field(description="Tier before.")
    to_tier: Tier = Field(description="Tier after.")
    direction: Literal["up", "down"] = Field(description="Which way.")
    cause: Cause = Field(description="What moved it; recut is a new version of the cut points.")
    fell: list[Dimension] = Field(description="Which of R, F and M fell.")
    scores_before: Scores | None = Field(description="Scores before; null where there were none.")
    scores_after: Scores | None = Field(description="Scores after; null where there are none.")
    core: bool = Field(description="True where the user was of the tier high within the last 180 days.")
    cut_points: str = Field(description="Version of the RFM cut points.")
    ltv: Ltv | None = Field(None, description="Expected margin; null until the models of purchases are fitted.")
    alive: Probability | None = Field(
        None,
        description="Probability that the user has not left for good, by BG/NBD of days with activity; null as ltv.",
    )
