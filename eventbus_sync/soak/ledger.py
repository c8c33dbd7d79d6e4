"""
What became of each event, in two bytes: one for its answer, one for its storage.

The id of an event says which thread published it and as which: ``RUN-THREAD-NUMBER``. So
a table of bytes for each thread is all that is needed, and it is written without a lock:
the counts by the publisher, the answers by whoever gets the results, the rest afterwards.
"""

import secrets
import threading

from collections import Counter
from typing import Final

from eventbus_sync.results import Outcome, PublishResult
from eventbus_sync.soak.spread import Spread
from eventbus_sync.testing.readback import StoredEvent


#: Answers: none, one of three, and that there was more than one.
ACKED, REJECTED, UNKNOWN, TWICE = 1, 2, 4, 8
#: Storage: once, more than once, and later than a newer one.
STORED, REPEATED, LATE = 1, 2, 4

_BIT: Final = {
    Outcome.ACKED: ACKED,
    Outcome.REJECTED: REJECTED,
    Outcome.UNKNOWN: UNKNOWN,
}


class Ledger:
    """
    The books of one run.

    Args:
        threads: how many publish.
        aggregates: how many aggregates they share; event *n* belongs to ``n % aggregates``.
    """

    def __init__(self, threads: int, aggregates: int) -> None:
        #: The beginning of every id, so that nothing of another run is counted.
        self.run = secrets.token_hex(3)
        self.aggregates = aggregates
        #: How many events each thread has published; written by that thread.
        self.accepted = [0] * threads
        #: By thread and number; each is written by the one who reads its results.
        self.answers = [bytearray() for _ in range(threads)]
        #: By thread and number; written when the broker is read back.
        self.stored = [bytearray() for _ in range(threads)]
        #: Results and stored messages that belong to no event of this run.
        self.foreign: list[str] = []
        #: Error code → how many results had it.
        self.codes: Counter[str] = Counter()
        #: Seconds from acceptance to outcome.
        self.latency = Spread()
        #: Acks that said "stored before".
        self.repeats = 0
        self.read = 0
        self._latest: dict[tuple[int, int], int] = {}
        self._home: dict[int, int] = {}
        # Of the figures: a reader and a publisher that waits for its results write them.
        self._lock = threading.Lock()

    def event_id(self, thread: int, number: int) -> str:
        """Return the id of a thread's event."""
        return f"{self.run}-{thread}-{number}"

    def answered(self, result: PublishResult) -> None:
        """Note a result. Only one thread may do so for the events of each publisher."""
        with self._lock:
            self.latency.add(result.latency)
            self.repeats += result.duplicate
            if result.error is not None:
                self.codes[result.error.code] += 1
        place = self._place(result.event_id)
        if place is None:
            self.foreign.append(f"result for {result.event_id!r}")
            return
        thread, number = place
        answers = self.answers[thread]
        if len(answers) <= number:
            # More than is needed, so that it does not grow for each event.
            answers.extend(bytes(number + 1024 - len(answers)))
        answers[number] = TWICE if answers[number] else _BIT[result.outcome]

    def seen(self, event: StoredEvent) -> None:
        """Note what the broker gave back, in its order within each partition."""
        self.read += 1
        place = self._place(event.event_id)
        if place is None or place[1] >= self.accepted[place[0]]:
            self.foreign.append(f"stored message {event.event_id!r}")
            return
        thread, number = place
        stored = self.stored[thread]
        if len(stored) <= number:
            stored.extend(bytes(self.accepted[thread] - len(stored)))
        if stored[number]:
            stored[number] |= REPEATED
            return
        stored[number] = STORED
        # First occurrences have an order; one that is spread over two partitions none.
        aggregate = number % self.aggregates
        line = (thread, aggregate)
        home = self._home.setdefault(aggregate, event.partition)
        if number < self._latest.get(line, -1) or home != event.partition:
            stored[number] |= LATE
        else:
            self._latest[line] = number

    def _place(self, event_id: str) -> tuple[int, int] | None:
        run, _, rest = event_id.partition("-")
        thread, _, number = rest.partition("-")
        if run != self.run or not (thread.isdecimal() and number.isdecimal()):
            return None
        if int(thread) >= len(self.accepted):
            return None
        return int(thread), int(number)
