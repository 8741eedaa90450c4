"""A replay of what the topics of a real cluster hold, beside the worker that read them."""

import json
from collections import defaultdict

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from live import Progress, environment, lay_down, read, stop, wait_until, worker
from typer.testing import CliRunner

from schemas.topics import SOURCE_TOPICS
from worker import bootstrap, cli, control, replay, settings, topics
from worker.from_kafka import Reader, TopicsHistory, held
from worker.grants import Grant
from worker.recall.days import DAY_MS
from worker.recall.playbook import load
from worker.replay import Replay
from worker.settings import DEFAULT_PLAYBOOK
from worker.simulate import CURRENCY, TIMEZONE, simulate

pytestmark = pytest.mark.kafka

COMPARED = ("recall", "recall-decisions", "tier-changes")
LIVE_FROM = "2025-02-01T00:00:00Z"


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
    topics.create(config)
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


def shown(config, out, *options):
    """Run the command as an analyst would; return what it says."""
    env = {
        f"RECALL_{name.upper()}": str(getattr(config, name))
        for name in ("broker", "app_id", "currency", "timezone", "playbook")
    } | {"RECALL_LIVE_FROM": LIVE_FROM, "RECALL_HORIZONS_DAYS": "14"}
    result = CliRunner().invoke(cli.app, ["replay", "--from-kafka", "--out", str(out), *options], env=env)
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
