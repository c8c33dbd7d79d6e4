"""The parts that live on the NATS loop, one by one: clock, verdict, answers, order."""

import asyncio
import time

from typing import Any

import nats.errors
import pytest

from support.recording_sink import RecordingSink, Sent

from eventbus_sync._threads import Deadline
from eventbus_sync.backends._nats_answers import MAX_REPORTED, Answers
from eventbus_sync.backends._nats_gates import Gates
from eventbus_sync.backends._nats_handover import HandOver
from eventbus_sync.backends._nats_pending import Pending
from eventbus_sync.backends._nats_readiness import Readiness
from eventbus_sync.backends._nats_record import Record
from eventbus_sync.backends._nats_sender import Sender
from eventbus_sync.backends._nats_stream import StreamCheck
from eventbus_sync.backends._nats_watch import IDLE_TICK, TICK, Watch
from eventbus_sync.backends.base import OutgoingMessage
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import (
    AuthenticationFailed,
    BackendFailed,
    BrokerUnreachable,
    ConfigError,
    ConnectionLost,
    EventBusError,
    NotAuthorized,
    StreamInvalid,
)


def message(topic: str = "orders", value: bytes = b"{}") -> OutgoingMessage:
    """Return a message as the bus makes it."""
    return OutgoingMessage(topic, "k", value, [("X-Event-ID", "id")], "id", 20)


@pytest.fixture
def sink() -> RecordingSink:
    """What the back end tells."""
    return RecordingSink()


# -- the clock -------------------------------------------------------------------------


def test_clock(sink: RecordingSink) -> None:
    """Every job runs at every tick, whatever the others do; failures are told once."""
    ran: list[float] = []

    def fail(_: float) -> None:
        raise failures[0]

    failures: list[Exception] = [ValueError("one")]
    watch = Watch(sink, lambda: True, fail, ran.append)
    for now in (1.0, 2.0):
        watch.tick(now)
    failures[0] = KeyError("two")
    watch.tick(3.0)
    assert ran == [1.0, 2.0, 3.0]
    assert [type(error) for error in sink.reports] == [BackendFailed] * 2
    assert isinstance(sink.reports[0].__cause__, ValueError)


def test_an_idle_clock_ticks_more_slowly(
    sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But often enough to keep outcomes within two seconds of their deadline."""
    busy, slept = [True, False, True], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if not busy:
            raise asyncio.CancelledError

    monkeypatch.setattr("asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Watch(sink, lambda: busy.pop(0)).run())
    assert slept == [TICK, IDLE_TICK, TICK]
    assert IDLE_TICK + 1.5 < 2


# -- start() ---------------------------------------------------------------------------


def test_readiness() -> None:
    """Ready until something is lost; then it takes a new verdict."""
    readiness, asked = Readiness(), []

    def look() -> None:
        asked.append(True)
        readiness.ready()

    readiness.ready()
    readiness.wait(Deadline.after(0), look, "here")
    assert asked == []
    readiness.lost(ConnectionLost("gone"))
    readiness.wait(Deadline.after(0), look, "here")
    assert asked == [True]


def test_readiness_waits_out_what_may_pass() -> None:
    """An unreachable server is waited for; the last error is told."""
    readiness = Readiness()
    error = BrokerUnreachable("refused")
    with pytest.raises(BrokerUnreachable, match="in time at here: refused") as caught:
        readiness.wait(Deadline.after(0.1), lambda: readiness.failed(error), "here")
    assert caught.value.__cause__ is error
    readiness.lost(BrokerUnreachable("newer"))
    with pytest.raises(BrokerUnreachable, match="in time at here: newer"):
        readiness.wait(Deadline.after(0), lambda: None, "here")
    with pytest.raises(BrokerUnreachable, match="in time at there"):
        Readiness().wait(Deadline.after(0), lambda: None, "there")


@pytest.mark.parametrize("kind", [AuthenticationFailed, StreamInvalid, ConfigError])
def test_readiness_raises_what_lasts(kind: type[EventBusError]) -> None:
    """At once, each time anew, and not what was found out before."""
    readiness = Readiness()
    readiness.failed(kind("old"))
    new = kind("new")
    for _ in range(2):
        with pytest.raises(kind, match="new") as caught:
            readiness.wait(Deadline.after(60), lambda: readiness.failed(new), "here")
        assert caught.value is not new
        assert caught.value.__cause__ is new


# -- answers ---------------------------------------------------------------------------


def test_few_refusals_are_reported(sink: RecordingSink) -> None:
    """One report for each subject, and no more than some for each connection."""
    pending = Pending()
    gates = Gates(pending)
    answers = Answers(pending, gates, sink, lambda chunk: None, lambda records: None)
    cause = nats.errors.Error("no")
    for _ in range(3):
        for number in range(MAX_REPORTED + 20):
            answers.refused(f"subject.{number}", cause)
        answers.settle_denied()
    assert len(sink.reports) == MAX_REPORTED
    assert {type(error) for error in sink.reports} == {NotAuthorized}
    answers.interrupted()
    answers.refused("subject.0", cause)
    answers.settle_denied()
    assert len(sink.reports) == MAX_REPORTED + 1
    answers.flush()


class _NoConnection:
    """A connection that takes everything, and ends over a body that says so."""

    max_payload = 1000
    reply_prefix = "_INBOX.x."
    server = "nats://nowhere:1"

    def __init__(self) -> None:
        self.lost = False
        self.protocol_error = ""
        self.written: list[bytes] = []

    async def write(self, parts: tuple[bytes, ...]) -> None:
        self.written.append(parts[2])
        if parts[2] == b"poison":
            self.protocol_error = "Unknown Protocol Operation"
        self.lost = parts[2] in {b"poison", b"crash"}

    async def round_trip(self, seconds: float) -> None:
        assert seconds > 0


@pytest.mark.parametrize(
    ("bodies", "found", "written"),
    [
        ([b"good", b"settled", b"poison", b"later"], True, [b"good", b"poison"]),
        ([b"good", b"crash", b"poison"], False, [b"good", b"crash"]),
        ([b"good", b"fine"], False, [b"good", b"fine"]),
    ],
    ids=["found", "lost-otherwise", "all-good"],
)
def test_looking_for_what_ends_connections(
    sink: RecordingSink, bodies: list[bytes], found: bool, written: list[bytes]
) -> None:
    """One message at a time, until one ends the connection: it alone is settled."""
    pending, handover = Pending(), HandOver()
    stream = StreamCheck(NatsConfig(), sink, Readiness())
    sender = Sender(pending, Gates(pending), handover, stream, sink)
    records = [Record(message(value=body), Sent(), 1e9) for body in bodies]
    for one in records:
        pending.add(one)
    sender.restart()
    for one in records:
        if one.value == b"settled":
            pending.pop(one.token)
    connection: Any = _NoConnection()
    assert asyncio.run(sender.find_culprit(connection)) is found
    assert connection.written == written
    refused = [one.value for one in records if sink.of(one.delivery)]
    assert refused == ([b"poison"] if found else [])
    left = [one.value for one in pending]
    assert left == [body for body in bodies if body not in {b"settled", *refused}]


def test_a_probe_past_its_window_makes_way(sink: RecordingSink) -> None:
    """An event that may not be sent again does not keep its subject closed."""
    pending, handover = Pending(), HandOver()
    gates = Gates(pending)
    stream = StreamCheck(NatsConfig(), sink, Readiness())
    stream.window = 5.0  # no repeat at all
    sender = Sender(pending, gates, handover, stream, sink)
    old, new = (Record(message(), Sent(n), 1e9) for n in range(2))
    handover.events += (old, new)
    connection: Any = _NoConnection()
    assert len(sender.next_parts(connection)) == 8
    pending.interrupted()
    for one in (old, new):
        gates.turned_away(one)
    new.unanswered, new.written_at = False, 0.0
    now = time.monotonic() + 1
    sender.release(list(gates.due(now)))
    assert sender.next_parts(connection) == []
    sender.release(list(gates.due(now)))
    assert len(sender.next_parts(connection)) == 4
    assert new.outstanding
    assert not old.outstanding
