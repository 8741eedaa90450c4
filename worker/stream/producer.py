"""aiokafka's producer, as short transactions in close succession need it.

What is overridden of aiokafka's internals is listed in `internals`, and checked there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import CoordinationType
from aiokafka.producer.sender import BACKOFF_OVERRIDE, AddPartitionsToTxnHandler, Sender

if TYPE_CHECKING:
    from worker.stream.committer import CommitSettings

MARKERS_BACKOFF_S = 0.003
"""How long a transaction that follows close on another waits for the markers of that one; aiokafka waits 20 ms."""


class LaneProducer(AIOKafkaProducer):  # type: ignore[misc]
    """A producer whose every record is acknowledged by all replicas and written once."""

    def __init__(self, settings: CommitSettings, transactional_id: str | None) -> None:
        """Make a producer; one with a transactional id fences those that had the same."""
        timeout_ms = int(settings.transaction_timeout_s * 1000)
        options: dict[str, Any] = {
            **settings.connection.aiokafka(),
            "acks": "all",
            "enable_idempotence": True,
            "max_batch_size": settings.batch_bytes_max,
            "max_request_size": settings.batch_bytes_max + 100_000,
            "request_timeout_ms": timeout_ms,
            "retry_backoff_ms": settings.retry_backoff_ms,
        }
        if transactional_id is not None:
            options |= {"transactional_id": transactional_id, "transaction_timeout_ms": timeout_ms}
        super().__init__(**options)
        self._sender = _PromptSender(
            self.client,
            acks=-1,
            txn_manager=self._txn_manager,
            message_accumulator=self._message_accumulator,
            retry_backoff_ms=settings.retry_backoff_ms,
            request_timeout_ms=timeout_ms,
        )


class _PromptSender(Sender):  # type: ignore[misc]
    async def _do_add_partitions_to_txn(self, tps: Any) -> bool:
        coordinator = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        done: bool = await _PromptAddPartitions(self, tps).do(coordinator)
        return done


class _PromptAddPartitions(AddPartitionsToTxnHandler):  # type: ignore[misc]
    def handle_response(self, response: Any) -> float | None:
        backoff: float | None = super().handle_response(response)
        return MARKERS_BACKOFF_S if backoff == BACKOFF_OVERRIDE else backoff
