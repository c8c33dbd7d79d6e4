"""
What a broker really holds: a stream or a topic read back, from its beginning to its end.

For tests that compare what was acknowledged with what is stored. The drivers are
imported when a function is called.
"""

import asyncio
import itertools
import logging
import time

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import attrs

from eventbus_sync._threads import Deadline
from eventbus_sync.config import BusConfig, KafkaConfig, NatsConfig
from eventbus_sync.config.url import config_from_url
from eventbus_sync.envelope.headers import AGGREGATE_ID, EVENT_ID
from eventbus_sync.errors import AuthenticationFailed, ConfigError, EventBusError


if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message
    from nats.aio.msg import Msg

    from eventbus_sync.backends.nats.connection import Connection

#: Seconds between two attempts at a broker that is away.
_RETRY_AFTER = 0.2
#: Messages that are taken from Kafka's client at once.
_BATCH = 10_000
#: Seconds between two signs of life of a server that has nothing to send.
_HEARTBEAT = 5.0

Settings = TypeVar("Settings", bound=BusConfig)


@attrs.frozen
class StoredEvent:
    """
    One stored message.

    Attributes:
        event_id: its header ``X-Event-ID``, "" without one.
        aggregate_id: its header ``X-Aggregate-ID``, "" without one.
        topic: Kafka topic or NATS subject.
        partition: of the Kafka topic; 0 in a stream.
        sequence: Kafka offset or stream sequence: what was stored later has more,
            within its partition.
        value: the body.
    """

    event_id: str
    aggregate_id: str
    topic: str
    partition: int
    sequence: int
    value: bytes = b""


class ReadBackFailed(EventBusError):
    """What is stored could not be read in time."""

    default_code = "read_back_failed"
    default_retriable = True


def read_nats_stream(
    server: str | NatsConfig,
    stream: str,
    *,
    subject: str = ">",
    values: bool = True,
    timeout: float = 30.0,
) -> list[StoredEvent]:
    """
    Everything that the stream held when this was called, in its order.

    A lost connection or a restarting server only costs time. Not to be called from a
    coroutine.

    Args:
        server: ``nats://…``, or the settings of a bus.
        stream: its name.
        subject: read only what was published to it; may hold wildcards.
        values: read the bodies too.
        timeout: seconds for everything.

    Raises:
        ReadBackFailed: no such stream, or not done in time; the last error is its cause.
    """
    found: list[StoredEvent] = []
    scan_nats_stream(
        server, stream, found.append, subject=subject, values=values, timeout=timeout
    )
    return found


def scan_nats_stream(  # noqa: PLR0913 - settings by name
    server: str | NatsConfig,
    stream: str,
    see: Callable[[StoredEvent], object],
    *,
    subject: str = ">",
    values: bool = True,
    timeout: float = 30.0,
) -> None:
    """
    Show *see* what ``read_nats_stream`` returns, each message once and in order.

    For streams that are too large for memory.
    """
    config = _config(server, "nats", NatsConfig)
    order = _Order(stream, subject, values, see)
    asyncio.run(_read_stream(config, order, Deadline.after(timeout)))


def read_kafka_topic(
    bootstrap_servers: str | KafkaConfig,
    topic: str,
    *,
    values: bool = True,
    timeout: float = 30.0,
) -> list[StoredEvent]:
    """
    Everything that the topic held when this was called, partition by partition.

    A lost connection or a restarting broker only costs time. Makes no consumer group.

    Args:
        bootstrap_servers: ``host:port,…``, or the settings of a bus.
        topic: its name; it is not created.
        values: keep the bodies.
        timeout: seconds for everything.

    Raises:
        ReadBackFailed: no such topic, or not done in time.
    """
    found: list[StoredEvent] = []
    scan_kafka_topic(
        bootstrap_servers, topic, found.append, values=values, timeout=timeout
    )
    found.sort(key=lambda event: (event.partition, event.sequence))
    return found


def scan_kafka_topic(
    bootstrap_servers: str | KafkaConfig,
    topic: str,
    see: Callable[[StoredEvent], object],
    *,
    values: bool = True,
    timeout: float = 30.0,
) -> None:
    """
    Show *see* what ``read_kafka_topic`` returns, each partition in its order.

    For topics that are too large for memory; partitions come mixed.
    """
    config = _config(bootstrap_servers, "kafka", KafkaConfig)
    _read_topic(config, topic, see, Deadline.after(timeout), values=values)


def _config(given: str | Settings, scheme: str, kind: type[Settings]) -> Settings:
    if not isinstance(given, str):
        return given
    url = given if "://" in given else f"{scheme}://{given}"
    config = config_from_url(url)
    if not isinstance(config, kind):
        message = f"{url} is no address of {scheme}"
        raise ReadBackFailed(message)
    return config


def _failed(what: str, deadline: Deadline, errors: Sequence[object]) -> ReadBackFailed:
    late = "in time" if deadline.expired() else "at all"
    said = errors[-1] if errors else "no answer"
    return ReadBackFailed(f"{what} could not be read {late}: {said}")


# -- NATS ----------------------------------------------------------------------------


class _Order(NamedTuple):
    """What to read."""

    stream: str
    subject: str
    values: bool
    see: Callable[[StoredEvent], object]


class _Reading:
    """One attempt at a stream; the ``Listener`` of its connection."""

    def __init__(self, see: Callable[[StoredEvent], object], seen: int) -> None:
        self._see = see
        self._count = 0
        #: The sequence of the last message that was seen, by earlier attempts too.
        self.seen = seen
        self.ended = asyncio.Event()
        self.error: Exception | None = None

    async def on_message(self, msg: "Msg") -> None:
        headers, place = msg.headers or {}, msg.metadata
        self._count += 1
        if place.sequence.consumer != self._count:
            self.fail(ReadBackFailed("the server left a message out"))
        if self.error is not None:
            return  # the next attempt goes on after what was seen
        self._see(
            StoredEvent(
                headers.get(EVENT_ID, ""),
                headers.get(AGGREGATE_ID, ""),
                msg.subject,
                0,
                place.sequence.stream,
                msg.data,
            )
        )
        self.seen = place.sequence.stream
        if place.num_pending == 0:
            self.ended.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def answered(self, token: int, data: bytes, status: str | None) -> None:
        """Nothing is published here."""

    def acknowledged(self, acks: Sequence[tuple[int, bytes]]) -> None:
        """Nothing is published here."""

    def batched(self, name: bytes, data: bytes, status: str | None) -> None:
        """Nothing is published here."""

    def refused(self, subject: str, error: Exception) -> None:
        """Nothing is published here."""

    def lost(self, connection: "Connection", error: EventBusError) -> None:
        del connection
        self.fail(error)


async def _read_stream(config: NatsConfig, order: _Order, deadline: Deadline) -> None:
    import nats.errors  # noqa: PLC0415 - importing testing loads no driver
    import nats.js.errors  # noqa: PLC0415

    from eventbus_sync.backends.nats.connection import Connection  # noqa: PLC0415

    what = f"stream {order.stream!r}"
    last: Exception | None = None
    servers = itertools.cycle(config.servers)
    seen = 0
    while True:
        reading = _Reading(order.see, seen)
        connection = Connection(config, next(servers), reading)
        try:
            async with asyncio.timeout(deadline.remaining()):
                await connection.open()
                await connection.ask(_subscribe(connection, config, order, reading))
                await reading.ended.wait()
            if reading.error is None:
                return
            last = reading.error
        except (AuthenticationFailed, ConfigError, nats.js.errors.NotFoundError) as exc:
            raise _failed(what, deadline, [exc]) from exc
        except (EventBusError, OSError, nats.errors.Error) as exc:
            last = exc
        finally:
            await connection.discard()
        seen = reading.seen
        if deadline.remaining() < _RETRY_AFTER:
            break
        await asyncio.sleep(_RETRY_AFTER)
    raise _failed(what, deadline, [last]) from last


async def _subscribe(
    connection: "Connection", config: NatsConfig, order: _Order, reading: _Reading
) -> None:
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy  # noqa: PLC0415

    wanted = ConsumerConfig(
        ack_policy=AckPolicy.NONE,
        headers_only=not order.values,
        mem_storage=True,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=reading.seen + 1,
    )
    subscription = await connection.client.jetstream(domain=config.js_domain).subscribe(
        order.subject,
        stream=order.stream,
        cb=reading.on_message,
        manual_ack=True,
        config=wanted,
        # Without flow control a large stream would overrun what the server buffers.
        flow_control=True,
        idle_heartbeat=_HEARTBEAT,
        pending_msgs_limit=0,
        pending_bytes_limit=0,
    )
    info = await subscription.consumer_info()
    delivered = info.delivered is not None and info.delivered.consumer_seq > 0
    if not (info.num_pending or delivered):
        reading.ended.set()


# -- Kafka ---------------------------------------------------------------------------


def _read_topic(
    config: KafkaConfig,
    topic: str,
    see: Callable[[StoredEvent], object],
    deadline: Deadline,
    *,
    values: bool,
) -> None:
    import confluent_kafka  # noqa: PLC0415 - importing testing loads no driver

    what = f"topic {topic!r}"
    errors: list[object] = []
    settings = {
        **kafka_settings(config),
        # Needed to make a consumer; it is assigned its partitions, so it never joins.
        "group.id": f"readback-{topic}",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "isolation.level": "read_uncommitted",
        "fetch.wait.max.ms": 50,
        "error_cb": errors.append,
    }
    consumer = confluent_kafka.Consumer(settings)
    try:
        partitions = _partitions(consumer, topic, deadline, errors)
        beginning = confluent_kafka.OFFSET_BEGINNING
        consumer.assign(
            [confluent_kafka.TopicPartition(topic, p, beginning) for p in partitions]
        )
        end = confluent_kafka.KafkaError._PARTITION_EOF  # noqa: SLF001 - so they spell it
        unread = set(partitions)
        while unread:
            if deadline.expired():
                raise _failed(what, deadline, errors)
            for message in consumer.consume(_BATCH, min(0.1, deadline.remaining())):
                error = message.error()
                if error is None:
                    see(_stored(message, topic, values=values))
                elif error.code() == end:
                    # The end as the broker tells it while it hands out messages; what
                    # it says when asked for its offsets is wrong in some brokers.
                    unread.discard(message.partition())
                else:
                    errors.append(error)
    finally:
        consumer.close()


def _partitions(
    consumer: "Consumer", topic: str, deadline: Deadline, errors: list[object]
) -> list[int]:
    import confluent_kafka  # noqa: PLC0415

    what = f"topic {topic!r}"
    while True:
        try:
            wait = max(0.1, min(2.0, deadline.remaining()))
            metadata = consumer.list_topics(topic, timeout=wait).topics[topic]
        except confluent_kafka.KafkaException as exc:
            errors.append(exc)
        else:
            if metadata.error is None:
                return sorted(metadata.partitions)
            errors.append(metadata.error)
            unknown = confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART
            if metadata.error.code() == unknown:
                break
        if deadline.remaining() < _RETRY_AFTER:
            break
        time.sleep(_RETRY_AFTER)
    raise _failed(what, deadline, errors)


def _stored(message: "Message", topic: str, *, values: bool) -> StoredEvent:
    headers = dict(message.headers() or ())
    partition, offset = message.partition(), message.offset()
    # None only for messages that no broker ever stored.
    assert partition is not None  # noqa: S101
    assert offset is not None  # noqa: S101
    return StoredEvent(
        _bytes(headers.get(EVENT_ID)).decode(errors="replace"),
        _bytes(headers.get(AGGREGATE_ID)).decode(errors="replace"),
        topic,
        partition,
        offset,
        _bytes(message.value()) if values else b"",
    )


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def kafka_settings(config: KafkaConfig) -> dict[str, Any]:
    """Return how to connect, for a consumer or an admin client that keeps silent."""
    from eventbus_sync.backends.kafka.settings import driver_settings  # noqa: PLC0415

    # librdkafka writes to standard error when nobody takes its log, and it has a word
    # to say about each setting that only a producer uses.
    logger = logging.getLogger("eventbus_sync.testing.kafka_client")
    logger.disabled = True
    return {**driver_settings(config), "logger": logger}
