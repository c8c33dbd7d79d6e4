"""Apache Kafka nodes start, break, recover and keep what they were given."""

import socket

from collections.abc import Iterator, Mapping

import pytest

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

# The submodules, because the package does not declare that it exports these names.
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic
from support.apache_kafka import ApacheKafka, ApacheKafkaCluster, availability
from support.eventually import eventually
from support.loopback import refuses

from eventbus_sync.testing import BrokerStartFailed
from eventbus_sync.testing._kafka_metadata import ask_metadata
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing.pytest_plugin import skip_or_fail


pytestmark = [pytest.mark.kafka, pytest.mark.slow]

Settings = Mapping[str, str | int | bool]

USERS = {"alice": "alice-secret", "bob": "bob-secret"}


@pytest.fixture(scope="module", autouse=True)
def _available() -> None:
    if reason := availability():
        skip_or_fail(reason)


@pytest.fixture(scope="module")
def kafka() -> Iterator[ApacheKafka]:
    """One node with users and ACLs; a test that breaks it mends it."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with ApacheKafka(users=USERS, properties=properties) as server:
        yield server


def publish(servers: str, topic: str, count: int, more: Settings | None = None) -> int:
    """Publishes idempotently; the number acknowledged. Fails on any other outcome."""
    errors: list[KafkaError] = []
    acked = 0

    def report(error: KafkaError | None, _: object) -> None:
        nonlocal acked
        if error is None:
            acked += 1
        else:
            errors.append(error)

    settings = {
        "bootstrap.servers": servers,
        "enable.idempotence": True,
        "log_level": 0,
        **(more or {}),
    }
    with Producer(settings) as producer:
        for number in range(count):
            producer.produce(topic, f"{topic}-{number}".encode(), on_delivery=report)
        producer.flush(60)
    assert errors == []
    return acked


def first_error(servers: str, topic: str, value: bytes, more: Settings) -> int | None:
    """Error code of one message's report, None if it was stored."""
    reports: list[KafkaError | None] = []
    settings = {"bootstrap.servers": servers, "log_level": 0, **more}
    with Producer(settings) as producer:
        producer.produce(
            topic, value, on_delivery=lambda error, _: reports.append(error)
        )
        producer.flush(30)
    (error,) = reports
    return None if error is None else error.code()


def stored(servers: str, topic: str) -> list[str]:
    """Every value of the topic's only partition, in order."""
    settings = {"bootstrap.servers": servers, "group.id": "readback", "log_level": 0}
    consumer = Consumer(settings)
    try:
        partition = TopicPartition(topic, 0, 0)
        _, end = consumer.get_watermark_offsets(partition, timeout=20)
        consumer.assign([partition])
        values: list[str] = []

        def enough() -> bool:
            messages = consumer.consume(10_000, timeout=0.5)
            values.extend((message.value() or b"").decode() for message in messages)
            return len(values) >= end

        eventually(enough, 20)
        return values
    finally:
        consumer.close()


def create_topic(servers: str, topic: str) -> AdminClient:
    """The topic exists; the client that made it."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    return admin


def login(kafka: ApacheKafka, user: str, mechanism: str = "PLAIN") -> Settings:
    return {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(kafka.ca_file),
        "sasl.mechanism": mechanism,
        "sasl.username": user,
        "sasl.password": USERS[user],
    }


def test_ten_thousand_survive_a_kill_and_a_restart(kafka: ApacheKafka) -> None:
    """What was acknowledged is there, in order and once, also after kill -9."""
    port = kafka.port
    expected = [f"many-{number}" for number in range(10_000)]
    assert publish(kafka.bootstrap_servers, "many", 10_000) == 10_000
    assert stored(kafka.bootstrap_servers, "many") == expected
    kafka.kill()
    assert refuses(port)
    kafka.start()
    assert stored(kafka.bootstrap_servers, "many") == expected
    kafka.restart()
    assert kafka.port == port
    assert stored(kafka.bootstrap_servers, "many") == expected


def test_a_frozen_node_takes_connections_and_answers_nothing(
    kafka: ApacheKafka,
) -> None:
    kafka.freeze()
    assert not refuses(kafka.port)
    assert ask_metadata(kafka.port, timeout=0.5) is None
    kafka.resume()
    eventually(lambda: ask_metadata(kafka.port), 30)
    assert publish(kafka.bootstrap_servers, "thawed", 10) == 10


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_sasl_over_tls(kafka: ApacheKafka, mechanism: str) -> None:
    """A user gets in by password and a verified certificate, and is held to the ACLs."""
    topic = f"login-{mechanism}"
    settings = login(kafka, "alice", mechanism)
    admin = create_topic(kafka.bootstrap_servers, topic)
    allow = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        "User:alice",
        "*",
        AclOperation.WRITE,
        AclPermissionType.ALLOW,
    )
    for future in admin.create_acls([allow]).values():
        future.result(20)
    eventually(
        lambda: first_error(kafka.sasl_bootstrap_servers, topic, b"x", settings) is None
    )
    assert stored(kafka.bootstrap_servers, topic) == ["x"]
    refused = first_error(
        kafka.sasl_bootstrap_servers, topic, b"y", login(kafka, "bob", mechanism)
    )
    assert refused == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"sasl.password": "wrong"}, KafkaError._AUTHENTICATION),
        ({"ssl.ca.location": ""}, KafkaError._SSL),
    ],
)
def test_wrong_passwords_and_unknown_authorities_are_refused(
    kafka: ApacheKafka, wrong: Settings, complaint: int
) -> None:
    errors: list[int] = []
    settings = {
        "bootstrap.servers": kafka.sasl_bootstrap_servers,
        "log_level": 0,
        "error_cb": lambda error: errors.append(error.code()),
        **login(kafka, "alice"),
        **wrong,
    }
    with Producer(settings) as client:

        def told() -> bool:
            client.poll(0.1)
            return complaint in errors

        eventually(told)


def test_properties_win_and_topics_need_not_appear_by_themselves() -> None:
    limit = {"message.max.bytes": "20000"}
    with ApacheKafka(auto_create_topics=False, properties=limit) as server:
        servers = server.bootstrap_servers
        settings: Settings = {"topic.metadata.propagation.max.ms": 500}
        unknown = {KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}
        assert first_error(servers, "t", b"x", settings) in unknown
        create_topic(servers, "t")
        assert first_error(servers, "t", b"x", {}) is None
        too_large = KafkaError.MSG_SIZE_TOO_LARGE
        assert first_error(servers, "t", b"x" * 30_000, {}) == too_large


def test_a_taken_port_is_told() -> None:
    with socket.socket() as holder:
        port = free_port()
        holder.bind((HOST, port))
        with pytest.raises(BrokerStartFailed, match="in use") as caught:
            ApacheKafka(ports=(port, free_port())).start()
    assert caught.value.port_taken


def test_a_cluster_outlives_any_node() -> None:
    """Replication 3, two in sync: nothing is lost while a node is dead or frozen."""
    with ApacheKafkaCluster(3) as cluster:
        servers = cluster.bootstrap_servers
        published = publish(servers, "t", 1000)
        cluster.nodes[0].kill()
        published += publish(servers, "t", 1000)
        cluster.nodes[0].start()
        eventually(lambda: cluster.in_sync("t"), 30)
        cluster.nodes[1].freeze()
        published += publish(servers, "t", 1000)
        cluster.nodes[1].resume()
        eventually(lambda: cluster.in_sync("t"), 30)
        assert published == 3000
        cluster.stop()
        assert all(refuses(node.port) for node in cluster.nodes)
        cluster.start()
        assert stored(servers, "t") == [f"t-{n}" for n in range(1000)] * 3


def test_a_cluster_whose_port_was_taken_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        port = free_port()
        holder.bind((HOST, port))
        ports = iter([port])
        monkeypatch.setattr(
            "support.apache_kafka.free_port", lambda: next(ports, None) or free_port()
        )
        with ApacheKafkaCluster(2) as cluster:
            assert port not in {node.port for node in cluster.nodes}
