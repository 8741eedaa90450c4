"""`recall evaluate`: runs the tasks, keeps what came as JSON, and makes page and summary of all that is kept."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

import orjson
from rich.table import Table

from worker.console import facts
from worker.evaluate import choice, hillstrom, logs, page, results, summary
from worker.evaluate.examples import build

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from worker.evaluate.examples import Examples
    from worker.evaluate.logs import Log, Task
    from worker.evaluate.product import Learner

PAGE, SUMMARY = "evaluation.html", "evaluation.md"
_TERMINAL: Final = (
    ("auc", "AUC"),
    ("auc_within_week", "in week"),
    ("log_loss", "log loss"),
    ("ece", "ECE"),
    ("accuracy", "accuracy"),
    ("precision_top_10", "top 10%"),
)


def chosen(names: Sequence[str]) -> list[Task]:
    """Return the tasks of that name, or on the log of that name; all, where none is named.

    >>> [task.name for task in chosen(["cdnow", "retail"])]
    ['cdnow', 'retail-30', 'retail-60', 'retail-90']
    """
    known = {name for task in logs.TASKS.values() for name in (task.name, task.log)} | {hillstrom.NAME}
    for name in names:
        if name not in known:
            raise ValueError(f"set = {name}: allowed are {', '.join(sorted(known))}")
    return [task for task in logs.TASKS.values() if not names or task.name in names or task.log in names]


def run(names: Sequence[str], data: Path, out: Path, *, learner: Learner, draws: int, console: Console) -> None:
    """Evaluate, and write JSON by task, page and summary into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for task, log, examples in _opened(chosen(names), data):
        result = results.evaluate(task, examples, timezone=log.timezone, learner=learner, draws=draws)
        _keep(out, result)
        show(result, console)
    if not names or hillstrom.NAME in names:
        result = hillstrom.evaluate(data)
        _keep(out, result)
        choice.show(result, console)
    command = shlex.join(
        ["recall", "evaluate", "--data", "DIR", "--out", "DIR", "--learner", learner, "--resamples", str(draws)]
    )
    kept, tested = read(out, logs.TASKS), read(out, [hillstrom.NAME])
    (out / PAGE).write_text(page.write(kept, tested, command))
    (out / SUMMARY).write_text(summary.write(kept, tested, command))
    console.print(facts([("written to", str(out)), ("", f"{PAGE}, {SUMMARY}, and a .json for each task")]))


def read(out: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the results of these names that are kept in a folder, in their order."""
    return [orjson.loads(path.read_bytes()) for name in names if (path := out / f"{name}.json").exists()]


def _keep(out: Path, result: Mapping[str, Any]) -> None:
    (out / f"{result['task']}.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print a result within 80 columns."""
    console.print(
        f"\n{result['title']}: {result['examples']:,} examples of {result['users']:,} users, "
        f"{result['base_rate']:.1%} lapsed",
        style="bold",
    )
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for _, label in _TERMINAL:
        table.add_column(label, justify="right")
    for name, model in result["models"].items():
        table.add_row(name, *(f"{model['figures'][figure]['value']:.3f}" for figure, _ in _TERMINAL))
    console.print(table)
    for line in summary.lines(result):
        console.print(line)


def _opened(tasks: Iterable[Task], data: Path) -> Iterator[tuple[Task, Log, Examples]]:
    """Yield tasks with their examples; those of one log and target are built once."""
    of: tuple[str, str] | None = None
    for task in tasks:
        if of != (task.log, task.target):
            log = logs.open_log(task.log, data)
            examples = build(log, task.target)
            of = task.log, task.target
        yield task, log, examples
