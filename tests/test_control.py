"""What an operator writes: to every partition, in the form of the contract, or not at all and with the reason."""

import json
from decimal import Decimal

import pytest
from bench import Bench
from confluent_kafka import Consumer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from live import EVERY_TOPIC, stop
from pydantic import TypeAdapter
from typer.testing import CliRunner

from schemas.control import Control
from worker import control, grants, settings
from worker.cli import app
from worker.grants import Grant, GrantError
from worker.recall.money import micros, micros_text
from worker.recall.playbook import load
from worker.settings import DEFAULT_PLAYBOOK

AT = "2026-01-05T00:00:00Z"
READ = TypeAdapter(Control).validate_json
PARTITIONS = 3
PLAYBOOK = """
name = "winter"
[rfm]
m = ["50", "150", "500", "1500"]
[channels]
cost = {{ email = "0.01" }}
[[plays]]
name = "letter"
opening = ["silence"]
kind = "memory"
template = "letter"
rungs = ["in_app", "email"]
approval = {approval}
[[plays]]
name = "badge"
opening = ["silence"]
kind = "memory"
template = "badge"
rungs = ["in_app"]
budget = "badges"
"""


class Shop:
    """A broker with the control topic, the commands of its operator, and what they left."""

    def __init__(self, broker, playbook):
        self.address = broker.address
        self.playbook = playbook
        self.environment = {
            "RECALL_BROKER": broker.address,
            "RECALL_PARTITIONS": str(PARTITIONS),
            "RECALL_PLAYBOOK": str(playbook),
        }

    def says(self, *arguments, code=0, **environment):
        """Run a command; return what it says."""
        done = CliRunner().invoke(app, [*map(str, arguments)], env=self.environment | environment)
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    def records(self):
        """Return what lies on control by partition, read by the contract."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "test", "log_level": 2})
        found = []
        try:
            for number in range(PARTITIONS):
                _, end = consumer.get_watermark_offsets(TopicPartition("control", number), timeout=10)
                consumer.assign([TopicPartition("control", number, 0)])
                messages = consumer.consume(end, 10) if end else []
                assert len(messages) == end
                for message in messages:
                    READ(message.value())
                found.append([json.loads(message.value()) for message in messages])
        finally:
            consumer.close()
        return found

    def everywhere(self):
        """Return the one record that lies in every partition."""
        [first, *others] = self.records()
        assert all(other == first for other in others)
        [record] = first
        return record


@pytest.fixture
def shop(embedded, tmp_path):
    embedded.create_topic("control", PARTITIONS)
    playbook = tmp_path / "winter.toml"
    playbook.write_text(PLAYBOOK.format(approval="true"))
    return Shop(embedded, playbook)


def test_a_grant_is_split_over_the_partitions_to_the_micro(shop):
    told = shop.says("grant", "daily", "--amount", "10", "--shadow-price", "0.5", "--at", AT)
    assert told == "daily: 10 EUR a day from 2026-01-05T00:00:00+00:00 on, split over 3 partitions"
    records = [record for [record] in shop.records()]
    assert [record["amount"] for record in records] == ["3.333333", "3.333333", "3.333334"]
    for record in records:
        del record["amount"]
        assert record == {
            "kind": "grant",
            "effective_at": "2026-01-05T00:00:00.000Z",
            "budget_id": "daily",
            "period": "day",
            "currency": "EUR",
            "shadow_price": "0.5",
        }


def test_a_campaign_is_granted_once_until_its_end(shop):
    shop.says("grant", "daily", "--amount", "30", "--period", "campaign", "--until", "2026-02-01T00:00:00Z", "--at", AT)
    for [record] in shop.records():
        assert (record["amount"], record["period"]) == ("10", "campaign")
        assert record["until"] == "2026-02-01T00:00:00.000Z"


def test_a_grant_of_less_than_a_contact_in_each_partition_is_refused_unless_it_is_forced(shop):
    told = shop.says("grant", "daily", "--amount", "0.029", "--at", AT, code=2)
    assert (
        "amount = 0.029 EUR: over 3 partitions that is less than one contact in each, and the cheapest, letter by "
        "email, costs 0.01: allowed is 0.03 or more, or --force" in told
    )
    assert shop.records() == [[], [], []]
    shop.says("grant", "daily", "--amount", "0.03", "--at", AT)
    shop.says("grant", "daily", "--amount", "0.029", "--at", AT, "--force")
    assert [len(of_one) for of_one in shop.records()] == [2, 2, 2]


@pytest.mark.parametrize("budget", ["weekly", "badges"])
def test_a_grant_that_no_play_pays_with_is_refused(shop, budget):
    told = shop.says("grant", budget, "--amount", "10", "--at", AT, code=2)
    assert f"budget = '{budget}': no play pays with it; allowed are daily, or --force" in told
    assert shop.records() == [[], [], []]


def test_an_amount_that_is_none_is_refused(shop):
    assert "amount: a finite number or decimal" in shop.says("grant", "daily", "--amount", "lots", "--at", AT, code=2)


def test_a_play_is_approved_where_it_waits_for_it(shop):
    shop.says("approve", "letter", "--at", AT, "--until", "2026-02-01T00:00:00Z")
    assert shop.everywhere() == {
        "kind": "approve",
        "effective_at": "2026-01-05T00:00:00.000Z",
        "play": "letter",
        "until": "2026-02-01T00:00:00.000Z",
    }


def test_a_play_that_does_not_wait_cannot_be_approved(shop):
    told = shop.says("approve", "badge", "--at", AT, code=2)
    assert "play = 'badge': allowed are those that wait for an approval: letter" in told
    shop.playbook.write_text(PLAYBOOK.format(approval="false"))
    assert "none does" in shop.says("approve", "letter", "--at", AT, code=2)
    assert shop.records() == [[], [], []]


@pytest.mark.parametrize("word", ["stop", "resume"])
def test_stop_and_resume_act_when_they_are_read(shop, word):
    shop.says(word)
    record = shop.everywhere()
    assert record["kind"] == word
    assert "effective_at" not in record


def test_a_playbook_is_adopted_for_all_or_for_some(shop):
    version = load(shop.playbook).version
    told = shop.says("adopt-playbook", shop.playbook, "--at", AT, "--share", "0.1")
    assert told == f"{version} holds for 10% of the users from 2026-01-05T00:00:00+00:00 on, in 3 partitions"
    record = shop.everywhere()
    assert (record["version"], record["share"]) == (version, 0.1)
    shop.says("adopt-playbook", shop.playbook, "--at", AT)
    assert all("share" not in last for [_, last] in shop.records())


@pytest.mark.parametrize("share", ["0", "1.5", "-0.1"])
def test_a_share_of_nobody_or_of_more_than_all_is_refused(shop, share):
    told = shop.says("adopt-playbook", shop.playbook, "--at", AT, "--share", share, code=2)
    assert "allowed is above 0, up to 1" in told
    assert shop.records() == [[], [], []]


def test_nothing_is_written_where_the_topic_has_other_partitions(shop):
    told = shop.says("stop", code=2, RECALL_PARTITIONS="4")
    assert "topic control: 3 partitions; allowed is 4, as RECALL_PARTITIONS says" in told
    assert shop.records() == [[], [], []]


def test_a_partition_that_does_not_take_the_record_is_named(shop, embedded, monkeypatch):
    monkeypatch.setattr(control, "TIMEOUT_S", 5.0)
    produce, topic_authorization_failed = 0, 29
    embedded.answer_next(produce, *[(topic_authorization_failed, 0)] * PARTITIONS)
    assert "control[" in shop.says("stop", code=2)


# -- the amounts -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**12), st.integers(1, 64))
def test_the_partitions_together_are_granted_the_amount(amount, partitions):
    records = [json.loads(raw) for raw in Grant("daily", amount).records(0, "EUR", partitions)]
    shares = [micros(record["amount"]) for record in records]
    assert sum(shares) == amount
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("text", ["", "daily", "=3", "daily=", "daily=x", "daily=1:x", "daily=-1", "daily=1:2:3"])
def test_a_grant_that_cannot_be_read_is_refused(text):
    with pytest.raises(GrantError, match="allowed is BUDGET=AMOUNT"):
        Grant.of(text)


def test_a_grant_is_read_with_its_shadow_price():
    assert Grant.of("winter=2.5:1.2") == Grant("winter", 2_500_000, "day", None, Decimal("1.2"))


def test_the_default_playbook_can_be_granted_to():
    config = settings.load()
    grants.check(Grant.of("daily=100"), [load(DEFAULT_PLAYBOOK)], config.currency, config.partitions)
    assert micros_text(Grant.of("daily=100").amount) == "100"


# -- a running worker --------------------------------------------------------------------------------------------------


def test_a_running_worker_stops_and_goes_on_within_seconds_and_takes_grants(embedded, tmp_path):
    for name, partitions in EVERY_TOPIC.items():
        embedded.create_topic(name, partitions)
    bench = Bench(embedded.address, tmp_path)
    bench.feed()
    with bench.worker() as worker:
        bench.wait(lambda: 'recall_stopped{partition="3"} 0.0' in worker.get("/metrics")[1], worker)

        def says(*arguments, shows):
            done = CliRunner().invoke(
                app, [*arguments], env={"RECALL_BROKER": embedded.address, "RECALL_PARTITIONS": "4"}
            )
            assert done.exit_code == 0, done.output
            for number in range(4):
                line = shows.format(partition=f'partition="{number}"')
                bench.wait(lambda line=line: line in worker.get("/metrics")[1], worker, timeout_s=10)

        says("stop", shows="recall_stopped{{{partition}}} 1.0")
        says("resume", shows="recall_stopped{{{partition}}} 0.0")
        granted = 'recall_budget_granted{{budget="daily",{partition},period="day"}} 25.0'
        says("grant", "daily", "--amount", "100", "--at", "2025-02-01T00:00:00Z", shows=granted)
        assert worker.status("/ready") == 200
        assert stop(worker.process) == 0
