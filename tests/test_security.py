"""The way to the brokers: settings that fit together, and a worker behind TLS, SCRAM and access control."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer
from live import PARTITIONS, ROOT, SESSION_S, Progress, stop, wait_until

from worker import settings, topics
from worker.partitioner import Partitioner
from worker.settings import SettingsError
from worker.stream.exits import EXIT_REFUSED
from worker.stream.topics import TopicsError
from worker.stream.transport import faust_options

PASSWORD = "a-secret-of-the-test"
START_S_MAX = 45
GRANTS = topics.grants(settings.Settings())


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RECALL_"):
            monkeypatch.delenv(name)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pem(tmp_path):
    path = tmp_path / "some.pem"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"sasl_username": "u"}, "PLAINTEXT does not use sasl_username"),
        ({"security_protocol": "SSL", "sasl_password": PASSWORD}, "SSL does not use sasl_password"),
        ({"security_protocol": "SASL_PLAINTEXT"}, "needs sasl_mechanism and sasl_username"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "u"},
            "needs either sasl_password or sasl_password_file",
        ),
        ({"security_protocol": "SSL", "ssl_certfile": "pem"}, "ssl_certfile and ssl_keyfile are needed together"),
        ({"ssl_cafile": "pem"}, "PLAINTEXT does not use ssl_cafile"),
        ({"security_protocol": "SSL", "ssl_cafile": "/nowhere.pem"}, "ssl_cafile = '/nowhere.pem'"),
        ({"security_protocol": "TLS"}, "security_protocol = 'TLS'"),
        ({"sasl_password": PASSWORD, "partitions": 0}, "partitions = 0"),
    ],
)
def test_contradictions_are_refused_by_the_names_of_the_fields(given, named, pem):
    given = {name: str(pem) if value == "pem" else value for name, value in given.items()}
    with pytest.raises(SettingsError) as refused:
        settings.load(**given)
    assert named in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_a_password_shows_neither_in_settings_nor_in_the_connection(monkeypatch):
    monkeypatch.setenv("RECALL_SASL_PASSWORD", PASSWORD)
    config = settings.load(security_protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", sasl_username="u")
    connection = config.connection()
    assert PASSWORD not in repr(config) + str(config) + repr(connection) + config.model_dump_json()
    assert connection.aiokafka()["sasl_plain_password"] == PASSWORD
    assert connection.librdkafka()["sasl.password"] == PASSWORD
    assert PASSWORD not in repr(faust_options(connection)["broker_credentials"])
    assert faust_options(connection)["broker_credentials"].password == PASSWORD


def test_a_password_file_is_read_without_the_end_of_its_line(tmp_path):
    given = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "u"}
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    assert settings.load(**given, sasl_password_file=path).connection().sasl.password == PASSWORD
    path.write_text("\n")
    with pytest.raises(SettingsError, match="sasl_password_file: the password is empty"):
        settings.load(**given, sasl_password_file=path).connection()


def test_several_brokers_reach_faust_one_by_one():
    connection = settings.load(broker="a:9092, b:9092").connection()
    assert faust_options(connection)["broker"] == ["kafka://a:9092", "kafka://b:9092"]


def test_a_misspelt_variable_is_refused_and_a_strangers_is_told(monkeypatch):
    monkeypatch.setenv("RECALL_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("RECALL_DATA", "/data")
    settings.load()
    assert settings.strangers() == ["RECALL_DATA", "RECALL_SERVICE_HOST"]
    monkeypatch.setenv("RECALL_LIVEFROM", "2026-01-05T00:00:00Z")
    with pytest.raises(SettingsError, match="RECALL_LIVEFROM is no setting: did you mean RECALL_LIVE_FROM"):
        settings.load()


def test_every_client_is_opened_by_the_connection():
    """No client can be opened without the brokers' names, and only these files may write the option down.

    Benchmarks and soaks start open brokers of their own.
    """
    allowed = {"worker/stream/connection.py", "worker/embedded.py", "scripts/crm.py"}
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]
    files = [*scripts, *(path for folder in ("worker", "schemas") for path in (ROOT / folder).rglob("*.py"))]
    found = {
        str(path.relative_to(ROOT))
        for path in files
        if any(name in path.read_text() for name in ("bootstrap.servers", "bootstrap_servers"))
    }
    assert found == allowed


# -- a worker ----------------------------------------------------------------------------------------------------------


def recall_worker(log, datadir, **given):
    """Start `recall worker`, as an operator would."""
    given = {
        "live_from": "2026-01-05T00:00:00Z",
        "dry_run": True,
        "web_port": 0,
        "datadir": datadir,
        "session_timeout_s": SESSION_S,
        "tick_s": 0.2,
        "ssl_cafile": None,
    } | given
    variables = {f"RECALL_{name.upper()}": str(value) for name, value in given.items() if value is not None}
    with Path(log).open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "worker"],
            env=os.environ | variables,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module")
def scram(secured):
    """The settings of a worker that comes by SASL_SSL, whose topics are there."""
    topics.create(settings.load(broker=secured.bootstrap))
    secured.add_user("recall", PASSWORD)
    return {
        "broker": secured.sasl,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "recall",
        "sasl_password": PASSWORD,
        "ssl_cafile": secured.cafile,
    }


def send_a_click(secured):
    """Send one event of a user; return its offset."""
    event = {
        "type": "track",
        "event": "Signed In",
        "messageId": "m1",
        "userId": "user-1",
        "timestamp": "2026-01-05T10:00:00Z",
    }
    offsets = []
    producer = Producer({"bootstrap.servers": secured.bootstrap, "log_level": 2})
    producer.produce(
        "clickstream",
        json.dumps(event),
        "user-1",
        partition=Partitioner(PARTITIONS).of(b"user-1"),
        on_delivery=lambda _error, message: offsets.append(message.offset()),
    )
    assert producer.flush(10) == 0
    return offsets[0]


def ended(process):
    """Wait for the process to end by itself, within the bound; return its exit code."""
    try:
        return process.wait(START_S_MAX)
    finally:
        end(process)


def end(process):
    process.kill()
    process.wait()


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_a_worker_commits_over_sasl_and_tls_with_the_least_that_is_documented(secured, scram, tmp_path):
    secured.allow("User:recall", topics.grants(settings.load()))
    click, progress, log = send_a_click(secured), Progress(secured.bootstrap), tmp_path / "log"
    process = recall_worker(log, tmp_path, **scram)
    try:
        wait_until(lambda: progress.applied() > click, process, log)
        assert stop(process) == 0
    finally:
        end(process)
        progress.close()
        secured.forbid("User:recall")
    assert PASSWORD not in log.read_text()


@pytest.mark.kafka
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("scram")
def test_a_worker_commits_over_tls_with_a_certificate_of_its_own(secured, tmp_path):
    secured.allow(secured.principal, topics.grants(settings.load()))
    click, progress, log = send_a_click(secured), Progress(secured.bootstrap), tmp_path / "log"
    process = recall_worker(
        log,
        tmp_path,
        broker=secured.tls,
        security_protocol="SSL",
        ssl_cafile=secured.cafile,
        ssl_certfile=secured.certfile,
        ssl_keyfile=secured.keyfile,
    )
    try:
        wait_until(lambda: progress.applied() > click, process, log)
        assert stop(process) == 0
    finally:
        end(process)
        progress.close()
        secured.forbid(secured.principal)


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"sasl_password": "wrong"}, "Authentication failed"), ({"ssl_cafile": None}, "certificate verify failed")],
    ids=["password", "authority"],
)
def test_a_worker_that_is_not_taken_in_ends_and_says_why(scram, tmp_path, wrong, told):
    log = tmp_path / "log"
    assert ended(recall_worker(log, tmp_path, **scram | wrong)) == 2
    assert told in log.read_text()
    assert PASSWORD not in log.read_text()


def without(kind, name):
    """Give the documented rights less one."""
    grants = topics.grants(settings.load())
    rest = [grant for grant in grants if (grant.kind, grant.name) != (kind, name)]
    assert len(rest) == len(grants) - 1
    return rest


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("kind", "name"), [("group", "recall"), *((grant.kind, grant.name) for grant in GRANTS if grant.kind == "topic")]
)
def test_each_topic_and_the_group_are_missed_by_name(secured, scram, kind, name):
    secured.allow("User:recall", without(kind, name))
    try:
        with pytest.raises(TopicsError) as refused:
            topics.check(settings.load(**scram))
    finally:
        secured.forbid("User:recall")
    assert f"{kind} {name}: not allowed to this user" in str(refused.value)
    assert "recall topics acls" in str(refused.value)


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("transactional_id", "recall-", "TransactionalIdAuthorizationFailed"),
        ("group", "recall-probe-", "GroupAuthorizationFailed"),
    ],
)
def test_a_worker_without_its_transactions_ends_and_says_what_to_allow(secured, scram, tmp_path, kind, name, told):
    secured.allow("User:recall", without(kind, name))
    log = tmp_path / "log"
    try:
        assert ended(recall_worker(log, tmp_path, **scram)) == EXIT_REFUSED
    finally:
        secured.forbid("User:recall")
    assert told in log.read_text()
    assert "recall-probe" in log.read_text()


@pytest.mark.kafka
def test_each_operation_on_a_topic_is_missed_by_name(secured, scram):
    config = settings.load(**scram)
    grants = topics.grants(settings.load())
    less = [grant._replace(operations=grant.operations[:1]) for grant in grants]
    secured.allow("User:recall", less)
    try:
        with pytest.raises(TopicsError) as refused:
            topics.check(config)
    finally:
        secured.forbid("User:recall")
    assert "topic control: not allowed to this user: write, describe_configs" in str(refused.value)
    assert "topic orders: not allowed to this user: describe_configs" in str(refused.value)


@pytest.mark.kafka
@pytest.mark.usefixtures("scram")
def test_a_topic_that_keeps_its_producers_times_is_warned_of(secured):
    config = settings.load(broker=secured.bootstrap)
    assert topics.check(config) == []
    secured.set_config("orders", "message.timestamp.type", "CreateTime")
    try:
        [warning] = topics.check(config)
    finally:
        secured.set_config("orders", "message.timestamp.type", "LogAppendTime")
    assert "topics orders keep their producers' times (CreateTime)" in warning
