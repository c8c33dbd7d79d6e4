"""Records, the table they are in, and the gates that hold them: all without a network."""

import itertools
import logging
import time

import pytest

from support.recording_sink import RecordingSink, Sent

from eventbus_sync.backends.base import OutgoingMessage
from eventbus_sync.backends.nats.gates import (
    MAX_REPORTED,
    PROBE_MAX,
    PROBES_AT_ONCE,
    Gates,
)
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.record import Record, plain_message
from eventbus_sync.errors import (
    Abandoned,
    BrokerFull,
    BrokerUnavailable,
    DeliveryTimedOut,
    DestinationNotFound,
    MessageRefused,
    PublishError,
    PublishUnknown,
)


def message(topic: str = "orders", **more: object) -> OutgoingMessage:
    """Return a message as the bus makes it."""
    headers = [("X-Event-ID", "id-1"), ("X-Note", "é")]
    fields = {"key": "k", "value": b"body", "headers": headers, "event_id": "id-1"}
    return OutgoingMessage(topic, size=20, **{**fields, **more})  # type: ignore[arg-type]


def record(topic: str = "orders", deadline: float = 100.0) -> Record:
    """Return a record that was never written."""
    return Record(message(topic), Sent(), deadline)


@pytest.fixture
def pending() -> Pending:
    """An empty table."""
    return Pending()


def added(pending: Pending, *topics: str) -> list[Record]:
    """Return a record for each topic, in the table in that order."""
    records = [record(topic) for topic in topics]
    for one in records:
        pending.add(one)
    return records


# -- the bytes -------------------------------------------------------------------------


def test_event_on_the_wire() -> None:
    """Header with our message id, sizes in bytes, body verbatim."""
    one = record("orders")
    one.token = 7
    header = (
        "NATS/1.0\r\nX-Event-ID: id-1\r\nX-Note: é\r\nNats-Msg-Id: orders|id-1\r\n\r\n"
    )
    size = len(header.encode())
    assert b"".join(one.parts("_INBOX.x.")) == (
        f"HPUB orders _INBOX.x.7 {size} {size + 4}\r\n{header}body\r\n".encode()
    )
    assert one.size == size + 4


def test_promise_5_one_event_id_on_two_subjects_is_two_messages() -> None:
    """The id that a stream recognises repeats by names the subject too."""
    assert record("a").header != record("b").header
    assert record("a").header == record("a").header


def test_plain_messages_on_the_wire() -> None:
    """With headers and without; neither asks for an answer."""
    assert b"".join(plain_message(message("a", headers=[]))) == b"PUB a 4\r\nbody\r\n"
    header = "NATS/1.0\r\nX-Note: é\r\n\r\n"
    size = len(header.encode())
    with_header = plain_message(message("a", headers=[("X-Note", "é")]))
    assert b"".join(with_header) == (
        f"HPUB a {size} {size + 4}\r\n{header}body\r\n".encode()
    )


# -- what an outcome is ----------------------------------------------------------------


def test_never_written() -> None:
    """Rejected, whether time is up or the bus is closed."""
    one = record()
    assert type(one.timed_out("; why")) is BrokerUnavailable
    assert str(one.timed_out("; why")).endswith("; why")
    assert type(one.abandoned("; why")) is BrokerUnavailable
    assert str(one.abandoned("; why")).endswith("; why")


def test_on_the_wire() -> None:
    """Unknown: the answer may be on its way."""
    one = record()
    one.attempted(5.0)
    assert type(one.timed_out("")) is DeliveryTimedOut
    assert type(one.abandoned("")) is Abandoned
    full = BrokerFull("full")
    assert one.refused(full) is full


def test_no_stream_took_it() -> None:
    """Rejected, and its duplicate window has not begun."""
    one = record("nowhere")
    one.attempted(5.0)
    one.turned_away()
    assert (one.outstanding, one.written_at) == (False, 0.0)
    assert type(one.timed_out("")) is DestinationNotFound
    assert "'nowhere'" in str(one.timed_out(""))
    assert type(one.abandoned("")) is DestinationNotFound


def test_unanswered_attempts_make_it_unknown() -> None:
    """Once an attempt went unanswered, no refusal and no deadline is "rejected"."""
    one = record()
    one.attempted(5.0)
    one.interrupted()
    one.interrupted()
    assert (one.outstanding, one.unanswered) == (False, True)
    assert type(one.timed_out("")) is DeliveryTimedOut
    refusal = MessageRefused("too large")
    unknown = one.refused(refusal)
    assert type(unknown) is PublishUnknown
    assert unknown.__cause__ is refusal
    assert "too large" in str(unknown)
    already: PublishError = DeliveryTimedOut()
    assert one.refused(already) is already
    one.attempted(9.0)
    one.turned_away()
    # What may be stored has its window counted from the first attempt.
    assert (one.written_at, one.sent_at) == (5.0, 9.0)
    assert type(one.abandoned("")) is Abandoned


# -- the table -------------------------------------------------------------------------


def test_records_keep_their_order(pending: Pending) -> None:
    """Tokens count up, and iteration follows them, also while records leave."""
    records = added(pending, *"abcde")
    assert [r.token for r in records] == [0, 1, 2, 3, 4]
    assert pending.pop(1) is records[1]
    assert pending.pop(1) is None
    assert pending.get(1) is None
    assert pending.get(2) is records[2]
    left = []
    for one in pending:
        left.append(one.subject)
        pending.pop(one.token)
    assert left == ["a", "c", "d", "e"]
    assert len(pending) == 0


def test_expired_records_leave(pending: Pending) -> None:
    """The oldest first, and none before its time."""
    for deadline in (10.0, 10.0, 11.0, 12.0):
        pending.add(record(deadline=deadline))
    assert [r.token for r in pending.take_expired(10.0)] == [0, 1]
    assert [r.token for r in pending.take_expired(9.0)] == []
    assert [r.token for r in pending.take_expired(99.0)] == [2, 3]
    assert pending.take_expired(99.0) == []


def test_interrupted_marks_what_was_on_the_wire(pending: Pending) -> None:
    """And nothing else."""
    records = added(pending, "a", "b")
    records[0].attempted(1.0)
    pending.interrupted()
    assert [r.unanswered for r in records] == [True, False]


def test_stalled(pending: Pending) -> None:
    """Some attempt is on the wire for longer than the wait."""
    records = added(pending, "a", "b")
    assert not pending.stalled(100.0, 5.0)
    records[1].attempted(10.0)
    assert not pending.stalled(14.9, 5.0)
    assert pending.stalled(15.0, 5.0)
    records[1].turned_away()
    assert not pending.stalled(100.0, 5.0)


def test_take_all(pending: Pending) -> None:
    """Nothing is left."""
    records = added(pending, "a", "b")
    assert pending.take_all() == records
    assert len(pending) == 0


# -- gates -----------------------------------------------------------------------------


@pytest.fixture
def sink() -> RecordingSink:
    """What is told of subjects without a stream."""
    return RecordingSink()


@pytest.fixture
def gates(pending: Pending, sink: RecordingSink) -> Gates:
    """No gate."""
    return Gates(pending, sink)


def probed(gates: Gates, now: float) -> list[int]:
    """Return the tokens that are let through at *now*, on the wire from then on."""
    records = list(gates.due(now))
    for one in records:
        assert not gates.holds(one)
        one.attempted(now)
    return [one.token for one in records]


def turn_away(gates: Gates, one: Record) -> None:
    """The server has no stream for this record."""
    one.turned_away()
    gates.turned_away(one)


def test_one_message_at_a_time_is_tried(pending: Pending, gates: Gates) -> None:
    """The oldest, with pauses that double up to a second; the others wait."""
    a, b, c = added(pending, "x", "x", "x")
    assert not gates.holds(a)
    turn_away(gates, b)
    turn_away(gates, a)
    assert gates.holds(c)
    assert c.no_stream
    now = time.monotonic()
    assert probed(gates, now) == []
    times: list[float] = []
    while len(times) < 8:
        now += 0.01
        if tokens := probed(gates, now):
            assert tokens == [0]
            assert probed(gates, now + 100) == []  # its answer is awaited
            times.append(now)
            with_clock(gates, a, now)
    pauses = [y - x for x, y in itertools.pairwise(times)]
    assert pauses[0] < 0.2
    assert pauses[-1] == pytest.approx(PROBE_MAX, abs=0.05)
    assert pauses == sorted(pauses)


def with_clock(gates: Gates, one: Record, now: float) -> None:
    """Turn away at another time than now."""
    turn_away(gates, one)
    gate = gates._gates[one.subject]
    gate.probe_at += now - time.monotonic()


def test_an_answer_opens_the_gate(pending: Pending, gates: Gates) -> None:
    """What waited may follow, in order; what was settled meanwhile is left out."""
    assert gates.answered(record("x")) == []
    records = added(pending, *"xxxxy")
    turn_away(gates, records[4])
    for one in reversed(records[1:4]):
        turn_away(gates, one)
    pending.pop(2)
    assert gates.answered(records[0]) == [records[1], records[3]]
    assert len(gates) == 1
    assert gates.answered(records[0]) == []


def test_a_probe_that_is_settled_makes_way(pending: Pending, gates: Gates) -> None:
    """A probe that ends by its deadline is followed by the next in line."""
    a, b = added(pending, "x", "x")
    turn_away(gates, a)
    assert gates.holds(b)
    assert probed(gates, time.monotonic() + 1) == [0]
    pending.pop(a.token)
    assert probed(gates, time.monotonic() + 1) == [1]


def test_a_probe_that_may_not_be_sent_makes_way(pending: Pending, gates: Gates) -> None:
    """Nor does one that is past its duplicate window hold up the others."""
    a, b = added(pending, "x", "x")
    gates.passed_over(a)
    turn_away(gates, a)
    assert gates.holds(b)
    (probe,) = gates.due(time.monotonic() + 1)
    assert probe is a
    gates.passed_over(b)  # not the probe
    gates.passed_over(a)
    assert probed(gates, time.monotonic() + 1) == [1]


def test_gates_without_waiters_vanish(pending: Pending, gates: Gates) -> None:
    """When everything that waited is settled, nothing is kept."""
    for one in added(pending, *"xxxyz"):
        turn_away(gates, one)
    assert len(gates) == 3
    pending.take_all()
    assert list(gates.due(time.monotonic() + 1)) == []
    assert len(gates) == 0


def test_a_new_connection_probes_anew(pending: Pending, gates: Gates) -> None:
    """After a reconnect the oldest is tried at once; the others are held again."""
    records = added(pending, "x", "x")
    for one in records:
        turn_away(gates, one)
    gates.restart()
    assert [gates.holds(one) for one in records] == [True, True]
    assert probed(gates, time.monotonic()) == [0]


def test_many_subjects_take_turns(pending: Pending, gates: Gates) -> None:
    """No more than a number of probes at once, and each subject gets its turn."""
    subjects = [f"s{n}" for n in range(2 * PROBES_AT_ONCE + 10)]
    for one in added(pending, *subjects):
        turn_away(gates, one)
    now = time.monotonic() + 1
    first, second, third = (probed(gates, now) for _ in range(3))
    assert len(first) == len(second) == PROBES_AT_ONCE
    assert len(third) == 10
    assert len({*first, *second, *third}) == len(subjects)


def test_a_subject_without_a_stream_is_told_once(
    pending: Pending, gates: Gates, sink: RecordingSink
) -> None:
    """When a probe is refused, too; anew after a stream took it or a reconnect."""
    (one,) = added(pending, "orders.x")

    def refused_twice() -> None:
        gates.turned_away(one)
        for _ in range(3):
            assert probed(gates, time.monotonic() + 5) == [0]
            turn_away(gates, one)

    gates.turned_away(one)
    assert sink.reports == []  # the stream may only be moving
    refused_twice()
    (error,) = sink.reports
    assert isinstance(error, DestinationNotFound)
    assert "no stream takes subject 'orders.x'" in str(error)
    assert sink.logs == [(logging.WARNING, str(error))]
    gates.answered(one)
    refused_twice()
    assert len(sink.reports) == 2
    gates.restart()
    refused_twice()
    assert len(sink.reports) == 3


def test_few_subjects_without_a_stream_are_told(
    pending: Pending, gates: Gates, sink: RecordingSink
) -> None:
    """An error handler is not flooded by a service with a wrong prefix."""
    records = added(pending, *(f"s{n}" for n in range(MAX_REPORTED + 20)))
    for one in records:
        turn_away(gates, one)
    assert len(probed(gates, time.monotonic() + 5)) == len(records)
    for one in records:
        turn_away(gates, one)
    assert len(sink.reports) == MAX_REPORTED
