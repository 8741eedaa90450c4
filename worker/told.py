"""What is known of one user, laid out for a terminal of 80 columns."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

from worker.console import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.table import Table

NAMES_SHOWN: Final = 3
_WIDTH: Final = 65
"""Of what stands beside a label."""
_HANGING: Final = " " * 18
"""Below a time."""
_MINUTES: Final = len("2026-01-05T10:00")


def explanation(told: Mapping[str, Any]) -> Table:
    """Lay out what `recall.explanation.explain` says."""
    return facts(_rows(told))


def _rows(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "user", f"{told['user_id']}, partition {told['partition']}, as of {_time(told['as_of'])} UTC"
    if told["erased"]:
        yield "erased", "nothing is kept of him but this mark"
        return
    yield from _value(told["value"])
    yield "risk", _risk(told["risk"], told["value"]["alive"])
    if told["potential"] is not None:
        potential = told["potential"]
        yield "potential", f"{potential['level']}, since {_time(potential['since'])}: {potential['reason']}"
    yield from _below("tiers", map(_move, told["moves"]))
    yield from _below("reach", _reach(told["reach"]))
    yield from _below("touches", map(_touch, told["touches"]))
    yield from _below("episode", _episode(told["episode"]))
    yield from _below("decided", map(_decision, told["decisions"] or told["decided"]))
    if told["resting"]:
        yield "next", "nothing before he does something: a timer of his raised, see the dead letters"
    else:
        yield from _below("next", _next(told["next"]))


def _below(label: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield lines, the first with the label."""
    yield label, "\n".join(lines) or "none"


def _value(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    scores, rfm, currency = value["scores"], value["rfm"], value["currency"]
    since = f" since {_time(value['since'])}" if value["since"] else ""
    scored = "" if scores is None else f"; R {scores['r']}, F {scores['f']}, M {scores['m']} of 5"
    yield "tier", f"{value['tier']}{since}{', core' if value['core'] else ''}{scored}"
    if rfm is None:
        yield "worth", "no order yet"
    else:
        year = "1 order" if rfm["f_orders"] == 1 else f"{rfm['f_orders']} orders"
        total = f"{year} and {rfm['m']} {currency} net within a year, {value['orders']} in all"
        yield "worth", f"{total}; {value['aov']} an order; the last one {rfm['r_days']} days ago"
    if value["ltv"] is not None:
        ltv = value["ltv"]
        soon, year = f"{ltv['margin_90d']} +- {ltv['error_90d']}", f"{ltv['margin_365d']} +- {ltv['error_365d']}"
        yield "to come", f"margin of {soon} in 90 days, {year} in a year"
    yield "active", f"last {_time(value['active_at'])}" if value["active_at"] else "never"
    liked = [*value["categories"][:NAMES_SHOWN], *value["items"][:NAMES_SHOWN]]
    if liked:
        yield "likes", ", ".join(liked)
    if value["points"] is not None:
        expiry = f", until {_time(value['points_expire_at'])}" if value["points_expire_at"] else ""
        yield "points", f"{value['points']:,}{expiry}"


def _risk(risk: Mapping[str, Any] | None, alive: float | None) -> str:
    if risk is None:
        return "not known: no model is in force, or the user does not want to be scored"
    level = f", {risk['level']}" if risk["level"] else ""
    there = "" if alive is None else f"; still there: {alive:.2f}"
    head = (
        f"{risk['probability']:.2f} of no order in {risk['horizon_days']} days{level} (model {risk['model_version']})"
    )
    return "\n".join([head + there, *(f"- {factor['text']}" for factor in risk["top_factors"])])


def _move(move: Mapping[str, Any]) -> str:
    return _at(move["at"], f"{move['from_tier']} -> {move['to_tier']} ({move['cause']})")


def _reach(reach: Mapping[str, Any]) -> Iterator[str]:
    if reach["forbidden"]:
        yield f"by nothing: {reach['forbidden']}"
    elif reach["capped"]:
        yield "by nothing now: cap"
    yield ", ".join(f"{channel} {told}" for channel, told in reach["channels"].items())
    if reach["timezone"]:
        yield f"quiet hours of {reach['timezone']}"


def _touch(touch: Mapping[str, Any]) -> str:
    given = ", with an incentive" if touch["with_incentive"] else ""
    heard = ", ".join(touch["heard"]) or "nothing heard"
    return _at(touch["at"], f"{touch['play'] or 'touch'} by {touch['channel']}{given}: {heard}")


def _episode(episode: Mapping[str, Any] | None) -> Iterator[str]:
    if episode is None:
        return
    yield _at(episode["opened_at"], episode["text"] or episode["trigger"])
    arm = "held out: a shadow" if episode["arm"] == "control" else "treated"
    touches = "1 touch" if episode["touches"] == 1 else f"{episode['touches']} touches"
    yield f"{arm}; play {episode['play'] or 'none'}, {touches}"
    if episode["proposed_at"]:
        yield f"waits for an approval since {_time(episode['proposed_at'])}"
    if episode["ordered_at"]:
        yield f"ordered {_time(episode['ordered_at'])}: watched until the track is complete"
    if episode["ends_at"]:
        yield f"ends {_time(episode['ends_at'])}"


def _decision(decision: Mapping[str, Any]) -> str:
    outcome, reason = decision["outcome"], decision["reason"]
    what = outcome if outcome == reason else f"{outcome}: {reason}"
    play = decision["play"] or decision.get("shadow_play")
    by = f" by {decision['channel']}" if decision["channel"] else ""
    lines = [_at(decision["at"], f"{what}{f', {play}{by}' if play else ''}")]
    if decision.get("text"):
        lines.append(_below_time(decision["text"]))
    return "\n".join(lines)


def _next(ahead: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Say what would come if nothing else happened."""
    for decision in ahead:
        yield _decision(decision)
        command = decision["command"]
        if command is not None:
            cost, until = command["cost"], _time(command["delivery"]["not_after"])
            yield _below_time(f"costs {cost['direct']} direct, {cost['hidden']} hidden; not after {until}")


def _at(at: str, text: str) -> str:
    return fill(f"{_time(at)}  {text}", _WIDTH, subsequent_indent=_HANGING)


def _below_time(text: str) -> str:
    return fill(text, _WIDTH, initial_indent=_HANGING, subsequent_indent=_HANGING)


def _time(text: str) -> str:
    return text[:_MINUTES].replace("T", " ")
