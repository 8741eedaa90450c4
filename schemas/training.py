"""What the model learns from: labelled examples, histories, and the days that are complete. No user ids."""

from datetime import date
from typing import Annotated, Final, Literal

from pydantic import Field

from schemas.values import Closed, Count, Finite, Id, Number, Probability, Tier

FEATURE_MAX: Final = 32.767
"""Of a feature's size: as a whole number of thousandths it takes two bytes."""

Feature = Annotated[float, Field(ge=-FEATURE_MAX, le=FEATURE_MAX)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class DayHistory(Closed):
    """What BG/NBD takes of a user: days with an order, or with activity, before the day of the record."""

    repeats: Count = Field(description="Such days after the first.")
    recency_days: Count = Field(description="Days from the first such day to the last.")
    age_days: Count = Field(description="Days from the first such day to the day of the record.")


class Predicted(Closed):
    """What the snapshot in force said at the time, each the probability of no order within the horizon."""

    version: Count = Field(description="Version of the snapshot.")
    model: Probability = Field(description="The model's, on which is acted.")
    learner: Probability | None = Field(description="The learner's alone; null where it had no share in the model.")
    bgnbd: Probability | None = Field(
        description="BG/NBD's alone, of orders and activity; null where it was not fitted."
    )
    recency: Probability = Field(description="By the time since the last order alone.")
    constant: Probability = Field(description="The share of all users, the same for each.")


class Values(Closed):
    """Recency, frequency and monetary value over a year."""

    r: Count = Field(description="Whole days since the last order.")
    f: Count = Field(description="Orders.")
    m: Annotated[int, Field(gt=-(2**53), lt=2**53)] = Field(
        description="Net revenue, minor units of the shop's currency."
    )


class Example(Closed):
    """A user at a time, and what came of it within a horizon."""

    kind: Literal["example"] = Field(description="Kind of record.")
    id: Hash = Field(description="Salted hash of user and time, hexadecimal; an example is learned once a horizon.")
    t: date = Field(description="Day of the features, in the shop's timezone.")
    label_day: date = Field(description="Day on which the label was due.")
    horizon_days: Count = Field(description="Days within which an order was looked for.")
    y: Literal[0, 1] = Field(description="1: no order within the horizon.")
    weight: Number = Field(description="Weight in learning: how many users it stands for.")
    holdout: bool = Field(description="True where the user is held out.")
    treated: bool = Field(description="True where the user was touched within the horizon.")
    tier: Tier = Field(description="Tier at t.")
    features: list[Feature] = Field(description="Features in the order of the schema.")
    schema_hash: Hash = Field(description="Hash of the names and order of the features.")
    history: DayHistory = Field(description="Days with an order, up to t.")
    active: DayHistory = Field(description="Days with activity, up to t.")
    predicted: Predicted | None = Field(description="What was predicted at t; null before the first snapshot.")
    lead_days: Count | None = Field(
        description="Where the horizon after the last order had passed at t for the first time: days from the first "
        "alert since that order to then. Null elsewhere, where there was no alert, and for a horizon not acted on."
    )


class Summary(Closed):
    """A user's orders up to a time, without a label: what lifetimes and quintiles are fitted to, every four weeks."""

    kind: Literal["summary"] = Field(description="Kind of record.")
    id: Hash = Field(description="Salted hash of user and time, hexadecimal; the same summary counts once.")
    t: date = Field(description="Day of the summary, in the shop's timezone.")
    history: DayHistory = Field(description="Days with an order, up to t.")
    active: DayHistory = Field(description="Days with activity, up to t.")
    orders: Count = Field(description="Orders in all time, without cancelled ones.")
    mean_value: Finite = Field(description="Net revenue an order, in all time; minor units of the shop's currency.")
    rfm: Values | None = Field(description="As of t; null where the user is not active, or not scored yet.")


class Outcome(Closed):
    """What came of a choice at the first touch, or of leaving a user alone: what the next choices are made by."""

    kind: Literal["outcome"] = Field(description="Kind of record.")
    id: Hash = Field(description="Salted hash of user and decision, hexadecimal; an outcome counts once.")
    day: date = Field(description="Day on which it was known, in the shop's timezone.")
    segment: Id = Field(description="Segment in which the choice was made.")
    play: Id = Field(description='The play, or "nothing".')
    y: Literal[0, 1] = Field(description="1: an order came within the response time.")
    propensity: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Probability with which this came about: of not being held out and of the play; for nothing, of "
        "being held out or of doing nothing."
    )
    held_out: bool = Field(description="True where the user is held out.")


class DayClosed(Closed):
    """A source partition has written all its examples of a day."""

    kind: Literal["day_closed"] = Field(description="Kind of record.")
    day: date = Field(description="The label day that is complete.")
    partition: Count = Field(description="The source partition.")
    partitions: Count = Field(description="How many source partitions there are.")


Training = Annotated[Example | Summary | Outcome | DayClosed, Field(discriminator="kind")]
