"""On which line a value of a TOML file stands, however the file is written."""

import json
import tomllib
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from worker.recall.playbook.lines import line_of, places

NASTY = r'''# [not.a.table]
title = "a # that is none, and an escaped \" quote"   # [nor.this]
a.b."c.d" = 1
'lit.eral' . x = 'C:\'

text = """
[[plays]] # is text
name = "x" \
""" # behind the text
quotes = """four at the end""""
other = \'\'\'
'' ] } =
\'\'\'
when = 1979-05-27 07:32:00   # a date with a space

list = [ 1,
  # a remark, with ] and "
  [2, "]",
   3],
  { deep = [ 4,
     5 ], "#" = { x = 6 } },
]
[ tiers . high ]
r=4
[tiers]
potential.r = 3
[[plays]]
name = "first"
[plays.cost]
hidden = 1
[[plays.steps]]
n = 1
[[plays.steps]]

n = 2
[[plays]]
[plays."odd \u0041"]
x = [[],
[]]
'''.replace("\\'", "'")


def paths(value, place=()):
    """Yield the place of every table, key and entry."""
    if place:
        yield place
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, entry in entries:
        yield from paths(entry, (*place, part))


def test_every_place_has_its_line():
    lines = places(NASTY)
    assert set(lines) == set(paths(tomllib.loads(NASTY)))
    expected = {
        ("title",): 2,
        ("a",): 3,
        ("a", "b", "c.d"): 3,
        ("lit.eral", "x"): 4,
        ("text",): 6,
        ("quotes",): 10,
        ("other",): 11,
        ("when",): 14,
        ("list",): 16,
        ("list", 0): 16,
        ("list", 1): 18,
        ("list", 1, 2): 19,
        ("list", 2, "deep", 0): 20,
        ("list", 2, "deep", 1): 21,
        ("list", 2, "#", "x"): 21,
        ("tiers",): 23,
        ("tiers", "high", "r"): 24,
        ("tiers", "potential", "r"): 26,
        ("plays",): 27,
        ("plays", 0): 27,
        ("plays", 0, "cost", "hidden"): 30,
        ("plays", 0, "steps", 0, "n"): 32,
        ("plays", 0, "steps", 1): 33,
        ("plays", 0, "steps", 1, "n"): 35,
        ("plays", 1): 36,
        ("plays", 1, "odd A", "x", 1): 39,
    }
    assert {place: lines[place] for place in expected} == expected


def test_lines_are_the_same_with_windows_line_ends():
    assert places(NASTY.replace("\n", "\r\n")) == places(NASTY)


def test_what_is_not_there_is_told_by_what_is_around_it():
    lines = places("[tiers]\nhigh = { r = 1 }\n")
    assert line_of(lines, ("tiers", "high", "q")) == 2
    assert line_of(lines, ("tiers", "low")) == 1
    assert line_of(lines, ("plays",)) is None


KEYS = st.sampled_from(["a", "b-1", "1", "x.y", 'q"', "'", "#", "[", "]]", "", "é", "a b", "="])
STRINGS = st.sampled_from(["", "#", '"', "'", "]", "}", "\\", "a\nb = 1\n[c]\n", "'''", '"""', "\t", ","])
VALUES = st.recursive(
    st.just(0) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(KEYS, inner | st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2),
    max_leaves=5,
)


class Writer:
    """Writes a document in ways drawn; every number is one of its own, so that its line can be found again."""

    def __init__(self, draw) -> None:
        self.numbers = count(1_000_000)
        self.draw = draw

    def one_of(self, *ways):
        return self.draw(st.sampled_from(ways))

    def key(self, key):
        if key.isascii() and key.replace("-", "").isalnum() and self.one_of(True, False):
            return key
        return self.one_of(json.dumps(key), f"'{key}'") if "'" not in key else json.dumps(key)

    def value(self, value, *, inline=False):
        if isinstance(value, dict):
            pairs = ", ".join(f"{self.key(key)} = {self.value(entry, inline=True)}" for key, entry in value.items())
            return f"{{ {pairs} }}"
        if isinstance(value, list):
            gap = self.one_of("", " ", "\n", " # ] a remark\n\n")
            return f"[{gap}{''.join(f'{self.value(entry)},{gap}' for entry in value)}]"
        if isinstance(value, str):
            ways = [json.dumps(value)]
            if "'" not in value and not inline:
                ways.append(f"'''\n{value}'''")
            if '"' not in value and "\\" not in value and not inline:
                ways.append(f'"""{value}"""')
            return self.one_of(*ways)
        return str(next(self.numbers))

    def table(self, table, place=()):
        plain, nested = [], []
        for key, value in table.items():
            entries = value if isinstance(value, list) else [value]
            may_nest = bool(entries) and all(isinstance(entry, dict) for entry in entries)
            (nested if may_nest and self.one_of(True, False) else plain).append(key)
        text = ""
        for key in plain:
            text += self.pair([key], table[key])
        for key in nested:
            value, name = table[key], ".".join(map(self.key, (*place, key)))
            for entry in value if isinstance(value, list) else [value]:
                text += f"\n[[{name}]]\n" if isinstance(value, list) else f"[ {name} ] # here\n"
                text += self.table(entry, (*place, key))
        return text

    def pair(self, key, value):
        if isinstance(value, dict) and value and self.one_of(True, False):
            return "".join(self.pair([*key, part], entry) for part, entry in value.items())
        return f"{' . '.join(map(self.key, key))} = {self.value(value)}{self.one_of('', '  # remark')}\n"


def numbers(value, place=()):
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, entry in entries:
        if isinstance(entry, int):
            yield (*place, part), entry
        yield from numbers(entry, (*place, part))


@given(TABLES, st.data())
def test_lines_of_any_document(document, data):
    text = Writer(data.draw).table(document)
    read = tomllib.loads(text)
    lines = places(text)
    assert set(lines) == set(paths(read))
    for place, number in numbers(read):
        assert str(number) in text.split("\n")[lines[place] - 1]
