"""The live worker against the replay: the same commands, the same rows, whatever happens in between."""

import re
import signal
from collections import Counter

import orjson
import pytest
from data import require
from live import (
    EVERY_TOPIC,
    Progress,
    Replayed,
    Tail,
    decided_without_model,
    ends,
    environment,
    ids,
    lay_down,
    read,
    state,
    stop,
    wait_until,
    without_risk,
    worker,
)
from points import Fault, Gate

from schemas.values import rfc3339
from worker import settings, topics
from worker.feed import Feeder
from worker.recall.days import DAY_MS
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources import open_source
from worker.stream.processor import NEVER
from worker.stream.topics import changelog_of


@pytest.fixture
def playbook(tmp_path):
    return decided_without_model(tmp_path / "playbook.toml")


def test_simulated_shop_in_plain_mode_gives_the_commands_of_the_replay(embedded, playbook, tmp_path):
    config = settings.load(
        currency=CURRENCY, timezone=TIMEZONE, playbook=playbook, live_from="2025-02-01T00:00:00Z", horizons_days=(14,)
    )
    records = list(simulate(users=60, days=120, seed=3))
    expected = Replayed(config, records)
    for name, partitions in EVERY_TOPIC.items():
        embedded.create_topic(name, partitions)
    lay_down(embedded.address, records, config.shop().days)
    env = environment(config, embedded.address, tmp_path, mode="plain", session_timeout_s=10)
    progress, log = Progress(embedded.address), tmp_path / "log"
    with worker(env, log) as process:
        wait_until(lambda: progress.passed(expected.clock), process, log)
        assert stop(process) == 0
    progress.close()
    sent = ids(read(embedded.address, "recall"))
    assert sent
    assert Counter(sent) == Counter(expected.ids)
    rows, partition_records = state(embedded.address)
    assert without_risk(rows) == expected.rows
    applied = sum(
        sum(record.offsets.get(topic, 0) for topic in record.offsets) for record in partition_records.values()
    )
    assert applied == sum(sum(p.record.offsets.values()) for p in expected.replay.partitions)


@pytest.mark.data
@pytest.mark.timeout(400)
def test_online_retail_fed_day_by_day_gives_the_commands_of_the_replay(embedded, playbook, tmp_path):
    config = settings.load(
        broker=embedded.address,
        currency="GBP",
        timezone="Europe/London",
        playbook=playbook,
        live_from="2011-07-01T00:00:00Z",
        clock="recorded",
        learner="vectorised",
    )
    source = open_source(require("online_retail", "online_retail.parquet"))
    assert source.accounting.lines == 541_909
    records = list(source.records)
    expected = Replayed(config, records)
    for name, partitions in EVERY_TOPIC.items():
        embedded.create_topic(name, partitions)
    env, log = environment(config, embedded.address, tmp_path, mode="plain", session_timeout_s=10), tmp_path / "log"
    reader = Tail(embedded.address, "recall")
    with worker(env, log) as process, Feeder(config, progress=lambda *_: reader.poll()) as feeder:
        feeder.run(records)
        assert stop(process) == 0
    reader.poll(timeout_s=1.0)
    sent = ids(reader.found)
    assert len(sent) > 2000
    assert Counter(sent) == Counter(expected.ids)


@pytest.mark.kafka
@pytest.mark.data
def test_a_worker_killed_in_mid_stream_ends_where_the_replay_does(fresh_kafka, playbook, tmp_path):
    config = settings.load(
        broker=fresh_kafka.bootstrap,
        currency="CNY",
        timezone="Asia/Shanghai",
        playbook=edited(playbook, "silence_days = 60", "silence_days = 21"),
        live_from="2013-05-01T00:00:00Z",
        horizons_days=(14,),
        clock="recorded",
    )
    records = list(open_source(require("tmall", "tmall.csv.gz")).records)
    assert {record.topic for record in records} == {"clickstream", "cart", "orders"}
    expected = Replayed(config, records)
    topics.create(config)
    days = config.shop().days
    env, log, late = environment(config, fresh_kafka.bootstrap, tmp_path), tmp_path / "log", tmp_path / "late"
    progress = Progress(fresh_kafka.bootstrap)
    lay_down(fresh_kafka.bootstrap, records, days)
    [half] = ends(records, days, 2)
    gate = Gate(tmp_path / "gate", half)
    with worker(env, log, fault=Fault("kill", "after the rows", 5, str(late)), gate=gate) as process:
        wait_until(lambda: progress.passed(half), process, log)
        late.touch()
        gate.open_to(NEVER)
        assert process.wait(120) == -signal.SIGKILL
    assert not progress.passed(expected.clock)
    with worker(env, log) as process:
        wait_until(lambda: progress.passed(expected.clock), process, log)
        assert stop(process) == 0
    progress.close()
    sent = ids(read(fresh_kafka.bootstrap, "recall"))
    assert len(sent) > 100
    assert Counter(sent) == Counter(expected.ids)
    rows, _ = state(fresh_kafka.bootstrap)
    assert without_risk(rows) == expected.rows


@pytest.mark.kafka
def test_workers_that_join_leave_and_die_end_where_the_replay_does(fresh_kafka, playbook, tmp_path):
    """A second worker joins, the first is stopped, the second killed, and the first takes over with what it kept.

    The first one keeps its rows on disk, the second in memory.
    """
    config = settings.load(
        broker=fresh_kafka.bootstrap,
        currency=CURRENCY,
        timezone=TIMEZONE,
        playbook=playbook,
        live_from="2025-02-01T00:00:00Z",
        horizons_days=(14,),
        clock="recorded",
    )
    records = list(simulate(users=600, days=120, seed=7))
    expected = Replayed(config, records)
    topics.create(config)
    days = config.shop().days
    progress, late = Progress(fresh_kafka.bootstrap), tmp_path / "late"
    log, seconds_log = tmp_path / "log", tmp_path / "second.log"
    lay_down(fresh_kafka.bootstrap, records, days)
    alone, together = ends(records, days, 3)
    gate = Gate(tmp_path / "gate", alone)
    on_disk = environment(config, fresh_kafka.bootstrap, tmp_path / "a", store="rocksdb")
    in_memory = environment(config, fresh_kafka.bootstrap, tmp_path / "b", store="memory")
    with worker(on_disk, log, gate=gate) as first:
        wait_until(lambda: progress.passed(alone), first, log)
        fault = Fault("kill", "after the rows", 5, str(late))
        with worker(in_memory, seconds_log, fault=fault, gate=gate) as second:
            wait_until(lambda: '"lanes": ["' in seconds_log.read_text(), second, seconds_log)
            gate.open_to(together)
            wait_until(lambda: progress.passed(together), second, seconds_log)
            assert stop(first) == 0
            late.touch()
            gate.open_to(NEVER)
            assert second.wait(120) == -signal.SIGKILL
    assert not progress.passed(expected.clock)
    with worker(on_disk, log) as third:
        wait_until(lambda: progress.passed(expected.clock), third, log)
        assert stop(third) == 0
    progress.close()
    assert "begin anew" not in log.read_text()
    sent = ids(read(fresh_kafka.bootstrap, "recall"))
    assert sent
    assert Counter(sent) == Counter(expected.ids)
    rows, _ = state(fresh_kafka.bootstrap)
    assert without_risk(rows) == expected.rows


@pytest.mark.kafka
def test_workers_with_names_are_restarted_in_turn_and_each_time_the_other_goes_on(fresh_kafka, playbook, tmp_path):
    """One is stopped, then the other is killed: each gets its own partitions back, and nobody takes up any anew."""
    config = settings.load(
        broker=fresh_kafka.bootstrap,
        app_id=fresh_kafka.prefix("named"),  # they stay in the group when they stop
        currency=CURRENCY,
        timezone=TIMEZONE,
        playbook=playbook,
        live_from="2025-02-01T00:00:00Z",
        horizons_days=(14,),
        clock="recorded",
    )
    records = list(simulate(users=600, days=120, seed=7))
    expected = Replayed(config, records)
    topics.create(config)
    changelog, days = changelog_of(config.app_id), config.shop().days
    progress = Progress(fresh_kafka.bootstrap, changelog)
    lay_down(fresh_kafka.bootstrap, records, days)
    both, one = ends(records, days, 3)
    gate = Gate(tmp_path / "gate", both)
    logs = {name: tmp_path / f"{name}.log" for name in ("a", "b")}

    def named(name):
        env = environment(config, fresh_kafka.bootstrap, tmp_path / name, instance_id=name, session_timeout_s=60)
        return worker(env, logs[name], gate=gate)

    def lanes(name):
        text = logs[name].read_text() if logs[name].exists() else ""
        lines = [line for line in text.splitlines() if '"lanes acquired"' in line]
        return [orjson.loads(line[line.index("{") :])["lanes"] for line in lines]

    with named("a") as first, named("b") as second:
        wait_until(lambda: lanes("a")[-1:] > [[]] and lanes("b")[-1:] > [[]], second, logs["b"])
        wait_until(lambda: not set(lanes("a")[-1]) & set(lanes("b")[-1]), first, logs["a"])
        wait_until(lambda: progress.passed(both), first, logs["a"])
        before = {name: lanes(name) for name in logs}
        assert stop(second) == 0
        applied = progress.applied()
        gate.open_to(one)
        wait_until(lambda: progress.applied() > applied, first, logs["a"])
        with named("b") as second_again:
            wait_until(lambda: len(lanes("b")) > len(before["b"]), second_again, logs["b"])
            wait_until(lambda: progress.passed(one), second_again, logs["b"])
            first.kill()
            first.wait()
            applied = progress.applied()
            gate.open_to(NEVER)
            wait_until(lambda: progress.applied() > applied, second_again, logs["b"])
            with named("a") as first_again:
                wait_until(lambda: len(lanes("a")) > len(before["a"]), first_again, logs["a"])
                wait_until(lambda: progress.passed(expected.clock), first_again, logs["a"])
                assert stop(first_again) == 0
            assert stop(second_again) == 0
    assert {name: lanes(name) for name in logs} == {name: [*each, each[-1]] for name, each in before.items()}
    progress.close()
    assert Counter(ids(read(fresh_kafka.bootstrap, "recall"))) == Counter(expected.ids)
    rows, _ = state(fresh_kafka.bootstrap, changelog)
    assert without_risk(rows) == expected.rows


@pytest.mark.kafka
def test_nobody_gets_a_stale_command_after_two_days_of_outage(fresh_kafka, playbook, tmp_path):
    """One stop, two days of input, start: what was due in between is recorded as stale, not sent.

    The commands hold for a day here, so that two days of outage outlast them.
    """
    playbook.write_text(re.sub(r"valid_days = \d+", "valid_days = 1", playbook.read_text()))
    config = settings.load(
        broker=fresh_kafka.bootstrap,
        currency=CURRENCY,
        timezone=TIMEZONE,
        playbook=playbook,
        horizons_days=(14,),
        live_from="2025-02-01T00:00:00Z",
    )
    records = list(simulate(users=400, days=122, seed=5))
    stopped_at = records[-1].recorded_at // DAY_MS * DAY_MS - 2 * DAY_MS
    started_at = records[-1].recorded_at + 60_000
    before = [record for record in records if record.recorded_at < stopped_at]
    topics.create(config.model_copy(update={"clock": "recorded"}))
    log, progress = tmp_path / "log", Progress(fresh_kafka.bootstrap)
    recorded = environment(config, fresh_kafka.bootstrap, tmp_path)
    lay_down(fresh_kafka.bootstrap, before, config.shop().days)
    with worker(recorded, log) as process:
        wait_until(lambda: progress.passed(before[-1].recorded_at), process, log)
        assert stop(process) == 0
    sent_before = set(ids(read(fresh_kafka.bootstrap, "recall")))
    lay_down(fresh_kafka.bootstrap, records[len(before) :], config.shop().days, ticks=False)
    wall = environment(config, fresh_kafka.bootstrap, tmp_path, clock="wall", tick_s=0.2)
    with worker(wall, log, wall=str(started_at)) as process:
        wait_until(lambda: progress.applied() == len(records), process, log)
        assert stop(process) == 0
    progress.close()
    decisions = [orjson.loads(message.value()) for message in read(fresh_kafka.bootstrap, "recall-decisions")]
    stale = [decision for decision in decisions if decision["reason"] == "stale"]
    assert stale
    assert all(rfc3339(stopped_at - DAY_MS) < decision["at"] < rfc3339(started_at) for decision in stale)
    for message in read(fresh_kafka.bootstrap, "recall"):
        if dict(message.headers())["ce_id"].decode() in sent_before:
            continue
        command = orjson.loads(message.value())
        assert "cancelled_at" in command or command["not_after"] >= rfc3339(started_at)


def edited(path, old, new):
    """The playbook with something said otherwise."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path
