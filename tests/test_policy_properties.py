"""What the policy never does, whatever users, CRM, playbooks and operators do; and that a replay repeats it."""

from __future__ import annotations

import orjson
from customers import Backlog, make_shop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge import Judge
from policies import MODELS, live, shop_settings, stories

SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(SLOW, max_examples=250)
@given(story=stories())
def test_no_guard_is_ever_broken(story):
    Judge(story, live(story)).judge()


def backlog(story, told, **cuts):
    return Backlog(told, make_shop(**shop_settings(story)), story.books, models=MODELS, **cuts)


@settings(SLOW, max_examples=60)
@given(
    story=stories(),
    rows_max=st.sampled_from([2, 3, 64]),
    records_max=st.sampled_from([1, 2, 7, 64]),
    n=st.sampled_from([1, 3, 1000]),
    restart_every=st.sampled_from([1, 3, 20]),
)
def test_however_a_history_is_cut_the_same_goes_out(story, rows_max, records_max, n, restart_every):
    """In pieces of any size, taken up anew from the rows at any place; and as it was lived, if nothing came late."""
    shop = live(story)
    whole = backlog(story, shop.told, rows_max=4096, records_max=4096).finish()
    pieces = backlog(story, shop.told, rows_max=rows_max, records_max=records_max).finish(n, restart_every)
    assert pieces.by_user == whole.by_user
    assert pieces.examples == whole.examples
    assert pieces.rows == whole.rows
    assert pieces.counts == whole.counts
    if story.late:
        return
    lived = {}
    for said in shop.said:
        if said.topic != "churn-training":
            lived.setdefault(said.user, []).append((said.topic, orjson.dumps(said.value)))
    replayed = {
        None if user is None else user.decode(): [(topic, orjson.dumps(orjson.loads(value))) for topic, value in said]
        for user, said in whole.by_user.items()
    }
    assert replayed == lived


@settings(SLOW, max_examples=40)
@given(story=stories(), units=st.integers(0, 400), records_max=st.sampled_from([1, 4, 16]))
def test_a_stretch_that_is_run_again_says_the_same(story, units, records_max):
    """As after a crash before the commit: the same ids with the same bytes."""
    shop = live(story)
    first = backlog(story, shop.told, records_max=records_max)
    run(first, units)
    rows, before = dict(first.rows), len(first.outputs)
    first.finish()
    again = backlog(story, shop.told)
    again.rows = rows
    again.restart()
    again.finish()
    told, repeated = _by_user(first.outputs[before:]), _by_user(again.outputs)
    assert repeated == told
    assert again.rows == first.rows


def run(some, units):
    """Work off so many units."""
    while units:
        unit = some.partition.advance()
        if unit is None:
            starving = some.partition.starving()
            if not starving:
                return
            for topic in starving:
                some.feed(topic, 5)
            continue
        units -= 1
        some.outputs += unit.outputs
        some.rows = dict(some.partition.rows)


def _by_user(outputs):
    told = {}
    for output in outputs:
        if output.topic != "churn-training":
            told.setdefault(output.key, []).append((output.topic, output.value))
    return told
