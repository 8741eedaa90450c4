"""Feeds a recorded history to a running worker through a broker, in the history's own time.

The worker's lag sets the pace, read from what its group has committed. At each midnight of the shop all that was sent
is committed before the tick goes out, so that a day is worked off whole before the next. A replay of the same history
writes the same ticks.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.topics import SOURCE_TOPICS
from worker.recall.days import Days
from worker.replay import midnights
from worker.sending import TIMEOUT_S, FeedError, Place, Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from worker.settings import Settings
    from worker.sources.history import HistoryRecord

WINDOW_BYTES: Final = 1024 * 1024
"""Two windows may be under way; the embedded broker keeps five of them in a partition."""
WINDOW_RECORDS: Final = 10_000
_LOOK_AGAIN_S: Final = 0.004
_PLACES_NAMED: Final = 4


class Feeder:
    """Sends records to the source topics and waits for the worker's group.

    `progress` is told how many records have been sent in all and the history's time, ms, now and then, also while it
    waits. `check` raises when waiting has become pointless, say because the worker has died. After `stall_s` seconds
    without any commit it gives up. Without `ticks` the history brings its control records along.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ticks: bool = True,
        progress: Callable[[int, int], None] = lambda _sent, _at: None,
        check: Callable[[], None] = lambda: None,
        stall_s: float = 60.0,
    ) -> None:
        self._days = Days(settings.timezone)
        self._ticks = ticks
        self._progress = progress
        self._check = check
        self._stall_s = stall_s
        self._group = settings.app_id
        self._sender = Sender(settings, keeps_times=True)
        # A consumer that never subscribes is no member of the group.
        client = settings.connection().librdkafka()
        self._reader = Consumer({**client, "group.id": self._group, "enable.auto.commit": False})
        self._committed: dict[Place, int] = {}
        self._count = self._latest = 0

    @property
    def sent(self) -> Mapping[Place, int]:
        """Records by topic and partition, ticks among them."""
        return self._sender.sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        self._reader.close()

    def run(self, records: Iterable[HistoryRecord]) -> None:
        """Send records, given in the order of `recorded_at`, and wait until all are committed.

        Raises:
            FeedError: where something was lost, refused, or not committed.

        """
        ahead = None
        midnight = size = count = 0
        before: dict[Place, int] = {}
        for record in records:
            at = record.recorded_at
            if at < self._latest:
                raise FeedError(
                    f"{record.topic}: recorded_at = {at} ms: allowed is {self._latest} or later, as before it"
                )
            if self._ticks:
                if ahead is None:
                    ahead = midnights(at, self._days)
                    midnight = next(ahead)
                while at >= midnight:
                    self._close_day(midnight)
                    midnight = next(ahead)
                    size = count = 0
            self._latest = at
            self._send(record)
            size += len(record.key) + len(record.value)
            count += 1
            if size >= WINDOW_BYTES or count >= WINDOW_RECORDS:
                self._sender.flush()
                self._wait(before)
                self._find_lost()
                before = dict(self._sender.ends)
                size = count = 0
        if ahead is not None:
            self._close_day(midnight)
        self._await_all()
        self._find_lost()

    def _send(self, record: HistoryRecord) -> None:
        self._count += 1
        self._sender.send(record)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _close_day(self, midnight: int) -> None:
        """Wait until the day's records are committed, then say that it is over."""
        self._await_all()
        self._sender.tick(midnight)

    def _await_all(self) -> None:
        self._sender.flush()
        self._wait(self._sender.ends)

    def _wait(self, wanted: dict[Place, int]) -> None:
        """Wait until the group has committed up to the wanted offsets."""
        since = time.monotonic()
        before: dict[Place, int] = {}
        while missing := self._missing(wanted):
            self._check()
            self._progress(self._count, self._latest)
            self._look(missing)
            if self._committed != before:
                before, since = dict(self._committed), time.monotonic()
            elif time.monotonic() - since > self._stall_s:
                raise FeedError(self._stalled(missing))
            else:
                time.sleep(_LOOK_AGAIN_S)
        self._progress(self._count, self._latest)

    def _missing(self, wanted: dict[Place, int]) -> dict[Place, int]:
        """Return what is not committed yet; what every worker reads whole, the group does not commit."""
        return {
            place: end
            for place, end in wanted.items()
            if place[0] in SOURCE_TOPICS and self._committed.get(place, 0) < end
        }

    def _look(self, places: Iterable[Place]) -> None:
        try:
            found = self._reader.committed([TopicPartition(*place) for place in places], timeout=TIMEOUT_S)
        except KafkaException as error:
            raise FeedError(f"offsets of group {self._group}: {error.args[0].str()}") from error
        self._committed |= {(one.topic, one.partition): max(0, one.offset) for one in found}

    def _stalled(self, missing: dict[Place, int]) -> str:
        places = [
            f"{topic}[{partition}] at {self._committed.get((topic, partition), 0)} of {end}"
            for (topic, partition), end in sorted(missing.items())
        ]
        more = f" and {len(places) - _PLACES_NAMED} more" if len(places) > _PLACES_NAMED else ""
        return (
            f"group {self._group} has committed nothing for {self._stall_s:.0f} s; waiting for "
            f"{', '.join(places[:_PLACES_NAMED])}{more}"
        )

    def _find_lost(self) -> None:
        """See that the broker still holds whatever the worker had not committed when it was last asked."""
        for place in self._sender.ends:
            if place[0] not in SOURCE_TOPICS:
                continue
            low, _ = self._reader.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT_S)
            read = self._committed.get(place, 0)
            if low > read:
                topic, partition = place
                raise FeedError(
                    f"{topic}[{partition}]: the broker dropped {low - read} records before the worker read them"
                )
