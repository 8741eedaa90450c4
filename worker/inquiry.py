"""Answers what is asked about one user, over the web port of the worker that has his partition.

Whoever asks is on this machine, or has the token. No user id is logged, and none is in an answer that refuses.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from aiohttp.web import Response

from worker.partitioner import Partitioner
from worker.recall import explanation, export
from worker.recall.explanation import Kept
from worker.stream.partition import Partition
from worker.stream.record import HEADER_BYTES, QUARANTINED, RESERVED, attachment_key, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aiohttp.web import Application, Request

    from worker.recall.profile import Profile
    from worker.recall.shop import Shared
    from worker.recall.step import Customers
    from worker.settings import Settings
    from worker.stream.lane import Lane

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def kept(partition: Partition[Profile, Shared], customers: Customers, user: bytes) -> Kept | None:
    """Return a copy of what a partition keeps of a user; None where it knows none of that name."""
    rows = partition.rows
    row = None if user.startswith(RESERVED) else rows.get(user)
    if row is None:
        return None
    header, body = read_header(row), row[HEADER_BYTES:]
    decode = customers.decode if header.version == customers.version else customers.earlier[header.version]
    return Kept(
        decode(body),
        partition.shared,
        partition.clock,
        partition.layout.number,
        lambda name: rows.get(attachment_key(user, name)),
        resting=bool(header.flags & QUARANTINED),
    )


class Asker(NamedTuple):
    """Where a question comes from, and what it shows."""

    remote: str | None
    host: str
    authorization: str


class Door:
    """Who may ask: with a token whoever has it; without one whoever asks from this machine, by a name of its own.

    A page of somebody else's, in a browser on this machine, asks by another name.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    def refuses(self, asker: Asker) -> tuple[int, str] | None:
        """Return the status and the reason, or None for those who may."""
        if self._token is not None:
            given = asker.authorization.encode(errors="surrogateescape")
            if hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return None
            return 401, "allowed is the header Authorization: Bearer, with the worker's RECALL_EXPLAIN_TOKEN"
        if _is_loopback(asker.remote) and asker.host in LOCAL_NAMES:
            return None
        return 403, "allowed is from this machine as localhost, or with RECALL_EXPLAIN_TOKEN set at the worker"


def _is_loopback(remote: str | None) -> bool:
    try:
        return remote is not None and ip_address(remote).is_loopback
    except ValueError:
        return False


class Pages:
    """`/explain/{user}` and `/export/{user}`."""

    def __init__(self, lanes: Iterable[Lane], customers: Customers, settings: Settings) -> None:
        token = settings.explain_token
        self._lanes = lanes
        self._customers = customers
        self._partitioner = Partitioner(settings.partitions)
        self._door = Door(None if token is None else token.get_secret_value())

    def add(self, pages: Application) -> None:
        """Serve the pages; under its own command line Faust asks for it twice."""
        if "explain" not in pages.router:
            pages.router.add_get("/explain/{user:.+}", self._explain, name="explain")
            pages.router.add_get("/export/{user:.+}", self._export, name="export")

    async def _explain(self, request: Request) -> Response:
        return self._about(request, explanation.explain)

    async def _export(self, request: Request) -> Response:
        return self._about(request, export.export)

    def _about(self, request: Request, told: Callable[[Customers, Kept], Mapping[str, Any]]) -> Response:
        host = request.url.host or ""
        refused = self._door.refuses(Asker(request.remote, host, request.headers.get("Authorization", "")))
        if refused is not None:
            return _answer(*refused)
        user = request.match_info["user"].encode(errors="surrogateescape")
        number = self._partitioner.of(user)
        works = [lane.work for lane in self._lanes if lane.number == number and lane.group.has_rows]
        if not works:
            return _answer(
                404, f"partition {number} has the user, and this worker does not have it: ask the one that has"
            )
        [work] = works
        if not isinstance(work, Partition):
            return _answer(503, f"partition {number} is on its way: ask again")
        found = kept(work, self._customers, user)
        if found is None:
            return _answer(404, f"partition {number} knows no such user")
        return Response(body=orjson.dumps(told(self._customers, found)), content_type="application/json")


def _answer(status: int, reason: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}  # noqa: PLR2004 - of the protocol
    return Response(
        body=orjson.dumps({"reason": reason}), status=status, content_type="application/json", headers=headers
    )
