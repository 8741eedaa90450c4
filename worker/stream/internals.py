"""What of Faust and aiokafka is overridden or reached into, and that it is still what this was written against.

Both are pinned exactly. A version says little where a distribution patches it, so the sources themselves are compared:
a difference in what is overridden may lose records without a word.
"""

from __future__ import annotations

import hashlib
import inspect
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from mode.services import ServiceTask

from worker.stream.exits import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping


PINNED: Final = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0"}

SOURCES: Final = {
    "faust.app.base:App._new_transport": "42db531312dd776f",
    "faust.app.base:App._stop_consumer": "55854a5de12c3f52",
    "faust.app.base:App.on_first_start": "ec655d9c223403cc",
    "faust.app.base:App.on_start": "480d70c6c72d042d",
    "faust.app.base:App.on_webserver_init": "74ea16edc3fd9eb8",
    "faust.app.base:BootStrategy.server": "97e47ea1dec34b55",
    "faust.stores.base:Store.on_rebalance": "a32fbe3c18de4288",
    "faust.tables.base:Collection._new_store_by_url": "343a8125107d3f69",
    "faust.tables.manager:TableManager.recovery": "f0bf5de78b4c3d23",
    "faust.tables.recovery:Recovery._build_highwaters": "91b4cc0d3724ae7b",
    "faust.tables.recovery:Recovery._build_offsets": "27eec86be06cb51f",
    "faust.tables.recovery:Recovery._restart_recovery": "6bd8a8558a2dffe4",
    "faust.tables.recovery:Recovery._seek_offsets": "19598ca63d94d250",
    "faust.tables.recovery:Recovery._set_recovery_ended": "84badf3f2cfe0d02",
    "faust.tables.recovery:Recovery._set_recovery_started": "bcfebf81ae13fc75",
    "faust.tables.recovery:Recovery._slurp_changelogs": "7825c7e50f766d5a",
    "faust.tables.recovery:Recovery._wait": "ec7429b70176f8c6",
    "faust.tables.recovery:Recovery.need_recovery": "fd1dc345b5d5e121",
    "faust.transport.consumer:Consumer._drain_messages": "44a2500309e83c63",
    "faust.transport.consumer:Consumer.on_partitions_assigned": "29ce96596f05a18c",
    "faust.transport.consumer:Consumer.on_partitions_revoked": "d04b7ae72c6fc206",
    "faust.transport.consumer:Consumer.perform_seek": "0e8c130ff4b0afd8",
    "faust.transport.consumer:Consumer.wait_empty": "e4662fe24f094819",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc3e6f6cad",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._fetch_records": "39a2c6c79fc1455a",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.getmany": "26fc5fc9f3b667e1",
    "faust.transport.drivers.aiokafka:Consumer._new_consumer_thread": "0870ec53dea75083",
    "faust.transport.drivers.aiokafka:Producer._settings_extra": "a4c7bc41b6382223",
    "faust.types.tuples:ConsumerMessage.on_final_ack": "45d670b6a8ac4bd0",
    "aiokafka.consumer.consumer:AIOKafkaConsumer.__init__": "01506f316191f7c9",
    "aiokafka.consumer.fetcher:FetchResult": "d7db13f06de8248c",
    "aiokafka.consumer.fetcher:Fetcher._proc_fetch_request": "59bf948fff47eed5",
    "aiokafka.consumer.fetcher:Fetcher._create_fetch_waiter": "61d840568746477e",
    "aiokafka.consumer.fetcher:Fetcher.fetched_records": "be4348896b9b66af",
    "aiokafka.consumer.fetcher:PartitionRecords": "94aa0da0dbec8d1b",
    "aiokafka.consumer.subscription_state:SubscriptionState.fetch_context": "ff2a654dca239cfe",
    "aiokafka.consumer.subscription_state:TopicPartitionState": "2b83334afadf6d98",
    "aiokafka.producer.producer:AIOKafkaProducer.__init__": "fd6f2966fb3dc883",
    "aiokafka.producer.producer:AIOKafkaProducer.commit_transaction": "c7f9677c89413f97",
    "aiokafka.producer.producer:AIOKafkaProducer.send_batch": "bf42b0f0c5c0646d",
    "aiokafka.producer.producer:AIOKafkaProducer.send_offsets_to_transaction": "4b58002b44962a5c",
    "aiokafka.producer.sender:AddPartitionsToTxnHandler": "112129b2ac04fe8e",
    "aiokafka.producer.sender:Sender": "46ef144176b79ef8",
    "aiokafka.producer.transaction_manager:TransactionManager": "d0932794d69a6780",
    "mode.services:ServiceCallbacks.on_shutdown": "c00b1dbba64a95c2",
    "mode.services:ServiceCallbacks.on_stop": "b01e5bb117855e6b",
}
"""`module:object` to the first sixteen hex digits of the SHA-256 of its source."""


def check(pinned: Mapping[str, str] = PINNED, sources: Mapping[str, str] = SOURCES) -> None:
    """Refuse other versions, and other sources under the same version.

    Raises:
        RefusedError: naming each distribution or object that differs, and what to do.

    """
    for name, wanted in pinned.items():
        if (installed := version(name)) != wanted:
            raise RefusedError(
                f"{name} {installed} is installed: allowed is {wanted}, whose internals are overridden here. "
                f"Install it with `pip install {name}=={wanted}`"
            )
    if changed := [place for place, wanted in sources.items() if digest(place) != wanted]:
        raise RefusedError(
            f"{', '.join(changed)}: not the source that {', '.join(f'{n} {v}' for n, v in pinned.items())} "
            f"came with. Reinstall them unpatched (`pip install --force-reinstall`), or look whether what "
            f"worker/stream overrides there still holds, and correct the digests in worker/stream/internals.py"
        )


def digest(place: str) -> str:
    """Return what `SOURCES` holds for `module:object` as it is installed; "gone" where there is no such object.

    >>> digest("faust.transport.consumer:Consumer.no_such_method")
    'gone'
    """
    module, _, path = place.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    if found is None:
        return "gone"
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, ServiceTask):
        found = found.fun
    return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:16]
