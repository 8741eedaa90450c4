"""`recall report`: reads what was decided and what came, and tells what the touches have brought."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import orjson
import typer

from worker.console import facts
from worker.recall.playbook import load as read_playbook
from worker.report import export, figures
from worker.report.inputs import find
from worker.report.load import Frame, loaded
from worker.report.shown import show
from worker.report.telling import told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from rich.console import Console

    from worker.report.inputs import Inputs
    from worker.settings import Settings

Form = Literal["text", "json"]


def run(
    paths: Sequence[Path],
    settings: Settings,
    *,
    html: Path | None,
    parquet: Path | None,
    form: Form,
    console: Console,
) -> None:
    """Read files, or topics where there are none, and tell; with `html` write the page, with `parquet` the tables."""
    page = None if html is None else _page()
    book = read_playbook(settings.playbook)
    frame = Frame(settings.timezone, book.holdout.epoch_days, book.value.margin_rate)
    about = {"currency": settings.currency, "timezone": settings.timezone, "held_out": book.holdout.share}
    written = []
    with _inputs(paths, settings) as found, loaded(found, frame) as db:
        report = figures.report(db, sms_price=float(book.channels.cost["sms"]), about=about)
        if parquet is not None:
            written += export.write(db, parquet)
    if page is not None and html is not None:
        html.write_text(page.of(report), encoding="utf-8")
        written.append(html)
    if form == "json":
        typer.echo(orjson.dumps(told(report), option=orjson.OPT_INDENT_2))
        return
    show(report, console)
    if written:
        console.print("")
        console.print(facts([("written", "\n".join(map(str, written)))]))


@contextmanager
def _inputs(paths: Sequence[Path], settings: Settings) -> Iterator[Inputs]:
    """Give the files; those of a cluster's topics are there as long as they are needed."""
    if paths:
        yield find(paths)
        return
    from worker.from_kafka import Reader  # noqa: PLC0415 - files need no client
    from worker.report.topics import fetch  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="recall-report-") as folder, Reader(settings) as reader:
        yield fetch(reader, Path(folder))


def _page() -> ModuleType:
    """Return what draws the page; it needs the extra `charts`."""
    try:
        return import_module("worker.report.page")
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'recall-worker[charts]'") from error
