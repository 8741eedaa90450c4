"""The merge of topics by the event times of their heads."""

from hypothesis import given
from hypothesis import strategies as st

from worker.stream.merge import Entry, Merge

TOPICS = ("a", "b", "c")


def entries(topic, *times):
    return [Entry(at, topic, offset, b"", None, 0) for offset, at in enumerate(times)]


def take(merge, n=1000):
    taken = []
    while len(taken) < n and (head := merge.head()) is not None:
        merge.pop()
        taken.append(head)
    return taken


def places(taken):
    return [(entry.at, TOPICS[entry.topic]) for entry in taken]


def plainly(queues):
    """Merge by looking at all heads for each record."""
    queues, merged = [list(queue) for queue in queues], []
    while any(queues):
        index = min((queue[0].at, i) for i, queue in enumerate(queues) if queue)[1]
        merged.append(queues[index].pop(0))
    return merged


def test_records_come_by_time_and_ties_by_the_order_of_topics():
    merge = Merge(TOPICS)
    merge.push(2, entries(2, 1, 3))
    merge.push(0, entries(0, 3, 3))
    merge.push(1, entries(1, 2, 3))
    assert places(take(merge)) == [(1, "c"), (2, "b"), (3, "a"), (3, "a"), (3, "b"), (3, "c")]


def test_a_topic_keeps_its_own_order():
    merge = Merge(TOPICS)
    merge.push(0, entries(0, 9, 1, 2))
    merge.push(1, entries(1, 5, 10))
    assert places(take(merge)) == [(5, "b"), (9, "a"), (1, "a"), (2, "a"), (10, "b")]


def test_it_waits_for_what_is_known_to_be_there():
    merge = Merge(TOPICS)
    merge.expect(1, more=True)
    merge.push(0, entries(0, 1))
    assert merge.head() is None
    assert merge.starving() == [1]
    merge.push(1, entries(1, 0))
    assert places(take(merge)) == [(0, "b")]  # and now for the one after it
    merge.expect(1, more=False)
    assert places(take(merge)) == [(1, "a")]
    assert merge.starving() == []


def test_what_is_known_later_to_be_there_is_waited_for_from_then_on():
    merge = Merge(TOPICS)
    merge.push(0, entries(0, 1, 2))
    assert places(take(merge, 1)) == [(1, "a")]
    merge.expect(1, more=True)
    assert merge.head() is None


def test_it_does_not_wait_for_an_empty_topic():
    merge = Merge(TOPICS)
    merge.push(0, entries(0, 7))
    assert places(take(merge)) == [(7, "a")]
    merge.push(1, entries(1, 3))
    assert places(take(merge)) == [(3, "b")]  # arrival decides at the live edge


def test_the_head_stays_the_head_until_it_is_taken():
    merge = Merge(TOPICS)
    merge.push(0, entries(0, 7, 8))
    assert merge.head() == entries(0, 7)[0]
    merge.push(1, entries(1, 3, 9))
    assert places(take(merge)) == [(7, "a"), (3, "b"), (8, "a"), (9, "b")]


def test_put_back_undoes():
    merge = Merge(TOPICS)
    merge.push(0, entries(0, 1, 4))
    merge.push(1, entries(1, 2, 3))
    taken = take(merge)
    merge.put_back(taken[1:])
    assert [merge.waiting(i) for i in range(3)] == [1, 2, 0]
    assert take(merge) == taken[1:]


times = st.lists(st.integers(0, 12), max_size=12)


@given(queues=st.tuples(times, times, times), data=st.data())
def test_a_backlog_merges_the_same_way_however_it_is_fed_and_undone(queues, data):
    queues = [entries(topic, *times) for topic, times in enumerate(queues)]
    expected = plainly(queues)
    merge, left, taken = Merge(TOPICS), [list(queue) for queue in queues], []
    for topic in range(3):
        merge.expect(topic, more=bool(left[topic]))
    while len(taken) < len(expected):
        got = take(merge, data.draw(st.integers(0, 6)))
        undone = data.draw(st.integers(0, len(got)))
        merge.put_back(got[len(got) - undone :])
        taken += got[: len(got) - undone]
        topic = data.draw(st.sampled_from([*merge.starving(), 0, 1, 2]))
        n = data.draw(st.integers(1, 5))
        merge.push(topic, left[topic][:n])
        del left[topic][:n]
        merge.expect(topic, more=bool(left[topic]))
    assert taken == expected
