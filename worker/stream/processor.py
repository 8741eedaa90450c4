"""The seam: what a domain gives to the stream, and what the stream gives to it.

Worker, replay, simulator and tests all drive the same pure `Partition` with a `Processor`. Everything here is a value;
time is always an argument, in milliseconds since the epoch (UTC).

A key's state moves by three kinds of stimulus. `apply` takes a record and `wake` a timer; both touch that key alone, so
the stream may work off a batch key by key. `decide` is a timer too, but the only place where a key meets `shared` (a
budget, a counter that all keys of the partition draw from), so decisions are taken one after the other in the order of
(due, key). Directives change `shared` from outside, between stimuli.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NEVER = 2**63 - 1
"""A due time that does not come."""


class Ignored(NamedTuple):
    """A record that is known and of no use here: counted by its reason."""

    reason: str


class Rejected(NamedTuple):
    """A record that could not be understood: it goes to the dead letters."""

    reason: str
    detail: str


class Tick(NamedTuple):
    """The wall clock, as a record: moves the partition's clock and nothing else."""

    at: int


class Directive(NamedTuple):
    """A control record: changes `shared` at `effective_at`, or when it is merged where that is None.

    One that acts `ahead` does so already when it is fed, so that what lies before it in its topic cannot hold it up; it
    must give the same when it is taken again.
    """

    effective_at: int | None
    body: object
    ahead: bool = False


class Output(NamedTuple):
    """A record to be written; `partition` None leaves the choice to the key."""

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


class Attach(NamedTuple):
    """Keeps (with None: drops) a value beside the key's row; its name has eight bytes. See `Context.attachment`."""

    name: bytes
    value: bytes | None


class Count(NamedTuple):
    """Adds to a counter of the partition; sums do not depend on how the input was cut into batches."""

    name: str
    n: int = 1


Effect: TypeAlias = Output | Attach | Count
Parsed: TypeAlias = tuple[int | None, object]
"""Event time (None: unreadable) and body: a `Tick`, `Directive`, `Ignored`, `Rejected`, or what `apply` takes."""

S = TypeVar("S")
H = TypeVar("H")


class Context(Protocol):
    """What a stimulus may know beside its own content."""

    clock: int
    """The partition's clock: the greatest event time of data and ticks applied."""
    partition: int

    @property
    def offsets(self) -> Mapping[str, int]:
        """Return the next offset by topic of what was merged up to this timer, decision or directive.

        For a record it would depend on how the input was cut: not for `apply`.
        """

    def attachment(self, name: bytes) -> bytes | None:
        """Return what `Attach` keeps under `name` for this key."""


class Processor(Protocol[S, H]):
    """A domain. Every method is a function of its arguments and of what the processor was made with.

    `shared` is never changed in place: what changes it returns another one, so that a failure leaves the old one. Of
    `shared`, `apply` and `wake` may read only what directives and `wake_shared` change: those are the points at which a
    unit of work ends.
    """

    version: int
    """Of the row's encoding that is written, 1 to 255; a worker refuses a partition with rows of a higher one."""
    earlier: Mapping[int, Callable[[bytes], S]]
    """By version, how the bodies of rows from before `version` are read; they are written back in `version`."""

    def parse(self, topic: str, key: bytes | None, value: bytes | None, recorded_at: int) -> Parsed:
        """Read a record; `recorded_at` is the broker's time of it.

        The time moves the clock even where the body is `Ignored` or `Rejected`: one that is not to be believed is None.
        """

    def new(self, key: bytes) -> S:
        """Return the state of a key that was never seen, for which nothing is due."""

    def decode(self, body: bytes) -> S:
        """Return the state in a row's body; may be changed in place by what follows."""

    def encode(self, state: S) -> bytes:
        """Return the row's body."""

    def next_due(self, state: S) -> int:
        """Return when the state wants to be woken or to decide next; `NEVER` for not at all."""

    def deciding(self, state: S) -> bool:
        """Tell whether what falls due next is a decision."""

    def apply(self, state: S, shared: H, at: int, body: object, context: Context) -> Sequence[Effect]:
        """Take a record of the key into the state."""

    def wake(self, state: S, shared: H, due: int, context: Context) -> Sequence[Effect]:
        """Take a timer; must move `next_due` on.

        `due` is the time that was asked for, or the clock at which it was asked for where that is later.
        """

    def decide(self, state: S, shared: H, due: int, context: Context) -> tuple[H, Sequence[Effect]]:
        """Take a decision, with `shared` in hand; must move `next_due` on."""

    def decode_shared(self, raw: bytes | None) -> H:
        """Return the domain's part of the partition record; None at the first start."""

    def encode_shared(self, shared: H) -> bytes:
        """Return the bytes that `decode_shared` takes."""

    def shared_due(self, shared: H) -> int:
        """Return when `shared` itself wants to be woken (a day's close); `NEVER` for not at all."""

    def wake_shared(self, shared: H, due: int, context: Context) -> tuple[H, Sequence[Effect]]:
        """Take a timer of the partition, before the timers of keys at the same time.

        `context.clock` is here the clock that is about to be, so that a first timer may find its place in time.
        """

    def direct(self, shared: H, directive: Directive, context: Context) -> tuple[H, Sequence[Effect]]:
        """Take a directive."""

    def missing(self, directive: Directive) -> str | None:
        """Name what must be loaded before the directive can be taken; the partition waits for it."""
