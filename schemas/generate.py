"""JSON Schema 2020-12 of every contract, and an AsyncAPI document of all topics, as files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from schemas.asyncapi import document
from schemas.catalog import CatalogRecord
from schemas.commands import Cancellation, Command
from schemas.control import Control
from schemas.dead_letters import DeadLetter, SentBack
from schemas.decisions import Decision
from schemas.events import CartEvent, ClickstreamEvent, OrderEvent
from schemas.feedback import FeedbackRecord
from schemas.profiles import ProfileRecord
from schemas.snapshots import MeasuresRecord, Snapshot
from schemas.tiers import TierChange
from schemas.training import Training
from schemas.values import schema_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONTRACTS: Final[Mapping[str, Any]] = {
    "cancellation": Cancellation,
    "cart-event": CartEvent,
    "catalog": CatalogRecord,
    "clickstream-event": ClickstreamEvent,
    "command": Command,
    "control": Control,
    "dead-letter": DeadLetter,
    "decision": Decision,
    "feedback": FeedbackRecord,
    "measures": MeasuresRecord,
    "order-event": OrderEvent,
    "profile": ProfileRecord,
    "sent-back": SentBack,
    "snapshot": Snapshot,
    "tier-change": TierChange,
    "training": Training,
}
"""What is published, by the name of its file."""
SCHEMAS: Final = "json"
ASYNCAPI: Final = "asyncapi.json"


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a contract."""
    body = TypeAdapter(CONTRACTS[name]).json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": schema_id(name), **body}


def generate(directory: Path) -> list[Path]:
    """Write every file into the directory, the schemas into `json` there, and return the files."""
    (directory / SCHEMAS).mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in _texts().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def stale(directory: Path) -> list[str]:
    """Return the names of files that are missing, differ from the models, or belong to none."""
    texts = _texts()
    found = {*directory.glob(f"{SCHEMAS}/*.json"), directory / ASYNCAPI}
    files = {
        path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8") for path in found if path.exists()
    }
    return sorted(name for name in files.keys() | texts.keys() if files.get(name) != texts.get(name))


def _texts() -> dict[str, str]:
    """Return what every file holds, by its name from the directory on."""
    schemas = {f"{SCHEMAS}/{name}.json": schema(name) for name in CONTRACTS}
    return {name: _text(body) for name, body in {**schemas, ASYNCAPI: document()}.items()}


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
