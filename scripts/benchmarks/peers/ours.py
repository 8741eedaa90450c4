"""Our stream: a processor of five methods on `StreamApp`, given the mode and the number of partitions.

Durability: rows in a compacted topic. Transactional: rows, results and offsets of a commit are one Kafka transaction,
at most 25 ms apart. Plain: results first, then rows and offsets in one record batch.
"""

import orjson
from common import arguments, result

from worker.stream.committer import CommitSettings
from worker.stream.connection import Connection
from worker.stream.keyed import Keyed, keyed
from worker.stream.processor import Output
from worker.stream.transport import StreamApp


class Totals(Keyed):
    """The state of a user is [count, total, seen]."""

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


def main():
    (bootstrap, source, sink, app_id, directory), [mode, partitions] = arguments()
    commits = CommitSettings(app_id, Connection(bootstrap), transactional=mode == "transactional")
    app = StreamApp(
        commits,
        groups=[keyed("totals", [source], Totals(sink), commits)],
        partitions=int(partitions),
        web_enabled=False,
        datadir=directory,
    )
    app.run()


if __name__ == "__main__":
    main()
