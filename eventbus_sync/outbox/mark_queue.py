"""Marks that wait for the database, the first first."""

from collections import deque

from eventbus_sync.outbox.record import Mark


class MarkQueue(deque[Mark]):
    """
    In the order in which things happened. Not thread-safe.

    So a row that failed is marked before, or together with, those after it that are
    given back.
    """

    def take(self, limit: int | None = None) -> list[Mark]:
        """Take out and return the first *limit*, all with None."""
        count = len(self) if limit is None else min(limit, len(self))
        return [self.popleft() for _ in range(count)]

    def put_last(self, mark: Mark) -> None:
        """
        Let all others go before *mark*, which is in here.

        What else is to be marked of its aggregate stays behind it, in its order.
        """
        aggregate = mark.record.aggregate_id
        marks = self.take()
        self.extend(one for one in marks if one.record.aggregate_id != aggregate)
        self.extend(one for one in marks if one.record.aggregate_id == aggregate)
