"""The fit: published estimates, simulated populations, and what cannot be fitted."""

import datetime as dt
import os
import subprocess
import sys
from collections import defaultdict
from functools import cache

import numpy as np
import orjson
import pytest
from cdnow_sample import SAMPLE
from data import require
from scipy.optimize import approx_fprime
from test_lifetime import simulated

from worker.recall.lifetime import fit as fitting
from worker.recall.lifetime.bgnbd import BgNbd
from worker.recall.lifetime.fit import (
    HISTORIES_MAX,
    HISTORIES_MIN,
    FitError,
    fit,
    fit_purchases,
    fit_spend,
    purchase_log_likelihoods,
    purchase_slopes,
    spend_log_likelihoods,
    spend_slopes,
)
from worker.recall.lifetime.history import History, Rhythms, Summary
from worker.recall.lifetime.spend import GammaGamma
from worker.recall.lifetime.worth import Lifetime
from worker.sources import cdnow

DAY = 20_000


@cache
def published_sample():
    """Return histories over the first 39 weeks, and number and mean dollars of the repeats, of a tenth of CDNOW."""
    end = dt.date(1997, 9, 30)
    spent = defaultdict(lambda: defaultdict(float))
    for record in cdnow.read(require("cdnow", "CDNOW_master.txt.gz")).records:
        event = orjson.loads(record.value)
        day = dt.date.fromisoformat(event["timestamp"][:10])
        if int(event["userId"]) in SAMPLE and day <= end:
            spent[event["userId"]][day] += float(event["properties"]["revenue"])
    histories, repeats, means = [], [], []
    for by_day in spent.values():
        days = sorted(by_day)
        histories.append(History(len(days) - 1, (days[-1] - days[0]).days, (end - days[0]).days))
        repeats.append(len(days) - 1)
        means.append(np.mean([by_day[day] for day in days[1:]]) if len(days) > 1 else 0.0)
    return histories, np.array(repeats, dtype=float), np.array(means)


def total_log_likelihood(histories, r, alpha_weeks, a, b):
    x, recency, age = np.array(histories, dtype=float).T
    return purchase_log_likelihoods(np.array([r, alpha_weeks, a, b]), x, recency / 7, age / 7).sum()


@pytest.mark.data
def test_the_likelihood_of_purchases_is_the_published_one():
    histories, repeats, _ = published_sample()
    assert (len(histories), np.count_nonzero(repeats)) == (2357, 946)
    assert total_log_likelihood(histories, 0.243, 4.414, 0.793, 2.426) == pytest.approx(-9582.4, abs=0.05)


@pytest.mark.data
def test_without_the_ridge_the_estimates_are_the_published_ones(monkeypatch):
    monkeypatch.setattr(fitting, "_RIDGE", 0.0)
    histories, repeats, means = published_sample()
    found = fit_purchases(histories)
    assert (found.r, found.alpha / 7, found.a, found.b) == pytest.approx((0.243, 4.414, 0.793, 2.426), abs=0.0006)
    # The authors average the repeats alone: as many orders as these.
    spend = fit_spend(repeats, means)
    assert (spend.p, spend.q, spend.v) == pytest.approx((6.25, 3.74, 15.44), abs=0.006)


@pytest.mark.data
def test_the_ridge_costs_next_to_no_likelihood():
    histories, repeats, means = published_sample()
    found = fit_purchases(histories)
    assert total_log_likelihood(histories, found.r, found.alpha / 7, found.a, found.b) > -9582.43 - 0.1
    assert (found.r, found.alpha / 7) == pytest.approx((0.243, 4.414), rel=0.02)
    assert found.a / (found.a + found.b) == pytest.approx(0.793 / (0.793 + 2.426), rel=0.03)
    paid = repeats > 0
    spend = fit_spend(repeats, means)
    best, ridged = (
        spend_log_likelihoods(np.array(values), repeats[paid], means[paid]).sum()
        for values in ((6.25, 3.74, 15.44), (spend.p, spend.q, spend.v))
    )
    assert best - 0.5 < ridged < best + 0.01


def test_a_simulated_population_is_found_again():
    truth = Lifetime(BgNbd(0.8, 30.0, 0.9, 3.0), BgNbd(0.8, 30.0, 0.9, 3.0), GammaGamma(4.0, 5.0, 4000.0), 0, 1)
    told = summaries(truth, 6000)
    found = fit(told, DAY)
    assert (found.fitted_day, found.histories) == (DAY, len(told))
    assert (found.purchases.r, found.purchases.alpha) == pytest.approx((0.8, 30.0), rel=0.12)
    leaving = found.purchases.a / (found.purchases.a + found.purchases.b)
    assert leaving == pytest.approx(0.9 / 3.9, rel=0.12)
    assert found.spend.p * found.spend.v / (found.spend.q - 1) == pytest.approx(4000.0, rel=0.05)
    assert found.spend.p == pytest.approx(4.0, rel=0.12)


def summary_of(known, orders, mean, active=None):
    """Return a summary of a user who does nothing but order, where nothing else is said."""
    return Summary(Rhythms(known, active or known), orders, mean)


@cache
def summaries(lifetime, users, seed=3):
    return [
        summary_of(History(known.repeats, round(known.recency_days), known.age_days), orders, mean)
        for known, orders, mean, _ in simulated(lifetime, users, 300, 1, seed)
        if known.repeats <= round(known.recency_days)
    ]


OTHER = Lifetime(BgNbd(2.0, 5.0, 0.5, 9.0), BgNbd(2.0, 5.0, 0.5, 9.0), GammaGamma(4.0, 5.0, 4000.0), 0, 1)
SOME = Lifetime(BgNbd(0.8, 30.0, 0.9, 3.0), BgNbd(0.8, 30.0, 0.9, 3.0), GammaGamma(4.0, 5.0, 4000.0), 0, 1)


def test_activity_is_fitted_to_its_own_days():
    told = [summary_of(known.orders, n, mean, active=known.active) for known, n, mean in summaries(SOME, 1000)]
    busy = [
        one._replace(rhythms=Rhythms(one.rhythms.orders, other.rhythms.orders))
        for one, other in zip(told, summaries(OTHER, 1000), strict=False)
    ]
    found = fit(busy, DAY)
    assert found.purchases == fit(told[: len(busy)], DAY).purchases
    assert found.activity == fit_purchases([one.rhythms.active for one in busy]) != found.purchases


def test_the_same_histories_give_the_same_model_in_six_digits():
    told = summaries(SOME, 1000)
    found = fit(told, DAY)
    assert fit(list(told), DAY) == found
    for value in (found.purchases.r, found.purchases.alpha, found.spend.p, found.spend.v):
        assert value == float(f"{value:.6g}")


def test_another_processor_finds_the_same_model_in_six_digits():
    """OpenBLAS and NumPy choose their arithmetic by the processor; here an old one is taken for the second fit."""
    code = "from test_lifetime_fit import *; print(fit(summaries(SOME, 1500), DAY))"
    old = {"OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "1", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4"}
    path = os.pathsep.join(sys.path)
    told = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path, **how}, capture_output=True, check=True
        ).stdout
        for how in ({}, old)
    ]
    assert told[0] == told[1]


def test_of_very_many_histories_the_first_are_taken(monkeypatch):
    assert HISTORIES_MAX == 20_000
    monkeypatch.setattr(fitting, "HISTORIES_MAX", 500)
    told = summaries(SOME, 1000)
    assert fit(told, DAY) == fit(told[:500], DAY)


def test_too_few_payers_leave_the_value_of_orders_out():
    told = [
        told._replace(orders=1) if told.rhythms.orders.repeats == 0 else told._replace(mean_value=0.0)
        for told in summaries(SOME, 1000)
    ]
    assert fit(told, DAY).spend is None


def test_a_flat_price_leaves_the_value_of_orders_out():
    told = [summary_of(known.orders, known.orders.repeats + 1, 500.0) for known, _, _ in summaries(SOME, 1000)]
    assert fit(told, DAY).spend is None


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ([], f"histories: 0 are too few; allowed are {HISTORIES_MIN} or more"),
        ([History(1, 5, 9)] * (HISTORIES_MIN - 1), "199 are too few"),
        ([History(0, 0, 9)] * HISTORIES_MIN, "histories: none of 200 has a repeat"),
        (
            [History(1, 5, 9)] * HISTORIES_MIN + [History(1, 9, 5)],
            r"History\(repeats=1, recency_days=9, age_days=5\): allowed",
        ),
        ([History(1, 5, 9)] * HISTORIES_MIN + [History(0, 3, 5)], "no recency without a repeat"),
        ([History(1, 5, 9)] * HISTORIES_MIN + [History(3, 2, 5)], "repeats=3, recency_days=2"),
    ],
)
def test_histories_that_no_model_can_be_fitted_to_are_named(histories, message):
    with pytest.raises(FitError, match=message):
        fit([summary_of(known, known.repeats + 1, 100.0) for known in histories], DAY)


def test_users_who_are_all_alike_still_give_a_finite_model():
    found = fit([summary_of(History(4, 40, 41), 5, 100.0 + n % 7) for n in range(500)], DAY)
    assert 0 < found.purchases.no_order(History(4, 40, 41), 30) < 0.2


def test_slopes_are_those_of_the_likelihoods():
    repeats, recency, age = np.array([[0.0, 1.0, 4.0, 30.0], [0.0, 0.5, 3.0, 6.0], [2.0, 0.5, 9.0, 6.1]])
    purchases = np.array([0.3, 1.2, 0.7, 2.0])
    numeric = approx_fprime(purchases, lambda at: purchase_log_likelihoods(at, repeats, recency, age), 1e-7)
    assert purchase_slopes(purchases, repeats, recency, age) == pytest.approx(numeric.T, rel=1e-4, abs=1e-5)

    spend = np.array([6.25, 3.74, 0.44])
    orders, means = np.array([2.0, 5.0, 40.0]), np.array([0.2, 1.0, 3.0])
    numeric = approx_fprime(spend, lambda at: spend_log_likelihoods(at, orders, means), 1e-7)
    assert spend_slopes(spend, orders, means) == pytest.approx(numeric.T, rel=1e-4, abs=1e-5)
