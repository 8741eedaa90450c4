"""The example that is not about customers: what it says of itself is what it does."""

import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from worker.stream.committer import CommitSettings
from worker.stream.connection import Connection
from worker.stream.keyed import Keyed

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "counter.py"
HOUR_MS = 60 * 60 * 1000
PROGRAM = """
import runpy, sys
example = runpy.run_path(sys.argv[1])
commits = example["CommitSettings"]("counter", example["Connection"](sys.argv[2]))
example["create_app"](commits, web_enabled=False, datadir=sys.argv[3]).run()
"""


def test_readme_shows_the_example_as_it_is():
    shown = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert shown.strip()
    assert shown.strip() in SCRIPT.read_text()


def test_timers_that_nobody_takes_are_refused_when_the_job_is_written():
    with pytest.raises(TypeError, match="Forgetful has `next_due` and no `wake`"):
        type("Forgetful", (Keyed,), {"next_due": lambda _self, _state: 5})


@pytest.mark.kafka
def test_pages_are_counted_and_quiet_ones_noticed(kafka, tmp_path):
    """The hour without a view is one of event time: a later view of another page of the partition shows it."""
    runpy.run_path(str(SCRIPT))["create_topics"](CommitSettings("counter", Connection(kafka.bootstrap)))
    start = 1_700_000_000_000
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
    for number in range(250):
        producer.produce("views", b"", b"home", timestamp=start + number, partition=0)
    producer.produce("views", b"", b"later", timestamp=start + 2 * HOUR_MS, partition=0)
    assert producer.flush(30) == 0
    command = [sys.executable, "-c", PROGRAM, str(SCRIPT), kafka.bootstrap, str(tmp_path)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            said = milestones(kafka.bootstrap, 3)
        finally:
            process.terminate()
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert said == [(b"home", b"100 views"), (b"home", b"200 views"), (b"home", b"quiet")]


def milestones(bootstrap, count, timeout_s=60):
    """Return as many milestones, as a reader of what is committed sees them."""
    options = {"group.id": "reader", "isolation.level": "read_committed", "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": bootstrap, "log_level": 2, **options})
    consumer.subscribe(["milestones"])
    found, deadline = [], time.monotonic() + timeout_s
    try:
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and not message.error():
                found.append((message.key(), message.value()))
    finally:
        consumer.close()
    return found
