"""
``--url``: the user's own broker, left as it was found.

Each run has a topic or subject of its own, so that it can read back exactly what it
published and clear it away. Kafka: a topic ``eventbus-demo-…``, deleted afterwards. NATS:
a stream ``DEMO_…``, deleted afterwards; or with ``?stream=X`` a subject of its own in
X, purged afterwards. X must take a subject with a wildcard, and whoever consumes X
sees the demo's events.
"""

import contextlib
import secrets

from collections.abc import Callable, Iterator

import attrs

from eventbus_sync.bus import EventBus
from eventbus_sync.config import KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.config.url import config_from_url
from eventbus_sync.demo.destinations import (
    create_topic,
    delete_stream,
    delete_topic,
    purge_subject,
    subject_in,
)
from eventbus_sync.demo.embedded import memory_target
from eventbus_sync.demo.measure import CONNECT_TIMEOUT
from eventbus_sync.demo.plan import Target
from eventbus_sync.errors import ConfigError, StartFailed
from eventbus_sync.testing.readback import (
    read_kafka_topic,
    read_nats_stream,
    scan_kafka_topic,
    scan_nats_stream,
)


Warn = Callable[[str], None]


@contextlib.contextmanager
def own(url: str, warn: Warn) -> Iterator[Target]:
    """
    Return a target on the broker at *url*, and clear its topic away afterwards.

    Args:
        url: as for ``EventBus.from_url``.
        warn: is told what could not be cleared away.

    Raises:
        ConfigError: the URL is wrong.
        StartFailed: the broker cannot be reached, or refuses.
    """
    config = config_from_url(url)
    run = secrets.token_hex(4)
    if isinstance(config, MemoryConfig):
        yield memory_target(config, broken=False)
    elif isinstance(config, KafkaConfig):
        with _kafka(config, run, warn) as target:
            yield target
    else:
        assert isinstance(config, NatsConfig)  # noqa: S101 - there is no fourth
        with _nats(config, run, warn) as target:
            yield target


@contextlib.contextmanager
def _kafka(config: KafkaConfig, run: str, warn: Warn) -> Iterator[Target]:
    topic = f"eventbus-demo-{run}"
    with EventBus(config) as bus:
        bus.start(CONNECT_TIMEOUT)
        create_topic(config, topic)
        with _cleared_away(lambda: delete_topic(config, topic), warn):
            yield Target(
                backend="kafka",
                title=f"Kafka at {config.bootstrap_servers}",
                bus=bus,
                topic=topic,
                delivery_timeout=config.delivery_timeout,
                read_back=lambda timeout: read_kafka_topic(
                    config, topic, values=False, timeout=timeout
                ),
                scan=lambda see, timeout: scan_kafka_topic(
                    config, topic, see, values=False, timeout=timeout
                ),
            )


@contextlib.contextmanager
def _nats(config: NatsConfig, run: str, warn: Warn) -> Iterator[Target]:
    if not config.jetstream:
        msg = "the demo waits for acknowledgements, so it needs JetStream; leave out "
        raise ConfigError(msg + "jetstream=false")
    given = config.stream
    if given is None:
        config = attrs.evolve(
            config,
            stream=f"DEMO_{run}",
            subjects=[f"demo_{run}.>"],
            ensure_stream="create",
        )
    else:
        # What it takes is asked of the stream itself.
        config = attrs.evolve(config, subjects=None, ensure_stream="validate")
    stream = config.stream or ""
    with EventBus(config) as bus:
        bus.start(CONNECT_TIMEOUT)
        if given is None:
            subject = f"demo_{run}.orders"
            clear: Callable[[], None] = lambda: delete_stream(config, stream)  # noqa: E731
        else:
            subject = subject_in(config, stream, f"demo_{run}")
            clear = lambda: purge_subject(config, stream, subject)  # noqa: E731
        with _cleared_away(clear, warn):
            yield Target(
                backend="nats",
                title=f"NATS JetStream at {', '.join(config.servers)}",
                bus=bus,
                topic=subject,
                delivery_timeout=config.delivery_timeout,
                read_back=lambda timeout: read_nats_stream(
                    config, stream, subject=subject, values=False, timeout=timeout
                ),
                scan=lambda see, timeout: scan_nats_stream(
                    config, stream, see, subject=subject, values=False, timeout=timeout
                ),
            )


@contextlib.contextmanager
def _cleared_away(clear: Callable[[], None], warn: Warn) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            clear()
        except StartFailed as error:
            warn(str(error))
