"""What only Apache Kafka itself can show: records, partitions, absent topics and limits."""

import json
import time

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from confluent_kafka import Consumer, Message, TopicPartition

# The submodule, because the package does not declare that it exports this name.
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import TIMESTAMP_CREATE_TIME, NewTopic
from support.apache_kafka import ApacheKafka, availability
from support.eventually import eventually
from support.rigs import unique

from eventbus_sync import (
    Envelope,
    EventBus,
    KafkaConfig,
    Outcome,
    PublishResult,
)
from eventbus_sync.errors import (
    DestinationNotFound,
    MessageRefused,
    PublishError,
    PublishRejected,
)
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import StoredEvent, read_kafka_topic


pytestmark = [pytest.mark.kafka, pytest.mark.slow]

VECTORS = Path(__file__).parent.parent / "vectors" / "partitions.json"

#: Promise 1 gives two seconds beyond delivery_timeout; the machine that runs this may
#: be asleep for another one.
LATE = 20.0

OpenBus = Callable[..., EventBus]
CreateTopic = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def _available() -> None:
    if reason := availability():
        skip_or_fail(reason)


@pytest.fixture(scope="module")
def kafka() -> Iterator[ApacheKafka]:
    """One node for this file, which makes no topics by itself; who breaks it mends it."""
    with ApacheKafka(auto_create_topics=False) as node:
        yield node


@pytest.fixture(scope="module")
def admin(kafka: ApacheKafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})


@pytest.fixture(scope="module")
def create_topic(admin: AdminClient) -> CreateTopic:
    """A function that makes a topic, by default a new one, and returns its name."""

    def create_topic(name: str = "", partitions: int = 1, **config: str) -> str:
        topic = name or unique("topic")
        settings = {key.replace("_", "."): value for key, value in config.items()}
        wanted = NewTopic(topic, partitions, 1, config=settings)
        admin.create_topics([wanted])[topic].result(30)
        return topic

    return create_topic


@pytest.fixture
def open_bus(kafka: ApacheKafka) -> Iterator[OpenBus]:
    """A function that opens a bus, which ends with the test."""
    buses: list[EventBus] = []

    def open_bus(**settings: Any) -> EventBus:
        bus = EventBus(
            KafkaConfig(bootstrap_servers=kafka.bootstrap_servers, **settings)
        )
        buses.append(bus)
        return bus

    yield open_bus
    for bus in buses:
        bus.close(5)


def event(number: int = 0, aggregate: str = "order-1", size: int = 0) -> Envelope:
    """An event of at least that size, whose payload ends with its number."""
    return Envelope(aggregate, "OrderCreated", 1, {"x": "x" * size, "n": number})


def outcomes(bus: EventBus, count: int, timeout: float = 40) -> list[PublishResult]:
    """Exactly so many outcomes; fails if they don't come."""
    taken: list[PublishResult] = []
    while len(taken) < count:
        batch = bus.get_publish_result_channel().get_many(count, timeout=timeout)
        assert batch, bus.stats()
        taken += batch
    return taken


def error_of(result: PublishResult) -> PublishError:
    assert result.error is not None, result
    return result.error


def order_kept(stored: Iterable[StoredEvent]) -> bool:
    """Whether the events of each aggregate are stored as they were numbered."""
    last: dict[str, int] = {}
    for one in stored:
        number = json.loads(one.value)["payload"]["n"]
        if last.get(one.aggregate_id, -1) >= number:
            return False
        last[one.aggregate_id] = number
    return True


# -- on the wire -----------------------------------------------------------------------


def records(kafka: ApacheKafka, topic: str, count: int) -> list[Message]:
    """So many records of the topic's only partition."""
    settings = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "group.id": "records",
        "log_level": 0,
    }
    consumer = Consumer(settings)
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[Message] = []

        def enough() -> bool:
            found.extend(consumer.consume(count - len(found), timeout=0.5))
            return len(found) == count

        eventually(enough, 20)
        return found
    finally:
        consumer.close()


def test_records_are_what_the_go_sdk_writes(
    kafka: ApacheKafka, open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """Key, value, time, and every header with its bytes in its place."""
    bus, topic = open_bus(), create_topic()
    full = Envelope(
        "order:1/a",
        "Größe<geändert>",
        3,
        b'{ "total" : 42 }',
        event_id="e-1",
        trace_id="t-1",
        correlation_id="c-1",
        tenant_id=7,
    )
    short = Envelope("order-2", "OrderCreated", 1, {"n": 1}, event_id="e-2")
    more = {"traceparent": "00-ab-cd-01", "b": "ä\0€", "a": ""}
    before = time.time()
    assert bus.publish_envelope_sync(topic, full, headers=more).success
    assert bus.publish_envelope_sync(topic, short).success
    after = time.time()

    first, second = records(kafka, topic, 2)
    assert first.key() == b"order:1/a"
    assert first.value() == full.to_bytes()
    assert first.headers() == [
        ("X-Event-ID", b"e-1"),
        ("X-Aggregate-ID", b"order:1/a"),
        ("X-Event-Version", b"3"),
        ("X-Event-Type", "Größe<geändert>".encode()),
        ("X-Trace-ID", b"t-1"),
        ("X-Correlation-ID", b"c-1"),
        ("X-Tenant-ID", b"7"),
        ("traceparent", b"00-ab-cd-01"),
        ("b", "ä\0€".encode()),
        ("a", b""),
    ]
    assert second.key() == b"order-2"
    assert second.value() == short.to_bytes()
    assert second.headers() == [
        ("X-Event-ID", b"e-2"),
        ("X-Aggregate-ID", b"order-2"),
        ("X-Event-Version", b"1"),
        ("X-Event-Type", b"OrderCreated"),
    ]
    for record in (first, second):
        kind, milliseconds = record.timestamp()
        assert kind == TIMESTAMP_CREATE_TIME
        assert before - 1 <= milliseconds / 1000 <= after + 1


@pytest.mark.parametrize("partitions", [3, 10])
def test_partitions_are_those_of_the_go_sdk(
    kafka: ApacheKafka, open_bus: OpenBus, create_topic: CreateTopic, partitions: int
) -> None:
    """An aggregate is where sarama's hash puts it, and so says its result."""
    wanted = {
        key: numbers[str(partitions)]
        for key, numbers in json.loads(VECTORS.read_text())["vectors"].items()
    }
    bus, topic = open_bus(), create_topic(partitions=partitions)
    results = [bus.publish_envelope_sync(topic, event(0, key)) for key in wanted]
    assert {r.aggregate_id: r.partition for r in results} == wanted
    stored = read_kafka_topic(kafka.bootstrap_servers, topic)
    assert {e.aggregate_id: e.partition for e in stored} == wanted
    places = {(e.event_id, e.partition, e.sequence) for e in stored}
    assert places == {(r.event_id, r.partition, r.offset) for r in results}


# -- topics that are not there ---------------------------------------------------------


def test_promise_1_an_absent_topic(
    open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """Its events are rejected, to be retried; others flow; its creation is noticed."""
    bus, there, absent = open_bus(delivery_timeout=6.0), create_topic(), unique("topic")
    for number in range(50):
        bus.publish_envelope(absent, event(number))
        bus.publish_envelope(there, event(number))
    results = outcomes(bus, 100)
    # From the second time on the driver knows by itself.
    results.append(bus.publish_envelope_sync(absent, event(50)))

    for result in results:
        if result.topic == there:
            assert result.success
            continue
        assert result.latency < 6 + LATE
        error = error_of(result)
        assert (result.outcome, type(error)) == (Outcome.REJECTED, DestinationNotFound)
        assert (error.code, error.retriable) == ("destination_not_found", True)
        assert "create it" in str(error)

    create_topic(absent)
    eventually(lambda: bus.publish_envelope_sync(absent, event(51)).success)


# -- events that are too large ---------------------------------------------------------


def test_an_event_that_is_too_large_for_the_broker(
    open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """Alone it is refused for good; the next one is not affected."""
    bus, topic = open_bus(), create_topic(max_message_bytes="20000")
    result = bus.publish_envelope_sync(topic, event(0, size=30_000))
    error = error_of(result)
    assert (result.outcome, type(error)) == (Outcome.REJECTED, MessageRefused)
    assert not error.retriable
    assert "max.message.bytes" in str(error)
    assert bus.publish_envelope_sync(topic, event(1)).success


def test_promise_1_events_in_the_company_of_a_larger_one(
    kafka: ApacheKafka, open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """A batch is refused as a whole; its events may be retried, and then are stored."""
    bus, topic = open_bus(linger=0.3), create_topic(max_message_bytes="20000")
    events = [event(n, size=30_000 if n == 5 else 0) for n in range(10)]
    for one in events:
        bus.publish_envelope(topic, one)
    first = outcomes(bus, 10)
    again = [r.event_id for r in first if not r.success]
    for result in first:
        if not result.success:
            error = error_of(result)
            assert result.outcome is Outcome.REJECTED
            assert error.retriable
            assert (type(error), error.code) == (PublishRejected, "batch_too_large")
            assert "batch.size" in str(error)
    assert events[5].event_id in again
    assert len(again) > 1

    retried = [
        bus.publish_envelope_sync(topic, e) for e in events if e.event_id in again
    ]
    refused = [r for r in retried if not r.success]
    assert [r.event_id for r in refused] == [events[5].event_id]
    assert not error_of(refused[0]).retriable
    stored = [e.event_id for e in read_kafka_topic(kafka.bootstrap_servers, topic)]
    assert sorted(stored) == sorted(e.event_id for e in events if e != events[5])


@pytest.mark.parametrize(
    ("limit", "settings"),
    [
        (20_000, {"extra": {"batch.size": 15_000}}),
        (1_048_588, {"max_message_bytes": 2_000_000}),
    ],
    ids=["small batches", "default limits"],
)
def test_promise_5_and_6_around_events_that_are_too_large(
    kafka: ApacheKafka,
    open_bus: OpenBus,
    create_topic: CreateTopic,
    limit: int,
    settings: dict[str, Any],
) -> None:
    """With batches within the broker's limit only they are refused, and for good."""
    bus, topic = open_bus(**settings), create_topic(max_message_bytes=str(limit))
    events = [
        event(n, f"order-{n % 7}", limit if n % 100 == 50 else 0) for n in range(1000)
    ]
    for one in events:
        bus.publish_envelope(topic, one, timeout=20)
    too_large = {e.event_id for e in events if len(e.to_bytes()) > limit}
    for result in outcomes(bus, 1000):
        assert result.success is (result.event_id not in too_large)
        if not result.success:
            assert isinstance(result.error, MessageRefused)
            assert not result.error.retriable
    assert len(too_large) == 10
    stored = read_kafka_topic(kafka.bootstrap_servers, topic)
    assert len({e.event_id for e in stored}) == len(stored) == 990
    assert order_kept(stored)
