"""The values that the contracts are made of."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

ID_CHARS_MAX = 256
AMOUNT_LIMIT = 10**12
"""Amounts lie below this, in major units: sums of thousands of them still fit 64 bits in minor units."""
DECIMAL_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,12})?$"
SIGNED_DECIMAL_PATTERN = r"^-?[0-9]{1,15}(\.[0-9]{1,12})?$"
CURRENCY_PATTERN = r"^[A-Z]{3}$"
WORD_PATTERN = r"^[a-z0-9][a-z0-9 _-]{0,63}$"
TIMESTAMP_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:?[0-9]{2})$"
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_TIMESTAMP = re.compile(TIMESTAMP_PATTERN, re.ASCII)


class Open(BaseModel):
    """An object of Segment's: producers add fields of their own."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, populate_by_name=True)


class Closed(BaseModel):
    """An object of Recall's own: a field that is not named here is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


def _timestamp(value: Any) -> datetime:
    """Read RFC 3339; a datetime with a timezone is taken as it is."""
    if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
        value = datetime.fromisoformat(value.upper())
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("a timestamp is an RFC 3339 string with a timezone, such as 2026-01-05T10:00:00Z")
    if value < EPOCH:
        raise ValueError("a timestamp does not lie before 1970")
    return value


def rfc3339(at: int) -> str:
    """Return a time given in milliseconds since the epoch as text.

    >>> rfc3339(1_767_607_200_123)
    '2026-01-05T10:00:00.123Z'
    """
    return (EPOCH + timedelta(milliseconds=at)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def schema_id(name: str) -> str:
    """Return the `$id` of a generated schema, which is also the `dataschema` of what it describes.

    >>> schema_id("command")
    'https://recall.example/schemas/command.json'
    """
    return f"https://recall.example/schemas/{name}.json"


Timestamp = Annotated[
    datetime,
    BeforeValidator(_timestamp),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": TIMESTAMP_PATTERN}),
]
Id = Annotated[str, Field(min_length=1, max_length=ID_CHARS_MAX)]
UserId = Annotated[str, Field(min_length=1, max_length=ID_CHARS_MAX, pattern=r"^[^\x00]")]
Word = Annotated[str, Field(pattern=WORD_PATTERN)]
"""A word from a list of the shop's own; its form keeps addresses and phone numbers of the common kind out."""

DecimalText = Annotated[str, Field(pattern=DECIMAL_PATTERN)]
SignedDecimalText = Annotated[str, Field(pattern=SIGNED_DECIMAL_PATTERN)]
Number = Annotated[float, Field(ge=0, lt=AMOUNT_LIMIT, allow_inf_nan=False)]
Amount = Number | DecimalText
CurrencyCode = Annotated[str, Field(pattern=CURRENCY_PATTERN)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A whole number, not negative, that every JSON reader keeps exactly."""

Tier = Literal["high", "potential", "marginal", "silent", "new"]
Dimension = Literal["R", "F", "M"]
Channel = Literal["in_app", "push", "email", "sms", "human"]
Purpose = Literal["marketing"]
Arm = Literal["treated", "control"]
Level = Literal["high", "middle", "low"]


class Ltv(Closed):
    """The margin that a user is expected to bring, each with its predictive standard deviation, major units."""

    margin_90d: DecimalText = Field(description="Expected margin over the next 90 days.")
    error_90d: DecimalText = Field(description="Its standard deviation.")
    margin_365d: DecimalText = Field(description="Expected margin over the next 365 days.")
    error_365d: DecimalText = Field(description="Its standard deviation.")


class Scores(Closed):
    """RFM scores against the cut points in force, 1 (lowest) to 5."""

    r: int = Field(ge=1, le=5, description="Recency: days since the last order; 5 is the most recent.")
    f: int = Field(ge=1, le=5, description="Frequency: orders within the year's window.")
    m: int = Field(ge=1, le=5, description="Monetary value: net revenue within the year's window.")


class Versions(Closed):
    """What was in force when something was decided."""

    playbook: str = Field(description="Version of the playbook.")
    snapshot: Count | None = Field(description="Version of the model's snapshot; null before the first.")
    cut_points: str = Field(description="Version of the RFM cut points.")
