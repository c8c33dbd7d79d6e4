"""
Rigs: what the suite needs of a broker, one class for each kind of broker.

A rig makes buses on the broker, and reads back what the broker stored.
"""

import abc
import itertools
import os
import uuid

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from eventbus_sync import EventBus, KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.testing.memory import MemoryBus
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


_numbers = itertools.count()


def unique(prefix: str) -> str:
    """Return a name that can be found in every log."""
    return f"{prefix}-{os.getpid()}-{next(_numbers)}-{uuid.uuid4().hex[:6]}"


class Rig(abc.ABC):
    """
    One broker under test.

    Args:
        freeze: stops the broker from answering; without it the tests of outages are
            skipped.
        resume: lets it go on.
    """

    #: Whether the broker recognises a repeat of an event id on one topic.
    recognises_repeats: ClassVar[bool] = False

    def __init__(
        self,
        *,
        freeze: Callable[[], None] | None = None,
        resume: Callable[[], None] | None = None,
    ) -> None:
        self._freeze, self._resume = freeze, resume

    @abc.abstractmethod
    def bus(self, **settings: Any) -> EventBus:
        """Return a new bus on this broker, with these settings of its configuration."""

    @abc.abstractmethod
    def stored(self, topic: str) -> list[tuple[str, str, bytes]]:
        """Return (event id, aggregate id, body) of what is stored, in order."""

    def new_topic(self) -> str:
        """Return a topic that nobody else uses, and that exists or will when needed."""
        return unique("topic")

    def freeze(self) -> None:
        """Stop the broker from answering, or skip the test."""
        if self._freeze is None:
            pytest.skip("this broker cannot be frozen; give its rig freeze and resume")
        self._freeze()

    def resume(self) -> None:
        """Let it go on, if it was frozen."""
        if self._resume is not None:
            self._resume()


class KafkaRig(Rig):
    """
    Any broker that speaks Kafka's protocol and makes topics when they are needed.

    Where it does not, override ``new_topic``. Topics ``topic-…`` are left behind.

    Args:
        bootstrap_servers: ``host:port,…``.
        freeze, resume: see ``Rig``.
        settings: of every ``KafkaConfig``, such as a login.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        freeze: Callable[[], None] | None = None,
        resume: Callable[[], None] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(freeze=freeze, resume=resume)
        self._settings = {"bootstrap_servers": bootstrap_servers, **settings}

    def bus(self, **settings: Any) -> EventBus:
        """Return a new bus on this broker."""
        return EventBus(KafkaConfig(**{**self._settings, **settings}))

    def stored(self, topic: str) -> list[tuple[str, str, bytes]]:
        """Return what the topic holds."""
        events = read_kafka_topic(KafkaConfig(**self._settings), topic)
        return [(e.event_id, e.aggregate_id, e.value) for e in events]


class NatsRig(Rig):
    """
    A NATS server with JetStream, and one stream for all topics of the suite.

    The stream ``CONFORMANCE``, with the subjects ``conformance.>``, is made when it is
    not there, and left behind.

    Args:
        url: ``nats://…``.
        freeze, resume: see ``Rig``.
        settings: of every ``NatsConfig``, such as a login.
    """

    recognises_repeats = True
    stream = "CONFORMANCE"

    def __init__(
        self,
        url: str,
        *,
        freeze: Callable[[], None] | None = None,
        resume: Callable[[], None] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(freeze=freeze, resume=resume)
        self._settings = {
            "servers": url,
            "stream": self.stream,
            "subjects": ["conformance.>"],
            **settings,
        }

    def new_topic(self) -> str:
        """Return a subject of the stream."""
        return f"conformance.{unique('topic')}"

    def bus(self, **settings: Any) -> EventBus:
        """Return a new bus on this server."""
        return EventBus(NatsConfig(**{**self._settings, **settings}))

    def stored(self, topic: str) -> list[tuple[str, str, bytes]]:
        """Return what the stream holds of this subject."""
        config = NatsConfig(**self._settings)
        events = read_nats_stream(config, config.stream or "", subject=topic)
        return [(e.event_id, e.aggregate_id, e.value) for e in events]


class MemoryRig(Rig):
    """The reference: a broker in this process."""

    recognises_repeats = True

    def __init__(self) -> None:
        super().__init__(freeze=self._freeze_all, resume=self._resume_all)
        self._buses: list[MemoryBus] = []

    def bus(self, **settings: Any) -> EventBus:
        """Return a new bus with a broker of its own."""
        bus = MemoryBus(MemoryConfig(**settings))
        self._buses.append(bus)
        return bus

    def stored(self, topic: str) -> list[tuple[str, str, bytes]]:
        """Return what the brokers hold."""
        return [
            (message.event_id, message.key, message.value)
            for bus in self._buses
            for message in bus.broker.messages(topic)
        ]

    def _freeze_all(self) -> None:
        for bus in self._buses:
            bus.broker.freeze()

    def _resume_all(self) -> None:
        for bus in self._buses:
            bus.broker.resume()
