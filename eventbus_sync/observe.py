"""
What a running bus shows: counters, health, and the callbacks that users register.

User code runs on one thread, ``{bus}-callbacks``, fed through a bounded queue. Neither
the poll thread nor the event loop ever runs it, nor a logging handler.
"""

import logging
import threading
import time

from collections import deque
from collections.abc import Callable, Sequence

import attrs

from eventbus_sync._threads import Deadline, spawn
from eventbus_sync.errors import (
    AuthenticationFailed,
    ConfigError,
    EventBusError,
    ResultsDropped,
)
from eventbus_sync.results import PublishResult


logger = logging.getLogger("eventbus_sync")

PublishCallback = Callable[[PublishResult], object]
ErrorHandler = Callable[[EventBusError], object]
ReconnectCallback = Callable[[], object]

#: How many results, errors and log lines may wait for the callback thread.
MAX_PENDING = 100_000
#: Seconds in which a callback thread without a callback ends.
IDLE_GRACE = 0.5
#: Seconds between two log lines about dropped results.
DROP_LOG_INTERVAL = 5.0
#: What no waiting mends: the log has it too, where it comes later in an outage.
LASTING = (AuthenticationFailed, ConfigError)


@attrs.frozen(slots=True, kw_only=True)
class Stats:
    """
    One consistent snapshot of a bus in this process.

    In every snapshot ``accepted == acked + rejected + unknown + in_flight`` and
    ``acked + rejected + unknown == queued + taken + dropped + returned``. An event is
    settled and inserted into the channel in one step, so none is ever between.

    Attributes:
        accepted: publishes that returned (or were interrupted after acceptance).
        acked, rejected, unknown: settled events by outcome.
        in_flight: accepted and not settled yet.
        in_flight_bytes: their bytes, headers included.
        oldest_age: seconds since the oldest event in flight was accepted; 0.0 if none.
        queued: results in the channel that nobody took yet.
        taken: results that a reader took.
        dropped: results that found the channel full.
        returned: outcomes that ``publish_envelope_sync`` returned.
        capacity: of the channel.
        late_outcomes: second outcomes of a settled event, ignored.
        callbacks_dropped: results and errors that the callback queue had no room for.
        callback_errors: exceptions that callbacks raised.
    """

    accepted: int = 0
    acked: int = 0
    rejected: int = 0
    unknown: int = 0
    in_flight: int = 0
    in_flight_bytes: int = 0
    oldest_age: float = 0.0
    queued: int = 0
    taken: int = 0
    dropped: int = 0
    returned: int = 0
    capacity: int = 0
    late_outcomes: int = 0
    callbacks_dropped: int = 0
    callback_errors: int = 0

    @property
    def balanced(self) -> bool:
        """Whether both equations of promise 2 hold."""
        settled = self.acked + self.rejected + self.unknown
        return (
            self.accepted == settled + self.in_flight
            and settled == self.queued + self.taken + self.dropped + self.returned
        )


@attrs.frozen(slots=True, kw_only=True)
class Health:
    """
    What is known about the connection, measured and not assumed.

    Attributes:
        state: "new", "running", "draining" or "closed".
        connected: whether the broker answered last; None before the first answer.
        reconnects: how often the connection came back.
        last_error: the last connection error or failure, else None.
        last_error_age: seconds since then; None without an error.
        oldest_age: seconds since the oldest event in flight was accepted.
    """

    state: str
    connected: bool | None = None
    reconnects: int = 0
    last_error: EventBusError | None = None
    last_error_age: float | None = None
    oldest_age: float = 0.0


class Callbacks:
    """What the user registered. Survives a fork; the thread that runs it does not."""

    def __init__(self) -> None:
        self.on_publish: list[PublishCallback] = []
        self.on_reconnect: list[ReconnectCallback] = []
        self.on_error: ErrorHandler | None = None


class Observer:
    """
    Connection state, error reports, and the callback thread of one running bus.

    Every method but ``start`` and ``stop`` may be called from any thread of ours: it
    takes one lock for a moment, runs no user code, and never raises.
    """

    def __init__(self, name: str, callbacks: Callbacks) -> None:
        self._name = name
        self._callbacks = callbacks
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._jobs: deque[tuple[int, Callable[[], None]]] = deque()
        self._pending = 0
        self._stopping = False
        # Set when close() could not wait any longer: no further callback starts.
        self._abandoned = False
        self._unlogged_drops = 0
        self._drops_logged_at = float("-inf")
        self.callbacks_dropped = 0
        self.callback_errors = 0
        self._connected: bool | None = None
        self._connections = 0
        self._disconnected_at = 0.0
        # Whether the log has a reason of this outage that no waiting mends.
        self._lasting_logged = False
        self._last_error: EventBusError | None = None
        self._last_error_at = 0.0

    # -- what the rest of the bus tells ---------------------------------------------

    def results(self, results: Sequence[PublishResult], dropped: int) -> None:
        """Pass results to the publish callbacks, and report dropped ones."""
        if dropped:
            self._note_drops(dropped)
        if self._callbacks.on_publish and results:
            self._enqueue(len(results), lambda: self._run_publish(results))

    def connected(self) -> None:
        """Note that the broker answers; the log has the end of an outage."""
        with self._lock:
            if self._connected:
                return
            was, self._connected = self._connected, True
            self._connections += 1
            again = self._connections > 1
            lasted = time.monotonic() - self._disconnected_at
        if was is False:
            what = "connected again" if again else "connected"
            self.log(logging.INFO, f"{what} after {lasted:.1f} s")
        if again:
            self._enqueue(1, self._run_reconnect)

    def disconnected(self, error: EventBusError) -> None:
        """
        Note that the broker is out of reach, which is told again and again.

        The log has it once for each outage, of every back end: the error handler may
        not be set, and a bus that never connects must not be silent. A refused login
        that shows only later in the outage is news, too.
        """
        lasting = isinstance(error, LASTING)
        with self._lock:
            news = self._connected is not False
            if news:
                self._connected = False
                self._disconnected_at = time.monotonic()
                self._lasting_logged = False
            if lasting and not self._lasting_logged:
                news = self._lasting_logged = True
        if news:
            self.log(logging.WARNING, f"not connected: {error}")
        self.report(error)

    def report(self, error: EventBusError) -> None:
        """Remember an error for ``health()`` and pass it to the error handler."""
        with self._lock:
            self._last_error = error
            self._last_error_at = time.monotonic()
        self._enqueue(1, lambda: self._run_error(error))

    def log(self, level: int, text: str) -> None:
        """Log from the callback thread: handlers may block, the poll thread may not."""
        if logger.isEnabledFor(level):
            self._enqueue(1, lambda: logger.log(level, "%s: %s", self._name, text))

    def connection(self) -> tuple[bool | None, int, EventBusError | None, float | None]:
        """Return connected, reconnects, the last error and its age in seconds."""
        with self._lock:
            age = None
            if self._last_error is not None:
                age = time.monotonic() - self._last_error_at
            reconnects = max(0, self._connections - 1)
            return self._connected, reconnects, self._last_error, age

    def _note_drops(self, dropped: int) -> None:
        now = time.monotonic()
        with self._lock:
            self._unlogged_drops += dropped
            if now - self._drops_logged_at < DROP_LOG_INTERVAL:
                return
            self._drops_logged_at = now
        self._say_drops()

    def _say_drops(self) -> None:
        """Log and report the drops that were not said yet."""
        with self._lock:
            count, self._unlogged_drops = self._unlogged_drops, 0
        if not count:
            return
        text = (
            f"dropped {count} results: the result channel is full; read it faster, "
            'enlarge result_capacity, or set overflow="reserve"'
        )
        self.log(logging.WARNING, text)
        self.report(ResultsDropped(text))

    def _enqueue(self, weight: int, job: Callable[[], None]) -> None:
        with self._lock:
            if self._stopping or self._pending + weight > MAX_PENDING:
                self.callbacks_dropped += weight
                return
            self._pending += weight
            self._jobs.append((weight, job))
            self._arrived.notify()

    # -- the callback thread ---------------------------------------------------------

    def start(self) -> None:
        """Start the callback thread."""
        self._thread = spawn(f"{self._name}-callbacks", self._run)

    def in_callback(self) -> bool:
        """Return whether the caller is a callback."""
        return threading.current_thread() is self._thread

    def stop(self, deadline: Deadline) -> None:
        """Run what is pending until *deadline*, then end the thread."""
        self._say_drops()
        with self._lock:
            self._stopping = True
            self._arrived.notify()
        if self._thread is not None:
            # A thread that runs no callback ends at once, even when no time is left.
            grace = 0.0 if self._pending else IDLE_GRACE
            self._thread.join(max(deadline.remaining(), grace))
            if self._thread.is_alive():
                self._abandoned = True
                with self._lock:
                    # The callback that runs now cannot be stopped; no other starts.
                    self.callbacks_dropped += self._pending
                    self._jobs.clear()
                    self._pending = 0
                logger.warning("%s: a callback still runs after close", self._name)

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._jobs:
                    if self._stopping:
                        return
                    self._arrived.wait()
                weight, job = self._jobs.popleft()
            self._guarded(job)
            with self._lock:
                self._pending = max(0, self._pending - weight)

    def _run_publish(self, results: Sequence[PublishResult]) -> None:
        for callback in tuple(self._callbacks.on_publish):
            for result in results:
                if self._abandoned:
                    return
                self._guarded(lambda: callback(result))  # noqa: B023 - called at once

    def _run_reconnect(self) -> None:
        for callback in tuple(self._callbacks.on_reconnect):
            self._guarded(callback)

    def _run_error(self, error: EventBusError) -> None:
        handler = self._callbacks.on_error
        if handler is not None:
            self._guarded(lambda: handler(error))

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException:  # sys.exit() in a callback must not end this thread
            self.callback_errors += 1
            logger.exception("%s: a callback raised; nothing else changes", self._name)
