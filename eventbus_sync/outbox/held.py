"""
The rows that a relay holds in memory, from their claim to their mark.

A row waits in the *line* of its aggregate, is in flight, or is to be marked. The
next of a line goes out when its head is settled, without asking the database; a head
that failed sends the rest of its line back. No I/O here; the lock is held for moments.
"""

import time

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from eventbus_sync.outbox.lines import Counts, Flight, Lease, Line, Rate, size_of
from eventbus_sync.outbox.mark_queue import MarkQueue
from eventbus_sync.outbox.record import Change, Mark, OutboxRecord
from eventbus_sync.outbox.store import OnDead, Ordering
from eventbus_sync.outbox.watched import Watched


class HeldRows(Watched):
    """
    Lines, flights and marks. Thread-safe.

    With ``ordering="aggregate"`` at most one row of an aggregate is in flight.

    Args:
        ordering: what makes a line: an aggregate, or with "none" each row.
        on_dead: whether a line goes on after a row that died.
        margin: seconds of its lease that a row must have left to be published; longer
            than a publish can last, so that no other relay tries the row meanwhile.
        counts: where to count.
    """

    def __init__(
        self, ordering: Ordering, on_dead: OnDead, margin: float, counts: Counts
    ) -> None:
        super().__init__()
        self.counts = counts
        self.rate = Rate()
        self._ordering = ordering
        self._on_dead = on_dead
        self._margin = margin
        self._leases: dict[str, Lease] = {}
        self._lines: set[Line] = set()
        self._ready: deque[Line] = deque()
        # Lines that may go on as soon as their lease is renewed.
        self._stale: list[Line] = []
        self._flying: dict[str, Flight] = {}
        self._marks = MarkQueue()
        self._rows_of: Counter[str] = Counter()
        self._held = 0
        self._bytes = 0
        #: Set by ``stop``: nothing more goes out.
        self.stopped = False
        #: How often an aggregate was let go of: its later rows can be claimed now.
        self.closed = 0
        # Just before the first row of the aggregates that were let go of.
        self._resume: int | None = None

    # -- what others wait for ---------------------------------------------------------

    @property
    def held(self) -> int:
        """How many rows are held."""
        return self._held

    @property
    def bytes(self) -> int:
        """How many bytes of payloads and headers are held."""
        return self._bytes

    @property
    def in_flight(self) -> int:
        """How many rows have no outcome yet."""
        return len(self._flying)

    @property
    def to_mark(self) -> int:
        """How many marks nobody took yet."""
        return len(self._marks)

    @property
    def has_ready(self) -> bool:
        """Whether something can be published."""
        return bool(self._ready)

    def aggregates(self) -> tuple[str, ...]:
        """Return the aggregates of which rows are held."""
        with self.lock:
            return tuple(self._rows_of)

    def take_resume(self) -> int | None:
        """Return where later rows of aggregates that were let go of may be, once."""
        with self.lock:
            resume, self._resume = self._resume, None
            return resume

    # -- claim and publish ------------------------------------------------------------

    def add(self, lease: Lease, records: Sequence[OutboxRecord]) -> None:
        """Take rows that were claimed under *lease* in."""
        with self.lock:
            lines: dict[str, Line] = {}
            for record in records:
                by_row = self._ordering == "none"
                key = record.event_id if by_row else record.aggregate_id
                line = lines.get(key)
                if line is None:
                    line = lines[key] = Line(lease)
                line.waiting.append(record)
                self._rows_of[record.aggregate_id] += 1
            lease.rows = len(records)
            self._leases[lease.token] = lease
            self._lines.update(lines.values())
            self._ready.extend(lines.values())
            self._held += len(records)
            self._bytes += sum(map(size_of, records))
            self.counts.claimed += len(records)
            self._changed.wake_all_locked()

    def stop(self) -> None:
        """
        Let nothing more go out.

        Under the lock: who sees this set and nothing in flight knows that nothing will
        be, so nobody has to wait for outcomes any more.
        """
        with self.lock:
            self.stopped = True
            self._changed.wake_all_locked()

    def next_to_publish(self) -> Flight | None:
        """Return a row that may go out now; it counts as in flight from here on."""
        with self.lock:
            horizon = time.monotonic() + self._margin
            while self._ready and not self.stopped:
                line = self._ready.popleft()
                if not line.waiting:
                    continue  # its rows were sent back meanwhile
                if line.lease.until <= horizon:
                    self._stale.append(line)
                    continue
                record = line.waiting.popleft()
                flight = Flight(line, record, time.monotonic())
                # Before it is published: the outcome may be quicker than the call.
                self._flying[record.event_id] = flight
                if len(self._flying) == 1:
                    self._changed.wake_all_locked()
                return flight
            return None

    def not_accepted(self, flight: Flight) -> None:
        """Put a row that the bus had no room for at the head of its line again."""
        with self.lock:
            if self._flying.pop(flight.record.event_id, None) is None:
                return
            flight.line.waiting.appendleft(flight.record)
            self._lines.add(flight.line)  # it may have been given back meanwhile
            self._ready.appendleft(flight.line)

    # -- outcomes and marks -----------------------------------------------------------

    def landed(self, event_id: str) -> Flight | None:
        """Return the flight that *event_id* was, or None if it is none of ours."""
        with self.lock:
            return self._flying.pop(event_id, None)

    def has_overdue(self, seconds: float) -> bool:
        """Return whether ``overdue`` would return something."""
        with self.lock:
            horizon = time.monotonic() - seconds
            return any(flight.since < horizon for flight in self._flying.values())

    def overdue(self, seconds: float) -> list[Flight]:
        """Take out and return the flights of which nothing was heard for *seconds*."""
        with self.lock:
            horizon = time.monotonic() - seconds
            late = [f for f in self._flying.values() if f.since < horizon]
            for flight in late:
                del self._flying[flight.record.event_id]
            return late

    def settle(self, settled: Iterable[tuple[Flight, Mark]]) -> None:
        """Note what became of rows; lines go on, or give the rest of their rows back."""
        with self.lock:
            for flight, mark in settled:
                self._flying.pop(flight.record.event_id, None)
                self._marks.append(mark)
                line = flight.line
                goes_on = mark.change is Change.PUBLISH or (
                    mark.change is Change.BURY and self._on_dead == "skip"
                )
                if not goes_on:
                    # The rest would overtake it; and it holds the aggregate in the
                    # database too, for every other relay.
                    self._release_locked(line)
                if line.waiting:
                    self._ready.append(line)
                else:
                    self._lines.discard(line)
            self._changed.wake_all_locked()

    def release_behind(self, flight: Flight) -> None:
        """Give back the rows that wait for the outcome of *flight*."""
        with self.lock:
            self._release_locked(flight.line)

    def release_waiting(self) -> None:
        """Give back every row that is not in flight."""
        with self.lock:
            for line in list(self._lines):
                self._release_locked(line)
            self._ready.clear()
            self._stale.clear()
            self._changed.wake_all_locked()

    def take_marks(self, limit: int | None = None) -> list[Mark]:
        """
        Return what is to be marked, the first *limit* of it.

        In the order in which it happened, so that a row which failed is marked before,
        or together with, those after it that are given back. Follow it by ``marked`` or
        ``not_marked``.
        """
        with self.lock:
            marks = self._marks.take(limit)
            for mark in marks:
                self._leases[mark.record.lease].marking += 1
            return marks

    def marked(self, marks: Sequence[Mark], moved: set[int]) -> None:
        """Forget rows that were marked, and those whose lease was lost."""
        with self.lock:
            lost: set[tuple[str, str]] = set()
            before = self.counts.published
            for mark in marks:
                record = mark.record
                self._leases[record.lease].refused = False
                if record.position in moved:
                    self.counts.add(mark)
                elif mark.change is not Change.RELEASE:
                    self.counts.lost += 1
                    lost.add((record.lease, record.aggregate_id))
                self._forget_locked(record)
            self.rate.add(self.counts.published - before)
            if lost:
                # Somebody else has the aggregate; our marks would change nothing.
                for line in list(self._lines):
                    head = line.waiting[0] if line.waiting else None
                    if head and (head.lease, head.aggregate_id) in lost:
                        self._release_locked(line)
            self._changed.wake_all_locked()

    def not_marked(self, marks: Sequence[Mark]) -> None:
        """Keep marks that the database did not take, before all others."""
        with self.lock:
            self._marks.extendleft(reversed(marks))
            for mark in marks:
                self._leases[mark.record.lease].marking -= 1

    def put_last(self, mark: Mark) -> None:
        """Let all others be marked before *mark*, which fails even alone."""
        with self.lock:
            self._leases[mark.record.lease].refused = True
            self._marks.put_last(mark)

    def is_over(self, mark: Mark) -> bool:
        """Return whether the lease of a mark that was taken has ended."""
        with self.lock:
            return self._leases[mark.record.lease].until <= time.monotonic()

    def give_up(self, mark: Mark) -> None:
        """Forget a mark that was taken: its row is free since its lease has ended."""
        with self.lock:
            self.counts.lost += 1
            self._forget_locked(mark.record)
            self._changed.wake_all_locked()

    # -- leases -----------------------------------------------------------------------

    def to_renew(self, left: float) -> list[Lease]:
        """Return the leases that end within *left* seconds; give up those that ended."""
        with self.lock:
            now = time.monotonic()
            found = []
            for lease in self._leases.values():
                if lease.rows > lease.marking and lease.until - now < left:
                    if lease.until <= now:
                        # Its rows may be another relay's: none of them goes out.
                        self._lapse_locked(lease)
                    elif not lease.refused:
                        found.append(lease)
            return found

    def renewed(self, leases: Sequence[Lease], rows: int, until: float) -> None:
        """
        Note the answer to a renewal of *leases*: they last *until*, or were lost.

        Args:
            leases: what was renewed.
            rows: how many rows the database still had under them.
            until: their new end, counted from before the renewal was sent.
        """
        with self.lock:
            now = time.monotonic()
            # Rows that are being marked may have been marked before the renewal; every
            # other one must have been there. A row fewer is another relay's by now.
            expected = sum(lease.rows - lease.marking for lease in leases)
            for lease in leases:
                if rows < expected or lease.until <= now:
                    self._lapse_locked(lease)
                else:
                    lease.until = until
            stale, self._stale = self._stale, []
            self._ready.extend(stale)

    # -- under the lock ---------------------------------------------------------------

    def _lapse_locked(self, lease: Lease) -> None:
        lease.until = float("-inf")
        for line in [line for line in self._lines if line.lease is lease]:
            self._release_locked(line)

    def _release_locked(self, line: Line) -> None:
        if line.waiting:
            self._changed.wake_all_locked()
        while line.waiting:
            record = line.waiting.popleft()
            self._marks.append(Mark(record, Change.RELEASE, record.attempts))
        self._lines.discard(line)

    def _forget_locked(self, record: OutboxRecord) -> None:
        lease = self._leases[record.lease]
        lease.rows -= 1
        lease.marking -= 1
        if not lease.rows:
            del self._leases[record.lease]
        self._held -= 1
        self._bytes -= size_of(record)
        self._rows_of[record.aggregate_id] -= 1
        if not self._rows_of[record.aggregate_id]:
            del self._rows_of[record.aggregate_id]
            self.closed += 1
            before = record.position - 1
            self._resume = min(before, before if self._resume is None else self._resume)
