"""
The breaker: while no broker can be reached, one event at a time is tried.

Without it an outage would take the whole backlog through its leases again and again.
"""

import threading
import time

from collections.abc import Callable
from typing import Final


#: So many events in a row that reached no broker open the breaker.
THRESHOLD: Final = 3
#: Seconds between two probes: at first, and at most.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 15.0


class Breaker:
    """
    Closed: everything goes out. Open: one probe at a time. Thread-safe.

    Opens when the bus says that it is not connected, or after ``THRESHOLD`` events in a
    row that reached no broker. Closes at the first acknowledgement; and if it was
    opened by a lost connection, when that is back, so that it does not stay open for as
    long as there is nothing to try.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open = False
        self._in_a_row = 0
        self._pause = FIRST_PAUSE
        self._probe_at = 0.0
        # So that a connection which came back is probed at once, but only once.
        self._was_disconnected = False
        self._by_disconnection = False

    @property
    def is_open(self) -> bool:
        """Whether only probes may go out."""
        return self._open

    def acked(self) -> None:
        """A broker stored something: close."""
        with self._lock:
            self._close_locked()

    def answered(self) -> None:
        """A broker refused something: it is there, so the next probe may follow."""
        with self._lock:
            self._in_a_row = 0
            self._probe_at = self._clock()

    def unreachable(self) -> bool:
        """Note an event that reached no broker; return whether this opened."""
        with self._lock:
            self._in_a_row += 1
            return self._in_a_row >= THRESHOLD and self._open_locked()

    def disconnected(self) -> bool:
        """Note that the bus lost its broker; return whether this opened."""
        with self._lock:
            self._was_disconnected = True
            opened = self._open_locked()
            self._by_disconnection = self._by_disconnection or opened
            return opened

    def connected(self) -> None:
        """Note that the bus has its broker: close, if its loss is what opened."""
        with self._lock:
            if self._open and self._by_disconnection:
                self._close_locked()

    def may_probe(self, *, connected: bool | None) -> bool:
        """
        Return whether the next probe is due, and then the one after it comes later.

        Args:
            connected: what the bus says; when it is back, nobody waits for a pause.
        """
        with self._lock:
            now = self._clock()
            came_back = bool(connected) and self._was_disconnected
            if now < self._probe_at and not came_back:
                return False
            self._was_disconnected = not connected and self._was_disconnected
            self._probe_at = now + self._pause
            self._pause = min(LONGEST_PAUSE, self._pause * 2)
            return True

    def give_back_probe(self) -> None:
        """Note that there was nothing to try: the next event need not wait for long."""
        with self._lock:
            self._pause = FIRST_PAUSE
            self._probe_at = min(self._probe_at, self._clock() + FIRST_PAUSE)

    def _close_locked(self) -> None:
        self._open = False
        self._in_a_row = 0
        self._pause = FIRST_PAUSE
        self._was_disconnected = False
        self._by_disconnection = False

    def _open_locked(self) -> bool:
        if self._open:
            return False
        self._open = True
        self._pause = FIRST_PAUSE
        self._probe_at = self._clock() + self._pause
        return True
