"""Brokers that the demo starts itself, empty, and takes away when it is done."""

import contextlib

from collections.abc import Callable, Iterator

from eventbus_sync.bus import EventBus
from eventbus_sync.config import KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.demo.destinations import create_topic
from eventbus_sync.demo.faults import Fault
from eventbus_sync.demo.plan import Target
from eventbus_sync.envelope.headers import AGGREGATE_ID
from eventbus_sync.testing.kafka_server import KafkaServer, find_tansu
from eventbus_sync.testing.memory import MemoryBroker, MemoryBus
from eventbus_sync.testing.nats_server import NatsServer, find_nats_server
from eventbus_sync.testing.readback import (
    StoredEvent,
    read_kafka_topic,
    read_nats_stream,
)


#: When and how long brokers are frozen. Shorter than any delivery_timeout, so that
#: every event can still be acknowledged.
FREEZE_AT, FREEZE_SECONDS = 0.4, 3.0
#: When a broker is killed, and how long it stays dead.
KILL_AT, KILL_SECONDS = 0.7, 1.0

_STREAM, _SUBJECTS, _SUBJECT = "DEMO", "demo.>", "demo.orders"
_TOPIC = "demo-orders"


def check_installed(backend: str) -> None:
    """
    Return if the broker program for *backend* is at hand.

    Raises:
        BrokerNotInstalled: says what to install.
    """
    if backend == "nats":
        find_nats_server()
    elif backend == "kafka":
        find_tansu()


@contextlib.contextmanager
def embedded(backend: str, *, broken: bool) -> Iterator[Target]:
    """
    Start a broker, and end it afterwards, whatever happens.

    Args:
        backend: "nats", "kafka" or "memory".
        broken: plan faults for it.

    Raises:
        BrokerNotInstalled, BrokerStartFailed: there is no broker.
    """
    with _EMBEDDED[backend](broken) as target:
        yield target


@contextlib.contextmanager
def _nats(broken: bool) -> Iterator[Target]:  # noqa: FBT001 - one of three alike
    with NatsServer() as server:
        config = NatsConfig(
            name="demo",
            servers=[server.url],
            stream=_STREAM,
            subjects=[_SUBJECTS],
        )
        faults = [
            _frozen(server.freeze, server.resume),
            Fault(
                at=KILL_AT,
                seconds=KILL_SECONDS,
                done="killed",
                undone="restarted",
                strike=server.kill,
                repair=server.start,
            ),
        ]
        yield Target(
            backend="nats",
            title="NATS JetStream (embedded nats-server)",
            bus=EventBus(config),
            topic=_SUBJECT,
            delivery_timeout=config.delivery_timeout,
            read_back=lambda timeout: read_nats_stream(
                config, _STREAM, values=False, timeout=timeout
            ),
            faults=faults if broken else (),
        )


@contextlib.contextmanager
def _kafka(broken: bool) -> Iterator[Target]:  # noqa: FBT001 - one of three alike
    # Not the mock cluster: it lives in this process and cannot be frozen.
    with KafkaServer(kind="tansu") as server:
        config = KafkaConfig(name="demo", bootstrap_servers=server.bootstrap_servers)
        create_topic(config, _TOPIC)
        # Not killed: it stores in memory, so a restart would lose what it acknowledged.
        faults = [_frozen(server.freeze, server.resume)]
        yield Target(
            backend="kafka",
            title="Kafka (embedded tansu)",
            bus=EventBus(config),
            topic=_TOPIC,
            delivery_timeout=config.delivery_timeout,
            read_back=lambda timeout: read_kafka_topic(
                config, _TOPIC, values=False, timeout=timeout
            ),
            faults=faults if broken else (),
        )


@contextlib.contextmanager
def _memory(broken: bool) -> Iterator[Target]:  # noqa: FBT001 - one of three alike
    yield memory_target(MemoryConfig(name="demo"), broken=broken)


def memory_target(config: MemoryConfig, *, broken: bool) -> Target:
    """Return a target in this process: no broker, no driver."""
    bus = MemoryBus(config)
    faults = [_frozen(bus.broker.freeze, bus.broker.resume)]
    return Target(
        backend="memory",
        title="memory (no broker)",
        bus=bus,
        topic=_TOPIC,
        delivery_timeout=config.delivery_timeout,
        read_back=lambda _timeout: _kept(bus.broker),
        faults=faults if broken else (),
    )


def _frozen(strike: Callable[[], None], repair: Callable[[], None]) -> Fault:
    return Fault(
        at=FREEZE_AT,
        seconds=FREEZE_SECONDS,
        done="frozen",
        undone="resumed",
        strike=strike,
        repair=repair,
    )


def _kept(broker: MemoryBroker) -> list[StoredEvent]:
    return [
        StoredEvent(
            message.event_id,
            dict(message.headers)[AGGREGATE_ID],
            message.topic,
            0,
            message.position,
        )
        for message in broker.messages(_TOPIC)
    ]


_EMBEDDED = {"nats": _nats, "kafka": _kafka, "memory": _memory}
