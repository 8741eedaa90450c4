"""Topics that every worker reads whole, against the embedded broker."""

import asyncio
import contextlib

import pytest
from confluent_kafka import Producer

from worker.stream.connection import Connection
from worker.whole_topics import WholeTopics


class Topics:
    """Two topics, and what was read of each."""

    def __init__(self, broker):
        self.taken = {"prices": [], "models": []}
        for topic in self.taken:
            broker.create_topic(topic, partitions=1)
        self.reader = WholeTopics(Connection(broker.address), {name: self._take(name) for name in self.taken})
        self._producer = Producer({"bootstrap.servers": broker.address, "log_level": 2})

    def _take(self, topic):
        return lambda key, value, offset: self.taken[topic].append((offset, key, value))

    def write(self, topic, *values):
        for value in values:
            self._producer.produce(topic, value, b"k")
        assert self._producer.flush(10) == 0

    @contextlib.asynccontextmanager
    async def read(self):
        try:
            async with asyncio.timeout(30):
                await self.reader.ready()
                yield
        finally:
            await self.reader.on_shutdown()


@pytest.fixture
def topics(embedded):
    return Topics(embedded)


def test_all_that_is_there_has_been_read_once_it_is_ready(topics):
    async def run():
        topics.write("prices", *(b"%d" % n for n in range(5000)))
        topics.write("models", b"a", None)
        async with topics.read():
            assert [offset for offset, _, _ in topics.taken["prices"]] == list(range(5000))
            assert topics.taken["models"] == [(0, b"k", b"a"), (1, b"k", None)]

    asyncio.run(run())


def test_topics_without_records_make_nobody_wait(topics):
    async def run():
        async with topics.read():
            assert topics.taken == {"prices": [], "models": []}

    asyncio.run(run())


def test_whoever_asks_again_gets_what_came_since_and_nothing_is_read_twice(topics):
    async def run():
        topics.write("models", b"a")
        async with topics.read():
            topics.write("prices", b"1", b"2")
            topics.write("models", b"b")
            await topics.reader.ready()
            assert [value for _, _, value in topics.taken["prices"]] == [b"1", b"2"]
            assert [value for _, _, value in topics.taken["models"]] == [b"a", b"b"]

    asyncio.run(run())


def test_two_that_wait_at_once_are_both_let_go(topics):
    async def run():
        topics.write("prices", b"1")
        async with topics.read():
            topics.write("prices", b"2")
            await asyncio.gather(topics.reader.ready(), topics.reader.ready())
            assert len(topics.taken["prices"]) == 2

    asyncio.run(run())


def test_a_reader_that_fails_ends_the_process_and_says_which_topics(topics, monkeypatch):
    ended = []
    monkeypatch.setattr(
        "worker.whole_topics.die", lambda code, event, **told: ended.append((code, event, told["error"]))
    )

    async def run():
        topics.reader._takes = dict.fromkeys(topics.reader._takes, lambda *_record: 1 // 0)
        topics.write("prices", b"1")
        waiting = asyncio.create_task(topics.reader.ready())
        await asyncio.sleep(0)
        await topics.reader._task
        waiting.cancel()

    asyncio.run(run())
    (told,) = ended
    assert told[:2] == (74, "reading prices, models failed")
    assert "ZeroDivisionError" in told[2]
