"""
Accepted but unsettled events: the one place where an event is accepted or finished.

Every way in which an event can end (ack, refusal, timeout, lost connection, close) is
a call of ``settle``. The first one counts, later ones are only counted. Entries are
objects, never looked up by event id: one id may be in flight many times.

Lock order: the lock here, then the channel's. Settling and inserting into the channel
are one step under this lock, so no snapshot can show an event between the two.
"""

import itertools
import threading
import time

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from eventbus_sync._event import (
    IN_FLIGHT,
    SETTLED,
    InFlightEvent,
    Waiter,
    result_of,
)
from eventbus_sync._threads import Deadline, WaitList
from eventbus_sync.backends.base import Ack, Settlement
from eventbus_sync.errors import (
    Abandoned,
    BackendBusy,
    BusClosed,
    ChannelFull,
    DeliveryTimedOut,
    PublishError,
)
from eventbus_sync.results import Outcome, PublishResult, PublishResultChannel


#: What a delivery may be late beyond ``delivery_timeout`` before it is given up here.
#: librdkafka looks for timeouts once a second; promise 1 allows two seconds in all.
EXPIRY_GRACE = 1.5
#: How many events are settled for one lock, so that publishers are not kept waiting.
SETTLE_CHUNK = 1000
#: Who waits longer than this for the lock has met a queue before it, in seconds.
QUEUED = 10e-6
#: For how long a publisher then steps aside, times how many did so in a row, in
#: seconds; and at most so many times.
STEP_ASIDE, MOST_STEPS = 100e-6, 50

_ACKED, _REJECTED = Outcome.ACKED, Outcome.REJECTED


class InFlightCounts(NamedTuple):
    """One consistent reading of the books, the channel's part included."""

    accepted: int
    acked: int
    rejected: int
    unknown: int
    in_flight: int
    in_flight_bytes: int
    oldest_age: float
    late_outcomes: int
    returned: int
    queued: int
    taken: int
    dropped: int


class InFlight:
    """
    The table of accepted events, the limits on it, and the books. Thread-safe.

    Args:
        channel: where results go.
        max_events: most events in flight at once.
        max_bytes: most bytes in flight at once.
        delivery_timeout: seconds after which an event is settled in any case.
        reserve: keep a place in the channel for every event in flight.
        on_results: is given the results that counted, after each chunk, with the
            number of them that the channel dropped. Must not block or raise.
    """

    def __init__(  # noqa: PLR0913 - one keyword per limit
        self,
        channel: PublishResultChannel,
        *,
        max_events: int,
        max_bytes: int,
        delivery_timeout: float,
        reserve: bool,
        on_results: Callable[[Sequence[PublishResult], int], None],
    ) -> None:
        self._channel = channel
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._give_up_after = delivery_timeout + EXPIRY_GRACE
        self._reserve = reserve
        self._on_results = on_results
        self._lock = threading.Lock()
        self._room = WaitList()
        self._progress = WaitList()
        self._closed = False
        # How many publishers in a row met a queue before the lock.
        self._queued = 0
        # The thread of the event that was accepted last.
        self._publisher = 0
        # In order of acceptance; settled entries leave lazily, from the left.
        self._order: deque[InFlightEvent] = deque()
        self._numbers = itertools.count()
        self._last_number = -1
        self._accepted = self._acked = self._rejected = self._unknown = 0
        self._events = self._bytes = self._late = self._returned = 0
        # Settled, and on the way into the channel; empty whenever the lock is free,
        # unless the thread that had it was interrupted.
        self._handing_over: list[PublishResult] = []

    # -- in ------------------------------------------------------------------------

    def register(self, event: InFlightEvent, deadline: Deadline) -> float:
        """
        Accept *event*, waiting for room until *deadline*.

        Returns:
            For how many seconds this thread should sleep when it has handed the event
            over: 0.0 unless publishers queue for the lock. A queue would stay for
            ever: a lock that is released goes to the first of the queue, who has to
            wait for the GIL, and meanwhile the one who has the GIL comes for the lock
            again and joins the queue. Then each event costs a change of threads, which
            is more than all the rest. It dissolves when those that queued step aside.

        Raises:
            BusClosed: the table was closed; nothing is accepted.
            BackendBusy: the limit of events or bytes was reached all the time.
            ChannelFull: no place in the result channel became free.
        """
        started = ticket = None
        while True:
            came_at = time.monotonic()
            with self._lock:
                now = time.monotonic()
                self._room.leave_locked(ticket)
                if self._closed:
                    raise BusClosed
                obstacle = self._obstacle_locked(event)
                if obstacle is None:
                    event.accepted_at = now
                    event.number = next(self._numbers)
                    self._order.append(event)
                    # No call between these lines: an exception injected into this
                    # thread (Ctrl-C, Celery's soft time limit) lands before all of
                    # them or after.
                    self._last_number = event.number
                    self._accepted += 1
                    self._events += 1
                    self._bytes += event.size
                    event.state = IN_FLIGHT
                    return self._step_aside_locked(now - came_at)
                if started is None:
                    started = time.monotonic()
                remaining = deadline.remaining()
                if remaining <= 0:
                    raise obstacle(self._busy_text(obstacle, started))
                ticket = self._room.enlist_locked()
            ticket.acquire(timeout=remaining)

    def _step_aside_locked(self, waited: float) -> float:
        """Return the seconds to step aside for who *waited* seconds for the lock."""
        before, self._publisher = self._publisher, threading.get_ident()
        # One thread alone is no queue, however slowly it runs (under a debugger, say).
        if waited < QUEUED or before == self._publisher:
            self._queued = 0
            return 0.0
        self._queued += 1
        return min(self._queued, MOST_STEPS) * STEP_ASIDE

    def withdraw(self, event: InFlightEvent) -> bool:
        """
        Take back an event whose hand-over failed, as if it had never been accepted.

        Returns:
            False if it was settled meanwhile: then it stays accepted.
        """
        with self._lock:
            if event.state != IN_FLIGHT:
                return False
            event.state = SETTLED
            self._accepted -= 1
            self._events -= 1
            self._bytes -= event.size
            self._wake_locked()
            return True

    def _obstacle_locked(self, event: InFlightEvent) -> type[BackendBusy] | None:
        """Return what stands in the way of one more event, if anything does."""
        if self._events >= self._max_events:
            return BackendBusy
        # A single event larger than the limit may pass when nothing else is there.
        if self._events and self._bytes + event.size > self._max_bytes:
            return BackendBusy
        if self._reserve:
            # The queue's length is read without its lock: it grows only under ours,
            # so it can only be shorter than what we see.
            queued = len(self._channel.queue) + len(self._handing_over)
            if self._events + queued >= self._channel.maxsize:
                return ChannelFull
        return None

    def _busy_text(self, obstacle: type[BackendBusy], started: float) -> str:
        waited = f"after {round(time.monotonic() - started, 3):g} s"
        if obstacle is ChannelFull:
            return (
                f"no place in the result channel {waited}: {self._events} in flight "
                f"and {len(self._channel.queue)} unread of {self._channel.maxsize}; "
                "is a thread reading bus.get_publish_result_channel()?"
            )
        return (
            f"no room {waited}: {self._events} events ({self._bytes} bytes) in "
            f"flight, the limits are {self._max_events} events (max_in_flight) and "
            f"{self._max_bytes} bytes (max_in_flight_bytes); the broker is slower "
            "than the publishers, or out of reach"
        )

    # -- out -----------------------------------------------------------------------

    def settle(self, chunk: Sequence[Settlement]) -> None:
        """
        Finish every event of *chunk* whose outcome this is the first of.

        Never blocks and never raises, whatever thread it is called from.
        """
        for start in range(0, len(chunk), SETTLE_CHUNK):
            self._settle(chunk[start : start + SETTLE_CHUNK])

    def _settle(self, chunk: Sequence[Settlement]) -> None:
        events = cast("Sequence[tuple[InFlightEvent, Ack | PublishError]]", chunk)
        now, wall = time.monotonic(), time.time()
        # Results are made before the lock is taken; the few that come too late for
        # their event are thrown away below.
        made = [result_of(event, said, now, wall) for event, said in events]
        counted: list[PublishResult] = []
        waiters: list[Waiter] = []
        dropped = 0
        with self._lock:
            handing_over = self._handing_over
            try:
                for (event, _), result in zip(events, made, strict=True):
                    if event.state != IN_FLIGHT:
                        self._late += 1
                        continue
                    # No call between these lines either: close() settles too, on a
                    # thread that Ctrl-C may interrupt.
                    if result.outcome is _ACKED:
                        self._acked += 1
                    elif result.outcome is _REJECTED:
                        self._rejected += 1
                    else:
                        self._unknown += 1
                    self._events -= 1
                    self._bytes -= event.size
                    counted += [result]
                    waiter = event.waiter
                    if waiter is None or waiter.gone:
                        handing_over += [result]
                    else:
                        self._returned += 1
                        waiter.result = result
                        waiters += [waiter]
                    event.state = SETTLED
            finally:
                dropped = self._hand_over_locked()
                for waiter in waiters:
                    waiter.done.release()
                self._wake_locked()
        self._on_results(counted, dropped)

    def _hand_over_locked(self) -> int:
        """
        Move results into the channel; how many it had no room for.

        When that is interrupted, they wait in the list for the next one who settles or
        closes.
        """
        if not self._handing_over:
            return 0
        return self._channel._offer(self._handing_over)  # noqa: SLF001 - the bus's side of the channel

    def expire(self) -> None:
        """Settle as unknown what nobody settled within delivery_timeout and a grace."""
        horizon = time.monotonic() - self._give_up_after
        with self._lock:
            self._trim_locked()
            if not self._order or self._order[0].accepted_at > horizon:
                return
            events = tuple(self._order)
        # No comprehension inside a "with": when an exception from outside lands in
        # one, Python 3.13.0 leaves without releasing the lock.
        overdue = [
            event
            for event in events
            if event.state == IN_FLIGHT and event.accepted_at <= horizon
        ]
        error = DeliveryTimedOut("no outcome came within delivery_timeout")
        self.settle([(event, error) for event in overdue])

    def oldest_at(self) -> float | None:
        """Return when the oldest event in flight was accepted; None if there is none."""
        with self._lock:
            self._trim_locked()
            return self._order[0].accepted_at if self._order else None

    def forget_waiter(self, waiter: Waiter) -> None:
        """
        Send the outcome to the channel after all: its waiter was interrupted.
        """
        dropped = 0
        with self._lock:
            waiter.gone = True
            if waiter.result is not None:
                self._returned -= 1
                self._handing_over += [waiter.result]
                waiter.result = None
                dropped = self._hand_over_locked()
        if dropped:
            self._on_results((), dropped)

    # -- the whole -----------------------------------------------------------------

    def wait_settled(self, deadline: Deadline) -> int:
        """
        Wait until everything accepted before this call is settled.

        Returns:
            How many of those events are still in flight at *deadline*.
        """
        target = ticket = None
        while True:
            with self._lock:
                self._progress.leave_locked(ticket)
                if target is None:
                    target = self._last_number
                remaining = deadline.remaining()
                if self._first_locked() > target or remaining <= 0:
                    return sum(
                        event.state == IN_FLIGHT and event.number <= target
                        for event in self._order
                    )
                ticket = self._progress.enlist_locked()
            ticket.acquire(timeout=remaining)

    def close(self) -> None:
        """Accept nothing more; publishers that wait for room get ``BusClosed``."""
        with self._lock:
            self._closed = True
            self._room.wake_all_locked()

    def abandon(self) -> int:
        """Settle everything that is left as unknown and return how many that were."""
        with self._lock:
            events = tuple(self._order)
            dropped = self._hand_over_locked()
        if dropped:
            self._on_results((), dropped)
        left = [event for event in events if event.state == IN_FLIGHT]
        error = Abandoned()
        self.settle([(event, error) for event in left])
        return len(left)

    def counts(self) -> InFlightCounts:
        """Return one consistent snapshot of the books."""
        with self._lock:
            self._trim_locked()
            channel = self._channel._counts()  # noqa: SLF001 - the bus's side of the channel
            oldest = self._order[0].accepted_at if self._order else None
            return InFlightCounts(
                accepted=self._accepted,
                acked=self._acked,
                rejected=self._rejected,
                unknown=self._unknown,
                in_flight=self._events,
                in_flight_bytes=self._bytes,
                oldest_age=0.0 if oldest is None else time.monotonic() - oldest,
                late_outcomes=self._late,
                returned=self._returned,
                # Not empty only after an interruption.
                queued=channel.queued + len(self._handing_over),
                taken=channel.taken,
                dropped=channel.dropped,
            )

    def room_freed(self) -> None:
        """Wake publishers: a reader took results (``overflow="reserve"``)."""
        with self._lock:
            self._room.wake_all_locked()

    def _wake_locked(self) -> None:
        self._room.wake_all_locked()
        self._progress.wake_all_locked()
        # Trim when settled entries outnumber the others, so that one event stuck at
        # the left does not keep a million settled ones alive behind it.
        if len(self._order) > 2 * self._events + SETTLE_CHUNK:
            self._trim_locked()
            if len(self._order) > 2 * self._events + SETTLE_CHUNK:
                self._order = deque(e for e in self._order if e.state == IN_FLIGHT)

    def _trim_locked(self) -> None:
        order = self._order
        # An entry that is still new belongs to a registration that was interrupted.
        while order and order[0].state != IN_FLIGHT:
            order.popleft()

    def _first_locked(self) -> int:
        """Return the number of the oldest event in flight, or the next one's."""
        self._trim_locked()
        return self._order[0].number if self._order else self._last_number + 1
