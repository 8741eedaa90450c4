"""The policy's main scenarios through a live worker: a small shop on Kafka, its operator's commands, its CRM.

Time is the story's: everybody's clock stands still until it is moved on. So what comes of it is known to the
millisecond, and the replay of what the topics hold has to say the same.
"""

import contextlib
import datetime as dt
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from types import SimpleNamespace

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from customers import later, ms, track
from live import PARTITIONS, ROOT, Progress, Tail, environment, read, stop, wait_until, worker
from points import Fault
from typer.testing import CliRunner

from schemas.topics import SOURCE_TOPICS
from schemas.values import rfc3339
from worker import asking, cli, control, settings, topics
from worker.partitioner import Partitioner
from worker.recall.playbook import load
from worker.recall.policy.holdout import CONTROL, TREATED, Holdout, uniform
from worker.recall.shop import InForce
from worker.recall.wire import TOPIC_OF
from worker.replay import Replay, by_topic
from worker.settings import DEFAULT_PLAYBOOK
from worker.sources.history import HistoryRecord

pytestmark = pytest.mark.kafka

TOKEN = "a-token-for-the-test"
CHANNELS = ("in_app", "push", "email", "sms", "human")
SENT_TO_CRM = "recall"
COMPARED = ("recall", "recall-decisions", "tier-changes")
CRM = """
import datetime, pathlib, runpy, sys
import confluent_kafka

def now_ms():
    return int(pathlib.Path({clock!r}).read_text())

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(now_ms() / 1000, tz)

class Producer(confluent_kafka.Producer):
    def produce(self, *args, **kwargs):
        super().produce(*args, timestamp=now_ms(), **kwargs)

datetime.datetime, confluent_kafka.Producer = Clock, Producer
sys.argv = ["crm.py", *{arguments!r}]
runpy.run_path({crm!r}, run_name="__main__")
"""


def utc(date):
    return dt.datetime.fromtimestamp(ms(date) / 1000, dt.UTC)


def user(name, *, arm=TREATED, canary=None):
    """Return the id of a user who is, or is not, held out, and, where it matters, in the canary of a playbook."""
    book = load(DEFAULT_PLAYBOOK)
    holdout = Holdout("salt", book.holdout.share, book.holdout.epoch_days)
    day = utc("2025-04-04").toordinal() - dt.date(1970, 1, 1).toordinal()
    for n in range(1000):
        found = f"{name}-{n}"
        if holdout.arm(found.encode(), day) != arm:
            continue
        if canary is None:
            return found
        version, inside = canary
        if (uniform("salt", b"canary", version.encode(), found.encode()) < 0.5) == inside:
            return found
    raise AssertionError(f"no such {name}")


class Story:
    """A shop on Kafka; what is written bears the story's time."""

    def __init__(self, config, folder, monkeypatch):
        self.config, self.folder, self.log = config, folder, folder / "log"
        self.clock = folder / "clock"
        self.process = None
        self.now = 0
        self._messages = 0
        self._producer = Producer({"bootstrap.servers": config.broker, "log_level": 2, "enable.idempotence": True})
        self._partitioner = Partitioner(PARTITIONS)
        self._ends = Consumer({"bootstrap.servers": config.broker, "group.id": "ends", "log_level": 2})
        self.progress = Progress(config.broker)
        self.tails = {topic: Tail(config.broker, topic) for topic in ("recall", "recall-decisions", "feedback")}
        wall = SimpleNamespace(time_ns=lambda: self.now * 1_000_000, monotonic=time.monotonic)
        monkeypatch.setattr(control, "time", wall)
        monkeypatch.setattr(asking, "time", wall)

    def close(self):
        for tail in self.tails.values():
            tail.close()
        self.progress.close()
        self._ends.close()

    # -- what happens --------------------------------------------------------------------------------------------------

    def move_to(self, date):
        """Move everybody's clock, but for the worker's, who goes by what it reads."""
        assert ms(date) >= self.now
        self.now = ms(date)
        written = self.clock.with_suffix(".new")
        written.write_text(str(self.now))
        written.rename(self.clock)

    def does(self, who, event, **properties):
        record = track(who, self.now, event, message=self._message(), **properties)
        self.write(TOPIC_OF[event], who, record)

    def views(self, who):
        self.does(who, "Product Viewed", product_id="p1", category="shoes", price=20)

    def orders(self, who, revenue):
        products = [{"product_id": "p1", "category": "shoes"}]
        order = f"order {who} {self.now}"
        self.does(who, "Order Completed", order_id=order, revenue=revenue, currency="EUR", products=products)

    def says(self, who, **fields):
        record = {"type": "profile", "messageId": self._message(), "userId": who, "timestamp": rfc3339(self.now)}
        self.write("profiles", who, record | fields)

    def prices(self, product, price, **fields):
        record = {"product_id": product, "effective_at": rfc3339(self.now), "price": price, "category": "shoes"}
        self.write("catalog", product, record | fields)

    def tick(self, date):
        """Let the worker know what time it is, and wait until it has done all that was due."""
        self.move_to(date)
        for number in range(PARTITIONS):
            self._produce("control", number, None, {"kind": "tick", "at": rfc3339(self.now)})
        self.settle()

    def write(self, topic, key, value):
        number = 0 if topic == "catalog" else self._partitioner.of(key.encode())
        self._produce(topic, number, key, value)

    def _produce(self, topic, number, key, value):
        self._producer.produce(topic, orjson.dumps(value), key, partition=number, timestamp=self.now)
        self._producer.poll(0)

    def _message(self):
        self._messages += 1
        return f"message {self._messages}"

    def settle(self):
        """Wait until the worker has committed all that lies on its topics."""
        assert self._producer.flush(30) == 0
        if self.process is None:
            return
        ends = {
            (topic, number): self._ends.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
            for topic in SOURCE_TOPICS
            for number in range(PARTITIONS)
        }
        wait_until(lambda: self.has_read(ends), self.process, self.log)
        for tail in self.tails.values():
            tail.poll(0.05)

    def has_read(self, ends):
        self.progress.clocks()
        records = self.progress._records
        return all(
            number in records and records[number].offsets.get(topic, 0) >= end
            for (topic, number), end in ends.items()
            if end
        )

    # -- who else is there ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def worker(self, fault=None, **extra):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        env = environment(self.config, self.config.broker, self.folder, web_port=self.port, **extra)
        with worker(env, self.log, fault=fault) as process:
            self.process = process
            try:
                yield process
            finally:
                self.process = None

    @contextlib.contextmanager
    def crm(self):
        """Run the example of a CRM by the story's clock."""
        arguments = ["--broker", self.config.broker, "--respond", "0", "--inbox", str(self.folder / "crm.sqlite")]
        program = CRM.format(clock=str(self.clock), arguments=arguments, crm=str(ROOT / "scripts" / "crm.py"))
        with (self.folder / "crm.log").open("wb") as out:
            process = subprocess.Popen([sys.executable, "-u", "-c", program], stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def crm_answers(self, crm):
        """Wait until the CRM has told of every command, and the worker has heard of it."""

        def told():
            for tail in self.tails.values():
                tail.poll(0.02)
            heard = {orjson.loads(message.value())["command_id"] for message in self.tails["feedback"].found}
            return {command["command_id"] for command in self.commands()} <= heard

        wait_until(told, crm, self.folder / "crm.log", timeout_s=60)
        self.settle()

    def recall(self, *arguments, code=0, **extra):
        """Run a command of the operator's, as on his command line; return what it says."""
        env = environment(self.config, self.config.broker, self.folder, **extra)
        done = CliRunner().invoke(cli.app, [*map(str, arguments)], env=env)
        assert done.exit_code == code, done.output
        return done.output

    def asked(self, page, *, host="127.0.0.1", **headers):
        """Return the status and the body of a page of the worker."""
        request = urllib.request.Request(f"http://{host}:{self.port}{page}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, orjson.loads(error.read())

    # -- what came of it -----------------------------------------------------------------------------------------------

    def of(self, topic, who=None):
        return [
            orjson.loads(message.value())
            for message in self.tails[topic].found
            if who is None or message.key() == who.encode()
        ]

    def commands(self, who=None):
        return [value for value in self.of("recall", who) if "action" in value]

    def touches(self, who):
        """Return (when, play, template, channel) of what was sent."""
        return [
            (command["issued_at"][5:19], command["action"]["template"], command["delivery"]["channel"])
            for command in self.commands(who)
        ]

    def cancelled(self, who):
        return [value["reason"] for value in self.of("recall", who) if "action" not in value]

    def decisions(self, who, since="2025-03-01"):
        return [
            (value["at"][5:19], value["outcome"], value["reason"], value["play"])
            for value in self.of("recall-decisions", who)
            if value["at"] >= since
        ]


def test_the_policy(fresh_kafka, tmp_path, monkeypatch):
    default, second = tmp_path / "default.toml", tmp_path / "second.toml"
    text = DEFAULT_PLAYBOOK.read_text()
    default.write_text(text.replace('name = "memory-email"\n', 'name = "memory-email"\napproval = true\n'))
    second.write_text(
        text.replace('name = "default"', 'name = "second"').replace("memory-of-favourites", "memories-retold")
    )
    config = settings.load(
        broker=fresh_kafka.bootstrap, currency="EUR", timezone="UTC", playbook=default, salt="salt",
        live_from="2025-03-01T00:00:00Z", clock="recorded",
    )
    topics.create(config)
    version = InForce.of(load(second), config.shop()).version
    story = Story(config, tmp_path, monkeypatch)
    high = {name: user(name) for name in ("cora", "hugo", "hana", "otto", "ursula", "erin", "quinn")}
    high["holly"] = user("holly", arm=CONTROL)
    middle = {
        user("nora"): "2025-01-18T10", user("mia"): "2025-02-03T10",
        user("carl", canary=(version, True)): "2025-02-11T10", user("cleo", canary=(version, False)): "2025-02-11T10",
        user("stella"): "2025-02-13T10", user("rhea"): "2025-02-14T10",
    }
    plan = []
    consent = {channel: {"marketing": True} for channel in CHANNELS}
    for who in (*high.values(), *middle, user("lou")):
        plan.append(("2025-01-02", story.says, (who,), {"consent": consent}))
    for who in high.values():
        plan += [(later("2025-01-06T10", days=7 * n), story.orders, (who, 150), {}) for n in range(5)]
    plan.append(("2025-01-03", story.says, (high["quinn"],), {"timezone": "America/New_York"}))
    for n in range(7):
        plan.append((later("2025-02-05T10", days=7 * n), story.views, (high["cora"],), {}))
    for who, last in middle.items():
        plan += [(later(last, days=-7), story.orders, (who, 60), {}), (last, story.orders, (who, 60), {})]
    plan.append(("2025-02-03T10", story.orders, (user("lou"), 20), {}))
    wish = {"product_id": "p77", "price": 64, "category": "jackets"}
    plan.append(("2025-02-02", story.does, (high["hugo"], "Product Added to Wishlist"), wish))
    plan.append(("2025-01-01", story.prices, ("p77", "64"), {}))
    plan.append(("2025-03-01", story.prices, ("p77", "48"), {}))
    for at, what, args, kwargs in sorted(plan, key=lambda one: ms(one[0])):
        story.move_to(at)
        what(*args, **kwargs)
    begun = time.monotonic()
    def lap(t):
        nonlocal begun
        print(t, round(time.monotonic()-begun,2)); begun=time.monotonic()
    story.tick("2025-03-19T11:30")
    lap("laid")
    late = tmp_path / "late"
    everyone = [*high.values(), *middle, user("lou")]
    with story.crm() as crm:
        with story.worker(fault=Fault("kill", "after the rows", 1, str(late))) as process:
            story.settle()
            lap("start")
            story.tick("2025-03-20")
            lap("tick")
            print(story.recall("grant", "daily", "--amount", "1000", "--at", "2025-03-20T00:00:00Z"))
            lap("grant")
            for day in range(21, 29):
                story.tick(f"2025-03-{day}")
            story.tick("2025-03-28T14:00")
            lap("ticks")
            story.crm_answers(crm)
            lap("crm")
            for day in range(29, 32):
                story.tick(f"2025-03-{day}")
            story.tick("2025-04-04T11:05")
            story.crm_answers(crm)
            for who in everyone:
                print(who, *story.decisions(who), sep="\n   ")
                print("  T ", story.touches(who), story.cancelled(who))
