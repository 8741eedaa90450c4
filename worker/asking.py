"""Asks a running worker about one user, and reads from the topics what they hold of him."""

from __future__ import annotations

import time
import uuid
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import orjson
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from schemas.topics import TOPICS
from schemas.values import ID_CHARS_MAX, rfc3339
from worker.partitioner import Partitioner
from worker.stream.exits import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confluent_kafka import KafkaError, Message

    from worker.settings import Settings

TIMEOUT_S: Final = 30.0
PROFILES: Final = "profiles"
BY_USER: Final = tuple(topic.name for topic in TOPICS.values() if topic.key == "user")


class AskError(ValueError):
    """There is no answer; the message says why."""


def ask(settings: Settings, page: Literal["explain", "export"], user: str, url: str | None = None) -> dict[str, Any]:
    """Return a page about a user of the worker at `url`, else of the one on this machine.

    Raises:
        AskError: where the worker has no answer, with its reason.
        UnavailableError: where no worker answers.

    """
    base = url or f"http://localhost:{settings.web_port}"
    if urlsplit(base).scheme not in {"http", "https"}:
        raise AskError(f"url = {base!r}: allowed is one that begins with http:// or https://")
    token = settings.explain_token
    headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    request = Request(f"{base.rstrip('/')}/{page}/{quote(user, safe='')}", headers=headers)  # noqa: S310 - seen above
    try:
        with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the same
            told: dict[str, Any] = orjson.loads(answer.read())
    except HTTPError as error:
        with error:
            raise AskError(f"{base}: {_reason(error)}") from None
    except (URLError, HTTPException, OSError) as error:
        raise UnavailableError(f"{base}: no worker answers: {error}") from error
    return told


def _reason(error: HTTPError) -> str:
    try:
        return str(orjson.loads(error.read())["reason"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"answered {error.code}"


def on_topics(settings: Settings, user: str) -> dict[str, list[dict[str, Any]]]:
    """Return by topic every record that the broker still holds under the user's key; each topic is read through.

    Raises:
        UnavailableError: where the broker does not answer.

    """
    key = user.encode()
    number = Partitioner(settings.partitions).of(key)
    consumer = Consumer(
        settings.connection().librdkafka()
        | {
            "group.id": f"{settings.app_id}-export",  # never joined: partitions are assigned by hand
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        return {
            topic: [_record(message) for message in _through(consumer, topic, number) if message.key() == key]
            for topic in BY_USER
        }
    except KafkaException as error:
        raise UnavailableError(f"broker {settings.broker}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _through(consumer: Consumer, topic: str, number: int) -> Iterator[Message]:
    """Yield what a partition holds now."""
    place = TopicPartition(topic, number)
    low, end = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
    consumer.assign([TopicPartition(topic, number, low)])
    deadline = time.monotonic() + TIMEOUT_S
    while consumer.position([place])[0].offset < end and low < end:
        messages = consumer.consume(1000, 0.2)
        if messages:
            deadline = time.monotonic() + TIMEOUT_S
        elif time.monotonic() > deadline:
            raise UnavailableError(f"{topic}[{number}]: nothing came for {TIMEOUT_S:.0f} s")
        for message in messages:
            if message.error():
                raise KafkaException(message.error())
            yield message


def _record(message: Message) -> dict[str, Any]:
    raw = message.value() or b""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        value = raw.decode(errors="backslashreplace")
    return {"offset": message.offset(), "recorded_at": rfc3339(message.timestamp()[1]), "value": value}


def erase(settings: Settings, user: str) -> str:
    """Write that a user is to be erased; return where it lies.

    Raises:
        AskError: where it can be no user's id.
        UnavailableError: where the broker did not take it; doing it again does no harm.

    """
    if not 1 <= len(user) <= ID_CHARS_MAX or user.startswith("\0"):
        raise AskError(
            f"user of {len(user)} characters: allowed is an id of 1 to {ID_CHARS_MAX} characters, the first not NUL"
        )
    key, said = user.encode(), []
    number = Partitioner(settings.partitions).of(key)
    record = {
        "type": "profile",
        "messageId": f"erase-{uuid.uuid4()}",
        "userId": user,
        "timestamp": rfc3339(time.time_ns() // 1_000_000),
        "erase": True,
    }

    def delivered(error: KafkaError | None, message: Message) -> None:
        said.append((error, message.offset()))

    producer = Producer(settings.connection().librdkafka() | {"enable.idempotence": True})
    producer.produce(PROFILES, orjson.dumps(record), key, partition=number, on_delivery=delivered)
    producer.flush(TIMEOUT_S)
    if not said:
        producer.purge()
        raise UnavailableError(f"broker {settings.broker}: no answer within {TIMEOUT_S:.0f} s")
    [(error, offset)] = said
    if error is not None:
        raise UnavailableError(f"broker {settings.broker}: {PROFILES}[{number}]: {error.str()}")
    return f"{PROFILES}[{number}] at {offset}"
