"""Money and people that touches may use: a partition's part of what was granted.

Amounts are micros. What a touch is expected to cost is charged when it is sent; once the actual cost is known, the
difference is settled. `spent` is net: charged, less what came back, plus what cost more.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

Period = Literal["day", "campaign"]
_PPM = 1_000_000


class BudgetError(ValueError):
    """A charge above what is left."""


class Budget(msgspec.Struct, array_like=True, frozen=True):
    """A partition's part of a grant: of each day, or of a campaign."""

    amount: int
    """Micros, a day or for the whole campaign."""
    period: Period = "day"
    until: int = 0
    """From then on (ms) nothing may be spent; 0 for no end."""
    shadow_price: float = 0.0
    """Lambda: what a unit of money spent would have earned elsewhere."""
    day: int = 0
    """The shop's day that `spent` is of, where the period is a day."""
    spent: int = 0
    spent_outside_core: int = 0

    def over(self, at: int) -> bool:
        """Tell whether nothing may be spent any more."""
        return 0 < self.until <= at

    def on(self, day: int) -> Budget:
        """Return the budget as it stands on a day of the shop.

        A new day begins with nothing spent, and what was left of the one before is gone. But where an earlier day's
        touches have cost more than it had, the days after make up for it.

        >>> Budget(amount=100, day=20, spent=60).on(21).spent, Budget(amount=100, day=20, spent=130).on(21).spent
        (0, 30)
        """
        if self.period != "day" or day <= self.day:
            return self
        owed = max(0, self.spent - self.amount * (day - self.day))
        return replace(self, day=day, spent=owed, spent_outside_core=min(max(0, self.spent_outside_core), owed))


def granted(
    before: Budget | None, *, amount: int, period: Period, until: int, shadow_price: float, at: int, day: int
) -> Budget:
    """Return the budget that a grant makes, in force from `at` on.

    A grant of the same name takes the place of the one before, and what that has spent stays spent; unless it was over
    or of another kind.
    """
    fresh = Budget(amount=amount, period=period, until=until, shadow_price=shadow_price, day=day)
    if before is None or before.over(at) or before.period != period:
        return fresh
    so_far = before.on(day)
    return replace(fresh, spent=so_far.spent, spent_outside_core=so_far.spent_outside_core)


def room(budget: Budget | None, *, core: bool, core_share: float, at: int, day: int) -> int:
    """Return what a touch of a user may cost at most; users outside the core may not use up the core's share."""
    if budget is None or budget.over(at):
        return 0
    now = budget.on(day)
    left = min(now.amount, now.amount - now.spent)
    if not core:
        reserved = -(-now.amount * round(core_share * _PPM) // _PPM)
        left = min(left, now.amount - reserved - now.spent_outside_core)
    return max(0, left)


def charge(budget: Budget, amount: int, *, core: bool, core_share: float, at: int, day: int) -> Budget:
    """Return the budget after a touch that is expected to cost `amount`; more than there is room for is an error."""
    left = room(budget, core=core, core_share=core_share, at=at, day=day)
    if not 0 <= amount <= left:
        raise BudgetError(f"charge = {amount} micros: allowed are 0 to {left}, what is left of the budget")
    return _moved(budget.on(day), amount, core=core)


def settle(budget: Budget, back: int, *, core: bool, day: int) -> Budget:
    """Return the budget after `back` micros of what was charged turned out not to be needed (below 0: more was).

    `core` is of the user when he was charged for. The money may have been charged on an earlier day: it counts to the
    day on which it is settled, so that nothing is lost.
    """
    return _moved(budget.on(day), -back, core=core)


def _moved(budget: Budget, amount: int, *, core: bool) -> Budget:
    outside = budget.spent_outside_core if core else budget.spent_outside_core + amount
    return replace(budget, spent=budget.spent + amount, spent_outside_core=outside)


def part(total: int, number: int, parts: int) -> int:
    """Return one of so many nearly equal parts of a total; together they are the total.

    >>> [part(10, number, 4) for number in range(4)]
    [2, 3, 2, 3]
    """
    return total * (number + 1) // parts - total * number // parts


def capacity(per_day: int, *, partition: int, partitions: int, day: int) -> int:
    """Return how many users a partition may pass on to people on a day.

    Over all partitions it is the day's capacity; what does not divide goes to other partitions each day.

    >>> [capacity(3, partition=p, partitions=4, day=20_000) for p in range(4)]
    [0, 1, 1, 1]
    >>> [capacity(3, partition=p, partitions=4, day=20_001) for p in range(4)]
    [1, 1, 1, 0]
    """
    return part(per_day, (partition + day) % partitions, partitions)


def people_left(used: tuple[int, int], per_day: int, *, partition: int, partitions: int, day: int) -> int:
    """Return how many users the partition may still pass on to people; `used` is a day, and how many on it."""
    on_day, number = used
    spent = number if on_day == day else 0
    return max(0, capacity(per_day, partition=partition, partitions=partitions, day=day) - spent)
