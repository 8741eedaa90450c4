"""The evaluation of expected revenue: what it counts, and that it sees nothing of what is to come."""

import datetime as dt

import pytest
from data import require
from test_lifetime_fit import SOME, summaries

from worker.evaluate.value import held_to_what_came, orders_by_day
from worker.recall.days import Days
from worker.recall.money import Currency
from worker.sources import cdnow
from worker.sources.source import track

DAY = 20_300
"""The first that is predicted."""


def log(later=None):
    """Return orders of users with as many days of them before the day as in a simulated population."""
    orders = {}
    for n, ((known, _), _, mean) in enumerate(summaries(SOME, 600)):
        first = DAY - known.age_days - 1
        past = {first: [int(mean)], **{first + known.recency_days - i: [int(mean)] for i in range(known.repeats)}}
        orders[f"u{n}"] = past | (later or {})
    return orders


def test_orders_are_gathered_by_user_and_day_and_refunds_left_out():
    def record(user, at, event, **properties):
        return track("orders", f"{user} {at}", user=user, at=at, event=event, properties=properties)

    noon = 12 * 3_600_000
    records = [
        record("u", noon, "Order Completed", revenue="1.50"),
        record("u", noon + 1, "Order Completed", revenue="2"),
        record("u", noon + 2, "Order Refunded", total="1"),
        record("v", 3 * noon, "Order Completed", revenue="4"),
    ]
    assert orders_by_day(records, Currency.of("USD"), Days("UTC")) == {"u": {0: [150, 200]}, "v": {1: [400]}}


def test_what_came_is_of_the_horizons_days_alone():
    report = held_to_what_came(log({DAY: [700], DAY + 89: [200, 100], DAY + 90: [5000]}), DAY, 90)
    assert (report.horizon_days, report.came) == (90, 1000)
    assert report.users == len(summaries(SOME, 600))


def test_predictions_do_not_see_what_comes():
    quiet, busy = held_to_what_came(log({DAY + 1: [100]}), DAY, 90), held_to_what_came(log({DAY + 1: [300]}), DAY, 90)
    assert quiet.model.total == pytest.approx(3 * busy.model.total)
    assert quiet.own_rate.total == pytest.approx(3 * busy.own_rate.total)


def test_a_log_that_ends_at_the_day_is_refused():
    with pytest.raises(ValueError, match=r"horizon of 90 days from day 20300: nothing was spent"):
        held_to_what_came(log(), DAY, 90)


def test_users_who_come_after_the_day_are_not_predicted():
    orders = log({DAY: [100]})
    assert held_to_what_came(orders | {"new": {DAY: [100], DAY + 3: [100]}}, DAY, 90) == held_to_what_came(
        orders, DAY, 90
    )


@pytest.mark.data
def test_on_cdnow_the_models_predict_a_year_better_than_means():
    source = cdnow.read(require("cdnow", "CDNOW_master.txt.gz"))
    orders = orders_by_day(source.records, Currency.of(cdnow.CURRENCY), Days(cdnow.TIMEZONE))
    report = held_to_what_came(orders, Days.number(dt.date(1997, 7, 1)), 365)
    assert report.users == 23_570
    for other in (report.population_mean, report.own_rate):
        assert report.model.mae < 0.6 * other.mae
        assert report.model.rmse < 0.8 * other.rmse
        assert abs(report.model.total - 1) < abs(other.total - 1)
    assert report.model.rank_correlation > report.own_rate.rank_correlation
