"""Bytewax: a keyed operator that is given batches, one worker.

Durability: state and positions in SQLite, a snapshot each second; results since the last one come again after a crash.
"""

from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main
from common import arguments, result

(bootstrap, source, sink, _, directory), _ = arguments()


class Totals(StatefulBatchLogic):
    def __init__(self, row):
        self.row = row or (0, 0, 0)

    def on_batch(self, events):
        count, total, seen = self.row
        results = []
        for event in events:
            at = event["at"]
            count, total, seen = count + 1, total + event["properties"]["price"], max(seen, at)
            if event["report"]:
                user = event["userId"]
                results.append(KafkaSinkMessage(user.encode(), result(user, count, total, seen, at)))
        self.row = (count, total, seen)
        return results, StatefulBatchLogic.RETAIN

    def snapshot(self):
        return self.row


def read(messages):
    for message in messages:
        event = orjson.loads(message.value)
        yield event["userId"], event


flow = Dataflow("totals")
messages = op.input("source", flow, KafkaSource([bootstrap], [source], batch_size=5_000))
keyed = op.flat_map_batch("read", messages, read)
totals = op.stateful_batch("totals", keyed, Totals)
op.output("sink", op.map("result", totals, lambda keyed: keyed[1]), KafkaSink([bootstrap], sink))

if __name__ == "__main__":
    if not any(Path(directory).iterdir()):
        init_db_dir(Path(directory), 1)
    cluster_main(flow, [], 0, epoch_interval=timedelta(seconds=1), recovery_config=RecoveryConfig(directory))
