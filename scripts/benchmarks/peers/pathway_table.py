"""Pathway: a table grouped by user; decoding, state and encoding are the engine's own, in Rust.

Durability: none here. A table shows what is so at the end of each small batch (100 ms): of a user's results in one
only the last appears. That records are consumed is known at the first result, a batch later than with the others.
"""

import pathway as pw
from common import arguments, began

(bootstrap, source, sink, app_id, _), _ = arguments()


class Event(pw.Schema):
    user: str
    at: int
    price: int
    report: bool


paths = {"user": "/userId", "at": "/at", "price": "/properties/price", "report": "/report"}
consumer = {"bootstrap.servers": bootstrap, "group.id": app_id, "auto.offset.reset": "earliest"}
events = pw.io.kafka.read(
    consumer, source, schema=Event, format="json", json_field_paths=paths, autocommit_duration_ms=100
)
events = events.select(pw.this.user, pw.this.price, latest=2 * pw.this.at + pw.cast(int, pw.this.report))
totals = events.groupby(pw.this.user).reduce(
    pw.this.user,
    count=pw.reducers.count(),
    total=pw.reducers.sum(pw.this.price),
    latest=pw.reducers.max(pw.this.latest),
)
results = totals.filter(pw.this.latest % 2 == 1).select(
    pw.this.user, pw.this.count, pw.this.total, seen=pw.this.latest // 2, at=pw.this.latest // 2
)
pw.io.subscribe(results, on_change=lambda **_: began())
pw.io.kafka.write(results, {"bootstrap.servers": bootstrap}, sink, format="json")

if __name__ == "__main__":
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
