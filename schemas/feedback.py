"""What became of a command, told by the system that carries it out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.values import Channel, Closed, CurrencyCode, DecimalText, Id, Timestamp, UserId

Status = Literal["delivered", "opened", "clicked", "visited", "bounced", "failed", "unsubscribed", "converted"]


class FeedbackRecord(Closed):
    """The outcome of a touch. The least that is needed: command_id, status, channel, and when it happened (timestamp).

    Escalation goes by `delivered`; `opened` is taken and moves nothing, since mail programs open by themselves.
    """

    type: Literal["feedback"] = Field(description="Kind of record.")
    message_id: Id = Field(alias="messageId", description="Unique id of the message; applied once for a user.")
    user_id: UserId = Field(alias="userId", description="The shop's own id of the user, and the record's key.")
    timestamp: Timestamp = Field(description="When it happened: RFC 3339 with a timezone.")
    command_id: Id = Field(description="The command that this is the outcome of.")
    status: Status = Field(
        description="What happened. delivered: it arrived; clicked, visited, converted: responses; opened: kept, not "
        "trusted; bounced: the address is no good, its channel is left alone until something arrives again or new "
        "consent is given; failed: it did not go out or was turned away this once; unsubscribed: consent to the "
        "channel is withdrawn."
    )
    channel: Channel = Field(description="Channel on which it happened.")
    actual_cost: DecimalText | None = Field(None, description="What the touch cost, major units.")
    currency: CurrencyCode | None = Field(
        None, description="ISO 4217 code; must be the shop's currency, which is meant if absent."
    )
