"""docs/playbook.md against the model: every field with its default, every name, and examples that load."""

import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from schemas.decisions import REASONS
from worker.recall.playbook import Condition, Incentive, Play, Playbook, Signal, Step, parse
from worker.recall.playbook.model import Kind, PlayCost, Success, Trigger
from worker.recall.policy.signals import FEATURES
from worker.recall.windows import CHANNELS

TEXT = (Path(__file__).parents[1] / "docs" / "playbook.md").read_text()
RFM = {"rfm": {"m": [50, 150, 500, 1500]}}
SECTIONS = {
    "### Above the sections": Playbook,
    "### `[[signals]]`": Signal,
    "A condition:": Condition,
    "## `[[plays]]`": Play,
    "### `incentive`": Incentive,
    "### `cost`": PlayCost,
    "### `success`": Success,
    "### `steps`": Step,
} | {
    f"### `[{name}]`": field.annotation
    for name, field in Playbook.model_fields.items()
    if name not in {"name", "observe_days", "signals", "plays"}
}


def table_after(line):
    """Return the rows of the first table after a line, as cells."""
    _, found, rest = TEXT.partition(f"\n{line}\n")
    assert found, line
    lines = rest[rest.index("\n|") + 1 :].splitlines()
    rows = [lines[i] for i in range(next(i for i, row in enumerate([*lines, ""]) if not row.startswith("|")))]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def plainly(value):
    """Return a default as TOML has it: amounts as numbers, names of fields as they are written."""
    if isinstance(value, BaseModel):
        value = value.model_dump(by_alias=True, exclude_none=True)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: plainly(entry) for key, entry in value.items()}
    return [plainly(entry) for entry in value] if isinstance(value, list) else value


def told(value):
    """Return a default as the page has it, to compare: amounts may be text."""
    if isinstance(value, dict):
        return {key: told(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [told(entry) for entry in value]
    return float(value) if isinstance(value, str) and re.fullmatch(r"[0-9.]+", value) else value


@pytest.mark.parametrize("line", SECTIONS)
def test_every_field_stands_there_with_its_default(line):
    section = SECTIONS[line]
    fields = {field.alias or name: field.get_default() for name, field in section.model_fields.items()}
    if section is Playbook:
        fields = {name: fields[name] for name in ("name", "observe_days")}
    page = {}
    for name, default, _ in table_after(line):
        page[name.strip("`")] = default
    assert list(page) == list(fields)
    for name, default in fields.items():
        if default is PydanticUndefined or default is None:
            assert page[name] == "-", name
            continue
        cell = tomllib.loads(f"x = {page[name].strip('`')}")["x"]
        assert told(cell) == plainly(default), name


def test_every_opening_kind_and_reason_is_explained():
    kinds = {kind for row in table_after("### Kinds") for kind in re.findall(r"`(\w+)`", row[0])}
    assert kinds == set(get_args(Kind))
    openings = [row[0].strip("`") for row in table_after("## When something is seen")]
    assert set(openings) == set(get_args(Trigger))
    reasons = {
        reason for row in table_after("## What each reason means") for reason in re.findall(r"`([^`]+)`", row[1])
    }
    assert set(REASONS) <= reasons


def test_every_feature_of_a_condition_is_named():
    named = set()
    for first, _ in table_after("`cart_remove`, `wishlist`, `checkout`, `order`, `refund`, `message_click`:"):
        prefixes, stem = [""], ""
        for token in re.findall(r"`([^`]+)`", first):
            if token.endswith("..."):
                prefixes = [*filter(None, prefixes), token.removesuffix("...")]
                continue
            stem = token.rpartition("_")[0] if not token.startswith("_") else stem
            name = stem + token if token.startswith("_") else token
            channels = CHANNELS if "CHANNEL" in name else [""]
            named |= {prefix + name.replace("CHANNEL", channel) for prefix in prefixes for channel in channels}
    assert named == set(FEATURES)


def test_the_shortest_playbook_loads():
    section = TEXT.partition("## The shortest playbook")[2].partition(":\n")[2]
    block = re.search(r"(?:^    .*\n|^\n)+", section, re.MULTILINE)[0]
    book = parse(tomllib.loads(block), "the page")
    assert [play.name for play in book.plays] == ["memory-email"]


def test_examples_are_understood():
    signal = re.search(r"    \[\[signals\]\]\n(?:    .*\n)+", TEXT)[0]
    choice = re.search(r"    \[choice\]\n(?:    .*\n|\n)+", TEXT)[0]
    incentive, steps = re.search(r"    incentive = .*\n", TEXT)[0], re.search(r"    steps = \[\n(?:    .*\n)+", TEXT)[0]
    play = {"name": "p", "opening": ["silence"], "template": "t", "rungs": ["push", "email"]}
    plays = [
        {**play, "name": "comeback-pack", "kind": "comeback", **tomllib.loads(incentive)},
        {**play, "kind": "habit", **tomllib.loads(steps)},
    ]
    book = parse({"name": "p", **RFM, **tomllib.loads(signal), **tomllib.loads(choice), "plays": plays}, "the page")
    assert book.signals[0].name == "drifting-away"
    assert book.choice.priors["comeback-pack"].with_play == 0.07
    assert book.plays[0].incentive.points == 50
    assert book.plays[1].steps[1].count == 3
