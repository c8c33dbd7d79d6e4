"""The parts that live on the NATS loop, one by one: clock, verdict, answers, order."""

import asyncio
import time

from collections.abc import Callable
from typing import Any

import nats.errors
import pytest

from support.recording_sink import RecordingSink, Sent

from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import OutgoingMessage
from eventbus_sync.backends.nats import sender as _nats_sender
from eventbus_sync.backends.nats.answers import Answers
from eventbus_sync.backends.nats.batches import Batches
from eventbus_sync.backends.nats.culprit import Culprit
from eventbus_sync.backends.nats.gates import Gates
from eventbus_sync.backends.nats.handover import HandOver
from eventbus_sync.backends.nats.patience import Patience
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.readiness import Readiness
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.backends.nats.refusals import Refusals
from eventbus_sync.backends.nats.sender import Sender
from eventbus_sync.backends.nats.stream import StreamCheck
from eventbus_sync.backends.nats.watch import IDLE_TICK, TICK, Watch
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import (
    AuthenticationFailed,
    BackendFailed,
    BrokerUnreachable,
    ConfigError,
    ConnectionLost,
    EventBusError,
    StreamInvalid,
)


def message(topic: str = "orders", value: bytes = b"{}") -> OutgoingMessage:
    """Return a message as the bus makes it."""
    return OutgoingMessage(topic, "k", value, [("X-Event-ID", "id")], "id", 20)


def make_sender(
    pending: Pending,
    gates: Gates,
    handover: HandOver,
    stream: StreamCheck,
    sink: RecordingSink,
) -> Sender:
    """Return a sender of single events, which nobody listens to."""
    answers = Answers(
        pending, gates, lambda chunk: None, lambda records: None, Patience(5, 30)
    )
    refusals = Refusals(pending, sink)
    batches = Batches(stream, answers, refusals, lambda records: None)
    return Sender(pending, gates, handover, stream, sink, batches, refusals)


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
    no_answer = "in time at there: no answer so far; is a NATS server running"
    with pytest.raises(BrokerUnreachable, match=no_answer):
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


# -- patience --------------------------------------------------------------------------


def test_patience_grows_with_each_silence_up_to_delivery_timeout() -> None:
    """Doubled for each connection that was given up, until an answer comes in time."""
    patience = Patience(5, 30)
    assert not patience.strained
    waits = [patience.wait]
    for _ in range(4):
        patience.given_up()
        waits.append(patience.wait)
    assert waits == [5, 10, 20, 30, 30]
    patience.answered(5.5)
    assert (patience.wait, patience.strained) == (30, True)
    patience.answered(0.01)
    assert (patience.wait, patience.strained) == (5, False)


# -- order ---------------------------------------------------------------------------


class _NoConnection:
    """A connection that takes everything, and ends over a body that says so."""

    max_payload = 1000
    reply_prefix = "_INBOX.x."
    server = "nats://nowhere:1"
    server_id = "ONE"

    def __init__(self, answer: Callable[[int], object] = lambda token: None) -> None:
        self.opened_at = time.monotonic()
        self.lost = self.ended_by_server = False
        self.protocol_error = ""
        self.written: list[bytes] = []
        self._answer = answer

    async def write(self, parts: tuple[bytes, ...]) -> None:
        body = parts[2]
        self.written.append(body)
        if body == b"poison":
            self.protocol_error = "Unknown Protocol Operation"
        self.lost = body in {b"poison", b"quiet poison", b"stall"}
        self.ended_by_server = body != b"stall"
        if not self.lost:
            token = int(parts[0].split()[2].rpartition(b".")[2])
            asyncio.get_running_loop().call_later(0.01, self._answer, token)

    async def round_trip(self, _: float) -> bool:
        return not self.lost


@pytest.mark.parametrize(
    ("bodies", "refused", "written"),
    [
        ([b"good", b"settled", b"poison", b"new"], [b"poison"], [b"good", b"poison"]),
        ([b"good", b"stall", b"poison"], [], [b"good", b"stall"]),
        ([b"good", b"quiet poison", b"new"], [], [b"good", b"quiet poison"]),
        ([b"good", b"fine"], [], [b"good", b"fine"]),
    ],
    ids=["culprit", "stalled", "not-yet-sure", "all-good"],
)
def test_one_by_one(
    sink: RecordingSink, bodies: list[bytes], refused: list[bytes], written: list[bytes]
) -> None:
    """Each alone, until one ends the connection; only what is guilty is settled."""
    pending, handover = Pending(), HandOver()
    stream = StreamCheck(NatsConfig(), sink, Readiness())
    sender = make_sender(pending, Gates(pending, sink), handover, stream, sink)
    records = [Record(message(value=body), Sent(), 1e9) for body in bodies]
    for one in records:
        pending.add(one)
    sender.restart()
    for one in records:
        if one.value == b"settled":
            pending.pop(one.token)
    connection: Any = _NoConnection(pending.pop)
    asyncio.run(sender.send_one_by_one(connection, Culprit()))
    assert connection.written == written
    assert [one.value for one in records if sink.of(one.delivery)] == refused


def test_one_by_one_with_permissions_in_doubt(sink: RecordingSink) -> None:
    """A fence goes behind each, so that it is known which one is refused."""
    pending = Pending()
    stream = StreamCheck(NatsConfig(), sink, Readiness())
    sender = make_sender(pending, Gates(pending, sink), HandOver(), stream, sink)
    refusals = sender._refusals
    records = [Record(message(value=b"%d" % n), Sent(n), 1e9) for n in range(3)]
    for one in records:
        pending.add(one)
    sender.restart()
    refusals.refused("orders", nats.errors.Error("no"))
    connection: Any = _NoConnection()
    passed: list[Callable[[], None]] = []

    def fence(call: Callable[[], None]) -> bytes:
        passed.append(call)
        return b"PING\r\n"

    connection.fence = fence
    asyncio.run(sender.send_one_by_one(connection, Culprit()))
    assert connection.written == [b"0", b"1", b"2"]
    assert len(passed) == 3
    passed[0]()
    refusals.refused("orders", nats.errors.Error("no"))
    passed[1]()
    assert [one.value for one in records if sink.of(one.delivery)] == [b"1"]


def test_one_by_one_takes_its_time_and_no_more(
    sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it takes long, what is left goes the usual way."""
    monkeypatch.setattr(_nats_sender, "ONE_BY_ONE_SECONDS", 0.0)
    pending, handover = Pending(), HandOver()
    stream = StreamCheck(NatsConfig(), sink, Readiness())
    sender = make_sender(pending, Gates(pending, sink), handover, stream, sink)
    pending.add(Record(message(), Sent(), 1e9))
    sender.restart()
    connection: Any = _NoConnection()
    asyncio.run(sender.send_one_by_one(connection, Culprit()))
    assert connection.written == []
    assert not sender.idle


def test_new_events_are_written_a_batch_at_a_time(sink: RecordingSink) -> None:
    """So many small ones, or so few large ones: after that answers get their turn."""
    pending, handover = Pending(), HandOver()
    stream = StreamCheck(NatsConfig(), sink, Readiness())
    sender = make_sender(pending, Gates(pending, sink), handover, stream, sink)
    connection: Any = _NoConnection()
    most, room = _nats_sender.BATCH_MESSAGES, _nats_sender.BATCH_BYTES
    connection.max_payload = room
    for value, count in ((b"small", most), (b"x" * (room // 4), 4)):
        waiting = [Record(message(value=value), Sent(n), 1e9) for n in range(most + 1)]
        handover.events.extend(waiting)
        parts = sender.next_parts(connection)
        assert parts.count(value) == count
        assert [one.outstanding for one in waiting].count(True) == count
        handover.events.clear()


def ended(culprit: Culprit, *, age: float = 0.0, **attributes: Any) -> Any:
    """Return a connection that the server ended, after telling *culprit*."""
    connection: Any = _NoConnection()
    connection.opened_at -= age
    connection.ended_by_server = True
    for name, value in attributes.items():
        setattr(connection, name, value)
    culprit.ended(connection)
    return connection


def test_when_a_culprit_is_wanted() -> None:
    """After two connections that the server ended, one soon, or one if it says why."""
    culprit = Culprit()
    ended(culprit, age=100)
    assert not culprit.wanted
    ended(culprit)
    assert culprit.wanted
    ended(culprit, age=100)
    assert not culprit.wanted
    # Ended by us, since nothing was acknowledged: that is nobody's fault.
    ended(culprit, ended_by_server=False)
    ended(culprit)
    assert not culprit.wanted
    culprit.server_was_away()
    ended(culprit)
    assert not culprit.wanted
    ended(culprit, age=100, protocol_error="maximum payload")
    assert culprit.wanted
    culprit.server_was_away()
    assert not culprit.wanted


def test_who_is_the_culprit() -> None:
    """The event over which two connections ended in a row, or one with a reason."""
    culprit = Culprit()
    assert not culprit.is_it(1, ended(culprit))
    assert not culprit.is_it(2, ended(culprit))
    assert culprit.is_it(2, ended(culprit))
    assert culprit.wanted  # there may be more of its kind
    assert not culprit.is_it(3, ended(culprit))
    assert culprit.is_it(4, ended(culprit, protocol_error="maximum payload"))


def server_was_away(culprit: Culprit) -> None:
    """Between two connections no server took us."""
    culprit.server_was_away()


def server_stalled(culprit: Culprit) -> None:
    """Between two connections one was ended by us."""
    assert not culprit.is_it(7, ended(culprit, ended_by_server=False))


def server_read_it(culprit: Culprit) -> None:
    """Between two connections the server had nothing against the event."""
    culprit.is_not(7)


def server_died_of_another(culprit: Culprit) -> None:
    """Between two connections one ended over another event."""
    assert not culprit.is_it(8, ended(culprit))


def server_restarted(culprit: Culprit) -> None:
    """The server ended, and was started again at once."""
    assert not culprit.is_it(7, ended(culprit, server_id="TWO"))


@pytest.mark.parametrize(
    "between",
    [
        server_was_away,
        server_stalled,
        server_read_it,
        server_died_of_another,
        server_restarted,
    ],
)
def test_who_is_not_the_culprit(between: Callable[[Culprit], None]) -> None:
    """An event that was only unlucky twice."""
    culprit = Culprit()
    assert not culprit.is_it(7, ended(culprit))
    between(culprit)
    assert not culprit.is_it(7, ended(culprit))
    culprit.is_not(6)
    assert culprit.is_it(7, ended(culprit))


def test_a_probe_past_its_window_makes_way(sink: RecordingSink) -> None:
    """An event that may not be sent again does not keep its subject closed."""
    pending, handover = Pending(), HandOver()
    gates = Gates(pending, sink)
    stream = StreamCheck(NatsConfig(), sink, Readiness())
    stream.window = 5.0  # no repeat at all
    sender = make_sender(pending, gates, handover, stream, sink)
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
