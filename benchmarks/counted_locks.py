"""Locks that count; imported before anything that makes one."""

import _thread
import threading

from types import TracebackType
from typing import Final


#: How often each thread has acquired a lock that was made after ``install``.
acquired: Final[dict[int, int]] = {}


class CountedLock:
    """A ``threading.Lock`` that counts who acquires it."""

    __slots__ = ("_at_fork_reinit", "_lock", "locked", "release")

    def __init__(self) -> None:
        lock = self._lock = _thread.allocate_lock()
        self.release = lock.release
        self.locked = lock.locked
        self._at_fork_reinit = lock._at_fork_reinit  # type: ignore[attr-defined]  # noqa: SLF001 - what the standard library calls after a fork

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - the signature of locks
        """Acquire, counted."""
        me = _thread.get_ident()
        acquired[me] = acquired.get(me, 0) + 1
        return self._lock.acquire(blocking, timeout)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def install() -> None:
    """From now on ``threading.Lock()`` makes locks that count."""
    threading.Lock = CountedLock  # type: ignore[assignment]


def of_this_thread() -> int:
    """Return how often this thread has acquired a lock."""
    return acquired.get(_thread.get_ident(), 0)
