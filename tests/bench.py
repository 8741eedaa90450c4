"""A broker with a small history, workers on it, and what their pages say."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import orjson
from confluent_kafka import Producer
from live import PARTITIONS, ROOT, environment, lay_down, wait_until

from worker import settings
from worker.simulate import CURRENCY, TIMEZONE, simulate

DOCUMENT = ROOT / "docs" / "metrics.md"
POLICY = {
    "recall_approved",
    "recall_budget_granted",
    "recall_budget_spent",
    "recall_canary_share",
    "recall_cost_total",
    "recall_feedback_alarm",
    "recall_held_total",
    "recall_outcomes_total",
    "recall_people_capacity",
    "recall_people_used",
    "recall_proposals_total",
    "recall_stopped",
    "recall_subsidised_alarm",
    "recall_subsidised_share",
    "recall_unheard_touches",
}
"""Metrics of `PolicyCollector`."""
SELDOM = {"recall_commands_total", "recall_episodes_ended_total", "recall_feedback_total"}
"""Those of `CustomersCollector` that a small history may have no sample of."""
START = """
from worker import app, settings
worker = app.create_app(settings.load())
{script}
app.start(worker)
"""


class Worker:
    """A worker of a script of its own, and its pages."""

    def __init__(self, process, port):
        self.process = process
        self.port = port

    def get(self, page, **headers):
        """Return status and body; status 0 while nobody answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{page}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, "{}"

    def status(self, page):
        return self.get(page)[0]

    def reasons(self):
        """Why it is not ready."""
        return json.loads(self.get("/ready")[1]).get("reasons", [])


class Bench:
    """A broker with a small history, and workers on it."""

    def __init__(self, address, folder):
        self.log = folder / "log"
        self._folder = folder
        self._broker = address
        self.config = settings.load(
            broker=address, currency=CURRENCY, timezone=TIMEZONE, live_from="2025-02-01T00:00:00Z", horizons_days=(14,)
        )

    def feed(self):
        """Lay down the history; return the ids of the users in it."""
        records = list(simulate(users=40, days=90, seed=1))
        lay_down(self._broker, records, self.config.shop().days)
        return {record.key.decode() for record in records if record.topic != "catalog"}

    def heartbeat(self, at):
        """Have the orders' source give a sign of life on every partition."""
        producer = Producer({"bootstrap.servers": self._broker, "log_level": 2})
        for number in range(PARTITIONS):
            value = orjson.dumps({"kind": "heartbeat", "source": "orders", "at": at})
            producer.produce("control", value, partition=number)
        assert producer.flush(10) == 0

    @contextlib.contextmanager
    def worker(self, script="", **extra):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        extra = {"mode": "plain", "session_timeout_s": 6, "web_port": port} | extra
        env = environment(self.config, self._broker, self._folder, **extra)
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", START.format(script=script)],
                env=env,
                cwd=ROOT,
                stdout=out,
                stderr=out,
            )
            try:
                yield Worker(process, port)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def wait(self, condition, worker, timeout_s=60):
        wait_until(condition, worker.process, self.log, timeout_s)


def documented():
    """Return the metrics of the document: name to type and labels."""
    row = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
    return {
        name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in row.findall(DOCUMENT.read_text())
    }
