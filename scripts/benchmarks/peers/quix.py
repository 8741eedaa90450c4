"""Quix Streams: a dataframe with state in RocksDB.

Durability: RocksDB and a changelog topic, exactly once by transactions, a commit each second (a transaction each
commit).
"""

from pathlib import Path

import orjson
from common import arguments, result
from quixstreams import Application

(bootstrap, source, sink, app_id, directory), _ = arguments()

app = Application(
    broker_address=bootstrap,
    consumer_group=app_id,
    auto_offset_reset="earliest",
    commit_interval=1.0,
    processing_guarantee="exactly-once",
    state_dir=Path(directory),
    loglevel="WARNING",
)
events = app.topic(source, key_deserializer="str", value_deserializer="bytes")
results = app.topic(sink, key_serializer="str", value_serializer="bytes")


def aggregate(value, state):
    event = orjson.loads(value)
    user, at = event["userId"], event["at"]
    count, total, seen = state.get("totals", (0, 0, 0))
    row = (count + 1, total + event["properties"]["price"], max(seen, at))
    state.set("totals", row)
    return result(user, *row, at) if event["report"] else None


if __name__ == "__main__":
    frame = app.dataframe(events)
    frame = frame.apply(aggregate, stateful=True)
    frame = frame[frame.apply(lambda value: value is not None)]
    frame.to_topic(results)
    app.run()
