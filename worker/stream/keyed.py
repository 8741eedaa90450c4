"""The short way in: state by key and nothing else, from a processor of five methods to a group of lanes."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from worker.stream.dead_letters import DeadLetters
from worker.stream.lane import Group
from worker.stream.partition import Layout, Partition
from worker.stream.processor import NEVER, Processor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

    from worker.stream.committer import CommitSettings
    from worker.stream.processor import Context, Directive, Effect

S = TypeVar("S")


class Keyed(Processor[S, None]):
    """A processor whose keys share nothing and decide nothing.

    What is left to say is `parse`, `new`, `decode`, `encode` and `apply`; for timers `next_due` and `wake` too.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.next_due is not Keyed.next_due and cls.wake is Keyed.wake:
            raise TypeError(f"{cls.__name__} has `next_due` and no `wake`: nobody would take its timers")

    version = 1
    earlier: Mapping[int, Callable[[bytes], S]] = MappingProxyType({})

    def next_due(self, state: S) -> int:
        return NEVER

    def deciding(self, state: S) -> bool:
        return False

    def wake(self, state: S, shared: None, due: int, context: Context) -> Sequence[Effect]:
        raise AssertionError("nothing falls due")

    def decide(self, state: S, shared: None, due: int, context: Context) -> tuple[None, Sequence[Effect]]:
        raise AssertionError("keys that share nothing have nothing to decide: take `Processor`")

    def decode_shared(self, raw: bytes | None) -> None:
        """Return nothing: nothing is shared."""

    def encode_shared(self, shared: None) -> bytes:
        return b""

    def shared_due(self, shared: None) -> int:
        return NEVER

    def wake_shared(self, shared: None, due: int, context: Context) -> tuple[None, Sequence[Effect]]:
        raise AssertionError("nothing is shared that could fall due: take `Processor`")

    def direct(self, shared: None, directive: Directive, context: Context) -> tuple[None, Sequence[Effect]]:
        raise AssertionError("nothing is shared that could be directed: take `Processor`")

    def missing(self, directive: Directive) -> str | None:
        """Return None: there is nothing to wait for."""


def dead_letters_of(app_id: str) -> str:
    """Return the name of the topic that takes what could not be understood or applied."""
    return f"{app_id}-dead-letter"


def keyed(
    name: str, topics: Sequence[str], processor: Processor[Any, Any], commits: CommitSettings, *, salt: bytes = b""
) -> Group:
    """Return a group that works off co-partitioned topics with one processor; ties in time go to the earlier topic.

    Dead letters name keys by a hash. Where keys must not be found out by trying, give a `salt` of at most 64 bytes.
    """
    dead_letters = DeadLetters(dead_letters_of(commits.group), salt)

    async def open_partition(number: int, rows: MutableMapping[bytes, bytes]) -> Partition[Any, Any]:
        layout = Layout(number, tuple(topics), dead_letters)
        return Partition(layout, processor, rows, bytes_max=commits.unit_bytes_max)

    return Group(name, tuple(topics), open_partition)
