"""The results as one page: tables and charts. Lines differ in their dashes too, not by colour alone."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import altair as alt

from worker import page
from worker.evaluate import choice
from worker.evaluate.results import CONSTANT, ECE_MAX, MODEL, PEER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_DRAWN: Final = {
    MODEL: (page.BLUE, [1, 0]),
    PEER: (page.RED, [6, 3]),
    "BG/NBD": (page.GREEN, [2, 2]),
    "recency": (page.PINK, [8, 2, 2, 2]),
}
"""The ways to predict that charts show; tables show all."""
_WIDTH, _HEIGHT = 380, 260
_FORMATS: Final = {"quantitative": ".3f", "temporal": "%d %b %Y"}
_COLUMNS: Final = (
    ("auc", "AUC"),
    ("auc_within_week", "AUC within a week"),
    ("pr_auc", "PR AUC"),
    ("log_loss", "log loss"),
    ("brier", "Brier"),
    ("ece", "ECE"),
    ("accuracy", "accuracy"),
    ("precision_top_1", "precision top 1%"),
    ("precision_top_10", "precision top 10%"),
    ("lift_top_10", "lift top 10%"),
)
_MARKS: Final = {"better": "▲ better", "worse": "▼ worse", "no difference": "= no difference"}

_INTRO: Final = """
<p>Each week the model says of every customer how likely it is that nothing more comes within a horizon. Here these
predictions are held against what came, on public data and on a simulated shop, beside those of other models on the same
examples, with the same features.</p>
<p>All predictions were made in order of time: at each midnight a model knew only what had happened by then, and only
those outcomes whose horizon was over. Batch models are retrained every four weeks. Intervals are 95%, from resampling
customers; <i>better</i> and <i>worse</i> mean that the interval of the difference leaves out 0.</p>
"""


def write(results: Sequence[Mapping[str, Any]], tested: Sequence[Mapping[str, Any]], command: str) -> str:
    """Return the page of all results, and of the choice's test where there is one; `command` makes it anew."""
    charts: dict[str, dict[str, Any]] = {}
    sections = [_section(result, charts) for result in results]
    for test in tested:
        place = f"{test['task']}-budget"
        charts[place] = page.themed(choice.chart(test))
        sections.append(f"{choice.section(test, place)}{_targets(test)}</section>")
    shown = [*results, *tested]
    contents = "".join(f'<a href="#{result["task"]}">{escape(result["title"])}</a> ' for result in shown)
    in_short = f"<h3>In short</h3>{_overview(results)}{_claim(results)}" if results else ""
    versions = {f"{name} {number}": None for result in shown for name, number in result["versions"].items()}
    resampled = f"; {results[0]['resamples']} resamples of the customers" if results else ""
    body = (
        f"{_INTRO}<nav>{contents}</nav>{in_short}{''.join(sections)}"
        f'<section><h2>How to make this page</h2><pre>{escape(command)}</pre><p class="soft">With '
        f"{escape(', '.join(versions))}{resampled}.</p></section>"
    )
    return page.write("How good is the churn model?", body, charts)


def _overview(results: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for result in results:
        ours, peer = (result["models"][name]["figures"] for name in (MODEL, PEER))
        cells = [
            f'<td class="text"><a href="#{result["task"]}">{escape(result["title"])}</a></td>',
            f"<td>{result['examples']:,}</td><td>{result['base_rate']:.1%}</td>",
        ]
        cells += [
            f"<td>{ours[figure]['value']:.3f} <small>{peer[figure]['value']:.3f}, "
            f"{_MARKS[ours[figure]['verdict']]}</small></td>"
            for figure in ("auc", "auc_within_week", "log_loss")
        ]
        ece = ours["ece"]["value"]
        cells.append(f"<td>{ece:.3f}<small>{'at most' if ece <= ECE_MAX else 'above'} {ECE_MAX}</small></td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("examples", "lapsed", "AUC", "AUC within a week", "log loss", "ECE"))
    return (
        f'<div class="wide"><table><tr><th>who will lapse?</th>{head}</tr>{"".join(rows)}</table></div>'
        f'<p class="soft">Below each figure of {MODEL}: that of {PEER}, and what the difference says of {MODEL}. '
        "AUC: how often a customer who lapsed was given more than one who did not (0.5 is chance). Log loss: lower is "
        "better. ECE: how far predicted probabilities lie from what came, on average.</p>"
    )


def _claim(results: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for result in results:
        models = result["models"]
        ours = models[MODEL]
        at, ahead = ours["at_precision"], ours["in_advance"]
        reachable = f"{at['recall']:.1%}" if at["recall"] else "not reachable"
        kept = "nobody flagged" if ahead["precision"] is None else f"{ahead['precision']:.3f}"
        rows.append(
            f'<tr><td class="text">{escape(result["title"])}</td>'
            f"<td>{ours['figures']['accuracy']['value']:.3f}</td>"
            f"<td>{models[CONSTANT]['figures']['accuracy']['value']:.3f}</td>"
            f"<td>{ours['figures']['precision_top_1']['value']:.3f}</td>"
            f"<td>{ours['figures']['precision_top_10']['value']:.3f}</td>"
            f"<td>{reachable}</td><td>{kept}</td><td>{_lead(ours['lead_time'])}</td></tr>"
        )
    names = (
        "accuracy",
        "accuracy of a constant",
        "precision top 1%",
        "precision top 10%",
        "lapses found at precision .92",
        "precision kept by a threshold chosen in advance for .92",
        "lead time of alerts: median (quartiles), share of lapses",
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        "<h3>What does “92% accurate” mean?</h3><p>Accuracy alone says little: where most customers lapse, a "
        "constant that calls everyone lost is often right too. What helps is precision: of those flagged, how "
        f'many lapse.</p><div class="wide"><table><tr><th>{MODEL}</th>{head}</tr>{"".join(rows)}</table></div>'
        '<p class="soft">Lapses found: with the best threshold known afterwards that flags at least 1%. Lead time: '
        "days from the first alert since the latest order to the day when the horizon without another one is over; an "
        "alert is a prediction in the highest tenth of the four weeks before.</p>"
    )


def _lead(lead: Mapping[str, Any]) -> str:
    if lead["quartiles_days"] is None:
        return "no alert"
    low, median, high = lead["quartiles_days"]
    share = lead["alerted"] / lead["lapses"]
    return f"{median:.0f} ({low:.0f} to {high:.0f}) days<small>{share:.0%} of {lead['lapses']:,}</small>"


def _section(result: Mapping[str, Any], charts: dict[str, dict[str, Any]]) -> str:
    figures = []

    def figure(name: str, chart: alt.TopLevelMixin, caption: str) -> None:
        place = f"{result['task']}-{name}"
        charts[place] = page.themed(chart)
        figures.append(f'<figure><div id="{place}"></div><figcaption>{caption}</figcaption></figure>')

    at = result["models"][MODEL]["at_precision"]
    point = f"{MODEL} reaches it for {at['recall']:.1%} of the lapses" if at["recall"] else f"{MODEL} does not reach it"
    figure(
        "reliability",
        _reliability(result),
        "<b>Can the number be trusted?</b> Each dot is a fifteenth of the predictions. On the diagonal, as many lapsed "
        "as were predicted.",
    )
    figure(
        "roc",
        _roc(result),
        "<b>Does it tell customers apart?</b> Lapses found, by customers wrongly flagged. On the diagonal: by chance.",
    )
    figure(
        "precision",
        _precision(result),
        "<b>How many alerts are right?</b> Precision by the share of lapses found, from 1% flagged on. At .92: "
        f"{point}.",
    )
    figure(
        "lift",
        _lift(result),
        "<b>Does it last?</b> Lapses among the highest tenth of each week, as a multiple of the week's rate. 1: no "
        "better than picking at random.",
    )
    if result["ablation"]:
        figure(
            "ablation",
            _ablation(result),
            "<b>What carries the signal?</b> AUC of the learner alone with one group of features, and with all but "
            "that group, less the AUC with all. Bars are 95% intervals.",
        )
    lapsed = "did nothing more" if result["target"] == "activity" else "ordered nothing more"
    return (
        f'<section id="{result["task"]}"><h2>{escape(result["title"])}</h2>'
        f"<p>{result['examples']:,} predictions over {result['weeks']} weeks, of {result['users']:,} customers; "
        f"{result['base_rate']:.1%} {lapsed} within {result['horizon_days']} days.</p>"
        f'{_table(result)}<div class="charts">{"".join(figures)}</div>{_targets(result)}</section>'
    )


def _table(result: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{label}</th>" for _, label in _COLUMNS)
    rows = []
    for name, model in result["models"].items():
        cells = []
        for figure, _ in _COLUMNS:
            told = model["figures"][figure]
            low, high = told["interval"]
            cells.append(f"<td>{told['value']:.3f}<small>{low:.3f}&ndash;{high:.3f}</small></td>")
        row = ' class="model"' if name == MODEL else ""
        rows.append(f"<tr{row}><td>{escape(name)}</td>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _targets(result: Mapping[str, Any]) -> str:
    items = "".join(
        f"<li>{'✓' if met else '✗'} {escape(target)}{'' if met else ': <b>not met</b>'}</li>"
        for target, met in result["targets"].items()
    )
    return f'<h3>Targets</h3><ul class="targets">{items}</ul>'


# -- charts ------------------------------------------------------------------------------------------------------------


def _shown(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: result["models"][name] for name in _DRAWN}


def _colour() -> alt.Color:
    return alt.Color("way:N", scale=alt.Scale(domain=list(_DRAWN), range=[colour for colour, _ in _DRAWN.values()]))


def _dash() -> alt.StrokeDash:
    return alt.StrokeDash("way:N", scale=alt.Scale(domain=list(_DRAWN), range=[dash for _, dash in _DRAWN.values()]))


def _lines(rows: list[dict[str, Any]], x: alt.X, y: alt.Y) -> alt.Chart:
    return (
        alt.Chart(alt.Data(values=rows), width=_WIDTH, height=_HEIGHT)
        .mark_line(interpolate="linear")
        .encode(
            x=x,
            y=y,
            color=_colour(),
            strokeDash=_dash(),
            strokeWidth=alt.condition(f"datum.way === '{MODEL}'", alt.value(3), alt.value(1.7)),
            tooltip=[alt.Tooltip("way:N", title="predicted by"), *(_told(axis) for axis in (x, y))],
        )
    )


def _told(axis: alt.X | alt.Y) -> alt.Tooltip:
    spec = axis.to_dict(context={"data": alt.Data(values=[])})
    return alt.Tooltip(
        spec["field"], type=spec["type"], title=spec["title"] or "week of", format=_FORMATS[spec["type"]]
    )


def _diagonal() -> alt.Chart:
    ends = alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    return alt.Chart(ends).mark_line(color=page.GREY, strokeWidth=1, strokeDash=[3, 3]).encode(x="x:Q", y="y:Q")


def _level(at: float, words: str) -> alt.LayerChart:
    data = alt.Data(values=[{"y": at, "words": words}])
    rule = alt.Chart(data).mark_rule(color=page.GREY, strokeDash=[3, 3]).encode(y="y:Q")
    text = alt.Chart(data).mark_text(align="left", baseline="top", dx=4, dy=3, color="#595959", fontSize=12)
    return rule + text.encode(x=alt.value(0), y="y:Q", text="words:N")


def _share(field: str, title: str, **scale: Any) -> dict[str, Any]:
    return {
        "shorthand": f"{field}:Q",
        "title": title,
        "axis": alt.Axis(format=".0%", tickCount=5),
        "scale": alt.Scale(**{"domain": [0, 1], **scale}),
    }


def _reliability(result: Mapping[str, Any]) -> alt.LayerChart:
    rows = [{"way": name, **each} for name, model in _shown(result).items() for each in model["reliability"]]
    lines = _lines(rows, alt.X(**_share("predicted", "predicted")), alt.Y(**_share("came", "lapsed")))
    dots = (
        alt.Chart(alt.Data(values=[row for row in rows if row["way"] == MODEL]))
        .mark_circle(size=55, opacity=1)
        .encode(x="predicted:Q", y="came:Q", color=alt.value(_DRAWN[MODEL][0]))
    )
    return _diagonal() + lines + dots


def _roc(result: Mapping[str, Any]) -> alt.LayerChart:
    rows = [
        {"way": name, "missed": i / (len(model["roc"]) - 1), "found": found}
        for name, model in _shown(result).items()
        for i, found in enumerate(model["roc"])
    ]
    x = alt.X(**_share("missed", "wrongly flagged, of those who came back"))
    return _diagonal() + _lines(rows, x, alt.Y(**_share("found", "lapses found")))


def _precision(result: Mapping[str, Any]) -> alt.LayerChart:
    rows = []
    for name, model in _shown(result).items():
        precision = model["precision_by_recall"]
        for i, value in enumerate(precision):
            if (recall := i / (len(precision) - 1)) >= model["least_recall_shown"]:
                rows.append({"way": name, "recall": recall, "precision": value})
    low = min(result["base_rate"], *(row["precision"] for row in rows))
    y = alt.Y(**_share("precision", "precision", domain=[max(0, int(low * 10 - 0.5) / 10), 1], clamp=True))
    base = _level(result["base_rate"], f"all flagged: {result['base_rate']:.1%}")
    return _lines(rows, alt.X(**_share("recall", "lapses found")), y) + _level(0.92, "92%") + base


def _lift(result: Mapping[str, Any]) -> alt.LayerChart:
    rows = [
        {"way": name, "t": week["t"], "lift": week["lift"]}
        for name, model in _shown(result).items()
        for week in model["weekly"]
    ]
    x = alt.X(
        "t:T", title=None, axis=alt.Axis(format="%b %Y", tickCount={"interval": "month", "step": 1}, labelAngle=-40)
    )
    return _lines(rows, x, alt.Y("lift:Q", title="lift of the highest tenth", scale=alt.Scale(zero=False))) + _level(
        1, "at random"
    )


def _ablation(result: Mapping[str, Any]) -> alt.LayerChart:
    rows = []
    for one in result["ablation"]:
        if "difference" not in one["auc"]:
            continue
        kind, group = one["name"].split(" ", 1)
        low, high = one["auc"]["difference"]
        whole = result["ablation"][0]["auc"]["value"]
        rows.append(
            {"group": group, "kind": f"{kind} it", "difference": one["auc"]["value"] - whole, "low": low, "high": high}
        )
    colours = alt.Color("kind:N", scale=alt.Scale(domain=["only it", "without it"], range=[page.RED, page.BLUE]))
    base = alt.Chart(alt.Data(values=rows), width=_WIDTH - 60).encode(
        y=alt.Y("group:N", title=None, sort=None), yOffset="kind:N", color=colours
    )
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("difference:Q", title="AUC, less that with all groups", axis=alt.Axis(format="+.2f", tickCount=5)),
        shape=alt.Shape("kind:N", legend=None),
    )
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=page.GREY).encode(x="x:Q")
    return zero + bars + dots
