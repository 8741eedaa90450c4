"""Points at which a process ends or stops itself: scripted from outside, the product knows nothing of them."""

import asyncio
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from schemas.topics import MODEL
from worker.stream.lane import Lane, Lanes
from worker.stream.partition import Partition
from worker.stream.producer import LaneProducer
from worker.stream.recovery import BatchRecovery
from worker.stream.work import KeyedWork
from worker.training import TrainerWork

ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Point(NamedTuple):
    """A method; the fault comes after its call, or before it."""

    owner: type
    method: str
    after: bool = False
    flush: bool = False
    """Whether all that was produced is to reach the broker first."""
    among: Callable[..., bool] = lambda *_args, **_kwargs: True
    """Which calls count, by their arguments."""


def is_snapshot(_producer, topic, _value, key, *_args, **_kwargs):
    """Tell whether a snapshot is sent; its sums are before it, and its adoptions come after."""
    return topic == MODEL and b"measures" not in key


def holds_snapshot(producer):
    """Tell whether there is a snapshot in the transaction."""
    return any(place.topic == MODEL for place in producer._txn_manager.txn_partitions)


POINTS = {
    "after the fence": Point(Lanes, "acquire", after=True),
    "in recovery": Point(BatchRecovery, "apply", after=True),
    "in a unit": Point(KeyedWork, "close"),
    "before the rows": Point(LaneProducer, "send_batch"),
    "after the rows": Point(LaneProducer, "send_batch", after=True, flush=True),
    "after the produces": Point(LaneProducer, "send_offsets_to_transaction", flush=True),
    "before the commit": Point(LaneProducer, "commit_transaction"),
    "after the commit": Point(LaneProducer, "commit_transaction", after=True),
    "while it learns": Point(TrainerWork, "advance", after=True),
    "after a snapshot is sent": Point(LaneProducer, "send", after=True, flush=True, among=is_snapshot),
    "before a snapshot's commit": Point(LaneProducer, "commit_transaction", among=holds_snapshot),
    "after a snapshot's commit": Point(LaneProducer, "commit_transaction", after=True, among=holds_snapshot),
    "before a lane closes": Point(Lane, "close"),
    "after a lane closed": Point(Lane, "close", after=True),
}


class Fault(NamedTuple):
    """What is to happen at the `nth` call."""

    action: str
    point: str
    nth: int
    since: str = ""
    """A file: calls count from when it is there."""


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import points
fault, gate = {fault!r}, {gate!r}
if fault:
    points.arm(points.Fault(*fault))
if gate:
    points.heed(gate)
{main}
"""


def program(main, fault=None, gate=None):
    """Give the code of a process that runs `main`; a fault happens in it, or a gate holds it, where there is one."""
    return PROGRAM.format(
        tests=str(Path(__file__).parent), fault=fault and tuple(fault), gate=gate and str(gate.path), main=main
    )


class Gate:
    """How far workers may come, in event time.

    A history that lies there whole before anybody reads it has one merged order, and so one outcome. What is to happen
    in the middle of it happens at a gate.
    """

    def __init__(self, path, at):
        self.path = path
        self.open_to(at)

    def open_to(self, at):
        """Let partitions come to this clock."""
        written = self.path.with_suffix(".new")
        written.write_text(str(at))
        written.rename(self.path)


def heed(gate):
    """Let no partition of this process go on beyond the gate."""
    advance, path = Partition.advance, Path(gate)

    def gated(self):
        if self.clock >= int(path.read_text()):
            self.held = "the gate"
            return None
        if self.held == "the gate":
            self.held = None
        return advance(self)

    Partition.advance = gated


def striker(fault):
    """Give what is to be called at the fault's point."""
    calls = 0

    def strike():
        nonlocal calls
        if fault.since and not Path(fault.since).exists():
            return
        calls += 1
        if calls == fault.nth:
            os.kill(os.getpid(), ACTIONS[fault.action])

    return strike


def arm(fault):
    """Let the fault happen in this process."""
    point = POINTS[fault.point]
    method = getattr(point.owner, point.method)
    strike = striker(fault)

    @functools.wraps(method)
    async def waited_for(self, *args, **kwargs):
        if not point.among(self, *args, **kwargs):
            return await method(self, *args, **kwargs)
        if point.after:
            result = await method(self, *args, **kwargs)
        if point.flush:
            await self.flush()
        strike()
        return result if point.after else await method(self, *args, **kwargs)

    @functools.wraps(method)
    def called(self, *args, **kwargs):
        if not point.among(self, *args, **kwargs):
            return method(self, *args, **kwargs)
        if not point.after:
            strike()
        result = method(self, *args, **kwargs)
        if point.after:
            strike()
        return result

    setattr(point.owner, point.method, waited_for if asyncio.iscoroutinefunction(method) else called)
