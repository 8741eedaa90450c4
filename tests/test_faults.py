"""A short run of the faults that `scripts/soak kafka` goes through for as long as one likes."""

import pytest
from chaos import Rounds


@pytest.fixture
def rounds(kafka, embedded, tmp_path):
    return Rounds(kafka, embedded, tmp_path)


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["chaos", "stalled in a commit", "killed in a rebalance"])
def test_faults_lose_nothing_and_double_nothing(rounds, kind):
    """Rows, partition records and outputs are those of the pure partition on the same input."""
    result = rounds.run(kind, seed=1)
    assert result.struck
    assert result.good, f"{result.findings}\n{result.why}"
