"""Dead letters: there exactly once whatever happens, readable, and their records sent back once."""

import json
import os
import signal
from collections import Counter

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from live import Progress, environment, lay_down, parts, read, stop, wait_until, worker
from points import Fault
from typer.testing import CliRunner

from schemas.topics import DEAD_LETTERS
from worker import dead_letters, settings, topics
from worker.cli import app
from worker.console import COLUMNS
from worker.dead_letters import HEADER, DeadLettersError, Place
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources.source import track
from worker.stream.dead_letters import DeadLetters, dead_letter

BROKEN = b'{"type": "track", "event": "Order Completed", "userId": "jane@example.org"'
AT = 1_767_607_200_000


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RECALL_") and name != "RECALL_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("TERMINAL_WIDTH", str(COLUMNS))


def recall(*arguments, code=0):
    """Run `recall dead-letters`; return what it printed, checked to be readable in 80 columns."""
    result = CliRunner().invoke(app, ["dead-letters", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert max((len(line) for line in result.stdout.splitlines() if "/" not in line), default=0) <= COLUMNS
    return result.stdout if not code else result.stderr


def test_a_hash_of_a_key_is_the_salts():
    def hashed(salt):
        output = dead_letter(DeadLetters("d", salt), stage="parse", reason="r", detail="", key=b"user-1", source=None)
        return json.loads(output.value)["key_hash"]

    assert hashed(b"one") == hashed(b"one") != hashed(b"two")


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "a:1", "1:-1", "1:2:3"])
def test_a_place_is_a_partition_and_an_offset(text):
    with pytest.raises(DeadLettersError, match="allowed is PARTITION:OFFSET"):
        Place.of(text)


@pytest.fixture
def filed(embedded, monkeypatch):
    """Two letters of one reason and one of another; of the second, the original is gone."""
    monkeypatch.setenv("RECALL_BROKER", embedded.address)
    for topic in (DEAD_LETTERS, "orders"):
        embedded.create_topic(topic, 1)
    producer = Producer({"bootstrap.servers": embedded.address, "log_level": 2})
    producer.produce("orders", BROKEN, b"user-1", partition=0, timestamp=AT)
    assert producer.flush(10) == 0
    where = DeadLetters(DEAD_LETTERS, b"salt")
    for reason, offset in (("malformed", 0), ("malformed", 7), ("ahead of broker", 8)):
        letter = dead_letter(
            where, stage="parse", reason=reason, detail="x" * 200, key=b"user-1", source=("orders", 0, offset, AT)
        )
        producer.produce(DEAD_LETTERS, letter.value, partition=0)
    assert producer.flush(10) == 0


@pytest.mark.usefixtures("filed")
def test_letters_are_counted_by_reason_and_listed():
    told = recall("list").splitlines()
    assert told[0].split() == ["reason", "letters", "sent", "back", "first", "last", "such", "as"]
    assert told[1].split()[:3] == ["malformed", "2", "0"]
    assert told[1].split()[-1] == "0:1"
    assert told[2].split()[:5] == ["ahead", "of", "broker", "1", "0"]
    of_reason = recall("list", "--reason", "malformed")
    assert "orders[0] at 0" in of_reason
    assert "orders[0] at 8" not in of_reason


@pytest.mark.usefixtures("filed")
def test_an_original_is_shown_on_demand_or_said_to_be_gone():
    told = recall("show", "0:0")
    assert f"{len(BROKEN)} bytes; --original shows them" in told
    assert "jane" not in told
    assert "jane@example.org" in recall("show", "0:0", "--original")
    assert "gone: its topic no longer keeps it" in recall("show", "0:1")
    assert "no letter lies there" in recall("show", "0:9", code=2)


@pytest.mark.usefixtures("filed")
def test_a_record_that_would_be_left_out_again_is_not_sent(tmp_path):
    assert "the worker would leave it out again: malformed" in recall("send", "0:0", "--as-is", code=2)
    assert "either --value FILE or --as-is" in recall("send", "0:0", code=2)
    repaired = tmp_path / "repaired.json"
    repaired.write_bytes(BROKEN)
    assert "leave it out again" in recall("send", "0:0", "--value", repaired, code=2)
    assert "the original is gone" in recall("send", "0:1", "--as-is", code=2)


@pytest.fixture
def sound(embedded, filed):  # noqa: ARG001 - after those
    """A letter whose original is as it should be, as one that made a rule raise."""
    order = track(
        "orders",
        "m1",
        user="user-1",
        at=AT,
        event="Order Completed",
        properties={"order_id": "o1", "revenue": "60.00", "currency": "EUR"},
    )
    producer = Producer({"bootstrap.servers": embedded.address, "log_level": 2})
    producer.produce("orders", order.value, order.key, partition=0, timestamp=AT)
    letter = dead_letter(
        DeadLetters(DEAD_LETTERS, b"salt"),
        stage="step",
        reason="step raised",
        detail="KeyError in apply",
        key=order.key,
        source=("orders", 0, 1, AT),
    )
    producer.produce(DEAD_LETTERS, letter.value, partition=0)
    assert producer.flush(10) == 0
    return "0:3"


def test_what_would_be_sent_is_shown_and_asked_for(sound, embedded):
    result = CliRunner().invoke(app, ["dead-letters", "send", sound, "--as-is"], input="n\n")
    assert result.exit_code == 1
    assert "orders[0]" in result.stdout
    assert "user-1" in result.stdout
    assert "Send it?" in result.stdout
    consumer = Consumer({"bootstrap.servers": embedded.address, "group.id": "test", "log_level": 2})
    assert consumer.get_watermark_offsets(TopicPartition("orders", 0), timeout=10) == (0, 2)
    consumer.close()


def test_nothing_is_sent_back_without_transactions(sound, monkeypatch):
    monkeypatch.setenv("RECALL_MODE", "plain")
    assert "needs a broker with transactions" in recall("send", sound, "--as-is", "--yes", code=2)


@pytest.mark.usefixtures("embedded")
def test_a_broker_without_the_topic_is_no_broker_without_letters(embedded, monkeypatch):
    monkeypatch.setenv("RECALL_BROKER", embedded.address)
    monkeypatch.setattr(dead_letters, "DEAD_LETTERS", "not/a/topic")
    assert "topic not/a/topic" in recall("list", code=2)


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_letters_are_there_once_after_a_kill_and_what_is_repaired_is_applied_once(fresh_kafka, tmp_path, monkeypatch):
    config = settings.load(
        broker=fresh_kafka.bootstrap,
        currency=CURRENCY,
        timezone=TIMEZONE,
        live_from="2025-02-01T00:00:00Z",
        clock="recorded",
    )
    records = []
    for number, record in enumerate(simulate(users=400, days=90, seed=9)):
        records.append(record)
        if number % 50 == 0 and record.topic != "control":
            records.append(record._replace(topic="orders", value=BROKEN))
    topics.create(config)
    env, log, late = environment(config, fresh_kafka.bootstrap, tmp_path), tmp_path / "log", tmp_path / "late"
    progress, days = Progress(fresh_kafka.bootstrap), config.shop().days
    early, rest = parts(records, days, 2)
    midnight = lay_down(fresh_kafka.bootstrap, early, days)
    with worker(env, log, fault=Fault("kill", "after the rows", 5, str(late))) as process:
        wait_until(lambda: progress.passed(midnight), process, log)
        late.touch()
        lay_down(fresh_kafka.bootstrap, rest, days)
        assert process.wait(120) == -signal.SIGKILL
    assert progress.applied() < len(records)
    broken = [message for message in read(fresh_kafka.bootstrap, "orders") if message.value() == BROKEN]
    assert len(broken) > 100
    with worker(env, log) as process:
        wait_until(lambda: progress.applied() == len(records), process, log)
        assert stop(process) == 0
    found = dead_letters.letters(config)
    places = Counter((f.letter.topic, f.letter.partition, f.letter.offset) for f in found)
    assert set(places.values()) == {1}
    assert {(message.topic(), message.partition(), message.offset()) for message in broken} <= places.keys()

    for name in ("broker", "currency", "timezone", "clock"):
        monkeypatch.setenv(f"RECALL_{name.upper()}", str(getattr(config, name)))
    [mended, *_] = [f for f in found if f.letter.reason == "malformed" and f.letter.topic == "orders"]
    original = dead_letters.original(config, mended.letter)
    properties = {"order_id": "mended", "revenue": "60.00", "currency": CURRENCY}
    order = track(
        "orders",
        "mended",
        user=original.key.decode(),
        at=records[0].recorded_at,
        event="Order Completed",
        properties=properties,
    )
    repaired = tmp_path / "repaired.json"
    repaired.write_bytes(order.value)
    told = recall("send", mended.place, "--value", repaired, "--yes")
    assert f"sent: orders[{mended.letter.partition}] at" in told
    assert "--again sends it once more" in recall("send", mended.place, "--value", repaired, "--yes", code=2)
    assert "sent back" in recall("show", mended.place)
    [sent] = [m for m in read(fresh_kafka.bootstrap, "orders") if dict(m.headers() or ()).get(HEADER)]
    assert (sent.key(), sent.value(), sent.partition()) == (original.key, order.value, mended.letter.partition)
    assert dict(sent.headers())[HEADER].decode() == str(mended.place)
    with worker(env, log) as process:
        wait_until(lambda: progress.applied() > len(records), process, log)
        assert stop(process) == 0
    progress.close()
    again = dead_letters.letters(config)
    assert len(again) == len(found)
    assert [f.place for f in again if f.sent] == [mended.place]
