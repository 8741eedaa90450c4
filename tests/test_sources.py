import datetime as dt
import gzip
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal

import orjson
import pandas as pd
import pytest
from data import require

from schemas.values import rfc3339
from worker.sources import Accounting, detect, history, open_source
from worker.sources.history import HistoryRecord

EPOCH = dt.date(1970, 1, 1).toordinal()

INVOICES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,A,cup,2,2011-07-01 09:31:00,1.006,7.0,United Kingdom
1,A,cup,2,2011-07-01 09:30:00,1.006,7.0,United Kingdom
1,B,pot,1,2011-07-01 09:30:00,10.00,7.0,United Kingdom
C2,A,cup,-1,2011-01-02 09:30:00,1.50,7.0,United Kingdom
3,A,cup,1,2011-01-03 09:30:00,1.50,,United Kingdom
4,A,cup,-1,2011-01-03 09:30:00,1.50,7.0,United Kingdom
C5,A,cup,1,2011-01-03 09:30:00,1.50,7.0,United Kingdom
A6,B,Adjust bad debt,1,2011-01-03 09:30:00,-100.0,7.0,United Kingdom
"""


def parsed(source):
    return [(record, orjson.loads(record.value)) for record in source.records]


def sound(records):
    """In the order of time, each event once, recorded when it happened, and keyed by its user."""
    times = [record.recorded_at for record, _ in records]
    assert times == sorted(times)
    assert len({event["messageId"] for _, event in records}) == len(records)
    assert [event["timestamp"] for _, event in records] == [rfc3339(at) for at in times]
    assert [event["userId"] for _, event in records] == [record.key.decode() for record, _ in records]


def test_an_account_has_to_add_up():
    with pytest.raises(ValueError, match="3 lines are not 1 carried and"):
        Accounting(lines=3, carried=1, left_out={"no customer": 1})


def test_invoices_become_orders_and_refunds(tmp_path):
    path = tmp_path / "retail.csv"
    path.write_text(INVOICES)
    source = open_source(path)
    assert (source.name, source.currency, source.timezone) == ("online-retail", "GBP", "Europe/London")
    left_out = {"no customer": 1, "no sale": 1, "sign does not fit": 2}
    assert source.accounting == Accounting(lines=8, carried=4, left_out=left_out)
    (_, refund), (_, order) = parsed(source)
    assert refund["event"] == "Order Refunded"
    assert refund["properties"] == {"order_id": "C2", "total": "1.50", "currency": "GBP"}
    assert order["timestamp"] == "2011-07-01T08:30:00.000Z", "the first line, in British Summer Time"
    assert order["properties"] == {
        "order_id": "1",
        "revenue": "14.02",
        "currency": "GBP",
        "products": [
            {"product_id": "A", "price": "1.01", "quantity": 4},
            {"product_id": "B", "price": "10.00", "quantity": 1},
        ],
    }


@pytest.mark.data
def test_online_retail_equals_a_count_by_other_means():
    path = require("online_retail", "online_retail.parquet")
    source = open_source(path)
    assert source.accounting == Accounting(lines=541_909, carried=406_829, left_out={"no customer": 135_080})
    records = parsed(source)
    sound(records)

    table = pd.read_parquet(path).dropna(subset="CustomerID")
    table["amount"] = [
        Decimal(str(price)) * quantity for price, quantity in zip(table.UnitPrice, table.Quantity, strict=True)
    ]
    invoices = table.groupby(["InvoiceNo", "CustomerID"]).agg(
        amount=("amount", "sum"), at=("InvoiceDate", "min"), pieces=("Quantity", "sum")
    )
    invoices["at"] = invoices["at"].dt.tz_localize("Europe/London").dt.tz_convert("UTC")
    expected = {
        (number, str(int(customer))): (
            abs(row.amount).quantize(Decimal("0.01"), ROUND_HALF_UP),
            row.at.to_pydatetime(),
            None if number.startswith("C") else row.pieces,
        )
        for (number, customer), row in zip(invoices.index, invoices.itertuples(), strict=True)
    }
    found = {}
    for _, event in records:
        properties = event["properties"]
        order = event["event"] == "Order Completed"
        found[properties["order_id"], event["userId"]] = (
            Decimal(properties["revenue" if order else "total"]),
            dt.datetime.fromisoformat(event["timestamp"]),
            sum(product["quantity"] for product in properties["products"]) if order else None,
        )
    assert found == expected
    assert Counter(event["event"] for _, event in records) == {"Order Completed": 18_536, "Order Refunded": 3_654}


def test_purchases_of_a_day_keep_apart(tmp_path):
    path = tmp_path / "cd.txt"
    path.write_text(" 00002 19970112  5   77.00\r\n 00001 19970101  1   11.77\r\n 00002 19970112  1   12.00\r\n")
    source = open_source(path)
    assert (source.name, source.accounting) == ("cdnow", Accounting(lines=3, carried=3, left_out={}))
    records = parsed(source)
    sound(records)
    orders = [event["properties"] for _, event in records]
    assert [order["order_id"] for order in orders] == ["00001-19970101-1", "00002-19970112-1", "00002-19970112-2"]
    assert orders[1] == {
        "order_id": "00002-19970112-1",
        "revenue": "77.00",
        "currency": "USD",
        "products": [{"product_id": "cd", "quantity": 5}],
    }
    assert records[0][1]["timestamp"] == "1997-01-01T12:00:00.000Z"


@pytest.mark.parametrize("row", ["1 19970132 1 1.00", "1 19970101 1", "1 19970101 one 1.00", "1 19970101 1 much"])
def test_a_bad_purchase_is_named(tmp_path, row):
    path = tmp_path / "cd.txt"
    path.write_text(f"1 19970101 1 1.00\n{row}\n")
    with pytest.raises(ValueError, match=r"cd\.txt, line 2: .* is not customer_id date"):
        open_source(path)


@pytest.mark.data
def test_cdnow_carries_every_purchase():
    path = require("cdnow", "CDNOW_master.txt.gz")
    source = open_source(path)
    assert source.accounting == Accounting(lines=69_659, carried=69_659, left_out={})
    records = parsed(source)
    sound(records)
    table = pd.read_csv(path, sep=r"\s+", dtype=str)
    money: Counter[str] = Counter()
    for _, event in records:
        money[event["userId"]] += Decimal(event["properties"]["revenue"])
    assert money == table.dollar_value.map(Decimal).groupby(table.customer_id).sum().to_dict()
    days = Counter(event["timestamp"][:10].replace("-", "") for _, event in records)
    assert days == table.date.value_counts().to_dict()


def test_actions_are_laid_down_in_their_order(tmp_path):
    path = tmp_path / "tmall.csv.gz"
    actions = "u,b1,0,6-4\nu,b1,2,6-4\nv,b1,0,6月4日\nu,b2,3,6-4\nu,b2,1,6-4\nu,b3,0,6-3\n"
    path.write_bytes(gzip.compress(f"user_id,brand_id,type,visit_datetime\n{actions}".encode("gbk")))
    source = open_source(path, price="59.90")
    assert (source.name, source.currency, source.timezone) == ("tmall", "CNY", "Asia/Shanghai")
    assert source.accounting == Accounting(lines=6, carried=6, left_out={})
    records = parsed(source)
    sound(records)
    assert [(record.topic, event["event"], event["timestamp"]) for record, event in records] == [
        ("clickstream", "Product Viewed", "2013-06-03T00:00:00.000Z"),
        ("clickstream", "Product Viewed", "2013-06-04T00:00:00.000Z"),
        ("clickstream", "Product Viewed", "2013-06-04T00:00:00.000Z"),
        ("clickstream", "Product Added to Wishlist", "2013-06-04T00:00:01.000Z"),
        ("cart", "Product Added", "2013-06-04T00:00:02.000Z"),
        ("orders", "Order Completed", "2013-06-04T00:00:03.000Z"),
    ]
    assert records[-1][1]["properties"] == {
        "order_id": "6",
        "revenue": "59.90",
        "currency": "CNY",
        "products": [{"product_id": "b2", "price": "59.90", "quantity": 1}],
    }


@pytest.mark.parametrize("row", ["u,b,4,6-4", "u,b,0,6-31", "u,b,0,June", "u,b,0"])
def test_a_bad_action_is_named(tmp_path, row):
    path = tmp_path / "tmall.csv"
    path.write_text(f"user_id,brand_id,type,visit_datetime\n{row}\n")
    with pytest.raises(ValueError, match=r"tmall\.csv, line 2: .* is not user_id"):
        open_source(path)


@pytest.mark.parametrize("price", ["free", "-1", "NaN", "1e3"])
def test_a_price_is_a_decimal_number(tmp_path, price):
    path = tmp_path / "tmall.csv"
    path.write_text("user_id,brand_id,type,visit_datetime\n")
    with pytest.raises(ValueError, match=f"price is '{price}'"):
        open_source(path, price=price)


@pytest.mark.data
def test_tmall_carries_every_action():
    path = require("tmall", "tmall.csv.gz")
    source = open_source(path)
    assert source.accounting == Accounting(lines=182_880, carried=182_880, left_out={})
    records = parsed(source)
    sound(records)
    assert len({(record.key, record.recorded_at) for record, _ in records}) == len(records)
    assert Counter(event["event"] for _, event in records) == {
        "Product Viewed": 174_539,
        "Order Completed": 6_984,
        "Product Added to Wishlist": 1_204,
        "Product Added": 153,
    }
    table = pd.read_csv(path, dtype=str)
    assert Counter(event["userId"] for _, event in records) == table.user_id.value_counts().to_dict()
    # The day opens at 08:00 in Shanghai, which is midnight in UTC.
    days = Counter(record.recorded_at // 86_400_000 for record, _ in records)
    dates = {f"{date.month}-{date.day}": n for day, n in days.items() for date in [dt.date.fromordinal(EPOCH + day)]}
    assert dates == table.visit_datetime.value_counts().to_dict()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_history_is_a_source_too(tmp_path, suffix):
    path = tmp_path / f"own.{suffix}"
    records = [HistoryRecord("orders", b"u", 1000, b'{"n":1}'), HistoryRecord("cart", b"u", 2000, b'{"n":2}')]
    history.write(path, records)
    source = open_source(path)
    assert (source.name, source.currency) == ("history", None)
    assert source.accounting == Accounting(lines=2, carried=2, left_out={})
    assert list(source.records) == records


def test_unknown_columns_are_told(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"the columns a, b are those of no known form: online-retail \(InvoiceNo"):
        detect(path)
