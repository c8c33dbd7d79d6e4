"""A lock, and threads that wait for what it guards to change."""

import threading

from collections.abc import Callable

from eventbus_sync._threads import Deadline, WaitList


class Watched:
    """Base of what threads wait for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._changed = WaitList()

    def wait(self, check: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until *check*, called under the lock, is true; False at *deadline*."""
        ticket = None
        while True:
            with self.lock:
                self._changed.leave_locked(ticket)
                if check():
                    return True
                remaining = deadline.remaining()
                if remaining <= 0:
                    return False
                ticket = self._changed.enlist_locked()
            ticket.acquire(timeout=remaining)

    def wake(self) -> None:
        """Make those who wait look again."""
        with self.lock:
            self._changed.wake_all_locked()
