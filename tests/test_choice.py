"""The choice: what a touch adds decides, not whom it finds; and what was drawn was drawn with what is recorded."""

import random

import pytest
from hypothesis import example as such_as
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.lifetime.spend import GammaGamma
from worker.recall.lifetime.worth import Lifetime
from worker.recall.money import Currency
from worker.recall.playbook.model import ChoiceRules
from worker.recall.policy.choice import (
    NOT_WORTH_IT,
    UNITS,
    UNKNOWN,
    Arm,
    choose,
    observed,
    priors_of,
    segment,
    value_of_return,
)
from worker.recall.policy.responses import HALF_LIFE_DAYS, WEIGHT_MAX, Outcome, Responses
from worker.recall.profile import Account, Contact, Episode, Profile
from worker.recall.tiers import Standing, Tier

DROP = "drop/core/untouched"
OTHER = "drop/marginal/ignored"
POUND = 1_000_000
"""Micros."""


def rules(**changes):
    return ChoiceRules.model_validate({"mode": "learned", "floor": 0.05, "strength": 50} | changes)


def expecting(**by_play):
    """Rules that expect of each play so much of a return with it and without."""
    return rules(priors={play: {"with": with_, "without": without} for play, (with_, without) in by_play.items()})


def known(*told, day=20_000):
    """What came of choices: by segment and play, how many of how many returned."""
    responses = Responses()
    outcomes = [Outcome(where, play, int(i < returned), 1.0) for where, play, returned, n in told for i in range(n)]
    responses.learn(day, outcomes)
    return responses


def chosen(arms, responses=None, book=None, draw=0.5, where=DROP):
    book = book or rules()
    return choose(arms, where, priors_of(responses, book), book, draw)


def added(responses, play, book=None, where=DROP):
    return priors_of(responses, book or rules()).added(where, play)


# -- what is chosen ----------------------------------------------------------------------------------------------------


def test_play_that_adds_most_for_its_cost_is_chosen_most_often():
    came = known((DROP, "nothing", 100, 1000), (DROP, "memory", 160, 1000), (DROP, "coupon", 180, 1000))
    told = chosen([Arm("memory", 40 * POUND, 10_000), Arm("coupon", 40 * POUND, 3 * POUND)], came)
    assert told.propensities["memory"] > 0.9
    assert told.nets["memory"] > told.nets["coupon"] > 0
    worth_more = chosen([Arm("memory", 400 * POUND, 10_000), Arm("coupon", 400 * POUND, 3 * POUND)], came)
    assert worth_more.propensities["coupon"] > 0.7, "where a return is worth more, the dearer play pays"


def test_high_risk_alone_is_no_reason_for_a_touch():
    """Those who return least without a touch are not those to whom it adds most."""
    lost, wavering = "silent/middle/ignored", "drop/potential/untouched"
    came = known(
        (lost, "nothing", 10, 1000), (lost, "memory", 11, 1000), (wavering, "nothing", 300, 1000),
        (wavering, "memory", 400, 1000),
    )  # fmt: skip
    arm = Arm("memory", 20 * POUND, POUND // 2)
    assert chosen([arm], came, where=lost).propensities["nothing"] > 0.7
    assert chosen([arm], came, where=wavering).propensities["memory"] == 1.0


def test_sleeping_dogs_are_let_lie():
    came = known((DROP, "nothing", 200, 1000), (DROP, "memory", 120, 1000))
    told = chosen([Arm("memory", 100 * POUND, 0)], came)
    assert (told.play, told.propensity) == ("nothing", 1.0)
    assert told.left_out == {"memory": NOT_WORTH_IT}
    assert told.nets["memory"] < 0
    assert added(came, "memory").high < 0


def test_what_was_learned_to_do_harm_is_tried_again_when_it_is_long_ago():
    came = known((DROP, "nothing", 40, 200), (DROP, "memory", 20, 200))
    arm = Arm("memory", 100 * POUND, 0)
    assert chosen([arm], came).left_out
    came.learn(came.day + 4 * HALF_LIFE_DAYS, [])
    assert chosen([arm], came).propensities["memory"] > 0.05


def test_costs_beyond_all_that_a_return_may_bring_leave_a_play_out():
    told = chosen([Arm("human", 10 * POUND, 30 * POUND), Arm("memory", 10 * POUND, 10_000)])
    assert told.left_out == {"human": NOT_WORTH_IT}
    assert set(told.propensities) == {"nothing", "memory"}


@pytest.mark.parametrize("value", [0.0, -5.0])
def test_return_that_is_worth_nothing_is_not_paid_for(value):
    assert chosen([Arm("memory", value, 0)]).play == "nothing"


def test_without_plays_nothing_is_done():
    told = chosen([])
    assert (told.play, told.propensity, told.left_out, told.nets) == ("nothing", 1.0, {}, {})
    assert told.reason == "do nothing: there is no play; chosen with probability 1.00"


def test_nothing_may_be_told_among_the_arms():
    arms = [Arm("memory", 20 * POUND, 10_000)]
    assert chosen([Arm("nothing", 0.0, 0), *arms]) == chosen(arms)


def test_reason_says_what_was_expected_in_words():
    came = known((DROP, "nothing", 100, 1000), (DROP, "comeback-pack", 160, 1000))
    arms = [Arm("comeback-pack", 42 * POUND, 310_000)]
    told = chosen(arms, came, draw=0.99)
    assert told.reason == (
        "comeback-pack: +6.0 points of return expected (3.7 to 8.2) x 42.00 - 0.31 = +2.21; "
        "chosen with probability 1.00"
    )
    costly = [Arm("comeback-pack", 42 * POUND, 3 * POUND)]
    assert chosen(costly, came, draw=0.0).reason == (
        "do nothing, chosen with probability 0.76; "
        "comeback-pack: +6.0 points of return expected (3.7 to 8.2) x 42.00 - 3.00 = -0.48"
    )


# -- propensities ------------------------------------------------------------------------------------------------------

PLAYS = ("memory", "coupon", "care", "habit")
cells = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))
counts = st.dictionaries(st.sampled_from(("nothing", *PLAYS)), cells)
arms_of = st.lists(
    st.builds(Arm, st.sampled_from(PLAYS), st.floats(0, 200 * POUND), st.integers(0, 40 * POUND)),
    max_size=4,
    unique_by=lambda arm: arm.play,
)


@settings(max_examples=150)
@given(counts, arms_of, st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.05, 0.2]))
@such_as({}, [Arm(play, POUND, 0) for play in PLAYS], 0.0, 0.2)
def test_propensities_are_those_of_the_draw(came, arms, draw, floor):
    responses = known(*((DROP, play, returned, n) for play, (returned, n) in came.items()))
    told = chosen(arms, responses, rules(floor=floor), draw)
    units = {play: round(p * UNITS) for play, p in told.propensities.items()}
    assert sum(units.values()) == UNITS
    assert told.propensity == told.propensities[told.play] > 0
    assert all(p >= min(floor, 1 / len(arms)) - 1e-6 for play, p in told.propensities.items() if play != "nothing")
    assert set(told.propensities) | set(told.left_out) == {"nothing", *(arm.play for arm in arms)}
    # Each is drawn from an interval as long as its propensity, and these lie one beside the other.
    below = 0
    for play, n in units.items():
        for place in {below, below + n - 1} if n else ():
            assert chosen(arms, responses, rules(floor=floor), (place + 0.5) / UNITS).play == play
        below += n


def test_outcome_is_as_probable_as_its_arm_and_choice_together():
    assert observed("memory", 0.25, 0.1) == 0.225
    assert observed("nothing", 0.25, 0.1) == 0.325, "by the holdout, or by the choice"
    assert observed("nothing", 0.0, 0.1) == 0.1, "in rule mode by the holdout alone"


def test_same_facts_same_choice():
    came = known((DROP, "nothing", 100, 1000), (DROP, "memory", 105, 1000))
    again = known((DROP, "nothing", 100, 1000), (DROP, "memory", 105, 1000))
    arms = [Arm("memory", 40 * POUND, 10_000), Arm("coupon", 40 * POUND, 30_000)]
    assert chosen(arms, came) == chosen(arms, again, rules())
    by_kept = [chosen(arms, came, draw=draw / 10) for draw in range(10)]
    assert by_kept == [
        chosen(arms, known((DROP, "nothing", 100, 1000), (DROP, "memory", 105, 1000)), draw=d / 10) for d in range(10)
    ]


# -- what is believed --------------------------------------------------------------------------------------------------


def test_before_anything_came_the_playbook_is_believed():
    book = expecting(memory=(0.12, 0.08))
    told = added(None, "memory", book)
    assert told.mean == pytest.approx(0.04)
    assert told.low < 0 < told.high, "with the strength of 50 touches it is not known well"
    assert added(None, "care", book).mean == pytest.approx(UNKNOWN.with_play - UNKNOWN.without)


def test_what_came_outweighs_the_playbook():
    book = expecting(memory=(0.30, 0.05))
    came = known((DROP, "nothing", 500, 5000), (DROP, "memory", 600, 5000))
    assert added(came, "memory", book).mean == pytest.approx(0.02, abs=0.005)


def test_segment_of_which_nothing_is_known_starts_at_what_the_play_adds_elsewhere():
    """A rate does not carry over: users of another segment return more seldom, with a play and without."""
    came = known(
        (OTHER, "nothing", 900, 3000), (OTHER, "memory", 1200, 3000), (DROP, "nothing", 150, 3000),
    )  # fmt: skip
    told = added(came, "memory")
    assert told.mean == pytest.approx(0.10, abs=0.01)
    assert told.high - told.low > 3 * (added(came, "memory", where=OTHER).high - added(came, "memory", where=OTHER).low)


def test_segment_that_is_known_stands_by_itself():
    came = known(
        (OTHER, "nothing", 900, 3000), (OTHER, "memory", 1200, 3000),
        (DROP, "nothing", 300, 3000), (DROP, "memory", 240, 3000),
    )  # fmt: skip
    assert added(came, "memory").mean == pytest.approx(-0.02, abs=0.005)


def test_outcomes_are_weighed_so_that_those_chosen_for_their_value_do_not_count_double():
    """Half of the users return anyway, and get the play more often for what they are worth; it adds nothing."""
    draw = random.Random(1)
    responses, outcomes = Responses(), []
    for _ in range(8000):
        loyal = draw.random() < 0.5
        propensity = 0.9 if loyal else 0.2
        play = "memory" if draw.random() < propensity else "nothing"
        y = int(draw.random() < (0.4 if loyal else 0.1))
        outcomes.append(Outcome(DROP, play, y, propensity if play == "memory" else 1 - propensity))
    responses.learn(20_000, outcomes)
    assert added(responses, "memory").mean == pytest.approx(0.0, abs=0.02)
    plain = Responses()
    plain.learn(20_000, [outcome._replace(propensity=1.0) for outcome in outcomes])
    assert added(plain, "memory").mean > 0.15


def test_rare_outcome_counts_no_more_than_the_floor_allows():
    responses = Responses()
    responses.learn(20_000, [Outcome(DROP, "memory", 1, 0.001)])
    assert responses.cell(DROP, "memory").weight == WEIGHT_MAX


def test_outcomes_of_days_come_in_order():
    responses = known((DROP, "memory", 1, 2))
    with pytest.raises(ValueError, match=r"day = 19999: allowed is 20000 or later"):
        responses.learn(19_999, [])


# -- segments ----------------------------------------------------------------------------------------------------------


def user(*, tier=Tier.MARGINAL, high_at=0, **account):
    profile = Profile(key=b"user-1", due=0, silence_due=0, other_due=0, standing=Standing(tier=tier, high_at=high_at))
    profile.__dict__["account"] = Account(**account)
    return profile


def episode(trigger="tier_drop", origin=Tier.POTENTIAL, **changes):
    fields = {
        "opened_at": 1_750_000_000_000, "trigger": trigger, "cause": "frequency", "origin": int(origin),
        "target": int(Tier.MARGINAL), "fell": ("F",), "before": None, "after": None, "arm": "treated", "due": 0,
    }  # fmt: skip
    return Episode(**fields | changes)


TOUCHED = Contact(1, "email")
ANSWERED = Contact(1, "email", responded_at=2)


@pytest.mark.parametrize(
    ("profile", "story", "name"),
    [
        (user(), episode(), "drop/potential/untouched"),
        (user(contacts=[TOUCHED]), episode(origin=Tier.NEW), "drop/new/ignored"),
        (user(contacts=[ANSWERED, TOUCHED]), episode("risk"), "early/potential/answered"),
        (user(high_at=1_745_000_000_000), episode("signal", Tier.HIGH), "early/core/untouched"),
        (user(consent={"email:marketing": False, "push:marketing": True}), episode(), "drop/potential/refused"),
        (user(tier=Tier.SILENT), episode("silence", potential="middle"), "silent/middle/untouched"),
        (user(), episode("near_tier", Tier.MARGINAL), "up/marginal/untouched"),
    ],
)
def test_segment_tells_how_grave_it_is_who_it_is_and_how_he_took_touches(profile, story, name):
    assert segment(profile, story) == name


# -- value -------------------------------------------------------------------------------------------------------------

LIFETIME = Lifetime(
    purchases=BgNbd(0.8, 60.0, 1.2, 3.0),
    activity=BgNbd(1.0, 10.0, 0.5, 5.0),
    spend=GammaGamma(3.0, 4.0, 2000.0),
    fitted_day=20_000,
    histories=1000,
)
GBP = Currency.of("GBP")


def buyer(orders, spent):
    profile = user(spent=spent)
    profile.orders = orders
    return profile


def told(repeats, recency, age):
    history = History(repeats, recency, age)
    return Rhythms(history, history)


def test_without_a_model_a_return_is_worth_the_margin_of_an_order():
    assert value_of_return(buyer(4, 20_000), None, None, 0.35, GBP) == pytest.approx(17.50 * POUND)
    assert value_of_return(buyer(4, 20_000), None, None, 0.35, Currency.of("JPY")) == pytest.approx(1750 * POUND)


def test_with_a_model_it_is_worth_what_follows_from_it_too():
    profile = buyer(4, 20_000)
    lost = value_of_return(profile, told(3, 120, 400), LIFETIME, 0.35, GBP)
    assert lost > 17.50 * POUND
    there = value_of_return(profile, told(3, 395, 400), LIFETIME, 0.35, GBP)
    assert there < lost, "of one who would have come anyway, less follows from a return"


def test_whoever_spent_nothing_is_worth_nothing():
    assert value_of_return(buyer(2, -100), None, None, 0.35, GBP) == 0.0
    assert value_of_return(buyer(0, 0), None, LIFETIME, 0.35, GBP) == 0.0
