"""`recall cost`: reads what is asked, prints the answer and writes the page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal

import orjson
import typer

from worker.console import facts
from worker.cost import spending
from worker.cost.calculator import Campaign, share
from worker.cost.shown import Question, ledger_told, show, show_ledger
from worker.recall.money import Currency, exact

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from rich.console import Console

Form = Literal["text", "json"]


def question(
    *,
    contacts: int,
    contact_price: str,
    face_value: str,
    redemption: str,
    hours: str,
    hourly_rate: str,
    upkeep: str,
    wear: str,
    shadow_price: str,
    rate_with: str | None,
    rate_without: str,
    margin: str | None,
    currency: str,
) -> Question:
    """Read a campaign as it is typed; an error names the option."""
    campaign = Campaign(
        contacts=contacts,
        contact_price=exact(contact_price, "contact-price"),
        face_value=exact(face_value, "face-value"),
        redemption=share(redemption, "redemption"),
        hours=exact(hours, "hours"),
        hourly_rate=exact(hourly_rate, "hourly-rate"),
        upkeep=exact(upkeep, "upkeep"),
        wear=exact(wear, "wear"),
        shadow_price=exact(shadow_price, "shadow-price"),
    )
    return Question(
        campaign,
        Currency.of(currency),
        None if rate_with is None else share(rate_with, "rate-with"),
        share(rate_without, "rate-without"),
        None if margin is None else exact(margin, "margin"),
    )


def answer(asked: Question, html: Path | None, form: Form, console: Console) -> None:
    """Print what a campaign costs and brings; with `html`, write its page."""
    if html is not None:
        page = _pages()
        html.write_text(page.of_campaign(asked))
    if form == "json":
        _print_json(asked.told())
        return
    show(asked, console)
    _say_written(html, console)


def ledger(decisions: Path, html: Path | None, form: Form, console: Console) -> None:
    """Print what recorded decisions have cost; with `html`, write its page."""
    spent = spending.read(decisions)
    # Without a priced decision there is no currency, and no amount to show in it.
    currency = Currency.of(spent.currency or "XXX")
    if html is not None:
        page = _pages()
        html.write_text(page.of_ledger(spent, currency))
    if form == "json":
        _print_json(ledger_told(spent))
        return
    show_ledger(spent, currency, console)
    _say_written(html, console)


def _pages() -> ModuleType:
    """Return what draws pages; it needs the extra `charts`."""
    try:
        return import_module("worker.cost.page")
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'recall-worker[charts]'") from error


def _print_json(told: object) -> None:
    typer.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2))


def _say_written(html: Path | None, console: Console) -> None:
    if html is not None:
        console.print("")
        console.print(facts([("written to", str(html))]))
