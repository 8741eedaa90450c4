"""Figures in words and as plain values: what the terminal, the page and the JSON have in common."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from schemas.values import rfc3339
from worker.report.figures import LIFT, share_interval, too_few

if TYPE_CHECKING:
    from worker.report.estimates import Effect
    from worker.report.figures import Measure, Report

WEEKS_A_YEAR: Final = 365.25 / 7
_YEARS_MOST: Final = 10
_MANY_WEEKS: Final = 104
_WHOLE_FROM: Final = 100


class Scale(NamedTuple):
    """How a number is shown: per so many users, in what."""

    label: str
    per: int
    unit: str
    """"" for counts, "money", or "%" for shares of users."""


SCALES: Final = {
    "orders": Scale("orders per 100 users", 100, ""),
    "returned": Scale("users who ordered", 100, "%"),
    "returned_soon": Scale("core users who ordered within 30 days", 100, "%"),
    "revenue": Scale("net revenue per user", 1, "money"),
    "margin": Scale("margin per user", 1, "money"),
    "net": Scale("margin less costs per user", 1, "money"),
    "aov": Scale("average order value", 1, "money"),
    "ltv": Scale("change of expected margin (a year)", 1, "money"),
    "fell_silent": Scale("users who fell silent within 30 days", 100, "%"),
    "opted_out": Scale("users who want no more messages", 100, "%"),
}
TOTALS: Final = {
    "orders": "orders",
    "returned": "users who would not have ordered",
    "revenue": "net revenue",
    "margin": "margin",
    "net": "margin less costs",
}


class Row(NamedTuple):
    """A measure as it is shown."""

    label: str
    treated: str
    control: str
    effect: str
    interval: str
    total: str
    total_interval: str
    verdict: str


def row(measure: Measure, currency: str) -> Row:
    """Return a measure in words."""
    scale, effect, total = SCALES[measure.name], measure.effect, measure.total
    label = f"{scale.label}, {currency}" if scale.unit == "money" else scale.label
    if effect is None:
        return Row(label, "-", "-", "-", "", "-", "", measure.verdict)
    suffix = "%" if scale.unit == "%" else ""
    shown = effect.times(scale.per)
    points = " pt" if scale.unit == "%" else ""
    return Row(
        label,
        number(shown.treated) + suffix,
        number(shown.control) + suffix,
        signed(shown.value) + points,
        f"{signed(shown.low)} to {signed(shown.high)}",
        "-" if total is None else signed(total.value),
        "" if total is None else f"{signed(total.low)} to {signed(total.high)}",
        measure.verdict,
    )


def north_star(report: Report) -> str:
    """Say how many core users order again, in the latest whole month."""
    last = next((month for month in reversed(report.months) if month.whole and month.core), None)
    if last is None:
        return "No core users yet: nobody was of the tier high before a whole month."
    found = share_interval(last.again, last.core)
    assert found is not None  # there are core users
    value, low, high = found
    return f"{share(value)} of {last.core:,} core users ordered within {last.month} ({share(low)} to {share(high)})."


def verdict(report: Report) -> str:
    """Say in a sentence what the holdout tells, the most honest way round."""
    net, orders, currency = report.headline["net"], report.headline["orders"], report.about["currency"]
    if net.effect is None or orders.effect is None or net.total is None or orders.total is None:
        return (
            f"Nothing can be told yet: {report.about['control_users']:,} users were held out, and "
            f"{report.about['treated_users']:,} were not ({too_few()})."
        )
    gained = f"{signed(orders.total.value)} orders ({interval(orders.total)}) and {signed(net.total.value)} {currency}"
    told = f"{gained} of margin less costs ({interval(net.total)}), against the users who were held out."
    if net.effect.shown:
        return ("The touches pay: " if net.effect.value > 0 else "The touches do harm: ") + told
    return "Whether the touches pay cannot be told yet: " + told


def number(value: float) -> str:
    """Return a number with as many digits as are of use.

    >>> number(12345.6), number(123.4), number(12.34), number(0.1234), number(0)
    ('12,346', '123', '12.3', '0.12', '0')
    """
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    if size >= _WHOLE_FROM:
        return f"{value:,.0f}"
    text = f"{value:,.1f}" if size >= 10 else f"{value:,.2f}"  # noqa: PLR2004 - three digits
    return "0" if float(text) == 0 else text


def signed(value: float) -> str:
    """Return a number with its sign.

    >>> signed(3.14159), signed(-1234.5), signed(0)
    ('+3.14', '-1,234', '0')
    """
    text = number(value)
    return f"+{text}" if value > 0 and text not in {"0", "-"} else text


def interval(effect: Effect) -> str:
    """Return an interval in words."""
    return f"{signed(effect.low)} to {signed(effect.high)}"


def share(value: float) -> str:
    """Return a share as a percentage.

    >>> share(0.12345), share(0.1), share(1.5), share(0.00123)
    ('12.3%', '10%', '150%', '0.12%')
    """
    text = number(100 * value)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"


def span(weeks: float | None) -> str:
    """Return a time in words.

    >>> span(0.2), span(30.2), span(260), span(5000), span(None)
    ('by now', '31 weeks', '5.0 years', 'over 10 years', '-')
    """
    if weeks is None:
        return "-"
    if weeks < 1:
        return "by now"
    years = weeks / WEEKS_A_YEAR
    if years > _YEARS_MOST:
        return f"over {_YEARS_MOST} years"
    return f"{math.ceil(weeks)} weeks" if weeks <= _MANY_WEEKS else f"{years:.1f} years"


def save_text(report: Report) -> str:
    """Say what a save costs."""
    found, currency = report.cost_per_save, report.about["currency"]
    if report.headline["returned"].effect is None:
        return f"cannot be told: {too_few()}"
    if found is None:
        return "cannot be told: nobody seems to have been saved"
    value, low, high = found
    if math.isinf(high):
        return f"at least {number(low)} {currency}; no upper bound yet, since none may have been saved"
    return f"{number(value)} {currency} ({number(low)} to {number(high)})"


def roi_text(report: Report) -> str:
    """Say what comes back of the money, beyond it."""
    found = report.roi
    if found is None:
        return "cannot be told yet"
    value, low, high = found
    return f"{share(value)} ({share(low)} to {share(high)})"


def sms_text(report: Report) -> str:
    """Set the direct cost beside that of an SMS to all."""
    cost = report.cost
    return share(cost.direct / cost.sms_to_all) if cost.sms_to_all else "-"


def plain(value: Any) -> Any:
    """Return figures as JSON holds them: names and values; what is no number is null."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "_asdict"):
        return {name: plain(one) for name, one in value._asdict().items()}
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def told(report: Report) -> dict[str, Any]:
    """Return all of the report for programs: the north star first, the naive figure last and by its name."""
    found = plain(report)
    about = found.pop("about")
    for name in ("from", "until", "live_since"):
        about[name] = None if about[name] is None else rfc3339(about[name])
    naive, plan, still = found.pop("naive"), found.pop("plan"), found.pop("open")
    costs = found.pop("cost") | {
        "direct": plain(report.cost.direct),
        "total": plain(report.cost.total),
        "within_windows": found.pop("unit_cost"),
        "per_save": plain(report.cost_per_save),
        "roi": plain(report.roi),
    }
    return {
        "about": about,
        "north_star": {"effect": found.pop("north_star"), "months": found.pop("months")},
        **found,
        "cost": costs,
        "cannot_be_told_yet": {"change": LIFT, "of": still},
        "sample_size": plan,
        "wrong_before_and_after": naive,
    }
