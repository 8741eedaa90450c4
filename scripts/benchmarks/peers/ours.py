"""Our stream: a processor of a few lines on `StreamApp`, run by `transactional` or `plain`.

Durability: rows in a compacted topic. Transactional: rows, results and offsets of a commit are one Kafka transaction,
at most 25 ms apart. Plain: results first, then rows and offsets in one record batch.
"""

from typing import ClassVar

import faust
import orjson
from common import arguments, calm_gc, result

from worker.stream.committer import CommitSettings
from worker.stream.connection import Connection
from worker.stream.dead_letters import DeadLetters
from worker.stream.lane import Group
from worker.stream.partition import Layout, Partition
from worker.stream.processor import NEVER, Output
from worker.stream.stores.memory import MemoryStore
from worker.stream.transport import StreamApp

PARTITIONS = 4


class Totals:
    """A `Processor` whose state is [count, total, seen]; it has no timers, decisions or shared state."""

    version = 1
    earlier: ClassVar = {}

    def __init__(self, sink):
        self.sink = sink

    def parse(self, _topic, _key, value, _recorded_at):
        event = orjson.loads(value)
        return event["at"], event

    def new(self, _key):
        return [0, 0, 0]

    def decode(self, body):
        return orjson.loads(body)

    def encode(self, state):
        return orjson.dumps(state)

    def apply(self, state, _shared, at, event, _context):
        state[0] += 1
        state[1] += event["properties"]["price"]
        state[2] = max(state[2], at)
        if not event["report"]:
            return ()
        user = event["userId"]
        return (Output(self.sink, user.encode(), result(user, *state, at)),)

    # What a processor without timers and shared state has to say all the same.

    def next_due(self, _state):
        return NEVER

    def shared_due(self, _shared):
        return NEVER

    def decode_shared(self, _raw):
        return None

    def encode_shared(self, _shared):
        return b""


def main():
    (bootstrap, source, sink, app_id, directory), [mode] = arguments()
    transactional = mode == "transactional"

    async def open_partition(number, rows):
        layout = Layout(number, (source,), DeadLetters(f"{app_id}-dead-letter", salt=b""))
        return Partition(layout, Totals(sink), rows, bytes_max=None if transactional else 800_000)

    app = StreamApp(
        app_id,
        groups=[Group("totals", (source,), open_partition, greet=lambda _number, _work: (), has_rows=True)],
        partitions=PARTITIONS,
        commit_settings=CommitSettings(app_id, transactional, interval_s=0.025, connection=Connection(bootstrap)),
        session_timeout_s=10,
        row_store=MemoryStore(),
        web_enabled=False,
        datadir=directory,
    )
    app.finalize()
    calm_gc()
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main()
