"""What is kept of a user: one row of about a kilobyte.

The struct is both the class and the wire format (msgpack, an array). Fields are only appended, with defaults. What is
seldom needed lies inside as bytes and is decoded when it is. Times are ms since the epoch, 0 for never; days are those
of `days.Days`; money is in minor units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from worker.recall.tiers import Standing
from worker.recall.windows import CHANNELS, DAYS_KEPT, ORDER, History, sessions_in, sparse
from worker.stream.processor import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.recall.days import Days
    from worker.recall.windows import Sparse

VERSION = 1
"""Of the row's encoding."""

ROW_BYTES_MAX = 8192
"""A row that has grown past it is trimmed at the weekly visit."""
ID_BYTES = 6
ORDERS_KEPT = 32
MESSAGE_IDS_KEPT = 256
"""A day; beyond it a message that was sent twice may count twice."""
REFUND_IDS_KEPT = 32
FAVOURITES_KEPT = 8
WISHES_KEPT = 16
MOVES_KEPT = 8
DECISIONS_KEPT = 8
NAME_BYTES_MAX = 64
HALF_HOUR_MS = 30 * 60_000
_DISPLACED = (1 << 400) - 1
"""Days back that are told of displaced orders: more than the longest horizon and what is late."""

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


class OpenDay(msgspec.Struct, array_like=True, gc=False):
    """A day that may still change: counts by channel, active half-hours, ids of messages seen."""

    counts: list[int] = []
    half_hours: int = 0
    message_ids: bytes = b""

    def add(self, channel: int, n: int = 1) -> None:
        if not self.counts:
            self.counts = [0] * len(CHANNELS)
        self.counts[channel] += n


class Gaps(msgspec.Struct, array_like=True, gc=False):
    """Days between days with activity, by Welford's method (Technometrics 4:3, 1962)."""

    last_day: int = 0
    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def fold(self, day: int) -> None:
        """Take a day with activity; days come in order.

        >>> gaps = Gaps()
        >>> for day in (10, 12, 16): gaps.fold(day)
        >>> gaps.n, gaps.mean, gaps.variance
        (2, 3.0, 2.0)
        """
        if self.last_day:
            gap = day - self.last_day
            self.n += 1
            delta = gap - self.mean
            self.mean += delta / self.n
            self.m2 += delta * (gap - self.mean)
        self.last_day = day

    def with_days(self, days: list[int]) -> Gaps:
        """Return the gaps with later days taken in; these stay as they are."""
        if not days:
            return self
        gaps = Gaps(self.last_day, self.n, self.mean, self.m2)
        for day in days:
            gaps.fold(day)
        return gaps

    @property
    def variance(self) -> float:
        return self.m2 / (self.n - 1) if self.n > 1 else 0.0


class PastOrder(msgspec.Struct, array_like=True, gc=False):
    """An order seen lately; `at` is 0 while only its refund or cancellation was."""

    id: bytes
    at: int = 0
    net: int = 0
    cancelled: bool = False
    refunded: int = 0
    products: int = 0
    """Distinct ones."""
    discounted: bool = False


class Episode(msgspec.Struct, array_like=True, gc=False):
    """One story of a user slipping away: opened by a drop, decided once, observed until it ends."""

    opened_at: int
    trigger: str
    cause: str
    origin: int
    target: int
    fell: tuple[str, ...]
    before: tuple[int, int, int] | None
    after: tuple[int, int, int] | None
    arm: str
    due: int
    """When it is decided; once that is done, when it ends."""
    decided: bool = False
    play: str | None = None
    command_id: str | None = None
    not_after: int = 0
    channel: str = ""
    purpose: str = ""
    propensity: float = 1.0
    """With which the arm was drawn."""

    name: str = ""
    """Of the signal or the risk's level that opened it."""
    potential: str = ""
    """"high", "middle" or "low", of a user who was silent when it opened."""
    step: int = 0
    """Touches sent."""
    rung: int = -1
    """Of the play's ladder, the one that was reached last."""
    ends_at: int = 0
    """Until when it is observed; 0 before the first decision."""
    ordered_at: int = 0
    """The first order since it opened."""
    segment: str = ""
    """In which the choice was made."""
    choice_propensity: float = 1.0
    """With which the play was chosen, or to do nothing."""
    progress: list[int] = []
    """What was done so far, by item of the play's success track."""
    task: int = 0
    """The step of a habit task that was reached."""
    given: int = 0
    """The step of a habit task that was given last."""
    proposed_at: int = 0
    """Since when it waits for an approval."""
    text: str = ""
    """Why it was opened, in plain words."""
    seen_at: int = 0
    """The latest activity since it opened, by which sessions are told apart."""


class Contact(msgspec.Struct, array_like=True, gc=False):
    """A touch that was sent, and what became of it."""

    at: int
    channel: str
    play: str = ""
    step: int = 0
    rung: int = 0
    id: bytes = b""
    """Of the command, shortened as `intake.short_id` does."""
    contact_micros: int = 0
    """What the contact was charged with."""
    incentive_micros: int = 0
    """What its incentive was charged with: face value times expected redemption."""
    face: int = 0
    """Place of the face value among the play's, from 1; 0 for no incentive."""
    budget: str = ""
    """From which it was paid."""
    heard: int = 0
    """A bit for each status that was told, in the order of `schemas.feedback.Status`."""
    delivered_at: int = 0
    responded_at: int = 0
    core: bool = False
    """Whether the user was of the core when it was sent."""
    unheard: bool = False
    """Whether it came to its time without any feedback."""
    returned: bool = False
    """Whether what its incentive was charged with went back to the budget, unused so far."""

    @property
    def reserved(self) -> int:
        """Return what the budget still has set aside for its incentive, micros."""
        return 0 if self.returned else self.incentive_micros


class Potential(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a silent user could be worth, judged when the silence began."""

    level: str
    """"high", "middle" or "low"."""
    at: int
    reason: str


class Outcome(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A choice whose outcome is learned when it is due."""

    due: int
    decided_at: int
    segment: str
    play: str
    """Or "nothing"."""
    propensity: float
    held_out: bool


class Move(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A change of tier, as it is remembered."""

    at: int
    origin: int
    target: int
    cause: str


class Decided(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A decision, as it is remembered."""

    at: int
    outcome: str
    reason: str
    play: str
    channel: str


class Account(msgspec.Struct, array_like=True, gc=False):
    """What is seldom needed: orders, consent, touches, risk. Lies inside the row as bytes."""

    order_gaps: Gaps = msgspec.field(default_factory=Gaps)
    first_order_at: int = 0
    weeks: list[int] = []
    """Orders and money by week, see `rfm.FIELDS`."""
    latest_orders: list[PastOrder] = []
    refund_ids: bytes = b""
    """Of the messages of the latest refunds."""
    spent: int = 0
    refunded: int = 0
    discounted: int = 0
    """Orders with a coupon or a discount."""
    contacts: list[Contact] = []
    consent: dict[str, bool] = {}
    """By "channel:purpose"."""
    timezone: str = ""
    opted_out: bool = False
    profiling_opted_out: bool = False
    excluded: bool = False

    pending: dict[int, list[int]] = {}
    """By horizon, the days seen whose labels are not due yet; what was seen lies beside the row."""
    risk: float = -1.0
    risk_at: int = 0
    risk_version: int = 0
    alerted_day: int = 0
    """Since the last order: the first day with an alert, 0 for none yet, -1 once the horizon has passed."""
    displaced_day: int = 0
    displaced: bytes = b""
    """Of the orders that the latest ones have displaced, the last day, and a bit for each day back from it, 1 where
    there was one; see `displace`."""
    products: int = 0
    """Distinct ones of each order, over all orders."""

    potential: Potential | None = None
    """Frozen when the silence began; None while there is none."""
    points: int = -1
    """Loyalty points; -1 where they are not known."""
    points_expire_at: int = 0
    unreachable: dict[str, int] = {}
    """By channel, since when it does not reach the user."""
    unsettled: dict[str, tuple[int, int]] = {}
    """By budget, micros that were charged too much (or, negative, too little), until the next decision: of touches as a
    core user, and of others."""
    unsettled_at: int = 0
    """When something came to be settled first."""
    outcomes: list[Outcome] = []
    """Of choices, by due time."""
    moves: list[Move] = []
    """The latest changes of tier."""
    decided: list[Decided] = []
    """The latest decisions."""
    risk_level: str = ""
    risk_opened_at: int = 0
    rhythm_order_at: int = 0
    """The last order that a broken rhythm was told of."""
    near_at: int = 0
    """When it was last told that the next tier is near."""
    signals: dict[str, int] = {}
    """By name, when a signal opened last; negated where it has not held since."""

    def find_order(self, order_id: bytes) -> PastOrder | None:
        for order in self.latest_orders:
            if order.id == order_id:
                return order
        return None

    def displace(self, order: PastOrder, days: Days) -> None:
        """Keep of an order only its day, for the labels that look back so far.

        An order at midnight ends a horizon and does not begin one: it counts to the day that ends with it.
        """
        day = days.of(order.at - 1)
        bits = int.from_bytes(self.displaced)
        if day > self.displaced_day:
            bits <<= day - self.displaced_day
            self.displaced_day = day
        bits = (bits | 1 << self.displaced_day - day) & _DISPLACED
        self.displaced = bits.to_bytes((bits.bit_length() + 7) // 8)

    def has_displaced(self, first_day: int, end_day: int) -> bool:
        """Tell whether an order that was displaced was of a day from `first_day` to the one before `end_day`."""
        newest, oldest = max(0, self.displaced_day - end_day + 1), self.displaced_day - first_day
        if oldest < newest or not self.displaced:
            return False
        return bool(int.from_bytes(self.displaced) >> newest & (1 << oldest - newest + 1) - 1)

    def pending_days(self) -> list[int]:
        """Return the days of which something lies beside the row."""
        return sorted({day for days in self.pending.values() for day in days})


class Taste(msgspec.Struct, array_like=True, gc=False):
    """What the user likes. Lies inside the row as bytes beside the account: the weekly visit does not ask for it."""

    categories: list[tuple[str, int]] = []
    items: list[tuple[str, int]] = []
    wishes: list[tuple[str, int]] = []
    """Product and its price when saved, -1 where unknown."""


_decode_account = msgspec.msgpack.Decoder(Account).decode
_decode_taste = msgspec.msgpack.Decoder(Taste).decode


class _Lazy(Generic[T]):
    """`functools.cached_property` without its lock, which takes longer than decoding a row."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        made = instance.__dict__[self._name] = self._make(instance)
        return made


class Profile(msgspec.Struct, array_like=True, dict=True):
    """A user: what most events need, and account and taste, which are decoded when they are asked for."""

    key: bytes
    due: int
    """The earliest of all timers."""
    silence_due: int
    other_due: int
    """The earliest of the timers but silence's, which every activity postpones."""

    day: int = 0
    """The later of the two open days; they are moved along by the clock."""
    today: OpenDay = msgspec.field(default_factory=OpenDay)
    yesterday: OpenDay = msgspec.field(default_factory=OpenDay)
    history: History = msgspec.field(default_factory=History)
    last_days: list[int] = []
    """By channel, the last day on which it was used; empty before the first use of any."""
    first_at: int = 0
    active_at: int = 0
    active_gaps: Gaps = msgspec.field(default_factory=Gaps)

    orders: int = 0
    """In all time, cancelled ones taken off."""
    last_order_at: int = 0
    standing: Standing = msgspec.field(default_factory=Standing)
    visit_due: int = 0
    fall_due: int = NEVER
    held_until: int = 0
    """While a source is down: when the silence is looked at again."""
    episode: Episode | None = None
    erased: bool = False
    sealed: bytes = b""
    """The account, as `seal` left it."""
    sealed_taste: bytes = b""
    checkout_at: int = 0
    """The last start of a checkout that no order followed."""
    rhythm_due: int = NEVER
    """When the user's own rhythm of ordering is broken."""

    @_Lazy
    def account(self) -> Account:
        """Return the account; what is changed in it is kept by `seal`."""
        return _decode_account(self.sealed) if self.sealed else Account()

    @_Lazy
    def taste(self) -> Taste:
        """Return the taste; what is changed in it is kept by `seal`."""
        return _decode_taste(self.sealed_taste) if self.sealed_taste else Taste()

    def seal(self) -> None:
        """Put account and taste back into the row, where they were asked for."""
        opened = self.__dict__
        if "account" in opened:
            self.sealed = _encode(opened["account"])
        if "taste" in opened:
            self.sealed_taste = _encode(opened["taste"])

    def open_day(self, day: int) -> OpenDay | None:
        """Return the open day, or None where it is closed."""
        if day == self.day:
            return self.today
        return self.yesterday if day == self.day - 1 else None

    def roll(self, day: int) -> None:
        """Move the open days along to the clock's day, closing what is left behind."""
        if day <= self.day:
            return
        if day == self.day + 1:
            self._close(self.day - 1, self.yesterday)
            self.yesterday = self.today
        else:
            self._close(self.day - 1, self.yesterday)
            self._close(self.day, self.today)
            self.yesterday = OpenDay()
        self.today = OpenDay()
        self.day = day
        self.history.fold(day)

    def _close(self, day: int, closed: OpenDay) -> None:
        if closed.half_hours:
            self.history.append(sparse(day, closed.counts, sessions_in(closed.half_hours)))
            self.active_gaps.fold(day)
            if closed.counts and closed.counts[ORDER]:
                self.account.order_gaps.fold(day)
        elif any(closed.counts):
            self.history.append(sparse(day, closed.counts, 0))

    def counts_by_day(self) -> list[Sparse]:
        """Return all days known singly, open ones included, as sparse arrays; a day may come in parts."""
        arrays = self.history.arrays() if self.history.n else []
        for day, open_day in ((self.day - 1, self.yesterday), (self.day, self.today)):
            if open_day.half_hours or open_day.counts:
                arrays.append(sparse(day, open_day.counts, sessions_in(open_day.half_hours)))
        return arrays

    def open_days_before(self, t_day: int) -> tuple[list[int], list[int]]:
        """Return the open days before a day with activity, and those with orders: the gaps have yet to take them."""
        active, ordered = [], []
        for day, open_day in ((self.day - 1, self.yesterday), (self.day, self.today)):
            if open_day.half_hours and day < t_day:
                active.append(day)
                if open_day.counts and open_day.counts[ORDER]:
                    ordered.append(day)
        return active, ordered

    def saw(self, channel: int, day: int) -> None:
        """Note the last day of a channel's use."""
        if not self.last_days:
            self.last_days = [0] * len(CHANNELS)
        if day > self.last_days[channel]:  # noqa: PLR1730 - max() costs a call
            self.last_days[channel] = day

    def trim(self, day: int) -> bool:
        """Make a row that has grown past its bound small again: its days go into buckets early, the oldest first."""
        if self._size() < ROW_BYTES_MAX // 2:
            return False
        days_kept = DAYS_KEPT
        self.seal()
        while days_kept and len(_encode(self)) > ROW_BYTES_MAX:
            days_kept //= 2
            self.history.fold_before(day - days_kept, day)
        return days_kept < DAYS_KEPT

    def _size(self) -> int:
        """Return about how large the row is, without encoding it: what grows, all but what the account took lately."""
        history = self.history
        open_days = len(self.today.message_ids) + len(self.yesterday.message_ids)
        return len(history.days) + len(history.buckets) + len(self.sealed) + len(self.sealed_taste) + open_days

    def erase(self) -> None:
        """Leave nothing but the mark that the user was erased."""
        blank = Profile(key=self.key, due=NEVER, silence_due=NEVER, other_due=NEVER, erased=True)
        for field in self.__struct_fields__:
            setattr(self, field, getattr(blank, field))
        self.__dict__.clear()
