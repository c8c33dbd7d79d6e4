"""A real nats-server that is late, killed, frozen, restarted and tired: nothing is lost."""

import os
import signal
import threading
import time
import tracemalloc

from collections.abc import Iterator

import pytest

from conformance.suite import envelope, publish_all, read
from support.eventually import eventually
from support.jetstream import (
    MakeBus,
    buses,
    last_sequence,
    reload_server,
    unique_stream,
)
from support.load import Load
from support.patience import SLACK, let_pass
from support.stored import as_of_a_rig
from support.verdict import verdict

from eventbus_sync import Envelope, EventBus, Outcome, PublishResult
from eventbus_sync.errors import (
    BrokerUnavailable,
    BrokerUnreachable,
    BusClosed,
    ConnectionLost,
    DeliveryTimedOut,
    MessageRefused,
)
from eventbus_sync.testing import NatsServer
from eventbus_sync.testing.conformance import books
from eventbus_sync.testing.readback import read_nats_stream


pytestmark = pytest.mark.nats


@pytest.fixture
def make() -> Iterator[MakeBus]:
    """Buses that are closed after the test."""
    with buses() as make:
        yield make


def stored_once_in_order(server: NatsServer, stream: str, count: int) -> None:
    """Fail unless the stream holds each of *count* events once and in order."""
    books.stored_once_in_order(as_of_a_rig(read_nats_stream(server.url, stream)), count)


@verdict
def all_settled(bus: EventBus, count: int) -> list[PublishResult]:
    """Return *count* results: nobody waits in vain, and the counters agree."""
    results = read(bus, count)
    assert bus.stats().balanced
    return results


def all_acked(bus: EventBus, count: int) -> list[PublishResult]:
    """Return *count* results, all of them acked."""
    results = all_settled(bus, count)
    assert {r.outcome for r in results} == {Outcome.ACKED}
    return results


@verdict
def all_are_there(server: NatsServer, stream: str, events: list[Envelope]) -> None:
    """Fail unless the stream holds these events and no other."""
    stored = {event.event_id for event in read_nats_stream(server.url, stream)}
    assert stored == {event.event_id for event in events}


# -- late ------------------------------------------------------------------------------


def test_the_log_tells_of_a_server_that_is_late(
    make: MakeBus, fresh_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning with the reason and no secret, and a line when it has come."""
    caplog.set_level("INFO", "eventbus_sync")
    fresh_nats_server.kill()
    url = fresh_nats_server.url
    bus = make(url.replace("//", "//user:hunter2@"), reconnect_wait=0.02)
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    bus.publish("orders", b"starts the bus")
    eventually(lambda: len(errors) > 3)
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    said = line.getMessage()
    assert f"eventbus: not connected: {url} cannot be reached: " in said
    fresh_nats_server.start()
    eventually(lambda: len(caplog.records) == 2)
    assert caplog.records[1].levelname == "INFO"
    assert "eventbus: connected after " in caplog.text
    assert "hunter2" not in caplog.text


def test_promise_1_events_wait_for_a_server_that_is_late(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """What was published before the server came up is stored then, in order."""
    server = fresh_nats_server
    server.stop()
    bus = make(server, stream="LATE")
    for number in range(500):
        bus.publish_envelope("late.orders", envelope(number))
    eventually(lambda: bus.health().last_error)
    assert isinstance(bus.health().last_error, BrokerUnreachable)
    assert bus.health().connected is False

    server.start()
    all_acked(bus, 500)
    stored_once_in_order(server, "LATE", 500)
    assert bus.health().connected is True
    assert bus.health().reconnects == 0


def test_start_waits_for_a_server_that_is_late(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """start() returns when the server comes up within its timeout."""
    fresh_nats_server.stop()
    bus = make(fresh_nats_server, stream="LATE")
    starter = threading.Timer(0.5, fresh_nats_server.start)
    starter.start()
    bus.start(20)
    starter.join()
    assert bus.publish_envelope_sync("late", envelope()).success


def test_start_says_that_no_server_is_there(
    make: MakeBus, unused_tcp_port: int
) -> None:
    """start() keeps its timeout, and names the server and the reason."""
    bus = make(f"nats://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(
        BrokerUnreachable, match=f"{unused_tcp_port}.*refused"
    ) as caught:
        bus.start(0.5)
    assert isinstance(caught.value.__cause__, BrokerUnreachable)
    assert isinstance(caught.value.__cause__.__cause__, OSError)


def test_promise_1_no_server_at_all(make: MakeBus, unused_tcp_port: int) -> None:
    """Never written: rejected at delivery_timeout, retriable, with the reason."""
    bus = make(f"nats://127.0.0.1:{unused_tcp_port}", delivery_timeout=1.0)
    for number in range(50):
        bus.publish_envelope("nobody", envelope(number))
    results = read(bus, 50)
    for result in results:
        assert isinstance(result.error, BrokerUnavailable)
        assert result.error.retriable
        assert "refused" in str(result.error)
        assert 1.0 <= result.latency < 3.0 + SLACK


# -- killed and restarted --------------------------------------------------------------


def _kill_in_the_middle(
    server: NatsServer, bus: EventBus, stream: str, count: int
) -> None:
    events = [envelope(n, f"order-{n % 40}") for n in range(count)]
    publishing = threading.Thread(
        target=publish_all, args=(bus, stream.lower(), events[count // 2 :])
    )
    publish_all(bus, stream.lower(), events[: count // 2])
    eventually(lambda: bus.stats().acked > count // 10, timeout=60, interval=0.001)
    # Frozen for a moment, so that the kill finds events in flight, however fast we are.
    server.freeze()
    publishing.start()
    eventually(lambda: bus.stats().in_flight > 0, timeout=60, interval=0.001)
    server.kill()
    server.start()
    publishing.join()
    all_acked(bus, count)
    stored_once_in_order(server, stream, count)
    assert bus.health().reconnects >= 1


def test_promise_5_and_6_killed_and_restarted(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """Kill -9 in the middle of publishing: each event stored once, in order, acked."""
    bus = make(fresh_nats_server, stream="KILLED")
    _kill_in_the_middle(fresh_nats_server, bus, "KILLED", 3000)


@pytest.mark.slow
def test_promise_5_and_6_killed_with_20000_in_flight(
    make: MakeBus, proxied_nats_server: NatsServer
) -> None:
    """All in flight at the kill: half of them stored, and no answer got through."""
    server, proxy = proxied_nats_server, proxied_nats_server.proxy
    assert proxy is not None
    # The silence must not be taken for an outage before there is one.
    bus = make(server, stream="KILLED", ack_wait=30.0, delivery_timeout=60.0)
    bus.start(10)
    events = [envelope(n, f"order-{n % 40}") for n in range(20_000)]
    proxy.mute()
    publish_all(bus, "killed", events[:10_000])
    direct = f"nats://127.0.0.1:{server.port}"
    eventually(lambda: last_sequence(direct, "KILLED") == 10_000, 60)
    server.freeze()
    publish_all(bus, "killed", events[10_000:])
    assert bus.stats().in_flight == 20_000
    server.kill()
    proxy.heal()
    server.start()
    results = all_acked(bus, 20_000)
    stored_once_in_order(server, "KILLED", 20_000)
    all_are_there(server, "KILLED", events)
    assert sum(result.duplicate for result in results) == 10_000
    _kill_in_the_middle(server, make(server, stream="AGAIN"), "AGAIN", 20_000)


@pytest.mark.parametrize(
    "restarts", [2, pytest.param(5, marks=pytest.mark.slow)], ids=str
)
def test_promise_5_and_6_restarts_in_a_row(
    make: MakeBus, proxied_nats_server: NatsServer, restarts: int
) -> None:
    """Restart after restart under load: each event stored once, in order, acked."""
    server, proxy = proxied_nats_server, proxied_nats_server.proxy
    assert proxy is not None
    bus = make(server, stream="RESTARTED")
    with Load(bus, "restarted") as load:
        for _ in range(restarts):
            load.goes_on()
            # Events are under way both ways when it ends.
            proxy.slow(delay=0.15)
            load.goes_on(200)
            server.stop()
            proxy.heal()
            server.start()
    load.check(read_nats_stream(server.url, "RESTARTED"))
    assert load.outcomes() == {Outcome.ACKED}
    assert sum(result.duplicate for result in load.results) > 0


# -- frozen ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ack_wait", "reconnects"), [(5.0, 0), (0.4, 1)], ids=["patient", "impatient"]
)
def test_promise_5_and_6_frozen_for_a_while(
    make: MakeBus, fresh_nats_server: NatsServer, ack_wait: float, reconnects: int
) -> None:
    """Frozen for less or for more than ack_wait: stored once, in order, acked."""
    server = fresh_nats_server
    bus = make(server, stream="FROZEN", ack_wait=ack_wait, connect_timeout=0.5)
    assert bus.publish_envelope_sync("frozen", envelope(0, "warm")).success
    server.freeze()
    thaw = threading.Timer(1.2, server.resume)
    thaw.start()
    publish_all(bus, "frozen", [envelope(n, f"order-{n % 9}") for n in range(3000)])
    all_acked(bus, 3000)
    thaw.join()
    stored_once_in_order(server, "FROZEN", 3001)
    assert (bus.health().reconnects > 0) == bool(reconnects)


def test_promise_1_frozen_for_longer_than_delivery_timeout(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """All events are settled in time, unknown or never written; then it goes on."""
    server = fresh_nats_server
    bus = make(
        server, stream="FROZEN", delivery_timeout=1.5, ack_wait=0.5, connect_timeout=0.3
    )
    assert bus.publish_envelope_sync("frozen", envelope(0, "warm")).success
    server.freeze()
    for number in range(200):
        bus.publish_envelope("frozen", envelope(number))
    eventually(lambda: bus.health().connected is False)
    bus.publish_envelope("frozen", envelope(200))
    results = read(bus, 201)
    last = next(r for r in results if isinstance(r.error, BrokerUnavailable))
    assert last.outcome is Outcome.REJECTED
    others = [r for r in results if r is not last]
    assert {type(r.error) for r in others} == {DeliveryTimedOut}
    assert all("acknowledged nothing" in str(r.error) for r in others) or all(
        "did not answer" in str(r.error) for r in others
    )
    assert max(r.latency for r in results) < 3.5 + SLACK
    server.resume()
    eventually(lambda: bus.publish_envelope_sync("frozen", envelope(300)).success)


# -- limits of the server --------------------------------------------------------------


def test_promise_1_larger_than_max_payload(make: MakeBus) -> None:
    """Headers count: refused for good, and the connection lives for the others."""
    with NatsServer(config="max_payload: 4096") as server:
        bus = make(server, stream="SMALL")
        errors: list[Exception] = []
        bus.set_error_handler(errors.append)
        bus.start(10)
        for number in range(20):
            # Body and headers fit each for itself, and not together.
            bus.publish_envelope(
                "small", envelope(number), headers={"big": "x" * (3300 + 30 * number)}
            )
            bus.publish("small", b"x" * (4087 + number))
        results = read(bus, 20)
        assert bus.publish_envelope_sync("small", envelope(99)).success
        refused = [r for r in results if not r.success]
        assert 0 < len(refused) < 20
        for result in refused:
            assert isinstance(result.error, MessageRefused)
            assert result.outcome is Outcome.REJECTED
            assert not result.error.retriable
            assert "max_payload" in str(result.error)
        assert bus.health().reconnects == 0
        eventually(lambda: any("max_payload" in str(e) for e in errors))
        # 10 plain messages of 4087 to 4096 bytes went through.
        stored = read_nats_stream(server.url, "SMALL")
        assert sum(event.event_id == "" for event in stored) == 10


def test_promise_1_a_lower_max_payload_is_learnt(make: MakeBus) -> None:
    """A limit lowered by a reload costs one connection; then it is known."""
    with NatsServer(config="max_payload: 8192") as server:
        bus = make(server, stream="SMALLER")
        big = [envelope(number, trace_id="x" * 3000) for number in range(3)]
        assert bus.publish_envelope_sync("smaller", big[0]).success
        reload_server(server, "max_payload: 4096")
        first = bus.publish_envelope_sync("smaller", big[1])
        assert first.outcome is Outcome.UNKNOWN
        assert "max_payload" in str(first.error)
        second = bus.publish_envelope_sync("smaller", big[2])
        assert second.outcome is Outcome.REJECTED
        assert isinstance(second.error, MessageRefused)
        assert bus.publish_envelope_sync("smaller", envelope()).success
        assert bus.health().reconnects == 1
        assert len(read_nats_stream(server.url, "SMALLER")) == 2


def test_promise_1_an_event_that_ends_connections(make: MakeBus) -> None:
    """An event that no server rule announces is found, settled, and the rest flows."""
    with NatsServer(config="max_control_line: 200") as server:
        bus = make(server, stream="LINES", subjects=["lines.>"])
        bus.start(10)
        for number in range(50):
            bus.publish_envelope("lines.good", envelope(number))
        bus.publish_envelope(f"lines.{'x' * 250}", envelope(50, "bad"))
        for number in range(51, 100):
            bus.publish_envelope("lines.good", envelope(number))
        results = read(bus, 100)
        (bad,) = [r for r in results if not r.success]
        assert bad.aggregate_id == "bad"
        assert bad.outcome is Outcome.UNKNOWN
        # The server's reason is often lost with the connection.
        assert "ends connections over this event" in str(bad.error)
        assert bad.latency < 5 + SLACK
        stored_once_in_order(server, "LINES", 99)


def test_promise_1_lame_duck(make: MakeBus) -> None:
    """A server that leaves politely and comes back: all acked, in order, once."""
    config = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"'
    with NatsServer(config=config) as server:
        bus = make(server, stream="DUCK")
        assert bus.publish_envelope_sync("duck", envelope(0, "warm")).success
        assert server.pid is not None
        os.kill(server.pid, signal.SIGUSR2)
        number = 0
        while server.running:
            bus.publish_envelope("duck", envelope(number))
            number += 1
            let_pass(0.002)  # the server takes its leave slowly
        server.kill()
        server.start()
        all_acked(bus, number)
        stored = as_of_a_rig(read_nats_stream(server.url, "DUCK"))
        books.stored_once(stored, number + 1)


# -- closing ---------------------------------------------------------------------------


def test_promise_9_close_while_connecting(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """Close does not wait for a connection attempt that gets no answer."""
    fresh_nats_server.freeze()
    bus = make(fresh_nats_server, connect_timeout=30)
    bus.publish_envelope("orders", envelope())
    before = {t.name for t in threading.enumerate()}
    assert "eventbus-nats-loop" in before
    started = time.monotonic()
    bus.close(1)
    assert time.monotonic() - started < 1.5 + SLACK
    _nothing_left()
    (result,) = list(bus.get_publish_result_channel())
    assert isinstance(result.error, BrokerUnavailable)


def test_promise_9_close_while_reconnecting(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """Close ends the pause between two attempts; what was on the wire is unknown."""
    server = fresh_nats_server
    bus = make(server, stream="GONE", reconnect_wait=30, max_reconnect_wait=30)
    assert bus.publish_envelope_sync("gone", envelope()).success
    server.freeze()
    bus.publish_envelope("gone", envelope(1))
    eventually(lambda: _written(bus) == 1)
    server.kill()
    eventually(lambda: bus.health().connected is False)
    bus.publish_envelope("gone", envelope(2))
    started = time.monotonic()
    bus.close(1)
    assert time.monotonic() - started < 1.5 + SLACK
    _nothing_left()
    first, second = sorted(bus.get_publish_result_channel(), key=lambda r: -r.latency)
    assert first.outcome is Outcome.UNKNOWN
    assert second.outcome is Outcome.REJECTED


def _written(bus: EventBus) -> int:
    """Return how many of the events in flight are on the wire."""
    pump = bus._runtime.backend._pump  # type: ignore[union-attr]
    return sum(record.outstanding for record in list(pump._pending))


def _nothing_left() -> bool:
    assert not [t.name for t in threading.enumerate() if t.name.startswith("eventbus")]
    return True


@pytest.mark.parametrize("timeout", [0.0, 0.3, 2.0])
def test_promise_9_close_with_a_frozen_server(
    make: MakeBus, fresh_nats_server: NatsServer, timeout: float
) -> None:
    """The deadline holds as a whole, with megabytes that no server reads."""
    server = fresh_nats_server
    bus = make(server, stream="FROZEN")
    assert bus.publish_envelope_sync("frozen", envelope()).success
    server.freeze()
    for number in range(200):
        bus.publish_envelope("frozen", envelope(number, trace_id="x" * 100_000))
        bus.publish("frozen", b"x" * 10_000)
    started = time.monotonic()
    bus.close(timeout)
    assert time.monotonic() - started < timeout + 0.5 + SLACK
    eventually(_nothing_left)
    results = list(bus.get_publish_result_channel())
    assert len(results) == 200
    assert {r.outcome for r in results} <= {Outcome.UNKNOWN, Outcome.REJECTED}


def test_promise_9_close_with_events_that_no_stream_takes(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Refused every time until the close: rejected, not unknown."""
    stream, subject = unique_stream()
    bus = make(nats_server, stream=stream)
    bus.start(10)
    for number in range(20):
        bus.publish_envelope(f"other-{subject}", envelope(number))
    eventually(lambda: _written(bus) == 0)
    bus.close(1)
    results = list(bus.get_publish_result_channel())
    assert [r.outcome for r in results] == [Outcome.REJECTED] * 20


def test_plain_messages_are_flushed_at_close(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """What was handed over before close is on the server after it."""
    stream, subject = unique_stream()
    bus = make(nats_server, stream=stream)
    bus.start(10)
    for number in range(5000):
        bus.publish(subject, str(number))
    bus.close(5)

    def stored() -> list[int]:
        return [int(e.value) for e in read_nats_stream(nats_server.url, stream)]

    # The server has read them all, and its stream may take a moment to store them.
    eventually(lambda: len(stored()) >= 5000, 10)
    assert stored() == list(range(5000))


def test_start_ends_when_the_bus_is_closed(make: MakeBus, unused_tcp_port: int) -> None:
    """A start() that waits in another thread raises BusClosed at once."""
    bus = make(f"nats://127.0.0.1:{unused_tcp_port}")
    raised: list[BaseException] = []

    def start() -> None:
        try:
            bus.start(60)
        except BusClosed as exc:
            raised.append(exc)

    starter = threading.Thread(target=start)
    starter.start()
    eventually(lambda: bus.health().connected is False)
    bus.close(2)
    starter.join(2)
    assert len(raised) == 1


# -- what it costs ---------------------------------------------------------------------


def test_a_lost_connection_is_told_and_comes_back(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """Health, error handler and reconnect callback show a restart."""
    server = fresh_nats_server
    bus = make(server, stream="TOLD")
    errors: list[Exception] = []
    back: list[bool] = []
    bus.set_error_handler(errors.append)
    bus.register_reconnect_callback(lambda: back.append(True))
    bus.start(10)
    server.kill()
    eventually(lambda: bus.health().connected is False)
    eventually(lambda: any(isinstance(e, ConnectionLost) for e in errors))
    with pytest.raises(BrokerUnreachable):
        bus.start(0.2)
    server.start()
    bus.start(10)
    assert bus.health().connected is True
    assert bus.health().reconnects == 1
    eventually(lambda: back == [True])


@pytest.mark.slow
def test_promise_2_memory_over_200000_events(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """The second hundred thousand events need no more memory than the first."""
    stream, subject = unique_stream()
    bus = make(nats_server, stream=stream, storage="memory", subjects=[f"{subject}.*"])

    def publish_many() -> None:
        for start in range(0, 100_000, 10_000):
            events = [envelope(n, f"o-{n % 50}") for n in range(start, start + 10_000)]
            for event in events:
                bus.publish_envelope(f"{subject}.{event.aggregate_id}", event)
            all_acked(bus, 10_000)

    publish_many()
    tracemalloc.start(1)
    try:
        publish_many()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 2_000_000
    pump = bus._runtime.backend._pump  # type: ignore[union-attr]
    assert len(pump._pending) == len(pump._gates) == 0
