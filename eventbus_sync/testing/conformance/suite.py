"""The suite as one class, and the fixtures that its tests take."""

import threading

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus_sync import EventBus
from eventbus_sync.testing.conformance.channel import Channel
from eventbus_sync.testing.conformance.closing import Closing
from eventbus_sync.testing.conformance.contract import Contract
from eventbus_sync.testing.conformance.outcomes import Outcomes
from eventbus_sync.testing.conformance.rigs import Rig
from eventbus_sync.testing.conformance.storage import Storage
from eventbus_sync.testing.eventually import eventually


class BackendConformance(Outcomes, Channel, Storage, Closing, Contract):
    """What holds on every back end (promise 7); a subclass gives the fixture ``rig``."""

    @pytest.fixture
    def buses(self, rig: Rig) -> Iterator[list[EventBus]]:
        """Whatever a test opens is closed, and no thread is left."""
        before = set(threading.enumerate())
        opened: list[EventBus] = []
        yield opened
        rig.resume()
        for bus in opened:
            bus.close(10)
        eventually(lambda: set(threading.enumerate()) <= before)

    @pytest.fixture
    def make(self, rig: Rig, buses: list[EventBus]) -> Callable[..., EventBus]:
        """Return a function that makes a bus with some settings."""

        def make(**settings: Any) -> EventBus:
            bus = rig.bus(**settings)
            buses.append(bus)
            return bus

        return make
