"""The results in a few lines: for the terminal, and as Markdown that is kept beside the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from worker.evaluate import choice
from worker.evaluate.results import CONSTANT, MODEL, PEER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_COMPARED: Final = (("auc", "AUC"), ("auc_within_week", "within a week"), ("log_loss", "log loss"))
_TABLE: Final = (
    *_COMPARED,
    ("pr_auc", "PR AUC"),
    ("brier", "Brier"),
    ("ece", "ECE"),
    ("accuracy", "accuracy"),
    ("precision_top_1", "precision top 1%"),
    ("precision_top_10", "precision top 10%"),
    ("lift_top_10", "lift top 10%"),
)


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what there is to say of a result: against the peer, and each target that is missed."""
    figures = result["models"][MODEL]["figures"]
    verdicts = ", ".join(f"{label} {figures[figure]['verdict']}" for figure, label in _COMPARED)
    yield f"against {PEER}: {verdicts}"
    missed = [target for target, met in result["targets"].items() if not met]
    yield f"targets: {len(result['targets']) - len(missed)} of {len(result['targets'])} met"
    for target in missed:
        yield f"  not met: {target}"


def write(results: Sequence[Mapping[str, Any]], tested: Sequence[Mapping[str, Any]], command: str) -> str:
    """Return the summary of all results, the choice's test among them, as Markdown; `command` makes it anew."""
    parts = ["# Evaluation of the churn model and the choice", f"Made by `{command}`."]
    if results:
        versions = ", ".join(f"{name} {number}" for name, number in results[0]["versions"].items())
        parts += [
            (
                f"The churn model with {versions}. Intervals are 95%, from {results[0]['resamples']} resamples of the "
                f"users; better and worse are said where the interval of the difference to {PEER} leaves out 0."
            ),
            _overview(results),
            *(part for result in results for part in _section(result)),
        ]
    for test in tested:
        parts += choice.markdown(test)
    return "\n\n".join(parts) + "\n"


def _overview(results: Sequence[Mapping[str, Any]]) -> str:
    compared = " | ".join(f"{label}: {MODEL}, {PEER}" for _, label in _COMPARED)
    rows = [
        f"| | examples | lapsed | {compared} | ECE | targets |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ours, peer = (result["models"][name]["figures"] for name in (MODEL, PEER))
        cells = [
            f"{ours[figure]['value']:.3f}, {peer[figure]['value']:.3f}: {ours[figure]['verdict']}"
            for figure, _ in _COMPARED
        ]
        met = f"{sum(result['targets'].values())} of {len(result['targets'])}"
        first = [result["title"], f"{result['examples']:,}", f"{result['base_rate']:.3f}"]
        rows.append(f"| {' | '.join([*first, *cells, format(ours['ece']['value'], '.3f'), met])} |")
    return "\n".join(rows)


def _section(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {result['title']}"
    rows = [f"| | {' | '.join(label for _, label in _TABLE)} |", f"|---|{'---|' * len(_TABLE)}"]
    for name, model in result["models"].items():
        rows.append(f"| {name} | {' | '.join(_cell(model['figures'][figure]) for figure, _ in _TABLE)} |")
    yield "\n".join(rows)
    ours = result["models"][MODEL]
    at, ahead, lead = ours["at_precision"], ours["in_advance"], ours["lead_time"]
    accuracy, constant = (result["models"][name]["figures"]["accuracy"]["value"] for name in (MODEL, CONSTANT))
    reached = f"reached for {at['recall']:.1%} of the lapses with hindsight" if at["recall"] else "not reachable"
    kept = "flags nobody" if ahead["precision"] is None else f"keeps {ahead['precision']:.3f}"
    told = [
        f"- Accuracy {accuracy:.3f}, a constant's {constant:.3f}.",
        f"- Precision .92 is {reached}; a threshold chosen in advance for it {kept}.",
        f"- Lead time: {_lead(lead)}.",
        *(f"- {line.strip()[0].upper()}{line.strip()[1:]}." for line in lines(result)),
    ]
    yield "\n".join(told)
    if result["ablation"]:
        yield _ablation(result["ablation"])


def _lead(lead: Mapping[str, Any]) -> str:
    if lead["quartiles_days"] is None:
        return f"none of {lead['lapses']:,} lapses was alerted"
    low, median, high = lead["quartiles_days"]
    return (
        f"{lead['alerted']:,} of {lead['lapses']:,} lapses were alerted, {median:.0f} days ahead in the median "
        f"(quartiles {low:.0f} and {high:.0f})"
    )


def _cell(told: Mapping[str, Any]) -> str:
    low, high = told["interval"]
    return f"{told['value']:.3f} ({low:.3f} to {high:.3f})"


def _ablation(ablation: Sequence[Mapping[str, Any]]) -> str:
    rows = ["| features, learner alone | number | AUC | less that with all | log loss |", "|---|---|---|---|---|"]
    for one in ablation:
        apart = one["auc"].get("difference")
        told = f"{apart[0]:+.3f} to {apart[1]:+.3f}" if apart else ""
        auc, log_loss = one["auc"]["value"], one["log_loss"]["value"]
        rows.append(f"| {one['name']} | {one['features']} | {auc:.3f} | {told} | {log_loss:.3f} |")
    return "\n".join(rows)
