"""Reading the source topics: bytes in; out come an event time and a body.

A body is one of those in `bodies` for a user, a `Tick` or `Directive` for the partition, or `Ignored` or `Rejected`. No
text of a refused record is repeated, since it may hold personal data.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from worker.recall import directives
from worker.recall.money import AmountError, Currency
from worker.recall.policy.catalog import Change
from worker.recall.wire import DECODE, DECODE_CATALOG, EVENTS, TOPIC_OF, Refusal, Time, milliseconds
from worker.stream.processor import Ignored, Parsed, Rejected

AHEAD_MS_MAX: Final = 600_000
"""How far a timestamp may lie ahead of the broker's time of its record."""
UNREAD_CALLS: Final = frozenset({"page", "screen", "identify", "group", "alias"})
_AHEAD: Final = Rejected(
    "ahead of broker", f"timestamp: at most {AHEAD_MS_MAX // 60_000} min ahead of the broker's time is allowed"
)
_NO_VALUE: Final = Rejected("malformed", "a value is needed: null means nothing here")
_TOO_EARLY: Final = Rejected("malformed", "timestamp: not before 1970")


def parse(topic: str, key: bytes | None, value: bytes | None, recorded_at: int, currency: Currency) -> Parsed:  # noqa: PLR0911 - a way out for every reason
    """Read a record of a source topic; `recorded_at` is the broker's time of it, ms.

    Returns the event time in ms, None where it is unreadable or refused, and the body.
    """
    if value is None:
        return None, _NO_VALUE
    if topic == "control":
        return _parse_control(value, recorded_at, currency)
    try:
        record = DECODE[topic](value)
        if not value.isascii():
            value.decode()  # msgspec does not look into what it skips
    except (ValueError, RecursionError) as error:
        return _unread(topic, value, recorded_at, error)
    at = milliseconds(record.timestamp)
    if not 0 <= at <= recorded_at + AHEAD_MS_MAX:
        return None, _TOO_EARLY if at < 0 else _AHEAD
    user_id = record.user_id
    # What sorts before \x01 begins with NUL: the stream keeps such keys for itself.
    if user_id.encode() != key or user_id < "\x01":
        return at, Rejected("key", "the key is to be the userId, which does not begin with NUL")
    try:
        return at, record.body(currency)
    except AmountError as error:
        return at, Rejected("amount", str(error))
    except Refusal as refusal:
        return at, refusal.rejected


def _parse_control(value: bytes, recorded_at: int, currency: Currency) -> Parsed:
    try:
        record = directives.DECODE(value)
        value.decode()
        if any(milliseconds(time) < 0 for time in record.times):
            return None, _TOO_EARLY
        at, body = record.read(currency)
    except AmountError as error:
        return None, Rejected("amount", str(error))
    except Refusal as refusal:
        return None, refusal.rejected
    except (ValueError, RecursionError) as error:
        return None, Rejected("malformed", _without_value(error))
    if at is not None and at > recorded_at + AHEAD_MS_MAX:
        return None, _AHEAD
    return at, body


def read_catalog(key: bytes | None, value: bytes | None, currency: Currency) -> Change | Rejected:
    """Read a record of the catalogue."""
    if value is None:
        return _NO_VALUE
    try:
        record = DECODE_CATALOG(value)
        value.decode()
    except (ValueError, RecursionError) as error:
        return Rejected("malformed", _without_value(error))
    if record.product_id.encode() != key:
        return Rejected("key", "the key is to be the product_id")
    try:
        return record.change(currency)
    except Refusal as refusal:
        return refusal.rejected


class _Probe(Struct, gc=False, rename={"user_id": "userId"}):
    """As much of any record as tells what it was meant to be."""

    type: Any = None
    event: Any = None
    user_id: Any = None
    timestamp: Any = None


_PROBE: Final = msgspec.json.Decoder(_Probe).decode


def _unread(topic: str, value: bytes, recorded_at: int, error: Exception) -> Parsed:
    """Tell what a record was that did not decode: of no use here, or wrong."""
    try:
        value.decode()
        probe = _PROBE(value)
    except (ValueError, RecursionError):
        return None, Rejected("malformed", _without_value(error))
    try:
        at = milliseconds(msgspec.convert(probe.timestamp, Time))
    except ValueError:
        at = None
    if at is not None and not 0 <= at <= recorded_at + AHEAD_MS_MAX:
        at = None
    return at, _unused(topic, probe) or Rejected("malformed", _without_value(error))


def _unused(topic: str, probe: _Probe) -> Ignored | Rejected | None:
    """Return why a record is left out, where that does not lie in its fields."""
    call, event = probe.type, probe.event
    if isinstance(call, str) and call in UNREAD_CALLS:
        return Ignored(call)
    if topic not in EVENTS or call != "track":
        return None
    if probe.user_id is None or probe.user_id == "":
        return Ignored("anonymous")
    if not isinstance(event, str) or not event:
        return None
    home = TOPIC_OF.get(event)
    if home is None:
        return Ignored("unknown event")
    return None if home == topic else Rejected("topic", f"event: {event} belongs on {home}")


def _without_value(error: Exception) -> str:
    """Return what is wrong and where, without the value that is wrong."""
    text = re.sub(r"unknown field `.*`", "unknown field", str(error), flags=re.DOTALL) or type(error).__name__
    return re.sub(r"^Invalid (enum )?value .*?( - at |$)", r"a value that is not allowed\2", text, flags=re.DOTALL)
