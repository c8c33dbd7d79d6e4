"""One accepted event, who waits for it, and the result that it ends in."""

import copy
import threading

from eventbus_sync.backends.base import Ack
from eventbus_sync.errors import PublishError
from eventbus_sync.results import Outcome, PublishResult


#: Where an event stands: not accepted, accepted, finished.
NEW, IN_FLIGHT, SETTLED = range(3)


class InFlightEvent:
    """One accepted event: what its result needs, and where it stands."""

    __slots__ = (
        "accepted_at",
        "aggregate_id",
        "event_id",
        "event_type",
        "number",
        "size",
        "state",
        "tenant_id",
        "topic",
        "waiter",
    )

    def __init__(  # noqa: PLR0913 - plain fields, filled once per event
        self,
        topic: str,
        event_id: str,
        aggregate_id: str,
        event_type: str,
        tenant_id: int,
        size: int,
        waiter: "Waiter | None" = None,
    ) -> None:
        self.topic = topic
        self.event_id = event_id
        self.aggregate_id = aggregate_id
        self.event_type = event_type
        self.tenant_id = tenant_id
        self.size = size
        self.waiter = waiter
        self.state = NEW
        self.number = 0
        self.accepted_at = 0.0


class Waiter:
    """Where ``publish_envelope_sync`` waits for the outcome of its own event."""

    __slots__ = ("done", "gone", "result")

    def __init__(self) -> None:
        #: Held until the result is there.
        self.done = threading.Lock()
        self.done.acquire()
        self.result: PublishResult | None = None
        #: Nobody waits any more.
        self.gone = False


def result_of(
    event: InFlightEvent, said: Ack | PublishError, now: float, wall: float
) -> PublishResult:
    """
    Return the result of *event*, given what the broker or one of us said.

    Args:
        event: not settled yet.
        said: the acknowledgement, or why there is none.
        now: on the monotonic clock.
        wall: the same moment, in seconds since the epoch.
    """
    latency = now - event.accepted_at
    if isinstance(said, Ack):
        return PublishResult(
            event.event_id,
            event.topic,
            Outcome.ACKED,
            None,
            wall,
            event.aggregate_id,
            event.event_type,
            event.tenant_id,
            latency,
            said.partition,
            said.offset,
            said.stream,
            said.sequence,
            said.duplicate,
        )
    # An outage ends thousands of events with one error. Whoever raises it makes its
    # traceback longer: each result has one of its own.
    cause, said = said.__cause__, copy.copy(said)
    said.__cause__ = cause
    return PublishResult(
        event.event_id,
        event.topic,
        Outcome.UNKNOWN if said.maybe_delivered else Outcome.REJECTED,
        said,
        wall,
        event.aggregate_id,
        event.event_type,
        event.tenant_id,
        latency,
    )
