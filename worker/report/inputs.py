"""Where a report's records come from: files of outputs and histories, each as SQL that yields typed rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from worker.sources import history

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import duckdb

OUTPUTS: Final = ("recall-decisions", "recall", "tier-changes")
"""Topics of the worker's that are read; the first has to be there."""
EVENTS: Final = ("orders", "feedback", "profiles", "catalog")
"""Topics of a history that are read; the first has to be there."""
_ENDINGS: Final = (".jsonl", ".parquet")

Shape = dict[str, object]
"""Names of fields with their SQL types, or with shapes of their own."""


class Inputs(NamedTuple):
    """Files to read."""

    outputs: Mapping[str, list[Path]]
    """By topic."""
    histories: list[Path]


def find(paths: Iterable[Path]) -> Inputs:
    """Sort what was given: folders that `recall replay --out` wrote, files of one topic, and histories.

    Raises:
        ValueError: where the decisions or the orders are missing.

    """
    outputs: dict[str, list[Path]] = {topic: [] for topic in OUTPUTS}
    histories: list[Path] = []
    given = list(paths)
    for path in given:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in inside:
            topic = file.name.split(".")[0]
            if topic in outputs and file.suffix in _ENDINGS:
                outputs[topic].append(file)
            elif topic.startswith("history") or not path.is_dir():
                histories.append(file)
    told = ", ".join(map(str, given))
    if not outputs["recall-decisions"]:
        raise ValueError(f"{told}: allowed is a folder with recall-decisions.jsonl or .parquet in it")
    if not histories:
        raise ValueError(f"{told}: allowed is also a history with the orders (a file, or history.* in the folder)")
    return Inputs(outputs, histories)


def typed(files: Iterable[Path], shape: Shape) -> str:
    """Return SQL for the values of outputs' files, a column a field; an empty table where there are none."""
    parts = [f"select unnest(value) from ({_values(file, shape)})" for file in files]  # noqa: S608 - no user text
    if not parts:
        parts = [f"select unnest(null::{_struct(shape)}) where false"]
    return "\nunion all by name\n".join(parts)


def _values(file: Path, shape: Shape) -> str:
    name = quoted(str(file))
    if file.suffix == ".parquet":
        return f"select from_json(value, {quoted(_json(shape))}) as value from read_parquet({name})"  # noqa: S608
    columns = f"{{value: {quoted(_struct(shape))}}}"
    return f"select value from read_json({name}, format = 'newline_delimited', columns = {columns})"  # noqa: S608


def events(db: duckdb.DuckDBPyConnection, files: Iterable[Path]) -> str:
    """Return SQL for (topic, key, value) of the topics that a report reads; a value that is no JSON is null."""
    topics = ", ".join(map(quoted, EVENTS))
    parts = []
    for file in files:
        relation, text = history.relation(db, file)
        relation = relation.replace("?", quoted(str(file)), 1)
        parts.append(
            f"select topic, key, try_cast({text} as json) as value from {relation} where topic in ({topics})"  # noqa: S608
        )
    return "\nunion all\n".join(parts)


def quoted(text: str) -> str:
    """Return text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _struct(shape: Shape) -> str:
    fields = (f'"{name}" {_struct(kind) if isinstance(kind, dict) else kind}' for name, kind in shape.items())
    return f"struct({', '.join(fields)})"


def _json(shape: Shape) -> str:
    return orjson.dumps(shape).decode()
