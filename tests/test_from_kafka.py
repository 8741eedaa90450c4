"""A replay of what the topics of a real cluster hold, beside the worker that read them."""

import json
from collections import defaultdict

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from live import Progress, environment, lay_down, make_topics, read, stop, wait_until, worker
from typer.testing import CliRunner

from schemas.topics import SOURCE_TOPICS
from schemas.values import rfc3339
from worker import bootstrap, cli, control, replay, settings, topics
from worker.from_kafka import Reader, TopicsHeldError, TopicsHistory, held
from worker.grants import Grant
from worker.recall.days import DAY_MS, HOUR_MS
from worker.recall.playbook import load
from worker.replay import Replay, by_topic
from worker.settings import DEFAULT_PLAYBOOK
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources.source import track

pytestmark = pytest.mark.kafka

COMPARED = ("recall", "recall-decisions", "tier-changes")
LIVE_FROM = "2025-02-01T00:00:00Z"
START = 1_767_607_200_000  # 2026-01-05T10:00:00Z, a Monday


@pytest.fixture
def playbook(tmp_path):
    """The default playbook, for histories that say nothing of consent."""
    path = tmp_path / "playbook.toml"
    path.write_text(DEFAULT_PLAYBOOK.read_text().replace('unknown = "deny"', 'unknown = "allow"'))
    assert load(path).consent.unknown == "allow"
    return path


@pytest.fixture
def config(fresh_kafka, playbook):
    config = settings.load(
        broker=fresh_kafka.bootstrap,
        app_id=fresh_kafka.prefix("replayed"),
        currency=CURRENCY,
        timezone=TIMEZONE,
        playbook=playbook,
        live_from=LIVE_FROM,
        horizons_days=(14,),
        clock="recorded",
    )
    make_topics(config)
    return config


class Replayed:
    """A replay of the topics, and what came out, by topic, partition and user, in its order.

    How the users' records follow each other is a matter of where the worker cut its work.
    """

    def __init__(self, config):
        self.outputs = {topic: defaultdict(list) for topic in COMPARED}
        self.run = Replay(config, self._emit)
        with Reader(config) as reader:
            self.there = held(reader)
            history = TopicsHistory(reader, self.there)
            self.run.models.update(history.models())
            self.run.follow(history)
        self.count = history.count

    def _emit(self, number, output):
        if output.topic in COMPARED:
            headers = [(name, bytes(value)) for name, value in output.headers]
            self.outputs[output.topic][number, output.key].append((output.value, headers))


def put_out(config, topic):
    """Return what a worker wrote on a topic, by partition and user."""
    found = defaultdict(list)
    for message in read(config.broker, topic):
        found[message.partition(), message.key()].append((message.value(), message.headers() or []))
    return found


def traces(config):
    """Return what the group has committed, and where each topic ends."""
    with Reader(config) as reader:
        ends = {
            (topic, n): reader.span((topic, n))
            for topic, count in reader.partitions().items()
            if not topic.startswith("__")
            for n in range(count)
        }
    admin = AdminClient({"bootstrap.servers": config.broker, "log_level": 2})
    groups = {group.group_id for group in admin.list_consumer_groups().result().valid}
    committed = committed_by(config)
    return ends, groups, committed


def committed_by(config):
    reader = Consumer({"bootstrap.servers": config.broker, "group.id": config.app_id, "log_level": 2})
    try:
        places = [TopicPartition(topic, n) for topic in SOURCE_TOPICS for n in range(config.partitions)]
        return {(place.topic, place.partition): place.offset for place in reader.committed(places, timeout=10)}
    finally:
        reader.close()


def adopted(config):
    """Tell whether every partition has been told to adopt a snapshot."""
    there = {message.partition() for message in read(config.broker, "control") if b"adopt_snapshot" in message.value()}
    return len(there) == config.partitions


def run(config, out, *options, **more):
    """Run the command as an analyst would, with the worker's settings."""
    shop = {name: getattr(config, name) for name in ("broker", "app_id", "currency", "timezone", "playbook")}
    given = shop | {"live_from": LIVE_FROM, "horizons_days": "14", **more}
    env = {f"RECALL_{name.upper()}": str(value) for name, value in given.items()}
    return CliRunner().invoke(cli.app, ["replay", "--from-kafka", "--out", str(out), *options], env=env)


def shown(config, out, *options, **more):
    """Return what the command says."""
    result = run(config, out, *options, **more)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    return result.output


def halves(config):
    """Cut a simulated shop at a midnight that no late record crosses: then arrival settles no order."""
    records = list(simulate(users=700, days=130, seed=7))
    days, parse = config.shop().days, bootstrap.customers(config, {}).parse
    midnight = next(replay.midnights(records[0].recorded_at + 80 * DAY_MS, days))
    before = [record for record in records if record.recorded_at < midnight]

    def is_late(record):
        if record.topic == "catalog":
            return False
        at, _ = parse(record.topic, record.key, record.value, record.recorded_at)
        return at is None or at <= midnight

    after = [record for record in records if record.recorded_at > midnight and not is_late(record)]
    return before, after, midnight


@pytest.mark.timeout(300)
def test_what_a_worker_put_out_comes_out_again_byte_for_byte(config, tmp_path):
    """Ticks, a grant, what the trainer adopted in between: all that steered the worker steers the replay."""
    before, after, midnight = halves(config)
    progress, log = Progress(config.broker, topics.changelog_of(config.app_id)), tmp_path / "log"
    env = environment(config, config.broker, tmp_path)
    control.write(config, Grant.of("daily=500").records(before[0].recorded_at, config.currency, config.partitions))
    lay_down(config.broker, before, config.shop().days)
    with worker(env, log) as process:
        wait_until(lambda: progress.passed(midnight), process, log)
        wait_until(lambda: adopted(config), process, log)
        assert stop(process) == 0
    end = lay_down(config.broker, after, config.shop().days)
    with worker(env, log) as process:
        wait_until(lambda: progress.passed(end), process, log)
        assert stop(process) == 0
    progress.close()
    sent = {topic: put_out(config, topic) for topic in COMPARED}
    decisions = [json.loads(value) for of in sent["recall-decisions"].values() for value, _ in of]
    assert {decision["versions"]["snapshot"] for decision in decisions} > {None}

    found = traces(config)
    replayed = Replayed(config)
    assert traces(config) == found
    assert replayed.outputs == sent
    assert all(sum(map(len, of.values())) > 20 for of in sent.values())

    since = "2025-04-15T00:00:00Z"
    told = shown(config, tmp_path / "out", "--since", since)
    assert traces(config) == found
    assert "since 2025-04-15" in " ".join(told.split())
    for topic, times in {
        "recall": ("issued_at", "cancelled_at"),
        "recall-decisions": ("at",),
        "tier-changes": ("at",),
    }.items():
        wanted = [
            json.loads(value)
            for of in sent[topic].values()
            for value, _ in of
            if any(json.loads(value).get(name, "") >= since for name in times)
        ]
        lines = (tmp_path / "out" / f"{topic}.jsonl").read_text().splitlines()
        written = [json.loads(line)["value"] for line in lines]
        assert wanted
        assert sorted(map(json.dumps, written)) == sorted(map(json.dumps, wanted))


# -- what the topics hold ----------------------------------------------------------------------------------------------


def order(user, at, number):
    properties = {"order_id": f"{user}-{number}", "revenue": "60.00", "currency": CURRENCY}
    return track("orders", f"m{number}", user=user, at=at, event="Order Completed", properties=properties)


def test_what_is_aborted_or_still_open_is_not_read(config):
    """As the worker reads: up to the last stable offset."""
    producer = Producer(
        {"bootstrap.servers": config.broker, "transactional.id": f"{config.app_id}-shop", "log_level": 2}
    )
    producer.init_transactions(30)

    def produce(number, end):
        record = order("user-1", START + number * DAY_MS, number)
        producer.begin_transaction()
        producer.produce("orders", record.value, record.key, partition=0, timestamp=record.recorded_at)
        assert producer.flush(30) == 0
        end()

    produce(0, producer.commit_transaction)
    produce(1, producer.abort_transaction)
    produce(2, producer.commit_transaction)
    produce(3, lambda: None)
    seen = []
    with Reader(config) as reader:
        there = held(reader)
        chunks = reader.chunks(("orders", 0), there.spans["orders", 0], lambda _: None)
        seen = [json.loads(record.value)["messageId"] for chunk in chunks for record in chunk]
    producer.abort_transaction(30)
    assert seen == ["m0", "m2"]


def test_what_comes_while_it_reads_is_left_for_the_next_time(config):
    producer = Producer({"bootstrap.servers": config.broker, "log_level": 2})

    def produce(numbers):
        for number in numbers:
            record = order("user-1", START + number * HOUR_MS, number)
            producer.produce("orders", record.value, record.key, partition=0, timestamp=record.recorded_at)
        assert producer.flush(30) == 0

    produce(range(50))
    with Reader(config) as reader:
        there = held(reader)
        produce(range(50, 60))
        history = TopicsHistory(reader, there)
        [records] = history.read("orders", 0).values()
        assert len(records) == 50
        assert history.read("orders", 0) == {0: None}


def test_without_control_the_replay_ticks_as_over_a_file(config):
    """Before the first start: the topics are filled, and no worker has written the time."""
    records = [order(f"user-{n}", START + day * DAY_MS, day) for day in (0, 3, 9) for n in range(5)]
    lay_down(config.broker, records, config.shop().days, ticks=False)
    from_topics, from_file = Replayed(config), Replay(config, lambda *_: None)
    from_file.run(by_topic(records))
    assert [p.clock for p in from_topics.run.partitions] == [p.clock for p in from_file.partitions]
    assert dict(from_topics.run.rows()) == dict(from_file.rows())


def test_a_topic_whose_beginning_is_deleted_is_named(config, tmp_path):
    records = [order("user-1", START + n * HOUR_MS, n) for n in range(20)]
    lay_down(config.broker, records, config.shop().days)
    [number] = {message.partition() for message in read(config.broker, "orders")}
    admin = AdminClient({"bootstrap.servers": config.broker, "log_level": 2})
    for future in admin.delete_records([TopicPartition("orders", number, 7)]).values():
        future.result()
    told = " ".join(shown(config, tmp_path / "out").split())
    assert "warning: topic orders: its first 7 records are deleted" in told
    assert told.count("warning") == 1


def test_topics_of_different_numbers_are_refused_with_each(fresh_kafka):
    config = settings.load(broker=fresh_kafka.bootstrap)
    counts = dict.fromkeys(SOURCE_TOPICS, 2) | {"cart": 3, "catalog": 1, "churn-model": 1}
    fresh_kafka.create_topics(counts)
    with Reader(config) as reader, pytest.raises(TopicsHeldError, match=r"orders 2, cart 3, .*: allowed is one number"):
        held(reader)


def test_topics_that_are_missing_are_all_named(fresh_kafka):
    config = settings.load(broker=fresh_kafka.bootstrap)
    fresh_kafka.create_topics(dict.fromkeys(("orders", "cart", "clickstream", "control", "churn-model"), 1))
    with (
        Reader(config) as reader,
        pytest.raises(TopicsHeldError, match="profiles, feedback, catalog: not there"),
    ):
        held(reader)


def test_the_topics_number_of_partitions_holds_and_another_one_is_refused(config, tmp_path):
    lay_down(config.broker, [order("user-1", START, 0)], config.shop().days)
    told = shown(config, tmp_path / "out", partitions=16)
    assert f"in {config.partitions} partitions" in told
    refused = run(config, tmp_path / "other", "--partitions", "16")
    assert refused.exit_code == cli.WRONG
    assert f"partitions = 16: allowed is {config.partitions}, as the topics have" in refused.output


def test_a_snapshot_that_is_adopted_and_gone_is_named(config):
    adoption = {"kind": "adopt_snapshot", "effective_at": rfc3339(START + DAY_MS), "horizon_days": 14, "version": 3}
    lay_down(config.broker, [order("user-1", START, 0), order("user-1", START + 5 * DAY_MS, 1)], config.shop().days)
    control.everywhere(config, adoption)
    with pytest.raises(ValueError, match="the history adopts what was not given: snapshot 14/3"):
        Replayed(config)


@pytest.mark.parametrize("options", [[], ["history.jsonl", "--from-kafka"]])
def test_files_and_topics_at_once_or_neither_are_refused(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "history.jsonl").touch()
    refused = CliRunner().invoke(cli.app, ["replay", *options])
    assert refused.exit_code == cli.WRONG
    assert "allowed is either FILE, one or several, or --from-kafka" in refused.output


def test_an_analyst_needs_no_right_but_to_read(secured):
    """Over TLS and SCRAM; not even the group that the client names is to be allowed."""
    analyst, password = "analyst", "analyst-password"
    operator = settings.load(broker=secured.bootstrap, partitions=2, clock="recorded")
    make_topics(operator)
    lay_down(secured.bootstrap, [order("user-1", START, 0)], operator.shop().days, partitions=2)
    secured.add_user(analyst, password)
    config = settings.load(
        broker=secured.sasl,
        partitions=2,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username=analyst,
        sasl_password=password,
        ssl_cafile=secured.cafile,
    )
    with Reader(config) as reader, pytest.raises(TopicsHeldError, match="not there, or not to be read by this user"):
        held(reader)
    names = (*SOURCE_TOPICS, "catalog", "churn-model")
    secured.allow(f"User:{analyst}", [topics.Grant("topic", name, ("read",)) for name in names])
    replayed = Replayed(config)
    assert replayed.count == 1 + config.partitions  # and a tick for each
