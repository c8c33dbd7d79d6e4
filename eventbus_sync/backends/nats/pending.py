"""
Handed over and not yet settled: the loop's own table, with its deadlines.

Records are kept in the order in which they were handed over, which is the order in
which they go out again after a reconnect. All of it lives on the loop thread.
"""

from collections.abc import Iterable, Iterator

from eventbus_sync.backends.nats.parser import NumberedAck
from eventbus_sync.backends.nats.record import Record


class Pending:
    """Every record that was taken over and not settled, oldest first."""

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}
        self._next_token = 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def add(self, record: Record) -> None:
        """Give *record* its token and its place, behind all others."""
        record.token = self._next_token
        self._next_token += 1
        self._records[record.token] = record

    def get(self, token: int) -> Record | None:
        """Return the record with *token*, or None if it is settled."""
        return self._records.get(token)

    def pop(self, token: int) -> Record | None:
        """Take the record with *token* out for good; None if it is settled."""
        return self._records.pop(token, None)

    def take(self, acks: Iterable[NumberedAck]) -> list[tuple[Record, bytes]]:
        """Take the records of *acks* out for good, but those that are settled."""
        pop = self._records.pop
        return [
            (record, body)
            for token, body in acks
            if (record := pop(token, None)) is not None
        ]

    def interrupted(self) -> None:
        """The connection is gone, and all attempts with it."""
        for record in self._records.values():
            record.interrupted()

    def take_expired(self, now: float) -> list[Record]:
        """Take out what is past its deadline."""
        expired = []
        for record in self._records.values():
            # The timeout is the same for all, so the oldest expire first.
            if record.deadline > now:
                break
            expired.append(record)
        return self._without(expired)

    def take_unanswered(self) -> list[Record]:
        """Take out what may be stored, as an earlier attempt ended without an answer."""
        return self._without([r for r in self._records.values() if r.unanswered])

    def take_all(self) -> list[Record]:
        """Take out everything."""
        return self._without(list(self._records.values()))

    def stalled(self, now: float, wait: float) -> bool:
        """Return whether some attempt is on the wire for longer than *wait*."""
        return any(
            record.outstanding and record.sent_at + wait <= now
            for record in self._records.values()
        )

    def _without(self, records: list[Record]) -> list[Record]:
        for record in records:
            del self._records[record.token]
        return records
