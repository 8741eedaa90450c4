"""Topics as they are to be: those that the stream itself needs, and how any are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from worker.stream import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.stream.connection import Connection

TIMEOUT_S: Final = 30.0
HOUR_MS: Final = 60 * 60 * 1000
_CHANGELOG_MESSAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""A record batch of rows is larger than most messages."""
_CHANGELOG_SEGMENT_BYTES: Final = 256 * 1024 * 1024
"""The open segment is not compacted, and read whole at a recovery."""
_TOMBSTONES_DAYS: Final = 7
"""Rows on disk can be gone on from for half of it: after that a dropped row might come back."""
_BROKERS_DEFAULT: Final = -1
"""For the replication factor: what the cluster is set to."""


class TopicsError(ValueError):
    """The topics cannot be made, or not be used as they are; the message says which and why."""


class TopicPlan(NamedTuple):
    """A topic as it is to be."""

    name: str
    partitions: int
    config: dict[str, str]


class Outcome(NamedTuple):
    """What became of a plan: made now, or there already."""

    plan: TopicPlan
    created: bool


def changelog_of(app_id: str) -> str:
    """Return the name of the topic that holds the rows.

    >>> changelog_of("recall")
    'recall-rows-changelog'
    """
    return f"{app_id}-rows-changelog"


def own_topics(app_id: str, partitions: int) -> list[TopicPlan]:
    """Return the changelog, and the topic on which transactions are tried out at the start."""
    rows = {
        "cleanup.policy": "compact",
        "segment.ms": str(HOUR_MS // 2),
        "segment.bytes": str(_CHANGELOG_SEGMENT_BYTES),
        "min.cleanable.dirty.ratio": "0.2",
        "delete.retention.ms": str(_TOMBSTONES_DAYS * 24 * HOUR_MS),
        "max.message.bytes": str(_CHANGELOG_MESSAGE_BYTES_MAX),
    }
    return [
        TopicPlan(changelog_of(app_id), partitions, rows),
        TopicPlan(probe.topic_of(app_id), 1, {"retention.ms": str(HOUR_MS)}),
    ]


def create(
    connection: Connection, plans: Sequence[TopicPlan], why: Callable[[str], str] = lambda _name: ""
) -> list[Outcome]:
    """Make the topics that are missing, and leave those that are there as they are; `why` explains a count.

    Raises:
        TopicsError: naming each topic with another number of partitions, before any is made, or what the broker said.

    """
    admin = AdminClient(connection.librdkafka())
    try:
        there = {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=TIMEOUT_S).topics.items()}
    except KafkaException as error:
        raise TopicsError(f"broker {connection.brokers}: {error.args[0].str()}") from error
    wrong = [
        f"topic {name}: {there[name]} partitions; allowed is {partitions}{why(name)}"
        for name, partitions, _ in plans
        if there.get(name, partitions) != partitions
    ]
    if wrong:
        raise TopicsError("\n  ".join([f"broker {connection.brokers} has topics that do not fit:", *wrong]))
    missing = [plan for plan in plans if plan.name not in there]
    if missing:
        _create(admin, connection, missing)
    return [Outcome(plan, plan.name not in there) for plan in plans]


def _create(admin: AdminClient, connection: Connection, missing: list[TopicPlan]) -> None:
    wanted = [NewTopic(name, partitions, _BROKERS_DEFAULT, config=config) for name, partitions, config in missing]
    failed = []
    for name, future in admin.create_topics(wanted, request_timeout=TIMEOUT_S).items():
        try:
            future.result()
        except KafkaException as error:
            failed.append(f"topic {name}: {error.args[0].str()}")
    if failed:
        raise TopicsError("\n  ".join([f"broker {connection.brokers} refused:", *failed]))
