"""The fast decoder: what it takes, refuses and leaves out, and that the published contracts say the same."""

import copy
import json

import orjson
import pytest
from corpus import AT, CASES, CATALOG_REJECTED, GOOD, IGNORED, REJECTED, USER, outcome, priced, profile, view
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.topics import CATALOG, SOURCE_TOPICS, TOPICS
from worker.recall.events import parse, read_catalog
from worker.recall.money import Currency
from worker.recall.wire import TOPIC_OF
from worker.stream.processor import Ignored, Rejected

POUNDS = Currency.of("GBP")
CONTRACTS = {topic: TypeAdapter(TOPICS[topic].models[0]) for topic in (*SOURCE_TOPICS, CATALOG)}
OF_THE_SURROUNDINGS = {"ahead of broker", "key", "currency"}
"""Reasons that lie in key, broker's time and shop, of which a contract cannot know."""

named = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.topic}: {case.name}")


def decoded(topic, key, value, recorded_at=AT):
    return (
        (None, read_catalog(key, value, POUNDS)) if topic == CATALOG else parse(topic, key, value, recorded_at, POUNDS)
    )


def contract_takes(topic, value):
    try:
        orjson.loads(value)  # pydantic lets NaN and Infinity pass where nothing is declared; neither is JSON
        CONTRACTS[topic].validate_json(value, by_name=False)
    except ValueError:
        return False
    return True


@named
def test_the_decoder_gives_what_the_table_says(case):
    at, body = decoded(case.topic, case.key, case.raw, case.recorded_at)
    assert (outcome(body), at) == (case.expected, case.at)
    if case in REJECTED or case in IGNORED or case in CATALOG_REJECTED:
        assert isinstance(body, Ignored if case in IGNORED else Rejected)


@named
def test_the_contract_agrees(case):
    assert (case.raw is not None and contract_takes(case.topic, case.raw)) == case.valid


def test_every_source_topic_and_reason_is_in_the_table():
    assert {case.topic for case in GOOD} == set(SOURCE_TOPICS)
    assert {case.expected for case in REJECTED} == {"malformed", "topic", "amount", *OF_THE_SURROUNDINGS}


@pytest.mark.parametrize("case", [*REJECTED, *CATALOG_REJECTED], ids=lambda case: f"{case.topic}: {case.name}")
def test_a_refusal_does_not_repeat_what_it_refuses(case):
    if case.raw and (value := orjson_or_none(case.raw)) and isinstance(value, dict):
        _, body = decoded(case.topic, case.key, case.raw, case.recorded_at)
        texts = {text for text in leaves(value) if isinstance(text, str) and len(text) > 2}
        assert not [text for text in texts - TOPIC_OF.keys() if text in body.detail]


def test_an_address_in_a_wrong_place_does_not_reach_the_dead_letters():
    secret = "jane@example.org"
    for topic, record in [
        ("clickstream", view(type=secret)),
        ("clickstream", view(timestamp=secret)),
        ("clickstream", view(secret)),
        ("profiles", profile(consent={secret: {"marketing": True}})),
        ("profiles", profile(consent={"email": {secret: True}})),
        ("profiles", profile(timezone=secret)),
        ("profiles", profile(**{secret: True})),
        ("profiles", profile(**{f"`{secret}`": True})),
        ("catalog", priced(**{secret: "1"})),
        ("catalog", priced(price=secret)),
    ]:
        _, body = decoded(topic, USER.encode(), json.dumps(record).encode())
        assert isinstance(body, Rejected)
        assert secret not in body.detail


def orjson_or_none(value):
    try:
        return orjson.loads(value)
    except ValueError:
        return None


def leaves(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([2**53 - 1, 2**53, 10**12, 10**30, 0.005, 12.345, -0.0, -1e-9, 1e11, 1e300]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.sampled_from(["12.50", "-1", "1e3", "NaN", "GBP", "USD", "x" * 256, "x" * 257, "\0", "track", "page", "email"]),
    st.sampled_from(["Europe/London", "new-arrivals", "delivered", "1.", ".5", " 1", "1_0", "+1", "GBP\n", "staff\n"]),
    st.sampled_from(
        ["2026-01-05 09:00:00z", "2026-01-05T09:00:00+0100", "2026-01-05T09:00:00.1234567891Z", "2026-01-05"]
    ),
    st.sampled_from(["2026-01-05T09:00:60Z", "2026-01-05T24:00:00Z", "2026-01-05T09:00:00+24:00", "2026-01-05T09:00Z"]),
    st.sampled_from(
        ["1970-01-01T00:00:00+14:00", "1969-12-31T23:00:00-02:00", "2026-01-05T09:00:00.Z", "2026-01-05T09:00:00"]
    ),
    st.sampled_from(
        [[], {}, [{}], {"product_id": "p"}, [{"product_id": "p", "price": "1"}], {"sms": {"marketing": False}}]
    ),
)


def places(value, path=()):
    """Yield the path of everything within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*path, name)
        yield from places(item, (*path, name))


@st.composite
def mutated(draw):
    case = draw(st.sampled_from([case for case in CASES if isinstance(case.value, dict)]))
    record = copy.deepcopy(case.value)
    for _ in range(draw(st.integers(1, 2))):
        found = list(places(record))
        if not found:
            break
        *path, name = draw(st.sampled_from(found))
        place = record
        for step in path:
            place = place[step]
        match draw(st.sampled_from(["set", "set", "drop", "add"])):
            case "set":
                place[name] = copy.deepcopy(draw(VALUES))
            case "drop":
                del place[name]
            case "add" if isinstance(place, dict):
                added = draw(st.sampled_from(["x", "price", "currency", "at", "userId", "total"]))
                place[added] = copy.deepcopy(draw(VALUES))
    return case.topic, record


@given(mutated())
def test_decoder_and_contract_agree_on_mutations(mutation):
    topic, record = mutation
    value = json.dumps(record).encode()
    told = record.get("product_id" if topic == CATALOG else "userId")
    key = told.encode() if isinstance(told, str) else None
    at, body = decoded(topic, key, value)
    takes = contract_takes(topic, value)
    if isinstance(body, Ignored) and body.reason.startswith("not yet in force"):
        assert takes
    elif isinstance(body, Rejected) and body.reason in {"ahead of broker", "currency"}:
        pass
    else:
        assert takes == (not isinstance(body, (Ignored, Rejected))), (body, at)


@given(st.binary(max_size=60), st.sampled_from((*SOURCE_TOPICS, CATALOG)))
def test_no_bytes_raise(value, topic):
    _, body = decoded(topic, b"k", value)
    assert isinstance(body, (Ignored, Rejected))


def test_a_model_can_be_made_by_its_own_names():
    event = CONTRACTS["profiles"].validate_python(
        {"type": "profile", "message_id": "m", "user_id": "u", "timestamp": "2026-01-05T10:00:00Z"}
    )
    assert (event.message_id, event.timestamp.timestamp() * 1000) == ("m", AT)
    with pytest.raises(ValidationError):
        CONTRACTS["profiles"].validate_python({"type": "profile"})
