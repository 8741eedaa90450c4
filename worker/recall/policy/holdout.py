"""Who is left alone for comparison: a stable share of users, by a salted hash."""

from __future__ import annotations

from typing import NamedTuple

import xxhash

TREATED = "treated"
CONTROL = "control"

_SPAN = float(2**64)


def uniform(salt: str, *parts: bytes) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments.

    >>> uniform("salt", b"user-1") == uniform("salt", b"user-1") != uniform("other", b"user-1")
    True
    """
    return xxhash.xxh3_64_intdigest(b"\x00".join((salt.encode(), *parts))) / _SPAN


class Holdout(NamedTuple):
    """A share of all users who get nothing; drawn anew each epoch, which must outlast what is measured in it."""

    salt: str
    share: float
    epoch_days: int

    def propensity(self, arm: str) -> float:
        """Return the probability with which an arm is drawn."""
        return self.share if arm == CONTROL else round(1 - self.share, 6)

    def epoch(self, day: int) -> int:
        return day // self.epoch_days

    def arm(self, user: bytes, day: int) -> str:
        """Return the arm of a user at a day.

        >>> arms = [Holdout("salt", 0.1, 180).arm(b"user-%d" % i, 20_000) for i in range(10_000)]
        >>> 900 < arms.count(CONTROL) < 1100
        True
        """
        epoch = self.epoch(day).to_bytes(4, "big")
        return CONTROL if uniform(self.salt, b"holdout", epoch, user) < self.share else TREATED
