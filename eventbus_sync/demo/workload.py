"""
The work of the demo: threads that publish order events, and one that reads results.

Both loops are as lean as a user's should be. What they note down is looked at only
when they are done.
"""

import threading
import time

from collections.abc import Callable, Sequence
from math import ceil

import attrs

from eventbus_sync._threads import Deadline, join_all, spawn
from eventbus_sync.bus import EventBus
from eventbus_sync.demo.journal import Journal, PublisherLog
from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import (
    BackendBusy,
    BusClosed,
    EventBusError,
    ResultChannelClosed,
)
from eventbus_sync.results import Outcome


#: Aggregates that all threads share, so that order has something to get wrong.
AGGREGATES = 1000
#: Seconds between two events of one thread that publishes slowly.
TRICKLE = 0.001
#: Most results that the reader takes at once.
BATCH = 10_000


@attrs.frozen(eq=False)
class Hold:
    """
    A point that no publisher passes before something has happened.

    Attributes:
        share: of the events, between 0 and 1.
        trickle: publish slowly on while waiting, so that something is in flight when
            it happens.
        opened: set when it has happened.
    """

    share: float
    trickle: bool = False
    opened: threading.Event = attrs.field(factory=threading.Event)


class Workload:
    """
    Publishes *events* events from *threads* threads and reads their results.

    Args:
        bus: where to; this is the only reader of its channel.
        topic: Kafka topic or NATS subject.
        events: how many, over all threads.
        threads: how many publish.
        holds: in the order of their shares.
    """

    def __init__(
        self,
        bus: EventBus,
        topic: str,
        *,
        events: int,
        threads: int,
        holds: Sequence[Hold] = (),
    ) -> None:
        #: How many events there will be.
        self.events = events
        #: What was seen; complete when ``join`` has returned.
        self.journal = Journal([PublisherLog() for _ in range(threads)])
        self._bus = bus
        self._topic = topic
        self._shares = [len(range(n, events, threads)) for n in range(threads)]
        self._holds = holds
        self._stopping = threading.Event()
        self._aggregates = [f"order-{number}" for number in range(AGGREGATES)]
        self._publishers: list[threading.Thread] = []
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Start every thread."""
        self._readers.append(spawn("demo-reader", lambda: self._guarded(self._read)))
        self.journal.started_at = time.perf_counter()
        for number, log in enumerate(self.journal.publishers):
            share = self._shares[number]
            self._publishers.append(
                spawn(
                    f"demo-publisher-{number}",
                    lambda log=log, share=share: self._guarded(  # type: ignore[misc]
                        lambda: self._publish(log, share)
                    ),
                )
            )

    @property
    def publishing(self) -> bool:
        """Whether a thread still publishes."""
        return any(thread.is_alive() for thread in self._publishers)

    def stop(self) -> None:
        """Publish nothing more; the reader goes on until the channel ends."""
        self._stopping.set()
        for hold in self._holds:
            hold.opened.set()

    def join(self, timeout: float) -> None:
        """
        Wait until every thread has ended; close the bus before.

        A thread that is still there after *timeout* seconds is noted as a failure.
        """
        threads = [*self._publishers, *self._readers]
        alive = join_all(threads, Deadline.after(timeout))
        self.journal.failures += [f"thread {name} did not end" for name in alive]

    def _publish(self, log: PublisherLog, share: int) -> None:
        done = 0
        for hold in self._holds:
            # Rounded up, so that what a hold waits for can happen at all.
            done = self._publish_range(log, done, ceil(share * hold.share))
            while hold.trickle and done < share:
                if hold.opened.wait(TRICKLE):
                    break
                done = self._publish_range(log, done, done + 1)
            hold.opened.wait()
        self._publish_range(log, done, share)

    def _publish_range(self, log: PublisherLog, first: int, end: int) -> int:
        """Publish the events from *first* on and return *end*, or *first* if greater."""
        publish, topic = self._bus.publish_envelope, self._topic
        clock = time.perf_counter
        accepted, calls, stopping = log.accepted, log.calls, self._stopping.is_set
        aggregates = self._aggregates
        for number in range(first, end):
            envelope = Envelope(
                aggregates[number % AGGREGATES],
                "OrderCreated",
                1,
                {"order": number, "customer": "customer-4711", "total": 4999},
            )
            while not stopping():
                called = clock()
                try:
                    accepted.append(publish(topic, envelope))
                except BackendBusy:
                    log.waited += 1
                else:
                    break
                finally:
                    calls.append(clock() - called)
            else:
                return number
        return max(first, end)

    def _read(self) -> None:
        log, clock = self.journal.reader, time.perf_counter
        get_many = self._bus.get_publish_result_channel().get_many
        while True:
            try:
                results = get_many(BATCH)
            except ResultChannelClosed:
                return
            log.ended_at = clock()
            log.latencies.extend([result.latency for result in results])
            log.acked += [r.event_id for r in results if r.error is None]
            log.repeats += sum([r.duplicate for r in results])
            for result in results:
                if result.error is None:
                    continue
                log.codes[result.error.code] += 1
                rejected = result.outcome is Outcome.REJECTED
                (log.rejected if rejected else log.unknown).append(result.event_id)

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BusClosed as error:
            # Whoever waits for room when the run is ended early gets this.
            if not self._stopping.is_set():
                self._fail(str(error))
        except EventBusError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - shown with the books
            self._fail(repr(error))

    def _fail(self, text: str) -> None:
        name = threading.current_thread().name
        self.journal.failures.append(f"thread {name}: {text}")
        self.stop()
