"""A live worker tells how it is, and ends itself where it must; faults are scripted in the child."""

import json
import re
import signal
import time

import orjson
import pytest
from bench import DOCUMENT, POLICY, SELDOM, Bench, documented
from live import EVERY_TOPIC, PARTITIONS, stop
from prometheus_client.parser import text_string_to_metric_families

from worker import topics
from worker.stream.exits import EXIT_STALLED, EXIT_STUCK

RECOVERY_HELD = """
from pathlib import Path
from worker.stream.recovery import BatchRecovery
check_ended = BatchRecovery.check_ended
BatchRecovery.check_ended = lambda self, consumer: Path({flag!r}).exists() and check_ended(self, consumer)
"""
LANE_HANGS_IN_ITS_LOOP = """
import asyncio
from worker.stream.committer import Committer
async def hang(self, unit):
    worker.watch.watchdog.stuck_s = 2
    await asyncio.Event().wait()
Committer.add = hang
"""
LANE_HANGS_WITH_THE_LOOP = """
import time
from worker.stream.partition import Partition
def hang(self, topic, records):
    worker.watch.watchdog.stuck_s = 2
    while True:
        time.sleep(0.01)
Partition.feed = hang
"""
LANES_ARE_SLOW_TO_COME = """
import asyncio
from worker.stream.lane import Lanes
acquire = Lanes.acquire
async def slow(self, assignment):
    await asyncio.sleep(2)
    await acquire(self, assignment)
Lanes.acquire = slow
"""
LAST_COMMITS_ARE_SLOW = """
import asyncio
from worker.stream.lane import Lanes
close = Lanes.close
async def slow(self):
    await asyncio.sleep(2)
    await close(self)
Lanes.close = slow
"""


@pytest.fixture
def bench(embedded, tmp_path):
    for name, partitions in EVERY_TOPIC.items():
        embedded.create_topic(name, partitions)
    return Bench(embedded.address, tmp_path)


def test_a_worker_is_ready_when_it_has_its_rows_and_not_while_it_stops(bench, tmp_path):
    """It answers in recovery too, and tells how far that is; of users it says nothing."""
    users = bench.feed()
    flag = tmp_path / "go on"
    with bench.worker() as worker:
        bench.wait(lambda: worker.status("/ready") == 200, worker)
        bench.wait(lambda: lag(worker) == 0 and "stream_dead_letters_total" in worker.get("/metrics")[1], worker)
        assert worker.status("/live") == 200
        pages = "".join(worker.get(page)[1] for page in ("/live", "/ready", "/metrics"))
        assert not [user for user in users if user in pages]
        assert worker.status("/table/") == worker.status("/router/") == 404, "rows are nobody's business"
        assert stop(worker.process) == 0
    with bench.worker(RECOVERY_HELD.format(flag=str(flag)) + LAST_COMMITS_ARE_SLOW) as worker:
        bench.wait(lambda: re.match(r"recovering: [1-9]\d* changelog records", (worker.reasons() or [""])[0]), worker)
        assert worker.status("/ready") == 503
        assert worker.status("/live") == 200
        flag.touch()
        bench.wait(lambda: worker.status("/ready") == 200, worker)
        worker.process.send_signal(signal.SIGTERM)
        bench.wait(lambda: worker.reasons() == ["stopping"], worker)
        assert worker.status("/ready") == 503
        assert worker.process.wait(30) == 0


@pytest.mark.kafka
def test_a_worker_is_not_ready_while_another_one_joins(fresh_kafka, tmp_path):
    bench = Bench(fresh_kafka.bootstrap, tmp_path)
    topics.create(bench.config)
    bench.feed()
    with bench.worker(LANES_ARE_SLOW_TO_COME, mode="transactional") as first:
        bench.wait(lambda: first.status("/ready") == 200, first)
        with bench.worker(mode="transactional") as second:
            bench.wait(lambda: first.status("/ready") == 503, first)
            assert first.reasons()[0].startswith(("rebalancing", "recovering"))
            assert first.status("/live") == 200
            bench.wait(lambda: first.status("/ready") == second.status("/ready") == 200, second)
            partitions = [
                (lane["lane"], lane["partition"])
                for worker in (first, second)
                for lane in json.loads(worker.get("/ready")[1])["lanes"]
            ]
            assert sorted(partitions) == [*(("partition", n) for n in range(PARTITIONS)), ("trainer", 0)]
            assert stop(second.process) == 0
        assert stop(first.process) == 0


def lag(worker):
    """Return the sum over topics and partitions."""
    families = text_string_to_metric_families(worker.get("/metrics")[1])
    return sum(sample.value for family in families for sample in family.samples if sample.name == "stream_lag_records")


@pytest.mark.parametrize(
    ("script", "named"),
    [(LANE_HANGS_IN_ITS_LOOP, "partition "), (LANE_HANGS_WITH_THE_LOOP, "the fetch loop")],
    ids=["waits", "spins"],
)
def test_a_lane_that_hangs_ends_the_process(bench, script, named):
    bench.feed()
    with bench.worker(script) as worker:
        assert worker.process.wait(60) == EXIT_STUCK
    [line] = [line for line in bench.log.read_text().splitlines() if '"stuck"' in line]
    assert any(reason.startswith(named) for reason in orjson.loads(line)["reasons"])


def test_a_process_that_was_stopped_for_long_does_not_commit_in_plain_mode(bench):
    bench.feed()
    with bench.worker() as worker:
        bench.wait(lambda: worker.status("/ready") == 200, worker)
        worker.process.send_signal(signal.SIGSTOP)
        time.sleep(3.5)
        worker.process.send_signal(signal.SIGCONT)
        assert worker.process.wait(10) == EXIT_STALLED
    assert "stood still" in bench.log.read_text()


def test_a_source_is_missed_until_its_heartbeat_and_the_list_of_metrics_is_what_is_exported(bench):
    """All metrics, with their types and labels; the process's own are prometheus-client's."""
    bench.feed()
    with bench.worker(require_heartbeat="orders") as worker:
        bench.wait(lambda: "partition 3: no heartbeat yet from orders" in worker.reasons(), worker)
        assert worker.status("/ready") == 503
        assert worker.status("/live") == 200
        bench.heartbeat("2025-05-01T00:00:00Z")
        bench.wait(lambda: worker.status("/ready") == 200 and lag(worker) == 0, worker)
        text = worker.get("/metrics")[1]
        assert stop(worker.process) == 0
    exported = {}
    for family in text_string_to_metric_families(text):
        if not family.name.endswith("_created") and family.name.startswith(("stream_", "recall_")):
            labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
            name = f"{family.name}_total" if family.type == "counter" else family.name
            exported[name] = (family.type, labels)
    listed = documented()
    assert exported.keys() == listed.keys()
    # No sample, so no labels, in a small history; they are in the tests of their collectors.
    seldom = SELDOM | POLICY
    seldom |= {name for name in exported if name.startswith("recall_model_")}
    for name in exported.keys() - seldom:
        assert exported[name] == listed[name], name


def test_the_alerts_use_metrics_that_there_are():
    """Each rule of the document, by the names in its expression."""
    names = documented().keys()
    rules = DOCUMENT.read_text().split("```yaml")[1].split("```")[0]
    used = set(re.findall(r"\b(?:stream|recall)_\w+", "".join(re.findall(r"expr: (.*)", rules))))
    assert used
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in used} <= set(names)
