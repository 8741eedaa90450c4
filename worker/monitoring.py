"""What Prometheus is told of the customers, beside what it is told of the stream; see `docs/metrics.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from worker.stream.metrics import counted
from worker.stream.partition import Partition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from worker.recall.profile import Profile
    from worker.recall.shop import Shared
    from worker.stream.lane import Lane


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
        yield counted("recall_tier_changes", "Moves from tier to tier.", counts, "tier.", "move")
        yield counted("recall_episodes_ended", "Episodes ended.", counts, "episode.", "reason")
        yield counted("recall_feedback", "What became of commands.", counts, "feedback.", "status")
        model = GaugeMetricFamily(
            "recall_model_version", "Model in force; 0 before the first.", labels=["partition", "horizon_days"]
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
