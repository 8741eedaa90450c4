"""From records to tables: orders, touches, tiers, and the units that are compared. DuckDB does all of it.

A unit is a user in an epoch of the holdout, from the first decision on that passed all guards up to the choice: from
then on he would have been touched, and whether he was is the arm's doing, drawn by a hash beforehand. Both arms enter
by the same rule, on facts that no touch of that epoch had moved yet. What comes then is counted for `WINDOW_DAYS` full
days of the shop after the day of entry, or up to the end of the epoch or of the data.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.recall.days import DAY_MS
from worker.report.inputs import events, quoted, typed
from worker.sources.history import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

    from worker.report.inputs import Inputs, Shape

WINDOW_DAYS: Final = 90
AGAIN_DAYS: Final = 30
YEAR_DAYS: Final = 365
CORE_DAYS: Final = 180
"""A user counts as core for so long after having been of the tier high."""
RESPONSE_DAYS: Final = 7
MEMORY_LIMIT: Final = "1200MB"

BEFORE_CHOICE: Final = (
    "excluded",
    "opted out",
    "profiling opt-out",
    "cap",
    "no consent",
    "unreachable",
    "no reach",
    "no play",
    "cool-down",
    "nothing to say",
    "middle potential",
    "not of the highest value",
    "too early on the ladder",
    "low potential",
    "no feedback",
    "episode open",
)
"""Refusals of guards before the choice: who is refused so is in neither arm. They hang on facts before any touch."""
NOTHING_LEAVES: Final = ("stale", "stopped", "dry run")
"""Reasons for which no touch of anybody's leaves at the time."""
BEFORE_LAUNCH: Final = "before launch"

_COST: Final[Shape] = {
    "contact": "VARCHAR",
    "incentive": "VARCHAR",
    "opportunity": "VARCHAR",
    "hidden": "VARCHAR",
    "currency": "VARCHAR",
}
_DECISION: Final[Shape] = {
    "decision_id": "VARCHAR",
    "episode_id": "VARCHAR",
    "user_id": "VARCHAR",
    "at": "VARCHAR",
    "opened_at": "VARCHAR",
    "trigger": "VARCHAR",
    "name": "VARCHAR",
    "play": "VARCHAR",
    "channel": "VARCHAR",
    "step": "INTEGER",
    "rung": "INTEGER",
    "outcome": "VARCHAR",
    "reason": "VARCHAR",
    "arm": "VARCHAR",
    "propensity": "DOUBLE",
    "choice_propensity": "DOUBLE",
    "segment": "VARCHAR",
    "potential": "VARCHAR",
    "command_id": "VARCHAR",
    "shadow_play": "VARCHAR",
    "shadow_outcome": "VARCHAR",
}
_COMMAND: Final[Shape] = {
    "command_id": "VARCHAR",
    "episode_id": "VARCHAR",
    "user_id": "VARCHAR",
    "issued_at": "VARCHAR",
    "step": "INTEGER",
    "reason": "JSON",
    "value": {"tier": "VARCHAR", "core": "BOOLEAN"},
    "action": {"play": "VARCHAR", "kind": "VARCHAR", "price_incentive": {"form": "VARCHAR", "face_value": "VARCHAR"}},
    "delivery": {"channel": "VARCHAR", "rung": "INTEGER"},
    "cost": _COST,
    "cancelled_at": "VARCHAR",
}
_CHANGE: Final[Shape] = {
    "user_id": "VARCHAR",
    "at": "VARCHAR",
    "from_tier": "VARCHAR",
    "to_tier": "VARCHAR",
    "ltv": {"margin_365d": "VARCHAR"},
}


class Frame(NamedTuple):
    """What the tables depend on beside the records."""

    timezone: str
    epoch_days: int
    """Of the holdout, as the playbook has it."""
    margin_rate: float
    """Of what the catalogue does not know."""


@contextmanager
def loaded(inputs: Inputs, frame: Frame) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a database with all tables; it lies in a folder of its own while it is needed, and memory is bounded."""
    with tempfile.TemporaryDirectory(prefix="recall-report-") as folder, connect() as db:
        db.execute(f"attach {quoted(str(Path(folder) / 'report.db'))} as report")
        db.execute("use report")
        db.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        db.execute(f"set temp_directory = {quoted(str(Path(folder) / 'spill'))}")
        db.execute("set preserve_insertion_order = false")
        fill(db, inputs, frame)
        yield db


def fill(db: duckdb.DuckDBPyConnection, inputs: Inputs, frame: Frame) -> None:
    """Make all tables."""
    db.execute("create macro ms_of(text) as epoch_ms(text::timestamptz)")
    db.execute(f"create macro day_of(ms) as {_day_of(frame.timezone)}")
    db.execute(f"create macro midnight(day) as {_midnight(frame.timezone)}")
    _outputs(db, inputs)
    _history(db, inputs, frame)
    _span(db)
    _touches(db)
    _tiers(db)
    _units(db, frame)


def _day_of(timezone: str) -> str:
    """Return SQL for the number of a day of the shop, from a time in ms."""
    return f"date_diff('day', date '1970-01-01', (to_timestamp(ms / 1000.0) at time zone {quoted(timezone)})::date)"


def _midnight(timezone: str) -> str:
    """Return SQL for when a day of the shop begins, ms."""
    return f"epoch_ms((date '1970-01-01' + to_days(day::integer))::timestamp at time zone {quoted(timezone)})"


# -- records -----------------------------------------------------------------------------------------------------------


def _outputs(db: duckdb.DuckDBPyConnection, inputs: Inputs) -> None:
    """Make `decisions`, `commands` and `changes`; what was told twice counts once."""
    db.execute(f"""
        create table decisions as
        select * exclude ("at") replace (ms_of(opened_at) as opened_at), ms_of("at") as moment
        from ({typed(inputs.outputs["recall-decisions"], _DECISION)})
        qualify row_number() over (partition by decision_id) = 1
    """)  # noqa: S608 - no user text
    db.execute(f"""
        create table commands as
        select command_id, any_value(episode_id) as episode_id, any_value(user_id) as user_id,
               min(ms_of(issued_at)) as moment, any_value(step) as step,
               any_value(reason->>'$.trigger') as trigger, any_value(reason->>'$.potential') as potential,
               any_value(value.tier) as tier, any_value(value.core) as core, any_value(action.play) as play,
               any_value(action.kind) as kind, any_value(action.price_incentive.form) as incentive,
               any_value(delivery.channel) as channel, any_value(delivery.rung) as rung,
               any_value(cost.contact::decimal(18, 6)) as contact,
               any_value(cost.incentive::decimal(18, 6)) as incentive_cost,
               any_value(cost.opportunity::decimal(18, 6)) as opportunity,
               any_value(cost.hidden::decimal(18, 6)) as hidden, any_value(cost.currency) as currency,
               min(ms_of(cancelled_at)) as cancelled_at
        from ({typed(inputs.outputs["recall"], _COMMAND)})
        group by command_id
        having any_value(action.play) is not null
    """)  # noqa: S608
    db.execute(f"""
        create table changes as
        select distinct on (user_id, moment, to_tier)
               user_id, ms_of("at") as moment, from_tier, to_tier, ltv.margin_365d::double as ltv
        from ({typed(inputs.outputs["tier-changes"], _CHANGE)})
    """)  # noqa: S608


def _history(db: duckdb.DuckDBPyConnection, inputs: Inputs, frame: Frame) -> None:
    """Make `money`: each order that was not cancelled, and each refund on its own day; and `feedback`, `opt_outs`."""
    db.execute(f"create table events as {events(db, inputs.histories)}")
    db.execute("""
        create table ordered as
        select key as user_id, value->>'$.properties.order_id' as order_id,
               min(ms_of(value->>'$.timestamp')) as moment,
               any_value(coalesce((value->>'$.properties.revenue')::double,
                   (value->>'$.properties.total')::double - coalesce((value->>'$.properties.shipping')::double, 0)
                   - coalesce((value->>'$.properties.tax')::double, 0))) as revenue,
               any_value(json_extract(value, '$.properties.products')) as products
        from events
        where topic = 'orders' and value->>'$.event' = 'Order Completed' and value->>'$.properties.order_id' is not null
        group by all
    """)
    db.execute("""
        create table undone as
        select key as user_id, value->>'$.properties.order_id' as order_id,
               value->>'$.event' = 'Order Cancelled' as cancelled,
               min(ms_of(value->>'$.timestamp')) as moment,
               any_value(coalesce(value->>'$.properties.revenue', value->>'$.properties.total')::double) as amount
        from events
        where topic = 'orders' and value->>'$.event' in ('Order Cancelled', 'Order Refunded')
        group by user_id, order_id, cancelled, value->>'$.messageId'
    """)
    _catalogue(db)
    db.execute(f"""
        create table orders as
        select o.user_id, o.order_id, o.moment, o.revenue,
               coalesce(o.revenue - g.cost, o.revenue * {frame.margin_rate}) as margin
        from ordered o left join goods g using (user_id, order_id)
        where revenue is not null
          and not exists (from undone u where u.cancelled and u.user_id = o.user_id and u.order_id = o.order_id)
    """)  # noqa: S608
    db.execute("""
        create table money as
        select user_id, moment, 1 as orders, revenue, margin from orders
        union all
        select u.user_id, u.moment, 0, -least(coalesce(u.amount, o.revenue), o.revenue),
               -least(coalesce(u.amount, o.revenue), o.revenue) * if(o.revenue > 0, o.margin / o.revenue, 0)
        from undone u join orders o using (user_id, order_id)
        where not u.cancelled
    """)
    db.execute("""
        create table feedback as
        select distinct on (value->>'$.messageId', key)
               value->>'$.command_id' as command_id, value->>'$.status' as status, value->>'$.channel' as channel,
               ms_of(value->>'$.timestamp') as moment,
               (value->>'$.actual_cost')::decimal(18, 6) as actual_cost
        from events where topic = 'feedback' and value->>'$.command_id' is not null
    """)
    db.execute("""
        create table opt_outs as
        select key as user_id, min(ms_of(value->>'$.timestamp')) as moment
        from events where topic = 'profiles' and (value->>'$.opt_out_messages')::boolean group by key
    """)
    for table in ("ordered", "undone", "goods", "events"):
        db.execute(f"drop table {table}")


def _catalogue(db: duckdb.DuckDBPyConnection) -> None:
    """Make `goods`: what the goods of an order cost the shop, where the catalogue knows it of all of them."""
    db.execute("""
        create temp table known as
        select product, effective_at,
               last_value(price ignore nulls) over told - last_value(margin ignore nulls) over told as cost
        from (select value->>'$.product_id' as product, ms_of(value->>'$.effective_at') as effective_at,
                     (value->>'$.price')::double as price, (value->>'$.margin')::double as margin
              from events where topic = 'catalog' and value->>'$.product_id' is not null)
        window told as (partition by product order by effective_at)
    """)
    db.execute("""
        create table goods as
        with lines as (
            select user_id, order_id, moment, unnest(products::json[]) as line from ordered
        ), told as (
            select user_id, order_id, moment, line->>'$.product_id' as product,
                   coalesce((line->>'$.quantity')::double, 1) as quantity
            from lines
        )
        select user_id, order_id, if(count(*) = count(k.cost), sum(quantity * k.cost), null) as cost
        from told t asof left join known k on t.product = k.product and t.moment >= k.effective_at
        group by all
    """)
    db.execute("drop table known")


# -- what is made of them ----------------------------------------------------------------------------------------------


def _span(db: duckdb.DuckDBPyConnection) -> None:
    """Make `span`: from the first order to the last whole day that all is known of."""
    db.execute(f"""
        create table span as
        select (select min(moment) from money) as first, midnight(day_of(greatest(
            (select max(moment) from decisions), (select max(moment) from money),
            coalesce((select max(moment) from changes), 0)
        ))) as until, (select min(moment) from decisions where outcome = 'sent') as first_sent,
        (select max(moment) from decisions where '{BEFORE_LAUNCH}' in (reason, shadow_outcome)) as launch
    """)  # noqa: S608 - no user text


def _touches(db: duckdb.DuckDBPyConnection) -> None:
    """Make `touches`: commands with what was told of them. What they cost is what was told, else what was expected.

    A coupon that nobody used has cost nothing, once anything at all was told of its touch.
    """
    db.execute("""
        create table touches as
        with told as (
            select command_id,
                   min(moment) filter (status = 'delivered') as delivered_at,
                   min(moment) filter (status in ('clicked', 'visited', 'converted')) as responded_at,
                   bool_or(status = 'bounced') as bounced, bool_or(status = 'failed') as failed,
                   min(moment) filter (status = 'unsubscribed') as unsubscribed_at,
                   max(actual_cost) filter (status <> 'converted') as contact_told,
                   bool_or(status = 'converted') as converted,
                   sum(actual_cost) filter (status = 'converted') as incentive_told
            from feedback group by command_id
        )
        select c.* exclude (contact, incentive_cost, opportunity, hidden), t.delivered_at, t.responded_at,
               t.unsubscribed_at, coalesce(t.bounced, false) as bounced, coalesce(t.failed, false) as failed,
               c.contact::double as contact_expected, c.incentive_cost::double as incentive_expected,
               coalesce(t.contact_told, c.contact)::double as contact,
               if(c.incentive is null, 0, coalesce(t.incentive_told,
                  if(t.command_id is null or t.converted, c.incentive_cost, 0)))::double as incentive_cost,
               c.opportunity::double as opportunity, c.hidden::double as hidden
        from commands c left join told t using (command_id)
    """)
    db.execute("drop table commands")


def _tiers(db: duckdb.DuckDBPyConnection) -> None:
    """Make `tiers`: from when until when a user was of a tier."""
    db.execute("""
        create table tiers as
        select user_id, to_tier as tier, moment,
               coalesce(lead(moment) over (partition by user_id order by moment), 9e15::bigint) as until, ltv
        from changes
    """)
    db.execute("drop table changes")


def _units(db: duckdb.DuckDBPyConnection, frame: Frame) -> None:
    """Make `entries`, then `units` with what came of each."""
    _entries(db, frame)
    window, year = WINDOW_DAYS, YEAR_DAYS
    db.execute(f"""
        create table framed as
        with ended as (
            select e.*, midnight(day_of(e.moment) + {window + 1}) as window_end,
                   midnight(day_of(e.moment) + {AGAIN_DAYS + 1}) as month_after,
                   midnight((e.epoch + 1) * {frame.epoch_days}) as epoch_end,
                   least(window_end, epoch_end, if(e.phase = 'before', s.launch, s.until)) as until
            from entries e cross join span s
        )
        select e.*, 2 * e.moment - e.until as since, coalesce(t.tier, 'new') as tier, t.ltv as ltv_before
        from ended e asof left join tiers t on e.user_id = t.user_id and e.moment >= t.moment
        where e.until > e.moment
    """)  # noqa: S608
    db.execute(f"""
        create table units as
        with came as (
            select e.unit,
                   sum(m.orders) filter (m.moment > e.moment) as orders,
                   sum(m.revenue) filter (m.moment > e.moment) as revenue,
                   sum(m.margin) filter (m.moment > e.moment) as margin,
                   sum(m.orders) filter (m.moment > e.moment and m.moment < e.month_after) as soon,
                   sum(m.orders) filter (m.moment <= e.moment) as orders_year,
                   sum(m.revenue) filter (m.moment <= e.moment) as revenue_year,
                   sum(m.orders) filter (m.moment <= e.moment and m.moment > e.since) as orders_before,
                   sum(m.revenue) filter (m.moment <= e.moment and m.moment > e.since) as revenue_before
            from framed e
            join money m on e.user_id = m.user_id and m.moment > e.moment - {year * DAY_MS} and m.moment < e.until
            group by e.unit
        ), core as (
            select distinct e.unit from framed e join tiers t on e.user_id = t.user_id
            where t.tier = 'high' and t.moment <= e.moment and t.until > e.moment - {CORE_DAYS * DAY_MS}
        ), spent as (
            select e.unit, count(*) as touches, count(t.delivered_at) as delivered, sum(t.contact) as contact,
                   sum(t.incentive_cost) as incentive, sum(t.opportunity) as opportunity, sum(t.hidden) as hidden
            from framed e join touches t on e.user_id = t.user_id and t.moment >= e.moment and t.moment < e.until
            group by e.unit
        ), ahead as (
            select e.unit, l.tier, l.ltv
            from (select unit, user_id, until - 1 as seen from framed) e
            asof left join tiers l on e.user_id = l.user_id and e.seen >= l.moment
        ), fell as (
            select distinct e.unit from framed e join tiers t on e.user_id = t.user_id
            where e.tier <> 'silent' and t.tier = 'silent' and t.moment > e.moment
              and t.moment < e.month_after
        )
        select e.* exclude (window_end, month_after, since),
               (e.until - e.moment) / {DAY_MS}.0 as days, e.until = e.window_end as whole,
               e.until >= e.month_after as month_known,
               core.unit is not null as core,
               coalesce(came.orders, 0) as orders, coalesce(came.revenue, 0) as revenue,
               coalesce(came.margin, 0) as margin, coalesce(came.orders, 0) > 0 as returned,
               coalesce(came.soon, 0) > 0 as returned_soon, fell.unit is not null as fell_silent,
               coalesce(came.orders_year, 0) as orders_year, coalesce(came.revenue_year, 0) as revenue_year,
               coalesce(came.orders_before, 0) as orders_before, coalesce(came.revenue_before, 0) as revenue_before,
               coalesce(ahead.ltv, e.ltv_before) as ltv_after,
               coalesce(o.moment > e.moment and o.moment < e.until, false) as opted_out,
               coalesce(spent.touches, 0) as touches, coalesce(spent.delivered, 0) as delivered,
               coalesce(spent.contact, 0) as contact, coalesce(spent.incentive, 0) as incentive,
               coalesce(spent.opportunity, 0) as opportunity, coalesce(spent.hidden, 0) as hidden
        from framed e
        left join came using (unit) left join core using (unit) left join spent using (unit)
        left join ahead using (unit) left join fell using (unit)
        left join opt_outs o on e.user_id = o.user_id
    """)  # noqa: S608
    db.execute("drop table framed")
    db.execute("drop table entries")


def _entries(db: duckdb.DuckDBPyConnection, frame: Frame) -> None:
    """Make `entries`: of each user, epoch and phase (before launch, live) the first decision that could bring a touch.

    An episode in the place of a milder one keeps its arm, so it belongs to the epoch in which that one opened.
    """
    refused = ", ".join(map(quoted, (*BEFORE_CHOICE, *NOTHING_LEAVES)))
    db.execute(f"""
        create table entries as
        with firsts as (
            select * from decisions
            where reason <> 'episode open'
            qualify row_number() over (
                partition by episode_id order by moment, outcome in ('ended', 'void'), step, decision_id) = 1
        ), ends as (
            select episode_id, max(moment) as ended_at, bool_or(reason = 'upgraded') as upgraded
            from decisions where outcome in ('ended', 'void') group by episode_id
        ), ordered as (
            select f.*, coalesce(lag(e.upgraded) over told, false) as continued
            from firsts f left join ends e using (episode_id)
            window told as (partition by f.user_id order by f.moment, f.outcome in ('ended', 'void') desc, f.opened_at)
        ), chained as (
            select *, sum((not continued)::integer) over (partition by user_id
                order by moment, outcome in ('ended', 'void') desc, opened_at) as chain
            from ordered
        ), begun as (
            select *, min(opened_at) over (partition by user_id, chain) as chain_at,
                   coalesce(shadow_outcome, reason) as came
            from chained
        ), candidates as (
            select *, day_of(chain_at) // {frame.epoch_days} as epoch,
                   if(came = '{BEFORE_LAUNCH}', 'before', 'live') as phase
            from begun
            where outcome not in ('ended', 'void') and came not in ({refused})
        )
        select row_number() over () as unit, user_id, moment, epoch, phase, arm = 'treated' as treated,
               if(arm = 'treated', propensity / choice_propensity, 1 - propensity) as propensity,
               trigger, name, coalesce(play, shadow_play) as play, potential, came as outcome, episode_id
        from candidates
        qualify row_number() over (partition by user_id, epoch, phase order by moment, opened_at) = 1
    """)  # noqa: S608
