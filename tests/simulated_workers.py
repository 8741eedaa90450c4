"""Faults under a simulated broker: processes that crash, stall, come and go, and what must be true in the end.

The processes run the real `Lanes`, `Lane`, `Committer`, strategies and `Partition`, with the toy for a processor. The
oracle is one partition that takes the same records in the same order, undisturbed.
"""

import asyncio
from collections import Counter, defaultdict
from contextvars import copy_context
from random import Random
from typing import NamedTuple

import msgspec
import orjson
from simulated_broker import PROCESS, Broker, Producer, SimulatedLoop
from toy import LAYOUT, TOPICS, Op, Toy

from worker.stream.committer import CommitSettings, Committer
from worker.stream.connection import Connection
from worker.stream.exits import EXIT_COMMIT_FAILED, EXIT_STOP_TIMEOUT
from worker.stream.lane import Group, Lane, Lanes
from worker.stream.partition import Partition
from worker.stream.record import PARTITION_KEY, PartitionRecord
from worker.stream.strategies import Plain, Transactional

CHANGELOG = "changelog"
PLACES = [(topic, 0) for topic in TOPICS]
GROUP = Group("toy", TOPICS, None)
SESSION_S = 1.0
HEARTBEAT_S = 0.3
POLL_S = 0.02
READ_AHEAD_RECORDS = 6
BATCH_ROWS_MAX = 6
END_S = 120.0
SETTINGS = CommitSettings(
    group="toy",
    transactional=True,
    interval_s=0.05,
    connection=Connection("nowhere:1"),
    idle_s=2.0,
    offsets_s=0.3,
    deadline_s=3.0,
    stop_s=2.0,
)


class Arrival(NamedTuple):
    """A source record; at 0 s it is there from the start."""

    at_s: float
    topic: str
    key: bytes | None
    value: bytes


class Fault(NamedTuple):
    """What goes wrong, or on, at the n-th request to the broker."""

    request: int
    kind: str
    seconds: float


class Plan(NamedTuple):
    """Everything that a run depends on."""

    seed: int
    plain: bool
    live: bool
    """Whether records arrive while the processes run; then a unit takes one, so that their order can be told."""
    arrivals: tuple[Arrival, ...]
    faults: tuple[Fault, ...]


class FoundError(AssertionError):
    """An invariant does not hold."""


class KilledError(BaseException):
    """Ends what runs of a process that is no more."""


FAULTS = (
    "crash",
    "crash after",
    "stall",
    "lose request",
    "lose answer",
    "refuse",
    "join",
    "leave",
    "compact",
)
PLAIN_FAULTS = ("crash", "crash after", "lose request", "lose answer", "refuse", "leave")


def plan_of(seed):
    """Return the plan that a seed stands for."""
    random = Random(seed)
    plain = random.random() < 0.2
    live = not plain and random.random() < 0.5
    at, arrivals = 0, []
    for _ in range(random.randint(5, 30)):
        at += random.choice((0, 1, 1, 2, 5))
        arrivals.append(_arrival(random, at, live=live))
    arrivals.sort(key=lambda arrival: arrival.at_s)
    kinds = PLAIN_FAULTS if plain else FAULTS
    faults = [
        Fault(random.randint(1, 120), random.choice(kinds), random.choice((0.05, 0.5, 2.0, 5.0)))
        for _ in range(random.randint(0, 7))
    ]
    return Plan(seed, plain, live, tuple(arrivals), tuple(sorted(set(faults))))


def _arrival(random, at, *, live):
    topic = random.choices(TOPICS, (4, 4, 2))[0]
    jitter = random.choice((0, 0, 0, -3)) if live else 0
    op = Op(at=at + jitter, n=random.randint(1, 3))
    key = random.choice((b"a", b"b", b"c", b"d"))
    if topic == "control":
        key = None
        op.kind = random.choice(("tick", "tick", "directive"))
        if op.kind == "directive" and random.random() < 0.5:
            op.effective_at = at + random.randint(0, 6)
    else:
        op.kind = random.choices(("add", "raise", "ignored", "rejected"), (20, 1, 1, 1))[0]
        for _ in range(random.choice((0, 0, 1, 2))):
            kind = random.choice(("decide", "chain", "decide again", "mine", "opens"))
            op.timers.append((random.randint(1, 9), kind, random.randint(0, 3)))
    at_s = random.choice((0.0, 0.3, 1.0)) * random.random() if live else 0.0
    return Arrival(at_s, topic, key, msgspec.json.encode(op))


class Traced(Partition):
    """A partition that remembers in which order it took its records, where each unit takes one at most."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.started = dict(self.record.offsets)
        self.order = []

    def advance(self):
        before = dict(self.record.offsets)
        unit = super().advance()
        if unit is not None:
            for topic, offset in unit.offsets.items():
                self.order += [topic] * (offset - before.get(topic, 0))
        return unit


class Process:
    """A worker: what the transport does around the lanes, in few lines."""

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.dead = False
        self.frozen = None
        """What has to wait until it goes on again, while it is stalled; for ever, once it is dead."""
        self.beat_s = world.loop.time()
        self.assigned, self.revoked, self.released = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.leaving = False
        self.rows, self.position, self.keeps = {}, 0, False
        self.lanes = Lanes([GROUP], self._make_lane, SETTINGS.stop_s, die=self.die)
        self.partition = None
        self.recovering = None

    def start(self):
        context = copy_context()
        context.run(PROCESS.set, self)
        for main in (self._run(), self._beat()):
            task = self.world.loop.create_task(main, context=context)
            task.add_done_callback(self.world.look_at)

    def kill(self):
        self.dead = True
        if self.frozen is None:
            self.frozen = []

    def die(self, code, event, **fields):
        """End this process; as an argument of lanes and committers."""
        if not self.dead:
            self.kill()
            self.world.died(self, code, event, fields)
        raise KilledError(event)

    def _make_lane(self, group, number):
        world = self.world
        strategy = world.strategy(self)
        committer = Committer(group.name, number, SETTINGS, strategy, self._committed, die=self.die)
        return Lane(group, number, committer, die=self.die)

    async def _committed(self, commit):
        if commit.changelog_offset is not None:
            self.position = commit.changelog_offset + 1

    async def _beat(self):
        """Say to the group that it is still there, and hear whether the group thinks so."""
        group = self.world.group
        while True:
            self.beat_s = self.world.loop.time()
            if self not in group.members and not self.leaving:
                self.keeps = False
                self.revoked.set()
                group.join(self)
            await asyncio.sleep(HEARTBEAT_S)

    async def _run(self):
        group = self.world.group
        group.join(self)
        while not self.leaving:
            await _first(self.assigned.wait(), self.revoked.wait())
            if self.assigned.is_set() and not self.leaving:
                self.assigned.clear()
                await self._serve()
            await self.lanes.close()
            self.revoked.clear()
            self.released.set()
        await self.lanes.release()
        group.leave(self)
        self.dead = True
        self.world.replace()

    async def _serve(self):
        """Recover and fetch, until the partition is taken away."""
        serving = asyncio.ensure_future(self._recover_and_fetch())
        serving.add_done_callback(self.world.look_at)
        await _first(serving, self.revoked.wait())

    async def _recover_and_fetch(self):
        world, broker = self.world, self.world.broker
        await world.acquire(self.lanes)
        await self._recover()
        sizes = {"rows_max": 8, "records_max": 1 if world.plan.live else 5}
        partition = Traced(LAYOUT, Toy(), self.rows, **sizes)
        await self._latency()
        ends = {topic: broker.log(topic).last_stable for topic in TOPICS}
        positions = {topic: partition.start_offset(topic) or 0 for topic in TOPICS}
        [lane] = self.lanes
        self.partition = partition
        lane.start(partition, {topic: end for topic, end in ends.items() if positions[topic] < end})
        while True:
            if not await self._fetch(lane, positions):
                await asyncio.sleep(POLL_S)

    async def _recover(self):
        """Read the changelog to its last stable offset, by position: markers and what was aborted show nothing."""
        log = self.world.broker.log(CHANGELOG)
        if not self.keeps:
            self.rows, self.position = {}, 0
        self.keeps = True
        await self._latency()
        end = log.last_stable
        await self.world.recover(self, log, end)

    async def read_changelog(self, log, limit=7, *, committed=True):
        await self._latency()
        records, self.position = log.read(self.position, limit, committed=committed)
        apply(records, self.rows)
        return records

    async def _fetch(self, lane, positions):
        random, broker = self.world.random, self.world.broker
        moved = False
        for topic in random.sample(TOPICS, len(TOPICS)):
            if not lane.hungry(topic, READ_AHEAD_RECORDS):
                continue
            records, position = broker.log(topic).read(positions[topic], random.randint(1, 8))
            if records:
                moved = True
                await self._latency()
                positions[topic] = position
                lane.put(topic, records)
            if topic in lane.ends and positions[topic] >= lane.ends[topic]:
                del lane.ends[topic]
                lane.reached(topic)
        return moved

    async def _latency(self):
        await asyncio.sleep(self.world.broker.latency())


class Consumers:
    """The consumer group: whose the partition is."""

    def __init__(self, world):
        self._world = world
        self.members = []
        self._owner = None
        self._changed = asyncio.Event()

    def join(self, process):
        if process not in self.members:
            self.members.append(process)
            self._changed.set()

    def leave(self, process):
        if process in self.members:
            self.members.remove(process)
            self._changed.set()

    async def run(self):
        """Rebalance whenever a member comes or goes: all let go, then one gets the partition."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            owner = self._owner
            if owner in self.members:
                owner.released.clear()
                owner.revoked.set()
                await _within(SESSION_S, owner.released.wait())
                if not owner.released.is_set():
                    self.leave(owner)
            self._owner = self._world.random.choice(self.members) if self.members else None
            for member in self.members:
                if member is not self._owner:
                    member.keeps = False
            if self._owner is not None:
                self._owner.assigned.set()

    async def watch(self):
        """Put out whoever has not been heard of."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            now = self._world.loop.time()
            for member in list(self.members):
                if now - member.beat_s > SESSION_S:
                    self.leave(member)


class World:
    """A run of a plan."""

    def __init__(self, plan):
        self.plan = plan
        self.random = Random(plan.seed)
        self.loop = SimulatedLoop()
        self.loop.set_exception_handler(self._unhandled)
        self.broker = Broker(self.loop, self.random)
        self.broker.on_request = self._on_request
        self.broker.on_commit = self._on_commit
        self.faults = defaultdict(list)
        for fault in plan.faults:
            self.faults[fault.request].append(fault)
        self.processes = []
        self.failure = None
        self.deaths = []
        self.order = []
        self.committed = {}

    # -- what a mutation overrides -------------------------------------------------------------------------------------

    def strategy(self, process):
        """Return how a process commits."""
        if self.plan.plain:
            return Plain(Producer(self.broker, process), 0, CHANGELOG, SETTINGS, check_stall=lambda: None)
        producer = Producer(self.broker, process, "toy-0", BATCH_ROWS_MAX)
        return Transactional(producer, 0, CHANGELOG, SETTINGS)

    async def acquire(self, lanes):
        await lanes.acquire(PLACES)

    async def recover(self, process, log, end):
        while process.position < end:
            await process.read_changelog(log)

    # -- the course of things ------------------------------------------------------------------------------------------

    def run(self):
        """Run to the end.

        Raises:
            FoundError: where an invariant does not hold.

        """
        try:
            self.loop.run_until_complete(self._main())
            self._check()
        finally:
            self._clean_up()

    async def _main(self):
        self.group = Consumers(self)
        outside = [asyncio.ensure_future(main) for main in (self.group.run(), self.group.watch())]
        for task in outside:
            task.add_done_callback(self.look_at)
        for arrival in self.plan.arrivals:
            if arrival.at_s:
                self.loop.call_later(arrival.at_s, self._arrive, arrival)
            else:
                self._arrive(arrival)
        self.spawn()
        totals = {topic: total for topic in TOPICS if (total := sum(a.topic == topic for a in self.plan.arrivals))}
        await self._until(lambda: self.committed == totals)
        # The group's offsets follow the rows; where a worker is out, once there is one again.
        await self._until(lambda: self.plan.plain or self.broker.offsets == self.committed)

    async def _until(self, there):
        """Wait for what must come in the end."""
        while not there():
            if self.failure is not None:
                raise self.failure
            if self.loop.time() > END_S:
                raise FoundError("it does not come to an end")
            await asyncio.sleep(0.25)

    def _arrive(self, arrival):
        self.broker.log(arrival.topic).append(arrival.key, arrival.value)

    def spawn(self):
        process = Process(self, f"process {len(self.processes)}")
        self.processes.append(process)
        process.start()

    def living(self):
        return [process for process in self.processes if not process.dead]

    def died(self, process, code, event, fields):
        self.deaths.append((process.name, code, event))
        if code not in {EXIT_COMMIT_FAILED, EXIT_STOP_TIMEOUT}:
            self.failure = FoundError(f"{process.name} ended with {code}: {event} {fields}")
        self.replace()

    def replace(self):
        """See to it that somebody is there before long."""
        self.loop.call_later(0.1 + self.random.random(), self._keep_alive, context=_outside())

    def _keep_alive(self):
        if not self.living():
            self.spawn()

    def _on_request(self, number, process, _kind):
        """Let happen what the plan says; return what goes wrong with the request itself."""
        wrong = None
        for _, kind, seconds in self.faults.pop(number, ()):
            match kind:
                case "crash" | "crash after":
                    wrong = "lose request" if kind == "crash" else wrong
                    process.kill()
                    self.replace()
                case "stall" if not process.dead and process.frozen is None:
                    process.frozen = []
                    self.loop.call_later(seconds, self._go_on, process, context=_outside())
                case "join" if len(self.living()) < 3:
                    self.loop.call_soon(self.spawn, context=_outside())
                case "leave":
                    process.leaving = True
                    process.revoked.set()
                case "compact":
                    self.broker.log(CHANGELOG).compact()
                case "lose request" | "lose answer" | "refuse":
                    wrong = kind
        return wrong

    def _go_on(self, process):
        if not process.dead:
            self.loop.thaw(process)

    def _on_commit(self, process, topic, records):
        """Take down the order of the records that a durable partition record has passed."""
        for key, value, _ in records:
            if topic != CHANGELOG or key != PARTITION_KEY:
                continue
            offsets = PartitionRecord.decode(value).offsets
            if self.plan.live and process.partition is not None:
                partition = process.partition
                taken = partition.order[: sum(offsets.values()) - sum(partition.started.values())]
                self.order += taken[len(self.order) - sum(partition.started.values()) :]
            self.committed = offsets

    def look_at(self, task):
        """Let a failure of a task fail the run."""
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, KilledError):
            self.failure = error

    def _unhandled(self, _loop, context):
        error = context.get("exception")
        if not isinstance(error, KilledError):
            self.failure = error or FoundError(context["message"])

    # -- the end -------------------------------------------------------------------------------------------------------

    def _check(self):
        expected_rows, expected = self._replay()
        rows = {}
        apply(self.broker.log(CHANGELOG).read(0, 1_000_000)[0], rows)
        if rows != expected_rows:
            raise FoundError(f"rows differ: {_difference(rows, expected_rows)}")
        found = self._outputs()
        if self.plan.plain:
            missing = {place: Counter(values) - Counter(found.get(place, ())) for place, values in expected.items()}
            if any(missing.values()):
                raise FoundError(f"outputs are missing: {missing}")
            found, expected = _distinct(found), _distinct(expected)
        if found != expected:
            raise FoundError(f"outputs differ: {_difference(found, expected)}")

    def _outputs(self):
        """Return the outputs as a consumer sees them that reads what is committed."""
        seen = defaultdict(list)
        for topic, log in self.broker.logs.items():
            if topic not in {*TOPICS, CHANGELOG}:
                for record in log.read(0, 1_000_000)[0]:
                    seen[topic, record.key].append(_comparable(topic, record.value))
        return {place: _ordered(place, values) for place, values in seen.items()}

    def _replay(self):
        """Return rows and outputs of a partition that takes the same records undisturbed."""
        records = {topic: list(self.broker.log(topic).records) for topic in TOPICS}
        partition = Partition(LAYOUT, Toy(), {})
        outputs = []
        if self.plan.live:
            for topic in self.order:
                partition.feed(topic, [records[topic].pop(0)])
                outputs += _work_off(partition)
            if any(records.values()):
                raise FoundError(f"never taken: {records}")
        else:
            for topic in TOPICS:
                partition.feed(topic, records[topic])
            outputs = _work_off(partition)
        said = defaultdict(list)
        for output in outputs:
            said[output.topic, output.key].append(_comparable(output.topic, output.value))
        return partition.rows, {place: _ordered(place, values) for place, values in said.items()}

    def _clean_up(self):
        """Let everything end that still runs."""
        for process in self.processes:
            process.dead = True
            if process.frozen is not None:
                self.loop.thaw(process)
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()


def apply(records, rows):
    """Take changelog records into rows."""
    for record in records:
        if record.value is None:
            rows.pop(record.key, None)
        else:
            rows[record.key] = record.value


def _work_off(partition):
    outputs = []
    while (unit := partition.advance()) is not None:
        outputs += unit.outputs
    return outputs


def _comparable(topic, value):
    """Return an output without what is free."""
    if topic != LAYOUT.dead_letters.topic:
        return value
    letter = orjson.loads(value)
    del letter["detail"]
    return orjson.dumps(letter, option=orjson.OPT_SORT_KEYS)


def _ordered(place, values):
    return sorted(values) if place[0] == LAYOUT.dead_letters.topic else values


def _distinct(outputs):
    """Return each output once: in plain mode they may come again, after others too, but not as something else."""
    return {place: set(values) for place, values in outputs.items()}


def _difference(found, expected):
    return {
        key: (found.get(key), expected.get(key)) for key in {*found, *expected} if found.get(key) != expected.get(key)
    }


def _outside():
    context = copy_context()
    context.run(PROCESS.set, None)
    return context


async def _first(*waits):
    """Wait until one of several is there, and let the others go, as mode's `wait_first` does."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _within(seconds, wait):
    try:
        async with asyncio.timeout(seconds):
            await wait
    except TimeoutError:
        return


def run(plan, world=World):
    """Run a plan; return what does not hold, or None."""
    try:
        world(plan).run()
    except Exception as error:  # noqa: BLE001 - whatever it is, the plan found it
        return error
    return None


def shrink(plan, world=World):
    """Return the smallest plan found that still fails: fewer faults, then fewer records."""
    while True:
        for less in smaller(plan):
            if run(less, world) is not None:
                plan = less
                break
        else:
            return plan


def smaller(plan):
    """Yield plans with less in them, the greatest steps first."""
    for i in range(len(plan.faults)):
        yield plan._replace(faults=plan.faults[:i] + plan.faults[i + 1 :])
    n = len(plan.arrivals)
    step = max(1, n // 2)
    while step:
        for i in range(0, n, step):
            if kept := plan.arrivals[:i] + plan.arrivals[i + step :]:
                yield plan._replace(arrivals=kept)
        step //= 2


def tell(plan, error):
    """Return a failure in words: the seed, what does not hold, and the schedule that shows it."""
    lines = [f"seed {plan.seed}: {type(error).__name__}: {error}", f"  plain={plan.plain} live={plan.live}"]
    lines += [f"  {fault}" for fault in plan.faults]
    lines += [f"  {arrival}" for arrival in plan.arrivals]
    return "\n".join(lines)
