"""An AsyncAPI 3.0 document of all topics, from the registry: channels, what lies on them, who sends and who receives.

It stands alone: the schemas are inside. They are those of JSON Schema 2020-12 without what AsyncAPI's own schema object
(a superset of draft 07) knows otherwise.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, TypeAdapter

from schemas.commands import CANCELLATION_TYPE, COMMAND_TYPE, Cancellation, Command
from schemas.topics import TOPICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.topics import Topic

VERSION: Final = "1.0.0"
"""Of the contracts; the first number is the one that the types of CloudEvents end in."""
_CLOUD_EVENTS: Final = {Command: COMMAND_TYPE, Cancellation: CANCELLATION_TYPE}
_KEYS: Final = {
    "user": "The shop's own id of the user.",
    "product": "The shop's id of the product.",
    "version": "Horizon and version of the model, as in 30/7.",
}
"""What the record's key is; partition and none: no key."""
_ACTIONS: Final = {"input": ("receive",), "output": ("send",), "both": ("receive", "send")}


def document() -> dict[str, Any]:
    """Return the document."""
    models = {model.__name__: model for topic in TOPICS.values() for model in _models(topic)}
    schemas = _schemas(models)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Recall",
            "version": VERSION,
            "description": "Kafka topics of an always-on worker that wins customers back. What it receives and sends "
            "is told from the worker's side: who carries out touches receives `recall` and sends `feedback`.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS.values()},
        "operations": {
            f"{action}-{topic.name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{topic.name}"},
                "messages": [
                    {"$ref": f"#/channels/{topic.name}/messages/{model.__name__}"} for model in _models(topic)
                ],
            }
            for topic in TOPICS.values()
            for action in _ACTIONS[topic.direction]
        },
        "components": {
            "messages": {
                model.__name__: _message(topic, model) for topic in TOPICS.values() for model in _models(topic)
            },
            "schemas": schemas,
        },
    }


def _models(topic: Topic) -> Iterator[type[BaseModel]]:
    """Yield each kind of record on a topic."""
    for contract in topic.models:
        yield from _parts(contract)


def _parts(contract: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a contract is a choice of, or itself."""
    if isinstance(contract, type):
        yield contract
    elif get_origin(contract) is Annotated:
        yield from _parts(get_args(contract)[0])
    else:
        for part in get_args(contract):
            yield from _parts(part)


def _channel(topic: Topic) -> dict[str, Any]:
    kafka: dict[str, Any] = {
        "topic": topic.name,
        "topicConfiguration": {"cleanup.policy": [topic.cleanup]},
        "bindingVersion": "0.5.0",
    }
    if topic.partitions == "one":
        kafka["partitions"] = 1
    split = "one partition" if topic.partitions == "one" else "as many partitions as all source topics have"
    return {
        "address": topic.name,
        "description": f"Key: {topic.key}; {split}. Kept: {topic.retention}.",
        "messages": {model.__name__: {"$ref": f"#/components/messages/{model.__name__}"} for model in _models(topic)},
        "bindings": {"kafka": kafka},
    }


def _message(topic: Topic, model: type[BaseModel]) -> dict[str, Any]:
    name = model.__name__
    title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    message: dict[str, Any] = {
        "name": name,
        "title": title,
        "summary": (model.__doc__ or "").strip().partition("\n")[0],
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
    if topic.key in _KEYS:
        key = {"type": "string", "description": _KEYS[topic.key]}
        message["bindings"] = {"kafka": {"key": key, "bindingVersion": "0.5.0"}}
    if model in _CLOUD_EVENTS:
        message["name"] = _CLOUD_EVENTS[model]
        message["headers"] = _cloud_event(_CLOUD_EVENTS[model])
    return message


def _cloud_event(kind: str) -> dict[str, Any]:
    """Return the headers of a CloudEvent in Kafka's binary mode."""
    texts = {
        "ce_specversion": "1.0",
        "ce_type": kind,
        "ce_id": "Id of the event: of a command, its command_id.",
        "ce_source": "Who sends it.",
        "ce_subject": "The user id.",
        "ce_time": "Event time, RFC 3339.",
        "ce_dataschema": "Id of the JSON Schema of the value.",
        "content-type": "application/json",
    }
    fixed = {"ce_specversion", "ce_type", "content-type"}
    return {
        "type": "object",
        "required": list(texts),
        "properties": {
            name: {"type": "string", "const" if name in fixed else "description": text} for name, text in texts.items()
        },
    }


def _schemas(models: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """Return the schemas of the models and of what they are made of, by name."""
    told = [(name, "validation", TypeAdapter(model)) for name, model in models.items()]
    refs, body = TypeAdapter.json_schemas(told, by_alias=True, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    found: dict[str, Any] = body["$defs"]
    for (name, _), schema in refs.items():
        if schema != {"$ref": f"#/components/schemas/{name}"}:
            found[name] = schema
    plain: dict[str, Any] = _without_mapping(found)
    return plain


def _without_mapping(schema: Any) -> Any:
    """Leave out OpenAPI's discriminator, which is another thing in AsyncAPI: the constants tell the parts apart."""
    if isinstance(schema, list):
        return [_without_mapping(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_mapping(part)
        for name, part in schema.items()
        if not (name == "discriminator" and isinstance(part, dict) and "propertyName" in part)
    }
