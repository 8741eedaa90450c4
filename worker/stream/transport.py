"""Whole fetched batches through an ordinary Faust agent.

Faust keeps membership, assignment, recovery's sequence and the command line; its own way of one set of asyncio tasks
for each record is left. One item on the agent's channel carries the records of all topics of a lane that one fetch
brought. Commits are the lanes' (`committer`), so Faust's offsets stay empty.

What is overridden of Faust's and aiokafka's internals is listed in `internals`, and checked there.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import faust
import structlog
from aiokafka.consumer.fetcher import FetchResult
from faust.events import Event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from worker.stream import internals, probe
from worker.stream.batches import Batch, from_offset, unpacked
from worker.stream.committer import Commit, CommitSettings, Committer
from worker.stream.exits import EXIT_REFUSED, EXIT_UNAVAILABLE, RefusedError, UnavailableError, die
from worker.stream.lane import Lane, Lanes
from worker.stream.metrics import Metrics, StreamCollector
from worker.stream.process import calm_gc
from worker.stream.recovery import BatchTableManager, ending_in_failure
from worker.stream.stores.memory import MemoryStore
from worker.stream.strategies import choose
from worker.stream.table import RowTable
from worker.stream.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from worker.stream.connection import Connection
    from worker.stream.lane import Group, Work
    from worker.stream.processor import Output
    from worker.stream.stores import Store

log = structlog.get_logger("recall.stream")

ITEMS_MAX = 8
"""Fetched items on their way through the agents' channels, before the fetch loop pauses."""
FETCH_WAIT_MS = 500
PLAIN_FETCH_WAIT_MS = 20
"""The embedded broker does not wake a fetch that waits when records come in."""
READ_AHEAD_RECORDS = 20_000
"""Records of one topic and partition that may wait in a lane, before that one is paused."""


class Item(NamedTuple):
    """What one fetch brought for a lane."""

    lane: Lane
    batches: list[tuple[str, Batch]]
    """By topic."""
    reached: list[str]
    """Topics of which all that was there at the start has now been fetched."""


class BatchMessage(ConsumerMessage):  # type: ignore[misc]
    """One message for an item; it is acknowledged once the lane has taken the records."""

    def on_final_ack(self, consumer: Any) -> bool:
        self.acked = True
        consumer.taken(self)
        return True


class BatchConsumer(driver.Consumer):  # type: ignore[misc]
    """Fetches for the lanes; other topics are not consumed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected: dict[TP, int] = {}
        self._room = asyncio.Event()
        self.turns = 0
        """Of the fetch loop."""

    def taken(self, message: BatchMessage) -> None:
        """Note that a lane has taken an item."""
        self._unacked_messages.discard(message)
        self._room.set()

    # -- positions -----------------------------------------------------------------------------------------------------

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._expected.clear()
        self._unacked_messages.clear()  # items of the lanes before; Faust has emptied their channels
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Seek to where the lanes' own records say, not to the group's offsets, which may have expired."""
        try:
            await self._seek_lanes()
        except RefusedError as error:
            die(EXIT_REFUSED, "refused to start", reason=str(error))

    async def _seek_lanes(self) -> None:
        app = self.app
        lanes = list(app.lanes)  # all at once: Faust gives the whole of it as long as a request may take
        works = dict(zip(lanes, await asyncio.gather(*map(app.open_lane, lanes)), strict=True))
        tps = {lane: [TP(topic, lane.number) for topic in lane.group.topics] for lane in works}
        every = [tp for of_lane in tps.values() for tp in of_lane]
        await self._refuse_lost_rows({lane.number: tps[lane] for lane, work in works.items() if is_new(work, lane)})
        earliest = await self.earliest_offsets(*every)
        ends = await self.highwaters(*every)
        starts = {
            tp: start_of(work, tp, earliest[tp] or 0, ends[tp] or 0) for lane, work in works.items() for tp in tps[lane]
        }
        await self.seek_wait(starts)
        for tp in starts:
            if (state := self._state(tp)) is not None:
                state.await_reset = partial(lost, tp, state)
        self._expected = dict(starts)
        self._committed_offset.update(starts)
        for lane, work in works.items():
            lane.start(work, {tp.topic: ends[tp] for tp in tps[lane] if starts[tp] < (ends[tp] or 0)})

    async def _refuse_lost_rows(self, new: Mapping[int, Sequence[TP]]) -> None:
        """Refuse to begin where the group has been further: each commit wrote a partition record beside its offset."""
        committed = self._thread._ensure_consumer().committed  # noqa: SLF001 - as Faust's own questions
        for number, tps in new.items():
            told = await asyncio.gather(*(self._thread.call_thread(committed, tp) for tp in tps))
            if any(offset is not None for offset in told):
                raise RefusedError(
                    f"partition {number} was worked on before, and {self.app.rows.changelog_topic_name} has nothing of "
                    f"it: the changelog was made anew. Restore it, or start anew from the history that there is under "
                    f"another app_id"
                )

    async def wait_empty(self) -> None:
        """Let the lanes finish the unit in hand, and commit what they have; called when they are taken away."""
        await self.app.lanes.close()

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    def position_now(self, tp: TP) -> int | None:
        """Return the position, read across threads; None where it is not known."""
        return self.place_now(tp)[0]

    def place_now(self, tp: TP) -> tuple[int | None, int | None]:
        """Return the position and the end that the last fetch told, read across threads; None for what is not known."""
        state = self._state(tp)
        return (None, None) if state is None else (state._position, state.lso)  # noqa: SLF001

    def _state(self, tp: TP) -> Any:
        subscription = self._thread._consumer._subscription.subscription  # noqa: SLF001 - aiokafka has no other way
        assignment = None if subscription is None else subscription.assignment
        return None if assignment is None else assignment._tp_state.get(tp)  # noqa: SLF001

    def fetch_at_once(self, bytes_max: int) -> None:
        """Set how much of one partition the next fetches ask for."""
        self._thread._consumer._fetcher._max_partition_fetch_bytes = bytes_max  # noqa: SLF001 - aiokafka fixes it at start

    # -- the fetch loop ------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        app = self.app
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):  # noqa: SLF001 - as Faust's own loop
                await asyncio.sleep(0)
                self.turns += 1
                if len(self._unacked_messages) >= ITEMS_MAX:
                    await self._wait_for_room()
                    continue
                self._hand_out(await self._fetch())
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

    async def _fetch(self) -> dict[TP, list[Batch]]:
        """Return what was fetched. Source partitions are not even asked for before `perform_seek`."""
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
        if not fetched:
            return {}
        if self.should_stop:
            app.tables.recovery.leave_out(fetched)
            return {}
        if not self.flow_active or app.consumer_generation_id != generation or app.rebalancing != rebalancing:
            app.tables.recovery.leave_out(fetched)
            if not app.rebalancing:  # else recovery's end seeks
                await self.seek_wait({tp: offset for tp, offset in self._expected.items() if tp in self.assignment()})
            return {}
        return {TP(*tp): batches for tp, batches in fetched.items()}

    def _wanted(self, tp: TP, *, rebalancing: bool) -> bool:
        if self._is_changelog_tp(tp):
            return True
        lane = self.app.lanes.of(tp.topic, tp.partition)
        return not rebalancing and lane is not None and lane.hungry(tp.topic, READ_AHEAD_RECORDS)

    def _hand_out(self, fetched: dict[TP, list[Batch]]) -> None:
        """Put one item on the channel of each lane that got records, or need not wait for more."""
        recovery = self.app.tables.recovery
        by_lane: dict[Lane, list[tuple[str, Batch]]] = {}
        for tp, batches in fetched.items():
            if self._is_changelog_tp(tp):
                recovery.apply(tp, batches)
                continue
            fresh = self._once(tp, batches)
            lane = self.app.lanes.of(tp.topic, tp.partition)
            if fresh and lane is not None:
                by_lane.setdefault(lane, []).extend((tp.topic, batch) for batch in fresh)
        if self.app.rebalancing or self.should_stop:  # positions may be past what was left out
            return
        for lane in self.app.lanes:
            reached = self._reached(lane)
            if lane in by_lane or reached:
                self._put(Item(lane, by_lane.get(lane, []), reached))

    def _once(self, tp: TP, batches: list[Batch]) -> list[Batch]:
        """Deliver every offset once, in order. Holes are normal: markers, what was aborted or compacted."""
        fresh = from_offset(batches, self._expected.get(tp, 0))
        if fresh:
            self._expected[tp] = fresh[-1].next
        return fresh

    def _reached(self, lane: Lane) -> list[str]:
        reached = []
        for topic, end in list(lane.ends.items()):
            position = self.position_now(TP(topic, lane.number))
            if position is not None and position >= end:
                del lane.ends[topic]
                reached.append(topic)
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
        for channel in self.app.topics._tp_index[tp]:  # noqa: SLF001 - where Faust's conductor keeps it
            channel.queue.put_nowait(Event(self.app, None, item, None, message))


def is_new(work: Work, lane: Lane) -> bool:
    """Tell whether a lane with rows has none, and not even a position."""
    return lane.group.has_rows and all(work.start_offset(topic) is None for topic in lane.group.topics)


def start_of(work: Work, tp: TP, earliest: int, end: int) -> int:
    """Return where to read a topic from; a position that the topic no longer holds is refused."""
    start = work.start_offset(tp.topic)
    if start is None:
        return earliest
    if not earliest <= start <= end:
        raise RefusedError(
            f"{tp.topic} partition {tp.partition}: the worker left off at offset {start}, but the topic holds "
            f"{earliest} to {end}: records in between are gone, or it is another cluster's topic. Restore the topic, "
            f"or start anew from the history that there is under another app_id"
        )
    return start


def lost(tp: TP, state: Any, _strategy: int) -> NoReturn:
    """End the process in place of aiokafka's `await_reset`, which would go on from what is left without a word."""
    die(
        EXIT_REFUSED,
        "records are gone",
        reason=f"{tp.topic} partition {tp.partition}: the topic does not hold offset {state._position}, "  # noqa: SLF001
        f"which comes next: records were deleted before they were read, or it was made anew. Restore the topic, or "
        f"start anew from the history that there is under another app_id",
    )


class ReadCommittedThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Reads what is committed only; Faust would do so in its own transactional mode alone."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Before start, where the fetcher takes them from.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        transactional = self.app.commit_settings.transactional
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS if transactional else PLAIN_FETCH_WAIT_MS  # noqa: SLF001
        return consumer

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> Any:
        """Return batches of records, by partition; waits for some for `timeout` seconds."""
        batches = await self._take_batches(consumer, active_partitions, max_records)
        if not batches and timeout and self.consumer.flow_active:
            fetcher = consumer._fetcher  # noqa: SLF001 - here and below, aiokafka has no hook for it
            with fetcher._subscriptions.fetch_context():  # noqa: SLF001
                waiter = fetcher._create_fetch_waiter()  # noqa: SLF001
                done, _ = await asyncio.wait([waiter], timeout=timeout)
            if not done:
                waiter.cancel()
                return {}
            waiter.result()  # raises what is wrong with authorization
            batches = await self._take_batches(consumer, active_partitions, max_records)
        return batches

    async def _take_batches(self, consumer: Any, active_partitions: Any, max_records: int | None) -> Any:
        """Return what was fetched already."""
        for result in consumer._fetcher._records.values():  # noqa: SLF001
            if type(result) is FetchResult and result.has_more():
                fetched = result._partition_records  # noqa: SLF001
                fetched._records_iterator = unpacked(fetched)  # noqa: SLF001
        return await super()._fetch_records(consumer, active_partitions, 0, max_records)


class IdempotentProducer(driver.Producer):  # type: ignore[misc]
    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class BatchTransport(driver.Transport):  # type: ignore[misc]
    Consumer = BatchConsumer
    Producer = IdempotentProducer


def faust_options(connection: Connection) -> dict[str, Any]:
    """Return the options by which a Faust app reaches the brokers."""
    context = None if connection.tls is None else connection.tls.context()
    credentials = context  # Faust takes it for what it is
    if (sasl := connection.sasl) is not None:
        credentials = faust.SASLCredentials(
            username=sasl.username, password=sasl.password, mechanism=sasl.mechanism, ssl_context=context
        )
    brokers = [f"kafka://{broker.strip()}" for broker in connection.brokers.split(",")]
    return {"broker": brokers, "broker_credentials": credentials}


class StreamApp(faust.App):  # type: ignore[misc]
    """A Faust app whose agents hand what was fetched to the lanes."""

    def __init__(
        self,
        commits: CommitSettings,
        *,
        groups: Sequence[Group],
        partitions: int,
        session_timeout_s: float = 10.0,
        stuck_s: float = 120.0,
        row_store: Store | None = None,
        find_topic_ids: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
        instance_id: str | None = None,
        **options: Any,
    ) -> None:
        """Make the app: `partitions` are those of the groups that have rows; the others have one.

        Rows are kept in memory where no `row_store` is given. `find_topic_ids` asks the broker for the ids of source
        topics and changelog; there are brokers that have none. A process with an `instance_id` does not leave when it
        stops: it has the session timeout to come back. One that has stood still for `stuck_s` with work to do ends
        itself.
        """
        internals.check()
        self.row_store = row_store or MemoryStore()
        self._find_topic_ids = find_topic_ids
        self.groups = tuple(groups)
        self.partitions = partitions
        self.commit_settings = commits
        self.topic_ids: Mapping[str, str] = {}
        """The broker's ids of source topics and changelog, where it tells them."""
        self.tombstones_ms = 0
        """How long the changelog keeps the marks of dropped rows; 0 where the broker does not tell."""
        if instance_id is not None:
            # The broker answers a restart with the assignment of before, which names the process by its URL.
            options |= {"consumer_group_instance_id": instance_id, "canonical_url": f"http://{instance_id}"}
        super().__init__(
            commits.group,
            TableManager=BatchTableManager,
            Table=RowTable,
            store="memory://",
            **faust_options(commits.connection),
            topic_partitions=partitions,
            topic_disable_leader=True,
            table_standby_replicas=0,  # nobody fences a standby's changelog, and none is read after recovery
            topic_allow_declare=False,
            producer_acks=-1,
            broker_session_timeout=session_timeout_s,
            broker_heartbeat_interval=min(3.0, session_timeout_s / 4),
            broker_request_timeout=max(40.0, session_timeout_s + 5),
            consumer_auto_offset_reset="earliest",
            web_tables_enabled=False,  # would show rows to whoever asks
            web_router_enabled=False,
            **options,
        )
        self.rows = self.Table("rows", key_type=bytes, value_type=bytes, partitions=partitions)
        self.lanes = Lanes(self.groups, self._make_lane, commits.stop_s, die=die)
        self.pages: list[Callable[[Any], None]] = []
        """What adds further pages to the web server's application."""
        self.metrics = Metrics(group.name for group in self.groups)
        self.watch = Watch(self, stuck_s, None if commits.transactional else session_timeout_s / 2)
        self.metrics.registry.register(StreamCollector(self.watch, self.lanes, self._row_count))
        for group in self.groups:
            self.agent(self.topic(*group.topics, key_type=bytes, value_type=bytes), name=group.name)(self._hand_over)

    def run(self) -> None:
        """Run as a process of its own, until SIGTERM: it commits what is in hand and ends."""
        self.finalize()
        faust.Worker(self, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()

    async def on_first_start(self) -> None:
        """Refuse a broker that cannot do what the commits need; where it does not answer, leave it to a new process."""
        calm_gc()
        await super().on_first_start()
        try:
            await self._check_broker()
        except RefusedError as error:
            die(EXIT_REFUSED, "refused to start", reason=str(error))
        except UnavailableError as error:
            die(EXIT_UNAVAILABLE, "could not start", reason=str(error))

    async def _check_broker(self) -> None:
        settings = self.commit_settings
        if settings.transactional:
            connection, topic = settings.connection.aiokafka(), self.rows.changelog_topic_name
            self.tombstones_ms = await probe.check_topics(connection, settings, topic)
            await probe.check_transactions(connection, self.conf.id, settings.deadline_s)
        if self._find_topic_ids is not None:
            self.topic_ids = await self._find_topic_ids()

    def _row_count(self, partition: int) -> int:
        count: int = self.rows.data.row_count(partition)
        return count

    async def on_start(self) -> None:
        await super().on_start()
        self.watch.start()

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        self.watch.stop()

    def on_webserver_init(self, web: Any) -> None:
        """Add the pages; Faust's web server is up before the consumer is, so also during recovery."""
        for add in (self.watch.add_pages, *self.pages):
            add(web.web_app)

    async def _hand_over(self, stream: Any) -> None:
        stream.enable_acks = False
        async for event in stream.events():
            item: Item = event.value
            for topic, batch in item.batches:
                item.lane.put(topic, batch)
            for topic in item.reached:
                item.lane.reached(topic)
            event.message.ack(self.consumer)

    def _make_lane(self, group: Group, number: int) -> Lane:
        settings = self.commit_settings
        changelog = self.rows.changelog_topic_name if group.has_rows else None
        strategy = choose(settings, group.name, number, changelog, self.watch.check_stall)
        committer = Committer(group.name, number, settings, strategy, partial(self.committed, group.name), die=die)
        return Lane(group, number, committer, die=die)

    async def _stop_consumer(self) -> None:
        await super()._stop_consumer()
        await self.lanes.release()

    async def open_lane(self, lane: Lane) -> Work:
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
        return work

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
            mine = [lane for lane in self.lanes if lane.group is group]
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

    async def committed(self, group: str, commit: Commit) -> None:
        """Tell Faust's recovery and monitors what a lane has committed."""
        offsets = {TP(topic, commit.partition): offset for topic, offset in commit.offsets.items()}
        if commit.changelog_offset is not None:
            with ending_in_failure():
                self.rows.data.committed(commit.partition, commit.rows, commit.changelog_offset)
            changelog = TP(self.rows.changelog_topic_name, commit.partition)
            self.tables.recovery.active_offsets[changelog] = commit.changelog_offset
        if offsets and not self.commit_settings.transactional:
            await self.consumer._commit(offsets)  # noqa: SLF001 - for those who watch the lag, as the feeder does
        self.consumer._committed_offset.update(offsets)  # noqa: SLF001
        self.monitor.on_tp_commit(offsets)
        self.metrics.committed(group, commit)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)
