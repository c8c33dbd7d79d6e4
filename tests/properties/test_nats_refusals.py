"""Permissions that change at any moment: no event that a stream stored is called rejected."""

from collections import deque
from collections.abc import Callable
from typing import Any

import nats.errors

from hypothesis import given, settings
from hypothesis import strategies as st
from support.recording_sink import RecordingSink, Sent

from eventbus_sync.backends.base import OutgoingMessage
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.backends.nats.refusals import Refusals
from eventbus_sync.errors import NotAuthorized, PublishUnknown


_SUBJECTS = ("s", "t")


class World:
    """A bus and a server, and between them two lines that are as slow as they like."""

    def __init__(self) -> None:
        self.sink = RecordingSink()
        self.pending = Pending()
        self.refusals = Refusals(self.pending, self.sink)
        self.records: list[Record] = []
        self.stored: set[Record] = set()
        # Whether anything but acks and refusals makes an event's answer doubtful.
        self.clear = True
        self._denied: set[str] = set()
        # To the server: an event, the subject of a plain message, or a fence.
        self._there: deque[Record | str | Callable[[], None]] = deque()
        # Back: a refused subject, or the answer to a fence.
        self._back: deque[str | Callable[[], None]] = deque()
        self._to_answer: list[Record] = []
        self._turned_away: list[Record] = []
        self._now = 0.0

    def fence(self, passed: Callable[[], None]) -> bytes:
        """Stand in for a connection."""
        self._there.append(passed)
        return b""

    # -- what may happen -----------------------------------------------------------------

    def write(self, number: int) -> None:
        """Some new events to one of the subjects, or to both of them."""
        for index in range(1 + number % 4):
            subject = _SUBJECTS[(number + index * (number % 3)) % 2]
            message = OutgoingMessage(subject, "k", b"{}", [], "id", 2)
            record = Record(message, Sent(), 1e9)
            self.pending.add(record)
            self.records.append(record)
            self._attempt(record)
        self._end_of_write()

    def write_plain(self, number: int) -> None:
        """A message that nobody answers."""
        self.clear = False
        self.refusals.plain(_SUBJECTS[number % 2])
        self._there.append(_SUBJECTS[number % 2])
        self._end_of_write()

    def write_again(self, number: int) -> None:
        """What no stream took."""
        if self._turned_away:
            record = self._turned_away.pop(number % len(self._turned_away))
            self._attempt(record)
            self._end_of_write()

    def server_reads(self, number: int) -> None:
        """The server reads on, often only a little."""
        for _ in range(1 + number * (number % 2)):
            if not self._there:
                return
            what = self._there.popleft()
            if isinstance(what, str):
                if what in self._denied:
                    self._back.append(what)
            elif not isinstance(what, Record):
                self._back.append(what)
            elif what.subject in self._denied:
                self._back.append(what.subject)
            else:
                self.stored.add(what)
                self._to_answer.append(what)

    def bus_reads(self, number: int) -> None:
        """The bus reads on."""
        for _ in range(1 + number):
            if not self._back:
                break
            what = self._back.popleft()
            if isinstance(what, str):
                self.refusals.refused(what, nats.errors.Error("no"))
            else:
                what()
        self._end_of_write()

    def permissions_change(self, number: int) -> None:
        """A subject is denied, or granted."""
        self._denied ^= {_SUBJECTS[number % 2]}

    def stream_answers(self, number: int) -> None:
        """In any order: the streams of a cluster have leaders of their own."""
        if not self._to_answer:
            return
        record = self._to_answer.pop(number % len(self._to_answer))
        if self.pending.get(record.token) is None:
            return
        if number % 3 or record.unanswered:
            self.pending.pop(record.token)
        else:
            self.stored.discard(record)
            record.turned_away()
            self._turned_away.append(record)

    def gives_up(self, number: int) -> None:
        """Another one that times out, or a batch that goes again."""
        on_the_wire = [record for record in self.pending if record.outstanding]
        if not on_the_wire:
            return
        self.clear = False
        record = on_the_wire[number % len(on_the_wire)]
        self.refusals.gave_up([record])
        if number % 2:
            self.pending.pop(record.token)
        else:
            record.interrupted()
            self._attempt(record)
            self._end_of_write()

    def clock_ticks(self, number: int) -> None:
        """Now and then it is calm for long."""
        self._now += 0.2 + 8 * (number % 2)
        self.refusals.look(self._now)
        self._end_of_write()

    def everything_comes(self) -> None:
        """All that is on its way arrives, and all that was stored is answered."""
        for _ in range(3):
            # Answers come last: until then refusals alone must not settle too much.
            for _ in range(3):
                self.server_reads(9_999)
                self.bus_reads(10_000)
            check(self)
            while self._to_answer:
                self.stream_answers(1)
            self.clock_ticks(0)

    def _attempt(self, record: Record) -> None:
        record.attempted(1.0)
        if self.refusals.watching:
            self.refusals.wrote([record])
        self._there.append(record)

    def _end_of_write(self) -> None:
        connection: Any = self
        if self.refusals.due:
            self.refusals.fence(connection)


_ACTS: list[Callable[[World, int], None]] = [
    World.write,
    World.write_plain,
    World.write_again,
    World.server_reads,
    World.bus_reads,
    World.permissions_change,
    World.stream_answers,
    World.gives_up,
    World.clock_ticks,
    # What has to come together to be of interest, more often.
    World.write,
    World.server_reads,
    World.server_reads,
    World.bus_reads,
    World.bus_reads,
    World.permissions_change,
]
_CLEAR = [act for act in _ACTS if act not in (World.write_plain, World.gives_up)]


def play(acts: list[tuple[Callable[[World, int], None], int]], *, lost: bool) -> World:
    """Return the world after all of *acts*; what was rejected is not stored."""
    world = World()
    for act, number in acts:
        act(world, number)
        check(world)
    if lost:
        world.refusals.interrupted()
    else:
        world.everything_comes()
    check(world)
    return world


def check(world: World) -> None:
    """What the server let through is not rejected."""
    for record in world.records:
        for said in world.sink.of(record.delivery):
            if isinstance(said, NotAuthorized):
                assert record not in world.stored
            else:
                # An earlier attempt may be stored: nobody says that it is not.
                assert isinstance(said, PublishUnknown)


def _lists(
    acts: list[Callable[[World, int], None]],
) -> st.SearchStrategy[list[tuple[Callable[[World, int], None], int]]]:
    one = st.tuples(st.sampled_from(acts), st.integers(0, 11))
    return st.lists(one, max_size=60)


@settings(max_examples=300)
@given(acts=_lists(_ACTS), lost=st.booleans())
def test_promise_1_what_is_stored_is_never_rejected(
    acts: list[tuple[Callable[[World, int], None], int]], lost: bool
) -> None:
    """Whatever is written, refused, answered, timed out and lost in whatever order."""
    play(acts, lost=lost)


@settings(max_examples=300)
@given(acts=_lists(_CLEAR))
def test_promise_1_what_is_refused_is_rejected(
    acts: list[tuple[Callable[[World, int], None], int]],
) -> None:
    """All of it, as soon as everything else has been answered."""
    world = play(acts, lost=False)
    turned_away = [record for record in world.pending if record.no_stream]
    assert [*world.pending] == turned_away
