"""The published contracts: fresh, valid, described, and CloudEvents that another library reads."""

import json
from pathlib import Path

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from corpus import CASES
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

import schemas
from schemas.commands import CANCELLATION_TYPE, COMMAND_TYPE, Cancellation, Command, cloud_event_headers
from schemas.decisions import Decision
from schemas.generate import CONTRACTS, generate, schema, stale
from schemas.topics import SOURCE_TOPICS, TOPICS
from schemas.values import rfc3339, schema_id

COMMITTED = Path(schemas.__file__).parent
AT = "2026-01-05T10:00:00Z"
SCORES = {"r": 1, "f": 5, "m": 5}
VERSIONS = {"playbook": "v1", "snapshot": 7, "cut_points": "v1"}
COMMAND = {
    "command_id": "c1",
    "episode_id": "e1",
    "step": 0,
    "user_id": "u1",
    "issued_at": AT,
    "not_after": "2026-01-08T10:00:00Z",
    "reason": {
        "trigger": "tier_drop",
        "cause": "silence",
        "from_tier": "high",
        "to_tier": "silent",
        "fell": ["R"],
        "scores_before": {**SCORES, "r": 3},
        "scores_after": SCORES,
        "as_of": AT,
    },
    "value": {
        "tier": "silent",
        "core": True,
        "orders": 12,
        "net_revenue": "1234.50",
        "aov": "102.88",
        "top_category": None,
        "currency": "GBP",
        "ltv": {"margin_90d": "12.50", "error_90d": "20.10", "margin_365d": "40.00", "error_365d": "55.70"},
        "alive": 0.71,
    },
    "risk": {
        "probability": 0.81,
        "horizon_days": 90,
        "level": None,
        "model_version": 7,
        "top_factors": [{"feature": "recency_days", "contribution": 0.7, "text": "63 days since the last order"}],
    },
    "action": {
        "play": "care letter",
        "kind": "care",
        "price_incentive": None,
        "template": "care-letter",
        "variables": {"days": 63},
    },
    "delivery": {
        "channel": "email",
        "timezone": "Europe/London",
        "not_before": None,
        "not_after": "2026-01-08T10:00:00Z",
    },
    "guards": {"purpose": "marketing", "consent_checked_at": AT, "cancel_if": ["ordered"], "priority": 2},
    "cost": {"direct": "0.02", "opportunity": "0.00", "hidden": "0.10", "currency": "GBP"},
    "experiment": {"id": "holdout-1", "arm": "treated", "propensity": 0.9},
    "versions": VERSIONS,
}
DECISION = {
    "decision_id": "d1",
    "episode_id": "e1",
    "user_id": "u1",
    "at": AT,
    "opened_at": AT,
    "trigger": "tier_drop",
    "play": None,
    "channel": None,
    "step": 0,
    "outcome": "suppressed",
    "reason": "holdout",
    "arm": "control",
    "propensity": 0.1,
    "command_id": None,
    "shadow_play": "care letter",
    "versions": {**VERSIONS, "snapshot": None},
    "offsets": {"orders": 12},
}


def test_the_committed_schemas_are_those_of_the_models():
    assert stale(COMMITTED) == [], "write them anew with `recall schema`"


def test_what_is_missing_changed_or_left_over_is_stale(tmp_path):
    assert {path.stem for path in generate(tmp_path)} == {*CONTRACTS, "asyncapi"}
    assert stale(tmp_path) == []
    (tmp_path / "json" / "command.json").unlink()
    (tmp_path / "json" / "decision.json").write_text("{}")
    (tmp_path / "json" / "relic.json").write_text("{}")
    (tmp_path / "asyncapi.json").write_text("{}")
    assert stale(tmp_path) == ["asyncapi.json", "json/command.json", "json/decision.json", "json/relic.json"]


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_schema_is_valid_and_describes_every_field_once_declared(name):
    body = schema(name)
    Draft202012Validator.check_schema(body)
    assert body["$id"] == schema_id(name)
    objects = [body, *body.get("$defs", {}).values()]
    bare = [
        (part.get("title"), field)
        for part in objects
        for field, form in part.get("properties", {}).items()
        if "description" not in form
    ]
    assert bare == []


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if isinstance(case.value, dict) and case.valid],
    ids=lambda case: f"{case.topic}: {case.name}",
)
def test_the_schema_takes_what_the_model_takes(case):
    model = TOPICS[case.topic].models[0]
    name = next(name for name, contract in CONTRACTS.items() if contract is model)
    Draft202012Validator(schema(name)).validate(case.value)


def test_every_topic_carries_what_is_published():
    published = {str(contract) for contract in CONTRACTS.values()}
    carried = {str(model) for topic in TOPICS.values() for model in topic.models}
    assert carried == published
    assert all(name == topic.name for name, topic in TOPICS.items())


def test_the_source_topics_are_keyed_and_split_alike():
    sources = [TOPICS[name] for name in SOURCE_TOPICS]
    assert {topic.partitions for topic in sources} == {"source"}
    assert {topic.key for topic in sources if topic.name != "control"} == {"user"}
    assert all(topic.direction != "output" for topic in sources)


def _named(written, value):
    """Return as much of what was written as the value names."""
    if not isinstance(value, dict):
        return written
    return {name: _named(written[name], field) for name, field in value.items()}


@pytest.mark.parametrize(("model", "value"), [(Command, COMMAND), (Decision, DECISION)])
def test_what_goes_out_is_what_the_schema_says(model, value):
    read = model.model_validate_json(json.dumps(value))
    written = json.loads(read.model_dump_json(by_alias=True))
    name = next(name for name, contract in CONTRACTS.items() if contract is model)
    Draft202012Validator(schema(name)).validate(written)
    assert _named(written, value) == value
    assert model.model_validate(value) == read


@pytest.mark.parametrize(
    "change",
    [
        {"email": "jane@example.org"},
        {"not_after": "2026-01-08T10:00:00"},
        {"cost": {**COMMAND["cost"], "direct": 0.02}},
        {"experiment": {**COMMAND["experiment"], "propensity": 1.1}},
        {"reason": {**COMMAND["reason"], "scores_after": {**SCORES, "m": 6}}},
        {"user_id": ""},
    ],
)
def test_a_command_is_closed_and_its_amounts_are_text(change):
    with pytest.raises(ValidationError):
        Command.model_validate_json(json.dumps({**COMMAND, **change}))


def test_a_cancellation_names_the_command():
    TypeAdapter(Cancellation).validate_python(
        {"command_id": "c1", "episode_id": "e1", "user_id": "u1", "cancelled_at": AT, "reason": "ordered"}
    )


@pytest.mark.parametrize(("type_", "name"), [(COMMAND_TYPE, "command"), (CANCELLATION_TYPE, "cancellation")])
def test_the_headers_make_a_cloud_event(type_, name):
    headers = cloud_event_headers(
        id="c1", type=type_, subject="käufer-1", time_ms=1_767_607_200_123, dataschema=schema_id(name), source="/recall"
    )
    event = from_binary_event(KafkaMessage(dict(headers), b"k", json.dumps(COMMAND).encode()))
    assert (event.get_id(), event.get_type(), event.get_subject()) == ("c1", type_, "käufer-1")
    assert (event.get_source(), event.get_dataschema()) == ("/recall", schema_id(name))
    assert (event.get_specversion(), event.get_datacontenttype()) == ("1.0", "application/json")
    assert rfc3339(round(event.get_time().timestamp() * 1000)) == "2026-01-05T10:00:00.123Z"
    assert event.get_data() == COMMAND
