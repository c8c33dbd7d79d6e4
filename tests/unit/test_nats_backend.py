"""The NATS back end without a bus: what it takes, and its threads."""

import asyncio
import logging
import threading
import time

from collections.abc import Iterator
from typing import Any

import pytest

from support.eventually import eventually
from support.fake_nats import FakeNats
from support.patience import SLACK
from support.recording_sink import RecordingSink, Sent

from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import Ack, OutgoingMessage
from eventbus_sync.backends.nats import backend as nats_backend
from eventbus_sync.backends.nats.backend import MAX_KNOWN_TOPICS, MAX_PLAIN, NatsBackend
from eventbus_sync.backends.nats.handover import HandOver
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.backends.nats.resolver import Resolver
from eventbus_sync.backends.nats.workers import AckWorkers, end_pool, started_pool
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import (
    Abandoned,
    BackendBusy,
    BrokerUnavailable,
    BusClosed,
    EnvelopeError,
)


NOBODY = "nats://127.0.0.1:1"


def message(topic: str = "orders", value: bytes = b"{}") -> OutgoingMessage:
    """Return a message as the bus makes it."""
    return OutgoingMessage(topic, "k", value, [("X-Event-ID", "id")], "id", 20)


@pytest.fixture
def sink() -> RecordingSink:
    """What the back end tells."""
    return RecordingSink()


@pytest.fixture
def make(sink: RecordingSink) -> Iterator[Any]:
    """Makes back ends that are closed after the test."""
    made: list[NatsBackend] = []

    def make(server: str = NOBODY, **settings: Any) -> NatsBackend:
        backend = NatsBackend(NatsConfig(servers=server, **settings), sink)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.close(Deadline.after(5))


def send(backend: NatsBackend, *deliveries: Sent) -> None:
    """Hand over a message for each delivery."""
    for delivery in deliveries:
        backend.send(message(), delivery, Deadline.after(1))


# -- topics and headers ----------------------------------------------------------------


@pytest.mark.parametrize(
    "topic",
    [
        "orders",
        "a.b.c",
        "é",
        "a-b_c/d",
        "x" * 512,
        "A",
        "a.$b",
        'a"b',
        "a\\b",
        "日本.x",
    ],
)
def test_legal_topics(make: Any, topic: str) -> None:
    """What a NATS subject may be, checked again from memory."""
    backend = make()
    backend.check_topic(topic)
    backend.check_topic(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a\tb",
        "a\r\nPUB x 1",
        "a\x00",
        "a\x7f",
        "*",
        "a.*",
        "a.>",
        ">",
        "a*",
        "a>b",
        "$JS.API.STREAM.DELETE.X",
        "$SYS",
        "x" * 513,
        "é" * 257,
        "\ud800",
        "a\u2028b",
    ],
)
def test_illegal_topics(make: Any, topic: str) -> None:
    """What a server would not take, or would take for something else, is refused."""
    with pytest.raises(EnvelopeError, match="not a legal NATS subject") as caught:
        make().check_topic(topic)
    assert caught.value.field == "topic"


def test_known_topics_are_bounded(make: Any) -> None:
    """Topics with an id in them don't fill the memory."""
    backend = make()
    for number in range(MAX_KNOWN_TOPICS + 5):
        backend.check_topic(f"user.{number}")
    assert len(backend._known_topics) == 5


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\x00", " a", "a ", "\x85", "\x1b"])
def test_headers_that_would_end_a_line(make: Any, value: str) -> None:
    """Nothing in a header can begin a new line, or come back changed."""
    with pytest.raises(EnvelopeError):
        make().check_headers([("X-Any", value)])


# -- hand-over -------------------------------------------------------------------------


def test_contract_2_closed_back_ends_take_nothing(make: Any) -> None:
    """After close both ways of sending raise, and nothing is settled."""
    backend = make()
    backend.start()
    backend.close(Deadline.after(5))
    with pytest.raises(BusClosed):
        backend.send(message(), Sent(), Deadline.after(1))
    with pytest.raises(BusClosed):
        backend.send_plain(message(), Deadline.after(1))
    with pytest.raises(BusClosed):
        backend.check(Deadline.after(1))


def test_contract_2_send_in_the_moment_of_the_close(
    sink: RecordingSink, make: Any
) -> None:
    """A record that nobody takes any more is taken back; one that was taken is not."""
    handover = HandOver()
    early, late = (Record(message(), Sent(), 1.0) for _ in range(2))
    handover.events.append(early)
    assert handover.close() == [early]
    with pytest.raises(BusClosed):
        handover.put(late)
    assert not handover.events
    # Between its append and its look at the flag, the closer took it: no exception.
    handover._take_back(early)


def test_a_loop_that_has_just_ended() -> None:
    """Waking a closed loop is no error: whoever closed it took what there was."""
    handover = HandOver()
    loop = asyncio.new_event_loop()
    handover.attach(loop)
    loop.close()
    handover.put(Record(message(), Sent(), 1.0))
    handover.put_plain(message())
    assert len(handover.close()) == 1


def test_promise_1_what_is_left_at_close_is_settled(
    sink: RecordingSink, make: Any
) -> None:
    """Everything that send() took has one outcome after close()."""
    backend = make()
    backend.start()
    deliveries = [Sent(number) for number in range(100)]
    send(backend, *deliveries)
    backend.close(Deadline.after(5))
    backend.close(Deadline.after(5))
    for delivery in deliveries:
        (said,) = sink.of(delivery)
        assert isinstance(said, BrokerUnavailable)
        assert "closed before the event was written" in str(said)


def test_unanswered_events_are_abandoned_at_close(
    sink: RecordingSink, make: Any
) -> None:
    """What is on the wire when the back end is closed may be stored."""
    with FakeNats() as fake:
        fake.on_publish = lambda client, message: None
        backend = make(fake.url)
        backend.start()
        delivery = Sent()
        send(backend, delivery)
        eventually(lambda: fake.published)
        backend.close(Deadline.after(5))
        (said,) = sink.of(delivery)
        assert isinstance(said, Abandoned)


def test_plain_messages_are_bounded(make: Any) -> None:
    """Without a connection no more than some wait; then it says who is out of reach."""
    backend = make()
    backend._handover.attach(asyncio.new_event_loop())
    for _ in range(MAX_PLAIN):
        backend.send_plain(message(), Deadline.after(0))
    with pytest.raises(BackendBusy, match=r"127\.0\.0\.1:1"):
        backend.send_plain(message(), Deadline.after(0))
    backend._handover._loop.close()


def test_overdue_records_leave_the_hand_over() -> None:
    """Records that no loop took over end by their deadline, the oldest first."""
    handover = HandOver()
    loop = asyncio.new_event_loop()
    handover.attach(loop)
    records = [Record(message(), Sent(), float(n)) for n in range(4)]
    for one in records:
        handover.put(one)
    loop.close()
    assert handover.take_overdue(1.0) == records[:2]
    assert handover.take_overdue(1.0) == []
    assert handover.take_overdue(9.0) == records[2:]


# -- threads ---------------------------------------------------------------------------


def test_contract_9_constructing_starts_nothing(make: Any) -> None:
    """Neither a thread nor a socket; and what was never started can be closed."""
    before = threading.active_count()
    backend = make()
    assert threading.active_count() == before
    backend._look_again()
    backend.close(Deadline.after(1))
    backend.close(Deadline.after(1))


@pytest.mark.parametrize("fails_at", [1, 3, 5])
def test_no_thread_to_be_had(
    make: Any, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """When a thread cannot be started start() raises, and close() leaves none."""
    before = set(threading.enumerate())
    start, started = threading.Thread.start, [0]

    def limited(thread: threading.Thread) -> None:
        started[0] += 1
        if started[0] == fails_at:
            msg = "can't start new thread"
            raise RuntimeError(msg)
        start(thread)

    backend = make(ack_workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        if fails_at < 5:
            with pytest.raises(RuntimeError, match="new thread"):
                backend.start()
        else:
            backend.start()
    backend.close(Deadline.after(5))
    eventually(lambda: set(threading.enumerate()) <= before)


def test_no_loop_thread(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of all threads cannot be started: the loop is closed all the same."""
    backend = make(ack_workers=1)

    def fail(*_: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(nats_backend, "spawn", fail)
        with pytest.raises(RuntimeError):
            backend.start()
    backend.close(Deadline.after(5))
    assert backend._loop.is_closed()


def test_contract_6_close_keeps_its_deadline_behind_another(make: Any) -> None:
    """A second closer waits for the first, but not beyond its own deadline."""
    backend = make()
    with backend._close_lock:
        started = time.monotonic()
        backend.close(Deadline.after(0.2))
        assert 0.2 <= time.monotonic() - started < 0.2 + SLACK


def test_close_does_not_wait_for_a_resolver_that_hangs(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is looked up for a minute does not keep close() from its deadline."""
    hang = threading.Event()
    asked = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        asked.set()
        hang.wait(3 * SLACK)
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    backend = make("nats://no-such-host.example:4222")
    backend.start()
    assert asked.wait(5)
    started = time.monotonic()
    backend.close(Deadline.after(0.5))
    assert time.monotonic() - started < 0.5 + SLACK
    # That thread alone is still there, and no process waits for it.
    left = [t for t in threading.enumerate() if t.name.startswith("eventbus-")]
    assert [(t.name, t.daemon) for t in left] == [("eventbus-resolver", True)]
    hang.set()
    left[0].join(5)
    assert not left[0].is_alive()


def test_look_ups_end_with_their_callers() -> None:
    """Results and exceptions come back; what was given up meanwhile is not begun."""
    resolver = Resolver("eventbus-resolver")
    hang = threading.Event()
    begun = threading.Event()

    def look_up() -> bool:
        begun.set()
        return hang.wait(3 * SLACK)

    first = resolver.submit(look_up)
    assert begun.wait(5)
    second = resolver.submit(begun.clear)
    third = resolver.submit(int, "x", base=7)
    second.cancel()
    hang.set()
    assert first.result(5) is True
    assert isinstance(third.exception(5), ValueError)
    assert begun.is_set()
    resolver.close(Deadline.after(5))
    assert not resolver._thread.is_alive()


def test_ack_workers_are_as_many_as_configured(sink: RecordingSink) -> None:
    """All run from the start, and end with close()."""
    workers = AckWorkers(3, "eventbus-test", sink)
    workers.close(Deadline.after(1))
    workers.start()
    names = [t.name for t in threading.enumerate() if t.name.startswith("eventbus-t")]
    assert len(names) == 3
    workers.close(Deadline.after(5))
    workers.close(Deadline.after(5))


def test_two_ack_workers_per_cpu(
    sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each CPU that this process may use, or that there is."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert AckWorkers(None, "x", sink)._size == 6
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert AckWorkers(None, "x", sink)._size == 2


def test_answers_when_the_workers_are_gone(sink: RecordingSink) -> None:
    """An executor that refuses work, as at the end of a process, loses no outcome."""
    workers = AckWorkers(1, "eventbus-test", sink)
    workers.start()
    workers.close(Deadline.after(5))
    one = Record(message(), Sent(), 1.0)
    workers.submit([(one, b'{"stream":"S","seq":1}')])
    assert isinstance(sink.of(one.delivery)[0], Ack)


def test_a_pool_that_is_not_through_in_time() -> None:
    """The wait for a pool's threads ends at the deadline; they end when they can."""
    pool = started_pool(1, "eventbus-slow")
    go = threading.Event()
    pool.submit(go.wait, 3 * SLACK)
    started = time.monotonic()
    end_pool(pool, Deadline.after(0.1))
    assert time.monotonic() - started < 0.1 + SLACK
    go.set()


def test_loop_errors_are_logged_elsewhere(sink: RecordingSink, make: Any) -> None:
    """What asyncio would log goes to the sink: no logging handler runs on the loop."""
    backend = make()
    backend.start()
    backend._loop.call_soon_threadsafe(lambda: 1 / 0)
    eventually(lambda: any("ZeroDivisionError" in text for _, text in sink.logs))
    assert sink.logs[0][0] == logging.DEBUG


def test_tasks_that_are_left_are_ended(make: Any) -> None:
    """Whatever still runs in the loop when the pump has ended is cancelled."""
    backend = make()
    backend.start()
    ended = threading.Event()

    async def stray() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.set()

    asyncio.run_coroutine_threadsafe(stray(), backend._loop)
    backend.close(Deadline.after(5))
    assert ended.is_set()
