"""Lanes and committers in simulated time: who waits for whom, what goes out when, and how a process ends."""

import asyncio
from collections import deque
from functools import partial
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import ConcurrentTransactions, CoordinatorNotAvailableError
from aiokafka.producer.message_accumulator import BatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_broker import in_simulated_time
from structlog.testing import capture_logs

from worker.stream.committer import GATHERED_BYTES_MAX, CommitSettings, Committer, Gathered, row_bytes
from worker.stream.connection import Connection
from worker.stream.exits import EXIT_COMMIT_FAILED, EXIT_LEFTOVER, EXIT_STOP_TIMEOUT, EXIT_WORK_FAILED
from worker.stream.lane import Group, Lane, Lanes
from worker.stream.partition import Unit
from worker.stream.processor import Output
from worker.stream.producer import MARKERS_BACKOFF_S, LaneProducer
from worker.stream.record import PARTITION_KEY
from worker.stream.strategies import Transactional, batches_of
from worker.stream.transport import BatchConsumer

NOWHERE = Connection("localhost:1")
SETTINGS = CommitSettings(
    "app", transactional=True, interval_s=0.1, connection=NOWHERE, idle_s=5.0, deadline_s=3.0, stop_s=2.0
)
GROUP = Group("partition", ("source", "control"), None, first="control")


class Ended(BaseException):
    """The process is no more."""


class Process:
    """Remembers how it ended."""

    def __init__(self):
        self.code = None

    def die(self, code, event, **_fields):
        self.code = self.code or code
        raise Ended(event)


class Scripted:
    """A strategy that does as it is told, and remembers."""

    def __init__(self, *, takes_s=0.0, row_bytes_max=10_000, start_takes_s=0.0, stop_takes_s=0.0):
        self.row_bytes_max = row_bytes_max
        self.tells_group = False
        self.told = []
        """(when, offsets of the group)."""
        self.takes_s = takes_s
        self.start_takes_s, self.stop_takes_s = start_takes_s, stop_takes_s
        self.fails = None
        self.running = 0
        self.commits = []
        """(when it was asked for, rows)."""

    async def start(self):
        self.running += 1
        await asyncio.sleep(self.start_takes_s)
        if self.fails is not None:
            raise self.fails

    async def stop(self):
        await asyncio.sleep(self.stop_takes_s)
        self.running -= 1

    async def commit(self, gathered):
        now = asyncio.get_running_loop().time()
        self.commits.append((now, dict(gathered.rows)))
        if gathered.group_offsets:
            self.told.append((round(now, 6), gathered.group_offsets))
        await asyncio.sleep(self.takes_s)
        if self.fails is not None:
            raise self.fails
        return len(self.commits)


def unit(name=None, *, outputs=(), records=1, size=1):
    rows = {} if name is None else {name: b"x" * size}
    return Unit(rows, list(outputs), {"source": 7}, records, b"record")


class Bench:
    """A committer with what it needs; `durable` are the commits that it told of."""

    def __init__(self, **strategy):
        self.process = Process()
        self.strategy = Scripted(**strategy)
        self.durable = []
        self.committer = Committer("partition", 3, SETTINGS, self.strategy, self._committed, die=self.process.die)

    async def _committed(self, commit):
        self.durable.append(commit)

    def times(self):
        return [round(at, 6) for at, _ in self.strategy.commits]


async def started(**strategy):
    bench = Bench(**strategy)
    await bench.committer.start()
    await asyncio.sleep(1)  # a quiet second
    return bench


def test_a_unit_after_a_quiet_interval_goes_out_at_once_and_those_that_follow_gather():
    async def main():
        bench = await started()
        for name in (b"a", b"b", b"c"):
            await bench.committer.add(unit(name))
            await asyncio.sleep(0.001)
        await asyncio.sleep(1)
        assert bench.times() == [1.0, 1.1]
        assert [list(rows) for _, rows in bench.strategy.commits] == [[b"a"], [b"b", b"c"]]

    in_simulated_time(main())


def test_units_that_come_during_a_commit_wait_out_the_interval_after_it():
    async def main():
        bench = await started(takes_s=0.5)
        await bench.committer.add(unit(b"a"))
        await asyncio.sleep(0.2)
        await bench.committer.add(unit(b"b"))
        await asyncio.sleep(2)
        assert bench.times() == [1.0, 1.6]

    in_simulated_time(main())


def test_where_only_the_clock_moves_a_commit_waits_for_the_idle_time_or_for_the_next_row():
    async def main():
        bench = await started()
        await bench.committer.add(unit())
        await asyncio.sleep(10)
        assert bench.times() == [5.0]
        await bench.committer.add(unit(records=2))
        await bench.committer.add(unit(b"a", records=3))
        await asyncio.sleep(0.1)
        assert bench.times() == [5.0, 11.0]
        assert bench.durable[-1].records == 5

    in_simulated_time(main())


def test_a_commit_tells_what_it_made_durable_and_what_it_took():
    async def main():
        bench = await started(takes_s=0.2)
        await bench.committer.add(unit(b"a", records=4, outputs=[Output("out", b"key", b"value")]))
        await bench.committer.drain()
        [commit] = bench.durable
        assert (commit.partition, commit.offsets, commit.changelog_offset) == (3, {"source": 7}, 1)
        assert (commit.records, commit.outputs) == (4, 1)
        assert commit.rows == {b"a": b"x", PARTITION_KEY: b"record"}
        assert commit.bytes > len(b"axrecordkeyvalue")
        assert commit.duration_s == pytest.approx(0.2)

    in_simulated_time(main())


def test_the_group_is_told_at_most_each_second_and_of_everything_in_the_end():
    async def main():
        bench = await started()
        bench.strategy.tells_group = True
        for _ in range(15):
            await bench.committer.add(unit(b"a"))
            await asyncio.sleep(0.1)
        assert len(bench.strategy.commits) >= 14
        assert [at for at, _ in bench.strategy.told] == [1.0, 2.0]
        await asyncio.sleep(10)
        assert [at for at, _ in bench.strategy.told] == [1.0, 2.0, 3.0], "and of nothing after all was told"
        assert bench.strategy.commits[-1][1] == {}, "the rows were out before"
        await bench.committer.add(unit(b"a"))
        await bench.committer.add(unit(b"b"))
        await bench.committer.drain()
        assert bench.strategy.told[-1] == (12.5, {"source": 7})
        await bench.committer.stop()

    in_simulated_time(main())


def test_a_unit_that_does_not_fit_beside_the_others_waits_for_their_commit():
    async def main():
        bench = await started(takes_s=0.5, row_bytes_max=1_000)
        await bench.committer.add(unit(b"a", size=600))
        await asyncio.sleep(0)
        await bench.committer.add(unit(b"b", size=600))
        await bench.committer.add(unit(b"c", size=600))
        assert bench.times() == [1.0, 1.5], "the second goes out, without its interval, to make room for the third"
        await bench.committer.drain()
        assert [list(rows) for _, rows in bench.strategy.commits] == [[b"a"], [b"b"], [b"c"]]

    in_simulated_time(main())


def test_a_unit_larger_than_a_commit_ends_the_process():
    async def main():
        bench = await started(row_bytes_max=1_000)
        with pytest.raises(Ended, match="too large"):
            await bench.committer.add(unit(b"a", size=1_000))
        assert bench.process.code == EXIT_COMMIT_FAILED

    in_simulated_time(main())


def test_a_transaction_takes_a_unit_of_any_size_as_it_has_many_batches():
    """Else a unit of large rows would end each process that comes to it."""

    async def main():
        bench = await started(row_bytes_max=Transactional.row_bytes_max)
        await bench.committer.add(unit(b"a", size=2 * GATHERED_BYTES_MAX))
        await bench.committer.add(unit(b"b"))
        await bench.committer.drain()
        assert [list(rows) for _, rows in bench.strategy.commits] == [[b"a"], [b"b"]]

    in_simulated_time(main())


@pytest.mark.parametrize(("takes_s", "fails"), [(0.1, RuntimeError("refused")), (0.1, AssertionError()), (60.0, None)])
def test_a_commit_that_fails_or_takes_too_long_ends_the_process_and_is_not_told_of(takes_s, fails):
    async def main():
        bench = await started(takes_s=takes_s)
        bench.strategy.fails = fails
        await bench.committer.add(unit(b"a"))
        await asyncio.sleep(4)
        assert bench.process.code == EXIT_COMMIT_FAILED
        assert bench.durable == []
        await bench.committer.add(unit(b"b"))
        await asyncio.sleep(4)
        assert len(bench.strategy.commits) == 1, "nothing is committed after it"

    in_simulated_time(main())


def test_a_committer_does_not_let_go_of_units_that_were_not_committed():
    async def main():
        bench = await started()
        await bench.committer.add(unit())
        with pytest.raises(Ended):
            await bench.committer.stop()
        assert bench.process.code == EXIT_LEFTOVER

    in_simulated_time(main())


# -- lanes -------------------------------------------------------------------------------------------------------------


class Errands:
    """Work of a lane: a unit for each record; `endless` makes units of nothing."""

    def __init__(self, number, *, endless=False):
        self.number = number
        self.endless = endless
        self.held = None
        self.missing = None
        self.done = 0
        self.expected = {}
        self._records = deque()

    def feed(self, _topic, records):
        self._records.extend(records)

    def buffered(self, _topic):
        return len(self._records)

    def expect(self, topic, *, more):
        self.expected[topic] = more

    def start_offset(self, topic):
        return 7 if topic == "source" else None

    def advance(self):
        self.held = self.missing
        if self.held is not None:
            return None
        if self._records:
            if self._records.popleft() == "bad":
                raise ZeroDivisionError
        elif not self.endless:
            return None
        self.done += 1
        return unit(b"%d" % self.done)


class Shift:
    """A process with some lanes."""

    def __init__(self, *numbers, **strategy):
        self.process = Process()
        self.made = []
        self.numbers = numbers
        self._strategy = strategy
        self.lanes = Lanes([GROUP], self._make, SETTINGS.stop_s, die=self.process.die)

    def _make(self, group, number):
        strategy = Scripted(**self._strategy)
        self.made.append(strategy)
        committer = Committer(group.name, number, SETTINGS, strategy, self._committed, die=self.process.die)
        return Lane(group, number, committer, die=self.process.die)

    async def _committed(self, commit):
        pass

    def assignment(self):
        return [(topic, number) for number in self.numbers for topic in GROUP.topics]

    async def begin(self, *works, ends=()):
        await self.lanes.acquire(self.assignment())
        for lane, work in zip(self.lanes, works, strict=True):
            lane.start(work, dict(ends))
        return list(self.lanes)


def test_a_lane_that_was_taken_away_before_it_began_does_not_begin():
    """A rebalance in the midst of a start: what it told the group would be under way when its producer goes."""

    async def main():
        shift = Shift(0, takes_s=1.0)
        await shift.lanes.acquire(shift.assignment())
        shift.made[0].tells_group = True
        await shift.lanes.close()
        for lane in shift.lanes:
            lane.start(Errands(0), {})
        await asyncio.sleep(0.5)
        await shift.lanes.acquire(shift.assignment())
        assert shift.process.code is None
        await shift.lanes.release()

    in_simulated_time(main())


def test_a_lane_with_endless_work_holds_up_neither_the_others_nor_a_stop():
    async def main():
        shift = Shift(0, 1, row_bytes_max=2_000, takes_s=0.01)
        busy, idle = Errands(0, endless=True), Errands(1)
        lanes = await shift.begin(busy, idle)
        lanes[0].put("source", ["go"])
        await asyncio.sleep(0.5)
        lanes[1].put("source", ["go"])
        await asyncio.sleep(0.2)
        assert idle.done == 1
        assert [list(rows) for _, rows in shift.made[1].commits] == [[b"1"]]
        before = busy.done
        await shift.lanes.close()
        assert busy.done <= before + 1, "no more than the unit in hand"
        committed = {name for _, rows in shift.made[0].commits for name in rows}
        assert committed == {b"%d" % n for n in range(1, busy.done + 1)}, "and all that was done is committed"
        await shift.lanes.release()
        assert shift.process.code is None

    in_simulated_time(main())


def test_a_lane_behind_its_commits_asks_for_no_more_and_goes_on_when_it_has_caught_up():
    async def main():
        shift = Shift(0, takes_s=2.0, row_bytes_max=300)
        [lane] = await shift.begin(Errands(0))
        assert lane.hungry("source", 4)
        lane.put("source", ["go"] * 8)
        await asyncio.sleep(0.1)
        assert not lane.hungry("source", 4)
        await asyncio.sleep(60)
        assert lane.hungry("source", 4)
        assert lane.work.done == 8

    in_simulated_time(main())


def test_a_fetch_is_fed_a_few_records_at_a_time_and_the_merge_waits_for_the_rest(monkeypatch):
    monkeypatch.setattr("worker.stream.lane.FEED_RECORDS", 3)

    async def main():
        shift = Shift(0)
        [lane] = await shift.begin(work := Errands(0))
        lane.put("source", ["go"] * 8)
        seen = []
        while lane.backlog("source"):
            await asyncio.sleep(0)
            seen.append((work.buffered("source"), lane.backlog("source"), work.expected["source"]))
        assert max(buffered for buffered, _, _ in seen) < 3
        assert all(expected == (backlog > buffered) for buffered, backlog, expected in seen)
        assert work.done == 8

    in_simulated_time(main())


def test_what_waits_to_be_loaded_does_not_keep_the_rest_from_being_fed(monkeypatch):
    monkeypatch.setattr("worker.stream.lane.FEED_RECORDS", 3)

    async def main():
        shift = Shift(0)
        [lane] = await shift.begin(work := Errands(0))
        work.missing = "snapshot 3"
        lane.put("source", ["go"] * 8)
        await asyncio.sleep(1)
        assert work.buffered("source") == 8, "a directive among it may act ahead"

    in_simulated_time(main())


def test_nothing_goes_on_before_all_has_been_read_of_the_topic_that_comes_first():
    async def main():
        shift = Shift(0)
        [lane] = await shift.begin(Errands(0), ends={"control": 5})
        lane.put("source", ["go"] * 8)
        await asyncio.sleep(1)
        assert lane.work.done == 0
        assert not lane.hungry("source", 4)
        assert lane.hungry("control", 0), "it is waited for, however much of it is there"
        lane.reached("control")
        await asyncio.sleep(1)
        assert lane.work.done == 8
        assert lane.work.expected == {"source": False, "control": False}

    in_simulated_time(main())


def test_a_lane_that_waits_for_something_to_be_loaded_looks_again_by_itself():
    async def main():
        shift = Shift(0)
        work = Errands(0)
        work.missing = "snapshot 3"
        [lane] = await shift.begin(work)
        with capture_logs() as logs:
            lane.put("source", ["go"])
            await asyncio.sleep(5)
            assert work.done == 0
            work.missing = None
            await asyncio.sleep(1)
        assert work.done == 1
        assert [(log["event"], log["waits_for"]) for log in logs] == [
            ("partition waits", "snapshot 3"),
            ("partition goes on", None),
        ]

    in_simulated_time(main())


def test_a_lane_tells_the_group_where_it_begins_since_its_predecessor_may_have_died_before_it_did():
    async def main():
        shift = Shift(0)
        await shift.lanes.acquire(shift.assignment())
        [lane] = shift.lanes
        shift.made[0].tells_group = True
        lane.start(Errands(0), {})
        await asyncio.sleep(10)
        assert [offsets for _, offsets in shift.made[0].told] == [{"source": 7}]

    in_simulated_time(main())


def test_a_failure_in_a_lanes_work_ends_the_process():
    async def main():
        shift = Shift(0)
        [lane] = await shift.begin(Errands(0))
        lane.put("source", ["bad"])
        await asyncio.sleep(1)
        assert shift.process.code == EXIT_WORK_FAILED

    in_simulated_time(main())


def test_a_stop_that_takes_too_long_ends_the_process_without_the_commit():
    async def main():
        shift = Shift(0, takes_s=2.9)
        [lane] = await shift.begin(Errands(0))
        lane.put("source", ["go"])
        await asyncio.sleep(0.5)
        lane.put("source", ["go"])
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Ended, match="without the last commits"):
            await shift.lanes.close()
        assert shift.process.code == EXIT_STOP_TIMEOUT
        assert asyncio.get_running_loop().time() - began == pytest.approx(SETTINGS.stop_s)
        assert len(shift.made[0].commits) == 1

    in_simulated_time(main())


def test_an_assignment_that_comes_while_lanes_are_being_acquired_leaves_no_producer_behind():
    async def main():
        shift = Shift(0, 1, start_takes_s=1.0)
        first = asyncio.ensure_future(shift.lanes.acquire(shift.assignment()))
        await asyncio.sleep(0.5)
        first.cancel()  # as Faust does, which does not wait for it
        shift.numbers = (1, 2)
        await shift.lanes.acquire(shift.assignment())
        assert first.cancelled()
        assert [strategy.running for strategy in shift.made] == [0, 0, 1, 1]
        assert [lane.number for lane in shift.lanes] == [1, 2]

    in_simulated_time(main())


def test_an_assignment_that_comes_while_lanes_are_being_let_go_leaves_no_producer_behind():
    async def main():
        shift = Shift(0, stop_takes_s=1.0)
        await shift.lanes.acquire(shift.assignment())
        second = asyncio.ensure_future(shift.lanes.acquire(shift.assignment()))
        await asyncio.sleep(0.5)
        second.cancel()
        await shift.lanes.acquire(shift.assignment())
        await asyncio.sleep(1)
        assert [strategy.running for strategy in shift.made] == [0, 1]

    in_simulated_time(main())


def test_an_assignment_waits_for_the_one_before_where_that_was_not_cancelled():
    async def main():
        shift = Shift(0, start_takes_s=1.0)
        both = [asyncio.ensure_future(shift.lanes.acquire(shift.assignment())) for _ in range(2)]
        await asyncio.gather(*both)
        assert [strategy.running for strategy in shift.made] == [0, 1]

    in_simulated_time(main())


def test_a_producer_that_cannot_be_had_ends_the_process():
    async def main():
        shift = Shift(0, start_takes_s=60.0)
        with pytest.raises(BaseExceptionGroup) as raised:
            await shift.lanes.acquire(shift.assignment())
        assert raised.group_contains(Ended, match="no producer")
        assert shift.process.code == EXIT_COMMIT_FAILED

    in_simulated_time(main())


# -- what the broker allows --------------------------------------------------------------------------------------------


class Builder:
    """Makes aiokafka's own batches."""

    def __init__(self, batch_bytes_max):
        self._bytes = batch_bytes_max

    def create_batch(self):
        return BatchBuilder(self._bytes, 0, is_transactional=1)


ROWS = st.dictionaries(st.binary(max_size=300), st.none() | st.binary(max_size=3000), max_size=20)


@settings(deadline=None)
@given(rows=ROWS, record=st.binary(max_size=500))
def test_rows_never_take_more_of_a_batch_than_is_reckoned(rows, record):
    one = Unit(rows, [], {}, 0, record)
    gathered = Gathered()
    gathered.add(one)
    [batch] = batches_of(Builder(1_000_000), gathered, 1_000_000)
    assert batch.size() <= row_bytes(one)


@settings(deadline=None)
@given(rows=ROWS, record=st.binary(max_size=500))
def test_every_row_finds_its_batch_and_the_partition_record_comes_last(rows, record):
    gathered = Gathered()
    gathered.add(Unit(rows, [], {}, 0, record))
    batches = batches_of(Builder(4_000), gathered, 4_000)
    assert sum(batch.record_count() for batch in batches) == len(rows) + 1
    assert all(batch.size() <= 4_000 for batch in batches)


def test_a_row_that_fits_no_batch_is_refused():
    gathered = Gathered()
    gathered.add(Unit({b"a": b"small", b"b": b"x" * 5_000}, [], {}, 0, b"record"))
    with pytest.raises(ValueError, match=r"a record batch of 5[0-9]{3} bytes: allowed are 4000"):
        batches_of(Builder(4_000), gathered, 4_000)


@pytest.mark.parametrize(
    ("error", "backoff_s"), [(ConcurrentTransactions, MARKERS_BACKOFF_S), (CoordinatorNotAvailableError, 0.01)]
)
def test_a_transaction_close_on_another_waits_but_briefly_for_its_markers(error, backoff_s):
    class Response:
        errors = (("changelog", ((0, error.errno),)),)

    async def main():
        producer = LaneProducer(SETTINGS, "app-partition-0")
        asked = []

        async def send(_node, _request, **_group):
            asked.append(asyncio.get_running_loop().time())
            return Response

        async def coordinator(*_arguments):
            return 0

        producer.client.send = send
        producer._sender._find_coordinator = coordinator
        await producer._sender._do_add_partitions_to_txn([TopicPartition("changelog", 0)])
        waited = asyncio.get_running_loop().time() - asked[0]
        await producer.stop()
        assert waited == pytest.approx(backoff_s, abs=1e-6)

    in_simulated_time(main())


def test_lanes_are_opened_all_at_once_however_many_there_are():
    """Faust gives up after one request's time, and each may wait for the models."""

    async def main():
        shift = Shift(*range(400))
        await shift.lanes.acquire(shift.assignment())

        async def open_lane(lane):
            await asyncio.sleep(0.2)
            return Errands(lane.number)

        async def offsets(*tps):
            return dict.fromkeys(tps, 7)

        consumer = SimpleNamespace(
            app=SimpleNamespace(lanes=shift.lanes, open_lane=open_lane),
            earliest_offsets=offsets,
            highwaters=offsets,
            seek_wait=lambda _starts: asyncio.sleep(0),
            _refuse_lost_rows=lambda _new: asyncio.sleep(0),
            _state=lambda _tp: None,
            _committed_offset={},
        )
        began = asyncio.get_running_loop().time()
        await BatchConsumer._seek_lanes(consumer)
        assert asyncio.get_running_loop().time() - began < 1
        assert all(lane.work.number == lane.number for lane in shift.lanes)
        await shift.lanes.close()
        await shift.lanes.release()

    in_simulated_time(main())


@pytest.mark.parametrize(("should_stop", "said"), [(True, []), (False, [["source"]])], ids=["stop", "work"])
def test_what_a_stop_left_out_does_not_count_as_handed_over(should_stop, said):
    """The consumer's position is past it: the lane would merge what comes later, and commit that."""

    async def main():
        shift = Shift(0)
        await shift.lanes.acquire(shift.assignment())
        [lane] = shift.lanes
        lane.ends = {"source": 7}
        items = []
        app = SimpleNamespace(lanes=shift.lanes, rebalancing=False, tables=SimpleNamespace(recovery=None))
        consumer = SimpleNamespace(app=app, should_stop=should_stop, position_now=lambda _tp: 7, _put=items.append)
        consumer._reached = partial(BatchConsumer._reached, consumer)
        BatchConsumer._hand_out(consumer, {})
        assert [item.reached for item in items] == said
        await shift.lanes.release()

    in_simulated_time(main())
