"""The result of the choice's test, told: for the terminal, as Markdown and as a section of the page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import altair as alt
from rich.table import Table

from worker.evaluate.hillstrom import EPSILON, GREEDY, OURS, RANDOM, RISK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

_DRAWN: Final = ("#0072B2", "#767676")
"""Ours and the others."""


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the result within 80 columns."""
    console.print(f"\n{result['title']}: {result['rows']:,} buyers, of whom a third each", style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("replayed", "visits", "of the best arm", "lowest to highest"):
        table.add_column(name, justify="left" if name == "replayed" else "right")
    for name, told in result["replay"].items():
        low, high = told["spread"]
        table.add_row(name, f"{told['rate']:.4f}", f"{told['of_best']:.1%}", f"{low:.4f} to {high:.4f}")
    console.print(table)
    for line in lines(result):
        console.print(line)


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what there is to say: against the others, and each target that is missed."""
    less = result["values"][OURS]["less"]
    for other in (RANDOM, RISK):
        yield f"against {other}: {_apart(less[other]['dr'])} (doubly robust)"
    missed = [target for target, met in result["targets"].items() if not met]
    yield f"targets: {len(result['targets']) - len(missed)} of {len(result['targets'])} met"
    for target in missed:
        yield f"  not met: {target}"


def markdown(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of the summary."""
    yield f"## {result['title']}"
    yield _protocol(result)
    yield "\n".join(_rows(_replay(result)))
    yield _values_text(result)
    yield "\n".join(_rows(_values(result["values"])))
    yield _priced_text(result)
    yield "\n".join(_rows(_values(result["priced"])))
    yield _budget_text(result)
    yield "\n".join(_rows(_budget(result)))
    yield "\n".join(f"- {line.strip()[0].upper()}{line.strip()[1:]}." for line in lines(result))


def section(result: Mapping[str, Any], place: str) -> str:
    """Return the section of the page, but for targets and its end; the chart goes to the place of that name."""
    parts = [
        f'<section id="{result["task"]}"><h2>{escape(result["title"])}</h2>',
        f"<p>{escape(_protocol(result))}</p>{_html(_replay(result))}",
        f"<p>{escape(_values_text(result))}</p>{_html(_values(result['values']))}",
        f"<p>{escape(_priced_text(result))}</p>{_html(_values(result['priced']))}",
        f"<p>{escape(_budget_text(result))}</p>{_html(_budget(result))}",
        f'<div class="charts"><figure><div id="{place}"></div>',
        "<figcaption><b>Whom to mail, if only a few?</b> Bars are 95% intervals.</figcaption></figure></div>",
    ]
    return "".join(parts)


def chart(result: Mapping[str, Any]) -> alt.LayerChart:
    """Draw what a small budget brings."""
    rows = [
        {"way": name, "extra": told["value"], "low": told["interval"][0], "high": told["interval"][1]}
        for name, told in sorted(result["budget"].items(), key=lambda pair: pair[1]["value"])
    ]
    base = alt.Chart(alt.Data(values=rows), width=380, height=220).encode(
        y=alt.Y("way:N", title=None, sort=None),
        color=alt.condition(f"datum.way === '{OURS}'", alt.value(_DRAWN[0]), alt.value(_DRAWN[1])),
    )
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("extra:Q", title="extra visits per 1,000 mails", scale=alt.Scale(zero=True))
    )
    return base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q") + dots


# -- in words and tables, the first row of which is the head -----------------------------------------------------------


def _protocol(result: Mapping[str, Any]) -> str:
    fixed = ", ".join(f"{arm} {rate:.3f}" for arm, rate in result["fixed"].items())
    return (
        f"{result['rows']:,} past buyers, a third each by lot: a mail with men's goods, one with women's, nothing. Of "
        f"them visited within two weeks: {fixed}. The choice knows {result['segments']} segments (what was bought "
        f"before, and whether lately) and begins without knowledge. Replayed row by row, in {result['seeds']} orders: "
        "where a policy chooses what the test did, the row is its experience, and a snapshot of it comes every "
        f"{result['batch']:,} rows. Share of visits, median of the orders; in brackets the lowest and the highest. "
        f"{GREEDY.capitalize()} explores with {EPSILON:g}, by the same segments."
    )


def _replay(result: Mapping[str, Any]) -> list[list[str]]:
    best = result["best_fixed"]
    head = ["", "rows that it experienced", "visits", f"of {best} to all", "visits by IPS over all rows", "of the same"]
    table = [head]
    for name, told in result["replay"].items():
        low, high = told["spread"]
        table.append(
            [
                name,
                f"{told['accepted']:,}",
                f"{told['rate']:.4f} ({low:.4f} to {high:.4f})",
                f"{told['of_best']:.1%}",
                f"{told['by_ips']:.4f}",
                f"{told['by_ips_of_best']:.1%}",
            ]
        )
    return table


def _values_text(result: Mapping[str, Any]) -> str:
    return (
        f"What policies are worth that were learned before, on four fifths for the last ({result['folds']} times), by "
        f"what the test's propensities tell. By risk: {result['best_fixed']} to the half with the highest probability "
        f"not to visit without a mail, by LightGBM. Differences are those of {OURS} to the other, in visits per 1,000 "
        "users; intervals are 95%."
    )


def _priced_text(result: Mapping[str, Any]) -> str:
    return (
        f"With as many mails: a mail costs {result['price']:g} visits, and the others send as many as {OURS} does, all "
        f"of them {result['best_fixed']}, which only hindsight knows to be the better one. Visits less costs:"
    )


def _values(values: Mapping[str, Any]) -> list[list[str]]:
    table = [["", "mails", "IPS", "SNIPS", "doubly robust", "difference, IPS", "difference, doubly robust"]]
    for name, told in values.items():
        less = values[OURS]["less"].get(name)
        apart = ["", ""] if less is None else [_apart(less["ips"]), _apart(less["dr"])]
        table.append([name, f"{told['mails']:.0%}", *(_interval(told[way]) for way in ("ips", "snips", "dr")), *apart])
    return table


def _budget_text(result: Mapping[str, Any]) -> str:
    return (
        f"A small budget: extra visits per 1,000 mails to the {result['top']:.0%} that each way puts first "
        f"(cross-fitted; {OURS} sends the mail that is expected to add most, the others {result['best_fixed']}; random "
        "is what a mail brings to all):"
    )


def _budget(result: Mapping[str, Any]) -> list[list[str]]:
    falling = sorted(result["budget"].items(), key=lambda pair: pair[1]["value"])
    return [["", "extra visits"], *([name, _interval(told, 0)] for name, told in falling)]


def _interval(told: Mapping[str, Any], digits: int = 4) -> str:
    low, high = told["interval"]
    return f"{told['value']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _apart(told: Mapping[str, Any]) -> str:
    value, low, high = (1000 * each for each in (told["value"], *told["interval"]))
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference"
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f}): {verdict}"


def _rows(table: Sequence[Sequence[str]]) -> Iterator[str]:
    for n, cells in enumerate(table):
        yield f"| {' | '.join(cells)} |"
        if n == 0:
            yield "|---" * len(cells) + "|"


def _html(table: Sequence[Sequence[str]]) -> str:
    head, *rows = table
    told = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    for name, *cells in rows:
        row = ' class="model"' if name == OURS else ""
        told += f"</tr><tr{row}><td>{escape(name)}</td>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<div class="wide"><table><tr>{told}</tr></table></div>'
