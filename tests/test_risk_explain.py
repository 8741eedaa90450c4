from math import log1p

import pytest
from test_risk_model import examples, snapshot_of, taught

from schemas.commands import Factor
from worker.recall.risk.explain import factors
from worker.recall.risk.features import NAMES
from worker.recall.risk.model import RiverModel, Scorer


def scorer_of(**slopes):
    """Make a scorer that is moved by the features named, against averages of 1."""
    model = RiverModel().to_json() | {
        "learned": 1000,
        "intercept": 0.25,
        "weights": [slopes.get(name, 0.0) for name in NAMES],
        "means": [1.0] * len(NAMES),
        "variances": [1.0] * len(NAMES),
    }
    return Scorer(snapshot_of(RiverModel(), model=model))


def customer(**values):
    return [values.get(name, 1.0) for name in NAMES]


def log(n):
    return round(log1p(n), 3)


def text_of(name, **values):
    own = {name: 3.0} | values
    (factor,) = factors(scorer_of(**{name: 1.0}), customer(**own), top=1)
    assert factor["feature"] == name
    return factor["text"]


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        (
            "cart_add_trend",
            {"cart_add_30d": log(3), "cart_add_trend": log(3) - log(10)},
            "cart additions down 70% against the 30 days before",
        ),
        (
            "view_trend",
            {"view_30d": log(30), "view_trend": log(30) - log(20)},
            "product views up 50% against the 30 days before",
        ),
        ("view_trend", {"view_30d": log(8), "view_trend": 0.0}, "product views unchanged against the 30 days before"),
        (
            "new_arrival_view_trend",
            {"new_arrival_view_30d": 0.0, "new_arrival_view_trend": -log(12)},
            "no views of new arrivals in 30 days, 12 in the 30 days before",
        ),
        (
            "search_trend",
            {"search_30d": log(1), "search_trend": log(1)},
            "1 search in 30 days, none in the 30 days before",
        ),
        ("sign_in_7d", {"sign_in_7d": log(0)}, "no sign-ins in 7 days"),
        ("session_90d", {"session_90d": log(1200)}, "1,200 sessions in 90 days"),
        ("session_1d", {"session_1d": log(2)}, "2 sessions in 1 day"),
        ("wishlist_recency", {"wishlist_recency": log(91)}, "no wish-list additions in 90 days"),
        ("checkout_recency", {"checkout_recency": log(1)}, "last checkout 1 day ago"),
        ("order_recency_days", {"order_recency_days": log(240)}, "last order 240 days ago"),
        ("order_recency_days", {"order_recency_days": log(999)}, "no orders known"),
        (
            "order_overdue",
            {"order_overdue": log(2.3), "order_recency_days": log(45)},
            "last order 45 days ago, 2.3 times the usual gap",
        ),
        ("active_gap_mean", {"active_gap_mean": log(4)}, "about 4 days between active days"),
        ("order_gap_deviation", {"order_gap_deviation": log(9)}, "time between orders varies by 9 days"),
        ("order_gap_last", {"order_gap_last": log(19)}, "19 days between the last two orders"),
        ("order_gap_last", {"order_gap_last": 0.0}, "no time between orders known"),
        ("orders_52w", {"orders_52w": log(5)}, "5 orders in 52 weeks"),
        ("net_revenue_52w", {"net_revenue_52w": 0.5}, "net revenue of 52 weeks below the average customer's"),
        ("order_value_52w", {"order_value_52w": 1.5}, "average order value above the average customer's"),
        ("refund_share_52w", {"refund_share_52w": 0.25}, "25% of the revenue refunded"),
        ("discount_share", {"discount_share": 0.667}, "67% of the orders with a discount"),
        ("tenure", {"tenure": log(400)}, "customer for 400 days"),
        ("tier_high", {"tier_high": 0.0}, "not of the tier high"),
        ("tier_silent", {"tier_silent": 2.0}, "of the tier silent"),
        ("tier_age", {"tier_age": log(12)}, "tier unchanged for 12 days"),
        ("tier_age", {"tier_age": log(999)}, "tier unchanged for long"),
    ],
)
def test_words(name, values, text):
    assert text_of(name, **values) == text


@pytest.mark.parametrize("name", NAMES)
def test_every_feature_has_words(name):
    assert text_of(name)


def test_what_says_the_same_is_one_factor():
    scorer = scorer_of(view_7d=1.0, view_30d=2.0, view_90d=-1.5, search_30d=-0.5, tenure=0.1)
    told = factors(scorer, customer(view_7d=2.0, view_30d=2.0, view_90d=2.0, search_30d=0.0, tenure=0.0))
    assert [(factor["feature"], factor["contribution"]) for factor in told] == [
        ("view_30d", 1.5),
        ("search_30d", 0.5),
        ("tenure", -0.1),
    ]


def test_all_factors_and_the_intercept_sum_up_to_the_logit():
    scorer = Scorer(snapshot_of(taught(RiverModel)))
    for features, *_ in examples(20, seed=6):
        told = factors(scorer, features, top=len(NAMES))
        total = scorer.intercept + sum(factor["contribution"] for factor in told)
        assert total == pytest.approx(scorer.logit(features), abs=1e-4)
        sizes = [abs(factor["contribution"]) for factor in told]
        assert sizes == sorted(sizes, reverse=True)
        for factor in told:
            Factor.model_validate(factor)
