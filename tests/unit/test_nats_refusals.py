"""Which events the server's permissions refused, by what it says and in which order."""

from collections.abc import Callable
from typing import Any

import nats.errors
import pytest

from support.recording_sink import RecordingSink, Sent

from eventbus_sync.backends.base import OutgoingMessage
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.backends.nats.refusals import (
    CALM_SECONDS,
    MAX_REPORTED,
    Refusals,
)
from eventbus_sync.errors import NotAuthorized


class Scene:
    """Events on the wire, and what the server says of them."""

    def __init__(self) -> None:
        self.sink = RecordingSink()
        self.pending = Pending()
        self.woken = 0
        self.refusals = Refusals(self.pending, self.sink, self._wake)
        self._fences: list[Callable[[], None]] = []

    def _wake(self) -> None:
        self.woken += 1

    def fence(self, passed: Callable[[], None]) -> bytes:
        """Stand in for a connection."""
        self._fences.append(passed)
        return b"PING\r\n"

    def write(self, *subjects: str) -> list[Record]:
        """Write events at once, and a fence behind them where it is due."""
        records = []
        for subject in subjects:
            message = OutgoingMessage(subject, "k", b"{}", [], "id", 2)
            record = Record(message, Sent(), 1e9)
            self.pending.add(record)
            record.attempted(1.0)
            records.append(record)
        if self.refusals.watching:
            self.refusals.wrote(records)
        self.write_fence()
        return records

    def write_fence(self) -> None:
        """Write a fence, if it is due."""
        connection: Any = self
        if self.refusals.due:
            assert self.refusals.fence(connection) == b"PING\r\n"

    def deny(self, subject: str = "s") -> None:
        """The server refuses a message."""
        self.refusals.refused(subject, nats.errors.Error("no"))

    def pong(self) -> None:
        """The oldest fence comes back."""
        self._fences.pop(0)()

    def ack(self, *records: Record) -> None:
        """A stream has stored them."""
        for record in records:
            assert self.pending.pop(record.token) is record

    def rejected(self, records: list[Record]) -> list[Record]:
        """Those that were settled as such."""
        said = {record: self.sink.of(record.delivery) for record in records}
        assert all(
            isinstance(one, NotAuthorized)
            for outcomes in said.values()
            for one in outcomes
        )
        assert all(len(outcomes) <= 1 for outcomes in said.values())
        return [record for record in records if said[record]]


@pytest.fixture
def scene() -> Scene:
    """Return a scene without events."""
    return Scene()


def test_promise_1_a_late_ack_is_not_taken_for_a_refusal(scene: Scene) -> None:
    """However late it is, what was accepted is not rejected; the other one is."""
    records = stored, denied = scene.write("s", "s")
    scene.deny()
    assert scene.woken == 1
    scene.write_fence()
    scene.pong()
    for now in range(100):
        scene.refusals.look(float(now))
    assert scene.rejected(records) == []
    scene.ack(stored)
    scene.refusals.look(100.0)
    assert scene.rejected(records) == [denied]


def test_refused_at_once_where_nothing_else_is_unanswered(scene: Scene) -> None:
    """Older events wait for their acks; what is written to it now is settled at once."""
    old = scene.write("s", "s", "t")
    scene.deny()
    scene.write_fence()
    new = scene.write("s", "s", "t")
    scene.pong()
    scene.deny()
    scene.deny()
    scene.pong()
    assert scene.rejected(old) == []
    assert scene.rejected(new) == new[:2]
    scene.ack(old[0])
    scene.refusals.look(1.0)
    assert scene.rejected(old) == [old[1]]
    assert [*scene.pending] == [old[2], new[2]]


def test_a_refusal_belongs_to_what_was_written_before_the_fence(scene: Scene) -> None:
    """Granted in between: what came behind is not refused, though it is unanswered."""
    old = scene.write("s")
    scene.deny()
    scene.write_fence()
    first, second = scene.write("s"), scene.write("s")
    scene.pong()
    scene.deny()
    scene.pong()
    scene.pong()
    assert scene.rejected([*first, *second]) == first
    # The first of all could not be told from what followed until that was settled.
    assert scene.rejected(old) == []
    scene.ack(*second)
    scene.refusals.look(1.0)
    assert scene.rejected(old) == old


def test_plain_messages_are_refused_as_well(scene: Scene) -> None:
    """A refusal may be theirs, so it is not put down to an event."""
    records = scene.write("s", "s")
    scene.refusals.plain("s")
    scene.deny()
    scene.write_fence()
    scene.pong()
    scene.ack(records[0])
    scene.refusals.look(1.0)
    assert scene.rejected(records) == []
    # All three of them: no doubt is possible.
    records = scene.write("s", "s")
    scene.refusals.plain("s")
    for _ in range(2):
        scene.deny()
    scene.pong()
    assert scene.rejected(records) == records


def test_plain_messages_of_long_ago_are_in_nobodys_way(scene: Scene) -> None:
    """A fence behind them, now and then, ends what they may be mixed up with."""
    for _ in range(100):
        scene.refusals.plain("s")
    scene.refusals.look(1.0)
    scene.refusals.look(1.2)
    assert scene.woken == 1
    scene.write_fence()
    scene.pong()
    records = scene.write("s")
    scene.deny()
    scene.write_fence()
    scene.pong()
    assert scene.rejected(records) == records


@pytest.mark.parametrize("fenced", [0, 1, 2])
def test_what_is_given_up_may_have_been_the_refused_one(
    scene: Scene, fenced: int
) -> None:
    """An event that timed out: the refusal may have been its own."""
    if fenced:
        scene.deny("other")
        scene.write_fence()
        scene.pong()
    records = given_up, other = scene.write("s", "s")
    if fenced == 2:
        scene.deny()
        scene.pong()
    scene.refusals.gave_up([given_up])
    scene.ack(given_up)
    if fenced < 2:
        scene.deny()
        scene.write_fence()
        scene.pong()
    scene.refusals.look(1.0)
    assert scene.rejected(records) == []
    scene.refusals.gave_up([other])
    scene.refusals.look(1.0)
    assert scene.refusals._doubts == []


def test_what_is_given_up_elsewhere_changes_nothing(scene: Scene) -> None:
    """Of two events one was refused: it is the one that is not answered."""
    records = stored, denied = scene.write("s", "s")
    scene.deny()
    scene.write_fence()
    scene.pong()
    scene.refusals.look(0.0)
    assert scene.refusals._doubts
    scene.refusals.gave_up(scene.write("elsewhere"))
    scene.ack(stored)
    scene.refusals.look(1.0)
    assert scene.rejected(records) == [denied]


def test_a_lost_connection_settles_only_what_is_certain(scene: Scene) -> None:
    """The rest may be stored or not."""
    unsure = scene.write("s", "s")
    scene.deny()
    scene.write_fence()
    sure = scene.write("t", "t")
    scene.pong()
    scene.deny("t")
    scene.deny("t")
    scene.refusals.interrupted()
    assert scene.rejected(unsure) == []
    assert scene.rejected(sure) == sure
    assert not scene.refusals.watching
    assert not scene.refusals.due
    scene.refusals.look(1.0)
    assert [*scene.pending] == unsure


def test_events_are_noted_down_for_a_while_only(scene: Scene) -> None:
    """After the last refusal it takes some seconds, and the bus is as fast as before."""
    scene.deny()
    scene.write_fence()
    scene.pong()
    for now in (1.0, 1.0 + CALM_SECONDS):
        scene.refusals.look(now)
        assert scene.refusals.watching
    scene.deny()
    for now in (12.0, 12.0 + CALM_SECONDS):
        scene.refusals.look(now)
        assert scene.refusals.watching
    scene.refusals.look(12.1 + CALM_SECONDS)
    assert not scene.refusals.watching
    records = scene.write("s")
    scene.deny()
    scene.write_fence()
    scene.pong()
    assert scene.rejected(records) == records


def test_few_refusals_are_reported(scene: Scene) -> None:
    """One report for each subject, and no more than some for each connection."""
    for _ in range(3):
        for number in range(MAX_REPORTED + 20):
            scene.deny(f"subject.{number}")
    assert len(scene.sink.reports) == MAX_REPORTED
    assert {type(error) for error in scene.sink.reports} == {NotAuthorized}
    scene.refusals.interrupted()
    scene.deny("subject.0")
    assert len(scene.sink.reports) == MAX_REPORTED + 1
