"""The same input cut into units in any way comes to the same as one record at a time."""

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import DAY, DECISIONS, LAYOUT, SILENCE, TOPICS, WAKES, Driver, Interpreter, Op, Toy, history

from worker.stream.partition import Partition
from worker.stream.processor import NEVER, Directive
from worker.stream.record import PARTITION_KEY, QUARANTINED, read_header
from worker.stream.work import WAKES_WITHOUT_PROGRESS_MAX

EARLIEST, LATEST = 100, 160

keys = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
times = st.one_of(st.integers(EARLIEST, LATEST), st.integers(EARLIEST, LATEST), st.none())
timers = st.lists(
    st.tuples(st.integers(-8, 30), st.sampled_from(sorted(WAKES | DECISIONS)), st.integers(0, 7)), max_size=2
)
stimuli = st.builds(Op, at=times, n=st.integers(0, 9), timers=timers)
others = st.builds(Op, at=times, kind=st.sampled_from(["tick", "ignored", "rejected", "raise"]), timers=timers)
directives = st.builds(
    Op,
    at=times,
    kind=st.just("directive"),
    n=st.integers(-1, 4),
    effective_at=st.one_of(st.none(), st.integers(EARLIEST - 10, LATEST + 20)),
    needs=st.sampled_from([None, None, "a model", "a catalog"]),
)
data = st.one_of(
    st.tuples(keys, stimuli),
    st.tuples(keys, stimuli),
    st.tuples(keys, others),
    st.tuples(st.sampled_from([None, b"", b"\0partition"]), stimuli),
    st.tuples(keys, st.just(b"rubbish")),
)
control = st.one_of(
    st.tuples(st.none(), directives),
    st.tuples(st.none(), st.builds(Op, at=times, kind=st.just("tick"))),
)


def sometimes_sorted(records):
    """Mostly in order of time, as real topics are."""
    in_order = sorted(records, key=lambda record: getattr(record[1], "at", None) or EARLIEST)
    return st.sampled_from([records, in_order, in_order])


backlogs = st.builds(
    lambda left, right, control: history(left=left, right=right, control=control),
    left=st.lists(data, max_size=14).flatmap(sometimes_sorted),
    right=st.lists(data, max_size=10).flatmap(sometimes_sorted),
    control=st.lists(control, max_size=6).flatmap(sometimes_sorted),
)
cuts = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(TOPICS), st.integers(1, 6)),
        st.tuples(st.just("advance"), st.integers(1, 4)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=20,
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    topics=backlogs,
    cuts=cuts,
    rows_max=st.sampled_from([2, 2, 3, 4, 7, 64]),
    records_max=st.sampled_from([1, 2, 3, 5, 64]),
    bytes_max=st.sampled_from([None, None, 1, 250, 600]),
    rest=st.sampled_from([1, 3, 64]),
)
def test_cuts_change_nothing(topics, cuts, rows_max, records_max, bytes_max, rest):
    expected = Interpreter(Toy()).run(topics)

    driver = Driver(topics, rows_max=rows_max, records_max=records_max, bytes_max=bytes_max)
    for what, n in cuts:
        if what == "restart":
            driver.restart()
        elif what == "advance":
            for _ in range(n):
                driver.advance()
        else:
            driver.feed(what, n)
    result = driver.finish(rest)

    if not any(topics.values()):
        assert result.rows == {}
        return
    assert result.said == expected.said
    assert result.decisions == expected.decisions
    assert result.dead == expected.dead
    assert result.record == expected.record
    assert result.rows == expected.rows
    assert result.decisions == sorted(result.decisions)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(topics=backlogs, rows_max=st.sampled_from([2, 4, 64]), records_max=st.sampled_from([1, 3, 64]))
def test_the_fast_way_does_what_the_general_one_does(topics, rows_max, records_max):
    fast = Driver(topics, rows_max=rows_max, records_max=records_max)
    general = Driver(topics, rows_max=rows_max, records_max=records_max)
    general.partition._keyed.sweep = lambda stimuli, *_: stimuli
    assert fast.finish() == general.finish()
    assert fast.units == general.units


def test_what_raises_leaves_no_trace_of_the_fast_way():
    bad = [(b"a", Op(100, n=1)), (b"a", Op(101, n=2)), (b"a", Op(102, "raise")), (b"a", Op(103, n=4))]
    outcome = run(left=[*bad, (b"b", Op(103))])
    assert [entry[1] for entry in said(outcome, b"a") if entry[0] == "apply"] == [100, 101, 103]
    assert outcome.record.counts["applied"] == 4


def run(**topics):
    return Driver(history(**topics)).finish()


def said(outcome, key, topic="out"):
    """Return what was said to a topic about a key."""
    return [orjson.loads(value) for name, value in outcome.said.get(key, []) if name == topic]


def test_timers_run_after_the_records_of_their_time():
    outcome = run(
        left=[
            (b"a", Op(100, n=1, timers=[(5, "chain", 0)])),
            (b"a", Op(105, n=1)),
            (b"b", Op(106)),
        ]
    )
    assert [(kind, what) for kind, what, *_ in said(outcome, b"a")] == [
        ("apply", 100),
        ("apply", 105),
        ("wake", "chain"),
    ]


def test_a_timer_that_is_set_too_late_runs_at_the_clock_that_set_it():
    outcome = run(left=[(b"z", Op(150)), (b"a", Op(100, timers=[(1, "chain", 0)])), (b"z", Op(151))])
    (wake,) = [entry for entry in said(outcome, b"a") if entry[1] == "chain"]
    assert wake[2:5] == [101, 150, 150]  # wanted, due, clock


def test_a_decision_sees_the_offsets_up_to_its_time_and_no_further():
    topics = history(
        left=[(b"a", Op(100, timers=[(5, "decide", 0)])), *((b"b", Op(at)) for at in (104, 105, 105, 106))]
    )
    for n in 1, 2, 64:
        outcome = Driver(topics, records_max=n).finish(n)
        (decision,) = said(outcome, b"a", "decisions")
        assert decision[-1] == {"left": 4}


def test_decisions_share_a_budget_in_the_order_of_due_and_key():
    opening = [(key, Op(100, timers=[(5, "decide", 0)])) for key in (b"c", b"a", b"b")]
    for rows_max in 2, 4, 64:
        topics = history(left=[*opening, (b"z", Op(110))], control=[(None, Op(100, "directive", n=2))])
        outcome = Driver(topics, rows_max=rows_max).finish()
        assert outcome.decisions == [(105, b"a"), (105, b"b"), (105, b"c")]
        granted = {key: said(outcome, key, "decisions")[0][4] for key in (b"a", b"b", b"c")}
        assert granted == {b"a": 2, b"b": 2, b"c": 0}  # of the directive's 2 and 1 for each day


def test_late_timers_keep_the_order_of_keys_however_few_fit_a_unit():
    """Both are set too late, at the same clock: the one that was wanted earlier has no claim to be first."""
    late = [(b"z", Op(150)), (b"b", Op(100, timers=[(-50, "decide", 0)])), (b"a", Op(100, timers=[(0, "decide", 0)]))]
    for rows_max in 2, 64:
        outcome = Driver(history(left=[*late, (b"z", Op(151))]), rows_max=rows_max).finish()
        assert outcome.decisions == [(150, b"a"), (150, b"b")]


def test_records_of_the_time_at_which_a_unit_ends_come_before_its_timers():
    """The second record of e shows the timers of 105, more than fit; the first one still belongs before them."""
    opening = [(key, Op(100, timers=[(5, "decide", 0)])) for key in (b"a", b"b")]
    topics = history(left=[*opening, (b"e", Op(105)), (b"e", Op(106))])
    outcome = Driver(topics, rows_max=2).finish()
    assert [said(outcome, key, "decisions")[0][-1] for key in (b"a", b"b")] == [{"left": 3}] * 2


def test_a_record_that_raises_is_named_by_its_place_and_changes_nothing():
    before = [(b"a", Op(100, n=5)), (b"b", Op(100, n=7))]
    bad = (b"a", Op(101, "raise", n=1000, timers=[(1, "decide", 0)]))
    outcome = run(left=[*before, bad, (b"b", Op(101, n=1))])
    without = run(left=[*before, (None, Op(101, "tick")), (b"b", Op(101, n=1))])
    assert outcome.rows[b"a"] == without.rows[b"a"]
    assert outcome.rows[b"b"] == without.rows[b"b"]
    (letter,) = outcome.dead
    assert (letter["topic"], letter["partition"], letter["offset"], letter["recorded_at"]) == (
        "left",
        0,
        2,
        "1970-01-01T00:00:01.002+00:00",
    )
    assert (letter["stage"], letter["reason"]) == ("step", "step raised")
    assert outcome.record.counts["dead.step raised"] == 1


def test_a_key_whose_only_record_raises_gets_no_row():
    outcome = run(left=[(b"a", Op(100, "raise"))])
    assert set(outcome.rows) == {PARTITION_KEY}


@pytest.mark.parametrize("kind", ["mine", "bad decision"])
def test_a_timer_that_raises_rests_with_all_the_key_s_timers_until_its_next_record(kind):
    records = [
        (b"a", Op(100, n=5, timers=[(3, "chain", 0), (4, kind, 0)])),
        (b"b", Op(100, timers=[(5, "decide", 0)])),
        (b"z", Op(120)),
    ]
    outcome = run(left=records)
    assert read_header(outcome.rows[b"a"])[1:] == (QUARANTINED, NEVER)
    assert outcome.state(b"a").total == 6  # the timer before the one that raised has run
    assert outcome.decisions == [(105, b"b")]
    assert said(outcome, b"b", "decisions")[0][3] == 1  # shared does not know of the one that raised
    assert [letter["stage"] for letter in outcome.dead] == ["timer"]

    still = run(left=[*records, (b"a", Op(121, "raise")), (b"z", Op(140))])
    assert still.rows[b"a"] == outcome.rows[b"a"]
    again = run(left=[*records, (b"a", Op(121)), (b"z", Op(140))])
    assert [letter["stage"] for letter in again.dead] == ["timer", "timer"]


@pytest.mark.parametrize("kind", ["stuck", "stuck decision"])
def test_a_timer_that_does_not_move_on_is_one_that_raises(kind):
    outcome = run(left=[(b"a", Op(100, timers=[(1, kind, 0)])), (b"b", Op(120))])
    assert read_header(outcome.rows[b"a"]).flags == QUARANTINED
    assert outcome.state(b"a").total == 1 + WAKES_WITHOUT_PROGRESS_MAX
    assert len(outcome.dead) == 1


def test_a_late_timer_of_the_same_time_after_every_record_is_progress():
    """`as soon as possible` may be any time that has passed."""
    soon = [(b"a", Op(at, timers=[(100 - at, "chain", 0)])) for at in range(101, 141)]
    assert run(left=soon).dead == []


def test_an_assertion_ends_it():
    for op in Op(100, "assert"), Op(100, "assert in parse"):
        with pytest.raises(AssertionError):
            run(left=[(b"a", op)])


def test_a_source_key_cannot_touch_the_stream_s_own_rows():
    outcome = run(left=[(b"a", Op(100)), (PARTITION_KEY, Op(101))])
    assert outcome.record.offsets == {"left": 2}
    assert outcome.dead[0]["reason"] == "reserved key"


def test_a_record_without_a_readable_time_takes_that_of_the_one_before_it_after_a_restart_too():
    topics = history(left=[(b"a", Op(150)), (b"a", Op(100)), (b"a", Op())], right=[(b"b", Op(140)), (b"b", Op(141))])
    for restart in False, True:
        driver = Driver(topics, records_max=1)
        driver.feed("left", 3)
        driver.feed("right", 2)
        while driver.partition.record.offsets.get("left") != 2:
            assert driver.advance()
        if restart:
            driver.restart()
        outcome = driver.finish()
        assert said(outcome, b"a")[-1][1] == 100
        assert outcome.rows == Interpreter(Toy()).run(topics).rows


def test_a_burst_of_timers_is_worked_off_in_bounded_units():
    names = [b"key-%04d" % i for i in range(5000)]
    opening = [(key, Op(100, timers=[(5, "decide" if i % 2 else "opens", 0)])) for i, key in enumerate(reversed(names))]
    topics = history(
        left=[*opening, *((key, Op(106)) for key in names[::50])], control=[(None, Op(100, "directive", n=99))]
    )
    results = []
    for restarts in [(), (2000, 5100, 5210)]:
        driver = Driver(topics, rows_max=64, records_max=8192)
        while driver.advance() or driver.partition.starving():
            for topic in driver.partition.starving():
                driver.feed(topic, 8192)
            if driver.units in restarts:
                driver.restart()
        results.append(driver.finish())
    one, other = results
    assert one.decisions == [(105, key) for key in names]
    assert one == other


def test_a_kill_in_a_storm_of_timers_loses_none_and_runs_none_twice():
    """A kill leaves what the units before it have committed: rows and outputs."""
    kinds = ("decide", "opens", "chain")
    opening = [(b"%04d" % (i * 7 % 2000), Op(100, timers=[(5 + i % 2, kinds[i % 3], 2)])) for i in range(2000)]
    topics = history(left=[*opening, (b"z", Op(110))])
    driver = Driver(topics, rows_max=64, records_max=512)
    commits, clocks = [], []
    while driver.advance() or driver.partition.starving():
        for topic in driver.partition.starving():
            driver.feed(topic, 512)
        clocks.append(driver.partition.clock)
        if driver.units % 23 == 0:
            commits.append((dict(driver.changelog), len(driver.outputs)))
    whole = driver.finish()
    assert clocks == sorted(clocks)
    assert len(whole.decisions) == len(set(whole.decisions)) == 1334
    assert len(commits) > 5
    for changelog, outputs in commits:
        again = Driver(topics, rows_max=64, records_max=512)
        again.changelog, again.outputs = changelog, driver.outputs[:outputs]
        again.restart()
        assert again.finish(512) == whole


def test_postponed_timers_are_put_back_in_bounded_units():
    """Each key's silence was set for 107 and then postponed: at 108 there is nothing to do but to see that."""
    names = [b"%04d" % i for i in range(500)]
    topics = history(left=[(key, Op(at)) for at in (100, 104) for key in names], right=[(None, Op(108, "tick"))])
    driver = Driver(topics, rows_max=2048, records_max=50)
    driver.feed("left", 1000)
    driver.partition.expect("right", more=False)
    while driver.advance():
        pass
    before = driver.units
    driver.feed("right", 1)
    assert driver.advance()
    assert driver.partition.clock == 107
    while driver.advance():
        pass
    assert driver.units - before == 10
    assert driver.partition.clock == 108


@pytest.mark.parametrize("bytes_max", [400, 1000])
def test_the_rows_of_a_unit_fit_its_bytes(bytes_max):
    names = [b"%04d" % i for i in range(60)]
    topics = history(left=[*((key, Op(100, timers=[(5, "opens", 0)])) for key in names), (b"z", Op(130))])
    free, bound = Driver(topics, rows_max=128), Driver(topics, rows_max=128, bytes_max=bytes_max)
    sizes = []
    advance = bound.partition.advance

    def weigh():
        unit = advance()
        if unit is not None:
            sizes.append(sum(64 + len(key) + len(row) for key, row in unit.rows.items()))
        return unit

    bound.partition.advance = weigh
    assert bound.finish() == free.finish()
    assert max(sizes) <= bytes_max
    assert bound.units > free.units


def later(n, effective_at, **more):
    return (None, Op(100, "directive", n=n, effective_at=effective_at, **more))


def directed(outcome):
    """Return (n, clock) of the directives in the order in which they were taken."""
    return [(n, clock) for n, clock, *_ in said(outcome, None, "directed")]


def test_directives_apply_at_once_later_or_late():
    directives = [later(1, None), later(2, 110), later(3, 105), later(4, 90), later(5, 110)]
    outcome = run(left=[(b"a", Op(100)), (b"a", Op(110)), (b"a", Op(111))], control=directives)
    assert directed(outcome) == [(1, 100), (4, 100), (3, 105), (2, 110), (5, 110)]
    assert outcome.record.counts["directive.late"] == 1
    assert [entry[-1] for entry in said(outcome, b"a") if entry[0] == "apply"] == [1, 1 + 1 + 4 + 3, 1 + 15]


def test_a_directive_for_the_time_of_a_timer_comes_before_it():
    opening = (b"a", Op(100, timers=[(5, "decide", 0)]))
    outcome = run(left=[opening, (b"a", Op(106))], control=[later(2, 105)])
    assert said(outcome, b"a", "decisions")[0][4] == 2


def test_pending_directives_survive_a_restart():
    topics = history(left=[(b"a", Op(100)), (b"a", Op(130))], control=[later(1, 120), later(2, 110)])
    driver = Driver(topics)
    driver.feed("left", 1)
    driver.feed("control", 2)
    driver.partition.expect("left", more=False)
    while driver.advance():
        pass
    assert [pending.effective_at for pending in driver.partition.record.pending] == [110, 120]
    driver.restart()
    assert directed(driver.finish()) == [(2, 110), (1, 120)]


@pytest.mark.parametrize("effective_at", [None, 105])
def test_a_directive_waits_for_what_it_needs(effective_at):
    topics = history(left=[(b"a", Op(100)), (b"a", Op(110))], control=[later(1, effective_at, needs="a model")])
    driver = Driver(topics)
    for topic in TOPICS:
        driver.feed(topic, 9)
    while driver.advance():
        pass
    assert driver.partition.held == "a model"
    assert directed(driver.finish()) == [(1, effective_at or 100)]
    assert driver.partition.held is None
    assert driver.partition.record.offsets == {"left": 2, "control": 1}


def test_a_directive_that_raises_is_a_dead_letter():
    outcome = run(left=[(b"a", Op(100)), (b"a", Op(110))], control=[later(-1, None), later(-1, 105), later(1, None)])
    assert [(letter["stage"], letter["offset"]) for letter in outcome.dead] == [("directive", 0), ("directive", 1)]
    assert directed(outcome) == [(1, 100)]


class Ahead(Toy):
    """Directives act before they are merged, too."""

    def parse(self, topic, key, value, recorded_at):
        at, body = super().parse(topic, key, value, recorded_at)
        return at, body._replace(ahead=True) if isinstance(body, Directive) else body


def test_a_directive_that_raises_ahead_is_a_dead_letter_once_it_is_merged():
    partition = Partition(LAYOUT, Ahead(), {})
    partition.feed("control", history(control=[later(-1, None), later(3, None)])["control"])
    assert partition.shared.budget == 3, "the next one is not held up"
    outputs = []
    while (unit := partition.advance()) is not None:
        outputs += unit.outputs
    assert [output.topic for output in outputs if output.topic != "days"] == ["dead-letter", "directed"]


def test_what_came_first_at_the_live_edge_stays_first():
    """A record that has moved the clock is the next one, whatever arrives."""
    opening = [(key, Op(100, timers=[(2, "decide", 0)])) for key in (b"a", b"b", b"c")]
    topics = history(left=[*opening, (b"a", Op(110))], right=[(b"z", Op(101))])
    driver = Driver(topics, rows_max=2)
    driver.partition.expect("right", more=False)
    driver.feed("left", 9)
    while not driver.outputs or driver.outputs[-1].topic != "decisions":
        assert driver.advance()
    driver.feed("right", 1)
    outcome = driver.finish()
    assert said(outcome, b"z")[0][1:3] == [101, 110]


def test_silence_wakes_and_days_close():
    outcome = run(left=[(b"a", Op(100)), (b"a", Op(103)), (b"z", Op(100 + 3 * DAY))])
    assert [entry[2] for entry in said(outcome, b"a") if entry[1] == "silence"] == [103 + SILENCE]
    assert [due for due, *_ in said(outcome, None, "days")] == [0, 100, 120, 140]


def test_the_record_that_the_clock_has_moved_for_comes_next_after_a_restart_too():
    """Else one that arrives meanwhile, with an earlier time, would be taken at a clock that nothing has moved."""
    topics = history(left=[(b"a", Op(at=103))], right=[(b"b", Op(at=125))])
    before = Partition(LAYOUT, Toy(), {})
    before.feed("right", topics["right"])
    while before.clock < DAY * 6:
        assert before.advance().offsets == {}
    after = Partition(LAYOUT, Toy(), dict(before.rows), records_max=1)
    after.expect("right", more=True)
    after.feed("left", topics["left"])
    assert after.advance() is None, "it is known to be there"
    after.feed("right", topics["right"])
    after.expect("right", more=False)
    assert after.advance().offsets == {"right": 1}
    assert after.advance().offsets == {"right": 1, "left": 1}


def test_a_record_that_is_gone_is_not_waited_for():
    before = Partition(LAYOUT, Toy(), {})
    before.feed("right", history(right=[(b"b", Op(at=125))])["right"])
    assert before.advance().offsets == {}
    after = Partition(LAYOUT, Toy(), dict(before.rows))
    after.feed("left", history(left=[(b"a", Op(at=103))])["left"])
    while not (offsets := after.advance().offsets):
        continue
    assert offsets == {"left": 1}


def test_a_state_of_another_layout_or_cluster_is_refused():
    before = Partition(LAYOUT, Toy(), {})
    before.claim(dict.fromkeys(LAYOUT.topics, 4), {"left": "cluster 1"})
    before.feed("left", history(left=[(b"a", Op(at=103))])["left"])
    assert before.advance()

    def take_up(partitions, topic_id):
        Partition(LAYOUT, Toy(), dict(before.rows)).claim(dict.fromkeys(LAYOUT.topics, partitions), {"left": topic_id})

    take_up(4, "cluster 1")
    with pytest.raises(ValueError, match=r"kept under 4 partitions, now there are 8.*under another app_id"):
        take_up(8, "cluster 1")
    with pytest.raises(ValueError, match=r"topic left is not the one .* Start anew under another app_id"):
        take_up(4, "cluster 2")
