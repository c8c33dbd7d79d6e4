"""Rows that wait for an older transaction of the database to end: when to say so."""

import time

from collections.abc import Callable
from typing import Final

from eventbus_sync.outbox.store import OutboxStore
from eventbus_sync.outbox.trouble import logger


#: Seconds after which the first line is logged, and between two of them.
FIRST_LINE: Final = 5.0
NEXT_LINE: Final = 60.0


class HiddenRows:
    """
    Logs which transaction rows wait for, as long as no claim finds new ones.

    While there is traffic, the newest rows are always hidden for a moment; that no new
    row was claimed for seconds tells a transaction that somebody forgot.

    Args:
        store: who knows what blocks.
        name: of the relay, for the log.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: OutboxStore,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        self._say_at: float | None = None

    def gone(self) -> None:
        """Note that new rows were claimed, or that the whole table hides none."""
        self._say_at = None

    def seen(self) -> None:
        """
        Note that the whole table was seen and hides rows; log it now and then.

        Raises:
            StoreFailed: the database could not be asked.
        """
        now = self._clock()
        if self._say_at is None:
            self._say_at = now + FIRST_LINE
        if now < self._say_at:
            return
        self._say_at = now + NEXT_LINE
        stats = self._store.stats(settled=False)
        if stats.hidden:
            logger.warning(
                "%s: %s wait for the end of an older transaction of the database: %s",
                self._name,
                "1 row" if stats.hidden == 1 else f"{stats.hidden:,} rows",
                stats.blocked_by or "it is not known which",
            )
