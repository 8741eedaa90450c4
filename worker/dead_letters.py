"""Dead letters read back from their topic, and their records sent again to where they came from.

What was sent again is noted on the dead letters' topic in the same transaction, so that nothing is sent twice unawares;
the record itself carries the letter's place in the header `recall-dead-letter`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from pydantic import TypeAdapter, ValidationError

from schemas.dead_letters import DeadLetter, SentBack
from schemas.topics import DEAD_LETTERS
from schemas.values import rfc3339
from worker.recall import events
from worker.recall.money import Currency
from worker.stream.processor import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from confluent_kafka import Message

    from worker.settings import Settings

HEADER: Final = "recall-dead-letter"
TIMEOUT_S: Final = 30.0
_READ: Final = TypeAdapter(DeadLetter | SentBack).validate_json


class DeadLettersError(ValueError):
    """The letter cannot be read or sent; the message says why, and what to do."""


class Place(NamedTuple):
    """Where a letter lies on its topic.

    >>> str(Place.of("2:17"))
    '2:17'
    """

    partition: int
    offset: int

    @classmethod
    def of(cls, text: str) -> Place:
        partition, _, offset = text.partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            raise DeadLettersError(
                f"place = {text!r}: allowed is PARTITION:OFFSET, as `recall dead-letters list` shows it"
            )
        return cls(int(partition), int(offset))

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


class Filed(NamedTuple):
    """A letter where it lies, its broker's time, and whether its record was sent again."""

    place: Place
    at: datetime
    letter: DeadLetter
    sent: SentBack | None

    @property
    def source(self) -> str:
        """Say where the original lies or lay."""
        letter = self.letter
        return "a timer" if letter.topic is None else f"{letter.topic}[{letter.partition}] at {letter.offset}"


class Original(NamedTuple):
    """The record that a letter speaks of."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Reason(NamedTuple):
    """The letters of one reason, by the broker's time of them."""

    name: str
    letters: int
    sent: int
    first: datetime
    last: datetime
    sample: Place
    """The last one that was not sent again, or the last one."""


def letters(settings: Settings) -> list[Filed]:
    """Read all letters, the oldest first."""
    consumer = _consumer(settings)
    try:
        return _filed(_messages(consumer, DEAD_LETTERS, dict.fromkeys(_partitions(consumer), 0)))
    except KafkaException as error:
        raise DeadLettersError(f"topic {DEAD_LETTERS}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def find(settings: Settings, place: Place) -> Filed:
    """Read one letter, and what follows it, which tells whether its record was sent again."""
    consumer = _consumer(settings)
    try:
        found = _filed(_messages(consumer, DEAD_LETTERS, {place.partition: place.offset}))
    except KafkaException as error:
        raise DeadLettersError(f"{DEAD_LETTERS} {place}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    for filed in found:
        if filed.place == place:
            return filed
    raise DeadLettersError(f"{DEAD_LETTERS} {place}: no letter lies there; `recall dead-letters list` shows places")


def by_reason(found: list[Filed]) -> list[Reason]:
    """Count letters by reason, the most frequent first."""
    groups: dict[str, list[Filed]] = {}
    for filed in found:
        groups.setdefault(filed.letter.reason, []).append(filed)
    reasons = [
        Reason(
            name,
            len(group),
            sum(filed.sent is not None for filed in group),
            group[0].at,
            group[-1].at,
            next((filed for filed in reversed(group) if filed.sent is None), group[-1]).place,
        )
        for name, group in groups.items()
    ]
    return sorted(reasons, key=lambda reason: (-reason.letters, reason.name))


def original(settings: Settings, letter: DeadLetter) -> Original | None:
    """Read the record that a letter speaks of; None where its topic no longer keeps it, or it came from a timer."""
    if letter.topic is None or letter.partition is None or letter.offset is None:
        return None
    consumer = _consumer(settings)
    try:
        low, end = consumer.get_watermark_offsets(TopicPartition(letter.topic, letter.partition), timeout=TIMEOUT_S)
        if not low <= letter.offset < end:
            return None
        message = next(_messages(consumer, letter.topic, {letter.partition: letter.offset}), None)
    except KafkaException as error:
        raise DeadLettersError(f"topic {letter.topic}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    if message is None or message.offset() != letter.offset or _at(message) != letter.recorded_at:
        return None  # a topic made anew has other records at the same places
    headers = tuple(message.headers() or ())
    return Original(letter.topic, letter.partition, message.key(), message.value(), headers)


def verdict(settings: Settings, record: Original) -> str | None:
    """Return why the worker would leave the record out again, as far as the record alone tells; None for nothing."""
    now = time.time_ns() // 1_000_000
    _, body = events.parse(record.topic, record.key, record.value, now, Currency.of(settings.currency))
    return f"{body.reason}: {body.detail}" if isinstance(body, Rejected) else None


def send(settings: Settings, filed: Filed, record: Original, *, again: bool = False) -> int:
    """Send a record to its topic, key and partition, and note it at the letter; return the record's new offset.

    Raises:
        DeadLettersError: where it was sent before (unless `again`), or the broker did not take it; then nothing was
            sent.

    """
    if settings.mode == "plain":
        raise DeadLettersError("mode = 'plain': sending a record again needs a broker with transactions")
    connection = settings.connection().librdkafka()
    # One id for all: whoever else is sending is shut out, and what he has sent is seen below.
    producer = Producer(connection | {"transactional.id": f"{settings.app_id}-dead-letters"})
    try:
        producer.init_transactions(TIMEOUT_S)
        before = find(settings, filed.place).sent
        if before is not None and not again:
            raise DeadLettersError(
                f"{DEAD_LETTERS} {filed.place}: was sent back at {before.sent_at.isoformat(timespec='seconds')}; "
                f"--again sends it once more"
            )
        producer.begin_transaction()
        offset = _deliver(producer, filed.place, record)
        note = {"letter": filed.place.offset, "offset": offset, "sent_at": rfc3339(time.time_ns() // 1_000_000)}
        value = SentBack.model_validate(note).model_dump_json()
        producer.produce(DEAD_LETTERS, value, partition=filed.place.partition)
        producer.commit_transaction(TIMEOUT_S)
    except KafkaException as error:
        with suppress(KafkaException):  # left open, it would hold up whoever reads the topic
            producer.abort_transaction(TIMEOUT_S)
        raise DeadLettersError(f"{record.topic}[{record.partition}]: not sent: {error.args[0].str()}") from error
    return offset


def _deliver(producer: Producer, place: Place, record: Original) -> int:
    offsets: list[int] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise KafkaException(error)
        offsets.append(message.offset() or 0)

    headers = [(name, value) for name, value in record.headers if name != HEADER]
    producer.produce(
        record.topic,
        record.value,
        record.key,
        partition=record.partition,
        headers=[*headers, (HEADER, str(place).encode())],
        on_delivery=delivered,
    )
    if producer.flush(TIMEOUT_S) or not offsets:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - the client's only name for it
    return offsets[0]


def _consumer(settings: Settings) -> Consumer:
    """Return a reader that is no member of the worker's group, since it never subscribes."""
    return Consumer(
        settings.connection().librdkafka()
        | {
            "group.id": settings.app_id,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )


def _partitions(consumer: Consumer) -> list[int]:
    topic = consumer.list_topics(DEAD_LETTERS, timeout=TIMEOUT_S).topics[DEAD_LETTERS]
    if topic.error is not None:
        raise KafkaException(topic.error)
    return list(topic.partitions)


def _messages(consumer: Consumer, topic: str, starts: Mapping[int, int]) -> Iterator[Message]:
    """Read partitions from where it says to the ends that they have now."""
    consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
    left = set(starts)
    while left:
        message = consumer.poll(TIMEOUT_S)
        if message is None:
            raise DeadLettersError(f"topic {topic}: nothing came within {TIMEOUT_S:.0f} s")
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's only name for it
            left.discard(message.partition() or 0)
        else:
            raise KafkaException(error)


def _filed(messages: Iterator[Message]) -> list[Filed]:
    found: dict[Place, Filed] = {}
    for message in messages:
        place = Place(message.partition() or 0, message.offset() or 0)
        try:
            read = _READ(message.value() or b"")
        except ValidationError as error:
            raise DeadLettersError(f"{DEAD_LETTERS} {place}: is no letter of this version: {error}") from error
        if isinstance(read, DeadLetter):
            found[place] = Filed(place, _at(message), read, None)
            continue
        noted = found.get(Place(place.partition, read.letter))
        if noted is not None:
            found[noted.place] = noted._replace(sent=read)
    return sorted(found.values(), key=lambda filed: (filed.at, filed.place))


def _at(message: Message) -> datetime:
    """Return the broker's time of a message."""
    return datetime.fromisoformat(rfc3339(message.timestamp()[1]))
