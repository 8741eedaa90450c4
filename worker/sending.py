"""Puts the records of a history onto the topics, each where its key belongs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException, Producer

from schemas.topics import CONTROL, SOURCE_TOPICS
from worker.partitioner import Partitioner
from worker.replay import tick

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

    from worker.settings import Settings
    from worker.sources.history import HistoryRecord

Place = tuple[str, int]
"""Topic and partition."""

TIMEOUT_S: Final = 30.0


class FeedError(RuntimeError):
    """The history did not get through whole; the message says what was waited for, or lost."""


class Sender:
    """An idempotent producer: what it sends lies on its topic once, and in the order in which it was sent.

    Users' records go by murmur2 of the key, control to the partition that it names or to all. What fails is raised by
    `flush`.
    """

    def __init__(self, settings: Settings, *, keeps_times: bool) -> None:
        """Connect; with `keeps_times` a topic that puts the broker's own time on records is a failure."""
        self.sent: Counter[Place] = Counter()
        """Records by topic and partition, ticks among them."""
        self.ends: dict[Place, int] = {}
        """The offset after the last record that the broker took."""
        self._partitioner = Partitioner(settings.partitions)
        self._keeps_times = keeps_times
        self._producer = Producer({**settings.connection().librdkafka(), "enable.idempotence": True, "linger.ms": 2})
        self._failure: str | None = None
        self._newest = 0

    def close(self) -> None:
        """Let go of what is still under way."""
        self._producer.purge()

    def send(self, record: HistoryRecord) -> None:
        topic, key, at, value = record
        if topic not in SOURCE_TOPICS:
            self._produce(topic, 0, key, value, at)
        elif topic != CONTROL:
            self._produce(topic, self._partitioner.of(key), key, value, at)
        else:
            for partition in (int(key),) if key else range(self._partitioner.partitions):
                self._produce(topic, partition, None, value, at)

    def tick(self, at: int) -> None:
        """Say on every partition what time it is."""
        for partition in range(self._partitioner.partitions):
            self._produce(CONTROL, partition, None, tick(at), at)

    def flush(self) -> None:
        """Wait until the broker has taken all that was sent.

        Raises:
            FeedError: naming the first record that it did not take, and why.

        """
        left = self._producer.flush(TIMEOUT_S)
        if self._failure is None and left:
            self._failure = f"the broker did not take {left} records within {TIMEOUT_S:.0f} s"
        self.check()

    def check(self) -> None:
        """Raise what has failed so far."""
        if self._failure is not None:
            raise FeedError(self._failure)

    def _produce(self, topic: str, partition: int, key: bytes | None, value: bytes, at: int) -> None:
        self._newest = max(self._newest, at)
        while True:
            try:
                self._producer.produce(
                    topic, value, key or None, partition=partition, timestamp=at, on_delivery=self._delivered
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise FeedError(f"{topic}[{partition}]: a record was not taken: {error.args[0].str()}") from error
            else:
                break
        self.sent[topic, partition] += 1
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if error is not None:
            self._failure = self._failure or f"{topic}[{partition}]: a record was not taken: {error.str()}"
            return
        if self._keeps_times and message.timestamp()[1] > self._newest:
            self._failure = (
                f"topic {topic}: the broker puts its own time on records; allowed for a recorded history is "
                "message.timestamp.type=CreateTime (RECALL_CLOCK=recorded recall topics create)"
            )
            return
        assert topic is not None  # a record that was taken has a place
        assert partition is not None
        assert offset is not None
        self.ends[topic, partition] = offset + 1
