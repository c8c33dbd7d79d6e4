"""What ``held.py`` is made of: leases, lines, flights, and what is counted."""

import time

from collections import deque

import attrs

from eventbus_sync.outbox.record import Change, Mark, OutboxRecord


_COUNTER = {
    Change.PUBLISH: "published",
    Change.RETRY: "retried",
    Change.BURY: "buried",
    Change.RELEASE: "released",
}

#: Seconds over which the rate is taken.
_RATE_SECONDS = 5


@attrs.define(eq=False)
class Lease:
    """
    One claim's hold on its rows.

    Attributes:
        token: the fencing token.
        until: when it may end, on the monotonic clock. Counted from before the claim
            was sent, so that it is never later than what the database thinks.
        rows: how many rows are held under it, those at the database included.
        marking: how many of them are being marked now.
        refused: a mark of it failed even alone. It is not renewed then, so that a row
            which the database will not have marked comes back by its end.
    """

    token: str
    until: float
    rows: int = 0
    marking: int = 0
    refused: bool = False


@attrs.define(eq=False)
class Line:
    """The rows of one aggregate, claimed together, the oldest first."""

    lease: Lease
    waiting: deque[OutboxRecord] = attrs.field(factory=deque)


@attrs.frozen(eq=False)
class Flight:
    """A row that was handed to the bus, and when."""

    line: Line
    record: OutboxRecord
    since: float


def size_of(record: OutboxRecord) -> int:
    """Return about how many bytes the row takes; what is damaged does not count."""
    payload: object = record.payload
    size = len(payload) if isinstance(payload, bytes | str) else 0
    for name, value in record.headers.items():
        size += len(name)
        if isinstance(value, str):
            size += len(value)
    return size


@attrs.define
class Counts:
    """What happened since the relay was made. Guarded by the lock of ``HeldRows``."""

    claimed: int = 0
    published: int = 0
    retried: int = 0
    held_back: int = 0
    buried: int = 0
    released: int = 0
    lost: int = 0

    def add(self, mark: Mark) -> None:
        """Count a mark that the database did."""
        name = _COUNTER[mark.change] if mark.tried else "held_back"
        setattr(self, name, getattr(self, name) + 1)


class Rate:
    """Rows per second, over the last whole seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_RATE_SECONDS + 1)

    def add(self, rows: int) -> None:
        """Count rows now."""
        now = int(time.monotonic())
        if self._seconds and self._seconds[-1][0] == now:
            rows += self._seconds.pop()[1]
        self._seconds.append((now, rows))

    def per_second(self) -> float:
        """Return the mean of the last seconds, this one left out."""
        now = int(time.monotonic())
        first = now - _RATE_SECONDS
        rows = sum(n for second, n in self._seconds if first <= second < now)
        return rows / _RATE_SECONDS
