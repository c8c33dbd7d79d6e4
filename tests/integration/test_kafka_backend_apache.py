"""The Kafka back end against Apache Kafka: logins, permissions, crashes, as they are."""

from collections.abc import Iterator
from typing import Any

import pytest

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic
from support.apache_kafka import ApacheKafka, availability
from support.eventually import eventually
from support.kafka_running import Running

from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import Ack
from eventbus_sync.backends.kafka import poller as _kafka_poller
from eventbus_sync.errors import (
    AuthenticationFailed,
    DeliveryTimedOut,
    DestinationNotFound,
    NotAuthorized,
    PublishRejected,
    StartFailed,
)
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import read_kafka_topic


pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.slow]

USERS = {"alice": "alice-secret", "bob": "bob-secret"}
AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


@pytest.fixture(scope="module")
def kafka() -> Iterator[ApacheKafka]:
    """One node with users and ACLs, where topics don't appear by themselves."""
    if reason := availability():
        skip_or_fail(reason)
    properties = {
        "authorizer.class.name": AUTHORIZER,
        "super.users": "User:ANONYMOUS",
    }
    with ApacheKafka(
        users=USERS, properties=properties, auto_create_topics=False
    ) as server:
        yield server


@pytest.fixture
def running() -> Iterator[list[Running]]:
    """Back ends that are closed with the test."""
    made: list[Running] = []
    yield made
    for one in made:
        one.close()


def as_user(kafka: ApacheKafka, name: str, **settings: Any) -> Running:
    """A back end that logs in."""
    login = {
        "tls": True,
        "tls_ca": str(kafka.ca_file),
        "sasl_mechanism": "PLAIN",
        "username": name,
        "password": USERS[name],
    }
    return Running(kafka.sasl_bootstrap_servers, **{**login, **settings})


def create(kafka: ApacheKafka, one: Running, **config: str) -> None:
    """The topic of that back end exists."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    topic = NewTopic(one.topic, 1, 1, config=config)
    admin.create_topics([topic])[one.topic].result(20)


def allow(kafka: ApacheKafka, user: str, topic: str) -> None:
    """That user may write to that topic."""
    binding = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        AclOperation.WRITE,
        AclPermissionType.ALLOW,
    )
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    for future in admin.create_acls([binding]).values():
        future.result(20)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_login_over_tls(
    kafka: ApacheKafka,
    running: list[Running],
    monkeypatch: pytest.MonkeyPatch,
    mechanism: str,
) -> None:
    """With the right password and permission, events are stored."""
    # The broker takes a moment to learn of the permission.
    monkeypatch.setattr(_kafka_poller, "_REFUSED_BACKOFF", 0.2)
    running.append(one := as_user(kafka, "alice", sasl_mechanism=mechanism))
    create(kafka, one)
    allow(kafka, "alice", one.topic)

    def checked() -> bool:
        one.backend.check(Deadline.after(20))
        return True

    eventually(checked, 30)
    eventually(lambda: isinstance(one.outcome(), Ack), 30)


def test_a_wrong_password(kafka: ApacheKafka, running: list[Running]) -> None:
    """check() says so at once, a timed-out event names it, nothing shows the password."""
    one = as_user(kafka, "alice", password="wrong-secret", delivery_timeout=2)
    running.append(one)
    with pytest.raises(AuthenticationFailed, match="Authentication failed"):
        one.backend.check(Deadline.after(30))
    said = one.outcome()
    assert type(said) is DeliveryTimedOut
    assert "Authentication failed" in str(said)
    assert "secret" not in one.sink.text()


def test_an_authority_that_is_not_trusted(
    kafka: ApacheKafka, running: list[Running]
) -> None:
    """The broker's certificate is verified, and check() ends at once if it is not."""
    running.append(one := as_user(kafka, "alice", tls_ca=None))
    with pytest.raises(AuthenticationFailed, match="certificate verify failed"):
        one.backend.check(Deadline.after(30))


def test_no_permission_at_all(
    kafka: ApacheKafka, running: list[Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a producer id is granted; events are rejected, until somebody grants."""
    monkeypatch.setattr(_kafka_poller, "_REFUSED_BACKOFF", 0.5)
    running.append(one := as_user(kafka, "bob"))
    create(kafka, one)
    with pytest.raises(StartFailed, match="IdempotentWrite"):
        one.backend.check(Deadline.after(30))
    assert type(one.outcome()) is NotAuthorized
    running.append(plain := as_user(kafka, "bob", idempotence=False))
    plain.topic = one.topic
    plain.backend.check(Deadline.after(30))
    assert type(plain.outcome()) is NotAuthorized
    allow(kafka, "bob", one.topic)
    eventually(lambda: isinstance(one.outcome(), Ack), 30)
    eventually(lambda: isinstance(plain.outcome(), Ack), 30)


def test_an_absent_topic(kafka: ApacheKafka, running: list[Running]) -> None:
    """Rejected well before delivery_timeout, and stored once the topic is there."""
    running.append(one := Running(kafka.bootstrap_servers, delivery_timeout=9))
    said = one.outcome()
    assert type(said) is DestinationNotFound
    assert said.retriable
    create(kafka, one)
    eventually(lambda: isinstance(one.outcome(), Ack), 30)


def test_a_batch_that_is_too_large(kafka: ApacheKafka, running: list[Running]) -> None:
    """Its events are rejected but retriable; smaller batches get through."""
    running.append(one := Running(kafka.bootstrap_servers, linger=0.2))
    create(kafka, one, **{"max.message.bytes": "20000"})
    assert isinstance(one.outcome(), Ack)
    for said in one.outcomes(one.send(10, value=b"x" * 5000)):
        assert type(said) is PublishRejected
        assert said.retriable
    settings = {"linger": 0.2, "extra": {"batch.size": 10_000}}
    running.append(small := Running(kafka.bootstrap_servers, **settings))
    small.topic = one.topic
    for said in small.outcomes(small.send(10, value=b"x" * 5000)):
        assert isinstance(said, Ack)


def test_a_crash_loses_and_repeats_nothing(
    kafka: ApacheKafka, running: list[Running]
) -> None:
    """Killed and started again while events are published: stored once, in order."""
    running.append(one := Running(kafka.bootstrap_servers, delivery_timeout=60))
    create(kafka, one)
    assert isinstance(one.outcome(value=b"-1"), Ack)
    sent = one.send(5000)
    kafka.kill()
    sent += [one.send(value=b"%d" % number)[0] for number in range(5000, 6000)]
    kafka.start()
    sent += [one.send(value=b"%d" % number)[0] for number in range(6000, 7000)]
    assert all(isinstance(said, Ack) for said in one.outcomes(sent, 60))
    events = read_kafka_topic(kafka.bootstrap_servers, one.topic)
    assert [int(event.value) for event in events] == list(range(-1, 7000))
    assert one.sink.repeats() == 0


def test_a_long_standstill_does_not_end_publishing(
    kafka: ApacheKafka, running: list[Running]
) -> None:
    """Events of the meantime are unknown, later ones are stored."""
    running.append(one := Running(kafka.bootstrap_servers, delivery_timeout=3))
    create(kafka, one)
    assert isinstance(one.outcome(), Ack)
    kafka.freeze()
    said = one.outcomes(one.send(10))
    kafka.resume()
    assert {type(error) for error in said} == {DeliveryTimedOut}
    eventually(lambda: isinstance(one.outcome(), Ack), 30)
