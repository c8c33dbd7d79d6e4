"""
Which messages the server's permissions refused: it names the subject, not the message.

For each it writes an ``-ERR``, and no answer comes; nor can it be told by age, since an
answer of the stream may be late. But the server handles what is written in order, so each
``-ERR`` stands before the ``PONG`` to the next ``PING``, a *fence*. Of the messages to one
subject between two fences as many stay unanswered as were refused: where no more than
that are without an answer, those are the ones. Until then each of them may be stored.

As long as nothing is refused no event is noted down for this, and a fence is written only
behind what nobody answers. A chunk then is everything since the last fence, and more:
too many candidates only delay a verdict, until they are answered. Lives on the loop thread.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from eventbus_sync.backends.base import Settlement, Sink
from eventbus_sync.backends.nats.connection import Connection
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.errors import NotAuthorized


#: Subjects whose refusal has been reported; more are only settled.
MAX_REPORTED: Final = 100
#: For so long after a refusal everything that is written is noted down, in seconds.
CALM_SECONDS: Final = 10.0


class _Chunk:
    """What was written between two fences; without *records* they are not known."""

    __slots__ = ("records", "refused", "silent")

    def __init__(self, records: dict[Record, None] | None) -> None:
        self.records = records
        # How many to each subject, and why.
        self.refused: dict[str, tuple[int, Exception]] = {}
        # What stays unanswered for another reason: plain messages, and what was given up.
        self.silent: Counter[str] = Counter()


class _Doubt:
    """Unanswered messages of a chunk to one subject, of which some were refused."""

    __slots__ = ("error", "records", "sure")

    def __init__(self, sure: int, error: Exception) -> None:
        self.records: dict[Record, None] = {}
        # So many of them were refused, at least.
        self.sure = sure
        self.error = error


class Refusals:
    """
    Settles what permissions refused, once it is certain which events that were.

    Args:
        pending: the table of records.
        sink: is told of what is refused.
        wake: has a fence written that is ``due``.

    Attributes:
        watching: whether ``wrote`` wants to be told of every event.
        due: whether a fence is to be written behind what is written next.
    """

    def __init__(
        self, pending: Pending, sink: Sink, wake: Callable[[], None] = lambda: None
    ) -> None:
        self.watching = False
        self.due = False
        self._pending = pending
        self._sink = sink
        self._wake = wake
        self._open = _Chunk(None)
        # The chunks whose fence has been written, and not come back.
        self._fenced: deque[_Chunk] = deque()
        self._doubts: list[_Doubt] = []
        self._refused_at: float | None = None
        self._reported: set[str] = set()

    # -- what is written -----------------------------------------------------------------

    def wrote(self, records: Iterable[Record]) -> None:
        """Events are written now; called while ``watching``."""
        if self._open.records is not None:
            self._open.records.update(dict.fromkeys(records))
        self.due = True

    def plain(self, subject: str) -> None:
        """A message that nobody answers is written now."""
        self._open.silent[subject] += 1

    def fence(self, connection: Connection) -> bytes:
        """Return the fence, to be written at once, behind all that was written before."""
        self.due = False
        self._fenced.append(self._open)
        self._open = _Chunk({} if self.watching else None)
        return connection.fence(self._passed)

    # -- what becomes of it --------------------------------------------------------------

    def refused(self, subject: str, error: Exception) -> None:
        """One message to *subject* was refused: no answer will come."""
        chunk = self._fenced[0] if self._fenced else self._open
        count, _ = chunk.refused.get(subject, (0, error))
        chunk.refused[subject] = (count + 1, error)
        self._refused_at = None
        if not self.watching:
            self.watching = self.due = True
            self._wake()
        if subject not in self._reported and len(self._reported) < MAX_REPORTED:
            self._reported.add(subject)
            self._sink.report(_not_authorized(subject, error))

    def gave_up(self, records: Iterable[Record]) -> None:
        """Nobody waits for an answer to *records* any more, though it may still come."""
        for record in records:
            for chunk in (*self._fenced, self._open):
                if chunk.records is None or record in chunk.records:
                    chunk.silent[record.subject] += 1
            for doubt in self._doubts:
                if record in doubt.records:
                    del doubt.records[record]
                    doubt.sure -= 1

    def look(self, now: float) -> None:
        """Settle what has become certain; called now and then."""
        self._doubts = self._settle(self._doubts)
        if self._open.silent and not self.due:
            # Or what nobody answers would be in the way of a verdict for good.
            self.due = True
            self._wake()
        if self._refused_at is None:
            self._refused_at = now
        elif self.watching and now > self._refused_at + CALM_SECONDS:
            self.watching = False
            self._open.records = None

    def interrupted(self) -> None:
        """The connection is gone: settle what is certain, and leave the rest in doubt."""
        for chunk in (*self._fenced, self._open):
            if chunk.refused:
                self._doubts += self._in_doubt(chunk)
        doubts, self._doubts = self._doubts, []
        self._fenced.clear()
        self._open = _Chunk(None)
        self.watching = self.due = False
        self._reported.clear()
        self._settle(doubts)

    def _passed(self) -> None:
        """A fence came back: so has each refusal of what was written before it."""
        chunk = self._fenced.popleft()
        if chunk.refused:
            self._doubts += self._settle(self._in_doubt(chunk))

    def _in_doubt(self, chunk: _Chunk) -> list[_Doubt]:
        doubts = {
            subject: _Doubt(count - chunk.silent[subject], error)
            for subject, (count, error) in chunk.refused.items()
        }
        for record in self._pending if chunk.records is None else chunk.records:
            if record.subject in doubts:
                doubts[record.subject].records[record] = None
        return list(doubts.values())

    def _settle(self, doubts: Sequence[_Doubt]) -> list[_Doubt]:
        """Settle what is certain, and return what is not yet and may still be."""
        left: list[_Doubt] = []
        chunk: list[Settlement] = []
        for doubt in doubts:
            unanswered = [
                record
                for record in doubt.records
                if record.outstanding and self._pending.get(record.token) is record
            ]
            if len(unanswered) <= doubt.sure:
                for record in unanswered:
                    self._pending.pop(record.token)
                    refusal = _not_authorized(record.subject, doubt.error)
                    chunk.append((record.delivery, record.refused(refusal)))
            elif doubt.sure > 0:
                doubt.records = dict.fromkeys(unanswered)
                left.append(doubt)
        if chunk:
            self._sink.settle(chunk)
        return left


def _not_authorized(subject: str, error: Exception) -> NotAuthorized:
    refusal = NotAuthorized(
        f"these credentials may not publish to {subject!r}: {error}"
    )
    refusal.__cause__ = error
    return refusal
