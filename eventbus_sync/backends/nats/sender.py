"""
What is written next, and what never may be. Lives on the loop thread.
"""

import time

from collections import deque
from collections.abc import Sequence

from eventbus_sync.backends.base import Sink
from eventbus_sync.backends.nats.batches import LARGER, Batches
from eventbus_sync.backends.nats.connection import Connection
from eventbus_sync.backends.nats.culprit import Culprit
from eventbus_sync.backends.nats.gates import Gates
from eventbus_sync.backends.nats.handover import HandOver
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.record import Record, plain_message
from eventbus_sync.backends.nats.refusals import Refusals
from eventbus_sync.backends.nats.stream import StreamCheck
from eventbus_sync.config.nats import WINDOW_MARGIN
from eventbus_sync.errors import MessageRefused, PublishError


#: About how many bytes, and at most how many messages, are written at once; after that
#: answers get their turn.
BATCH_BYTES, BATCH_MESSAGES = 64 * 1024, 256
#: For how long events are sent one by one.
ONE_BY_ONE_SECONDS = 5.0


class Sender:
    """
    Keeps the order: first what is unanswered, then what a gate let go, then the new.

    Args:
        pending: the table of records; the new ones get their place in it here.
        gates: hold back what no stream takes.
        handover: where events come from.
        stream: knows for how long an event may be sent again.
        sink: is told what is too large.
        batches: takes new events together, where that is wanted.
        refusals: are told what is written, when they have to know.
    """

    def __init__(  # noqa: PLR0913 - what an event passes, in this order
        self,
        pending: Pending,
        gates: Gates,
        handover: HandOver,
        stream: StreamCheck,
        sink: Sink,
        batches: Batches,
        refusals: Refusals,
    ) -> None:
        self._pending = pending
        self._gates = gates
        self._handover = handover
        self._stream = stream
        self._sink = sink
        self._batches = batches
        self._refusals = refusals
        # Records to send before anything newer.
        self._again: deque[Record] = deque()

    @property
    def done(self) -> bool:
        """Whether no event waits to be looked at."""
        return not (self._again or self._handover.events)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to write until something happens."""
        return self._batches.open or self.done

    def restart(self) -> None:
        """Begin anew on a new connection, with everything that is unanswered."""
        self._gates.restart()
        self._batches.restart()
        self._again = deque(self._pending)

    def release(self, records: Sequence[Record]) -> None:
        """Send what a gate held back, before anything newer."""
        if records:
            self._again.extend(records)
            self._handover.wake()

    def next_parts(self, connection: Connection) -> list[bytes]:
        """
        Return the bytes of the next messages, at most about a batch.

        Empty does not mean that there is nothing more to send: see ``idle``.
        """
        now = time.monotonic()
        # What goes again goes one by one: then it is known what was stored before.
        new = not (self._again or self._gates)
        together = new and self._batches.wanted(now)
        if self._batches.open:
            parts, size = [], 0
        elif together:
            chosen, size = self._chosen(connection, now, LARGER)
            parts = (
                self._batches.parts(chosen, connection.reply_prefix) if chosen else []
            )
        elif new and not self._refusals.watching:
            parts, size = self._new_parts(connection, now)
        else:
            chosen, size = self._chosen(connection, now)
            parts = []
            for record in chosen:
                parts += record.parts(connection.reply_prefix)
        plain = self._handover.plain
        while plain and size < BATCH_BYTES:
            message = plain.popleft()
            command, *content, end = plain_message(message)
            length = sum(map(len, content))
            if length > connection.max_payload:
                # It may be lost, and the connection must not be.
                self._sink.report(_too_large(length, connection))
            else:
                parts += (command, *content, end)
                size += length
                self._refusals.plain(message.topic)
        if self._refusals.due:
            parts.append(self._refusals.fence(connection))
        return parts

    def _new_parts(self, connection: Connection, now: float) -> tuple[list[bytes], int]:
        """
        Return the next messages and their size, while nothing older waits.

        What ``_chosen`` does, but for what new events cannot be. Nearly all of them go
        this way, so calls are saved.
        """
        events, add = self._handover.events, self._pending.add
        prefix, largest = connection.reply_prefix, connection.max_payload
        parts: list[bytes] = []
        size = 0
        for _ in range(BATCH_MESSAGES):
            if size >= BATCH_BYTES or not events:
                break
            record = events.popleft()
            add(record)
            if record.size > largest:
                self._refuse(record, _too_large(record.size, connection))
                continue
            record.outstanding = True
            record.sent_at = record.written_at = now
            size += record.size
            parts += record.parts(prefix)
        return parts, size

    def _chosen(
        self, connection: Connection, now: float, larger: int = 1
    ) -> tuple[list[Record], int]:
        """Return the next records to write, and their size."""
        chosen: list[Record] = []
        size = 0
        for _ in range(BATCH_MESSAGES * larger):
            record = self._next_record() if size < BATCH_BYTES * larger else None
            if record is None:
                break
            if self._may_go(record, connection, now):
                record.attempted(now)
                size += record.size
                chosen.append(record)
        if self._refusals.watching and chosen:
            self._refusals.wrote(chosen)
        return chosen, size

    async def send_one_by_one(self, connection: Connection, culprit: Culprit) -> None:
        """
        Send what is unanswered, each alone, and settle the one that *culprit* is.

        Ends after some seconds in any case: with a distant server this takes long.
        """
        until = time.monotonic() + ONE_BY_ONE_SECONDS
        while self._again and not connection.lost and time.monotonic() < until:
            record = self._again.popleft()
            now = time.monotonic()
            if not self._may_go(record, connection, now):
                continue
            record.attempted(now)
            parts = list(record.parts(connection.reply_prefix))
            if self._refusals.watching:
                self._refusals.wrote((record,))
                parts.append(self._refusals.fence(connection))
            await connection.write(parts)
            read = await connection.round_trip(ONE_BY_ONE_SECONDS)
            answered = not record.outstanding or self._pending.get(record.token) is None
            if read or answered:
                culprit.is_not(record.token)
            elif culprit.is_it(record.token, connection):
                said = connection.protocol_error or "it says nothing"
                text = f"{connection.server} ends connections over this event: {said}"
                self._refuse(record, MessageRefused(text))

    def _next_record(self) -> Record | None:
        if self._again:
            return self._again.popleft()
        if self._handover.events:
            record = self._handover.events.popleft()
            self._pending.add(record)
            return record
        return None

    def _may_go(self, record: Record, connection: Connection, now: float) -> bool:
        """Return whether to write *record* now; settles it if it never may."""
        if record.outstanding or self._pending.get(record.token) is None:
            return False  # on its way already, or settled meanwhile
        if self._gates.holds(record):
            return False
        # Some of it is left for the way to the server, and for clocks that differ.
        window = self._stream.window - WINDOW_MARGIN
        if record.written_at and now > record.written_at + window:
            # The stream would take a repeat for a new event.
            self._gates.passed_over(record)
            return False
        if record.size > connection.max_payload:
            # The server would answer with an error and close the connection.
            self._refuse(record, _too_large(record.size, connection))
            return False
        return True

    def _refuse(self, record: Record, error: PublishError) -> None:
        self._pending.pop(record.token)
        self._sink.settle([(record.delivery, record.refused(error))])


def _too_large(size: int, connection: Connection) -> MessageRefused:
    return MessageRefused(
        f"{size} bytes with headers; {connection.server} takes "
        f"{connection.max_payload} (max_payload)"
    )
