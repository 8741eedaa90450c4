"""A process that is measured from outside: what it costs, and what it has made visible on its sink."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition

STOP_TIMEOUT_S = 20
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

RETRACTED = ("pathway_diff", b"-1")
"""A header: the result no longer holds."""


class Moment(NamedTuple):
    """Wall clock (s, monotonic) and the process's CPU so far (s, user and system)."""

    wall: float
    cpu: float


class Figures(NamedTuple):
    """One run: `start_s` until the first record is consumed; `cpu_s` of a million events from then on."""

    events_s: float
    cpu_s: float
    start_s: float
    start_cpu_s: float
    rss_mb: float

    @classmethod
    def between(cls, running, began, *, events):
        """Return the figures of a process that did so many events since it began."""
        end = running.moment()
        return cls(
            events_s=events / (end.wall - began.wall),
            cpu_s=(end.cpu - began.cpu) / events * 1e6,
            start_s=began.wall - running.started,
            start_cpu_s=began.cpu,
            rss_mb=running.peak_rss_mb(),
        )


class Running:
    """A process; it is stopped when the block ends."""

    def __init__(self, command, log, env=None):
        self._log = Path(log)
        self._out = self._log.open("ab")
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=self._out)  # noqa: S603
        self.began = None
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self):
        """Note when the process says that it began; the rest goes to the log."""
        for line in self.process.stdout:
            if self.began is None and line.strip() == b"began":
                self.began = self.moment()
            self._out.write(line)
            self._out.flush()

    def tail(self):
        """Return its last words."""
        return self._log.read_text(errors="replace")[-1500:]

    def ended(self):
        return self.process.poll() is not None

    def moment(self):
        """Return the wall clock and the CPU used so far, all threads included."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return Moment(time.monotonic(), (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND)

    def peak_rss_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self._out.close()


class Sink:
    """What a consumer that reads committed sees of a sink: the last result of each user, and how many there were."""

    def __init__(self, bootstrap, topic, partitions, isolation="read_committed"):
        self.latest = {}
        self.results = 0
        self.seen_at = {}
        """By partition, when the last result was seen (s, monotonic)."""
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"{topic}-reader",
                "isolation.level": isolation,
                "fetch.wait.max.ms": 10,
                "log_level": 2,
            }
        )
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])

    def poll(self, timeout_s):
        for message in self._consumer.consume(1000, timeout_s):
            if message.error() or (RETRACTED in (message.headers() or ())):
                continue
            result = orjson.loads(message.value())
            self.latest[result["user"]] = [result["count"], result["total"], result["seen"]]
            self.results += 1
            self.seen_at[message.partition()] = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._consumer.close()


class Offsets:
    """How far a group has committed."""

    def __init__(self, bootstrap, group, topic, partitions):
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 2})

    def ends(self):
        return [self._consumer.get_watermark_offsets(place, timeout=10)[1] for place in self._places]

    def committed(self):
        """Return the offsets, or none while the group has no coordinator yet: the caller asks again."""
        try:
            return [place.offset for place in self._consumer.committed(self._places, timeout=10)]
        except KafkaException:
            return []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._consumer.close()
