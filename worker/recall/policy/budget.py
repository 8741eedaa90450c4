"""Money that was granted for touches, and what of it is spent."""

import msgspec


class Budget(msgspec.Struct, array_like=True, frozen=True):
    """A partition's share of a grant; money in micros, `until` in ms (0 for always)."""

    amount: int
    period: str = "day"
    """"day": renewed each day of the shop's; "campaign": once."""
    until: int = 0
    shadow_price: float = 0.0
    """Opportunity cost of one unit of money spent (lambda)."""
    day: int = 0
    """Which `spent` is of, where the period is a day."""
    spent: int = 0
    spent_outside_core: int = 0
