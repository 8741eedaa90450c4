"""The figures of a report, from the tables; money in major units, shares from 0 to 1.

What compares treated with held-out users is a `Measure`; what no arm was drawn for is description, and says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from worker.recall.days import DAY_MS
from worker.report.estimates import (
    EVENTS_MIN,
    USERS_MIN,
    Effect,
    Units,
    adjusted,
    difference,
    enough,
    longer,
    ratio,
    units_needed,
    wilson,
)
from worker.report.load import AGAIN_DAYS, CORE_DAYS, RESPONSE_DAYS, YEAR_DAYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from worker.report.estimates import Bools, Floats

WEEK_MS: Final = 7 * DAY_MS
LIFTS: Final = (0.02, 0.05, 0.1, 0.2)
"""Changes of the held out's mean that a plan asks for."""
LIFT: Final = 0.1
"""The change by which it is judged how long it takes until something can be told."""
_NUMBERS: Final = (
    "days",
    "orders",
    "revenue",
    "margin",
    "orders_year",
    "revenue_year",
    "orders_before",
    "revenue_before",
    "touches",
    "contact",
    "incentive",
    "opportunity",
    "hidden",
)
_FLAGS: Final = ("treated", "returned", "returned_soon", "fell_silent", "opted_out", "whole", "month_known", "core")
GROUPS: Final = ("play", "tier", "potential", "trigger")
"""What units are grouped by: all of it was settled before anything was sent."""
ALL: Final = "all"


class Measure(NamedTuple):
    """An effect by unit, and of all treated units together."""

    name: str
    effect: Effect | None
    """None where the arms are too small."""
    total: Effect | None
    """Of all treated users together."""
    plain: Effect | None
    """Without CUPED."""
    cuped: bool
    """Whether `effect` is the one by CUPED, since its interval is narrower."""
    treated_users: int
    control_users: int
    treated_units: int

    @property
    def verdict(self) -> str:
        """Say what can be told: more, fewer, not yet, or nothing at all."""
        if self.effect is None:
            return "too few"
        if not self.effect.shown:
            return "not yet"
        return "more" if self.effect.value > 0 else "less"


class Cell(NamedTuple):
    """Units that have something in common, and what being touched did to them."""

    by: str
    value: str
    returned: Measure
    orders: Measure
    margin: Measure
    cost: float
    """In full, of the treated units' touches."""

    @property
    def by_money(self) -> Effect | None:
        """Return the margin that a unit of money has brought."""
        total = self.margin.total
        return None if total is None or not self.cost else total.times(1 / self.cost)


class Month(NamedTuple):
    """A month of the shop's."""

    month: str
    whole: bool
    core: int
    again: int
    """Of the core users, those who ordered within the month."""
    core_treated: int
    again_treated: int
    core_control: int
    again_control: int
    there: int
    """Customers who were not silent when the month began."""
    lost: int
    """Of them, those who fell silent within it."""
    touches: int
    subsidised: int
    plain: int
    """Touches without an incentive that arrived, and that a week has passed since."""
    answered: int
    unsubscribed: int
    delivered: int
    contact: float
    incentive: float
    opportunity: float
    hidden: float


class Rung(NamedTuple):
    """Touches by channel: a description, since nobody drew who gets which."""

    channel: str
    touches: int
    delivered: int
    answered: int
    bounced: int
    failed: int
    unsubscribed: int
    contact: float
    incentive: float
    hidden: float
    opportunity: float


class Cost(NamedTuple):
    """What all touches have cost: as told by feedback where it was, else as expected."""

    touches: int
    contact: float
    incentive: float
    opportunity: float
    hidden: float
    expected: float
    """Direct, when they were sent."""
    sms_to_all: float
    """What an SMS in the place of each first touch of an episode would have cost."""

    @property
    def direct(self) -> float:
        return self.contact + self.incentive

    @property
    def total(self) -> float:
        return self.direct + self.opportunity + self.hidden


class Silent(NamedTuple):
    """What was done about those who had fallen silent."""

    returned: Measure
    revenue: Measure
    cost: float
    months: float
    yearly_revenue: Effect | None


class Naive(NamedTuple):
    """Before and after: wrong, and by how much the held out show, to whom nothing was sent."""

    users: int
    orders_after: float
    orders_before: float
    revenue_change: float
    control_orders_after: float
    control_orders_before: float
    """Per held-out unit, as those above per touched one."""
    claimed_orders: float
    """What before and after would claim: the change of all who were touched."""
    claimed_returns: int
    """What a count of recalled users would claim: touched, and ordered within the window."""


class Need(NamedTuple):
    """Units that it takes to see a change of the held out's mean."""

    measure: str
    lift: float
    held_out: float
    units: int
    weeks: float


class Plan(NamedTuple):
    """How many it takes: from users before launch, or from those of now."""

    phase: str
    units: int
    weeks: float
    units_a_week: float
    days: float
    """Mean length of the windows."""
    needs: list[Need]
    unlike: Measure | None
    """Difference of the arms before launch: there is none, so the interval should hold 0."""


class Open(NamedTuple):
    """Something that cannot be told yet: a measure of all users, or whether more of a group order."""

    by: str
    value: str
    users: int
    control_users: int
    least: float | None
    """Smallest change that could be seen now, as a share of the held out's mean; None where nothing can be computed."""
    weeks: float | None
    """Until a change of `LIFT` is seen at the present rate, from now."""


@dataclass(frozen=True, slots=True)
class Report:
    """All of it."""

    about: dict[str, Any]
    months: list[Month]
    north_star: Measure
    headline: dict[str, Measure]
    later: dict[str, Measure]
    silent: Silent
    churn: Measure
    harm: Measure
    cost: Cost
    unit_cost: float
    """In full, of the touches within the units' windows."""
    cells: list[Cell]
    rungs: list[Rung]
    naive: Naive
    plan: Plan | None
    open: list[Open]

    @property
    def saves(self) -> Effect | None:
        """Return the users who ordered and would not have."""
        return self.headline["returned"].total

    @property
    def cost_per_save(self) -> tuple[float, float, float] | None:
        """Return the cost of a save with its interval; the upper end is infinite where none may have been saved."""
        saves = self.saves
        if saves is None or saves.value <= 0 or saves.high <= 0:
            return None
        return self.unit_cost / saves.value, self.unit_cost / saves.high, _by(self.unit_cost, saves.low)

    @property
    def roi(self) -> tuple[float, float, float] | None:
        """Return the net profit by cost in full, with its interval."""
        net = self.headline["net"].total
        if net is None or not self.unit_cost:
            return None
        return net.value / self.unit_cost, net.low / self.unit_cost, net.high / self.unit_cost


def _by(cost: float, saves: float) -> float:
    return cost / saves if saves > 0 else math.inf


class Sample:
    """Units of a phase, as arrays."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = columns
        treated = columns["treated"].astype(np.bool_)
        self.units = Units(treated, columns["number"].astype(np.int64), columns["propensity"].astype(np.float64))

    def __len__(self) -> int:
        return len(self.units)

    def of(self, which: Bools) -> Sample:
        """Return some of them."""
        return Sample({name: column[which] for name, column in self._columns.items()})

    def number(self, name: str) -> Floats:
        found: Floats = self._columns[name].astype(np.float64)
        return found

    def flag(self, name: str) -> Bools:
        found: Bools = self._columns[name].astype(np.bool_)
        return found

    def words(self, name: str) -> Any:
        return self._columns[name]

    @property
    def net(self) -> Floats:
        """Return margin less costs. What an incentive gives away is off the margin by the order's price already."""
        return self.number("margin") - self.number("contact") - self.number("opportunity") - self.number("hidden")

    @property
    def cost(self) -> Floats:
        """Return the cost in full."""
        return sum(
            (self.number(kind) for kind in ("contact", "incentive", "opportunity", "hidden")), np.zeros(len(self))
        )

    @property
    def before(self) -> list[Floats]:
        """Return what was known of each before: how much he used to buy, and for how long he could be watched."""
        days, orders = self.number("days"), self.number("orders_year")
        return [days, orders, days * orders, self.number("revenue_year"), self.number("orders_before")]

    def measure(self, name: str, y: Floats | None = None) -> Measure:
        """Return the effect on a number."""
        y = self.number(name) if y is None else y
        units = self.units
        treated, control = units.users(treated=True), units.users(treated=False)
        if not enough(units, y):
            return Measure(name, None, None, None, False, treated, control, int(units.treated.sum()))
        plain, by_cuped = difference(units, y), adjusted(units, y, self.before)
        cuped = by_cuped.error < plain.error
        effect = by_cuped if cuped else plain
        n = int(units.treated.sum())
        return Measure(name, effect, effect.times(n), plain, cuped, treated, control, n)


def sample(db: duckdb.DuckDBPyConnection, phase: str) -> Sample:
    """Read the units of a phase."""
    numbers = ", ".join(f"{name}::double as {name}" for name in _NUMBERS)
    columns = db.execute(
        f"""select dense_rank() over (order by user_id) - 1 as number, propensity, {numbers}, {", ".join(_FLAGS)},
                   coalesce(play, '') as play, tier, coalesce(potential, '') as potential, trigger,
                   coalesce(ltv_before, 0) as ltv_before, coalesce(ltv_after, 0) as ltv_after
            from units where phase = ? and propensity > 0 and propensity < 1""",  # noqa: S608 - no user text
        [phase],
    ).fetchnumpy()
    return Sample({name: np.asarray(column) for name, column in columns.items()})


def report(db: duckdb.DuckDBPyConnection, *, sms_price: float, about: dict[str, Any]) -> Report:
    """Return all figures."""
    live = sample(db, "live")
    first, until, first_sent, _ = db.execute("from span").fetchall()[0]
    begin = first_sent if first_sent is not None else until
    weeks = max((until - begin) / WEEK_MS, 1 / 7)
    headline = {name: live.measure(name) for name in ("orders", "revenue", "margin")}
    headline["net"] = live.measure("net", live.net)
    headline["returned"] = live.measure("returned")
    cells = _cells(live)
    units = live.units
    treated = units.treated
    return Report(
        about=about
        | {
            "from": first,
            "until": until,
            "live_since": first_sent,
            "weeks": weeks,
            "units": len(live),
            "treated_users": units.users(treated=True),
            "control_users": units.users(treated=False),
            "touched": float((live.number("touches")[treated] > 0).mean()) if treated.any() else 0.0,
            "mean_days": float(live.number("days").mean()) if len(live) else 0.0,
        },
        months=_months(db),
        north_star=live.of(live.flag("core") & live.flag("month_known")).measure("returned_soon"),
        headline=headline,
        later=_later(live),
        silent=_silent(live, weeks),
        churn=live.of(live.flag("month_known") & (live.words("tier") != "silent")).measure("fell_silent"),
        harm=live.measure("opted_out"),
        cost=_cost(db, sms_price),
        unit_cost=float(live.cost[treated].sum()),
        cells=cells,
        rungs=_rungs(db),
        naive=_naive(live),
        plan=_plan(db, live, weeks),
        open=_open(headline, cells, weeks),
    )


def _later(live: Sample) -> dict[str, Measure]:
    """Return what is known of those whose three months have passed."""
    whole = live.of(live.flag("whole"))
    units, found = whole.units, {"orders": whole.measure("orders")}
    aov = None
    if enough(units, whole.number("orders")):
        aov = ratio(units, whole.number("revenue"), whole.number("orders"))
    sizes = (units.users(treated=True), units.users(treated=False), int(units.treated.sum()))
    found["aov"] = Measure("aov", aov, None, aov, False, *sizes)
    found["ltv"] = live.measure("ltv", live.number("ltv_after") - live.number("ltv_before"))
    return found


def _silent(live: Sample, weeks: float) -> Silent:
    some = live.of(live.words("tier") == "silent")
    revenue = some.measure("revenue")
    yearly = None if revenue.total is None else revenue.total.times(YEAR_DAYS / 7 / weeks)
    cost = float(some.cost[some.units.treated].sum())
    return Silent(some.measure("returned"), revenue, cost, weeks * 7 * 12 / YEAR_DAYS, yearly)


def _cells(live: Sample) -> list[Cell]:
    found = []
    for by in GROUPS:
        words = live.words(by)
        for value in sorted(set(words.tolist()) - {""}):
            some = live.of(words == value)
            cost = float(some.cost[some.units.treated].sum())
            found.append(
                Cell(by, value, some.measure("returned"), some.measure("orders"), some.measure("margin"), cost)
            )
    return found


def _naive(live: Sample) -> Naive:
    treated, touched = live.units.treated, live.number("touches") > 0
    mine, theirs = live.of(treated & touched), live.of(~treated)
    after, before = mine.number("orders"), mine.number("orders_before")
    return Naive(
        users=mine.units.users(treated=True),
        orders_after=_average(after),
        orders_before=_average(before),
        revenue_change=float((mine.number("revenue") - mine.number("revenue_before")).sum()),
        control_orders_after=_average(theirs.number("orders")),
        control_orders_before=_average(theirs.number("orders_before")),
        claimed_orders=float((after - before).sum()),
        claimed_returns=int((after > 0).sum()),
    )


def _plan(db: duckdb.DuckDBPyConnection, live: Sample, weeks: float) -> Plan | None:
    """Say how many units it takes, by those before launch where there are some."""
    early = sample(db, "before")
    phase, some = ("before launch", early) if len(early) >= USERS_MIN else ("so far", live)
    if len(some) < USERS_MIN:
        return None
    if phase == "before launch":
        begin, end = db.execute("select min(moment), max(moment) from units where phase = 'before'").fetchall()[0]
        weeks = max((end - begin) / WEEK_MS, 1 / 7)
    a_week = len(some) / weeks
    drawn = float(np.mean(1 - some.units.propensity))
    needs = []
    for name in ("returned", "orders", "margin"):
        y = some.number(name)
        mean, variance = float(y.mean()), _variance(some, y)
        for lift in LIFTS:
            for share in sorted({round(drawn, 3), 0.2, 0.5}):
                if mean > 0:
                    n = units_needed(variance, lift * mean, share)
                    needs.append(Need(name, lift, share, n, n / a_week))
    unlike = early.measure("orders") if phase == "before launch" else None
    return Plan(phase, len(some), weeks, a_week, float(some.number("days").mean()), needs, unlike)


def _variance(some: Sample, y: Floats) -> float:
    """Return the variance that is left once what was known before is taken off."""
    x = np.column_stack([np.ones(len(y)), *some.before])
    scale = np.maximum(np.abs(x).max(axis=0), 1e-12)
    solved, *_ = np.linalg.lstsq(x / scale, y, rcond=None)
    rest = y - x / scale @ solved
    left: float = np.sum(rest**2).item() / max(len(y) - x.shape[1], 1)
    return left


def _open(headline: dict[str, Measure], cells: Sequence[Cell], weeks: float) -> list[Open]:
    """Return what cannot be told yet; of the cells, whether more users return."""
    named = [(ALL, name, measure) for name, measure in headline.items() if name != "net"]
    named += [(cell.by, cell.value, cell.returned) for cell in cells]
    found = []
    for by, value, measure in named:
        effect = measure.effect
        if effect is None:
            found.append(Open(by, value, measure.treated_users, measure.control_users, None, None))
        elif not effect.shown and effect.control > 0:
            more = longer(effect, LIFT * effect.control)
            found.append(
                Open(
                    by,
                    value,
                    measure.treated_users,
                    measure.control_users,
                    effect.least / effect.control,
                    max(0.0, more - 1) * weeks,
                )
            )
    return found


def _average(y: Floats) -> float:
    return float(y.mean()) if len(y) else 0.0


# -- what no arm was drawn for -----------------------------------------------------------------------------------------


def _cost(db: duckdb.DuckDBPyConnection, sms_price: float) -> Cost:
    row = db.execute(
        """select count(*), coalesce(sum(contact), 0), coalesce(sum(incentive_cost), 0), coalesce(sum(opportunity), 0),
                  coalesce(sum(hidden), 0), coalesce(sum(contact_expected + incentive_expected), 0),
                  count(distinct episode_id) * ?::double
           from touches""",
        [sms_price],
    ).fetchall()[0]
    return Cost(*row)


def _rungs(db: duckdb.DuckDBPyConnection) -> list[Rung]:
    rows = db.execute(
        """select channel, count(*), count(delivered_at), count(responded_at) filter (delivered_at is not null),
                  count(*) filter (bounced), count(*) filter (failed), count(unsubscribed_at), sum(contact),
                  sum(incentive_cost), sum(hidden), sum(opportunity)
           from touches group by channel
           order by list_position(['in_app', 'push', 'email', 'sms', 'human'], channel)"""
    ).fetchall()
    return [Rung(*row) for row in rows]


def _months(db: duckdb.DuckDBPyConnection) -> list[Month]:
    """Return the months, the first of which has a tier change; the last may be cut short."""
    rows = db.execute(f"""
        with months as (
            select strftime(b, '%Y-%m') as month, midnight(date_diff('day', date '1970-01-01', b::date)) as begin,
                   midnight(date_diff('day', date '1970-01-01', (b + interval 1 month)::date)) as end_,
                   s.until
            from span s, unnest(generate_series(
                date_trunc('month', date '1970-01-01' + to_days(day_of(s.first)::integer)),
                date_trunc('month', date '1970-01-01' + to_days(day_of(s.until - 1)::integer)),
                interval 1 month)) as t(b)
        ), core as (
            select distinct m.month, m.begin, t.user_id from months m join tiers t
                on t.tier = 'high' and t.moment <= m.begin and t.until > m.begin - {CORE_DAYS * DAY_MS}
        ), bought as (
            select distinct m.month, o.user_id from months m join orders o on o.moment >= m.begin and o.moment < m.end_
        ), arms as (
            select c.month, c.user_id, u.treated
            from core c asof join (select * from units where phase = 'live') u
                on c.user_id = u.user_id and c.begin >= u.moment
            where c.begin < u.epoch_end
        ), stars as (
            select c.month, count(*) as core, count(b.user_id) as again, count(*) filter (a.treated) as core_treated,
                   count(b.user_id) filter (a.treated) as again_treated,
                   count(*) filter (not a.treated) as core_control,
                   count(b.user_id) filter (not a.treated) as again_control
            from core c left join bought b using (month, user_id) left join arms a using (month, user_id)
            group by c.month
        ), buyers as (select user_id, min(moment) as moment from orders group by user_id
        ), quiet as (
            select distinct m.month, t.user_id from months m join tiers t
                on t.tier = 'silent' and t.moment <= m.begin and t.until > m.begin
        ), there as (
            select m.month, count(*) filter (q.user_id is null) as there
            from months m join buyers b on b.moment < m.begin
            left join quiet q on q.month = m.month and q.user_id = b.user_id
            group by m.month
        ), lost as (
            select m.month, count(distinct t.user_id) as lost
            from months m join tiers t on t.tier = 'silent' and t.moment > m.begin and t.moment < m.end_
            join buyers b on b.user_id = t.user_id and b.moment < m.begin
            anti join quiet q on q.month = m.month and q.user_id = t.user_id
            group by m.month
        ), sent as (
            select m.month, count(*) as touches, count(t.incentive) as subsidised,
                   count(*) filter (t.incentive is null and t.delivered_at is not null
                                    and t.delivered_at < m.until - {RESPONSE_DAYS * DAY_MS}) as plain,
                   count(*) filter (t.incentive is null and t.delivered_at < m.until - {RESPONSE_DAYS * DAY_MS}
                                    and t.responded_at < t.delivered_at + {RESPONSE_DAYS * DAY_MS}) as answered,
                   count(t.unsubscribed_at) as unsubscribed, count(t.delivered_at) as delivered,
                   sum(t.contact) as contact, sum(t.incentive_cost) as incentive, sum(t.opportunity) as opportunity,
                   sum(t.hidden) as hidden
            from months m join touches t on t.moment >= m.begin and t.moment < m.end_
            group by m.month
        )
        select m.month, m.end_ <= m.until, {", ".join(f"coalesce({name}, 0)" for name in Month._fields[2:])}
        from months m left join stars using (month) left join there using (month) left join lost using (month)
        left join sent using (month)
        order by m.month
    """).fetchall()  # noqa: S608 - no user text
    return [Month(*row) for row in rows]


def share_interval(hits: int, n: int) -> tuple[float, float, float] | None:
    """Return a share with its 95% interval; None of nobody."""
    return None if not n else (hits / n, *wilson(hits, n))


def too_few() -> str:
    """Say from when on an interval is given."""
    return f"fewer than {USERS_MIN} users, or {EVENTS_MIN} of whom there is something to count, in an arm"


__all__ = ["AGAIN_DAYS", "ALL", "Report", "report", "share_interval", "too_few"]
