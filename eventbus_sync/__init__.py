"""
Publish domain events to Kafka or NATS JetStream from code without an event loop.

Start with ``EventBus`` (``bus.py``). The way of one event through the files::

    bus.py            publish_envelope: check, encode, register, hand over
    envelope/         what an event is, and its bytes on the wire
    _process.py       the first use in a process starts the bus, also after a fork
    _inflight.py      accepted but unsettled events: accept once, settle once
    _event.py         one accepted event, and the result that it ends in
    backends/         base.py is the contract; memory.py, kafka/, nats/ keep it
    results.py        PublishResult, and the channel on which results arrive
    errors.py         every error, drawn as a tree
    config/           settings, also from a URL or the environment
    observe.py        stats, health, callbacks
    _runtime.py       what runs between first use and close, once per process
    _lifecycle.py     fork and exit
    outbox/           rows of your database, published by a relay: begin at relay.py
    integrations/     the outbox's table and its queries, in SQLAlchemy
    cli*.py, demo/    python -m eventbus_sync demo, relay, outbox
    testing/          a bus that fails on command, and real brokers for tests

Importing this package loads no driver, no SQLAlchemy and no asyncio.
"""

from eventbus_sync.bus import EventBus
from eventbus_sync.config import KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import (
    BackendBusy,
    BusClosed,
    ChannelFull,
    ConfigError,
    EnvelopeError,
    EventBusError,
    PublishError,
    PublishRejected,
    PublishUnknown,
    ResultChannelClosed,
)
from eventbus_sync.observe import Health, Stats
from eventbus_sync.results import Outcome, PublishResult, PublishResultChannel


__all__ = [
    "BackendBusy",
    "BusClosed",
    "ChannelFull",
    "ConfigError",
    "Envelope",
    "EnvelopeError",
    "EventBus",
    "EventBusError",
    "Health",
    "KafkaConfig",
    "MemoryConfig",
    "NatsConfig",
    "Outcome",
    "PublishError",
    "PublishRejected",
    "PublishResult",
    "PublishResultChannel",
    "PublishUnknown",
    "ResultChannelClosed",
    "Stats",
]

__version__ = "0.1.0"
