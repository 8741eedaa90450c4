"""How much the learner has to say, by what came of what it and BG/NBD had predicted."""

import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.recall.risk.share import GRID, HALF_LIFE_DAYS, PRIOR, Share

DAY = 20_000
probabilities = st.integers(0, 1_000_000).map(lambda n: n / 1_000_000)
days = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 1), st.sampled_from((0.5, 1.0, 40.0)), probabilities, probabilities),
    max_size=30,
)


def observed(seen, share=None, day=DAY):
    """Let a share see (days later, y, weight, learner's, rhythm's)."""
    share = share or Share()
    for passed, *outcome in seen:
        day += passed
        share.observe(day, *outcome)
    return share, day


def of_some(n, learner, rhythm, seed=1):
    """Draw outcomes that come with a probability of .3, and what was said of each."""
    draw = random.Random(seed)
    return [(0, int(draw.random() < 0.3), 1.0, learner, rhythm) for _ in range(n)]


def test_little_evidence_leaves_the_share_where_it_is_best_in_general():
    assert PRIOR in GRID
    assert Share().value(DAY) == PRIOR
    share, _ = observed(of_some(20, learner=0.9, rhythm=0.3))
    assert share.value(DAY) == PRIOR


def test_who_predicts_clearly_better_gets_more_to_say():
    by_learner, _ = observed(of_some(3000, learner=0.3, rhythm=0.9))
    by_rhythm, _ = observed(of_some(3000, learner=0.9, rhythm=0.3))
    assert by_learner.value(DAY) > 0.8
    assert 0 < by_rhythm.value(DAY) < 0.3


def test_two_of_the_same_opinion_tell_nothing():
    share, _ = observed(of_some(3000, learner=0.8, rhythm=0.8))
    assert share.value(DAY) == PRIOR


def test_an_outcome_of_a_weight_counts_as_often():
    three, _ = observed([(0, 1, 1.0, 0.2, 0.6)] * 3)
    once, _ = observed([(0, 1, 3.0, 0.2, 0.6)])
    assert three.to_json()["losses"] == pytest.approx(once.to_json()["losses"])


def test_what_is_a_half_life_ago_counts_half_and_in_the_end_nothing():
    share, _ = observed(of_some(3000, learner=0.9, rhythm=0.3))
    low = share.value(DAY)
    then = [share.value(DAY + passed) for passed in range(0, 20 * HALF_LIFE_DAYS, HALF_LIFE_DAYS)]
    assert then[0] == low < PRIOR == then[-1]
    assert then == sorted(then)
    before = share.to_json()["losses"]
    share.observe(DAY + HALF_LIFE_DAYS, 1, 0.0, 0.5, 0.5)
    assert share.to_json()["losses"] == pytest.approx([loss / 2 for loss in before])


@given(days, days)
def test_goes_on_from_its_json_to_the_last_bit(before, after):
    share, day = observed(before)
    restored = Share.from_json(orjson.loads(orjson.dumps(share.to_json())))
    observed(after, share, day)
    _, last = observed(after, restored, day)
    assert restored.to_json() == share.to_json()
    assert restored.value(last) == share.value(last) in GRID


def test_days_come_in_their_order():
    share, _ = observed([(5, 1, 1.0, 0.5, 0.5)])
    with pytest.raises(ValueError, match=r"label_day = 20004: allowed is 20005 or later"):
        share.observe(DAY + 4, 1, 1.0, 0.5, 0.5)


@pytest.mark.parametrize("data", [None, {"losses": [0.0]}, {"losses": [0.0] * len(GRID), "days": 1}])
def test_sums_that_cannot_be_read_are_refused(data):
    with pytest.raises(ValueError, match="share: "):
        Share.from_json(data)
