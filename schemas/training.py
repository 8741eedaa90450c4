"""What the model learns from: labelled examples, and the days that are complete. No user ids."""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from schemas.values import Closed, Count, Finite, Number, Tier

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class Example(Closed):
    """A user at a time, and what came of it."""

    kind: Literal["example"] = Field(description="Kind of record.")
    id: Hash = Field(description="Salted hash of user and time, hexadecimal; the same example comes once into a day.")
    t: date = Field(description="Day of the features, in the shop's timezone.")
    label_day: date = Field(description="Day on which the label was due.")
    horizon_days: Count = Field(description="Days within which an order was looked for.")
    y: Literal[0, 1] = Field(description="1: no order within the horizon.")
    weight: Number = Field(description="Weight in learning: how many users it stands for.")
    holdout: bool = Field(description="True where the user is held out.")
    treated: bool = Field(description="True where the user was touched within the horizon.")
    tier: Tier = Field(description="Tier at t.")
    features: list[Finite] = Field(description="Features in the order of the schema.")
    schema_hash: Hash = Field(description="Hash of the names and order of the features.")


class DayClosed(Closed):
    """A source partition has written all its examples of a day."""

    kind: Literal["day_closed"] = Field(description="Kind of record.")
    day: date = Field(description="The label day that is complete.")
    partition: Count = Field(description="The source partition.")
    partitions: Count = Field(description="How many source partitions there are.")


Training = Annotated[Example | DayClosed, Field(discriminator="kind")]
