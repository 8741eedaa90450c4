"""On which line of a TOML file a value stands; `tomllib` reads the values and forgets it.

Takes only text that `tomllib` has read, so nothing is checked here (TOML 1.0, https://toml.io/en/v1.0.0).
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Place: TypeAlias = tuple[int | str, ...]
"""The way to a value: names of tables and keys, numbers of entries from 0."""

_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_WITHIN_LINE: Final = re.compile(r"[ \t]*")
_STRING: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''[\s\S]*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR: Final = re.compile(r"[^,\]}#\n]+")


def places(text: str) -> dict[Place, int]:
    r"""Return the line of every table, key and entry of a list, counted from 1.

    >>> places('a.b = [\n  1,\n  {c = 2},\n]\n[[plays]]\nname = "x"')[("a", "b", 1, "c")]
    3
    """
    return _Scan(text).lines


def line_of(lines: Mapping[Place, int], place: Place) -> int | None:
    """Return the line of a place, or of the nearest one around it that has a line.

    >>> line_of({("tiers",): 4}, ("tiers", "high", "r"))
    4
    """
    for end in range(len(place), 0, -1):
        if place[:end] in lines:
            return lines[place[:end]]
    return None


class _Scan:
    """Goes through the text once."""

    def __init__(self, text: str) -> None:
        self.text, self.i = text, 0
        self.ends = [found.start() for found in re.finditer("\n", text)]
        self.lines: dict[Place, int] = {}
        entries: dict[Place, int] = {}
        table: Place = ()
        while self._skip() < len(text):
            begin = self.i
            if self._take("["):
                array = self._take("[")
                table = self._header(entries, array=array)
                self._note(table, begin)
                self.i = text.index("]]" if array else "]", self.i) + 1 + array
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str] = _SPACE) -> int:
        found = pattern.match(self.text, self.i)
        assert found is not None  # it may be empty
        self.i = found.end()
        return self.i

    def _take(self, sign: str) -> bool:
        if not self.text.startswith(sign, self.i):
            return False
        self.i += len(sign)
        return True

    def _note(self, place: Place, at: int) -> None:
        """Keep the first line of a place, and of those around it that have no line of their own."""
        line = bisect_right(self.ends, at - 1) + 1
        for end in range(len(place), 0, -1):
            self.lines.setdefault(place[:end], line)

    def _key(self) -> list[str]:
        """Read a key, with its dots."""
        parts = []
        while True:
            self._skip(_WITHIN_LINE)
            quoted = self.text[self.i] in "\"'"
            found = (_STRING if quoted else _BARE).match(self.text, self.i)
            assert found is not None  # a key, since tomllib has read it
            parts.append(tomllib.loads(f"key = {found[0]}")["key"] if quoted else found[0])
            self.i = found.end()
            self._skip(_WITHIN_LINE)
            if not self._take("."):
                return parts

    def _header(self, entries: dict[Place, int], *, array: bool) -> Place:
        """Read a table's name; a name that stands for a list of tables means its last entry."""
        place: Place = ()
        key = self._key()
        for n, part in enumerate(key, start=1):
            place += (part,)
            if array and n == len(key):
                entries[place] = entries.get(place, -1) + 1
                self._note(place, self.i)
            if place in entries:
                place += (entries[place],)
        return place

    def _pair(self, table: Place) -> None:
        begin = self._skip()
        place = (*table, *self._key())
        self._note(place, begin)
        self._take("=")
        self._skip(_WITHIN_LINE)
        self._value(place)

    def _value(self, place: Place) -> None:
        if self._take("["):
            n = 0
            while self._skip() and not self._take("]"):
                self._note((*place, n), self.i)
                self._value((*place, n))
                self._skip()
                self._take(",")
                n += 1
        elif self._take("{"):
            while self._skip() and not self._take("}"):
                self._pair(place)
                self._skip()
                self._take(",")
        else:
            found = _STRING.match(self.text, self.i) or _SCALAR.match(self.text, self.i)
            assert found is not None  # a value, since tomllib has read it
            self.i = found.end()
