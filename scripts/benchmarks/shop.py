"""The worker's full job: the events of a simulated shop, through the worker as an operator starts it."""

import math
import sys
import time
from contextlib import ExitStack

from events import PARTITIONS
from live import START, environment, lay_down
from rules import DAYS, EVENTS_A_CUSTOMER_AND_DAY, LIVE_FROM
from running import Figures, Moment, Offsets, Running

from schemas.topics import CONTROL, SOURCE_TOPICS
from worker import settings, topics
from worker.settings import DEFAULT_PLAYBOOK
from worker.simulate import CURRENCY, TIMEZONE, simulate

DATA_TOPICS = tuple(topic for topic in SOURCE_TOPICS if topic != CONTROL)
COMMAND = [sys.executable, "-c", START.format(wall="__import__('time').time_ns() // 1_000_000")]
TIMEOUT_S = 300.0


def history(events):
    """Return about so many records of a simulated shop's half year."""
    return list(simulate(users=max(1, math.ceil(events / EVENTS_A_CUSTOMER_AND_DAY / DAYS)), days=DAYS, seed=1))


def config(kafka, scratch):
    """Return the settings of a shop where whoever never said anything may be contacted, and make its topics."""
    playbook = scratch / "playbook.toml"
    playbook.write_text(DEFAULT_PLAYBOOK.read_text().replace('unknown = "deny"', 'unknown = "allow"'))
    chosen = settings.load(
        broker=kafka.bootstrap,
        clock="recorded",
        currency=CURRENCY,
        timezone=TIMEZONE,
        playbook=playbook,
        live_from=LIVE_FROM,
    )
    topics.create(chosen)
    return chosen


def run(kafka, scratch, records):
    """Work off a history that lies there; return the figures from the start of the process to the last commit."""
    chosen = config(kafka, scratch)
    lay_down(kafka.bootstrap, records, chosen.shop().days)
    env = environment(chosen, kafka.bootstrap, scratch / "worker")
    with ExitStack() as stack:
        sources = [stack.enter_context(Offsets(kafka.bootstrap, "recall", topic, PARTITIONS)) for topic in DATA_TOPICS]
        total = sum(sum(source.ends()) for source in sources)
        running = stack.enter_context(Running(COMMAND, scratch / "worker.log", env))
        deadline = time.monotonic() + TIMEOUT_S
        while (done := sum(max(0, offset) for source in sources for offset in source.committed())) < total:
            if running.process.poll() is not None or time.monotonic() > deadline:
                return f"the worker did {done} of {total} events: {(scratch / 'worker.log').read_text()[-1500:]}"
            time.sleep(0.02)
        return Figures.between(running, Moment(running.started, 0.0), events=total)
