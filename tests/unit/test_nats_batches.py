"""Batches to JetStream: what each answer means for each event, without a server."""

import asyncio
import time

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from support.recording_sink import RecordingSink, Sent

from eventbus_sync.backends.base import Ack, OutgoingMessage
from eventbus_sync.backends.nats.answers import Answered, Answers
from eventbus_sync.backends.nats.batches import Batches
from eventbus_sync.backends.nats.gates import Gates
from eventbus_sync.backends.nats.patience import Patience
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.readiness import Readiness
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.backends.nats.refusals import Refusals
from eventbus_sync.backends.nats.stream import StreamCheck
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import NotAuthorized


PROGRESS = b'{"type":"ack","seq":3,"msgs":500}'
GAP = b'{"type":"gap","last_seq":2,"seq":3}'
FULL = (
    b'"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}'
)
NOWHERE = b'{"stream":[],"count":3}'
UNKNOWN_ID = b'{"error":{"code":400,"err_code":10208,"description":"unknown"},"seq":0}'


def committed(count: int) -> bytes:
    """Return the acknowledgement of a batch."""
    return b'{"stream":"S","seq":99,"batch":"x","count":%d}' % count


class Wire:
    """A connection that remembers whether it was asked to go there and back."""

    def __init__(self, *, works: bool = True) -> None:
        self.works = works
        self.trips = 0

    async def round_trip(self, _: float) -> bool:
        self.trips += 1
        return self.works


class Batch:
    """One batch on the wire, of one event to each of *subjects*."""

    def __init__(self, *subjects: str) -> None:
        self.sink = RecordingSink()
        self.pending = Pending()
        # The stream that an event is stored in, or its own answer.
        self.said: dict[Record, bytes | str | None] = {}
        self.again: list[list[Record]] = []
        stream = StreamCheck(NatsConfig(), self.sink, Readiness())
        stream.batches = ("s.*", "t")
        self.answers = Answers(
            self.pending,
            Gates(self.pending, self.sink),
            self._take,
            lambda records: None,
            Patience(5, 30),
        )
        self.refusals = Refusals(self.pending, self.sink)
        self.batches = Batches(stream, self.answers, self.refusals, self._go_on)
        self.records = [self._record(subject) for subject in subjects]
        self.parts = self.batches.parts(self.records, "_INBOX.x.")
        self.name = self.parts[0].split()[2].split(b".")[2]

    def _record(self, subject: str) -> Record:
        message = OutgoingMessage(subject, "k", b"{}", [], "id", 2)
        record = Record(message, Sent(), 1e9)
        self.pending.add(record)
        record.attempted(1.0)
        return record

    def _take(self, chunk: Sequence[Answered]) -> None:
        for record, said in chunk:
            self.said[record] = said.stream if isinstance(said, Ack) else said

    def _go_on(self, records: Sequence[Record]) -> None:
        self.again.append(list(records))

    def answer(self, number: int | str, data: bytes, status: str | None = None) -> None:
        """The server answers the event with this number."""
        name = b"%s.500.fail.%s.1.$FI" % (self.name, str(number).encode())

        async def run() -> None:
            self.batches.answered(name, data, status)
            await asyncio.sleep(0)

        asyncio.run(run())

    def clear_up(self, wire: Wire | None = None) -> list[Record]:
        """Return what goes again."""
        connection: Any = wire or Wire()
        asyncio.run(self.batches.clear_up(connection))
        return self.again[-1] if self.again else []


# -- on the wire -----------------------------------------------------------------------


def test_a_batch_is_opened_continued_and_committed() -> None:
    """Each event says which one it is, and the last one that it is the last."""
    batch = Batch("s.1", "s.2", "t")
    replies = [part.split()[2] for part in batch.parts[::4]]
    begin = b"_INBOX.x.%s.500.fail." % batch.name
    assert replies == [begin + end for end in (b"1.0.$FI", b"2.1.$FI", b"3.2.$FI")]
    assert len(batch.name) <= 64  # the server's limit
    assert batch.batches.open


@pytest.mark.parametrize("subjects", [["t"], ["t", "u"], ["s.1", "s.1.2"]])
def test_what_is_no_batch(subjects: list[str]) -> None:
    """One event alone, and what another stream may take, has replies of its own."""
    batch = Batch(*subjects)
    replies = [part.split()[2] for part in batch.parts[::4]]
    assert replies == [f"_INBOX.x.{n}".encode() for n in range(len(subjects))]
    assert not batch.batches.open


# -- all is well -----------------------------------------------------------------------


def test_a_committed_batch_is_acked_as_a_whole() -> None:
    """Progress and gaps are no outcome; the count is."""
    batch = Batch("t", "t", "t")
    for news in (PROGRESS, GAP, b"[]", b"no JSON", b'{"count":true}', NOWHERE):
        batch.answer(1, news)
    assert batch.batches.open
    assert not batch.said
    batch.answer(3, committed(3))
    assert batch.said == dict.fromkeys(batch.records, "S")
    assert batch.again == [[]]
    assert not batch.batches.open
    wire = Wire()
    assert batch.clear_up(wire) == []
    assert not wire.trips
    assert batch.batches.wanted(time.monotonic())


def test_a_batch_without_an_answer_has_stalled() -> None:
    """Also when all of its events are settled, so that nobody else waits for it."""
    batch = Batch("s.1", "s.2")
    for record in batch.records:
        batch.pending.pop(record.token)
    now = time.monotonic()
    assert not batch.batches.stalled(now, 5)
    assert batch.batches.stalled(now + 5, 5)
    batch.batches.restart()
    assert not batch.batches.stalled(now + 5, 5)


def test_answers_that_belong_to_nothing() -> None:
    """Of another batch, of no event, of no form: they change nothing."""
    batch = Batch("t", "t")
    for number in (0, 3, "x", "", "1" * 5000):
        batch.answer(number, committed(2))
    batch.batches.answered(b"other.500.fail.2.2.$FI", committed(2), None)
    batch.batches.answered(batch.name, committed(2), None)
    assert batch.batches.open
    batch.answer(2, committed(2))
    batch.answer(2, committed(2))  # once more
    assert len(batch.again) == 1


# -- something is not ------------------------------------------------------------------


def test_an_event_that_is_refused() -> None:
    """It has its own answer; what comes behind it goes again, as if never sent."""
    batch = Batch("t", "t", "t", "t")
    refusal = b'{"type":"err","seq":2,%s}' % FULL
    batch.answer(2, refusal)
    batch.answer(2, committed(1))
    batch.answer(3, UNKNOWN_ID)  # too late to mean anything
    first, second, *rest = batch.records
    assert batch.said == {first: "S", second: refusal}
    assert batch.batches.open
    assert batch.clear_up() == rest
    assert not batch.batches.open
    assert not any(r.outstanding or r.unanswered or r.written_at for r in rest)
    assert not batch.batches.wanted(time.monotonic())


def test_the_last_event_is_refused_as_part_of_the_batch() -> None:
    """Then the end of the batch is still to come."""
    batch = Batch("t", "t")
    batch.answer(2, b'{"type":"err","seq":2,%s}' % FULL)
    assert batch.batches.open
    batch.answer(2, committed(1))
    assert batch.clear_up() == []
    assert len(batch.said) == 2


def test_the_last_event_is_refused_before_the_batch() -> None:
    """Nothing commits it: what is not answered may be stored, and goes again."""
    batch = Batch("t", "t", "t")
    batch.answer(2, b"", "503")
    batch.answer(2, b'{"error":{"err_code":[]}}')  # nobody answers twice
    batch.answer(3, b"{%s}" % FULL)
    first, second, last = batch.records
    assert set(batch.said) == {last}
    assert second.no_stream
    assert batch.clear_up() == [first]
    assert first.unanswered


def test_no_batch_is_taken_any_more() -> None:
    """It is refused as a batch, event by event: all of it goes again, as if never sent."""
    batch = Batch("t", "t")
    batch.answer(1, UNKNOWN_ID)
    assert batch.batches.open
    batch.answer(2, UNKNOWN_ID)
    assert batch.clear_up() == batch.records
    assert not any(record.unanswered for record in batch.records)
    assert not batch.said


def test_a_connection_that_is_lost() -> None:
    """What a batch left is not sent twice: a new connection begins with everything."""
    batch = Batch("t", "t")
    batch.answer(2, committed(1))
    assert batch.clear_up(Wire(works=False)) == []
    assert batch.batches.open
    batch.batches.restart()
    assert not batch.batches.open
    assert batch.clear_up() == []


# -- permissions -----------------------------------------------------------------------


def deny(batch: Batch, subject: str) -> None:
    """The server's permissions refuse one message to *subject*."""
    batch.refusals.refused(subject, Exception("no"))
    batch.batches.refused(subject)


@pytest.mark.parametrize(
    "end",
    [lambda b: b.answer(3, committed(1)), lambda b: deny(b, "s.2")],
    ids=["gap", "last"],
)
def test_events_that_are_not_permitted(end: Callable[[Batch], None]) -> None:
    """They don't go again, and are rejected; what stands between them does."""
    batch = Batch("s.1", "s.2", "s.1", "s.2")
    deny(batch, "s.2")
    if batch.batches._records:
        end(batch)
    deny(batch, "s.2")
    again = batch.clear_up()
    assert {record.subject for record in again} == {"s.1"}
    batch.refusals.interrupted()
    refused = [batch.sink.of(record.delivery) for record in batch.records[1::2]]
    assert all(isinstance(said, NotAuthorized) for (said,) in refused)


@pytest.mark.parametrize("counted", [True, False])
def test_permissions_that_change_in_a_batch(counted: bool) -> None:
    """Where it is not known which event was refused, none is called rejected."""
    batch = Batch("s.1", "s.2", "t") if counted else Batch("s.2", "t", "s.2")
    extra = batch.records[1]
    if counted:
        batch.answer(3, committed(0))
        batch.records[2].subject = extra.subject
        batch.batches.refused(extra.subject)
    else:
        batch.batches.refused("s.2")
        batch.batches.refused("s.3")
    again = batch.clear_up()
    assert again == batch.records
    unsure = [record for record in again if record.unanswered]
    assert unsure == (batch.records[1:] if counted else batch.records)


def test_a_refusal_while_the_last_event_is_settled() -> None:
    """Permissions that refuse an earlier event end nothing."""
    batch = Batch("s.1", "t")
    batch.answer(2, b'{"type":"err","seq":2,%s}' % FULL)
    batch.batches.refused("s.1")
    batch.batches.refused("t")
    assert batch.batches.open
