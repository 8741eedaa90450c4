"""What another policy would have brought: right on logs whose truth is known, and honest about how sure that is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.evaluate.offpolicy import DecisionLog, Estimate, doubly_robust, ips, snips

KINDS = 4
"""Of users, who differ in what helps them."""
ACTIONS = 3


class World:
    """Kinds of users, what each action brings with each, and a policy that logs."""

    def __init__(self, seed, n=4000):
        draw = self.draw = np.random.default_rng(seed)
        self.rates = draw.uniform(0.05, 0.6, (KINDS, ACTIONS))
        self.logging = draw.dirichlet(np.full(ACTIONS, 2.0), KINDS) * 0.85 + 0.05
        self.target = draw.dirichlet(np.full(ACTIONS, 0.7), KINDS)
        self.n = n

    @property
    def truth(self):
        """Of users who are of each kind equally often."""
        return float((self.target * self.rates).sum(axis=1).mean())

    def log(self):
        kind = self.draw.integers(0, KINDS, self.n)
        action = (self.logging[kind].cumsum(axis=1) > self.draw.random(self.n)[:, None]).argmax(axis=1)
        reward = (self.draw.random(self.n) < self.rates[kind, action]).astype(float)
        return kind, DecisionLog(action, self.logging[kind, action], reward, np.arange(self.n))


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_estimates_are_unbiased_whatever_the_model_says(seed):
    world = World(seed, n=1500)
    wrong = world.draw.uniform(0, 1, (KINDS, ACTIONS))
    told = {"ips": [], "snips": [], "dr": [], "dr by a wrong model": []}
    for _ in range(100):
        kind, log = world.log()
        target = world.target[kind]
        told["ips"].append(ips(log, target).value)
        told["snips"].append(snips(log, target).value)
        told["dr"].append(doubly_robust(log, target, world.rates[kind]).value)
        told["dr by a wrong model"].append(doubly_robust(log, target, wrong[kind]).value)
    for name, values in told.items():
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        assert abs(np.mean(values) - world.truth) < 4.5 * error + 0.001, name
    assert np.std(told["dr"]) < np.std(told["ips"]), "a model that is right leaves less to chance"


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = {"ips": 0, "snips": 0, "dr": 0}
    for seed in range(300):
        world = World(seed, n=1000)
        kind, log = world.log()
        target = world.target[kind]
        by_name = {
            "ips": ips(log, target),
            "snips": snips(log, target),
            "dr": doubly_robust(log, target, world.rates[kind]),
        }
        for name, told in by_name.items():
            held[name] += told.low <= world.truth <= told.high
    for name, times in held.items():
        assert 0.91 <= times / 300 <= 0.99, (name, times)


def test_difference_of_two_targets_is_known_better_than_either():
    world = World(3)
    kind, log = world.log()
    one, other = world.target[kind], 0.9 * world.target[kind] + 0.1 / ACTIONS
    apart = ips(log, one - other)
    assert apart.value == pytest.approx(ips(log, one).value - ips(log, other).value)
    assert apart.error < ips(log, one).error / 2


def test_what_was_logged_is_worth_its_mean():
    world = World(4)
    kind, log = world.log()
    own = snips(log, world.logging[kind])
    assert own.value == pytest.approx(log.reward.mean())
    always = np.eye(ACTIONS)[log.action]
    same = ips(DecisionLog(log.action, np.ones(world.n), log.reward, log.user), always)
    assert same.value == pytest.approx(log.reward.mean())


def test_constant_that_all_rewards_have_does_not_move_the_self_normalised_one():
    world = World(5, n=500)
    kind, log = world.log()
    more = DecisionLog(log.action, log.propensity, log.reward + 10, log.user)
    target = world.target[kind]
    assert snips(more, target).value == pytest.approx(snips(log, target).value + 10)
    assert snips(more, target).error == pytest.approx(snips(log, target).error)


def test_rows_of_a_user_count_together():
    world = World(6, n=800)
    kind, log = world.log()
    target = world.target[kind]
    four = DecisionLog(*(np.tile(each, 4) for each in (log.action, log.propensity, log.reward, log.user)))
    once, fourfold = ips(log, target), ips(four, np.tile(target, (4, 1)))
    assert fourfold == pytest.approx(once)


def test_interval_is_one_of_95_percent():
    told = Estimate(0.5, 0.1)
    assert (told.low, told.high) == pytest.approx((0.304, 0.696), abs=1e-3)


def test_what_cannot_be_told_is_refused():
    action, one = np.array([0, 1]), np.array([1.0, 1.0])
    with pytest.raises(ValueError, match=r"propensity = 0.0: allowed is above 0"):
        DecisionLog(action, np.array([0.5, 0.0]), one, action)
    with pytest.raises(ValueError, match="target: the log holds none of its actions"):
        snips(DecisionLog(action, one, one, action), np.array([[0.0, 0.0, 1.0]] * 2))
