"""
The running half of a bus: what exists between its first use and its close, once per
process. A forked child leaves its copy untouched and makes its own.
"""

import importlib
import logging
import os
import time

from collections.abc import Callable, Sequence

from eventbus_sync._event import InFlightEvent
from eventbus_sync._inflight import InFlight
from eventbus_sync._threads import Deadline, spawn
from eventbus_sync.backends.base import (
    Backend,
    MakesBackend,
    OutgoingMessage,
    Settlement,
    Sink,
)
from eventbus_sync.config import BusConfig, KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.errors import ConfigError, EventBusError
from eventbus_sync.observe import Callbacks, Observer, Stats
from eventbus_sync.results import PublishResultChannel


logger = logging.getLogger("eventbus_sync")

#: The part of close()'s time that is kept for stopping the back end, at most.
TEARDOWN_SECONDS = 2.0

#: Modules that were imported to their end.
_imported: set[str] = set()
#: Seconds until an import may be one that waits for the thread that waits for it.
_IMPORT_PATIENCE = 5.0


class Runtime:
    """
    In-flight table, back end and observer of one bus in one process.

    It is the ``Sink`` of its back end.
    """

    def __init__(
        self,
        config: BusConfig,
        channel: PublishResultChannel,
        callbacks: Callbacks,
        make_backend: Callable[[Sink], Backend],
    ) -> None:
        self.pid = os.getpid()
        self.config = config
        self.channel = channel
        self.observer = Observer(config.name, callbacks)
        reserve = config.overflow == "reserve"
        self.in_flight = InFlight(
            channel,
            max_events=config.max_in_flight,
            max_bytes=config.max_in_flight_bytes,
            delivery_timeout=config.delivery_timeout,
            reserve=reserve,
            on_results=self.observer.results,
        )
        channel._on_taken = self.in_flight.room_freed if reserve else None  # noqa: SLF001 - the bus's side of the channel
        self.backend = make_backend(self)
        self._backend_closing = False

    def start(self) -> None:
        """Start every thread there will ever be: none can start at process exit."""
        self.observer.start()
        self.backend.start()

    def accept(
        self, message: OutgoingMessage, event: InFlightEvent, deadline: Deadline
    ) -> None:
        """
        Register *event* and hand *message* over.

        Registered first, since the acknowledgement may come before ``send`` returns.

        Raises:
            BackendBusy, BusClosed: not accepted.
        """
        queue_delay = self.in_flight.register(event, deadline)
        try:
            self.backend.send(message, event, deadline)
        except EventBusError:
            # Settled meanwhile (the bus was closed under our feet)? Then the event
            # was accepted and has its outcome: two roads, no third.
            if self.in_flight.withdraw(event):
                raise
        if queue_delay:
            # Only now: who is interrupted here has published already.
            time.sleep(queue_delay)

    def close(self, deadline: Deadline) -> int:
        """
        Refuse new events, wait for outcomes, settle the rest as unknown, and stop.

        Returns:
            How many events had no outcome in time.
        """
        self.in_flight.close()
        total = deadline.remaining()
        teardown = min(TEARDOWN_SECONDS, total / 4)
        if not self._backend_closing:
            self.in_flight.wait_settled(Deadline(deadline.at - teardown))
        before = self.in_flight.counts()
        # A closer that is interrupted from here on leaves nothing to wait for.
        self._backend_closing = True
        self.backend.close(deadline)
        self.in_flight.abandon()
        self.observer.stop(deadline)
        after = self.in_flight.counts()
        return after.unknown + after.rejected - before.unknown - before.rejected

    def stats(self) -> Stats:
        """Return one consistent snapshot."""
        counts = self.in_flight.counts()
        return Stats(
            accepted=counts.accepted,
            acked=counts.acked,
            rejected=counts.rejected,
            unknown=counts.unknown,
            in_flight=counts.in_flight,
            in_flight_bytes=counts.in_flight_bytes,
            oldest_age=counts.oldest_age,
            queued=counts.queued,
            taken=counts.taken,
            dropped=counts.dropped,
            returned=counts.returned,
            capacity=self.channel.maxsize,
            late_outcomes=counts.late_outcomes,
            callbacks_dropped=self.observer.callbacks_dropped,
            callback_errors=self.observer.callback_errors,
        )

    # -- Sink: what the back end tells ----------------------------------------------

    def settle(self, chunk: Sequence[Settlement]) -> None:
        """Settle many deliveries; the first outcome of each counts."""
        self.in_flight.settle(chunk)

    def expire(self) -> None:
        """Settle as unknown what is overdue."""
        self.in_flight.expire()

    def oldest_at(self) -> float | None:
        """Return when the oldest event in flight was accepted."""
        return self.in_flight.oldest_at()

    def connected(self) -> None:
        """Note that the broker answers."""
        self.observer.connected()

    def disconnected(self, error: EventBusError) -> None:
        """Note that the broker is out of reach."""
        self.observer.disconnected(error)

    def report(self, error: EventBusError) -> None:
        """Pass on an error that belongs to no single event."""
        self.observer.report(error)

    def log(self, level: int, text: str) -> None:
        """Log from the callback thread."""
        self.observer.log(level, text)


def backend_for(config: BusConfig, sink: Sink) -> Backend:
    """
    Return the back end for *config*; its driver is imported here and nowhere else.

    Raises:
        ConfigError: the driver is not installed.
    """
    if isinstance(config, MakesBackend):
        return config.make_backend(sink)
    try:
        if isinstance(config, KafkaConfig):
            _import_apart("eventbus_sync.backends.kafka.backend")
            from eventbus_sync.backends.kafka.backend import KafkaBackend  # noqa: PLC0415 - lazy

            return KafkaBackend(config, sink)
        if isinstance(config, NatsConfig):
            _import_apart("eventbus_sync.backends.nats.backend")
            from eventbus_sync.backends.nats.backend import NatsBackend  # noqa: PLC0415 - lazy

            return NatsBackend(config, sink)
        # EventBus takes no other kind.
        assert isinstance(config, MemoryConfig)  # noqa: S101 - for the type checker
        from eventbus_sync.backends.memory import MemoryBackend  # noqa: PLC0415 - lazy

        return MemoryBackend(config, sink)
    except ImportError as exc:
        msg = (
            f"the driver for {type(config).__name__} cannot be imported ({exc}); "
            "run: pip install --force-reinstall eventbus-sync"
        )
        raise ConfigError(msg) from exc


def _import_apart(name: str) -> None:
    """
    Import a module on a thread of its own, where no exception from outside can land.

    Ctrl-C or a soft time limit in the middle of importing a driver may leave it
    half-imported for good: nats-py cannot be imported any more in that process.
    """
    if name in _imported:
        return
    failures: list[Exception] = []

    def load() -> None:
        try:
            importlib.import_module(name)
        except Exception as exc:  # noqa: BLE001 - raised below, on the caller's thread
            failures.append(exc)

    try:
        thread = spawn("eventbus-import", load)
    except RuntimeError:  # no thread can be had; those of the back end need some, too
        load()
    else:
        thread.join(_IMPORT_PATIENCE)
        if thread.is_alive():
            # Perhaps it waits for a lock that this thread holds, in the middle of an
            # import of its own. Here Python sees the circle, and says so.
            load()
    if failures:
        raise failures[0]
    _imported.add(name)
