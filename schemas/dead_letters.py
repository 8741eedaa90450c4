"""What could not be understood or applied, and where its original lies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.values import Closed, Count, Timestamp


class DeadLetter(Closed):
    """A record that was left out; the original is read at its place, since it may hold personal data."""

    reason: str = Field(description="Short reason, to count by.")
    detail: str = Field(description="What was wrong: field and what is allowed, not the value.")
    topic: str | None = Field(description="Topic of the original; null for a timer.")
    partition: Count | None = Field(description="Partition of the original; null for a timer.")
    offset: Count | None = Field(description="Offset of the original; null for a timer.")
    recorded_at: Timestamp | None = Field(description="The broker's time of the original; null for a timer.")
    key_hash: str | None = Field(description="Hash of the key, hexadecimal; null where there was none.")
    stage: Literal["parse", "step", "timer", "directive"] = Field(description="Where it went wrong.")


class SentBack(Closed):
    """A dead letter's record went to its topic again, repaired or as it was; on the letter's partition."""

    letter: Count = Field(description="Offset of the dead letter.")
    offset: Count = Field(description="Offset of the record on its own topic and partition, where it lies now.")
    sent_at: Timestamp = Field(description="When it was sent.")
