"""The command line: what it says, what it writes, and how it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource
from typer.testing import CliRunner

from worker import demo, settings, topics
from worker.cli import app
from worker.console import COLUMNS, command_lines
from worker.recall import playbook
from worker.settings import DEFAULT_PLAYBOOK
from worker.stream.record import PartitionRecord
from worker.stream.topics import changelog_of
from worker.tally import Tally

INVOICES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
{}
9,A,cup,1,2011-01-03 09:30:00,1.50,,United Kingdom
""".format(
    "\n".join(
        f"{user}{month},A,cup,40,2011-0{month}-0{user} 09:30:00,2.50,{user}.0,United Kingdom"
        for user in range(1, 7)
        for month in range(1, 4 + (user == 1) * 5)
    )
)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RECALL_") and name != "RECALL_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("TERMINAL_WIDTH", str(COLUMNS))


def recall(*arguments, code=0):
    """Run a command; return what it printed, checked to be readable in 80 columns."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if not code:
        # A path is as long as it is, and never cut.
        assert max((len(line) for line in result.stdout.splitlines() if "/" not in line), default=0) <= COLUMNS
    return result.stdout if not code else result.stderr


@pytest.fixture
def retail(tmp_path):
    path = tmp_path / "retail.csv"
    path.write_text(INVOICES)
    return path


# -- help and start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "",
        "worker",
        "topics create",
        "topics acls",
        "model",
        "dead-letters list",
        "dead-letters show",
        "dead-letters send",
        "replay",
        "import tmall",
        "simulate",
        "schema",
        "demo",
        "adopt-playbook",
        "grant",
        "approve",
        "stop",
        "resume",
        "explain",
        "export",
        "erase",
    ],
)
def test_help_is_readable(command):
    assert "Usage" in recall(*command.split(), "--help")


def test_tmall_says_plainly_that_it_has_no_prices():
    assert "has no prices" in re.sub(r"\s+", " ", recall("import", "tmall", "--help"))


def test_help_starts_without_what_the_worker_needs():
    heavy = ("faust", "river", "duckdb", "confluent_kafka")
    code = f"import sys, worker.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_acls_are_commands_for_every_right():
    told = recall("topics", "acls", "--user", "User:worker")
    commands = [" ".join(command.split()) for command in told.replace("\\\n", "").split("kafka-acls.sh")[1:]]
    grants = topics.grants(settings.load())
    assert len(commands) == len(grants)
    assert all("--add --allow-principal User:worker" in command for command in commands)
    assert any(
        command.endswith("--transactional-id recall- --resource-pattern-type prefixed --operation Write")
        for command in commands
    )
    assert any(
        command.endswith("--topic control --operation Read --operation Write --operation DescribeConfigs")
        for command in commands
    )


# -- files -------------------------------------------------------------------------------------------------------------


def test_import_accounts_for_every_line_and_the_history_replays(retail, tmp_path):
    history = tmp_path / "history.jsonl"
    told = recall("import", "online-retail", retail, "--out", history)
    assert "24 lines = 23 carried + 1 left out" in told
    assert "no customer 1" in told
    out = tmp_path / "out"
    arguments = ["--currency", "GBP", "--timezone", "Europe/London", "--playbook", demo.PLAYBOOK, "--salt", "s"]
    told = recall("replay", history, "--out", out, *arguments)
    assert "23 in 4 partitions" in told
    changes = [json.loads(line) for line in (out / "tier-changes.jsonl").read_text().splitlines()]
    assert {change["value"]["to_tier"] for change in changes} >= {"silent"}
    assert all(change["key"] == change["value"]["user_id"] for change in changes)
    commands = [json.loads(line) for line in (out / "recall.jsonl").read_text().splitlines()]
    assert commands
    assert all(command["headers"]["ce_subject"] == command["key"] for command in commands)
    packed = tmp_path / "packed"
    recall("replay", history, "--out", packed, "--format", "parquet", *arguments)
    assert {path.suffix for path in packed.iterdir()} == {".parquet"}
    with duckdb.connect() as db:
        rows = db.execute(
            "select key, headers, value from read_parquet(?)", [str(packed / "recall.parquet")]
        ).fetchall()
    assert [(key, json.loads(headers), json.loads(value)) for key, headers, value in rows] == [
        (command["key"], command["headers"], command["value"]) for command in commands
    ]


def test_replay_reads_a_data_set_as_it_is_and_in_its_own_currency(retail):
    told = recall("replay", retail, "--playbook", demo.PLAYBOOK, "--partitions", 2)
    assert "24 lines = 23 carried + 1 left out" in told
    assert "23 in 2 partitions" in told
    assert "dead letters   none" in told


def test_nothing_leaves_before_live_from(retail):
    told = recall("replay", retail, "--playbook", demo.PLAYBOOK, "--live-from", "2012-01-01", "--salt", "s")
    assert "commands       0: none" in told
    assert "before launch" in told


def test_simulate_is_the_same_for_the_same_seed(tmp_path):
    paths = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for path in paths:
        recall("simulate", "--users", 5, "--days", 10, "--seed", 3, "--out", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_schema_check_tells_a_stale_file(tmp_path):
    recall("schema", "--check")
    recall("schema", "--out", tmp_path)
    recall("schema", "--check", "--out", tmp_path)
    (tmp_path / "json" / "command.json").write_text("{}")
    assert "command" in recall("schema", "--check", "--out", tmp_path, code=1)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(monkeypatch):
    monkeypatch.setenv("RECALL_TIMEZONE", "Mars/Base")
    told = recall("topics", "create", code=2)
    assert "timezone = 'Mars/Base': allowed is a name of the IANA database" in told


def test_a_wrong_playbook_is_named_with_the_field(tmp_path):
    path = tmp_path / "playbook.toml"
    path.write_text(DEFAULT_PLAYBOOK.read_text().replace("share = 0.1", "share = 0.9"))
    told = recall("adopt-playbook", path, "--at", "2026-01-05T00:00:00Z", code=2)
    assert f"playbook {path}, line " in told
    assert "holdout.share = 0.9" in told


def test_check_finds_nothing_in_the_default_playbook():
    assert recall("check", DEFAULT_PLAYBOOK).endswith("default.toml: no errors, no warnings\n")


def test_check_names_lines_and_fails_on_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("RECALL_PARTITIONS", "4")
    path = tmp_path / "playbook.toml"

    def checked(human_per_day, *arguments):
        path.write_text(DEFAULT_PLAYBOOK.read_text().replace("human_per_day = 20", human_per_day))
        result = CliRunner().invoke(app, ["check", str(path), *arguments])
        return result.exit_code, result.stdout

    code, told = checked("human_per_day = 0", "--grant", "daily=50.00")
    line = path.read_text().splitlines().index('rungs = ["in_app", "email", "human"]') + 1
    assert told.startswith(f"error: playbook {path}, line {line}: plays[8] (vip-service): rungs[2] = 'human': no one ")
    assert told.endswith(f"{path}: 1 error, no warnings\n")
    assert code == 1
    code, told = checked("human_per_day = 2")
    assert told.startswith(f"warning: playbook {path}, line ")
    assert code == 0
    code, told = checked("human_per_days = 20")
    assert "ladder.human_per_days = 20: no such field; did you mean 'human_per_day'?" in told
    assert code == 1
    assert "allowed is BUDGET=AMOUNT" in recall("check", path, "--grant", "daily", code=2)


def test_a_long_value_is_cut_in_a_message(tmp_path):
    path = tmp_path / "playbook.toml"
    path.write_text(f"title = '{'x' * 5000}'")
    told = recall("adopt-playbook", path, "--at", "2026-01-05T00:00:00Z", code=2)
    assert "rfm: is missing" in told
    assert max(map(len, told.splitlines())) <= 320


def test_a_file_of_another_form_is_refused(retail, tmp_path):
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    assert "are those of no known form" in recall("replay", wrong, code=2)
    assert "'InvoiceNo' is missing" in recall("import", "online-retail", wrong, "--out", tmp_path / "x.jsonl", code=2)
    assert "allowed are histories, or one data set" in recall(
        "replay", retail, retail, wrong.parent / "retail.csv", code=2
    )


def test_a_worker_does_not_start_without_live_from():
    assert "live_from is not set" in recall("worker", code=2)


# -- topics ------------------------------------------------------------------------------------------------------------


def test_plan_has_every_topic_and_the_times_that_fit_the_clock():
    wall = {plan.name: plan for plan in topics.plan(settings.load(partitions=3))}
    assert (wall["orders"].partitions, wall["churn-training"].partitions) == (3, 1)
    assert wall["orders"].config["message.timestamp.type"] == "LogAppendTime"
    assert wall["clickstream"].config["retention.ms"] == "-1"
    rows = wall["recall-rows-changelog"]
    assert rows.partitions == 3
    assert rows.config["cleanup.policy"] == "compact"
    recorded = topics.plan(settings.load(clock="recorded"))
    assert {plan.config["message.timestamp.type"] for plan in recorded} == {"CreateTime"}
    kept = {plan.config.get("retention.ms", "-1") for plan in recorded if plan.name != "recall-probe"}
    assert kept == {"-1"}, "old records would go at once"


@pytest.mark.kafka
def test_topics_are_created_once_and_playbooks_adopted_everywhere(kafka, monkeypatch):
    # The names are fixed and the cluster is shared: whatever is there already has to fit.
    partitions = topics_partitions(kafka.bootstrap)
    monkeypatch.setenv("RECALL_BROKER", kafka.bootstrap)
    monkeypatch.setenv("RECALL_PARTITIONS", str(partitions))
    monkeypatch.setenv("RECALL_APP_ID", kafka.prefix("cli").rstrip("-"))
    assert "created" in recall("topics", "create")
    assert "created" not in recall("topics", "create")
    config = settings.load()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    changelog = ConfigResource(ConfigResource.Type.TOPIC, changelog_of(config.app_id))
    [described] = admin.describe_configs([changelog]).values()
    assert described.result()["cleanup.policy"].value == "compact"
    assert described.result()["segment.ms"].value == "1800000"
    told = recall("adopt-playbook", DEFAULT_PLAYBOOK, "--at", "2026-01-05T00:00:00Z")
    assert re.match(r"default@\w+ holds from 2026-01-05T00:00:00\+00:00 on, in \d+ partitions", told)
    for number in range(partitions):
        value = last_value(kafka.bootstrap, "control", number)
        assert json.loads(value)["kind"] == "adopt_playbook"
        assert json.loads(value)["version"] == told.split()[0]
    monkeypatch.setenv("RECALL_PARTITIONS", str(partitions + 1))
    told = recall("topics", "create", code=2)
    assert f"topic orders: {partitions} partitions; allowed is {partitions + 1}" in told
    assert "topic control" in recall("adopt-playbook", DEFAULT_PLAYBOOK, "--at", "2026-01-05T00:00:00Z", code=2)


def topics_partitions(bootstrap):
    there = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics
    return len(there["orders"].partitions) if "orders" in there else 3


def last_value(bootstrap, topic, number):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test-cli"})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
        consumer.assign([TopicPartition(topic, number, end - 1)])
        message = consumer.poll(10)
        return message.value()
    finally:
        consumer.close()


# -- the demo ----------------------------------------------------------------------------------------------------------


def test_the_demo_ends_well_and_accounts_for_all():
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "demo", "--users", "200", "--days", "150"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= COLUMNS
    assert "-- 100% of the history" in done.stdout
    assert re.search(r"^\d{4}-\d\d-\d\d  user-\d+  \w+", done.stdout, re.MULTILINE)
    assert "Every line is accounted for" in done.stdout
    assert done.stderr == ""


class Fed:
    """What a demo would have to account for: two orders, one of them bad, and a command."""

    def __init__(self, retail):
        self.show = demo.prepare(retail, users=1, days=1)
        n = self.show.data
        self.sent = {("orders", 0): n, ("control", 0): 300}
        self.records = [PartitionRecord(offsets={"orders": n, "control": 302})]
        self.counts = {"dead.malformed": 1, "command.care-letter": 1}
        self.tally = Tally()
        self.tally.commands["c1"] = "care-letter"
        self.tally.dead["malformed"] = 1

    def problems(self):
        return demo.problems(self.show, self.tally, self.sent, self.records, self.counts)


def test_the_account_of_a_demo_adds_up(retail):
    assert Fed(retail).problems() == []


def test_what_is_missing_in_a_demo_is_told(retail):
    fed = Fed(retail)
    fed.records[0].offsets["orders"] -= 1
    assert fed.problems() == ["orders[0]: 23 records were sent, the worker has read 22"]
    fed = Fed(retail)
    fed.sent["orders", 0] -= 1
    assert "23 records were to be sent, 22 were" in fed.problems()
    fed = Fed(retail)
    fed.tally.dead.clear()
    assert fed.problems() == ["the worker counted as dead letters: malformed 1; read back: none"]
    fed = Fed(retail)
    fed.tally.commands.clear()
    assert fed.problems() == [
        "the worker counted as commands: care-letter 1; read back: none",
        "no command was read back from `recall`",
    ]


def test_a_data_set_brings_its_currency_and_a_playbook_that_needs_no_consent(retail):
    show = demo.prepare(retail, users=1, days=1)
    assert show.overrides["currency"] == "GBP"
    assert show.overrides["playbook"] == demo.PLAYBOOK
    assert "2011-01-01" < show.overrides["live_from"] < "2011-12-31"
    shop = demo.prepare(None, users=3, days=3)
    assert "playbook" not in shop.overrides, "the simulated shop tells of consent"


def test_demo_playbook_is_the_default_but_for_consent():
    default, shown = (playbook.load(path).model_dump() for path in (DEFAULT_PLAYBOOK, demo.PLAYBOOK))
    assert shown | {"name": "default", "consent": {"unknown": "deny"}} == default


def test_a_command_fits_two_lines_of_a_terminal():
    command = {
        "issued_at": "2025-07-03T00:00:00.000Z",
        "user_id": "user-" + "9" * 100,
        "reason": {"from_tier": "potential", "to_tier": "marginal", "fell": ["R", "F", "M"]},
        "action": {"play": "care-letter"},
        "delivery": {"channel": "email"},
        "value": {"net_revenue": "1234567.89", "currency": "EUR", "orders": 1234},
        "risk": {"probability": 0.83},
    }
    lines = command_lines(command)
    assert len(lines) == 2
    assert max(map(len, lines)) <= COLUMNS
    assert lines[1].endswith("risk 0.83")
