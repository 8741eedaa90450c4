import os

import pytest
from kafka_server import KafkaUnavailableError, real_kafka

from worker.embedded import EmbeddedBroker


def start_kafka():
    """Give an Apache Kafka; where there is none, the tests skip, but fail in CI."""
    try:
        with real_kafka() as cluster:
            yield cluster
    except KafkaUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs Apache Kafka: {error}")
        pytest.skip(f"no Apache Kafka: {error}")


kafka = pytest.fixture(start_kafka, scope="session", name="kafka")
"""One for the whole run."""
fresh_kafka = pytest.fixture(start_kafka, name="fresh_kafka")
"""One of the test's own, since a worker's topics have fixed names."""


@pytest.fixture
def embedded():
    with EmbeddedBroker() as broker:
        yield broker
