"""Recovery on Apache Kafka: what the worker has when it begins is what was committed, whatever became of the log."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from faust.tables.recovery import ServiceStopped
from faust.types import TP
from live import CHANGELOG, PARTITIONS, ROOT, SESSION_S

from worker import settings, topics
from worker.stream.exits import EXIT_STUCK
from worker.stream.record import PARTITION_KEY, PartitionRecord, attachment_key, pack_row
from worker.stream.recovery import BatchRecovery
from worker.stream.transport import BatchConsumer

KEYS = [b"user-%d" % n for n in range(400)]
NOTE = attachment_key(b"user-1", b"examples")
RECOVERED = """
import base64, json, os, sys
from worker import settings
from worker.app import create_app, start
app = create_app(settings.load())
store, opened = app.row_store, {}

class Watched:
    def open(self, number, changelog):
        opened[number] = partition = store.open(number, changelog)
        recover, recovered = partition.recover, partition.recovered
        def take(records):
            records = list(records)
            read[number] = read.get(number, 0) + len(records)
            recover(records)
            if sys.argv[1] == "die" and sum(read.values()) > 1000:
                os.kill(os.getpid(), 9)
        def end():
            recovered()
            done.add(number)
            if len(done) == 4:
                pairs = [(n, key, row) for n, p in opened.items() for key, row in p.rows.items()]
                rows = [[n, base64.b64encode(key).decode(), base64.b64encode(row).decode()] for n, key, row in pairs]
                store.close()
                print(json.dumps({"rows": rows, "read": sum(read.values())}), flush=True)
                os._exit(0)
        partition.recover, partition.recovered = take, end
        return partition

    release, close = store.release, store.close

read, done = {}, set()
app.row_store = Watched()
start(app)
"""


class Log:
    """Writes the changelog as a worker does, and knows what it comes to."""

    def __init__(self, bootstrap):
        self.rows = [{} for _ in range(PARTITIONS)]
        self.written = 0
        self._producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "log", "log_level": 2})
        self._producer.init_transactions(30)

    def write(self, rows, *, abort=False):
        """Write rows of every partition in a transaction; None drops one."""
        self._producer.begin_transaction()
        for partition, known in enumerate(self.rows):
            for key, row in rows.items():
                self._producer.produce(CHANGELOG, row, key, partition=partition)
                self.written += 1
                if abort:
                    continue
                if row is None:
                    known.pop(key, None)
                else:
                    known[key] = row
        self._producer.flush(30)
        self._producer.abort_transaction(30) if abort else self._producer.commit_transaction(30)


def row(text):
    return pack_row(1, 0, 50, text * 100)


def configure(bootstrap, kind, name, values):
    entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in values.items()]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    [future] = admin.incremental_alter_configs([ConfigResource(kind, name, incremental_configs=entries)]).values()
    future.result()


def records_left(bootstrap):
    """Count what a reader of committed records still finds."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "count",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 2,
        }
    )
    consumer.assign([TopicPartition(CHANGELOG, number, 0) for number in range(PARTITIONS)])
    count, ended = 0, 0
    while ended < PARTITIONS:
        message = consumer.poll(10)
        assert message is not None
        if message.error():
            ended += 1
        else:
            count += 1
    consumer.close()
    return count


@pytest.fixture
def log(fresh_kafka):
    """A changelog that is compacted within seconds."""
    config = settings.load(broker=fresh_kafka.bootstrap)
    topics.create(config)
    quick = {"segment.ms": "200", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "200"}
    configure(fresh_kafka.bootstrap, ConfigResource.Type.TOPIC, CHANGELOG, quick)
    configure(fresh_kafka.bootstrap, ConfigResource.Type.BROKER, "1", {"log.cleaner.backoff.ms": "200"})
    log = Log(fresh_kafka.bootstrap)
    for text in (b"a", b"b", b"c"):
        log.write({key: row(text) for key in KEYS} | {NOTE: b"note"})
        log.write({key: row(b"aborted") for key in KEYS}, abort=True)
        time.sleep(0.3)
    log.write(dict.fromkeys(KEYS[:100]) | {NOTE: None, PARTITION_KEY: PartitionRecord(clock=5).encode()})
    log.write({KEYS[0]: row(b"again"), KEYS[399]: row(b"last")})
    log.write({key: row(b"aborted") for key in KEYS}, abort=True)
    return log


def compacted(bootstrap, log):
    """Wait until the log holds about each key once."""
    deadline = time.monotonic() + 60
    while (left := records_left(bootstrap)) > 0.7 * 3 * PARTITIONS * len(KEYS):
        assert time.monotonic() < deadline, f"{left} of {log.written} records are left"
        log.write({KEYS[399]: row(b"roll")})  # only a closed segment is compacted
        time.sleep(0.5)


def recovered(bootstrap, datadir, store, mode="live"):
    values = {
        "broker": bootstrap, "store": store, "datadir": datadir, "dry_run": True, "web_port": 0,
        "live_from": "2025-01-01T00:00:00Z", "session_timeout_s": SESSION_S,
    }  # fmt: skip
    env = os.environ | {f"RECALL_{name.upper()}": str(value) for name, value in values.items()}
    return subprocess.run(
        [sys.executable, "-c", RECOVERED, mode], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )


def result(done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    rows = [{} for _ in range(PARTITIONS)]
    for number, key, value in said["rows"]:
        rows[number][base64.b64decode(key)] = base64.b64decode(value)
    return rows, said["read"]


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_rows_come_back_from_a_log_with_holes_aborted_records_and_markers_at_its_end(fresh_kafka, log, tmp_path):
    """As it was written, and after it was compacted; into memory and on disk, and on disk again after a kill."""
    bootstrap = fresh_kafka.bootstrap
    rows, _ = result(recovered(bootstrap, tmp_path / "memory", "memory"))
    assert rows == log.rows
    compacted(bootstrap, log)
    log.write({key: row(b"aborted") for key in KEYS}, abort=True)
    rows, read = result(recovered(bootstrap, tmp_path / "memory", "memory"))
    assert rows == log.rows
    assert read < log.written / 2
    killed = recovered(bootstrap, tmp_path / "disk", "rocksdb", "die")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    rows, _ = result(recovered(bootstrap, tmp_path / "disk", "rocksdb"))
    assert rows == log.rows
    log.write({KEYS[5]: row(b"back"), KEYS[6]: None, KEYS[200]: None})
    rows, read = result(recovered(bootstrap, tmp_path / "disk", "rocksdb"))
    assert rows == log.rows
    assert 3 * PARTITIONS <= read < 6 * PARTITIONS, "only the tail was to be read"


CHANGELOG_TP = TP(CHANGELOG, 0)


def half_read():
    """Give the recovery of ten records, of which five were applied."""
    recovery = BatchRecovery(SimpleNamespace(conf=SimpleNamespace(stream_recovery_delay=0)), SimpleNamespace())
    recovery.in_recovery = recovery._reading = True
    recovery.active_tps.add(CHANGELOG_TP)
    recovery.active_offsets[CHANGELOG_TP] = 4
    recovery.active_highwaters[CHANGELOG_TP] = 9
    return recovery


@pytest.mark.parametrize("happens", [{"flow_active": False}, {"should_stop": True}], ids=["rebalance", "stop"])
def test_what_was_fetched_and_not_applied_does_not_count_as_recovered(happens):
    """The consumer's position is past it, but a rebalance or a stop came in between."""
    recovery = half_read()

    async def getmany(**_):
        vars(consumer).update(happens)
        return {CHANGELOG_TP: ["record"]}

    tables = SimpleNamespace(recovery=recovery)
    consumer = SimpleNamespace(
        app=SimpleNamespace(rebalancing=True, consumer_generation_id=1, tables=tables),
        flow_active=True,
        should_stop=False,
        position_now=lambda _: 10,
        _get_active_partitions=lambda: {CHANGELOG_TP},
        _wanted=lambda _, rebalancing: rebalancing,
        _getmany=getmany,
    )
    assert asyncio.run(BatchConsumer._fetch(consumer)) == {}
    recovery.check_ended(consumer)
    assert recovery.in_recovery
    assert recovery.active_offsets[CHANGELOG_TP] == 4


def test_sources_fetched_before_a_rebalance_and_left_out_after_it_do_not_keep_the_recovery_from_its_end(monkeypatch):
    """The recovery has sought by then, and nobody seeks again: it would wait for ever."""
    recovery = half_read()
    ends = []
    monkeypatch.setattr(recovery, "_set_recovery_ended", lambda: ends.append("ended"))
    source = TP("source", 0)

    async def getmany(**_):
        app.consumer_generation_id, app.rebalancing = 2, True
        return {source: ["record"]}

    tables = SimpleNamespace(recovery=recovery)
    app = SimpleNamespace(rebalancing=False, consumer_generation_id=1, tables=tables)
    consumer = SimpleNamespace(
        app=app,
        flow_active=True,
        should_stop=False,
        position_now=lambda _: 10,
        _get_active_partitions=lambda: {source},
        _wanted=lambda _, rebalancing: not rebalancing,
        _getmany=getmany,
    )
    assert asyncio.run(BatchConsumer._fetch(consumer)) == {}
    recovery.check_ended(consumer)
    assert ends == ["ended"]


class Kept:
    """A store that remembers whether it was told of the end."""

    def __init__(self):
        self.told = []

    def is_open(self, _partition):
        return True

    def recovered(self, partition):
        self.told.append(partition)


@pytest.mark.parametrize(("read_to", "told"), [(4, []), (9, [0])], ids=["half", "to the end"])
def test_a_recovery_that_a_rebalance_or_a_stop_ends_early_is_not_noted_on_disk_as_complete(read_to, told):
    """Faust ends it all the same; rows on disk would pass for those of now, and outlive the tombstones they need."""
    recovery, store = half_read(), Kept()
    recovery.app.conf.consumer_max_fetch_size = 1
    recovery.app.consumer = SimpleNamespace(fetch_at_once=lambda _: None)
    recovery.tp_to_table[CHANGELOG_TP] = SimpleNamespace(data=store)
    recovery.active_offsets[CHANGELOG_TP] = read_to
    recovery._set_recovery_ended()
    assert store.told == told


def test_a_step_of_a_recovery_that_takes_too_long_ends_the_process(monkeypatch):
    """Faust takes it for a stop, and would never recover again."""
    ends = []
    monkeypatch.setattr("worker.stream.recovery.die", lambda code, event, **fields: ends.append((code, event, fields)))

    async def main():
        with pytest.raises(ServiceStopped):
            await half_read()._wait(asyncio.sleep(60), timeout=0.01)

    asyncio.run(main())
    [(code, _, fields)] = ends
    assert code == EXIT_STUCK
    assert fields["allowed_s"] == 0.01


def test_a_recovery_that_is_stopped_ends_as_it_is(monkeypatch):
    monkeypatch.setattr("worker.stream.recovery.die", lambda *_, **__: pytest.fail("ended"))

    async def main():
        recovery = half_read()
        asyncio.get_running_loop().call_soon(recovery._stopped.set)
        with pytest.raises(ServiceStopped):
            await recovery._wait(asyncio.sleep(60), timeout=5)

    asyncio.run(main())
