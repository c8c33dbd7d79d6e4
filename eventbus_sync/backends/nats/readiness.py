"""
What ``start()`` waits for: the loop's verdict, read by other threads.
"""

import threading

from collections.abc import Callable

from eventbus_sync._threads import Deadline, WaitList
from eventbus_sync.errors import (
    AuthenticationFailed,
    BrokerUnreachable,
    BusClosed,
    ConfigError,
    EventBusError,
    StreamInvalid,
)


#: What waiting longer does not mend.
LASTING = (AuthenticationFailed, StreamInvalid, ConfigError)

# Who waits for less than connect_timeout hears of no attempt that failed.
_NO_ANSWER = "no answer so far; is a NATS server running there?"


class Readiness:
    """Whether events can be published, as the latest attempt showed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = WaitList()
        self._verdicts = 0
        self._ready = False
        # The latest verdict, and the latest word about the connection.
        self._verdict: EventBusError | None = None
        self._error: EventBusError | None = None
        self._closed = False

    def ready(self) -> None:
        """Events can be published."""
        with self._lock:
            self._ready, self._verdict = True, None
            self._verdicts += 1
            self._changed.wake_all_locked()

    def failed(self, error: EventBusError) -> None:
        """They cannot, or not as promised; somebody goes on trying."""
        with self._lock:
            self._ready, self._verdict, self._error = False, error, error
            self._verdicts += 1
            self._changed.wake_all_locked()

    def lost(self, error: EventBusError) -> None:
        """There is no connection, and why; other servers may not have been asked."""
        with self._lock:
            self._ready, self._error = False, error

    def close(self) -> None:
        """Nobody tries any more."""
        with self._lock:
            self._closed = True
            self._changed.wake_all_locked()

    def wait(self, deadline: Deadline, look: Callable[[], None], where: str) -> None:
        """
        Return once events can be published.

        Args:
            deadline: when to stop waiting.
            look: asks for a new attempt, since an old error may be mended by now.
            where: the servers, for the message.

        Raises:
            AuthenticationFailed, StreamInvalid, ConfigError: found out from now on.
            BrokerUnreachable: nothing good came in time; the last error is its cause.
            BusClosed: the bus was closed meanwhile.
        """
        with self._lock:
            if self._ready:
                return
            seen = self._verdicts
        look()
        ticket = None
        while True:
            with self._lock:
                self._changed.leave_locked(ticket)
                if self._closed:
                    raise BusClosed
                if self._ready:
                    return
                if self._verdicts > seen and isinstance(self._verdict, LASTING):
                    # A new one each time: it is raised in many threads.
                    raise type(self._verdict)(str(self._verdict)) from self._verdict
                if deadline.expired():
                    reason = self._error or _NO_ANSWER
                    msg = f"no NATS server was ready in time at {where}: {reason}"
                    raise BrokerUnreachable(msg) from self._error
                ticket = self._changed.enlist_locked()
            ticket.acquire(timeout=deadline.remaining())
