"""Rows to the bus, and outcomes back to rows."""

import random
import time

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from eventbus_sync.bus import EventBus
from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import (
    BackendBusy,
    BrokerUnavailable,
    BusClosed,
    EnvelopeError,
    EventBusError,
)
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.lines import Flight
from eventbus_sync.outbox.record import Change, Mark, OutboxRecord
from eventbus_sync.outbox.retry import RetryPolicy, decide, failed, refused, unanswered
from eventbus_sync.outbox.trouble import Trouble
from eventbus_sync.results import Outcome, PublishResult


#: Of how many failing events it is known since when; the oldest are forgotten.
_REMEMBERED: Final = 10_000
#: Seconds after ``delivery_timeout`` in which an outcome must have come; the bus
#: promises two.
OVERDUE: Final = 4.0


def envelope_of(record: OutboxRecord) -> Envelope:
    """Return the envelope that a row was made of, byte for byte the same."""
    return Envelope(
        record.aggregate_id,
        record.event_type,
        record.event_version,
        record.payload,
        event_id=record.event_id,
        timestamp=record.timestamp,
        trace_id=record.trace_id,
        correlation_id=record.correlation_id,
        tenant_id=record.tenant_id,
    )


class Publisher:
    """
    Publishes what may go out, and decides what outcomes mean. Thread-safe.

    Never waits: what the bus has no room for stays at the head of its line.
    """

    def __init__(
        self,
        bus: EventBus,
        held: HeldRows,
        breaker: Breaker,
        policy: RetryPolicy,
        trouble: Trouble,
    ) -> None:
        self._bus = bus
        self._held = held
        self._breaker = breaker
        self._policy = policy
        self._trouble = trouble
        # Not the row's age: a row may be old because no relay ran, or because it had to
        # wait until not_before; its first failure must not bury it.
        self._failing: OrderedDict[int, float] = OrderedDict()
        #: Set: nothing more is published.
        self.stopped = False

    def pump(self) -> None:
        """
        Publish all that may go out now, without waiting.

        Raises:
            BusClosed: nothing will ever go out again.
        """
        while not self.stopped:
            if self._breaker.is_open and self._held.in_flight:
                return  # that one is the probe
            flight = self._held.next_to_publish()
            if flight is None or not self._publish(flight):
                return

    def _publish(self, flight: Flight) -> bool:
        """Hand one row to the bus; return whether the next one may follow."""
        record = flight.record
        try:
            envelope = envelope_of(record)
        except Exception as error:  # noqa: BLE001 - whatever damaged it, it stays damaged
            self._bury(flight, error)
            return True
        try:
            self._bus.publish_envelope(
                record.topic, envelope, headers=record.headers, timeout=0.0
            )
        except EnvelopeError as error:
            self._bury(flight, error)
        except BackendBusy:
            self._held.not_accepted(flight)
            return False
        except EventBusError as error:
            # The bus is at fault (closed, cannot start), not this row.
            self._held.not_accepted(flight)
            if isinstance(error, BusClosed):
                raise
            self._trouble.note("the bus cannot publish", error)
            return False
        except Exception as error:  # noqa: BLE001 - one row must not hold up all others
            self._trouble.note("publishing failed", error, unforeseen=True)
            mark = failed(record, error, self._policy, random.random)
            self._held.settle([(flight, mark)])
        return True

    def _bury(self, flight: Flight, error: Exception) -> None:
        record = flight.record
        row = f"position {record.position}, {record.event_id}"
        self._trouble.note("a row cannot be published", error, detail=row)
        self._held.settle([(flight, refused(record, error))])

    # -- outcomes ---------------------------------------------------------------------

    def take_in(self, results: Sequence[PublishResult]) -> None:
        """Decide what *results* mean; those of nobody's rows are left aside."""
        settled = []
        for result in results:
            flight = self._held.landed(result.event_id)
            if flight is not None:
                settled.append((flight, self._decided(flight.record, result)))
        if settled:
            self._held.settle(settled)

    def sweep(self, seconds: float) -> None:
        """Try rows again whose outcome did not come within *seconds*."""
        late = self._held.overdue(seconds)
        self._held.settle(
            [(f, unanswered(f.record, self._policy, random.random)) for f in late]
        )

    def _decided(self, record: OutboxRecord, result: PublishResult) -> Mark:
        now = time.monotonic()
        since = now
        if result.outcome is not Outcome.ACKED:
            since = self._failing.setdefault(record.position, now)
        mark = decide(
            result, record, self._policy, random.random, failing_for=now - since
        )
        if mark.change is Change.RETRY:
            if len(self._failing) > _REMEMBERED:
                self._failing.popitem(last=False)
        elif self._failing:
            self._failing.pop(record.position, None)
        self._tell_breaker(result)
        return mark

    def _tell_breaker(self, result: PublishResult) -> None:
        if result.outcome is Outcome.ACKED:
            self._breaker.acked()
            return
        error = result.error
        if isinstance(error, BrokerUnavailable):
            if self._breaker.unreachable():
                self._trouble.note("the breaker opened: no broker is reached", error)
            return
        if result.outcome is Outcome.REJECTED:
            self._breaker.answered()
        if error is not None:
            self._trouble.note("not stored", error, detail=result.event_id)
