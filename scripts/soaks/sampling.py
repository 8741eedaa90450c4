"""Figures of a worker from inside its process, as JSON lines."""

import asyncio
import gc
import resource
import time
from pathlib import Path

import orjson

_PAGE_BYTES = resource.getpagesize()


def sample(app, path, every_s):
    """Let the app append a sample to a file every so many seconds."""
    began = time.monotonic()
    out = Path(path).open("ab")  # noqa: SIM115 - for as long as the process lives

    @app.timer(every_s)
    async def take():
        out.write(orjson.dumps({"at_s": time.monotonic() - began, **figures(app)}) + b"\n")
        out.flush()


def figures(app):
    """Return what may grow: memory, descriptors, tasks, objects, rows, timers, what waits for the merge."""
    works = [lane.work for lane in app.lanes if lane.group.has_rows and lane.work is not None]
    rows = [work.rows for work in works]
    return {
        "rss_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES,
        "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "tasks": len(asyncio.all_tasks()),
        "objects": len(gc.get_objects()),
        "rows": sum(len(each) for each in rows),
        "row_bytes": sum(len(row) for each in rows for row in each.values()),
        "timers": sum(len(work._timers) for work in works),  # noqa: SLF001 - nothing else tells
        "buffered": sum(work.buffered(topic) for work in works for topic in work.layout.topics),
        "records": sum(sum(work.record.offsets.values()) for work in works),
        "cpu_s": time.process_time(),
    }
