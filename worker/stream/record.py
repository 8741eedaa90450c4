"""What lies in the changelog: rows with a header that is read without decoding, and the partition's own record."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

RESERVED = b"\x00"
"""Keys that begin with it are the stream's own; a source key must not."""
PARTITION_KEY = RESERVED + b"partition"
ATTACHMENT = RESERVED + b"+"
ATTACHMENT_NAME_BYTES = 8

QUARANTINED = 1
"""A timer of this row raised: its timers rest until a record of the key is applied again."""

FORMAT = 1
"""Of the partition record. Fields are only appended, with defaults."""

RECORD_OVERHEAD_BYTES = 64
"""At most, of a record and its share in the header of its batch, beside key and value."""

_HEADER = struct.Struct(">BBq")
HEADER_BYTES = _HEADER.size
unpack_header = _HEADER.unpack_from
"""Returns what `read_header` does, as a plain tuple: where each row of a unit is read."""


class Header(NamedTuple):
    """The first ten bytes of a row: encoding version, flags, and when the row wants to be woken next."""

    version: int
    flags: int
    next_due: int


def pack_row(version: int, flags: int, next_due: int, body: bytes) -> bytes:
    """Return a row.

    >>> row = pack_row(1, 0, 1_700_000_000_000, b"body")
    >>> read_header(row), row[HEADER_BYTES:]
    (Header(version=1, flags=0, next_due=1700000000000), b'body')
    """
    return _HEADER.pack(version, flags, next_due) + body


def read_header(row: bytes) -> Header:
    """Return the header of a row without touching its body."""
    return Header(*_HEADER.unpack_from(row))


def next_due(row: bytes) -> int:
    """Return when the row wants to be woken next; `NEVER` for not at all."""
    due: int = _HEADER.unpack_from(row)[2]
    return due


def attachment_key(key: bytes, name: bytes) -> bytes:
    """Return the changelog key of what is kept under `name` beside `key`."""
    if len(name) != ATTACHMENT_NAME_BYTES:
        raise ValueError(f"an attachment's name has {ATTACHMENT_NAME_BYTES} bytes, not {len(name)}: {name!r}")
    return ATTACHMENT + name + key


def changelog_bytes(rows: Mapping[bytes, bytes | None]) -> int:
    """Return how many bytes rows take in the changelog, at most; None for a row that is dropped."""
    return sum(len(key) + len(row or b"") + RECORD_OVERHEAD_BYTES for key, row in rows.items())


class Pending(msgspec.Struct, array_like=True, frozen=True):
    """A directive that waits for its time: the control record as it was read."""

    effective_at: int
    topic: str
    offset: int
    recorded_at: int
    key: bytes | None
    value: bytes | None


class PartitionRecord(msgspec.Struct, array_like=True):
    """The partition's own state; in the same commit as the rows that moved with it.

    `offsets` are the next to read, by topic; at start they win over those of the consumer group. `times` are the event
    times of the records before them, which those without a readable time take. `topic_ids` and `partitions` name the
    cluster and the layout that the offsets belong to. `counts` only ever grow. `row_version` is the highest encoding
    version of a row that was written. `next` names the topic whose next record the clock has already moved for.
    """

    clock: int = 0
    offsets: dict[str, int] = {}
    times: dict[str, int] = {}
    partitions: int = 0
    topic_ids: dict[str, str] = {}
    pending: list[Pending] = []
    counts: dict[str, int] = {}
    shared: bytes | None = None
    format: int = FORMAT
    row_version: int = 0
    next: str = ""

    def encode(self) -> bytes:
        return _encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> PartitionRecord:
        """Return the record; a format that this version does not know is refused."""
        record = _decoder.decode(raw)
        if record.format != FORMAT:
            raise ValueError(
                f"partition record: format {record.format} was written by a newer worker, allowed is {FORMAT}: "
                f"upgrade all workers first"
            )
        return record


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decoder = msgspec.msgpack.Decoder(PartitionRecord)
