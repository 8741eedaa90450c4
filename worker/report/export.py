"""Decisions and outcomes as Parquet, for analysts; docs/report.md tells the columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.report.inputs import quoted

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

TABLES: Final = {
    "units": """
        select user_id, phase, epoch, episode_id, make_timestamp(moment * 1000) as entered_at,
               make_timestamp(until * 1000) as until, days, whole, treated, round(propensity, 6) as propensity, trigger,
               name, play, potential, tier, core, outcome, touches, delivered, orders, revenue, margin, returned,
               returned_soon, fell_silent, opted_out, orders_year, revenue_year, orders_before, revenue_before,
               ltv_before, ltv_after, contact, incentive, opportunity, hidden
        from units order by entered_at, user_id""",
    "decisions": """
        select decision_id, episode_id, user_id, make_timestamp(moment * 1000) as decided_at,
               make_timestamp(opened_at * 1000) as opened_at, trigger, name, play, channel, step, rung, outcome, reason,
               arm, propensity, choice_propensity, segment, potential, command_id, shadow_play, shadow_outcome
        from decisions order by decided_at, user_id""",
    "touches": """
        select command_id, episode_id, user_id, make_timestamp(moment * 1000) as sent_at, step, trigger, potential,
               tier, core, play, kind, incentive as incentive_form, channel, rung,
               make_timestamp(delivered_at * 1000) as delivered_at,
               make_timestamp(responded_at * 1000) as responded_at,
               make_timestamp(unsubscribed_at * 1000) as unsubscribed_at, bounced, failed,
               make_timestamp(cancelled_at * 1000) as cancelled_at, contact_expected, incentive_expected, contact,
               incentive_cost as incentive, opportunity, hidden
        from touches order by sent_at, user_id""",
}
"""By file, what is in it."""


def write(db: duckdb.DuckDBPyConnection, directory: Path) -> list[Path]:
    """Write a file for each table into a folder."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, sql in TABLES.items():
        path = directory / f"{name}.parquet"
        db.execute(f"copy ({sql}) to {quoted(str(path))} (format parquet, compression zstd)")
        written.append(path)
    return written
