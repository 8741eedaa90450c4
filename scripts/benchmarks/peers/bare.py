"""A loop on aiokafka and nothing else that does the same work: the bound for anything built on this client.

Durability: rows in a compacted topic, one record for each user changed by a fetch; rows and results are awaited, then
the offsets are committed. A crash in between applies a fetch twice. No rebalancing: all partitions are this
process's.
"""

import asyncio

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from common import arguments, result

from worker.stream.process import calm_gc

PARTITIONS = range(4)


def work_off(records, rows):
    """Return the users that the records changed, and the results that they ask for."""
    changed, results = {}, []
    for record in records:
        key = record.key
        event = orjson.loads(record.value)
        row = changed.get(key)
        if row is None:
            row = changed[key] = orjson.loads(rows.get(key, b"[0,0,0]"))
        at = event["at"]
        row[0] += 1
        row[1] += event["properties"]["price"]
        row[2] = max(row[2], at)
        if event["report"]:
            results.append((key, result(event["userId"], *row, at)))
    encoded = {key: orjson.dumps(row) for key, row in changed.items()}
    rows.update(encoded)
    return encoded, results


async def recover(bootstrap, changelog):
    """Return the rows of each partition."""
    rows = {number: {} for number in PARTITIONS}
    places = [TopicPartition(changelog, number) for number in PARTITIONS]
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, records in (await consumer.getmany(timeout_ms=100)).items():
                rows[place.partition].update((record.key, record.value) for record in records)
    return rows


async def main():
    (bootstrap, source, sink, app_id, _), _ = arguments()
    changelog = f"{app_id}-rows-changelog"
    rows = await recover(bootstrap, changelog)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=app_id, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=900_000
    )
    consumer.assign([TopicPartition(source, number) for number in PARTITIONS])
    async with consumer, producer:
        while True:
            sent, offsets = [], {}
            for place, records in (await consumer.getmany(timeout_ms=500)).items():
                changed, results = work_off(records, rows[place.partition])
                batch = producer.create_batch()
                for key, row in changed.items():
                    assert batch.append(key=key, value=row, timestamp=None)
                sent.append(await producer.send_batch(batch, changelog, partition=place.partition))
                sent += [await producer.send(sink, value, key=key) for key, value in results]
                offsets[place] = records[-1].offset + 1
            if offsets:
                await asyncio.gather(*sent)
                await consumer.commit(offsets)


if __name__ == "__main__":
    calm_gc()
    asyncio.run(main())
