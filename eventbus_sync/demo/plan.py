"""What was asked for on the command line, and what there is to publish to."""

from collections.abc import Callable, Sequence

import attrs

from eventbus_sync.bus import EventBus
from eventbus_sync.demo.faults import Fault
from eventbus_sync.testing.readback import StoredEvent


@attrs.frozen(kw_only=True)
class Plan:
    """
    One call of the demo.

    Attributes:
        backends: which embedded brokers, one after the other; exactly one with *url*.
        url: the user's own broker, instead of an embedded one.
        events: how many events for each broker.
        threads: how many publishing threads.
        broken: whether the broker is frozen and killed in the middle.
        outbox: whether events go by way of an outbox; its embedded broker always goes
            away in the middle.
    """

    backends: Sequence[str] = ("nats", "kafka")
    url: str | None = None
    events: int = 20_000
    threads: int = 4
    broken: bool = False
    outbox: bool = False


@attrs.frozen(kw_only=True, eq=False)
class Target:
    """
    A bus to publish with, and what is needed to check on it.

    Attributes:
        backend: "nats", "kafka" or "memory".
        title: what it is, for people.
        bus: not started yet, or started; the run closes it.
        topic: Kafka topic or NATS subject that belongs to this run alone.
        delivery_timeout: of the bus, seconds.
        read_back: returns what is stored under *topic*, within so many seconds.
        scan: shows each stored event to a function, within so many seconds; for runs
            that are too large for memory. None if there is no such way.
        faults: what can be done to the broker, in the order of ``at``.
    """

    backend: str
    title: str
    bus: EventBus
    topic: str
    delivery_timeout: float
    read_back: Callable[[float], list[StoredEvent]]
    scan: Callable[[Callable[[StoredEvent], object], float], None] | None = None
    faults: Sequence[Fault] = ()
