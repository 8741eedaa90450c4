from math import log1p

import pytest
from learners import REGULAR, examples, snapshot_of, taught, thousandths

from schemas.commands import Factor
from worker.recall.lifetime.history import History, Rhythms
from worker.recall.risk.explain import factors
from worker.recall.risk.features import NAMES
from worker.recall.risk.model import RiverModel
from worker.recall.risk.scorer import Scorer

ONCE = Rhythms(History(repeats=0, recency_days=0, age_days=65), History(repeats=0, recency_days=0, age_days=65))
LATE = Rhythms(History(repeats=3, recency_days=60, age_days=125), History(repeats=40, recency_days=139, age_days=142))


def scorer_of(**slopes):
    """Make a learner's scorer that is moved by the features named, against averages of 1."""
    model = RiverModel().to_json() | {
        "learned": 1000,
        "averaged": 1.0,
        "average_intercept": 0.25,
        "average_weights": [slopes.get(name, 0.0) for name in NAMES],
        "means": [1.0] * len(NAMES),
        "variances": [1.0] * len(NAMES),
    }
    return Scorer(snapshot_of(RiverModel(), model=model, learner_share=1.0, lifetime=None))


def customer(**values):
    return thousandths([values.get(name, 1.0) for name in NAMES])


def log(n):
    return round(log1p(n), 3)


def text_of(name, **values):
    own = {name: 3.0} | values
    (factor,) = factors(scorer_of(**{name: 1.0}), customer(**own), REGULAR, top=1)
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
        (
            "sign_in_trend",
            {"sign_in_30d": log(4), "sign_in_trend": log(4) - log(28)},
            "sign-ins from daily to weekly",
        ),
        (
            "session_trend",
            {"session_30d": log(30), "session_trend": log(30) - log(24)},
            "sessions up 25% against the 30 days before",
        ),
        ("sign_in_7d", {"sign_in_7d": log(0)}, "no sign-ins in 7 days"),
        ("session_90d", {"session_90d": log(1200)}, "1,200 sessions in 90 days"),
        ("session_1d", {"session_1d": log(2)}, "2 sessions in 1 day"),
        ("wishlist_recency", {"wishlist_recency": log(91)}, "no wish-list additions in 90 days"),
        ("checkout_recency", {"checkout_recency": log(1)}, "last checkout 1 day ago"),
        ("order_recency_days", {"order_recency_days": log(240)}, "last order 240 days ago"),
        ("order_recency_days", {"order_recency_days": log(999)}, "no orders known"),
        ("active_days", {"active_days": log(34)}, "34 active days so far"),
        ("order_days", {"order_days": log(3)}, "orders on 3 days so far"),
        (
            "order_lateness",
            {"order_lateness": log(2.3), "order_recency_days": log(45), "order_gap_mean": log(20)},
            "last order 45 days ago, after 20 days as a rule",
        ),
        (
            "active_overdue",
            {"active_overdue": 2.0, "active_recency_days": log(9), "active_gap_mean": log(1)},
            "overdue: last active day 9 days ago, after 1 day as a rule",
        ),
        (
            "order_overdue",
            {"order_overdue": 0.0, "order_recency_days": log(9), "order_gap_mean": log(20)},
            "not overdue: last order 9 days ago, after 20 days as a rule",
        ),
        (
            "order_gaps_since",
            {"order_gaps_since": log(2.3), "order_recency_days": log(45)},
            "last order 45 days ago, 2.3 times the usual gap",
        ),
        ("active_gap_mean", {"active_gap_mean": log(4)}, "about 4 days between active days"),
        ("order_gap_deviation", {"order_gap_deviation": log(9)}, "time between orders varies by 9 days"),
        ("order_gap_last", {"order_gap_last": log(19)}, "19 days between the last two orders"),
        ("order_gap_last", {"order_gap_last": 0.0}, "no time between orders known"),
        ("orders_52w", {"orders_52w": log(5)}, "5 orders in 52 weeks"),
        ("orders_26w", {"orders_26w": log(1)}, "1 order in 26 weeks"),
        ("net_revenue_26w", {"net_revenue_26w": 1.5}, "net revenue of 26 weeks above the average customer's"),
        ("net_revenue_52w", {"net_revenue_52w": 0.5}, "net revenue of 52 weeks below the average customer's"),
        ("order_value_52w", {"order_value_52w": 1.5}, "average order value above the average customer's"),
        ("refund_share_52w", {"refund_share_52w": 0.25}, "25% of the revenue refunded"),
        ("discount_share", {"discount_share": 0.667}, "67% of the orders with a discount"),
        ("discount_share", {"discount_share": 0.0}, "no orders with a discount"),
        (
            "discounted_active_recency_days",
            {"discount_share": 0.667, "active_recency_days": log(24)},
            "67% of the orders with a discount, and last active day 24 days ago",
        ),
        (
            "discounted_order_lateness",
            {"discount_share": 1.0, "order_recency_days": log(45), "order_gap_mean": log(20)},
            "100% of the orders with a discount, and last order 45 days ago, after 20 days as a rule",
        ),
        (
            "discounted_sign_in_recency",
            {"discount_share": 0.5, "sign_in_recency": log(91)},
            "50% of the orders with a discount, and no sign-ins in 90 days",
        ),
        (
            "discounted_session_trend",
            {"discount_share": 0.5, "session_30d": log(3), "session_trend": log(3) - log(10)},
            "50% of the orders with a discount, and sessions from several times a week to weekly",
        ),
        ("products", {"products": log(1234)}, "1,234 products bought so far"),
        ("products_an_order", {"products_an_order": log(12.4)}, "about 12 products an order"),
        ("products_last_order", {"products_last_order": log(1)}, "1 product in the last order"),
        ("touch_30d", {"touch_30d": log(2)}, "2 touches in 30 days"),
        ("touch_recency", {"touch_recency": log(91)}, "no touches in 90 days"),
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
    seen = customer(view_7d=2.0, view_30d=2.0, view_90d=2.0, search_30d=0.0, tenure=0.0)
    told = factors(scorer, seen, REGULAR)
    assert [(factor["feature"], factor["contribution"]) for factor in told] == [
        ("view_30d", 1.5),
        ("search_30d", 0.5),
        ("tenure", -0.1),
    ]


@pytest.mark.parametrize(
    ("share", "contribution", "text"),
    [
        (0.75, -1.289, "75% of the orders with a discount, and last active day 24 days ago"),
        (0.0, 1.2, "no orders with a discount, and last active day 24 days ago"),
    ],
    ids=["a silence of who buys at sales lowers the risk", "of who never does raises it"],
)
def test_discounts_and_silence_are_one_factor_whose_words_are_true_either_way(share, contribution, text):
    scorer = scorer_of(discount_share=-0.1, discounted_active_recency_days=-1.0, discounted_session_trend=-0.1)
    silence = {"active_recency_days": log(24), "session_trend": 0.0}
    products = {f"discounted_{name}": round(share * value, 3) for name, value in silence.items()}
    (factor,) = factors(scorer, customer(discount_share=share, **silence, **products), REGULAR)
    assert (factor["feature"], factor["text"]) == ("discounted_active_recency_days", text)
    assert factor["contribution"] == pytest.approx(contribution, abs=0.001)


def test_what_did_not_move_the_score_is_no_factor():
    assert [factor["feature"] for factor in factors(scorer_of(tenure=1.0), customer(tenure=3.0), REGULAR)] == ["tenure"]
    assert factors(scorer_of(tenure=1.0), customer(), REGULAR) == []


@pytest.mark.parametrize(
    ("rhythms", "text"),
    [
        (LATE, "orders every 20 days as a rule, last one 65 days ago; last active 3 days ago"),
        (ONCE, "one order so far, 65 days ago"),
        (
            Rhythms(*[History(repeats=2, recency_days=2, age_days=3)] * 2),
            "orders every 1 day as a rule, last one 1 day ago",
        ),
    ],
)
def test_before_there_are_labels_the_rhythm_of_orders_is_the_only_factor(rhythms, text):
    scorer = Scorer(snapshot_of(None))
    (factor,) = factors(scorer, customer(), rhythms)
    assert (factor["feature"], factor["text"]) == ("rhythm", text)
    assert scorer.intercept + factor["contribution"] == pytest.approx(scorer.logit(customer(), rhythms), abs=1e-6)


@pytest.mark.parametrize("rhythms", [REGULAR, ONCE, LATE])
def test_all_factors_and_the_intercept_sum_up_to_the_logit(rhythms):
    scorer = Scorer(snapshot_of(taught(RiverModel)))
    for features, *_ in examples(20, seed=6):
        seen = thousandths(features)
        told = factors(scorer, seen, rhythms, top=len(NAMES))
        total = scorer.intercept + sum(factor["contribution"] for factor in told)
        assert total == pytest.approx(scorer.logit(seen, rhythms), abs=1e-4)
        assert "rhythm" in {factor["feature"] for factor in told}
        sizes = [abs(factor["contribution"]) for factor in told]
        assert sizes == sorted(sizes, reverse=True)
        for factor in told:
            Factor.model_validate(factor)
