"""Good and bad records of the source topics: one table, put to the contracts and to the fast decoder alike."""

import json
from typing import NamedTuple, get_args

from schemas.feedback import Status
from worker.recall import bodies
from worker.recall.policy.catalog import Change
from worker.stream.processor import Directive, Ignored, Rejected, Tick

AT = 1_767_607_200_000
TIMESTAMP = "2026-01-05T10:00:00Z"
USER = "user-1"


class Case(NamedTuple):
    """A record and what becomes of it; `contract` is what the published model says where the two may differ."""

    name: str
    topic: str
    value: object
    expected: object
    at: int | None = AT
    contract: bool | None = None
    key: bytes | None = USER.encode()
    recorded_at: int = AT

    @property
    def raw(self):
        return self.value if self.value is None or isinstance(self.value, bytes) else json.dumps(self.value).encode()

    @property
    def valid(self):
        """Tell whether the published model takes the value."""
        return self.contract if self.contract is not None else not isinstance(self.expected, str)


def envelope(call, /, **fields):
    return {"type": call, "messageId": "m1", "userId": USER, "timestamp": TIMESTAMP, **fields}


def track(name, properties=None, /, **fields):
    record = envelope("track", **{"event": name, **fields})
    return record if properties is None else {**record, "properties": properties}


def view(price=19.99, **fields):
    return track("Product Viewed", {"product_id": "p1", "category": "shoes", "price": price}, **fields)


def order(**properties):
    return track("Order Completed", {"order_id": "o1", "total": 30, "currency": "GBP", **properties})


def profile(**fields):
    return envelope("profile", **fields)


def feedback(**fields):
    return envelope("feedback", **{"command_id": "c1", "status": "clicked", "channel": "email", **fields})


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


def activity(channel, **fields):
    return bodies.Activity(channel, "m1", **fields)


def ordered(net_minor=3000, items=(), coupon=None, discount_minor=0):
    return bodies.Order("m1", "o1", net_minor, items, coupon, discount_minor)


def updated(**fields):
    names = bodies.ProfileUpdate.__struct_fields__
    return bodies.ProfileUpdate(**{**dict.fromkeys(names), "message_id": "m1", "erase": False, **fields})


def priced(**fields):
    return {"product_id": "p1", "effective_at": TIMESTAMP, **fields}


def catalog(name, value, expected, **fields):
    """Return a case of the catalogue: its time lies in its body, its key is the product."""
    return Case(name, "catalog", value, expected, **{"at": None, "key": b"p1", **fields})


SHOES = {"product_id": "p1", "category": "shoes", "price": 19.99}
SEEN = {"product_id": "p1", "category": "shoes", "price_minor": 1999}

CATALOG = [
    catalog("a price", priced(price="19.99", currency="GBP"), Change("p1", AT, price_minor=1999)),
    catalog(
        "a product in full",
        priced(price="19.99", category="shoes", margin="-0.50", stock=0, arrived_at="2026-01-06T10:00:00Z"),
        Change("p1", AT, 1999, "shoes", -50, 0, AT + 86_400_000),
    ),
    catalog("nothing changed", priced(price=None, stock=None), Change("p1", AT)),
    catalog(
        "not ASCII", priced(product_id="茶", category="饮料"), Change("茶", AT, category="饮料"), key="茶".encode()
    ),
]

GRANT = {
    "kind": "grant",
    "effective_at": TIMESTAMP,
    "budget_id": "b1",
    "amount": "100.00",
    "currency": "GBP",
    "shadow_price": "0.2",
}

GOOD = [
    Case("view", "clickstream", view(), activity(3, **SEEN)),
    Case("view, price as text", "clickstream", view("19.99"), activity(3, **SEEN)),
    Case("view, float noise", "clickstream", view(19.990000000000002), activity(3, **SEEN)),
    Case(
        "view, only the product",
        "clickstream",
        track("Product Viewed", {"product_id": "p1"}),
        activity(3, product_id="p1"),
    ),
    Case(
        "view of a new arrival",
        "clickstream",
        track("Product Viewed", {**SHOES, "new_arrival": True}),
        activity(4, **SEEN),
    ),
    Case("list", "clickstream", track("Product List Viewed", {"category": "shoes"}), activity(3, category="shoes")),
    Case("list of new arrivals", "clickstream", track("Product List Viewed", {"list_id": "new-arrivals"}), activity(4)),
    Case("search", "clickstream", track("Products Searched", {"query": "boots"}), activity(5)),
    Case("wish", "clickstream", track("Product Added to Wishlist", SHOES), activity(8, **SEEN)),
    Case("sign-in", "clickstream", track("Signed In"), activity(2)),
    Case("sign-in, properties empty", "clickstream", track("Signed In", {}), activity(2)),
    Case("check-in", "clickstream", track("Checked In", {"streak": 3}), activity(1)),
    Case(
        "fields of the producer's own",
        "clickstream",
        view(integrations={"All": True}, context={"ip": "::1"}),
        activity(3, **SEEN),
    ),
    Case("context", "clickstream", view(anonymousId="a1", context={"timezone": "Europe/London"}), activity(3, **SEEN)),
    Case(
        "nulls",
        "clickstream",
        view(None, anonymousId=None, context=None),
        activity(3, product_id="p1", category="shoes"),
    ),
    Case("offset", "clickstream", view(timestamp="2026-01-05T11:00:00+01:00"), activity(3, **SEEN)),
    Case("milliseconds", "clickstream", view(timestamp="2026-01-05T10:00:00.123Z"), activity(3, **SEEN), AT + 123),
    Case("not ASCII", "clickstream", view(userId="käufer-买家"), activity(3, **SEEN), key="käufer-买家".encode()),
    Case("10 min ahead", "clickstream", view(), activity(3, **SEEN), recorded_at=AT - 600_000),
    Case("app installed", "clickstream", track("Application Installed"), bodies.App("m1", "installed")),
    Case("app opened", "clickstream", track("Application Opened", {"version": "1"}), bodies.App("m1", "opened")),
    Case("app gone", "clickstream", track("Application Uninstalled", {}), bodies.App("m1", "uninstalled")),
    Case("into the cart", "cart", track("Product Added", {**SHOES, "quantity": 2}), activity(6, **SEEN)),
    Case("out of the cart", "cart", track("Product Removed", SHOES), activity(7, **SEEN)),
    Case("cart viewed", "cart", track("Cart Viewed", {"cart_id": "c"}), activity(None)),
    Case(
        "checkout",
        "cart",
        track("Checkout Started", {"order_id": "o1", "value": "30.00"}),
        activity(9, price_minor=3000),
    ),
    Case("coupon", "cart", track("Coupon Applied", {"coupon_id": "x"}), activity(None)),
    Case("order by total", "orders", order(shipping=4.5, tax="0.50"), ordered(2500)),
    Case("order by revenue", "orders", order(revenue=25.005, shipping=4), ordered(2500)),
    Case(
        "order in full",
        "orders",
        order(discount=5, coupon="X", products=[{**SHOES, "quantity": 1}, {"product_id": "p2"}]),
        ordered(items=(bodies.Item("p1", "shoes"), bodies.Item("p2", None)), coupon="X", discount_minor=500),
    ),
    Case("order, nothing left", "orders", order(total=30.3, shipping=10.1, tax=20.2), ordered(0)),
    Case(
        "refund in part",
        "orders",
        track("Order Refunded", {"order_id": "o1", "total": 3}),
        bodies.Refund("m1", "o1", 300),
    ),
    Case(
        "refund by revenue",
        "orders",
        track("Order Refunded", {"order_id": "o1", "revenue": 2, "total": 3}),
        bodies.Refund("m1", "o1", 200),
    ),
    Case("refund in full", "orders", track("Order Refunded", {"order_id": "o1"}), bodies.Refund("m1", "o1", None)),
    Case("cancelled", "orders", track("Order Cancelled", {"order_id": "o1"}), bodies.Cancel("m1", "o1")),
    Case("nothing changed", "profiles", profile(), updated()),
    Case(
        "consent",
        "profiles",
        profile(consent={"email": {"marketing": True}, "sms": {}}),
        updated(consent={"email": {"marketing": True}, "sms": {}}),
    ),
    Case(
        "profile in full",
        "profiles",
        profile(
            timezone="Europe/London",
            points=12,
            points_expire_at="2026-01-05T10:00:00Z",
            opt_out_messages=True,
            opt_out_profiling=False,
            excluded=True,
            exclusion_reason="staff",
        ),
        updated(
            timezone="Europe/London",
            points=12,
            points_expire_at=AT,
            opt_out_messages=True,
            opt_out_profiling=False,
            excluded=True,
            exclusion_reason="staff",
        ),
    ),
    Case("erasure", "profiles", profile(erase=True), updated(erase=True)),
    *(
        Case(status, "feedback", feedback(status=status), bodies.Feedback("m1", "c1", status, "email", None))
        for status in get_args(Status)
    ),
    Case("click", "feedback", feedback(), bodies.Feedback("m1", "c1", "clicked", "email", None)),
    Case(
        "cost",
        "feedback",
        feedback(actual_cost="0.05", currency="GBP"),
        bodies.Feedback("m1", "c1", "clicked", "email", 50_000),
    ),
    Case("tick", "control", {"kind": "tick", "at": TIMESTAMP}, Tick(AT), key=None),
    Case(
        "heartbeat",
        "control",
        {"kind": "heartbeat", "source": "orders", "at": TIMESTAMP},
        Directive(None, bodies.Heartbeat("orders", AT)),
    ),
    Case(
        "resumed",
        "control",
        {"kind": "resumed", "at": TIMESTAMP, "wall": "2026-01-05T10:00:01Z"},
        Directive(None, bodies.Resumed(AT, AT + 1000), ahead=True),
    ),
    Case(
        "model",
        "control",
        {"kind": "adopt_snapshot", "effective_at": TIMESTAMP, "horizon_days": 30, "version": 3},
        Directive(AT, bodies.AdoptSnapshot(30, 3)),
        None,
    ),
    Case(
        "playbook",
        "control",
        {"kind": "adopt_playbook", "effective_at": TIMESTAMP, "version": "v2"},
        Directive(AT, bodies.AdoptPlaybook("v2")),
        None,
    ),
    Case(
        "playbook for some",
        "control",
        {"kind": "adopt_playbook", "effective_at": TIMESTAMP, "version": "v2", "share": 0.1},
        Directive(AT, bodies.AdoptPlaybook("v2", 0.1)),
        None,
    ),
    Case("grant", "control", GRANT, Directive(AT, bodies.Grant("b1", 100_000_000, "day", 0, 0.2)), None),
    Case(
        "grant for a campaign",
        "control",
        {**GRANT, "amount": "0.000001", "period": "campaign", "until": TIMESTAMP},
        Directive(AT, bodies.Grant("b1", 1, "campaign", AT, 0.2)),
        None,
    ),
    Case(
        "approval",
        "control",
        {"kind": "approve", "effective_at": TIMESTAMP, "play": "p"},
        Directive(AT, bodies.Approve("p", 0)),
        None,
    ),
    Case(
        "approval for a time",
        "control",
        {"kind": "approve", "effective_at": TIMESTAMP, "play": "p", "until": TIMESTAMP},
        Directive(AT, bodies.Approve("p", AT)),
        None,
    ),
    Case("stop", "control", {"kind": "stop", "at": TIMESTAMP}, Directive(None, bodies.Stop())),
    Case("resume", "control", {"kind": "resume", "at": TIMESTAMP}, Directive(None, bodies.Resume())),
]

IGNORED = [
    Case("a page", "clickstream", envelope("page", name="Home"), "page"),
    Case("a page without user", "clickstream", without(envelope("page"), "userId"), "page"),
    Case("a page without time", "clickstream", without(envelope("page"), "timestamp"), "page", None),
    Case("a page ahead", "clickstream", envelope("page"), "page", None, recorded_at=AT - 600_001),
    Case("a screen", "cart", envelope("screen"), "screen"),
    Case("an identify", "profiles", envelope("identify", traits={}), "identify"),
    Case("a group", "orders", envelope("group"), "group"),
    Case("an alias", "feedback", envelope("alias"), "alias"),
    Case("an unknown event", "clickstream", track("Video Played", {}), "unknown event"),
    Case("no user", "clickstream", without(view(), "userId"), "anonymous", key=None),
    Case("empty user", "cart", track("Product Added", SHOES, userId=""), "anonymous", key=b""),
    Case("null user", "orders", {**order(), "userId": None}, "anonymous", key=None),
]

REJECTED = [
    Case("null", "clickstream", None, "malformed", None),
    Case("null on control", "control", None, "malformed", None),
    Case("nothing", "clickstream", b"", "malformed", None),
    Case("half a record", "clickstream", b'{"type":"track"', "malformed", None),
    Case("no object", "clickstream", b"[]", "malformed", None),
    Case("a number", "control", b"1", "malformed", None),
    Case("no UTF-8", "clickstream", b"\xff\xfe", "malformed", None),
    Case(
        "no UTF-8 where nothing is read",
        "clickstream",
        json.dumps(view(x="@")).encode().replace(b"@", b"\xff"),
        "malformed",
        None,
    ),
    Case(
        "half a surrogate",
        "clickstream",
        json.dumps(view(userId="@")).encode().replace(b"@", rb"\ud800"),
        "malformed",
        None,
    ),
    Case("NaN", "clickstream", json.dumps(view(float("nan"))).encode(), "malformed", None),
    Case("infinity where nothing is read", "clickstream", json.dumps(view(x=float("inf"))).encode(), "malformed", None),
    Case("a number out of range", "clickstream", json.dumps(view(777)).encode().replace(b"777", b"1e400"), "malformed"),
    Case("too deep", "clickstream", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "malformed", None),
    Case("no type", "clickstream", without(view(), "type"), "malformed"),
    Case("a strange type", "clickstream", view(type="truck"), "malformed"),
    Case("no event", "clickstream", without(view(), "event"), "malformed"),
    Case("event of the wrong type", "clickstream", view(event=5), "malformed"),
    Case("no properties", "clickstream", track("Product Viewed"), "malformed"),
    Case("no messageId", "clickstream", without(view(), "messageId"), "malformed"),
    Case("empty messageId", "clickstream", view(messageId=""), "malformed"),
    Case("long messageId", "clickstream", view(messageId="m" * 257), "malformed"),
    Case("long userId", "clickstream", view(userId="u" * 257), "malformed", key=b"u" * 257),
    Case("userId of the wrong type", "clickstream", view(userId=1), "malformed", key=b"1"),
    Case("empty product_id", "clickstream", track("Product Viewed", {"product_id": ""}), "malformed"),
    Case("price of the wrong type", "clickstream", view(True), "malformed"),
    Case(
        "new_arrival of the wrong type",
        "clickstream",
        track("Product Viewed", {**SHOES, "new_arrival": 1}),
        "malformed",
    ),
    Case("context of the wrong type", "clickstream", view(context="x"), "malformed"),
    Case("no timestamp", "clickstream", without(view(), "timestamp"), "malformed", None),
    Case("no timezone", "clickstream", view(timestamp="2026-01-05T10:00:00"), "malformed", None),
    Case("a day that is none", "clickstream", view(timestamp="2026-02-30T10:00:00Z"), "malformed", None),
    Case("seconds as text", "clickstream", view(timestamp="1767607200"), "malformed", None),
    Case("seconds", "clickstream", view(timestamp=1767607200), "malformed", None),
    Case("the year one", "clickstream", view(timestamp="0001-01-01T00:00:00Z"), "malformed", None),
    Case("ahead", "clickstream", view(), "ahead of broker", None, contract=True, recorded_at=AT - 600_001),
    Case(
        "a tick ahead",
        "control",
        {"kind": "tick", "at": TIMESTAMP},
        "ahead of broker",
        None,
        contract=True,
        recorded_at=AT - 600_001,
    ),
    Case("no key", "clickstream", view(), "key", contract=True, key=None),
    Case("another key", "clickstream", view(), "key", contract=True, key=b"user-2"),
    Case("a reserved key", "clickstream", view(userId="\0p"), "key", key=b"\0p"),
    Case("a negative price", "clickstream", view(-0.01), "amount"),
    Case("a great price", "clickstream", view(1e12), "amount"),
    Case("a price in words", "clickstream", view("cheap"), "amount"),
    Case("a price that is none", "clickstream", view("NaN"), "amount"),
    Case("a price with a line feed", "clickstream", view("1.00\n"), "amount"),
    Case("a price in other digits", "clickstream", view("\u0661"), "amount"),
    Case("a negative quantity", "cart", track("Product Added", {**SHOES, "quantity": -1}), "amount"),
    Case("a negative total", "orders", order(total=-1), "amount"),
    Case("a negative tax", "orders", order(revenue=1, tax=-1), "amount"),
    Case("a negative discount", "orders", order(discount=-1), "amount"),
    Case("a negative price in an order", "orders", order(products=[{**SHOES, "price": -1}]), "amount"),
    Case("an empty amount", "orders", order(shipping=""), "amount"),
    Case("less than shipping", "orders", order(total=1, shipping=2), "amount"),
    Case("no amount", "orders", order(total=None), "malformed"),
    Case("no order_id", "orders", order(order_id=""), "malformed"),
    Case("no currency", "orders", order(currency=None), "malformed"),
    Case("currency in small letters", "orders", order(currency="gbp"), "malformed"),
    Case("another currency", "orders", order(currency="USD"), "currency", contract=True),
    Case(
        "refund in another currency",
        "orders",
        track("Order Refunded", {"order_id": "o1", "currency": "USD"}),
        "currency",
        contract=True,
    ),
    Case("an app among orders", "orders", track("Application Opened"), "topic"),
    Case("an order among clicks", "clickstream", order(), "topic"),
    Case("no user in a profile", "profiles", without(profile(), "userId"), "malformed"),
    Case("a misspelt opt-out", "profiles", profile(opt_out_mesages=True), "malformed"),
    Case("an unknown channel", "profiles", profile(consent={"fax": {"marketing": True}}), "malformed"),
    Case("an unknown purpose", "profiles", profile(consent={"email": {"research": True}}), "malformed"),
    Case("an unknown timezone", "profiles", profile(timezone="Europe/Atlantis"), "malformed"),
    Case("negative points", "profiles", profile(points=-1), "malformed"),
    Case("points in halves", "profiles", profile(points=1.5), "malformed"),
    Case("points that expire in 1969", "profiles", profile(points_expire_at="1969-12-31T23:59:59Z"), "malformed"),
    Case("an address as a reason", "profiles", profile(exclusion_reason="a@b.example"), "malformed"),
    Case("an unknown status", "feedback", feedback(status="lost"), "malformed"),
    Case("a cost in floats", "feedback", feedback(actual_cost=0.05), "malformed"),
    Case("a negative cost", "feedback", feedback(actual_cost="-1"), "amount"),
    Case(
        "a cost in another currency", "feedback", feedback(actual_cost="1", currency="USD"), "currency", contract=True
    ),
    Case("an unknown kind", "control", {"kind": "dance", "at": TIMESTAMP}, "malformed", None),
    Case("a tick with more", "control", {"kind": "tick", "at": TIMESTAMP, "x": 1}, "malformed", None),
    Case(
        "a version of the wrong type",
        "control",
        {"kind": "adopt_snapshot", "effective_at": TIMESTAMP, "horizon_days": 30, "version": "3"},
        "malformed",
        None,
    ),
    Case(
        "a wall clock before 1970",
        "control",
        {"kind": "resumed", "at": TIMESTAMP, "wall": "1969-01-01T00:00:00Z"},
        "malformed",
        None,
    ),
    Case(
        "a share of nobody",
        "control",
        {"kind": "adopt_playbook", "effective_at": TIMESTAMP, "version": "v2", "share": 0},
        "malformed",
        None,
    ),
    Case("a negative grant", "control", {**GRANT, "amount": "-1"}, "amount", None),
    Case("a grant in another currency", "control", {**GRANT, "currency": "USD"}, "currency", None, contract=True),
]

CATALOG_REJECTED = [
    catalog("null", None, "malformed"),
    catalog("half a record", b'{"product_id":"p1"', "malformed"),
    catalog("no UTF-8", json.dumps(priced(category="@")).encode().replace(b"@", b"\xff"), "malformed"),
    catalog("no product", without(priced(), "product_id"), "malformed"),
    catalog("no time", without(priced(), "effective_at"), "malformed"),
    catalog("a time before 1970", priced(effective_at="1969-12-31T23:59:59Z"), "malformed"),
    catalog("an arrival before 1970", priced(arrived_at="1969-12-31T23:59:59Z"), "malformed"),
    catalog("a price in floats", priced(price=19.99), "malformed"),
    catalog("a negative price", priced(price="-1"), "malformed"),
    catalog("a margin in words", priced(margin="high"), "malformed"),
    catalog("stock in halves", priced(stock=0.5), "malformed"),
    catalog("a misspelt field", priced(prize="1"), "malformed"),
    catalog("another key", priced(), "key", key=b"p2", contract=True),
    catalog("no key", priced(), "key", key=None, contract=True),
    catalog("another currency", priced(price="1", currency="USD"), "currency", contract=True),
]

CASES = [*GOOD, *IGNORED, *REJECTED, *CATALOG, *CATALOG_REJECTED]


def outcome(body):
    """Return what a case expects: the body, or the reason why there is none."""
    return body.reason if isinstance(body, (Ignored, Rejected)) else body
