"""The catalogue as of an event time, whatever the order in which its records came."""

from fractions import Fraction

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from schemas.values import rfc3339
from worker import demo, settings, topics
from worker.catalog import LOGGED_MAX, Products
from worker.monitoring import CatalogCollector
from worker.recall.money import Currency
from worker.recall.policy.catalog import CHANGES_KEPT, RATE_UNIT, Catalog, Change, Product
from worker.replay import Replay, by_topic
from worker.sources.history import HistoryRecord

NAMES = ("jam", "tea", "pot")
CATEGORIES = ("food", "home")


def catalog(*changes):
    catalog = Catalog()
    for change in changes:
        catalog.put(change)
    return catalog


def test_nothing_is_known_before_the_first_record_holds():
    tea = catalog(Change("tea", 100, price_minor=400))
    assert tea.product("tea", 99) is None
    assert tea.product("tea", 100) == Product(400, None, None, None, None, None)
    assert tea.product("jam", 100) is None
    assert (tea.margin_rate("drinks", 100), tea.arrivals(["drinks"], 0, 100, 3)) == (None, [])


def test_what_a_record_leaves_out_stays_as_it_was():
    tea = catalog(Change("tea", 100, price_minor=400, category="drinks", stock=3), Change("tea", 200, price_minor=300))
    assert tea.product("tea", 250) == Product(300, "drinks", None, 3, None, None)


def test_a_record_that_comes_out_of_order_lands_in_its_place():
    late = catalog(Change("tea", 300, price_minor=500), Change("tea", 200, price_minor=300, stock=0))
    assert [late.product("tea", at).price_minor for at in (200, 299, 300)] == [300, 300, 500]
    assert late.product("tea", 300).stock == 0


def test_of_two_records_for_one_time_the_later_read_holds():
    assert catalog(Change("tea", 1, stock=3), Change("tea", 1, stock=4)).product("tea", 1).stock == 4


def test_back_in_stock_is_the_last_return_from_none_to_some():
    shelf = catalog(*(Change("tea", at, stock=n) for at, n in ((10, 5), (20, 0), (30, 2), (40, 1), (50, 0), (60, 0))))
    assert [shelf.product("tea", at).back_in_stock_at for at in (10, 29, 30, 45, 60)] == [None, None, 30, 30, 30]


def test_an_arrival_that_lies_ahead_is_known_and_has_not_come():
    ahead = catalog(Change("tea", 10, category="drinks", arrived_at=50))
    assert ahead.product("tea", 20).arrived_at == 50
    assert ahead.arrivals(["drinks"], 0, 49, 3) == []
    assert ahead.arrivals(["drinks"], 0, 50, 3) == ["tea"]
    assert ahead.arrivals(["drinks"], 50, 60, 3) == []


def test_arrivals_are_the_newest_first_of_what_is_there_and_still_of_the_category():
    new = catalog(
        *(
            Change(name, at, category="food", arrived_at=at)
            for name, at in (("a", 10), ("b", 20), ("c", 30), ("d", 40))
        ),
        Change("e", 25, category="home", arrived_at=25),
        Change("f", 28, category="toys", arrived_at=28),
        Change("c", 35, stock=0),
        Change("d", 45, category="home"),
    )
    assert new.arrivals(["food", "home"], 0, 100, 9) == ["d", "e", "b", "a"]
    assert new.arrivals(["food"], 0, 44, 2) == ["d", "b"]
    assert new.arrivals(["food"], 0, 34, 2) == ["c", "b"]
    assert new.arrivals(["food"], 10, 100, 9) == ["b"]


def test_a_product_that_arrives_once_more_is_new_once_more():
    again = catalog(Change("tea", 10, category="drinks", arrived_at=10), Change("tea", 90, arrived_at=90))
    assert again.arrivals(["drinks"], 0, 100, 3) == ["tea"]
    assert again.arrivals(["drinks"], 50, 100, 3) == ["tea"]
    assert again.arrivals(["drinks"], 50, 89, 3) == []


def test_the_margin_rate_of_a_category_is_the_mean_over_its_products_that_have_one():
    shop = catalog(
        Change("tea", 10, price_minor=400, margin_minor=100, category="drinks"),
        Change("mug", 20, price_minor=200, margin_minor=-20, category="drinks"),
        Change("cup", 20, price_minor=200, category="drinks"),
        Change("free", 20, price_minor=0, margin_minor=10, category="drinks"),
    )
    assert [shop.margin_rate("drinks", at) for at in (9, 10, 20)] == [None, 0.25, 0.075]
    assert shop.margin_rate("toys", 20) is None
    shop.put(Change("mug", 30, category="toys"))
    assert [shop.margin_rate(name, 30) for name in ("drinks", "toys")] == [0.25, -0.1]
    assert shop.margin_rate("drinks", 25) == 0.075


def test_long_names_go_by_what_the_rows_keep_of_them():
    long = catalog(Change("买" * 100, 1, category="茶" * 100, price_minor=10, margin_minor=1, arrived_at=1))
    assert long.product("买" * 21, 1).category == "茶" * 21
    assert (long.margin_rate("茶" * 21, 1), long.arrivals(["茶" * 21], 0, 1, 1)) == (0.1, ["买" * 21])


def test_the_history_of_a_product_is_bounded_and_the_oldest_goes():
    prices = catalog(*(Change("tea", at, price_minor=at) for at in range(CHANGES_KEPT + 5)))
    assert prices.forgotten == 5
    assert prices.product("tea", 4) is None
    assert prices.product("tea", 5).price_minor == 5
    assert prices.product("tea", 10**6).price_minor == CHANGES_KEPT + 4


def test_a_price_that_is_told_again_and_again_displaces_no_change():
    told = catalog(Change("tea", 0, price_minor=400), *(Change("tea", at, price_minor=300) for at in range(10, 1000)))
    assert [told.product("tea", at).price_minor for at in (0, 9, 10, 2000)] == [400, 400, 300, 300]


def test_a_stock_that_changes_with_every_order_keeps_when_it_ran_out_and_came_back():
    sold = catalog(
        Change("tea", 1, stock=0),
        Change("tea", 2, stock=10**6),
        *(Change("tea", at, stock=10**6 - at) for at in range(3, 2000)),
    )
    assert sold.product("tea", 3000).back_in_stock_at == 2
    assert sold.product("tea", 3000).stock == 10**6 - 1999
    assert [sold.product("tea", at).stock > 0 for at in (1, 2, 900)] == [False, True, True]


CHANGES = st.builds(
    Change,
    st.sampled_from(NAMES),
    st.integers(0, 12),
    st.none() | st.integers(0, 3),
    st.none() | st.sampled_from(CATEGORIES),
    st.none() | st.integers(-2, 3),
    st.none() | st.integers(0, 2),
    st.none() | st.integers(0, 14),
)


class Plain:
    """The same by the definition, over all records at every look."""

    def __init__(self, changes):
        self.changes = changes

    def last(self, name, field, at):
        told = [
            (change.effective_at, i, getattr(change, field))
            for i, change in enumerate(self.changes)
            if change.product_id == name and change.effective_at <= at and getattr(change, field) is not None
        ]
        return max(told)[2] if told else None

    def product(self, name, at):
        fields = ("price_minor", "category", "margin_minor", "stock", "arrived_at")
        price, category, margin, stock, arrived = (self.last(name, field, at) for field in fields)
        rate = None if margin is None or not price else round(margin * RATE_UNIT / price) / RATE_UNIT
        back = [t for t in range(1, at + 1) if self.last(name, "stock", t) and self.last(name, "stock", t - 1) == 0]
        product = Product(price, category, rate, stock, arrived, back[-1] if back else None)
        return None if product == Product(None, None, None, None, None, None) else product

    def margin_rate(self, category, at):
        products = [product for name in NAMES if (product := self.product(name, at)) is not None]
        rates = [p.margin_rate for p in products if p.category == category and p.margin_rate is not None]
        return sum(Fraction(round(rate * RATE_UNIT), RATE_UNIT) for rate in rates) / len(rates) if rates else None

    def arrivals(self, categories, since, at):
        found = []
        for name in NAMES:
            product = self.product(name, at)
            if product is None or product.arrived_at is None or not since < product.arrived_at <= at:
                continue
            if product.category in categories and product.stock != 0:
                found.append((-product.arrived_at, name))
        return [name for _, name in sorted(found)]


@given(st.lists(CHANGES, max_size=14), st.lists(st.integers(0, 13), max_size=6))
def test_lookups_at_any_time_are_those_of_the_definition(changes, looks):
    shop, sofar = Catalog(), []
    for i, change in enumerate(changes):
        shop.put(change)
        sofar.append(change)
        if i in looks:  # what was asked for in between changes nothing later
            for category in CATEGORIES:
                shop.margin_rate(category, i)
    plain = Plain(sofar)
    for at in range(14):
        for name in NAMES:
            assert shop.product(name, at) == plain.product(name, at)
        for category in CATEGORIES:
            expected = plain.margin_rate(category, at)
            assert shop.margin_rate(category, at) == (None if expected is None else pytest.approx(float(expected)))
        assert shop.arrivals(CATEGORIES, at // 2, at, 9) == plain.arrivals(CATEGORIES, at // 2, at)


@given(st.lists(CHANGES, max_size=12, unique_by=lambda change: (change.product_id, change.effective_at)), st.randoms())
def test_the_order_of_the_records_tells_nothing_and_margin_rates_agree_to_the_bit(changes, random):
    other = list(changes)
    random.shuffle(other)
    one, two = Catalog(), catalog(*other)
    for change in changes:
        for category in CATEGORIES:
            one.margin_rate(category, 12)
        one.put(change)
    for at in range(14):
        assert [one.product(name, at) for name in NAMES] == [two.product(name, at) for name in NAMES]
        assert [one.margin_rate(name, at) for name in CATEGORIES] == [two.margin_rate(name, at) for name in CATEGORIES]


# -- the topic ---------------------------------------------------------------------------------------------------------


def take(products, value, key=b"tea", offset=0):
    products.take(key, orjson.dumps(value) if isinstance(value, dict) else value, offset)


def test_a_record_that_cannot_be_read_is_counted_and_told_of_without_what_it_holds():
    products = Products(Currency.of("GBP"))
    take(products, {"product_id": "tea", "effective_at": "2026-01-05T10:00:00Z", "price": "4.00"})
    with capture_logs() as logs:
        take(products, {"product_id": "tea", "effective_at": "2026-01-05T10:00:00Z", "prize": "4.00"}, offset=7)
        for _ in range(LOGGED_MAX):
            take(products, None)
    assert (logs[0]["offset"], logs[0]["reason"]) == (7, "malformed")
    assert len(logs) == LOGGED_MAX
    assert products.counts == {"taken": 1, "refused": LOGGED_MAX + 1, "late": 0, "forgotten": 0}
    assert len(products.catalog) == 1


def test_a_record_that_should_have_held_already_is_taken_and_counted_as_late():
    products = Products(Currency.of("GBP"), lambda: 1_767_607_200_000)  # 2026-01-05T10:00:00Z
    take(products, {"product_id": "tea", "effective_at": "2026-01-05T10:00:00Z", "stock": 1})
    take(products, {"product_id": "tea", "effective_at": "2026-01-05T09:59:59Z", "stock": 0})
    assert products.counts["late"] == 1
    assert products.catalog.product("tea", 1_767_607_200_000).back_in_stock_at == 1_767_607_200_000


# -- the drivers -------------------------------------------------------------------------------------------------------


def history(*changes):
    """Return a history of an order and the catalogue's records, each recorded when it holds."""
    at = 1_767_607_200_000
    order = {"order_id": "o1", "revenue": 10, "currency": "GBP"}
    event = {"type": "track", "messageId": "m", "userId": "u", "timestamp": rfc3339(at), "event": "Order Completed"}
    records = [HistoryRecord("orders", b"u", at, orjson.dumps({**event, "properties": order}))]
    for name, after, fields in changes:
        value = {"product_id": name, "effective_at": rfc3339(at + after), **fields}
        records.append(HistoryRecord("catalog", name.encode(), at + after, orjson.dumps(value)))
    return at, records


def test_a_replay_takes_the_catalogue_of_its_history_before_all_else():
    at, records = history(("tea", 0, {"stock": 0}), ("tea", 5000, {"stock": 3}), ("jam", 0, {"prize": "1"}))
    config = settings.load(currency="GBP", playbook=demo.PLAYBOOK, partitions=2)
    seen = []
    replay = Replay(config, lambda *_: seen.append(replay.products.counts["taken"]), progress=seen.append)
    replay.run(by_topic(records))
    assert seen[0] == len(records) - 1, "all records of the catalogue"
    assert replay.products.catalog.product("tea", at + 5000).back_in_stock_at == at + 5000
    assert replay.customers._catalog is replay.products.catalog
    assert replay.products.counts == {"taken": 2, "refused": 1, "late": 0, "forgotten": 0}


def test_a_replay_that_is_taken_day_by_day_takes_what_comes_with_each_day():
    at, records = history(("tea", 0, {"stock": 0}), ("tea", 86_400_000, {"stock": 3}))
    replay = Replay(settings.load(currency="GBP", playbook=demo.PLAYBOOK, partitions=1), lambda *_: None)
    replay.advance(at + 14 * 3_600_000, records[:2])
    assert replay.products.counts["taken"] == 1
    replay.advance(at + 38 * 3_600_000, records[2:])
    replay.close()
    assert replay.products.catalog.product("tea", at + 86_400_000).back_in_stock_at == at + 86_400_000


def test_what_became_of_the_records_is_told_as_metrics():
    products = Products(Currency.of("GBP"))
    take(products, {"product_id": "tea", "effective_at": "2026-01-05T10:00:00Z", "stock": 1})
    take(products, None)
    told = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in CatalogCollector(products).collect()
        for sample in family.samples
    }
    assert told == {
        ("recall_catalog_records_total", "taken"): 1,
        ("recall_catalog_records_total", "refused"): 1,
        ("recall_catalog_records_total", "late"): 0,
        ("recall_catalog_records_total", "forgotten"): 0,
        ("recall_catalog_products", None): 1,
    }


def test_a_worker_may_read_the_catalogue():
    grants = {grant.name: grant.operations for grant in topics.grants(settings.load(app_id="recall"))}
    assert grants["catalog"] == ("read",)
