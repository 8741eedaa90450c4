"""The heap of timers: whatever was postponed, advanced or dropped, the rows are the truth."""

from hypothesis import given
from hypothesis import strategies as st

from worker.stream.processor import NEVER
from worker.stream.record import PARTITION_KEY, attachment_key, next_due, pack_row
from worker.stream.timers import Timers


def row(due):
    return pack_row(1, 0, due, b"")


def drain(timers, rows):
    """Take all timers, as a partition does: a key that was woken wants nothing more."""
    taken = []
    while len(timers):
        keys = {}
        timers.pop_due(NEVER, keys, keys_max=1, looks_max=5)
        for key in keys:
            taken.append((next_due(rows[key]), key))
            rows[key] = row(NEVER)
    return taken


def pop_due(timers, horizon, *, keys_max=9, looks_max=99):
    keys = {}
    edge = timers.pop_due(horizon, keys, keys_max=keys_max, looks_max=looks_max)
    return list(keys), edge


def test_it_begins_from_the_headers_of_the_rows():
    rows = {
        b"b": row(5),
        b"a": row(5),
        b"c": row(3),
        b"never": row(NEVER),
        PARTITION_KEY: b"no row",
        attachment_key(b"a", b"8 bytes!"): b"no row either",
    }
    timers = Timers(rows)
    assert len(timers) == 3
    assert drain(timers, rows) == [(3, b"c"), (5, b"a"), (5, b"b")]


def test_a_postponed_timer_costs_nothing_until_its_old_time():
    rows = {b"a": row(5), b"b": row(6)}
    timers = Timers(rows)
    rows[b"a"] = row(9)
    assert len(timers) == 2
    assert pop_due(timers, 7) == ([b"b"], None)
    assert drain(timers, rows) == [(9, b"a")]


def test_a_timer_that_no_longer_is_does_not_come_up():
    rows = {b"a": row(5)}
    timers = Timers(rows)
    rows[b"a"] = row(NEVER)
    assert pop_due(timers, 6) == ([], None)
    assert len(timers) == 0


def test_a_timer_is_taken_once():
    rows = {b"a": row(9)}
    timers = Timers(rows)
    for due in 5, 7, 5:
        rows[b"a"] = row(due)
        timers.set(due, b"a")
    assert drain(timers, rows) == [(5, b"a")]


dues = st.one_of(st.integers(0, 20), st.just(NEVER))
changes = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), dues), max_size=40)


@given(first=changes, changes=changes, looks=st.sets(st.integers(0, 40)))
def test_timers_come_up_as_the_rows_say(first, changes, looks):
    rows = {key: row(due) for key, due in first}
    timers = Timers(rows)
    for i, (key, due) in enumerate(changes):
        before = next_due(rows[key]) if key in rows else NEVER
        rows[key] = row(due)
        if due < before:
            timers.set(due, key)
        if i in looks:
            pop_due(timers, 0, keys_max=0)
    expected = sorted((next_due(value), key) for key, value in rows.items() if next_due(value) < NEVER)
    assert drain(timers, rows) == expected


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(0, 60), st.integers(1, 50))
def test_those_due_are_counted_and_no_more_than_asked_for(dues, until, at_most):
    rows = {str(i).encode(): row(due) for i, due in enumerate(dues)}
    assert Timers(rows).due(until, at_most) == min(at_most, sum(due < until for due in dues))
