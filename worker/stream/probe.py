"""What the broker must be able to do, asked for before the first record is taken.

Some brokers answer OK to every transactional call and do none of it (librdkafka's mock cluster is one). Under such a
broker a crash would lose rows or double them, and nothing would say so; hence a transaction is tried out.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from worker.stream.exits import RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from worker.stream.committer import CommitSettings

log = structlog.get_logger("recall.stream")

_READ_TIMEOUT_MS: Final = 500


def topic_of(app_id: str) -> str:
    """Return the name of the topic that transactions are tried out on; it has one partition."""
    return f"{app_id}-probe"


async def check_transactions(connection: Mapping[str, Any], app_id: str, deadline_s: float) -> None:
    """Abort a transaction and commit another, and see that only the second one took place.

    Raises:
        RefusedError: saying what the broker did, or did not.
        UnavailableError: where it may do it another time.

    """
    topic = topic_of(app_id)
    try:
        async with asyncio.timeout(deadline_s):
            with _answering():
                async with _admin(connection) as admin:
                    await _require(admin, topic, "on which transactions are tried out", "make it, with one partition")
                await _try_out(connection, app_id)
    except TimeoutError:  # a coordinator that loads its log answers later
        raise UnavailableError(
            f"transactions: the broker did not carry one out within {deadline_s:.0f} s. Where that stays so, look at "
            f"its transaction coordinator (transaction.state.log.*), or choose the plain mode, for one process"
        ) from None
    except KafkaError as error:
        raise RefusedError(
            f"transactions: the broker refused one on topic {topic}: {error!r}. Allow this user the topic, and "
            f"transactional ids and groups that begin with {app_id}, or choose the plain mode, for one process"
        ) from error


@contextmanager
def _answering() -> Iterator[None]:
    """Tell a broker that is away for a moment from one that says no."""
    try:
        yield
    except KafkaError as error:
        if not error.retriable:
            raise
        raise UnavailableError(
            f"the broker does not answer: {error!r}. Look whether it runs, is reached, and takes this user"
        ) from error


@asynccontextmanager
async def _admin(connection: Mapping[str, Any]) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def _require(admin: AIOKafkaAdminClient, topic: str, which: str, mend: str) -> None:
    """Refuse where the topic is not there: a client would wait for it until some deadline, and not say so."""
    [described] = await admin.describe_topics([topic])
    if described["error_code"] == UnknownTopicOrPartitionError.errno:
        raise RefusedError(f"topic {topic}, {which}, is not there: {mend}")


async def _try_out(connection: Mapping[str, Any], app_id: str) -> None:
    name = f"{app_id}-probe-{uuid4().hex}".encode()
    place = TopicPartition(topic_of(app_id), 0)
    producer = AIOKafkaProducer(**connection, transactional_id=name.decode(), acks="all")
    try:
        await producer.start()
        consumer = AIOKafkaConsumer(
            **connection, group_id=name.decode(), isolation_level="read_committed", enable_auto_commit=False
        )
        try:
            await consumer.start()
            await producer.begin_transaction()
            aborted = await producer.send_and_wait(place.topic, b"aborted", key=name, partition=0)
            await producer.send_offsets_to_transaction({place: 1}, name.decode())
            await producer.abort_transaction()
            if await consumer.committed(place) is not None:
                raise RefusedError(_not_kept("an offset of an aborted transaction was kept"))
            await producer.begin_transaction()
            committed = await producer.send_and_wait(place.topic, b"committed", key=name, partition=0)
            await producer.send_offsets_to_transaction({place: 2}, name.decode())
            await producer.commit_transaction()
            consumer.assign([place])
            consumer.seek(place, aborted.offset)
            seen = []
            while await consumer.position(place) <= committed.offset:
                fetched = await consumer.getmany(timeout_ms=_READ_TIMEOUT_MS)
                seen += [record.value for records in fetched.values() for record in records if record.key == name]
            if seen != [b"committed"]:
                raise RefusedError(_not_kept(f"a reader of what is committed was shown {seen}"))
            if (offset := await consumer.committed(place)) != 2:  # noqa: PLR2004 - what was sent above
                raise RefusedError(_not_kept(f"the offset 2 of a committed transaction reads as {offset}"))
        finally:
            await consumer.stop()
    finally:
        await producer.stop()


def _not_kept(what: str) -> str:
    return (
        f"transactions: the broker accepts them and does not carry them out ({what}). Use a broker that has them, "
        f"or choose the plain mode, for one process"
    )


async def check_topics(connection: Mapping[str, Any], settings: CommitSettings, changelog: str) -> int:
    """Hold the topics' settings against what commits need; where they may not be asked for, say so and go on.

    Returns how long the changelog keeps the marks of dropped rows, ms; 0 where that is not told.

    Raises:
        RefusedError: naming the topic, the setting, its value and what is allowed.
        UnavailableError: where the broker does not answer.

    """
    with _answering():
        async with _admin(connection) as admin:
            mend = "make it, with as many partitions as the source topics; where it was there, its rows are gone"
            await _require(admin, changelog, "which holds the rows", mend)
            found = await _configs(admin, changelog)
    if found is None:
        return 0
    if found["cleanup.policy"] != "compact":
        raise RefusedError(
            f"topic {changelog}: cleanup.policy is {found['cleanup.policy']}, allowed is compact: rows would be "
            f"deleted for being old. Correct it, and start anew under another app_id if it was so for long"
        )
    if (allowed := int(found["max.message.bytes"])) < settings.batch_bytes_max:
        raise RefusedError(
            f"topic {changelog}: max.message.bytes is {allowed}, and a commit writes batches of up to "
            f"{settings.batch_bytes_max} bytes. Raise it to that, or more"
        )
    return int(found["delete.retention.ms"])


async def _configs(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str] | None:
    """Return the settings of a topic; None where the broker does not tell."""
    try:
        [response] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    except KafkaError as error:
        log.warning("topic's settings not checked", topic=topic, reason=repr(error))
        return None
    [(code, reason, _, _, entries)] = response.resources
    if code:
        log.warning("topic's settings not checked", topic=topic, reason=f"error {code}: {reason}")
        return None
    return {entry[0]: entry[1] for entry in entries}
