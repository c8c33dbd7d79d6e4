"""
The contract between the bus and a back end.

A back end knows bytes: it never sees an Envelope, the result channel or a database.
The bus gives it messages, each with a ``Delivery``, and the back end gives every
delivery back to the ``Sink`` once, with what the broker said.

The contract, with one conformance test per sentence:

1.  ``send`` may be called from many threads at once.
2.  ``send`` either raises (this process has no room, or is closing) and never settles
    that delivery, or returns and settles it exactly once. What the driver refuses on
    the broker's behalf is settled, not raised.
3.  ``Sink.settle`` may be called from any thread of the back end, also before ``send``
    has returned.
4.  ``send`` waits for no broker; it waits for room at most until its deadline.
5.  After ``close`` everything that ``send`` accepted is settled and no thread of the
    back end runs.
6.  ``close`` may be called again, from any thread, while ``send`` waits, and when
    nobody reads results.
7.  A driver's exception never leaves the module: it is mapped and chained.
8.  Messages with one key keep their order.
9.  The constructor starts nothing: no thread, no socket.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import attrs

from eventbus_sync._threads import Deadline
from eventbus_sync.errors import EventBusError, PublishError


@attrs.define(slots=True, eq=False)
class OutgoingMessage:
    """
    One message as it goes on the wire.

    Attributes:
        topic: Kafka topic or NATS subject, checked by ``Backend.check_topic``.
        key: decides the Kafka partition; "" for none.
        value: the body.
        headers: names and values in wire order.
        event_id: what the broker may recognise a repeat by; "" for a plain message.
        size: bytes of value, key and headers together.
    """

    topic: str
    key: str
    value: bytes
    headers: list[tuple[str, str]]
    event_id: str
    size: int


class Delivery(Protocol):
    """The bus's own handle for one accepted event; opaque but for its age."""

    #: When the event was accepted, on ``time.monotonic``.
    accepted_at: float


@attrs.define(slots=True, eq=False)
class Ack:
    """The broker said that the event is stored, and where."""

    partition: int | None = None
    offset: int | None = None
    stream: str | None = None
    sequence: int | None = None
    duplicate: bool = False


#: What the broker said about one delivery.
Settlement = tuple[Delivery, Ack | PublishError]


class Sink(Protocol):
    """
    What a back end tells the bus. Thread-safe; no method blocks or raises.
    """

    def settle(self, chunk: Sequence[Settlement]) -> None:
        """Settle many deliveries for one lock; the first outcome of each counts."""

    def expire(self) -> None:
        """
        Settle as unknown what is older than ``delivery_timeout`` and a grace.

        The last net below every back end, for what its own deadlines missed: a
        publishing thread interrupted between acceptance and hand-over, a driver that
        forgot a message. A back end calls it a few times a second while it runs.
        """

    def oldest_at(self) -> float | None:
        """Return when the oldest event in flight was accepted; None if there is none."""

    def connected(self) -> None:
        """Note that the broker answers; the second and later times, a reconnect."""

    def disconnected(self, error: EventBusError) -> None:
        """Note that the broker is out of reach, and why."""

    def report(self, error: EventBusError) -> None:
        """Pass an error that belongs to no single event to health and handler."""

    def log(self, level: int, text: str) -> None:
        """Pass on what the driver logged, without running a handler here."""


@runtime_checkable
class MakesBackend(Protocol):
    """
    What makes a ``BusConfig`` of your own one that ``EventBus`` takes.

    ``eventbus_sync.testing.conformance`` says whether its back end keeps the contract.
    """

    def make_backend(self, sink: Sink) -> "Backend":
        """Return a new back end; called for each bus, and again in a forked child."""


class Backend(Protocol):
    """What the bus needs from Kafka, NATS or memory. See the module's docstring."""

    def start(self) -> None:
        """Start the threads; waits for no broker."""

    def check(self, deadline: Deadline) -> None:
        """
        Return once the broker, the credentials and the stream are proven good.

        Raises:
            StartFailed: what is wrong and what to do about it.
        """

    def check_topic(self, topic: str) -> None:
        """Raise ``EnvelopeError`` if *topic* is not legal for this broker."""

    def check_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        """Raise ``EnvelopeError`` if a header cannot go on this wire unchanged."""

    def send(
        self, message: OutgoingMessage, delivery: Delivery, deadline: Deadline
    ) -> None:
        """
        Hand one message over; its outcome goes to ``Sink.settle``.

        Raises:
            BackendBusy: no room in the driver until *deadline*.
            BusClosed: the back end is closing.
        """

    def send_plain(self, message: OutgoingMessage, deadline: Deadline) -> None:
        """Hand over a message whose outcome nobody wants; it may be lost."""

    def close(self, deadline: Deadline) -> None:
        """
        Settle everything that is left and stop, within *deadline*.

        The bus has refused new events and waited for outcomes before it calls this;
        what is still unanswered ends as unknown (``Abandoned``).
        """
