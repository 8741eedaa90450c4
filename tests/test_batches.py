"""Fetched batches are read as aiokafka reads their records: what was aborted, deleted or read before is left out."""

import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from worker.stream.batches import from_offset, unpacked

CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT = 17, 21, 23
CONTROL = 0x20
MARKER = struct.Struct(">hh")
ABORT = 0


def packed(base, keys, *, producer, kind):
    """Return a record batch as the broker keeps it; None in place of a key is an offset that was compacted away."""
    builder = DefaultRecordBatchBuilder(2, 0, kind != "plain", producer, 0, 0, 1_000_000)
    for delta, key in enumerate(keys):
        if key is not None:
            builder.append(delta, 1000 + delta, key, b"value", [])
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    struct.pack_into(">i", raw, LAST_DELTA_AT, len(keys) - 1)
    if kind == "marker":
        raw[ATTRIBUTES_AT + 1] |= CONTROL
    struct.pack_into(">I", raw, CRC_AT, calc_crc32c(bytes(raw[ATTRIBUTES_AT:])))
    return bytes(raw)


@st.composite
def logs(draw):
    """Return a log, its aborted transactions as (producer, first offset), and the offsets after its batches."""
    raw, aborted, opened, offset, ends = b"", [], {}, 0, []
    for _ in range(draw(st.integers(1, 8))):
        producer = draw(st.integers(1, 2))
        kind = draw(st.sampled_from(["plain", "data", "data", "marker"]))
        keys = draw(st.lists(st.one_of(st.none(), st.binary(max_size=3)), min_size=1, max_size=5))
        if kind == "marker":
            outcome = draw(st.integers(0, 1))
            if (first := opened.pop(producer, None)) is not None and outcome == ABORT:
                aborted.append((producer, first))
            keys = [MARKER.pack(0, outcome)]
        elif kind == "data":
            opened.setdefault(producer, offset)
        raw += packed(offset, keys, producer=producer if kind != "plain" else -1, kind=kind)
        offset += len(keys)
        ends.append(offset)
    return raw, aborted, ends


def partition_records(raw, aborted, position):
    tp = TopicPartition("source", 0)
    return PartitionRecords(tp, MemoryRecords(raw), aborted, position, None, None, True, READ_COMMITTED)


@given(logs(), st.data())
def test_batches_hold_what_aiokafka_reads_and_leave_the_position_where_it_does(log, data):
    raw, aborted, ends = log
    position = data.draw(st.integers(0, ends[0] - 1))  # the broker's answer begins with the batch that holds it
    cut = data.draw(st.integers(0, ends[-1]))
    theirs = partition_records(raw, aborted, position)
    wanted = [(record.offset, record.timestamp, record.key, record.value) for record in theirs]
    ours = partition_records(raw, aborted, position)
    batches = from_offset(unpacked(ours), cut)
    read = [(record.offset, record.timestamp, record.key, record.value) for batch in batches for record in batch]
    assert read == [record for record in wanted if record[0] >= cut]
    assert len(read) <= sum(map(len, batches))
    assert ours.next_fetch_offset == theirs.next_fetch_offset


def test_a_damaged_batch_is_refused():
    raw = bytearray(packed(0, [b"anna"], producer=-1, kind="plain"))
    raw[-2] ^= 1
    with pytest.raises(CorruptRecordException, match="Invalid CRC"):
        list(unpacked(partition_records(bytes(raw), [], 0)))
