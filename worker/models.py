"""The model's snapshots, as every worker has them at hand."""

from __future__ import annotations

import structlog
from pydantic import ValidationError

from schemas.snapshots import MeasuresRecord, Snapshot, read_model
from schemas.topics import MODEL
from worker.recall.risk.scorer import Scorer, SnapshotError

log = structlog.get_logger("recall.models")


class Models:
    """All snapshots of the model, read whole by every worker and kept up to date."""

    def __init__(self) -> None:
        self.scorers: dict[tuple[int, int], Scorer | None] = {}
        """By horizon and version; None where a snapshot is refused here."""
        self.latest: dict[int, Snapshot] = {}
        """By horizon, also those that are refused: learning goes on after them."""
        self._measures: dict[tuple[int, int], MeasuresRecord] = {}
        self._last_versions: dict[int, int] = {}

    def measures(self, snapshot: Snapshot) -> MeasuresRecord | None:
        """Return the sums behind a snapshot's figures, or of another version where those are gone."""
        return self._measures.get((snapshot.horizon_days, snapshot.version % 2))

    def last_version(self, horizon_days: int) -> int:
        """Return the last version that was given to a horizon, also to a snapshot that cannot be read."""
        return self._last_versions.get(horizon_days, 0)

    def take(self, key: bytes | None, value: bytes | None, offset: int, /) -> None:
        """Keep a record; a snapshot that cannot be read holds only the partitions that adopt it.

        One that can be read and not be used, since it was learned on other features, holds none: the last good one
        stays in force.
        """
        horizon, _, version = (key or b"").decode(errors="replace").partition("/")
        if horizon.isdecimal() and version.isdecimal():
            self._last_versions[int(horizon)] = max(self._last_versions.get(int(horizon), 0), int(version))
        if value is None:
            return
        try:
            record = read_model(value)
        except ValidationError as error:
            log.warning("record of the model cannot be read", topic=MODEL, offset=offset, reason=str(error))
            return
        place = (record.horizon_days, record.version)
        if isinstance(record, MeasuresRecord):
            self._measures[record.horizon_days, record.version % 2] = record
            return
        try:
            self.scorers[place] = Scorer(record)
        except SnapshotError as error:
            self.scorers[place] = None
            log.warning("snapshot is refused: the last good one goes on", topic=MODEL, offset=offset, reason=str(error))
        latest = self.latest.get(record.horizon_days)
        if latest is None or record.version > latest.version:
            self.latest[record.horizon_days] = record
