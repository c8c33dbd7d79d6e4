"""A topic that takes nothing holds its own rows, and nobody else's."""

import itertools
import logging

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from support.eventually import eventually
from support.patience import SLACK, let_pass
from support.relay_store import MemoryStore

from eventbus_sync import Envelope, MemoryConfig
from eventbus_sync.backends.base import Ack, OutgoingMessage
from eventbus_sync.errors import (
    Abandoned,
    BackendBusy,
    BrokerFull,
    BrokerUnavailable,
    BusClosed,
    ConnectionLost,
    DeliveryTimedOut,
    DestinationNotFound,
    NotAuthorized,
    ProducerLost,
    PublishError,
)
from eventbus_sync.outbox import OutboxRelay, RetryPolicy
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.lines import Counts, Lease
from eventbus_sync.outbox.publishing import Publisher
from eventbus_sync.outbox.record import Change, RowState
from eventbus_sync.outbox.topics import (
    CROWD,
    FORGET,
    LONGEST_PAUSE,
    LONGEST_QUEUE,
    MOST_TOPICS,
    THRESHOLD,
    HoldBack,
    Topics,
)
from eventbus_sync.outbox.trouble import _MOST_KINDS, Trouble
from eventbus_sync.testing import MemoryBus


ROOM = 40
NUMBERS = itertools.count()
QUICK = RetryPolicy(backoff=0.02, max_backoff=0.05)


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def topics(clock: Clock) -> Topics:
    return Topics(5.0, ROOM, clock)


def fail(topics: Topics, topic: str = "bad", times: int = THRESHOLD) -> list[bool]:
    return [topics.failed(topic, "unknown: no answer") for _ in range(times)]


def held(topics: Topics, topic: str = "bad", chance: float = 1.0) -> HoldBack | None:
    return topics.hold_back(topic, f"{topic}-{next(NUMBERS)}", lambda: chance)


# -- on a clock ------------------------------------------------------------------------


def test_enough_failures_in_a_row_close_a_topic_off(topics: Topics) -> None:
    assert not any(fail(topics, times=THRESHOLD - 1))
    assert held(topics) is None
    assert not topics.acked("bad")  # they have to be in a row
    assert not any(fail(topics, times=THRESHOLD - 1))
    assert fail(topics, times=2) == [True, False]  # it closes once
    assert held(topics) is None  # the probe
    assert held(topics) == HoldBack(1.0, "unknown: no answer")
    assert held(topics, "good") is None


def test_one_row_is_the_probe_until_its_time_is_up(
    topics: Topics, clock: Clock
) -> None:
    fail(topics)
    assert held(topics) is None
    clock.now += 4.9
    assert held(topics) is not None
    clock.now += 0.2  # the probe was lost, and blocks nothing
    assert held(topics) is None
    assert held(topics) is not None


def test_a_probe_that_was_not_tried_leaves_its_turn_to_the_next(topics: Topics) -> None:
    topics.not_tried("bad", "x")
    fail(topics)
    topics.not_tried("good", "x")
    assert held(topics) is None
    topics.not_tried("bad", "x")
    assert held(topics) is None
    assert held(topics) is not None


def test_the_first_acknowledgement_opens(topics: Topics) -> None:
    fail(topics)
    fail(topics, "worse")
    assert topics.acked("bad")
    assert not topics.acked("bad")
    assert held(topics) is None
    assert held(topics) is None
    assert held(topics, "worse") is None
    assert held(topics, "worse") is not None


def test_rows_wait_no_longer_than_the_topic_has_been_closed_off(
    topics: Topics, clock: Clock
) -> None:
    fail(topics)
    assert held(topics) is None
    pauses = []
    for closed_for in (0.0, 2.0, 4.0, 10.0, 20.0, 40.0, 4000.0):
        clock.now = 100.0 + closed_for
        held(topics)  # or it would be the probe
        hold = held(topics)
        assert hold is not None
        pauses.append(hold.pause)
    assert pauses == [1.0, 2.0, 4.0, 10.0, 20.0, LONGEST_PAUSE, LONGEST_PAUSE]


def test_pauses_are_few_and_not_all_the_same(topics: Topics, clock: Clock) -> None:
    """Marks of equal values share their part of a statement."""
    fail(topics)
    clock.now += 1000
    assert held(topics) is None
    pauses = set()
    for number in range(1000):
        hold = held(topics, chance=number / 1000)
        assert hold is not None
        pauses.add(hold.pause)
    assert (min(pauses), max(pauses)) == (15.0, 30.0)
    assert len(pauses) == 16


def crowd(topics: Topics, count: int = CROWD) -> list[str]:
    names = [f"fails-{n}" for n in range(count)]
    for name in names:
        topics.failed(name, "unknown: no answer")
    return names


def goes(topics: Topics, topic: str, event_id: str = "") -> bool:
    return topics.hold_back(topic, event_id or topic, lambda: 1.0) is None


def test_rows_of_many_failing_topics_have_a_part_of_the_room(
    topics: Topics, clock: Clock
) -> None:
    names = crowd(topics, 50)
    assert [goes(topics, name) for name in names] == [True] * 20 + [False] * 30
    topics.landed(names[3])
    topics.not_tried(names[4], names[4])
    assert [goes(topics, name) for name in names[20:23]] == [True, True, False]
    clock.now += 5.1  # the others got lost
    assert goes(topics, names[30])
    assert len(topics._failing._until) == 1


def test_what_never_worked_has_a_part_of_its_own_while_many_fail(
    topics: Topics, clock: Clock
) -> None:
    topics.failed("x", "y")
    assert topics.acked("works") is False
    names = crowd(topics, 50)
    for name in names:
        goes(topics, name)
    # What works has all the room; for the rest it is one row of each topic at a time.
    assert all(goes(topics, "works", f"w{n}") for n in range(99))
    assert goes(topics, "new", "first")
    hold = topics.hold_back("new", "second", lambda: 1.0)
    assert hold is not None
    assert "many topics fail" in hold.why
    assert [goes(topics, f"new-{n}") for n in range(25)] == [True] * 19 + [False] * 6
    topics.landed("first")
    assert not topics.acked("new")
    assert all(goes(topics, "new", f"n{n}") for n in range(99))
    # One that got lost is followed by another one.
    assert not goes(topics, "new-3", "again")
    clock.now += 5.1
    assert goes(topics, "new-3", "again")


def test_few_that_fail_are_no_crowd(topics: Topics) -> None:
    crowd(topics, CROWD - 1)
    assert all(goes(topics, "new", f"n{n}") for n in range(99))


def test_what_has_no_rows_any_more_is_forgotten(topics: Topics, clock: Clock) -> None:
    """They may be dead; and what never worked is not held back for ever."""
    crowd(topics)
    topics.failed("held", "x")
    clock.now += FORGET - 1
    assert goes(topics, "held")
    topics.failed("bad", "x")
    assert goes(topics, "new", "n1")
    assert not any(goes(topics, "new", f"n{n}") for n in range(2, 9))
    clock.now += 1
    assert goes(topics, "bad")
    assert set(topics._topics) == {"held", "bad", "new"}
    assert all(goes(topics, "newer", f"n{n}") for n in range(99))
    crowd(topics)
    clock.now += FORGET
    assert goes(topics, "newest")
    assert set(topics._topics) == {"newest"}


def test_many_rows_come_back_one_after_the_other(topics: Topics, clock: Clock) -> None:
    """A million of them must not be all that a relay has to do with."""
    fail(topics)
    assert held(topics) is None
    clock.now += 4.0
    pauses = [hold.pause for _ in range(20_000) if (hold := held(topics)) is not None]
    assert set(pauses[:4000]) == {4.0}
    assert pauses == sorted(pauses)
    assert pauses[-1] == 20.0
    topics._back_at = clock.now + 1000
    last = held(topics)
    assert last is not None
    assert last.pause == LONGEST_QUEUE
    clock.now += 10_000
    assert held(topics) is None
    again = held(topics)
    assert again is not None
    assert again.pause == LONGEST_PAUSE


def test_topics_are_bounded_and_those_still_failing_stay(topics: Topics) -> None:
    fail(topics)
    topics.failed("old", "x")
    for number in range(MOST_TOPICS - 1):
        topics.failed(f"t{number}", "x")
        topics.failed("bad", "x")
    assert len(topics._topics) == MOST_TOPICS
    assert "bad" in topics._topics
    assert "old" not in topics._topics


# -- what counts -----------------------------------------------------------------------


@attrs.frozen
class Rig:
    held: HeldRows
    topics: Topics
    breaker: Breaker
    publisher: Publisher


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    with MemoryBus(MemoryConfig(delivery_timeout=1.0, close_timeout=0)) as bus:
        yield bus


def rig(store: MemoryStore, bus: MemoryBus, topics: Topics, rows: int) -> Rig:
    """Rows of as many aggregates, claimed."""
    for number in range(rows):
        add(store, "bad", f"a{number}")
    claim = store.claim(
        "lease", limit=99, seconds=60, scan_from=0, ordering="aggregate", on_dead="hold"
    )
    rows_held = HeldRows("aggregate", "hold", 4.0, Counts())
    rows_held.add(Lease("lease", 1e9), claim.records)
    breaker, trouble = Breaker(), Trouble("eventbus-relay")
    publisher = Publisher(bus, rows_held, breaker, QUICK, trouble, topics)
    return Rig(rows_held, topics, breaker, publisher)


def add(store: MemoryStore, topic: str, aggregate: str, count: int = 1) -> None:
    first = len(store.rows_by_id)
    for number in range(first, first + count):
        event_id = f"{aggregate}-{number}"
        store.add(topic, Envelope(aggregate, "E", 1, number, event_id=event_id))


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (DestinationNotFound("no stream"), True),
        (NotAuthorized("not yours"), True),
        (DeliveryTimedOut("no answer"), True),
        (BrokerUnavailable("nobody"), False),  # the breaker has it
        (BrokerFull("no space"), False),  # answered at once: costs no room
        (ConnectionLost("gone"), False),  # of a connection, not of a topic
        (ProducerLost("fenced"), False),
        (Abandoned("closed"), False),
    ],
)
def test_what_counts_against_a_topic(
    store: MemoryStore, bus: MemoryBus, error: PublishError, *, counts: bool
) -> None:
    parts = rig(store, bus, Topics(5.0, ROOM), 3)
    bus.broker.reject(error, topic="bad", times=3)
    parts.publisher.pump()
    eventually(lambda: bus.get_publish_result_channel().qsize() == 3, SLACK)
    assert parts.publisher.receive(0)
    assert ("bad" in parts.topics._topics) == counts


def test_an_outcome_that_never_came_counts_unless_the_bus_is_closed(
    store: MemoryStore, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = rig(store, bus, Topics(5.0, ROOM), 3)
    bus.broker.freeze()
    parts.publisher.pump()
    flights = parts.held.overdue(-1.0)
    for seconds, failures in ((-1.0, 0), (0.1, len(flights))):
        monkeypatch.setattr(parts.held, "overdue", lambda _: flights)
        parts.publisher.sweep(seconds)
        known = parts.topics._topics.get("bad")
        assert (0 if known is None else known.failures) == failures


def test_a_row_held_back_costs_nothing_and_says_why(
    store: MemoryStore, bus: MemoryBus
) -> None:
    topics = Topics(5.0, ROOM)
    fail(topics)
    parts = rig(store, bus, topics, 3)
    parts.publisher.pump()
    assert bus.stats().accepted == parts.held.in_flight == 1
    for mark in parts.held.take_marks():
        assert mark.change is Change.RETRY
        assert (mark.attempts, mark.reached, mark.tried) == (0, False, False)
        assert mark.error == "topic_held: unknown: no answer"


def test_with_the_breaker_open_a_row_goes_whatever_its_topic(
    store: MemoryStore, bus: MemoryBus
) -> None:
    """Else nothing would ever find out that the broker is back."""
    topics = Topics(5.0, ROOM)
    fail(topics)
    assert held(topics) is None
    parts = rig(store, bus, topics, 3)
    parts.breaker.disconnected()
    parts.publisher.pump()
    assert (bus.stats().accepted, parts.held.to_mark) == (1, 0)


@pytest.mark.parametrize("error", [BackendBusy("full"), BusClosed("closed")])
def test_a_probe_that_the_bus_refused_is_the_probe_again(
    store: MemoryStore,
    bus: MemoryBus,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    topics = Topics(5.0, ROOM)
    fail(topics)
    parts = rig(store, bus, topics, 1)

    def refuse(*args: Any, **settings: Any) -> str:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(bus, "publish_envelope", refuse)
        if isinstance(error, BusClosed):
            with pytest.raises(BusClosed):
                parts.publisher.pump()
        else:
            parts.publisher.pump()
    parts.publisher.pump()
    assert bus.stats().accepted == 1


# -- in a relay ------------------------------------------------------------------------


class Stuck:
    """A broker that never answers for some topics."""

    def __init__(self, bus: MemoryBus, *topics: str) -> None:
        self.topics = set(topics)
        self.tried: list[str] = []
        self._take = bus.broker.take
        bus.broker.take = self.take  # type: ignore[method-assign]

    def take(self, message: OutgoingMessage) -> Ack | PublishError | None:
        if message.topic in self.topics:
            self.tried.append(message.event_id)
            return None
        return self._take(message)


Make = Callable[..., OutboxRelay]


@pytest.fixture
def make(
    store: MemoryStore, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Make relays that end with the test, and probe more often than in life."""
    monkeypatch.setattr("eventbus_sync.outbox.running.OVERDUE", 0.2)
    monkeypatch.setattr("eventbus_sync.outbox.topics.LONGEST_PAUSE", 2.0)
    made: list[OutboxRelay] = []

    def make(**settings: Any) -> OutboxRelay:
        settings = {
            "name": "eventbus-relay", "lease": 6.0, "retry": QUICK,
            "batch_size": 10, "poll_interval": 0.1, **settings,
        }  # fmt: skip
        relay = OutboxRelay(store, bus, **settings)
        made.append(relay)
        return relay

    yield make
    bus.broker.clear()
    for relay in made:
        relay.stop(5)


def published(store: MemoryStore, topic: str) -> int:
    with store.lock:
        rows = list(store.rows_by_id.values())
    return sum(r.topic == topic and r.state is RowState.PUBLISHED for r in rows)


@pytest.mark.parametrize("ordering", ["aggregate", "none"])
def test_a_topic_that_takes_nothing_starves_nobody(
    store: MemoryStore,
    bus: MemoryBus,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    ordering: str,
) -> None:
    stuck = Stuck(bus, "bad")
    for number in range(300):
        add(store, "bad", f"b{number}")
    add(store, "good", "g", 50)
    relay = make(ordering=ordering)
    with caplog.at_level(logging.WARNING, "eventbus_sync"):
        relay.start()
        eventually(lambda: published(store, "good") == 50, SLACK)
        # The room is free: new ones go out as if nothing was wrong.
        add(store, "good", "h", 5)
        eventually(lambda: published(store, "good") == 55, SLACK)
        stats = relay.stats()
        assert stats.held_back >= 200
        # At most what fitted before it was closed off, and few probes.
        assert len(stuck.tried) <= 50
        assert {row.attempts for row in store.rows_by_id.values()} == {0}
        # It is repaired.
        stuck.topics.clear()
        eventually(lambda: published(store, "bad") == 300, 2 * SLACK)
    lines = [r.getMessage() for r in caplog.records if "topic 'bad'" in r.getMessage()]
    assert len(lines) == 2
    assert "took none of the last 20 events and is closed off" in lines[0]
    assert "takes events again" in lines[1]
    assert relay.stats().held_back >= stats.held_back


@pytest.mark.slow
def test_many_topics_that_take_nothing_starve_nobody(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    names = [f"bad-{n}" for n in range(50)]
    stuck = Stuck(bus, *names)
    add(store, "good", "g", 5)
    relay = make()
    relay.start()
    eventually(lambda: published(store, "good") == 5, SLACK)
    for name in names:
        add(store, name, name, 3)
    # It takes one wait for all the room; then what works goes out beside the others.
    for number in range(20):
        add(store, "good", f"h{number}", 50)
    eventually(lambda: published(store, "good") == 1005, SLACK)
    assert store.count(RowState.PENDING) == 150
    assert relay.stats().held_back > 0
    # One that never worked has its turn too.
    for name in names[20:]:
        stuck.topics.discard(name)
    eventually(lambda: store.count(RowState.PUBLISHED) == 1005 + 90, 3 * SLACK)
    assert {row.attempts for row in store.rows_by_id.values()} == {0}


def test_the_order_of_an_aggregate_with_both_topics_is_kept(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    stuck = Stuck(bus, "bad")
    for number in range(30):
        add(store, "good", f"a{number}")
        add(store, "bad", f"a{number}")
        add(store, "good", f"a{number}")
    relay = make()
    relay.start()
    eventually(lambda: relay.stats().held_back > 20, SLACK)
    let_pass(0.2)
    # Nothing overtakes the row that waits.
    assert published(store, "good") == 30
    stuck.topics.clear()
    eventually(lambda: store.count(RowState.PUBLISHED) == 90, 2 * SLACK)
    order: dict[str, list[int]] = {}
    for message in bus.broker.messages():
        aggregate, _, count = message.event_id.partition("-")
        order.setdefault(aggregate, []).append(int(count))
    assert all(numbers == sorted(numbers) for numbers in order.values())


def test_a_short_outage_of_the_broker_delays_nothing_for_long(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    for number in range(60):
        add(store, f"t{number % 2}", f"a{number}")
    bus.broker.freeze()
    relay = make(batch_size=50)
    relay.start()
    eventually(lambda: relay.stats().held_back > 0, SLACK)
    bus.broker.resume()
    eventually(lambda: store.count(RowState.PUBLISHED) == 60, SLACK)
    assert {row.attempts for row in store.rows_by_id.values()} == {0}


def test_kinds_of_trouble_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble("eventbus-relay")
    for number in range(_MOST_KINDS + 5):
        trouble.over(f"topic {number} is open")
        trouble.over(f"topic {number} is open")
    assert len(trouble._said_at) == _MOST_KINDS
    assert len(trouble._unsaid) == _MOST_KINDS
    assert len(caplog.records) == _MOST_KINDS + 5
    trouble.over("topic 0 is open")
    assert len(caplog.records) == _MOST_KINDS + 6
