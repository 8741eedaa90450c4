"""Random numbers that are a function of what they are for, and of nothing else.

A number is drawn for (shop, customer, day, slot). It does not depend on what was drawn before, so what one customer
does moves no number of another's, and the same shop with and without touches has the same numbers. They are made of a
counter by the mixing of SplitMix64 (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

FOR_LIFE: Final = 1 << 20
"""The day under which traits are drawn."""

_MASK: Final = (1 << 64) - 1
_CUSTOMER: Final = np.uint64(0x9E3779B97F4A7C15)
_DAY: Final = 0xD1B54A32D192ED03
_SLOT: Final = 0x8CB92BA72F3D8DD7
_SLOT_WORD: Final = np.uint64(_SLOT)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11, _32 = (np.uint64(n) for n in (30, 27, 31, 11, 32))
_LOW: Final = np.uint64(0xFFFFFFFF)
_UNIT: Final = 2.0**-53
_HALF: Final = 2.0**-32


def key_of(*facts: object) -> int:
    """Return a 64-bit key of facts.

    >>> key_of("central", 1) == key_of("central", 1) != key_of("central", 2)
    True
    """
    return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "little")


def bases(key: int, numbers: Words) -> Words:
    """Return what the numbers of each customer start from."""
    mixed: Words = numbers * _CUSTOMER + np.uint64(key)
    return _mix(mixed)


def words(base: Words, day: int, slot: int | Words) -> Words:
    """Return a 64-bit word for each base; `slot` may differ between them."""
    if isinstance(slot, int):
        return _mix(base + np.uint64((day * _DAY + slot * _SLOT) & _MASK))
    return _mix(base + slot * _SLOT_WORD + np.uint64(day * _DAY & _MASK))


def uniforms(base: Words, day: int, slot: int | Words) -> Floats:
    """Return numbers within (0, 1).

    >>> bool(uniforms(bases(1, np.arange(3, dtype=np.uint64)), 5, 0).max() < 1)
    True
    """
    return (words(base, day, slot) >> _11).astype(np.float64) * _UNIT + _UNIT / 2


def pairs(base: Words, day: int, slot: int | Words) -> tuple[Floats, Floats]:
    """Return two numbers within [0, 1), of 32 bits each."""
    drawn = words(base, day, slot)
    return (drawn >> _32).astype(np.float64) * _HALF, (drawn & _LOW).astype(np.float64) * _HALF


def _mix(word: Words) -> Words:
    word = (word ^ (word >> _30)) * _FIRST
    word = (word ^ (word >> _27)) * _SECOND
    mixed: Words = word ^ (word >> _31)
    return mixed
