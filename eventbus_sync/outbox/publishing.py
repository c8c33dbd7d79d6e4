"""Rows to the bus, and outcomes back to rows."""

import contextlib
import random
import threading

from collections.abc import Callable, Sequence
from typing import Final

from eventbus_sync.bus import EventBus
from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import (
    Abandoned,
    BackendBusy,
    BrokerUnavailable,
    BusClosed,
    ConnectionLost,
    DeliveryTimedOut,
    DestinationNotFound,
    EnvelopeError,
    EventBusError,
    NotAuthorized,
    ProducerLost,
    PublishError,
    ResultChannelClosed,
)
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.lines import Flight
from eventbus_sync.outbox.reader import take
from eventbus_sync.outbox.record import Mark, OutboxRecord
from eventbus_sync.outbox.retry import (
    RetryPolicy,
    decide,
    failed,
    held_back,
    refused,
    unanswered,
)
from eventbus_sync.outbox.topics import LONGEST_PAUSE, THRESHOLD, Topics
from eventbus_sync.outbox.trouble import Trouble
from eventbus_sync.results import Outcome, PublishResult


#: Results taken off the channel at once.
_BATCH: Final = 1000
#: Seconds after ``delivery_timeout`` in which an outcome must have come; the bus
#: promises two.
OVERDUE: Final = 4.0
#: Outcomes that say nothing of the topic: a connection was lost, or the bus closed.
_OF_NO_TOPIC: Final = (Abandoned, ConnectionLost, ProducerLost)


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

    def __init__(  # noqa: PLR0913 - the parts of a relay
        self,
        bus: EventBus,
        held: HeldRows,
        breaker: Breaker,
        policy: RetryPolicy,
        trouble: Trouble,
        topics: Topics,
    ) -> None:
        self._bus = bus
        self._held = held
        self._breaker = breaker
        self._policy = policy
        self._trouble = trouble
        self._topics = topics
        #: Set: outcomes are left alone, and rows in flight to the end of their lease. A
        #: bus that is closed in haste calls them unknown while they may yet be stored.
        self.deaf = False
        # Held from taking results off the channel until they are with their rows, so
        # that no outcome is between the two when another thread looks for it.
        self._receiving = threading.Lock()

    def pump(self) -> None:
        """
        Publish all that may go out now, without waiting.

        Raises:
            BusClosed: nothing will ever go out again.
        """
        while True:
            if self._breaker.is_open and self._held.in_flight:
                return  # that one is the probe
            flight = self._held.next_to_publish()
            if flight is None or not self._publish(flight):
                return

    def _publish(self, flight: Flight) -> bool:
        """Hand one row to the bus; return whether the next one may follow."""
        record = flight.record
        # With the breaker open each row is a probe, and the only one: whatever its topic.
        hold = None
        if not self._breaker.is_open:
            hold = self._topics.hold_back(record.topic, record.event_id, random.random)
        if hold is not None:
            self._held.settle([(flight, held_back(record, hold.pause, hold.why))])
            return True
        if self._topics.is_doubtful(record.event_id):
            # What comes after it would only fill the room while it waits for an answer.
            self._held.release_behind(flight)
        try:
            envelope = envelope_of(record)
        except Exception as error:  # noqa: BLE001 - whatever damaged it, it stays damaged
            # But to lack memory says nothing of the row.
            lacking = isinstance(error.__cause__, MemoryError)
            (self._failed if lacking else self._bury)(flight, error)
            return True
        try:
            self._bus.publish_envelope(
                record.topic, envelope, headers=record.headers, timeout=0.0
            )
        except EnvelopeError as error:
            self._bury(flight, error)
        except BackendBusy:
            self._topics.not_tried(record.topic, record.event_id)
            self._held.not_accepted(flight)
            return False
        except EventBusError as error:
            # The bus is at fault (closed, cannot start), not this row.
            self._topics.not_tried(record.topic, record.event_id)
            self._held.not_accepted(flight)
            if isinstance(error, BusClosed):
                raise
            self._trouble.note("the bus cannot publish", error)
            return False
        except Exception as error:  # noqa: BLE001 - one row must not hold up all others
            self._failed(flight, error)
        return True

    def _failed(self, flight: Flight, error: Exception) -> None:
        record = flight.record
        self._trouble.note("publishing failed", error, unforeseen=True)
        self._topics.not_tried(record.topic, record.event_id)
        mark = self._decide(
            record, lambda policy: failed(record, error, policy, random.random)
        )
        self._held.settle([(flight, mark)])

    def _bury(self, flight: Flight, error: Exception) -> None:
        record = flight.record
        row = f"position {record.position}, {record.event_id}"
        self._trouble.note("a row cannot be published", error, detail=row)
        self._topics.not_tried(record.topic, record.event_id)
        self._held.settle([(flight, refused(record, error))])

    # -- outcomes ---------------------------------------------------------------------

    def receive(self, timeout: float) -> bool:
        """
        Take results off the channel and decide; return whether there were any.

        Raises:
            ResultChannelClosed: none will come any more.
        """
        channel = self._bus.get_publish_result_channel()
        with self._receiving:
            results = take(channel, _BATCH, timeout)
            if results and not self.deaf:
                self.take_in(results)
        return bool(results)

    def take_in(self, results: Sequence[PublishResult]) -> None:
        """Decide what *results* mean; those of nobody's rows are left aside."""
        settled = []
        try:
            for result in results:
                flight = self._held.landed(result.event_id)
                if flight is not None:
                    settled.append((flight, self._decided(flight.record, result)))
                    self._tell_breaker(result)
                    self._tell_topics(flight.record.topic, result)
        finally:
            if settled:
                self._held.settle(settled)

    def sweep(self, seconds: float) -> None:
        """Try rows again whose outcome did not come within *seconds*."""
        if self.deaf:
            return
        # Nobody may have read the channel: this process may have been frozen.
        with contextlib.suppress(ResultChannelClosed):
            while self._held.has_overdue(seconds) and self.receive(0.0):
                pass
        late = self._held.overdue(seconds)
        if late:
            self._held.settle([(f, self._unanswered(f.record)) for f in late])
        # A bus that is closed gives no time at all, and that is no topic's fault.
        for flight in late if seconds > 0 else ():
            self._topics.landed(flight.record.event_id)
            self._topic_failed(flight.record.topic, DeliveryTimedOut("no outcome came"))

    def _unanswered(self, record: OutboxRecord) -> Mark:
        return self._decide(
            record, lambda policy: unanswered(record, policy, random.random)
        )

    def _decided(self, record: OutboxRecord, result: PublishResult) -> Mark:
        return self._decide(
            record, lambda policy: decide(result, record, policy, random.random)
        )

    def _decide(
        self, record: OutboxRecord, mark: Callable[[RetryPolicy], Mark]
    ) -> Mark:
        """Return a mark, whatever is wrong with the policy or the row."""
        try:
            return mark(self._policy)
        except Exception as error:  # noqa: BLE001 - a policy of the application's own
            row = f"position {record.position}, {record.event_id}"
            self._trouble.note(
                "deciding about a row failed", error, detail=row, unforeseen=True
            )
        try:
            return mark(RetryPolicy())
        except Exception as error:  # noqa: BLE001 - then it is the row: it is damaged
            return refused(record, error)

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

    def _tell_topics(self, topic: str, result: PublishResult) -> None:
        self._topics.landed(result.event_id)
        error = result.error
        if result.outcome is Outcome.ACKED:
            if self._topics.acked(topic):
                self._trouble.over(
                    f"topic {topic!r} takes events again: what was held back follows, "
                    f"as a rule within {LONGEST_PAUSE:g} s"
                )
        elif result.outcome is Outcome.UNKNOWN:
            if not isinstance(error, _OF_NO_TOPIC):
                self._topic_failed(topic, error or DeliveryTimedOut("no reason given"))
        elif isinstance(error, DestinationNotFound | NotAuthorized):
            self._topic_failed(topic, error)

    def _topic_failed(self, topic: str, error: PublishError) -> None:
        if self._topics.failed(topic, f"{error.code}: {error}"):
            # A text of its own for each topic, so that each is logged.
            self._trouble.note(
                f"topic {topic!r} took none of the last {THRESHOLD} events and is closed "
                "off: its rows wait, and one at a time is tried",
                error,
            )
