"""What the shop sends of its customers' behaviour: Segment's track envelope, e-commerce v2 names."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.values import Amount, CurrencyCode, Id, Number, Open, Timestamp, UserId

Category = Annotated[str, Field(max_length=256)]


class EventContext(Open):
    """Segment's context, of which little is read."""

    timezone: str | None = Field(None, description="IANA name of the user's timezone, such as Europe/London.")


class Track(Open):
    """The envelope of every event; the record's key is the user id."""

    type: Literal["track"] = Field(description="Segment's call. Others than track are counted and left out.")
    message_id: Id = Field(alias="messageId", description="Unique id of the message; applied once for a user.")
    user_id: UserId = Field(alias="userId", description="The shop's own id of the user, and the record's key.")
    anonymous_id: str | None = Field(None, alias="anonymousId", description="Segment's id of the device; not read.")
    timestamp: Timestamp = Field(
        description="When it happened: RFC 3339 with a timezone, at most 10 min ahead of the broker."
    )
    context: EventContext | None = Field(None, description="Segment's context object.")


class Product(Open):
    """A product, as seen by the user at that time."""

    product_id: Id = Field(description="The shop's id of the product.")
    category: Category | None = Field(None, description="Category of the product.")
    price: Amount | None = Field(
        None, description="Price of one piece, major units of the shop's currency, not negative."
    )


class ViewedProduct(Product):
    """A product that was looked at."""

    new_arrival: bool | None = Field(None, description="True where it was shown as a new arrival.")


class ProductQuantity(Product):
    """A product and how many of it."""

    quantity: Number | None = Field(None, description="Number of pieces, not negative.")


class ProductList(Open):
    """A list of products that was looked at."""

    list_id: str | None = Field(None, description='Id of the list; "new-arrivals" counts as a view of new arrivals.')
    category: Category | None = Field(None, description="Category of the list.")


class Query(Open):
    """A search. The words are not kept."""

    query: str | None = Field(None, description="What was searched for; not read.")


class Nothing(Open):
    """Properties of which none is read."""


class Checkout(Open):
    """The start of a checkout."""

    order_id: Id | None = Field(None, description="Id of the order to be.")
    value: Amount | None = Field(
        None, description="Value of the cart, major units of the shop's currency, not negative."
    )


class Coupon(Open):
    """A coupon that was applied to a cart."""

    coupon_id: Id | None = Field(None, description="Id of the coupon.")
    order_id: Id | None = Field(None, description="Id of the order to be.")


class Order(Open):
    """A completed order. Its net revenue is `revenue`, or else `total` less `shipping` and `tax`."""

    order_id: Id = Field(description="Id of the order; counted once for a user.")
    revenue: Amount | None = Field(
        None, description="Net revenue, without shipping and tax, major units, not negative."
    )
    total: Amount | None = Field(None, description="What was paid, with shipping and tax, major units, not negative.")
    shipping: Amount | None = Field(None, description="Shipping within the total, major units, not negative.")
    tax: Amount | None = Field(None, description="Tax within the total, major units, not negative.")
    discount: Amount | None = Field(None, description="Discount already taken off, major units, not negative.")
    coupon: str | None = Field(None, description="Coupon that was used.", max_length=256)
    currency: CurrencyCode = Field(description="ISO 4217 code; must be the shop's currency.")
    products: list[ProductQuantity] | None = Field(None, description="What was ordered.")

    @model_validator(mode="after")
    def _has_net_revenue(self) -> Self:
        if self.revenue is not None:
            return self
        if self.total is None:
            raise ValueError("an order names its revenue or its total")
        if _exact(self.total) < _exact(self.shipping) + _exact(self.tax):
            raise ValueError("the total includes shipping and tax, so it is not below their sum")
        return self


class Refund(Open):
    """A refund; without an amount it is the full order."""

    order_id: Id = Field(description="Id of the order that is refunded.")
    revenue: Amount | None = Field(None, description="Net revenue given back, major units, not negative.")
    total: Amount | None = Field(
        None, description="Amount given back where revenue is not named, major units, not negative."
    )
    currency: CurrencyCode | None = Field(
        None, description="ISO 4217 code; must be the shop's currency, which is meant if absent."
    )


class CancelledOrder(Open):
    """A cancelled order, which is no order."""

    order_id: Id = Field(description="Id of the order that is cancelled.")


def _exact(amount: float | str | None) -> Decimal:
    return Decimal(str(amount or 0))


class ProductViewed(Track):
    """The user looked at a product."""

    event: Literal["Product Viewed"] = Field(description="Name of the event.")
    properties: ViewedProduct = Field(description="The product.")


class ProductListViewed(Track):
    """The user looked at a list of products."""

    event: Literal["Product List Viewed"] = Field(description="Name of the event.")
    properties: ProductList = Field(description="The list.")


class ProductsSearched(Track):
    """The user searched."""

    event: Literal["Products Searched"] = Field(description="Name of the event.")
    properties: Query = Field(description="The search.")


class ProductAddedToWishlist(Track):
    """The user saved a product for later."""

    event: Literal["Product Added to Wishlist"] = Field(description="Name of the event.")
    properties: Product = Field(description="The product, with the price when saved.")


class SignedIn(Track):
    """The user signed in."""

    event: Literal["Signed In"] = Field(description="Name of the event.")
    properties: Nothing | None = Field(None, description="Not read.")


class CheckedIn(Track):
    """The user took the day's check-in (a habit task)."""

    event: Literal["Checked In"] = Field(description="Name of the event.")
    properties: Nothing | None = Field(None, description="Not read.")


class ApplicationInstalled(Track):
    """The user installed the shop's app: messages in it and on the phone reach him."""

    event: Literal["Application Installed"] = Field(description="Name of the event.")
    properties: Nothing | None = Field(None, description="Not read.")


class ApplicationOpened(Track):
    """The user opened the shop's app: activity, counted on no channel, and the app reaches him."""

    event: Literal["Application Opened"] = Field(description="Name of the event.")
    properties: Nothing | None = Field(None, description="Not read.")


class ApplicationUninstalled(Track):
    """The shop's app is gone from the user's device: neither push nor messages in the app reach him."""

    event: Literal["Application Uninstalled"] = Field(description="Name of the event.")
    properties: Nothing | None = Field(None, description="Not read.")


class ProductAdded(Track):
    """The user put a product into the cart."""

    event: Literal["Product Added"] = Field(description="Name of the event.")
    properties: ProductQuantity = Field(description="The product.")


class ProductRemoved(Track):
    """The user took a product out of the cart."""

    event: Literal["Product Removed"] = Field(description="Name of the event.")
    properties: ProductQuantity = Field(description="The product.")


class CartViewed(Track):
    """The user looked at the cart: activity, counted on no channel."""

    event: Literal["Cart Viewed"] = Field(description="Name of the event.")
    properties: Nothing | None = Field(None, description="Not read.")


class CheckoutStarted(Track):
    """The user started a checkout."""

    event: Literal["Checkout Started"] = Field(description="Name of the event.")
    properties: Checkout = Field(description="The checkout.")


class CouponApplied(Track):
    """The user applied a coupon: activity, counted on no channel."""

    event: Literal["Coupon Applied"] = Field(description="Name of the event.")
    properties: Coupon = Field(description="The coupon.")


class OrderCompleted(Track):
    """The user ordered."""

    event: Literal["Order Completed"] = Field(description="Name of the event.")
    properties: Order = Field(description="The order.")


class OrderRefunded(Track):
    """An order was refunded, whole or in part."""

    event: Literal["Order Refunded"] = Field(description="Name of the event.")
    properties: Refund = Field(description="The refund.")


class OrderCancelled(Track):
    """An order was cancelled."""

    event: Literal["Order Cancelled"] = Field(description="Name of the event.")
    properties: CancelledOrder = Field(description="The order.")


ClickstreamEvent = Annotated[
    ProductViewed
    | ProductListViewed
    | ProductsSearched
    | ProductAddedToWishlist
    | SignedIn
    | CheckedIn
    | ApplicationInstalled
    | ApplicationOpened
    | ApplicationUninstalled,
    Field(discriminator="event"),
]
CartEvent = Annotated[
    ProductAdded | ProductRemoved | CartViewed | CheckoutStarted | CouponApplied,
    Field(discriminator="event"),
]
OrderEvent = Annotated[OrderCompleted | OrderRefunded | OrderCancelled, Field(discriminator="event")]
