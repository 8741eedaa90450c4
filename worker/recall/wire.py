"""How the records of the source topics are decoded: msgspec structs with the checks of the contracts in `schemas`.

A struct decodes what the profile needs, checks what the contract says, and turns itself into a body. It is held to the
contract by a test that puts one corpus, and mutations of it, to both.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from schemas.feedback import Status
from schemas.profiles import TIME_ZONES
from schemas.values import (
    AMOUNT_LIMIT,
    CURRENCY_PATTERN,
    DECIMAL_PATTERN,
    EPOCH,
    ID_CHARS_MAX,
    SIGNED_DECIMAL_PATTERN,
    WORD_PATTERN,
    Channel,
    Purpose,
)
from worker.recall.bodies import (
    Activity,
    App,
    Cancel,
    Feedback,
    Item,
    Order,
    ProfileUpdate,
    Refund,
)
from worker.recall.money import AmountError, Currency, exact
from worker.recall.policy.catalog import Change
from worker.recall.windows import (
    CART_ADD,
    CART_REMOVE,
    CHECK_IN,
    CHECKOUT,
    NEW_ARRIVAL_VIEW,
    SEARCH,
    SIGN_IN,
    VIEW,
    WISHLIST,
)
from worker.stream.processor import Rejected

NEW_ARRIVALS_LIST: Final = "new-arrivals"


def _whole(pattern: str) -> str:
    """Return a pattern whose end is the end; Python's `$` lets a line feed pass."""
    return pattern.removesuffix("$") + r"\Z"


Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
_Text: TypeAlias = Annotated[str, Meta(max_length=ID_CHARS_MAX)]
Time: TypeAlias = Annotated[datetime, Meta(tz=True)]
_Amount: TypeAlias = float | str
DecimalText: TypeAlias = Annotated[str, Meta(pattern=_whole(DECIMAL_PATTERN))]
_SignedDecimalText: TypeAlias = Annotated[str, Meta(pattern=_whole(SIGNED_DECIMAL_PATTERN))]
Code: TypeAlias = Annotated[str, Meta(pattern=_whole(CURRENCY_PATTERN))]
Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]


class Refusal(Exception):  # noqa: N818 - not an error of ours
    """A record that is well formed and still not to be taken."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.rejected = Rejected(reason, detail)


class _Nothing(Struct, frozen=True, gc=False):
    """An object of which no field is read."""


class _Context(Struct, frozen=True, gc=False):
    timezone: str | None = None


class _Product(Struct, frozen=True, gc=False):
    product_id: Id
    category: _Text | None = None
    price: _Amount | None = None


class _ViewedProduct(_Product, frozen=True, gc=False):
    new_arrival: bool | None = None


class _ProductQuantity(_Product, frozen=True, gc=False):
    quantity: float | None = None


class _ProductList(Struct, frozen=True, gc=False):
    list_id: str | None = None
    category: _Text | None = None


class _Query(Struct, frozen=True, gc=False):
    query: str | None = None


class _Checkout(Struct, frozen=True, gc=False):
    order_id: Id | None = None
    value: _Amount | None = None


class _Coupon(Struct, frozen=True, gc=False):
    coupon_id: Id | None = None
    order_id: Id | None = None


class _Order(Struct, frozen=True, gc=False):
    order_id: Id
    currency: Code
    revenue: _Amount | None = None
    total: _Amount | None = None
    shipping: _Amount | None = None
    tax: _Amount | None = None
    discount: _Amount | None = None
    coupon: _Text | None = None
    products: list[_ProductQuantity] | None = None


class _Refund(Struct, frozen=True, gc=False):
    order_id: Id
    revenue: _Amount | None = None
    total: _Amount | None = None
    currency: Code | None = None


class _CancelledOrder(Struct, frozen=True, gc=False):
    order_id: Id


class _Record(Struct, frozen=True, gc=False, rename={"message_id": "messageId", "user_id": "userId"}):
    message_id: Id
    user_id: Id
    timestamp: Time


class _Track(
    _Record,
    frozen=True,
    gc=False,
    kw_only=True,
    tag_field="event",
    rename={"message_id": "messageId", "user_id": "userId", "anonymous_id": "anonymousId"},
):
    type: Literal["track"]
    anonymous_id: str | None = None
    context: _Context | None = None


class _ProductViewed(_Track, frozen=True, gc=False, kw_only=True, tag="Product Viewed"):
    properties: _ViewedProduct

    def body(self, currency: Currency) -> Activity:
        product = self.properties
        price = product.price
        return Activity(
            NEW_ARRIVAL_VIEW if product.new_arrival else VIEW,
            self.message_id,
            product.product_id,
            product.category,
            None if price is None else currency.to_minor(price, "price"),
        )


class _ProductListViewed(_Track, frozen=True, gc=False, kw_only=True, tag="Product List Viewed"):
    properties: _ProductList

    def body(self, _currency: Currency) -> Activity:
        seen = self.properties
        channel = NEW_ARRIVAL_VIEW if seen.list_id == NEW_ARRIVALS_LIST else VIEW
        return Activity(channel, self.message_id, None, seen.category)


class _ProductsSearched(_Track, frozen=True, gc=False, kw_only=True, tag="Products Searched"):
    properties: _Query

    def body(self, _currency: Currency) -> Activity:
        return Activity(SEARCH, self.message_id)


class _ProductEvent(_Track, frozen=True, gc=False, kw_only=True):
    """A product on a channel."""

    channel: ClassVar[int]
    properties: _ProductQuantity

    def body(self, currency: Currency) -> Activity:
        product = self.properties
        price = _minor(product.price, currency, "price")
        _check_quantity(product.quantity)
        return Activity(self.channel, self.message_id, product.product_id, product.category, price)


class _ProductAdded(_ProductEvent, frozen=True, gc=False, kw_only=True, tag="Product Added"):
    channel: ClassVar[int] = CART_ADD


class _ProductRemoved(_ProductEvent, frozen=True, gc=False, kw_only=True, tag="Product Removed"):
    channel: ClassVar[int] = CART_REMOVE


class _ProductAddedToWishlist(_Track, frozen=True, gc=False, kw_only=True, tag="Product Added to Wishlist"):
    properties: _Product

    def body(self, currency: Currency) -> Activity:
        product = self.properties
        price = _minor(product.price, currency, "price")
        return Activity(WISHLIST, self.message_id, product.product_id, product.category, price)


class _Plain(_Track, frozen=True, gc=False, kw_only=True):
    """An event that says no more than its name."""

    channel: ClassVar[int | None]
    properties: _Nothing | None = None

    def body(self, _currency: Currency) -> Activity:
        return Activity(self.channel, self.message_id)


class _SignedIn(_Plain, frozen=True, gc=False, kw_only=True, tag="Signed In"):
    channel: ClassVar[int | None] = SIGN_IN


class _CheckedIn(_Plain, frozen=True, gc=False, kw_only=True, tag="Checked In"):
    channel: ClassVar[int | None] = CHECK_IN


class _CartViewed(_Plain, frozen=True, gc=False, kw_only=True, tag="Cart Viewed"):
    channel: ClassVar[int | None] = None


class _AppEvent(_Track, frozen=True, gc=False, kw_only=True):
    """Something that happened to the shop's app, of which only the name is read."""

    state: ClassVar[Literal["installed", "opened", "uninstalled"]]
    properties: _Nothing | None = None

    def body(self, _currency: Currency) -> App:
        return App(self.message_id, self.state)


class _AppInstalled(_AppEvent, frozen=True, gc=False, kw_only=True, tag="Application Installed"):
    state: ClassVar[Literal["installed", "opened", "uninstalled"]] = "installed"


class _AppOpened(_AppEvent, frozen=True, gc=False, kw_only=True, tag="Application Opened"):
    state: ClassVar[Literal["installed", "opened", "uninstalled"]] = "opened"


class _AppUninstalled(_AppEvent, frozen=True, gc=False, kw_only=True, tag="Application Uninstalled"):
    state: ClassVar[Literal["installed", "opened", "uninstalled"]] = "uninstalled"


class _CheckoutStarted(_Track, frozen=True, gc=False, kw_only=True, tag="Checkout Started"):
    properties: _Checkout

    def body(self, currency: Currency) -> Activity:
        value = _minor(self.properties.value, currency, "value")
        return Activity(CHECKOUT, self.message_id, price_minor=value)


class _CouponApplied(_Track, frozen=True, gc=False, kw_only=True, tag="Coupon Applied"):
    properties: _Coupon

    def body(self, _currency: Currency) -> Activity:
        return Activity(None, self.message_id)


class _OrderCompleted(_Track, frozen=True, gc=False, kw_only=True, tag="Order Completed"):
    properties: _Order

    def body(self, currency: Currency) -> Order:
        order = self.properties
        for product in order.products or ():
            _minor(product.price, currency, "products.price")
            _check_quantity(product.quantity)
        body = Order(
            self.message_id,
            order.order_id,
            _net_minor(order, currency),
            tuple([Item(product.product_id, product.category) for product in order.products or ()]),
            order.coupon,
            _minor(order.discount, currency, "discount") or 0,
        )
        check_currency(order.currency, currency)
        return body


class _OrderRefunded(_Track, frozen=True, gc=False, kw_only=True, tag="Order Refunded"):
    properties: _Refund

    def body(self, currency: Currency) -> Refund:
        refund = self.properties
        revenue = _minor(refund.revenue, currency, "revenue")
        total = _minor(refund.total, currency, "total")
        check_currency(refund.currency, currency)
        return Refund(self.message_id, refund.order_id, total if revenue is None else revenue)


class _OrderCancelled(_Track, frozen=True, gc=False, kw_only=True, tag="Order Cancelled"):
    properties: _CancelledOrder

    def body(self, _currency: Currency) -> Cancel:
        return Cancel(self.message_id, self.properties.order_id)


class _Profile(_Record, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    type: Literal["profile"]
    consent: dict[Channel, dict[Purpose, bool]] | None = None
    timezone: str | None = None
    points: Count | None = None
    points_expire_at: Time | None = None
    opt_out_messages: bool | None = None
    opt_out_profiling: bool | None = None
    excluded: bool | None = None
    exclusion_reason: Annotated[str, Meta(pattern=_whole(WORD_PATTERN))] | None = None
    erase: bool | None = None

    def body(self, _currency: Currency) -> ProfileUpdate:
        if self.timezone is not None and self.timezone not in TIME_ZONES:
            raise Refusal("malformed", "timezone: an IANA name is allowed, such as Europe/London")
        expire_at = None if self.points_expire_at is None else milliseconds(self.points_expire_at)
        if expire_at is not None and expire_at < 0:
            raise Refusal("malformed", "points_expire_at: not before 1970")
        return ProfileUpdate(
            self.message_id,
            self.consent,
            self.timezone,
            self.points,
            expire_at,
            self.opt_out_messages,
            self.opt_out_profiling,
            self.excluded,
            self.exclusion_reason,
            bool(self.erase),
        )


class _Feedback(_Record, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    type: Literal["feedback"]
    command_id: Id
    status: Status
    channel: Channel
    actual_cost: str | None = None
    currency: Code | None = None

    def body(self, currency: Currency) -> Feedback:
        cost = None if self.actual_cost is None else int(exact(self.actual_cost, "actual_cost").scaleb(6))
        check_currency(self.currency, currency)
        return Feedback(self.message_id, self.command_id, self.status, self.channel, cost)


class _Catalog(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    product_id: Id
    effective_at: Time
    price: DecimalText | None = None
    currency: Code | None = None
    category: _Text | None = None
    margin: _SignedDecimalText | None = None
    stock: Count | None = None
    arrived_at: Time | None = None

    def change(self, currency: Currency) -> Change:
        arrived_at = None if self.arrived_at is None else milliseconds(self.arrived_at)
        change = Change(
            self.product_id,
            milliseconds(self.effective_at),
            _minor(self.price, currency, "price"),
            self.category,
            None if self.margin is None else currency.signed_minor(self.margin),
            self.stock,
            arrived_at,
        )
        for name, at in (("effective_at", change.effective_at), ("arrived_at", arrived_at)):
            if at is not None and at < 0:
                raise Refusal("malformed", f"{name}: not before 1970")
        check_currency(self.currency, currency)
        return change


def milliseconds(time: datetime) -> int:
    """Return the whole milliseconds since the epoch; integers throughout, and the fastest way that was measured.

    >>> milliseconds(datetime.fromisoformat("2026-01-05T11:00:00.123999+01:00"))
    1767607200123
    """
    since = time - EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def _minor(amount: _Amount | None, currency: Currency, name: str) -> int | None:
    return None if amount is None else currency.to_minor(amount, name)


def _net_minor(order: _Order, currency: Currency) -> int:
    """Return the net revenue; every amount is looked at, also one that is not needed."""
    revenue = _minor(order.revenue, currency, "revenue")
    total = None if order.total is None else exact(order.total, "total")
    beside = _exact(order.shipping, "shipping") + _exact(order.tax, "tax")
    if revenue is not None:
        return revenue
    if total is None:
        raise Refusal("malformed", "properties: revenue or total is needed")
    return currency.to_minor(total - beside, "total less shipping and tax")


def _exact(amount: _Amount | None, name: str) -> Decimal:
    return Decimal(0) if amount is None else exact(amount, name)


def _check_quantity(quantity: float | None) -> None:
    if quantity is not None and not 0.0 <= quantity < AMOUNT_LIMIT:
        raise AmountError("quantity")


def check_currency(code: str | None, currency: Currency) -> None:
    if code is not None and code != currency.code:
        raise Refusal("currency", f"currency: {currency.code} is allowed")


EVENTS: Final[dict[str, Any]] = {
    "clickstream": _ProductViewed
    | _ProductListViewed
    | _ProductsSearched
    | _ProductAddedToWishlist
    | _SignedIn
    | _CheckedIn
    | _AppInstalled
    | _AppOpened
    | _AppUninstalled,
    "cart": _ProductAdded | _ProductRemoved | _CartViewed | _CheckoutStarted | _CouponApplied,
    "orders": _OrderCompleted | _OrderRefunded | _OrderCancelled,
}
TOPIC_OF: Final = {
    str(struct.__struct_config__.tag): topic for topic, union in EVENTS.items() for struct in union.__args__
}
"""The topic that a known event belongs to."""
DECODE: Final = {
    topic: msgspec.json.Decoder(form).decode
    for topic, form in {**EVENTS, "profiles": _Profile, "feedback": _Feedback}.items()
}
DECODE_CATALOG: Final = msgspec.json.Decoder(_Catalog).decode
