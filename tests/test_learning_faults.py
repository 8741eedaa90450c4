"""A process that learns is killed, or stalls, at the worst moments; what is learned is what one process learns."""

import pytest
from chaos import Rounds

from worker.embedded import EmbeddedBroker


@pytest.fixture(scope="module")
def rounds(kafka, tmp_path_factory):
    with EmbeddedBroker() as embedded:
        yield Rounds(kafka, embedded, tmp_path_factory.mktemp("rounds"))


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("kind", "seed", "struck"), [("killed around snapshots", 1, 5), ("moved over a snapshot", 2, 2)]
)
def test_what_is_learned_is_what_one_process_learns_bit_for_bit(rounds, kind, seed, struck):
    """Of sixteen partitions and one trainer: each snapshot, figure, example and adoption once, as in a replay."""
    result = rounds.run(f"{kind} (learning)", seed)
    assert result.good, f"{result.findings}\n{result.why}"
    assert result.struck == struck, result.ends
