"""The contract on Kafka: the embedded broker, librdkafka's mock, Apache Kafka."""

from collections.abc import Iterator

import pytest

from conformance.suite import BackendConformance
from support.apache_kafka import ApacheKafka, availability
from support.rigs import KafkaRig, Rig

from eventbus_sync.testing import KafkaServer, MockKafkaCluster
from eventbus_sync.testing.pytest_plugin import skip_or_fail


@pytest.mark.kafka
class TestEmbeddedKafka(BackendConformance):
    """Every test of the suite, on the broker from the wheel."""

    @pytest.fixture
    def rig(self, kafka_server: KafkaServer) -> Iterator[Rig]:
        """The session's broker."""
        if kafka_server.kind != "tansu":
            skip_or_fail("no Kafka broker for this platform; TestMockKafka ran instead")
        yield KafkaRig(
            kafka_server.bootstrap_servers,
            freeze=kafka_server.freeze,
            resume=kafka_server.resume,
        )
        kafka_server.resume()


@pytest.mark.kafka
class TestMockKafka(BackendConformance):
    """Every test of the suite, on the cluster inside librdkafka."""

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        """A cluster of its own; threads of this process cannot freeze, only go away."""
        with MockKafkaCluster() as cluster:
            yield KafkaRig(
                cluster.bootstrap_servers,
                freeze=cluster.set_broker_down,
                resume=cluster.set_broker_up,
            )


@pytest.fixture(scope="module")
def apache() -> Iterator[ApacheKafka]:
    """One node of Apache Kafka for this file."""
    if reason := availability():
        skip_or_fail(reason)
    with ApacheKafka() as server:
        yield server


@pytest.mark.kafka
@pytest.mark.slow
class TestApacheKafka(BackendConformance):
    """Every test of the suite, on Apache Kafka in KRaft mode."""

    @pytest.fixture
    def rig(self, apache: ApacheKafka) -> Iterator[Rig]:
        """The file's node."""
        yield KafkaRig(
            apache.bootstrap_servers, freeze=apache.freeze, resume=apache.resume
        )
        apache.resume()
