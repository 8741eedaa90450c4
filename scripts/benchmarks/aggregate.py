"""A processor as small as can be, for what measures the stream and not the rules."""

import statistics
from typing import NamedTuple

import msgspec

from worker.stream.processor import NEVER, Output

OUTPUT_EVERY = 192
NOTHING = ()


class Record(NamedTuple):
    """A source record."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes


class Event(msgspec.Struct, gc=False):
    at: int
    amount: int
    session: str
    page: str


class Totals(msgspec.Struct, array_like=True, gc=False):
    key: bytes
    count: int = 0
    amount: int = 0
    due: int = NEVER


read = msgspec.json.Decoder(Event).decode
decode = msgspec.msgpack.Decoder(Totals).decode
encode = msgspec.msgpack.Encoder().encode


class Aggregate:
    """`processor.Processor`: a count and a sum for each key; an output at each timer."""

    version = 1

    def __init__(self):
        self.earlier = {}

    def parse(self, _topic, _key, value, _recorded_at):
        event = read(value)
        return event.at, event

    def new(self, key):
        return Totals(key)

    def decode(self, body):
        return decode(body)

    def encode(self, state):
        return encode(state)

    def next_due(self, state):
        return state.due

    def deciding(self, _state):
        return False

    def apply(self, state, _shared, _at, event, _context):
        state.count += 1
        state.amount += event.amount
        return (Output("totals", state.key, encode(state)),) if state.count % OUTPUT_EVERY == 0 else NOTHING

    def wake(self, state, _shared, _due, _context):
        state.due = NEVER
        return (Output("totals", state.key, encode(state)),)

    def decode_shared(self, _raw):
        return None

    def encode_shared(self, _shared):
        return b""

    def shared_due(self, _shared):
        return NEVER


def spread(results):
    """Return median, minimum and maximum of each figure."""
    return {
        name: {"median": round(statistics.median(v), 3), "min": round(min(v), 3), "max": round(max(v), 3)}
        for name in results[0]
        for v in [[result[name] for result in results]]
    }
