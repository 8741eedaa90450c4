"""A short run of the faults that `scripts/soak kafka` goes through for as long as one likes."""

import pytest
from chaos import Rounds
from loads import Findings, compare, gaps


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
