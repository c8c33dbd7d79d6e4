"""Threads and time: named daemon threads, and one deadline for a whole operation."""

import threading
import time

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
