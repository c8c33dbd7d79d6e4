"""NATS JetStream and Kafka: started here, or behind a URL; a new stream for each run."""

import contextlib
import importlib
import itertools
import secrets
import sys

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

from benchmarks.databases import NotHere
from eventbus_sync.config import KafkaConfig, NatsConfig
from eventbus_sync.config.url import config_from_url
from eventbus_sync.demo.destinations import create_topic, delete_stream, delete_topic
from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing.readback import (
    StoredEvent,
    read_kafka_topic,
    read_nats_stream,
)


#: Seconds; a relay's lease of 30 s has to be longer by 5.
DELIVERY_TIMEOUT: Final = 20.0
_READ_TIMEOUT: Final = 300.0


class Freezable(Protocol):
    """A server of ours, which can stand still."""

    def freeze(self) -> None:
        """Answer nothing."""

    def resume(self) -> None:
        """Go on."""


@attrs.frozen
class Destination:
    """
    Where the events of one run go.

    Attributes:
        url: for ``EventBus.from_url``, in other processes too.
        topics: what to publish to.
        stored: reads back all that is there, in its order.
        remove: takes everything away again.
    """

    url: str
    topics: tuple[str, ...]
    stored: Callable[[], list[StoredEvent]]
    remove: Callable[[], None]

    @property
    def topic(self) -> str:
        """The first topic, for those who need one only."""
        return self.topics[0]

    @property
    def stream(self) -> str:
        """The JetStream stream that takes the topics; of no use on Kafka."""
        return self.topic.partition(".")[0]


@attrs.frozen
class Broker:
    """
    A broker.

    Attributes:
        title: what it is called in tables.
        kind: ``"nats"`` or ``"kafka"``.
        make: returns a new, empty place on it with so many topics.
        server: what was started here, if it can stand still.
    """

    title: str
    kind: str
    make: Callable[[int], Destination]
    server: Freezable | None = None

    def destination(self, topics: int = 1) -> Destination:
        """Return a new, empty place with so many topics."""
        return self.make(topics)


@contextlib.contextmanager
def broker(name: str) -> Iterator[Broker]:
    """
    Yield the broker called *name*, or behind a URL; what was started here ends.

    Raises:
        BrokerNotInstalled: there is none.
        NotHere: Apache Kafka cannot run here.
        ConfigError: the URL is wrong.
    """
    if name in {"nats", "nats-memory"}:
        storage = "memory" if name == "nats-memory" else "file"
        with NatsServer() as nats:
            yield Broker(
                f"NATS ({storage} storage)",
                "nats",
                lambda topics: _on_nats(nats.url, topics, storage=storage),
                nats,
            )
    elif name == "kafka":
        with KafkaServer() as kafka:
            url = kafka.url
            real = None if kafka.kind == "librdkafka-mock" else kafka
            title = f"Kafka ({kafka.kind})"
            yield Broker(title, "kafka", lambda topics: _on_kafka(url, topics), real)
    elif name == "apache":
        with _apache() as apache:
            url = f"kafka://{apache.bootstrap_servers}"
            title = "Kafka (Apache)"
            yield Broker(title, "kafka", lambda topics: _on_kafka(url, topics), apache)
    elif isinstance(config_from_url(name), KafkaConfig):
        yield Broker("Kafka (given)", "kafka", lambda topics: _on_kafka(name, topics))
    else:
        yield Broker("NATS (given)", "nats", lambda topics: _on_nats(name, topics))


#: What can be named without a URL.
NAMES: Final = ("nats", "nats-memory", "kafka", "apache")

_run: Final = secrets.token_hex(3)
_numbers: Final = itertools.count(1)


def _apache() -> Any:
    """Return Apache Kafka as the tests start it; they stand beside us in a checkout."""
    tests = str(Path(__file__).parents[1] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    try:
        support = importlib.import_module("support.apache_kafka")
    except ImportError as error:
        msg = f"Apache Kafka is started as the tests do it, which need more: {error}"
        raise NotHere(msg) from error
    reason = support.availability()
    if reason is not None:
        raise NotHere(reason)
    return support.ApacheKafka()


def _with(url: str, **settings: object) -> str:
    settings = {"delivery_timeout": DELIVERY_TIMEOUT, **settings}
    query = "&".join(f"{name}={value}" for name, value in settings.items())
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _on_nats(url: str, topics: int, **settings: object) -> Destination:
    stream = f"BENCHMARK-{_run}-{next(_numbers)}"
    full = _with(url, stream=stream, subjects=f"{stream}.>", **settings)
    config = config_from_url(full)
    assert isinstance(config, NatsConfig)  # noqa: S101 - from a nats:// URL
    return Destination(
        full,
        tuple(f"{stream}.orders-{number}" for number in range(topics)),
        lambda: read_nats_stream(config, stream, values=False, timeout=_READ_TIMEOUT),
        lambda: delete_stream(config, stream),
    )


def _on_kafka(url: str, topics: int) -> Destination:
    name = f"benchmark-{_run}-{next(_numbers)}"
    names = tuple(f"{name}-{number}" for number in range(topics))
    full = _with(url)
    config = config_from_url(full)
    assert isinstance(config, KafkaConfig)  # noqa: S101 - from a kafka:// URL
    for topic in names:
        create_topic(config, topic)

    def stored() -> list[StoredEvent]:
        read = [
            read_kafka_topic(config, topic, values=False, timeout=_READ_TIMEOUT)
            for topic in names
        ]
        return list(itertools.chain.from_iterable(read))

    def remove() -> None:
        for topic in names:
            delete_topic(config, topic)

    return Destination(full, names, stored, remove)
