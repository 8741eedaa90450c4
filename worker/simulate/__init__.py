"""A simulated shop with ground truth, and the oddities of real streams. The same family and seed, the same bytes.

What the customers are is hidden from the stream: `life_of` and `kind_of` tell it to tests and demonstrations. A
`Shop` lives from day to day and answers to touches; what it does without them is what would have come anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from worker.simulate.draws import key_of
from worker.simulate.parameters import CENTRAL, GIVEN, TYPES
from worker.simulate.people import born
from worker.simulate.records import Oddities, Recorder
from worker.simulate.shop import CURRENCY, START, TIMEZONE, Shop, Touch
from worker.sources.history import HistoryRecord

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

__all__ = [
    "CURRENCY",
    "FAMILIES",
    "START",
    "TIMEZONE",
    "TYPES",
    "Life",
    "Oddities",
    "Recorder",
    "Shop",
    "Touch",
    "kind_of",
    "life_of",
    "simulate",
]

FAMILIES: Final = GIVEN.families


class Life(NamedTuple):
    """What a user is, and when it shows without any touch: days counted from the start of the simulation."""

    kind: str
    joined: int
    turn: int
    """First day of drifting, fading or absence."""
    back: int
    """First day after an absence."""


def kind_of(user_id: str, seed: int, family: str = CENTRAL) -> str:
    """Tell which of the types a user is.

    >>> kind_of("user-3", seed=1) in TYPES
    True
    """
    return life_of(user_id, seed=seed, days=1, family=family).kind


def life_of(user_id: str, *, seed: int, days: int, family: str = CENTRAL) -> Life:
    """Tell a user's type and turns in a simulation of that many days."""
    person = born(key_of(family, seed), np.array([int(user_id.removeprefix("user-"))]), days)
    return Life(TYPES[person.type[0]], int(person.joined[0]), int(person.turn[0]), int(person.back[0]))


def simulate(
    *,
    users: int,
    days: int,
    seed: int,
    start: dt.date = START,
    oddities: Oddities | None = None,
    family: str = CENTRAL,
    catalog: bool = False,
) -> Iterator[HistoryRecord]:
    """Yield the records of the source topics in the order in which they were recorded, a day in memory at a time.

    Users are `user-1` to `user-<users>`; each one's first record is its profile. `oddities` is counted up as
    the records come. With `catalog`, what every worker reads whole is among them.
    """
    shop = Shop(users=users, days=days, seed=seed, family=family, start=start)
    recorder = Recorder(shop, oddities if oddities is not None else Oddities(), catalog=catalog)
    for _ in range(days):
        yield from recorder.of(shop.live())
