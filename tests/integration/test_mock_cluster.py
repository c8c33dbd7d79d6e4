"""Each order that the mock cluster takes reaches a real producer."""

import socket
import threading
import time

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from confluent_kafka import KafkaError, KafkaException, Producer
from support.eventually import eventually
from support.loopback import refuses

from eventbus_sync.testing import (
    ApiKey,
    BrokerNotInstalled,
    MockKafkaCluster,
    _librdkafka,
)


DISCONNECT = KafkaError._TRANSPORT


@pytest.fixture
def cluster() -> Iterator[MockKafkaCluster]:
    with MockKafkaCluster(2) as running:
        running.create_topic("t", partitions=2, replicas=2)
        yield running


@pytest.fixture
def producer(cluster: MockKafkaCluster) -> Iterator[Producer]:
    """Retries nothing for longer than ten seconds and says nothing on stderr."""
    settings = {
        "bootstrap.servers": cluster.bootstrap_servers,
        "message.timeout.ms": 10_000,
        "retry.backoff.ms": 10,
        "retry.backoff.max.ms": 50,
        "reconnect.backoff.ms": 10,
        "reconnect.backoff.max.ms": 100,
        "topic.metadata.refresh.interval.ms": 200,
        "log_level": 0,
    }
    with Producer(settings) as client:
        yield client
        client.purge()


def outcome(producer: Producer, topic: str = "t", partition: int = 0) -> int | None:
    """Publishes one message; the error code of its report, None for none."""
    reports: list[KafkaError | None] = []
    producer.produce(
        topic, b"x", partition=partition, on_delivery=lambda e, _: reports.append(e)
    )
    producer.flush(15)
    (error,) = reports
    return None if error is None else error.code()


def test_bootstrap_servers_are_one_per_broker(cluster: MockKafkaCluster) -> None:
    assert len(cluster.bootstrap_servers.split(",")) == 2
    with pytest.raises(ValueError, match="at least 1"):
        MockKafkaCluster(0)


def test_a_topic_is_made_once(cluster: MockKafkaCluster, producer: Producer) -> None:
    topic = producer.list_topics("t", timeout=5).topics["t"]
    assert len(topic.partitions) == 2
    with pytest.raises(ValueError, match="TOPIC_ALREADY_EXISTS"):
        cluster.create_topic("t")


def test_retriable_errors_are_used_up_one_by_one(
    cluster: MockKafkaCluster, producer: Producer
) -> None:
    cluster.push_request_errors(
        ApiKey.PRODUCE, KafkaError.NOT_ENOUGH_REPLICAS, DISCONNECT
    )
    assert outcome(producer) is None


def test_final_errors_arrive(cluster: MockKafkaCluster, producer: Producer) -> None:
    refused = KafkaError.INVALID_RECORD
    cluster.push_request_errors(ApiKey.PRODUCE, refused)
    assert outcome(producer) == refused
    assert outcome(producer) is None


def test_errors_can_be_taken_back(
    cluster: MockKafkaCluster, producer: Producer
) -> None:
    cluster.push_request_errors(ApiKey.PRODUCE, *[KafkaError.INVALID_RECORD] * 9)
    assert outcome(producer) == KafkaError.INVALID_RECORD
    cluster.clear_request_errors(ApiKey.PRODUCE)
    assert outcome(producer) is None


def test_late_and_wrong_answers_of_one_broker(
    cluster: MockKafkaCluster, producer: Producer
) -> None:
    cluster.set_partition_leader("t", 0, 1)
    assert outcome(producer) is None
    cluster.push_request_error_rtts(
        1, ApiKey.PRODUCE, (0, 0.3), (KafkaError.INVALID_RECORD, 0.0)
    )
    begun = time.monotonic()
    assert outcome(producer) is None
    assert time.monotonic() - begun >= 0.3
    assert outcome(producer) == KafkaError.INVALID_RECORD


def test_errors_of_one_partition_leave_its_neighbour_alone(
    cluster: MockKafkaCluster, producer: Producer
) -> None:
    cluster.push_partition_errors("t", 1, ApiKey.PRODUCE, KafkaError.INVALID_RECORD)
    assert outcome(producer, partition=0) is None
    assert outcome(producer, partition=1) == KafkaError.INVALID_RECORD
    with pytest.raises(ValueError, match="UNKNOWN_TOPIC_OR_PART"):
        cluster.push_partition_errors("t", 9, ApiKey.PRODUCE, DISCONNECT)


def test_a_topic_error_shows_in_metadata(
    cluster: MockKafkaCluster, producer: Producer
) -> None:
    denied = KafkaError.TOPIC_AUTHORIZATION_FAILED
    cluster.set_topic_error("t", denied)
    assert producer.list_topics("t", timeout=5).topics["t"].error.code() == denied
    cluster.set_topic_error("t", 0)
    assert producer.list_topics("t", timeout=5).topics["t"].error is None


def test_a_partition_without_leader_waits(
    cluster: MockKafkaCluster, producer: Producer
) -> None:
    reports: list[KafkaError | None] = []
    cluster.set_partition_leader("t", 0, None)
    producer.produce("t", b"x", partition=0, on_delivery=lambda e, _: reports.append(e))
    assert producer.flush(0.5) == 1
    cluster.set_partition_leader("t", 0, 2)
    producer.flush(10)
    assert reports == [None]


@pytest.mark.parametrize("broker", [1, None])
def test_down_is_down_until_up(
    cluster: MockKafkaCluster, producer: Producer, broker: int | None
) -> None:
    cluster.set_partition_leader("t", 0, 1)
    assert outcome(producer) is None
    cluster.set_broker_down(broker)
    reports: list[KafkaError | None] = []
    producer.produce("t", b"x", partition=0, on_delivery=lambda e, _: reports.append(e))
    assert producer.flush(0.5) == 1
    cluster.set_broker_up(broker)
    producer.flush(10)
    assert reports == [None]


def test_a_slow_cluster(cluster: MockKafkaCluster, producer: Producer) -> None:
    assert outcome(producer) is None
    cluster.set_rtt(None, 0.3)
    begun = time.monotonic()
    assert outcome(producer) is None
    assert time.monotonic() - begun >= 0.3
    cluster.set_rtt(1, 0)


def test_an_unknown_broker_is_refused(cluster: MockKafkaCluster) -> None:
    for order in (cluster.set_broker_down, cluster.set_broker_up):
        with pytest.raises(ValueError, match=r"\(9,\) was refused"):
            order(9)
    with pytest.raises(ValueError, match="was refused"):
        cluster.push_request_error_rtts(9, ApiKey.PRODUCE, (0, 0.1))


def test_closed_means_gone() -> None:
    cluster = MockKafkaCluster()
    port = int(cluster.bootstrap_servers.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)):
        cluster.close()
    cluster.close()
    assert refuses(port)
    with pytest.raises(RuntimeError, match="closed"):
        cluster.set_rtt(None, 0)


def test_a_forgotten_cluster_is_closed() -> None:
    port = int(MockKafkaCluster().bootstrap_servers.rpartition(":")[2])
    eventually(lambda: refuses(port))


def test_orders_from_many_threads_while_closing() -> None:
    """Every order is carried out or refused; none reaches a cluster that is gone."""
    cluster = MockKafkaCluster()
    refusals = []

    def order() -> None:
        try:
            while True:
                cluster.set_rtt(None, 0)
        except RuntimeError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=order) for _ in range(4)]
    for thread in threads:
        thread.start()
    cluster.close()
    for thread in threads:
        thread.join()
    assert refusals == ["the mock cluster is closed"] * 4


@pytest.mark.parametrize(
    "spec", [None, SimpleNamespace(origin="/nowhere/x/__init__.py")]
)
def test_without_a_librdkafka_the_error_names_the_wheel(
    spec: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: spec)
    with pytest.raises(BrokerNotInstalled, match="confluent-kafka"):
        _librdkafka.load.__wrapped__()


def test_an_error_that_is_no_delivery_report(cluster: MockKafkaCluster) -> None:
    """A cluster that is all down refuses even to be asked."""
    cluster.set_broker_down()
    settings = {"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0}
    with Producer(settings) as client, pytest.raises(KafkaException):
        client.list_topics(timeout=0.3)
