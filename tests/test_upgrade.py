"""A new encoding of rows: old rows are read, new ones are written, and old workers stay away from them."""

import msgspec
import pytest
from toy import LAYOUT, Driver, Op, Toy, history

from worker.stream.partition import Partition
from worker.stream.record import PARTITION_KEY, PartitionRecord, read_header

TIMES = range(100, 160)
TOPICS = history(left=[(b"%d" % (at % 7), Op(at, n=at, timers=[(3, "opens", 0)])) for at in TIMES])


class NewToy(Toy):
    """The toy of the next release, which has added a byte to the row."""

    version = 2

    def __init__(self) -> None:
        super().__init__()
        self.earlier = {1: super().decode}

    def decode(self, body):
        assert body[:1] == b"2"
        return super().decode(body[1:])

    def encode(self, state):
        return b"2" + super().encode(state)


def advance(driver, n):
    """Do `n` units of work."""
    for _ in range(n):
        while not driver.advance():
            for topic in driver.partition.starving():
                driver.feed(topic, 5)


def versions(driver):
    return {read_header(row).version for key, row in driver.changelog.items() if not key.startswith(b"\0")}


def take_over(driver, toy):
    driver.toy = toy
    driver.restart()


def test_an_upgrade_from_one_worker_to_the_next_and_back():
    whole = Driver(TOPICS, rows_max=4, toy=NewToy()).finish()
    driver = Driver(TOPICS, rows_max=4, toy=Toy())
    advance(driver, 25)
    assert versions(driver) == {1}

    take_over(driver, NewToy())
    advance(driver, 1)
    assert versions(driver) == {1, 2}  # a row is written anew when it changes

    committed = dict(driver.changelog)
    with pytest.raises(
        ValueError, match=r"partition 0: .* encoding version 2, this one writes 1 .* upgrade all workers"
    ):
        take_over(driver, Toy())
    assert driver.changelog == committed

    take_over(driver, NewToy())
    result = driver.finish(5)
    assert versions(driver) == {2}
    assert result == whole


def test_a_row_of_a_version_that_is_not_read_any_more_is_refused():
    driver = Driver(TOPICS, rows_max=4, toy=Toy())
    advance(driver, 25)
    newest = NewToy()
    newest.version, newest.earlier = 3, {2: newest.decode}
    take_over(driver, newest)
    with pytest.raises(RuntimeError, match=r"row: encoding version 1 is not read by this worker, allowed are \[2, 3\]"):
        driver.finish(5)


def test_a_partition_record_of_a_newer_format_is_refused():
    newer = msgspec.structs.replace(PartitionRecord(), format=2)
    with pytest.raises(ValueError, match="format 2 was written by a newer worker, allowed is 1: upgrade all workers"):
        Partition(LAYOUT, Toy(), {PARTITION_KEY: newer.encode()})


def test_a_partition_record_from_before_row_versions_were_noted_is_read():
    *fields, _ = msgspec.msgpack.decode(PartitionRecord(clock=5).encode())
    assert PartitionRecord.decode(msgspec.msgpack.encode(fields)) == PartitionRecord(clock=5)
