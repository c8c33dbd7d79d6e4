"""A broker behind a network that breaks, and a bus; or the user's own broker."""

import contextlib

from collections.abc import Callable, Iterator

from eventbus_sync.bus import EventBus
from eventbus_sync.config import KafkaConfig, NatsConfig
from eventbus_sync.demo.destinations import create_topic
from eventbus_sync.demo.own import own
from eventbus_sync.errors import ConfigError
from eventbus_sync.soak.plan import DELIVERY_TIMEOUT, Ground, Plan
from eventbus_sync.soak.schedule import overflow
from eventbus_sync.testing.apache_kafka import ApacheKafkaServer
from eventbus_sync.testing.kafka_server import KafkaServer
from eventbus_sync.testing.nats_server import NatsServer
from eventbus_sync.testing.proxy import TcpProxy
from eventbus_sync.testing.readback import scan_kafka_topic, scan_nats_stream


#: Places in the result channel: few, so that a reader that pauses fills it.
CAPACITY = 5000
#: Seconds of silence after which NATS is connected to anew.
ACK_WAIT = 2.0

_STREAM, _SUBJECT, _TOPIC = "SOAK", "soak.orders", "soak-orders"
#: What a bus waits for room unless it is told otherwise, in seconds.
_PUBLISH_TIMEOUT = 1.0


@contextlib.contextmanager
def ground(plan: Plan, warn: Callable[[str], None]) -> Iterator[Ground]:
    """
    Start what the soak needs, and take it away afterwards, whatever happens.

    Raises:
        BrokerNotInstalled, BrokerStartFailed, StartFailed: there is no broker.
        ConfigError: the URL is wrong.
    """
    if plan.url is not None:
        with own(plan.url, warn) as target:
            if target.scan is None or target.backend != plan.backend:
                message = f"the soak of {plan.backend} needs a URL of {plan.backend}"
                raise ConfigError(message)
            yield Ground(
                title=target.title,
                bus=target.bus,
                topic=target.topic,
                delivery_timeout=target.delivery_timeout,
                publish_timeout=_PUBLISH_TIMEOUT,
                scan=target.scan,
            )
    else:
        with _nats(plan) if plan.backend == "nats" else _kafka(plan) as embedded:
            yield embedded


@contextlib.contextmanager
def _nats(plan: Plan) -> Iterator[Ground]:
    with TcpProxy() as proxy, NatsServer(proxy=proxy) as server:
        config = NatsConfig(
            name="soak",
            servers=[server.url],
            stream=_STREAM,
            subjects=["soak.>"],
            delivery_timeout=DELIVERY_TIMEOUT,
            publish_timeout=_PUBLISH_TIMEOUT,
            ack_wait=ACK_WAIT,
            connect_timeout=ACK_WAIT,
            result_capacity=CAPACITY,
            overflow=overflow(plan),
        )
        yield Ground(
            title="NATS JetStream (embedded nats-server)",
            bus=EventBus(config),
            topic=_SUBJECT,
            delivery_timeout=DELIVERY_TIMEOUT,
            publish_timeout=_PUBLISH_TIMEOUT,
            scan=lambda see, timeout: scan_nats_stream(
                config, _STREAM, see, values=False, timeout=timeout
            ),
            server=server,
            proxy=proxy,
        )


@contextlib.contextmanager
def _kafka(plan: Plan) -> Iterator[Ground]:
    with TcpProxy() as proxy, _kafka_server(plan, proxy) as server:
        config = KafkaConfig(
            name="soak",
            bootstrap_servers=server.bootstrap_servers,
            delivery_timeout=DELIVERY_TIMEOUT,
            publish_timeout=_PUBLISH_TIMEOUT,
            result_capacity=CAPACITY,
            overflow=overflow(plan),
        )
        create_topic(config, _TOPIC)
        yield Ground(
            title="Apache Kafka" if plan.kafka_home else "Kafka (embedded tansu)",
            bus=EventBus(config),
            topic=_TOPIC,
            delivery_timeout=DELIVERY_TIMEOUT,
            publish_timeout=_PUBLISH_TIMEOUT,
            scan=lambda see, timeout: scan_kafka_topic(
                config, _TOPIC, see, values=False, timeout=timeout
            ),
            server=server,
            proxy=proxy,
        )


def _kafka_server(plan: Plan, proxy: TcpProxy) -> KafkaServer | ApacheKafkaServer:
    if plan.kafka_home is not None:
        return ApacheKafkaServer(plan.kafka_home, proxy=proxy)
    # Not the mock cluster: it lives in this process and cannot be frozen.
    return KafkaServer(kind="tansu", proxy=proxy)
