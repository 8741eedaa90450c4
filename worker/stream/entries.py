"""Source records, read: what waits in the merge."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from worker.stream.processor import Directive, Ignored, Processor, Rejected, Tick
from worker.stream.record import RESERVED, Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

S = TypeVar("S")
H = TypeVar("H")

Entry: TypeAlias = tuple[int, int, int, int, bytes | None, Any, int]
"""Rank, topic (its index), offset, event time (or that of the record before it), key, body, and the broker's time.

A plain tuple, whose order is the merged one (see `Merge`). Without a key it moves no row: then its body is a `Tick`,
`Ignored`, `Refused` or `Read`.
"""

KEYLESS = frozenset({Tick, Directive, Ignored, Rejected})
"""What `Processor.parse` makes of records that move no row."""


class SourceRecord(Protocol):
    """What is read of a source record; aiokafka's `ConsumerRecord` is one."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


class Read(NamedTuple):
    """A directive as it was read, in case that it has to wait."""

    directive: Directive
    pending: Pending


class Refused(NamedTuple):
    """A record that could not be understood, and its key, which names no row."""

    rejected: Rejected
    key: bytes | None


def where(error: BaseException) -> str:
    """Name an exception by its type and the place that raised it; not by its message, which may hold personal data."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    frame = frames[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno}"


class Reader(Generic[S, H]):
    """Reads the records of a partition's topics, each once; `ahead` takes a directive that acts before it is merged."""

    def __init__(
        self,
        processor: Processor[S, H],
        topics: Sequence[str],
        offsets: Mapping[str, int],
        times: Mapping[str, int],
        ahead: Callable[[Directive], None],
    ) -> None:
        """Go on after the records before `offsets`, whose event times are `times`."""
        self._processor = processor
        self._topics = topics
        self._read = [offsets.get(topic, 0) for topic in topics]
        self._last_at = [times.get(topic, 0) for topic in topics]
        self._ahead = ahead
        self._seen_at = list(self._last_at)
        """By topic, the greatest event time that was foreseen."""

    def read(self, index: int, records: Iterable[SourceRecord], rank: int) -> list[Entry]:
        """Return the topic's records that were not read before; `rank` is that of the one before them."""
        topic, parse = self._topics[index], self._processor.parse
        last, read = self._last_at[index], self._read[index]
        entries: list[Entry] = []
        for record in records:
            offset = record.offset
            if offset < read:
                continue
            read = offset + 1
            key, recorded_at = record.key, record.timestamp
            try:
                at, body = parse(topic, key, record.value, recorded_at)
            except AssertionError:
                raise
            except Exception as error:  # noqa: BLE001 - dead-lettered, never swallowed
                at, body = None, Rejected("parse raised", where(error))
            if not key:
                if type(body) not in KEYLESS:
                    body = Rejected("no key", "a record that moves a row must name it")
            elif key[0] == RESERVED[0]:
                at, body = None, Rejected("reserved key", "a key must not begin with a zero byte")
            if at is not None:
                last = at
            rank = last if last > rank else rank  # noqa: FURB136 - max() is five times as slow
            if type(body) in KEYLESS:
                entries.append((rank, index, offset, last, None, self._keyless(topic, record, body), recorded_at))
            else:
                entries.append((rank, index, offset, last, key, body, recorded_at))
        self._last_at[index], self._read[index] = last, read
        return entries

    def foresee(self, index: int, record: SourceRecord) -> None:
        """Take a directive that acts ahead and stands behind a record of a later time: else it is read too late."""
        try:
            at, body = self._processor.parse(self._topics[index], record.key, record.value, record.timestamp)
        except AssertionError:
            raise
        except Exception:  # noqa: BLE001 - dead-lettered when it is read
            return
        if at is None:
            return
        if type(body) is Directive and body.ahead and at < self._seen_at[index]:
            self._ahead(body)
        self._seen_at[index] = max(self._seen_at[index], at)

    def _keyless(self, topic: str, record: SourceRecord, body: object) -> object:
        """Return what a record that moves no row waits as."""
        if type(body) is Rejected:
            return Refused(body, record.key or None)
        if type(body) is Directive:
            if body.ahead:
                self._ahead(body)
            place = (topic, record.offset, record.timestamp, record.key, record.value)
            return Read(body, Pending(body.effective_at or 0, *place))
        return body
