"""EventBus on memory: what is refused, what is returned, and who may call what."""

import enum
import math
import queue
import sys
import threading

from collections.abc import Iterator
from typing import Any

import pytest

from support.eventually import eventually
from support.interrupt import InterruptAt, InterruptedWaiter

import eventbus_sync.bus

from eventbus_sync import (
    BackendBusy,
    BusClosed,
    ConfigError,
    Envelope,
    EnvelopeError,
    EventBus,
    EventBusError,
    MemoryConfig,
    NatsConfig,
    Outcome,
    PublishResult,
    ResultChannelClosed,
    _inflight,
    _lifecycle,
)
from eventbus_sync.backends import memory
from eventbus_sync.config import BusConfig
from eventbus_sync.errors import (
    AuthenticationFailed,
    BrokerFull,
    BrokerUnreachable,
    CalledFromCallback,
    IllegalTopic,
    JetStreamDisabled,
)
from eventbus_sync.testing import MemoryBus


def event(number: int = 0) -> Envelope:
    """Return some event."""
    return Envelope("order-1", "OrderCreated", 1, {"n": number})


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    """A bus whose broker obeys."""
    bus = MemoryBus()
    yield bus
    bus.broker.resume()
    bus.close(5)


# -- what is refused, before anything is accepted -------------------------------------


@pytest.mark.parametrize("value", [None, {}, b"{}", "envelope", 3])
def test_only_envelopes_are_events(bus: MemoryBus, value: Any) -> None:
    """Anything but an Envelope is refused by name of its type."""
    with pytest.raises(EnvelopeError, match=f"not {type(value).__name__}") as caught:
        bus.publish_envelope("orders", value)
    assert caught.value.field == "envelope"
    assert bus.stats().accepted == 0


@pytest.mark.parametrize("topic", [None, 3, b"orders", "", " ", "a b", "a\n", "a\x00"])
def test_blank_and_illegal_topics(bus: MemoryBus, topic: Any) -> None:
    """A topic that no broker could take is refused by both ways of publishing."""
    with pytest.raises(EnvelopeError, match="topic"):
        bus.publish_envelope(topic, event())
    with pytest.raises(EnvelopeError, match="topic"):
        bus.publish(topic, b"x")
    assert bus.stats().accepted == 0


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, math.inf, "1", True, [1]])
def test_wrong_timeouts_name_the_field(bus: MemoryBus, timeout: Any) -> None:
    """A timeout is a non-negative number of seconds, everywhere."""
    for call in (
        lambda: bus.publish_envelope("orders", event(), timeout=timeout),
        lambda: bus.publish_envelope_sync("orders", event(), timeout=timeout),
        lambda: bus.flush(timeout),
        lambda: bus.close(timeout),
        lambda: bus.start(timeout),
    ):
        with pytest.raises(ConfigError, match="timeout must be a non-negative number"):
            call()
    assert bus.stats().accepted == 0
    assert bus.health().state == "new"


@pytest.mark.parametrize("config", [None, "memory://", {}, MemoryConfig])
def test_wrong_config(config: Any) -> None:
    """The bus takes a config object, and says what else to do with a URL."""
    with pytest.raises(ConfigError, match="from_url"):
        EventBus(config)


@pytest.mark.parametrize("message", [None, 3, ["x"], bytearray(b"x")])
def test_plain_messages_are_bytes_or_text(bus: MemoryBus, message: Any) -> None:
    """Anything else is refused by name of its type."""
    with pytest.raises(EnvelopeError, match="message must be bytes or str"):
        bus.publish("orders", message)


def test_plain_messages_that_cannot_be_encoded(bus: MemoryBus) -> None:
    """Lone surrogates, keys that are no text, and too much are refused."""
    with pytest.raises(EnvelopeError, match="message holds a lone surrogate"):
        bus.publish("orders", "\ud800")
    with pytest.raises(EnvelopeError, match="key holds a lone surrogate"):
        bus.publish("orders", "x", key="\ud800")
    with pytest.raises(EnvelopeError, match="key must be a str"):
        bus.publish("orders", "x", key=3)  # type: ignore[arg-type]
    with pytest.raises(EnvelopeError, match="max_message_bytes"):
        bus.publish("orders", b"x" * 1_000_001)


def test_the_limit_counts_bytes_not_characters() -> None:
    """Headers count in UTF-8 bytes, as the wire does."""
    small = event()
    names = sum(len(name) + len(text) for name, text in small.headers())
    size = len(small.to_bytes()) + len(small.aggregate_id) + names
    limit = size + len("note") + 2 * 10
    with MemoryBus(MemoryConfig(max_message_bytes=limit)) as bus:
        bus.publish_envelope("orders", small, headers={"note": "ü" * 10})
        with pytest.raises(EnvelopeError, match=f"{limit + 2} bytes"):
            bus.publish_envelope("orders", small, headers={"note": "ü" * 11})


@pytest.mark.parametrize("headers", [[], (), "", 0, [("a", "b")]], ids=repr)
def test_headers_are_a_mapping(bus: MemoryBus, headers: Any) -> None:
    """Also what is empty, and would do no harm."""
    with pytest.raises(EnvelopeError, match=r"headers is a .*pass a mapping"):
        bus.publish_envelope("orders", event(), headers=headers)
    assert bus.stats().accepted == 0


def test_a_configuration_of_no_broker() -> None:
    """Their common base says nothing of a broker; that is said at once."""
    with pytest.raises(ConfigError, match="KafkaConfig, NatsConfig or MemoryConfig"):
        EventBus(BusConfig())


def test_a_broker_of_its_own_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bus for memory:// keeps the latest messages only, to recognise repeats."""
    monkeypatch.setattr(memory, "KEPT", 3)
    with EventBus(MemoryConfig()) as bus:
        first = event()
        assert not bus.publish_envelope_sync("orders", first).duplicate
        assert bus.publish_envelope_sync("orders", first).duplicate
        for number in range(3):
            bus.publish_envelope_sync("orders", event(number))
        broker = bus._runtime.backend.broker  # type: ignore[union-attr]
        assert [stored.position for stored in broker.messages()] == [1, 2, 3]
        assert not bus.publish_envelope_sync("orders", first).duplicate


def test_close_without_time(bus: MemoryBus, caplog: pytest.LogCaptureFixture) -> None:
    """An idle bus ends at once: nothing to wait for, nothing to complain about."""
    assert bus.publish_envelope_sync("orders", event()).success
    bus.close(0)
    assert caplog.records == []
    eventually(lambda: not [t for t in threading.enumerate() if "eventbus" in t.name])


def test_callbacks_must_be_callable(bus: MemoryBus) -> None:
    """What cannot be called is refused when it is registered."""
    registers: list[Any] = [
        bus.register_publish_callback,
        bus.register_reconnect_callback,
        bus.set_error_handler,
    ]
    for register in registers:
        with pytest.raises(ConfigError, match="must be callable, not int"):
            register(3)
    bus.set_error_handler(None)


def test_jetstream_disabled_is_refused_before_anything_starts() -> None:
    """Without JetStream no event can be acknowledged, so none is accepted."""
    bus = EventBus(NatsConfig(jetstream=False))
    with pytest.raises(JetStreamDisabled, match="jetstream=False"):
        bus.publish_envelope("orders", event())
    with pytest.raises(JetStreamDisabled):
        bus.publish_envelope_sync("orders", event())
    assert bus.stats().accepted == 0
    bus.close(5)


# -- outcomes --------------------------------------------------------------------------


def test_a_refusal_is_an_outcome(bus: MemoryBus) -> None:
    """What the broker says is never raised."""
    bus.broker.reject(IllegalTopic("no such place"), topic="nowhere")
    result = bus.publish_envelope_sync("nowhere", event())

    assert result.outcome is Outcome.REJECTED
    assert not result.success
    assert isinstance(result.error, IllegalTopic)
    assert (result.error.retriable, result.error.maybe_delivered) == (False, False)
    assert bus.publish_envelope_sync("nowhere", event()).success


def test_a_lost_ack_is_unknown() -> None:
    """Stored, but nobody said so: unknown, retriable, maybe delivered."""
    with MemoryBus(MemoryConfig(delivery_timeout=0.3)) as bus:
        bus.broker.drop_acks()
        result = bus.publish_envelope_sync("orders", event())

        assert result.outcome is Outcome.UNKNOWN
        assert result.error is not None
        assert (result.error.retriable, result.error.maybe_delivered) == (True, True)
        assert len(bus.broker.messages("orders")) == 1


def test_delay_is_latency(bus: MemoryBus) -> None:
    """The latency of a result is at least what the broker took."""
    bus.broker.delay(1.1)
    assert bus.publish_envelope_sync("orders", event()).latency >= 1.1


def test_sync_outcomes_do_not_land_on_the_channel(bus: MemoryBus) -> None:
    """publish_envelope_sync returns the outcome, and nobody else gets it."""
    assert bus.publish_envelope_sync("orders", event()).success
    with pytest.raises(queue.Empty):
        bus.get_publish_result_channel().get_nowait()
    assert bus.stats().returned == 1


def test_an_interrupted_wait_sends_the_outcome_to_the_channel(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in publish_envelope_sync: the event stays accepted, its outcome comes."""
    bus.start()
    bus.broker.freeze()
    monkeypatch.setattr(eventbus_sync.bus, "Waiter", InterruptedWaiter)
    with pytest.raises(KeyboardInterrupt):
        bus.publish_envelope_sync("orders", event())
    monkeypatch.undo()
    bus.broker.resume()

    assert bus.get_publish_result_channel().get(timeout=10).success
    assert bus.stats().balanced


def test_promise_1_an_exception_injected_anywhere_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C at any line of a publish: accepted or not, the books balance."""
    monkeypatch.setattr(_inflight, "EXPIRY_GRACE", 0.1)
    with MemoryBus(MemoryConfig(delivery_timeout=0.1)) as bus:
        assert bus.publish_envelope_sync("orders", event()).success
        for place in range(1, 400):
            # Made before: the digits of its timestamp decide how many lines that takes,
            # so that places would be tried twice, and others not at all.
            envelope = event(place)
            with InterruptAt(eventbus_sync.__path__[0], place) as interrupt:
                bus.publish_envelope("orders", envelope)
            if not interrupt.happened:
                break
        assert not interrupt.happened, "a publish has more places than were tried"
        assert place > 20, "next to nothing was interrupted"

        eventually(lambda: bus.stats().in_flight == 0)
        stats = bus.stats()
        assert stats.balanced
        assert stats.oldest_age == 0.0
        assert len(bus.get_publish_result_channel().get_many(1000)) == stats.queued
        assert bus.flush(1) == 0
        assert bus.publish_envelope_sync("orders", event()).success


# -- flush, close, callbacks ------------------------------------------------------------


def test_flush_waits_for_what_came_before_it(bus: MemoryBus) -> None:
    """Flush returns what is still in flight of the events before it."""
    bus.broker.freeze()
    for number in range(5):
        bus.publish_envelope("orders", event(number))
    assert bus.flush(0.05) == 5
    assert bus.flush(0) == 5
    bus.broker.resume()
    assert bus.flush() == 0
    assert bus.get_publish_result_channel().qsize() == 5


@pytest.mark.parametrize("method", ["flush", "close", "publish_envelope_sync"])
def test_waiting_calls_are_refused_in_callbacks(bus: MemoryBus, method: str) -> None:
    """A callback that would wait for its own thread gets an error, not a deadlock."""
    caught: list[Exception] = []

    def callback(_: PublishResult) -> None:
        try:
            if method == "publish_envelope_sync":
                bus.publish_envelope_sync("orders", event())
            else:
                getattr(bus, method)(1)
        except CalledFromCallback as exc:
            caught.append(exc)

    bus.register_publish_callback(callback)
    bus.publish_envelope("orders", event())
    eventually(lambda: caught)
    assert method in str(caught[0])
    assert "thread of your own" in str(caught[0])


def test_callbacks_may_publish(bus: MemoryBus) -> None:
    """A callback publishes a follow-up event, once."""

    def callback(result: PublishResult) -> None:
        if result.topic == "orders":
            bus.publish_envelope("audit", event())

    bus.register_publish_callback(callback)
    bus.publish_envelope("orders", event())
    eventually(lambda: len(bus.broker.messages("audit")) == 1)


def test_a_blocking_callback_delays_nothing(bus: MemoryBus) -> None:
    """While a callback blocks, outcomes come; close says so and keeps its deadline."""
    release = threading.Event()
    bus.register_publish_callback(lambda _: release.wait(30))
    for number in range(10):
        bus.publish_envelope("orders", event(number))
    assert bus.flush(10) == 0
    assert len(bus.get_publish_result_channel().get_many(10, timeout=10)) == 10
    bus.close(0.2)
    assert bus.health().state == "closed"
    release.set()


def test_callbacks_overflow_is_counted(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow callback costs callbacks, which are counted, and no outcome."""
    monkeypatch.setattr("eventbus_sync.observe.MAX_PENDING", 5)
    release, entered = threading.Event(), threading.Event()

    def callback(_: PublishResult) -> None:
        entered.set()
        release.wait(30)

    bus.register_publish_callback(callback)
    bus.publish_envelope("orders", event())
    assert entered.wait(10)
    for number in range(20):
        bus.publish_envelope_sync("orders", event(number))
    assert bus.stats().callbacks_dropped == 16
    release.set()


def test_reconnect_callbacks_run_when_the_connection_is_back(bus: MemoryBus) -> None:
    """The first connection is none; the second is, and is counted."""
    calls: list[str] = []
    errors: list[EventBusError] = []
    bus.register_reconnect_callback(lambda: calls.append("back"))
    bus.set_error_handler(errors.append)
    assert bus.publish_envelope_sync("orders", event()).success
    runtime = bus._runtime
    assert runtime is not None
    eventually(lambda: bus.health().connected)
    runtime.disconnected(BrokerUnreachable("gone"))
    assert bus.health().connected is False
    runtime.connected()

    eventually(lambda: calls == ["back"])
    health = bus.health()
    assert health.reconnects == 1
    assert health.connected is True
    assert isinstance(health.last_error, BrokerUnreachable)
    assert health.last_error_age is not None
    assert errors == [health.last_error]


@pytest.mark.parametrize(("timeout", "waited"), [(0, "0 s"), (0.2, r"0\.2\d* s")])
def test_no_room_says_how_long_was_waited(timeout: float, waited: str) -> None:
    """In a unit that people read: nobody waits for millionths of a second."""
    with MemoryBus(MemoryConfig(max_in_flight=1)) as bus:
        bus.broker.freeze()
        bus.publish_envelope("orders", event())
        with pytest.raises(BackendBusy, match=f"^no room after {waited}: 1 events"):
            bus.publish_envelope("orders", event(), timeout=timeout)
        bus.broker.resume()


def test_an_outage_is_logged_once(
    bus: MemoryBus, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning for each outage, however often it is told, and one line at its end."""
    caplog.set_level("INFO", "eventbus_sync")

    def lines() -> list[str]:
        return [f"{r.levelname} {r.getMessage()}" for r in caplog.records]

    bus.start(5)
    runtime = bus._runtime
    assert runtime is not None
    eventually(lambda: bus.health().connected)
    assert lines() == []  # a connection at once is no news
    for _ in range(3):
        runtime.disconnected(BrokerUnreachable("nobody at x:1"))
    eventually(lambda: lines() == ["WARNING eventbus: not connected: nobody at x:1"])
    # What no waiting mends, and shows only later.
    for _ in range(3):
        runtime.disconnected(AuthenticationFailed("wrong password"))
        runtime.disconnected(BrokerUnreachable("nobody at x:1"))
    runtime.connected()
    runtime.connected()
    runtime.disconnected(AuthenticationFailed("expired"))
    runtime.disconnected(AuthenticationFailed("expired"))
    eventually(lambda: len(lines()) == 4)
    assert lines()[1] == "WARNING eventbus: not connected: wrong password"
    assert lines()[2].startswith("INFO eventbus: connected again after 0.")
    assert lines()[3] == "WARNING eventbus: not connected: expired"
    assert len(lines()) == 4


def test_an_error_handler_that_raises_is_logged(
    bus: MemoryBus, caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler raises is logged, counted, and changes nothing."""

    def handler(_: EventBusError) -> None:
        msg = "the handler failed"
        raise RuntimeError(msg)

    bus.set_error_handler(handler)
    bus.start()
    assert bus._runtime is not None
    bus._runtime.report(BrokerFull("x"))
    eventually(lambda: "a callback raised" in caplog.text)
    assert bus.stats().callback_errors == 1


def test_start_fails_fast_on_a_frozen_broker(bus: MemoryBus) -> None:
    """start() says what to do, and the bus still works later."""
    bus.broker.freeze()
    with pytest.raises(BrokerUnreachable, match="resume"):
        bus.start(0.05)
    bus.broker.resume()
    bus.start(5)


def test_the_channel_ends_with_the_bus(bus: MemoryBus) -> None:
    """A blocked reader wakes at the end, and a naive loop does not spin."""
    ended = threading.Event()

    def loop() -> None:
        while True:
            try:
                bus.get_publish_result_channel().get()
            except queue.Empty:  # pragma: no cover - would spin for ever
                continue
            except ResultChannelClosed:
                ended.set()
                return

    reader = threading.Thread(target=loop)
    reader.start()
    bus.publish_envelope("orders", event())
    bus.close(5)
    assert ended.wait(10)
    reader.join()
    if sys.version_info >= (3, 13):
        with pytest.raises(queue.ShutDown):
            bus.get_publish_result_channel().get()


def test_the_channel_takes_nothing_from_users(bus: MemoryBus) -> None:
    """Only the bus puts results there, and only the bus ends it."""
    channel = bus.get_publish_result_channel()
    with pytest.raises(TypeError, match="by the bus alone"):
        channel.put(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="by the bus alone"):
        channel.put_nowait(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"bus\.close"):
        channel.shutdown()
    with pytest.raises(ValueError, match="max_items must be at least 1"):
        channel.get_many(0)
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        channel.get(timeout=-1)


def test_a_publisher_without_time_is_refused_at_once() -> None:
    """timeout=0 asks without waiting."""
    with MemoryBus(MemoryConfig(max_in_flight=1, delivery_timeout=1)) as bus:
        bus.broker.freeze()
        bus.publish_envelope("orders", event())
        with pytest.raises(BackendBusy, match="1 events"):
            bus.publish_envelope("orders", event(), timeout=0)
        bus.broker.resume()
        bus.publish_envelope("orders", event(), timeout=10)


def test_bytes_in_flight_are_bounded_but_one_large_event_passes() -> None:
    """The byte limit holds, and an event larger than it is not shut out for ever."""
    config = MemoryConfig(max_in_flight_bytes=1000, delivery_timeout=1)
    with MemoryBus(config) as bus:
        bus.broker.freeze()
        bus.publish_envelope("orders", Envelope("a", "E", 1, "x" * 5000))
        with pytest.raises(BackendBusy, match="max_in_flight_bytes"):
            bus.publish_envelope("orders", event(), timeout=0)


def test_a_closed_bus_refuses_and_repr_tells() -> None:
    """Closed is final; repr shows state and settings."""
    bus = MemoryBus()
    assert repr(bus).startswith("<MemoryBus new MemoryConfig(")
    bus.publish_envelope_sync("orders", event())
    assert "running" in repr(bus)
    bus.close()
    assert "closed" in repr(bus)
    with pytest.raises(BusClosed):
        bus.publish_envelope_sync("orders", event())
    assert bus.stats().accepted == 1


def test_a_forgotten_bus_lives_until_it_is_closed() -> None:
    """Events in flight of a bus that nobody holds any more are not lost."""
    bus = MemoryBus()
    broker = bus.broker
    broker.freeze()
    bus.publish_envelope("orders", event())
    name = id(bus)
    del bus
    assert name in {id(b) for b in _lifecycle._running}
    broker.resume()
    eventually(lambda: len(broker.messages("orders")) == 1)
    for other in list(_lifecycle._running):
        if id(other) == name:
            other.close(5)  # type: ignore[attr-defined]
    assert name not in {id(b) for b in _lifecycle._running}


class Topic(str, enum.Enum):  # noqa: UP042 - what applications have
    """A topic as an enum, as many applications have them."""

    ORDERS = "orders.made"


def test_a_topic_may_be_an_enum_member(bus: MemoryBus) -> None:
    """Its text goes on the wire, not its name."""
    result = bus.publish_envelope_sync(Topic.ORDERS, event())
    assert (result.topic, type(result.topic)) == ("orders.made", str)
    assert bus.broker.messages("orders.made")[0].topic == "orders.made"


def test_a_url_in_place_of_a_config_shows_no_secret() -> None:
    """The likeliest mistake, and its error must not print the password."""
    with pytest.raises(ConfigError, match="from_url") as caught:
        EventBus("nats://user:hunter2@127.0.0.1")  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


def test_a_memory_bus_wants_a_memory_config() -> None:
    """Another kind of configuration is refused when the bus is made."""
    with pytest.raises(ConfigError, match="must be a MemoryConfig"):
        MemoryBus(NatsConfig())  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [1e10, 10**400])
def test_timeouts_that_no_clock_can_wait_are_refused(
    bus: MemoryBus, timeout: float
) -> None:
    """An error of ours, before anything is accepted."""
    with pytest.raises(ConfigError, match="timeout must be"):
        bus.publish_envelope("orders", event(), timeout=timeout)
    with pytest.raises(ConfigError, match="timeout must be"):
        bus.close(timeout)


def test_keys_count_in_bytes() -> None:
    """The limit is the wire's, so a key counts as UTF-8."""
    with MemoryBus(MemoryConfig(max_message_bytes=100)) as bus:
        bus.publish("orders", b"", key="ü" * 50)
        with pytest.raises(EnvelopeError, match="102 bytes"):
            bus.publish("orders", b"", key="ü" * 51)


def test_a_callback_that_exits_ends_nothing(bus: MemoryBus) -> None:
    """sys.exit() in a callback is logged like any exception; the next one runs."""
    seen: list[PublishResult] = []

    def callback(result: PublishResult) -> None:
        seen.append(result)
        sys.exit(3)

    bus.register_publish_callback(callback)
    for number in range(5):
        bus.publish_envelope("orders", event(number))
    eventually(lambda: bus.stats().callback_errors == 5)
    assert len(seen) == 5


def test_no_callback_starts_after_close(bus: MemoryBus) -> None:
    """The one that runs when close gives up is the last."""
    release, seen = threading.Event(), []

    def callback(result: PublishResult) -> None:
        seen.append(result)
        release.wait(30)

    bus.register_publish_callback(callback)
    bus.broker.delay(0.05)
    for number in range(50):
        bus.publish_envelope("orders", event(number))
    bus.flush(10)
    eventually(lambda: seen)
    bus.close(0.2)
    release.set()
    eventually(
        lambda: "eventbus-callbacks" not in [t.name for t in threading.enumerate()]
    )
    assert len(seen) == 1


def test_drops_are_all_reported() -> None:
    """What the rate limit held back is said when the bus is closed."""
    errors: list[EventBusError] = []
    bus = MemoryBus(MemoryConfig(result_capacity=1))
    bus.set_error_handler(errors.append)
    for number in range(100):
        bus.publish_envelope_sync("orders", event(number))
        bus.publish_envelope("orders", event(number))
    assert bus.flush(10) == 0
    bus.close(5)
    told = sum(int(str(error).split()[1]) for error in errors)
    assert told == bus.stats().dropped == 99


@pytest.mark.parametrize("times", [0, -1, True, "2", math.nan])
def test_commands_of_the_memory_broker_are_checked(bus: MemoryBus, times: Any) -> None:
    """A command that makes no sense is refused where it is given."""
    with pytest.raises(ConfigError, match="times must be a number above 0"):
        bus.broker.reject(BrokerFull(), times=times)
    with pytest.raises(ConfigError, match="times must be a number above 0"):
        bus.broker.drop_acks(times)
    with pytest.raises(ConfigError, match="seconds must be"):
        bus.broker.delay(-1)
    with pytest.raises(ConfigError, match="must be a PublishError, not ValueError"):
        bus.broker.reject(ValueError())  # type: ignore[arg-type]
    assert bus.publish_envelope_sync("orders", event()).success
