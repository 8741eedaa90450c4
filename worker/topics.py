"""The topics that the registry names, and the changelog, on a Kafka of one's own: made, checked, and who may what."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, ResourceType

from schemas.topics import CATALOG, MODEL, SOURCE_TOPICS, TOPICS, TRAINING
from worker.stream import probe
from worker.stream import topics as stream_topics
from worker.stream.exits import UnavailableError
from worker.stream.topics import HOUR_MS, TIMEOUT_S, Outcome, TopicPlan, TopicsError, changelog_of, own_topics

if TYPE_CHECKING:
    from worker.settings import Settings

_FINAL: Final = {KafkaError._AUTHENTICATION, KafkaError._SSL}  # noqa: SLF001 - the client's only names for them
"""Errors that no waiting mends."""
_DENIED: Final = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}
_NOT_THERE: Final = "is not there"
_NOT_ALLOWED: Final = "not allowed to this user"
_DAY_MS: Final = 24 * HOUR_MS
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


class Grant(NamedTuple):
    """What the worker's user must be allowed to do; `prefix` is of a name, else the name is exact."""

    kind: Literal["topic", "group", "transactional_id"]
    name: str
    operations: tuple[str, ...]
    prefix: bool = False


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
    own = own_topics(settings.app_id, settings.partitions)
    return [*plans, *(plan._replace(config={**plan.config, **stamped}) for plan in own)]


def create(settings: Settings) -> list[Outcome]:
    """Make the topics that are missing, and leave those that are there as they are.

    Raises:
        TopicsError: naming each topic with another number of partitions, before any is made, or what the broker said.

    """
    return stream_topics.create(settings.connection(), plan(settings), _reason)


def grants(settings: Settings) -> list[Grant]:
    """Return the least that the worker's user needs; `read` and `write` include `describe`.

    >>> from worker.settings import load
    >>> for grant in grants(load(app_id="recall"))[-3:]:
    ...     print(grant.kind, grant.name, grant.operations)
    group recall ('read',)
    group recall-probe- ('read',)
    transactional_id recall- ('write',)
    """
    read = {*SOURCE_TOPICS, TRAINING, MODEL, CATALOG}
    found = []
    for topic in TOPICS.values():
        operations = []
        if topic.name in read:
            operations.append("read")
        if topic.direction != "input":
            operations.append("write")
        if topic.name in SOURCE_TOPICS:
            operations.append("describe_configs")  # whose clock puts the time on a record
        if operations:
            found.append(Grant("topic", topic.name, tuple(operations)))
    return [
        *found,
        Grant("topic", changelog_of(settings.app_id), ("read", "write", "describe_configs")),
        Grant("topic", probe.topic_of(settings.app_id), ("read", "write")),
        Grant("group", settings.app_id, ("read",)),
        Grant("group", f"{probe.topic_of(settings.app_id)}-", ("read",), prefix=True),
        Grant("transactional_id", f"{settings.app_id}-", ("write",), prefix=True),
    ]


def acl_commands(settings: Settings, user: str) -> list[str]:
    """Return the commands of Kafka's own tool that allow a user (`User:name`) what `grants` says."""
    commands = []
    for kind, name, operations, prefix in grants(settings):
        told = " ".join(f"--operation {operation.title().replace('_', '')}" for operation in operations)
        pattern = " --resource-pattern-type prefixed" if prefix else ""
        commands.append(
            f"kafka-acls.sh --bootstrap-server {settings.broker} \\\n"
            f"  --command-config admin.properties --add --allow-principal {user} \\\n"
            f"  --{kind.replace('_', '-')} {name}{pattern} \\\n"
            f"  {told}"
        )
    return commands


def check(settings: Settings) -> list[str]:
    """See that the brokers take the worker in, that its topics and group are there for it, and that it may use them.

    Whether transactions are is tried out by `stream.probe`.

    Returns what is no reason to stay away, yet must be known.

    Raises:
        TopicsError: naming all that is missing, or what the broker said.
        UnavailableError: where no broker has answered for `TIMEOUT_S` seconds.

    """
    admin = _reached(settings)
    if settings.mode == "plain":  # such brokers cannot describe anything
        return []
    wrong = [*_topics_missed(admin, settings), *_group_missed(admin, settings)]
    if wrong:
        raise TopicsError("\n  ".join([f"broker {settings.broker}:", *wrong, *_hints(wrong)]))
    return _stamped_by_producers(admin) if settings.clock == "wall" else []


def _topics_missed(admin: AdminClient, settings: Settings) -> list[str]:
    """Say which topics are not there, or not to be used by this user as the worker has to."""
    wanted = {grant.name: grant.operations for grant in grants(settings) if grant.kind == "topic"}
    described = admin.describe_topics(
        TopicCollection(list(wanted)), include_authorized_operations=True, request_timeout=TIMEOUT_S
    )
    wrong = []
    for name, future in described.items():
        try:
            allowed = future.result().authorized_operations or []
        except KafkaException as error:
            wrong.append(f"topic {name}: {_plainly(error)}")
            continue
        missing = [operation for operation in wanted[name] if AclOperation[operation.upper()] not in allowed]
        if missing:
            wrong.append(f"topic {name}: {_NOT_ALLOWED}: {', '.join(missing)}")
    return wrong


def _group_missed(admin: AdminClient, settings: Settings) -> list[str]:
    """Say whether the group is not to be joined: clients would ask for ever."""
    described = admin.describe_consumer_groups(
        [settings.app_id], include_authorized_operations=True, request_timeout=TIMEOUT_S
    )
    try:
        allowed = described[settings.app_id].result().authorized_operations or []
    except KafkaException as error:
        return [f"group {settings.app_id}: {_plainly(error)}"]
    return [] if AclOperation.READ in allowed else [f"group {settings.app_id}: {_NOT_ALLOWED}: read"]


def _hints(wrong: list[str]) -> list[str]:
    told = "\n".join(wrong)
    hints = {
        _NOT_THERE: "`recall topics create` makes topics",
        _NOT_ALLOWED: "`recall topics acls` prints what is needed",
    }
    return [hint for reason, hint in hints.items() if reason in told]


def _reached(settings: Settings) -> AdminClient:
    """Return a client that has an answer; what will not change by waiting is raised at once."""
    said: list[KafkaError] = []
    admin = AdminClient(settings.connection().librdkafka() | {"error_cb": said.append})
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            admin.list_topics(timeout=1.0)
        except KafkaException as error:
            admin.poll(0)
            final = [one for one in said if one.code() in _FINAL]
            if final or time.monotonic() > deadline:
                reason = (final or said[-1:] or [error.args[0]])[-1]
                told = f"broker {settings.broker} by {settings.security_protocol}: {reason.str()}"
                raise (TopicsError if final else UnavailableError)(told) from None
        else:
            return admin


def _plainly(error: KafkaException) -> str:
    """Return what the broker said, in the words that the rest of a refusal has."""
    said: KafkaError = error.args[0]
    if said.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return _NOT_THERE
    return _NOT_ALLOWED if said.code() in _DENIED else said.str()


def _stamped_by_producers(admin: AdminClient) -> list[str]:
    """Return a warning where producers put their own time on records: a clock that is ahead is not found out then."""
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in SOURCE_TOPICS]
    described = admin.describe_configs(resources, request_timeout=TIMEOUT_S)
    stamps = {resource.name: future.result()["message.timestamp.type"].value for resource, future in described.items()}
    loose = [name for name in SOURCE_TOPICS if stamps[name] != "LogAppendTime"]
    if not loose:
        return []
    warning = (
        f"topics {', '.join(loose)} keep their producers' times (CreateTime): a producer whose clock is ahead is not "
        f"found out. Set message.timestamp.type=LogAppendTime, unless a recorded history is fed in"
    )
    return [warning]


def ids(settings: Settings) -> dict[str, str]:
    """Return the broker's ids of source topics and changelog: made anew, a topic of the same name has another one.

    Raises:
        UnavailableError: where the broker does not tell.

    """
    admin = AdminClient(settings.connection().librdkafka())
    names = [*SOURCE_TOPICS, changelog_of(settings.app_id)]
    described = admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT_S)
    try:
        return {name: str(future.result().topic_id) for name, future in described.items()}
    except KafkaException as error:
        raise UnavailableError(f"broker {settings.broker}: the topics' ids: {_plainly(error)}") from error


def _reason(name: str) -> str:
    return ", as RECALL_PARTITIONS says" if name in SOURCE_TOPICS else ""
