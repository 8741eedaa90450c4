"""Which partition a key belongs to: murmur2, as Kafka's Java client and aiokafka have it."""

from __future__ import annotations

from aiokafka.partitioner import murmur2


class Partitioner:
    """Remembers the keys it has seen: the hash is slow in Python.

    >>> Partitioner(4).of(b"user-1")
    0
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._known: dict[bytes, int] = {}

    def of(self, key: bytes) -> int:
        partition = self._known.get(key)
        if partition is None:
            partition = self._known[key] = (murmur2(key) & 0x7FFFFFFF) % self.partitions
        return partition
