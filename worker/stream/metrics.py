"""What Prometheus is told of the stream; `docs/metrics.md` says what each means, and when to worry.

What a commit took is observed as it is made. All else is read off when somebody asks: nothing is counted for an event.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from worker.stream.committer import Commit
    from worker.stream.lane import Lane
    from worker.stream.watch import Watch

DURATIONS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 10, 100, 1_000, 10_000, 100_000)
SIZES_BYTES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SOON_MS = 3_600_000
TIMERS_COUNTED_MAX = 10_000
"""More timers that are due than this are told as this many: counting them must not take long."""


class _Commits(NamedTuple):
    """The histograms of a group's commits."""

    duration: Histogram
    records: Histogram
    rows: Histogram
    outputs: Histogram
    bytes: Histogram


class Metrics:
    """A registry of an app's own, and what commits are observed with."""

    def __init__(self, groups: Iterable[str]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"stream_commit_{name}", about, ["lane"], buckets=buckets, registry=registry)

        of_all = _Commits(
            histogram("duration_seconds", "From the first request of a commit to its last answer.", DURATIONS_S),
            histogram("records", "Source records whose effects a commit holds.", SIZES),
            histogram("rows", "Rows that a commit holds.", SIZES),
            histogram("outputs", "Outputs that a commit holds.", SIZES),
            histogram("bytes", "About what a commit writes.", SIZES_BYTES),
        )
        self._commits = {name: _Commits(*(each.labels(name) for each in of_all)) for name in groups}

    def committed(self, group: str, commit: Commit) -> None:
        """Note a commit of a lane of the group."""
        observed = self._commits[group]
        observed.duration.observe(commit.duration_s)
        observed.records.observe(commit.records)
        observed.rows.observe(len(commit.rows))
        observed.outputs.observe(commit.outputs)
        observed.bytes.observe(commit.bytes)


class StreamCollector:
    """Reads off, when asked, what the watch sees; to be asked in the app's loop."""

    def __init__(self, watch: Watch, lanes: Iterable[Lane], row_count: Callable[[int], int]) -> None:
        self._watch = watch
        self._row_count = row_count
        self._lanes = lanes

    def describe(self) -> Iterable[Metric]:
        """Have the registry not ask before the app runs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        state, watch = self._watch.state(), self._watch
        lag = GaugeMetricFamily(
            "stream_lag_records", "Records known to be there and not worked off.", labels=["topic", "partition"]
        )
        waits = GaugeMetricFamily(
            "stream_lane_waits", "1 while the lane waits for something that /ready names.", labels=["lane", "partition"]
        )
        still = GaugeMetricFamily(
            "stream_still_seconds", "For how long something has had work and not moved.", labels=["what"]
        )
        behind = GaugeMetricFamily(
            "stream_clock_lag_seconds", "The wall clock less the partition's clock.", labels=["partition"]
        )
        for lane in state.lanes:
            for topic, records in lane.lag.items():
                lag.add_metric([topic, str(lane.number)], records)
            waits.add_metric([lane.name, str(lane.number)], lane.held is not None)
            if lane.clock:
                behind.add_metric([str(lane.number)], time.time() - lane.clock / 1000)
        for what, seconds in list(watch.watchdog.still.items()):
            still.add_metric([what], seconds)
        yield from (lag, waits, behind, still)
        yield GaugeMetricFamily("stream_ready", "1 while /ready answers 200.", not watch.reasons_unready())
        yield GaugeMetricFamily("stream_watchdog_age_seconds", "Since the watchdog last looked.", watch.looked_s)
        yield CounterMetricFamily("stream_rebalances", "Rebalances that this process took part in.", state.rebalances)
        recovery = state.recovery
        yield GaugeMetricFamily("stream_recovery_seconds", "What the last recovery took, so far.", recovery.seconds)
        yield GaugeMetricFamily("stream_recovery_records", "Changelog records it has read.", recovery.records)
        yield GaugeMetricFamily(
            "stream_recovery_remaining_records", "Changelog records it has yet to read.", recovery.remaining
        )
        yield from self._vitals()

    def _vitals(self) -> Iterator[Metric]:
        rows = GaugeMetricFamily(
            "stream_rows", "Rows kept, attachments included; on disk an estimate.", labels=["partition"]
        )
        timers = GaugeMetricFamily("stream_timers", "Entries of the timers' heap.", labels=["partition"])
        overdue = GaugeMetricFamily(
            "stream_timers_overdue", "Timers that the clock has passed and that have not run.", labels=["partition"]
        )
        soon = GaugeMetricFamily("stream_timers_due_soon", "Timers due within an hour.", labels=["partition"])
        counts: dict[int, Mapping[str, int]] = {}
        for lane in self._lanes:
            vitals = None if lane.work is None else lane.work.vitals()
            if vitals is None:
                continue
            partition = [str(lane.number)]
            counts[lane.number] = vitals.counts
            rows.add_metric(partition, self._row_count(lane.number))
            timers.add_metric(partition, len(vitals.timers))
            overdue.add_metric(partition, vitals.timers.due(vitals.clock, TIMERS_COUNTED_MAX))
            soon.add_metric(partition, vitals.timers.due(vitals.clock + SOON_MS, TIMERS_COUNTED_MAX))
        yield from (rows, timers, overdue, soon)
        yield counted("stream_dead_letters", "Records, timers and directives set aside.", counts, "dead.", "reason")
        yield counted("stream_ignored_records", "Records that mean nothing here.", counts, "ignored.", "reason")


def counted(
    name: str, about: str, counts: Mapping[int, Mapping[str, int]], prefix: str, label: str
) -> CounterMetricFamily:
    """Return a counter of what partitions counted under `prefix`; what follows the prefix is the label.

    They are kept in the partition record: they go on where they were after a restart, and move with their partition.
    """
    family = CounterMetricFamily(name, about, labels=["partition", label])
    for partition, of_one in counts.items():
        for key, n in of_one.items():
            if key.startswith(prefix):
                family.add_metric([str(partition), key.removeprefix(prefix)], n)
    return family
