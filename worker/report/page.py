"""The report as a page: the north star first, then what the holdout tells, and last what must not be believed."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import altair as alt

from schemas.values import rfc3339
from worker import page
from worker.report.figures import ALL, LIFT, share_interval, too_few
from worker.report.telling import (
    SCALES,
    TOTALS,
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
    from collections.abc import Iterable, Mapping, Sequence

    from worker.report.figures import Cell, Measure, Month, Open, Report

_WIDTH: Final = 420
_HEIGHT: Final = 230
_COLUMNS_NARROW: Final = 6
_CORE_MIN: Final = 30
"""Months with fewer core users are not drawn: their share jumps."""
_NAMES: Final = {"play": "play", "tier": "tier", "potential": "potential of the silent", "trigger": "opening"}
_KINDS: Final = {
    "contact": page.BLUE,
    "incentive": page.SKY,
    "opportunity": page.YELLOW,
    "hidden": page.RED,
}
_ARMS: Final = {"all": page.GREY, "treated": page.BLUE, "held out": page.RED}
_COLOURS: Final = {"more": page.GREEN, "less": page.RED, "not yet": page.GREY}


def of(report: Report) -> str:
    """Return the page."""
    charts: dict[str, Mapping[str, Any]] = {}
    parts = [
        _lead(report),
        _star(report, charts),
        _added(report, charts),
        _recalled(report),
        _silent(report),
        _churn(report, charts),
        _money(report, charts),
        _where(report, charts),
        _habits(report, charts),
        _harm(report),
        _rungs(report),
        _open(report),
        _plan(report),
        _naive(report, charts),
    ]
    return page.write("Do the touches pay?", "".join(filter(None, parts)), charts)


def _lead(report: Report) -> str:
    about = report.about
    links = "".join(
        f'<a href="#{place}">{name}</a>'
        for place, name in (
            ("star", "North star"),
            ("added", "What was added"),
            ("money", "Money"),
            ("where", "Where"),
            ("open", "What cannot be told"),
            ("plan", "Sample size"),
            ("naive", "Before and after"),
        )
    )
    return (
        f'<p class="lead"><b>{escape(north_star(report))}</b></p><p class="lead"><b>{escape(verdict(report))}</b></p>'
        f'<p class="soft">{rfc3339(about["from"])[:10]} to {rfc3339(about["until"])[:10]}, amounts in '
        f"{about['currency']}. {about['treated_users']:,} users were treated as the playbook has it, "
        f"{about['control_users']:,} were held out at random and got nothing. Both are counted from the first time "
        f"that a touch was possible, over the 90 days that follow or as many as have passed ({about['mean_days']:.0f} "
        f"on average), whether or not anything was sent. Intervals are 95%, by user. Of twenty measures without any "
        f"effect one is expected to look like one.</p><nav>{links}</nav>"
    )


# -- north star --------------------------------------------------------------------------------------------------------


def _star(report: Report, charts: dict[str, Mapping[str, Any]]) -> str:
    head = _section("star", "North star: core users who order again within the month")
    months = [month for month in report.months if month.whole and month.core >= _CORE_MIN]
    told = row(report.north_star, report.about["currency"])
    effect = (
        f"Of core users at their first possible touch, {told.treated} of the treated ordered within 30 days and "
        f"{told.control} of the held out: <b>{told.effect}</b> ({told.interval})."
        if report.north_star.effect is not None
        else f"What the touches do to it cannot be told yet: of core users {report.north_star.treated_users:,} were "
        f"treated and {report.north_star.control_users:,} held out."
    )
    if not months:
        return (
            f"{head}<p>There were fewer than {_CORE_MIN} core users in every whole month.</p><p>{effect}</p></section>"
        )
    charts["star-chart"] = page.themed(_star_chart(months))
    latest = months[-1]
    return (
        f"{head}<p>Core users are those who were of the tier high within 180 days before the month. In {latest.month}, "
        f"<b>{share(latest.again / latest.core)}</b> of {latest.core:,} ordered. {effect}</p>"
        '<div class="charts">'
        + _figure(
            "star-chart",
            "<b>Share of core users who ordered within the month.</b> Shaded: 95% of all. Treated and held out: those "
            "to whom a touch was possible before the month began, so users who had begun to drift; where there are 30.",
        )
        + f"{_star_table(months)}</div></section>"
    )


def _star_chart(months: Sequence[Month]) -> alt.LayerChart:
    values = []
    for month in months:
        for arm, hits, n in (
            ("all", month.again, month.core),
            ("treated", month.again_treated, month.core_treated),
            ("held out", month.again_control, month.core_control),
        ):
            found = share_interval(hits, n)
            if found is not None and n >= _CORE_MIN:
                value, low, high = found
                values.append({"month": month.month, "arm": arm, "share": value, "low": low, "high": high, "n": n})
    return _lines(values, _ARMS, "share of core users", band="all")


def _star_table(months: Sequence[Month]) -> str:
    rows = [
        [
            month.month,
            f"{month.core:,}",
            share(month.again / month.core),
            *(
                f"{share(hits / n)} <small>of {n:,}</small>" if n else "-"
                for hits, n in (
                    (month.again_treated, month.core_treated),
                    (month.again_control, month.core_control),
                )
            ),
        ]
        for month in months
    ]
    return _table(["month", "core users", "ordered", "treated", "held out"], rows)


# -- the holdout -------------------------------------------------------------------------------------------------------


def _added(report: Report, charts: dict[str, Mapping[str, Any]]) -> str:
    head = _section("added", "What the touches added")
    measures, currency = list(report.headline.values()), report.about["currency"]
    known = [measure for measure in measures if measure.effect is not None]
    figure = ""
    if known:
        charts["added-chart"] = page.themed(_relative(known))
        figure = _figure(
            "added-chart",
            "<b>Change by being touched, as a share of what the held out did.</b> The bar is the 95% interval: grey "
            "where it crosses the line of no change, and nothing can be told yet; else green for more, red for less.",
        )
    rows = []
    for measure in measures:
        told = row(measure, currency)
        total = f"{told.total} <small>{told.total_interval}</small>" if told.total_interval else "-"
        how = "CUPED" if measure.cuped else "plain"
        narrower = "" if not measure.cuped or measure.plain is None or measure.effect is None else _narrower(measure)
        rows.append(
            [
                escape(told.label),
                told.treated,
                told.control,
                f"{told.effect} <small>{told.interval}</small>",
                total,
                f"{how} <small>{narrower}</small>",
                _mark(told.verdict),
            ]
        )
    names = ["", "treated", "held out", "effect", "of all treated together", "by", "verdict"]
    return (
        f"{head}<p>Treated less held out, by intention to treat. CUPED takes off what each user's year before already "
        "told, so that the interval gets narrower; it moves no expectation. What touches of an earlier epoch of the "
        "holdout still bring comes to both arms alike and is not counted.</p>"
        f'{_table(names, rows)}<div class="charts">{figure}</div></section>'
    )


def _narrower(measure: Measure) -> str:
    assert measure.plain is not None  # the caller has seen them
    assert measure.effect is not None
    return f"interval {share(1 - measure.effect.error / measure.plain.error)} narrower"


def _recalled(report: Report) -> str:
    currency = report.about["currency"]
    labels = {
        "orders": "orders per 100 users within three months",
        "aov": f"average order value, {currency}",
        "ltv": f"change of the expected margin of a year, {currency}",
    }
    rows = [_plain_row(measure, currency, labels[name]) for name, measure in report.later.items()]
    return (
        f"{_section('recalled', 'Three months after a recall')}<p>Orders and order value of users whose 90 days have "
        "passed. Order value compares those who ordered, who need not be alike in both arms. The expected margin is as "
        "last told with a change of tier, before and after.</p>"
        f"{_table(['', 'treated', 'held out', 'effect', 'verdict'], rows)}</section>"
    )


def _plain_row(measure: Measure, currency: str, label: str = "") -> list[str]:
    told = row(measure, currency)
    return [
        escape(label or told.label),
        told.treated,
        told.control,
        f"{told.effect} <small>{told.interval}</small>",
        _mark(told.verdict),
    ]


def _silent(report: Report) -> str:
    silent, currency = report.silent, report.about["currency"]
    rows = [
        _plain_row(silent.returned, currency, "silent users who ordered again"),
        _plain_row(silent.revenue, currency, f"net revenue per silent user, {currency}"),
    ]
    a_month = silent.cost / silent.months if silent.months else 0.0
    yearly = (
        f"At this rate the difference is <b>{signed(silent.yearly_revenue.value)} {currency}</b> of revenue a year "
        f"({signed(silent.yearly_revenue.low)} to {signed(silent.yearly_revenue.high)})."
        if silent.yearly_revenue is not None
        else f"What that is in revenue a year cannot be told: {too_few()}."
    )
    return (
        f"{_section('silent', 'Silent users activated')}<p>Users who were silent at the first possible touch; "
        f"{number(a_month)} {currency} a month were spent on them in full. {yearly}</p>"
        f"{_table(['', 'treated', 'held out', 'effect', 'verdict'], rows)}</section>"
    )


def _churn(report: Report, charts: dict[str, Mapping[str, Any]]) -> str:
    currency = report.about["currency"]
    values = []
    for month in report.months:
        found = share_interval(month.lost, month.there)
        if month.whole and found is not None and month.there >= _CORE_MIN:
            value, low, high = found
            values.append(
                {"month": month.month, "arm": "all", "share": value, "low": low, "high": high, "n": month.there}
            )
    figure = ""
    if values:
        charts["churn-chart"] = page.themed(_lines(values, {"all": page.BLUE}, "share fallen silent", band="all"))
        figure = _figure(
            "churn-chart", "<b>Customers who fell silent within the month</b>, of those who were not silent."
        )
    told = _table(["", "treated", "held out", "effect", "verdict"], [_plain_row(report.churn, currency)])
    return f'{_section("churn", "Monthly churn")}<div class="charts">{figure}{told}</div></section>'


# -- money -------------------------------------------------------------------------------------------------------------


def _money(report: Report, charts: dict[str, Mapping[str, Any]]) -> str:
    cost, currency = report.cost, report.about["currency"]
    values = [
        {"month": month.month, "kind": kind, "place": place, "amount": getattr(month, kind)}
        for month in report.months
        for place, kind in enumerate(_KINDS)
        if month.touches
    ]
    figure = ""
    if values:
        charts["cost-chart"] = page.themed(_stacked(values, currency))
        figure = _figure(
            "cost-chart", "<b>Cost in full, by month.</b> Contact and incentive leave as money; the others do not."
        )
    rows = [
        ["direct", "contacts and incentives used", number(cost.direct), f"expected {number(cost.expected)}"],
        ["opportunity", "what that would have earned elsewhere", number(cost.opportunity), ""],
        ["hidden", "people, upkeep, fatigue and brand", number(cost.hidden), ""],
        ["in full", f"{cost.touches:,} touches", number(cost.total), ""],
    ]
    facts = [
        ["direct cost, of an SMS to all", sms_text(report)],
        ["cost per user who would not have ordered", save_text(report)],
        ["return on the cost in full (ROI)", roi_text(report)],
    ]
    return (
        f"{_section('money', 'What it cost, and what came back')}"
        "<p>Costs are as feedback told them, else as expected. What an incentive gives away is missing from revenue "
        "and margin already and is not taken off them twice. An SMS to all: one in the place of each episode's first "
        "touch. The interval of ROI and of a save is that of the effect; costs are taken as known.</p>"
        f"{_table(['', ''], facts)}"
        f'<div class="charts">{figure}{_table(["kind", "of", currency, ""], rows, texts=2)}</div></section>'
    )


def _where(report: Report, charts: dict[str, Mapping[str, Any]]) -> str:
    head = _section("where", "Where it pays")
    currency = report.about["currency"]
    known = [cell for cell in report.cells if cell.returned.effect is not None]
    figures = []
    if known:
        charts["cells-chart"] = page.themed(_cells_chart(known))
        figures.append(
            _figure(
                "cells-chart",
                "<b>Users who ordered: treated less held out, in points.</b> Groups are as they were before anything "
                "was sent; of those held out, the play is the one that they would have got.",
            )
        )
    by_money = [cell for cell in report.cells if cell.by == "tier" and cell.by_money is not None]
    if by_money:
        charts["return-chart"] = page.themed(_return_chart(by_money, currency))
        figures.append(
            _figure(
                "return-chart",
                f"<b>Margin for each {currency} of cost in full, by tier.</b> The same money on those who are active "
                "and of high value is the first row to compare with.",
            )
        )
    rows = []
    for cell in report.cells:
        told, margin, returns = row(cell.returned, currency), row(cell.margin, currency), cell.by_money
        rows.append(
            [
                _NAMES[cell.by],
                escape(cell.value),
                f"{cell.returned.treated_users:,}",
                f"{cell.returned.control_users:,}",
                f"{told.effect} <small>{told.interval}</small>",
                f"{margin.effect} <small>{margin.interval}</small>",
                number(cell.cost),
                "-"
                if returns is None
                else f"{signed(returns.value)} <small>{signed(returns.low)} to {signed(returns.high)}</small>",
                _mark(told.verdict),
            ]
        )
    names = [
        "by",
        "",
        "treated",
        "held out",
        "ordered, points",
        f"margin per user, {currency}",
        f"cost, {currency}",
        "margin by cost",
        "more order",
    ]
    return f'{head}<div class="charts">{"".join(figures)}</div>{_table(names, rows, texts=2)}</section>'


def _habits(report: Report, charts: dict[str, Mapping[str, Any]]) -> str:
    answers: list[dict[str, Any]] = []
    subsidised: list[dict[str, Any]] = []
    for month in report.months:
        for found, n, values in (
            (share_interval(month.answered, month.plain), month.plain, answers),
            (share_interval(month.subsidised, month.touches), month.touches, subsidised),
        ):
            if found is not None and n >= _CORE_MIN:
                value, low, high = found
                values.append({"month": month.month, "arm": "all", "share": value, "low": low, "high": high, "n": n})
    figures = []
    for place, values, colour, title, caption in (
        (
            "answer-chart",
            answers,
            page.BLUE,
            "answered within 7 days",
            "<b>Answers to touches without an incentive.</b> Falling while incentives rise: users wait for coupons.",
        ),
        (
            "subsidy-chart",
            subsidised,
            page.YELLOW,
            "share with an incentive",
            "<b>Touches that held an incentive.</b>",
        ),
    ):
        if values:
            charts[place] = page.themed(_lines(values, {"all": colour}, title, band="all"))
            figures.append(_figure(place, caption))
    if not figures:
        return ""
    return (
        f"{_section('habits', 'Is the coupon becoming the habit?')}<p>Description, not effect: nobody drew who got an "
        f'incentive.</p><div class="charts">{"".join(figures)}</div></section>'
    )


def _harm(report: Report) -> str:
    sent = sum(rung.delivered for rung in report.rungs)
    left = sum(rung.unsubscribed for rung in report.rungs)
    found = share_interval(left, sent)
    told = "Nothing was delivered."
    if found is not None:
        value, low, high = found
        told = (
            f"{left:,} of {sent:,} delivered touches were answered by unsubscribing: {share(value)} "
            f"({share(low)} to {share(high)})."
        )
    rows = [_plain_row(report.harm, report.about["currency"])]
    return (
        f"{_section('harm', 'Complaints and unsubscribes')}<p>{told} Below, users who opted out of all messages, which "
        f"the held out may do too.</p>{_table(['', 'treated', 'held out', 'effect', 'verdict'], rows)}</section>"
    )


def _rungs(report: Report) -> str:
    if not report.rungs:
        return ""
    rows = [
        [
            escape(rung.channel),
            f"{rung.touches:,}",
            f"{rung.delivered:,}",
            share(rung.answered / rung.delivered) if rung.delivered else "-",
            f"{rung.bounced + rung.failed:,}",
            f"{rung.unsubscribed:,}",
            number(rung.contact + rung.incentive),
            number(rung.hidden + rung.opportunity),
        ]
        for rung in report.rungs
    ]
    names = [
        "channel",
        "touches",
        "delivered",
        "answered",
        "not arrived",
        "unsubscribed",
        "direct",
        "hidden and opportunity",
    ]
    return (
        f"{_section('rungs', 'By channel: a description')}<p>Nobody drew who climbs to which rung: whoever gets an SMS "
        "did not answer before. These shares compare unlike users and tell no effect.</p>"
        f"{_table(names, rows)}</section>"
    )


# -- what cannot be told -----------------------------------------------------------------------------------------------


def _open(report: Report) -> str:
    head = _section("open", "What cannot be told yet")
    if not report.open:
        return f"{head}<p>Every measure has an interval that leaves out 0.</p></section>"
    rows = [
        [
            escape(_what(one)),
            f"{one.users:,}",
            f"{one.control_users:,}",
            "-" if one.least is None else share(one.least),
            span(one.weeks),
        ]
        for one in report.open
        if one.weeks is not None
    ]
    few = ", ".join(escape(_what(one)) for one in report.open if one.weeks is None)
    return (
        f"{head}<p>With the users held out so far, changes smaller than these would be missed more often than once in "
        f"five times. The time is until a change of {share(LIFT)} of the held out's mean is seen, from now on and at "
        "the present rate.</p>"
        f"{_table(['', 'treated', 'held out', 'smallest change seen', f'until {share(LIFT)} is seen'], rows)}"
        + (f"<p>Too few users to say anything of ({too_few()}): {few}.</p>" if few else "")
        + "</section>"
    )


def _what(one: Open) -> str:
    """Say what cannot be told."""
    name = _NAMES.get(one.by, one.by)
    return f"{name}: {one.value}" if one.by != ALL else SCALES[one.value].label


def _plan(report: Report) -> str:
    plan = report.plan
    if plan is None:
        return ""
    head = _section("plan", "How many it takes")
    shares = sorted({need.held_out for need in plan.needs})
    rows = []
    for measure, lift in dict.fromkeys((need.measure, need.lift) for need in plan.needs):
        found = {need.held_out: need for need in plan.needs if (need.measure, need.lift) == (measure, lift)}
        cells = [f"{found[one].units:,} <small>{span(found[one].weeks)}</small>" for one in shares]
        rows.append([escape(SCALES[measure].label), f"+{share(lift)}", *cells])
    unlike = ""
    if plan.unlike is not None and plan.unlike.effect is not None:
        told = row(plan.unlike, report.about["currency"])
        unlike = (
            f"<p>Before launch nobody was touched, so the arms have to be alike: orders per 100 users differ by "
            f"{told.effect} ({told.interval}).</p>"
        )
    basis = "users before launch" if plan.phase == "before launch" else "users so far"
    return (
        f"{head}<p>Users of both arms together that show a change with power 80% at a two-sided 5%, and how long they "
        f"take to come. By {plan.units:,} {basis}, watched for {plan.days:.0f} days on average; "
        f"{number(plan.units_a_week)} a week enter.</p>"
        f"{_table(['', 'change', *(f'{share(one)} held out' for one in shares)], rows, texts=1)}{unlike}</section>"
    )


def _naive(report: Report, charts: dict[str, Mapping[str, Any]]) -> str:
    naive = report.naive
    values = [
        {"who": who, "when": when, "orders": 100 * orders, "place": place}
        for who, before, after in (
            ("touched", naive.orders_before, naive.orders_after),
            ("held out", naive.control_orders_before, naive.control_orders_after),
        )
        for place, (when, orders) in enumerate((("before", before), ("after", after)))
    ]
    charts["naive-chart"] = page.themed(_pairs(values))
    change = 100 * (naive.control_orders_after - naive.control_orders_before)
    total = report.headline["orders"].total
    beside = (
        ""
        if total is None
        else f" The holdout says {signed(total.value)} ({signed(total.low)} to {signed(total.high)})."
    )
    saves = report.saves
    instead = (
        ""
        if saves is None
        else f" The holdout says {signed(saves.value)} ({signed(saves.low)} to {signed(saves.high)})."
    )
    return (
        f"{_section('naive', 'Before and after: why not to believe it')}"
        "<p>These figures are what a dashboard without a holdout would lead with. They are wrong, and stand here only "
        "to be seen as such.</p>"
        f"<p><b>Before and after</b> would claim <b>{signed(naive.claimed_orders)} orders</b> of {naive.users:,} "
        f"touched users.{beside} To the held out nothing was sent, and their orders changed by {signed(change)} per "
        "100 users all the same.</p>"
        f"<p><b>Users recalled</b>, as touched and ordered afterwards, would be <b>{naive.claimed_returns:,}</b>."
        f"{instead} The others would have ordered anyway.</p>"
        f'<div class="charts">'
        + _figure(
            "naive-chart",
            "<b>Orders per 100 users</b> in equally long times before and after the first possible touch.",
        )
        + "</div></section>"
    )


# -- charts ------------------------------------------------------------------------------------------------------------


def _month_axis() -> alt.X:
    return alt.X("month:O", title=None, axis=alt.Axis(labelAngle=-45, labelOverlap=True))


def _lines(values: Sequence[dict[str, Any]], colours: Mapping[str, str], title: str, band: str) -> alt.LayerChart:
    """Draw shares by month, with the interval of one of the lines."""
    data = alt.Data(values=list(values))
    there = [name for name in colours if any(value["arm"] == name for value in values)]
    colour = alt.Color(
        "arm:N",
        scale=alt.Scale(domain=there, range=[colours[name] for name in there]),
        legend=alt.Legend(orient="top", title=None) if len(there) > 1 else None,
    )
    top = max(value["high"] for value in values if value["arm"] == band) * 1.1
    scale = alt.Scale(domain=[0, max(top, 0.001)], nice=True)
    axis = alt.Axis(format=".2~%", tickCount=5)
    base = alt.Chart(data, width=_WIDTH, height=_HEIGHT).encode(x=_month_axis())
    area = (
        base.transform_filter(f"datum.arm == '{band}'")
        .mark_area(opacity=0.18, color=colours[band])
        .encode(y=alt.Y("low:Q", title=title, scale=scale, axis=axis), y2="high:Q")
    )
    line = base.mark_line(strokeWidth=2.5, point=alt.OverlayMarkDef(size=45), clip=True).encode(
        y=alt.Y("share:Q", title=title, scale=scale, axis=axis),
        color=colour,
        tooltip=["month:O", "arm:N", alt.Tooltip("share:Q", format=".1%"), alt.Tooltip("n:Q", format=",")],
    )
    return area + line


def _forest(values: Sequence[dict[str, Any]], title: str, format_: str) -> alt.LayerChart:
    """Draw intervals below each other, and the line of no effect."""
    data = alt.Data(values=list(values))
    names = [value["name"] for value in values]
    y = alt.Y(
        "name:N",
        title=None,
        sort=names,
        axis=alt.Axis(ticks=False, domain=False, labelLimit=230, labelPadding=8),
    )
    there = [name for name in _COLOURS if any(value["verdict"] == name for value in values)]
    colour = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=there, range=[_COLOURS[name] for name in there]),
        legend=None,  # the captions say it
    )
    axis = alt.Axis(format=format_, tickCount=6)
    base = alt.Chart(data, width=_WIDTH - 120, height={"step": 26})
    tooltip = ["name:N", *(alt.Tooltip(f"{name}:Q", format=format_) for name in ("value", "low", "high"))]
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color="#1a1a1a", strokeWidth=1).encode(x="zero:Q")
    bar = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title=title, axis=axis), x2="high:Q", y=y, color=colour, tooltip=tooltip
    )
    dot = base.mark_point(filled=True, size=90, opacity=1).encode(x="value:Q", y=y, color=colour, tooltip=tooltip)
    return zero + bar + dot


def _relative(measures: Iterable[Measure]) -> alt.LayerChart:
    values = []
    for measure in measures:
        effect = measure.effect
        assert effect is not None  # the caller has left the others out
        if effect.control > 0:
            part = effect.times(1 / effect.control)
            values.append(
                {
                    "name": TOTALS[measure.name] if measure.name != "returned" else "users who ordered",
                    "value": part.value,
                    "low": part.low,
                    "high": part.high,
                    "verdict": measure.verdict,
                }
            )
    return _forest(values, "change, of the held out's mean", "+.0%")


def _cells_chart(cells: Iterable[Cell]) -> alt.LayerChart:
    values = []
    for cell in cells:
        assert cell.returned.effect is not None  # the caller has left the others out
        effect = cell.returned.effect.times(100)
        values.append(
            {
                "name": f"{_NAMES[cell.by]}: {cell.value}",
                "value": effect.value,
                "low": effect.low,
                "high": effect.high,
                "verdict": cell.returned.verdict,
            }
        )
    return _forest(values, "points", "+.0f")


def _return_chart(cells: Sequence[Cell], currency: str) -> alt.LayerChart:
    values = []
    for cell in sorted(cells, key=lambda cell: cell.value != "high"):
        found = cell.by_money
        assert found is not None  # the caller has left the others out
        name = "high value, active" if cell.value == "high" else cell.value
        values.append(
            {
                "name": name,
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "verdict": cell.margin.verdict,
            }
        )
    return _forest(values, f"{currency} of margin by {currency} of cost", "+,.0f")


def _stacked(values: Sequence[dict[str, Any]], currency: str) -> alt.Chart:
    there = [kind for kind in _KINDS if any(value["kind"] == kind and value["amount"] for value in values)]
    return (
        alt.Chart(alt.Data(values=[value for value in values if value["kind"] in there]), width=_WIDTH, height=_HEIGHT)
        .mark_bar()
        .encode(
            x=_month_axis(),
            y=alt.Y("amount:Q", title=currency, axis=alt.Axis(tickCount=5)),
            color=alt.Color("kind:N", scale=alt.Scale(domain=there, range=[_KINDS[kind] for kind in there])),
            order="place:Q",
            tooltip=["month:O", "kind:N", alt.Tooltip("amount:Q", format=",.2f")],
        )
    )


def _pairs(values: Sequence[dict[str, Any]]) -> alt.LayerChart:
    base = alt.Chart(alt.Data(values=list(values)), width=_WIDTH - 60, height=180).encode(
        x=alt.X("who:N", title=None, sort=["touched", "held out"], axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("when:N", sort=["before", "after"]),
    )
    bars = base.mark_bar().encode(
        y=alt.Y("orders:Q", title="orders per 100 users", axis=alt.Axis(tickCount=5)),
        color=alt.Color(
            "when:N",
            scale=alt.Scale(domain=["before", "after"], range=[page.GREY, page.BLUE]),
            sort=["before", "after"],
        ),
    )
    told = base.mark_text(dy=-7, fontSize=12, color="#1a1a1a").encode(
        y="orders:Q", text=alt.Text("orders:Q", format=".0f")
    )
    return bars + told


# -- parts -------------------------------------------------------------------------------------------------------------


def _section(place: str, title: str) -> str:
    return f'<section id="{place}"><h2>{escape(title)}</h2>'


def _figure(place: str, caption: str) -> str:
    return f'<figure><div id="{place}"></div><figcaption>{caption}</figcaption></figure>'


def _mark(told: str) -> str:
    colour = {"more": page.GREEN, "less": page.RED}.get(told)
    return told if colour is None else f'<b style="color: {colour}">{told}</b>'


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a table; the first columns hold text."""

    def cells(tag: str, row_: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=text' if i < texts else ''}>{cell}</{tag}>" for i, cell in enumerate(row_))

    body = "".join(f"<tr>{cells('td', one)}</tr>" for one in rows)
    narrow = "" if len(names) > _COLUMNS_NARROW else ' class="narrow"'
    return f'<div class="wide"><table{narrow}><tr>{cells("th", list(names))}</tr>{body}</table></div>'
