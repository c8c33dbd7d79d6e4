"""
The fault matrix, a cluster of three: Apache Kafka with acks=all, two of them in sync.

Four threads publish to it while its nodes die and freeze; each line ends with the books.
"""

import itertools
import time

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from support.apache_kafka import ApacheKafka, ApacheKafkaCluster, availability
from support.eventually import eventually
from support.load import Load
from support.rigs import unique

from eventbus_sync import EventBus, KafkaConfig, Outcome
from eventbus_sync.errors import DeliveryTimedOut, EventBusError, ProducerLost
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import StoredEvent, read_kafka_topic


pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.slow]

OpenBus = Callable[..., EventBus]
Leader = Callable[[], ApacheKafka]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApacheKafkaCluster]:
    """One cluster for this file; who breaks it mends it."""
    if reason := availability():
        skip_or_fail(reason)
    with ApacheKafkaCluster(3, auto_create_topics=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def admin(cluster: ApacheKafkaCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})


@pytest.fixture
def topic(cluster: ApacheKafkaCluster, admin: AdminClient) -> Iterator[str]:
    """A topic of one partition on every node; afterwards all nodes are up again."""
    name = unique("topic")
    admin.create_topics([NewTopic(name, 1, 3)])[name].result(30)
    eventually(lambda: cluster.in_sync(name), 30)
    yield name
    for node in cluster.nodes:
        node.start()
        node.resume()
    eventually(lambda: cluster.in_sync(name), 60)


@pytest.fixture
def open_bus(cluster: ApacheKafkaCluster) -> Iterator[OpenBus]:
    """A function that opens a bus, which ends with the test."""
    buses: list[EventBus] = []

    def open_bus(**settings: Any) -> EventBus:
        servers = cluster.bootstrap_servers
        bus = EventBus(KafkaConfig(bootstrap_servers=servers, **settings))
        buses.append(bus)
        return bus

    yield open_bus
    for bus in buses:
        bus.close(5)


@pytest.fixture
def leader(cluster: ApacheKafkaCluster, admin: AdminClient, topic: str) -> Leader:
    """A function that finds the node that leads the topic's partition."""

    def find() -> ApacheKafka:
        found = admin.list_topics(topic, timeout=5).topics[topic].partitions[0]
        return next(n for n in cluster.nodes if n.node_id == found.leader)

    return lambda: eventually(find, 30)


def stored(cluster: ApacheKafkaCluster, topic: str) -> list[StoredEvent]:
    """Return what the topic holds."""
    return read_kafka_topic(cluster.bootstrap_servers, topic, values=False)


def test_promises_1_2_5_and_6_the_leader_is_killed_and_comes_back(
    cluster: ApacheKafkaCluster,
    topic: str,
    leader: Leader,
    open_bus: OpenBus,
) -> None:
    """Twice under load, another one each time: all is acked, stored once, in order."""
    bus = open_bus(delivery_timeout=60.0)
    with Load(bus, topic) as load:
        for _ in range(2):
            load.goes_on()
            victim = leader()
            victim.kill()
            load.goes_on()
            eventually(lambda: leader() is not victim, 30)  # noqa: B023
            victim.start()
            eventually(lambda: cluster.in_sync(topic), 60)
    load.check(stored(cluster, topic))
    assert load.outcomes() == {Outcome.ACKED}


def test_promises_1_2_and_5_two_of_three_are_down(
    cluster: ApacheKafkaCluster,
    topic: str,
    leader: Leader,
    open_bus: OpenBus,
) -> None:
    """One alone stores and may not acknowledge: unknown in time, and stored once."""
    bus = open_bus(delivery_timeout=4.0)
    with Load(bus, topic) as load:
        load.goes_on()
        leads = leader()
        others = [node for node in cluster.nodes if node is not leads]
        for node in others:
            node.kill()
        eventually(lambda: bus.stats().unknown > 500, 60)
        acked = bus.stats().acked
        load.settles(200)
        assert bus.stats().acked == acked
        others[0].start()
        load.goes_on()
    failed = [r for r in load.results if not r.success]
    assert {r.outcome for r in failed} == {Outcome.UNKNOWN}
    # The younger ones end with the producer that might have stored them a second time.
    assert {type(r.error) for r in failed} == {DeliveryTimedOut, ProducerLost}
    load.check(stored(cluster, topic), in_order=False)


def test_promises_1_2_and_5_the_leader_is_frozen_for_longer_than_delivery_timeout(
    cluster: ApacheKafkaCluster,
    topic: str,
    leader: Leader,
    open_bus: OpenBus,
) -> None:
    """Another one takes over; the frozen one comes back and has no say any more."""
    # Less than the three seconds after which it is replaced as leader.
    bus = open_bus(delivery_timeout=2.0)
    errors: list[EventBusError] = []
    bus.set_error_handler(errors.append)
    with Load(bus, topic) as load:
        load.goes_on()
        victim = leader()
        victim.freeze()
        eventually(lambda: bus.stats().unknown > 100, 60)
        # Nobody but a new leader can acknowledge anything.
        load.goes_on()
        victim.resume()
        load.goes_on()
        eventually(lambda: cluster.in_sync(topic), 60)
        load.goes_on()
    assert load.outcomes() == {Outcome.ACKED, Outcome.UNKNOWN}
    replaced = any(isinstance(error, ProducerLost) for error in errors)
    load.check(stored(cluster, topic), in_order=not replaced)


@pytest.fixture
def parted(
    cluster: ApacheKafkaCluster, admin: AdminClient
) -> Iterator[tuple[str, ApacheKafka]]:
    """A topic of two partitions, each on one node only; and the node of the second."""
    name = unique("parted")
    first, second = cluster.nodes[:2]
    places = [[first.node_id], [second.node_id]]
    alone = {"min.insync.replicas": "1"}
    new = NewTopic(name, 2, replica_assignment=places, config=alone)
    admin.create_topics([new])[name].result(30)
    yield name, second
    second.start()
    second.resume()


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_partition_without_a_leader_costs_the_others_little(
    how: str,
    cluster: ApacheKafkaCluster,
    parted: tuple[str, ApacheKafka],
    open_bus: OpenBus,
) -> None:
    """
    Its events end as unknown; the other one goes on, with the same producer.

    That is given up once for each delivery_timeout at most, while a frozen node takes
    what it never answers; and for a dead one once, for what was on its way. (When it is
    back it may be too slow at first for what has waited, and is silent once more.)
    """
    topic, node = parted
    bus = open_bus(delivery_timeout=3.0)
    lost: list[float] = []

    def note(error: EventBusError) -> None:
        if isinstance(error, ProducerLost):
            lost.append(time.monotonic())

    bus.set_error_handler(note)
    with Load(bus, topic) as load:
        load.goes_on()
        node.kill() if how == "killed" else node.freeze()
        for _ in range(3):
            unknown = bus.stats().unknown
            eventually(lambda: bus.stats().unknown > unknown + 500, 60)  # noqa: B023
            load.goes_on()
        while_down = len(lost)
        node.start() if how == "killed" else node.resume()
        load.goes_on(3000)
    load.check(stored(cluster, topic), in_order=not lost)
    assert all(later - sooner > 2.5 for sooner, later in itertools.pairwise(lost))
    if how == "killed":
        assert while_down <= 1
    healthy = [r for r in load.results if r.partition == 0]
    ids = {r.event_id for r in healthy}
    stuck = load.with_outcome(topic, Outcome.UNKNOWN)
    # Nearly all that was not on its way when a producer was given up.
    assert len(healthy) > len(stuck) / 4
    assert not ids & stuck
