"""
Many events as one batch, which the server acknowledges as a whole (ADR-50, fast ingest).

Only with ``publish_mode="batch"``. The last event of a batch commits it, and its
acknowledgement says how many of them are stored, counted from the first. Behind the
first event that it refuses the server stores no other one of the batch, and that is
where order and outcomes want care:

* One batch at a time. What comes meanwhile waits and becomes the next one, so nothing
  newer passes what has to go again.
* What a batch leaves behind goes again one by one, in order, before anything newer; and
  for a moment everything does, so that a stream that is full says so to each event.
* What is sent again after a reconnect goes one by one, too: in a batch nobody would
  learn what the stream had already.

Lives on the loop thread.
"""

import json
import time

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from nats.nuid import NUID

from eventbus_sync.backends.base import Ack
from eventbus_sync.backends.nats.answers import Answers
from eventbus_sync.backends.nats.connection import Connection
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.backends.nats.refusals import Refusals
from eventbus_sync.backends.nats.stream import StreamCheck, covers


#: How many times as much is written at once: only then is another one waited for.
LARGER: Final = 4
#: For how many seconds events go one by one after a batch that was not stored whole.
REST_SECONDS: Final = 1.0
#: How long the server may take to show that it has read such a batch.
READ_SECONDS: Final = 5.0

# The server tells after so many how far it is, but not after more than 500.
_FLOW: Final = 500
# What the reply subject says of each: it opens the batch, belongs to it, commits it.
_OPENS, _BELONGS, _COMMITS = range(3)
_FIELDS: Final = 6
_MAX_DIGITS: Final = 9
# Refusals of the batch, not of the event: disabled, not understood, bad id, unknown id,
# too many batches.
_OF_THE_BATCH: Final = (10205, 10206, 10207, 10208, 10211)


class Batches:
    """
    Sends events together, and finds out what became of each.

    Args:
        stream: knows what may go in batches.
        answers: are told what is known of one event.
        refusals: are told of what permissions may have refused, and goes again.
        go_on: is given what has to go again, in order; called when a batch is over.
    """

    def __init__(
        self,
        stream: StreamCheck,
        answers: Answers,
        refusals: Refusals,
        go_on: Callable[[Sequence[Record]], None],
    ) -> None:
        self._stream = stream
        self._answers = answers
        self._refusals = refusals
        self._go_on = go_on
        self._names = NUID()
        self._name = b""
        # None: it has had an answer of its own.
        self._records: list[Record | None] = []
        # What a batch that is over leaves behind, until ``clear_up``.
        self._left: list[Record] = []
        self._counted = False
        # How many to each subject the server's permissions refused.
        self._denied: Counter[str] = Counter()
        self._rest_until = 0.0
        self._sent_at = 0.0

    @property
    def open(self) -> bool:
        """Whether a batch is unanswered, and nothing else may follow it yet."""
        return bool(self._records or self._left)

    def stalled(self, now: float, wait: float) -> bool:
        """Whether a batch has been without its answer for *wait* seconds."""
        return bool(self._records) and self._sent_at + wait <= now

    def wanted(self, now: float) -> bool:
        """Return whether new events are to be collected for ``parts``."""
        return bool(self._stream.batches) and now >= self._rest_until

    def parts(self, records: Sequence[Record], reply_prefix: str) -> list[bytes]:
        """
        Return the messages of *records*: a batch, if the stream takes them all.

        One event alone is none: its own acknowledgement says more, and costs the same.
        """
        last = len(records)
        parts: list[bytes] = []
        if last == 1 or not self._takes({record.subject for record in records}):
            for record in records:
                parts += record.parts(reply_prefix)
            return parts
        # Unique among all who publish to the stream, for as long as it exists.
        name = self._names.next().decode()
        self._name, self._records = name.encode(), list(records)
        self._sent_at = time.monotonic()
        self._denied.clear()
        begin = f"{reply_prefix}{name}.{_FLOW}.fail."
        for number, record in enumerate(records, 1):
            kind = _OPENS if number == 1 else _COMMITS if number == last else _BELONGS
            command = (
                f"HPUB {record.subject} {begin}{number}.{kind}.$FI "
                f"{len(record.header)} {record.size}\r\n"
            )
            parts += (command.encode(), record.header, record.value, b"\r\n")
        return parts

    def restart(self) -> None:
        """Forget the batch: its connection is gone, and all of it goes again."""
        self._records, self._left = [], []

    async def clear_up(self, connection: Connection) -> None:
        """What a batch has left behind goes again, but for what is not permitted."""
        if not self._left or not await connection.round_trip(READ_SECONDS):
            return
        # So all of it has been read, and each refusal by permissions has come.
        left, self._left = self._left, []
        counts = Counter(record.subject for record in left if record.outstanding)
        again: list[Record] = []
        for record in left:
            denied = self._denied[record.subject] if record.outstanding else 0
            if denied and denied >= counts[record.subject]:
                continue  # all of them: Refusals settles them
            if self._counted and not denied:
                record.turned_back()
            if record.outstanding:
                # With permissions that change: who knows which.
                self._refusals.gave_up((record,))
                record.interrupted()
            again.append(record)
        self._rest_until = time.monotonic() + REST_SECONDS
        self._go_on(again)

    # -- what the server says ------------------------------------------------------------

    def answered(self, name: bytes, data: bytes, status: str | None) -> None:
        """Sort an answer by the name that an event has in its batch."""
        fields = name.split(b".")
        if len(fields) != _FIELDS or fields[0] != self._name:
            return  # of a batch that is over
        digits = fields[3] if len(fields[3]) <= _MAX_DIGITS else b""
        number = int(digits) if digits.isdigit() else 0
        if not 0 < number <= len(self._records):
            return
        self._answers.last_at = time.monotonic()
        said = _read(data)
        error = said.get("error")
        if status == "503" or isinstance(error, dict):
            self._refused_one(number - 1, data, status, error or {})
            # A refusal that is told apart from the batch is followed by its end.
            if number == len(self._records) and said.get("type") != "err":
                self._end()
        elif type(said.get("count")) is int and isinstance(said.get("stream"), str):
            self._end(said["count"], Ack(stream=said["stream"]))

    def refused(self, subject: str) -> None:
        """Permissions refused an event, which never became a part of the batch."""
        self._denied[subject] += 1
        last = self._records[-1] if self._records else None
        if last is not None and last.subject == subject:
            self._end()  # perhaps nothing commits it

    def _refused_one(
        self, index: int, data: bytes, status: str | None, error: dict[str, Any]
    ) -> None:
        record = self._records[index]
        if record is None:
            return
        if error.get("err_code") in _OF_THE_BATCH:
            record.turned_back()  # and goes again at the end
        else:
            self._records[index] = None
            self._answers.answered(record.token, data, status)

    def _end(self, stored: int = 0, ack: Ack | None = None) -> None:
        """
        The batch is over.

        Args:
            stored: how many of it are stored, from the first on.
            ack: of each of them; None: how many are stored is not known.
        """
        records, self._records = self._records, []
        self._counted = ack is not None
        for number, record in enumerate(records, 1):
            if record is None:
                continue
            if ack is not None and number <= stored:
                self._answers.answered(record.token, ack, None)
            else:
                self._left.append(record)
        self._go_on(())

    def _takes(self, subjects: set[str]) -> bool:
        return all(
            any(covers(pattern, subject) for pattern in self._stream.batches)
            for subject in subjects
        )


def _read(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except (RecursionError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
