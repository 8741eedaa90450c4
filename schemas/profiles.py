"""What the shop knows of a user beside behaviour: consent, timezone, points, opt-outs, exclusion, erasure."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from schemas.values import Channel, Closed, Count, Id, Purpose, Timestamp, UserId, Word

TIME_ZONES = frozenset(files("tzdata").joinpath("zones").read_text("ascii").split())
"""IANA names of the pinned tzdata package, so that every machine knows the same ones."""


def _time_zone(name: str) -> str:
    if name not in TIME_ZONES:
        raise ValueError("a timezone is an IANA name, such as Europe/London")
    return name


class ProfileRecord(Closed):
    """A change of a user's profile. What is absent or null stays as it was."""

    type: Literal["profile"] = Field(description="Kind of record.")
    message_id: Id = Field(alias="messageId", description="Unique id of the message; applied once for a user.")
    user_id: UserId = Field(alias="userId", description="The shop's own id of the user, and the record's key.")
    timestamp: Timestamp = Field(description="When it changed: RFC 3339 with a timezone.")
    consent: dict[Channel, dict[Purpose, bool]] | None = Field(
        None, description="Consent by channel and purpose; channels and purposes not named stay as they were."
    )
    timezone: Annotated[str, AfterValidator(_time_zone)] | None = Field(
        None, description="IANA name of the user's timezone, such as Europe/London."
    )
    points: Count | None = Field(None, description="Balance of loyalty points.")
    points_expire_at: Timestamp | None = Field(None, description="When the points expire.")
    opt_out_messages: bool | None = Field(None, description="True: no message of any kind.")
    opt_out_profiling: bool | None = Field(
        None, description="True: no profile is kept beyond this wish, none is scored."
    )
    excluded: bool | None = Field(None, description="True: never contacted (staff, fraud, legal).")
    exclusion_reason: Word | None = Field(None, description="Why excluded: a word of the shop's own, no personal data.")
    erase: bool | None = Field(None, description="True: everything about the user is erased, for good.")
