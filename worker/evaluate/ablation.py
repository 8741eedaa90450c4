"""What each group of features carries: the learner with one group alone, and with all others.

A feature that is hidden is 0 for everyone; the learner's scaler gives what never varies no say. The products
of discount and silence are of the group discount: there a silence is still seen where rhythm or visits are hidden.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from worker.evaluate import peers
from worker.evaluate.figures import Interval, compare
from worker.recall.risk.features import NAMES
from worker.recall.risk.model import AVERAGED_HORIZONS
from worker.recall.risk.vectorised import VectorisedModel
from worker.recall.windows import CHANNELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.evaluate.examples import Examples
    from worker.evaluate.figures import Floats, Ints

ALL: Final = "all"
FIGURES: Final = ("auc", "log_loss")
_OF_CHANNEL: Final = {
    "session": "browsing",
    "view": "browsing",
    "new_arrival_view": "browsing",
    "search": "browsing",
    "wishlist": "browsing",
    "cart_add": "carts",
    "cart_remove": "carts",
    "checkout": "carts",
    "check_in": "visits",
    "sign_in": "visits",
    "order": "orders",
    "refund": "orders",
    "message_click": "contact",
}
_CHANNEL: Final = re.compile(rf"({'|'.join(sorted(CHANNELS, key=len, reverse=True))})_(\d+d|trend|recency)")
_GROUPS: Final = {
    "rhythm": re.compile(r"(active|order)_(days|lateness|recency_days|gap_\w+|gaps_since|overdue)"),
    "money": re.compile(r"(orders|net_revenue|order_value|refund_share)_\d+w"),
    "discount": re.compile(r"discount_share|discounted_\w+"),
    "breadth": re.compile(r"products(_\w+)?"),
    "contact": re.compile(r"touch(es)?_\w+"),
    "standing": re.compile(r"tenure|tier_\w+"),
}


class Ablated(NamedTuple):
    """Figures with some of the features, and the difference to those with all."""

    name: str
    """`all`, `only GROUP` or `without GROUP`."""
    features: int
    figures: dict[str, float]
    differences: dict[str, Interval]


def group_of(name: str) -> str:
    """Return the group of a feature.

    >>> group_of("new_arrival_view_30d"), group_of("order_30d"), group_of("order_gap_mean")
    ('browsing', 'orders', 'rhythm')
    """
    if channel := _CHANNEL.fullmatch(name):
        return _OF_CHANNEL[channel[1]]
    for group, pattern in _GROUPS.items():
        if pattern.fullmatch(name):
            return group
    raise ValueError(f"feature {name}: it belongs to no group; allowed are {', '.join(_GROUPS)} and those of channels")


def ablate(examples: Examples, horizon_days: int, counted: Ints, weights: list[Floats]) -> list[Ablated]:
    """Learn with parts of the features; groups that never vary in the log are left out."""
    varies = examples.seen.any(axis=0) & (examples.seen != examples.seen[0]).any(axis=0)
    group = np.array([group_of(name) for name in NAMES])
    parts = {ALL: varies}
    for name in dict.fromkeys(group[varies].tolist()):
        parts[f"only {name}"] = varies & (group == name)
        parts[f"without {name}"] = varies & (group != name)
    predicted = {name: learn(examples, horizon_days, visible)[counted] for name, visible in parts.items()}
    y = examples.labels(horizon_days)[counted]
    reports = compare(predicted, y, examples.t[counted], weights, ALL)
    return [
        Ablated(
            name,
            int(parts[name].sum()),
            {figure: report.figures[figure] for figure in FIGURES},
            {figure: report.differences[figure] for figure in FIGURES if report.differences},
        )
        for name, report in reports.items()
    ]


def learn(examples: Examples, horizon_days: int, visible: NDArray[np.bool_]) -> Floats:
    """Return what the learner alone predicts each week, with some of the features."""
    x = np.where(visible, peers.plain(examples), 0.0)
    y = examples.labels(horizon_days)
    release = sorted(range(len(y)), key=lambda i: (examples.t[i], examples.ids[i]))
    model, learned = VectorisedModel(), 0
    reach_days = AVERAGED_HORIZONS * horizon_days
    predicted = np.full(len(y), np.nan)
    for t, week in examples.weeks():
        while learned < len(release) and examples.t[release[learned]] + horizon_days <= t:
            i = release[learned]
            model.learn(x[i], int(y[i]), 1.0)
            learned += 1
        model.settle(int(t), reach_days)
        if learned >= peers.LABELS_MIN:
            predicted[week] = [model.predict(x[i]) for i in week]
    return predicted
