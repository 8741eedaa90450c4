"""What the newest snapshot of each horizon says of itself, for an operator: `recall model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from rich.console import Group
from rich.table import Table

from schemas.topics import MODEL
from worker.console import PREDICTORS, facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from confluent_kafka import Message
    from rich.console import RenderableType

    from worker.settings import Settings

TIMEOUT_S: Final = 30.0
NONE_YET: Final = (
    "no snapshot yet: the first comes a few weeks after the first orders, once enough\n"
    "histories are known, or labels are due (a horizon and a day after their day)"
)
_SIGNALS: Final = {
    "base rate": "base rate",
    "calibration": "mean prediction less base rate",
    "log loss": "log loss less the constant's",
}
_FIGURES: Final = (
    ("AUC", "auc"),
    ("AUC within a week", "auc_within_week"),
    ("PR AUC", "pr_auc"),
    ("log loss *", "log_loss"),
    ("Brier score *", "brier"),
    ("calibration error *", "ece"),
    ("accuracy", "accuracy"),
)
_OUT_OF_REACH: Final = "out of reach"
_BAR_COLUMNS: Final = 36


class ModelError(ValueError):
    """The snapshots cannot be read; the message says why."""


def from_topic(settings: Settings) -> dict[int, dict[str, Any]]:
    """Return the newest snapshot of each horizon on the broker, read to the end that the topic has now."""
    return _newest(_values(settings))


def from_file(path: Path) -> dict[int, dict[str, Any]]:
    """Return the newest snapshot of each horizon in a file of lines, as `recall replay --out` writes it."""
    return _newest(_lines(path))


def shown(snapshot: Mapping[str, Any]) -> RenderableType:
    """Lay out a snapshot and its figures within 80 columns."""
    figures, horizon = snapshot["metrics"], snapshot["horizon_days"]
    head = [
        ("horizon", f"{horizon} days: a prediction is the chance of no order within them"),
        ("snapshot", f"version {snapshot['version']}, of label day {snapshot['created_label_day']}"),
        ("learned", f"{_some(snapshot['learned'], 'example')}; {_blend(snapshot)}"),
    ]
    before = figures["unpredicted"]
    unpredicted = [("", f"beside {_some(before, 'label')} of days before the first prediction")] if before else []
    if not figures["n"]:
        waiting = "nothing yet: the first predictions wait for what comes of them"
        return facts([*head, ("measured", waiting), *unpredicted])
    head += [
        ("measured", f"{_some(figures['n'], 'prediction')} of label days {figures['since']} to {figures['until']}"),
        *unpredicted,
        ("base rate", f"{figures['base_rate']:.1%} ordered nothing"),
        ("an alert", "not yet: too few predictions" if snapshot["alert_above"] is None else _alert(snapshot)),
        ("lead time", _lead(figures["lead_days"])),
        ("drift", _drift(figures["drift"])),
    ]
    return Group(
        facts(head),
        "",
        _beside_each_other(figures["predictors"]),
        "* the lower the better; of all others, the higher",
        "",
        _reliability(figures["reliability"]),
        "x: the mean prediction, o: the share that ordered nothing, 8: both",
        "",
        _parts(figures),
    )


# -- reading -----------------------------------------------------------------------------------------------------------


_NEEDED: Final = frozenset(
    {"version", "created_label_day", "learned", "horizon_days", "learner_share", "alert_above", "metrics"}
)


def _newest(records: Iterable[tuple[str, Any]]) -> dict[int, dict[str, Any]]:
    newest: dict[int, dict[str, Any]] = {}
    for place, record in records:
        if not isinstance(record, dict) or "kind" not in record:
            raise ModelError(f"{place}: kind is missing: allowed are the records of {MODEL}")
        if record["kind"] != "snapshot":
            continue
        missing = _NEEDED - record.keys()
        if missing:
            raise ModelError(f"{place}: a snapshot without {', '.join(sorted(missing))}: it is of another version")
        before = newest.get(record["horizon_days"])
        if before is None or record["version"] > before["version"]:
            newest[record["horizon_days"]] = record
    return newest


def _read(place: str, raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError as error:
        raise ModelError(f"{place}: is no JSON: {error}") from error


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}:{number}"
            written = _read(place, line)
            if not isinstance(written, dict) or "value" not in written:
                raise ModelError(f"{place}: allowed are lines with a value, as `recall replay --out` writes them")
            yield place, written["value"]


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    consumer = Consumer(
        settings.connection().librdkafka()
        | {
            "group.id": settings.app_id,  # no member of it, for it never subscribes
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        start, _ = consumer.get_watermark_offsets(TopicPartition(MODEL, 0), timeout=TIMEOUT_S)
        consumer.assign([TopicPartition(MODEL, 0, start)])
        while (message := _next(consumer)) is not None:
            value = message.value()
            if value is not None:
                place = f"{MODEL}[0] at {message.offset()}"
                yield place, _read(place, value)
    except KafkaException as error:
        raise ModelError(f"topic {MODEL}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _next(consumer: Consumer) -> Message | None:
    """Return the next message; None at the end."""
    message = consumer.poll(TIMEOUT_S)
    if message is None:
        raise ModelError(f"topic {MODEL}: nothing came within {TIMEOUT_S:.0f} s")
    error = message.error()
    if error is None:
        return message
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's only name for it
        return None
    raise KafkaException(error)


# -- showing -----------------------------------------------------------------------------------------------------------


def _some(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _blend(snapshot: Mapping[str, Any]) -> str:
    share = snapshot["learner_share"]
    if not share:
        return "too few yet, so BG/NBD alone predicts"
    return "the learner alone predicts" if share == 1 else f"{share:.0%} learner, {1 - share:.0%} BG/NBD"


def _alert(snapshot: Mapping[str, Any]) -> str:
    return f"a prediction above {snapshot['alert_above']:.3f}, as a tenth of the recent ones are"


def _lead(lead: Mapping[str, int] | None) -> str:
    if lead is None:
        return "not known: told of the horizon that is acted on alone,\nonce someone lapses after an alert"
    return (
        f"from the first alert to the lapse {_some(lead['median'], 'day')} (median),\n"
        f"half of them {lead['lower']} to {lead['upper']}; of {_some(lead['n'], 'lapse')}"
    )


def _drift(alarms: Iterable[Mapping[str, str]]) -> str:
    told = [f"{alarm['label_day']}  {_SIGNALS[alarm['signal']]} went {alarm['direction']}" for alarm in alarms]
    return "\n".join(told) or "no alarm in the time measured"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def _number(figure: float | None, form: str = ".4f") -> str:
    return "-" if figure is None else format(figure, form)


def _beside_each_other(predictors: Mapping[str, Mapping[str, Any]]) -> Table:
    """Set the model beside what it has to beat."""
    there = [name for name in PREDICTORS if name in predictors]
    table = _table("", *(PREDICTORS[name] for name in there))
    for column in table.columns[1:]:
        column.min_width = len(_OUT_OF_REACH)

    def row(label: str, *cells: str) -> None:
        table.add_row(label, *cells)

    for label, name in _FIGURES:
        row(label, *(_number(predictors[one][name]) for one in there))
    for label, name in (("top 1%", "top_1"), ("top 10%", "top_10")):
        row(f"{label}: precision", *(_number(predictors[one][name]["precision"], ".1%") for one in there))
        row("  lift", *(_number(predictors[one][name]["lift"], ".2f") for one in there))
    points = [predictors[one]["at_92"] for one in there]
    row("92% precision: recall", *(_OUT_OF_REACH if point is None else f"{point['recall']:.1%}" for point in points))
    if any(points):
        row("  flagged", *("" if point is None else f"{point['flagged']:.1%}" for point in points))
        row("  threshold", *("" if point is None else f"{point['threshold']:.3f}" for point in points))
    return table


def _reliability(bins: Iterable[tuple[float, float, float]]) -> Table:
    """Set what was predicted beside what came."""
    table = _table("predicted", "ordered nothing", "of all", "")
    table.columns[0].justify = "right"
    table.columns[-1].justify = "left"
    for predicted, came, share in bins:
        bar = ["."] * (_BAR_COLUMNS + 1)
        bar[round(came * _BAR_COLUMNS)] = "o"
        bar[round(predicted * _BAR_COLUMNS)] = "x" if bar[round(predicted * _BAR_COLUMNS)] == "." else "8"
        table.add_row(f"{predicted:.1%}", f"{came:.1%}", f"{share:.1%}", "".join(bar))
    return table


def _parts(figures: Mapping[str, Any]) -> Table:
    """Set the parts of the customers below each other."""
    table = _table("tier", "predictions", "base rate", "predicted", "AUC", "log loss", "cal. error")
    parts = dict(figures["tiers"])
    if figures["holdout"] is not None:
        parts["held out"] = figures["holdout"]
    for name, part in parts.items():
        table.add_row(
            name,
            f"{part['n']:,}",
            f"{part['base_rate']:.1%}",
            f"{part['mean']:.1%}",
            *(_number(part[figure]) for figure in ("auc", "log_loss", "ece")),
        )
    return table
