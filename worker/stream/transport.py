"""Whole fetched batches through an ordinary Faust agent.

Faust keeps membership, assignment, recovery's sequence and the command line; its own way of one set of asyncio tasks
for each record is left. One item on the agent's channel carries the records of all topics of a lane that one fetch
brought. Commits are the lanes' (`committer`), so Faust's offsets stay empty.

What is overridden of Faust's and aiokafka's internals is listed in `internals`, and checked there.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import faust
import structlog
from aiokafka.consumer.fetcher import FetchResult
from faust.events import Event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from worker.stream import internals, probe
from worker.stream.committer import EXIT_REFUSED, Commit, CommitSettings, Committer, die
from worker.stream.internals import RefusedError
from worker.stream.recovery import BatchTableManager
from worker.stream.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.stream.lane import Group, Work
    from worker.stream.processor import Output

log = structlog.get_logger("recall.stream")

EXIT_WORK_FAILED = 72
ITEMS_MAX = 8
"""Fetched items that wait for the agents, before the fetch loop pauses."""
FETCH_WAIT_MS = 500
PLAIN_FETCH_WAIT_MS = 20
"""The embedded broker does not wake a fetch that waits when records come in."""
READ_AHEAD_RECORDS = 20_000
"""Records of one topic and partition that may be buffered, before that one is paused."""


class Item(NamedTuple):
    """What one fetch brought for a lane."""

    lane: Lane
    records: list[tuple[TP, Sequence[Any]]]
    reached: list[str]
    """Topics of which all that was there at the start has now been fetched."""


class BatchMessage(ConsumerMessage):  # type: ignore[misc]
    """One message for an item; it is acknowledged once the lane has taken the records."""

    def on_final_ack(self, consumer: Any) -> bool:
        self.acked = True
        consumer.taken(self)
        return True


class Lane:
    """A lane in this process: its work and its committer."""

    def __init__(self, group: Group, number: int, committer: Committer) -> None:
        self.group = group
        self.number = number
        self.committer = committer
        self.work: Work | None = None
        self.ends: dict[str, int] = {}
        """Where topics ended at the start that were not read that far yet."""
        self.queued = 0
        self.unread: set[str] = set()
        """Topics that the work still waits for, since they have more from before the start."""
        self.closing = False
        self.held: str | None = None
        self.lock = asyncio.Lock()

    @property
    def tps(self) -> set[TP]:
        return {TP(topic, self.number) for topic in self.group.topics}

    async def take(self, item: Item) -> None:
        """Work off what was fetched, and what it sets free."""
        work = self.work
        assert work is not None  # items come after the seek
        for tp, records in item.records:
            work.feed(tp.topic, records)
        for topic in item.reached:
            work.expect(topic, more=False)
            self.unread.discard(topic)
        if self.group.first in self.unread:
            return
        async with self.lock:
            while not self.closing and (unit := work.advance()) is not None:
                await self.committer.add(unit)
                await asyncio.sleep(0)
        if work.held != self.held:
            self.held = work.held
            event = "partition waits" if self.held else "partition goes on"
            log.warning(event, partition=self.number, waits_for=self.held)

    async def close(self) -> None:
        """Finish the unit in hand and commit; what is buffered is read again by whoever has the lane next."""
        self.closing = True
        async with self.lock:
            await self.committer.drain()


class Lanes:
    """The lanes that are assigned to this process."""

    def __init__(self, app: StreamApp) -> None:
        self._app = app
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._group_of = {topic: group for group in app.groups for topic in group.topics}

    def __iter__(self) -> Any:
        return iter(self._lanes.values())

    def of(self, tp: TP) -> Lane | None:
        """Return the lane of a source partition, where it is assigned."""
        group = self._group_of.get(tp.topic)
        return None if group is None else self._lanes.get((group.name, tp.partition))

    async def acquire(self, assignment: Iterable[TP]) -> None:
        """Take the lanes of an assignment: from here on nobody else can commit for them."""
        app = self._app
        await self.release()
        wanted = {(self._group_of[tp.topic].name, tp.partition): tp for tp in assignment if tp.topic in self._group_of}
        for (name, number), tp in sorted(wanted.items()):
            group = self._group_of[tp.topic]
            changelog = app.rows.changelog_topic_name if group.has_rows else None
            committer = Committer(name, number, app.commit_settings, changelog, app.committed)
            self._lanes[name, number] = Lane(group, number, committer)
        await asyncio.gather(*(lane.committer.start() for lane in self._lanes.values()))
        log.info("lanes acquired", lanes=[f"{name} {number}" for name, number in self._lanes])

    async def release(self) -> None:
        lanes, self._lanes = self._lanes, {}
        await asyncio.gather(*(lane.committer.stop() for lane in lanes.values()))

    async def close(self) -> None:
        """Commit all that the lanes have in hand, and let them do no more."""
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """Fetches for the lanes; other topics are not consumed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected: dict[TP, int] = {}
        self._room = asyncio.Event()

    def taken(self, message: BatchMessage) -> None:
        """Note that a lane has taken an item."""
        self._unacked_messages.discard(message)
        self._room.set()

    # -- positions -----------------------------------------------------------------------------------------------------

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._expected.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Seek to where the lanes' own records say, not to the group's offsets, which may have expired."""
        try:
            await self._seek_lanes()
        except RefusedError as error:
            die(EXIT_REFUSED, "refused to start", reason=str(error))

    async def _seek_lanes(self) -> None:
        app = self.app
        tps = {tp for lane in app.lanes for tp in lane.tps}
        for lane in app.lanes:
            await app.open_lane(lane)
        earliest = await self.earliest_offsets(*tps)
        ends = await self.highwaters(*tps)
        starts = {}
        for lane in app.lanes:
            for tp in lane.tps:
                starts[tp] = first = start_of(lane, tp, earliest[tp] or 0, ends[tp] or 0)
                more = first < (ends[tp] or 0)
                lane.work.expect(tp.topic, more=more)
                if more:
                    lane.ends[tp.topic] = ends[tp]
                    lane.unread.add(tp.topic)
        await self.seek_wait(starts)
        self._expected = dict(starts)
        self._committed_offset.update(starts)

    async def wait_empty(self) -> None:
        """Let the lanes finish the unit in hand, and commit what they have; called when they are taken away."""
        await self.app.lanes.close()

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    def position_now(self, tp: TP) -> int | None:
        """Return the position, read across threads; None where it is not known."""
        assignment = self._thread._consumer._subscription.subscription.assignment  # noqa: SLF001 - aiokafka has no other
        state = assignment._tp_state.get(tp)  # noqa: SLF001
        position: int | None = None if state is None else state._position  # noqa: SLF001
        return position

    # -- the fetch loop ------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        app = self.app
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):  # noqa: SLF001 - as Faust's own loop
                await asyncio.sleep(0)
                if sum(lane.queued for lane in app.lanes) >= ITEMS_MAX:
                    await self._wait_for_room()
                    continue
                records = await self._fetch()
                self._hand_out(records)
                app.tables.recovery.check_ended(self)
        except self.consumer_stopped_errors:
            if not app.should_stop:
                raise
        except asyncio.CancelledError:
            if not app.should_stop:
                raise

    async def _wait_for_room(self) -> None:
        self._room.clear()
        try:
            await asyncio.wait_for(self._room.wait(), 0.2)
        except TimeoutError:
            return

    async def _fetch(self) -> dict[TP, Sequence[Any]]:
        """Return fetched records. Source partitions are not even asked for before `perform_seek`."""
        app = self.app
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
            return {}
        rebalancing, generation = app.rebalancing, app.consumer_generation_id
        active = {tp for tp in self._get_active_partitions() if self._wanted(tp, rebalancing=rebalancing)}
        if not active:  # to aiokafka an empty set means all
            await asyncio.sleep(0.05)
            return {}
        fetched = await self._getmany(active_partitions=frozenset(active), timeout=0.1 if rebalancing else 0.5)
        if not fetched or self.should_stop:
            return {}
        if not self.flow_active or app.consumer_generation_id != generation or app.rebalancing != rebalancing:
            if not app.rebalancing:  # else recovery's end seeks
                await self.seek_wait({tp: offset for tp, offset in self._expected.items() if tp in self.assignment()})
            return {}
        return {TP(*tp): records for tp, records in fetched.items()}

    def _wanted(self, tp: TP, *, rebalancing: bool) -> bool:
        if self._is_changelog_tp(tp):
            return True
        lane = self.app.lanes.of(tp)
        if rebalancing or lane is None or lane.work is None:
            return False
        if tp.topic == lane.group.first and tp.topic in lane.unread:
            return True
        buffered: int = lane.work.buffered(tp.topic)
        return buffered < READ_AHEAD_RECORDS

    def _hand_out(self, fetched: dict[TP, Sequence[Any]]) -> None:
        """Put one item on the channel of each lane that got records, or has something to go on with."""
        recovery = self.app.tables.recovery
        by_lane: dict[Lane, list[tuple[TP, Sequence[Any]]]] = {}
        for tp, records in fetched.items():
            if self._is_changelog_tp(tp):
                recovery.apply(tp, records)
                continue
            fresh = self._once(tp, records)
            lane = self.app.lanes.of(tp)
            if fresh and lane is not None:
                by_lane.setdefault(lane, []).append((tp, fresh))
        if self.app.rebalancing:
            return
        for lane in self.app.lanes:
            if lane.work is None:
                continue
            reached = self._reached(lane)
            held = lane.work.held is not None and lane.queued == 0
            if lane in by_lane or reached or held:
                self._put(Item(lane, by_lane.get(lane, []), reached))

    def _once(self, tp: TP, records: Sequence[Any]) -> Sequence[Any]:
        """Deliver every offset once, in order. Holes are normal: markers, what was aborted or compacted."""
        expected = self._expected.get(tp)
        if expected is not None and records[0].offset < expected:
            records = [record for record in records if record.offset >= expected]
        if records:
            self._expected[tp] = records[-1].offset + 1
        return records

    def _reached(self, lane: Lane) -> list[str]:
        reached = []
        for topic, end in lane.ends.items():
            position = self.position_now(TP(topic, lane.number))
            if position is not None and position >= end:
                reached.append(topic)
        for topic in reached:
            del lane.ends[topic]
        return reached

    def _put(self, item: Item) -> None:
        lane = item.lane
        tp = TP(lane.group.topics[0], lane.number)
        now = time.time()
        message = BatchMessage(
            tp.topic,
            tp.partition,
            -1,
            now,
            0,
            None,
            None,
            None,
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )
        message.incref()
        self._unacked_messages.add(message)
        lane.queued += 1
        for channel in self.app.topics._tp_index[tp]:  # noqa: SLF001 - where Faust's conductor keeps it
            channel.queue.put_nowait(Event(self.app, None, item, None, message))


def start_of(lane: Lane, tp: TP, earliest: int, end: int) -> int:
    """Return where to read a topic from; a position that the topic no longer holds is refused."""
    assert lane.work is not None  # opened before the seek
    start = lane.work.start_offset(tp.topic)
    if start is None:
        return earliest
    if not earliest <= start <= end:
        raise RefusedError(
            f"{tp.topic} partition {tp.partition}: the worker left off at offset {start}, but the topic holds "
            f"{earliest} to {end}: records in between are gone, or it is another cluster's topic. Restore the topic, "
            f"or start anew from the history that there is under another app_id"
        )
    return start


class ReadCommittedThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Reads what is committed only; Faust would do so in its own transactional mode alone."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Before start, where the fetcher takes them from.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        transactional = self.app.commit_settings.transactional
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS if transactional else PLAIN_FETCH_WAIT_MS  # noqa: SLF001
        return consumer

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        """Take the records as the parser made them: to wrap each in a `ConsumerRecord` costs as much as to parse it."""
        for result in consumer._fetcher._records.values():  # noqa: SLF001 - aiokafka has no hook for it
            if type(result) is FetchResult and result.has_more():
                result._partition_records._consumer_record = _as_it_is  # noqa: SLF001
        return await super()._fetch_records(consumer, *args, **kwargs)


def _as_it_is(_tp: Any, record: Any) -> Any:
    return record


class IdempotentProducer(driver.Producer):  # type: ignore[misc]
    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class BatchTransport(driver.Transport):  # type: ignore[misc]
    Consumer = BatchConsumer
    Producer = IdempotentProducer


class RowTable(faust.Table):  # type: ignore[misc]
    """A table of bytes, kept by partition."""

    def _new_store_by_url(self, url: Any) -> MemoryStore:
        return MemoryStore(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            value_type=self.value_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            loop=self.loop,
            options=self.options,
        )


class StreamApp(faust.App):  # type: ignore[misc]
    """A Faust app whose agents work off lanes."""

    def __init__(
        self,
        app_id: str,
        *,
        groups: Sequence[Group],
        partitions: int,
        commit_settings: CommitSettings,
        session_timeout_s: float,
        **options: Any,
    ) -> None:
        """Make the app: `partitions` are those of the groups that have rows; the others have one."""
        internals.check()
        self.groups = tuple(groups)
        self.partitions = partitions
        self.commit_settings = commit_settings
        self.topic_ids: dict[str, str] = {}
        """The broker's ids of the source topics, where it tells them."""
        super().__init__(
            app_id,
            TableManager=BatchTableManager,
            Table=RowTable,
            store="memory://",
            topic_partitions=partitions,
            topic_disable_leader=True,
            table_standby_replicas=0,  # the memory store wipes standbys when recovery ends
            topic_allow_declare=False,
            producer_acks=-1,
            broker_session_timeout=session_timeout_s,
            broker_heartbeat_interval=min(3.0, session_timeout_s / 4),
            broker_request_timeout=max(40.0, session_timeout_s + 5),
            consumer_auto_offset_reset="earliest",
            **options,
        )
        self.rows = self.Table("rows", key_type=bytes, value_type=bytes, partitions=partitions)
        self.lanes = Lanes(self)
        for group in self.groups:
            self.agent(self.topic(*group.topics, key_type=bytes, value_type=bytes), name=group.name)(self._work)

    async def on_first_start(self) -> None:
        """Refuse a broker that cannot do what the commits need."""
        await super().on_first_start()
        settings = self.commit_settings
        if settings.transactional:
            try:
                await probe.check_topics(settings.connection, settings, self.rows.changelog_topic_name)
                await probe.check_transactions(settings.connection, self.conf.id, settings.deadline_s)
            except RefusedError as error:
                die(EXIT_REFUSED, "refused to start", reason=str(error))

    async def _work(self, stream: Any) -> None:
        stream.enable_acks = False
        async for event in stream.events():
            item: Item = event.value
            try:
                if not item.lane.closing:
                    await item.lane.take(item)
            except Exception as error:  # noqa: BLE001 - a crash that goes through Faust would commit first
                die(EXIT_WORK_FAILED, "work failed", lane=item.lane.group.name, error=repr(error), exc_info=True)
            item.lane.queued -= 1
            event.message.ack(self.consumer)

    async def _stop_consumer(self) -> None:
        await super()._stop_consumer()
        await self.lanes.release()

    async def open_lane(self, lane: Lane) -> None:
        """Make the lane's work from its recovered rows, and write what has to be read first."""
        group = lane.group
        rows = self.rows.data.rows(lane.number) if group.has_rows else {}
        self._check_layout(group)
        partitions = self._partitions_of(group)
        try:
            work = await group.open(lane.number, rows)
            work.claim(partitions, {topic: self.topic_ids[topic] for topic in partitions if topic in self.topic_ids})
        except ValueError as error:
            raise RefusedError(str(error)) from error
        for output in group.greet(lane.number, work):
            await self.write(output)
        lane.work, lane.ends, lane.queued = work, {}, 0

    def _partitions_of(self, group: Group) -> dict[str, int]:
        return dict.fromkeys(group.topics, self.partitions if group.has_rows else 1)

    def _check_layout(self, group: Group) -> None:
        for topic, wanted in self._partitions_of(group).items():
            found = self.consumer._thread.topic_partitions(topic)  # noqa: SLF001 - Faust's own way to it
            if found is not None and found != wanted:
                raise RefusedError(
                    f"topic {topic} has {found} partitions, the setting says {wanted}: source topics must have as many "
                    f"partitions as the setting, all alike. Correct the setting, or make the topic anew"
                )
        if not self.commit_settings.transactional and group.has_rows:
            mine = {tp.partition for lane in self.lanes for tp in lane.tps if lane.group is group}
            if len(mine) < self.partitions:
                raise RefusedError(
                    f"{len(mine)} of {self.partitions} partitions were assigned: in plain mode there is no fence "
                    f"between workers, so allowed is one process. Stop the other one, or use the transactional mode"
                )

    async def write(self, output: Output) -> None:
        """Write a record outside of any lane's commit, and wait for it."""
        await self.producer.send_and_wait(
            output.topic, output.key, output.value, output.partition, None, dict(output.headers) or None
        )

    async def committed(self, commit: Commit) -> None:
        """Tell Faust's recovery and monitors what a lane has committed."""
        offsets = {TP(topic, commit.partition): offset for topic, offset in commit.offsets.items()}
        if commit.changelog_offset is not None:
            changelog = TP(self.rows.changelog_topic_name, commit.partition)
            self.tables.recovery.active_offsets[changelog] = commit.changelog_offset
        if offsets and not self.commit_settings.transactional:
            await self.consumer._commit(offsets)  # noqa: SLF001 - for those who watch the lag, as the feeder does
        self.consumer._committed_offset.update(offsets)  # noqa: SLF001
        self.monitor.on_tp_commit(offsets)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)
