"""
Subjects that no stream takes at the moment ("no responders").

A cluster that moves a stream's leader answers like this for a moment, and a stream may
be created later. So one message at a time is tried; the others wait, in order, and do
not flood the server. Lives on the loop thread.
"""

import heapq
import logging
import time

from collections.abc import Iterator

from eventbus_sync.backends.base import Sink
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.errors import DestinationNotFound


#: Seconds to the first and at most between later probes of a subject.
PROBE_FIRST, PROBE_MAX = 0.05, 1.0
#: Subjects that are tried at once, at each look.
PROBES_AT_ONCE = 200
#: Subjects without a stream that have been told of; more only wait.
MAX_REPORTED = 100


class _Gate:
    """One such subject."""

    __slots__ = ("backoff", "probe", "probe_at", "waiting")

    def __init__(self, now: float) -> None:
        # A heap of tokens; what is settled meanwhile leaves when its turn comes.
        self.waiting: list[int] = []
        self.probe: int | None = None
        self.backoff = PROBE_FIRST
        self.probe_at = now + PROBE_FIRST


class Gates:
    """
    Holds messages back and lets one pass now and then.

    Args:
        pending: the table that all records are in.
        sink: is told of a subject that no stream takes, once until that changes.
    """

    def __init__(self, pending: Pending, sink: Sink) -> None:
        self._pending = pending
        self._sink = sink
        self._gates: dict[str, _Gate] = {}
        self._reported: set[str] = set()

    def __len__(self) -> int:
        return len(self._gates)

    def holds(self, record: Record) -> bool:
        """Return whether *record* must wait; then it does until it is let through."""
        if not self._gates:
            return False
        gate = self._gates.get(record.subject)
        if gate is None or gate.probe == record.token:
            return False
        record.no_stream = True
        heapq.heappush(gate.waiting, record.token)
        return True

    def turned_away(self, record: Record) -> None:
        """No stream took *record*: it waits, and so does what comes behind it."""
        now = time.monotonic()
        gate = self._gates.get(record.subject)
        if gate is None:
            gate = self._gates[record.subject] = _Gate(now)
        heapq.heappush(gate.waiting, record.token)
        if gate.probe == record.token:
            gate.probe = None
            gate.backoff = min(2 * gate.backoff, PROBE_MAX)
            gate.probe_at = now + gate.backoff
            # Only now: a stream that moves turns many away for a moment.
            self._tell(record.subject)

    def answered(self, record: Record) -> list[Record]:
        """A stream answered: return what may follow *record* now, in order."""
        if not self._gates:
            return []
        gate = self._gates.pop(record.subject, None)
        if gate is None:
            return []
        self._reported.discard(record.subject)
        waiting = map(self._pending.get, sorted(gate.waiting))
        return [record for record in waiting if record is not None]

    def passed_over(self, record: Record) -> None:
        """*record* may not be sent any more, so another one has to try its subject."""
        gate = self._gates.get(record.subject)
        if gate is not None and gate.probe == record.token:
            gate.probe = None

    def restart(self) -> None:
        """
        Begin anew on a new connection: probe soon, and hold everything else.

        Whatever is unanswered is asked for again (``holds``), so no gate keeps a list.
        """
        now = time.monotonic()
        self._reported.clear()
        for subject in self._gates:
            self._gates[subject] = gate = _Gate(now)
            gate.probe_at = now

    def due(self, now: float) -> Iterator[Record]:
        """Yield the messages that try their subjects now; open gates with no waiters."""
        probes = 0
        for subject, gate in list(self._gates.items()):
            if probes == PROBES_AT_ONCE:
                return
            if gate.probe is not None and self._pending.get(gate.probe) is not None:
                continue  # under way
            record = self._oldest(gate)
            if record is None:
                # Everything that waited has been settled, by its deadline.
                del self._gates[subject]
            elif now >= gate.probe_at:
                heapq.heappop(gate.waiting)
                gate.probe = record.token
                # Behind the others: with very many subjects each gets its turn.
                self._gates[subject] = self._gates.pop(subject)
                probes += 1
                yield record

    def _tell(self, subject: str) -> None:
        """Log and report a subject: the outcomes come at delivery_timeout only."""
        if subject in self._reported or len(self._reported) >= MAX_REPORTED:
            return
        self._reported.add(subject)
        text = (
            f"no stream takes subject {subject!r}: create one that does, or correct the "
            "topic; events to it wait, for delivery_timeout at most"
        )
        self._sink.log(logging.WARNING, text)
        self._sink.report(DestinationNotFound(text))

    def _oldest(self, gate: _Gate) -> Record | None:
        while gate.waiting:
            record = self._pending.get(gate.waiting[0])
            if record is not None:
                return record
            heapq.heappop(gate.waiting)
        return None
