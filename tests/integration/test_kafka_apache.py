"""What only Apache Kafka itself can show: limits, lost topics, crashes and long silence."""

import collections
import itertools
import json
import threading
import time

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from confluent_kafka import Consumer, Message, TopicPartition

# The submodule, because the package does not declare that it exports this name.
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import TIMESTAMP_CREATE_TIME, NewTopic
from support.apache_kafka import ApacheKafka, availability
from support.eventually import eventually
from support.patience import SLACK
from support.rigs import unique

from eventbus_sync import (
    BackendBusy,
    Envelope,
    EventBus,
    KafkaConfig,
    Outcome,
    PublishResult,
)
from eventbus_sync.errors import (
    BrokerUnreachable,
    DestinationNotFound,
    EventBusError,
    MessageRefused,
    ProducerLost,
    PublishError,
    PublishRejected,
    PublishUnknown,
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


def test_promise_1_a_topic_that_is_deleted_under_load(
    kafka: ApacheKafka,
    admin: AdminClient,
    open_bus: OpenBus,
    create_topic: CreateTopic,
) -> None:
    """Every event has its outcome, to be retried; a topic made anew takes events again."""
    bus, topic, other = open_bus(delivery_timeout=6.0), create_topic(), create_topic()
    with Load(bus, topic) as load, Load(bus, other, "other") as undisturbed:
        eventually(lambda: bus.stats().acked > 500)
        admin.delete_topics([topic])[topic].result(30)
        eventually(lambda: bus.stats().rejected > 0, 30)
        create_topic(topic)
        load.goes_on(500)
    results = load.results + undisturbed.results
    assert len(results) == bus.stats().accepted
    assert bus.stats().balanced
    for result in results:
        assert result.latency < 6 + LATE
        if result.topic == other:
            assert result.success
        elif not result.success:
            assert error_of(result).retriable
    undisturbed.check(read_kafka_topic(kafka.bootstrap_servers, other))
    # The acknowledged events of the deleted topic went with it.
    stored = read_kafka_topic(kafka.bootstrap_servers, topic)
    assert len({e.event_id for e in stored}) == len(stored) > 0
    assert order_kept(stored)


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


# -- crashes and silence ---------------------------------------------------------------


class Load:
    """
    Four threads that publish, each for aggregates of its own, while the block lasts.

    Attributes:
        accepted: the events that were accepted, in order for each aggregate.
        results: after the block, what became of them.
    """

    def __init__(self, bus: EventBus, topic: str, name: str = "order") -> None:
        self.bus = bus
        self.topic = topic
        self.accepted: list[str] = []
        self.results: list[PublishResult] = []
        self.acked = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._publish, args=(f"{name}-{lane}",))
            for lane in range(4)
        ]

    def __enter__(self) -> Self:
        self.bus.register_publish_callback(self._count)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)
        eventually(lambda: len(self.results) == len(self.accepted), 60)

    def goes_on(self, events: int, timeout: float = 60) -> None:
        """So many more events are acked."""
        enough = self.acked + events
        eventually(lambda: self.acked >= enough, timeout)

    def _publish(self, lane: str) -> None:
        for number in itertools.count():
            one = event(number, f"{lane}-{number % 3}")
            while not self._stop.is_set():
                try:
                    self.bus.publish_envelope(self.topic, one, timeout=0.5)
                except BackendBusy:
                    continue
                self.accepted.append(one.event_id)
                break
            # Some hundred events a second are load enough.
            if self._stop.wait(0.005):
                return

    def _count(self, result: PublishResult) -> None:
        if result.topic == self.topic:
            self.results.append(result)
            self.acked += result.success

    def check(self, stored: list[StoredEvent], *, in_order: bool = True) -> None:
        """Acked ⊆ stored ⊆ acked and unknown, each once, and in order."""
        ends = collections.defaultdict[Outcome, set[str]](set)
        for result in self.results:
            ends[result.outcome].add(result.event_id)
        ids = [one.event_id for one in stored]
        assert sorted(r.event_id for r in self.results) == sorted(self.accepted)
        assert len(ids) == len(set(ids))
        assert ends[Outcome.ACKED] <= set(ids)
        assert set(ids) <= ends[Outcome.ACKED] | ends[Outcome.UNKNOWN]
        assert order_kept(stored) or not in_order


def test_promise_1_5_and_6_across_a_crash(
    kafka: ApacheKafka, open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """Kill -9 and restart under load: all is acked, stored once, in order, and goes on."""
    bus, topic = open_bus(delivery_timeout=60.0), create_topic(partitions=3)
    with Load(bus, topic) as load:
        load.goes_on(1000)
        kafka.kill()
        eventually(lambda: bus.stats().in_flight > 100)
        eventually(lambda: bus.health().connected is False)
        kafka.start()
        load.goes_on(1000)
    assert {r.outcome for r in load.results} == {Outcome.ACKED}
    load.check(read_kafka_topic(kafka.bootstrap_servers, topic))
    assert bus.health().connected is True
    assert bus.health().reconnects >= 1
    assert bus.stats().balanced


def test_promise_1_5_and_6_across_crashes_longer_than_the_timeout(
    kafka: ApacheKafka, open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """Outcomes come in time and say what is wrong; afterwards publishing goes on."""
    bus, topic = open_bus(delivery_timeout=2.0), create_topic(partitions=3)
    with Load(bus, topic) as load:
        load.goes_on(1000)
        kafka.kill()
        eventually(lambda: bus.stats().unknown > 500, 30)
        kafka.start()
        load.goes_on(1000)
    load.check(read_kafka_topic(kafka.bootstrap_servers, topic))
    for result in load.results:
        assert result.latency < 2 + LATE
        if not result.success:
            assert isinstance(result.error, PublishUnknown)
            assert "last connection error" in str(result.error)


@pytest.fixture
def freezable(kafka: ApacheKafka) -> Iterator[ApacheKafka]:
    """The node, which runs on after the test whatever happens."""
    yield kafka
    kafka.resume()


def test_promise_1_5_and_6_across_a_short_silence(
    freezable: ApacheKafka, open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """A broker that stands still for less than delivery_timeout only costs time."""
    bus, topic = open_bus(delivery_timeout=30.0), create_topic(partitions=3)
    with Load(bus, topic) as load:
        load.goes_on(1000)
        freezable.freeze()
        thaw = threading.Timer(4, freezable.resume)
        thaw.start()
        thaw.join()
        load.goes_on(1000)
    assert {r.outcome for r in load.results} == {Outcome.ACKED}
    load.check(read_kafka_topic(freezable.bootstrap_servers, topic))


def test_promise_1_and_5_across_a_long_silence(
    freezable: ApacheKafka, open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """Outcomes come in time; the producer may be fenced, and yet publishing goes on."""
    bus, topic = open_bus(delivery_timeout=2.0), create_topic(partitions=3)
    errors: list[EventBusError] = []
    bus.set_error_handler(errors.append)
    with Load(bus, topic) as load:
        load.goes_on(1000)
        freezable.freeze()
        eventually(lambda: bus.stats().unknown > 1000, 30)
        freezable.resume()
        load.goes_on(1000)
    # A producer that was replaced does not keep the order.
    replaced = any(isinstance(error, ProducerLost) for error in errors)
    stored = read_kafka_topic(freezable.bootstrap_servers, topic)
    load.check(stored, in_order=not replaced)
    assert {r.outcome for r in load.results} == {Outcome.ACKED, Outcome.UNKNOWN}
    assert max(r.latency for r in load.results) < 2 + LATE
    assert any(isinstance(error, BrokerUnreachable) for error in errors)
    assert bus.stats().balanced


def test_promise_1_and_3_a_broker_that_comes_later(
    kafka: ApacheKafka, open_bus: OpenBus, create_topic: CreateTopic
) -> None:
    """Events wait ten seconds for their first broker, their publisher does not."""
    topic = create_topic()
    kafka.kill()
    late = threading.Timer(6, kafka.start)  # which takes some seconds too
    late.start()
    try:
        bus = open_bus(delivery_timeout=60.0)
        began = time.monotonic()
        for number in range(200):
            bus.publish_envelope(topic, event(number))
        assert time.monotonic() - began < 3 + SLACK
        eventually(lambda: bus.health().connected is False)
        with pytest.raises(BrokerUnreachable, match="Connection refused"):
            bus.start(1)
        bus.start(60)
        results = outcomes(bus, 200)
    finally:
        late.join()
    assert {r.outcome for r in results} == {Outcome.ACKED}
    assert min(r.latency for r in results) > 6
    stored = read_kafka_topic(kafka.bootstrap_servers, topic)
    assert len(stored) == 200
    assert order_kept(stored)
