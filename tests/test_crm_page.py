"""docs/crm.md: its records keep the contracts, and its tables name all that there is."""

import json
import re
from pathlib import Path

from schemas.commands import CANCELLATION_TYPE, COMMAND_TYPE, Cancellation, Command
from schemas.feedback import FeedbackRecord, Status
from worker.recall.events import parse
from worker.recall.money import Currency
from worker.recall.playbook.model import Kind, Ladder

PAGE = (Path(__file__).parents[1] / "docs" / "crm.md").read_text()


def record(name):
    """Return the JSON after a mark."""
    told = PAGE.split(f"<!-- {name} -->\n", 1)[1]
    return json.loads(re.match(r"\n((?: {4}.*\n)+)", told)[1])


def test_the_command_is_one_of_today():
    command = record("command")
    told = Command.model_validate_json(json.dumps(command))
    assert set(command) == set(Command.model_fields)
    assert told.delivery.not_after == told.not_after


def test_the_least_feedback_is_taken_and_less_is_not():
    least = record("feedback")
    FeedbackRecord.model_validate_json(json.dumps(least), by_name=False)
    recorded_at = 10**13
    _, body = parse("feedback", least["userId"].encode(), json.dumps(least).encode(), recorded_at, Currency.of("EUR"))
    assert (body.command_id, body.status) == (record("command")["command_id"], "delivered")
    for name in least:
        value = {key: value for key, value in least.items() if key != name}
        _, body = parse("feedback", b"", json.dumps(value).encode(), recorded_at, Currency.of("EUR"))
        assert body.reason == "malformed", name


def test_every_status_has_its_row_and_every_cancellation_its_reason():
    rows = re.findall(r"^\| (`.*?) \|", PAGE.split("| `status` |", 1)[1], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows[:7]))) == set(Status.__args__)
    reasons = Cancellation.model_fields["reason"].annotation.__args__
    told = PAGE.split("- **Cancellations**", 1)[1].partition("\n- ")[0]
    assert [reason for reason in reasons if f"`{reason}`" not in told] == []
    assert f"`{COMMAND_TYPE}`" in PAGE
    assert f"`{CANCELLATION_TYPE}`" in PAGE


def test_the_variables_of_every_kind_of_play_are_told():
    told = dict(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.*) \|$", PAGE, re.MULTILINE))
    assert {kind for kinds in told for kind in re.findall(r"`(\w+)`", kinds)} >= set(Kind.__args__)
    (comeback,) = [text for kinds, text in told.items() if kinds == "`comeback`"]
    variables = record("command")["action"]["variables"]
    assert {*variables, *variables["products"][0]} <= set(re.findall(r"`(\w+)`", comeback))


def test_the_alarm_is_raised_after_as_many_as_it_says():
    assert f"Once {Ladder().alarm_after} touches in a row" in " ".join(PAGE.split())


def test_every_source_is_cited_and_every_citation_has_one():
    table, sources = PAGE.split("From their public documentation:", 1)
    assert set(re.findall(r"\[(\d+)\]", table)) == set(re.findall(r"\[(\d+)\]", sources))


def test_every_file_that_it_points_at_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (Path(__file__).parents[1] / "docs" / target).exists(), target
