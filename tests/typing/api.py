"""
The public API as users write it, for mypy --strict and pyright strict; never run.

Each ``type: ignore`` is an expectation: both checkers must object there, and say so when
they no longer do.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

import datetime as dt
import queue

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import assert_never, assert_type

from eventbus_sync import (
    BackendBusy,
    BusClosed,
    ChannelFull,
    ConfigError,
    Envelope,
    EnvelopeError,
    EventBus,
    EventBusError,
    Health,
    KafkaConfig,
    MemoryConfig,
    NatsConfig,
    Outcome,
    PublishError,
    PublishRejected,
    PublishResult,
    PublishResultChannel,
    PublishUnknown,
    ResultChannelClosed,
    Stats,
)
from eventbus_sync.errors import BrokerFull, StartFailed
from eventbus_sync.testing import KafkaServer, MemoryBroker, MemoryBus, NatsServer
from eventbus_sync.testing.readback import (
    StoredEvent,
    read_kafka_topic,
    read_nats_stream,
)


# -- making a bus ------------------------------------------------------------------------


def configurations() -> list[EventBus]:
    """Settings by name, a bus from any of them, from a URL, from the environment."""
    kafka = KafkaConfig(bootstrap_servers=["k-1:9092", "k-2:9092"], compression="lz4")
    nats = NatsConfig(
        servers=("nats://n-1", "nats://n-2"),
        stream="ORDERS",
        subjects=["orders.>"],
        password=lambda: "new each time",
        tls_ca="ca.pem",
        extra={"verbose": True},
    )
    memory = MemoryConfig(latency=0.1, overflow="reserve", delivery_timeout=5)
    assert_type(kafka.bootstrap_servers, str)
    assert_type(nats.servers, tuple[str, ...])
    assert_type(nats.subjects, tuple[str, ...] | None)
    assert_type(nats.password, str | Callable[[], str] | None)
    assert_type(memory.delivery_timeout, float)
    assert_type(memory.max_in_flight, int)
    assert_type(EventBus.from_url("memory://"), EventBus)
    assert_type(EventBus.from_env(), EventBus)
    return [EventBus(kafka), EventBus(nats), EventBus(memory)]


def files(folder: Path) -> KafkaConfig:
    """Files are paths or texts."""
    config = KafkaConfig(
        bootstrap_servers="k:9093", tls=True, tls_ca=folder / "ca.pem", tls_key="k.pem"
    )
    assert_type(config.tls_ca, str | None)
    return config


def subclasses() -> None:
    """Constructors of a subclass return the subclass."""

    class Ours(EventBus):
        pass

    assert_type(Ours.from_url("memory://"), Ours)
    with Ours.from_env("OURS_") as bus:
        assert_type(bus, Ours)


# -- publishing --------------------------------------------------------------------------


def publishing(bus: EventBus) -> str:
    """Events and plain messages."""
    envelope = Envelope("order-1", "OrderCreated", 1, {"total": 42})
    assert_type(envelope.event_id, str)
    assert_type(envelope.payload, bytes)
    assert_type(envelope.timestamp, dt.datetime)
    assert_type(envelope.to_bytes(), bytes)
    assert_type(Envelope.from_bytes(b"{}"), Envelope)
    assert_type(envelope.headers(), list[tuple[str, str]])
    Envelope(
        aggregate_id="order-1",
        event_type="OrderCreated",
        payload=b'{"raw":true}',
        event_id="mine",
        timestamp=dt.datetime.now(dt.UTC),
        trace_id="t",
        correlation_id="c",
        tenant_id=7,
        json_default=str,
    )
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"}
    event_id = bus.publish_envelope("orders", envelope, headers=headers, timeout=0.5)
    assert_type(event_id, str)
    assert_type(bus.publish_envelope_sync("orders", envelope), PublishResult)
    bus.publish("cache", b"x", key="k", headers=headers)
    bus.publish("cache", "x")
    return event_id


def refused(bus: EventBus, envelope: Envelope) -> float | None:
    """Raised errors can be told apart, the narrower before the wider."""
    try:
        bus.publish_envelope("orders", envelope)
    except EnvelopeError as error:
        assert_type(error.field, str)
    except ChannelFull as error:
        assert_type(error.code, str)
    except BackendBusy as error:
        assert_type(error.retriable, bool)
        return 1.0
    except (BusClosed, ConfigError) as error:
        assert_type(error, BusClosed | ConfigError)
    except EventBusError as error:
        assert_type(error.maybe_delivered, bool)
    return None


# -- results -----------------------------------------------------------------------------


def reading(bus: EventBus) -> Iterator[PublishResult]:
    """The channel is a queue of results."""
    channel = bus.get_publish_result_channel()
    assert_type(channel, PublishResultChannel)
    as_queue: queue.Queue[PublishResult] = channel
    assert_type(as_queue.qsize(), int)
    try:
        assert_type(channel.get(), PublishResult)
        assert_type(channel.get(timeout=5), PublishResult)
        assert_type(channel.get_nowait(), PublishResult)
        assert_type(channel.get_many(100, timeout=1.0), list[PublishResult])
    except (queue.Empty, ResultChannelClosed):
        return
    for result in channel:
        assert_type(result, PublishResult)
        yield result


def result_fields(result: PublishResult) -> None:
    """What a result carries."""
    assert_type(result.event_id, str)
    assert_type(result.success, bool)
    assert_type(result.error, PublishError | None)
    assert_type(result.timestamp, dt.datetime)
    assert_type(result.tenant_id, int)
    assert_type(result.latency, float)
    assert_type(result.partition, int | None)
    assert_type(result.offset, int | None)
    assert_type(result.stream, str | None)
    assert_type(result.sequence, int | None)
    assert_type(result.duplicate, bool)


def decide(result: PublishResult) -> str:
    """Every outcome is handled, and the checkers know that there is no fourth."""
    match result.outcome:
        case Outcome.ACKED:
            return "published"
        case Outcome.REJECTED:
            retriable = result.error is not None and result.error.retriable
            return "retry" if retriable else "dead"
        case Outcome.UNKNOWN:
            return "retry, and expect a duplicate"
        case _:
            assert_never(result.outcome)


def decide_by_error(error: PublishError) -> str:
    """Errors can be matched by class."""
    match error:
        case BrokerFull():
            return "wait long"
        case PublishRejected():
            return "wait"
        case PublishUnknown():
            return "expect a duplicate"
        case _:
            return error.code


# -- watching and stopping ---------------------------------------------------------------


def callbacks(bus: EventBus) -> None:
    """Callbacks may return what they like."""

    def on_result(result: PublishResult) -> None:
        print(result.event_id)  # noqa: T201 - a user's

    def on_error(error: EventBusError) -> str:
        return error.code

    seen: list[PublishResult] = []
    bus.register_publish_callback(on_result)
    bus.register_publish_callback(seen.append)
    bus.register_reconnect_callback(lambda: 1)
    bus.set_error_handler(on_error)
    bus.set_error_handler(None)


def watching(bus: EventBus) -> None:
    """Counters and health."""
    stats = bus.stats()
    assert_type(stats, Stats)
    assert_type(stats.accepted, int)
    assert_type(stats.oldest_age, float)
    assert_type(stats.balanced, bool)
    health = bus.health()
    assert_type(health, Health)
    assert_type(health.connected, bool | None)
    assert_type(health.last_error, EventBusError | None)


def stopping(bus: EventBus) -> int:
    """Start, flush, close."""
    try:
        bus.start(timeout=5)
    except StartFailed as error:
        raise SystemExit(str(error)) from error
    left = bus.flush(1.5)
    assert_type(left, int)
    bus.close()
    bus.close(timeout=3)
    return left


# -- testing -----------------------------------------------------------------------------


def own_tests(nats: NatsServer, kafka: KafkaServer) -> list[StoredEvent]:
    """The bus that fails on command, and what real brokers have stored."""
    with MemoryBus(MemoryConfig(name="test")) as bus:
        assert_type(bus, MemoryBus)
        assert_type(bus.broker, MemoryBroker)
        bus.broker.reject(BrokerFull("no space"), topic="orders", times=2)
        assert_type(bus.broker.messages("orders")[0].value, bytes)
        as_bus: EventBus = bus
        as_bus.close()
    assert_type(nats.url, str)
    return [
        *read_nats_stream(nats.url, "ORDERS"),
        *read_kafka_topic(kafka.bootstrap_servers, "orders"),
    ]


# -- what must not pass ------------------------------------------------------------------


def wrong(bus: EventBus, envelope: Envelope, result: PublishResult) -> None:
    """Each line is wrong, and both checkers say so."""
    EventBus("nats://localhost")  # type: ignore[arg-type]
    EventBus()  # type: ignore[call-arg]
    KafkaConfig()  # type: ignore[call-arg]
    KafkaConfig("k:9092")  # type: ignore[call-arg]
    KafkaConfig(bootstrap_servers="k", compression="brotli")  # type: ignore[arg-type]
    NatsConfig(ensure_stream="maybe")  # type: ignore[arg-type]
    MemoryConfig(delivery_timeout="5")  # type: ignore[arg-type]
    MemoryConfig(latancy=1)  # type: ignore[call-arg]
    Envelope("order-1")  # type: ignore[call-arg]
    Envelope("order-1", 3)  # type: ignore[arg-type]
    bus.publish_envelope("orders", {"total": 42})  # type: ignore[arg-type]
    bus.publish_envelope("orders", envelope, None)  # type: ignore[call-arg]
    bus.publish("cache", {"total": 42})  # type: ignore[arg-type]
    bus.set_error_handler(len)  # type: ignore[arg-type]
    envelope.event_id = "other"  # type: ignore[misc]
    result.outcome = Outcome.ACKED  # type: ignore[misc]
    retriable = result.error.retriable  # type: ignore[union-attr]
    number: int = bus.publish_envelope("orders", envelope)  # type: ignore[assignment]
    print(number, retriable)  # noqa: T201 - so that they are used
