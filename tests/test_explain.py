"""What a worker and a replay say of one user: who may ask, what is known, what was decided and what comes next."""

import asyncio
import json
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application
from bench import Bench
from customers import SmallShop, later, playbook, scorer
from live import EVERY_TOPIC, stop
from typer.testing import CliRunner

from worker import settings
from worker.cli import app
from worker.console import COLUMNS, make_console
from worker.inquiry import Asker, Door, Pages, kept
from worker.partitioner import Partitioner
from worker.recall import explanation
from worker.recall.profile import DECISIONS_KEPT
from worker.settings import SettingsError
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources import history
from worker.told import explanation as layout

TOKEN = "a-token-of-the-test"
MODELS = {(30, 7): scorer()}


def explained(shop, user):
    return explanation.explain(shop.customers, kept(shop.partition, shop.customers, user.encode()))


# -- who may ask -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "host", "status"),
    [
        ("127.0.0.1", "localhost", None),
        ("127.3.2.1", "127.0.0.1", None),
        ("::1", "::1", None),
        ("10.0.0.7", "localhost", 403),
        ("127.0.0.1", "evil.example", 403),
        ("127.0.0.1", "", 403),
        ("::ffff:10.0.0.7", "localhost", 403),
        ("somewhere", "localhost", 403),
        (None, "localhost", 403),
    ],
)
def test_without_a_token_this_machine_may_ask_by_its_own_name(remote, host, status):
    refused = Door(None).refuses(Asker(remote, host, f"Bearer {TOKEN}"))
    assert (refused and refused[0]) == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", None),
        ("", 401),
        (TOKEN, 401),
        (f"Bearer {TOKEN} ", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer \udcff", 401),
        (f"Basic {TOKEN}", 401),
    ],
)
@pytest.mark.parametrize("remote", ["127.0.0.1", "10.0.0.7"])
def test_with_a_token_whoever_has_it_may_ask_and_nobody_else(authorization, status, remote):
    refused = Door(TOKEN).refuses(Asker(remote, "localhost", authorization))
    assert (refused and refused[0]) == status
    assert refused is None or TOKEN not in refused[1]


def test_a_short_token_is_refused_and_not_repeated():
    with pytest.raises(SettingsError) as refused:
        settings.load(explain_token="short-secret")
    assert "explain_token" in str(refused.value)
    assert "short-secret" not in str(refused.value)
    assert TOKEN not in repr(settings.load(explain_token=TOKEN))


# -- pages -------------------------------------------------------------------------------------------------------------


def lane(number, work):
    return SimpleNamespace(number=number, work=work, group=SimpleNamespace(has_rows=True))


def asked(shop, lanes, *paths, partitions=4, **headers):
    """Return (status, what is said) of pages asked for from this machine."""

    async def ask():
        pages = Application()
        for _ in range(2):  # as Faust's command line does
            Pages(lanes, shop.customers, settings.load(partitions=partitions)).add(pages)
        async with TestClient(TestServer(pages)) as client:
            answers = [await client.get(path, headers=headers) for path in paths]
            return [(answer.status, await answer.json()) for answer in answers]

    return asyncio.run(ask())


def user_of(partition, but=None):
    """Return a user of a partition, of four."""
    partitioner = Partitioner(4)
    users = (f"user-{n}" for n in range(100))
    return next(user for user in users if user != but and partitioner.of(user.encode()) == partition)


def test_the_worker_that_has_the_partition_answers_and_another_one_names_it():
    shop, user = SmallShop(), user_of(0)
    shop.buys_weekly(user, "2025-03-01")
    known, unknown, elsewhere, opening = asked(
        shop,
        [lane(0, shop.partition), lane(2, None)],
        *(f"/explain/{one}" for one in (user, user_of(0, but=user), user_of(1), user_of(2))),
    )
    assert known == (200, json.loads(json.dumps(explained(shop, user))))
    assert unknown == (404, {"reason": "partition 0 knows no such user"})
    assert elsewhere[0] == 404
    assert elsewhere[1]["reason"].startswith("partition 1 has the user, and this worker does not")
    assert opening == (503, {"reason": "partition 2 is on its way: ask again"})


def test_the_streams_own_keys_are_no_users():
    shop = SmallShop()
    shop.buys_weekly("ann", "2025-03-01")
    assert b"\x00partition" in shop.rows
    [answer] = asked(shop, [lane(0, shop.partition)], "/export/%00partition", partitions=1)
    assert answer == (404, {"reason": "partition 0 knows no such user"})


@pytest.mark.parametrize("user", ["a/b c", "ü?x=1", "100%"])
def test_any_id_of_a_user_can_be_asked_for(user):
    shop = SmallShop()
    shop.buys_weekly(user, "2025-03-01")
    [(status, told)] = asked(shop, [lane(0, shop.partition)], f"/explain/{quote(user, safe='')}", partitions=1)
    assert (status, told["user_id"]) == (200, user)


def test_a_refusal_says_nothing_of_users():
    shop, user = SmallShop(), user_of(0)
    shop.buys_weekly(user, "2025-03-01")
    for page in ("explain", "export"):
        [(status, told)] = asked(shop, [lane(0, shop.partition)], f"/{page}/{user}", Host="evil.example")
        assert status == 403
        assert user not in json.dumps(told)


# -- what is told ------------------------------------------------------------------------------------------------------


def months(shop, user="ann", days=120):
    """Let a user who has bought weekly stay away, and the days pass."""
    last = shop.buys_weekly(user, "2025-01-06")
    for day in range(1, days + 1):
        shop.tick(later(last, days=day))
        yield day


def test_it_is_told_what_the_user_is_worth_and_how_he_came_there():
    shop = SmallShop(models=MODELS)
    shop.steers("adopt_snapshot", effective_at="2025-01-01", horizon_days=30, version=7)
    shop.buys_weekly("ann", "2025-01-06")
    shop.does("ann", "2025-02-03T10:00", "Product Viewed", product_id="p1", category="tea", price=20)
    told = explained(shop, "ann")
    value = told["value"]
    assert (value["tier"], value["core"], value["orders"]) == ("high", True, 5)
    assert value["scores"] == {"r": 5, "f": 4, "m": 4}
    assert value["rfm"] == {"r_days": 0, "f_orders": 5, "m": "750.00"}
    assert (value["aov"], value["currency"]) == ("150.00", "EUR")
    assert value["ltv"] is not None
    assert told["risk"]["model_version"] == 7
    assert told["risk"]["top_factors"]
    moves = [(move["from_tier"], move["to_tier"], move["cause"]) for move in told["moves"]]
    assert moves == shop.moves("ann") == [("new", "potential", "order"), ("potential", "high", "order")]


def test_the_last_decisions_are_told_as_they_were_recorded():
    shop = SmallShop()
    for _ in months(shop):
        pass
    recorded = shop.of("recall-decisions", "ann")
    assert recorded
    remembered = explained(shop, "ann")["decided"]
    assert len(remembered) == min(len(recorded), DECISIONS_KEPT)
    for one, decision in zip(reversed(remembered), reversed(recorded), strict=False):
        assert one["at"] == decision["at"]
        assert (one["outcome"], one["reason"], one["play"]) == (
            decision["outcome"],
            decision["reason"],
            decision["play"],
        )


def test_by_what_a_user_may_be_reached_is_told_with_the_reason():
    shop = SmallShop(playbook(consent={"unknown": "deny"}))
    shop.buys_weekly("ann", "2025-01-06")
    shop.says("ann", "2025-02-04", consent={"email": {"marketing": True}, "push": {"marketing": False}})
    reach = explained(shop, "ann")["reach"]
    assert reach["forbidden"] is None
    assert reach["channels"]["email"] == "yes"
    assert {reach["channels"][channel] for channel in ("in_app", "push", "sms", "human")} == {"no consent"}
    shop.says("ann", "2025-02-05", excluded=True)
    assert explained(shop, "ann")["reach"]["forbidden"] == "excluded"


def test_to_explain_changes_nothing():
    shop = SmallShop(models=MODELS)
    shop.steers("adopt_snapshot", effective_at="2025-01-01", horizon_days=30, version=7)
    for _ in months(shop):
        before = dict(shop.rows), shop.partition.shared
        explained(shop, "ann")
        assert (shop.rows, shop.partition.shared) == before


@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_is_foreseen_is_what_comes_if_nothing_else_happens(granted, share):
    """At each day of an absence: the next decision, its command with it, is the one that then is recorded."""
    shop = SmallShop(playbook(holdout={"share": share}))
    shop.tick("2025-01-01")
    if granted:
        fields = {"budget_id": "daily", "amount": "100", "currency": "EUR", "shadow_price": "0"}
        shop.steers("grant", effective_at=shop.clock, **fields)
    foreseen = [(len(shop.of("recall-decisions", "ann")), explained(shop, "ann")["next"]) for _ in months(shop)]
    recorded = shop.of("recall-decisions", "ann")
    commands = {command["command_id"]: command for command in shop.commands("ann")}
    names = ("at", "outcome", "reason", "play", "channel", "text")
    compared = 0
    for before, ahead in foreseen:
        for told, decision in zip(ahead, recorded[before:], strict=False):
            assert {name: told[name] for name in names} == {name: decision.get(name) for name in names}
            assert told["command"] == commands.get(decision["command_id"] if told["command"] else None)
            compared += 1
    assert compared > 20
    assert any(told["outcome"] == "sent" for _, ahead in foreseen for told in ahead) or share


def test_a_timer_that_raises_is_told_and_breaks_nothing(monkeypatch):
    shop = SmallShop()
    shop.buys_weekly("ann", "2025-01-06")

    def fail(*_):
        raise KeyError("ann@example.org")

    monkeypatch.setattr(type(shop.customers), "wake", fail)
    [told] = explained(shop, "ann")["next"]
    assert (told["outcome"], told["reason"]) == ("raises", "KeyError")
    assert "example.org" not in json.dumps(told)


def test_the_form_for_a_terminal_has_all_of_it_in_80_columns():
    shop = SmallShop(models=MODELS)
    shop.steers("adopt_snapshot", effective_at="2025-01-01", horizon_days=30, version=7)
    shop.says("ann", "2025-01-02", timezone="Europe/Paris", points=120, points_expire_at="2025-12-31T00:00:00Z")
    for day in months(shop):
        if day % 7:
            continue
        lines = shown(explained(shop, "ann"))
        assert max(map(len, lines)) <= COLUMNS
    text = "\n".join(lines)
    assert "ann, partition 0, as of 2025-" in text
    assert "quiet hours of Europe/Paris" in text
    assert "120, until 2025-12-31 00:00" in text
    for label in ("tier", "worth", "risk", "tiers", "reach", "touches", "episode", "decided", "next"):
        assert [line for line in lines if line.startswith(label)], label
    shop.says("ann", shop.clock, erase=True)
    assert "nothing is kept of him" in "\n".join(shown(explained(shop, "ann")))


def shown(told):
    console = make_console()
    with console.capture() as capture:
        console.print(layout(told))
    return [line.rstrip() for line in capture.get().splitlines()]


# -- a replay ----------------------------------------------------------------------------------------------------------


def test_a_replay_explains_with_every_decision_on_record(tmp_path):
    path = tmp_path / "history.jsonl"
    history.write(path, simulate(users=40, days=150, seed=5))
    options = ["--currency", CURRENCY, "--timezone", TIMEZONE, "--grant", "daily=50"]
    out = tmp_path / "out"
    recall("replay", path, "--out", out, *options)
    recorded = [json.loads(line)["value"] for line in (out / "recall-decisions.jsonl").read_text().splitlines()]
    user = recorded[-1]["user_id"]
    told = json.loads(recall("explain", user, path, *options, "--format", "json"))
    assert told["user_id"] == user
    assert told["decisions"] == [decision for decision in recorded if decision["user_id"] == user]
    assert "decided" in recall("explain", user, path, *options)
    assert "of whom the history tells something" in recall("explain", "nobody", path, *options, code=2)


# -- a running worker --------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(embedded, tmp_path):
    for name, partitions in EVERY_TOPIC.items():
        embedded.create_topic(name, partitions)
    return Bench(embedded.address, tmp_path)


def test_a_running_worker_tells_who_has_the_token_and_logs_no_user(bench, monkeypatch):
    users = bench.feed()
    with bench.worker(explain_token=TOKEN) as worker:
        bench.wait(lambda: worker.status("/ready") == 200, worker)
        page = f"/explain/{min(users)}"
        bench.wait(lambda: worker.get(page, Authorization=f"Bearer {TOKEN}")[0] == 200, worker)
        assert worker.status(page) == 401
        assert worker.status(f"/export/{min(users)}") == 401
        url = f"http://localhost:{worker.port}"
        monkeypatch.setenv("RECALL_EXPLAIN_TOKEN", TOKEN)
        known = [
            user for user in sorted(users) if worker.get(f"/explain/{user}", Authorization=f"Bearer {TOKEN}")[0] == 200
        ]
        assert known
        for user in known:
            said = recall("explain", user, "--url", url)
            assert said.startswith("user ")
            assert user in said
            assert json.loads(recall("export", user, "--url", url))["user_id"] == user
        assert "knows no such user" in recall("explain", "nobody", "--url", url, code=2)
        monkeypatch.setenv("RECALL_EXPLAIN_TOKEN", TOKEN[::-1])
        assert "allowed is the header" in recall("explain", min(users), "--url", url, code=2)
        assert stop(worker.process) == 0
    log = bench.log.read_text()
    assert not [user for user in users if user in log]
    assert TOKEN not in log


def test_where_no_worker_answers_it_is_said():
    assert "no worker answers" in recall("explain", "user-1", "--url", "http://localhost:1", code=69)
    assert "allowed is one that begins with http" in recall("explain", "user-1", "--url", "file:///x", code=2)


def recall(*arguments, code=0):
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    assert max(map(len, done.output.splitlines())) <= COLUMNS or "{" in done.output or code
    return done.output
