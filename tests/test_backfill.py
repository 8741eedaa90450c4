"""A history written onto a real cluster's topics: what is refused, what is warned of, what a worker makes of it."""

import time
from collections import Counter

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from live import EVERY_TOPIC, Progress, Replayed, environment, ids, read, stop, wait_until, worker
from typer.testing import CliRunner

from schemas.topics import SOURCE_TOPICS, TOPICS
from schemas.values import rfc3339
from worker import backfill, cli, control, demo, replay, settings, topics
from worker.backfill import BackfillError, Given
from worker.from_kafka import Reader
from worker.partitioner import Partitioner
from worker.recall.days import DAY_MS, HOUR_MS, Days
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources import history
from worker.sources.history import HistoryRecord
from worker.sources.source import track
from worker.stream.record import PARTITION_KEY
from worker.stream.topics import changelog_of

pytestmark = pytest.mark.kafka

START = 1_767_607_200_000  # 2026-01-05T10:00:00Z, a Monday


def configured(kafka, **given):
    return settings.load(
        broker=kafka.bootstrap,
        app_id=kafka.prefix("filled"),
        **{"currency": "EUR", "playbook": demo.PLAYBOOK, "live_from": "2026-03-01T00:00:00Z", **given},
    )


def made(config):
    """Make the topics, and wait until each partition has a leader."""
    topics.create(config)
    with Reader(config) as reader:
        for topic, partitions in EVERY_TOPIC.items():
            if topic in TOPICS:
                for n in range(partitions):
                    reader.span((topic, n))
    return config


@pytest.fixture
def config(fresh_kafka):
    return made(configured(fresh_kafka))


def order(user, at, number, **more):
    properties = {"order_id": f"{user}-{number}", "revenue": "60.00", "currency": "EUR"}
    return track("orders", f"m{number}", user=user, at=at, event="Order Completed", properties=properties, **more)


def orders(days=(0, 2, 5)):
    return [order(f"user-{n}", START + day * DAY_MS, day) for day in days for n in range(6)]


def fill(config, records):
    given = Given(records)
    return backfill.fill(config, backfill.plan(config, given), given)


def set_config(config, topic, **options):
    """Set options of a topic, each named with _ for a dot."""
    entries = [
        ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
        for name, value in options.items()
    ]
    admin = AdminClient({"bootstrap.servers": config.broker, "log_level": 2})
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def produce(config, topic, value, key=None):
    producer = Producer({"bootstrap.servers": config.broker, "log_level": 2})
    producer.produce(topic, value, key, partition=0)
    assert producer.flush(10) == 0


def refusal(config, records=None):
    """Return why a history is refused, having seen that nothing was written."""
    before = held(config)
    given = Given(orders() if records is None else records)
    with pytest.raises(BackfillError) as refused:
        backfill.fill(config, backfill.plan(config, given), given)
    assert held(config) == before
    return str(refused.value)


def held(config):
    return Counter({topic: len(read(config.broker, topic, config.partitions)) for topic in (*SOURCE_TOPICS,)})


def test_each_record_lies_where_its_key_belongs_and_each_midnight_has_its_tick(config):
    records = orders()
    done = fill(config, records)
    partitions = Partitioner(config.partitions)
    found = read(config.broker, "orders")
    assert {(m.partition(), m.key(), m.value()) for m in found} == {
        (partitions.of(record.key), record.key, record.value) for record in records
    }
    midnights = [rfc3339(at) for at, _ in zip(replay.midnights(START, Days("UTC")), range(6), strict=False)]
    for n in range(config.partitions):
        ticks = [orjson.loads(m.value())["at"] for m in read(config.broker, "control") if m.partition() == n]
        assert ticks == midnights
    assert done.records == len(records) + config.partitions * len(midnights)


def test_no_tick_comes_at_live_from_or_later(fresh_kafka):
    """The midnight that closes the history may lie after the launch: it would be past before its time."""
    config = configured(fresh_kafka, live_from=rfc3339(START + 5 * DAY_MS + HOUR_MS))
    made(config)
    fill(config, orders())
    ticks = {orjson.loads(m.value())["at"] for m in read(config.broker, "control")}
    assert max(ticks) == rfc3339(next(replay.midnights(START + 4 * DAY_MS, Days("UTC"))))


def test_control_of_the_history_goes_where_it_names_and_brings_the_only_ticks(config):
    beats = [
        HistoryRecord(
            "control", key, START, orjson.dumps({"kind": "heartbeat", "source": "orders", "at": rfc3339(START)})
        )
        for key in (b"2", b"")
    ]
    fill(config, [*orders(), *beats])
    assert Counter(m.partition() for m in read(config.broker, "control")) == {0: 1, 1: 1, 2: 2, 3: 1}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_without_live_from_nothing_is_written(fresh_kafka):
    config = configured(fresh_kafka, live_from=None)
    made(config)
    assert "live_from is not set: allowed is the time" in refusal(config)


def test_a_history_that_reaches_live_from_is_refused_by_either_time(fresh_kafka):
    config = configured(fresh_kafka, live_from=rfc3339(START + 5 * DAY_MS))
    made(config)
    told = refusal(config)
    assert "6 records of the history are of that time or later, the last of orders at 2026-01-10T10:00" in told
    ahead = order("user-1", START + 5 * DAY_MS + 60_000, 9)._replace(recorded_at=START + 5 * DAY_MS - 60_000)
    assert "1 records of the history" in refusal(config, [ahead])


def test_an_empty_history_is_refused(config):
    assert "holds no record" in refusal(config, [])


def test_a_second_run_and_an_interrupted_one_are_refused(config):
    fill(config, orders())
    told = refusal(config)
    assert "topic orders holds 18 records already" in told
    assert "topic control holds 24 records already (tick 24): a worker has written the time" in told
    assert "make it anew" in told


def test_what_an_operator_wrote_beforehand_is_refused_by_its_kind(config):
    control.stop(config)
    told = refusal(config)
    assert f"topic control holds {config.partitions} records already (stop {config.partitions})" in told


def test_topics_that_are_missing_or_of_another_number_are_named(fresh_kafka):
    config = configured(fresh_kafka)
    fresh_kafka.create_topics({"orders": 3, **dict.fromkeys(("profiles", "cart", "clickstream", "control"), 4)})
    with pytest.raises(BackfillError) as refused:
        backfill.plan(config, Given(orders()))
    told = str(refused.value)
    assert "topic orders has 3 partitions: allowed is 4, as RECALL_PARTITIONS says" in told
    assert "topic feedback is not there" in told
    assert "topic catalog is not there" in told


def test_a_group_that_has_read_a_topic_is_named_with_its_place(config):
    reader = Consumer({"bootstrap.servers": config.broker, "group.id": config.app_id, "log_level": 2})
    reader.commit(offsets=[TopicPartition("cart", 1, 7)], asynchronous=False)
    reader.close()
    assert f"group {config.app_id} has read cart[1] at 7" in refusal(config)


def test_a_changelog_with_rows_is_refused(config):
    produce(config, changelog_of(config.app_id), b"row", PARTITION_KEY)
    assert f"topic {changelog_of(config.app_id)} holds rows: a worker has run" in refusal(config)


def test_a_broker_that_takes_no_records_so_old_is_found_out_beforehand(fresh_kafka):
    config = configured(fresh_kafka, clock="recorded")
    made(config)
    set_config(config, "orders", message_timestamp_before_max_ms=DAY_MS)
    assert f"topic orders: message.timestamp.before.max.ms = {DAY_MS}: the broker refuses" in refusal(config)


# -- what is warned of -------------------------------------------------------------------------------------------------


def warnings(config, records=None):
    return "\n".join(backfill.plan(config, Given(orders() if records is None else records)).warnings)


def test_topics_as_we_make_them_are_warned_of_by_nothing(config):
    assert warnings(config) == ""


def test_old_times_of_their_own_are_warned_of_where_the_topic_would_delete_them(fresh_kafka):
    now = time.time_ns() // 1_000_000
    config = configured(fresh_kafka, clock="recorded", live_from=rfc3339(now))
    made(config)
    set_config(config, "orders", retention_ms=7 * DAY_MS)
    ages = (30, 20, 3)
    records = [order("user-1", now - age * DAY_MS, age) for age in ages]
    told = warnings(config, records)
    assert "topic orders: message.timestamp.type = CreateTime and retention.ms = 604800000 (7 days): 2 of 3" in told


def test_the_brokers_times_age_from_now_and_the_end_is_told(config):
    set_config(config, "orders", retention_ms=7 * DAY_MS)
    told = warnings(config)
    assert "topic orders: retention.ms = 604800000 (7 days), counted from now, so until 20" in told
    assert f"set retention.ms = {400 * DAY_MS} or more" in told


def test_size_and_compaction_are_warned_of(config):
    set_config(config, "orders", retention_bytes=100)
    set_config(config, "profiles", cleanup_policy="compact")
    consent = HistoryRecord("profiles", b"user-1", START, b"{}")
    told = warnings(config, [*orders(), consent])
    assert "topic orders: retention.bytes = 100: a partition gets about" in told
    assert "topic profiles: cleanup.policy holds compact" in told


def test_a_clock_that_was_ahead_is_left_out_where_the_worker_could_not_see_it(fresh_kafka, config):
    """The broker's own time is now: beside it a time of last year is never ahead."""
    wrong = order("user-1", START + 3 * DAY_MS, 9)._replace(recorded_at=START)
    plan = backfill.plan(config, Given([*orders(), wrong]))
    assert (plan.records, plan.ahead, plan.refused) == (18, 1, {})
    fill(config, [*orders(), wrong])
    assert len(read(config.broker, "orders")) == 18

    fresh_kafka.drop_topics(SOURCE_TOPICS)
    keeps = config.model_copy(update={"clock": "recorded"})
    made(keeps)
    plan = backfill.plan(keeps, Given([*orders(), wrong]))
    assert (plan.records, plan.ahead, plan.refused) == (19, 0, {"ahead of broker": 1})


# -- the command, and the worker after it ------------------------------------------------------------------------------


def command(config, *arguments, **more):
    shop = {name: getattr(config, name) for name in ("broker", "app_id", "currency", "timezone", "playbook", "salt")}
    given = shop | {"live_from": config.live_from.isoformat(), **more}
    env = {f"RECALL_{name.upper()}": str(value) for name, value in given.items()}
    result = CliRunner().invoke(cli.app, ["backfill", *map(str, arguments)], env=env, input="n\n")
    if result.exit_code != cli.WRONG:  # what is wrong is left to the terminal to break
        assert max(map(len, result.output.splitlines())) <= 80, result.output
    return result


def test_what_is_warned_of_is_asked_about_before_anything_is_written(config, tmp_path):
    path = tmp_path / "history.jsonl"
    history.write(path, orders())
    set_config(config, "orders", retention_ms=7 * DAY_MS)
    asked = command(config, path)
    assert asked.exit_code == 1
    assert "warning: topic orders: retention.ms" in " ".join(asked.output.split())
    assert read(config.broker, "orders") == []
    written = command(config, path, "--yes")
    assert written.exit_code == 0, written.output
    assert "a second" in written.output
    assert "Next: recall worker" in written.output
    assert len(read(config.broker, "orders")) == 18
    again = command(config, path, "--yes")
    assert again.exit_code == 2
    assert "holds 18 records already" in " ".join(again.output.split())


@pytest.mark.timeout(300)
def test_a_worker_after_a_backfill_does_what_the_replay_of_the_file_does(fresh_kafka, tmp_path):
    """The broker's own times, and the wall's ticks after the history: nobody is messaged about the past."""
    records = list(simulate(users=150, days=100, seed=3))
    config = configured(
        fresh_kafka,
        currency=CURRENCY,
        timezone=TIMEZONE,
        horizons_days=(14,),
        live_from=rfc3339(records[-1].recorded_at + DAY_MS),
    )
    expected = Replayed(config, records)
    made(config)
    fill(config, records)
    log, progress = tmp_path / "log", Progress(fresh_kafka.bootstrap, changelog_of(config.app_id))
    # Live from the history's end on: the wall stands there.
    wall = records[-1].recorded_at + HOUR_MS
    with worker(
        environment(config, fresh_kafka.bootstrap, tmp_path, clock="wall", tick_s=0.2), log, wall=str(wall)
    ) as process:
        wait_until(lambda: progress.passed(wall), process, log)
        assert stop(process) == 0
    progress.close()
    assert ids(read(fresh_kafka.bootstrap, "recall")) == []
    reasons = Counter(orjson.loads(m.value())["reason"] for m in read(fresh_kafka.bootstrap, "recall-decisions"))
    assert reasons["before launch"] > 0
    assert expected.ids == []
