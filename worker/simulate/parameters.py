"""The simulator's parameters, read from `parameters.toml`, and what a family draws from them."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
from scipy.special import ndtri

from worker.simulate.draws import key_of, uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

CENTRAL: Final = "central"
"""The family that takes every mean as it is."""


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file: no field more, none less."""


class Range(_Given, frozen=True):
    """What a family draws: normal, kept within bounds."""

    mean: float
    sd: float
    least: float
    most: float


class Effect(_Given, frozen=True):
    visit: Range
    order: Range
    leave: Range


class Spread(_Given, frozen=True):
    type: float
    kind: float
    channel: float
    restore: float


class Response(_Given, frozen=True):
    window_days: int
    lag_days: float
    coupon_days: int
    coupon_order: float
    fatigue: float
    fatigue_unsubscribe: float
    fatigue_days: float
    restored_days: tuple[int, int]
    morning_hour: int
    uninstall: float


class ChannelGiven(_Given, frozen=True):
    reached: float
    bounced: float
    attention: float
    intrusion: float
    unsubscribe: float
    complaint: float
    cost: str


class KindGiven(_Given, frozen=True):
    visit: float
    restore: float


class TypeGiven(_Given, frozen=True):
    share: float
    orders: float
    browse: float
    visit: float
    order: float
    restore: float
    leave: float
    coupon: float
    redeem: float
    kinds: dict[str, float] = {}


class LifeGiven(_Given, frozen=True):
    there: float
    join_within: float
    turn: tuple[float, float]
    absence_days: tuple[int, int]
    half_life_days: float
    by_themselves: float
    by_themselves_days: tuple[int, int]


class Habits(_Given, frozen=True):
    """Probabilities of a day (sign-in, check-in, shopping visit) and of a product looked at (new arrival, cart)."""

    sign_in: float
    check_in: float
    shop: float
    new_arrival: float
    cart: float


class FadingGiven(_Given, frozen=True):
    sign_in_falls: float
    cart: float
    order: float
    orders_days: int
    days: int
    check_in: tuple[float, float]
    """While orders come, and then."""
    shop: tuple[float, float]
    after: Habits


class HabitsGiven(_Given, frozen=True):
    engagement_shape: float
    active: Habits
    between_sales: Habits
    sale: Habits
    sale_every_days: int
    sale_days: int
    fading: FadingGiven
    between_sales_order: float
    coupon_in_sale: float
    coupon_else: float
    cancelled: float
    refunded: float


class BrowsingGiven(_Given, frozen=True):
    looks: float
    looks_most: int
    seconds: tuple[int, int]
    at_home: float
    search: float
    wish: float
    new_list: float
    taste: float
    removed: float
    hours: tuple[int, int]


class OrdersGiven(_Given, frozen=True):
    shape: float
    there: float
    there_shape: float
    dip: float
    dip_days: float
    pieces: float
    pieces_shape: float
    cart_kept: float
    pieces_most: int
    cancelled_minutes: tuple[int, int]
    refunded_days: tuple[int, int]
    shipping: str
    free_from: str
    coupon_percent: int


class SeasonGiven(_Given, frozen=True):
    week: tuple[float, ...]
    year: tuple[float, ...]


class ProfilesGiven(_Given, frozen=True):
    consent: dict[str, float]
    app: float
    opt_out_messages: float
    opt_out_profiling: float
    excluded: float
    points: int
    timezones: tuple[str, ...]


class CategoryGiven(_Given, frozen=True):
    price: str
    margin: float


class CatalogGiven(_Given, frozen=True):
    products: int
    spread: float
    arrivals: int
    categories: dict[str, CategoryGiven]
    reduced: float
    reduction: float
    sold_out: float


class OdditiesGiven(_Given, frozen=True):
    late: float
    duplicates: float
    anonymous: float
    pages: float
    unknown: float
    malformed: float


class Families(_Given, frozen=True):
    development: tuple[str, ...]
    judging: tuple[str, ...]


class Parameters(_Given, frozen=True):
    """The whole file."""

    effect: Effect
    spread: Spread
    response: Response
    channels: dict[str, ChannelGiven]
    kinds: dict[str, KindGiven]
    types: dict[str, TypeGiven]
    life: LifeGiven
    habits: HabitsGiven
    browsing: BrowsingGiven
    orders: OrdersGiven
    season: SeasonGiven
    profiles: ProfilesGiven
    catalog: CatalogGiven
    oddities: OdditiesGiven
    families: Families


@cache
def load() -> Parameters:
    """Read the file that comes with the package."""
    text = files("worker.simulate").joinpath("parameters.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), Parameters)


GIVEN: Final = load()
TYPES: Final = tuple(GIVEN.types)
LOYAL, DRIFTING, FADING, GONE, HUNTER, RECOVERABLE, SLEEPING_DOG, RETURNING = range(len(TYPES))
CHANNELS: Final = tuple(GIVEN.channels)
KINDS: Final = tuple(GIVEN.kinds)
OTHER: Final = KINDS.index("other")
IN_APP, PUSH = CHANNELS.index("in_app"), CHANNELS.index("push")
_STAYING: Final = (LOYAL, HUNTER, SLEEPING_DOG)
"""Types that have no turn."""


class Effects(NamedTuple):
    """What touches do in a family: arrays by type, kind of play and channel, in the order of the file."""

    visit: float
    """Extra visits by one e-mail to a random customer."""
    order: float
    """Share of the extra visits that end in an order."""
    leave: float
    """Probability that a sleeping dog leaves because of one e-mail."""
    type_visit: NDArray[np.float64]
    type_order: NDArray[np.float64]
    type_restore: NDArray[np.float64]
    type_leave: NDArray[np.float64]
    type_coupon: NDArray[np.float64]
    type_redeem: NDArray[np.float64]
    type_kind: NDArray[np.float64]
    """Factor on the extra visits, by type and kind."""
    kind_visit: NDArray[np.float64]
    kind_restore: NDArray[np.float64]
    channel_attention: NDArray[np.float64]
    channel_intrusion: NDArray[np.float64]


def check(family: str, *, judging: bool) -> None:
    """Refuse a family that is not known, and one kept for judging unless it is asked for as such."""
    families = GIVEN.families
    if family in families.judging and not judging:
        raise ValueError(f"family = {family}: it is kept for judging; allowed are {', '.join(families.development)}")
    if family not in (*families.development, *families.judging):
        raise ValueError(f"family = {family}: allowed are {', '.join((*families.development, *families.judging))}")


def effects(family: str, *, judging: bool = False) -> Effects:
    """Draw a family's effects, always the same.

    >>> effects("central").visit
    0.0609
    """
    check(family, judging=judging)
    normals = _Normals(family)
    spread, given = GIVEN.spread, list(GIVEN.types.values())
    visit, order, leave = (
        normals.within(which) for which in (GIVEN.effect.visit, GIVEN.effect.order, GIVEN.effect.leave)
    )
    type_visit = np.array([one.visit for one in given]) * normals.factors(spread.type, len(given))
    type_order = np.array([one.order for one in given]) * normals.factors(spread.type, len(given))
    restore = np.array([one.restore for one in given]) * normals.factors(spread.restore, len(given))
    kinds = list(GIVEN.kinds.values())
    kind_visit = np.array([one.visit for one in kinds]) * normals.factors(spread.kind, len(kinds))
    attention = np.array([one.attention for one in GIVEN.channels.values()])
    attention = attention * normals.factors(spread.channel, len(attention))
    email = CHANNELS.index("email")
    return Effects(
        visit=visit,
        order=order,
        leave=leave,
        type_visit=type_visit / _mean(type_visit),
        type_order=type_order,
        type_restore=np.minimum(restore, 0.9),
        type_leave=np.array([one.leave for one in given]),
        type_coupon=np.array([one.coupon for one in given]),
        type_redeem=np.array([one.redeem for one in given]),
        type_kind=np.array([[one.kinds.get(kind, 1.0) for kind in KINDS] for one in given]),
        kind_visit=kind_visit,
        kind_restore=np.array([one.restore for one in kinds]),
        # The effect above is that of an e-mail, whatever the others are drawn as.
        channel_attention=np.where(np.arange(len(attention)) == email, 1.0, attention),
        channel_intrusion=np.array([one.intrusion for one in GIVEN.channels.values()]),
    )


def _mean(type_visit: NDArray[np.float64]) -> float:
    """Return the mean over all customers where half of those who turn have done so: before, they are like the loyal."""
    shares = np.array([one.share for one in GIVEN.types.values()])
    turned = np.where(np.isin(np.arange(len(shares)), _STAYING), type_visit, (type_visit + type_visit[LOYAL]) / 2)
    return float(shares @ turned)


class _Normals:
    """Standard normal numbers of a family, one after the other; zeros for the central one."""

    def __init__(self, family: str) -> None:
        self._key = key_of("effects", family)
        self._central = family == CENTRAL
        self._drawn = 0

    def next(self, number: int = 1) -> NDArray[np.float64]:
        slots = np.arange(self._drawn, self._drawn + number, dtype=np.uint64)
        self._drawn += number
        if self._central:
            return np.zeros(number)
        drawn: NDArray[np.float64] = ndtri(uniforms(slots + np.uint64(self._key), 0, 0))
        return drawn

    def within(self, given: Range) -> float:
        return min(max(given.mean + given.sd * float(self.next()[0]), given.least), given.most)

    def factors(self, spread: float, number: int) -> NDArray[np.float64]:
        """Return log-normal factors of mean 1."""
        mean = 0.0 if self._central else -(spread**2) / 2
        return np.exp(mean + spread * self.next(number))


def cents(amount: str) -> int:
    """Return an amount of the file in cents.

    >>> cents("69"), cents("0.05")
    (6900, 5)
    """
    return round(float(amount) * 100)


def geometric(mean: float) -> float:
    """Return the logarithm of the ratio of a geometric distribution that starts at 0."""
    return math.log(mean / (1 + mean))
