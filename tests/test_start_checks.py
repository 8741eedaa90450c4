"""What a worker refuses before it takes the first record."""

import asyncio
import inspect
import time
from types import FunctionType, SimpleNamespace

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from faust.types import TP
from mode.services import ServiceTask
from typer.testing import CliRunner

from worker import app as live
from worker import topics
from worker.cli import app
from worker.stream import internals, probe, recovery, table, transport
from worker.stream.committer import CommitSettings
from worker.stream.connection import Connection
from worker.stream.exits import EXIT_REFUSED, EXIT_UNAVAILABLE, RefusedError, UnavailableError

SETTINGS = CommitSettings(group="app", transactional=True, interval_s=0.025, connection=Connection("127.0.0.1:1"))
OVERRIDABLE = (FunctionType, property, ServiceTask)


def overridden():
    """Give what the stream's classes override of Faust, by place."""
    for module in (recovery, table, transport):
        for _, ours in inspect.getmembers(module, inspect.isclass):
            if ours.__module__ != module.__name__:
                continue
            for name in vars(ours):
                for base in ours.__mro__[1:]:
                    if name in vars(base) and base.__module__.partition(".")[0] in {"faust", "mode"}:
                        if not name.startswith("__") and isinstance(vars(base)[name], OVERRIDABLE):
                            yield f"{base.__module__}:{base.__qualname__}.{name}"
                        break


def test_all_that_is_overridden_is_listed():
    found = set(overridden())
    assert found
    assert found <= set(internals.SOURCES)


def test_what_is_installed_is_what_this_was_written_against():
    internals.check()


def test_another_version_is_refused():
    with pytest.raises(RefusedError, match=r"aiokafka 0\.14\.0 is installed: allowed is 0\.13\.0.*pip install"):
        internals.check(pinned={"aiokafka": "0.13.0"}, sources={})


def test_a_patched_source_is_refused():
    place = "faust.transport.consumer:Consumer.wait_empty"
    internals.check(sources={place: internals.SOURCES[place]})
    with pytest.raises(RefusedError, match=r"Consumer\.wait_empty: not the source that faust-streaming"):
        internals.check(sources={place: "0" * 16})


def test_an_object_that_is_gone_is_refused():
    with pytest.raises(RefusedError, match=r"Consumer\.gone_for_good"):
        internals.check(sources={"faust.transport.consumer:Consumer.gone_for_good": "0" * 16})


def test_a_broker_that_only_says_that_it_has_transactions_is_refused(embedded):
    embedded.create_topic(probe.topic_of("app"), partitions=1)
    with pytest.raises(RefusedError, match="plain mode"):
        asyncio.run(probe.check_transactions({"bootstrap_servers": embedded.address}, "app", deadline_s=10))


NOBODY = {"bootstrap_servers": "127.0.0.1:1"}


def test_a_broker_that_is_not_there_is_no_refusal():
    """It may come back: a supervisor is to try again, which it does not after a refusal."""
    with pytest.raises(UnavailableError, match="does not answer"):
        asyncio.run(probe.check_transactions(NOBODY, "app", deadline_s=10))
    with pytest.raises(UnavailableError, match="does not answer"):
        asyncio.run(probe.check_topics(NOBODY, SETTINGS, "changelog"))


def test_a_coordinator_that_is_not_ready_yet_is_no_refusal(embedded, monkeypatch):
    embedded.create_topic(probe.topic_of("slow"), partitions=1)
    monkeypatch.setattr(probe, "_try_out", lambda *_: asyncio.sleep(60))
    with pytest.raises(UnavailableError, match=r"within 0 s.*transaction coordinator"):
        asyncio.run(probe.check_transactions({"bootstrap_servers": embedded.address}, "slow", deadline_s=0.4))


def test_a_worker_that_finds_no_broker_says_so_in_a_line_and_asks_for_another_try(monkeypatch):
    monkeypatch.setattr(topics, "TIMEOUT_S", 0.1)
    environment = {"RECALL_BROKER": "127.0.0.1:1", "RECALL_LIVE_FROM": "2026-01-05T00:00:00Z", "RECALL_DRY_RUN": "true"}
    result = CliRunner().invoke(app, ["worker"], env=environment)
    assert result.exit_code == EXIT_UNAVAILABLE
    assert result.stderr.startswith("recall: broker 127.0.0.1:1 by PLAINTEXT: ")
    assert "Traceback" not in result.stderr


def test_other_internals_than_expected_are_said_in_a_line_and_need_no_other_try(monkeypatch):
    def refuse(_config):
        raise RefusedError("aiokafka 0.15.0 is installed")

    monkeypatch.setattr(live, "prepare", refuse)
    result = CliRunner().invoke(app, ["worker"], env={"RECALL_LIVE_FROM": "2026-01-05T00:00:00Z"})
    assert (result.exit_code, result.stderr) == (EXIT_REFUSED, "recall: aiokafka 0.15.0 is installed\n")


@pytest.mark.kafka
def test_a_missing_topic_to_try_transactions_on_is_named(kafka):
    with pytest.raises(RefusedError, match=r"topic missing-probe, .* is not there: make it, with one partition"):
        asyncio.run(probe.check_transactions({"bootstrap_servers": kafka.bootstrap}, "missing", deadline_s=30))


@pytest.mark.kafka
def test_apache_kafka_has_transactions(kafka):
    kafka.create_topics({probe.topic_of("has-transactions"): 1})
    asyncio.run(probe.check_transactions({"bootstrap_servers": kafka.bootstrap}, "has-transactions", deadline_s=30))


@pytest.mark.kafka
def test_a_missing_changelog_is_named(kafka):
    with pytest.raises(RefusedError, match=r"topic no-changelog, which holds the rows, is not there: make it"):
        asyncio.run(probe.check_topics({"bootstrap_servers": kafka.bootstrap}, SETTINGS, "no-changelog"))


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cleanup.policy", "delete", r"cleanup\.policy is delete, allowed is compact"),
        ("max.message.bytes", "100000", r"max\.message\.bytes is 100000, and a commit writes .* 900000"),
    ],
)
def test_a_changelog_that_would_lose_rows_is_refused(kafka, name, value, said):
    changelog = f"refused-{name}-changelog"
    kafka.create_topics({changelog: 1})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})

    def set_to(**entries):
        changes = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in entries.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, changelog, incremental_configs=changes)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(10)
        while any(told()[key].value != value for key, value in entries.items()):  # the broker learns of it later
            time.sleep(0.02)

    def told():
        [future] = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, changelog)]).values()
        return future.result(10)

    connection = {"bootstrap_servers": kafka.bootstrap}
    set_to(**{"cleanup.policy": "compact"})
    asyncio.run(probe.check_topics(connection, SETTINGS, changelog))
    set_to(**{name: value})
    with pytest.raises(RefusedError, match=said):
        asyncio.run(probe.check_topics(connection, SETTINGS, changelog))


def test_a_position_that_the_topic_no_longer_holds_is_refused():
    def start_of(next_offset, earliest, end):
        work = SimpleNamespace(start_offset=lambda _topic: next_offset)
        return transport.start_of(work, TP("orders", 3), earliest, end)

    assert start_of(None, earliest=5, end=9) == 5
    assert start_of(5, earliest=5, end=9) == 5
    assert start_of(9, earliest=5, end=9) == 9
    for lost in (4, 10):
        with pytest.raises(RefusedError, match=rf"orders partition 3: .* at offset {lost}, .* holds 5 to 9.*Restore"):
            start_of(lost, earliest=5, end=9)
