"""The line that moves while the outbox works, and the extremes that it showed."""

import time

from collections.abc import Callable

from eventbus_sync._threads import Deadline
from eventbus_sync.demo.faults import Schedule
from eventbus_sync.demo.outbox.orders import Writers
from eventbus_sync.demo.progress import Progress
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay, OutboxStats


#: Seconds between two looks.
LOOK = 0.1


class Watch:
    """
    Looks at a run again and again, and shows it.

    Args:
        name: of the broker.
        outbox, relay, writers, schedule: what to look at.
        progress: where to show it.
    """

    def __init__(  # noqa: PLR0913 - what there is to be looked at
        self,
        name: str,
        outbox: SqlAlchemyOutbox,
        relay: OutboxRelay,
        writers: Writers,
        schedule: Schedule,
        progress: Progress,
    ) -> None:
        #: The longest that a row was seen to wait, and the most that waited.
        self.oldest, self.most = 0.0, 0
        self._name = name
        self._outbox = outbox
        self._relay = relay
        self._writers = writers
        self._schedule = schedule
        self._progress = progress

    def until_written(self, patience: float) -> bool:
        """
        Return when the last transaction has ended, and the broker is whole again.

        Args:
            patience: seconds after which it is False, if nothing goes on meanwhile.
        """
        return self._until(
            lambda _: not self._writers.writing and self._schedule.done, patience
        )

    def until_published(self, patience: float) -> bool:
        """Return when no row is pending; False after *patience* seconds of nothing."""
        return self._until(lambda rows: not rows.pending, patience)

    def _until(self, done: Callable[[OutboxStats], bool], patience: float) -> bool:
        due, before = Deadline.after(patience), -1
        while True:
            rows = self._outbox.stats()
            self.oldest = max(self.oldest, rows.oldest_age)
            self.most = max(self.most, rows.pending)
            self._show(rows)
            if done(rows):
                return True
            so_far = self._writers.journal.committed + self._relay.stats().published
            if so_far != before:
                due, before = Deadline.after(patience), so_far
            elif due.expired():
                return False
            time.sleep(LOOK)

    def _show(self, rows: OutboxStats) -> None:
        journal = self._writers.journal
        parts = [
            f"{self._name}  {journal.committed:,} committed",
            self._schedule.now,
            f"{self._relay.stats().published:,} published",
            f"{rows.pending:,} pending",
            f"oldest {rows.oldest_age:.1f} s",
            f"{journal.rolled_back:,} rolled back",
        ]
        self._progress.line(parts, self._schedule.now)
