"""Brings a playbook into force from a time on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from confluent_kafka import KafkaException, Producer

from schemas.topics import CONTROL
from schemas.values import rfc3339
from worker.recall import playbook
from worker.recall.shop import InForce

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from confluent_kafka import KafkaError, Message

    from worker.settings import Settings

TIMEOUT_S: Final = 30.0


class AdoptionError(ValueError):
    """The adoption did not reach every partition; the message says why."""


def adopt(settings: Settings, path: Path, at: datetime) -> str:
    """Write the adoption of a playbook from `at` on to every partition; return the playbook's version.

    Raises:
        PlaybookError: where the playbook cannot be used; nothing is written then.
        AdoptionError: where the broker did not take it in every partition; doing it again does no harm.

    """
    version = InForce.of(playbook.load(path), settings.shop()).version
    record = {"kind": "adopt_playbook", "effective_at": rfc3339(round(at.timestamp() * 1000)), "version": version}
    failed: list[str] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(f"{CONTROL}[{message.partition()}]: {error.str()}")

    producer = Producer(settings.connection().librdkafka() | {"enable.idempotence": True})
    try:
        there = producer.list_topics(CONTROL, timeout=TIMEOUT_S).topics[CONTROL]
    except KafkaException as error:
        raise AdoptionError(f"broker {settings.broker}: {error.args[0].str()}") from error
    if len(there.partitions) != settings.partitions:
        raise AdoptionError(
            f"topic {CONTROL}: {len(there.partitions)} partitions; allowed is {settings.partitions}, "
            "as RECALL_PARTITIONS says"
        )
    for partition in range(settings.partitions):
        producer.produce(CONTROL, orjson.dumps(record), partition=partition, on_delivery=delivered)
    if producer.flush(TIMEOUT_S):
        producer.purge()
        failed.append(f"no answer within {TIMEOUT_S:.0f} s")
    if failed:
        raise AdoptionError(f"broker {settings.broker}: {'; '.join(failed)}")
    return version
