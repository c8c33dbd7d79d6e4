"""A relay's surroundings, all in memory."""

from collections.abc import Iterator
from typing import Any

import pytest

from support.eventually import eventually
from support.patience import SLACK
from support.relay_store import MemoryStore
from support.relays import QUICK, Make, Stuck, events

from eventbus_sync import MemoryConfig
from eventbus_sync.outbox import OutboxRelay
from eventbus_sync.testing import MemoryBus


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    with MemoryBus(MemoryConfig(delivery_timeout=1.0, close_timeout=0)) as bus:
        yield bus


@pytest.fixture
def make(store: MemoryStore, bus: MemoryBus) -> Iterator[Make]:
    """Make relays that end with the test."""
    made: list[OutboxRelay] = []

    def make(**settings: Any) -> OutboxRelay:
        settings = {"name": "eventbus-relay", "lease": 6.0, "retry": QUICK, **settings}
        relay = OutboxRelay(settings.pop("store", store), bus, **settings)
        made.append(relay)
        return relay

    yield make
    bus.broker.clear()
    for relay in made:
        relay.stop(5)


@pytest.fixture
def stuck(store: MemoryStore, bus: MemoryBus, make: Make) -> Stuck:
    """Start a relay of which one row is in flight, since the broker does not answer."""

    def stuck(rows: int) -> OutboxRelay:
        store.add("t", *events(rows))
        bus.broker.freeze()
        relay = make()
        relay.start()
        eventually(lambda: relay.stats().in_flight == 1, SLACK)
        return relay

    return stuck
