import os

import pytest
from kafka_server import KafkaUnavailableError, real_kafka

from worker.embedded import EmbeddedBroker


@pytest.fixture(scope="session")
def kafka():
    """Apache Kafka, one for the whole run; where there is none, the tests skip, but fail in CI."""
    try:
        with real_kafka() as cluster:
            yield cluster
    except KafkaUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs Apache Kafka: {error}")
        pytest.skip(f"no Apache Kafka: {error}")


@pytest.fixture
def embedded():
    with EmbeddedBroker() as broker:
        yield broker
