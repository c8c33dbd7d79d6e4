"""
From publishing threads to the loop: two deques and one wake-up per burst.
"""

import asyncio
import contextlib

from collections import deque

from eventbus_sync.backends.base import OutgoingMessage
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.errors import BusClosed


class HandOver:
    """
    What waits to be sent. ``put`` and ``put_plain`` may be called from any thread, the
    rest on the loop thread only.

    Attributes:
        events: records that the loop has not taken over yet, oldest first.
        plain: messages that nobody answers.
    """

    def __init__(self) -> None:
        self.events: deque[Record] = deque()
        self.plain: deque[OutgoingMessage] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = asyncio.Event()
        self._armed = False
        self._closed = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake *loop* from now on; called before anything is put."""
        self._loop = loop

    def put(self, record: Record) -> None:
        """
        Append *record* and wake the loop.

        Raises:
            BusClosed: nobody will take it any more; it is not appended.
        """
        self.events.append(record)
        if self._closed:
            self._take_back(record)
        self._wake_loop()

    def put_plain(self, message: OutgoingMessage) -> None:
        """Append a message that may be lost, and wake the loop."""
        self.plain.append(message)
        self._wake_loop()

    def _take_back(self, record: Record) -> None:
        # Whoever closed has either taken it, and settles it, or never will.
        try:
            self.events.remove(record)
        except ValueError:
            return
        raise BusClosed

    def _wake_loop(self) -> None:
        # The flag saves the wake-up (a system call) while one is under way. It is
        # cleared before the deques are drained, so what was appended before that is
        # seen, and what comes later wakes again.
        if self._armed or self._closed:
            return
        self._armed = True
        assert self._loop is not None  # noqa: S101 - attached before anything is put
        with contextlib.suppress(RuntimeError):  # it has just ended; see close()
            self._loop.call_soon_threadsafe(self.look)

    # -- on the loop thread --------------------------------------------------------------

    def look(self) -> None:
        """
        Let the waiting coroutine look again.

        Called a few times a second besides: an exception injected into a publishing
        thread (Ctrl-C) may have armed the flag and not woken us.
        """
        self._armed = False
        if self.events or self.plain:
            self._arrived.set()

    def wake(self) -> None:
        """End ``wait``, whether anything has come or not."""
        self._arrived.set()

    async def wait(self) -> None:
        """Return when something may have come since the last call."""
        await self._arrived.wait()
        self._arrived.clear()

    def take_overdue(self, now: float) -> list[Record]:
        """Take out what is past its deadline already: no server was in reach."""
        overdue = []
        while self.events and self.events[0].deadline <= now:
            overdue.append(self.events.popleft())
        return overdue

    def close(self) -> list[Record]:
        """Refuse what comes from now on, and return what came before."""
        self._closed = True
        left = []
        while self.events:
            left.append(self.events.popleft())
        return left
