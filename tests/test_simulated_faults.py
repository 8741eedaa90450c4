"""Nothing lost and nothing doubled, whatever the seed lets happen; and the oracle bites."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import simulated_workers as workers
from aiokafka import TopicPartition
from simulated_broker import Producer
from simulated_workers import BATCH_ROWS_MAX, CHANGELOG, SETTINGS, World, plan_of
from structlog.testing import capture_logs

from worker.stream.record import PARTITION_KEY
from worker.stream.strategies import Plain, Transactional, batches_of, last_offset, send

SEEDS = 300
SEEDS_TO_FIND_IN = 1000


@pytest.fixture(autouse=True)
def _no_last_words():
    """Workers die by the dozen here."""
    with capture_logs():
        yield


def test_rows_and_outputs_are_those_of_an_undisturbed_run():
    worlds = []
    for seed in range(SEEDS):
        plan = plan_of(seed)
        worlds.append(World(plan))
        try:
            worlds[-1].run()
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed found it
            smallest = workers.shrink(plan)
            pytest.fail(f"{workers.tell(smallest, workers.run(smallest))}\n\nbefore it was shrunk: {error}")
    # Nor did they pass because little happened: failed commits, successors, fences, in every kind of run.
    assert {(world.plan.plain, world.plan.live) for world in worlds} == {(True, False), (False, False), (False, True)}
    assert sum(len(world.deaths) for world in worlds) > SEEDS // 20
    assert sum(len(world.processes) > 1 for world in worlds) > SEEDS // 4
    assert sum(epoch.number > 1 for world in worlds for epoch in world.broker.epochs.values()) > SEEDS // 4


def test_a_seed_gives_the_same_course_in_every_process():
    """Neither the hashes of strings nor addresses in memory have a say."""
    program = (
        "import structlog; structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)])\n"
        "from simulated_workers import World, plan_of\n"
        "for seed in range(20):\n"
        "    world = World(plan_of(seed)); world.run()\n"
        "    print(world.loop.time(), world.broker.requests, world.deaths)\n"
        "    for topic, log in world.broker.logs.items():\n"
        "        print(topic, [(record.offset, record.key, record.value) for record in log.records])\n"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            env={"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert told[0]
    assert told[0] == told[1]


# -- mutations: the protocol broken on purpose -------------------------------------------------------------------------


def places(gathered):
    return {TopicPartition(topic, 0): offset for topic, offset in gathered.offsets.items()}


class NoFence(World):
    """Every process has a transactional id of its own, so that no epoch shuts out a predecessor."""

    def strategy(self, process):
        if self.plan.plain:
            return super().strategy(process)
        return Transactional(Producer(self.broker, process, f"toy-{process.name}"), 0, CHANGELOG, SETTINGS)


class FencedTooLate(World):
    """The changelog's end is asked for before the predecessors are fenced: a last commit of theirs is missed."""

    async def acquire(self, lanes):
        self.end = self.broker.log(CHANGELOG).last_stable
        await super().acquire(lanes)

    async def recover(self, process, log, end):
        del end
        await super().recover(process, log, self.end)


class NotAwaited(Transactional):
    async def commit(self, gathered):
        producer = self._producer
        batches = batches_of(producer, gathered, SETTINGS.batch_bytes_max)
        await producer.begin_transaction()
        for output in gathered.outputs:
            await send(producer, output)
        rows = [(await producer.send_batch(batch, CHANGELOG, partition=0), batch) for batch in batches]
        for future, batch in rows:
            offset = last_offset(await future, batch)
        await producer.send_offsets_to_transaction(places(gathered), SETTINGS.group)
        await producer.commit_transaction()
        return offset


class OutputsNotAwaited(World):
    """Whether an output arrived is not looked at before the commit, which goes through all the same."""

    def strategy(self, process):
        if self.plan.plain:
            return super().strategy(process)
        return NotAwaited(Producer(self.broker, process, "toy-0", BATCH_ROWS_MAX), 0, CHANGELOG, SETTINGS)


class TwoTransactions(Transactional):
    async def commit(self, gathered):
        producer = self._producer
        await producer.begin_transaction()
        for output in [await send(producer, output) for output in gathered.outputs]:
            await output
        batch = producer.create_batch()
        for key, row in gathered.rows.items():
            batch.append(key=key, value=row, timestamp=None)
        if gathered.rows:
            await (await producer.send_batch(batch, CHANGELOG, partition=0))
        await producer.commit_transaction()
        await producer.begin_transaction()
        batch = producer.create_batch()
        batch.append(key=PARTITION_KEY, value=gathered.record, timestamp=None)
        offset = last_offset(await (await producer.send_batch(batch, CHANGELOG, partition=0)), batch)
        await producer.send_offsets_to_transaction(places(gathered), SETTINGS.group)
        await producer.commit_transaction()
        return offset


class OffsetsOutside(World):
    """The offsets, with the partition record, follow in a transaction of their own."""

    def strategy(self, process):
        if self.plan.plain:
            return super().strategy(process)
        return TwoTransactions(Producer(self.broker, process, "toy-0"), 0, CHANGELOG, SETTINGS)


class RowsFirst(Plain):
    async def commit(self, gathered):
        outputs, gathered.outputs = gathered.outputs, []
        offset = await super().commit(gathered)
        for output in [await send(self._producer, output) for output in outputs]:
            await output
        return offset


class PlainRowsFirst(World):
    """In plain mode the outputs follow the rows: a crash in between loses them."""

    def strategy(self, process):
        if self.plan.plain:
            return RowsFirst(Producer(self.broker, process), 0, CHANGELOG, SETTINGS)
        return super().strategy(process)


class RecoveredToTheLastRecord(World):
    """Recovery ends with a record at the end, which never comes where the log ends in a marker."""

    async def recover(self, process, log, end):
        last = process.position - 1
        while last < end - 1:
            await asyncio.sleep(workers.POLL_S)
            if records := await process.read_changelog(log):
                last = records[-1].offset


class RecoveredUncommitted(World):
    """Recovery shows what was aborted."""

    async def recover(self, process, log, end):
        del end
        while process.position < log.end:
            await process.read_changelog(log, committed=False)


@pytest.mark.parametrize(
    "world",
    [
        NoFence,
        FencedTooLate,
        OutputsNotAwaited,
        OffsetsOutside,
        PlainRowsFirst,
        RecoveredToTheLastRecord,
        RecoveredUncommitted,
    ],
)
def test_a_protocol_broken_on_purpose_is_found(world):
    for seed in range(SEEDS_TO_FIND_IN):
        plan = plan_of(seed)
        if workers.run(plan, world) is not None:
            assert workers.run(plan) is None, "the unbroken protocol fails too"
            return
    pytest.fail(f"{world.__name__} was not found within {SEEDS_TO_FIND_IN} seeds")


def test_a_failing_seed_is_shrunk_to_what_it_takes():
    plan = next(plan for plan in map(plan_of, range(SEEDS_TO_FIND_IN)) if workers.run(plan, NoFence) is not None)
    smallest = workers.shrink(plan, NoFence)
    assert len(smallest.faults) <= len(plan.faults)
    assert len(smallest.arrivals) < len(plan.arrivals)
    assert all(workers.run(less, NoFence) is None for less in workers.smaller(smallest))
    told = workers.tell(smallest, workers.run(smallest, NoFence))
    assert f"seed {plan.seed}" in told
    assert all(str(fault) in told for fault in smallest.faults)
