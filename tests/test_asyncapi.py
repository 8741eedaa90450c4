"""The AsyncAPI document: all topics, each record in its place, every reference resolved.

By hand it was held to AsyncAPI's own JSON Schema of version 3.0.0, from npm's package @asyncapi/specs.
"""

import pytest
from corpus import CASES
from jsonschema import Draft7Validator, ValidationError
from test_contracts import COMMAND, DECISION

from schemas.asyncapi import document
from schemas.topics import SOURCE_TOPICS, TOPICS

DOCUMENT = document()
DIRECTIONS = {"input": {"receive"}, "output": {"send"}, "both": {"receive", "send"}}


def resolve(ref):
    assert ref.startswith("#/"), "the document stands alone"
    found = DOCUMENT
    for part in ref[2:].split("/"):
        found = found[part]
    return found


def places(value, name):
    """Yield all that stands under a name, anywhere."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key == name:
                yield part
            yield from places(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from places(part, name)


def taking(topic, value):
    """Return the messages of a topic whose schema takes a value."""
    found = []
    for name, ref in DOCUMENT["channels"][topic]["messages"].items():
        payload = resolve(ref["$ref"])["payload"]
        try:
            Draft7Validator({**payload, "components": DOCUMENT["components"]}).validate(value)
        except ValidationError:
            continue
        found.append(name)
    return found


def test_every_topic_is_a_channel_and_sent_or_received_as_the_registry_says():
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {name: channel["address"] for name, channel in DOCUMENT["channels"].items()} == {
        name: name for name in TOPICS
    }
    operations = {(op["channel"]["$ref"], op["action"]) for op in DOCUMENT["operations"].values()}
    assert operations == {
        (f"#/channels/{topic.name}", action) for topic in TOPICS.values() for action in DIRECTIONS[topic.direction]
    }


def test_every_reference_resolves_and_an_operation_has_the_messages_of_its_channel():
    refs = set(places(DOCUMENT, "$ref"))
    assert len(refs) > 100
    for ref in refs:
        assert isinstance(resolve(ref), dict)
    for operation in DOCUMENT["operations"].values():
        channel = resolve(operation["channel"]["$ref"])
        assert [resolve(ref["$ref"]) for ref in operation["messages"]] == list(channel["messages"].values())


def test_every_message_lies_on_a_topic_has_a_summary_and_a_schema_that_is_sound():
    messages = DOCUMENT["components"]["messages"]
    used = {ref["$ref"] for channel in DOCUMENT["channels"].values() for ref in channel["messages"].values()}
    assert used == {f"#/components/messages/{name}" for name in messages}
    assert all(message["summary"] for message in messages.values())
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)


def test_no_discriminator_of_openapi_is_left_in_it():
    assert not list(places(DOCUMENT["components"]["schemas"], "discriminator"))


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if isinstance(case.value, dict) and case.valid],
    ids=lambda case: f"{case.topic}: {case.name}",
)
def test_a_good_record_is_a_message_of_its_topic(case):
    assert len(taking(case.topic, case.value)) == 1


def test_what_goes_out_is_a_message_of_its_topic():
    assert taking("recall", COMMAND) == ["Command"]
    assert taking("recall-decisions", DECISION) == ["Decision"]
    assert taking("recall", {**COMMAND, "email": "jane@example.org"}) == []


def test_keys_and_headers_are_told():
    messages = DOCUMENT["components"]["messages"]
    assert messages["Command"]["headers"]["properties"]["ce_type"]["const"] == messages["Command"]["name"]
    for topic in SOURCE_TOPICS:
        for ref in DOCUMENT["channels"][topic]["messages"].values():
            assert ("bindings" in resolve(ref["$ref"])) == (topic != "control")
