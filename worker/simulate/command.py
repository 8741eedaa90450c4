"""`recall simulate`: a history of the shop, a closed loop with the rules, or the shop beside public data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import orjson
from rich.table import Table

from worker.console import facts, outcome
from worker.outputs import Files
from worker.simulate.compare import QUANTILES, WEEKS, Shape, shapes
from worker.simulate.loop import Loop
from worker.simulate.parameters import TYPES
from worker.simulate.people import FOREVER
from worker.simulate.records import Oddities, Recorder
from worker.simulate.shop import CURRENCY, TIMEZONE, Shop
from worker.sources import history
from worker.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rich.console import Console

    from worker.grants import Grant
    from worker.settings import Settings
    from worker.simulate.truth import Effect
    from worker.sources.history import HistoryRecord
    from worker.stream.processor import Output

HISTORY: Final = "history.jsonl"
"""What the shop recorded, in the folder of a closed loop: it replays to the same outputs."""


def open_loop(shop: Shop, out: Path, truth: Path | None, console: Console) -> None:
    """Write the shop's history as it is without any touch."""
    oddities = Oddities()
    recorder = Recorder(shop, oddities)
    history.write(out, (record for _ in range(shop.days) for record in recorder.of(shop.live())))
    written = [str(out)]
    if truth is not None:
        write_truth(truth, shop, shop)
        written.append(str(truth))
    console.print(_counted(oddities, written))


def closed_loop(
    shop: Shop,
    without: Shop,
    settings: Settings,
    grants: Iterable[Grant],
    out: Path | None,
    truth: Path | None,
    console: Console,
) -> None:
    """Let the rules and the customers answer each other; show what it truly brought."""
    oddities, tally = Oddities(), Tally()
    files = Files(out) if out is not None else None

    def emit(number: int, output: Output) -> None:
        tally.take(output.topic, output.value, output.headers)
        if files is not None:
            files.take(number, output)

    loop = Loop(shop, without, settings, emit, oddities, grants)
    records = _records(loop, tally)
    written = []
    if out is None or files is None:
        for _ in records:
            pass
    else:
        with files:
            history.write(out / HISTORY, records)
        written = [str(out / HISTORY), *(str(path) for path in files.written)]
    if truth is not None:
        write_truth(truth, shop, without)
        written.append(str(truth))
    console.print(outcome(tally, loop.replay.counts))
    console.print(_counted(oddities, written))
    console.print(shown(loop.effect()))
    console.print(
        f"Over {shop.days} days: orders that come without any touch; then what the touches truly\n"
        f"added: orders, margin ({CURRENCY}, coupons taken off), cost, customers driven away."
    )


def compare(data: Path, family: str, console: Console) -> None:
    """Show the shop beside public data."""
    console.print(beside(shapes(data, family)))


def write_truth(path: Path, shop: Shop, without: Shop) -> None:
    """Write what each customer is, and what came with touches and without: JSON lines."""
    with history.open_binary(path, "wb") as file:
        for row in truth_rows(shop, without):
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def truth_rows(shop: Shop, without: Shop) -> Iterator[dict[str, Any]]:
    """Yield the truth by customer; money in cents, days counted from the first."""
    born, mine, theirs = without.people, shop.ledger.sums(), without.ledger.sums()
    for place in range(len(born)):
        turn, back = int(born.turn[place]), int(born.back[place])
        yield {
            "user_id": f"user-{born.number[place]}",
            "type": TYPES[born.type[place]],
            "joined": int(born.joined[place]),
            "turn": turn if turn < FOREVER else None,
            "back": back if back < FOREVER else None,
            "orders": int(mine.orders[place]),
            "revenue": int(mine.revenue[place]),
            "margin": int(mine.margin[place]),
            "orders_without": int(theirs.orders[place]),
            "revenue_without": int(theirs.revenue[place]),
            "margin_without": int(theirs.margin[place]),
            "touches": int(shop.touched[place]),
            "cost_micros": int(shop.cost_micros[place]),
            "driven_away": bool(shop.driven_away[place]),
        }


def shown(effects: Iterable[Effect]) -> Table:
    """Return the true effect by type as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("type", no_wrap=True)
    for name in ("all", "touched", "orders", "extra", "margin", "cost", "net", "left"):
        table.add_column(name, justify="right")
    for one in effects:
        table.add_row(
            one.group,
            f"{one.customers:,}",
            f"{one.touched:,}",
            f"{one.orders_without:,}",
            f"{one.orders:+,}",
            f"{one.margin / 100:+,.0f}",
            f"{one.cost / 100:,.2f}",
            f"{one.net / 100:+,.0f}",
            f"{one.left:,}",
        )
    return table


def beside(found: list[Shape]) -> Table:
    """Return the figures of the data sets as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for shape in found:
        table.add_column(shape.name, justify="right")
    table.add_row("customers", *(f"{shape.customers:,}" for shape in found))
    for i, weeks in enumerate(WEEKS):
        repeats = (shape.repeats[i] for shape in found)
        table.add_row(f"orders again, week {weeks}", *("-" if n is None else f"{n:.2f}" for n in repeats))
    table.add_row("ordered once", *(f"{shape.once:.0%}" for shape in found))
    for i, quantile in enumerate(QUANTILES):
        table.add_row(f"days between, {quantile:.0%}", *(f"{shape.gaps[i]:.0f}" for shape in found))
    table.add_row("order value, mean", *(f"{shape.mean_value:.0f}" for shape in found))
    for i, quantile in enumerate(QUANTILES):
        table.add_row(f"of its mean, {quantile:.0%}", *(f"{s.values[i] / s.mean_value:.2f}" for s in found))
    table.add_row("its deviation by mean", *(f"{shape.spread:.2f}" for shape in found))
    return table


def next_step(out: Path) -> str:
    return f"recall replay {out} --currency {CURRENCY} --timezone {TIMEZONE}"


def _records(loop: Loop, tally: Tally) -> Iterator[HistoryRecord]:
    for records in loop.days():
        tally.customers.update(record.key for record in records if record.topic == "orders")
        yield from records


def _counted(oddities: Oddities, written: Iterable[str]) -> Table:
    rows = [(name, f"{count:,}") for name, count in asdict(oddities).items()]
    return facts([*rows, *(("written", path) for path in written)])
