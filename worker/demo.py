"""Shows the whole way on one machine: a broker in this process, a worker of its own, a history fed through both.

What is shown was read back from the topics. The demo fails unless a command came back and every line of the input is
accounted for.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from schemas.topics import CONTROL, SOURCE_TOPICS
from schemas.values import rfc3339
from worker import simulate, topics
from worker.console import accounting, command_lines, facts, make_console, make_progress, numbers, outcome, under
from worker.embedded import EmbeddedBroker
from worker.feed import Feeder
from worker.grants import Grant
from worker.recall.days import Days
from worker.replay import midnights
from worker.sending import FeedError
from worker.settings import load
from worker.sources import Accounting, Source, open_source
from worker.sources.history import HistoryRecord
from worker.stream.record import PARTITION_KEY, PartitionRecord
from worker.stream.topics import TopicsError, changelog_of
from worker.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console
    from rich.progress import Progress

    from worker.settings import Settings

USERS: Final = 900
DAYS: Final = 240
SEED: Final = 1
LIVE_AFTER: Final = 0.55
"""Share of the history that lies before the launch: the model learns from it, and nobody is touched."""
GRANT: Final = Grant.of("daily=25.00")
"""Enough for the shop of a demo: what is shown is whom it is spent on."""
PLAYBOOK: Final = Path(__file__).with_name("demo.toml")
OUTPUTS: Final = ("recall", "tier-changes", "recall-decisions", "churn-model", "dead-letter")
COMMANDS_SHOWN_A_SECOND: Final = 2
_STOP_S: Final = 30.0
_READ_S: Final = 30.0
_LOG_LINES_SHOWN: Final = 30
_TAIL_RECORDS: Final = 500
_TENTHS: Final = 10


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


class Show(NamedTuple):
    """What is fed in, and with which settings of its own."""

    source: Source
    records: list[HistoryRecord]
    overrides: dict[str, Any]
    ticks: bool
    """Whether the feeder has to write the ticks: a history may bring its control records along."""

    @property
    def data(self) -> int:
        """Return how many records are no control."""
        return sum(record.topic != CONTROL for record in self.records)


def run(data: Path | None, *, users: int = USERS, days: int = DAYS) -> int:
    """Run the demo; return the exit code."""
    console = make_console()
    signal.signal(signal.SIGTERM, _end)
    show = prepare(data, users=users, days=days)
    try:
        return _run(show, console)
    except (DemoError, FeedError, TopicsError) as error:
        console.print(f"\nThe demo failed: {error}", soft_wrap=True)
        return 1


def prepare(data: Path | None, *, users: int, days: int) -> Show:
    """Open the history and choose the settings that fit it."""
    if data is None:
        records = list(simulate.simulate(users=users, days=days, seed=SEED))
        lines = Accounting(len(records), carried=len(records), left_out={})
        source = Source("simulated shop", simulate.CURRENCY, simulate.TIMEZONE, lines, iter(()))
    else:
        source = open_source(data)
        records = sorted(source.records, key=lambda record: record.recorded_at)
    if not records:
        raise ValueError(f"{data}: allowed is a history with records")
    first, last = records[0].recorded_at, records[-1].recorded_at
    given = {
        "currency": source.currency,
        "timezone": source.timezone,
        # Nobody's consent is known without profiles.
        "playbook": None if any(record.topic == "profiles" for record in records) else PLAYBOOK,
        "live_from": rfc3339(round(first + LIVE_AFTER * (last - first))),
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    ticks = not any(record.topic == CONTROL for record in records)
    if ticks:
        records[:0] = _granted(load(**overrides), first)
    return Show(source, records, overrides, ticks)


def _granted(settings: Settings, first: int) -> list[HistoryRecord]:
    """Return the records that grant money from the first midnight on, as a replay with such a grant has them."""
    midnight = next(midnights(first, Days(settings.timezone)))
    values = GRANT.records(midnight, settings.currency, settings.partitions)
    return [HistoryRecord(CONTROL, b"%d" % number, first, value) for number, value in enumerate(values)]


def _end(number: int, _frame: object) -> NoReturn:
    """Let a signal end the demo in the orderly way, so that nothing stays behind."""
    raise SystemExit(128 + number)


def _run(show: Show, console: Console) -> int:
    began = time.monotonic()
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory(prefix="recall-demo-") as folder:
        overrides = show.overrides | {
            "broker": broker.address,
            "app_id": "recall-demo",
            "mode": "plain",
            "clock": "recorded",
            "web_port": 0,
            "datadir": str(Path(folder, "data")),
        }
        settings = load(**overrides)
        for plan in topics.plan(settings):
            broker.create_topic(plan.name, plan.partitions)
        _introduce(show, settings, console)
        tally = Tally()
        tally.customers.update(record.key for record in show.records if record.topic == "orders")
        with make_progress(console) as progress, _worker(overrides, Path(folder, "worker.log")) as worker:
            reader = Reader(settings, tally)
            reader.start()
            try:
                sent = _feed(show, settings, worker, Stage(console, progress, reader, len(show.records)))
                worker.stop()
                reader.finish()
            finally:
                reader.stop()
        records = [last_record(settings, number) for number in range(settings.partitions)]
    console.print()
    return _conclude(show, tally, sent, records, console, time.monotonic() - began)


def _introduce(show: Show, settings: Settings, console: Console) -> None:
    console.print(accounting(show.source))
    rows = [
        ("records", f"{show.data:,}, {_date(show.records[0])} to {_date(show.records[-1])}"),
        ("broker", f"{settings.broker}, in this process"),
        ("live from", f"{settings.live_from:%Y-%m-%d}: before it, decisions are only recorded"),
    ]
    if settings.playbook == PLAYBOOK:
        rows.append(("consent", "the data says nothing of it; this demo takes it for granted"))
    console.print(facts(rows))
    console.print()


def _date(record: HistoryRecord) -> str:
    return rfc3339(record.recorded_at)[:10]


# -- the worker --------------------------------------------------------------------------------------------------------


class Worker:
    """A worker in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def check(self) -> None:
        """Raise if the worker has ended."""
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"the worker ended with code {code}; the last it said:\n{self._said()}")

    def stop(self) -> None:
        """Let the worker end in the orderly way, and see that it does."""
        self.check()
        self._process.terminate()
        try:
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"the worker did not stop within {_STOP_S:.0f} s:\n{self._said()}") from error
        if code:
            raise DemoError(f"the worker stopped with code {code}; the last it said:\n{self._said()}")

    def _said(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])


@contextmanager
def _worker(overrides: Mapping[str, Any], log: Path) -> Iterator[Worker]:
    """Start a worker with the settings given, and leave none behind."""
    environment = {f"RECALL_{name.upper()}": str(value) for name, value in overrides.items()}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "worker"], env=os.environ | environment, stdout=file, stderr=file
        )
    try:
        yield Worker(process, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# -- feeding and showing -----------------------------------------------------------------------------------------------


class Stage:
    """Shows how far the feeder has come, and some of the commands as they come."""

    def __init__(self, console: Console, progress: Progress, reader: Reader, total: int) -> None:
        self._console = console
        self._progress = progress
        self.reader = reader
        self._total = total
        self._task = progress.add_task("starting", total=total)
        self._left_out = self._tenth = 0
        self._shown_at = 0.0

    def update(self, sent: int, at: int) -> None:
        """Take the feeder's progress."""
        self._progress.update(self._task, completed=sent, description=rfc3339(at)[:10] if sent else "starting")
        tenth = sent * _TENTHS // self._total
        if tenth > self._tenth and not self._console.is_terminal:
            self._console.print(f"-- {tenth * _TENTHS}% of the history is in the worker, up to {rfc3339(at)[:10]}")
        self._tenth = tenth
        self._show()

    def close(self) -> None:
        """Say what was left out since the last command shown."""
        self._show(last=True)

    def _show(self, *, last: bool = False) -> None:
        while True:
            try:
                command = self.reader.commands.get_nowait()
            except queue.Empty:
                break
            now = time.monotonic()
            if now - self._shown_at < 1 / COMMANDS_SHOWN_A_SECOND:
                self._left_out += 1
                continue
            self._say_left_out()
            self._shown_at = now
            for line in command_lines(command):
                self._console.print(line)
        if last:
            self._say_left_out()

    def _say_left_out(self) -> None:
        if self._left_out:
            self._console.print(f"            ... and {self._left_out} more, not shown")
            self._left_out = 0


def _feed(show: Show, settings: Settings, worker: Worker, stage: Stage) -> Mapping[tuple[str, int], int]:
    def check() -> None:
        worker.check()
        stage.reader.check()

    with Feeder(settings, ticks=show.ticks, progress=stage.update, check=check) as feeder:
        feeder.run(show.records)
        stage.close()
        return feeder.sent


class Reader(threading.Thread):
    """A consumer of its own, which no group knows: reads the outputs from their beginning."""

    def __init__(self, settings: Settings, tally: Tally) -> None:
        super().__init__(name="reader", daemon=True)
        self.commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._tally = tally
        self._ending = threading.Event()
        self._complete = threading.Event()
        self._failure: str | None = None
        self._consumer = _consumer(settings)
        plans = {plan.name: plan.partitions for plan in topics.plan(settings)}
        self._places = [(topic, number) for topic in OUTPUTS for number in range(plans[topic])]
        self._consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in self._places])

    def check(self) -> None:
        """Raise if reading failed."""
        if self._failure is not None:
            raise DemoError(f"reading the outputs failed: {self._failure}")

    def finish(self) -> None:
        """Read to the end; nobody writes any more."""
        self._ending.set()
        if not self._complete.wait(_READ_S):
            raise DemoError(f"the outputs were not read to their end within {_READ_S:.0f} s")
        self.check()

    def stop(self) -> None:
        self._complete.set()
        self.join()
        self._consumer.close()

    def run(self) -> None:
        """Read until told to stop."""
        try:
            while not self._complete.is_set():
                ending = self._ending.is_set()
                messages = self._consumer.consume(1000, 0.1)
                for message in messages:
                    self._take(message)
                if ending and not messages and self._is_complete():
                    self._complete.set()
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            self._failure = repr(error)
            self._complete.set()

    def _take(self, message: Any) -> None:
        if message.error():
            raise KafkaException(message.error())
        command = self._tally.take(message.topic(), message.value(), message.headers() or ())
        if command is not None:
            self.commands.put(command)

    def _is_complete(self) -> bool:
        for place in self._places:
            [position] = self._consumer.position([TopicPartition(*place)])
            _, end = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=_READ_S)
            if max(0, position.offset) < end:
                return False
        return True


def _consumer(settings: Settings) -> Consumer:
    return Consumer(
        settings.connection().librdkafka()
        | {
            "group.id": f"{settings.app_id}-demo",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            # A record that is gone before it was read is an error, not something to skip.
            "auto.offset.reset": "error",
            # The embedded broker wakes no fetch for what comes meanwhile.
            "fetch.wait.max.ms": 50,
        }
    )


def last_record(settings: Settings, number: int) -> PartitionRecord:
    """Read the partition's own record, as last written, from the end of the changelog."""
    consumer = _consumer(settings)
    place = TopicPartition(changelog_of(settings.app_id), number)
    try:
        low, end = consumer.get_watermark_offsets(place, timeout=_READ_S)
        start = end
        while start > low:
            start = max(low, start - _TAIL_RECORDS)
            found = _last_in(consumer, place, start, end)
            if found is not None:
                return PartitionRecord.decode(found)
    finally:
        consumer.close()
    return PartitionRecord()


def _last_in(consumer: Consumer, place: TopicPartition, start: int, end: int) -> bytes | None:
    consumer.assign([TopicPartition(place.topic, place.partition, start)])
    found: bytes | None = None
    offset = start - 1
    deadline = time.monotonic() + _READ_S
    while offset < end - 1:
        if time.monotonic() > deadline:
            raise DemoError(f"{place.topic}[{place.partition}] was not read to its end within {_READ_S:.0f} s")
        for message in consumer.consume(_TAIL_RECORDS, 0.1):
            if message.error():
                raise DemoError(f"{place.topic}[{place.partition}]: {message.error().str()}")
            offset = message.offset() or 0
            if message.key() == PARTITION_KEY:
                found = message.value()
    return found


# -- the account -------------------------------------------------------------------------------------------------------


def _conclude(
    show: Show,
    tally: Tally,
    sent: Mapping[tuple[str, int], int],
    records: list[PartitionRecord],
    console: Console,
    took_s: float,
) -> int:
    counts: dict[str, int] = {}
    for record in records:
        for name, n in record.counts.items():
            counts[name] = counts.get(name, 0) + n
    data = sum(n for (topic, _), n in sent.items() if topic in SOURCE_TOPICS and topic != CONTROL)
    left = sum(under(counts, "ignored").values()) + sum(under(counts, "dead").values())
    rate = f"{data:,} sent and read by the worker in {took_s:.0f} s"
    console.print(accounting(show.source))
    console.print(facts([("records", rate), ("events", f"{data - left:,} applied; the rest is named below")]))
    console.print(outcome(tally, counts))
    wrong = problems(show, tally, sent, records, counts)
    if wrong:
        console.print("\nThe demo failed:")
        for line in wrong:
            console.print(f"- {line}")
        return 1
    console.print("\nEvery line is accounted for, and the commands above were read back from `recall`.")
    console.print(
        "\nWhat next: README.md. `Your own Kafka` starts the worker on a broker of yours,\n"
        "`For CRM developers` is for those who carry them out (scripts/crm.py),\n"
        "`recall replay FILE` runs the same rules over a history without a broker."
    )
    return 0


def problems(
    show: Show,
    tally: Tally,
    sent: Mapping[tuple[str, int], int],
    records: list[PartitionRecord],
    counts: Mapping[str, int],
) -> list[str]:
    """Say what does not add up."""
    wrong = []
    account = show.source.accounting
    if account.lines != account.carried + sum(account.left_out.values()):
        wrong.append(
            f"{account.lines} lines are not {account.carried} carried and {numbers(account.left_out)} left out"
        )
    fed = sum(n for (topic, _), n in sent.items() if topic != CONTROL)
    if fed != show.data:
        wrong.append(f"{show.data} records were to be sent, {fed} were")
    for (topic, number), n in sorted(sent.items()):
        read = records[number].offsets.get(topic, 0) if topic in SOURCE_TOPICS else n
        # The trainer writes to control too.
        if read < n or (read > n and topic != CONTROL):
            wrong.append(f"{topic}[{number}]: {n} records were sent, the worker has read {read}")
    dead = under(counts, "dead")
    if dead != dict(tally.dead):
        wrong.append(f"the worker counted as dead letters: {numbers(dead)}; read back: {numbers(tally.dead)}")
    commands = under(counts, "command")
    if commands != dict(tally.plays):
        wrong.append(f"the worker counted as commands: {numbers(commands)}; read back: {numbers(tally.plays)}")
    if not tally.commands:
        wrong.append("no command was read back from `recall`")
    return wrong
