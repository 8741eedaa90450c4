"""What a cluster's topics hold, as a history to replay: read as nobody's consumer, up to where they end at the start.

Nothing is joined, committed or written. Only what is committed is read, as by the worker, one partition of a topic at a
time and as the merge asks for it, so that memory stays bounded however long the topics are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.topics import CATALOG, CONTROL, MODEL, SOURCE_TOPICS
from worker.models import Models
from worker.replay import Fed
from worker.stream.exits import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from confluent_kafka import Message

    from worker.recall.risk.scorer import Scorer
    from worker.settings import Settings

Place = tuple[str, int]
"""Topic and partition."""

WHOLE: Final = (CATALOG, MODEL)
"""Topics of one partition that are read before all else."""
TIMEOUT_S: Final = 30.0
_CHUNK_RECORDS: Final = 4096
_CHUNK_BYTES: Final = 4 * 1024 * 1024
_FETCH_BYTES: Final = 1024 * 1024
_WAIT_S: Final = 0.05
_NOT_YET: Final = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - the client's only name for it
}
"""What is said of a partition that is new, or whose leader changes: it is to be asked again."""


class TopicsHeldError(ValueError):
    """The topics cannot be replayed; the message says which, and why."""


class Span(NamedTuple):
    """The offsets that a partition of a topic holds; `end` is the first that is not there, or not yet committed."""

    first: int
    end: int


class Reader:
    """A consumer of no group's: it never subscribes, commits nothing, and reads what is committed."""

    def __init__(self, settings: Settings) -> None:
        self._broker = settings.broker
        self._consumer = Consumer(
            settings.connection().librdkafka()
            | {
                "group.id": f"{settings.app_id}-replay",  # the client wants one; nobody joins it
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,  # markers at the end move the position too
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": _FETCH_BYTES,
                "queued.min.messages": _CHUNK_RECORDS,
                "queued.max.messages.kbytes": 2 * _FETCH_BYTES // 1024,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def partitions(self) -> dict[str, int]:
        """Return how many partitions each topic of the cluster has that this user may see.

        Raises:
            UnavailableError: where no broker answers.

        """
        try:
            found = self._consumer.list_topics(timeout=TIMEOUT_S).topics
        except KafkaException as error:
            raise UnavailableError(f"broker {self._broker}: {error.args[0].str()}") from error
        return {name: len(topic.partitions) for name, topic in found.items()}

    def span(self, place: Place) -> Span:
        """Return what a partition holds now, up to the last stable offset."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return Span(*self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT_S))
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                    raise _failed(place, error.args[0].str()) from error
            time.sleep(_WAIT_S)

    def chunks(self, place: Place, span: Span, progress: Callable[[int], None]) -> Iterator[list[Fed]]:
        """Yield the records of a span, some thousand at a time; `progress` is told of offsets passed."""
        at = span.first
        while at < span.end:
            found, reached = self._next(place, at, span.end)
            progress(reached - at)
            at = reached
            if found:
                yield found

    def _next(self, place: Place, at: int, end: int) -> tuple[list[Fed], int]:
        """Return the next records, and the offset after them. Each time the client is told anew what to read."""
        here = TopicPartition(*place, at)
        self._consumer.assign([here])
        found: list[Fed] = []
        size, deadline = 0, time.monotonic() + TIMEOUT_S
        while len(found) < _CHUNK_RECORDS and size < _CHUNK_BYTES:
            try:
                messages = self._consumer.consume(_CHUNK_RECORDS - len(found), _WAIT_S)
            except KafkaException as error:
                raise _failed(place, error.args[0].str()) from error
            for message in messages:
                record = _fed(place, message)
                if record is None or record.offset >= end:
                    return found, end
                found.append(record)
                size += len(record.key or b"") + len(record.value or b"")
            [position] = self._consumer.position([here])
            if messages:
                deadline = time.monotonic() + TIMEOUT_S
            elif position.offset >= end:
                return found, end
            elif found:  # the client has handed out what it fetched
                break
            elif time.monotonic() > deadline:
                raise _failed(place, f"nothing came within {TIMEOUT_S:.0f} s after offset {at} of {end}")
        return found, found[-1].offset + 1


def _fed(place: Place, message: Message) -> Fed | None:
    """Return a record; None for the end of what there is."""
    error = message.error()
    if error is not None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's only name for it
            return None
        raise _failed(place, error.str())
    offset = message.offset()
    assert offset is not None  # a record that was read has a place
    return Fed(offset, message.timestamp()[1], message.key() or None, message.value())


def _failed(place: Place, reason: str) -> TopicsHeldError:
    topic, number = place
    return TopicsHeldError(f"{topic}[{number}]: {reason}")


class Held(NamedTuple):
    """What the topics of a replay hold: source topics, catalogue, model."""

    partitions: int
    """Of the source topics."""
    spans: Mapping[Place, Span]

    @property
    def records(self) -> int:
        """Return how many records there are at most: what transactions leave behind takes offsets too."""
        return sum(span.end - span.first for (topic, _), span in self.spans.items() if topic != MODEL)

    def cut(self) -> list[str]:
        """Warn of topics whose beginning is gone."""
        gone = {
            topic: sum(span.first for (name, _), span in self.spans.items() if name == topic)
            for topic in (*SOURCE_TOPICS, CATALOG)
        }
        return [
            f"topic {topic}: its first {n:,} records are deleted: what rested on them is missing from the state, "
            "and the result may differ from the worker's"
            for topic, n in gone.items()
            if n
        ]


def held(reader: Reader) -> Held:
    """Ask what the topics hold now.

    Raises:
        TopicsHeldError: naming topics that are not there, or have different numbers of partitions.
        UnavailableError: where no broker answers.

    """
    there = reader.partitions()
    missing = [topic for topic in (*SOURCE_TOPICS, *WHOLE) if topic not in there]
    if missing:
        raise TopicsHeldError(f"topics {', '.join(missing)}: not there, or not to be read by this user")
    counts = {topic: there[topic] for topic in SOURCE_TOPICS}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{topic} {n}" for topic, n in counts.items())
        raise TopicsHeldError(f"partitions = {told}: allowed is one number for all source topics")
    [partitions] = set(counts.values())
    # The model last: what control adopts up to its end is there by then.
    places = [(CATALOG, 0), *((topic, n) for topic in SOURCE_TOPICS for n in range(partitions)), (MODEL, 0)]
    return Held(partitions, {place: reader.span(place) for place in places})


class TopicsHistory:
    """`replay.History` of what the topics held when they were asked.

    `watch` sees the records of each topic go by; `progress` is told of offsets passed.
    """

    def __init__(
        self,
        reader: Reader,
        there: Held,
        *,
        watch: Callable[[str, Sequence[Fed]], None] = lambda _topic, _records: None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.count = 0
        """Records read of the source topics and the catalogue."""
        self._reader = reader
        self._spans = there.spans
        self._watch = watch
        self._progress = progress
        self._chunks = {
            place: reader.chunks(place, span, progress) for place, span in there.spans.items() if place[0] not in WHOLE
        }

    @property
    def topics(self) -> Collection[str]:
        return {topic for (topic, _), span in self._spans.items() if span.first < span.end}

    def models(self) -> dict[tuple[int, int], Scorer | None]:
        """Return every snapshot that `churn-model` holds, for what recorded control adopts."""
        models = Models()
        for record in self._whole(MODEL, lambda _: None):
            models.take(record.key, record.value, record.offset)
        return models.scorers

    def catalogue(self) -> Iterator[Fed]:
        for record in self._whole(CATALOG, self._progress):
            self.count += 1
            yield record

    def control(self) -> Iterator[tuple[int, Fed]]:
        for (topic, number), span in self._spans.items():
            if topic == CONTROL:
                for chunk in self._reader.chunks((topic, number), span, lambda _: None):
                    yield from ((number, record) for record in chunk)

    def read(self, topic: str, number: int) -> Mapping[int, Sequence[Fed] | None]:
        chunk = next(self._chunks[topic, number], None)
        if chunk is not None:
            self._watch(topic, chunk)
            self.count += len(chunk)
        return {number: chunk}

    def _whole(self, topic: str, progress: Callable[[int], None]) -> Iterator[Fed]:
        for chunk in self._reader.chunks((topic, 0), self._spans[topic, 0], progress):
            yield from chunk
