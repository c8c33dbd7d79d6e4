"""What is stored, read back: complete, in order, over restarts, with clear refusals."""

import itertools
import threading
import time

from collections.abc import Callable
from typing import Any

import pytest

from confluent_kafka import KafkaError
from support.eventually import eventually
from support.patience import SLACK
from support.rigs import unique

from eventbus_sync import Envelope, EventBus, KafkaConfig, NatsConfig
from eventbus_sync.testing import (
    ApiKey,
    KafkaServer,
    MockKafkaCluster,
    NatsServer,
    readback,
)
from eventbus_sync.testing.readback import (
    ReadBackFailed,
    StoredEvent,
    read_kafka_topic,
    read_nats_stream,
)


pytestmark = pytest.mark.slow


def publish(bus: EventBus, topic: str, count: int) -> list[str]:
    """Publish *count* events, see them acked, and return their ids in order."""
    with bus:
        ids = [
            bus.publish_envelope(topic, Envelope(f"order-{n % 7}", "Made", 1, {"n": n}))
            for n in range(count)
        ]
        assert bus.flush(30) == 0
        assert bus.stats().acked == count
    return ids


def stream_bus(server: NatsServer, stream: str) -> EventBus:
    """Return a bus whose stream takes everything below the stream's name."""
    return EventBus(
        NatsConfig(servers=server.url, stream=stream, subjects=[f"{stream}.>"])
    )


# -- NATS ------------------------------------------------------------------------------


@pytest.mark.nats
def test_a_stream_comes_back_whole_and_in_order(nats_server: NatsServer) -> None:
    stream = unique("STREAM")
    ids = publish(stream_bus(nats_server, stream), f"{stream}.orders", 3000)
    stored = read_nats_stream(nats_server.url, stream)
    assert [event.event_id for event in stored] == ids
    assert [event.sequence for event in stored] == list(range(1, 3001))
    assert stored[8] == StoredEvent(
        ids[8], "order-1", f"{stream}.orders", 0, 9, stored[8].value
    )
    assert b'"payload":{"n":8}}' in stored[8].value


@pytest.mark.nats
def test_a_stream_without_its_bodies(nats_server: NatsServer) -> None:
    stream = unique("STREAM")
    ids = publish(stream_bus(nats_server, stream), f"{stream}.orders", 5)
    stored = read_nats_stream(nats_server.url, stream, values=False)
    assert [(event.event_id, event.value) for event in stored] == [
        (i, b"") for i in ids
    ]


@pytest.mark.nats
def test_one_subject_of_a_stream(nats_server: NatsServer) -> None:
    stream = unique("STREAM")
    ids = publish(stream_bus(nats_server, stream), f"{stream}.a", 3)
    publish(stream_bus(nats_server, stream), f"{stream}.b", 3)
    stored = read_nats_stream(nats_server.url, stream, subject=f"{stream}.a")
    assert [event.event_id for event in stored] == ids
    assert read_nats_stream(nats_server.url, stream, subject=f"{stream}.none") == []
    assert len(read_nats_stream(nats_server.url, stream)) == 6


@pytest.mark.nats
def test_an_empty_stream(nats_server: NatsServer) -> None:
    stream = unique("STREAM")
    config = NatsConfig(servers=nats_server.url, stream=stream)
    with EventBus(config) as bus:
        bus.start(10)
    assert read_nats_stream(config, stream) == []


@pytest.mark.nats
def test_messages_that_are_no_events(nats_server: NatsServer) -> None:
    stream = unique("STREAM")
    with stream_bus(nats_server, stream) as bus:
        bus.start(10)
        bus.publish(f"{stream}.plain", b"hello")
        (stored,) = eventually(lambda: read_nats_stream(nats_server.url, stream))
    assert (stored.event_id, stored.aggregate_id, stored.value) == ("", "", b"hello")


@pytest.mark.nats
def test_a_server_that_comes_back_is_waited_for(fresh_nats_server: NatsServer) -> None:
    server = fresh_nats_server
    ids = publish(stream_bus(server, "STREAM"), "STREAM.orders", 500)
    server.kill()
    late = threading.Timer(0.5, server.start)
    late.start()
    try:
        stored = read_nats_stream(server.url, "STREAM")
    finally:
        late.join()
    assert [event.event_id for event in stored] == ids


@pytest.mark.nats
def test_a_server_that_dies_meanwhile_is_read_again(
    fresh_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fresh_nats_server
    ids = publish(stream_bus(server, "STREAM"), "STREAM.orders", 5000)
    on_message = readback._Reading.on_message
    seen = itertools.count()

    async def kill_at_once(reading: readback._Reading, msg: Any) -> None:
        if next(seen) == 0:
            server.kill()
            server.start()
        await on_message(reading, msg)

    monkeypatch.setattr(readback._Reading, "on_message", kill_at_once)
    stored = read_nats_stream(server.url, "STREAM")
    assert [event.event_id for event in stored] == ids
    assert next(seen) > 5000


@pytest.mark.nats
def test_a_message_that_is_left_out_is_noticed(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a driver may do whose buffer is full: everything is read once more."""
    stream = unique("STREAM")
    ids = publish(stream_bus(nats_server, stream), f"{stream}.orders", 100)
    on_message = readback._Reading.on_message
    seen = itertools.count()

    async def leave_one_out(reading: readback._Reading, msg: Any) -> None:
        if next(seen) != 50:
            await on_message(reading, msg)

    monkeypatch.setattr(readback._Reading, "on_message", leave_one_out)
    stored = read_nats_stream(nats_server.url, stream)
    assert [event.event_id for event in stored] == ids


@pytest.mark.nats
def test_the_second_server_is_tried_too(
    nats_server: NatsServer, unused_tcp_port: int
) -> None:
    stream = unique("STREAM")
    ids = publish(stream_bus(nats_server, stream), f"{stream}.orders", 3)
    config = NatsConfig(servers=[f"127.0.0.1:{unused_tcp_port}", nats_server.url])
    assert [e.event_id for e in read_nats_stream(config, stream)] == ids


@pytest.mark.nats
def test_credentials_that_are_wrong_are_not_tried_for_ever() -> None:
    with NatsServer(config="authorization { token: secret }") as server:
        started = time.monotonic()
        with pytest.raises(ReadBackFailed, match="'S' could not be read at all"):
            read_nats_stream(server.url, "S")
        assert time.monotonic() - started < 10 + SLACK
        url = server.url.replace("://", "://secret@")
        with pytest.raises(ReadBackFailed, match="stream not found"):
            read_nats_stream(url, "S")


# -- Kafka -----------------------------------------------------------------------------


@pytest.mark.kafka
def test_a_topic_comes_back_whole_and_in_order(kafka_server: KafkaServer) -> None:
    topic = unique("topic")
    servers = kafka_server.bootstrap_servers
    config = KafkaConfig(bootstrap_servers=servers)
    ids = publish(EventBus(config), topic, 3000)
    stored = read_kafka_topic(servers, topic)
    assert sorted(event.event_id for event in stored) == sorted(ids)
    places = [(event.partition, event.sequence) for event in stored]
    assert places == sorted(set(places))
    for aggregate in {event.aggregate_id for event in stored}:
        line = [e.event_id for e in stored if e.aggregate_id == aggregate]
        assert line == [i for i in ids if i.startswith(f"{aggregate}:")]
    assert {event.topic for event in stored} == {topic}
    assert all(b'"payload"' in event.value for event in stored)
    assert {event.value for event in read_kafka_topic(config, topic, values=False)} == {
        b""
    }


@pytest.mark.kafka
def test_the_mock_cluster_can_be_read_too() -> None:
    with KafkaServer(kind="librdkafka-mock") as server:
        servers = server.bootstrap_servers
        ids = publish(EventBus(KafkaConfig(bootstrap_servers=servers)), "orders", 200)
        assert {e.event_id for e in read_kafka_topic(servers, "orders")} == set(ids)


@pytest.mark.kafka
def test_records_that_are_no_events(kafka_server: KafkaServer) -> None:
    topic = unique("topic")
    servers = kafka_server.bootstrap_servers
    with EventBus(KafkaConfig(bootstrap_servers=servers)) as bus:
        bus.publish(topic, b"hello")
        (stored,) = eventually(lambda: read_kafka_topic(servers, topic))
    assert (stored.event_id, stored.aggregate_id, stored.value) == ("", "", b"hello")


@pytest.mark.kafka
def test_a_broker_that_is_frozen_is_waited_for(fresh_kafka_server: KafkaServer) -> None:
    server = fresh_kafka_server
    servers = server.bootstrap_servers
    ids = publish(EventBus(KafkaConfig(bootstrap_servers=servers)), "orders", 50)
    server.freeze()
    late = threading.Timer(1.5, server.resume)
    late.start()
    try:
        stored = read_kafka_topic(servers, "orders")
    finally:
        late.join()
    assert {event.event_id for event in stored} == set(ids)


@pytest.mark.kafka
def test_a_broker_that_freezes_meanwhile(
    fresh_kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fresh_kafka_server
    servers = server.bootstrap_servers
    publish(EventBus(KafkaConfig(bootstrap_servers=servers)), "orders", 50)
    find = readback._partitions

    def find_and_freeze(*arguments: Any) -> list[int]:
        partitions = find(*arguments)
        server.freeze()
        return partitions

    monkeypatch.setattr(readback, "_partitions", find_and_freeze)
    with pytest.raises(ReadBackFailed, match="'orders' could not be read in time"):
        read_kafka_topic(servers, "orders", timeout=1.0)
    server.resume()


@pytest.mark.kafka
def test_a_broker_that_refuses_for_a_while() -> None:
    """Neither an error for the topic nor one for a partition is the end of it."""
    with MockKafkaCluster() as cluster:
        servers = cluster.bootstrap_servers
        ids = publish(EventBus(KafkaConfig(bootstrap_servers=servers)), "orders", 50)
        cluster.set_topic_error("orders", KafkaError.LEADER_NOT_AVAILABLE)
        with pytest.raises(ReadBackFailed, match="LEADER_NOT_AVAILABLE"):
            read_kafka_topic(servers, "orders", timeout=0.5)
        cluster.set_topic_error("orders", 0)
        # One after which the driver asks again soon; after a denial it lets 5 s pass.
        refused = KafkaError.REQUEST_TIMED_OUT
        for partition in range(4):
            cluster.push_partition_errors("orders", partition, ApiKey.FETCH, refused)
        stored = read_kafka_topic(servers, "orders")
    assert {event.event_id for event in stored} == set(ids)


@pytest.mark.kafka
def test_a_topic_that_is_not_there(kafka_server: KafkaServer) -> None:
    started = time.monotonic()
    with pytest.raises(ReadBackFailed, match="'absent' could not be read at all"):
        read_kafka_topic(kafka_server.bootstrap_servers, "absent")
    assert time.monotonic() - started < 10 + SLACK


# -- addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "scheme"), [(read_nats_stream, "nats"), (read_kafka_topic, "kafka")]
)
def test_nobody_listens_there(
    read: Callable[..., list[StoredEvent]], scheme: str, unused_tcp_port: int
) -> None:
    started = time.monotonic()
    address = f"{scheme}://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(ReadBackFailed, match="could not be read"):
        read(address, "orders", timeout=1.0)
    assert time.monotonic() - started < 8 + SLACK


def test_an_address_of_something_else() -> None:
    with pytest.raises(ReadBackFailed, match="no address of nats"):
        read_nats_stream("kafka://localhost", "S")
    with pytest.raises(ReadBackFailed, match="no address of kafka"):
        read_kafka_topic("nats://localhost", "orders")
