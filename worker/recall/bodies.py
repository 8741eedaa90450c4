"""What a record says, once it is read: the bodies that the profile and the partition take."""

from typing import Literal, NamedTuple

from msgspec import Struct

from schemas.feedback import Status
from schemas.values import Channel, Purpose


class Activity(Struct, frozen=True, gc=False):
    """Something that the user did; without a channel it is activity and nothing more."""

    channel: int | None
    message_id: str
    product_id: str | None = None
    category: str | None = None
    price_minor: int | None = None


class App(Struct, frozen=True, gc=False):
    """The shop's app came onto a device of the user's, was opened, or is gone from it."""

    message_id: str
    state: Literal["installed", "opened", "uninstalled"]


class Item(NamedTuple):
    """A product of an order."""

    product_id: str
    category: str | None


class Order(Struct, frozen=True, gc=False):
    """A completed order; `net_minor` is without shipping and tax."""

    message_id: str
    order_id: str
    net_minor: int
    items: tuple[Item, ...]
    coupon: str | None
    discount_minor: int


class Refund(Struct, frozen=True, gc=False):
    """A refund; no amount means the full order."""

    message_id: str
    order_id: str
    amount_minor: int | None


class Cancel(Struct, frozen=True, gc=False):
    """A cancelled order."""

    message_id: str
    order_id: str


class ProfileUpdate(Struct, frozen=True, gc=False):
    """A change of what the shop knows; None leaves as it was."""

    message_id: str
    consent: dict[Channel, dict[Purpose, bool]] | None
    timezone: str | None
    points: int | None
    points_expire_at: int | None
    opt_out_messages: bool | None
    opt_out_profiling: bool | None
    excluded: bool | None
    exclusion_reason: str | None
    erase: bool


class Feedback(Struct, frozen=True, gc=False):
    """What became of a command."""

    message_id: str
    command_id: str
    status: Status
    channel: Channel
    cost_micros: int | None
    """What it cost, millionths of a major unit."""


class Heartbeat(NamedTuple):
    """The source is up, and complete up to `at`."""

    source: str
    at: int


class Resumed(NamedTuple):
    """The worker took the partition up again, at the clock `at` and at this wall clock."""

    at: int
    wall: int


class AdoptSnapshot(NamedTuple):
    """A version of a horizon's model comes into force."""

    horizon_days: int
    version: int


class AdoptPlaybook(NamedTuple):
    """A version of the playbook comes into force, for a share of the users."""

    version: str
    share: float = 1.0


class Grant(NamedTuple):
    """Money for touches; `until` in ms, 0 for always."""

    budget_id: str
    amount_micros: int
    period: Literal["day", "campaign"]
    until: int
    shadow_price: float


class Approve(NamedTuple):
    """A proposed play may be played; `until` in ms, 0 for always."""

    play: str
    until: int


class Stop(NamedTuple):
    """No command leaves."""


class Resume(NamedTuple):
    """Commands leave again."""
