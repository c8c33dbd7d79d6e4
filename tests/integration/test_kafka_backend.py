"""
The Kafka back end against brokers: what they say comes out as the right outcome.

librdkafka's mock cluster fails on command, tansu is a real broker that can be frozen.
"""

import contextlib
import json
import socket
import ssl
import sys
import threading
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from support.eventually import eventually
from support.kafka_running import Running
from support.patience import SLACK
from support.recording_sink import Sent
from support.rigs import unique

from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import Ack
from eventbus_sync.backends.kafka import poller as _kafka_poller
from eventbus_sync.backends.kafka.settings import SPARE_MESSAGES
from eventbus_sync.errors import (
    Abandoned,
    AuthenticationFailed,
    BackendBusy,
    BrokerUnreachable,
    BusClosed,
    ConnectionLost,
    DeliveryTimedOut,
    DestinationNotFound,
    MessageRefused,
    NotAuthorized,
    ProducerLost,
    PublishError,
    PublishRejected,
    StartFailed,
)
from eventbus_sync.testing import ApiKey, KafkaServer, MockKafkaCluster
from eventbus_sync.testing.readback import read_kafka_topic


pytestmark = pytest.mark.kafka

PARTITIONS = Path(__file__).parents[1] / "vectors" / "partitions.json"

# Nobody listens there.
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def running() -> Iterator[list[Running]]:
    """Back ends that are closed with the test."""
    made: list[Running] = []
    yield made
    for one in made:
        one.close()


@pytest.fixture
def mock() -> Iterator[MockKafkaCluster]:
    """A mock cluster of one broker."""
    with MockKafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def on_mock(mock: MockKafkaCluster, running: list[Running]) -> Running:
    """A back end on the mock cluster, with one topic of one partition."""
    running.append(one := Running(mock.bootstrap_servers, delivery_timeout=6))
    mock.create_topic(one.topic)
    return one


def driver_threads() -> int:
    """How many threads librdkafka runs in this process; 0 where nobody can tell."""
    names = Path("/proc/self/task").glob("*/comm")
    return sum(name.read_text().startswith("rdk:") for name in names)


def stored(servers: str, topic: str) -> list[Message]:
    """Everything in the topic, headers included, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "test",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=5).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found, unread = [], set(partitions)
        until = time.monotonic() + 20
        while unread:
            assert time.monotonic() < until
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    found.append(message)
                else:
                    unread.discard(message.partition())
        return found
    finally:
        consumer.close()


# -- what becomes of events ------------------------------------------------------------


def test_each_event_is_stored_once_and_acknowledged_once(
    kafka_server: KafkaServer, running: list[Running]
) -> None:
    """From several threads at once; the acknowledgement says where it is stored."""
    running.append(one := Running(kafka_server.bootstrap_servers))
    sent: list[list[Sent]] = [[] for _ in range(4)]

    def publish(lane: int) -> None:
        for number in range(500):
            delivery = Sent(number)
            message = one.message(b"%d:%d" % (lane, number), key=f"order-{lane}")
            one.backend.send(message, delivery, Deadline.after(5))
            sent[lane].append(delivery)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = {}
    for lane, deliveries in enumerate(sent):
        for number, said in enumerate(one.outcomes(deliveries)):
            assert isinstance(said, Ack)
            there[said.partition, said.offset] = b"%d:%d" % (lane, number)
    events = read_kafka_topic(kafka_server.bootstrap_servers, one.topic)
    assert {(e.partition, e.sequence): e.value for e in events} == there
    for lane in range(4):
        mine = [e.value for e in events if e.value.startswith(b"%d:" % lane)]
        assert mine == [b"%d:%d" % (lane, number) for number in range(500)]
    assert one.sink.states == [True]


@pytest.mark.parametrize(
    ("code", "kind", "maybe_delivered"),
    [
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, ProducerLost, True),
        (KafkaError.PRODUCER_FENCED, ProducerLost, True),
        (KafkaError.INVALID_PRODUCER_EPOCH, ProducerLost, True),
        (KafkaError.INVALID_PRODUCER_ID_MAPPING, ProducerLost, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, NotAuthorized, False),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, NotAuthorized, False),
        (KafkaError.MSG_SIZE_TOO_LARGE, PublishRejected, False),
        (KafkaError.INVALID_RECORD, PublishRejected, False),
        (KafkaError.NETWORK_EXCEPTION, ConnectionLost, True),
    ],
)
def test_an_error_ends_the_event_and_publishing_goes_on(
    mock: MockKafkaCluster,
    on_mock: Running,
    code: int,
    kind: type[PublishError],
    *,
    maybe_delivered: bool,
) -> None:
    """Every event of the batch gets its one outcome, retriable; the next is stored."""
    assert isinstance(on_mock.outcome(), Ack)
    mock.push_request_errors(ApiKey.PRODUCE, code)
    for said in on_mock.outcomes(on_mock.send(3)):
        assert type(said) is kind
        assert said.retriable
        assert said.maybe_delivered is maybe_delivered
    eventually(lambda: isinstance(on_mock.outcome(), Ack))
    assert on_mock.sink.repeats() == 0


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError._TRANSPORT,
    ],
)
def test_a_passing_error_costs_only_time(
    mock: MockKafkaCluster, on_mock: Running, code: int
) -> None:
    """The driver retries until delivery_timeout, and the event is stored once."""
    assert isinstance(on_mock.outcome(), Ack)
    mock.push_request_errors(ApiKey.PRODUCE, code, code)
    said = on_mock.outcomes(on_mock.send(3))
    assert all(isinstance(one, Ack) for one in said)
    assert len(stored(mock.bootstrap_servers, on_mock.topic)) == 4


def test_a_lasting_error_is_unknown_in_the_end(
    mock: MockKafkaCluster, running: list[Running]
) -> None:
    """Retried until delivery_timeout, then nobody can say whether it is stored."""
    running.append(one := Running(mock.bootstrap_servers, delivery_timeout=1))
    mock.create_topic(one.topic)
    mock.push_request_errors(ApiKey.PRODUCE, *[KafkaError.NOT_ENOUGH_REPLICAS] * 100)
    said = one.outcome()
    assert type(said) is DeliveryTimedOut
    assert said.maybe_delivered


def test_an_event_that_is_too_large_alone_is_refused_for_good(
    mock: MockKafkaCluster, running: list[Running]
) -> None:
    """It was alone in its batch, by its size or by chance; in company it is retried."""
    # Time enough for two events to meet in one batch.
    settings: dict[str, Any] = {"extra": {"batch.size": 1000}, "linger": 0.2}
    running.append(one := Running(mock.bootstrap_servers, **settings))
    mock.create_topic(one.topic)
    assert isinstance(one.outcome(), Ack)
    mock.push_request_errors(ApiKey.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
    large = one.outcome(value=b"x" * 1500)
    assert type(large) is MessageRefused
    assert not large.retriable
    mock.push_request_errors(ApiKey.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
    assert type(one.outcome()) is MessageRefused
    mock.push_request_errors(ApiKey.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
    together = one.outcomes(one.send(2))
    assert [getattr(said, "code", "acked") for said in together] == [
        "batch_too_large"
    ] * 2
    assert all(isinstance(e, PublishRejected) and e.retriable for e in together)


def test_a_refusal_after_an_unanswered_attempt_is_unknown(
    mock: MockKafkaCluster, running: list[Running]
) -> None:
    """The first attempt may have been stored; the second answer does not tell."""
    running.append(one := Running(mock.bootstrap_servers, delivery_timeout=6))
    mock.create_topic(one.topic)
    assert isinstance(one.outcome(), Ack)
    refused = KafkaError.TOPIC_AUTHORIZATION_FAILED
    mock.push_request_error_rtts(1, ApiKey.PRODUCE, (0, 3.0), (refused, 0.0))
    said = one.outcome()
    assert type(said) is ConnectionLost
    assert "TOPIC_AUTHORIZATION_FAILED" in str(said)


def test_an_absent_topic_is_found_out_before_the_event_times_out(
    mock: MockKafkaCluster, on_mock: Running
) -> None:
    """Rejected and retriable, also when produce() says so; healed when it appears."""
    absent = unique("absent")
    mock.set_topic_error(absent, KafkaError.UNKNOWN_TOPIC_OR_PART)
    for _ in range(3):
        said = on_mock.outcome(topic=absent)
        assert type(said) is DestinationNotFound
        assert said.retriable
    mock.set_topic_error(absent, KafkaError.NO_ERROR)
    eventually(lambda: isinstance(on_mock.outcome(topic=absent), Ack))


def test_a_revoked_permission_is_an_outcome_and_heals(
    mock: MockKafkaCluster, on_mock: Running
) -> None:
    """An ACL slip kills no backlog: each event is rejected, retriable, then stored."""
    assert isinstance(on_mock.outcome(), Ack)
    code = KafkaError.TOPIC_AUTHORIZATION_FAILED
    mock.set_topic_error(on_mock.topic, code)
    mock.push_request_errors(ApiKey.PRODUCE, code)
    said = on_mock.outcome()
    assert type(said) is NotAuthorized
    assert said.retriable
    mock.set_topic_error(on_mock.topic, KafkaError.NO_ERROR)
    eventually(lambda: isinstance(on_mock.outcome(), Ack))


def test_the_driver_never_finds_an_accepted_event_too_large(
    kafka_server: KafkaServer, running: list[Running]
) -> None:
    """An event of exactly max_message_bytes is stored."""
    running.append(
        one := Running(kafka_server.bootstrap_servers, max_message_bytes=50_000)
    )
    headers = [("h", "x")] * 10_000
    assert isinstance(one.outcome(value=b"x" * 30_000, headers=headers), Ack)
    assert isinstance(one.outcome(value=b"x" * 50_000, headers=[]), Ack)


# -- a producer is lost ----------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.PRODUCER_FENCED]
)
def test_a_lost_producer_is_replaced_and_leaves_nothing_behind(
    mock: MockKafkaCluster, on_mock: Running, code: int
) -> None:
    """Publishers don't notice, and the threads of the old one end."""
    assert isinstance(on_mock.outcome(), Ack)
    threads = driver_threads()
    mock.push_request_errors(ApiKey.PRODUCE, code)
    assert type(on_mock.outcome()) is ProducerLost
    assert isinstance(on_mock.outcome(), Ack)
    (report,) = on_mock.sink.reports
    assert type(report) is ProducerLost
    eventually(lambda: driver_threads() == threads)
    assert on_mock.sink.states == [True]


def test_publishing_while_producers_are_lost_again_and_again(
    mock: MockKafkaCluster, on_mock: Running
) -> None:
    """Each event of four busy publishers has one outcome, whatever it raced with."""
    sent: list[Sent] = []
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            sent.extend(on_mock.send(20, timeout=10))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for losses in range(1, 4):
        mock.push_request_errors(ApiKey.PRODUCE, KafkaError.PRODUCER_FENCED)
        eventually(lambda n=losses: len(on_mock.sink.reports) >= n)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    on_mock.outcomes(sent)
    assert on_mock.sink.repeats() == 0
    assert on_mock.sink.acked()


# The quick twin has a mock cluster that fences: test_a_lost_producer_is_replaced_….
@pytest.mark.slow
def test_a_broker_frozen_for_too_long_does_not_end_publishing(
    fresh_kafka_server: KafkaServer, running: list[Running]
) -> None:
    """It fences the old producer for ever; the next events are stored by a new one."""
    one = Running(fresh_kafka_server.bootstrap_servers, delivery_timeout=2)
    running.append(one)
    assert isinstance(one.outcome(), Ack)
    fresh_kafka_server.freeze()
    sent = one.send(10)
    for said in one.outcomes(sent):
        assert type(said) is DeliveryTimedOut
        assert "last connection error" in str(said)
    fresh_kafka_server.resume()
    eventually(lambda: isinstance(one.outcome(), Ack), 20)
    assert isinstance(one.outcome(), Ack)
    assert one.sink.repeats() == 0


def test_a_broker_frozen_for_a_while_costs_only_time(
    fresh_kafka_server: KafkaServer, running: list[Running]
) -> None:
    """Longer than one attempt, shorter than delivery_timeout: stored once, in order."""
    one = Running(fresh_kafka_server.bootstrap_servers, delivery_timeout=10)
    running.append(one)
    assert isinstance(one.outcome(), Ack)
    fresh_kafka_server.freeze()
    sent = one.send(100)
    eventually(lambda: "ProduceRequest" in one.sink.text(), 20)
    fresh_kafka_server.resume()
    assert all(isinstance(said, Ack) for said in one.outcomes(sent))
    events = read_kafka_topic(fresh_kafka_server.bootstrap_servers, one.topic)
    assert [e.value for e in events] == [b"0"] + [b"%d" % n for n in range(100)]


def test_a_refused_producer_id_is_a_configuration_error(
    mock: MockKafkaCluster, running: list[Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejected with what to do, no loop of new producers, and healed when mended."""
    code = KafkaError.CLUSTER_AUTHORIZATION_FAILED
    mock.push_request_errors(ApiKey.INIT_PRODUCER_ID, *[code] * 100)
    monkeypatch.setattr(_kafka_poller, "_REFUSED_BACKOFF", 0.5)
    running.append(one := Running(mock.bootstrap_servers))
    for said in (one.outcome(), one.outcome()):
        assert type(said) is NotAuthorized
        assert said.retriable
        assert "IdempotentWrite" in str(said)
        assert "idempotence=False" in str(said)
    eventually(lambda: one.backend._slot.verdict)
    with pytest.raises(StartFailed, match="IdempotentWrite"):
        one.backend.check(Deadline.after(5))
    one.backend.send_plain(one.message(b"plain"), Deadline.after(5))
    assert {type(report) for report in one.sink.reports} == {NotAuthorized}
    mock.clear_request_errors(ApiKey.INIT_PRODUCER_ID)
    eventually(lambda: isinstance(one.outcome(), Ack))


def test_a_producer_id_that_is_not_granted_yet(
    mock: MockKafkaCluster, running: list[Running]
) -> None:
    """check() says what the broker says, and events wait for it."""
    code = KafkaError.COORDINATOR_LOAD_IN_PROGRESS
    mock.push_request_errors(ApiKey.INIT_PRODUCER_ID, *[code] * 100)
    running.append(one := Running(mock.bootstrap_servers, delivery_timeout=10))
    (sent,) = one.send()
    with pytest.raises(StartFailed, match="Coordinator load in progress"):
        one.backend.check(Deadline.after(2))
    mock.clear_request_errors(ApiKey.INIT_PRODUCER_ID)
    assert isinstance(one.outcomes([sent])[0], Ack)


# -- connections -----------------------------------------------------------------------


def test_an_unreachable_broker(running: list[Running]) -> None:
    """Unknown in time, with the reason; check() says it too, within its deadline."""
    running.append(one := Running(NOWHERE, delivery_timeout=1))
    (sent,) = one.send()
    (said,) = one.outcomes([sent], timeout=3)
    assert type(said) is DeliveryTimedOut
    assert "refused" in str(said)
    began = time.monotonic()
    with pytest.raises(BrokerUnreachable, match="refused"):
        one.backend.check(Deadline.after(0.5))
    assert time.monotonic() - began < 1.5 + SLACK
    (state,) = one.sink.states
    assert isinstance(state, BrokerUnreachable)


def test_the_connection_comes_and_goes(
    mock: MockKafkaCluster, running: list[Running]
) -> None:
    """An idle back end tells about both, and events accepted meanwhile are stored."""
    running.append(one := Running(mock.bootstrap_servers))
    mock.create_topic(one.topic)
    one.backend.check(Deadline.after(10))
    assert one.sink.states == [True]
    mock.set_broker_down()
    eventually(lambda: len(one.sink.states) == 2)
    sent = one.send(3)
    mock.set_broker_up()
    eventually(lambda: len(one.sink.states) == 3)
    assert isinstance(one.sink.states[1], BrokerUnreachable)
    assert one.sink.states[2] is True
    assert all(isinstance(said, Ack) for said in one.outcomes(sent))


@pytest.fixture
def impostor() -> Iterator[str]:
    """Address of a TLS server whose certificate nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                context.wrap_socket(connection, server_side=True).close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield "{}:{}".format(*listener.getsockname())
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_refused_certificate_ends_check_at_once(
    impostor: str, running: list[Running]
) -> None:
    """No waiting for the deadline when nothing can get better; told once."""
    running.append(one := Running(impostor, tls=True, delivery_timeout=1))
    began = time.monotonic()
    with pytest.raises(AuthenticationFailed, match="certificate verify failed"):
        one.backend.check(Deadline.after(20))
    assert time.monotonic() - began < 10 + SLACK
    said = one.outcome()
    assert type(said) is DeliveryTimedOut
    assert "certificate verify failed" in str(said)
    assert type(one.sink.states[-1]) is AuthenticationFailed
    assert len(one.sink.states) <= 2


def test_without_idempotence(kafka_server: KafkaServer, running: list[Running]) -> None:
    """Events are acknowledged as well, and nothing needs a producer id."""
    running.append(one := Running(kafka_server.bootstrap_servers, idempotence=False))
    one.backend.check(Deadline.after(10))
    said = one.outcomes(one.send(100))
    assert [ack.offset for ack in said if isinstance(ack, Ack)] == list(range(100))


# -- on the wire -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 10])
def test_partitions_are_those_of_go(
    mock: MockKafkaCluster, running: list[Running], count: int
) -> None:
    """One aggregate is on one partition, whoever publishes it."""
    running.append(one := Running(mock.bootstrap_servers))
    mock.create_topic(one.topic, partitions=count)
    vectors = json.loads(PARTITIONS.read_text())["vectors"]
    for key, expected in vectors.items():
        said = one.outcome(key=key)
        assert isinstance(said, Ack)
        assert said.partition == expected[str(count)]


def test_everything_is_on_the_wire_as_it_was_given(
    kafka_server: KafkaServer, running: list[Running]
) -> None:
    """Key, body and headers byte for byte, the headers in their order."""
    running.append(one := Running(kafka_server.bootstrap_servers))
    headers = [("z", "1"), ("a", "ä\n"), ("z", ""), ("m", "a\0b"), ("é", " x ")]
    body = bytes(range(256))
    assert isinstance(one.outcome(value=body, key="order-ä", headers=headers), Ack)
    assert isinstance(one.outcome(key="", headers=[]), Ack)
    by_key = {m.key(): m for m in stored(kafka_server.bootstrap_servers, one.topic)}
    message = by_key["order-ä".encode()]
    assert message.value() == body
    assert message.headers() == [(name, text.encode()) for name, text in headers]
    assert not by_key[None].headers()


# -- limits and the end ----------------------------------------------------------------


def test_a_full_queue_is_backpressure(running: list[Running]) -> None:
    """More than the bus lets in flight is not accepted, after the deadline only."""
    running.append(one := Running(NOWHERE, max_in_flight=1))
    one.send(SPARE_MESSAGES + 1)
    began = time.monotonic()
    with pytest.raises(BackendBusy, match="queue is full"):
        one.send(timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 2 + SLACK
    with pytest.raises(BackendBusy):
        one.backend.send_plain(one.message(b"plain"), Deadline.after(0.0))


def test_close_abandons_what_is_in_flight_and_keeps_its_deadline(
    fresh_kafka_server: KafkaServer,
) -> None:
    """A frozen broker holds nobody up; each event has one outcome; no thread is left."""
    threads = driver_threads()
    one = Running(fresh_kafka_server.bootstrap_servers)
    try:
        assert isinstance(one.outcome(), Ack)
        fresh_kafka_server.freeze()
        sent = one.send(100)
        began = time.monotonic()
    finally:
        one.close(2.0)
    assert time.monotonic() - began < 2.5 + SLACK
    assert {type(said) for said in one.outcomes(sent)} == {Abandoned}
    assert driver_threads() == threads
    with pytest.raises(BusClosed):
        one.send()
    one.close()


def test_close_during_hard_work(kafka_server: KafkaServer) -> None:
    """Publishers are told in the middle of it; what they had accepted is settled."""
    one = Running(kafka_server.bootstrap_servers)
    sent: list[Sent] = []
    told: list[BusClosed] = []

    def publish() -> None:
        try:
            while True:
                delivery = Sent()
                one.backend.send(one.message(b"v"), delivery, Deadline.after(10))
                sent.append(delivery)
        except BusClosed as error:
            told.append(error)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: one.sink.acked() > 100)
    closers = [threading.Thread(target=one.close) for _ in range(2)]
    for thread in closers:
        thread.start()
    for thread in threads + closers:
        thread.join(20)
    assert len(told) == 4
    one.outcomes(sent)
    assert one.sink.repeats() == 0


def test_plain_messages_go_out_before_the_end(
    kafka_server: KafkaServer, running: list[Running]
) -> None:
    """close() gives them the time that is left, though nobody waits for outcomes."""
    one = Running(kafka_server.bootstrap_servers, linger=0.3)
    running.append(one)
    one.backend.check(Deadline.after(10))
    for number in range(10):
        message = one.message(b"%d" % number)
        one.backend.send_plain(message, Deadline.after(5))
    one.close()
    events = read_kafka_topic(kafka_server.bootstrap_servers, one.topic)
    assert [event.value for event in events] == [b"%d" % n for n in range(10)]
    assert not one.sink.reports


def test_nothing_is_written_to_standard_error(
    capfd: pytest.CaptureFixture[str], running: list[Running]
) -> None:
    """The driver's log goes to the sink, and nowhere else."""
    running.append(one := Running(NOWHERE, delivery_timeout=1))
    one.outcomes(one.send())
    one.close()
    sys.stderr.flush()
    assert capfd.readouterr().err == ""
    assert "FAIL" in one.sink.text()
