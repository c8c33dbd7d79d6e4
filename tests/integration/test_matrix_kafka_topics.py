"""
The fault matrix, topics: Apache Kafka that has none, deletes it, or refuses to write.

Four threads publish meanwhile; each line ends with the books.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.apache_kafka import ApacheKafka, availability
from support.eventually import eventually
from support.kafka_acls import GRANTED_ONLY, Grants
from support.load import Load
from support.rigs import unique

from eventbus_sync import EventBus, KafkaConfig, Outcome, PublishResult
from eventbus_sync.backends.kafka import poller
from eventbus_sync.errors import (
    DestinationNotFound,
    MessageRefused,
    NotAuthorized,
    PublishError,
)
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import StoredEvent, read_kafka_topic


pytestmark = [pytest.mark.kafka, pytest.mark.apache, pytest.mark.slow]

USERS = {"alice": "alice-secret", "bob": "bob-secret"}

OpenBus = Callable[..., EventBus]


@pytest.fixture(scope="module")
def kafka() -> Iterator[ApacheKafka]:
    """One node for this file, where users may do what they are granted."""
    if reason := availability():
        skip_or_fail(reason)
    with ApacheKafka(
        users=USERS, properties=GRANTED_ONLY, auto_create_topics=False
    ) as node:
        yield node


@pytest.fixture(scope="module")
def admin(kafka: ApacheKafka) -> Grants:
    return Grants(kafka.bootstrap_servers)


@pytest.fixture
def open_bus(kafka: ApacheKafka) -> Iterator[OpenBus]:
    """A function that opens a bus, of a user or of one who may do all."""
    buses: list[EventBus] = []

    def open_bus(user: str = "", **settings: Any) -> EventBus:
        if user:
            settings |= {
                "bootstrap_servers": kafka.sasl_bootstrap_servers,
                "tls": True,
                "tls_ca": str(kafka.ca_file),
                "sasl_mechanism": "PLAIN",
                "username": user,
                "password": USERS[user],
            }
        else:
            settings["bootstrap_servers"] = kafka.bootstrap_servers
        buses.append(bus := EventBus(KafkaConfig(**settings)))
        return bus

    yield open_bus
    for bus in buses:
        bus.close(5)


def stored(kafka: ApacheKafka, topic: str) -> list[StoredEvent]:
    """Return what the topic holds."""
    return read_kafka_topic(kafka.bootstrap_servers, topic, values=False)


def refused(load: Load, topic: str, *kinds: type[PublishError]) -> list[PublishResult]:
    """Return what failed there: all of it rejected, and of these kinds."""
    failed = [r for r in load.results if r.topic == topic and not r.success]
    assert {r.outcome for r in failed} == {Outcome.REJECTED}
    assert {type(r.error) for r in failed} == set(kinds)
    return failed


def test_promises_1_2_5_and_6_one_of_two_topics_is_absent(
    kafka: ApacheKafka, admin: Grants, open_bus: OpenBus
) -> None:
    """No broker makes it: rejected, while the other one flows; made, it is stored."""
    bus, there, absent = open_bus(delivery_timeout=6.0), admin.new_topic(), unique("t")
    with Load(bus, there, absent) as load:
        eventually(lambda: bus.stats().rejected > 500, 60)
        admin.new_topic(absent)
        eventually(lambda: load.with_outcome(absent, Outcome.ACKED), 60)
        load.goes_on()
    assert load.outcomes(there) == {Outcome.ACKED}
    for result in refused(load, absent, DestinationNotFound):
        assert result.error is not None
        assert result.error.retriable
    for topic in (there, absent):
        load.check(stored(kafka, topic), topic)


def test_promises_1_2_5_and_6_one_of_two_topics_is_deleted(
    kafka: ApacheKafka, admin: Grants, open_bus: OpenBus
) -> None:
    """Its events end, to be retried, until it is made anew; the other one flows."""
    # A third of it has the broker for an answer, on a busy machine too.
    bus = open_bus(delivery_timeout=15.0)
    other, topic = admin.new_topic(), admin.new_topic(partitions=1)
    with Load(bus, other, topic) as load:
        load.goes_on()
        old = stored(kafka, topic)
        admin.delete_topic(topic)
        # Results come in order: these are of the old topic, and all later ones are not.
        eventually(lambda: load.with_outcome(topic, Outcome.REJECTED), 90)
        before = load.with_outcome(topic, Outcome.ACKED)
        admin.new_topic(topic, partitions=1)
        eventually(lambda: load.with_outcome(topic, Outcome.ACKED) - before, 60)
        load.goes_on()
    assert load.outcomes(other) == {Outcome.ACKED}
    load.check(stored(kafka, other), other)
    load.check_outcomes(topic)
    for result in load.results:
        assert result.error is None or result.error.retriable
    new = [event.event_id for event in stored(kafka, topic)]
    acked = load.with_outcome(topic, Outcome.ACKED)
    unknown = load.with_outcome(topic, Outcome.UNKNOWN)
    assert {event.event_id for event in old} <= acked | unknown
    assert len(new) == len(set(new))
    assert acked - before <= set(new) <= acked - before | unknown


def test_promises_1_2_5_and_6_messages_larger_than_the_topic_takes(
    kafka: ApacheKafka, admin: Grants, open_bus: OpenBus
) -> None:
    """Refused for good, and not one beside them, as batches are within the limit."""
    limit = 20_000
    topic = admin.new_topic(max_message_bytes=str(limit))
    bus = open_bus(extra={"batch.size": 15_000})

    def payload(number: int) -> bytes:
        return b'"%s"' % (b"x" * (limit if number % 50 == 7 else 10))

    with Load(bus, topic, payload=payload) as load:
        load.settles(3000)
    for result in refused(load, topic, MessageRefused):
        assert int(result.event_id.rpartition("/")[2]) % 50 == 7
        assert result.error is not None
        assert not result.error.retriable
    load.check(stored(kafka, topic))


def test_promises_1_2_5_and_6_the_right_to_write_is_taken_away(
    kafka: ApacheKafka, admin: Grants, open_bus: OpenBus
) -> None:
    """Rejected from then on, while the other topic flows; given back, it is stored."""
    free, taken = admin.new_topic(), admin.new_topic()
    for topic in (free, taken):
        admin.grant_write("alice", topic)
    bus = open_bus("alice")
    with Load(bus, free, taken) as load:
        load.goes_on()
        admin.take_away("alice", taken)
        eventually(lambda: bus.stats().rejected > 500, 60)
        before = load.with_outcome(taken, Outcome.ACKED)
        admin.grant_write("alice", taken)
        eventually(lambda: load.with_outcome(taken, Outcome.ACKED) - before, 60)
        load.goes_on()
    assert load.outcomes(free) == {Outcome.ACKED}
    for result in refused(load, taken, NotAuthorized):
        assert "grant Write on the topic" in str(result.error)
    for topic in (free, taken):
        load.check(stored(kafka, topic), topic)


def test_promises_1_2_5_and_6_the_idempotent_write_is_refused(
    kafka: ApacheKafka,
    admin: Grants,
    open_bus: OpenBus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who gets no producer id has every event rejected, until it is granted."""
    monkeypatch.setattr(poller, "_REFUSED_BACKOFF", 0.3)
    topic = admin.new_topic()
    # Else the topic would be refused before anybody asks for a producer id.
    admin.grant_describe("bob", topic)
    bus = open_bus("bob")
    with Load(bus, topic) as load:
        eventually(lambda: bus.stats().rejected > 500, 60)
        assert bus.stats().acked == 0
        # Since Kafka 2.8 that comes with the right to write to some topic.
        admin.grant_write("bob", topic)
        load.goes_on()
    for result in refused(load, topic, NotAuthorized):
        assert "idempotence=False" in str(result.error)
    load.check(stored(kafka, topic))
