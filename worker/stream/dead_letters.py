"""Records that could not be understood or applied: named by reason and place, where the original can be read."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

from worker.stream.processor import Output

DETAIL_CHARS_MAX = 300


class DeadLetters(NamedTuple):
    """Where dead letters go; `salt` (at most 64 bytes) keeps keys from being found out by trying."""

    topic: str
    salt: bytes


def dead_letter(
    to: DeadLetters,
    *,
    stage: str,
    reason: str,
    detail: str,
    key: bytes | None,
    source: tuple[str, int, int, int] | None,
) -> Output:
    """Return the record; `source` is the original's topic, partition, offset and time (ms).

    The original's bytes stay where they are, since they may hold personal data; the key goes as a hash for that reason.
    """
    name, partition, offset, at = source or (None, None, None, None)
    recorded_at = None if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")
    value = {
        "reason": reason,
        "detail": detail[:DETAIL_CHARS_MAX],
        "stage": stage,
        "topic": name,
        "partition": partition,
        "offset": offset,
        "recorded_at": recorded_at,
        "key_hash": None if key is None else hashlib.blake2b(key, digest_size=8, key=to.salt).hexdigest(),
    }
    return Output(to.topic, None, orjson.dumps(value), partition=None)
