"""Faults that happen to workers while they work.

A round runs a load on workers in processes of their own, looked after as a supervisor would: one that ends is started
again. Faults happen at seeded moments; then the input ends, and what the workers left is judged.
"""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import cached_property
from pathlib import Path
from random import Random
from typing import NamedTuple

import points
from live import ROOT
from loads import Findings, Learning, LearningStory, Marbles, Shop, Story
from mode.worker import EX_FAILURE
from points import Fault

from worker.stream import exits
from worker.whole_topics import EXIT_WHOLE_TOPICS_FAILED

RESTARTABLE = {
    *(code for name, code in vars(exits).items() if name.startswith("EXIT_") and code != exits.EXIT_REFUSED),
    EXIT_WHOLE_TOPICS_FAILED,
    EX_FAILURE,
}
"""With these a worker says that a new process is to take over; the last is Faust's, where no broker answers."""
STALL_S = 120.0
"""Without progress and without a word of any worker for so long a round is stuck."""
WAIT_S_MAX = 600.0
"""For what does not come although there is progress: the input does not end before the faults do."""
LOG_TAIL = 3000


class ExhaustedError(Exception):
    """The input has ended before the faults have."""


class StuckError(Exception):
    """A round did not go on; the message shows the last words of its workers."""


class Worker:
    """One worker, through all its lives; `faults` are those of the first, the second and so on."""

    def __init__(self, name, load, directory, faults=()):
        self.name = name
        self.log = directory / f"{name}.log"
        self.lives = 0
        self.ends = []
        """Exit codes of the lives that are over; negative for a signal."""
        self.leaves = False
        """Whether it is not started again when it has ended."""
        self._load = load
        self._faults = list(faults)
        self.start()

    def start(self):
        fault = self._faults.pop(0) if self._faults else None
        main, environment = self._load.main(self.name)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", points.program(main, fault)],
                env=environment,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._expected = {-signal.SIGKILL} if fault and fault.action == "kill" else set()
        self._began = self.log.stat().st_size
        self.lives += 1

    @property
    def stopped(self):
        """Whether it has stopped itself (SIGSTOP)."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def words(self):
        return self.log.read_text()

    def send(self, number):
        """Send a signal; of one that ends it the end is expected."""
        if number == signal.SIGKILL:
            self._expected = {-signal.SIGKILL}
        elif number == signal.SIGTERM:
            self._expected = {0} if self.log.stat().st_size > self._began else {0, -signal.SIGTERM}
        self.process.send_signal(number)

    def look(self):
        """Start it again where it has ended; tell whether its end was one that is documented."""
        code = self.process.poll()
        if code is None:
            return True
        if len(self.ends) == self.lives:
            return True
        self.ends.append(code)
        documented = code in self._expected | RESTARTABLE
        if not self.leaves:
            self.start()
        return documented

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Round:
    """Workers on a load."""

    def __init__(self, load, directory, random):
        self.load = load
        self.random = random
        self.workers = []
        self.exits = []
        """Ends that no documentation names: (worker, exit code)."""
        self.others = 0
        """Faults that have happened, but for kills of workers."""
        self._directory = directory

    @property
    def struck(self):
        """Faults that have happened."""
        return self.others + sum(worker.ends.count(-signal.SIGKILL) for worker in self.workers)

    def start(self, *faults):
        """Start a worker, with the faults of its lives."""
        worker = Worker(f"worker-{len(self.workers)}", self.load, self._directory, faults)
        self.workers.append(worker)
        return worker

    def until(self, condition, what, *, exhausted=lambda: False):
        """Look after the workers until the condition holds; it may take as long as the load makes progress."""
        seen, began = None, time.monotonic()
        since = began
        while not condition():
            for worker in self.workers:
                if not worker.look():
                    self.exits.append((worker.name, worker.ends[-1]))
            if exhausted():
                raise ExhaustedError(what)
            now = (self.load.applied(), [(worker.lives, worker.log.stat().st_size) for worker in self.workers])
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > STALL_S or time.monotonic() - began > WAIT_S_MAX:
                said = "\n".join(f"--- {worker.name}\n{worker.words[-LOG_TAIL:]}" for worker in self.workers)
                raise StuckError(
                    f"waited {time.monotonic() - began:.0f} s until {what}, the last {time.monotonic() - since:.0f} s "
                    f"without progress beyond {self.load.applied()} records:\n{said}"
                )
            time.sleep(0.05)

    def progress(self, records=300):
        """Wait until so many more records are applied."""
        target = self.load.applied() + records
        self.until(
            lambda: self.load.applied() >= target, f"{target} records are applied", exhausted=self.load.exhausted
        )

    def passes(self, seconds):
        """Let time pass: how far the successor of a stalled worker has come does not show before that one is fenced."""
        over = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > over, f"{seconds:.1f} s have passed")

    def ended(self, worker, lives):
        """Wait until so many lives of a worker have ended."""
        what = f"{worker.name} has ended {lives} times"
        self.until(lambda: len(worker.ends) >= lives, what, exhausted=self.load.exhausted)

    def joined(self, worker):
        """Wait until a worker has lanes."""
        seen = worker.words.count('"lanes": ["')
        self.until(lambda: worker.words.count('"lanes": ["') > seen, f"{worker.name} has lanes")

    def stop(self, worker):
        """Stop a worker as an operator would, for good."""
        worker.leaves = True
        lives = worker.lives
        worker.send(signal.SIGTERM)
        self.until(lambda: len(worker.ends) == lives, f"{worker.name} has stopped")

    def finish(self):
        """End the input, wait for all of it, stop the workers."""
        self.load.finish(self.until)
        for worker in self.workers:
            if not worker.leaves:
                self.stop(worker)

    def end(self):
        for worker in self.workers:
            worker.end()


class Result(NamedTuple):
    """What became of a round."""

    kind: str
    seed: int
    struck: int
    ends: dict[int, int]
    """How often workers ended with each exit code, negative for a signal; those that were stopped at the end too."""
    findings: Findings
    seconds: float
    good: bool
    why: str


def run_round(kind, happens, load, directory, seed):
    """Run a round of a kind of faults; `load` is closed at its end."""
    started = time.monotonic()
    it, why = Round(load, directory, Random(seed)), ""
    try:
        load.begin()
        with contextlib.suppress(ExhaustedError):
            happens(it)
        it.finish()
        findings = load.judge()
    except StuckError as error:
        findings, why = Findings(stuck=1), str(error)
    finally:
        it.end()
        load.close()
    findings.exits += len(it.exits)
    if it.exits:
        why += f"undocumented exits: {it.exits}"
    good = findings.good(transactional=load.transactional)
    ends = Counter(code for worker in it.workers for code in worker.ends)
    return Result(kind, seed, it.struck, dict(sorted(ends.items())), findings, time.monotonic() - started, good, why)


KILLS = {
    "after the fence": (1, 1),
    "in a unit": (20, 500),
    "before the rows": (1, 25),
    "after the produces": (1, 25),
    "before the commit": (1, 25),
    "after the commit": (1, 25),
}
"""Points, and the calls among which the one is drawn at which a worker dies."""
SNAPSHOT_KILLS = ("after a snapshot is sent", "before a snapshot's commit", "after a snapshot's commit")
KILLS_OF_LEARNERS = {"while it learns": (1, 40), **dict.fromkeys(SNAPSHOT_KILLS, (1, 2))}
PRODUCE = 0
"""The number of the request in Kafka's protocol."""
NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT, REFUSED = 19, 7, 29
"""Kafka's error codes: two that pass, and one (not authorised) that does not."""


class Embedded:
    """The embedded broker, asked as a cluster is."""

    restart = None

    def __init__(self, broker):
        self.bootstrap = broker.address
        self.answer_next = broker.answer_next
        self._create_topic = broker.create_topic

    def create_topics(self, topics, config=None):
        del config
        for name, partitions in topics.items():
            self._create_topic(name, partitions)


class Rounds:
    """Rounds of every kind; `kinds` names them."""

    def __init__(self, kafka, embedded, directory):
        self._kafka = kafka
        self._embedded = Embedded(embedded)
        self._directory = directory
        marbles = {
            **{f"killed {point}": killed(point, *calls) for point, calls in KILLS.items()},
            "killed at any moment": killed_at_any_moment,
            "killed in recovery": killed_in_recovery,
            "killed in a rebalance": killed_in_a_rebalance,
            "stalled in a commit": stalled_in_a_commit,
            "stalled at any moment": stalled_at_any_moment,
            "second worker joins and leaves": joined_and_left,
            "stopped and started": stopped_and_started,
            "chaos": chaos,
        }
        shop = ("chaos", "killed in recovery", "stalled in a commit", "second worker joins and leaves")
        learning = {
            **{f"killed {point}": killed(point, *calls) for point, calls in KILLS_OF_LEARNERS.items()},
            "killed around snapshots": killed_around_snapshots,
            "killed at any moment": killed_at_any_moment,
            "moved over a snapshot": moved_over_a_snapshot,
        }
        self.kinds = {
            **{name: (self._marbles, happens) for name, happens in marbles.items()},
            **{f"{name} (learning)": (self._learning, happens) for name, happens in learning.items()},
            "produces fail (plain)": (self._plain_marbles, produces_fail),
            "killed at any moment (plain)": (self._plain_marbles, killed_at_any_moment),
            **{f"{name} (shop)": (self._shop, marbles[name]) for name in shop},
        }
        if kafka.restart is not None:
            self.kinds["broker killed"] = (self._marbles, broker_killed)
            self.kinds["broker killed (shop)"] = (self._shop, broker_killed)

    def run(self, kind, seed):
        """Run a round."""
        make, happens = self.kinds[kind]
        directory = self._directory / str(seed)
        directory.mkdir()
        random = Random(seed)
        return run_round(kind, happens, make(directory, random), directory, seed)

    @cached_property
    def _story(self):
        return Story(self._directory)

    @cached_property
    def _learning_story(self):
        return LearningStory()

    def _learning(self, directory, random):
        return Learning(self._learning_story, self._kafka, directory, random)

    def _marbles(self, directory, random):
        return Marbles(self._kafka, directory, random)

    def _plain_marbles(self, directory, random):
        return Marbles(self._embedded, directory, random, plain=True)

    def _shop(self, directory, _random):
        return Shop(self._story, self._kafka, directory)


# -- what happens ------------------------------------------------------------------------------------------------------


def killed(point, first, last):
    """A worker is killed at a point, in each of three lives; the call at which it dies is drawn."""

    def happens(it):
        draw = it.random.randint
        worker = it.start(*(Fault("kill", point, draw(first, last)) for _ in range(3)))
        it.ended(worker, 3)

    return happens


def killed_at_any_moment(it):
    """A worker is killed, three times."""
    worker = it.start()
    for _ in range(3):
        it.progress(it.random.randint(100, 3000))
        worker.send(signal.SIGKILL)
        it.ended(worker, worker.lives)


def killed_in_recovery(it):
    """A worker is killed, and killed again while it recovers."""
    worker = it.start(None, Fault("kill", "in recovery", it.random.randint(1, 2)))
    it.progress(it.random.randint(500, 3000))
    worker.send(signal.SIGKILL)
    it.ended(worker, 2)


def killed_in_a_rebalance(it):
    """A second worker joins, and the first dies while it hands over its lanes."""
    point = it.random.choice(("before a lane closes", "after a lane closed"))
    worker = it.start(Fault("kill", point, it.random.randint(1, 4)))
    it.progress()
    it.start()
    it.ended(worker, 1)


def killed_around_snapshots(it):
    """The worker that learns dies around its first snapshot in three ways, then wherever it is drawn."""
    draw = it.random
    first = [Fault("kill", point, 1) for point in SNAPSHOT_KILLS]
    later = ("while it learns", draw.choice(SNAPSHOT_KILLS))
    worker = it.start(*first, *(Fault("kill", point, draw.randint(*KILLS_OF_LEARNERS[point])) for point in later))
    it.ended(worker, len(first) + len(later))


def stalled_in_a_commit(it):
    """A worker stops in a commit until another one has its lanes; when it goes on it is fenced, and ends."""
    point = it.random.choice(("after the produces", "before the commit", "before the rows"))
    _stalls(it, Fault("stop", point, it.random.randint(2, 25)))


def moved_over_a_snapshot(it):
    """A worker stops over its first snapshot until another one publishes that; a third comes, and the second leaves.

    So who learns changes twice before the last snapshots.
    """
    it.load.hold()
    point = it.random.choice(("before a snapshot's commit", "after a snapshot is sent"))
    second = _stalls(it, Fault("stop", point, 1))
    third = it.start()
    it.joined(third)
    it.until(it.load.held, "the workers are at the gate")
    it.stop(second)
    it.others += 1
    it.load.go_on()


def _stalls(it, fault):
    worker = it.start(fault)
    it.until(lambda: worker.stopped, "the worker has stopped", exhausted=it.load.exhausted)
    successor = _goes_on(it, worker)
    it.ended(worker, 1)
    assert worker.ends == [exits.EXIT_COMMIT_FAILED], worker.ends
    return successor


def stalled_at_any_moment(it):
    """A worker stops until another one has its lanes; when it goes on, it ends or joins again."""
    worker = it.start()
    it.progress(it.random.randint(300, 3000))
    worker.send(signal.SIGSTOP)
    _goes_on(it, worker)


def _goes_on(it, worker):
    worker.leaves = True
    successor = it.start()
    it.joined(successor)
    it.passes(it.random.uniform(0, 4))
    worker.send(signal.SIGCONT)
    it.others += 1
    return successor


def joined_and_left(it):
    """A second worker joins and is stopped; another joins and is killed."""
    it.start()
    it.progress()
    second = it.start()
    it.joined(second)
    it.progress(it.random.randint(1, 1000))
    it.stop(second)
    it.others += 1
    third = it.start()
    it.joined(third)
    it.progress(it.random.randint(1, 1000))
    third.leaves = True
    third.send(signal.SIGKILL)
    it.progress()


def stopped_and_started(it):
    """The worker is stopped and started again, twice."""
    for _ in range(2):
        worker = it.start()
        it.progress(it.random.randint(100, 2000))
        it.stop(worker)
        it.others += 1
    it.start()


def broker_killed(it):
    """The broker is killed and started again on what it had written."""
    it.start()
    it.progress(it.random.randint(300, 3000))
    with in_background(it.load.cluster.restart) as done:
        it.until(done, "the broker is back")
    it.others += 1


def chaos(it):
    """Two workers, each killed at a point of its own, and one of them once more, at any moment."""
    workers = [it.start(drawn_fault(it.random)) for _ in range(2)]
    for worker in workers:
        it.ended(worker, 1)
    it.progress(it.random.randint(1, 500))
    workers[0].send(signal.SIGKILL)
    it.ended(workers[0], 2)


def drawn_fault(random):
    point = random.choice(list(KILLS))
    return Fault("kill", point, random.randint(*KILLS[point]))


def produces_fail(it):
    """The broker refuses produces, for reasons that pass and for one that does not, and answers slowly."""
    draw = it.random
    it.start()
    for _ in range(4):
        it.progress(draw.randint(50, 1500))
        error, rtt_ms = draw.choice(((NOT_ENOUGH_REPLICAS, 0), (REQUEST_TIMED_OUT, 50), (0, 1500), (REFUSED, 0)))
        it.load.cluster.answer_next(PRODUCE, *[(error, rtt_ms)] * draw.randint(1, 4))
        it.others += 1


@contextlib.contextmanager
def in_background(do):
    """Do something in a thread; give what tells whether it is done."""
    failed = []

    def guarded():
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    yield lambda: not thread.is_alive()
    thread.join()
    if failed:
        raise failed[0]
