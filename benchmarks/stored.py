"""How many messages a broker holds, asked for without reading them all."""

import asyncio
import time

from typing import TYPE_CHECKING, Any, Final

from benchmarks.brokers import Destination
from eventbus_sync.config import KafkaConfig, NatsConfig
from eventbus_sync.config.url import config_from_url
from eventbus_sync.testing.readback import kafka_settings


if TYPE_CHECKING:
    from nats.aio.client import Client

_TIMEOUT: Final = 10.0
_READ_TIMEOUT: Final = 300.0


def stored_count(to: Destination) -> int:
    """Return how many messages there are."""
    config = config_from_url(to.url)
    if isinstance(config, KafkaConfig):
        return sum(_in_topic(config, topic) for topic in to.topics)
    assert isinstance(config, NatsConfig)  # noqa: S101 - there is no third kind here
    return asyncio.run(_in_stream(config, to.stream))


async def connect(config: NatsConfig, **options: Any) -> "Client":
    """Connect as the bus does, with nats-py alone."""
    import nats  # noqa: PLC0415 - a driver

    login = {
        "user": config.user,
        "password": config.password,
        "token": config.token,
    }
    given = {name: value for name, value in login.items() if value is not None}
    client: Client = await nats.connect(list(config.servers), **given, **options)
    return client


async def _in_stream(config: NatsConfig, stream: str) -> int:
    client = await connect(config)
    try:
        info = await client.jetstream(timeout=_TIMEOUT).stream_info(stream)
        return int(info.state.messages)
    finally:
        await client.close()


def _in_topic(config: KafkaConfig, topic: str) -> int:
    import confluent_kafka  # noqa: PLC0415 - a driver

    # Read through to the end: what some brokers tell of their offsets is wrong.
    settings = {
        **kafka_settings(config),
        "group.id": f"count-{topic}",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 50,
    }
    consumer = confluent_kafka.Consumer(settings)
    end = confluent_kafka.KafkaError._PARTITION_EOF  # noqa: SLF001 - so they spell it
    give_up_at = time.monotonic() + _READ_TIMEOUT
    try:
        unread = set(consumer.list_topics(topic, _TIMEOUT).topics[topic].partitions)
        beginning = confluent_kafka.OFFSET_BEGINNING
        consumer.assign(
            [confluent_kafka.TopicPartition(topic, one, beginning) for one in unread]
        )
        total = 0
        while unread and time.monotonic() < give_up_at:
            for message in consumer.consume(10_000, 0.1):
                error = message.error()
                if error is None:
                    total += 1
                elif error.code() == end:
                    unread.discard(message.partition())
        return total
    finally:
        consumer.close()
