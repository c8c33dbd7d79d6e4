"""
The fault matrix, Kafka errors that no real broker gives on command: librdkafka's mock.

Four threads publish meanwhile; each line ends with the books.
"""

from collections.abc import Iterator

import pytest

from confluent_kafka import KafkaError
from support.eventually import eventually
from support.load import Load
from support.rigs import unique

from eventbus_sync import EventBus, KafkaConfig, Outcome
from eventbus_sync.errors import EventBusError, ProducerLost
from eventbus_sync.testing import ApiKey, MockKafkaCluster
from eventbus_sync.testing.readback import read_kafka_topic


pytestmark = pytest.mark.kafka


@pytest.fixture
def mock() -> Iterator[MockKafkaCluster]:
    """A cluster of its own for each test, which ends after the bus."""
    with MockKafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def topic(mock: MockKafkaCluster) -> str:
    """A topic of two partitions."""
    name = unique("topic")
    mock.create_topic(name, partitions=2)
    return name


@pytest.fixture
def bus(mock: MockKafkaCluster) -> Iterator[EventBus]:
    """A bus on it."""
    with EventBus(KafkaConfig(bootstrap_servers=mock.bootstrap_servers)) as bus:
        yield bus


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    ],
    ids=lambda code: str(KafkaError(code).name()).lower(),
)
def test_promises_1_2_and_5_the_producer_is_lost_and_replaced(
    mock: MockKafkaCluster, bus: EventBus, topic: str, code: int
) -> None:
    """Again and again: what was in flight is unknown, and publishing goes on."""
    reports: list[EventBusError] = []
    bus.set_error_handler(reports.append)
    with Load(bus, topic) as load:
        for lost in range(1, 4):
            load.goes_on(200)
            mock.push_request_errors(ApiKey.PRODUCE, code)
            eventually(lambda: len(reports) >= lost, 30)  # noqa: B023
        load.goes_on(200)
    assert {type(report) for report in reports} == {ProducerLost}
    assert load.outcomes() == {Outcome.ACKED, Outcome.UNKNOWN}
    failed = [r for r in load.results if not r.success]
    assert {type(r.error) for r in failed} == {ProducerLost}
    # The order ends with the producer.
    stored = read_kafka_topic(mock.bootstrap_servers, topic, values=False)
    load.check(stored, in_order=False)
