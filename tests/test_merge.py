"""The merge of topics by the event times of their heads."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from worker.stream.merge import Merge

TOPICS = ("a", "b", "c")


def records(topic, *times):
    """Return (event time, topic, offset) of a topic's records."""
    return [(at, topic, offset) for offset, at in enumerate(times)]


def push(merge, topic, *records):
    """Push records of a topic; all about them but their place is of no interest here."""
    ranks = accumulate((at for at, *_ in records), max, initial=merge.rank(topic))
    next(ranks)
    merge.push(
        topic, [(rank, topic, offset, at, b"", None, 0) for rank, (at, _, offset) in zip(ranks, records, strict=True)]
    )


def show(merge, n=1000):
    return [(at, topic, offset) for _, topic, offset, at, *_ in merge.ahead(n)]


def take(merge, n=1000):
    shown = show(merge, n)
    last = merge.take(len(shown))
    assert {topic: entry[2] for topic, entry in last.items()} == {topic: offset for _, topic, offset in shown}
    return shown


def places(taken):
    return [(at, TOPICS[topic]) for at, topic, _ in taken]


def plainly(queues):
    """Merge by looking at all heads for each record."""
    queues, merged = [list(queue) for queue in queues], []
    while any(queues):
        index = min((queue[0][0], i) for i, queue in enumerate(queues) if queue)[1]
        merged.append(queues[index].pop(0))
    return merged


def test_records_come_by_time_and_ties_by_the_order_of_topics():
    merge = Merge(TOPICS)
    push(merge, 2, *records(2, 1, 3))
    push(merge, 0, *records(0, 3, 3))
    push(merge, 1, *records(1, 2, 3))
    assert places(take(merge)) == [(1, "c"), (2, "b"), (3, "a"), (3, "a"), (3, "b"), (3, "c")]


def test_a_topic_keeps_its_own_order():
    merge = Merge(TOPICS)
    push(merge, 0, *records(0, 9, 1, 2))
    push(merge, 1, *records(1, 5, 10))
    assert places(take(merge)) == [(5, "b"), (9, "a"), (1, "a"), (2, "a"), (10, "b")]


def test_it_waits_for_what_is_known_to_be_there():
    merge = Merge(TOPICS)
    merge.expect(1, more=True)
    push(merge, 0, *records(0, 1))
    assert show(merge) == []
    assert merge.starving() == [1]
    push(merge, 1, *records(1, 0))
    assert places(take(merge)) == [(0, "b")]  # and now for the one after it
    merge.expect(1, more=False)
    assert places(take(merge)) == [(1, "a")]
    assert merge.starving() == []


def test_what_is_known_later_to_be_there_is_waited_for_from_then_on():
    merge = Merge(TOPICS)
    push(merge, 0, *records(0, 1, 2))
    assert places(take(merge, 1)) == [(1, "a")]
    merge.expect(1, more=True)
    assert show(merge) == []


def test_it_does_not_wait_for_an_empty_topic():
    merge = Merge(TOPICS)
    push(merge, 0, *records(0, 7))
    assert places(take(merge)) == [(7, "a")]
    push(merge, 1, *records(1, 3))
    assert places(take(merge)) == [(3, "b")]  # arrival decides at the live edge


def test_the_head_stays_the_head_until_it_is_taken():
    merge = Merge(TOPICS)
    push(merge, 0, *records(0, 7, 8))
    assert show(merge, 1) == records(0, 7)
    push(merge, 1, *records(1, 3, 9))
    assert places(take(merge)) == [(7, "a"), (3, "b"), (8, "a"), (9, "b")]


def test_what_is_shown_waits_until_it_is_taken():
    merge = Merge(TOPICS)
    push(merge, 0, *records(0, 1, 4))
    push(merge, 1, *records(1, 2, 3))
    shown = show(merge)
    assert [merge.waiting(i) for i in range(3)] == [2, 2, 0]
    merge.take(1)
    assert [merge.waiting(i) for i in range(3)] == [1, 2, 0]
    assert take(merge) == shown[1:]


def test_of_what_is_shown_and_not_taken_the_first_stays_next():
    merge = Merge(TOPICS)
    push(merge, 0, *records(0, 5, 7, 8))
    show(merge)
    merge.take(1)
    push(merge, 1, *records(1, 3, 9))
    assert places(take(merge)) == [(7, "a"), (3, "b"), (8, "a"), (9, "b")]


def test_what_stayed_next_is_taken_alone_though_an_earlier_record_has_come():
    merge = Merge(TOPICS)
    push(merge, 0, *records(0, 5, 7, 8))
    show(merge)
    merge.take(1)
    push(merge, 1, *records(1, 3))
    assert places(take(merge, 1)) == [(7, "a")]
    assert [merge.waiting(i) for i in range(3)] == [1, 1, 0]
    assert places(take(merge)) == [(3, "b"), (8, "a")]


times = st.lists(st.integers(0, 12), max_size=12)


@given(queues=st.tuples(times, times, times), data=st.data())
def test_a_backlog_merges_the_same_way_however_it_is_fed_shown_and_taken(queues, data):
    queues = [records(topic, *times) for topic, times in enumerate(queues)]
    expected = plainly(queues)
    merge, left, taken = Merge(TOPICS), [list(queue) for queue in queues], []
    for topic in range(3):
        merge.expect(topic, more=bool(left[topic]))
    while len(taken) < len(expected):
        show(merge, data.draw(st.integers(0, 6)))
        taken += take(merge, data.draw(st.integers(1, 6)))
        topic = data.draw(st.sampled_from([*merge.starving(), 0, 1, 2]))
        n = data.draw(st.integers(1, 5))
        push(merge, topic, *left[topic][:n])
        del left[topic][:n]
        merge.expect(topic, more=bool(left[topic]))
    assert taken == expected
