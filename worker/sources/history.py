"""The recorded form of a stream: what the topics got, in a file.

JSON lines (.jsonl, .ndjson, .json, each also with .gz), one record a line:

    {"topic": "orders", "key": "user-1", "recorded_at": "2011-01-01T10:00:00Z", "value": {...}}

`recorded_at` is the time at which the broker took the record, `value` the message. A value that is a string
stands for its own bytes, so that input which is no JSON can be recorded too. Parquet has the same four columns:
topic, key and value as strings, recorded_at as TIMESTAMP in UTC. Within a topic the order of the file is the
order of the topic.
"""

import datetime as dt
import gzip
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple, cast

import duckdb
import msgspec
import orjson

from schemas.topics import SOURCE_TOPICS
from schemas.values import rfc3339

TOPICS: Final = (*SOURCE_TOPICS, "catalog")
COLUMNS: Final = ("topic", "key", "recorded_at", "value")

_JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
_FORMS: Final = f"a history ends in .parquet or {', '.join(_JSON_SUFFIXES)} (these also with .gz)"
_CHUNK: Final = 8192
_JSON: Final = """read_json(?, format='newline_delimited', columns={
    topic: 'VARCHAR', key: 'VARCHAR', recorded_at: 'TIMESTAMPTZ', value: 'JSON'})"""
# SQL for the text of a value by the column's type: in JSON a string is quoted.
_VALUE: Final = {"JSON": "if(starts_with(value, '\"'), value ->> '$', value::varchar)", "VARCHAR": "value"}


class HistoryRecord(NamedTuple):
    """A record as a topic holds it; `recorded_at` in milliseconds since the epoch, UTC."""

    topic: str
    key: bytes
    recorded_at: int
    value: bytes


def open_binary(path: Path, mode: Literal["rb", "wb"] = "rb") -> BinaryIO:
    """Open a file, unpacked if its name ends in .gz."""
    return cast("BinaryIO", gzip.open(path, mode, compresslevel=6) if path.suffix == ".gz" else path.open(mode))


def connect() -> duckdb.DuckDBPyConnection:
    """Open a database in memory whose local time is UTC."""
    db = duckdb.connect()
    db.execute("set timezone = 'UTC'")
    return db


def read(paths: Sequence[Path], topic: str | None = None) -> Iterator[list[HistoryRecord]]:
    """Read the records of one topic (of all without one) in the order of the files, some thousand at a time.

    Memory stays constant however long the files are. `topics` tells beforehand whether all lines are sound.
    """
    where = "" if topic is None else "where topic = ?"
    with connect() as db:
        for path in paths:
            source, text = relation(db, path)
            sql = f"""select topic, encode(coalesce(key, '')), epoch_ms(recorded_at),
                      encode(coalesce({text}, '')) from {source} {where}"""  # noqa: S608 - no user text
            try:
                db.execute(sql, [str(path)] if topic is None else [str(path), topic])
                while rows := db.fetchmany(_CHUNK):
                    yield list(starmap(HistoryRecord, rows))
            except duckdb.Error as error:
                raise _unreadable(path, error) from error


def topics(paths: Sequence[Path]) -> dict[str, int]:
    """Count the records of each topic, and check that every line names a known topic and a time."""
    counts: dict[str, int] = {}
    with connect() as db:
        for path in paths:
            source, _ = relation(db, path)
            sql = f"select topic, count(*), count(recorded_at) from {source} group by topic"  # noqa: S608
            try:
                rows = db.execute(sql, [str(path)]).fetchall()
            except duckdb.Error as error:
                raise _unreadable(path, error) from error
            for topic, lines, timed in rows:
                if topic not in TOPICS:
                    raise ValueError(f"{path}: topic {topic!r} is not one of {', '.join(TOPICS)}")
                if timed != lines:
                    raise ValueError(f"{path}: {lines - timed} records of {topic} have no recorded_at")
                counts[topic] = counts.get(topic, 0) + lines
    return {topic: counts[topic] for topic in TOPICS if topic in counts}


def write(path: Path, records: Iterable[HistoryRecord]) -> int:
    """Write a history in the form that the file's suffix names, and return how many records it has."""
    if path.suffix == ".parquet":
        return _write_parquet(path, records)
    if not is_lines(path):
        raise ValueError(f"{path}: {_FORMS}")
    with open_binary(path, "wb") as file:
        return _write_lines(file, records, _embedded)


def _write_parquet(path: Path, records: Iterable[HistoryRecord]) -> int:
    # By way of a file of lines: DuckDB takes no stream of rows, and memory stays constant.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".jsonl") as file, connect() as db:
        count = _write_lines(cast("BinaryIO", file), records, _text)
        file.flush()
        target = str(path).replace("'", "''")
        db.execute(
            f"""copy (select topic, key, recorded_at::timestamp as recorded_at, value ->> '$' as value
                      from {_JSON}) to '{target}' (format parquet, compression zstd)""",  # noqa: S608
            [file.name],
        )
    return count


def _write_lines(file: BinaryIO, records: Iterable[HistoryRecord], form: Callable[[HistoryRecord], object]) -> int:
    count = 0
    for record in records:
        if record.topic not in TOPICS:
            raise ValueError(f"topic {record.topic!r} is not one of {', '.join(TOPICS)}")
        line = {
            "topic": record.topic,
            "key": record.key.decode(),
            "recorded_at": rfc3339(record.recorded_at),
            "value": form(record),
        }
        file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        count += 1
    return count


def _embedded(record: HistoryRecord) -> object:
    """Return the value as it stands if it is a JSON object, and otherwise as a string."""
    try:
        if isinstance(orjson.loads(record.value), dict):
            # Between the tokens of JSON, a line break is as good as a space; inside them there are none.
            return orjson.Fragment(record.value.replace(b"\n", b" ").replace(b"\r", b" "))
    except orjson.JSONDecodeError:
        pass
    return _text(record)


def _text(record: HistoryRecord) -> str:
    try:
        return record.value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{record.topic}: a history holds UTF-8, and the value {record.value!r} is none") from error


def is_lines(path: Path) -> bool:
    """Tell whether a file's name says that it holds JSON lines."""
    return path.name.removesuffix(".gz").endswith(_JSON_SUFFIXES)


def relation(db: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, str]:
    """Return SQL for a file's rows and for the text of a value, having checked that the columns are there."""
    if path.suffix == ".parquet":
        rows = db.execute("describe from read_parquet(?)", [str(path)]).fetchall()
        sql, kinds = "read_parquet(?)", {name: kind for name, kind, *_ in rows}
    elif is_lines(path):
        sql, kinds = _JSON, dict.fromkeys(_first_line(path), "JSON")
    else:
        raise ValueError(f"{path}: {_FORMS}")
    for column in COLUMNS:
        if column not in kinds:
            raise ValueError(f"{path}: column {column!r} is missing among {', '.join(kinds)}")
    if kinds["value"] not in _VALUE:
        raise ValueError(f"{path}: value is {kinds['value']}, and has to be one of {', '.join(_VALUE)}")
    return sql, _VALUE[kinds["value"]]


def _first_line(path: Path) -> Iterable[str]:
    with open_binary(path) as file:
        line = file.readline()
    if not line:
        return COLUMNS
    try:
        return msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}, line 1: {error}") from error


class _Line(msgspec.Struct):
    topic: str
    recorded_at: dt.datetime
    key: str | int | None = None
    value: msgspec.Raw = msgspec.Raw()


def _unreadable(path: Path, error: duckdb.Error) -> ValueError:
    """Say which line is bad: DuckDB reads in parallel, and the numbers in its messages are approximate."""
    if is_lines(path):
        decode = msgspec.json.Decoder(_Line).decode
        with open_binary(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    decode(line)
                except msgspec.DecodeError as problem:
                    return ValueError(f"{path}, line {number}: {problem}")
    return ValueError(f"{path}: {error}")
