"""The trainers, as the work of a lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.topics import TRAINING
from worker.stream.partition import Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.recall.risk.trainer import Trainer
    from worker.stream.entries import SourceRecord
    from worker.stream.processor import Output


class TrainerWork:
    """`lane.Work`, for one trainer or several: its state is the last snapshots and the records after them."""

    held: str | None = None

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = trainers
        self._records: list[SourceRecord] = []
        self._units: Iterator[Unit] = iter(())
        """Of the records in hand."""
        self._start = min(trainer.resume_offset for trainer in trainers)

    def feed(self, topic: str, records: Iterable[SourceRecord]) -> None:  # noqa: ARG002 - of the protocol
        self._records.extend(records)

    def buffered(self, topic: str) -> int:  # noqa: ARG002 - of the protocol
        return len(self._records)

    def expect(self, topic: str, *, more: bool) -> None:
        """Nothing to wait for: there is one topic."""

    def vitals(self) -> None:
        """Nothing to show: no clock, no rows."""

    def claim(self, partitions: Mapping[str, int], topic_ids: Mapping[str, str]) -> None:
        """Nothing to refuse: no state but what the topics hold."""

    def start_offset(self, topic: str) -> int | None:  # noqa: ARG002 - of the protocol
        return self._start or None

    def advance(self) -> Unit | None:
        unit = next(self._units, None)
        if unit is None and self._records:
            records, self._records = self._records, []
            self._units = self._worked_off(records)
            unit = next(self._units)
        return unit

    def _worked_off(self, records: Sequence[SourceRecord]) -> Iterator[Unit]:
        """Yield units until all is learned; the place read up to moves with the last one."""
        outputs: list[Output] = []
        for record in records:
            for trainer in self.trainers:
                for output in trainer.steps(record.offset, record.value or b""):
                    if output is not None:
                        outputs.append(output)
                        continue
                    yield Unit({}, outputs, {TRAINING: records[0].offset}, 0, b"")
                    outputs = []
        yield Unit({}, outputs, {TRAINING: records[-1].offset + 1}, len(records), b"")
