"""Marks to the database: a batch at a time, while the next one gathers."""

import time

from collections.abc import Callable
from typing import Final

from eventbus_sync._threads import Deadline
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.record import Mark
from eventbus_sync.outbox.store import OutboxStore
from eventbus_sync.outbox.trouble import Trouble


#: Seconds for which marks gather while more outcomes are to come.
_GATHER: Final = 0.005
#: Seconds between two looks without anything to mark.
_IDLE: Final = 60.0
#: Seconds after the database failed: at first, and at most.
FIRST_BACKOFF: Final = 0.2
LONGEST_BACKOFF: Final = 2.0


class Marker:
    """
    Writes marks, and keeps those that the database does not take.

    A batch that fails is tried again in halves, down to single marks: one mark that the
    database will never take must not hold up all others. Nor is it kept for ever: when
    its lease has ended, and the database works otherwise, it is dropped, and its row
    is tried again.

    A thread of its own does this, so that neither a slow database holds up the next
    events of an aggregate, nor each of them costs a transaction.
    """

    def __init__(
        self, store: OutboxStore, held: HeldRows, trouble: Trouble, batch_size: int
    ) -> None:
        self._store = store
        self._held = held
        self._trouble = trouble
        self._batch_size = batch_size
        self._backoff = FIRST_BACKOFF
        # None: everything there is.
        self._limit: int | None = None

    def loop(self, finished: Callable[[], bool], abandoned: Callable[[], bool]) -> None:
        """
        Mark until *finished* and nothing is left, or *abandoned* and the database fails.

        Both are called under the lock of the rows held.
        """
        held = self._held
        while True:
            held.wait(
                lambda: held.to_mark > 0 or finished() or abandoned(),
                Deadline.after(_IDLE),
            )
            if held.to_mark:
                if held.in_flight and held.to_mark < self._batch_size:
                    time.sleep(_GATHER)
                if self._mark():
                    self._backoff = FIRST_BACKOFF
                    continue
                if abandoned():
                    return
                # What was not marked goes first, as soon as the database is back.
                held.wait(abandoned, Deadline.after(self._backoff))
                if self._limit == 1:
                    self._backoff = min(LONGEST_BACKOFF, self._backoff * 2)
            elif finished() or abandoned():
                return

    def _mark(self) -> bool:
        marks = self._held.take_marks(self._limit)
        try:
            moved = self._store.mark(marks)
        except BaseException as error:
            if not isinstance(error, Exception):
                self._held.not_marked(marks)
                raise
            self._trouble.note("the database did not take outcomes", error)
            if len(marks) == 1 and self._is_hopeless(marks[0]):
                self._held.give_up(marks[0])
                return True
            self._held.not_marked(marks)
            if len(marks) == 1:
                self._held.put_last(marks[0])
            self._limit = max(1, len(marks) // 2)
            return False
        self._held.marked(marks, moved)
        if self._limit is not None:
            # Not above what can be held at a time, so that the limit ends.
            self._limit *= 2
            if self._limit > 3 * self._batch_size:
                self._limit = None
        return True

    def _is_hopeless(self, mark: Mark) -> bool:
        """Return whether the lease of *mark* is over, and the database says so too."""
        if not self._held.is_over(mark):
            return False
        try:
            # In an outage marks are kept: most of them still count when it is over.
            return not self._store.renew([mark.record.lease], seconds=0.0)
        except Exception:  # noqa: BLE001 - it is away, or refuses this too
            return False
