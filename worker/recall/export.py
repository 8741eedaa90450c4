"""Everything that is kept of one user, by name: for whoever has a right to it, and for those who look for a fault.

Times are RFC 3339 in UTC, days are dates, money is in major units; ids of orders and messages are kept as hashes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec

from schemas.feedback import Status
from schemas.values import rfc3339
from worker.recall.money import micros_text
from worker.recall.profile import Contact
from worker.recall.rfm import FIELDS
from worker.recall.risk import features, labels
from worker.recall.tiers import Tier
from worker.recall.windows import CHANNELS, sessions_in
from worker.stream.processor import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from worker.recall.days import Days
    from worker.recall.explanation import Kept
    from worker.recall.money import Currency
    from worker.recall.profile import OpenDay, Profile
    from worker.recall.step import Customers

_TIMES: Final = frozenset({"after", "at", "due", "since", "until"})
"""Last words of the names of fields that hold a time."""
_MINOR: Final = frozenset({"net", "refunded", "spent"})
_FORMS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "origin": lambda n: Tier(n).label,
    "target": lambda n: Tier(n).label,
}
STATUSES: Final = get_args(Status)


def export(customers: Customers, kept: Kept) -> dict[str, Any]:
    """Return all that lies in the user's row and beside it."""
    state, form = kept.state, _Form(customers.shop.currency, customers.shop.days)
    head = {"user_id": state.key.decode(), "as_of": rfc3339(kept.clock), "partition": kept.partition}
    if state.erased:
        return {**head, "erased": True}
    return {
        **head,
        "profile": form.profile(state),
        "account": form.account(state),
        "taste": form.named(state.taste) | {"wishes": [form.wish(*wish) for wish in state.taste.wishes]},
        "sightings": [
            form.sighting(day, kept.attachment(day.to_bytes(8, "big"))) for day in state.account.pending_days()
        ],
    }


class _Form:
    """How values are written; the row does not say what they are."""

    def __init__(self, currency: Currency, days: Days) -> None:
        self._currency = currency
        self._days = days

    def profile(self, state: Profile) -> dict[str, Any]:
        told = self.named(state, leave_out={"history", "today", "yesterday", "sealed", "sealed_taste", "last_days"})
        days = [*map(self._counts, state.counts_by_day())]
        months = [self._counts(array) for array in self._months(state)]
        last = {name: self._date(day) for name, day in zip(CHANNELS, state.last_days, strict=False) if day}
        return told | {
            "tier": Tier(state.standing.tier).label,
            "days": days,
            "four_weeks": months,
            "last_days": last,
            "open_days": [self._open_day(state.day - 1, state.yesterday), self._open_day(state.day, state.today)],
        }

    def account(self, state: Profile) -> dict[str, Any]:
        account = state.account
        told = self.named(account, leave_out={"weeks", "pending", "contacts", "unreachable", "unsettled", "displaced"})
        columns = zip(*(iter(account.weeks),) * FIELDS, strict=True)
        money = self._currency.to_text
        return told | {
            "weeks": [
                {
                    "from": self._date(self._days.monday(week)),
                    "orders": orders,
                    "revenue": money(revenue),
                    "refunds": money(refunds),
                }
                for week, orders, revenue, refunds in columns
            ],
            "pending": {str(horizon): [*map(self._date, days)] for horizon, days in account.pending.items()},
            "contacts": [self._contact(contact) for contact in account.contacts],
            "unreachable": {channel: rfc3339(since) for channel, since in account.unreachable.items()},
            "unsettled": {
                budget: [micros_text(amount) for amount in amounts] for budget, amounts in account.unsettled.items()
            },
            "displaced_orders": account.displaced.hex(),
        }

    def wish(self, product: str, price: int) -> dict[str, Any]:
        return {"product": product, "price": None if price < 0 else self._currency.to_text(price)}

    def sighting(self, day: int, raw: bytes | None) -> dict[str, Any]:
        """Return what was seen of the user on a day, and what was predicted."""
        seen = None if raw is None else labels.unpack(raw)
        if seen is None:
            return {"day": self._date(day), "raw": None if raw is None else raw.hex()}
        return {
            "day": self._date(day),
            "tier": Tier(seen.tier).label,
            "held_out": seen.holdout,
            "orders": seen.rhythms.orders._asdict(),
            "active": seen.rhythms.active._asdict(),
            "lead_days": seen.lead_days,
            "features": dict(zip(features.NAMES, features.plain(seen.features), strict=True)),
            "forecasts": {
                str(horizon): {"version": forecast.version, **forecast.predictions._asdict()}
                for horizon, forecast in seen.forecasts.items()
            },
        }

    def named(self, struct: msgspec.Struct, leave_out: Iterable[str] = ()) -> dict[str, Any]:
        """Return a struct by the names of its fields."""
        out = set(leave_out)
        return {name: self._value(name, getattr(struct, name)) for name in struct.__struct_fields__ if name not in out}

    def _value(self, name: str, value: Any) -> Any:  # noqa: PLR0911 - one way out for each kind
        if isinstance(value, msgspec.Struct):
            return self.named(value)
        if isinstance(value, bytes):
            return value.decode() if name == "key" else value.hex()
        if isinstance(value, list | tuple):
            return [self._value(name, one) for one in value]
        if isinstance(value, bool) or not isinstance(value, int):
            return value
        if name in _FORMS:
            return _FORMS[name](value)
        if name in _MINOR:
            return self._currency.to_text(value)
        word = name.rpartition("_")[2]
        if word in _TIMES:
            return rfc3339(value) if 0 < value < NEVER else None
        return self._date(value) if word == "day" and value > 0 else value

    def _contact(self, contact: Contact) -> dict[str, Any]:
        return self.named(contact) | {
            "heard": [status for bit, status in enumerate(STATUSES) if contact.heard >> bit & 1],
        }

    def _open_day(self, day: int, open_day: OpenDay) -> dict[str, Any]:
        return self._counts((day, *_flat(open_day.counts))) | {
            "sessions": sessions_in(open_day.half_hours),
            "half_hours": [f"{n // 2:02}:{n % 2 * 30:02}" for n in range(50) if open_day.half_hours >> n & 1],
            "message_ids": open_day.message_ids.hex(),
        }

    def _counts(self, array: tuple[int, ...]) -> dict[str, Any]:
        day, *rest = array
        named = {CHANNELS[channel]: n for channel, n in zip(rest[::2], rest[1::2], strict=True)}
        return {"day": self._date(day), **named}

    def _months(self, state: Profile) -> Iterable[tuple[int, ...]]:
        return ((first, *array[1:]) for first, array in state.history.months())

    def _date(self, day: int) -> str:
        return self._days.date(day).isoformat()


def _flat(counts: list[int]) -> list[int]:
    return [n for channel, count in enumerate(counts) if count for n in (channel, count)]
