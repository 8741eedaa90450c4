"""What the Python peers share: their arguments, and the results that the job reports.

The job, the same in every peer. A record of the source is an event of the user that is its key, as JSON. Of each user
the number of events, the sum of their prices and the time of the latest are kept. An event that says `report` makes a
result, written to the sink under the user's key. The first line on standard output says that the first record has
been consumed.
"""

import functools
import sys
from typing import NamedTuple

import orjson


class Arguments(NamedTuple):
    """What a peer is started with; `directory` is its own, and empty at the first start."""

    bootstrap: str
    source: str
    sink: str
    app_id: str
    directory: str


def arguments():
    """Return the peer's arguments, and what follows them."""
    return Arguments(*sys.argv[1:6]), sys.argv[6:]


@functools.cache
def began():
    """Say once that records are being consumed; the first records report."""
    print("began", flush=True)


def result(user, count, total, seen, at):
    """Return the value of a result; `at` is the time of the event that asked for it."""
    began()
    return orjson.dumps({"user": user, "count": count, "total": total, "seen": seen, "at": at})
