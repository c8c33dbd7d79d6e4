"""
The fault matrix, one broker: Apache Kafka that is killed, frozen and late.

Four threads publish to it meanwhile; each line ends with the books.
"""

import threading
import time

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from support.apache_kafka import ApacheKafka, availability
from support.eventually import eventually
from support.load import Load
from support.patience import SLACK, let_pass
from support.rigs import unique

from eventbus_sync import EventBus, KafkaConfig, Outcome
from eventbus_sync.errors import (
    BrokerUnreachable,
    EventBusError,
    ProducerLost,
    PublishUnknown,
)
from eventbus_sync.testing import TcpProxy
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import StoredEvent, read_kafka_topic


pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.slow]

OpenBus = Callable[..., EventBus]


@pytest.fixture(scope="module")
def node() -> Iterator[ApacheKafka]:
    """One node for this file."""
    if reason := availability():
        skip_or_fail(reason)
    with (
        TcpProxy() as proxy,
        ApacheKafka(auto_create_topics=False, proxy=proxy) as node,
    ):
        yield node


@pytest.fixture
def network(node: ApacheKafka) -> Iterator[TcpProxy]:
    """What is before it; whole again after the test."""
    assert node.proxy is not None
    yield node.proxy
    node.proxy.heal()


def in_doubt(network: TcpProxy, bus: EventBus) -> None:
    """Events are stored, and the answers to them are lost on their way."""
    network.mute()
    eventually(lambda: network.swallowed and bus.stats().in_flight > 100, 30)


@pytest.fixture
def kafka(node: ApacheKafka) -> Iterator[ApacheKafka]:
    """The node, which is well again after the test, whatever happens."""
    yield node
    node.start()
    node.resume()


@pytest.fixture
def topic(kafka: ApacheKafka) -> str:
    """A topic of three partitions."""
    name = unique("topic")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic(name, 3, 1)])[name].result(30)
    return name


@pytest.fixture
def open_bus(kafka: ApacheKafka) -> Iterator[OpenBus]:
    """A function that opens a bus, which ends with the test."""
    buses: list[EventBus] = []

    def open_bus(**settings: Any) -> EventBus:
        servers = kafka.bootstrap_servers
        bus = EventBus(KafkaConfig(bootstrap_servers=servers, **settings))
        buses.append(bus)
        return bus

    yield open_bus
    for bus in buses:
        bus.close(5)


def stored(kafka: ApacheKafka, topic: str) -> list[StoredEvent]:
    """Return what the topic holds."""
    return read_kafka_topic(kafka.bootstrap_servers, topic, values=False)


def test_promises_1_2_5_and_6_killed_and_started_again(
    kafka: ApacheKafka, network: TcpProxy, topic: str, open_bus: OpenBus
) -> None:
    """Kill -9 under load: all is acked, stored once, in order, and goes on."""
    # One batch of a partition at a time: of a producer's batches a node that was killed
    # still knows the last one, and of an older one it says that it is out of order.
    bus = open_bus(delivery_timeout=60.0, linger=2.0)
    with Load(bus, topic) as load:
        load.goes_on(1000)
        in_doubt(network, bus)
        kafka.kill()
        network.cut()
        eventually(lambda: bus.health().connected is False)
        kafka.start()
        network.heal()
        load.goes_on(1000)
    load.check(stored(kafka, topic))
    assert load.outcomes() == {Outcome.ACKED}
    assert bus.health().connected is True
    assert bus.health().reconnects >= 1


def test_promises_1_2_5_and_6_dead_for_longer_than_delivery_timeout(
    kafka: ApacheKafka, topic: str, open_bus: OpenBus
) -> None:
    """Outcomes come in time and say what is wrong; afterwards publishing goes on."""
    bus = open_bus(delivery_timeout=2.0)
    with Load(bus, topic) as load:
        load.goes_on(1000)
        kafka.kill()
        eventually(lambda: bus.stats().unknown > 500, 30)
        back = time.time()
        kafka.start()
        load.goes_on(1000)
    failed = [r for r in load.results if not r.success]
    assert all(isinstance(r.error, PublishUnknown) for r in failed)
    # A broker that is back may be slow at first, and then there is no such error.
    during = [r for r in failed if r.settled_at - r.latency < back]
    assert during
    assert all("last connection error" in str(r.error) for r in during)
    load.check(stored(kafka, topic))


def test_promises_1_2_5_and_6_frozen_for_a_while(
    kafka: ApacheKafka, network: TcpProxy, topic: str, open_bus: OpenBus
) -> None:
    """For less than delivery_timeout: that only costs time."""
    bus = open_bus(delivery_timeout=30.0)
    with Load(bus, topic) as load:
        load.goes_on(1000)
        # What it has read before it stands still is stored, and the driver hears of that
        # by nobody: it sends it again when the connection is given up.
        in_doubt(network, bus)
        kafka.freeze()
        network.heal()
        let_pass(4)
        kafka.resume()
        load.goes_on(1000)
    load.check(stored(kafka, topic))
    assert load.outcomes() == {Outcome.ACKED}


def test_promises_1_2_and_5_frozen_for_longer_than_delivery_timeout(
    kafka: ApacheKafka, topic: str, open_bus: OpenBus
) -> None:
    """Outcomes come in time; the producer may be fenced, and yet publishing goes on."""
    bus = open_bus(delivery_timeout=2.0)
    errors: list[EventBusError] = []
    bus.set_error_handler(errors.append)
    with Load(bus, topic) as load:
        load.goes_on(1000)
        kafka.freeze()
        eventually(lambda: bus.stats().unknown > 1000, 30)
        kafka.resume()
        load.goes_on(1000)
    assert load.outcomes() == {Outcome.ACKED, Outcome.UNKNOWN}
    # A producer that was replaced does not keep the order.
    replaced = any(isinstance(error, ProducerLost) for error in errors)
    load.check(stored(kafka, topic), in_order=not replaced)
    assert any(isinstance(e, BrokerUnreachable | ProducerLost) for e in errors)


def test_promises_1_2_3_5_and_6_ten_seconds_late(
    kafka: ApacheKafka, network: TcpProxy, topic: str, open_bus: OpenBus
) -> None:
    """Events wait for their first broker, their publishers and start() do not."""
    kafka.kill()
    network.cut()  # which a proxy that has no server is not by itself

    def come() -> None:
        kafka.start()  # which takes some seconds too
        network.heal()

    late = threading.Timer(6, come)
    late.start()
    try:
        bus = open_bus(delivery_timeout=60.0)
        with Load(bus, topic) as load:
            eventually(lambda: bus.stats().accepted > 1000, 6 + SLACK)
            assert bus.stats().acked == 0
            eventually(lambda: bus.health().connected is False)
            began = time.monotonic()
            with pytest.raises(BrokerUnreachable, match="Connection refused"):
                bus.start(1)
            assert time.monotonic() - began < 1 + SLACK
            bus.start(60)
            load.goes_on(2000)
    finally:
        late.join()
    assert load.outcomes() == {Outcome.ACKED}
    assert max(r.latency for r in load.results) > 6
    load.check(stored(kafka, topic))
