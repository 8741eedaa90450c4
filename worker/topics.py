"""Makes the topics that the registry names, and the changelog, on a Kafka of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.topics import SOURCE_TOPICS, TOPICS
from worker.stream import probe

if TYPE_CHECKING:
    from worker.settings import Settings

TIMEOUT_S: Final = 30.0
CHANGELOG_MESSAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""A record batch of rows is larger than most messages."""
_BROKERS_DEFAULT: Final = -1
"""For the replication factor: what the cluster is set to."""
_HOUR_MS: Final = 60 * 60 * 1000
_DAY_MS: Final = 24 * _HOUR_MS
_FOREVER: Final = -1
_YEAR_AND_MORE: Final = 400
_RETENTION_DAYS: Final = {
    "orders": _YEAR_AND_MORE,
    "churn-training": _YEAR_AND_MORE,
    "tier-changes": _YEAR_AND_MORE,
    "recall-decisions": _YEAR_AND_MORE,
    "recall": 120,
    "dead-letter": 120,
}
"""What is not named is kept; the registry says why."""


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


def changelog(settings: Settings) -> str:
    """Return the name of the topic that holds the rows.

    >>> from worker.settings import load
    >>> changelog(load(app_id="recall"))
    'recall-rows-changelog'
    """
    return f"{settings.app_id}-rows-changelog"


def plan(settings: Settings) -> list[TopicPlan]:
    """Return every topic that a worker with these settings needs.

    Where a recorded history is fed in, records keep its times, and nothing is deleted for being old.
    """
    recorded = settings.clock == "recorded"
    stamped = {"message.timestamp.type": "CreateTime" if recorded else "LogAppendTime"}
    plans = []
    for topic in TOPICS.values():
        config = {"cleanup.policy": topic.cleanup, **stamped}
        if topic.cleanup == "delete":
            days = None if recorded else _RETENTION_DAYS.get(topic.name)
            config["retention.ms"] = str(_FOREVER if days is None else days * _DAY_MS)
        plans.append(TopicPlan(topic.name, settings.partitions if topic.partitions == "source" else 1, config))
    rows = {
        "cleanup.policy": "compact",
        "segment.ms": str(30 * 60 * 1000),
        "min.cleanable.dirty.ratio": "0.2",
        "max.message.bytes": str(CHANGELOG_MESSAGE_BYTES_MAX),
    }
    return [
        *plans,
        TopicPlan(changelog(settings), settings.partitions, {**rows, **stamped}),
        TopicPlan(probe.topic_of(settings.app_id), 1, {"cleanup.policy": "delete", "retention.ms": str(_HOUR_MS)}),
    ]


def create(settings: Settings) -> list[Outcome]:
    """Make the topics that are missing, and leave those that are there as they are.

    Raises:
        TopicsError: naming each topic with another number of partitions, before any is made, or what the broker said.

    """
    admin = AdminClient({"bootstrap.servers": settings.broker, "log_level": 2})
    plans = plan(settings)
    try:
        there = {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=TIMEOUT_S).topics.items()}
    except KafkaException as error:
        raise TopicsError(f"broker {settings.broker}: {error.args[0].str()}") from error
    wrong = [
        f"topic {name}: {there[name]} partitions; allowed is {partitions}{_reason(name)}"
        for name, partitions, _ in plans
        if there.get(name, partitions) != partitions
    ]
    if wrong:
        raise TopicsError("\n  ".join([f"broker {settings.broker} has topics that do not fit:", *wrong]))
    missing = [plan for plan in plans if plan.name not in there]
    if missing:
        _create(admin, settings, missing)
    return [Outcome(plan, plan.name not in there) for plan in plans]


def ids(settings: Settings) -> dict[str, str]:
    """Return the broker's ids of the source topics: made anew, a topic of the same name has another one."""
    admin = AdminClient({"bootstrap.servers": settings.broker, "log_level": 2})
    described = admin.describe_topics(TopicCollection(list(SOURCE_TOPICS)), request_timeout=TIMEOUT_S)
    return {name: str(future.result().topic_id) for name, future in described.items()}


def _create(admin: AdminClient, settings: Settings, missing: list[TopicPlan]) -> None:
    wanted = [NewTopic(name, partitions, _BROKERS_DEFAULT, config=config) for name, partitions, config in missing]
    failed = []
    for name, future in admin.create_topics(wanted, request_timeout=TIMEOUT_S).items():
        try:
            future.result()
        except KafkaException as error:
            failed.append(f"topic {name}: {error.args[0].str()}")
    if failed:
        raise TopicsError("\n  ".join([f"broker {settings.broker} refused:", *failed]))


def _reason(name: str) -> str:
    return ", as RECALL_PARTITIONS says" if name in SOURCE_TOPICS else ""
