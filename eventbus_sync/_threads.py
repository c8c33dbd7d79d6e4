"""Threads and time: named daemon threads, and one deadline for a whole operation."""

import threading
import time
import weakref

from collections.abc import Callable, Iterable


class Deadline:
    """
    A moment on the monotonic clock which is handed down a call chain.

    Every wait takes what is left of it, so that "at most N seconds" holds for the
    operation as a whole, however many waits it consists of.
    """

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the deadline *seconds* from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def expired(self) -> bool:
        """Return whether nothing is left."""
        return time.monotonic() >= self.at


class WaitList:
    """
    Threads that wait for a change of what some lock guards.

    Not a ``threading.Condition``: that waits in Python code, where an exception from
    outside (Ctrl-C, Celery's soft time limit) may leave its lock held for ever, or
    release it under another thread. Here a thread enlists under the lock, releases
    it, and waits for its ticket::

        ticket = None
        while True:
            with lock:
                waiting.leave_locked(ticket)
                if what_it_waits_for:
                    return
                ticket = waiting.enlist_locked()
            ticket.acquire(timeout=seconds)
    """

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: set[threading.Lock] = set()

    def enlist_locked(self) -> threading.Lock:
        """Return a ticket to ``acquire(timeout=…)`` after the lock was released."""
        ticket = threading.Lock()
        ticket.acquire()
        self._tickets.add(ticket)
        return ticket

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._tickets)

    def leave_locked(self, ticket: "threading.Lock | None") -> None:
        """Forget *ticket*, so that those of threads that gave up do not pile up."""
        if ticket is not None:
            self._tickets.discard(ticket)

    def wake_all_locked(self) -> None:
        """Wake everybody; they look again for what they wait for."""
        # First released, then forgotten: who is interrupted in between leaves tickets
        # that are woken once more, but none that nobody wakes.
        for ticket in tuple(self._tickets):
            if ticket.locked():
                ticket.release()
            self._tickets.discard(ticket)


#: Threads of our executors, which end after the exit hook and not before.
own_workers: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


def spawn(name: str, target: Callable[[], object]) -> threading.Thread:
    """Start and return a daemon thread, so that no thread of ours keeps a process."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def join_all(threads: Iterable[threading.Thread], deadline: Deadline) -> list[str]:
    """Join within one deadline and return the names of those still alive."""
    alive = []
    for thread in threads:
        thread.join(deadline.remaining())
        if thread.is_alive():
            alive.append(thread.name)
    return alive
