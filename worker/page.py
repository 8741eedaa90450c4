"""One HTML page that opens without a network: tables, and charts by Vega-Lite, which lies in it.

It needs the extra `charts`. Colours are those of Okabe and Ito, told apart with any colour vision.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import orjson
import vl_convert

if TYPE_CHECKING:
    from collections.abc import Mapping

    import altair as alt

BLUE: Final = "#0072B2"
RED: Final = "#D55E00"
GREEN: Final = "#009E73"
PINK: Final = "#CC79A7"
YELLOW: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREY: Final = "#767676"

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
table.narrow { width: auto; min-width: 29rem; }
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


_EMBED: Final = """
const charts = %s;
for (const [place, spec] of Object.entries(charts))
  vegaEmbed("#" + place, spec, {actions: false, renderer: "svg"});
"""


def write(title: str, body: str, charts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a page; a chart is drawn into the element of `body` that has its name as id."""
    scripts = (vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), _EMBED % orjson.dumps(charts).decode())
    script = "\n".join(scripts).replace("</script", "<\\/script")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{body}<script>{script}</script></body></html>\n"
    )


def themed(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Return a chart's specification in the look of the pages."""
    spec: dict[str, Any] = (
        chart.configure_view(stroke=None)
        .configure_axis(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridColor="#ececec", domainColor="#888888"
        )
        .configure_legend(orient="top", title=None, labelFontSize=12, symbolStrokeWidth=3, symbolSize=250)
        .to_dict()
    )
    return spec
