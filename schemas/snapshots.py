"""Versions of the model, kept as long as history is replayed, and the sums behind their figures."""

from datetime import date
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, TypeAdapter

from schemas.training import Hash
from schemas.values import Closed, Count, Id, Number, Probability

Quintiles = Annotated[list[int], Field(min_length=4, max_length=4)]
Parameter = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CutPoints(Closed):
    """Where the scores 1 to 5 are divided, ascending; ties take the lower score."""

    version: Id = Field(description="Version of the cut points.")
    recency_days: Quintiles = Field(description="Days since the last order.")
    frequency: Quintiles = Field(description="Orders in the year's window.")
    monetary: Quintiles = Field(description="Net revenue in the year's window, minor units of the shop's currency.")


class BgNbdParameters(Closed):
    """BG/NBD (Fader, Hardie and Lee 2005), in days."""

    r: Parameter = Field(description="BG/NBD: shape of the rates.")
    alpha: Parameter = Field(description="BG/NBD: scale of the rates, days.")
    a: Parameter = Field(description="BG/NBD: first parameter of the chance to leave.")
    b: Parameter = Field(description="BG/NBD: second parameter of the chance to leave.")


class LifetimeParameters(BgNbdParameters):
    """BG/NBD on days with an order, and on those with activity; Gamma-Gamma (Fader and Hardie 2013), in minor units."""

    activity: BgNbdParameters = Field(description="Of days with activity; the others are of days with an order.")
    p: Parameter | None = Field(description="Gamma-Gamma: shape of an order's value; null where it is not fitted.")
    q: Parameter | None = Field(description="Gamma-Gamma: shape of the scales among users.")
    v: Parameter | None = Field(description="Gamma-Gamma: scale of the scales among users, minor units.")
    fitted_day: date = Field(description="Last day whose histories it was fitted to.")
    histories: Count = Field(description="How many histories it was fitted to.")


Responses = tuple[Number, Number, Number]
"""Of a play in a segment: the outcomes' weights, their squares, and the weights of those who ordered."""


class ChoicePriors(Closed):
    """What came of choices, each outcome weighed by one over its propensity, and less the longer ago it was."""

    day: date = Field(description="Last day whose outcomes are in.")
    segments: dict[Id, dict[Id, Responses]] = Field(
        description='By segment and play, or "nothing": sum of weights, of their squares, and of those of users who '
        "ordered."
    )


class Snapshot(Closed):
    """A model to score with, and where learning goes on from."""

    kind: Literal["snapshot"] = Field(description="Kind of record.")
    version: Count = Field(description="Version, rising by horizon; with the horizon, the record's key.")
    created_label_day: date = Field(description="Last label day learned.")
    learned: Count = Field(description="Examples learned in all.")
    horizon_days: Count = Field(description="Days within which an order is looked for.")
    schema_hash: Hash = Field(description="Hash of the names and order of the features.")
    model: dict[str, JsonValue] | None = Field(
        description="The learner's parameters and what it needs to learn on; null before the first example."
    )
    learner_share: Probability = Field(description="Share of the learner in the logit; the rest is BG/NBD's.")
    share: dict[str, JsonValue] = Field(description="What past predictions say of the learner's share.")
    lifetime: LifetimeParameters | None = Field(description="What is known of purchases and their value.")
    summaries_from: date | None = Field(
        default=None,
        description="First day of the summaries first fitted to: before four weeks of them fits are weekly.",
    )
    baselines: dict[str, JsonValue] = Field(description="What recency and the constant say, to compare with.")
    alert_above: Probability | None = Field(description="A prediction above it is an alert; null before it is known.")
    metrics: dict[str, JsonValue] = Field(description="Figures beside those of the baselines.")
    resume_offset: Count = Field(description="Offset on the training topic from which learning goes on.")
    cut_points: CutPoints | None = Field(description="The population's quintiles; null where they are not known.")
    choice_priors: ChoicePriors | None = Field(description="What came of choices; null before the first outcome.")


class MeasuresRecord(Closed):
    """The sums behind a snapshot's figures, from which measuring goes on; written before the snapshot."""

    kind: Literal["measures"] = Field(description="Kind of record.")
    version: Count = Field(description="Version of the snapshot.")
    horizon_days: Count = Field(description="The snapshot's horizon.")
    sums: dict[str, JsonValue] = Field(description="The sums.")


_MODEL: Final[TypeAdapter[Snapshot | MeasuresRecord]] = TypeAdapter(
    Annotated[Snapshot | MeasuresRecord, Field(discriminator="kind")]
)


def read_model(value: bytes) -> Snapshot | MeasuresRecord:
    """Return what a record of the model's topic holds.

    Raises:
        pydantic.ValidationError: where it keeps no contract.

    """
    return _MODEL.validate_json(value)
