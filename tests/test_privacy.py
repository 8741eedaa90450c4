"""What the law asks: access to everything that is kept, erasure that nothing brings back, no profile against a wish."""

import json

import pytest
from bench import Bench
from customers import SmallShop, later, scorer
from live import EVERY_TOPIC, stop
from typer.testing import CliRunner

from worker.cli import app
from worker.inquiry import kept
from worker.partitioner import Partitioner
from worker.recall import explanation, export
from worker.recall.profile import Account, Profile, Taste

TOKEN = "a-token-of-the-test"
MODELS = {(30, 7): scorer()}


def exported(shop, user):
    return export.export(shop.customers, kept(shop.partition, shop.customers, user.encode()))


def explained(shop, user):
    return explanation.explain(shop.customers, kept(shop.partition, shop.customers, user.encode()))


def recall(*arguments, code=0, **environment):
    done = CliRunner().invoke(app, [*map(str, arguments)], env=environment)
    assert done.exit_code == code, done.output
    return done.output


def ann(shop):
    """Let Ann buy weekly, look at things, say what she wants, and be touched."""
    shop.buys_weekly("ann", "2025-01-06")
    shop.does("ann", "2025-02-10T10:10", "Product Added to Wishlist", product_id="p9", price=12.5)
    shop.says("ann", "2025-02-10T11:00", consent={"email": {"marketing": True}}, timezone="Europe/Paris")
    return shop


def touched(shop, user="ann"):
    """Let a user who buys weekly stay away until he is touched; return the command."""
    last = shop.buys_weekly(user, "2025-01-06")
    for day in range(1, 90):
        shop.tick(later(last, days=day))
        if shop.commands(user):
            return shop.commands(user)[0]
    raise AssertionError("nobody was touched within 90 days")


# -- access ------------------------------------------------------------------------------------------------------------


def test_everything_that_is_kept_is_exported_by_name():
    """Every field of the row, of its sealed parts too; what is packed is unpacked."""
    shop = ann(SmallShop())
    told = exported(shop, "ann")
    packed = {"sealed", "sealed_taste", "history", "today", "yesterday"}
    assert told["profile"].keys() >= set(Profile.__struct_fields__) - packed
    assert told["account"].keys() >= set(Account.__struct_fields__) - {"displaced"}
    assert told["taste"].keys() == set(Taste.__struct_fields__)
    assert told["profile"]["key"] == "ann"
    assert told["profile"]["tier"] == "high"
    assert told["account"]["spent"] == "750.00"
    assert told["account"]["consent"] == {"email:marketing": True}
    assert told["account"]["first_order_at"] == "2025-01-06T00:00:00.000Z"
    assert told["account"]["weeks"][0] == {
        "from": "2025-01-06",
        "orders": 1,
        "revenue": "150.00",
        "refunds": "0.00",
    }
    assert told["taste"]["wishes"] == [{"product": "p9", "price": "12.50"}]
    [day] = [day for day in told["profile"]["days"] if day["day"] == "2025-02-10"]
    assert day["wishlist"] == 1
    assert [day["half_hours"] for day in told["profile"]["open_days"]] == [[], ["10:00"]]
    json.dumps(told)


def test_what_was_seen_for_the_model_is_exported_with_what_it_said():
    shop = SmallShop(models=MODELS)
    shop.steers("adopt_snapshot", effective_at="2025-01-01", horizon_days=30, version=7)
    shop.buys_weekly("ann", "2025-01-06")
    told = exported(shop, "ann")
    assert len(told["sightings"]) == len(told["account"]["pending"]["30"]) > 0
    [first, *_] = told["sightings"]
    assert first["day"] == told["account"]["pending"]["30"][0]
    assert first["forecasts"]["30"]["version"] == 7
    assert first["features"]


def test_a_touch_is_exported_with_what_was_heard_of_it():
    shop = SmallShop()
    command = touched(shop)
    channel = command["delivery"]["channel"]
    shop.hears("ann", later(shop.clock, hours=1), "delivered", command["command_id"], channel)
    [contact] = exported(shop, "ann")["account"]["contacts"]
    assert contact["play"] == command["action"]["play"]
    assert contact["heard"] == ["delivered"]


# -- erasure -----------------------------------------------------------------------------------------------------------


def test_after_erasure_nothing_is_known_and_nothing_brings_it_back():
    shop = ann(SmallShop(models=MODELS))
    shop.says("ann", "2025-02-11", erase=True)
    for told in (exported(shop, "ann"), explained(shop, "ann")):
        assert {name for name in told if name not in {"user_id", "as_of", "partition"}} == {"erased"}
        assert told["erased"] is True
    assert not shop.attached()
    row = shop.rows[b"ann"]
    shop.buys_weekly("ann", "2025-03-01")
    shop.says("ann", "2025-04-01", consent={"email": {"marketing": True}})
    assert shop.rows[b"ann"][-20:] == row[-20:]
    assert exported(shop, "ann")["erased"] is True


def test_erasure_calls_back_what_is_under_way():
    shop = SmallShop()
    command = touched(shop)
    shop.says("ann", later(shop.clock, hours=1), erase=True)
    assert shop.cancellations("ann") == [(command["command_id"], "erased")]


def test_who_does_not_want_a_profile_is_not_scored_nor_told_of_as_if():
    shop = ann(SmallShop(models=MODELS))
    shop.steers("adopt_snapshot", effective_at=shop.clock, horizon_days=30, version=7)
    assert explained(shop, "ann")["risk"] is not None
    shop.says("ann", "2025-02-11", opt_out_profiling=True)
    told = explained(shop, "ann")
    assert told["risk"] is None
    assert told["value"]["ltv"] is None
    assert told["reach"]["forbidden"] == "profiling opt-out"
    assert not shop.attached()
    assert not [one for one in told["next"] if one["outcome"] == "sent"]


# -- a running worker --------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(embedded, tmp_path):
    for name, partitions in EVERY_TOPIC.items():
        embedded.create_topic(name, partitions)
    return Bench(embedded.address, tmp_path)


def test_a_user_is_exported_with_what_the_topics_hold_and_erased(bench):
    users = sorted(bench.feed())
    user, other = users[:2]
    with bench.worker(explain_token=TOKEN) as worker:
        url = f"http://localhost:{worker.port}"
        operator = {"RECALL_EXPLAIN_TOKEN": TOKEN, "RECALL_BROKER": bench.config.broker, "RECALL_PARTITIONS": "4"}
        page = f"/export/{user}"

        def answer():
            return worker.get(page, Authorization=f"Bearer {TOKEN}")

        bench.wait(lambda: answer()[0] == 200, worker)
        bench.wait(lambda: '"orders": 0' not in answer()[1], worker)
        told = json.loads(recall("export", user, "--topics", "--url", url, **operator))
        assert told["topics"]["orders"]
        held = [record["value"] for topic in ("orders", "clickstream") for record in told["topics"][topic]]
        of_user = {value["userId"] for value in held if isinstance(value, dict) and "userId" in value}
        assert of_user == {user}
        assert f"written: profiles[{Partitioner(4).of(user.encode())}]" in recall("erase", user, "--yes", **operator)
        bench.wait(lambda: json.loads(answer()[1]).get("erased"), worker)
        kept_of_other = json.loads(recall("export", other, "--url", url, **operator))
        assert kept_of_other["profile"]["key"] == other
        assert stop(worker.process) == 0


def test_erasure_asks_first(embedded):
    embedded.create_topic("profiles", 4)
    done = CliRunner().invoke(app, ["erase", "ann"], input="n\n", env={"RECALL_BROKER": embedded.address})
    assert done.exit_code == 1
    assert "Erase everything that is kept of ann" in done.output


@pytest.mark.parametrize("user", ["\0partition", "x" * 257])
def test_what_can_be_no_users_id_is_not_erased(user, embedded):
    embedded.create_topic("profiles", 4)
    told = recall("erase", user, "--yes", code=2, RECALL_BROKER=embedded.address)
    assert "allowed is an id of 1 to 256 characters" in told
    assert user not in told
