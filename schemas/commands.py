"""What goes out to the systems that touch customers: commands and their cancellations, as CloudEvents."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from schemas.values import (
    Arm,
    Channel,
    Closed,
    Count,
    CurrencyCode,
    DecimalText,
    Dimension,
    Finite,
    Id,
    Level,
    Ltv,
    Probability,
    Purpose,
    Scores,
    SignedDecimalText,
    Tier,
    Timestamp,
    UserId,
    Versions,
    rfc3339,
)

COMMAND_TYPE = "shop.recall.intervention.requested.v1"
CANCELLATION_TYPE = "shop.recall.intervention.cancelled.v1"


class Reason(Closed):
    """Why the user is touched."""

    trigger: Id = Field(description="What opened the episode, such as tier_drop.")
    name: Id | None = Field(None, description="Name of the signal or level that opened it; null where it has none.")
    cause: Id = Field(
        description="What moved the value: silence, recency, frequency, spend, refund, recut or order; else as trigger."
    )
    from_tier: Tier = Field(description="Tier before; the tier itself where none was left.")
    to_tier: Tier = Field(description="Tier after.")
    fell: list[Dimension] = Field(description="Which of R, F and M fell.")
    scores_before: Scores | None = Field(description="Scores before; null where there were none.")
    scores_after: Scores | None = Field(description="Scores after; null where there are none.")
    potential: Level | None = Field(None, description="Potential of a silent user; null of all others.")
    text: str = Field("", description="The same in plain words, for a person to read.")
    as_of: Timestamp = Field(description="Event time up to which this was known.")


class Value(Closed):
    """What the user is worth to the shop: over the year's window, and what is expected to come."""

    tier: Tier = Field(description="Tier when decided.")
    core: bool = Field(description="True where the user was of the tier high within the last 180 days.")
    orders: Count = Field(description="Orders.")
    net_revenue: SignedDecimalText = Field(description="Net revenue, refunds taken off, major units.")
    aov: SignedDecimalText = Field(description="Average order value, major units.")
    top_category: str | None = Field(description="Category looked at and bought most; null where none is known.")
    ltv: Ltv | None = Field(None, description="Expected margin; null until the models of purchases are fitted.")
    alive: Probability | None = Field(
        None,
        description="Probability that the user has not left for good, by BG/NBD of days with activity; null as ltv.",
    )
    currency: CurrencyCode = Field(description="ISO 4217 code.")


class Factor(Closed):
    """What moved a risk."""

    feature: Id = Field(description="Name of the feature.")
    contribution: Finite = Field(description="Contribution to the log odds.")
    text: str = Field(description="The same, for a person to read.")


class Risk(Closed):
    """The probability that the user does not order within the horizon."""

    probability: Probability = Field(description="Probability of no order within the horizon.")
    horizon_days: Count = Field(description="The horizon, days.")
    level: Id | None = Field(None, description="Level, where levels are set.")
    model_version: Count = Field(description="Version of the model's snapshot.")
    top_factors: list[Factor] = Field(description="What moved it most, greatest first.")


class PriceIncentive(Closed):
    """Money given away."""

    form: Literal["percent", "amount", "points"] = Field(description="Form of the incentive.")
    face_value: DecimalText = Field(description="Percent, major units or points, by form.")
    currency: CurrencyCode | None = Field(None, description="ISO 4217 code, where the form is amount.")
    points: Count = Field(0, description="Loyalty points given beside it, without a threshold.")


class Task(Closed):
    """A step of a task of several, counted from the stream as the user does it."""

    step: Count = Field(description="Number of the step, from 0.")
    steps: Count = Field(description="How many there are.")
    channel: Id = Field(description="What is to be done, such as check_in or cart_add.")
    count: Count = Field(description="How many times.")


class Action(Closed):
    """What is to be done."""

    play: Id = Field(description="Name of the play in the playbook.")
    kind: Id = Field(description="Kind of touch, such as memory or care.")
    price_incentive: PriceIncentive | None = Field(description="Money given away; null for none.")
    task: Task | None = Field(None, description="Step of a task that the user is given; null for none.")
    template: Id = Field(description="Key of the template.")
    variables: dict[str, JsonValue] = Field(description="What the template is filled with; no personal data.")


class Delivery(Closed):
    """How and when it is to reach the user."""

    channel: Channel = Field(description="Channel of this touch.")
    rung: Count = Field(0, description="Place of the channel on the play's ladder, from 0.")
    next_channel: Channel | None = Field(None, description="Channel of the next rung; null on the last.")
    escalate_after: Timestamp | None = Field(
        None,
        description="When the next rung is looked at, where this touch is told delivered and the user does not answer.",
    )
    timezone: Id = Field(description="IANA name of the timezone that quiet hours are judged in.")
    not_before: Timestamp | None = Field(description="Not to be delivered before; null for at once.")
    not_after: Timestamp = Field(description="Not to be delivered after.")


class Guards(Closed):
    """What was checked, and what has to hold until delivery."""

    purpose: Purpose = Field(description="Purpose that the consent was checked for.")
    consent_checked_at: Timestamp = Field(description="Event time of the check.")
    cancel_if: list[Id] = Field(description="What makes the touch needless; a cancellation follows.")
    priority: Count = Field(description="Higher goes first where the consumer has to choose.")


class Cost(Closed):
    """What the touch costs in full, major units."""

    contact: DecimalText = Field("0", description="What the contact itself costs.")
    incentive: DecimalText = Field("0", description="Face value of the incentive times its expected redemption.")
    direct: DecimalText = Field(description="Money that leaves: contact and incentive.")
    opportunity: DecimalText = Field(description="What the money would have earned elsewhere: lambda times direct.")
    hidden: DecimalText = Field(description="People, upkeep, fatigue and brand.")
    currency: CurrencyCode = Field(description="ISO 4217 code.")
    budget: Id | None = Field(None, description="Budget that is charged; null where nothing is.")


class Experiment(Closed):
    """What makes the effect measurable."""

    id: Id = Field(description="Id of the experiment.")
    arm: Arm = Field(description="Arm of the user.")
    propensity: Probability = Field(description="Probability with which this arm and action were chosen.")
    choice_propensity: Probability = Field(1.0, description="Probability of the action alone.")
    segment: Id | None = Field(None, description="Segment in which the choice was made; null where none was.")


class Command(Closed):
    """A touch to be carried out. The same id is the same command: carry it out once."""

    command_id: Id = Field(description="Id of the command, made from facts.")
    episode_id: Id = Field(description="Id of the episode that the touch belongs to.")
    step: Count = Field(description="Number of the touch within the episode, from 0.")
    user_id: UserId = Field(description="The shop's own id of the user, and the record's key.")
    issued_at: Timestamp = Field(description="Event time of the decision.")
    not_before: Timestamp | None = Field(None, description="Not to be carried out before; absent for at once.")
    not_after: Timestamp = Field(description="Not to be carried out after.")
    reason: Reason = Field(description="Why.")
    value: Value = Field(description="What the user is worth.")
    risk: Risk | None = Field(description="Risk of leaving; null before the first snapshot.")
    action: Action = Field(description="What to do.")
    delivery: Delivery = Field(description="How and when.")
    guards: Guards = Field(description="What was checked.")
    cost: Cost = Field(description="What it costs.")
    experiment: Experiment = Field(description="The experiment that the touch is part of.")
    versions: Versions = Field(description="What was in force.")


class Cancellation(Closed):
    """A command that is not to be carried out any more, on the same topic under the same key."""

    command_id: Id = Field(description="The command that is cancelled.")
    episode_id: Id = Field(description="The episode that it belonged to.")
    user_id: UserId = Field(description="The shop's own id of the user, and the record's key.")
    cancelled_at: Timestamp = Field(description="Event time of the cancellation.")
    reason: Literal["ordered", "won", "void", "erased", "withdrawn", "stopped", "upgraded"] = Field(description="Why.")


def cloud_event_headers(
    *,
    id: str,  # noqa: A002 - CloudEvents' name
    type: str,  # noqa: A002 - CloudEvents' name
    subject: str,
    time_ms: int,
    dataschema: str,
    source: str,
) -> tuple[tuple[str, bytes], ...]:
    """Return the Kafka headers of a CloudEvent 1.0 in binary mode; `time_ms` since the epoch.

    >>> attributes = {"id": "c1", "type": COMMAND_TYPE, "subject": "u1", "dataschema": "d", "source": "/recall"}
    >>> headers = dict(cloud_event_headers(**attributes, time_ms=0))
    >>> headers["ce_time"], headers["content-type"]
    (b'1970-01-01T00:00:00.000Z', b'application/json')
    """
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": source,
        "ce_type": type,
        "ce_subject": subject,
        "ce_time": rfc3339(time_ms),
        "ce_dataschema": dataschema,
        "content-type": "application/json",
    }
    return tuple((name, value.encode()) for name, value in attributes.items())
