"""Writes what the topics would have got into files, one for each topic."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, Self

import orjson

from worker.sources.history import connect

if TYPE_CHECKING:
    from pathlib import Path

    from worker.stream.processor import Output

Form = Literal["jsonl", "parquet"]
_COLUMNS: Final = "partition: 'INTEGER', key: 'VARCHAR', headers: 'JSON', value: 'JSON'"


class Files:
    """A folder of outputs: `recall.jsonl`, `tier-changes.jsonl` and so on, or `.parquet`.

    Each record has the source partition that it came from, its key (null for none), its headers and its value; in
    Parquet the last two are JSON as text. A topic without records has no file.
    """

    def __init__(self, directory: Path, form: Form = "jsonl") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.written: list[Path] = []
        self._directory = directory
        self._form = form
        self._open: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for topic in self._open:
            path = self._directory / f"{topic}.jsonl"
            self.written.append(path if self._form == "jsonl" else _packed(path))

    def take(self, number: int, output: Output) -> None:
        """Write an output of a source partition."""
        file = self._open.get(output.topic)
        if file is None:
            path = self._directory / f"{output.topic}.jsonl"
            file = self._open[output.topic] = self._stack.enter_context(path.open("wb"))
        line = {
            "partition": number,
            "key": None if output.key is None else output.key.decode(),
            "headers": {name: value.decode() for name, value in output.headers},
            "value": orjson.Fragment(output.value),
        }
        file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _packed(lines: Path) -> Path:
    """Put Parquet in the place of a file of lines."""
    path = lines.with_suffix(".parquet")
    target = str(path).replace("'", "''")
    with connect() as db:
        db.execute(
            f"""copy (select partition, key, headers::varchar as headers, value::varchar as value
                      from read_json(?, format='newline_delimited', columns={{{_COLUMNS}}}))
                to '{target}' (format parquet, compression zstd)""",  # noqa: S608 - no user text
            [str(lines)],
        )
    lines.unlink()
    return path
