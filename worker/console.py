"""What is shown on a terminal, within 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from worker.recall.money import micros_text
from worker.tally import COSTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from worker.dead_letters import Filed, Original, Reason
    from worker.sources import Source
    from worker.tally import Tally

COLUMNS: Final = 80
PREDICTORS: Final = {"model": "model", "bgnbd": "BG/NBD", "recency": "recency", "constant": "constant"}
"""What the model's figures stand beside, by name; and what it is called."""
_LABEL_COLUMNS: Final = 13
_GAP: Final = 2


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that is never wider than is pleasant to read."""
    console = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    return Console(
        stderr=stderr, highlight=False, emoji=False, markup=False, width=min(COLUMNS, console.width), soft_wrap=False
    )


def make_progress(console: Console) -> Progress:
    """Return a bar for records; nothing is drawn where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        expand=True,
    )


def command_lines(command: Mapping[str, Any]) -> list[str]:
    r"""Say in two lines who is touched, how and why.

    >>> command = {
    ...     "issued_at": "2025-07-03T00:00:00.000Z", "user_id": "user-42",
    ...     "reason": {"from_tier": "high", "to_tier": "silent", "fell": ["R"]},
    ...     "action": {"play": "care-letter"}, "delivery": {"channel": "email"},
    ...     "value": {"net_revenue": "812.40", "currency": "EUR", "orders": 9}, "risk": None,
    ... }
    >>> print(*command_lines(command), sep="\n")
    2025-07-03  user-42  high -> silent (R fell)
                care-letter by email; worth 812.40 EUR in 9 orders
    """
    reason, value, risk = command["reason"], command["value"], command["risk"]
    fell = f" ({', '.join(reason['fell'])} fell)" if reason["fell"] else ""
    moved = f"{reason['from_tier']} -> {reason['to_tier']}{fell}"
    why = moved if reason["from_tier"] != reason["to_tier"] else reason["text"]
    first = f"{command['issued_at'][:10]}  {command['user_id']}  {why}"
    orders = "1 order" if value["orders"] == 1 else f"{value['orders']} orders"
    second = f"{command['action']['play']} by {command['delivery']['channel']}"
    second += f"; worth {value['net_revenue']} {value['currency']} in {orders}"
    if risk is not None:
        second += f"; risk {risk['probability']:.2f}"
    return [first[:COLUMNS], f"{'':12}{second}"[:COLUMNS]]


def numbers(counts: Mapping[str, int], prefix: str = "") -> str:
    r"""Return counts in words, the greatest first, on as many lines as they need beside a label.

    >>> numbers({"no customer": 1200, "sign": 3, "other": 0})
    'no customer 1,200, sign 3'
    >>> print(numbers({"silent -> potential": 60_000, "potential -> silent": 50_000, "new -> silent": 40_000}))
    silent -> potential 60,000, potential -> silent 50,000,
    new -> silent 40,000
    """
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{name} {count:,}" for name, count in ranked if count] or ["none"]
    lines = [prefix + parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + len(", ,") > COLUMNS - _LABEL_COLUMNS - _GAP:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += f", {part}"
    return "\n".join(lines)


def under(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Return the counters below a prefix.

    >>> under({"dead.malformed": 2, "ignored.page": 1}, "dead")
    {'malformed': 2}
    """
    return {name.removeprefix(f"{prefix}."): n for name, n in counts.items() if name.startswith(f"{prefix}.")}


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Lay labelled facts below each other."""
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True, min_width=_LABEL_COLUMNS, style="bold")
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, text)
    return table


def accounting(source: Source) -> Table:
    """Say what became of each line of a source."""
    account = source.accounting
    return facts(
        [
            (
                source.name,
                f"{account.lines:,} lines = {account.carried:,} carried + {sum(account.left_out.values()):,} left out",
            ),
            ("left out", numbers(account.left_out)),
        ]
    )


def reasons(found: Iterable[Reason]) -> Table:
    """Lay out how many dead letters there are of each reason."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column("reason", overflow="fold")
    for name in ("letters", "sent back"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("first", "last", "such as"):
        table.add_column(name, no_wrap=True)
    for one in found:
        days = (f"{one.first:%Y-%m-%d}", f"{one.last:%Y-%m-%d}")
        table.add_row(one.name, f"{one.letters:,}", f"{one.sent:,}", *days, str(one.sample))
    return table


def letters_of(found: Iterable[Filed]) -> Table:
    """Lay out dead letters, one below the other."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for name in ("letter", "time (UTC)"):
        table.add_column(name, no_wrap=True)
    table.add_column("what", overflow="fold")
    for filed in found:
        sent = ", sent back" if filed.sent else ""
        table.add_row(str(filed.place), f"{filed.at:%Y-%m-%d %H:%M}", f"{filed.source}{sent}: {filed.letter.detail}")
    return table


def letter_facts(filed: Filed) -> Table:
    """Lay out all that a dead letter says."""
    letter, sent = filed.letter, filed.sent
    rows = [
        ("reason", letter.reason),
        ("detail", letter.detail),
        ("stage", letter.stage),
        ("written", f"{filed.at:%Y-%m-%d %H:%M:%S} UTC"),
        ("source", filed.source),
        ("recorded", f"{letter.recorded_at:%Y-%m-%d %H:%M:%S} UTC" if letter.recorded_at else "-"),
        ("key's hash", letter.key_hash or "-"),
        ("sent back", f"{sent.sent_at:%Y-%m-%d %H:%M:%S} UTC, to offset {sent.offset}" if sent else "no"),
    ]
    return facts(rows)


def record_facts(record: Original) -> Table:
    """Lay out a record with its bytes, which may hold personal data."""
    rows = [
        ("topic", f"{record.topic}[{record.partition}]"),
        ("key", _text(record.key)),
        ("value", _text(record.value)),
    ]
    return facts(rows)


def _text(raw: bytes | None) -> str:
    r"""Return bytes as text; what could steer a terminal is escaped.

    >>> _text(b"a\x1b[2J\xff")
    'a\\x1b[2J\\xff'
    """
    if raw is None:
        return "null"
    text = raw.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def outcome(tally: Tally, counts: Mapping[str, int]) -> Table:
    """Say what came of a history; `counts` are those of all partitions together."""
    rows = [
        ("ignored", numbers(under(counts, "ignored"))),
        ("dead letters", numbers(tally.dead)),
        ("customers", f"{len(tally.customers):,} with an order"),
        ("tiers", ", ".join(f"{tier} {n:,}" for tier, n in tally.tiers.items())),
        ("transitions", numbers({f"{a} -> {b}": n for (a, b), n in tally.transitions.items()})),
        ("commands", numbers(tally.plays, f"{len(tally.commands):,}: ")),
        *_touches(tally),
        ("cancelled", numbers(tally.cancelled)),
        ("held", numbers(tally.held)),
        ("proposed", numbers(tally.proposed)),
        ("not sent", numbers(tally.suppressed)),
        ("episodes", numbers(tally.endings("treated"))),
        ("held out", numbers(tally.endings("control"))),
    ]
    table = facts(rows)
    for label, text in _model(tally):
        table.add_row(label, text)
    return table


def _touches(tally: Tally) -> Iterable[tuple[str, str]]:
    """Say by what the commands reach users, whom, and at what cost."""
    if not tally.touches:
        return
    yield "  channel", numbers(tally.by("channel"))
    potential = tally.by("potential")
    if potential:
        yield "  potential", f"of silent users: {numbers(potential)}"
    cost = tally.cost
    told = ", ".join(f"{kind} {micros_text(cost[kind])}" for kind in COSTS)
    yield "  cost", f"{told} {tally.currency}"


def _model(tally: Tally) -> Iterable[tuple[str, str]]:
    """Set the model's ranking and loss beside those of what it has to beat."""
    if not tally.snapshots:
        yield "model", "none: too few labels were due"
        return
    yield "model", f"{tally.snapshots} snapshots"
    for horizon, snapshot in sorted(tally.models.items()):
        figures = snapshot["metrics"]
        yield f"  {horizon} days", f"{snapshot['learned']:,} labels learned, {figures['n']:,} predictions measured"
        for label, name in (("AUC", "auc"), ("log loss", "log_loss")):
            told = [
                f"{PREDICTORS[predictor]} {measured[name]:.4f}"
                for predictor, measured in figures.get("predictors", {}).items()
                if measured[name] is not None
            ]
            if told:
                yield f"  {label}", ", ".join(told)
