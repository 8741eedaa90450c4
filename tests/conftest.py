import os
from functools import partial

import pytest
from kafka_server import BRIEF, KafkaUnavailableError, real_kafka, secured_kafka
from live import EVERY_TOPIC

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


kafka = pytest.fixture(from_source(partial(real_kafka, BRIEF)), scope="session", name="kafka")
"""One for all tests of a process."""
secured = pytest.fixture(from_source(secured_kafka), scope="module", name="secured")
"""One with TLS, SCRAM and access control."""


@pytest.fixture
def fresh_kafka(kafka):
    """The one, without what another test's worker has left: a worker's topics have fixed names."""
    kafka.drop_topics(EVERY_TOPIC)
    return kafka


@pytest.fixture
def embedded():
    with EmbeddedBroker() as broker:
        yield broker
