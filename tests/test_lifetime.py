"""The purchase models against integrals of what they say, against simulated populations, and the row's histories."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta
from test_risk_features import DAYS, FIRST_DAY, at_of, build, events, new_row, put

from worker.recall.lifetime import bgnbd
from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.fit import LOG_MAX, TIME_UNIT
from worker.recall.lifetime.history import History, Rhythms, activity, rhythms
from worker.recall.lifetime.spend import GammaGamma
from worker.recall.lifetime.worth import Lifetime, worth

ACTIVITY = BgNbd(0.5, 2.0, 0.4, 9.0)
CDNOW = Lifetime(BgNbd(0.243, 4.414 * 7, 0.793, 2.426), ACTIVITY, GammaGamma(6.25, 3.74, 1544.0), 10_000, 2357)
"""As published, in days and cents."""

parameters = st.builds(
    BgNbd, st.floats(0.1, 5), st.floats(1, 300), st.floats(0.2, 6), st.floats(0.2, 10)
)  # `a` passes 1 and 2, where the formulas of the moments have poles


@st.composite
def histories(draw):
    repeats = draw(st.integers(0, 60))
    recency = draw(st.integers(repeats, 400)) if repeats else 0
    return History(repeats, recency, recency + draw(st.integers(0, 400)))


# -- histories ---------------------------------------------------------------------------------------------------------


@given(events, st.booleans())
def test_histories_equal_a_recount_of_days(happened, rolled):
    t_day = FIRST_DAY + max((day for day, *_ in happened), default=0) + 1
    row = build(happened)
    if rolled:
        row.roll(t_day)
    told = [(kind, DAYS.of(at_of(day, half))) for day, half, kind, *_ in happened]
    orders, active = (
        History(len(days) - 1, days[-1] - days[0], t_day - days[0]) if days else None
        for days in (
            sorted({day for kind, day in told if kind in kinds}) for kinds in ({"order"}, {"order", "activity"})
        )
    )
    assert activity(row, t_day) == active
    assert rhythms(row, t_day, DAYS) == (orders and Rhythms(orders, active))


@given(events, st.integers(0, 140))
def test_a_history_knows_nothing_of_the_day_itself(happened, cut):
    t_day = FIRST_DAY + cut
    before = build([event for event in happened if event[0] < cut])
    with_day = build([event for event in happened if event[0] <= cut])
    assert rhythms(with_day, t_day, DAYS) == rhythms(before, t_day, DAYS)
    assert activity(with_day, t_day) == activity(before, t_day)


def test_asking_for_a_history_leaves_the_row_as_it_is():
    row = build([(0, 20, "order", 1, 100), (5, 20, "order", 1, 100), (6, 20, "order", 1, 100)])
    first = rhythms(row, FIRST_DAY + 7, DAYS)
    assert first == rhythms(row, FIRST_DAY + 7, DAYS) == Rhythms(History(2, 6, 7), History(2, 6, 7))


def test_a_user_whose_only_order_came_late_has_a_history_of_one_day():
    row = new_row()
    put(row, 1, at_of(20, 0), "activity", 1, 0)
    assert rhythms(row, FIRST_DAY + 21, DAYS) is None
    row.account.first_order_at = at_of(3, 0)
    assert rhythms(row, FIRST_DAY + 21, DAYS) == Rhythms(History(0, 0, 18), History(0, 0, 1))


def test_a_user_of_whom_all_came_late_has_histories_of_one_day():
    row = new_row()
    row.account.first_order_at = at_of(3, 0)
    assert rhythms(row, FIRST_DAY + 21, DAYS) == Rhythms(History(0, 0, 18), History(0, 0, 18))


def test_a_row_that_went_on_is_never_younger_than_its_last_order():
    row = build([(0, 20, "order", 1, 100), (10, 20, "order", 1, 100), (20, 20, "activity", 1, 0)])
    assert rhythms(row, FIRST_DAY + 5, DAYS) == Rhythms(History(1, 10, 11), History(1, 10, 11))


# -- purchases ---------------------------------------------------------------------------------------------------------


def over_p(purchases, known, f):
    """Integrate over what is known of p: Beta(a, b + x), by its quantiles, so that the ends do not matter."""
    p = beta(purchases.a, purchases.b + known.repeats)
    return quad(lambda u: f(p.ppf(u)), 0, 1, limit=200, epsabs=1e-9, epsrel=1e-7)[0]


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
@settings(max_examples=40, deadline=None)
@given(parameters, histories(), st.integers(1, 365))
def test_moments_of_orders_are_the_integrals_over_rate_and_leaving(purchases, known, days):
    s, now = purchases.r + known.repeats, purchases.alpha + known.age_days
    alive = purchases.alive(known)

    def mean(p):  # of (1 - exp(-rate p H)) / p over the Gamma of the rate
        u = p * days / now
        return s * days / now if u < 1e-9 else -math.expm1(-s * math.log1p(u)) / p

    def factorial(p):
        u = p * days / now
        if u * s < 1e-4:
            return s * (s + 1) * (days / now) ** 2 * (1 - p)
        return 2 * (1 - p) / p**2 * (1 - (1 + u) ** -s * (1 + s * u / (1 + u)))

    wanted = alive * over_p(purchases, known, mean)
    square = alive * over_p(purchases, known, factorial) + wanted
    orders = purchases.orders(known, days)
    assert orders.mean == pytest.approx(wanted, rel=1e-3, abs=1e-9)
    assert orders.variance + orders.mean**2 == pytest.approx(square, rel=1e-3, abs=1e-9)


@given(parameters, histories(), st.integers(0, 365), st.integers(0, 365))
def test_probabilities_and_orders_are_sound(purchases, known, days, more):
    assert 0 <= purchases.alive(known) <= 1
    short, long = purchases.no_order(known, days), purchases.no_order(known, days + more)
    assert 0 <= long <= short + 1e-12 <= 1 + 1e-12
    orders = purchases.orders(known, days)
    assert orders.variance >= 0
    assert orders.mean >= (1 - short) * (1 - 1e-6) - 1e-9  # Markov: an order at least


logarithms = st.floats(-LOG_MAX, LOG_MAX).map(math.exp)


@given(st.builds(BgNbd, logarithms, logarithms.map(TIME_UNIT.__mul__), logarithms, logarithms), histories())
@example(BgNbd(0.5, 0.3, 148.0, 2.8), History(0, 0, 1))
@example(BgNbd(147.0, 0.3, 148.0, 0.01), History(0, 0, 1))
@example(BgNbd(0.01, 4400.0, 0.01, 148.0), History(7000, 7000, 7001))
@example(BgNbd(math.exp(5.0), 30.0, math.exp(5.0), math.exp(4.0)), History(0, 0, 0))
@example(BgNbd(math.exp(-5.0), 0.3, math.exp(-5.0), math.exp(3.0)), History(0, 0, 0))
def test_whatever_was_fitted_tells_what_a_user_is_worth(purchases, known):
    for days in (90, 365):
        told = worth(Lifetime(purchases, ACTIVITY, CDNOW.spend, 0, 1), known, known.repeats + 1, 2000.0, 0.35, days)
        assert told.margin >= 0
        assert math.isfinite(told.error)


@given(parameters, st.integers(1, 200), st.integers(0, 300))
def test_the_longer_the_silence_the_less_alive(purchases, repeats, silence):
    recency = 3 * repeats
    earlier = purchases.alive(History(repeats, recency, recency + silence))
    later_on = purchases.alive(History(repeats, recency, recency + silence + 30))
    assert later_on <= earlier


def test_who_ordered_often_and_then_stopped_has_left():
    purchases = CDNOW.purchases
    assert purchases.alive(History(0, 0, 300)) == 1
    assert purchases.alive(History(2000, 2000, 40_000)) < 1e-300
    assert purchases.no_order(History(2000, 2000, 40_000), 30) == 1


@pytest.mark.parametrize("a", [1.0, 2.0])
def test_orders_pass_smoothly_through_the_poles_of_the_formulas(a):
    below, at, above = (BgNbd(0.5, 20, a + step, 2.0).orders(History(3, 60, 90), 90) for step in (-1e-3, 0, 1e-3))
    assert above.mean < at.mean < below.mean
    assert at.variance == pytest.approx((above.variance + below.variance) / 2, rel=1e-4)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_parameters_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"alpha = .*: a finite number above 0 is allowed"):
        BgNbd(1.0, wrong, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"v = .*: a finite number above 0 is allowed"):
        GammaGamma(1.0, 3.0, wrong)
    with pytest.raises(ValueError, match=r"q = 2.0: a finite number above 2 is allowed"):
        GammaGamma(1.0, 2.0, 1.0)


# -- both rhythms ------------------------------------------------------------------------------------------------------


@given(histories(), st.integers(1, 365))
def test_where_activity_is_nothing_but_orders_both_rhythms_are_one(known, days):
    lifetime = Lifetime(CDNOW.purchases, CDNOW.purchases, None, 0, 1)
    assert lifetime.no_order(Rhythms(known, known), days) == CDNOW.purchases.no_order(known, days)


def test_gone_shows_in_the_activity_and_silent_in_the_orders():
    orders = History(3, 300, 360)
    gone, there = (
        CDNOW.no_order(Rhythms(orders, active), 60) for active in (History(90, 200, 400), History(90, 398, 400))
    )
    assert gone > 0.999
    assert there == pytest.approx(CDNOW.purchases.silent(orders, 60), abs=0.01)
    assert CDNOW.purchases.alive(orders) < CDNOW.alive(History(90, 398, 400))


# -- worth -------------------------------------------------------------------------------------------------------------


def simulated(lifetime, users, observed, ahead, seed):
    """Let users live by the models from their first order on; yield history, orders, mean value, and later spend."""
    purchases, spend = lifetime.purchases, lifetime.spend
    draw = np.random.default_rng(seed)
    for _ in range(users):
        rate = draw.gamma(purchases.r, 1 / purchases.alpha)
        leaving = draw.beta(purchases.a, purchases.b)
        nu = draw.gamma(spend.q, 1 / spend.v) if spend else None
        at, times, later_orders = 0.0, [0.0], 0
        while True:
            at += draw.exponential(1 / rate) if rate > 0 else math.inf
            if at > observed + ahead:
                break
            if at <= observed:
                times.append(at)
            else:
                later_orders += 1
            if draw.random() < leaving:
                break
        values = (
            draw.gamma(spend.p, 1 / nu, len(times) + later_orders)
            if spend
            else np.full(len(times) + later_orders, 500.0)
        )
        yield (
            History(len(times) - 1, times[-1], observed),
            len(times),
            values[: len(times)].mean(),
            values[len(times) :].sum(),
        )


@pytest.mark.parametrize(
    "lifetime",
    [
        Lifetime(BgNbd(0.8, 30.0, 1.3, 4.0), ACTIVITY, GammaGamma(4.0, 6.0, 5000.0), 0, 1),
        Lifetime(BgNbd(0.8, 30.0, 1.3, 4.0), ACTIVITY, None, 0, 1),
    ],
    ids=["values differ", "flat price"],
)
def test_margin_and_error_are_those_of_a_simulated_population(lifetime):
    lives = list(simulated(lifetime, 20_000, 120, 180, seed=5))
    told = [worth(lifetime, known, orders, mean, 0.4, 180) for known, orders, mean, _ in lives]
    margin, error = np.array(told).T
    came = np.array([0.4 * spent for *_, spent in lives])
    repeats = np.array([known.repeats for known, *_ in lives])
    for some in (repeats == 0, (repeats > 0) & (repeats < 4), repeats >= 4):
        assert some.sum() > 1000
        assert margin[some].sum() == pytest.approx(came[some].sum(), rel=0.05)
        assert (error[some] ** 2).sum() == pytest.approx(((came - margin)[some] ** 2).sum(), rel=0.12)


def test_a_flat_price_leaves_only_the_number_of_orders_open():
    flat = Lifetime(CDNOW.purchases, ACTIVITY, None, 0, 1)
    known = History(4, 100, 120)
    orders = CDNOW.purchases.orders(known, 90)
    assert worth(flat, known, 5, 200.0, 0.5, 90) == pytest.approx((orders.mean * 100, math.sqrt(orders.variance) * 100))


def test_orders_of_one_day_are_one_purchase_of_their_sum():
    known = History(1, 10, 40)
    assert worth(CDNOW, known, 4, 500.0, 0.5, 90) == pytest.approx(worth(CDNOW, known, 2, 1000.0, 0.5, 90))


def test_who_gave_everything_back_is_expected_to_bring_little_but_never_less_than_nothing():
    known = History(3, 60, 80)
    assert 0 < worth(CDNOW, known, 4, -300.0, 0.5, 90).margin < worth(CDNOW, known, 4, 100.0, 0.5, 90).margin
    assert worth(Lifetime(CDNOW.purchases, ACTIVITY, None, 0, 1), known, 4, -300.0, 0.5, 90) == (0, 0)


@given(parameters, histories(), st.integers(1, 365))
def test_moments_over_quantiles_of_leaving_are_those_of_the_series(purchases, known, days):
    """What stands in for the series where it is no number, where it is one."""
    series = purchases.orders(known, days)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bgnbd, "hyp2f1", lambda *_: math.nan)
        stand_in = purchases.orders(known, days)
    assert stand_in.mean == pytest.approx(series.mean, rel=0.02, abs=1e-6)
    assert stand_in.variance == pytest.approx(series.variance, rel=0.05, abs=1e-6)
