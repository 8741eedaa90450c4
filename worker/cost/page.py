"""The calculator's answer and the ledger as a page: where the money goes, and what it takes to get it back."""

from __future__ import annotations

from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any, Final

import altair as alt

from worker import page
from worker.cost.shown import money, named, percent
from worker.cost.spending import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.cost.shown import Question
    from worker.cost.spending import Ledger, Spent
    from worker.recall.money import Currency

_WIDTH: Final = 440
_COLOURS: Final = {"direct": page.BLUE, "opportunity": page.YELLOW, "hidden": page.RED}
_LEDGER_COLOURS: Final = {
    "contact": page.BLUE,
    "incentive": page.SKY,
    "opportunity": page.YELLOW,
    "hidden": page.RED,
}
_POINTS: Final = 60


def of_campaign(question: Question) -> str:
    """Return the page of a campaign."""
    bill, code = question.bill, question.currency.code
    charts = {"money": page.themed(_where(question))}
    figures = [
        _figure(
            "money",
            "<b>Where does the money go?</b> Direct: what is paid out. Opportunity: what that would have earned "
            "elsewhere. Hidden: what stands on no invoice.",
        )
    ]
    if question.margin is not None:
        charts["break-even"] = page.themed(_gain(question, question.margin))
        figures.append(_figure("break-even", f"<b>When does it pay?</b> {escape(question.break_even_text())}."))
    rows = "".join(
        f'<tr><td>{escape(kind)}</td><td class="text">{escape(name if name != kind else "")}</td>'
        f'<td class="text">{escape(how)}</td><td>{question.money(amount)}</td></tr>'
        for kind, name, how, amount in question.lines()
    )
    verdict = "".join(
        f'<tr><td>{escape(name)}</td><td class="text">{escape(told)}</td></tr>' for name, told in question.verdict()
    )
    body = (
        f'<p class="lead">{question.campaign.contacts:,} contacts cost <b>{question.money(bill.total)} {code}</b> in '
        f"full: {question.money(bill.direct)} direct, {question.money(bill.opportunity)} opportunity, "
        f"{question.money(bill.hidden)} hidden.</p>"
        f'<div class="charts">{"".join(figures)}</div>'
        '<h3>The bill</h3><div class="wide"><table><tr><th>kind</th><th class="text">of</th><th class="text">how</th>'
        f'<th>{code}</th></tr>{rows}<tr class="model"><td>total</td><td></td><td></td>'
        f"<td>{question.money(bill.total)}</td></tr></table></div>"
    )
    if verdict:
        body += f'<h3>What it brings</h3><div class="wide"><table>{verdict}</table></div>'
    return page.write("What does it cost to win them back?", body, charts)


def of_ledger(ledger: Ledger, currency: Currency) -> str:
    """Return the page of what was spent."""
    total, code = ledger.total, currency.code
    by_play = ledger.by("play", "channel")
    charts = {
        "plays": page.themed(_by_kind(by_play, code)),
        "kinds": page.themed(_kinds(total, code)),
    }
    figures = [
        _figure("kinds", "<b>Where did the money go?</b> All touches, by kind of cost."),
        _figure("plays", "<b>Which plays cost it?</b> By play and channel, the dearest first."),
    ]
    body = (
        f'<p class="lead">{total.touches:,} touches cost <b>{money(total.total, currency)} {code}</b> in full, as '
        f"expected when they were sent: {money(total.contact + total.incentive, currency)} direct, "
        f"{money(total.opportunity, currency)} opportunity, {money(total.hidden, currency)} hidden.</p>"
        f'<div class="charts">{"".join(figures)}</div>'
        f"<h3>By play and channel, {code}</h3>{_table(by_play, total, currency, 'play', 'channel')}"
    )
    if any(spent.potential for spent in ledger.sent):
        body += f"<h3>By potential</h3>{_table(ledger.by('potential'), total, currency, 'potential')}"
    return page.write("What was spent to win them back?", body, charts)


def _figure(place: str, caption: str) -> str:
    return f'<figure><div id="{place}"></div><figcaption>{caption}</figcaption></figure>'


def _table(rows: Iterable[Spent], total: Spent, currency: Currency, *fields: str) -> str:
    head = "".join(f'<th class="text">{name}</th>' for name in fields)
    head += "".join(f"<th>{name}</th>" for name in ("touches", *KINDS, "total"))
    lines = []
    for names, spent in named(rows, total, fields):
        cells = "".join(f'<td class="text">{escape(name)}</td>' for name in names) + f"<td>{spent.touches:,}</td>"
        cells += "".join(f"<td>{money(getattr(spent, kind), currency)}</td>" for kind in (*KINDS, "total"))
        row = ' class="model"' if spent is total else ""
        lines.append(f"<tr{row}>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


# -- charts ------------------------------------------------------------------------------------------------------------


def _amounts(title: str) -> alt.X:
    return alt.X("amount:Q", title=title, axis=alt.Axis(tickCount=5))


def _bars(rows: Sequence[dict[str, Any]], title: str, colours: dict[str, str], *, legend: bool) -> alt.LayerChart:
    """Draw a bar for each row, with its amount and share beside it."""
    base = alt.Chart(alt.Data(values=list(rows)), width=_WIDTH, height={"step": 34}).encode(
        y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=200))
    )
    colour = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=list(colours), range=list(colours.values())),
        legend=alt.Legend(orient="top", title=None) if legend else None,
    )
    room = max((row["amount"] for row in rows), default=0) * 1.45 or 1
    x = _amounts(title).scale(domain=[0, room], nice=False)
    bars = base.mark_bar(height=20).encode(x=x, color=colour, tooltip=["name:N", "told:N"])
    told = base.mark_text(align="left", dx=5, fontSize=12, color="#1a1a1a").encode(x=x, text="told:N")
    return bars + told


def _where(question: Question) -> alt.LayerChart:
    total = question.bill.total
    rows = [
        {"name": name, "kind": kind, "amount": float(amount), "told": _told(amount, total, question.currency)}
        for kind, name, _, amount in question.lines()
    ]
    return _bars(rows, question.currency.code, _COLOURS, legend=True)


def _kinds(total: Spent, code: str) -> alt.LayerChart:
    whole = total.total
    rows = []
    for kind in KINDS:
        amount = getattr(total, kind)
        told = f"{amount:,.2f} ({amount / whole:.1%})" if whole else f"{amount:,.2f}"
        rows.append({"name": kind, "kind": kind, "amount": float(amount), "told": told})
    return _bars(rows, code, _LEDGER_COLOURS, legend=False)


def _told(amount: Decimal, total: Decimal, currency: Currency) -> str:
    return f"{money(amount, currency)} ({amount / total:.1%})" if amount and total else money(amount, currency)


def _by_kind(rows: Iterable[Spent], code: str) -> alt.Chart:
    values = [
        {
            "name": f"{spent.play}, {spent.channel}",
            "kind": kind,
            "place": place,
            "amount": float(getattr(spent, kind)),
            "touches": spent.touches,
        }
        for spent in sorted(rows, key=lambda spent: -spent.total)
        for place, kind in enumerate(KINDS)
    ]
    return (
        alt.Chart(alt.Data(values=values), width=_WIDTH, height={"step": 24})
        .mark_bar(height=16)
        .encode(
            x=_amounts(code),
            y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=220)),
            color=alt.Color(
                "kind:N", scale=alt.Scale(domain=list(_LEDGER_COLOURS), range=list(_LEDGER_COLOURS.values()))
            ),
            order="place:Q",
            tooltip=["name:N", "kind:N", alt.Tooltip("amount:Q", format=",.2f"), alt.Tooltip("touches:Q", format=",")],
        )
    )


def _gain(question: Question, margin: Decimal) -> alt.LayerChart:
    """Draw the gain by the save rate, from those who come anyway on, with what is believed and where it turns."""
    contacts, total, low = question.campaign.contacts, question.bill.total, question.without

    def gain(rate: Decimal) -> float:
        return float(contacts * (rate - low) * margin - total)

    marks = [rate for rate in (question.break_even, question.with_contact) if rate is not None]
    widest = max((rate - low for rate in marks), default=Decimal("0.1"))
    high = min(Decimal(1), low + widest * Decimal("1.6")) if widest > 0 else min(Decimal(1), low + Decimal("0.1"))
    line = [
        {"rate": float(rate), "gain": gain(rate)}
        for rate in (low + (high - low) * step / _POINTS for step in range(_POINTS + 1))
    ]
    x = alt.X(
        "rate:Q",
        title="save rate with contact",
        axis=alt.Axis(format=".2~%", tickCount=6),
        scale=alt.Scale(domain=[float(low), float(high)], nice=False),
    )
    y = alt.Y("gain:Q", title=f"gain, {question.currency.code}", axis=alt.Axis(tickCount=6))
    drawn = (
        alt.Chart(alt.Data(values=line), width=_WIDTH, height=260)
        .mark_line(color=page.BLUE, strokeWidth=3)
        .encode(x=x, y=y, tooltip=[alt.Tooltip("rate:Q", format=".2%"), alt.Tooltip("gain:Q", format=",.0f")])
    )
    zero = alt.Chart(alt.Data(values=[{"gain": 0}])).mark_rule(color=page.GREY).encode(y="gain:Q")
    points = []
    if question.break_even is not None:
        told = f"break-even {percent(question.break_even)}"
        points.append({"rate": float(question.break_even), "gain": 0.0, "told": told, "which": "break-even"})
    if question.with_contact is not None:
        told = f"believed {percent(question.with_contact)}"
        points.append(
            {
                "rate": float(question.with_contact),
                "gain": gain(question.with_contact),
                "told": told,
                "which": "believed",
            }
        )
    base = alt.Chart(alt.Data(values=points)).encode(x="rate:Q", y="gain:Q")
    colour = alt.Color(
        "which:N", scale=alt.Scale(domain=["break-even", "believed"], range=[page.RED, page.GREEN]), legend=None
    )
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(color=colour)
    # On both sides of the rising line, so that they do not meet where the points do.
    above = base.transform_filter("datum.which == 'break-even'").mark_text(
        align="right", baseline="bottom", dx=-9, dy=-5, fontSize=12, color="#1a1a1a"
    )
    below = base.transform_filter("datum.which == 'believed'").mark_text(
        align="left", baseline="top", dx=9, dy=5, fontSize=12, color="#1a1a1a"
    )
    return zero + drawn + dots + above.encode(text="told:N") + below.encode(text="told:N")
