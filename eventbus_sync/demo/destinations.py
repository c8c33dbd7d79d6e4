"""
Streams and topics for one run on the user's own broker: made, found, taken away.

Drivers are imported when a function is called, as everywhere outside ``backends/``.
"""

import asyncio
import concurrent.futures

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from eventbus_sync.config import KafkaConfig, NatsConfig
from eventbus_sync.errors import (
    BrokerUnreachable,
    ConfigError,
    EventBusError,
    StartFailed,
)
from eventbus_sync.testing.readback import kafka_settings


if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from eventbus_sync.backends.nats.connection import Connection

T = TypeVar("T")

#: Partitions of the demo's topic: several, since order must hold across them.
PARTITIONS = 6
#: Seconds for one request.
_TIMEOUT = 10.0


def create_topic(config: KafkaConfig, topic: str) -> None:
    """
    Create *topic* with the broker's own replication factor.

    Raises:
        StartFailed: the broker refused, or did not answer in time.
    """
    from confluent_kafka.cimpl import NewTopic  # noqa: PLC0415 - a driver

    _administer(
        config,
        lambda admin: admin.create_topics([NewTopic(topic, PARTITIONS)])[topic],
        f"the demo needs a topic of its own, and {topic!r} could not be created",
    )


def delete_topic(config: KafkaConfig, topic: str) -> None:
    """
    Delete *topic* and everything in it.

    Raises:
        StartFailed: the broker refused, or did not answer in time.
    """
    _administer(
        config,
        lambda admin: admin.delete_topics([topic])[topic],
        f"topic {topic!r} could not be deleted; please delete it yourself",
    )


def subject_in(config: NatsConfig, stream: str, token: str) -> str:
    """
    Return a subject that *stream* takes and that belongs to nobody else.

    Args:
        config: how to connect.
        stream: an existing one.
        token: unique; it takes the place of a wildcard in the stream's subjects.

    Raises:
        ConfigError: the stream has no subject with a wildcard.
        StartFailed: it is absent, or the server did not answer.
    """

    async def ask(js: "JetStreamContext") -> list[str]:
        info = await js.stream_info(stream)
        return list(info.config.subjects or ())

    subjects = _on_jetstream(config, ask, f"stream {stream!r} cannot be used")
    for subject in subjects:
        tokens = subject.split(".")
        if "*" in tokens or ">" in tokens:
            return ".".join(token if t in {"*", ">"} else t for t in tokens)
    msg = (
        f"stream {stream!r} takes {subjects}, and none of them has a wildcard: the demo "
        "needs a subject of its own, which it can clear away; leave ?stream= out and it "
        "makes a stream of its own"
    )
    raise ConfigError(msg)


def purge_subject(config: NatsConfig, stream: str, subject: str) -> None:
    """
    Remove from *stream* what was published to *subject*.

    Raises:
        StartFailed: the server refused, or did not answer.
    """

    async def purge(js: "JetStreamContext") -> None:
        await js.purge_stream(stream, subject=subject)

    what = f"subject {subject!r} of stream {stream!r} could not be purged"
    _on_jetstream(config, purge, f"{what}; please purge it yourself")


def delete_stream(config: NatsConfig, stream: str) -> None:
    """
    Delete *stream* and everything in it.

    Raises:
        StartFailed: the server refused, or did not answer.
    """

    async def delete(js: "JetStreamContext") -> None:
        await js.delete_stream(stream)

    what = f"stream {stream!r} could not be deleted; please delete it yourself"
    _on_jetstream(config, delete, what)


def _administer(
    config: KafkaConfig,
    ask: Callable[[Any], "concurrent.futures.Future[None]"],
    problem: str,
) -> None:
    from confluent_kafka import KafkaException  # noqa: PLC0415 - a driver
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    admin = AdminClient(kafka_settings(config))
    try:
        ask(admin).result(_TIMEOUT)
    except concurrent.futures.TimeoutError as exc:
        msg = f"{problem}: no answer from {config.bootstrap_servers}"
        raise BrokerUnreachable(msg) from exc
    except KafkaException as exc:
        msg = f"{problem}: {exc.args[0].str()}"
        raise StartFailed(msg) from exc


def _on_jetstream(
    config: NatsConfig,
    act: Callable[["JetStreamContext"], Coroutine[Any, Any, T]],
    problem: str,
) -> T:
    async def run() -> T:
        import nats.errors  # noqa: PLC0415 - a driver

        from eventbus_sync.backends.nats.connection import Connection  # noqa: PLC0415

        last: Exception | None = None
        for server in config.servers:
            connection = Connection(config, server, _Deaf())
            try:
                await connection.open()
                js = connection.client.jetstream(
                    domain=config.js_domain, timeout=_TIMEOUT
                )
                return await connection.ask(act(js))
            except (EventBusError, nats.errors.Error) as exc:
                last = exc
            finally:
                await connection.close()
        msg = f"{problem}: {last}"
        raise StartFailed(msg) from last

    return asyncio.run(run())


class _Deaf:
    """The ``Listener`` of a connection that only asks questions."""

    def answered(self, token: int, data: bytes, status: str | None) -> None:
        """Nothing is published here."""

    def acknowledged(self, acks: Sequence[tuple[int, bytes]]) -> None:
        """Nothing is published here."""

    def batched(self, name: bytes, data: bytes, status: str | None) -> None:
        """Nothing is published here."""

    def lost(self, connection: "Connection", error: EventBusError) -> None:
        """The question in hand fails by itself."""

    def refused(self, subject: str, error: Exception) -> None:
        """The question in hand fails by itself."""
