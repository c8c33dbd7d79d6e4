"""
Rigs: what the conformance suite needs of a broker, one class each.

A rig makes a config for a fresh topic and reads back what the broker stored.
"""

import itertools
import os
import uuid

from collections.abc import Callable
from typing import Any, Protocol

from eventbus_sync import EventBus, KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.testing.memory import MemoryBus
from eventbus_sync.testing.nats_server import NatsServer
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


_numbers = itertools.count()


class Rig(Protocol):
    """One broker under test."""

    name: str
    #: Whether a repeat of an event id on one topic is recognised by the broker.
    recognises_repeats: bool

    def new_topic(self) -> str:
        """Return a topic that nobody else uses."""

    def bus(self, **settings: Any) -> EventBus:
        """Return a new bus on this broker."""

    def stored(self, topic: str) -> list[tuple[str, str, bytes]]:
        """Return (event id, aggregate id, body) of what is stored, in order."""

    def freeze(self) -> None:
        """Stop the broker from answering."""

    def resume(self) -> None:
        """Let it go on."""


def unique(prefix: str) -> str:
    """Return a name that can be found in every log."""
    return f"{prefix}-{os.getpid()}-{next(_numbers)}-{uuid.uuid4().hex[:6]}"


class MemoryRig:
    """The reference."""

    name = "memory"
    recognises_repeats = True

    def __init__(self) -> None:
        self._buses: list[MemoryBus] = []

    def new_topic(self) -> str:
        return unique("topic")

    def bus(self, **settings: Any) -> EventBus:
        bus = MemoryBus(MemoryConfig(**settings))
        self._buses.append(bus)
        return bus

    def stored(self, topic: str) -> list[tuple[str, str, bytes]]:
        return [
            (message.event_id, message.key, message.value)
            for bus in self._buses
            for message in bus.broker.messages(topic)
        ]

    def freeze(self) -> None:
        for bus in self._buses:
            bus.broker.freeze()

    def resume(self) -> None:
        for bus in self._buses:
            bus.broker.resume()


class NatsRig:
    """A real nats-server with one stream for all topics of the suite."""

    name = "nats"
    recognises_repeats = True
    stream = "CONFORMANCE"

    def __init__(self, server: NatsServer) -> None:
        self.server = server

    def new_topic(self) -> str:
        return f"conformance.{unique('topic')}"

    def bus(self, **settings: Any) -> EventBus:
        settings.setdefault("stream", self.stream)
        settings.setdefault("subjects", ["conformance.>"])
        return EventBus(NatsConfig(servers=self.server.url, **settings))

    def stored(self, topic: str) -> list[tuple[str, str, bytes]]:
        events = read_nats_stream(self.server.url, self.stream)
        return [
            (e.event_id, e.aggregate_id, e.value) for e in events if e.topic == topic
        ]

    def freeze(self) -> None:
        self.server.freeze()

    def resume(self) -> None:
        self.server.resume()


class _KafkaBroker(Protocol):
    @property
    def bootstrap_servers(self) -> str: ...


class KafkaRig:
    """Any Kafka-compatible broker: tansu, librdkafka's mock, Apache Kafka."""

    recognises_repeats = False  # two publishes of one event id are two records

    def __init__(
        self,
        name: str,
        broker: _KafkaBroker,
        freeze: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        self.name = name
        self.broker = broker
        self.freeze = freeze
        self.resume = resume

    def new_topic(self) -> str:
        return unique("topic")

    def bus(self, **settings: Any) -> EventBus:
        return EventBus(
            KafkaConfig(bootstrap_servers=self.broker.bootstrap_servers, **settings)
        )

    def stored(self, topic: str) -> list[tuple[str, str, bytes]]:
        events = read_kafka_topic(self.broker.bootstrap_servers, topic)
        return [(e.event_id, e.aggregate_id, e.value) for e in events]
