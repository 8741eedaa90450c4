"""Writes what steers the workers: one record of `control` in every partition, or an error that names what failed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import orjson
from confluent_kafka import KafkaException, Producer

from schemas.topics import CONTROL
from schemas.values import rfc3339
from worker import grants
from worker.recall import playbook
from worker.recall.shop import InForce

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from confluent_kafka import KafkaError, Message

    from worker.grants import Grant
    from worker.recall.playbook import Playbook
    from worker.settings import Settings

TIMEOUT_S: Final = 30.0


class ControlError(ValueError):
    """Something did not reach every partition, or would do nothing there; the message says why."""


def grant(settings: Settings, given: Grant, at: datetime, *, force: bool = False) -> None:
    """Grant money to a budget from `at` on; `force` leaves out whether it could pay for anything.

    Raises:
        GrantError: where it could pay for nothing under any playbook that was given; nothing is written then.
        ControlError: where it did not reach every partition.

    """
    if not force:
        grants.check(given, _playbooks(settings), settings.currency, settings.partitions)
    write(settings, given.records(ms(at), settings.currency, settings.partitions))


def approve(settings: Settings, play: str, at: datetime, until: datetime | None = None) -> None:
    """Let a play be played that waits for an approval, from `at` on.

    Raises:
        ControlError: where no playbook that was given has such a play, or it did not reach every partition.

    """
    waiting = sorted({one.name for book in _playbooks(settings) for one in book.plays if one.approval})
    if play not in waiting:
        raise ControlError(
            f"play = {play!r}: allowed are those that wait for an approval: {', '.join(waiting) or 'none does'}"
        )
    record = {"kind": "approve", "effective_at": rfc3339(ms(at)), "play": play}
    everywhere(settings, record if until is None else record | {"until": rfc3339(ms(until))})


def adopt(settings: Settings, path: Path, at: datetime, share: float = 1.0) -> str:
    """Bring a playbook into force from `at` on, for all users or a share of them; return the playbook's version.

    Raises:
        PlaybookError: where the playbook cannot be used; nothing is written then.
        ControlError: where the share is none, or it did not reach every partition.

    """
    if not 0 < share <= 1:
        raise ControlError(f"share = {share:g}: allowed is above 0, up to 1")
    version = InForce.of(playbook.load(path), settings.shop()).version
    record = {"kind": "adopt_playbook", "effective_at": rfc3339(ms(at)), "version": version}
    everywhere(settings, record if share == 1 else record | {"share": share})
    return version


def stop(settings: Settings) -> None:
    """Let no command leave any more, from when this is read."""
    everywhere(settings, {"kind": "stop", "at": _now()})


def resume(settings: Settings) -> None:
    """Let commands leave again, from when this is read."""
    everywhere(settings, {"kind": "resume", "at": _now()})


def _playbooks(settings: Settings) -> list[Playbook]:
    return [playbook.load(path) for path in (settings.playbook, *settings.earlier_playbooks)]


def everywhere(settings: Settings, record: Mapping[str, Any]) -> None:
    """Write one and the same record to every partition."""
    write(settings, [orjson.dumps(record)] * settings.partitions)


def write(settings: Settings, values: Sequence[bytes]) -> None:
    """Write to each partition of `control` its record.

    Raises:
        ControlError: where a partition did not take it, or may not have; doing it again does no harm.

    """
    failed: list[str] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(f"{CONTROL}[{message.partition()}]: {error.str()}")

    producer = Producer(settings.connection().librdkafka() | {"enable.idempotence": True})
    try:
        there = producer.list_topics(CONTROL, timeout=TIMEOUT_S).topics[CONTROL]
    except KafkaException as error:
        raise ControlError(f"broker {settings.broker}: {error.args[0].str()}") from error
    if len(there.partitions) != settings.partitions:
        raise ControlError(
            f"topic {CONTROL}: {len(there.partitions)} partitions; allowed is {settings.partitions}, "
            "as RECALL_PARTITIONS says"
        )
    for partition, value in enumerate(values):
        producer.produce(CONTROL, value, partition=partition, on_delivery=delivered)
    if producer.flush(TIMEOUT_S):
        producer.purge()
        failed.append(f"no answer within {TIMEOUT_S:.0f} s")
    if failed:
        raise ControlError(f"broker {settings.broker}: {'; '.join(failed)}")


def ms(at: datetime) -> int:
    """Return a time in ms."""
    return round(at.timestamp() * 1000)


def _now() -> str:
    return rfc3339(time.time_ns() // 1_000_000)
