"""The catalogue's topic, as every driver has it at hand."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from schemas.topics import CATALOG
from worker.recall.events import read_catalog
from worker.recall.policy.catalog import Catalog
from worker.stream.processor import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.recall.money import Currency

log = structlog.get_logger("recall.catalog")

OUTCOMES: Final = ("taken", "refused", "late", "forgotten")
LOGGED_MAX: Final = 100
"""Refused records that are told one by one; further ones are counted alone."""


class Products:
    """The catalogue, and what became of its records.

    `clock` says how far the partitions of this process are, ms. A record that comes in force before that is late: it
    was not there for decisions that it was meant for, and a replay may decide them otherwise.
    """

    def __init__(self, currency: Currency, clock: Callable[[], int] = lambda: 0) -> None:
        self.catalog = Catalog()
        self._counts: Counter[str] = Counter()
        self._currency = currency
        self._clock = clock

    @property
    def counts(self) -> dict[str, int]:
        """Records taken (late ones among them) and refused, and changes that went for newer ones of their product."""
        return {**{outcome: self._counts[outcome] for outcome in OUTCOMES}, "forgotten": self.catalog.forgotten}

    def take(self, key: bytes | None, value: bytes | None, offset: int, /) -> None:
        """Take a record of the topic; one that cannot be read is counted and told of, and changes nothing."""
        change = read_catalog(key, value, self._currency)
        if isinstance(change, Rejected):
            self._counts["refused"] += 1
            if self._counts["refused"] <= LOGGED_MAX:
                log.warning(
                    "record of the catalogue is refused",
                    topic=CATALOG,
                    offset=offset,
                    reason=change.reason,
                    detail=change.detail,
                )
            return
        self.catalog.put(change)
        self._counts["taken"] += 1
        self._counts["late"] += change.effective_at < self._clock()
