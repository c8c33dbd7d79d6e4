"""
What the server says about messages: sorted here, parsed and settled elsewhere.

An acknowledgement only moves its record into a list; once per tick of the loop the list
goes to the ack workers as one chunk. Lives on the loop thread.
"""

import asyncio
import time

from collections.abc import Callable, Sequence

from eventbus_sync.backends.base import Ack
from eventbus_sync.backends.nats.gates import Gates
from eventbus_sync.backends.nats.parser import NumberedAck
from eventbus_sync.backends.nats.patience import Patience
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.record import Record


#: A record with the bytes of its answer, or with what they say.
Answered = tuple[Record, bytes | Ack]


class Answers:
    """
    Sorts answers: to the ack workers, or back to a gate.

    Args:
        pending: the table of records.
        gates: are told which subjects have a stream and which have none.
        hand_over: takes a chunk of answers to the ack workers.
        release: is given what a gate held back, in order.
        patience: is told how long answers take, while that is in doubt.
    """

    def __init__(
        self,
        pending: Pending,
        gates: Gates,
        hand_over: Callable[[list[Answered]], None],
        release: Callable[[list[Record]], None],
        patience: Patience,
    ) -> None:
        #: When a stream answered last.
        self.last_at = 0.0
        self._pending = pending
        self._gates = gates
        self._hand_over = hand_over
        self._release = release
        self._patience = patience
        self._chunk: list[Answered] = []

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

    def flush(self) -> None:
        """Hand over what has come."""
        if self._chunk:
            chunk, self._chunk = self._chunk, []
            self._hand_over(chunk)
