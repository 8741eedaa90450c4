"""What the worker asks of a broker, of the embedded one and of Apache Kafka alike."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource
from live import SESSION_S

from worker.embedded import EmbeddedBroker

PARTITIONS = 4
PARTITION_LIMIT_BYTES = 5 * 1024 * 1024


class Broker(NamedTuple):
    address: str
    create_topic: Callable[[str, int], None]
    session_timeout_ms: int


@pytest.fixture
def embedded_broker(embedded):
    # A member that follows another waits for this less a second.
    return Broker(embedded.address, embedded.create_topic, session_timeout_ms=1_200)


@pytest.fixture
def kafka_broker(kafka):
    return Broker(
        kafka.bootstrap,
        lambda name, partitions: kafka.create_topics({name: partitions}),
        session_timeout_ms=SESSION_S * 1000,
    )


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request):
    return request.getfixturevalue(f"{request.param}_broker")


@pytest.fixture
def topic(broker):
    name = f"orders-{uuid4().hex[:8]}"
    broker.create_topic(name, PARTITIONS)
    return name


@asynccontextmanager
async def producer(address, **settings):
    client = AIOKafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True, **settings)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def member(broker, topic, group, **settings):
    client = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.address,
        session_timeout_ms=broker.session_timeout_ms,
        heartbeat_interval_ms=200,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **settings,
    )
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def read(client, count):
    """Read values until there are `count`, or nothing has come for two seconds."""
    values = []
    while len(values) < count:
        fetched = await client.getmany(timeout_ms=2000)
        if not fetched:
            break
        values += [record.value for records in fetched.values() for record in records]
    return values


async def produce(address, topic, values):
    async with producer(address) as client:
        for value in values:
            await client.send(topic, value, key=value)
        await client.flush()


def values(first, last):
    return [f"user-{n}".encode() for n in range(first, last)]


def test_a_group_continues_where_it_committed(broker, topic):
    async def scenario():
        await produce(broker.address, topic, values(0, 200))
        async with member(broker, topic, topic) as first:
            assert sorted(await read(first, 200)) == sorted(values(0, 200))
            await first.commit()
        await produce(broker.address, topic, values(200, 250))
        async with member(broker, topic, topic) as second:
            assert sorted(await read(second, 50)) == sorted(values(200, 250))
            committed = [await second.committed(TopicPartition(topic, partition)) for partition in range(PARTITIONS)]
            assert sum(committed) == 200

    asyncio.run(scenario())


def test_what_was_read_and_not_committed_comes_again(broker, topic):
    async def scenario():
        await produce(broker.address, topic, values(0, 20))
        for _ in range(2):
            async with member(broker, topic, topic) as client:
                assert sorted(await read(client, 20)) == sorted(values(0, 20))

    asyncio.run(scenario())


def test_a_batch_of_the_senders_own_keeps_its_order_and_partition(broker, topic):
    async def scenario():
        async with producer(broker.address) as client:
            batch = client.create_batch()
            for value in values(0, 50):
                batch.append(key=value, value=value, timestamp=None)
            sent = await (await client.send_batch(batch, topic, partition=2))
            assert (sent.partition, sent.offset) == (2, 0)
        async with member(broker, topic, None) as client:
            assert await read(client, 50) == values(0, 50)

    asyncio.run(scenario())


def test_both_clients_choose_the_same_partition_for_a_key(broker, topic):
    keys = values(0, 300)
    chosen = {}
    client = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random"})
    for key in keys:
        client.produce(
            topic, b"", key, on_delivery=lambda _, message: chosen.update({message.key(): message.partition()})
        )
    client.flush(30)

    async def scenario():
        async with producer(broker.address) as client:
            futures = {key: await client.send(topic, b"", key=key) for key in keys}
            return {key: (await future).partition for key, future in futures.items()}

    every = list(range(PARTITIONS))
    assert chosen == asyncio.run(scenario()) == {key: DefaultPartitioner()(key, every, every) for key in keys}
    assert set(chosen.values()) == set(every)


def test_embedded_two_at_once_know_nothing_of_each_other():
    with EmbeddedBroker() as one, EmbeddedBroker() as two:
        assert one.address != two.address
        for each in (one, two):
            each.create_topic("orders", partitions=1)


@pytest.mark.parametrize(
    ("partitions", "message"),
    [(0, "partitions=0, allowed is 1 or more"), (1, "already exists")],
    ids=["no partitions", "there already"],
)
def test_embedded_topic_that_cannot_be_made(embedded, partitions, message):
    embedded.create_topic("orders", partitions=2)
    with pytest.raises(ValueError, match=f"topic 'orders': .*{message}"):
        embedded.create_topic("orders", partitions)


def test_embedded_says_what_it_no_longer_keeps(embedded):
    embedded.create_topic("orders", partitions=2)

    async def fill(size):
        async with producer(embedded.address) as client:
            for _ in range(size // 50_000 + 2):
                await client.send_and_wait("orders", bytes(50_000), partition=1)

    asyncio.run(fill(PARTITION_LIMIT_BYTES // 2))
    assert embedded.lost("orders", partitions=2) == []
    asyncio.run(fill(PARTITION_LIMIT_BYTES))
    [lost] = embedded.lost("orders", partitions=2)
    assert lost.partition == 1
    assert lost.records > 0


@pytest.mark.kafka
def test_kafka_shares_the_partitions_out_in_a_group(kafka_broker):
    topic = f"orders-{uuid4().hex[:8]}"
    kafka_broker.create_topic(topic, PARTITIONS)

    async def scenario():
        async with (
            member(kafka_broker, topic, topic) as one,
            member(kafka_broker, topic, topic) as two,
            asyncio.timeout(30),
        ):
            while not (len(one.assignment()) == len(two.assignment()) == PARTITIONS // 2):
                # A rebalance ends while its members poll.
                await asyncio.gather(one.getmany(timeout_ms=100), two.getmany(timeout_ms=100))
            assert one.assignment().isdisjoint(two.assignment())

    asyncio.run(scenario())


@pytest.mark.kafka
def test_kafka_shows_only_what_a_transaction_committed(kafka_broker):
    prefix = uuid4().hex[:8]
    topic = f"{prefix}-recall"
    kafka_broker.create_topic(topic, 1)

    async def scenario():
        async with producer(kafka_broker.address, transactional_id=f"{prefix}-writer") as client:
            await client.begin_transaction()
            await client.send_and_wait(topic, b"aborted")
            await client.abort_transaction()
            async with client.transaction():
                await client.send_and_wait(topic, b"committed")
            await client.begin_transaction()
            await client.send_and_wait(topic, b"open")
            async with member(kafka_broker, topic, None, isolation_level="read_committed") as reader:
                assert await read(reader, 2) == [b"committed"]
            async with member(kafka_broker, topic, None) as reader:
                assert await read(reader, 3) == [b"aborted", b"committed", b"open"]
            await client.commit_transaction()
        async with member(kafka_broker, topic, None, isolation_level="read_committed") as reader:
            assert await read(reader, 2) == [b"committed", b"open"]

    asyncio.run(scenario())


@pytest.mark.kafka
def test_kafka_fences_a_stalled_predecessor(kafka_broker):
    prefix = uuid4().hex[:8]
    topic = f"{prefix}-recall"
    kafka_broker.create_topic(topic, 1)

    async def scenario():
        async with producer(kafka_broker.address, transactional_id=f"{prefix}-writer") as stalled:
            await stalled.begin_transaction()
            await stalled.send_and_wait(topic, b"stalled")
            async with (
                producer(kafka_broker.address, transactional_id=f"{prefix}-writer") as successor,
                successor.transaction(),
            ):
                await successor.send_and_wait(topic, b"successor")
            with pytest.raises(KafkaError):
                await stalled.commit_transaction()
        async with member(kafka_broker, topic, None, isolation_level="read_committed") as reader:
            assert await read(reader, 2) == [b"successor"]

    asyncio.run(scenario())


@pytest.mark.kafka
def test_kafka_creates_the_topics_that_are_asked_for_and_no_others(kafka):
    prefix = kafka.prefix("topics")
    kafka.create_topics({f"{prefix}a": 3, f"{prefix}b": 1}, config={"cleanup.policy": "compact"})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.list_topics(f"{prefix}nobody-made", timeout=10)
    made = {name: len(t.partitions) for name, t in admin.list_topics(timeout=10).topics.items()}
    assert {name: n for name, n in made.items() if name.startswith(prefix)} == {f"{prefix}a": 3, f"{prefix}b": 1}
    resource = ConfigResource(ConfigResource.Type.TOPIC, f"{prefix}b")
    [described] = admin.describe_configs([resource]).values()
    assert described.result()["cleanup.policy"].value == "compact"
