"""
What the server says about messages: sorted here, parsed and settled elsewhere.

An acknowledgement only moves its record into a list; once per tick of the loop the list
goes to the ack workers as one chunk. Lives on the loop thread.
"""

import asyncio
import time

from collections import Counter
from collections.abc import Callable, Sequence

from eventbus_sync.backends.base import Ack, Settlement, Sink
from eventbus_sync.backends.nats.gates import Gates
from eventbus_sync.backends.nats.parser import NumberedAck
from eventbus_sync.backends.nats.patience import Patience
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.errors import NotAuthorized


#: A record with the bytes of its answer, or with what they say.
Answered = tuple[Record, bytes | Ack]

#: Subjects whose refusal has been reported; more are only settled.
MAX_REPORTED = 100


class Answers:
    """
    Sorts answers: to the ack workers, back to a gate, or refused by permissions.

    Args:
        pending: the table of records.
        gates: are told which subjects have a stream and which have none.
        sink: is told of what permissions refuse.
        hand_over: takes a chunk of answers to the ack workers.
        release: is given what a gate held back, in order.
        patience: is told how long answers take, while that is in doubt.
    """

    def __init__(  # noqa: PLR0913 - all that answers are sorted to
        self,
        pending: Pending,
        gates: Gates,
        sink: Sink,
        hand_over: Callable[[list[Answered]], None],
        release: Callable[[list[Record]], None],
        patience: Patience,
    ) -> None:
        #: When a stream answered last.
        self.last_at = 0.0
        self._pending = pending
        self._gates = gates
        self._sink = sink
        self._hand_over = hand_over
        self._release = release
        self._patience = patience
        self._chunk: list[Answered] = []
        # How many to each subject, and why; first what the clock has seen already.
        self._ripe: dict[str, tuple[int, Exception]] = {}
        self._denied: dict[str, tuple[int, Exception]] = {}
        self._reported: set[str] = set()

    def answered(self, token: int, data: bytes | Ack, status: str | None) -> None:
        """Sort one answer; what was settled before, or never asked, is nothing."""
        if status == "503":
            record = self._pending.get(token)
            if record is not None:
                record.turned_away()
                self._gates.turned_away(record)
            return
        self.last_at = time.monotonic()
        record = self._pending.pop(token)
        if record is None:
            return
        if self._patience.strained:
            self._patience.answered(self.last_at - record.sent_at)
        if self._gates:
            self._release(self._gates.answered(record))
        self._collect([(record, data)])

    def acknowledged(self, acks: Sequence[NumberedAck]) -> None:
        """Sort answers that a stream gave, many at once."""
        self.last_at = time.monotonic()
        taken = self._pending.take(acks)
        if self._patience.strained:
            for record, _ in taken:
                self._patience.answered(self.last_at - record.sent_at)
        if self._gates:
            for record, _ in taken:
                self._release(self._gates.answered(record))
        if taken:
            self._collect(taken)

    def _collect(self, answers: Sequence[Answered]) -> None:
        if not self._chunk:
            # One hand-over per tick of the loop, however many answers it brings.
            asyncio.get_running_loop().call_soon(self.flush)
        self._chunk += answers

    def refused(self, subject: str, error: Exception) -> None:
        """Count a message that the server's permissions refused: no ack will come."""
        count, _ = self._denied.get(subject, (0, error))
        self._denied[subject] = (count + 1, error)

    def settle_denied(self) -> None:
        """
        Settle what permissions had refused when this was called last.

        Not at once for each: looking for its record goes through the whole table. And
        acks of earlier messages, from before a change of permissions, come first.
        """
        denied, self._ripe, self._denied = self._ripe, self._denied, {}
        if not denied:
            return
        counts = Counter({subject: count for subject, (count, _) in denied.items()})
        chunk: list[Settlement] = []
        for record in self._pending.take_denied(counts):
            refusal = _not_authorized(record.subject, denied[record.subject][1])
            chunk.append((record.delivery, record.refused(refusal)))
        self._sink.settle(chunk)
        for subject, (_, error) in denied.items():
            if subject not in self._reported and len(self._reported) < MAX_REPORTED:
                self._reported.add(subject)
                self._sink.report(_not_authorized(subject, error))

    def interrupted(self) -> None:
        """The connection is gone: nothing more will be said of what was written."""
        self.settle_denied()
        self.settle_denied()  # what has only just come, too
        self._reported.clear()
        self._pending.interrupted()

    def flush(self) -> None:
        """Hand over what has come."""
        if self._chunk:
            chunk, self._chunk = self._chunk, []
            self._hand_over(chunk)


def _not_authorized(subject: str, error: Exception) -> NotAuthorized:
    refusal = NotAuthorized(
        f"these credentials may not publish to {subject!r}: {error}"
    )
    refusal.__cause__ = error
    return refusal
