"""The Kafka back end over a driver that behaves as no test can make a real one do."""

import itertools
import json
import logging
import threading
import time

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from confluent_kafka import KafkaError, KafkaException
from support.eventually import eventually
from support.patience import SLACK
from support.recording_sink import RecordingSink, Sent

from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import Ack, OutgoingMessage
from eventbus_sync.backends.kafka import backend as kafka
from eventbus_sync.backends.kafka import client as _kafka_client
from eventbus_sync.backends.kafka import poller as _kafka_poller
from eventbus_sync.backends.kafka.backend import KafkaBackend
from eventbus_sync.backends.kafka.client import Client
from eventbus_sync.backends.kafka.link import Link
from eventbus_sync.config import KafkaConfig
from eventbus_sync.errors import (
    BackendBusy,
    BackendFailed,
    BrokerUnreachable,
    BusClosed,
    ConfigError,
    DeliveryTimedOut,
    EnvelopeError,
    MessageRefused,
    NotAuthorized,
    ProducerLost,
    StartFailed,
)


class FakeMessage:
    """What a delivery report brings."""

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 1

    def offset(self) -> int:
        return 7

    def key(self) -> bytes:
        return b"key"

    def __len__(self) -> int:
        return 100


class FakeProducer:
    """
    A driver's producer on command; what is produced is reported by the next poll.

    Class attributes apply to every producer that is made.
    """

    made: list["FakeProducer"]
    making: Callable[[], None]

    def __init__(self, settings: dict[str, Any]) -> None:
        type(self).making()
        self.settings = settings
        self.queue: list[Callable[[KafkaError | None, FakeMessage], None]] = []
        self.produced: list[tuple[Any, ...]] = []
        self.answering = True
        self.error: KafkaError | None = None
        self.purged = False
        self.ended = threading.Event()
        self.stuck = 0
        self.on_produce: Callable[[], None] = lambda: None
        self.on_poll: Callable[[], None] = lambda: None
        self.on_purge: Callable[[], None] = lambda: None
        self.made.append(self)

    def produce(self, *args: Any) -> None:
        self.on_produce()
        if self.closed:
            message = "Producer has been closed"
            raise RuntimeError(message)
        self.produced.append(args)
        if args[4] is not None:
            self.queue.append(args[4])

    def poll(self, timeout: float) -> int:
        self.on_poll()
        if not self.queue or not (self.answering or self.purged):
            self.idle(timeout)
            return 0
        reports, self.queue = self.queue, []
        error = KafkaError(KafkaError._PURGE_QUEUE) if self.purged else self.error
        for report in reports:
            report(error, FakeMessage())
        return 1

    def purge(self, *, in_queue: bool, in_flight: bool, blocking: bool) -> None:
        assert (in_queue, in_flight, blocking) == (True, True, True)
        self.on_purge()
        self.purged = True

    def list_topics(self, timeout: float) -> None:
        self.idle(timeout)

    def idle(self, timeout: float) -> None:
        """Wait as the driver does, which nothing but its end cuts short."""
        self.ended.wait(min(timeout, 0.01))

    def close(self) -> bool:
        self.ended.set()
        return True

    @property
    def closed(self) -> bool:
        return self.ended.is_set()

    def __len__(self) -> int:
        return len(self.queue) + self.stuck


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is replaced, and nobody waits for long."""
    monkeypatch.setattr(FakeProducer, "made", [], raising=False)
    monkeypatch.setattr(FakeProducer, "making", lambda: None, raising=False)
    monkeypatch.setattr(_kafka_client, "Producer", FakeProducer)
    monkeypatch.setattr(_kafka_poller, "_RETIRED_FOR", 0.0)
    monkeypatch.setattr(_kafka_poller, "_RETIRED_AT_MOST", 0.2)
    monkeypatch.setattr(_kafka_poller, "_EXPIRE_EVERY", 0.0)
    monkeypatch.setattr(_kafka_poller, "_CLOSE_AT_LEAST", 0.1)


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def backend(sink: RecordingSink) -> Iterator[KafkaBackend]:
    """A back end that runs."""
    running = new_backend(sink)
    running.start()
    yield running
    running.close(Deadline.after(5))


def new_backend(sink: RecordingSink, **settings: Any) -> KafkaBackend:
    """Return a back end that does not run yet."""
    return KafkaBackend(KafkaConfig(bootstrap_servers="127.0.0.1:1", **settings), sink)


def message(value: bytes = b"v", **more: Any) -> OutgoingMessage:
    """Return a small message."""
    parts: dict[str, Any] = {
        "topic": "t",
        "key": "k",
        "headers": [("X-Event-ID", "1")],
        "event_id": "1",
        "size": len(value),
    }
    return OutgoingMessage(value=value, **{**parts, **more})


def send(backend: KafkaBackend, number: int = 0, timeout: float = 5.0) -> Sent:
    """Send one message and return its delivery."""
    delivery = Sent(number)
    backend.send(message(), delivery, Deadline.after(timeout))
    return delivery


def only(sink: RecordingSink, delivery: Sent) -> Any:
    """Wait for the one outcome of a delivery."""
    (said,) = eventually(lambda: sink.of(delivery))
    return said


# -- before an event is accepted -------------------------------------------------------


def test_the_constructor_starts_nothing(sink: RecordingSink) -> None:
    """Neither a thread nor a producer exists before start(), and close() finds none."""
    before = threading.active_count()
    backend = new_backend(sink)
    assert threading.active_count() == before
    assert not FakeProducer.made
    backend.close(Deadline.after(1))
    with pytest.raises(BusClosed):
        send(backend)


@pytest.mark.parametrize("topic", ["a", "A.b_c-9", "x" * 249, "...", ".a"])
def test_legal_topics(sink: RecordingSink, topic: str) -> None:
    """What Kafka accepts is accepted, the second time from memory."""
    backend = new_backend(sink)
    backend.check_topic(topic)
    backend.check_topic(topic)


@pytest.mark.parametrize(
    "topic",
    ["", ".", "..", "x" * 250, "a b", "a/b", "ä", "a\n", "a\0", "\ud800", "a:b"],
)
def test_illegal_topics(sink: RecordingSink, topic: str) -> None:
    """What Kafka refuses is refused here, with what to use instead."""
    with pytest.raises(EnvelopeError, match="letters, digits") as caught:
        new_backend(sink).check_topic(topic)
    assert caught.value.field == "topic"


def test_the_memory_for_names_is_bounded(
    sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that makes up topics and headers does not fill the memory."""
    monkeypatch.setattr(kafka, "_MAX_KNOWN", 3)
    backend = new_backend(sink)
    for number in range(10):
        backend.check_topic(f"t{number}")
        backend.check_headers([(f"h{number}", "")])
    assert len(backend._known_topics) <= 3
    assert len(backend._known_headers) <= 3


@pytest.mark.parametrize("value", ["", " x ", "ä", "\0", "line\nbreak", "\U0001f600"])
def test_kafka_carries_any_text_in_a_header(sink: RecordingSink, value: str) -> None:
    """Kafka's headers are bytes: nothing that has UTF-8 is refused."""
    backend = new_backend(sink)
    backend.check_headers([("name", value), ("näme", value), ("name", value)])


@pytest.mark.parametrize(
    ("header", "field"),
    [
        (("name", "\ud800"), "name"),
        (("\ud800", "value"), "headers"),
        (("na\0me", "value"), "headers"),
    ],
)
def test_headers_that_cannot_be_encoded(
    sink: RecordingSink, header: tuple[str, str], field: str
) -> None:
    """What has no UTF-8 is refused; as a name it would crash the driver."""
    with pytest.raises(EnvelopeError) as caught:
        new_backend(sink).check_headers([("fine", "fine"), header])
    assert caught.value.field == field


# -- an event out ----------------------------------------------------------------------


def test_a_nul_in_a_header_is_sent_whole(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """The driver cuts texts at a NUL, so such headers are given to it as bytes."""
    headers = [("X-Event-Type", "a\0b"), ("X-Event-ID", "ä")]
    delivery = Sent()
    backend.send(message(headers=headers), delivery, Deadline.after(5))
    only(sink, delivery)
    (args,) = FakeProducer.made[0].produced
    assert args[7] == [("X-Event-Type", b"a\0b"), ("X-Event-ID", "ä".encode())]


def test_no_key_is_no_key(sink: RecordingSink, backend: KafkaBackend) -> None:
    """An empty key is none on the wire."""
    delivery = Sent()
    backend.send(message(key=""), delivery, Deadline.after(5))
    only(sink, delivery)
    assert FakeProducer.made[0].produced[0][2] is None


def test_room_in_the_queue_is_waited_for(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """A full queue is backpressure: the event goes out when there is room."""
    only(sink, send(backend))
    full = [BufferError("Local: Queue full")] * 3

    def refuse() -> None:
        if full:
            raise full.pop()

    FakeProducer.made[0].on_produce = refuse
    assert isinstance(only(sink, send(backend)), Ack)


def test_no_room_in_time(sink: RecordingSink, backend: KafkaBackend) -> None:
    """After the deadline the event is not accepted, and never settled."""
    only(sink, send(backend))
    FakeProducer.made[0].on_produce = raising(BufferError("Local: Queue full"))
    with pytest.raises(BackendBusy, match="queue is full"):
        send(backend, timeout=0.01)
    assert sink.settled() == 1


@pytest.mark.parametrize(
    ("raised", "ours"),
    [
        (TypeError("an integer is required"), EnvelopeError),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"), EnvelopeError),
        (MemoryError(), BackendFailed),
        (SystemError("error return without exception set"), BackendFailed),
    ],
)
def test_what_the_driver_raises_unforeseen(
    sink: RecordingSink,
    backend: KafkaBackend,
    raised: Exception,
    ours: type[Exception],
) -> None:
    """It leaves mapped and chained, and the event is not accepted."""
    only(sink, send(backend))
    FakeProducer.made[0].on_produce = raising(raised)
    with pytest.raises(ours) as caught:
        send(backend)
    assert caught.value.__cause__ is raised
    assert sink.settled() == 1


def test_a_closed_producer_is_passed_over(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """A publisher that held on to a retired producer takes the next one."""
    only(sink, send(backend))
    first = FakeProducer.made[0]
    first.on_produce = raising(RuntimeError("Producer has been closed"))
    late: list[Sent] = []
    publisher = threading.Thread(target=lambda: late.append(send(backend)))
    publisher.start()
    first.on_poll = raising(fatal())
    publisher.join(5)
    assert isinstance(only(sink, late[0]), Ack)
    assert len(FakeProducer.made) == 2


# -- the poll thread outlives anything -------------------------------------------------


def fatal() -> KafkaException:
    """Return what poll() raises after a fatal error."""
    code = KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
    return KafkaException(KafkaError(code, "desynchronised", fatal=True))


def raising(error: Exception) -> Callable[[], None]:
    """Return a function that raises *error*."""

    def action() -> None:
        raise error

    return action


def once(error: Exception) -> Callable[[], None]:
    """Return a function that raises *error* the first time."""
    left = [error]

    def action() -> None:
        if left:
            raise left.pop()

    return action


@pytest.mark.parametrize(
    "error",
    [
        SystemError("returned a result with an exception set"),
        KafkaException(KafkaError(KafkaError._FAIL)),
        MemoryError(),
    ],
)
def test_a_failing_poll_is_reported_and_survived(
    sink: RecordingSink, backend: KafkaBackend, error: Exception
) -> None:
    """What was in flight is unknown, and the next event goes out by a new producer."""
    only(sink, send(backend))
    first = FakeProducer.made[0]
    first.answering = False
    in_flight = send(backend)
    first.on_poll = once(error)
    assert isinstance(only(sink, in_flight), ProducerLost)
    assert isinstance(only(sink, send(backend)), Ack)
    (report,) = sink.reports
    assert isinstance(report, BackendFailed)
    assert report.__cause__ is error
    eventually(lambda: first.closed)
    assert sink.repeats() == 0


def test_a_log_line_that_is_no_text_is_survived(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """It costs neither the producer nor an outcome."""
    only(sink, send(backend))
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    FakeProducer.made[0].on_poll = once(error)
    assert isinstance(only(sink, send(backend)), Ack)
    assert len(FakeProducer.made) == 1
    assert not sink.reports


def test_a_failing_sink_is_survived(sink: RecordingSink, backend: KafkaBackend) -> None:
    """What a sink raises in the middle of a poll does not come out of the driver."""
    only(sink, send(backend))
    FakeProducer.made[0].answering = False
    many = [send(backend, number) for number in range(_kafka_client.CHUNK + 1)]
    sink.on_settle = lambda _: once_failing()
    once_failing = once(ZeroDivisionError())
    FakeProducer.made[0].answering = True
    eventually(lambda: sink.reports)
    assert isinstance(sink.reports[0], BackendFailed)
    assert isinstance(only(sink, many[-1]), Ack)
    assert isinstance(only(sink, send(backend)), Ack)


def test_a_driver_that_fails_all_the_way_is_survived(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """A producer that can be neither polled nor emptied is kept, and replaced."""
    only(sink, send(backend))
    first = FakeProducer.made[0]
    first.on_purge = raising(SystemError("no"))
    first.on_poll = raising(SystemError("no"))
    eventually(lambda: len(FakeProducer.made) == 2)
    assert isinstance(only(sink, send(backend)), Ack)
    assert len(sink.reports) >= 2
    assert not first.closed


def test_without_a_producer_failures_are_survived_too(
    sink: RecordingSink, backend: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen error while a producer is made is reported, and it is tried again."""
    only(sink, send(backend))
    monkeypatch.setattr(FakeProducer, "making", once(MemoryError()))
    FakeProducer.made[0].on_poll = once(fatal())
    eventually(lambda: len(FakeProducer.made) == 2)
    assert isinstance(only(sink, send(backend)), Ack)
    assert [type(error) for error in sink.reports] == [ProducerLost, BackendFailed]


def test_many_reports_are_handed_over_in_pieces(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """One poll may serve everything there is; no result waits for the last of them."""
    only(sink, send(backend))
    FakeProducer.made[0].answering = False
    count = 2 * _kafka_client.CHUNK + 10
    for number in range(count):
        send(backend, number)
    FakeProducer.made[0].answering = True
    eventually(lambda: sink.settled() == count + 1)
    assert max(sink.chunks) == _kafka_client.CHUNK
    assert sink.repeats() == 0


def test_the_company_of_an_event_that_is_too_large(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """Events of one batch may be retried; an event that was alone is too large itself."""
    (producer,) = eventually(lambda: FakeProducer.made)
    producer.error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    producer.answering = False
    together = [send(backend, number) for number in range(2)]
    producer.answering = True
    assert [only(sink, one).code for one in together] == ["batch_too_large"] * 2
    assert all(only(sink, one).retriable for one in together)
    assert isinstance(only(sink, send(backend)), MessageRefused)


def test_forgotten_events_are_looked_for(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """expire() is called while the back end runs, with or without events."""
    before = sink.expired
    eventually(lambda: sink.expired > before + 3)
    only(sink, send(backend))


# -- replacement -----------------------------------------------------------------------


def test_events_wait_for_the_next_producer_within_their_deadline(
    sink: RecordingSink, backend: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BackendBusy when it does not come in time; accepted when it does."""
    monkeypatch.setattr(_kafka_poller, "_FIRST_BACKOFF", 0.5)
    only(sink, send(backend))
    first = FakeProducer.made[0]
    first.on_produce = raising(KafkaException(KafkaError(KafkaError._FATAL)))
    with pytest.raises(BackendBusy, match="replaced"):
        send(backend, timeout=0.0)
    first.on_poll = once(fatal())
    assert isinstance(only(sink, send(backend)), Ack)


def test_a_producer_that_is_lost_again_is_replaced_later(
    sink: RecordingSink, backend: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loss without a success in between doubles the pause, up to a limit."""
    monkeypatch.setattr(_kafka_poller, "_FIRST_BACKOFF", 0.02)
    monkeypatch.setattr(_kafka_poller, "_LAST_BACKOFF", 0.04)
    for number in range(4):
        eventually(lambda n=number: len(FakeProducer.made) == n + 1)  # type: ignore[misc]
        FakeProducer.made[number].on_poll = once(fatal())
    eventually(lambda: len(FakeProducer.made) == 5)
    assert backend._poller._losses == 4
    assert isinstance(only(sink, send(backend)), Ack)
    eventually(lambda: backend._poller._losses == 0)


def test_a_producer_id_that_is_refused_later_leaves_a_doubt(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """What was in flight may be stored; what comes after certainly is not."""
    only(sink, send(backend))
    first = FakeProducer.made[0]
    first.answering = False
    in_flight = send(backend)
    code = KafkaError.CLUSTER_AUTHORIZATION_FAILED
    first.on_poll = once(KafkaException(KafkaError(code, "no", fatal=True)))
    assert type(only(sink, in_flight)) is ProducerLost
    assert type(only(sink, send(backend))) is NotAuthorized


def test_a_late_message_for_a_retired_producer_is_settled(
    sink: RecordingSink, backend: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that took it before it was withdrawn may produce long after."""
    monkeypatch.setattr(_kafka_poller, "_RETIRED_FOR", 0.2)
    only(sink, send(backend))
    first = FakeProducer.made[0]
    client = backend._slot.client
    assert client is not None
    first.on_poll = once(fatal())
    eventually(lambda: len(FakeProducer.made) == 2)
    late = Sent()
    client.produce("t", b"", None, -1, _kafka_client.Report(late, client))
    assert isinstance(only(sink, late), ProducerLost)
    eventually(lambda: first.closed)


def test_a_retired_producer_that_keeps_messages_is_kept(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """Closing it would wait for the broker, and freeing it would lose reports."""
    only(sink, send(backend))
    first = FakeProducer.made[0]
    first.stuck = 1
    first.on_poll = once(fatal())
    eventually(lambda: not backend._poller._retired and len(FakeProducer.made) == 2)
    assert not first.closed


def test_a_retired_producers_troubles_are_nobodys(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """It does not say any more whether the broker is up or down."""
    only(sink, send(backend))
    first = FakeProducer.made[0]
    first.on_poll = once(fatal())
    eventually(lambda: len(FakeProducer.made) == 2)
    first.settings["error_cb"](KafkaError(KafkaError._ALL_BROKERS_DOWN))
    first.settings["stats_cb"]('"state":"UP"')
    assert sink.states == [True]


def statistics(**of_its_partition: int) -> str:
    """Statistics of a producer that has published to one partition."""
    partition = {
        "acked_msgid": 0,
        "msgs_inflight": 0,
        "msgq_cnt": 0,
        "xmit_msgq_cnt": 0,
    }
    partitions = {"0": partition | of_its_partition}
    return json.dumps({"topics": {"t": {"partitions": partitions}}})


def connect(sink: RecordingSink) -> FakeProducer:
    """The broker answers; returns the producer that is in use."""
    producer = eventually(lambda: FakeProducer.made)[-1]
    producer.settings["stats_cb"]('"state":"UP"')
    assert sink.states[-1] is True
    return producer


@pytest.fixture
def hasty(sink: RecordingSink) -> Iterator[KafkaBackend]:
    """A back end that runs, whose events have little time."""
    running = new_backend(sink, delivery_timeout=0.2)
    running.start()
    yield running
    running.close(Deadline.after(5))


def on_its_way(producer: FakeProducer) -> None:
    """The driver counts it as sent."""
    producer.settings["stats_cb"](statistics(msgs_inflight=2))


def went_unanswered(producer: FakeProducer) -> None:
    """The driver's log has a request that timed out, and the statistics come too late."""
    text = "127.0.0.1:1/1: Timed out ProduceRequest in flight (after 9ms, timeout #0)"
    producer.settings["logger"].log(logging.INFO, "%s", "REQTMOUT", "name", text)


@pytest.mark.parametrize("sign", [on_its_way, went_unanswered])
def test_promise_5_a_producer_is_given_up_before_it_sends_again_under_a_new_epoch(
    sink: RecordingSink, hasty: KafkaBackend, sign: Callable[[FakeProducer], None]
) -> None:
    """The oldest has timed out, the younger is unknown, and the next one is stored."""
    first = connect(sink)
    first.answering = False
    # It waits for so long that the younger one is young when it times out.
    old, young = Sent(), Sent()
    young.accepted_at += 1000.0
    for delivery in (old, young):
        hasty.send(message(), delivery, Deadline.after(5))
    sink.oldest = old.accepted_at
    first.on_poll = lambda: sign(first)
    said = only(sink, old)
    assert isinstance(said, DeliveryTimedOut)
    assert said.maybe_delivered
    said = only(sink, young)
    assert isinstance(said, ProducerLost)
    assert "might store that twice" in str(said)
    sink.oldest = None
    assert isinstance(only(sink, send(hasty)), Ack)
    assert [type(report) for report in sink.reports] == [ProducerLost]
    eventually(lambda: first.closed)


def test_promise_5_a_producer_is_given_up_when_what_may_be_stored_has_timed_out(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """It was sent a moment before, so that nobody knew in time."""
    first = connect(sink)
    first.answering = False
    delivery = send(backend)
    went_unanswered(first)
    first.error = KafkaError(KafkaError._MSG_TIMED_OUT)
    first.answering = True
    assert isinstance(only(sink, delivery), DeliveryTimedOut)
    eventually(lambda: len(FakeProducer.made) > 1)
    assert [type(report) for report in sink.reports] == [ProducerLost]
    assert isinstance(only(sink, send(backend)), Ack)


def leaderless() -> Iterator[str]:
    """It waits for a leader: nothing is on its way."""
    while True:
        yield statistics(msgq_cnt=1)


def elsewhere() -> Iterator[str]:
    """What this partition holds is acknowledged until the next look, each time."""
    for number in itertools.count():
        yield statistics(acked_msgid=10 * number, msgs_inflight=1, xmit_msgq_cnt=9)


def silent() -> Iterator[str]:
    """Something is, and is not acknowledged."""
    while True:
        yield statistics(msgs_inflight=1)


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        pytest.param(leaderless, {}, id="leaderless"),
        pytest.param(elsewhere, {}, id="elsewhere"),
        pytest.param(silent, {"idempotence": False}, id="without idempotence"),
        pytest.param(silent, {"extra": {"statistics.interval.ms": 0}}, id="unmeasured"),
    ],
)
def test_a_producer_that_cannot_store_twice_is_kept(
    sink: RecordingSink, said: Callable[[], Iterator[str]], settings: dict[str, Any]
) -> None:
    """What was not sent times out alone, whatever else is on its way."""
    backend = new_backend(sink, delivery_timeout=0.2, **settings)
    backend.start()
    try:
        first = eventually(lambda: FakeProducer.made)[-1]
        first.answering = False
        texts = said()
        if "extra" not in settings:
            first.on_poll = lambda: first.settings["stats_cb"](next(texts))
        sink.oldest = send(backend).accepted_at
        looks = sink.expired
        eventually(lambda: sink.expired > looks + 4)
        assert not sink.reports
        assert FakeProducer.made == [first]
    finally:
        backend.close(Deadline.after(5))


# -- settings that the driver refuses --------------------------------------------------


def test_refused_settings_are_raised(
    sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing and start() say what is wrong, without the password; mended, it runs."""
    error = KafkaException(KafkaError(KafkaError._INVALID_ARG, "no such: pass-word"))
    monkeypatch.setattr(FakeProducer, "making", raising(error))
    monkeypatch.setattr(_kafka_poller, "_REFUSED_BACKOFF", 0.05)
    login = {"sasl_mechanism": "PLAIN", "username": "u", "password": "pass-word"}
    backend = new_backend(sink, **login)
    backend.start()
    try:
        with pytest.raises(ConfigError, match=r"no such: \*\*\*"):
            send(backend)
        with pytest.raises(StartFailed, match=r"no such: \*\*\*"):
            backend.check(Deadline.after(5))
        assert not sink.settled()
        assert isinstance(sink.reports[0], ConfigError)
        assert "pass-word" not in sink.text()
        monkeypatch.setattr(FakeProducer, "making", lambda: None)
        delivery = eventually(lambda: send(backend))
        assert isinstance(only(sink, delivery), Ack)
    finally:
        backend.close(Deadline.after(5))


def test_a_type_error_of_the_driver_is_about_the_settings(
    sink: RecordingSink, backend: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of a wrong type in extra are reported like any other mistake."""
    only(sink, send(backend))
    monkeypatch.setattr(FakeProducer, "making", raising(TypeError("expected a str")))
    FakeProducer.made[0].on_poll = once(fatal())
    eventually(lambda: len(sink.reports) == 2)
    with pytest.raises(ConfigError, match="expected a str"):
        send(backend)


# -- start and close -------------------------------------------------------------------


def test_check_waits_for_broker_and_producer_id(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """It returns when both are there, and says what is missing when not."""
    with pytest.raises(StartFailed, match="no producer id"):
        backend.check(Deadline.after(0.05))
    stats = FakeProducer.made[0].settings["stats_cb"]
    stats('{"state": "UP", "eos": {"idemp_state": "WaitPID"}}')
    with pytest.raises(StartFailed, match="no producer id"):
        backend.check(Deadline.after(0.05))
    stats('{"state": "UP", "eos": {"idemp_state": "Assigned"}}')
    backend.check(Deadline.after(5))
    assert sink.states == [True]


def test_check_without_idempotence_needs_no_producer_id(sink: RecordingSink) -> None:
    """A broker that answers is enough; which promises are off is said at the start."""
    backend = new_backend(sink, idempotence=False)
    backend.start()
    try:
        assert "promises 5 and 6 are off" in sink.logs[0][1]
        eventually(lambda: FakeProducer.made)
        FakeProducer.made[0].settings["stats_cb"]('{"state": "UP"}')
        backend.check(Deadline.after(5))
    finally:
        backend.close(Deadline.after(5))


def test_check_without_statistics_asks_once(sink: RecordingSink) -> None:
    """Who turns them off gets less proof, but an answer."""
    backend = new_backend(sink, extra={"statistics.interval.ms": 0})
    backend.start()
    try:
        backend.check(Deadline.after(5))
    finally:
        backend.close(Deadline.after(5))


def test_check_of_a_replaced_producer_goes_on(
    sink: RecordingSink, backend: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a missing producer nor a closed one ends it."""

    def closed(producer: FakeProducer, timeout: float) -> None:
        producer.idle(timeout)
        message = "Producer has been closed"
        raise RuntimeError(message)

    monkeypatch.setattr(FakeProducer, "list_topics", closed)
    monkeypatch.setattr(_kafka_poller, "_FIRST_BACKOFF", 0.1)
    only(sink, send(backend))
    FakeProducer.made[0].on_poll = once(fatal())
    with pytest.raises(StartFailed, match="no Kafka broker answered"):
        backend.check(Deadline.after(0.3))
    assert len(FakeProducer.made) == 2


def test_check_of_who_speaks_another_protocol(
    backend: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes connections and ends them: that need not be waited for."""

    def unanswered(producer: FakeProducer, timeout: float) -> None:
        producer.idle(timeout)
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    monkeypatch.setattr(FakeProducer, "list_topics", unanswered)
    monkeypatch.setattr(kafka, "_HUNG_UP_AT_LEAST", 0.1)
    monkeypatch.setattr(kafka, "_HUNG_UP_PART", 0.0)
    (producer,) = eventually(lambda: FakeProducer.made)
    text = "x: Disconnected (after 0ms in state SSL_HANDSHAKE)"
    producer.settings["logger"].log(logging.INFO, "", "FAIL", "", text)
    with pytest.raises(BrokerUnreachable, match="ends every connection") as caught:
        backend.check(Deadline.after(30))
    assert "connecting to a PLAINTEXT broker listener?" in str(caught.value)
    assert "check that tls" in str(caught.value)
    assert isinstance(caught.value.__cause__, KafkaException)


def test_close_ends_everything_that_waits(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """A publisher waiting for room, one waiting for a producer, and check() end."""
    only(sink, send(backend))
    full = threading.Event()

    def refuse() -> None:
        full.set()
        raise BufferError

    FakeProducer.made[0].on_produce = refuse
    ends: list[BaseException] = []

    def waiting(action: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                action()
            except BusClosed as error:
                ends.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [
        waiting(lambda: send(backend, timeout=30)),
        waiting(lambda: backend.check(Deadline.after(30))),
    ]
    assert full.wait(5)
    backend.close(Deadline.after(5))
    for thread in threads:
        thread.join(5)
    assert len(ends) == 2
    with pytest.raises(BusClosed):
        send(backend)
    with pytest.raises(BusClosed):
        backend.send_plain(message(), Deadline.after(1))
    with pytest.raises(BusClosed):
        backend.check(Deadline.after(1))


def test_close_while_there_is_no_producer(
    sink: RecordingSink, backend: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause before the next one is cut short, and none is made any more."""
    monkeypatch.setattr(_kafka_poller, "_FIRST_BACKOFF", 30.0)
    monkeypatch.setattr(_kafka_poller, "_LAST_BACKOFF", 30.0)
    only(sink, send(backend))
    FakeProducer.made[0].on_poll = once(fatal())
    eventually(lambda: sink.reports)
    backend.close(Deadline.after(5))
    backend.close(Deadline.after(5))
    assert [producer.closed for producer in FakeProducer.made] == [True]


def test_a_producer_made_during_close_is_ended(
    sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constructor may block while the bus is closed."""
    gate, made = threading.Event(), threading.Event()

    def block() -> None:
        made.set()
        assert gate.wait(5)

    monkeypatch.setattr(FakeProducer, "making", block)
    backend = new_backend(sink)
    backend.start()
    assert made.wait(5)
    backend.close(Deadline.after(0))
    gate.set()
    backend.close(Deadline.after(5))
    assert [producer.closed for producer in FakeProducer.made] == [True]


def test_close_with_messages_that_do_not_go_away(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """The deadline holds, and the producer is left as it is."""
    only(sink, send(backend))
    FakeProducer.made[0].stuck = 1
    began = time.monotonic()
    backend.close(Deadline.after(0.5))
    assert time.monotonic() - began < 1.5 + SLACK
    assert not FakeProducer.made[0].closed


def test_a_failing_end_is_reported(sink: RecordingSink, backend: KafkaBackend) -> None:
    """close() returns whatever the driver does, and the bus settles what is left."""
    only(sink, send(backend))
    FakeProducer.made[0].on_purge = raising(SystemError("no"))
    backend.close(Deadline.after(5))
    assert "failed while it ended" in str(sink.reports[-1])


def test_plain_messages_get_a_chance(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """What is still queued when the bus closes goes out if the broker answers."""
    only(sink, send(backend))
    producer = FakeProducer.made[0]
    producer.stuck = 1
    backend.send_plain(message(), Deadline.after(5))
    assert producer.produced[-1][4] is None
    polls = [0]

    def deliver() -> None:
        polls[0] += 1
        if polls[0] == 3:
            assert not producer.purged
            producer.stuck = 0

    producer.on_poll = deliver
    backend.close(Deadline.after(5))
    assert producer.closed


def test_a_refused_plain_message_is_reported(
    sink: RecordingSink, backend: KafkaBackend
) -> None:
    """It has no outcome, but the error handler hears of it."""
    only(sink, send(backend))
    error = KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC))
    FakeProducer.made[0].on_produce = raising(error)
    backend.send_plain(message(), Deadline.after(5))
    assert sink.reports[0].code == "destination_not_found"


def test_a_closed_client_takes_no_message(sink: RecordingSink) -> None:
    """A late one would make the driver's close wait for it; it is refused at once."""
    client = Client({"batch.size": 1}, sink, Link(sink, ()), lambda _: None)
    produce = client._producer.produce
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.produce("orders")
    assert client.produce is not produce
