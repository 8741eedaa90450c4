"""Faust as its documentation has it: an agent, and a table in memory behind a changelog topic.

Durability: one changelog record an event; offsets are committed every 2.8 s (Faust's default), at least once.
"""

import faust
import orjson
from common import arguments, result

(bootstrap, source, sink, app_id, directory), _ = arguments()

app = faust.App(
    app_id,
    broker=f"kafka://{bootstrap}",
    store="memory://",
    topic_partitions=4,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
    datadir=directory,
)
events = app.topic(source, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
results = app.topic(sink, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
totals = app.Table("totals", partitions=4)


@app.agent(events)
async def aggregate(stream):
    async for key, value in stream.items():
        event = orjson.loads(value)
        user, at = event["userId"], event["at"]
        count, total, seen = totals.get(user, (0, 0, 0))
        row = (count + 1, total + event["properties"]["price"], max(seen, at))
        totals[user] = row
        if event["report"]:
            await results.send(key=key, value=result(user, *row, at))


if __name__ == "__main__":
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()
