"""NATS JetStream and Kafka: started here, or behind a URL; a new stream for each run."""

import contextlib
import itertools
import secrets

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from eventbus_sync.config import KafkaConfig, NatsConfig
from eventbus_sync.config.url import config_from_url
from eventbus_sync.demo.destinations import create_topic
from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing.readback import (
    StoredEvent,
    read_kafka_topic,
    read_nats_stream,
)


#: Seconds; a relay's lease of 30 s has to be longer by 5.
DELIVERY_TIMEOUT: Final = 20.0
_READ_TIMEOUT: Final = 300.0


@attrs.frozen
class Destination:
    """
    Where the events of one run go.

    Attributes:
        url: for ``EventBus.from_url``, in other processes too.
        topic: what to publish to.
        stored: reads back all that is there, in its order.
    """

    url: str
    topic: str
    stored: Callable[[], list[StoredEvent]]


@attrs.frozen
class Broker:
    """A broker: what it is called in tables, and a new, empty place on it."""

    title: str
    destination: Callable[[], Destination]


@contextlib.contextmanager
def broker(name: str) -> Iterator[Broker]:
    """
    Yield the broker called *name*, or behind a URL; what was started here ends.

    Raises:
        BrokerNotInstalled: there is none.
        ConfigError: the URL is wrong.
    """
    if name == "nats":
        with NatsServer() as nats:
            yield Broker("NATS (file storage)", lambda: _on_nats(nats.url))
    elif name == "kafka":
        with KafkaServer() as kafka:
            url = f"kafka://{kafka.bootstrap_servers}"
            yield Broker(f"Kafka ({kafka.kind})", lambda: _on_kafka(url))
    elif isinstance(config_from_url(name), KafkaConfig):
        yield Broker("Kafka (given)", lambda: _on_kafka(name))
    else:
        yield Broker("NATS (given)", lambda: _on_nats(name))


#: What can be named without a URL.
NAMES: Final = ("nats", "kafka")

_run: Final = secrets.token_hex(3)
_numbers: Final = itertools.count(1)


def _with(url: str, **settings: object) -> str:
    settings = {"delivery_timeout": DELIVERY_TIMEOUT, **settings}
    query = "&".join(f"{name}={value}" for name, value in settings.items())
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _on_nats(url: str) -> Destination:
    stream = f"BENCHMARK-{_run}-{next(_numbers)}"
    full = _with(url, stream=stream, subjects=f"{stream}.>")
    config = config_from_url(full)
    assert isinstance(config, NatsConfig)  # noqa: S101 - from a nats:// URL
    return Destination(
        full,
        f"{stream}.orders",
        lambda: read_nats_stream(config, stream, values=False, timeout=_READ_TIMEOUT),
    )


def _on_kafka(url: str) -> Destination:
    topic = f"benchmark-{_run}-{next(_numbers)}"
    full = _with(url)
    config = config_from_url(full)
    assert isinstance(config, KafkaConfig)  # noqa: S101 - from a kafka:// URL
    create_topic(config, topic)
    return Destination(
        full,
        topic,
        lambda: read_kafka_topic(config, topic, values=False, timeout=_READ_TIMEOUT),
    )
