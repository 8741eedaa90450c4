"""Looks at a running app: for the watchdog in a thread of its own, for those who ask over the web in the app's loop.

Asks the broker for nothing: positions, ends and offsets are those that fetches and commits have left behind.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from typing import TYPE_CHECKING

import orjson
from aiohttp.web import Response
from faust.types import TP
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from worker.stream import health
from worker.stream.exits import EXIT_STALLED, EXIT_STUCK, die
from worker.stream.health import LaneState, Phase, State
from worker.stream.watchdog import StallGuard, Watchdog

if TYPE_CHECKING:
    from aiohttp.web import Application, Request

    from worker.stream.lane import Lane
    from worker.stream.transport import StreamApp

LOOK_EVERY_S = 1.0
LOOKS_PER_GAP = 5


class Watch:
    """The watchdog's eyes, and what the pages show."""

    def __init__(self, app: StreamApp, stuck_s: float, gap_s_max: float | None) -> None:
        """Watch over an app; with `gap_s_max` also for the process's own standing still, where there is no fence."""
        self.watchdog = Watchdog(stuck_s)
        self._app = app
        self._guard = None if gap_s_max is None else StallGuard(gap_s_max, time.monotonic())
        every_s = min(LOOK_EVERY_S, stuck_s / LOOKS_PER_GAP)
        self._every_s = every_s if gap_s_max is None else min(every_s, gap_s_max / LOOKS_PER_GAP)
        self._looked_at = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin; called in the app's loop, where Faust can make what it makes when it is first asked for."""
        self.state()
        self._beat(time.monotonic())
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()

    def check_stall(self) -> None:
        """End the process where it stood still for too long; to be called before a commit that no fence guards."""
        self._end_if_stalled(time.monotonic())

    def _end_if_stalled(self, now: float) -> None:
        if self._guard is not None and (reason := self._guard.stalled(now)) is not None:
            die(EXIT_STALLED, "stalled", reason=reason)

    def _run(self) -> None:
        try:
            while not self._ended.wait(self._every_s):
                now = time.monotonic()  # one for both: what stands still between the two shows at the next look
                self._end_if_stalled(now)
                self._look(now)
        except Exception as error:  # noqa: BLE001 - a worker that nobody watches over must not go on
            die(EXIT_STUCK, "watchdog failed", error=repr(error), exc_info=True)

    def _look(self, now: float) -> None:
        self._beat(now)
        self.watchdog.look(now, health.samples(self.state()))
        if stuck := self.watchdog.stuck():
            faulthandler.dump_traceback()  # frames only: nothing of what is worked on
            die(EXIT_STUCK, "stuck", reasons=stuck)

    def _beat(self, now: float) -> None:
        self._looked_at = now
        if self._guard is not None:
            self._guard.beat(now)

    @property
    def looked_s(self) -> float:
        """How long ago the watchdog looked, seconds."""
        return time.monotonic() - self._looked_at

    # -- what there is to see ------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return what is to be seen now; from any thread."""
        app = self._app
        return State(
            phase=self._phase(),
            rebalances=app.rebalancing_count,
            turns=app.consumer.turns,
            lanes=[self._lane(lane) for lane in list(app.lanes)],
            recovery=app.tables.recovery.progress(),
        )

    def _phase(self) -> Phase:
        app = self._app
        if app.should_stop:
            return "stopping"
        if app.in_recovery:
            return "recovering"
        if app.rebalancing:
            return "rebalancing"
        return "running" if app.tables.recovery.completed.is_set() else "starting"

    def _lane(self, lane: Lane) -> LaneState:
        app, work, number = self._app, lane.work, lane.number
        committed = app.consumer._committed_offset  # noqa: SLF001 - where `StreamApp.committed` keeps it
        vitals = None if work is None else work.vitals()
        clock = None if vitals is None else vitals.clock
        changelog = app.tables.recovery.active_offsets.get(TP(app.rows.changelog_topic_name, number))
        offsets = tuple(committed.get(TP(topic, number)) for topic in lane.group.topics)
        return LaneState(
            name=lane.group.name,
            number=number,
            lag={topic: self._lag(lane, topic) for topic in lane.group.topics},
            opened=work is not None,
            busy=lane.busy,
            moved=(clock, changelog if lane.group.has_rows else None, offsets),
            clock=clock,
            held=None if work is None else work.held,
            unready=() if work is None else tuple(lane.group.unready(work)),
        )

    def _lag(self, lane: Lane, topic: str) -> int:
        position, end = self._app.consumer.place_now(TP(topic, lane.number))
        known = max(end or 0, lane.ends.get(topic, 0))
        return lane.backlog(topic) + (0 if position is None else max(0, known - position))

    # -- pages ---------------------------------------------------------------------------------------------------------

    def add_pages(self, pages: Application) -> None:
        """Serve `/live`, `/ready` and `/metrics`; under its own command line Faust asks for it twice."""
        if "live" not in pages.router:
            pages.router.add_get("/live", self._live, name="live")
            pages.router.add_get("/ready", self._ready, name="ready")
            pages.router.add_get("/metrics", self._metrics, name="metrics")

    def reasons_dead(self) -> list[str]:
        """Say why the process should be restarted."""
        return health.reasons_dead(self.watchdog.stuck(), self.looked_s)

    def reasons_unready(self) -> list[str]:
        """Say why the worker does not, or not fully, do its work."""
        return [*self.reasons_dead(), *health.reasons_unready(self.state())]

    async def _live(self, _request: Request) -> Response:
        return self._answer(self.reasons_dead())

    async def _ready(self, _request: Request) -> Response:
        return self._answer(self.reasons_unready())

    def _answer(self, reasons: list[str]) -> Response:
        body = orjson.dumps(health.describe(self.state(), reasons, self.watchdog.still))
        return Response(body=body, status=503 if reasons else 200, content_type="application/json")

    async def _metrics(self, _request: Request) -> Response:
        body = generate_latest(self._app.metrics.registry)
        return Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
