"""What belongs to a process rather than to what runs in it."""

from __future__ import annotations

import atexit
import gc


def calm_gc() -> None:
    """Let the garbage collector look seldom, in a process that works off a stream.

    Rows are bytes, and what is made for a unit goes by its reference count: there is next to nothing to find, and
    looking for it took a fifth of the CPU of a replay.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.unfreeze)  # the interpreter's last look must see everything, or extensions report leaks
