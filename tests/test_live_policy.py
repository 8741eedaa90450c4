"""The policy's main scenarios through a live worker: a small shop on Kafka, its operator's commands, its CRM.

Time is the story's: everybody's clock stands still until it is moved on. So what comes of it is known to the
millisecond, and the replay of what the topics hold has to say the same.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from types import SimpleNamespace
from typing import NamedTuple, get_args

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from customers import SALT, later, ms, track
from live import PARTITIONS, ROOT, Progress, Tail, environment, read, stop, wait_until, worker
from points import Fault
from typer.testing import CliRunner

from schemas.topics import SOURCE_TOPICS
from schemas.values import Channel, rfc3339
from worker import asking, cli, control, settings, topics
from worker.partitioner import Partitioner
from worker.recall.days import Days
from worker.recall.playbook import load
from worker.recall.policy.holdout import CONTROL, TREATED, Holdout, uniform
from worker.recall.shop import InForce
from worker.recall.wire import TOPIC_OF
from worker.replay import Replay, by_topic
from worker.settings import DEFAULT_PLAYBOOK
from worker.sources.history import HistoryRecord

pytestmark = pytest.mark.kafka

TOKEN = "a-token-for-the-test"
COMPARED = ("recall", "recall-decisions", "tier-changes")
CRM = """
import datetime, pathlib, runpy, sys
import confluent_kafka

def now_ms():
    return int(pathlib.Path({clock!r}).read_text())

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(now_ms() / 1000, tz)

class Producer(confluent_kafka.Producer):
    def produce(self, *args, **kwargs):
        super().produce(*args, timestamp=now_ms(), **kwargs)

datetime.datetime, confluent_kafka.Producer = Clock, Producer
sys.argv = ["crm.py", *{arguments!r}]
runpy.run_path({crm!r}, run_name="__main__")
"""


def user(name, *, arm=TREATED, canary=None):
    """Return the id of a user who is, or is not, held out, and, where it matters, in the canary of a playbook."""
    book = load(DEFAULT_PLAYBOOK)
    holdout = Holdout(SALT, book.holdout.share, book.holdout.epoch_days)
    day = Days("UTC").of(ms(FALLEN))
    for n in range(1000):
        found = f"{name}-{n}"
        if holdout.arm(found.encode(), day) != arm:
            continue
        if canary is None:
            return found
        version, inside = canary
        if (uniform(SALT, b"canary", version.encode(), found.encode()) < 0.5) == inside:
            return found
    raise AssertionError(f"no such {name}")


class Story:
    """A shop on Kafka; what is written bears the story's time."""

    def __init__(self, config, folder, monkeypatch):
        self.config, self.folder, self.log = config, folder, folder / "log"
        self.clock = folder / "clock"
        self.process = None
        self.now = 0
        self._messages = 0
        self._producer = Producer({"bootstrap.servers": config.broker, "log_level": 2, "enable.idempotence": True})
        self._partitioner = Partitioner(PARTITIONS)
        self._ends = Consumer({"bootstrap.servers": config.broker, "group.id": "ends", "log_level": 2})
        self.progress = Progress(config.broker)
        self.tails = {topic: Tail(config.broker, topic) for topic in ("recall", "recall-decisions", "feedback")}
        wall = SimpleNamespace(time_ns=lambda: self.now * 1_000_000, monotonic=time.monotonic)
        monkeypatch.setattr(control, "time", wall)
        monkeypatch.setattr(asking, "time", wall)

    def close(self):
        for tail in self.tails.values():
            tail.close()
        self.progress.close()
        self._ends.close()

    # -- what happens --------------------------------------------------------------------------------------------------

    def move_to(self, date):
        """Move everybody's clock, but for the worker's, who goes by what it reads."""
        assert ms(date) >= self.now
        self.now = ms(date)
        written = self.clock.with_suffix(".new")
        written.write_text(str(self.now))
        written.rename(self.clock)

    def own_address(self):
        """Return an address of this machine by which others reach it; None where it has none."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("198.51.100.1", 9))  # nothing is sent
            address = probe.getsockname()[0]
            return None if address.startswith("127.") else address
        return None

    def does(self, who, event, **properties):
        record = track(who, self.now, event, message=self._message(), **properties)
        self.write(TOPIC_OF[event], who, record)

    def views(self, who):
        self.does(who, "Product Viewed", product_id="p1", category="shoes", price=20)

    def orders(self, who, revenue):
        products = [{"product_id": "p1", "category": "shoes"}]
        order = f"order {who} {self.now}"
        self.does(who, "Order Completed", order_id=order, revenue=revenue, currency="EUR", products=products)

    def says(self, who, **fields):
        record = {"type": "profile", "messageId": self._message(), "userId": who, "timestamp": rfc3339(self.now)}
        self.write("profiles", who, record | fields)

    def prices(self, product, price, **fields):
        record = {"product_id": product, "effective_at": rfc3339(self.now), "price": price, "category": "shoes"}
        self.write("catalog", product, record | fields)

    def moves_on(self, date):
        """Let the worker know what time it is."""
        self.move_to(date)
        for number in range(PARTITIONS):
            self._produce("control", number, None, {"kind": "tick", "at": rfc3339(self.now)})
        assert self._producer.flush(30) == 0

    def tick(self, date):
        """Let time pass, and wait until the worker has done all that was due."""
        self.moves_on(date)
        self.settle()

    def write(self, topic, key, value):
        number = 0 if topic == "catalog" else self._partitioner.of(key.encode())
        self._produce(topic, number, key, value)

    def _produce(self, topic, number, key, value):
        self._producer.produce(topic, orjson.dumps(value), key, partition=number, timestamp=self.now)
        self._producer.poll(0)

    def _message(self):
        self._messages += 1
        return f"message {self._messages}"

    def settle(self):
        """Wait until the worker has committed all that lies on its topics."""
        assert self._producer.flush(30) == 0
        if self.process is None:
            return
        ends = {
            (topic, number): self._ends.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
            for topic in SOURCE_TOPICS
            for number in range(PARTITIONS)
        }
        wait_until(lambda: self.has_read(ends), self.process, self.log)
        self.poll()

    def poll(self):
        """Take what has been committed."""
        for tail in self.tails.values():
            tail.poll(0.05)

    def has_read(self, ends):
        self.progress.clocks()
        records = self.progress._records
        return all(
            number in records and records[number].offsets.get(topic, 0) >= end
            for (topic, number), end in ends.items()
            if end
        )

    # -- who else is there ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def worker(self, fault=None, **extra):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        env = environment(self.config, self.config.broker, self.folder, web_port=self.port, **extra)
        with worker(env, self.log, fault=fault) as process:
            self.process = process
            try:
                yield process
            finally:
                self.process = None

    @contextlib.contextmanager
    def crm(self):
        """Run the example of a CRM by the story's clock."""
        arguments = ["--broker", self.config.broker, "--respond", "0", "--inbox", str(self.folder / "crm.sqlite")]
        program = CRM.format(clock=str(self.clock), arguments=arguments, crm=str(ROOT / "scripts" / "crm.py"))
        with (self.folder / "crm.log").open("wb") as out:
            process = subprocess.Popen([sys.executable, "-u", "-c", program], stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def crm_answers(self, crm):
        """Wait until the CRM has told of every command, and the worker has heard of it."""

        def told():
            self.poll()
            heard = {orjson.loads(message.value())["command_id"] for message in self.tails["feedback"].found}
            return {command["command_id"] for command in self.commands()} <= heard

        wait_until(told, crm, self.folder / "crm.log", timeout_s=60)
        self.settle()

    def recall(self, *arguments, code=0, **extra):
        """Run a command of the operator's, as on his command line; return what it says."""
        env = environment(self.config, self.config.broker, self.folder, **extra)
        done = CliRunner().invoke(cli.app, [*map(str, arguments)], env=env)
        assert done.exit_code == code, done.output
        return done.output

    def asked(self, page, *, host="127.0.0.1", **headers):
        """Return the status and the body of a page of the worker."""
        request = urllib.request.Request(f"http://{host}:{self.port}{page}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, orjson.loads(error.read())

    # -- what came of it -----------------------------------------------------------------------------------------------

    def of(self, topic, who=None):
        return [
            orjson.loads(message.value())
            for message in self.tails[topic].found
            if who is None or message.key() == who.encode()
        ]

    def commands(self, who=None):
        return [value for value in self.of("recall", who) if "action" in value]

    def touches(self, who):
        """Return (when, play, template, channel) of what was sent."""
        return [
            (command["issued_at"][5:16], command["action"]["template"], command["delivery"]["channel"])
            for command in self.commands(who)
        ]

    def cancelled(self, who):
        return [value["reason"] for value in self.of("recall", who) if "action" not in value]

    def decisions(self, who, since="2025-03-01"):
        return [
            (value["at"][5:16], value["outcome"], value["reason"], value["play"])
            for value in self.of("recall-decisions", who)
            if value["at"] >= since
        ]


DEFAULT_AT, SECOND_AT = "2025-03-20T00:00:00Z", "2025-04-11T00:00:00Z"
FALLEN = "2025-04-04T11"
"""When is decided on whoever did nothing since the third of February."""


class People(NamedTuple):
    """Who shops here. The first seven ordered every week and were `high`; cora alone still looks around."""

    cora: str
    hugo: str
    hana: str
    otto: str
    ursula: str
    erin: str
    quinn: str
    holly: str
    nora: str
    mia: str
    carl: str
    cleo: str
    stella: str
    rhea: str
    lou: str


@pytest.fixture
def playbooks(tmp_path):
    """The default playbook, where the e-mail of memories waits for approval, and a second one that words it anew."""
    default, second, text = tmp_path / "default.toml", tmp_path / "second.toml", DEFAULT_PLAYBOOK.read_text()
    default.write_text(text.replace('name = "memory-email"\n', 'name = "memory-email"\napproval = true\n'))
    second.write_text(text.replace('name = "default"', 'name = "second"').replace("memory-of-fav", "retold-fav"))
    assert load(default).play("memory-email").approval
    assert load(second).play("memory-email").template == "retold-favourites"
    return default, second


@pytest.fixture
def story(fresh_kafka, playbooks, tmp_path, monkeypatch):
    default, second = playbooks
    config = settings.load(
        broker=fresh_kafka.bootstrap,
        currency="EUR",
        timezone="UTC",
        playbook=default,
        earlier_playbooks=(second,),
        live_from="2025-03-01T00:00:00Z",
        clock="recorded",
        salt=SALT,
    )
    topics.create(config)
    story = Story(config, tmp_path, monkeypatch)
    yield story
    story.close()


def before_it_is_live(story, second):
    """Let all that lies on the topics when the worker starts; return whose lives these are."""
    version = InForce.of(load(second), story.config.shop()).version
    names = {name: user(name) for name in People._fields}
    names |= {"holly": user("holly", arm=CONTROL)}
    names |= {"carl": user("carl", canary=(version, True)), "cleo": user("cleo", canary=(version, False))}
    people = People(**names)
    consent = {channel: {"marketing": True} for channel in get_args(Channel)}
    plan = [("2025-01-02", story.says, who, {"consent": consent}) for who in people]
    plan.append(("2025-01-03", story.says, people.quinn, {"timezone": "America/New_York"}))
    for who in people[: people.index(people.holly) + 1]:
        plan += [(later("2025-01-06T10", days=7 * n), story.orders, who, {"revenue": 150}) for n in range(5)]
    plan += [(later("2025-02-05T10", days=7 * n), story.views, people.cora, {}) for n in range(7)]
    for name, last in {
        "nora": "2025-01-18T10",
        "mia": "2025-02-03T10",
        "carl": "2025-02-11T10",
        "cleo": "2025-02-11T10",
        "stella": "2025-02-13T10",
        "rhea": "2025-02-14T10",
    }.items():
        plan += [(at, story.orders, names[name], {"revenue": 60}) for at in (later(last, days=-7), last)]
    plan.append(("2025-02-03T10", story.orders, people.lou, {"revenue": 20}))
    wish = {"event": "Product Added to Wishlist", "product_id": "p77", "price": 64, "category": "jackets"}
    plan.append(("2025-02-02", story.does, people.hugo, wish))
    plan += [(at, story.prices, "p77", {"price": price}) for at, price in (("2025-01-01", "64"), ("2025-03-01", "48"))]
    for at, happens, who, told in sorted(plan, key=lambda one: ms(one[0])):
        story.move_to(at)
        happens(who, **told)
    story.tick("2025-03-19T12")
    return people


def without_a_grant_nothing_leaves_that_costs_money(story, people):
    story.settle()
    assert story.decisions(people.nora) == [("03-19T11:00", "suppressed", "no budget", "memory-email")]
    assert story.commands() == []
    told = story.recall("grant", "daily", "--amount", 1000, "--at", DEFAULT_AT)
    assert told.startswith("daily: 1000 EUR a day from 2025-03-20")


def a_core_user_who_drops_a_tier_gets_the_care_letter_after_the_quiet_hours(story, people):
    story.tick("2025-03-27T08:59:59")
    assert story.decisions(people.cora)[-1] == ("03-27T00:00", "held", "quiet hours", "care-letter")
    assert story.touches(people.cora) == []
    story.tick("2025-03-27T09:00:00.001")
    assert story.decisions(people.cora)[-1] == ("03-27T09:00", "sent", "sent", "care-letter")
    assert story.touches(people.cora) == [("03-27T09:00", "care-letter-from-product-manager", "email")]
    [letter] = story.commands(people.cora)
    assert letter["reason"]["trigger"] == "tier_drop"
    assert letter["value"]["core"]
    assert letter["action"]["price_incentive"] is None
    # Midnight of the shop is evening in New York.
    assert story.touches(people.quinn) == [("03-27T00:00", "care-letter-from-product-manager", "email")]


def the_silent_get_what_their_potential_is_worth(story, people):
    story.tick("2025-04-04T11:05")
    assert story.touches(people.hugo)[1:] == [("04-04T11:00", "welcome-back", "push")]
    assert story.commands(people.hugo)[-1]["reason"]["potential"] == "high"
    assert story.touches(people.hana)[1:] == [("04-04T11:00", "task-visit-us", "push")]
    assert story.decisions(people.lou) == [("04-04T11:00", "suppressed", "low potential", None)]
    assert story.decisions(people.mia) == [("04-04T11:00", "proposed", "proposed", "memory-email")]
    assert story.decisions(people.quinn)[-1] == ("04-04T11:00", "held", "quiet hours", "habit-task")


def orders_opt_outs_and_erasure_act_at_once(story, people):
    """No tick comes in between."""
    story.move_to("2025-04-04T12")
    story.orders(people.otto, 150)
    story.says(people.ursula, consent={"push": {"marketing": False}})
    begun = time.monotonic()
    assert "is called back" in story.recall("erase", people.erin, "--yes")
    story.settle()
    took = {"erase": time.monotonic() - begun}
    assert story.cancelled(people.otto) == ["ordered"]
    assert story.asked(f"/explain/{people.otto}")[1]["episode"]["ordered_at"] == "2025-04-04T12:00:00.000Z"
    assert story.cancelled(people.ursula) == ["withdrawn"]
    assert story.cancelled(people.erin) == ["erased"]
    assert story.asked(f"/explain/{people.erin}")[1]["erased"]
    return took


def what_waits_for_approval_leaves_once_it_is_given(story, people):
    assert story.touches(people.mia) == []
    assert "may be played" in story.recall("approve", "memory-email", "--at", "2025-04-04T12:05:00Z")
    story.tick("2025-04-04T12:16")
    assert story.touches(people.mia) == [("04-04T12:15", "memory-of-favourites", "email")]


def what_was_held_leaves_when_the_users_quiet_hours_end(story, people):
    story.tick("2025-04-04T12:59:59")
    assert len(story.touches(people.quinn)) == 1
    story.tick("2025-04-04T13:00:01")
    assert story.touches(people.quinn)[1:] == [("04-04T13:00", "task-visit-us", "push")]


def a_habit_task_goes_on_with_what_the_user_does(story, people, crm):
    steps = ["task-visit-us"]
    for at, activity, step in (
        ("2025-04-04T14:00", "Product Viewed", "task-check-in-three-times"),
        ("2025-04-05T10:00", "Checked In", None),
        ("2025-04-05T18:00", "Checked In", None),
        ("2025-04-06T09:30", "Checked In", "task-put-something-in-the-cart"),
    ):
        story.move_to(at)
        fields = {"product_id": "p1", "category": "shoes"} if activity == "Product Viewed" else {}
        story.does(people.hana, activity, **fields)
        story.tick(later(at, minutes=1))
        steps += [step] if step else []
        assert [template for _, template, _ in story.touches(people.hana)[1:]] == steps
        story.crm_answers(crm)
    assert story.decisions(people.hana)[-1] == ("04-06T09:30", "sent", "sent", "habit-task")


def the_next_rung_waits_for_delivery_and_its_time(story, people):
    """The CRM told at 11:05 that the push was delivered; it waits two days, an e-mail four."""
    story.tick("2025-04-06T11:04:59")
    assert len(story.touches(people.hugo)) == 2


def a_worker_killed_in_the_middle_of_a_commit_says_nothing_twice(story, people, process, late):
    late.touch()
    story.moves_on("2025-04-06T11:06")
    assert process.wait(60) == -signal.SIGKILL
    story.poll()
    assert len(story.touches(people.hugo)) == 2


def the_incentive_comes_last(story, people, crm):
    story.settle()
    assert story.touches(people.hugo)[2:] == [("04-06T11:05", "welcome-back", "email")]
    story.crm_answers(crm)
    story.tick("2025-04-10T11:05:59")
    assert len(story.touches(people.hugo)) == 3
    story.tick("2025-04-10T11:06:01")
    assert story.touches(people.hugo)[3:] == [("04-10T11:06", "welcome-back-short", "sms")]
    *before, last = [command["action"]["price_incentive"] for command in story.commands(people.hugo)]
    assert before == [None, None, None]
    assert (last["form"], last["face_value"], last["points"]) == ("amount", "10", 50)


def a_playbook_is_tried_on_some_of_the_users(story, people, second):
    assert "for 50% of the users" in story.recall("adopt-playbook", second, "--at", SECOND_AT, "--share", 0.5)
    story.tick("2025-04-12T11:01")
    assert story.touches(people.carl) == [("04-12T11:00", "retold-favourites", "email")]
    assert story.touches(people.cleo) == [("04-12T11:00", "memory-of-favourites", "email")]


def a_stop_holds_within_seconds_until_it_is_taken_back(story, people):
    story.move_to("2025-04-14T10:59")
    took = {}
    for command in ("stop", "resume"):
        begun = time.monotonic()
        story.recall(command)
        story.settle()
        took[command] = time.monotonic() - begun
        story.tick("2025-04-14T11:01" if command == "stop" else "2025-04-15T11:01")
    assert story.decisions(people.stella) == [("04-14T11:00", "suppressed", "stopped", "memory-email")]
    assert story.decisions(people.rhea) == [("04-15T11:00", "sent", "sent", "memory-email")]
    assert story.touches(people.stella) == []
    return took


def nothing_more_comes_to_who_ordered_opted_out_or_was_never_to_be_disturbed(story, people):
    assert len(story.touches(people.otto)) == len(story.touches(people.ursula)) == len(story.touches(people.erin)) == 2
    assert story.touches(people.lou) == story.touches(people.nora) == []
    assert story.of("recall", people.holly) == []
    shadows = [one for one in story.of("recall-decisions", people.holly) if one["reason"] == "holdout"]
    assert [(one["shadow_play"], one["shadow_outcome"]) for one in shadows if one["at"] > "2025-03-16"] == [
        ("care-letter", "sent"),
        ("habit-task", "sent"),
    ]


def what_is_kept_of_a_user_is_told_on_this_machine(story, people):
    assert story.asked(f"/explain/{people.hugo}")[0] == 200
    assert story.asked(f"/explain/{people.hugo}", Host="shop.example")[0] == 403
    for page in ("explain", "export"):
        assert not story.own_address() or story.asked(f"/{page}/{people.hugo}", host=story.own_address())[0] == 403


def what_is_kept_of_a_user_is_told_to_who_has_the_token(story, people):
    with_token = {"Authorization": f"Bearer {TOKEN}"}
    assert story.asked(f"/explain/{people.hugo}")[0] == 401
    host = story.own_address() or "127.0.0.1"
    assert story.asked(f"/explain/{people.hugo}", host=host)[0] == 401
    status, told = story.asked(f"/explain/{people.hugo}", host=host, **with_token)
    assert (status, told["episode"]["play"], len(told["touches"])) == (200, "comeback-pack", 4)
    url = ("--url", f"http://localhost:{story.port}")
    page = story.recall("explain", people.hugo, *url, explain_token=TOKEN)
    assert "comeback-pack" in page
    assert "high potential" in page or "-> high" in page
    kept = orjson.loads(story.recall("export", people.hugo, "--topics", *url, explain_token=TOKEN))
    assert kept["user_id"] == people.hugo
    assert len(kept["topics"]["recall"]) == len(story.of("recall", people.hugo))


def a_replay_of_what_the_topics_hold_says_the_same(story):
    """Byte for byte, headers and all."""
    records, said, ids = [], Counter(), []
    for topic in ("catalog", *SOURCE_TOPICS):
        for one in read(story.config.broker, topic):
            key = str(one.partition()).encode() if topic == "control" else one.key()
            records.append(HistoryRecord(topic, key, one.timestamp()[1], one.value()))

    def emit(number, output):
        if output.topic in COMPARED:
            said[output.topic, number, output.key, output.value, tuple(output.headers)] += 1

    Replay(story.config, emit).run(by_topic(records))
    lived = Counter()
    for topic in COMPARED:
        for one in read(story.config.broker, topic):
            lived[topic, one.partition(), one.key(), one.value(), tuple(one.headers() or ())] += 1
    assert lived == said
    ids = [dict(headers)["ce_id"] for topic, _, _, _, headers in lived.elements() if topic == "recall"]
    assert len(ids) == len(set(ids)) > 20


@pytest.mark.timeout(400)
def test_the_policys_main_scenarios(story, playbooks, tmp_path):
    """Two lives of one worker: the first ends by SIGKILL, the second knows the second playbook and wants a token."""
    default, second = playbooks
    late = tmp_path / "late"
    people = before_it_is_live(story, second)
    took = {}
    with story.crm() as crm:
        only = {"earlier_playbooks": ""}
        with story.worker(fault=Fault("kill", "after the rows", 1, str(late)), **only) as process:
            without_a_grant_nothing_leaves_that_costs_money(story, people)
            a_core_user_who_drops_a_tier_gets_the_care_letter_after_the_quiet_hours(story, people)
            story.crm_answers(crm)
            the_silent_get_what_their_potential_is_worth(story, people)
            story.crm_answers(crm)
            what_is_kept_of_a_user_is_told_on_this_machine(story, people)
            took |= orders_opt_outs_and_erasure_act_at_once(story, people)
            what_waits_for_approval_leaves_once_it_is_given(story, people)
            what_was_held_leaves_when_the_users_quiet_hours_end(story, people)
            a_habit_task_goes_on_with_what_the_user_does(story, people, crm)
            the_next_rung_waits_for_delivery_and_its_time(story, people)
            a_worker_killed_in_the_middle_of_a_commit_says_nothing_twice(story, people, process, late)
        with story.worker(playbook=second, earlier_playbooks=default, explain_token=TOKEN) as process:
            the_incentive_comes_last(story, people, crm)
            a_playbook_is_tried_on_some_of_the_users(story, people, second)
            story.crm_answers(crm)
            took |= a_stop_holds_within_seconds_until_it_is_taken_back(story, people)
            nothing_more_comes_to_who_ordered_opted_out_or_was_never_to_be_disturbed(story, people)
            what_is_kept_of_a_user_is_told_to_who_has_the_token(story, people)
            assert stop(process) == 0
    a_replay_of_what_the_topics_hold_says_the_same(story)
    assert max(took.values()) < 10, took
