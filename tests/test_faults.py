"""A short run of the faults that `scripts/soak kafka` goes through for as long as one likes."""

import signal
import time
from random import Random

import pytest
from chaos import Rounds, Worker
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from live import PARTITIONS
from loads import Findings, Marbles, compare, gaps

from worker.stream.exits import EXIT_REFUSED
from worker.stream.transport import FETCH_WAIT_MS


@pytest.fixture
def rounds(kafka, embedded, tmp_path):
    return Rounds(kafka, embedded, tmp_path)


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["chaos", "stalled in a commit", "broker killed"])
def test_faults_lose_nothing_and_double_nothing(rounds, kind):
    """Rows, partition records and outputs are those of the pure partition on the same input."""
    if kind not in rounds.kinds:
        pytest.skip("the broker is not ours to kill")
    result = rounds.run(kind, seed=1)
    assert result.struck
    assert result.good, f"{result.findings}\n{result.why}"


@pytest.mark.kafka
def test_records_that_are_gone_before_they_were_read_end_the_process(kafka, tmp_path):
    """A worker that is behind by more than the topic keeps must not go on from what is left."""
    load = Marbles(kafka, tmp_path, Random(1))
    worker = Worker("worker", load, tmp_path)
    try:
        load.begin()
        while not load.applied():
            time.sleep(0.05)
        worker.send(signal.SIGSTOP)
        time.sleep(2 * FETCH_WAIT_MS / 1000)  # the fetch that it waits for is answered without what comes now
        everything = [TopicPartition(topic, number, -1) for topic in load.job.sources for number in range(PARTITIONS)]
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
        for future in admin.delete_records(everything).values():
            future.result()
        worker.send(signal.SIGCONT)
        assert worker.process.wait(30) == EXIT_REFUSED
        assert "records were deleted before they were read" in worker.words
    finally:
        worker.end()
        load.close()


@pytest.mark.kafka
def test_a_changelog_that_was_made_anew_is_no_first_start(kafka, tmp_path):
    """What the sources no longer hold would be missing from the rows, and outputs would come again."""
    load = Marbles(kafka, tmp_path, Random(1))
    worker = Worker("worker", load, tmp_path)
    try:
        load.begin()
        while not load.applied():
            time.sleep(0.05)
        worker.send(signal.SIGTERM)
        assert worker.process.wait(30) == 0
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
        admin.delete_topics([load.job.changelog])[load.job.changelog].result()
        kafka.create_topics({load.job.changelog: PARTITIONS}, {"cleanup.policy": "compact"})
        worker.start()
        assert worker.process.wait(60) == EXIT_REFUSED
        assert "the changelog was made anew" in worker.words
    finally:
        worker.end()
        load.close()


def test_a_verdict_finds_what_is_wrong():
    """An id that is not there, one that nobody knows, one twice, one with another payload, and a number left out."""
    truth = {"a": 1, "b": 2, "c": 3}
    findings = compare([("a", 1), ("a", 1), ("b", 0), ("d", 4)], truth)
    assert findings == Findings(missing=1, extra=1, repeated=1, changed=1)
    assert not findings.good(transactional=False)
    assert Findings(repeated=1).good(transactional=False)
    assert not Findings(repeated=1).good(transactional=True)
    assert gaps([(1, 0), (2, 0), (1, 1), (None, 1)]) == 0
    assert gaps([(1, 0), (3, 0), (1, 1), (1, 1)]) == 2
