"""A job for the stream that is not about customers: it counts marbles by key, over three topics.

Its result does not depend on how the topics are merged at the live edge, so that input may flow while faults happen:
a key's count and chain are kept by topic, timers and decisions say only what their record said, and what a decision
draws from the partition is a sum. The exception is a decision's number, which the partition gives out: numbers must
run from one on without a gap, whoever got which.
"""

import asyncio
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
import orjson

from worker.app import start
from worker.stream.committer import CommitSettings
from worker.stream.connection import Connection
from worker.stream.lane import Group
from worker.stream.partition import Layout, Partition
from worker.stream.probe import topic_of
from worker.stream.processor import NEVER, Count, Output, Tick
from worker.stream.stores.rocks import RocksStore
from worker.stream.transport import StreamApp

COLOURS = ("red", "green", "blue")


class Job(NamedTuple):
    """Names and settings of one run; `prefix` sets its topics apart."""

    prefix: str
    bootstrap: str
    datadir: str
    partitions: int = 4
    transactional: bool = True
    session_timeout_s: float = 6.0
    on_disk: bool = False
    """Whether rows lie on disk; `datadir` is then a worker's own."""

    @property
    def app_id(self):
        return f"{self.prefix}app"

    @property
    def sources(self):
        return tuple(self.prefix + colour for colour in COLOURS)

    @property
    def out(self):
        return f"{self.prefix}out"

    @property
    def dead_letters(self):
        return f"{self.prefix}dead-letter"

    @property
    def changelog(self):
        return f"{self.app_id}-rows-changelog"

    @property
    def topics(self):
        """The topics but for the changelog and the probe's."""
        return (*self.sources, self.out, self.dead_letters)

    @property
    def probe(self):
        return topic_of(self.app_id)

    def partition(self, number, rows):
        """Give the pure partition, of the worker and of the truth alike."""
        layout = Layout(number, self.sources, self.dead_letters)
        return Partition(layout, Counting(self), rows, rows_max=64, records_max=128)


class Marble(msgspec.Struct):
    """A record; `then` is what it sets going `delay` later: nothing, a timer or a decision."""

    id: str
    at: int
    then: str = ""
    delay: int = 0


class State(msgspec.Struct, array_like=True):
    key: bytes
    counts: list[int]
    chains: list[int]
    """By topic, a checksum of all ids in their order."""
    woken: int = 0
    decided: int = 0
    timers: list[tuple[int, str, bool]] = []
    """(due, id, whether it is a decision)."""


class Shared(msgspec.Struct, array_like=True, frozen=True):
    decisions: int = 0
    spent: int = 0


_read = msgspec.json.Decoder(Marble).decode
_decode = msgspec.msgpack.Decoder(State).decode
_decode_shared = msgspec.msgpack.Decoder(Shared).decode
_encode = msgspec.msgpack.Encoder().encode


class Counting:
    """`processor.Processor`."""

    version = 1

    def __init__(self, job):
        self._job = job
        self._colours = {topic: index for index, topic in enumerate(job.sources)}

    def parse(self, topic, key, value, recorded_at):
        del recorded_at
        marble = _read(value)
        if key is None:
            return marble.at, Tick(marble.at)
        return marble.at, (self._colours[topic], marble)

    def new(self, key):
        return State(key, [0] * len(COLOURS), [0] * len(COLOURS))

    def decode(self, body):
        return _decode(body)

    def encode(self, state):
        return _encode(state)

    def next_due(self, state):
        return state.timers[0][0] if state.timers else NEVER

    def deciding(self, state):
        return state.timers[0][2]

    def apply(self, state, shared, at, body, context):
        del shared
        colour, marble = body
        state.counts[colour] += 1
        state.chains[colour] = crc32(marble.id.encode(), state.chains[colour])
        if not marble.then:
            return [Count("counted")]
        state.timers = sorted([*state.timers, (at + marble.delay, marble.id, marble.then == "decide")])
        said = {"id": f"set {marble.id}", "key": state.key.decode(), "at": at}
        return [Count("counted"), self._output(said, context)]

    def wake(self, state, shared, due, context):
        del shared, due
        wanted, name, _ = state.timers.pop(0)
        state.woken += 1
        return [Count("woken"), self._output({"id": f"woken {name}", "key": state.key.decode(), "at": wanted}, context)]

    def decide(self, state, shared, due, context):
        del due
        wanted, name, _ = state.timers.pop(0)
        state.decided += 1
        shared = Shared(shared.decisions + 1, shared.spent + wanted % 7)
        said = {"id": f"decided {name}", "key": state.key.decode(), "at": wanted, "number": shared.decisions}
        return shared, [Count("decided"), self._output(said, context)]

    def decode_shared(self, raw):
        return Shared() if raw is None else _decode_shared(raw)

    def encode_shared(self, shared):
        return _encode(shared)

    def shared_due(self, shared):
        del shared
        return NEVER

    def missing(self, directive):
        del directive

    def _output(self, said, context):
        return Output(self._job.out, said["key"].encode(), orjson.dumps(said), partition=context.partition)


def decode_row(body):
    """Return the state in a row's body."""
    return _decode(body)


def create_app(job):
    """Put the stream together for the job."""

    async def open_partition(number, rows):
        await asyncio.sleep(0)
        return job.partition(number, rows)

    return StreamApp(
        CommitSettings(job.app_id, Connection(job.bootstrap), transactional=job.transactional, idle_s=0.0),
        groups=[Group("counting", job.sources, open_partition)],
        partitions=job.partitions,
        session_timeout_s=job.session_timeout_s,
        row_store=RocksStore(Path(job.datadir, "rows")) if job.on_disk else None,
        web_enabled=False,
        datadir=job.datadir,
    )


def run(job):
    """Run the job as a process of its own."""
    start(create_app(job))
