"""Whether a worker grows: the whole of it on a real Kafka, under a steady load of the same users, for a long time.

The load is live: events of now, ticks from the wall clock. Each minute's figures are a JSON line in the samples' file.
After the warm-up a line is fitted to each of them; memory, file descriptors and tasks may not grow, beyond doubt, by
more than is allowed an hour. The rows' bytes stand beside: they grow until the users' windows and lists are full, which
the warm-up should outlast.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from kafka_server import real_kafka
from live import ROOT

from schemas.values import rfc3339
from worker import settings, topics
from worker.app import wall_ms
from worker.partitioner import Partitioner

CHILD = """
import sys
sys.path.insert(0, {here!r})
import sampling
from worker import settings
from worker.app import create_app, start
app = create_app(settings.load())
sampling.sample(app, {samples!r}, {every_s})
start(app)
"""
ALLOWED_PER_HOUR = {"rss_bytes": 16_000_000, "fds": 2, "tasks": 2}
KEPT_BYTES = 64 * 1024 * 1024
"""Of a source topic's partition: the disk is not what is tried here."""
EVENTS = (
    ("clickstream", "Product Viewed", 85),
    ("cart", "Product Added", 12),
    ("orders", "Order Completed", 3),
)
SAMPLES_MIN = 3
DOUBT = 2.0
"""Standard errors of the slope by which it must exceed what is allowed."""


def add_arguments(parser):
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=int, default=2000, help="events a second")
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--warm-up", type=float, default=0.25, help="share of the time that is not judged")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between samples")
    parser.add_argument("--samples", type=Path, default=Path(tempfile.gettempdir(), "recall-soak-memory.jsonl"))


def run(arguments):
    arguments.samples.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="recall-soak-") as directory, real_kafka() as kafka:
        config = settings.load(broker=kafka.bootstrap, live_from=rfc3339(wall_ms()), dry_run=True)
        topics.create(config)
        keep_little(config)
        code = CHILD.format(
            here=str(Path(__file__).parent), samples=str(arguments.samples.absolute()), every_s=arguments.every
        )
        environment = os.environ | {
            "RECALL_BROKER": kafka.bootstrap,
            "RECALL_LIVE_FROM": rfc3339(wall_ms()),
            "RECALL_DRY_RUN": "true",
            "RECALL_WEB_PORT": "0",
            "RECALL_DATADIR": f"{directory}/data",
            "RECALL_SESSION_TIMEOUT_S": "30",
        }
        log = Path(directory, "log")
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            sent = load(config, arguments, process)
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code:
            print(f"the worker ended with {code}:\n{log.read_text()[-3000:]}")
            return 1
    samples = [orjson.loads(line) for line in arguments.samples.read_bytes().splitlines()]
    print(f"{sent} events sent, {samples[-1]['records']} records applied, {len(samples)} samples")
    return judge(samples, arguments.warm_up)


def keep_little(config):
    """Let the source topics keep little, so that the disk does not fill up."""
    admin = AdminClient({"bootstrap.servers": config.broker, "log_level": 2})
    changes = {"retention.bytes": str(KEPT_BYTES), "segment.bytes": str(KEPT_BYTES // 4)}
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in changes.items()]
    resources = [
        ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries) for topic, _, _ in EVENTS
    ]
    for future in admin.incremental_alter_configs(resources).values():
        future.result()


def load(config, arguments, process):
    """Send events at the rate until the time is over or the worker has ended; return how many."""
    draw = random.Random(1)  # noqa: S311 - a load
    producer = Producer({"bootstrap.servers": config.broker, "log_level": 2, "linger.ms": 20})
    partitioner = Partitioner(config.partitions)
    weights = [weight for _, _, weight in EVENTS]
    began, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < arguments.minutes * 60 and process.poll() is None:
        now = wall_ms()
        due = int(elapsed * arguments.rate)
        for topic, event, _ in draw.choices(EVENTS, weights, k=due - sent):
            user = f"user-{draw.randrange(arguments.users)}"
            value = orjson.dumps(track(user, now, event, f"m{sent}"))
            key = user.encode()
            producer.produce(topic, value, key, partition=partitioner.of(key))
            sent += 1
        producer.poll(0)
        time.sleep(0.02)
    producer.flush(30)
    return sent


def track(user, at, event, message):
    """Return an event as a shop sends it."""
    product = {"product_id": f"p{at % 500}", "category": f"c{at % 20}", "price": 20}
    if event == "Order Completed":
        properties = {"order_id": message, "revenue": 40, "currency": "EUR", "products": [product]}
    else:
        properties = product
    return {
        "type": "track",
        "messageId": message,
        "userId": user,
        "timestamp": rfc3339(at),
        "event": event,
        "properties": properties,
    }


def judge(samples, warm_up):
    """Print how each figure went, and its slope an hour after the warm-up; return 1 where one grows that must not."""
    steady = samples[int(len(samples) * warm_up) :]
    if len(steady) < SAMPLES_MIN:
        print("too few samples to judge")
        return 1
    grows = []
    print(f"{'figure':24}{'first':>14}{'after warm-up':>16}{'last':>14}{'slope/hour':>16}{'+-':>12}")
    for name in samples[0]:
        if name == "at_s":
            continue
        slope, error = fit([it["at_s"] / 3600 for it in steady], [it[name] for it in steady])
        cells = (
            f"{samples[0][name]:14,.0f}{steady[0][name]:16,.0f}{samples[-1][name]:14,.0f}{slope:16,.1f}{error:12,.1f}"
        )
        print(f"{name:24}{cells}")
        if name in ALLOWED_PER_HOUR and slope - DOUBT * error > ALLOWED_PER_HOUR[name]:
            grows.append(name)
    print(f"GROWS: {', '.join(grows)}" if grows else f"Nothing grows by more than {ALLOWED_PER_HOUR} an hour.")
    return 1 if grows else 0


def fit(xs, ys):
    """Return the slope of the line through points, and its standard error."""
    slope, intercept = statistics.linear_regression(xs, ys)
    rest = sum((y - slope * x - intercept) ** 2 for x, y in zip(xs, ys, strict=True))
    mean = statistics.fmean(xs)
    spread = sum((x - mean) ** 2 for x in xs)
    return slope, (rest / (len(xs) - 2) / spread) ** 0.5
