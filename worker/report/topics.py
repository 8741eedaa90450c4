"""What a cluster's topics hold, as the files that a report reads: what is committed, as nobody's consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import orjson

from schemas.values import rfc3339
from worker.report.inputs import EVENTS, OUTPUTS, Inputs, find

if TYPE_CHECKING:
    from pathlib import Path

    from worker.from_kafka import Reader


def fetch(reader: Reader, folder: Path) -> Inputs:
    """Copy the topics into files, each up to where it ends now; memory stays bounded.

    Raises:
        ValueError: where the cluster lacks the topic of decisions or that of orders.

    """
    there = reader.partitions()
    missing = [topic for topic in (OUTPUTS[0], EVENTS[0]) if topic not in there]
    if missing:
        raise ValueError(f"topics: {', '.join(missing)} not there: allowed is a cluster that a worker writes to")
    with (folder / "history.jsonl").open("wb") as file:
        for topic in EVENTS:
            _copy(reader, topic, there.get(topic, 0), file)
    for topic in OUTPUTS:
        with (folder / f"{topic}.jsonl").open("wb") as file:
            _copy(reader, topic, there.get(topic, 0), file)
    return find([folder])


def _copy(reader: Reader, topic: str, partitions: int, file: BinaryIO) -> None:
    """Write a topic's records that are JSON objects, a line each."""
    for number in range(partitions):
        place = (topic, number)
        for chunk in reader.chunks(place, reader.span(place), lambda _: None):
            for record in chunk:
                if record.value is None or not _is_object(record.value):
                    continue
                line = {
                    "topic": topic,
                    "key": (record.key or b"").decode(errors="replace"),
                    "recorded_at": rfc3339(record.timestamp),
                    # Between the tokens of JSON a line break is as good as a space; inside them there are none.
                    "value": orjson.Fragment(record.value.replace(b"\n", b" ").replace(b"\r", b" ")),
                }
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _is_object(value: bytes) -> bool:
    try:
        return isinstance(orjson.loads(value), dict)
    except orjson.JSONDecodeError:
        return False
