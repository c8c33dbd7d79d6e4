"""The work of a soak: threads that publish in bursts, one that waits, one that reads."""

import random
import threading
import time

from collections.abc import Callable

from eventbus_sync._threads import Deadline, join_all, spawn
from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import (
    BackendBusy,
    BusClosed,
    EventBusError,
    ResultChannelClosed,
)
from eventbus_sync.soak.ledger import Ledger
from eventbus_sync.soak.plan import Ground, Plan
from eventbus_sync.soak.spread import Spread


#: Aggregates that all threads share: so few that a thread has several events of each on
#: its way when something breaks, and order has something to get wrong.
AGGREGATES = 10
#: How many events come at once, and how often.
_BURSTS, _OFTEN = (1, 10, 100, 1000), (40, 40, 15, 5)
#: Seconds by which a publisher may be behind and still catch up.
_BEHIND = 2.0
#: Every so many events one is large.
_LARGE_EVERY, _LARGE = 197, b'"' + b"x" * 20_000 + b'"'
#: Most results that a reader takes at once, and that a slow reader takes each second.
_BATCH, _SLOWLY = 5000, 200
#: Seconds between two looks of a reader that is told to pause.
_LOOK = 0.05


class Workload:
    """
    Publishes until it is stopped, and notes in the ledger what became of it.

    The last publisher uses ``publish_envelope_sync`` and reads its own results.

    Attributes:
        ledger: the books.
        call: how long ``publish_envelope`` took, by thread.
        waited: calls that found no room and were made again, by thread.
        failures: what ended a thread early, in words.
        reading: "" for a reader that reads, or a kind of the lane "reader".
    """

    def __init__(self, ground: Ground, plan: Plan) -> None:
        publishers = plan.threads + 1
        self.ledger = Ledger(publishers, AGGREGATES)
        self.call = [Spread() for _ in range(publishers)]
        self.waited = [0] * publishers
        self.failures: list[str] = []
        self.reading = ""
        self._ground = ground
        self._plan = plan
        self._stopping = threading.Event()
        self._publishers: list[threading.Thread] = []
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Start every thread."""
        self._readers.append(spawn("soak-reader", lambda: self._guarded(self._read)))
        for number in range(self._plan.threads):
            self._publishers.append(
                spawn(
                    f"soak-publisher-{number}",
                    lambda n=number: self._guarded(lambda: self._publish(n)),  # type: ignore[misc]
                )
            )
        self._publishers.append(
            spawn("soak-waiter", lambda: self._guarded(self._publish_and_wait))
        )

    @property
    def publishing(self) -> bool:
        """Whether a thread still publishes."""
        return any(thread.is_alive() for thread in self._publishers)

    def stop(self) -> None:
        """Publish nothing more; the reader goes on until the channel ends."""
        self._stopping.set()
        self.reading = ""

    def join(self, timeout: float) -> None:
        """Wait until every thread has ended; close the bus before."""
        threads = [*self._publishers, *self._readers]
        alive = join_all(threads, Deadline.after(timeout))
        self.failures += [f"thread {name} did not end" for name in alive]

    # -- publishers --------------------------------------------------------------------

    def _publish(self, thread: int) -> None:
        plan, ledger = self._plan, self.ledger
        source = random.Random(f"{plan.seed}/publisher/{thread}")  # noqa: S311 - no secret
        bus, topic = self._ground.bus, self._ground.topic
        due, number = time.monotonic(), 0
        while True:
            (burst,) = source.choices(_BURSTS, _OFTEN)
            if plan.rate:
                due += burst * plan.threads / plan.rate
            for _ in range(burst):
                event = self._event(thread, number)
                if not self._until_accepted(
                    thread,
                    lambda: bus.publish_envelope(topic, event),  # noqa: B023
                ):
                    return
                number += 1
                ledger.accepted[thread] = number
            now = time.monotonic()
            due = max(due, now - _BEHIND)
            if self._stopping.wait(max(0.0, due - now)):
                return

    def _publish_and_wait(self) -> None:
        thread, number = self._plan.threads, 0
        bus, topic = self._ground.bus, self._ground.topic

        def publish() -> None:
            self.ledger.answered(bus.publish_envelope_sync(topic, event))

        while not self._stopping.wait(0.02):
            event = self._event(thread, number)
            if not self._until_accepted(thread, publish):
                return
            number += 1
            self.ledger.accepted[thread] = number

    def _until_accepted(self, thread: int, publish: Callable[[], object]) -> bool:
        """Return whether the event was accepted; it is not when the run has ended."""
        spread = self.call[thread]
        while not self._stopping.is_set():
            called = time.perf_counter()
            try:
                publish()
            except BackendBusy:
                self.waited[thread] += 1
            else:
                return True
            finally:
                spread.add(time.perf_counter() - called)
        return False

    def _event(self, thread: int, number: int) -> Envelope:
        return Envelope(
            f"order-{number % AGGREGATES}",
            "OrderChanged",
            1,
            b"%d" % number if number % _LARGE_EVERY else _LARGE,
            event_id=self.ledger.event_id(thread, number),
        )

    # -- the reader --------------------------------------------------------------------

    def _read(self) -> None:
        get_many = self._ground.bus.get_publish_result_channel().get_many
        answered = self.ledger.answered
        while True:
            batch = _BATCH
            if self.reading:
                time.sleep(_LOOK)
                if self.reading == "no reader":
                    continue
                batch = int(_SLOWLY * _LOOK)
            try:
                results = get_many(batch, timeout=_LOOK)
            except ResultChannelClosed:
                return
            for result in results:
                answered(result)

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BusClosed as error:
            if not self._stopping.is_set():
                self._fail(str(error))
        except EventBusError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - shown with the books
            self._fail(repr(error))

    def _fail(self, text: str) -> None:
        name = threading.current_thread().name
        self.failures.append(f"thread {name}: {text}")
        self.stop()
