"""What was asked for on the command line, and what there is to break."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import attrs

from eventbus_sync.bus import EventBus
from eventbus_sync.testing.faults import Process
from eventbus_sync.testing.proxy import TcpProxy
from eventbus_sync.testing.readback import StoredEvent


#: delivery_timeout on embedded brokers, in seconds: short, so that faults outlast it.
DELIVERY_TIMEOUT = 10.0


class Broker(Process, Protocol):
    """A broker that can be broken in every way that a process can."""

    def stop(self) -> None:
        """It has ended in good order."""


#: Shows each stored event to a function, within so many seconds.
Scan = Callable[[Callable[[StoredEvent], object], float], None]


@attrs.frozen(kw_only=True)
class Plan:
    """
    One soak.

    Attributes:
        backend: "nats" or "kafka".
        minutes: how long events are published.
        seed: what breaks when, and how bursts come.
        url: the user's own broker instead of an embedded one.
        kafka_home: a folder with Apache Kafka, which is started instead.
        threads: how many publish.
        rate: events for each second, over all threads; 0 for as fast as it goes.
        overflow: what a full result channel costs; None to draw that from the seed.
    """

    backend: str
    minutes: float
    seed: int
    url: str | None = None
    kafka_home: Path | None = None
    threads: int = 4
    rate: int = 500
    overflow: Literal["drop", "reserve"] | None = None

    @property
    def seconds(self) -> float:
        """How long events are published."""
        return self.minutes * 60


@attrs.frozen(kw_only=True, eq=False)
class Ground:
    """
    Where a soak takes place.

    Attributes:
        title: for people.
        bus: not started; the run closes it.
        topic: belongs to this run alone.
        delivery_timeout, publish_timeout: of the bus, seconds.
        scan: reads back what is stored.
        server: the broker's process, or None if it is not ours to break.
        proxy: the network before it, or None.
    """

    title: str
    bus: EventBus
    topic: str
    delivery_timeout: float
    publish_timeout: float
    scan: Scan
    server: Broker | None = None
    proxy: TcpProxy | None = None
