"""What a touch costs in full, and the ledger of it; the calculator and its page."""

import json
import re
import sys
from decimal import Decimal

import duckdb
import orjson
import pytest
from customers import make_shop, ms, playbook
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from worker import cli
from worker.cost.calculator import Bill, Campaign, Return, break_even, share
from worker.recall.bodies import Feedback
from worker.recall.days import DAY_MS
from worker.recall.intake import short_id
from worker.recall.policy import ladder
from worker.recall.policy.costs import KINDS, Cost, booked, cost, redeemed
from worker.recall.profile import Contact, Profile
from worker.recall.shop import InForce
from worker.stream.processor import NEVER

AT = ms("2025-03-01T12:00")
PACK = {
    "name": "comeback",
    "opening": ["silence"],
    "kind": "comeback",
    "template": "comeback",
    "rungs": ["in_app", "email", "sms"],
}


def book(*, form=None, faces=(), points=0, redeemed=0.1, currency="EUR", **changes):
    incentive = form and {
        "form": form,
        "face_values": list(faces),
        "points": points,
        "expected_redemption": redeemed,
    }
    costs = {"people": "0.02", "upkeep": "0.01", "fatigue": "0.5", "brand": {"email": "0.005", "sms": "0.03"}}
    sections = {
        "plays": [{**PACK, "incentive": incentive, **changes}],
        "choice": {"priors": {}},
        "costs": costs,
        "channels": {"cost": {"email": "0.001", "sms": "0.05"}},
    }
    return InForce.of(playbook(**sections), make_shop(currency=currency))


def user(*touched_days_ago, orders=4, spent=20_000):
    profile = Profile(key=b"user-1", due=NEVER, silence_due=NEVER, other_due=NEVER, orders=orders)
    profile.account.spent = spent
    profile.account.contacts = [Contact(AT - round(days * DAY_MS), "email") for days in touched_days_ago]
    return profile


def price(book, channel, face=None, profile=None, shadow_price=0.0):
    return cost(book.playbook.plays[0], channel, face, profile or user(), book, shadow_price, AT)


def test_a_message_costs_its_contact_and_what_no_invoice_shows():
    assert price(book(), "sms") == Cost(contact=50_000, incentive=0, opportunity=0, hidden=60_000)
    assert price(book(), "in_app") == Cost(contact=0, incentive=0, opportunity=0, hidden=30_000)


def test_a_coupon_costs_its_face_value_times_the_share_that_is_redeemed():
    paid = price(book(form="amount", faces=["20", "30"]), "sms", 0)
    assert (paid.contact, paid.incentive, paid.direct) == (50_000, 2_000_000, 2_050_000)
    assert price(book(form="amount", faces=["20", "30"]), "sms", 1).incentive == 3_000_000


def test_a_coupon_that_is_used_costs_its_face_value():
    of = book(form="amount", faces=["20"], redeemed=0.15)
    sent = Contact(AT, "sms", "comeback", incentive_micros=price(of, "sms", 0).incentive, face=1)
    assert redeemed(sent, of.playbook) == 20_000_000
    assert redeemed(Contact(AT, "sms", "another", incentive_micros=7), of.playbook) == 7


def test_a_percentage_is_of_the_users_mean_order():
    assert price(book(form="percent", faces=["20"]), "sms", 0, user(orders=4, spent=20_000)).incentive == 1_000_000
    yen = book(form="percent", faces=["20"], currency="JPY")
    assert price(yen, "sms", 0, user(orders=4, spent=20_000)).incentive == 100_000_000


def test_points_cost_what_they_are_worth_beside_a_coupon_too():
    assert price(book(form="points", faces=["500"]), "sms", 0).incentive == 500_000
    assert price(book(form="amount", faces=["20"], points=100), "sms", 0).incentive == 2_100_000


def test_a_play_may_have_costs_of_its_own():
    own = book(cost={"contact": "0.4", "hidden": "0.2"})
    assert price(own, "sms") == Cost(contact=400_000, incentive=0, opportunity=0, hidden=200_000)


def test_the_shadow_price_makes_money_cost_more_than_it_is():
    paid = price(book(form="amount", faces=["20"]), "sms", 0, shadow_price=0.4)
    assert paid.opportunity == round(0.4 * 2_050_000)
    assert paid.total == paid.direct + paid.opportunity + paid.hidden


def test_each_touch_of_the_last_30_days_makes_the_next_one_cost_more():
    fresh, tired = price(book(), "sms"), price(book(), "sms", profile=user(1, 29.999, 30, 45))
    assert tired.hidden - fresh.hidden == 2 * 500_000


def test_the_ledger_takes_what_a_touch_costs_to_the_micro():
    spent = Cost(1_000, 2_000_000, 800_400, 8_000)
    taken = {count.name: count.n for count in booked("comeback", spent)}
    assert taken == {f"ledger.{kind}.comeback": getattr(spent, kind) for kind in KINDS}
    assert sum(taken.values()) == spent.total


def test_the_ledger_takes_what_feedback_says_has_left_once():
    profile = user()
    profile.account.contacts = [Contact(AT, "sms", "comeback", id=short_id("command-1"), contact_micros=50_000)]
    told = [
        Feedback("m1", "command-1", "delivered", "sms", 45_000),
        Feedback("m2", "command-1", "delivered", "sms", 45_000),
        Feedback("m3", "command-1", "clicked", "sms", None),
        Feedback("m4", "command-1", "converted", "sms", 20_000_000),
        Feedback("m5", "of another shop", "delivered", "sms", 45_000),
    ]
    taken = []
    for feedback in told:
        taken += ladder.booked(profile, feedback)
        ladder.heard(profile, feedback, AT, AT, book().playbook)
    assert [(count.name, count.n) for count in taken] == [
        ("ledger.actual.comeback", 45_000),
        ("ledger.actual.comeback", 20_000_000),
    ]


@given(
    face=st.decimals("0.01", "9999", places=2),
    redeemed=st.floats(0.001, 1),
    shadow_price=st.floats(0, 5),
    touched=st.lists(st.floats(0, 60), max_size=10),
)
def test_no_kind_of_cost_is_ever_negative_and_fatigue_never_falls(face, redeemed, shadow_price, touched):
    of = book(form="amount", faces=[str(face)], redeemed=redeemed)
    paid, again = (
        price(of, "sms", 0, user(*touched), shadow_price),
        price(of, "sms", 0, user(*touched, 0), shadow_price),
    )
    assert all(amount >= 0 for amount in paid)
    assert again.hidden > paid.hidden
    assert paid.incentive == pytest.approx(float(face) * redeemed * 1e6, abs=1)


# -- the calculator ----------------------------------------------------------------------------------------------------

ARTICLE = ["--contacts", "10000", "--contact-price", "0.05", "--face-value", "20", "--redemption", "10%"]
IN_FULL = [
    *ARTICLE,
    "--hours",
    "16",
    "--hourly-rate",
    "150",
    "--upkeep",
    "500",
    "--wear",
    "0.02",
    "--shadow-price",
    "0.5",
]
BELIEVED = ["--rate-with", "5%", "--rate-without", "1%", "--margin", "100"]


def recall_cost(*arguments, wrong=False):
    result = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["cost", *map(str, arguments)])
    assert (result.exit_code != 0) is wrong, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    return result.stderr if wrong else result.stdout


def told(*arguments):
    return json.loads(recall_cost(*arguments, "--format", "json"))


def test_the_articles_two_examples():
    text = recall_cost(*ARTICLE)
    assert re.search(r"contact +10,000 x 0\.05 +500\.00\n", text)
    assert re.search(r"coupons +10,000 x 10% x 20 +20,000\.00\n", text)
    assert re.search(r"total +20,500\.00\n", text)


def test_three_books_make_the_cost_in_full():
    bill = told(*IN_FULL)
    assert bill["direct"] == {"contact": "500", "coupons": "20000", "total": "20500"}
    assert bill["opportunity"] == "10250"
    assert bill["hidden"] == {"people": "2400", "upkeep": "500", "wear": "200", "total": "3100"}
    assert bill["total"] == "33850"
    assert bill["saves"] is None


def test_who_would_have_come_anyway_is_not_won():
    bill = told(*IN_FULL, *BELIEVED)
    assert bill["saves"] == {
        "with_contact": "500",
        "anyway": "100",
        "added": "400",
        "cost_per_save": "84.625",
        "gain": "6150",
        "roi": "0.181684",
    }
    assert bill["break_even_save_rate"] == "0.04385"


def test_the_answer_in_words():
    text = recall_cost(*IN_FULL, *BELIEVED)
    assert "84.62 CNY for each who would not have come" in text
    assert "Pays from a save rate of 4.38% on, where 1% come anyway" in text


def test_a_campaign_that_wins_nobody_has_no_cost_per_save():
    text = recall_cost(*ARTICLE, "--rate-with", "2%", "--rate-without", "3%", "--margin", "50")
    assert "nobody is won" in text
    assert "ROI            -124.4%" in text  # the hundred who stay away are lost beside the cost


def test_where_no_rate_would_pay_it_is_said():
    assert "At no save rate" in recall_cost(*ARTICLE, "--margin", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --contacts NUMBER, with what they cost, or --decisions FOLDER"),
        (["--contacts", "5", "--decisions", "."], "either --contacts NUMBER"),
        (["--contacts", "5", "--redemption", "110%"], "redemption = 110%: a share from 0 to 1 is allowed"),
        (["--contacts", "5", "--contact-price", "-1"], "contact-price: a finite number or decimal, from 0"),
        (["--contacts", "5", "--rate-with", "many"], "rate-with = many: a share"),
        (["--contacts", "5", "--currency", "yuan"], "currency 'yuan': a code of ISO 4217"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_is_allowed(arguments, message):
    assert message in recall_cost(*arguments, wrong=True)


MONEY = st.decimals(0, 10_000, places=2)
RATE = st.decimals(0, 1, places=3)


@given(
    contacts=st.integers(1, 10**6),
    price=MONEY,
    face=MONEY,
    redemption=RATE,
    wear=MONEY,
    shadow=RATE,
    anyway=RATE,
    margin=st.decimals("0.01", 10_000, places=2),
)
def test_at_break_even_nothing_is_gained_and_nothing_lost(
    contacts, price, face, redemption, wear, shadow, anyway, margin
):
    campaign = Campaign(
        contacts=contacts,
        contact_price=price,
        face_value=face,
        redemption=redemption,
        wear=wear,
        shadow_price=shadow,
    )
    bill, rate = Bill.of(campaign), break_even(campaign, anyway, margin)
    assert bill.total == bill.direct + bill.opportunity + bill.hidden
    if rate is None:
        assert Return.of(campaign, Decimal(1), anyway, margin).gain < 0
    else:
        assert rate >= anyway
        assert abs(Return.of(campaign, rate, anyway, margin).gain) < Decimal("1e-9")


@given(value=st.decimals(0, 1, places=4))
def test_a_share_is_the_same_in_percent(value):
    assert share(f"{value}") == share(f"{value * 100}%") == value


# -- the ledger of decisions -------------------------------------------------------------------------------------------


def decided(number, play="memory", channel="email", *, outcome="sent", reason=None, potential=None, **changes):
    cost = {"contact": "0.001", "incentive": "0", "direct": "0.001", "opportunity": "0.0005", "hidden": "0.018"}
    return {
        "decision_id": f"decision-{number}",
        "outcome": outcome,
        "reason": reason or outcome,
        "play": play,
        "channel": channel,
        "potential": potential,
        "arm": "treated",
        "cost": {**cost, "currency": "EUR", "budget": "daily"},
        **changes,
    }


COUPON = {
    "contact": "0.05",
    "incentive": "2",
    "direct": "2.05",
    "opportunity": "1.025",
    "hidden": "0.063",
    "currency": "EUR",
    "budget": "daily",
}
DECISIONS = [
    decided(1),
    decided(2, potential="high"),
    decided(2, potential="high"),  # told twice
    decided(3, "comeback", "sms", potential="high", cost=COUPON),
    decided(4, "comeback", "push"),
    decided(5, "comeback", "sms", outcome="suppressed", reason="no budget", cost=COUPON),
    decided(6, "comeback", "sms", outcome="held", reason="quiet hours", cost=COUPON),
    decided(7, outcome="suppressed", reason="low potential", cost=None),
    decided(8, play=None, channel=None, outcome="suppressed", reason="holdout", arm="control"),
]


@pytest.fixture
def replayed(tmp_path):
    """Give a folder as a replay writes it."""
    with (tmp_path / "recall-decisions.jsonl").open("wb") as file:
        for decision in DECISIONS:
            line = {"partition": 0, "key": "user-1", "headers": {}, "value": decision}
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return tmp_path


def test_what_was_spent_by_play_channel_and_kind(replayed):
    ledger = told("--decisions", replayed)
    assert [(row["play"], row["channel"], row["potential"], row["touches"]) for row in ledger["sent"]] == [
        ("comeback", "push", None, 1),
        ("comeback", "sms", "high", 1),
        ("memory", "email", None, 1),
        ("memory", "email", "high", 1),
    ]
    assert ledger["total"] == {
        "touches": 4,
        "contact": "0.053",
        "incentive": "2",
        "opportunity": "1.0265",
        "hidden": "0.117",
        "total": "3.1965",
    }
    assert ledger["currency"] == "EUR"


def test_what_had_a_price_and_was_not_sent_is_told_by_reason(replayed):
    assert told("--decisions", replayed)["not_sent"] == {"no budget": {"touches": 1, "total": "3.138"}}


def test_the_ledger_in_words(replayed):
    text = recall_cost("--decisions", replayed)
    assert "4 touches, 3.20 EUR in full" in text
    assert re.search(r"comeback +sms +1 +0\.05 +2\.00 +1\.02 +0\.06 +3\.14", text)
    assert "no budget      1 would have cost 3.14 EUR in full" in text


def test_decisions_a_line_and_parquet_say_the_same(replayed, tmp_path):
    bare, packed = tmp_path / "bare.jsonl", tmp_path / "packed.parquet"
    bare.write_bytes(b"\n".join(map(orjson.dumps, DECISIONS)))
    lines = str(replayed / "recall-decisions.jsonl")
    duckdb.execute(
        "copy (select value::varchar as value from read_json(?, columns={value: 'JSON'})) "
        f"to '{packed}' (format parquet)",
        [lines],
    )
    assert told("--decisions", bare) == told("--decisions", packed) == told("--decisions", replayed)


def test_a_folder_without_decisions_is_named(tmp_path):
    assert "a folder with recall-decisions.jsonl in it" in recall_cost("--decisions", tmp_path, wrong=True)


def test_nothing_sent_and_nothing_priced(tmp_path):
    file = tmp_path / "decisions.jsonl"
    file.write_bytes(orjson.dumps(DECISIONS[7]))
    assert recall_cost("--decisions", file) == "no touches were sent\n"


# -- pages -------------------------------------------------------------------------------------------------------------


def charts_of(page):
    return json.loads(re.search(r"^const charts = (.*);$", page.read_text(), re.MULTILINE)[1])


def drawn(part):
    """Return all values that a chart, or a part of it, was given."""
    if isinstance(part, dict):
        own = part["data"]["values"] if "values" in part.get("data", {}) else []
        return own + [row for value in part.values() for row in drawn(value)]
    return [row for value in part for row in drawn(value)] if isinstance(part, list) else []


def test_the_page_of_a_campaign_draws_where_the_money_goes_and_where_it_pays(tmp_path):
    page = tmp_path / "cost.html"
    assert "written to" in recall_cost(*IN_FULL, *BELIEVED, "--html", page)
    charts = charts_of(page)
    amounts = {row["name"]: row["amount"] for row in drawn(charts["money"]) if "name" in row}
    assert amounts == {
        "contact": 500,
        "coupons": 20_000,
        "opportunity": 10_250,
        "people": 2_400,
        "upkeep": 500,
        "wear": 200,
    }
    marks = {row["which"]: row for row in drawn(charts["break-even"]) if "which" in row}
    assert marks["break-even"]["rate"] == 0.04385
    assert marks["break-even"]["gain"] == 0
    assert marks["believed"]["gain"] == 6150
    assert "<script src" not in page.read_text()  # it opens without a network


def test_without_a_margin_there_is_no_break_even(tmp_path):
    page = tmp_path / "cost.html"
    recall_cost(*ARTICLE, "--html", page)
    assert set(charts_of(page)) == {"money"}


def test_the_page_of_the_ledger_draws_every_play(replayed, tmp_path):
    page = tmp_path / "spent.html"
    recall_cost("--decisions", replayed, "--html", page)
    charts = charts_of(page)
    assert {row["name"] for row in drawn(charts["plays"])} == {"comeback, push", "comeback, sms", "memory, email"}
    assert sum(row["amount"] for row in drawn(charts["plays"])) == pytest.approx(3.1965)


def test_where_the_charts_are_not_installed_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.delitem(sys.modules, "worker.cost.page", raising=False)
    message = recall_cost(*ARTICLE, "--html", tmp_path / "cost.html", wrong=True)
    assert "altair is not installed: pip install 'recall-worker[charts]'" in message
