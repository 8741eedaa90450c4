"""A broker and its clients in one thread, in simulated time: every choice comes from a seed.

Modelled is what exactly-once rests on: logs with control markers and a last stable offset, transactions with producer
ids and epochs, markers that are written after the answer, group offsets that stand or fall with their transaction,
requests that outlive the process that sent them, answers that get lost, compaction.
"""

import asyncio
from bisect import bisect_left
from contextvars import ContextVar
from functools import partial
from heapq import heappop
from itertools import islice
from operator import attrgetter
from types import SimpleNamespace

from aiokafka.errors import MessageSizeTooLargeError, ProducerFenced

PROCESS = ContextVar("process", default=None)
"""The simulated process that code runs in; None is the world outside."""
OFFSET = attrgetter("offset")
RETRY_S = 0.01
ABORTED, OPEN, COMMITTED = "aborted", "open", "committed"


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop whose time only jumps; what belongs to a stalled process waits until that goes on."""

    def __init__(self):
        super().__init__()
        self._now = 0.0
        self.steps = 0

    def time(self):
        return self._now

    def _write_to_self(self):
        pass

    def _run_once(self):
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0]._cancelled:
            heappop(scheduled)._scheduled = False
        if not ready and scheduled:
            self._now = max(self._now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now:
            handle = heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        assert ready or self._stopping, "nothing will ever happen again"
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None and process.frozen is not None:
                process.frozen.append(handle)
                continue
            self.steps += 1
            handle._run()

    def thaw(self, process):
        """Let a stalled process go on."""
        self._ready.extend(process.frozen)
        process.frozen = None


def in_simulated_time(main):
    """Run a coroutine to its end, with what it leaves running."""
    loop = SimulatedLoop()
    loop.set_exception_handler(_complain)
    try:
        return loop.run_until_complete(main)
    finally:
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


def _complain(loop, context):
    """Say what went wrong unseen; a process that was ended on purpose is no complaint."""
    error = context.get("exception")
    if error is None or isinstance(error, Exception):
        loop.default_exception_handler(context)


class Record:
    """A record in a log; of a transaction, or of none."""

    __slots__ = ("headers", "key", "offset", "timestamp", "transaction", "value")

    def __init__(self, offset, key, value, headers=(), transaction=None):
        self.offset, self.timestamp, self.key, self.value = offset, 1000 + offset, key, value
        self.headers, self.transaction = headers, transaction


class Log:
    """A partition of a topic; a control marker takes an offset and shows nothing."""

    def __init__(self):
        self.records = []
        self.end = 0
        self.open = {}
        """Transaction to its first offset here, until its marker is written."""

    def append(self, key, value, headers=(), transaction=None):
        if transaction is not None:
            self.open.setdefault(transaction, self.end)
        self.records.append(Record(self.end, key, value, headers, transaction))
        self.end += 1
        return self.end - 1

    def mark(self, transaction):
        if self.open.pop(transaction, None) is not None:
            self.end += 1

    @property
    def last_stable(self):
        return min(self.open.values(), default=self.end)

    def read(self, position, limit, *, committed=True):
        """Return up to `limit` records from a position, and the position after them and what is hidden behind them."""
        bound = self.last_stable if committed else self.end
        found = []
        for record in islice(self.records, bisect_left(self.records, position, key=OFFSET), None):
            if record.offset >= bound:
                break
            if committed and record.transaction is not None and record.transaction.state is ABORTED:
                continue
            if len(found) == limit:
                return found, record.offset
            found.append(record)
        return found, max(bound, position)

    def compact(self):
        """Keep, of what is stable, the last record of each key."""
        bound = self.last_stable
        last = {}
        for record in self.records:
            if record.offset < bound and (record.transaction is None or record.transaction.state is COMMITTED):
                last[record.key] = record.offset
        self.records = [record for record in self.records if record.offset >= last.get(record.key, 0)]


class Transaction:
    def __init__(self):
        self.state = OPEN
        self.logs = {}
        self.offsets = {}
        self.writes = []


class Epoch:
    """What the coordinator knows of a transactional id."""

    def __init__(self):
        self.number = -1
        self.transaction = None
        self.marking = None


class RetriableError(Exception):
    """The client comes again with the same request."""


class Broker:
    """Topics of one partition, groups, transactional ids."""

    def __init__(self, loop, random):
        self.loop = loop
        self.random = random
        self.logs = {}
        self.offsets = {}
        self.epochs = {}
        self.requests = 0
        self.on_request = lambda _number, _process, _kind: None
        """Called with each request; what it returns goes wrong with it."""
        self.on_commit = lambda _process, _topic, _records: None
        """Called with what has become durable."""

    def log(self, topic):
        log = self.logs.get(topic)
        if log is None:
            log = self.logs[topic] = Log()
        return log

    def latency(self):
        return 0.001 + 0.004 * self.random.random()

    # -- transactions --------------------------------------------------------------------------------------------------

    def fence(self, transactional_id):
        """InitProducerId: from now on older epochs are refused, and what they left open is aborted."""
        epoch = self.epochs.setdefault(transactional_id, Epoch())
        if epoch.marking is not None:
            raise RetriableError
        epoch.number += 1
        if epoch.transaction is not None:
            self._end(epoch, ABORTED)
            raise RetriableError
        return epoch.number

    def epoch(self, transactional_id, number):
        epoch = self.epochs[transactional_id]
        if epoch.number != number:
            raise ProducerFenced
        return epoch

    def add(self, transactional_id, number, topics):
        """AddPartitionsToTxn; while the markers of the one before are not written, the client has to come again."""
        epoch = self.epoch(transactional_id, number)
        if epoch.marking is not None:
            raise RetriableError
        if epoch.transaction is None:
            epoch.transaction = Transaction()
        for topic in topics:
            epoch.transaction.logs[topic] = self.log(topic)

    def produce(self, transactional_id, number, topic, records, writer):
        transaction = None
        if transactional_id is not None:
            transaction = self.epoch(transactional_id, number).transaction
            assert transaction is not None, "produced outside of a transaction"
            assert topic in transaction.logs, "produced to what was not added"
        log = self.log(topic)
        offsets = [log.append(key, value, headers, transaction) for key, value, headers in records]
        if transaction is None:
            self.on_commit(writer, topic, records)
        else:
            transaction.writes.append((writer, topic, records))
        return offsets[0]

    def add_offsets(self, transactional_id, number, offsets):
        epoch = self.epoch(transactional_id, number)
        if epoch.marking is not None:
            raise RetriableError
        if epoch.transaction is None:
            epoch.transaction = Transaction()
        epoch.transaction.offsets.update(offsets)

    def end(self, transactional_id, number):
        """EndTxn; the answer does not wait for the markers. Asked again, it says the same."""
        epoch = self.epoch(transactional_id, number)
        if epoch.transaction is not None:
            self._end(epoch, COMMITTED)

    def _end(self, epoch, state):
        transaction, epoch.transaction = epoch.transaction, None
        transaction.state = state
        if state is COMMITTED:
            for write in transaction.writes:
                self.on_commit(*write)
        epoch.marking = transaction
        logs = list(transaction.logs.values())
        for log in logs:
            self.loop.call_later(self.latency(), log.mark, transaction)
        self.loop.call_later(0.0051, self._marked, epoch, transaction)

    def _marked(self, epoch, transaction):
        epoch.marking = None
        if transaction.state is COMMITTED:
            self.offsets.update(transaction.offsets)


class Batch:
    """aiokafka's `BatchBuilder`."""

    def __init__(self, records_max):
        self.records = []
        self._records_max = records_max

    def append(self, *, key, value, timestamp):
        del timestamp  # the broker's
        if len(self.records) == self._records_max:
            return None
        self.records.append((key, value, ()))
        return self

    def size(self):
        return sum(len(key) + len(value or b"") for key, value, _ in self.records)

    def record_count(self):
        return len(self.records)


class Producer:
    """aiokafka's producer, as far as the strategies use it; one with a transactional id is fenced by its successor."""

    def __init__(self, broker, process, transactional_id=None, batch_records_max=1000):
        self._broker = broker
        self._process = process
        self._id = transactional_id
        self._batch_records_max = batch_records_max
        self._number = None
        self._begun = False
        self._added = set()
        self._adding = {}
        self._queues = {}
        self._in_flight = set()

    async def start(self):
        if self._id is not None:
            self._number = await self._ask("fence", self._broker.fence, self._id)

    async def stop(self):
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    async def begin_transaction(self):
        assert not self._begun, "a transaction is under way"
        self._begun, self._added = True, set()

    def create_batch(self):
        return Batch(self._batch_records_max)

    async def send_batch(self, batch, topic, *, partition):
        assert partition == 0
        return self._send(topic, batch.records)

    async def send(self, topic, value, key, partition, *, headers):
        assert partition in {0, None}
        return self._send(topic, [(key, value, headers)])

    def _send(self, topic, records):
        assert self._id is None or self._begun
        before = self._queues.get(topic)
        sent = self._queues[topic] = asyncio.ensure_future(self._produce(before, topic, records))
        sent.add_done_callback(_look_at)
        self._in_flight.add(sent)
        sent.add_done_callback(self._in_flight.discard)
        return sent

    async def _produce(self, before, topic, records):
        """Send once what was sent before to the topic is done with, whether it arrived or not."""
        if before is not None:
            await asyncio.wait([before])
        if self._id is not None and topic not in self._added:
            await self._ask("add", self._broker.add, self._id, self._number, [topic])
            self._added.add(topic)
        offset = await self._ask("produce", self._broker.produce, self._id, self._number, topic, records, self._process)
        return SimpleNamespace(offset=offset)

    async def send_offsets_to_transaction(self, offsets, _group_id):
        assert self._begun
        assert offsets
        named = {place.topic: offset for place, offset in offsets.items()}
        await self._ask("offsets", self._broker.add_offsets, self._id, self._number, named)

    async def commit_transaction(self):
        """Commit, even where something was refused: as aiokafka does."""
        assert self._begun
        while self._in_flight:
            await asyncio.wait(self._in_flight)
        await self._ask("end", self._broker.end, self._id, self._number)
        self._begun = False

    async def _ask(self, kind, function, *arguments):
        """Ask until there is an answer; a request that was done is not done again, as sequence numbers see to it."""
        broker, loop = self._broker, self._broker.loop
        if self._process.dead:
            raise asyncio.CancelledError
        request = Request(kind, partial(function, *arguments))
        while True:
            answer = loop.create_future()
            broker.requests += 1
            fault = broker.on_request(broker.requests, self._process, kind)
            if fault != "lose request":
                call = partial(request.arrive, broker, answer, fault)
                in_world(loop.call_later, broker.latency(), call)
            else:
                in_world(loop.call_later, RETRY_S, partial(answer_with, answer, RetriableError()))
            try:
                return await answer
            except RetriableError:
                await asyncio.sleep(RETRY_S)


class Request:
    """What a client asks for; done once."""

    def __init__(self, kind, function):
        self.kind = kind
        self.function = function
        self.done = False
        self.result = None

    def arrive(self, broker, answer, fault):
        error = None
        if fault == "refuse" and self.kind == "produce" and not self.done:
            error = MessageSizeTooLargeError()
        elif not self.done:
            try:
                self.result = self.function()
            except (ProducerFenced, RetriableError) as refused:
                error = refused
            else:
                self.done = self.kind != "fence"  # which comes anew each time
        if fault == "lose answer":
            error = RetriableError()
        broker.loop.call_later(broker.latency(), answer_with, answer, error, self.result)


def answer_with(answer, error, result=None):
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
        answer.exception()


def in_world(function, *arguments):
    """Call something whose callbacks belong to no process."""
    token = PROCESS.set(None)
    try:
        return function(*arguments)
    finally:
        PROCESS.reset(token)


def _look_at(future):
    """Spare the loop's complaint: what the strategy does not look at is what is under test."""
    if not future.cancelled():
        future.exception()
