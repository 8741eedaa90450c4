"""The feeder, against the embedded broker and a stand-in for the worker."""

import json
import threading
from collections import Counter

import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.topics import SOURCE_TOPICS
from schemas.values import rfc3339
from worker import bootstrap, demo, feed, settings, topics
from worker.feed import Feeder
from worker.recall.days import DAY_MS, HOUR_MS, Days
from worker.replay import Replay, by_topic, midnights
from worker.sending import FeedError
from worker.sources.history import HistoryRecord
from worker.sources.source import track
from worker.stream.partition import Partition

START = 1_767_607_200_000  # 2026-01-05T10:00:00Z, a Monday


@pytest.fixture
def config(embedded):
    config = settings.load(
        broker=embedded.address, app_id="fed", clock="recorded", currency="GBP", playbook=demo.PLAYBOOK, partitions=3
    )
    for plan in topics.plan(config):
        embedded.create_topic(plan.name, plan.partitions)
    return config


class StandIn(threading.Thread):
    """Reads the source topics as a member of the worker's group, runs the partitions, commits; then goes on."""

    def __init__(self, config, stop_after=None):
        super().__init__(daemon=True)
        customers = bootstrap.customers(config, {})
        self.partitions = [Partition(bootstrap.layout(n, config), customers, {}) for n in range(config.partitions)]
        self.outputs = []
        self._stop_after = stop_after
        self._done = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": config.broker,
                "group.id": config.app_id,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 6000,
                # The embedded broker wakes no fetch for what comes meanwhile.
                "fetch.wait.max.ms": 5,
                "log_level": 2,
            }
        )
        self._consumer.subscribe(list(SOURCE_TOPICS))

    def run(self):
        read = 0
        while not self._done.is_set():
            messages = self._consumer.consume(500, 0.05)
            for message in messages:
                assert message.error() is None
                self.partitions[message.partition()].feed(message.topic(), [Taken(message)])
            read += len(messages)
            for partition in self.partitions:
                while (unit := partition.advance()) is not None:
                    self.outputs += unit.outputs
            if messages and not (self._stop_after and read >= self._stop_after):
                self._consumer.commit(
                    offsets=[
                        TopicPartition(topic, n, offset)
                        for n, partition in enumerate(self.partitions)
                        for topic, offset in partition.record.offsets.items()
                    ],
                    asynchronous=False,
                )
        self._consumer.close()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()


class Taken:
    """What the partition reads of a record."""

    def __init__(self, message):
        self.offset, self.timestamp = message.offset(), message.timestamp()[1]
        self.key, self.value = message.key(), message.value()


def order(user, at, number):
    properties = {"order_id": f"{user}-{number}", "revenue": "60.00", "currency": "GBP"}
    return track("orders", f"m{number}", user=user, at=at, event="Order Completed", properties=properties)


def history(users=12, days=100):
    """Orders every few days of users who stop one after the other; none on the days in between."""
    records = [
        order(f"user-{user}", START + day * DAY_MS + user * HOUR_MS, day)
        for user in range(users)
        for day in range(0, min(days, 20 + 2 * user), 5)
    ]
    # Somebody goes on, so that there is a history for those who stop.
    records += [order("user-0", START + day * DAY_MS, day) for day in range(50, days, 7)]
    return sorted(records, key=lambda record: record.recorded_at)


def ids(outputs):
    return sorted(json.loads(output.value)["command_id"] for output in outputs if output.topic == "recall")


def read(config, topic, partitions):
    """Return the records of a topic by partition."""
    consumer = Consumer({"bootstrap.servers": config.broker, "group.id": "test-reader", "log_level": 2})
    try:
        found = []
        for number in range(partitions):
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            consumer.assign([TopicPartition(topic, number, 0)])
            records = []
            while len(records) < end:
                records += [message for message in consumer.consume(500, 0.2) if message.error() is None]
            found.append(records)
        return found
    finally:
        consumer.close()


def test_what_is_fed_gives_what_the_replay_gives(config):
    records = history()
    replayed = []
    replay = Replay(config, lambda _, output: replayed.append(output))
    replay.run(by_topic(records))
    with StandIn(config) as worker, Feeder(config, stall_s=20) as feeder:
        feeder.run(records)
    assert ids(replayed)
    assert ids(worker.outputs) == ids(replayed)
    live = sum((Counter(partition.record.counts) for partition in worker.partitions), Counter())
    assert live == replay.counts
    assert [partition.clock for partition in worker.partitions] == [partition.clock for partition in replay.partitions]
    for number, partition in enumerate(worker.partitions):
        assert partition.record.offsets == {topic: n for (topic, place), n in feeder.sent.items() if place == number}


def test_a_tick_comes_at_each_midnight_after_all_that_was_before_it(config):
    records = [order("user-1", START + day * DAY_MS, day) for day in (0, 1, 4)]
    with StandIn(config) as worker, Feeder(config, stall_s=20) as feeder:
        feeder.run(records)
    expected = [rfc3339(at) for at, _ in zip(midnights(START, Days("UTC")), range(5), strict=False)]
    for control in read(config, "control", config.partitions):
        assert [json.loads(record.value())["at"] for record in control] == expected
        assert [rfc3339(record.timestamp()[1]) for record in control] == expected
    sent = [record for partition in read(config, "orders", config.partitions) for record in partition]
    assert [record.timestamp()[1] for record in sent] == [record.recorded_at for record in records]
    assert {partition.clock for partition in worker.partitions} == {next(midnights(START + 4 * DAY_MS, Days("UTC")))}


def test_records_on_midnight_follow_its_tick_and_a_later_one_closes(config):
    midnight = next(midnights(START, Days("UTC")))
    with StandIn(config), Feeder(config, stall_s=20) as feeder:
        feeder.run([order("user-1", START, 0), order("user-1", midnight, 1)])
    for control in read(config, "control", config.partitions):
        assert [record.timestamp()[1] for record in control] == [midnight, midnight + DAY_MS]


def test_recorded_control_goes_to_the_partition_it_names(config):
    beat = orjson.dumps({"kind": "heartbeat", "source": "orders", "at": rfc3339(START)})
    records = [HistoryRecord("control", key, START, beat) for key in (b"2", b"")]
    with StandIn(config) as worker, Feeder(config, ticks=False, stall_s=20) as feeder:
        feeder.run(records)
    assert [feeder.sent["control", n] for n in range(3)] == [1, 1, 2]
    assert [partition.record.offsets["control"] for partition in worker.partitions] == [1, 1, 2]


def test_the_lag_is_bounded(config, monkeypatch):
    monkeypatch.setattr(feed, "WINDOW_RECORDS", 50)
    records = [order(f"user-{n % 7}", START + n, n) for n in range(400)]
    lags = []
    with StandIn(config), Feeder(config, stall_s=20) as feeder:
        reader = Consumer({"bootstrap.servers": config.broker, "group.id": config.app_id, "log_level": 2})
        places = [TopicPartition("orders", number) for number in range(config.partitions)]
        send = feeder._send

        def spied(record):
            send(record)
            committed = sum(max(0, place.offset) for place in reader.committed(places, timeout=10))
            lags.append(sum(feeder.sent.values()) - committed)

        monkeypatch.setattr(feeder, "_send", spied)
        feeder.run(records)
        reader.close()
    assert max(lags) <= 100


def test_a_worker_that_does_not_go_on_is_named_with_what_was_waited_for(config):
    with (
        StandIn(config, stop_after=1),
        Feeder(config, stall_s=1) as feeder,
        pytest.raises(
            FeedError, match=r"group fed has committed nothing for 1 s; waiting for orders\[\d\] at 0 of 1\b"
        ),
    ):
        feeder.run([order("user-1", START, 0)])


def test_a_check_that_raises_ends_the_feeding(config):
    def check():
        raise RuntimeError("the worker is dead")

    with Feeder(config, check=check) as feeder, pytest.raises(RuntimeError, match="the worker is dead"):
        feeder.run([order("user-1", START, 0)])


def test_records_out_of_order_are_refused(config):
    with Feeder(config) as feeder, pytest.raises(FeedError, match=r"orders: recorded_at = .* allowed is .* or later"):
        feeder.run([order("user-1", START, 0), order("user-1", START - 1, 1)])


def test_what_the_broker_dropped_unread_is_told(config, monkeypatch):
    # Windows that are larger than what the broker keeps: 5 MiB a partition.
    monkeypatch.setattr(feed, "WINDOW_BYTES", 8 * 1024 * 1024)
    monkeypatch.setattr(Feeder, "_wait", lambda *_: None)
    padding = "x" * 100_000
    records = [
        HistoryRecord("clickstream", b"user-1", START + n, orjson.dumps({"n": n, "padding": padding}))
        for n in range(200)
    ]
    with Feeder(config) as feeder, pytest.raises(FeedError, match=r"clickstream\[\d\]: the broker dropped \d+ records"):
        feeder.run(records)
