"""Where records come from: recorded histories, and public data sets brought into the same form."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from worker.sources import cdnow, history, online_retail, tmall
from worker.sources.history import HistoryRecord
from worker.sources.source import Accounting, Source

__all__ = ["FORMS", "Accounting", "Source", "detect", "open_source"]


def open_source(path: Path, **options: str) -> Source:
    """Open a file of any known form; the options are those of the form's reader (tmall has `price`)."""
    return FORMS[detect(path)](path, **options)


def detect(path: Path) -> str:
    """Tell a file's form, by its columns or, for a history in JSON lines, by its name."""
    if history.is_lines(path):
        return "history"
    columns = _columns(path)
    for form, telling in _TELLING.items():
        if set(telling) <= set(columns):
            return form
    known = "; ".join(f"{form} ({', '.join(telling)})" for form, telling in _TELLING.items())
    raise ValueError(f"{path}: the columns {', '.join(columns)} are those of no known form: {known}")


def _columns(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        with history.connect() as db:
            return [name for name, *_ in db.execute("describe from read_parquet(?)", [str(path)]).fetchall()]
    with history.open_binary(path) as file:
        line = file.readline(1 << 16).decode("latin-1").strip()
    columns = [name.strip('"') for name in line.split(",")] if "," in line else line.split()
    # CDNOW was first published without a header: then a customer and a day stand there.
    return list(cdnow.HEADER) if cdnow.is_row(columns) else columns


def _history(path: Path) -> Source:
    lines = sum(history.topics([path]).values())
    return Source("history", None, None, Accounting(lines, carried=lines, left_out={}), _records(path))


def _records(path: Path) -> Iterator[HistoryRecord]:
    for records in history.read([path]):
        yield from records


FORMS: Final[Mapping[str, Callable[..., Source]]] = {
    "online-retail": online_retail.read,
    "cdnow": cdnow.read,
    "tmall": tmall.read,
    "history": _history,
}
_TELLING: Final = {
    "online-retail": online_retail.COLUMNS,
    "cdnow": cdnow.HEADER,
    "tmall": tmall.HEADER,
    "history": history.COLUMNS,
}
