"""The CRM's example: what it takes, when it carries it out, and what it tells of it."""

import importlib.util
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.commands import CANCELLATION_TYPE, COMMAND_TYPE
from schemas.topics import SOURCE_TOPICS
from schemas.values import Channel
from worker.recall.events import parse
from worker.recall.money import Currency

PATH = Path(__file__).parents[1] / "scripts" / "crm.py"
PARTITIONS = 3
NOW = datetime(2026, 1, 5, 10, tzinfo=UTC)
_spec = importlib.util.spec_from_file_location("crm", PATH)
crm = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(crm)


def command(command_id, user="user-1", *, issued=NOW, valid=timedelta(days=3), priority=50, channel="email", **fields):
    return {
        "command_id": command_id,
        "user_id": user,
        "not_before": None,
        "not_after": (issued + valid).isoformat().replace("+00:00", "Z"),
        "action": {"template": "memory-of-favourites"},
        "delivery": {"channel": channel},
        "guards": {"purpose": "marketing", "priority": priority},
        "cost": {"currency": "GBP"},
        **fields,
    }


class Desk:
    """An inbox, spoken to in short."""

    def __init__(self, path=":memory:"):
        self.inbox = crm.Inbox(path)

    def takes(self, command_id, now=NOW, **fields):
        return self.inbox.take(COMMAND_TYPE, command(command_id, **fields), now)

    def cancels(self, command_id, now=NOW):
        return self.inbox.take(CANCELLATION_TYPE, {"command_id": command_id}, now)

    def due(self, now=NOW):
        return [one["command_id"] for one in self.inbox.due(now)]

    def carries_out(self, now=NOW):
        done = list(self.inbox.due(now))
        for one in done:
            self.inbox.done(one)
        return [one["command_id"] for one in done]


@pytest.fixture
def desk():
    return Desk()


def test_a_command_is_carried_out_once(desk):
    assert [desk.takes("c1"), desk.takes("c1")] == ["accepted", "duplicate"]
    assert desk.carries_out() == ["c1"]
    assert desk.takes("c1", NOW + timedelta(days=2)) == "duplicate"
    assert desk.due(NOW + timedelta(days=2)) == []


def test_the_window_of_repeats_ends_with_the_command_itself(desk):
    desk.takes("c1")
    desk.carries_out()
    late = NOW + timedelta(days=3, seconds=1)
    assert desk.due(late) == []
    assert desk.takes("c1", late) == "expired"


def test_nothing_is_carried_out_before_its_time_or_after_it(desk):
    desk.takes("early", not_before=(NOW + timedelta(hours=1)).isoformat())
    assert desk.takes("late", valid=timedelta(seconds=-1)) == "expired"
    assert desk.due(NOW + timedelta(minutes=59)) == []
    assert desk.due(NOW + timedelta(hours=1)) == ["early"]
    assert desk.due(NOW + timedelta(days=4)) == []


def test_a_cancellation_takes_back_what_waits_and_no_more(desk):
    desk.takes("c1")
    desk.takes("c2")
    assert desk.cancels("c1") == "cancelled"
    assert desk.carries_out() == ["c2"]
    assert desk.cancels("c2") == "too late to cancel"


def test_a_command_that_comes_after_its_cancellation_is_not_carried_out(desk):
    assert desk.cancels("c1") == "cancelled"
    assert desk.takes("c1") == "duplicate"
    assert desk.due() == []


def test_the_highest_priority_goes_first(desk):
    for command_id, priority in (("low", 10), ("high", 90), ("middle", 50)):
        desk.takes(command_id, priority=priority)
    assert desk.due() == ["high", "middle", "low"]


def test_what_was_taken_outlives_the_process(tmp_path):
    first = Desk(tmp_path / "crm.sqlite")
    first.takes("c1")
    first.takes("c2")
    first.cancels("c2")
    first.inbox.save()
    second = Desk(tmp_path / "crm.sqlite")
    assert second.takes("c1") == "duplicate"
    assert second.carries_out() == ["c1"]
    assert Desk(tmp_path / "crm.sqlite").due() == []


def test_answers_are_the_same_for_the_same_seed_and_as_many_as_was_asked_for():
    commands = [command(f"c{n}") for n in range(2000)]
    told = [crm.answers(one, 7, 0.25) for one in commands]
    assert told == [crm.answers(one, 7, 0.25) for one in commands]
    assert told != [crm.answers(one, 8, 0.25) for one in commands]
    clicked = sum(answer[-1]["status"] == "clicked" for answer in told)
    bounced = sum(answer[0]["status"] == "bounced" for answer in told)
    assert 0.2 < clicked / len(told) < 0.3
    assert 0.01 < bounced / len(told) < 0.03
    assert all(answer[0]["status"] in {"delivered", "bounced"} for answer in told)


@pytest.mark.parametrize("channel", Channel.__args__)
def test_what_it_tells_is_feedback_that_the_worker_takes(channel):
    one = command("c1", channel=channel)
    for told in [*crm.answers(one, 1, 1.0), {"status": "failed"}]:
        record = crm.feedback(one, told, NOW)
        at, body = parse("feedback", b"user-1", record, round(NOW.timestamp() * 1000), Currency.of("GBP"))
        assert at is not None
        assert (body.command_id, body.status, body.channel) == ("c1", told["status"], channel)


# -- the program -------------------------------------------------------------------------------------------------------


def records(broker, topic):
    reader = Consumer(
        {"bootstrap.servers": broker, "group.id": "reader", "auto.offset.reset": "earliest", "log_level": 2}
    )
    ends = {n: reader.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in range(PARTITIONS)}
    reader.assign([TopicPartition(topic, n, 0) for n in ends])
    found = []
    while len(found) < sum(ends.values()):
        found += [message for message in reader.consume(100, 1.0) if message.error() is None]
    reader.close()
    return [json.loads(message.value()) for message in found]


def test_it_carries_out_what_it_may_once_and_says_so(embedded, tmp_path):
    for topic in (*SOURCE_TOPICS, "recall"):
        embedded.create_topic(topic, PARTITIONS)
    now = datetime.now(UTC)
    sent = [
        (COMMAND_TYPE, command("c1", "user-1", issued=now)),
        (COMMAND_TYPE, command("c1", "user-1", issued=now)),
        (COMMAND_TYPE, command("c2", "user-2", issued=now)),
        (CANCELLATION_TYPE, {"command_id": "c2", "user_id": "user-2", "reason": "ordered"}),
        (COMMAND_TYPE, command("c3", "user-3", issued=now, valid=timedelta(days=-1))),
        (COMMAND_TYPE, command("c5", "user-5", issued=now)),
    ]
    producer = Producer({"bootstrap.servers": embedded.address, "partitioner": "murmur2_random", "log_level": 2})
    for kind, value in sent:
        producer.produce("recall", json.dumps(value), value["user_id"], headers=[("ce_type", kind.encode())])
    assert producer.flush(10) == 0

    arguments = ["--broker", embedded.address, "--once", "--respond", "1", "--rate", "1000"]
    arguments += ["--inbox", str(tmp_path / "crm.sqlite")]
    done = subprocess.run([sys.executable, PATH, *arguments], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stdout.splitlines()) == [
        "cancelled: c2",
        "deliver c1: memory-of-favourites to user-1 by email",
        "deliver c5: memory-of-favourites to user-5 by email",
        "duplicate: c1",
        "expired: c3",
    ]
    reader = Consumer({"bootstrap.servers": embedded.address, "group.id": "crm", "log_level": 2})
    committed = reader.committed([TopicPartition("recall", number) for number in range(PARTITIONS)], timeout=10)
    reader.close()
    assert sum(max(0, place.offset) for place in committed) == len(sent)
    told = sorted((record["userId"], record["status"]) for record in records(embedded.address, "feedback"))
    expected = [
        (user, answer["status"])
        for user, command_id in (("user-1", "c1"), ("user-5", "c5"))
        for answer in crm.answers(command(command_id), 1, 1.0)
    ]
    assert told == sorted(expected)
