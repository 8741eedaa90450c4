"""The calculator's answer and the ledger, on a terminal and as JSON."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from worker.console import facts
from worker.cost.calculator import Bill, Return, break_even
from worker.cost.spending import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from worker.cost.calculator import Campaign
    from worker.cost.spending import Ledger, Spent
    from worker.recall.money import Currency

_PERCENT: Final = Decimal(100)
_LARGE: Final = 100_000
"""From such a total on a table has whole units, so that it stays within its columns."""


class Question:
    """A campaign, and what it is believed to bring; `with_contact` None where nothing is said of that."""

    def __init__(
        self,
        campaign: Campaign,
        currency: Currency,
        with_contact: Decimal | None = None,
        without: Decimal = Decimal(0),
        margin: Decimal | None = None,
    ) -> None:
        self.campaign = campaign
        self.currency = currency
        self.without = without
        self.margin = margin
        self.with_contact = with_contact
        self.bill = Bill.of(campaign)
        self.brings = None if with_contact is None else Return.of(campaign, with_contact, without, margin)
        self.break_even = None if margin is None else break_even(campaign, without, margin)

    def lines(self) -> list[tuple[str, str, str, Decimal]]:
        """Return the bill: kind of cost, line, how it comes about, and amount."""
        plan, bill = self.campaign, self.bill
        contacts = f"{plan.contacts:,}"
        coupons = f"{contacts} x {plain(plan.redemption * _PERCENT)}% x {plain(plan.face_value)}"
        lines = [
            ("direct", "contact", f"{contacts} x {plain(plan.contact_price)}", bill.contact),
            ("direct", "coupons", coupons, bill.coupons),
            (
                "opportunity",
                "opportunity",
                f"{plain(plan.shadow_price)} x {self.money(bill.direct)}",
                bill.opportunity,
            ),
            ("hidden", "people", f"{plain(plan.hours)} h x {plain(plan.hourly_rate)}", bill.people),
            ("hidden", "upkeep", "", bill.upkeep),
            ("hidden", "wear", f"{contacts} x {plain(plan.wear)}", bill.wear),
        ]
        return [(kind, name, how if amount else "not given", amount) for kind, name, how, amount in lines]

    def money(self, amount: Decimal) -> str:
        """Return an amount to the currency's minor unit."""
        return money(amount, self.currency)

    def verdict(self) -> list[tuple[str, str]]:
        """Return what comes of it, in words."""
        told, brings, code = [], self.brings, self.currency.code
        if brings is not None and self.with_contact is not None:
            told += [
                ("come back", f"{brings.saved:,.0f} ({percent(self.with_contact)})"),
                ("anyway", f"{brings.anyway:,.0f} ({percent(self.without)}): they would have come without it"),
                ("added", f"{brings.added:,.0f}"),
                (
                    "cost per save",
                    "nobody is won"
                    if brings.cost_per_save is None
                    else f"{self.money(brings.cost_per_save)} {code} for each who would not have come",
                ),
            ]
            if brings.gain is not None and self.margin is not None:
                told += [
                    ("gain", f"{self.money(brings.gain)} {code}, at a margin of {self.money(self.margin)} a save"),
                    ("ROI", "nothing is spent" if brings.roi is None else percent(brings.roi)),
                ]
        if self.margin is not None:
            told.append(("break-even", self.break_even_text()))
        return told

    def break_even_text(self) -> str:
        """Say from which save rate on the campaign pays."""
        if self.break_even is None:
            return "At no save rate: all of them together would not bring in the cost"
        return f"Pays from a save rate of {percent(self.break_even)} on, where {percent(self.without)} come anyway"

    def told(self) -> dict[str, Any]:
        """Return the same for programs: amounts and shares as decimal strings."""
        bill, brings = self.bill, self.brings
        amounts = {name: plain(amount) for _, name, _, amount in self.lines()}
        told = {
            "currency": self.currency.code,
            "contacts": self.campaign.contacts,
            "direct": {
                "contact": amounts["contact"],
                "coupons": amounts["coupons"],
                "total": plain(bill.direct),
            },
            "opportunity": amounts["opportunity"],
            "hidden": {
                "people": amounts["people"],
                "upkeep": amounts["upkeep"],
                "wear": amounts["wear"],
                "total": plain(bill.hidden),
            },
            "total": plain(bill.total),
            "saves": None,
            "break_even_save_rate": _rounded(self.break_even),
        }
        if brings is not None:
            told["saves"] = {
                "with_contact": plain(brings.saved),
                "anyway": plain(brings.anyway),
                "added": plain(brings.added),
                "cost_per_save": _rounded(brings.cost_per_save),
                "gain": _rounded(brings.gain),
                "roi": _rounded(brings.roi),
            }
        return told


def show(question: Question, console: Console) -> None:
    """Print the calculator's answer within 80 columns."""
    bill, code = question.bill, question.currency.code
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(f"{question.campaign.contacts:,} contacts")
    table.add_column("")
    table.add_column(code, justify="right")
    sums = {"direct": bill.direct, "hidden": bill.hidden}
    before = ""
    for kind, name, how, amount in question.lines():
        if kind in sums and kind != before:
            table.add_row(kind, "", question.money(sums[kind]), style="bold")
        table.add_row(f"  {name}" if kind in sums else name, how, question.money(amount), style=_bold(kind not in sums))
        before = kind
    table.add_row("total", "", question.money(bill.total), style="bold")
    console.print(table)
    if verdict := question.verdict():
        console.print("")
        console.print(facts(verdict))


def show_ledger(ledger: Ledger, currency: Currency, console: Console) -> None:
    """Print what was spent within 80 columns."""
    if not ledger.sent:
        console.print("no touches were sent")
    else:
        total = ledger.total
        console.print(
            f"{total.touches:,} touches, {money(total.total, currency)} {currency.code} in full, as expected at sending"
        )
        console.print("")
        console.print(_spent(ledger.by("play", "channel"), total, currency, "play", "channel"))
        if any(spent.potential for spent in ledger.sent):
            console.print("")
            console.print(_spent(ledger.by("potential"), total, currency, "potential"))
    if ledger.not_sent:
        rows = [
            (reason, f"{number:,} would have cost {money(cost, currency)} {currency.code} in full")
            for reason, (number, cost) in sorted(ledger.not_sent.items())
        ]
        console.print("")
        console.print("not sent:")
        console.print(facts(rows))


def ledger_told(ledger: Ledger) -> dict[str, Any]:
    """Return the ledger for programs: amounts as decimal strings."""

    def told(spent: Spent, *fields: str) -> dict[str, Any]:
        amounts = {kind: plain(getattr(spent, kind)) for kind in (*KINDS, "total")}
        return {**{name: getattr(spent, name) or None for name in fields}, "touches": spent.touches, **amounts}

    fields = ("play", "channel", "potential")
    return {
        "currency": ledger.currency or None,
        "sent": [told(spent, *fields) for spent in ledger.by(*fields)],
        "total": told(ledger.total),
        "not_sent": {
            reason: {"touches": number, "total": plain(cost)} for reason, (number, cost) in ledger.not_sent.items()
        },
    }


def _spent(rows: Iterable[Spent], total: Spent, currency: Currency, *fields: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for field in fields:
        table.add_column(field, overflow="fold")
    for name in ("touches", *KINDS, "total"):
        table.add_column(name, justify="right", no_wrap=True)
    digits = 0 if total.total >= _LARGE else currency.exponent
    for names, spent in named(rows, total, fields):
        amounts = [f"{getattr(spent, kind):,.{digits}f}" for kind in (*KINDS, "total")]
        table.add_row(*names, f"{spent.touches:,}", *amounts, style=_bold(spent is total))
    return table


def named(rows: Iterable[Spent], total: Spent, fields: tuple[str, ...]) -> Iterator[tuple[list[str], Spent]]:
    """Yield the rows of a table by these fields, with what stands in their first columns, the total last."""
    for spent in rows:
        yield [getattr(spent, field) or "not silent" for field in fields], spent
    yield ["all", *("" for _ in fields[1:])], total


def _bold(yes: object) -> str:
    return "bold" if yes else ""


def money(amount: Decimal, currency: Currency) -> str:
    """Return an amount to the currency's minor unit, thousands set apart."""
    return f"{amount:,.{currency.exponent}f}"


def plain(amount: Decimal) -> str:
    """Return an amount as it is, without zeros that say nothing.

    >>> plain(Decimal("500.00")), plain(Decimal("0.050")), plain(Decimal(0))
    ('500', '0.05', '0')
    """
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(rate: Decimal) -> str:
    """Return a share in percent.

    >>> percent(Decimal("0.0425")), percent(Decimal("4.8666")), percent(Decimal("-0.5")), percent(Decimal(1) / 3)
    ('4.25%', '486.7%', '-50%', '33.33%')
    """
    digits = 1 if abs(rate) >= 1 else 2
    return plain(round(rate * _PERCENT, digits)) + "%"


def _rounded(amount: Decimal | None) -> str | None:
    return None if amount is None else plain(round(amount, 6))
