"""The results as one HTML page that opens without a network: tables, and charts by Vega-Lite, which lies in it.

Colours are those of Okabe and Ito, told apart with any colour vision, and lines differ in their dashes too.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import altair as alt
import orjson
import vl_convert

from worker.evaluate import choice
from worker.evaluate.results import CONSTANT, ECE_MAX, MODEL, PEER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_DRAWN: Final = {
    MODEL: ("#0072B2", [1, 0]),
    PEER: ("#D55E00", [6, 3]),
    "BG/NBD": ("#009E73", [2, 2]),
    "recency": ("#CC79A7", [8, 2, 2, 2]),
}
"""The ways to predict that charts show; tables show all."""
_GREY: Final = "#767676"
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

_STYLE: Final = """
:root { --ink: #1a1a1a; --soft: #595959; --line: #d9d9d9; --accent: #0072B2; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; color: var(--ink);
       max-width: 76rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; background: #fff; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .25rem; padding-top: 1rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; margin: .75rem 0; width: 100%;
        font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .45rem; border-bottom: 1px solid var(--line); white-space: nowrap;
         vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; border-bottom: 1px solid var(--ink); white-space: normal; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { white-space: normal; min-width: 11rem; }
tr.model td { font-weight: 600; background: #eef5fa; }
td small { display: block; color: var(--soft); font-weight: 400; font-size: .72rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(29rem, 1fr)); gap: 1.25rem 1.5rem;
          margin-top: .75rem; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .86rem; color: var(--soft); max-width: 29rem; margin-top: .25rem; }
figcaption b { color: var(--ink); }
code, pre { font: .82rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: #f5f5f5; padding: .75rem 1rem; overflow-x: auto; white-space: pre-wrap; }
ul.targets { list-style: none; padding: 0; margin: .5rem 0; font-size: .9rem; }
nav a { margin-right: 1rem; }
a { color: var(--accent); }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  section { break-before: page; } nav { display: none; }
  h2 { border-top: 0; margin-top: 0; } table { font-size: 8pt; } .charts { grid-template-columns: 1fr 1fr; gap: .5rem; }
  figure svg { max-width: 100%; height: auto; }
  tr.model td { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

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
        charts[place] = _themed(choice.chart(test))
        sections.append(f"{choice.section(test, place)}{_targets(test)}</section>")
    scripts = (vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), _EMBED % orjson.dumps(charts).decode())
    script = "\n".join(scripts).replace("</script", "<\\/script")
    shown = [*results, *tested]
    contents = "".join(f'<a href="#{result["task"]}">{escape(result["title"])}</a> ' for result in shown)
    in_short = f"<h3>In short</h3>{_overview(results)}{_claim(results)}" if results else ""
    versions = {f"{name} {number}": None for result in shown for name, number in result["versions"].items()}
    resampled = f"; {results[0]['resamples']} resamples of the customers" if results else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How good is the churn model?</title><style>{_STYLE}</style></head><body>"
        f"<h1>How good is the churn model?</h1>{_INTRO}<nav>{contents}</nav>"
        f"{in_short}{''.join(sections)}"
        f'<section><h2>How to make this page</h2><pre>{escape(command)}</pre><p class="soft">With '
        f"{escape(', '.join(versions))}{resampled}.</p></section>"
        f"<script>{script}</script></body></html>\n"
    )


_EMBED: Final = """
const charts = %s;
for (const [place, spec] of Object.entries(charts))
  vegaEmbed("#" + place, spec, {actions: false, renderer: "svg"});
"""


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
        charts[place] = _themed(chart)
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


def _themed(chart: alt.TopLevelMixin) -> dict[str, Any]:
    spec: dict[str, Any] = (
        chart.configure_view(stroke=None)
        .configure_axis(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridColor="#ececec", domainColor="#888888"
        )
        .configure_legend(orient="top", title=None, labelFontSize=12, symbolStrokeWidth=3, symbolSize=250)
        .to_dict()
    )
    return spec


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
    return alt.Chart(ends).mark_line(color=_GREY, strokeWidth=1, strokeDash=[3, 3]).encode(x="x:Q", y="y:Q")


def _level(at: float, words: str) -> alt.LayerChart:
    data = alt.Data(values=[{"y": at, "words": words}])
    rule = alt.Chart(data).mark_rule(color=_GREY, strokeDash=[3, 3]).encode(y="y:Q")
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
    colours = alt.Color("kind:N", scale=alt.Scale(domain=["only it", "without it"], range=["#D55E00", "#0072B2"]))
    base = alt.Chart(alt.Data(values=rows), width=_WIDTH - 60).encode(
        y=alt.Y("group:N", title=None, sort=None), yOffset="kind:N", color=colours
    )
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("difference:Q", title="AUC, less that with all groups", axis=alt.Axis(format="+.2f", tickCount=5)),
        shape=alt.Shape("kind:N", legend=None),
    )
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=_GREY).encode(x="x:Q")
    return zero + bars + dots
