"""What Prometheus is told of the customers, beside what it is told of the stream; see `docs/metrics.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from worker.recall.days import DAY_MS
from worker.recall.policy import budget, subsidy
from worker.recall.risk.drift import SIGNALS
from worker.recall.risk.trainer import REASONS
from worker.stream.metrics import counted
from worker.stream.partition import Partition
from worker.training import TrainerWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from schemas.snapshots import Snapshot
    from worker.catalog import Products
    from worker.recall.days import Days
    from worker.recall.profile import Profile
    from worker.recall.shop import Shared
    from worker.recall.step import Customers
    from worker.stream.lane import Lane

MICROS: Final = 1_000_000
"""In a unit of the shop's currency."""


class CustomersCollector:
    """Reads off, when asked, what the partitions of this process have counted, and what is in force there."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._lanes = lanes

    def describe(self) -> Iterable[Metric]:
        """Have the registry not ask before the app runs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        partitions: dict[int, Partition[Profile, Shared]] = {
            lane.number: lane.work for lane in self._lanes if isinstance(lane.work, Partition)
        }
        counts = {number: partition.record.counts for number, partition in partitions.items()}
        yield counted("recall_commands", "Commands sent.", counts, "command.", "play")
        yield _decisions(counts)
        yield _cancellations(counts)
        yield _model_events(counts)
        yield counted("recall_tier_changes", "Moves from tier to tier.", counts, "tier.", "move")
        yield counted("recall_episodes_ended", "Episodes ended.", counts, "episode.", "reason")
        yield counted("recall_feedback", "What became of commands.", counts, "feedback.", "status")
        model = GaugeMetricFamily(
            "recall_model_version", "Model in force; none before the first.", labels=["partition", "horizon_days"]
        )
        playbook = GaugeMetricFamily("recall_playbook", "1 for the one in force.", labels=["partition", "version"])
        silent = GaugeMetricFamily(
            "recall_heartbeat_age_seconds",
            "The clock less the source's last heartbeat.",
            labels=["partition", "source"],
        )
        for number, partition in partitions.items():
            shared = partition.shared
            for horizon_days, version in shared.snapshots.items():
                model.add_metric([str(number), str(horizon_days)], version)
            playbook.add_metric([str(number), shared.playbook], 1)
            for name, source in shared.sources.items():
                silent.add_metric([str(number), name], (partition.clock - source.at) / 1000)
        yield from (model, playbook, silent)


def _decisions(counts: Mapping[int, Mapping[str, int]]) -> CounterMetricFamily:
    family = counted("recall_decisions", "Decisions, by reason.", counts, "suppressed.", "reason")
    for number, of_one in counts.items():
        sent = sum(n for key, n in of_one.items() if key.startswith("command."))
        family.add_metric([str(number), "sent"], sent)
    return family


def _cancellations(counts: Mapping[int, Mapping[str, int]]) -> CounterMetricFamily:
    family = CounterMetricFamily("recall_cancellations", "Commands called back.", labels=["partition"])
    for number, of_one in counts.items():
        family.add_metric([str(number)], of_one.get("cancelled", 0))
    return family


_MODEL_EVENTS: Final = (
    "adopted snapshot",
    "refused snapshot",
    "snapshot of another horizon",
    "example lost",
    "history unknown",
)


def _model_events(counts: Mapping[int, Mapping[str, int]]) -> CounterMetricFamily:
    family = CounterMetricFamily(
        "recall_model_events", "What became of snapshots and examples.", labels=["partition", "event"]
    )
    for number, of_one in counts.items():
        for event in _MODEL_EVENTS:
            family.add_metric([str(number), event], of_one.get(event, 0))
    return family


class CatalogCollector:
    """Reads off, when asked, what this process has read of the catalogue."""

    def __init__(self, products: Products) -> None:
        self._products = products

    def describe(self) -> Iterable[Metric]:
        """Have the registry not ask before the app runs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        records = CounterMetricFamily("recall_catalog_records", "Records of the catalogue.", labels=["outcome"])
        for outcome, n in self._products.counts.items():
            records.add_metric([outcome], n)
        yield records
        yield GaugeMetricFamily("recall_catalog_products", "Products known.", value=len(self._products.catalog))


class PolicyCollector:
    """Reads off, when asked, what the partitions of this process have granted and spent, and what raises an alarm.

    An alarm is no reason not to be ready: the worker does what it should, and people have to look.
    """

    def __init__(self, lanes: Iterable[Lane], customers: Customers) -> None:
        self._lanes = lanes
        self._customers = customers

    def describe(self) -> Iterable[Metric]:
        """Have the registry not ask before the app runs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        partitions: dict[int, Partition[Profile, Shared]] = {
            lane.number: lane.work for lane in self._lanes if isinstance(lane.work, Partition)
        }
        counts = {number: partition.record.counts for number, partition in partitions.items()}
        yield _ledger(counts)
        yield counted("recall_held", "Decisions put off.", counts, "held.", "reason")
        yield _split("recall_outcomes", "Episodes with a play that ended.", counts, "ended.", ("arm", "play", "reason"))
        yield counted("recall_proposals", "Touches that waited for an approval.", counts, "proposed.", "play")
        gauges = _PolicyGauges()
        for number, partition in partitions.items():
            gauges.add(str(number), partition.shared, partition.clock, self._customers)
        yield from gauges.families


class _PolicyGauges:
    """What a partition's shared state says at its clock."""

    def __init__(self) -> None:
        granted = ["partition", "budget", "period"]
        self._granted = GaugeMetricFamily("recall_budget_granted", "Of a day, or a campaign.", labels=granted)
        self._spent = GaugeMetricFamily("recall_budget_spent", "Of what is granted.", labels=granted)
        self._share = GaugeMetricFamily(
            "recall_subsidised_share", "Of four weeks' commands, those with an incentive.", labels=["partition"]
        )
        self._climbs = GaugeMetricFamily("recall_subsidised_alarm", "1 while it climbs.", labels=["partition"])
        self._people = GaugeMetricFamily("recall_people_used", "Touches by people today.", labels=["partition"])
        self._capacity = GaugeMetricFamily("recall_people_capacity", "As many there may be.", labels=["partition"])
        self._unheard = GaugeMetricFamily(
            "recall_unheard_touches", "In a row without any feedback.", labels=["partition"]
        )
        self._missing = GaugeMetricFamily(
            "recall_feedback_alarm", "1 while so many that nothing escalates.", labels=["partition"]
        )
        self._canary = GaugeMetricFamily(
            "recall_canary_share", "Of users for whom it is in force.", labels=["partition", "version"]
        )
        self._approved = GaugeMetricFamily("recall_approved", "1 while approved.", labels=["partition", "play"])
        self._stopped = GaugeMetricFamily("recall_stopped", "1 while no command leaves.", labels=["partition"])

    @property
    def families(self) -> Iterator[Metric]:
        yield from (self._granted, self._spent, self._share, self._climbs, self._people, self._capacity)
        yield from (self._unheard, self._missing, self._canary, self._approved, self._stopped)

    def add(self, number: str, shared: Shared, clock: int, customers: Customers) -> None:
        days = customers.shop.days
        playbook = customers.in_force(replace(shared, canary=None), b"").playbook
        day = days.of(clock)
        for name, granted in shared.budgets.items():
            now = granted.on(day)
            labels = [number, name, granted.period]
            self._granted.add_metric(labels, 0 if granted.over(clock) else now.amount / MICROS)
            self._spent.add_metric(labels, now.spent / MICROS)
        week = days.week(day)
        sent, given = subsidy.share_of(shared.subsidised, week)
        self._share.add_metric([number], given / sent if sent else 0)
        self._climbs.add_metric([number], subsidy.climbs(shared.subsidised, week, playbook))
        used_on, used = shared.human
        self._people.add_metric([number], used if used_on == day else 0)
        capacity = budget.capacity(
            playbook.ladder.human_per_day, partition=int(number), partitions=customers.shop.partitions, day=day
        )
        self._capacity.add_metric([number], capacity)
        self._unheard.add_metric([number], shared.unheard)
        self._missing.add_metric([number], shared.unheard >= playbook.ladder.alarm_after)
        if shared.canary is not None:
            version, share = shared.canary
            self._canary.add_metric([number, version], share)
        for play, until in shared.approved.items():
            self._approved.add_metric([number, play], not until or clock < until)
        self._stopped.add_metric([number], shared.stopped)


def _ledger(counts: Mapping[int, Mapping[str, int]]) -> CounterMetricFamily:
    """Return what touches have cost, in the shop's currency: as expected when they were sent, and as told since."""
    told = "What touches cost, in the shop's currency."
    return _split("recall_cost", told, counts, "ledger.", ("kind", "play"), unit=MICROS)


def _split(
    name: str,
    about: str,
    counts: Mapping[int, Mapping[str, int]],
    prefix: str,
    labels: tuple[str, ...],
    unit: int = 1,
) -> CounterMetricFamily:
    """Return a counter with several labels, which follow the prefix with dots between them."""
    family = CounterMetricFamily(name, about, labels=["partition", *labels])
    for number, of_one in counts.items():
        for key, n in of_one.items():
            if key.startswith(prefix):
                family.add_metric([str(number), *key.removeprefix(prefix).split(".", len(labels) - 1)], n / unit)
    return family


class TrainingCollector:
    """Reads off, when asked, what the trainers of this process left out; without them it tells nothing."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._lanes = lanes

    def describe(self) -> Iterable[Metric]:
        """Have the registry not ask before the app runs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "recall_training_left_out", "What was not learned from.", labels=["horizon_days", "reason"]
        )
        for lane in self._lanes:
            if isinstance(lane.work, TrainerWork):
                for trainer in lane.work.trainers:
                    for reason in REASONS:
                        family.add_metric([str(trainer.horizon_days), reason], trainer.counts[reason])
        yield family


_FIGURES: Final = {
    "auc": "Area under the ROC curve, pooled.",
    "auc_within_week": "The same, of those scored on one day.",
    "pr_auc": "Mean precision over the recall.",
    "log_loss": "Log loss.",
    "brier": "Brier score.",
    "ece": "Calibration error, 15 bins of equal weight.",
    "accuracy": "Share of predictions on the right side of one half.",
}


class ModelCollector:
    """Tells the figures of the newest snapshots; the same in every process that has read them."""

    def __init__(self, latest: Callable[[], Iterable[Snapshot]], lanes: Iterable[Lane], days: Days) -> None:
        self._latest = latest
        self._lanes = lanes
        self._days = days

    def describe(self) -> Iterable[Metric]:
        """Have the registry not ask before the app runs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshots = {str(snapshot.horizon_days): snapshot for snapshot in self._latest()}
        age = _gauge("snapshot_age_days", "The clock less the newest snapshot's label day.", "horizon_days")
        clock = max((lane.work.clock for lane in self._lanes if isinstance(lane.work, Partition)), default=None)
        for horizon, snapshot in snapshots.items():
            if clock is not None:
                made = self._days.start(self._days.number(snapshot.created_label_day))
                age.add_metric([horizon], (clock - made) / DAY_MS)
        yield age
        figures: dict[str, Any] = {horizon: snapshot.metrics for horizon, snapshot in snapshots.items()}
        yield from _measured({horizon: told for horizon, told in figures.items() if told.get("predictors")})


def _gauge(name: str, told: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"recall_model_{name}", told, labels=labels)


def _measured(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Yield what is known of predictions whose outcomes are; by horizon."""
    by_predictor = {name: _gauge(name, told, "horizon_days", "predictor") for name, told in _FIGURES.items()}
    top = _gauge("top_precision", "Share without an order of the highest.", "horizon_days", "predictor", "share")
    point = _gauge("recall_at_92", "Recall at a precision of .92; 0: out of reach.", "horizon_days", "predictor")
    predictions = _gauge("predictions", "Predictions that were measured.", "horizon_days")
    base_rate = _gauge("base_rate", "Share without an order within the horizon.", "horizon_days")
    lead = _gauge("lead_days", "From the first alert to the lapse.", "horizon_days", "quantile")
    alarms = _gauge("drift_alarms", "Alarms in the time measured.", "horizon_days", "signal")
    for horizon, told in figures.items():
        predictions.add_metric([horizon], told["n"])
        base_rate.add_metric([horizon], told["base_rate"])
        for predictor, measured in told["predictors"].items():
            for name, gauge in by_predictor.items():
                if measured[name] is not None:
                    gauge.add_metric([horizon, predictor], measured[name])
            for share, name in (("0.01", "top_1"), ("0.1", "top_10")):
                top.add_metric([horizon, predictor, share], measured[name]["precision"])
            point.add_metric([horizon, predictor], (measured["at_92"] or {"recall": 0})["recall"])
        for quantile, name in (("0.25", "lower"), ("0.5", "median"), ("0.75", "upper")):
            if told["lead_days"] is not None:
                lead.add_metric([horizon, quantile], told["lead_days"][name])
        for signal in SIGNALS:
            alarms.add_metric([horizon, signal], sum(alarm["signal"] == signal for alarm in told["drift"]))
    yield from (*by_predictor.values(), top, point, predictions, base_rate, lead, alarms)
