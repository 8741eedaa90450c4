"""The report on a terminal, within 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from schemas.values import rfc3339
from worker.console import facts
from worker.report.figures import ALL, LIFT
from worker.report.telling import (
    SCALES,
    north_star,
    number,
    roi_text,
    row,
    save_text,
    share,
    signed,
    sms_text,
    span,
    verdict,
)

if TYPE_CHECKING:
    from rich.console import Console

    from worker.report.figures import Open, Report

_OPEN_ROWS = 8


def show(report: Report, console: Console) -> None:
    """Print the north star first, then what the holdout tells, costs, and what cannot be told yet."""
    about, currency = report.about, report.about["currency"]
    console.print(facts(_head(report)))
    console.print("")
    console.print(verdict(report), soft_wrap=False)
    console.print("")
    console.print(_effects(report))
    console.print("")
    console.print(facts(_money(report)))
    cells = _cells(report)
    if cells is not None:
        console.print("")
        console.print(cells)
    if report.open:
        console.print("")
        console.print(f"Cannot be told yet (a change of {share(LIFT)} of the held out's, at the present rate):")
        told = [one for one in report.open if one.weeks is not None]
        console.print(
            facts(
                (_what(one), f"{span(one.weeks)}; so far one of {share(one.least or 0)} would be seen")
                for one in told[:_OPEN_ROWS]
            )
        )
        few = len(report.open) - len(told)
        more = len(told) - len(told[:_OPEN_ROWS])
        console.print(f"too few users to say anything of {few} groups; {more} more: see --html or --format json")
    if report.plan is not None:
        console.print("")
        console.print(_plan(report))
    console.print("")
    console.print(
        f"Amounts in {currency}. Intervals are 95%, by user; treated against held out by intention to treat, over "
        f"{about['mean_days']:.0f} days from the first time that a touch was possible."
    )


def _head(report: Report) -> list[tuple[str, str]]:
    about = report.about
    rows = [("from", f"{rfc3339(about['from'])[:10]} to {rfc3339(about['until'])[:10]}")]
    rows.append(("north star", north_star(report)))
    if report.north_star.effect is not None:
        effect = report.north_star.effect.times(100)
        rows.append(
            ("", f"{signed(effect.value)} points by being touched ({signed(effect.low)} to {signed(effect.high)})")
        )
    users = f"{about['treated_users']:,} treated, {about['control_users']:,} held out"
    rows.append(("users", f"{users}; {about['units']:,} entries in all"))
    return rows


def _effects(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", max_width=26)
    for name in ("treated", "held out", "effect", "95%", "verdict"):
        table.add_column(name, justify="right", no_wrap=name != "95%")
    measures = [
        *report.headline.values(),
        report.later["orders"]._replace(name="orders"),
        report.later["aov"],
        report.later["ltv"],
        report.churn,
        report.harm,
    ]
    for i, measure in enumerate(measures):
        told = row(measure, report.about["currency"])
        label = told.label
        if i == len(report.headline):
            label = "the same after three whole months"
        table.add_row(label, told.treated, told.control, told.effect, told.interval, told.verdict)
    return table


def _money(report: Report) -> list[tuple[str, str]]:
    cost, currency = report.cost, report.about["currency"]
    kinds = f"direct {number(cost.direct)}, opportunity {number(cost.opportunity)}, hidden {number(cost.hidden)}"
    return [
        ("cost", f"{number(cost.total)} {currency} in full, for {cost.touches:,} touches: {kinds}"),
        ("of SMS to all", f"{sms_text(report)} (direct)"),
        ("a save costs", save_text(report)),
        ("ROI", roi_text(report)),
    ]


def _cells(report: Report) -> Table | None:
    cells = [cell for cell in report.cells if cell.returned.effect is not None]
    if not cells:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("ordered again", overflow="fold", max_width=34)
    for name in ("users", "held out", "effect, pt", "95%", "verdict"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        told, measure = row(cell.returned, report.about["currency"]), cell.returned
        table.add_row(
            f"{cell.by} {cell.value}",
            f"{measure.treated_users:,}",
            f"{measure.control_users:,}",
            told.effect.removesuffix(" pt"),
            told.interval,
            told.verdict,
        )
    return table


def _what(one: Open) -> str:
    return SCALES[one.value].label if one.by == ALL else f"{one.by} {one.value}"


def _plan(report: Report) -> Table:
    plan = report.plan
    assert plan is not None  # the caller has seen it
    shares = sorted({need.held_out for need in plan.needs})
    rows = []
    for lift in sorted({need.lift for need in plan.needs}):
        found = [need for need in plan.needs if (need.measure, need.lift) == ("returned", lift)]
        told = [f"{need.units:,} ({span(need.weeks)})" for need in sorted(found, key=lambda need: need.held_out)]
        rows.append((f"{share(lift)} more", ", ".join(told)))
    held_out = " or ".join(map(share, shares))
    title = f"users of both arms, with {held_out} held out, that show with power 80% that more order; "
    return facts([("sample size", f"{title}{plan.units_a_week:,.1f} a week enter ({plan.phase})"), *rows])
