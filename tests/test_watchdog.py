"""When the watchdog ends a process, and when not; and what the pages then say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.stream import health
from worker.stream.health import LaneState, RecoveryState, State
from worker.stream.watchdog import STEP_S_MAX, Sample, StallGuard, Watchdog

LANE = LaneState(
    name="partition",
    number=3,
    lag={"orders": 7},
    opened=True,
    busy=False,
    moved=(1_750_000_000_000, 40, (12,)),
    clock=1_750_000_000_000,
    held=None,
    unready=(),
)
RUNNING = State("running", rebalances=1, turns=10, lanes=[LANE], recovery=RecoveryState(200, 0, 1.25))


def watched(states, stuck_s=10, every_s=1.0):
    """Show a watchdog one state after the other; return what it calls stuck in the end."""
    watchdog = Watchdog(stuck_s)
    for i, state in enumerate(states):
        watchdog.look(i * every_s, health.samples(state))
    return watchdog.stuck()


def turning(**changes):
    """A worker whose fetch loop turns, while its lane stays as given."""
    return [RUNNING._replace(turns=i, lanes=[LANE._replace(**changes)]) for i in range(20)]


def test_a_lane_with_work_that_does_not_move_is_stuck():
    assert watched(turning()) == ["partition 3 has stood still for 19 s with work to do"]
    assert watched(turning()[:10]) == []


@pytest.mark.parametrize("part", range(3), ids=["clock", "changelog", "offsets"])
def test_a_lane_moves_with_its_clock_its_changelog_or_its_offsets(part):
    """A million timers due at once move no offset, at one and the same time not even the clock: but they commit."""
    states = [
        state._replace(lanes=[LANE._replace(moved=(*LANE.moved[:part], i, *LANE.moved[part + 1 :]))])
        for i, state in enumerate(turning())
    ]
    assert watched(states) == []


def test_a_lane_without_work_is_not_stuck():
    assert watched(turning(lag={"orders": 0})) == []


def test_a_lane_that_was_never_opened_or_never_ends_its_work_is_stuck_without_lag():
    assert watched(turning(lag={}, opened=False))
    assert watched(turning(lag={"orders": 0}, busy=True))


def test_a_lane_that_names_what_it_waits_for_is_not_stuck_and_not_ready():
    states = turning(held="snapshot 7 of the model")
    assert watched(states) == []
    assert health.reasons_unready(states[-1]) == ["partition 3 waits for snapshot 7 of the model"]


def test_waiting_does_not_count_once_it_is_over():
    states = turning(held="playbook b") + turning()[:9]
    assert watched(states) == []


def test_a_fetch_loop_that_does_not_turn_is_stuck_though_nothing_lags():
    assert watched([RUNNING._replace(lanes=[])] * 20) == ["the fetch loop has stood still for 19 s with work to do"]


@pytest.mark.parametrize("phase", ["starting", "rebalancing", "recovering", "stopping"])
def test_what_leads_up_to_the_work_or_away_from_it_must_come_to_an_end(phase):
    state = RUNNING._replace(phase=phase)
    assert watched([state] * 20) == [f"{phase} has stood still for 19 s with work to do"]
    read = [state._replace(recovery=RecoveryState(i, 9, i)) for i in range(20)]
    again = [state._replace(rebalances=i) for i in range(20)]
    assert watched(read) == watched(again) == []


def test_time_in_which_the_process_itself_stood_still_hardly_counts():
    watchdog = Watchdog(stuck_s=10)
    for now in (0, 1, 1000):
        watchdog.look(now, [Sample("partition 3", 7, 0)])
    assert watchdog.still == {"partition 3": 1 + STEP_S_MAX}


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 1.0, 4.0])), max_size=60))
def test_it_is_stuck_exactly_when_it_has_not_moved_for_the_time_allowed(looks):
    watchdog, now, moved, still = Watchdog(stuck_s=5), 0.0, 0, 0.0
    for i, (moves, passed) in enumerate(looks):
        now += passed
        moved += moves
        still = 0.0 if moves or i == 0 else still + passed
        watchdog.look(now, [Sample("partition 3", 1, moved)])
        assert bool(watchdog.stuck()) == (watchdog.still["partition 3"] >= 5)
        assert watchdog.still["partition 3"] == pytest.approx(still)


def test_a_process_that_stood_still_for_too_long_is_told_so_and_a_beat_in_time_is_fine():
    guard = StallGuard(gap_s_max=5, now=100)
    assert guard.stalled(105) is None
    assert guard.stalled(106) == "the process stood still for 6.0 s, allowed are 5.0"
    guard.beat(106)
    assert guard.stalled(111) is None


@pytest.mark.parametrize(
    ("phase", "reasons"),
    [
        ("running", []),
        ("rebalancing", ["rebalancing"]),
        ("stopping", ["stopping"]),
        ("recovering", ["recovering: 200 changelog records read, 50 remain"]),
    ],
)
def test_ready_is_who_runs(phase, reasons):
    assert health.reasons_unready(RUNNING._replace(phase=phase, recovery=RecoveryState(200, 50, 1.0))) == reasons


def test_what_the_domain_says_against_it_stands_beside_its_partition():
    lanes = [LANE._replace(unready=("no heartbeat from orders for 2000 s",))]
    assert health.reasons_unready(RUNNING._replace(lanes=lanes)) == ["partition 3: no heartbeat from orders for 2000 s"]


def test_a_dead_watchdog_is_a_reason_to_restart():
    assert health.reasons_dead([], looked_s=1.0) == []
    assert health.reasons_dead(["a"], looked_s=60.0) == ["a", "the watchdog has not looked for 60 s"]


def test_the_body_tells_each_partition():
    assert health.describe(RUNNING, [], {"partition 3": 2.04}) == {
        "ok": True,
        "reasons": [],
        "phase": "running",
        "recovery": {"records": 200, "remaining": 0, "seconds": 1.2},
        "lanes": [
            {
                "lane": "partition",
                "partition": 3,
                "lag": {"orders": 7},
                "clock": "2025-06-15T15:06:40Z",
                "waits_for": None,
                "still_s": 2.0,
            }
        ],
    }
