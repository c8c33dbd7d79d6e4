"""One run of a relay: its threads, from start to stop."""

import threading

from collections.abc import Callable
from typing import Final

from eventbus_sync._threads import Deadline, join_all, spawn
from eventbus_sync.bus import EventBus
from eventbus_sync.errors import BusClosed, EventBusError, ResultChannelClosed
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.claiming import Claimer
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.lines import Counts
from eventbus_sync.outbox.marking import Marker
from eventbus_sync.outbox.publishing import OVERDUE, Publisher
from eventbus_sync.outbox.reader import take
from eventbus_sync.outbox.retry import RetryPolicy
from eventbus_sync.outbox.settings import Settings
from eventbus_sync.outbox.store import OutboxStore
from eventbus_sync.outbox.topics import Topics
from eventbus_sync.outbox.trouble import Trouble
from eventbus_sync.results import PublishResultChannel


#: Results of earlier runs thrown away at once.
_BATCH: Final = 1000
#: Seconds between two looks of the results thread while something is in flight.
_LOOK: Final = 0.1
#: Seconds between two looks of it while nothing is.
_IDLE: Final = 60.0
#: Seconds after an exception that nobody foresaw.
RESTART_PAUSE: Final = 0.5
#: Seconds that the last marks get when no time is left.
_GRACE: Final = 2.0


class Run:
    """
    What exists between a ``start`` and a ``stop``; every start makes a new one.

    Three threads: ``{name}-claim`` claims and keeps leases, ``{name}-results`` takes
    outcomes and publishes what may follow, ``{name}-marks`` writes to the database.
    """

    def __init__(  # noqa: PLR0913 - the parts of a relay
        self,
        name: str,
        store: OutboxStore,
        bus: EventBus,
        channel: PublishResultChannel,
        settings: Settings,
        policy: RetryPolicy,
        counts: Counts,
        trouble: Trouble,
    ) -> None:
        self._name = name
        self._channel = channel
        self._trouble = trouble
        self.stopping = False
        self.stop_asked = False
        self._abandoned = False
        #: Why this run ended by itself: its bus was closed.
        self.failure: BusClosed | None = None
        self.breaker = Breaker()
        self.held = HeldRows(
            settings.ordering, settings.on_dead, settings.margin, counts
        )
        topics = Topics(settings.delivery_timeout + OVERDUE, settings.batch_size)
        self.publisher = Publisher(
            bus, self.held, self.breaker, policy, trouble, topics
        )
        self._marker = Marker(store, self.held, trouble, settings.batch_size)
        self.claimer = Claimer(
            store,
            bus,
            self.held,
            self.breaker,
            self.publisher,
            trouble,
            settings,
            lambda: self.stopping,
        )
        self._claims: threading.Thread | None = None
        self._results: threading.Thread | None = None
        self._marks: threading.Thread | None = None
        # Loops that can still make marks: when both have ended, the last marks are due.
        self._working = 0

    def start(self) -> None:
        """Start the threads."""
        # Outcomes of an earlier run belong to leases that ended: such a row may be
        # claimed again, and its old outcome must not count as the new one's.
        while self._channel.qsize():
            take(self._channel, _BATCH, timeout=0)
        self._working = 2
        try:
            self._marks = self._spawn("marks", self._mark)
            self._results = self._spawn("results", self._worker(self._take_results))
            self._claims = self._spawn("claim", self._worker(self._claim))
        except BaseException:
            self.abandon()  # the system has no more threads: leave none behind
            raise

    @property
    def alive(self) -> bool:
        """Whether a thread is still there."""
        return any(thread.is_alive() for thread in self._threads())

    def stop(self, deadline: Deadline) -> bool:
        """
        End: claim no more, wait for what is in flight, mark, give the rest back.

        Rows that are in flight at *deadline* keep their lease until it ends by itself:
        nobody may try them while they may still be stored.

        Returns:
            Whether everything in flight had its outcome, and was marked.
        """
        self.stop_asked = True
        self._begin_stop()
        try:
            alive = join_all(self._threads(), deadline)
            if alive:
                self.abandon()
                alive = join_all(self._threads(), Deadline.after(_GRACE))
        except BaseException:
            self.abandon()  # interrupted: at once
            raise
        return not alive and not self.held.held

    def abandon(self) -> None:
        """Wait for nothing any more."""
        self._begin_stop()
        self._abandoned = True
        self.publisher.deaf = True
        self.held.wake()

    def join(self, timeout: float) -> bool:
        """Wait for the end at most *timeout* seconds; return whether it came."""
        return not join_all(self._threads(), Deadline.after(timeout))

    def drain(self, deadline: Deadline) -> bool:
        """Wait until nothing is due, or *deadline*."""
        target = self.claimer.want_round()
        return (
            self.held.wait(
                lambda: self.claimer.quiet_round >= target or self.stopping, deadline
            )
            and not self.stopping
        )

    # -- threads ----------------------------------------------------------------------

    def _threads(self) -> list[threading.Thread]:
        known = (self._claims, self._results, self._marks)
        return [thread for thread in known if thread is not None]

    def _begin_stop(self) -> None:
        # In this order: once this is seen to be stopping, nothing more goes out.
        self.held.stop()
        self.stopping = True
        self.claimer.nudge()

    def _spawn(self, name: str, loop: Callable[[], None]) -> threading.Thread:
        return spawn(f"{self._name}-{name}", lambda: self._keep_on(loop))

    def _worker(self, loop: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            loop()
            with self.held.lock:
                self._working -= 1
            self.held.wake()

        return work

    def _keep_on(self, loop: Callable[[], None]) -> None:
        """Run *loop* until it returns; whatever it raises starts it anew."""
        while True:
            try:
                loop()
            except (BusClosed, ResultChannelClosed) as error:
                self._bus_is_closed(error)
            except Exception as error:  # noqa: BLE001 - nothing may end a relay in silence
                self._trouble.note(
                    "a thread failed and goes on", error, unforeseen=True
                )
            else:
                return
            if self._abandoned:
                return
            self.held.wait(lambda: self._abandoned, Deadline.after(RESTART_PAUSE))

    def _bus_is_closed(self, error: EventBusError) -> None:
        if self.failure is None:
            self.failure = BusClosed("the relay's bus was closed, so the relay ended")
            if not self.stopping:
                self._trouble.note("the relay ends", error)
        self._begin_stop()
        # The bus has settled whatever it had; what was not read will never come.
        if isinstance(error, ResultChannelClosed):
            self.publisher.sweep(-1.0)

    def _flown(self) -> bool:
        """Whether nothing is in flight any more, now that nothing new goes out."""
        return self.stopping and not self.held.in_flight

    def _claim(self) -> None:
        while not self.stopping:
            self.claimer.step()
        # Again and again: a publish that was under way may put its row back.
        while not self._flown() and not self._abandoned:
            self.held.release_waiting()
            self.held.wait(
                lambda: self._flown() or self._abandoned, Deadline.after(_LOOK)
            )
        self.held.release_waiting()

    def _take_results(self) -> None:
        held = self.held
        while not self._flown() and not self._abandoned:
            if not held.in_flight:
                held.wait(
                    lambda: held.in_flight > 0 or self.stopping, Deadline.after(_IDLE)
                )
                continue
            if self.publisher.receive(_LOOK) or held.has_ready:
                self.publisher.pump()

    def _mark(self) -> None:
        self._marker.loop(lambda: not self._working, lambda: self._abandoned)
