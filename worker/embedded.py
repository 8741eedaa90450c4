"""A Kafka broker inside this process, for demos and tests.

It is librdkafka's mock cluster, which the confluent-kafka wheel carries: no Docker, no JVM, up in
milliseconds. It speaks the protocol over TCP, so other processes can use its address too. Its limits:

- It persists nothing, compacts nothing, and has no transactions to rely on and no offsets by time.
- A topic that was not created comes into being when a client names it, with four partitions.
- A partition keeps 5 MiB or 100,000 batches; then the oldest go without a word, which `lost` tells.
- A group has one member: a second is refused when it syncs after the first. When a member left, the next
  one waits for the session timeout less a second before it gets partitions.
"""

import ctypes
from typing import Final, NamedTuple, Self

from confluent_kafka import Consumer, TopicPartition, cimpl

_PRODUCER: Final = 0  # rd_kafka_type_t
_ERROR_BYTES: Final = 512
_LOG_CRITICAL: Final = b"2"  # syslog's scale: the owner of a mock cluster would else log that it has no broker
_WATERMARK_TIMEOUT_S: Final = 10.0
_BROKER: Final = 1
"""The number that the mock cluster gives its first broker."""


class Lost(NamedTuple):
    """The first `records` offsets of a partition, which the broker no longer keeps."""

    partition: int
    records: int


def _load() -> ctypes.CDLL:
    """Load librdkafka as confluent-kafka did, with the signatures that are used here.

    A symbol is looked up in a library and in those that it depends on: asking the extension module finds
    the very librdkafka that it is linked to, in the wheel or the system's own, whatever its file is called.
    """
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, ()),
        ("rd_kafka_conf_set", number, (pointer, text, text, text, ctypes.c_size_t)),
        ("rd_kafka_new", pointer, (number, pointer, text, ctypes.c_size_t)),
        ("rd_kafka_destroy", None, (pointer,)),
        ("rd_kafka_err2str", text, (number,)),
        ("rd_kafka_mock_cluster_new", pointer, (pointer, number)),
        ("rd_kafka_mock_cluster_destroy", None, (pointer,)),
        ("rd_kafka_mock_cluster_bootstraps", text, (pointer,)),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, (pointer, ctypes.c_int32)),
        ("rd_kafka_mock_topic_create", number, (pointer, text, number, number)),
        (
            "rd_kafka_mock_broker_push_request_error_rtts",
            number,
            (pointer, ctypes.c_int32, ctypes.c_int16, ctypes.c_size_t, number, number),
        ),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


class EmbeddedBroker:
    """One broker, from `with` to its end; `address` is its `host:port`.

    >>> with EmbeddedBroker() as broker:
    ...     broker.create_topic("orders", partitions=2)
    ...     broker.lost("orders", partitions=2)
    []
    """

    address: str

    def __enter__(self) -> Self:
        self._library = _load()
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        configuration = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(configuration, b"log_level", _LOG_CRITICAL, error, _ERROR_BYTES)
        self._owner = self._library.rd_kafka_new(_PRODUCER, configuration, error, _ERROR_BYTES)
        if not self._owner:
            raise RuntimeError(f"the embedded broker's client did not start: {error.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._owner, 1)
        if not self._cluster:
            self._library.rd_kafka_destroy(self._owner)
            raise RuntimeError("the embedded broker did not start: librdkafka made no mock cluster")
        # A group's first member would else wait three seconds for others.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.address = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        return self

    def __exit__(self, *_: object) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._owner)

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; one that exists already is an error, with however many partitions it was made."""
        if partitions < 1:
            raise ValueError(f"topic {name!r}: partitions={partitions}, allowed is 1 or more")
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if code:
            raise ValueError(f"topic {name!r}: {self._library.rd_kafka_err2str(code).decode()}")

    def answer_next(self, request: int, *answers: tuple[int, int]) -> None:
        """Answer the next requests of a kind with (error code, delay in ms) each, one after the other.

        `request` and the codes are those of Kafka's protocol; 0 for no error.
        """
        push = self._library.rd_kafka_mock_broker_push_request_error_rtts
        for error, delay_ms in answers:
            code = push(self._cluster, _BROKER, request, 1, error, delay_ms)
            if code:
                raise ValueError(f"request {request}: {self._library.rd_kafka_err2str(code).decode()}")

    def lost(self, topic: str, partitions: int) -> list[Lost]:
        """Say which of the topic's partitions no longer begin at offset 0: records have gone there."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "embedded-broker-lost"})
        try:
            earliest = [
                consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_WATERMARK_TIMEOUT_S)[0]
                for partition in range(partitions)
            ]
        finally:
            consumer.close()
        return [Lost(partition, offset) for partition, offset in enumerate(earliest) if offset > 0]
