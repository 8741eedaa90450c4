"""The choice on Hillstrom's randomised test: it learns what helps whom, and beats chance and targeting by risk."""

import re

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from tests.data import require
from worker import cli
from worker.evaluate import choice, command, hillstrom
from worker.evaluate.hillstrom import ARMS, GREEDY, MENS, OURS, RANDOM, RISK, Campaign, Greedy, Ours, Random, replay

# -- the protocol ------------------------------------------------------------------------------------------------------


def campaign(*rates, n=12_000, seed=1):
    """A test of two segments, each with a rate of visits by arm."""
    draw = np.random.default_rng(seed)
    segment, arm = draw.integers(0, len(rates), n), draw.integers(0, len(ARMS), n)
    visit = (draw.random(n) < np.array(rates)[segment, arm]).astype(np.int64)
    return Campaign(arm, visit, segment, tuple(f"kind {i}" for i in range(len(rates))), np.zeros((n, 1)))


OPPOSED = campaign((0.1, 0.3, 0.1), (0.1, 0.1, 0.3))
"""What helps the one does nothing for the other."""


def test_choice_learns_what_helps_whom():
    told = replay(OPPOSED, Ours(), 0)
    assert told.rate > 0.9 * 0.3, "no fixed arm brings more than .2"
    assert told.rate > replay(OPPOSED, Greedy(), 0).rate - 0.01


def test_where_mails_keep_people_away_nobody_is_mailed():
    harmful = campaign((0.3, 0.15, 0.1))
    policy = Ours()
    told = replay(harmful, policy, 0)
    assert told.rate > 0.9 * 0.3
    assert policy.choose("kind 0", 0.5) == ("nothing", {"nothing": 1.0})


def test_mail_that_costs_more_than_it_brings_is_not_sent():
    useful = campaign((0.1, 0.2, 0.1))
    dear, cheap = Ours(price=0.15), Ours(price=0.05)
    for policy in (dear, cheap):
        replay(useful, policy, 0)
    assert dear.choose("kind 0", 0.5)[1]["nothing"] == 1.0
    assert cheap.choose("kind 0", 0.5)[1][MENS] > 0.9


@pytest.mark.parametrize("make", [Ours, Greedy, Random])
def test_propensities_are_those_with_which_rows_are_met(make):
    """A third of the rows is met whatever the policy, since the test draws each arm so often."""
    told = replay(OPPOSED, make(), 3)
    assert told.accepted == pytest.approx(len(OPPOSED.arm) / 3, rel=0.05)
    assert told.estimate.low - 0.01 <= told.rate <= told.estimate.high + 0.01


def test_random_policy_sees_the_mean_of_the_arms():
    assert replay(OPPOSED, Random(), 0).rate == pytest.approx((0.3 + 0.1 + 0.1) / 3, abs=0.02)


def test_same_order_same_result():
    assert replay(OPPOSED, Ours(), 2) == replay(OPPOSED, Ours(), 2) != replay(OPPOSED, Ours(), 4)


def test_first_takes_the_share_of_each_fold_with_the_highest_scores():
    fold = np.repeat([0, 1], 50)
    taken = hillstrom.first(np.arange(100) % 50 / 50.0, fold, 0.1)
    assert np.flatnonzero(taken).tolist() == [45, 46, 47, 48, 49, 95, 96, 97, 98, 99]
    assert hillstrom.first(np.zeros(100), fold, 0.1).reshape(2, 50).sum(axis=1).tolist() == [5, 5]


# -- the test itself ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    return hillstrom.evaluate(require("hillstrom", "hillstrom.csv.gz").parent.parent, range(3))


@pytest.mark.data
def test_whole_test_is_read(result):
    assert result["rows"] == 64_000
    assert result["fixed"] == {"nothing": 0.10617, "mens": 0.18276, "womens": 0.1514}


@pytest.mark.data
def test_replayed_choice_brings_97_percent_of_the_best_fixed_arm_in_hindsight(result):
    ours = result["replay"][OURS]
    assert ours["of_best"] >= 0.97
    assert ours["by_ips_of_best"] >= 0.97
    assert ours["rate"] > result["replay"][GREEDY]["rate"] > result["replay"][RANDOM]["rate"]


@pytest.mark.data
@pytest.mark.parametrize("other", [RANDOM, RISK])
@pytest.mark.parametrize("way", ["ips", "dr"])
def test_choice_is_above_chance_and_above_targeting_by_risk(result, other, way):
    values = result["values"]
    assert values[OURS]["less"][other][way]["interval"][0] > 0
    assert values[OURS][way]["interval"][0] > values[other][way]["interval"][1], "even apart, they do not meet"


@pytest.mark.data
def test_choice_is_above_targeting_by_risk_with_as_many_mails(result):
    priced = result["priced"]
    assert priced[RISK]["mails"] == pytest.approx(priced[OURS]["mails"], abs=1e-4)
    assert priced[OURS]["less"][RISK]["dr"]["interval"][0] > 0


@pytest.mark.data
def test_small_budget_brings_more_by_added_response_than_by_risk_or_chance(result):
    budget = result["budget"]
    assert budget[OURS]["interval"][0] > budget["highest risk"]["interval"][1]
    assert budget[OURS]["interval"][0] > budget[RANDOM]["interval"][1]
    assert budget["highest risk"]["value"] < budget[RANDOM]["value"], "risk finds those whom a mail helps least"


@pytest.mark.data
def test_result_is_told_on_the_terminal_as_markdown_and_on_the_page(result, tmp_path, monkeypatch):
    monkeypatch.setattr(hillstrom, "evaluate", lambda _: result)
    line = ["evaluate", "hillstrom", "--data", str(tmp_path), "--out", str(tmp_path)]
    told = CliRunner().invoke(cli.app, line, env={"COLUMNS": "80"})
    assert told.exit_code == 0, told.output
    assert max(map(len, told.output.splitlines())) <= 80
    assert "targets: 3 of 3 met" in told.output
    assert orjson.loads((tmp_path / "hillstrom.json").read_bytes()) == result
    summary = (tmp_path / command.SUMMARY).read_text()
    assert "\n\n".join(choice.markdown(result)) in summary
    page = (tmp_path / command.PAGE).read_text()
    assert '<div id="hillstrom-budget">' in page
    around = re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"<script|<link|<img|<iframe|@import|url\(|\ssrc=|https?:", around)
    assert "✗" not in around


def test_without_the_data_it_is_said_where_they_are_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"hillstrom.csv.gz is not there: --data is the folder"):
        hillstrom.evaluate(tmp_path)
