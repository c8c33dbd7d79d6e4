"""A server that answers nonsense, or nothing, or too much: no thread dies of it."""

import asyncio
import json
import threading
import time

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.suite import envelope, read
from support.eventually import eventually
from support.fake_nats import Client, FakeNats, Published, acknowledge
from support.jetstream import MakeBus, buses
from support.patience import SLACK, let_pass

from eventbus_sync import EventBus, Outcome
from eventbus_sync.backends.nats.dialer import discovered
from eventbus_sync.errors import (
    AuthenticationFailed,
    BackendFailed,
    BrokerUnreachable,
    ConnectionLost,
    PublishUnknown,
    StartFailed,
)


# Servers that misbehave in many ways: a minute in all.
pytestmark = pytest.mark.slow

PASSWORD = "s3cr3t-p4ssw0rd"


@pytest.fixture
def make() -> Iterator[MakeBus]:
    """Buses that are closed after the test."""
    with buses() as make:
        yield make


@pytest.fixture
def fake() -> Iterator[FakeNats]:
    """A server that does as it is told."""
    with FakeNats() as server:
        yield server


def _pump(bus: EventBus) -> Any:
    return bus._runtime.backend._pump  # type: ignore[union-attr]


# -- answers ---------------------------------------------------------------------------


def test_promise_1_a_refusal_that_overtakes_an_ack(
    make: MakeBus, fake: FakeNats
) -> None:
    """Permissions refuse the newer event while the ack of the older one is late."""
    came: list[tuple[Client, Published]] = []

    def answer(client: Client, message: Published) -> None:
        came.append((client, message))
        if len(came) > 1:
            text = f'Permissions Violation for Publish to "{message.subject}"'
            client.send(f"-ERR '{text}'\r\n".encode())

    fake.on_publish = answer
    bus = make(fake.url)
    stored = bus.publish_envelope("orders", envelope(1))
    eventually(lambda: len(came) == 1)
    refused = bus.publish_envelope("orders", envelope(2))
    # What is written now is settled, though the older ones are not.
    eventually(lambda: len(came) == 2)
    let_pass(0.3)
    result = bus.publish_envelope_sync("orders", envelope(3))
    assert result.outcome is Outcome.REJECTED
    let_pass(1)
    assert bus.stats().in_flight == 2
    acknowledge(*came[0])
    outcomes = {result.event_id: result.outcome for result in read(bus, 2)}
    assert outcomes == {stored: Outcome.ACKED, refused: Outcome.REJECTED}
    assert bus.health().reconnects == 0


MALFORMED = {
    "empty": b"",
    "ok": b"+OK",
    "null": b"null",
    "list": b"[]",
    "half": b"{",
    "no-sequence": b'{"stream":"S"}',
    "text-sequence": b'{"stream":"S","seq":"1"}',
    "negative-sequence": b'{"stream":"S","seq":-1}',
    "text-error": b'{"error":"no"}',
    "infinite-code": b'{"error":{"code":Infinity,"err_code":1e400}}',
    "deep": b"[" * 100_000,
    "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
def test_promise_1_malformed_answers(
    make: MakeBus, fake: FakeNats, answer: bytes
) -> None:
    """What cannot be understood leaves an event unknown, and the next one is acked."""
    bus = make(fake.url)
    fake.on_publish = lambda client, message: client.deliver(message.reply, answer)
    for number in range(10):
        bus.publish_envelope("orders", envelope(number))
    for result in read(bus, 10):
        assert result.outcome is Outcome.UNKNOWN
        assert type(result.error) is PublishUnknown
        assert result.error.retriable
        assert len(str(result.error)) < 500
    fake.on_publish = acknowledge
    assert bus.publish_envelope_sync("orders", envelope()).success
    assert len(fake.connections) == 1


def test_answers_that_nobody_asked_for(make: MakeBus, fake: FakeNats) -> None:
    """Unknown, absurd and second tokens change nothing."""
    tokens = ["99999", "-1", "0x1", "", "1.5", "9" * 5000, "\u0663"]

    def answer(client: Client, message: Published) -> None:
        prefix = message.reply.rpartition(".")[0]
        for token in tokens:
            client.deliver(f"{prefix}.{token}", b'{"stream":"X","seq":1}')
        acknowledge(client, message)
        acknowledge(client, message)
        client.deliver(message.reply, b"", b"NATS/1.0 503\r\n\r\n")

    fake.on_publish = answer
    bus = make(fake.url)
    for number in range(20):
        bus.publish_envelope("orders", envelope(number))
    assert all(r.success and r.stream == "FAKE" for r in read(bus, 20))
    assert bus.stats().late_outcomes == 0
    assert len(fake.connections) == 1


def test_promise_1_refused_after_an_unanswered_attempt(
    make: MakeBus, fake: FakeNats
) -> None:
    """A refusal is unknown if an earlier attempt went unanswered, rejected if not."""
    full = b'{"error":{"code":503,"err_code":10077,"description":"maximum messages"}}'
    bus = make(fake.url, ack_wait=0.3)
    fake.on_publish = lambda client, message: client.deliver(message.reply, full)
    assert bus.publish_envelope_sync("orders", envelope()).outcome is Outcome.REJECTED

    def once_silent(client: Client, message: Published) -> None:
        if len(fake.connections) > 1:
            client.deliver(message.reply, full)

    fake.on_publish = once_silent
    result = bus.publish_envelope_sync("orders", envelope())
    assert result.outcome is Outcome.UNKNOWN
    assert "maximum messages" in str(result.error)
    assert "earlier attempt" in str(result.error)
    assert len(fake.connections) == 2


def test_promise_6_no_repeat_on_a_live_connection(
    make: MakeBus, fake: FakeNats
) -> None:
    """While other events are acked, one that is not is never sent again."""
    silent: list[str] = []

    def answer(client: Client, message: Published) -> None:
        if b"skip" in message.body:
            silent.append(message.reply)
        else:
            acknowledge(client, message)

    fake.on_publish = answer
    bus = make(fake.url, ack_wait=0.3, delivery_timeout=1.5)
    bus.publish_envelope("orders", envelope(0, "skip"))
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.05):
            bus.publish_envelope_sync("orders", envelope(1))

    publisher = threading.Thread(target=publish)
    publisher.start()
    (result,) = read(bus, 1)
    stop.set()
    publisher.join()
    assert result.outcome is Outcome.UNKNOWN
    assert len(silent) == len(fake.connections) == 1


def test_promise_5_what_is_sent_again_is_the_same(
    make: MakeBus, fake: FakeNats
) -> None:
    """After a silence everything goes out again, byte for byte and in order."""
    fake.on_publish = lambda client, message: None
    bus = make(fake.url, ack_wait=0.3)
    for number in range(50):
        bus.publish_envelope("orders", envelope(number), headers={"traceparent": "ä"})
    eventually(lambda: len(fake.connections) == 2)
    fake.on_publish = acknowledge
    eventually(lambda: len(fake.published) >= 100)
    read(bus, 50)
    messages = [(m.subject, m.header, m.body) for m in fake.published]
    assert messages[:50] == messages[-50:]
    assert b"Nats-Msg-Id: orders|" in messages[0][1]
    assert "traceparent: ä\r\n".encode() in messages[0][1]


def test_acks_the_long_way(make: MakeBus, fake: FakeNats) -> None:
    """Should nats-py no longer know the short way, acks and refusals still come."""

    def sometimes(client: Client, message: Published) -> None:
        if b'"n":3' in message.body:
            client.deliver(message.reply, b"", b"NATS/1.0 503\r\n\r\n")
        else:
            acknowledge(client, message)

    fake.on_publish = sometimes
    bus = make(fake.url, delivery_timeout=1.0)
    bus.start(5)
    client = _pump(bus)._connection.client
    client._inbox = client._parser._ack = None
    for number in range(20):
        bus.publish_envelope(f"orders.{number % 10}", envelope(number))
    results = read(bus, 20)
    assert sum(r.success for r in results) == 19
    assert sum(r.outcome is Outcome.REJECTED for r in results) == 1


def test_a_flood_of_acks(make: MakeBus, fake: FakeNats) -> None:
    """Acks that come all at once lose nothing, and are handed over in few chunks."""
    replies: list[str] = []

    def hold(client: Client, message: Published) -> None:
        replies.append(message.reply)
        if len(replies) == 20_000:
            for number, reply in enumerate(replies, 1):
                client.deliver(
                    reply, json.dumps({"stream": "S", "seq": number}).encode()
                )

    fake.on_publish = hold
    bus = make(fake.url, ack_wait=20)
    for number in range(20_000):
        bus.publish_envelope("orders", envelope(number), timeout=30)
    assert all(r.success for r in read(bus, 20_000))
    assert bus.stats().balanced


# -- the protocol ----------------------------------------------------------------------


NONSENSE = {
    "unknown-word": b"HELLO\r\n",
    "broken-info": b"INFO {nonsense\r\n",
    "empty-error": b"-ERR \r\n",
    "short-message": b"MSG a b\r\n",
    "short-header": b"HMSG _INBOX.x 99 8 8\r\nNATS/1.0\r\n",
    "answer-to-no-ping": b"PONG\r\n",
    "unknown-error": b"-ERR 'Something New'\r\n",
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
def test_promise_1_nonsense_on_the_wire(
    make: MakeBus, fake: FakeNats, nonsense: bytes
) -> None:
    """A connection that speaks nonsense is replaced, and everything is acked."""
    bus = make(fake.url, ack_wait=0.4)
    bus.start(5)
    spoken: list[bool] = []

    def speak(client: Client, message: Published) -> None:
        if not spoken:
            spoken.append(True)
            client.send(nonsense)
        else:
            acknowledge(client, message)

    fake.on_publish = speak
    for number in range(20):
        bus.publish_envelope("orders", envelope(number))
    results = read(bus, 20)
    assert {r.outcome for r in results} == {Outcome.ACKED}


GREETINGS = {
    "silence": b"",
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "list": b"INFO []\r\n",
    "empty": b"INFO {}\r\n",
    "no-json": b"INFO nonsense\r\n",
    "text-for-number": b'INFO {"max_payload":"much"}\r\n',
    "endless": b"INFO " + b"x" * 100_000 + b"\r\n",
    "number-for-list": b'INFO {"connect_urls":7}\r\n',
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS.keys())
def test_what_is_no_nats_server(make: MakeBus, fake: FakeNats, greeting: bytes) -> None:
    """start() fails in time, events end in outcomes, and a real server is welcome."""
    fake.on_connect = lambda client: client.send(greeting)
    fake.on_ping = lambda client: client.send(b"what?\r\n")
    bus = make(fake.url, delivery_timeout=1.0, connect_timeout=0.3)
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1"):
        bus.start(0.7)
    assert bus.publish_envelope_sync("orders", envelope()).outcome is Outcome.REJECTED
    fake.on_connect = fake.send_info
    fake.on_ping = lambda client: client.send(b"PONG\r\n")
    bus.start(10)
    assert bus.publish_envelope_sync("orders", envelope()).success


def test_a_server_that_closes_at_once(make: MakeBus, fake: FakeNats) -> None:
    """A server that throws everybody out is not stormed, and the reason is told."""
    fake.on_subscribe = lambda client, subject: client.close()
    bus = make(fake.url, delivery_timeout=2.0)
    bus.publish_envelope("orders", envelope())
    read(bus, 1)
    assert 3 <= len(fake.connections) <= 12
    gaps = [b - a for a, b in zip(fake.connections, fake.connections[1:], strict=False)]
    assert max(gaps) > 4 * gaps[0]


def test_a_server_that_closes_after_each_event(make: MakeBus, fake: FakeNats) -> None:
    """Nor is one that takes us and throws us out when we use it."""
    fake.on_publish = lambda client, message: client.close()
    bus = make(fake.url, delivery_timeout=2.0)
    bus.publish_envelope("orders", envelope())
    (result,) = read(bus, 1)
    assert result.outcome is Outcome.UNKNOWN
    assert 3 <= len(fake.connections) <= 12


def _cut_soon(fake: FakeNats) -> None:
    """Nothing is acknowledged, and who publishes is cut off after a moment."""

    def on_publish(client: Client, message: Published) -> None:
        threading.Timer(0.1, client.close).start()

    fake.on_publish = on_publish


def _cut_and_restart(fake: FakeNats) -> None:
    """It fails whenever somebody publishes, and is there again at once, as another."""

    def on_publish(client: Client, message: Published) -> None:
        fake.info["server_id"] = f"FAKE{len(fake.published)}"
        client.close()

    fake.on_publish = on_publish


@pytest.mark.parametrize("cut", [_cut_soon, _cut_and_restart])
def test_promise_1_no_innocent_event_is_settled(
    make: MakeBus, fake: FakeNats, cut: Callable[[FakeNats], None]
) -> None:
    """Connections that end over something else cost an event nothing but time."""
    cut(fake)
    bus = make(fake.url, reconnect_wait=0.02, max_reconnect_wait=0.1)
    bus.publish_envelope("orders", envelope())
    bus.publish_envelope("orders", envelope(1))
    eventually(lambda: len(fake.connections) > 8 or bus.stats().in_flight < 2)
    assert bus.stats().in_flight == 2
    fake.on_publish = acknowledge
    assert all(result.success for result in read(bus, 2))


def test_discovered_servers(make: MakeBus) -> None:
    """Servers that a server names are tried too; nonsense among them is left out."""
    with FakeNats() as second:
        peers = [
            f"127.0.0.1:{second.port}",
            "user:password@evil:1",
            "no-port",
            "bad host:1",
            "[::1]:0",
            "x:99999",
            7,
            None,
            *(f"10.255.255.1:{n}" for n in range(1, 500)),
        ]
        with FakeNats(connect_urls=peers) as first:
            urls = {first.url, second.url}
            bus = make(first.url)
            bus.start(5)
            connection = _pump(bus)._connection
            assert len(discovered(connection)) <= 100
            assert next(iter(discovered(connection).items())) == (
                f"nats://127.0.0.1:{second.port}",
                None,
            )
            assert not any("evil" in server for server in discovered(connection))
            # Later the server names only one.
            info = {"connect_urls": [f"127.0.0.1:{second.port}"]}
            client = next(iter(first._clients.values()))
            client.send(f"INFO {json.dumps(info)}\r\n".encode())
            eventually(lambda: len(discovered(connection)) == 1)
        eventually(lambda: second.connections)
        assert bus.publish_envelope_sync("orders", envelope()).success
        assert set(_pump(bus)._dialer._servers) == urls


def test_max_payload_of_a_later_info(make: MakeBus, fake: FakeNats) -> None:
    """A limit that the server tells later holds."""
    bus = make(fake.url)
    assert bus.publish_envelope_sync("orders", envelope()).success
    client = next(iter(fake._clients.values()))
    client.send(b'INFO {"max_payload":100}\r\n')
    eventually(lambda: not bus.publish_envelope_sync("orders", envelope()).success)
    assert len(fake.connections) == 1


# -- TLS and logins --------------------------------------------------------------------


def test_no_password_in_the_clear(make: MakeBus, fake: FakeNats) -> None:
    """With tls=True a server that offers no TLS gets nothing, above all no password."""
    bus = make(fake.url, tls=True, user="bus", password=PASSWORD, delivery_timeout=0.5)
    with pytest.raises(AuthenticationFailed, match="offers no TLS"):
        bus.start(5)
    result = bus.publish_envelope_sync("orders", envelope())
    assert "offers no TLS" in str(result.error)
    assert fake.connections
    assert fake.received == b""


def test_tls_that_is_promised_and_not_spoken(make: MakeBus) -> None:
    """A server that says TLS and then speaks something else gets nothing either."""
    with FakeNats(tls_required=True) as fake:
        bus = make(
            fake.url, tls=True, user="bus", password=PASSWORD, connect_timeout=0.3
        )
        with pytest.raises(StartFailed):
            bus.start(1)
        assert PASSWORD.encode() not in fake.received
        assert b"CONNECT" not in fake.received


def test_authentication_that_times_out_is_no_wrong_password(
    make: MakeBus, fake: FakeNats
) -> None:
    """A slow login is tried again; nobody is told that the password is wrong."""
    fake.on_ping = lambda client: client.send(b"-ERR 'Authentication Timeout'\r\n")
    bus = make(fake.url, user="bus", password=PASSWORD)
    with pytest.raises(BrokerUnreachable, match="Authentication Timeout"):
        bus.start(0.5)
    fake.on_ping = lambda client: client.send(b"PONG\r\n")
    bus.start(10)


# -- JetStream's API -------------------------------------------------------------------


ABOUT_STREAMS = {
    "no-json": b"nonsense",
    "empty": b"{}",
    "list": b"[]",
    "number-for-error": b'{"error":7}',
    "error-without-text": b'{"error":{"code":"x"}}',
    "number-for-config": b'{"config":7}',
    "number-for-subjects": b'{"config":{"name":"S","subjects":7}}',
}


@pytest.mark.parametrize("answer", ABOUT_STREAMS.values(), ids=ABOUT_STREAMS.keys())
def test_nonsense_about_the_stream(
    make: MakeBus, fake: FakeNats, answer: bytes
) -> None:
    """start() says that it cannot be read; events are sent all the same."""

    def speak(client: Client, message: Published) -> None:
        if message.subject.startswith("$JS."):
            client.deliver(message.reply, answer)
        else:
            acknowledge(client, message)

    fake.on_publish = speak
    bus = make(fake.url, stream="S", subjects=["orders"])
    with pytest.raises(StartFailed, match=r"cannot be|takes"):
        bus.start(5)
    assert bus.publish_envelope_sync("orders", envelope()).success


def test_somebody_else_creates_the_stream(make: MakeBus, fake: FakeNats) -> None:
    """Absent when we look, there when we create it: looked at again, and good."""
    absent = b'{"error":{"code":404,"err_code":10059,"description":"not found"}}'
    taken = b'{"error":{"code":400,"err_code":10058,"description":"name in use"}}'
    found = b'{"config":{"name":"S","subjects":["s"],"duplicate_window":120000000000}}'
    answers = [absent, taken, found]

    def speak(client: Client, message: Published) -> None:
        if message.subject.startswith("$JS."):
            client.deliver(message.reply, answers.pop(0))
        else:
            acknowledge(client, message)

    fake.on_publish = speak
    bus = make(fake.url, stream="S", subjects=["s"])
    bus.start(5)
    asked = [m.subject for m in fake.published]
    assert [subject.split(".")[3] for subject in asked] == ["INFO", "CREATE", "INFO"]


def test_silence_about_the_stream(make: MakeBus, fake: FakeNats) -> None:
    """A JetStream that does not answer about streams is told, in time."""

    def speak(client: Client, message: Published) -> None:
        if not message.subject.startswith("$JS."):
            acknowledge(client, message)

    fake.on_publish = speak
    bus = make(fake.url, stream="S", connect_timeout=0.5)
    with pytest.raises(BrokerUnreachable, match="did not answer"):
        bus.start(3)
    assert bus.publish_envelope_sync("orders", envelope()).success


@pytest.mark.parametrize("known", [False, True], ids=["first", "again"])
def test_connection_lost_while_the_stream_is_looked_at(
    make: MakeBus, fake: FakeNats, known: bool
) -> None:
    """The look ends with its connection and says nothing about the stream."""
    info = json.dumps({"config": {"name": "S", "subjects": ["s"]}}).encode()
    answers: list[Callable[[Client, Published], None]] = [
        lambda client, message: client.deliver(message.reply, info)
    ]
    if known:
        answers.append(lambda client, message: client.close())
    else:
        answers.insert(0, lambda client, message: client.close())

    def speak(client: Client, message: Published) -> None:
        if message.subject.startswith("$JS."):
            (answers.pop(0) if len(answers) > 1 else answers[0])(client, message)
        else:
            acknowledge(client, message)

    fake.on_publish = speak
    bus = make(fake.url, stream="S", subjects=["s"])
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    bus.start(10)
    if known:
        next(iter(fake._clients.values()))._peer.shutdown(2)
        eventually(lambda: len(fake.connections) == 3)
        answers[:] = [lambda client, message: client.deliver(message.reply, info)]
        bus.start(10)
    assert {type(error) for error in errors} <= {ConnectionLost, BrokerUnreachable}
    assert bus.publish_envelope_sync("s", envelope()).success


# -- our own failures ------------------------------------------------------------------


def test_a_failure_of_the_pump_is_told_and_survived(
    make: MakeBus, fake: FakeNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that nobody expected is reported; then the bus goes on."""
    bus = make(fake.url)
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    bus.start(5)
    pump = _pump(bus)
    broken = [True]
    next_parts = pump._sender.next_parts

    def fail(connection: Any) -> Any:
        if broken.pop() if broken else False:
            raise ZeroDivisionError
        return next_parts(connection)

    monkeypatch.setattr(pump._sender, "next_parts", fail)
    for number in range(10):
        bus.publish_envelope("orders", envelope(number))
    assert all(r.success for r in read(bus, 10))
    (failed,) = [e for e in errors if isinstance(e, BackendFailed)]
    assert "ZeroDivisionError" in str(failed)
    assert bus.health().connected is True


def test_promise_1_a_job_of_the_clock_that_fails(
    make: MakeBus, fake: FakeNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines are kept whatever else fails by the clock; it is told once."""
    bus = make(fake.url, delivery_timeout=1.0)
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    bus.start(5)

    def fail(now: float) -> None:
        raise ZeroDivisionError

    watch = _pump(bus)._watch
    monkeypatch.setattr(watch, "_jobs", (fail, *watch._jobs))
    fake.on_publish = lambda client, message: None
    bus.publish_envelope("orders", envelope())
    (result,) = read(bus, 1)
    assert result.outcome is Outcome.UNKNOWN
    assert result.latency < 3 + SLACK
    assert sum(isinstance(error, BackendFailed) for error in errors) == 1


def test_promise_1_an_exception_between_hand_over_and_wake_up(
    make: MakeBus, fake: FakeNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of publish_envelope leaves nobody asleep."""
    bus = make(fake.url)
    bus.start(5)
    loop = bus._runtime.backend._loop  # type: ignore[union-attr]
    monkeypatch.setattr(loop, "call_soon_threadsafe", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        bus.publish_envelope("orders", envelope(0))
    monkeypatch.undo()
    (first,) = read(bus, 1)
    assert first.success
    # At the next tick of the clock publishers wake the loop themselves again.
    eventually(lambda: bus.publish_envelope_sync("orders", envelope(1)).latency < 0.1)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


# -- what it costs ---------------------------------------------------------------------


def test_wake_ups_and_chunks_are_few(
    make: MakeBus, fake: FakeNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst costs one wake-up, acks one job per look at the socket; no more threads."""
    replies: list[str] = []

    def hold(client: Client, message: Published) -> None:
        replies.append(message.reply)
        if len(replies) == 5000:
            body = b'{"stream":"S","seq":1}'
            client.send(
                b"".join(
                    b"MSG %s 1 %d\r\n%s\r\n" % (reply.encode(), len(body), body)
                    for reply in replies
                )
            )

    fake.on_publish = hold
    bus = make(fake.url, ack_wait=20)
    bus.start(5)
    backend: Any = bus._runtime.backend  # type: ignore[union-attr]
    wake_ups, chunks = [0], [0]
    wake, submit = backend._loop.call_soon_threadsafe, backend._workers._pool.submit

    def count_wake(*args: Any) -> Any:
        wake_ups[0] += 1
        return wake(*args)

    def count_submit(*args: Any) -> Any:
        chunks[0] += 1
        return submit(*args)

    go = threading.Event()
    backend._loop.call_soon_threadsafe(go.wait)  # the loop is busy with something
    monkeypatch.setattr(backend._loop, "call_soon_threadsafe", count_wake)
    monkeypatch.setattr(backend._workers._pool, "submit", count_submit)
    for number in range(5000):
        bus.publish_envelope("orders", envelope(number))
    assert wake_ups[0] == 1
    go.set()
    assert all(r.success for r in read(bus, 5000))
    assert chunks[0] < 500
    monkeypatch.undo()
    workers = [t for t in threading.enumerate() if t.name.startswith("eventbus-ack")]
    assert len(workers) == backend._workers._size


def _open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_nothing_leaks_over_20_reconnects(make: MakeBus, fake: FakeNats) -> None:
    """Threads, files and tasks are as many after 20 lost connections as after one."""
    bus = make(fake.url, reconnect_wait=0.01, max_reconnect_wait=0.02)
    backend: Any
    counts: list[tuple[int, int, int]] = []
    for number in range(21):
        assert bus.publish_envelope_sync("orders", envelope(number)).success
        backend = bus._runtime.backend  # type: ignore[union-attr]
        tasks = asyncio.run_coroutine_threadsafe(_tasks(), backend._loop).result(5)
        counts.append((threading.active_count(), _open_files(), tasks))
        for client in list(fake._clients.values()):
            client._peer.shutdown(2)
        eventually(lambda: len(fake.connections) == number + 2)  # noqa: B023
    eventually(lambda: bus.publish_envelope_sync("orders", envelope()).success)
    assert counts[-1][0] == counts[0][0]
    assert counts[-1][1] <= counts[0][1] + 1
    assert counts[-1][2] <= counts[0][2]


async def _tasks() -> int:
    await asyncio.sleep(0.05)
    return len(asyncio.all_tasks()) - 1


def test_an_idle_bus_costs_nothing(make: MakeBus, fake: FakeNats) -> None:
    """A connected bus with nothing to do uses at most half a percent of a core."""
    bus = make(fake.url)
    assert bus.publish_envelope_sync("orders", envelope()).success
    used = _loop_cpu(bus)
    let_pass(1.0)
    assert _loop_cpu(bus) - used < 0.2


def _loop_cpu(bus: EventBus) -> float:
    loop = bus._runtime.backend._loop  # type: ignore[union-attr]

    async def used() -> float:
        return time.thread_time()

    return asyncio.run_coroutine_threadsafe(used(), loop).result(5)


def test_no_server_costs_nothing_either(make: MakeBus, unused_tcp_port: int) -> None:
    """Nor does one that looks for its server."""
    bus = make(f"nats://127.0.0.1:{unused_tcp_port}")
    bus.publish("orders", b"x")
    eventually(lambda: bus.health().connected is False)
    used = _loop_cpu(bus)
    let_pass(1.0)
    assert _loop_cpu(bus) - used < 0.3


def test_promise_2_memory_does_not_grow(make: MakeBus, fake: FakeNats) -> None:
    """After everything is settled no table holds anything."""

    def answer(client: Client, message: Published) -> None:
        fake.published.clear()
        fake.received = b""
        if message.subject.startswith("gone"):
            client.deliver(message.reply, b"", b"NATS/1.0 503\r\n\r\n")
        else:
            acknowledge(client, message)

    fake.on_publish = answer
    bus = make(fake.url, delivery_timeout=1.0)
    for number in range(3000):
        bus.publish_envelope(f"orders.{number}", envelope(number))
        bus.publish_envelope(f"gone.{number}", envelope(number))
    read(bus, 6000)
    pump = _pump(bus)
    eventually(lambda: not pump._gates)
    assert (
        len(pump._pending)
        == len(pump._sender._again)
        == len(pump._handover.events)
        == 0
    )
    assert not pump._answers._chunk
    assert not pump._refusals._doubts
    assert len(bus._runtime.in_flight._order) <= 1  # type: ignore[union-attr]
