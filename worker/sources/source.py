"""What every importer gives back: records in the order of time, and an account of every line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import orjson

from schemas.values import rfc3339
from worker.sources.history import HistoryRecord


@dataclass(frozen=True, slots=True)
class Accounting:
    """What became of each line of the input: carried into events, or left out for a reason.

    >>> Accounting(lines=3, carried=2, left_out={"no customer": 1}).left_out
    {'no customer': 1}
    """

    lines: int
    carried: int
    left_out: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.lines != self.carried + sum(self.left_out.values()):
            raise ValueError(f"{self.lines} lines are not {self.carried} carried and {dict(self.left_out)} left out")


@dataclass(frozen=True, slots=True)
class Source:
    """An input that can be replayed or fed.

    `records` can be gone through once. Currency (ISO 4217) and time zone (IANA) are None where the input
    does not fix them: a history's events carry their own.
    """

    name: str
    currency: str | None
    timezone: str | None
    accounting: Accounting
    records: Iterator[HistoryRecord]


def track(
    topic: str, message_id: str, *, user: str, at: int, event: str, properties: Mapping[str, object]
) -> HistoryRecord:
    """Put an event into Segment's envelope, recorded when it happened (`at`, in ms since the epoch, UTC)."""
    envelope = {
        "type": "track",
        "messageId": message_id,
        "userId": user,
        "timestamp": rfc3339(at),
        "event": event,
        "properties": properties,
    }
    return HistoryRecord(topic, user.encode(), at, orjson.dumps(envelope))
