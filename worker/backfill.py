"""Writes a history onto topics that no worker has read: what the worker is to know before it goes live.

Nothing is written before all is looked at: the history as a whole, and what topics, group and changelog hold. A run
that was interrupted is not taken up again: it is refused, like anything else that lies on the topics.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import orjson
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ConsumerGroupDescription, ResourceType

from schemas.topics import CATALOG, CONTROL, SOURCE_TOPICS
from schemas.values import rfc3339
from worker.from_kafka import Reader, Span, TopicsHeldError
from worker.partitioner import Partitioner
from worker.recall.days import DAY_MS
from worker.recall.events import AHEAD_MS_MAX, parse
from worker.replay import midnights
from worker.sending import FeedError, Place, Sender
from worker.sources import history
from worker.stream.processor import Rejected
from worker.stream.topics import changelog_of
from worker.topics import plan as topics_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from worker.settings import Settings
    from worker.sources.history import HistoryRecord

TIMEOUT_S: Final = 30.0
_CHUNK: Final = 8192
_OVERHEAD_BYTES: Final = 20
"""Of a record in its batch, beside key and value."""
_NAMED_MAX: Final = 4
_FOREVER: Final = -1
_WAIT_S: Final = 0.05
_NOT_YET: Final = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
"""What is said of a group whose coordinator is being found."""
_EXPECTED: Final = ("retention.ms", "retention.bytes", "message.timestamp.type", "cleanup.policy")
_TOO_OLD: Final = "message.timestamp.before.max.ms"
"""Brokers before 3.6 do not have it."""


class BackfillError(ValueError):
    """The history must not be written, or did not get through whole; the message says what, and what to do."""


class Records(Protocol):
    """A history that can be gone through more than once, each topic in its order."""

    def count(self) -> int: ...
    def __iter__(self) -> Iterator[HistoryRecord]: ...


class Files:
    """Histories on disk, topic by topic: memory stays constant."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._counts = history.topics(paths)

    def count(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[HistoryRecord]:
        for topic in self._counts:
            for chunk in history.read(self._paths, topic):
                yield from chunk


class Given:
    """A history in memory."""

    def __init__(self, records: Sequence[HistoryRecord]) -> None:
        self._records = records

    def count(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[HistoryRecord]:
        return iter(self._records)


class Keeping(NamedTuple):
    """How a topic keeps its records; times in ms, None for without end."""

    own_times: bool
    """Whether records keep the times that they are sent with (CreateTime)."""
    retention_ms: int | None
    retention_bytes: int | None
    """Of a partition."""
    oldest_ms: int | None
    """By how much a record may be older than now, to be taken at all."""
    compacted: bool

    @classmethod
    def of(cls, config: Mapping[str, str]) -> Keeping:
        """Read a topic's configuration."""

        def bound(name: str) -> int | None:
            value = int(config.get(name, _FOREVER))
            return None if value in {_FOREVER, 2**63 - 1} else value

        return cls(
            own_times=config["message.timestamp.type"] == "CreateTime",
            retention_ms=bound("retention.ms"),
            retention_bytes=bound("retention.bytes"),
            oldest_ms=bound(_TOO_OLD),
            compacted="compact" in config["cleanup.policy"],
        )

    @property
    def deletes_by_age(self) -> bool:
        return self.own_times and self.retention_ms is not None


class Plan(NamedTuple):
    """What will be written, and what must be known beforehand."""

    records: int
    """Records that are sent, ticks and copies of control apart."""
    first: str
    last: str
    by_topic: Mapping[str, int]
    ticks: tuple[int, ...]
    """Midnights of the shop, ms."""
    refused: Mapping[str, int]
    """Records that the worker will dead-letter, by reason."""
    ahead: int
    """Records that are left out since the worker could not refuse them."""
    keeps: Mapping[str, Keeping]
    warnings: tuple[str, ...]

    def facts(self) -> list[tuple[str, str]]:
        """Say it in words."""
        topics = ", ".join(f"{topic} {n:,}" for topic, n in self.by_topic.items())
        rows = [
            ("history", f"{self.records:,} records, {self.first} to {self.last}"),
            ("topics", topics),
            ("ticks", f"{len(self.ticks):,} midnights on control" if self.ticks else "none: control is in the history"),
        ]
        if self.refused:
            told = ", ".join(f"{reason} {n:,}" for reason, n in self.refused.items())
            rows.append(("dead letters", f"the worker will refuse {sum(self.refused.values()):,}: {told}"))
        if self.ahead:
            told = f"{self.ahead:,} more than {AHEAD_MS_MAX // 60_000} min ahead of their recorded_at: on a topic with "
            rows.append(("left out", f"{told}LogAppendTime the worker could not tell"))
        return rows


class Done(NamedTuple):
    """What was written, and how fast."""

    records: int
    """Ticks and copies of control among them."""
    seconds: float

    def facts(self) -> list[tuple[str, str]]:
        """Say it in words."""
        speed = self.records / max(self.seconds, 0.001)
        return [("written", f"{self.records:,} records in {self.seconds:.1f} s: {speed:,.0f} a second")]


def plan(settings: Settings, records: Records, progress: Callable[[int], None] = lambda _: None) -> Plan:
    """Look at cluster and history; nothing is written.

    Raises:
        BackfillError: naming all that speaks against it.
        UnavailableError: where no broker answers.

    """
    if settings.mode == "plain":
        raise BackfillError("mode = 'plain': allowed is transactional: a plain broker tells nothing of its topics")
    if settings.live_from is None:
        raise BackfillError(
            "live_from is not set: allowed is the time from which on commands may leave, after the whole history, as "
            "in RECALL_LIVE_FROM=2026-01-05T00:00:00Z"
        )
    admin = AdminClient(settings.connection().librdkafka())
    with Reader(settings) as reader:
        wrong = _cluster_wrong(admin, reader, settings)
    if wrong:
        raise BackfillError("\n  ".join([f"broker {settings.broker}: the history must not be written here:", *wrong]))
    keeps = _keeping(admin, [*SOURCE_TOPICS, CATALOG])
    return _look(settings, records, keeps, progress)


def fill(settings: Settings, plan: Plan, records: Records, progress: Callable[[int], None] = lambda _: None) -> Done:
    """Write the history, and a tick for each of its midnights; `progress` is told how many records were sent.

    Raises:
        BackfillError: where something was not taken, or did not stay.

    """
    sender = Sender(settings, keeps_times=False)
    began, sent = time.monotonic(), 0
    try:
        for record in records:
            if not _is_ahead(settings, plan.keeps, record):
                sender.send(record)
                sent += 1
                if sent % _CHUNK == 0:
                    sender.check()
                    progress(sent)
        for midnight in plan.ticks:
            sender.tick(midnight)
        sender.flush()
        progress(sent)
        seconds = time.monotonic() - began
        with Reader(settings) as reader:
            _check_whole(reader, sender)
    except (FeedError, TopicsHeldError) as error:
        raise BackfillError(f"{error}{_PARTLY}") from error
    except KeyboardInterrupt:
        raise BackfillError(f"interrupted{_PARTLY}") from None
    finally:
        sender.close()
    return Done(sum(sender.sent.values()), seconds)


_PARTLY: Final = (
    "\n  The topics may hold a part of the history: start no worker on them. Delete the source topics, make them anew "
    "(`recall topics create`), and run this once more."
)


# -- the cluster -------------------------------------------------------------------------------------------------------


def _cluster_wrong(admin: AdminClient, reader: Reader, settings: Settings) -> list[str]:
    """Say what speaks against writing a history: topics that are not as they must be, and traces of a worker."""
    there, changelog = reader.partitions(), changelog_of(settings.app_id)
    wrong = []
    for topic in (*SOURCE_TOPICS, CATALOG):
        wanted = 1 if topic == CATALOG else settings.partitions
        if there.get(topic) != wanted:
            told = f"has {there[topic]} partitions" if topic in there else "is not there"
            why = "" if topic == CATALOG else ", as RECALL_PARTITIONS says"
            wrong.append(f"topic {topic} {told}: allowed is {wanted}{why}; `recall topics create` makes topics")
        elif topic != CATALOG:
            wrong += _records_on(reader, topic, wanted)
    spans = [reader.span((changelog, n)) for n in range(there.get(changelog, 0))]
    if any(span.first < span.end for span in spans):
        wrong.append(
            f"topic {changelog} holds rows: a worker has run under app_id {settings.app_id}. Use another "
            "RECALL_APP_ID, or delete its state on purpose"
        )
    return [*wrong, *_group_wrong(admin, settings)]


def _records_on(reader: Reader, topic: str, partitions: int) -> list[str]:
    """Say what a source topic holds; on control it matters what it is."""
    spans = {n: reader.span((topic, n)) for n in range(partitions)}
    full = {n: span for n, span in spans.items() if span.first < span.end}
    if not full:
        return []
    count = sum(span.end - span.first for span in full.values())
    told = f"topic {topic} holds {count:,} records already"
    if topic != CONTROL:
        return [f"{told}: history behind them would be merged too late. Delete the topic and make it anew"]
    kinds = Counter(kind for n, span in full.items() for kind in _kinds(reader, n, span))
    named = ", ".join(f"{kind} {n:,}" for kind, n in kinds.items())
    why = "what steers comes after the history"
    if kinds["tick"]:
        why = "a worker has written the time, and the history lies before it"
    return [f"{told} ({named}): {why}. Delete the topic and make it anew"]


def _kinds(reader: Reader, number: int, span: Span) -> Iterator[str]:
    """Yield what the control records of a partition are; the first ones tell."""
    for chunk in reader.chunks((CONTROL, number), span, lambda _: None):
        for record in chunk:
            try:
                yield str(orjson.loads(record.value or b"")["kind"])
            except (orjson.JSONDecodeError, KeyError, TypeError):
                yield "unreadable"


def _group_wrong(admin: AdminClient, settings: Settings) -> list[str]:
    """Say whether the worker's group has members, or has read any of the topics."""
    group = settings.app_id
    try:
        found = _described(admin, group)
        if found is None or found.state == ConsumerGroupState.DEAD:
            return []
        # Only of a group that is there: asked for another one's offsets, the client may crash (librdkafka follows a
        # null pointer where the coordinator has just changed; confluent-kafka-javascript#374).
        [asked] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        committed, members = asked.result().topic_partitions or [], found.members
    except KafkaException as error:
        said = error.args[0]
        return [f"group {group}: {said.name()}, {said.str()}: whether a worker has read the topics cannot be told"]
    wrong = []
    if members:
        wrong.append(f"group {group} has {len(members)} members: a worker is running. Stop it")
    read = [place for place in committed if place.topic in SOURCE_TOPICS and place.offset >= 0]
    if read:
        named = ", ".join(f"{place.topic}[{place.partition}] at {place.offset}" for place in read[:_NAMED_MAX])
        more = f" and {len(read) - _NAMED_MAX} more" if len(read) > _NAMED_MAX else ""
        wrong.append(
            f"group {group} has read {named}{more}: a worker would go on from there, and not from the history. Use "
            "another RECALL_APP_ID, or delete the group on purpose"
        )
    return wrong


def _described(admin: AdminClient, group: str) -> ConsumerGroupDescription | None:
    """Describe a group; None where there is none. A coordinator that is only being found is asked again."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        [asked] = admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S).values()
        try:
            return asked.result()
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.GROUP_ID_NOT_FOUND:
                return None
            if code not in _NOT_YET or time.monotonic() > deadline:
                raise
        time.sleep(_WAIT_S)


def _keeping(admin: AdminClient, topics: Sequence[str]) -> dict[str, Keeping]:
    """Ask how topics keep their records."""
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    found = {}
    for resource, future in admin.describe_configs(resources, request_timeout=TIMEOUT_S).items():
        try:
            config = future.result()
        except KafkaException as error:
            raise BackfillError(f"topic {resource.name}: its configuration: {error.args[0].str()}") from error
        found[resource.name] = Keeping.of({name: entry.value for name, entry in config.items()})
    return found


def _check_whole(reader: Reader, sender: Sender) -> None:
    """See that the source topics hold just what was sent.

    Raises:
        FeedError: naming the first that does not.

    """
    for (topic, number), sent in sorted(sender.sent.items()):
        if topic not in SOURCE_TOPICS:
            continue
        span = reader.span((topic, number))
        if span.end != sender.ends[topic, number] or span.end - span.first > sent:
            raise FeedError(
                f"{topic}[{number}] holds {span.end - span.first:,} records where {sent:,} were written: somebody "
                "else writes to it. History behind others' records is merged too late: stop the producers first"
            )
        if span.end - span.first < sent:
            gone = sent - (span.end - span.first)
            raise FeedError(f"{topic}[{number}]: {gone:,} of {sent:,} records are deleted already: see its retention")


# -- the history -------------------------------------------------------------------------------------------------------


def _look(settings: Settings, records: Records, keeps: Mapping[str, Keeping], progress: Callable[[int], None]) -> Plan:
    """Go through the history once."""
    shop = settings.shop()
    now, live_from, currency = time.time_ns() // 1_000_000, shop.live_from, shop.currency
    cutoffs = {t: now - keep.retention_ms for t, keep in keeps.items() if keep.own_times and keep.retention_ms}
    partitioner = Partitioner(settings.partitions)
    counts: Counter[str] = Counter()
    old: Counter[str] = Counter()
    size: Counter[Place] = Counter()
    refused: Counter[str] = Counter()
    oldest: dict[str, int] = {}
    first, last, ahead, late, latest = 2**63, 0, 0, 0, ("", 0)
    for i, (topic, key, recorded_at, value) in enumerate(records, 1):
        if i % _CHUNK == 0:
            progress(_CHUNK)
        at = recorded_at
        if topic != CATALOG:
            read, body = parse(topic, key or None, value, recorded_at, currency)
            at = recorded_at if read is None else max(read, recorded_at)
            if type(body) is Rejected:
                if body.reason == _AHEAD and not keeps[topic].own_times:
                    ahead += 1
                    continue
                refused[body.reason] += 1
        if at >= live_from:
            late += 1
            latest = max(latest, (topic, at), key=lambda item: item[1])
        counts[topic] += 1
        first, last = min(first, recorded_at), max(last, recorded_at)
        oldest[topic] = min(oldest.get(topic, recorded_at), recorded_at)
        old[topic] += recorded_at < cutoffs.get(topic, 0)
        number = partitioner.of(key) if topic in SOURCE_TOPICS and topic != CONTROL else 0
        size[topic, number] += len(key) + len(value) + _OVERHEAD_BYTES
    if not counts:
        raise BackfillError("the history holds no record")
    if late:
        topic, at = latest
        raise BackfillError(
            f"live_from = {rfc3339(live_from)}: {late:,} records of the history are of that time or later, the last "
            f"of {topic} at {rfc3339(at)}: allowed is a live_from after all of them, or a history that ends before"
        )
    ticks = () if counts[CONTROL] else _ticks(settings, first, last)
    written = [*counts, *([CONTROL] if ticks else [])]
    unfit = [_unfit(topic, keeps[topic], oldest.get(topic, first), now) for topic in written]
    if any(unfit):
        raise BackfillError("\n  ".join(["the topics would not take the history:", *filter(None, unfit)]))
    largest = {topic: max(n for (t, _), n in size.items() if t == topic) for topic in counts}
    wanted = {one.name: int(one.config.get("retention.ms", _FOREVER)) for one in topics_plan(settings)}
    warnings = [
        warning
        for topic in written
        for warning in _warnings(
            topic, keeps[topic], old[topic], counts[topic] or len(ticks), largest.get(topic, 0), wanted[topic], now
        )
    ]
    return Plan(
        records=sum(counts.values()),
        first=rfc3339(first)[:10],
        last=rfc3339(last)[:10],
        by_topic=dict(counts),
        ticks=ticks,
        refused=dict(refused),
        ahead=ahead,
        keeps=keeps,
        warnings=tuple(warnings),
    )


def _ticks(settings: Settings, first: int, last: int) -> tuple[int, ...]:
    """Return the midnights of the history and the one that closes it, as a feeder ticks; none from live_from on."""
    shop = settings.shop()
    ahead = midnights(first, shop.days)
    ticks = list(takewhile(lambda midnight: midnight <= last, ahead))
    closing = next(midnights(last, shop.days))
    return tuple(midnight for midnight in (*ticks, closing) if midnight < shop.live_from)


def _is_ahead(settings: Settings, keeps: Mapping[str, Keeping], record: HistoryRecord) -> bool:
    """Tell whether a time is too far ahead of its broker's, and the topic would make the worker blind to it."""
    topic, key, recorded_at, value = record
    if topic == CATALOG or keeps[topic].own_times:
        return False
    _, body = parse(topic, key or None, value, recorded_at, settings.shop().currency)
    return type(body) is Rejected and body.reason == _AHEAD


def _unfit(topic: str, keep: Keeping, oldest: int, now: int) -> str | None:
    """Say why a topic would not take the history as it is."""
    if keep.own_times and keep.oldest_ms is not None and oldest < now - keep.oldest_ms:
        return (
            f"topic {topic}: {_TOO_OLD} = {keep.oldest_ms}: the broker refuses records as old as "
            f"{rfc3339(oldest)}; allowed is {now - oldest} or more"
        )
    return None


def _warnings(topic: str, keep: Keeping, old: int, count: int, largest: int, wanted_ms: int, now: int) -> Iterator[str]:
    """Say what the topic would delete of the history, and when."""
    days = None if keep.retention_ms is None else f"retention.ms = {keep.retention_ms} ({_days(keep.retention_ms)})"
    if keep.compacted:
        yield (
            f"topic {topic}: cleanup.policy holds compact: of each user only the last record stays, and the history "
            "is lost to the next replay; set it to delete"
        )
    if old:
        yield (
            f"topic {topic}: message.timestamp.type = CreateTime and {days}: {old:,} of {count:,} records are older "
            "and are deleted as soon as the broker looks; set retention.ms = -1"
        )
    elif keep.retention_ms is not None and (wanted_ms == _FOREVER or keep.retention_ms < wanted_ms):
        since = "each record's own time" if keep.own_times else f"now, so until {rfc3339(now + keep.retention_ms)[:10]}"
        wanted = "-1" if wanted_ms == _FOREVER else f"{wanted_ms} or more"
        yield (
            f"topic {topic}: {days}, counted from {since}: then the history is gone, and no replay has it; "
            f"set retention.ms = {wanted}"
        )
    if keep.retention_bytes is not None and largest > keep.retention_bytes:
        yield (
            f"topic {topic}: retention.bytes = {keep.retention_bytes}: a partition gets about {largest:,} bytes of "
            "history, and the oldest are deleted; set it to -1"
        )


def _days(ms: int) -> str:
    return f"{ms / DAY_MS:.3g} days"


_AHEAD: Final = "ahead of broker"
"""The reason by which such a record is refused."""
