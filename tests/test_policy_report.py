"""What a replay prints, and its page: every command and decision once, by what it was and what it cost."""

import orjson
import pytest
from test_replay import START, configured, control, order, treated

from schemas.commands import COMMAND_TYPE
from worker.console import COLUMNS, make_console, outcome
from worker.grants import Grant
from worker.policy_report import page
from worker.recall.days import DAY_MS
from worker.replay import Replay, by_topic
from worker.tally import Tally, Touch


def command(n, play="letter", channel="email", potential=None, **cost):
    value = {
        "command_id": f"c{n}",
        "action": {"play": play},
        "delivery": {"channel": channel},
        "reason": {"potential": potential},
        "cost": {"contact": "0", "incentive": "0", "opportunity": "0", "hidden": "0", "currency": "EUR", **cost},
    }
    return "recall", orjson.dumps(value), [("ce_type", COMMAND_TYPE.encode()), ("ce_id", b"c%d" % n)]


def decision(n, outcome, reason, *, play=None, arm="treated"):
    value = {"decision_id": f"d{n}", "outcome": outcome, "reason": reason, "play": play, "arm": arm}
    return "recall-decisions", orjson.dumps(value)


@pytest.fixture
def tally():
    tally = Tally()
    for given in (
        command(1, contact="0.001", hidden="0.02"),
        command(2, contact="0.001", hidden="0.02"),
        command(2, contact="0.001", hidden="0.02"),
        command(3, channel="push", potential="high", incentive="1.5", opportunity="0.3"),
        decision(1, "suppressed", "cap"),
        decision(1, "suppressed", "cap"),
        decision(2, "held", "quiet hours"),
        decision(3, "proposed", "proposed", play="pack"),
        decision(4, "ended", "won", play="letter"),
        decision(5, "ended", "won", arm="control"),
        decision(6, "void", "void"),
    ):
        tally.take(*given)
    return tally


def test_what_came_twice_counts_once(tally):
    assert tally.touches == {Touch("letter", "email", ""): 2, Touch("letter", "push", "high"): 1}
    assert tally.cost == {"contact": 2_000, "hidden": 40_000, "incentive": 1_500_000, "opportunity": 300_000}
    assert tally.suppressed == {"cap": 1}
    assert tally.held == {"quiet hours": 1}
    assert tally.proposed == {"pack": 1}
    assert tally.endings("treated") == {"won": 1, "void": 1}
    assert tally.endings("control") == {"won": 1}


def test_it_is_printed_in_80_columns(tally):
    console = make_console()
    with console.capture() as capture:
        console.print(outcome(tally, {}))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert max(map(len, lines)) <= COLUMNS
    for line in (
        "commands       3: letter 3",
        "  channel      email 2, push 1",
        "  potential    of silent users: high 1",
        "  cost         contact 0.002, incentive 1.5, opportunity 0.3, hidden 0.04 EUR",
        "held           quiet hours 1",
        "proposed       pack 1",
        "not sent       cap 1",
        "episodes       void 1, won 1",
        "held out       won 1",
    ):
        assert line in lines


def test_the_page_has_a_line_for_each_kind_of_touch_and_their_sum(tally):
    lines = page(tally, configured(), "winter@1", 1234, [Grant.of("daily=20:0.2")]).splitlines()
    assert lines[0] == (
        "Playbook `winter@1`, 1,234 records in 2 partitions, 0 customers with an order; "
        "granted: 20 GBP a day for `daily` (lambda 0.2)."
    )
    for line in (
        "| letter | email | - | 2 | 0.002 | 0 | 0 | 0.04 |",
        "| letter | push | high | 1 | 0 | 1.5 | 0.3 | 0 |",
        "| all | | | 3 | 0.002 | 1.5 | 0.3 | 0.04 |",
        "| not sent | cap | 1 |",
        "| ended, held out | won | 1 |",
    ):
        assert line in lines


# -- grants of a replay ------------------------------------------------------------------------------------------------


def orders(config):
    [user] = treated(config, 1)
    return [order(user, START + n * 7 * DAY_MS) for n in range(6)]


def test_a_replay_is_granted_from_its_first_midnight_on_as_if_it_were_recorded():
    """By hand: the same grant, written to each partition before that midnight, and the midnights' ticks."""
    config = configured()
    replay = Replay(config, lambda *_: None, grants=[Grant.of("daily=30:0.5")])
    replay.run(by_topic(orders(config)))
    for partition in replay.partitions:
        granted = partition.shared.budgets["daily"]
        assert (granted.amount, granted.period, granted.shadow_price) == (15_000_000, "day", 0.5)
        assert partition.record.counts["granted"] == 1
        assert "directive.late" not in partition.record.counts


def test_a_history_with_control_records_brings_its_own_grants():
    config = configured()
    records = [*orders(config), control("tick", START, at="2026-01-05T00:00:00Z")]
    with pytest.raises(ValueError, match="allowed where the history has no control records"):
        Replay(config, lambda *_: None, grants=[Grant.of("daily=30")]).run(by_topic(records))
