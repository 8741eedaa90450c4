import os

import pytest
from kafka_server import KafkaUnavailableError, real_kafka, secured_kafka

from worker.embedded import EmbeddedBroker


def from_source(source):
    """Give a fixture's function for an Apache Kafka; where there is none, the tests skip, but fail in CI."""

    def start_kafka():
        try:
            with source() as cluster:
                yield cluster
        except KafkaUnavailableError as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI needs Apache Kafka: {error}")
            pytest.skip(f"no Apache Kafka: {error}")

    return start_kafka


kafka = pytest.fixture(from_source(real_kafka), scope="session", name="kafka")
"""One for the whole run."""
fresh_kafka = pytest.fixture(from_source(real_kafka), name="fresh_kafka")
"""One of the test's own, since a worker's topics have fixed names."""
secured = pytest.fixture(from_source(secured_kafka), scope="module", name="secured")
"""One with TLS, SCRAM and access control."""


@pytest.fixture
def embedded():
    with EmbeddedBroker() as broker:
        yield broker
