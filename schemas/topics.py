"""The one registry of topics: name, key, what lies on it, partitions, how long it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from schemas.catalog import CatalogRecord
from schemas.commands import Cancellation, Command
from schemas.control import Control
from schemas.dead_letters import DeadLetter, SentBack
from schemas.decisions import Decision
from schemas.events import CartEvent, ClickstreamEvent, OrderEvent
from schemas.feedback import FeedbackRecord
from schemas.profiles import ProfileRecord
from schemas.snapshots import MeasuresRecord, Snapshot
from schemas.tiers import TierChange
from schemas.training import Training

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, and what may lie on it."""

    name: str
    key: Literal["user", "product", "version", "partition", "none"]
    """`partition`: no key, written to a partition by number."""
    models: tuple[Any, ...]
    partitions: Literal["source", "one"]
    """`source`: as many as the source topics have, all alike."""
    direction: Literal["input", "output", "both"]
    cleanup: Literal["delete", "compact"]
    retention: str


CONTROL: Final = "control"
TRAINING: Final = "churn-training"
MODEL: Final = "churn-model"
CATALOG: Final = "catalog"
DEAD_LETTERS: Final = "dead-letter"
"""The topics that the drivers speak of by name."""

SOURCE_TOPICS: Final = ("profiles", "orders", "cart", "clickstream", "feedback", "control")
"""The topics that are merged; the order settles ties: consent before behaviour, orders before clicks, ticks last."""

TOPICS: Final[Mapping[str, Topic]] = MappingProxyType(
    {
        topic.name: topic
        for topic in (
            Topic(
                "profiles",
                "user",
                (ProfileRecord,),
                "source",
                "input",
                "delete",
                "unlimited: records are changes, never compact",
            ),
            Topic("orders", "user", (OrderEvent,), "source", "input", "delete", "13 months or more, to replay a year"),
            Topic("cart", "user", (CartEvent,), "source", "input", "delete", "as long as history is replayed"),
            Topic(
                "clickstream",
                "user",
                (ClickstreamEvent,),
                "source",
                "input",
                "delete",
                "as long as history is replayed",
            ),
            Topic("feedback", "user", (FeedbackRecord,), "source", "input", "delete", "as long as history is replayed"),
            Topic("control", "partition", (Control,), "source", "both", "delete", "as long as history is replayed"),
            Topic(
                "catalog",
                "product",
                (CatalogRecord,),
                "one",
                "input",
                "delete",
                "unlimited: records hold from a time on",
            ),
            Topic("churn-training", "none", (Training,), "one", "both", "delete", "13 months or more, to learn anew"),
            Topic(
                "churn-model",
                "version",
                (Snapshot, MeasuresRecord),
                "one",
                "both",
                "compact",
                "every version, as long as history is replayed",
            ),
            Topic("recall", "user", (Command, Cancellation), "source", "output", "delete", "longer than any not_after"),
            Topic("tier-changes", "user", (TierChange,), "source", "output", "delete", "13 months"),
            Topic(
                "recall-decisions",
                "user",
                (Decision,),
                "source",
                "output",
                "delete",
                "13 months or more, to measure effects",
            ),
            Topic(
                "dead-letter",
                "none",
                (DeadLetter, SentBack),
                "source",
                "output",
                "delete",
                "longer than it takes to repair",
            ),
        )
    }
)
