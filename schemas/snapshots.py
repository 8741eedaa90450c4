"""Versions of the model, kept as long as history is replayed."""

from datetime import date
from typing import Annotated

from pydantic import Field, JsonValue

from schemas.training import Hash
from schemas.values import Closed, Count, CurrencyCode, Finite, Id, SignedDecimalText

Quintiles = Annotated[list[Finite], Field(min_length=4, max_length=4)]
MoneyQuintiles = Annotated[list[SignedDecimalText], Field(min_length=4, max_length=4)]


class CutPoints(Closed):
    """Where the scores 1 to 5 are divided, ascending; ties take the lower score."""

    version: Id = Field(description="Version of the cut points.")
    recency_days: Quintiles = Field(description="Days since the last order.")
    frequency: Quintiles = Field(description="Orders in the year's window.")
    monetary: MoneyQuintiles = Field(description="Net revenue in the year's window, major units.")
    currency: CurrencyCode = Field(description="ISO 4217 code.")


class Snapshot(Closed):
    """A model to score with, and where learning goes on from."""

    version: Count = Field(description="Version, rising; the record's key.")
    created_label_day: date = Field(description="Last label day learned.")
    learned: Count = Field(description="Examples learned in all.")
    horizon_days: Count = Field(description="Days within which an order is looked for.")
    schema_hash: Hash = Field(description="Hash of the names and order of the features.")
    features: list[Id] = Field(description="Names of the features, in order.")
    model: dict[str, JsonValue] = Field(description="The model's parameters and what is needed to learn on.")
    metrics: dict[str, JsonValue] = Field(description="Figures beside those of the baselines.")
    resume_offset: Count = Field(description="Offset on the training topic from which learning goes on.")
    cut_points: CutPoints | None = Field(description="The population's quintiles; null leaves the playbook's.")
