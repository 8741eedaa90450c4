"""The calculator: what a campaign costs in full, and how many it has to bring back to pay.

Direct costs are easy to see, opportunity costs are easily forgotten, hidden ones stand on no invoice; only all three
together say whether a campaign pays. Who would have come back anyway is not won by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from worker.recall.money import exact

ZERO = Decimal(0)


def share(text: str, name: str = "share") -> Decimal:
    """Read a share from 0 to 1, a percentage too.

    >>> share("10%"), share("0.025")
    (Decimal('0.10'), Decimal('0.025'))
    >>> share("110%", "redemption")
    Traceback (most recent call last):
        ...
    ValueError: redemption = 110%: a share from 0 to 1 is allowed, or a percentage such as 10%
    """
    number = text.strip()
    percent = number.endswith("%")
    try:
        value = exact(number.removesuffix("%").rstrip())
    except ValueError:
        value = Decimal(-1)
    value = value.scaleb(-2) if percent else value
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {text}: a share from 0 to 1 is allowed, or a percentage such as 10%")
    return value


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What is planned; amounts in major units of one currency, shares from 0 to 1."""

    contacts: int
    contact_price: Decimal = ZERO
    face_value: Decimal = ZERO
    """Of the coupon that each of them gets."""
    redemption: Decimal = ZERO
    """Share of the coupons that are used."""
    hours: Decimal = ZERO
    """Of people: planning, looking after, answering."""
    hourly_rate: Decimal = ZERO
    upkeep: Decimal = ZERO
    """Of the system, for the campaign's time."""
    wear: Decimal = ZERO
    """What each contact costs in goodwill: fatigue, and harm to the brand."""
    shadow_price: Decimal = ZERO
    """Lambda: what a unit of money would have earned elsewhere."""


@dataclass(frozen=True)
class Bill:
    """What a campaign costs, by kind.

    The two examples of the article that this product began with, 10,000 messages at 0.05 and a coupon of 20 that one
    in ten uses:

    >>> bill = Bill.of(Campaign(contacts=10_000, contact_price=Decimal("0.05"), face_value=Decimal(20),
    ...                         redemption=Decimal("0.1")))
    >>> f"{bill.contact:,.2f}", f"{bill.coupons:,.2f}", f"{bill.direct:,.2f}"
    ('500.00', '20,000.00', '20,500.00')
    """

    contact: Decimal
    coupons: Decimal
    opportunity: Decimal
    people: Decimal
    upkeep: Decimal
    wear: Decimal

    @classmethod
    def of(cls, campaign: Campaign) -> Bill:
        """Reckon what a campaign costs."""
        contact = campaign.contacts * campaign.contact_price
        coupons = campaign.contacts * campaign.face_value * campaign.redemption
        return cls(
            contact,
            coupons,
            campaign.shadow_price * (contact + coupons),
            campaign.hours * campaign.hourly_rate,
            campaign.upkeep,
            campaign.contacts * campaign.wear,
        )

    @property
    def direct(self) -> Decimal:
        """Return the money that leaves."""
        return self.contact + self.coupons

    @property
    def hidden(self) -> Decimal:
        """Return what stands on no invoice."""
        return self.people + self.upkeep + self.wear

    @property
    def total(self) -> Decimal:
        """Return the cost in full."""
        return self.direct + self.opportunity + self.hidden


class Return(NamedTuple):
    """What a campaign brings, where it is believed to bring so many back."""

    saved: Decimal
    """Users who come back, with contact."""
    anyway: Decimal
    """Of these, who would have come without it."""
    added: Decimal
    cost_per_save: Decimal | None
    """Full cost of one user who would not have come; None where there is none."""
    gain: Decimal | None
    """Margin of those won, less the full cost; None where the margin is not given."""
    roi: Decimal | None
    """Gain per unit of cost; None where it is not known or nothing is spent."""

    @classmethod
    def of(cls, campaign: Campaign, with_contact: Decimal, without: Decimal, margin: Decimal | None) -> Return:
        """Reckon what comes of save rates with and without contact, and of the margin of one save.

        >>> brings = Return.of(Campaign(contacts=1000, contact_price=Decimal(1)), share("5%"), share("3%"), Decimal(80))
        >>> f"{brings.added:f} won at {brings.cost_per_save:f} each; ROI {brings.roi:.0%}"
        '20.00 won at 50 each; ROI 60%'
        """
        total = Bill.of(campaign).total
        saved, anyway = campaign.contacts * with_contact, campaign.contacts * without
        added = saved - anyway
        gain = None if margin is None else added * margin - total
        roi = None if gain is None or not total else gain / total
        return cls(saved, anyway, added, total / added if added > 0 else None, gain, roi)


def break_even(campaign: Campaign, without: Decimal, margin: Decimal) -> Decimal | None:
    """Return the save rate with contact from which a campaign pays; None where no rate does.

    >>> break_even(Campaign(contacts=1000, contact_price=Decimal(1)), Decimal("0.03"), Decimal(80))
    Decimal('0.0425')
    >>> break_even(Campaign(contacts=1000, contact_price=Decimal(1)), Decimal("0.03"), Decimal(1)) is None
    True
    """
    worth = campaign.contacts * margin
    if not worth:
        return None
    rate = without + Bill.of(campaign).total / worth
    return rate if rate <= 1 else None
