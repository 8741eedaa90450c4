"""The rules over whole histories: what goes out, to whom, when, and that nothing is lost on the way."""

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from functools import cache
from itertools import islice
from typing import Union

import orjson
import pytest
from data import require
from pydantic import TypeAdapter

from schemas.commands import CANCELLATION_TYPE, Cancellation, Command
from schemas.topics import TOPICS
from schemas.values import rfc3339
from worker import demo, settings
from worker.recall.days import DAY_MS, HOUR_MS, SETTLE_MS
from worker.recall.policy.holdout import CONTROL, Holdout
from worker.recall.risk.share import PRIOR
from worker.replay import Replay, by_topic, midnights, tick
from worker.simulate import CURRENCY, TIMEZONE, simulate
from worker.sources import open_source
from worker.sources.history import HistoryRecord
from worker.sources.source import track

START = 1_767_571_200_000  # 2026-01-05T00:00:00Z, a Monday
SILENCE_MS = 60 * DAY_MS


class Result:
    """A replay and all that it put out."""

    def __init__(self, config, records):
        self.outputs = defaultdict(list)
        self.replay = Replay(config, lambda _, output: self.outputs[output.topic].append(output))
        self.replay.run(by_topic(records))
        self.counts = self.replay.counts

    def values(self, topic):
        return [json.loads(output.value) for output in self.outputs[topic]]

    @property
    def commands(self):
        kept = [o for o in self.outputs["recall"] if dict(o.headers)["ce_type"] != CANCELLATION_TYPE.encode()]
        return [json.loads(output.value) for output in kept]

    def drops(self, user):
        return [c for c in self.values("tier-changes") if c["user_id"] == user and c["direction"] == "down"]

    def decisions(self, user):
        return [d for d in self.values("recall-decisions") if d["user_id"] == user]


def ids(result):
    found = [command["command_id"] for command in result.commands]
    assert len(found) == len(set(found)), "an id was given twice"
    return set(found)


def configured(**given):
    base = {
        "currency": "GBP",
        "playbook": demo.PLAYBOOK,
        "partitions": 2,
        "salt": "test",
        "learner": "vectorised",
    }
    return settings.load(**{**base, **given})


def order(user, at, *, recorded_at=None):
    properties = {"order_id": f"{user}-{at}", "revenue": "60.00", "currency": "GBP"}
    record = track("orders", f"{user}-{at}", user=user, at=at, event="Order Completed", properties=properties)
    return record if recorded_at is None else record._replace(recorded_at=recorded_at)


def treated(config, count, at=START):
    """Return users who are not held out."""
    holdout = Holdout(config.salt, 0.1, 182)
    day = config.shop().days.of(at)
    users = (f"user-{n}" for n in range(10_000))
    return list(islice((user for user in users if holdout.arm(user.encode(), day) != CONTROL), count))


def control(kind, recorded_at, **fields):
    return HistoryRecord("control", b"", recorded_at, orjson.dumps({"kind": kind, **fields}))


def ticks(until, every=HOUR_MS):
    """Return the ticks of a recorded history, to every partition."""
    return [HistoryRecord("control", b"", at, tick(at)) for at in range(START, until, every)]


def sorted_by_time(records):
    return sorted(records, key=lambda record: record.recorded_at)


def valid(result):
    """See that every output is what the registry says of its topic."""
    models = {name: TypeAdapter(Union[topic.models]) for name, topic in TOPICS.items()}  # noqa: UP007 - from a tuple
    for topic, outputs in result.outputs.items():
        for output in outputs:
            if topic == "recall":
                cancelled = dict(output.headers)["ce_type"] == CANCELLATION_TYPE.encode()
                (Cancellation if cancelled else Command).model_validate_json(output.value)
            else:
                models[topic].validate_json(output.value)
            if TOPICS[topic].key == "user":
                assert output.key == json.loads(output.value)["user_id"].encode()


# -- Online Retail -----------------------------------------------------------------------------------------------------


@cache
def retail():
    source = open_source(require("online_retail", "online_retail.parquet"))
    return source, list(source.records)


def retail_result(partitions, records, live_from):
    return Result(configured(timezone="Europe/London", live_from=live_from, partitions=partitions), records)


@pytest.mark.data
def test_online_retail_is_accounted_for_to_the_line():
    source, records = retail()
    assert source.accounting.lines == 541_909
    assert source.accounting.lines == source.accounting.carried + sum(source.accounting.left_out.values())
    result = retail_result(4, records, "2011-06-01T00:00:00Z")
    read = sum(n for p in result.replay.partitions for topic, n in p.record.offsets.items() if topic != "control")
    assert read == len(records) == 22_190
    not_applied = {name for name in result.counts if name.startswith(("ignored.", "dead.", "duplicate", "late"))}
    assert not_applied == set()
    valid(result)
    tiers = Counter((change["direction"], change["cause"]) for change in result.values("tier-changes"))
    assert tiers["down", "silence"] > 1000
    assert sum(n for (direction, _), n in tiers.items() if direction == "down") > 3000
    assert len(ids(result)) > 500
    assert result.outputs["churn-model"]
    # Each as many times as counted.
    sent = sum(n for name, n in result.counts.items() if name.startswith("command."))
    assert sent == len(result.commands)
    outcomes = Counter(decision["outcome"] for decision in result.values("recall-decisions"))
    assert outcomes["sent"] == sent
    assert outcomes["suppressed"] == sum(n for name, n in result.counts.items() if name.startswith("suppressed."))


@pytest.mark.data
def test_online_retail_gives_the_same_commands_however_it_is_partitioned():
    _, records = retail()
    until = len(records) // 4
    one, three = (ids(retail_result(n, records[:until], "2011-01-15T00:00:00Z")) for n in (1, 3))
    assert one == three
    assert len(one) > 100


# -- the simulated shop ------------------------------------------------------------------------------------------------

SIMULATED = {"users": 240, "days": 200, "seed": 1}
LIVE_FROM = "2025-05-15T00:00:00.000Z"


@cache
def simulated(partitions, live_from=LIVE_FROM):
    config = settings.load(
        currency=CURRENCY, timezone=TIMEZONE, live_from=live_from, partitions=partitions, salt="test"
    )
    return Result(config, simulate(**SIMULATED))


def test_every_output_is_what_the_contracts_say():
    result = simulated(3)
    assert result.outputs.keys() >= {"recall", "tier-changes", "recall-decisions", "churn-training", "dead-letter"}
    assert any(dict(o.headers)["ce_type"] == CANCELLATION_TYPE.encode() for o in result.outputs["recall"])
    valid(result)


def test_nobody_is_touched_before_the_launch():
    result = simulated(3)
    assert result.commands
    assert min(command["issued_at"] for command in result.commands) >= LIVE_FROM
    reasons = {d["reason"] for d in result.values("recall-decisions") if d["at"] < LIVE_FROM}
    assert "before launch" in reasons
    assert "sent" not in reasons


def test_nobody_of_the_holdout_is_touched():
    result = simulated(3)
    held_out = {d["episode_id"] for d in result.values("recall-decisions") if d["reason"] == "holdout"}
    assert held_out
    assert held_out.isdisjoint(command["episode_id"] for command in result.commands)
    assert {command["experiment"]["arm"] for command in result.commands} == {"treated"}
    shadows = [d for d in result.values("recall-decisions") if d["reason"] == "holdout"]
    assert all(d["arm"] == "control" and d["play"] is None and d["shadow_outcome"] for d in shadows)
    would_be = [d["shadow_play"] for d in shadows if d["shadow_outcome"] == "sent"]
    assert would_be
    assert all(would_be)


@pytest.mark.parametrize("partitions", [1, 4])
def test_partitions_change_no_command(partitions):
    assert ids(simulated(partitions)) == ids(simulated(3))


def test_a_replay_day_by_day_is_the_replay():
    whole = simulated(3)
    records = list(simulate(**SIMULATED))
    outputs = defaultdict(list)
    replay = Replay(whole.replay.settings, lambda _, output: outputs[output.topic].append(output))
    begin = 0
    for midnight in midnights(records[0].recorded_at, replay.customers.shop.days):
        end = bisect_right(records, midnight, begin, key=lambda record: record.recorded_at)
        replay.advance(midnight, records[begin:end])
        begin = end
        if begin == len(records):
            break
    replay.close()
    assert outputs == whole.outputs
    assert dict(replay.rows()) == dict(whole.replay.rows())
    assert replay.counts == whole.counts


@cache
def learned(partitions):
    """Return what the trainers of two horizons published of a shop before its launch, and the last rows."""
    config = settings.load(
        currency=CURRENCY,
        timezone=TIMEZONE,
        live_from="2100-01-01T00:00:00Z",
        partitions=partitions,
        salt="test",
        learner="vectorised",
        horizons_days="14,30",
    )
    result = Result(config, simulate(users=320, days=110, seed=4))
    return [(output.key, json.loads(output.value)) for output in result.outputs["churn-model"]], result


def test_one_partition_learns_what_sixteen_do_bit_for_bit():
    one, sixteen = (
        [(key, orjson.dumps(value | {"resume_offset": 0})) for key, value in learned(partitions)[0]]
        for partitions in (1, 16)
    )
    assert one == sixteen
    last = json.loads(one[-1][1])
    assert (last["horizon_days"], last["learner_share"]) == (30, PRIOR)
    assert last["lifetime"]["histories"] >= 200


def test_one_partition_has_the_same_lessons_as_sixteen():
    """Examples with what was predicted, and summaries; each day is closed once a partition."""
    one, sixteen = (
        Counter(output.value for output in learned(partitions)[1].outputs["churn-training"]) for partitions in (1, 16)
    )
    lessons = {value: n for value, n in sixteen.items() if b'"day_closed"' not in value}
    assert lessons == {value: n for value, n in one.items() if b'"day_closed"' not in value}
    assert len(lessons) > 4000
    assert set(lessons.values()) == {1}
    assert sixteen.total() - len(lessons) == 16 * (one.total() - len(lessons))


def test_what_was_predicted_is_measured_and_better_than_a_constant():
    published, _ = learned(1)
    last = [value for _, value in published if value["kind"] == "snapshot" and value["horizon_days"] == 14][-1]
    figures = last["metrics"]["predictors"]
    assert figures["model"]["log_loss"] < figures["constant"]["log_loss"]


def test_snapshots_of_every_horizon_come_into_force_in_every_partition():
    published, result = learned(16)
    last = {value["horizon_days"]: value["version"] for _, value in published}
    for partition in result.replay.partitions:
        in_force = partition.shared.snapshots
        # The last one may be of a day whose adoption is still to come.
        assert all(last[horizon_days] - version in {0, 1} for horizon_days, version in in_force.items())
        assert set(in_force) == {14, 30}
    assert "example lost" not in result.counts


# -- one user after the other ------------------------------------------------------------------------------------------


def test_a_user_who_stops_drops_when_the_silence_is_long_enough_and_is_touched_when_it_has_settled():
    config = configured()
    user, other = treated(config, 2)
    last = START + 30 * DAY_MS + 10 * HOUR_MS
    orders = [order(user, START + n * 10 * DAY_MS + 10 * HOUR_MS) for n in range(4)]
    goes_on = [order(other, START + n * 5 * DAY_MS) for n in range(24)]
    result = Result(config, sorted_by_time([*orders, *goes_on]))
    [drop] = [change for change in result.drops(user) if change["cause"] == "silence"]
    assert drop["at"] == rfc3339(last + SILENCE_MS)
    assert (drop["to_tier"], drop["fell"]) == ("silent", ["R"])
    [command] = [c for c in result.commands if c["user_id"] == user and c["reason"]["cause"] == "silence"]
    assert command["issued_at"] == rfc3339(last + SILENCE_MS + SETTLE_MS)
    [decision] = [d for d in result.decisions(user) if d["trigger"] == "silence" and d["outcome"] == "sent"]
    assert decision["command_id"] == command["command_id"]
    assert decision["opened_at"] == drop["at"]
    assert not [c for c in result.commands if c["user_id"] == other and c["reason"]["cause"] == "silence"]


def outage(users, *, down, up):
    """Return orders of users who would be silent in the weekend, but for an order that comes to light on Monday."""
    # What the source hands over first when it is up again is new: it brings the clock to Monday.
    records = [order("user-new", up)]
    for n, user in enumerate(users):
        active_at = down - SILENCE_MS + (n + 1) * 2 * HOUR_MS
        records += [order(user, active_at - DAY_MS), order(user, active_at)]
        # The order itself lies before the silence.
        records.append(order(user, down + n * HOUR_MS, recorded_at=up + 1 + n))
    return records


@pytest.mark.parametrize("required", [True, False], ids=["required", "not required"])
def test_a_weekend_without_a_required_source_makes_nobody_silent(required):
    down, up = START + 88 * DAY_MS + 18 * HOUR_MS, START + 91 * DAY_MS + 6 * HOUR_MS  # Friday to Monday
    config = configured(require_heartbeat=["orders"] if required else [], stall_s=3 * 3600, partitions=1)
    *users, gone = treated(config, 9)
    until = up + 10 * DAY_MS
    beats = [
        control("heartbeat", at, source="orders", at=rfc3339(at))
        for at in range(START, until, HOUR_MS)
        if not down <= at < up
    ]
    stops = [order(gone, down - SILENCE_MS - n * DAY_MS + 6 * HOUR_MS) for n in range(2)]
    result = Result(config, sorted_by_time([*outage(users, down=down, up=up), *stops, *beats, *ticks(until)]))
    silent = {c["user_id"]: c["at"] for c in result.values("tier-changes") if c["to_tier"] == "silent"}
    if not required:
        assert len(silent) == len(users) + 1
        return
    assert set(silent) == {gone}
    assert silent[gone] == rfc3339(down + 6 * HOUR_MS), "the event time at which the silence became too long"
    [decision] = [d for d in result.decisions(gone) if d["trigger"] == "silence" and d["outcome"] != "ended"]
    assert decision["at"] >= rfc3339(up + DAY_MS), "a day after the source came back, when what was late is in"
    assert result.counts["silence held"] > 0


@pytest.mark.parametrize("behind", [False, True], ids=["before the ticks of the outage", "behind them"])
def test_what_an_outage_made_stale_is_recorded_and_not_sent(tmp_path, behind):
    """Heartbeats, or ticks that were not read, may lie before `resumed` on the topic: it acts all the same."""
    playbook = tmp_path / "playbook.toml"
    playbook.write_text(demo.PLAYBOOK.read_text().replace("valid_days = 3", "valid_days = 1"))
    config = configured(playbook=playbook)
    stopped = START + 75 * DAY_MS
    wall = stopped + 2 * DAY_MS
    users = treated(config, 24)
    # One falls silent every three hours, from half a day before the outage on.
    orders = [
        order(user, stopped - SILENCE_MS + (n - 4) * 3 * HOUR_MS - back)
        for n, user in enumerate(users)
        for back in (DAY_MS, 0)
    ]
    resumed = control("resumed", wall, at=rfc3339(stopped), wall=rfc3339(wall))
    before = [record for record in ticks(wall + 5 * DAY_MS) if record.recorded_at <= stopped]
    after = [record for record in ticks(wall + 5 * DAY_MS) if record.recorded_at > stopped]
    between = [record for record in after if behind and record.recorded_at <= wall]
    rest = [record for record in after if record not in between]
    granted = {"budget_id": "daily", "amount": "100", "currency": "GBP", "shadow_price": "0"}
    grant = control("grant", START, effective_at=rfc3339(START), **granted)
    result = Result(config, [grant, *sorted_by_time([*orders, *before, *between]), resumed, *rest])
    decided = {d["user_id"]: d for d in result.values("recall-decisions") if d["outcome"] in {"sent", "suppressed"}}
    assert set(decided) == set(users)
    for decision in decided.values():
        in_outage = rfc3339(stopped) <= decision["at"] < rfc3339(wall - DAY_MS)
        assert (decision["reason"] == "stale") == in_outage, decision
    sent = [c for c in result.commands if c["issued_at"] >= rfc3339(stopped)]
    assert sent
    assert min(command["not_after"] for command in sent) >= rfc3339(wall)
