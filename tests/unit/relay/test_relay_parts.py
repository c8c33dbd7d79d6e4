"""The relay's parts: what rarely happens to rows held, marks, publishing and threads."""

import pickle
import threading
import time

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from support.eventually import eventually
from support.patience import SLACK
from support.relay_store import DatabaseAway, MemoryStore
from support.relays import QUICK, Make, Stuck, events, run_of

from eventbus_sync import BusClosed
from eventbus_sync._threads import spawn
from eventbus_sync.errors import StartFailed
from eventbus_sync.outbox import ResultConsumer
from eventbus_sync.outbox import running as running_module
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.lines import Counts, Flight, Lease
from eventbus_sync.outbox.marking import Marker
from eventbus_sync.outbox.publishing import Publisher
from eventbus_sync.outbox.record import Change, Mark, OutboxRecord, RowState
from eventbus_sync.outbox.running import Run
from eventbus_sync.outbox.topics import Topics
from eventbus_sync.outbox.trouble import Trouble
from eventbus_sync.results import Outcome
from eventbus_sync.testing import MemoryBus


# -- rows held -------------------------------------------------------------------------


def hold(store: MemoryStore, *aggregates: str, rows: int = 3) -> HeldRows:
    """Rows of *aggregates*, claimed."""
    for aggregate in aggregates:
        store.add("t", *events(rows, aggregate))
    claim = store.claim(
        "lease", limit=99, seconds=60, scan_from=0, ordering="aggregate", on_dead="hold"
    )
    held = HeldRows("aggregate", "hold", 4.0, Counts())
    held.add(Lease("lease", time.monotonic() + 60), claim.records)
    return held


def claimable_now(store: MemoryStore) -> tuple[OutboxRecord, ...]:
    """What another relay would get now."""
    return store.claim(
        "next", limit=99, seconds=60, scan_from=0, ordering="aggregate", on_dead="hold"
    ).records


def publish_next(held: HeldRows) -> Flight:
    flight = held.next_to_publish()
    assert flight is not None
    return flight


def test_what_was_settled_while_the_bus_refused_it_is_not_put_back(
    store: MemoryStore,
) -> None:
    held = hold(store, "a", rows=1)
    flight = publish_next(held)
    assert held.landed("a-0") is flight
    held.not_accepted(flight)
    assert not held.has_ready
    assert held.next_to_publish() is None


def test_an_aggregate_that_was_lost_costs_no_other_its_rows(
    store: MemoryStore,
) -> None:
    held = hold(store, "a", "b")
    flight = publish_next(held)
    held.settle([(flight, Mark(flight.record, Change.PUBLISH, 0))])
    marks = held.take_marks()
    held.marked(marks, set())  # the database moved none: another relay has it
    assert held.counts.lost == 1
    given_back = held.take_marks()
    assert {mark.change for mark in given_back} == {Change.RELEASE}
    assert [mark.record.event_id for mark in given_back] == ["a-1", "a-2"]
    assert publish_next(held).record.event_id == "b-0"


# -- marks -----------------------------------------------------------------------------


def test_marks_wait_for_the_end_however_long_nothing_is_to_be_marked(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_sync.outbox.marking._IDLE", 0.001)
    held = hold(store, "a", rows=1)
    marker = Marker(store, held, Trouble("eventbus-relay"), 10)
    asked: list[bool] = []

    def finished() -> bool:
        asked.append(len(asked) >= 20)
        if len(asked) == 10:
            flight = Flight(next(iter(held._lines)), claimed, time.monotonic())
            held._marks.append(Mark(flight.record, Change.PUBLISH, 0))
        return asked[-1]

    claimed = publish_next(held).record
    marker.loop(finished, lambda: False)
    assert len(asked) >= 20
    assert store.state("a-0") is RowState.PUBLISHED


def test_what_is_no_error_ends_the_marks_and_loses_none(store: MemoryStore) -> None:
    """Such as the end of the interpreter."""

    def end() -> None:
        raise SystemExit

    held = hold(store, "a", "b")
    for _ in range(2):
        flight = publish_next(held)
        held.settle([(flight, Mark(flight.record, Change.PUBLISH, 0))])
    store.before_mark = end
    marker = Marker(store, held, Trouble("eventbus-relay"), 10)
    with pytest.raises(SystemExit):
        marker.loop(lambda: False, lambda: False)
    assert held.to_mark == 2
    store.before_mark = None
    marker.loop(lambda: held.to_mark == 0, lambda: False)
    assert store.count(RowState.PUBLISHED) == 2


def test_a_database_that_is_away_does_not_hold_up_a_hasty_stop(
    store: MemoryStore, make: Make
) -> None:
    def away() -> None:
        raise DatabaseAway

    store.before_mark = away
    store.add("t", *events(1))
    relay = make()
    relay.start()
    eventually(lambda: relay.stats().last_error is not None, SLACK)
    assert not relay.stop(0)
    stats = relay.stats()
    assert (stats.state, stats.held, stats.published) == ("stopped", 1, 0)
    assert store.leased() == 1


def refuse(store: MemoryStore, event_id: str) -> None:
    """The database never takes a mark of this row, such as by a trigger of its own."""
    mark = store.mark

    def refusing(marks: Sequence[Mark]) -> set[int]:
        if any(one.record.event_id == event_id for one in marks):
            raise DatabaseAway
        return mark(marks)

    store.mark = refusing  # type: ignore[method-assign]


def test_a_mark_that_the_database_never_takes_is_dropped_with_its_lease(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its row would be held, and its lease renewed, for ever."""
    monkeypatch.setattr("eventbus_sync.outbox.marking.FIRST_BACKOFF", 0.001)
    refuse(store, "a-0")
    held = hold(store, "a", "b", "c", rows=1)
    [lease] = held._leases.values()
    for _ in range(3):
        flight = publish_next(held)
        held.settle([(flight, Mark(flight.record, Change.PUBLISH, 0))])
    marker = Marker(store, held, Trouble("eventbus-relay"), 10)
    tries: list[int] = []

    def looked() -> bool:  # under the lock, before each try
        tries.append(held.held)
        # By itself it is never given up: the row may be published by nobody else.
        return len(tries) > 5 and held.held == 1

    marker.loop(lambda: False, looked)
    assert store.count(RowState.PUBLISHED) == 2
    assert (held.held, held.counts.lost) == (1, 0)
    # What is held for this mark only is not renewed.
    lease.until = time.monotonic() + 1
    assert held.to_renew(60) == []
    lease.until = time.monotonic() - 1
    # The database thinks that the lease stands: so it ends now, and then is over.
    assert not marker._mark()
    assert marker._mark()
    assert (held.held, held.to_mark, held.counts.lost) == (0, 0, 1)
    assert held.aggregates() == ()
    # The row is there for whoever comes next.
    again = claimable_now(store)
    assert [record.event_id for record in again] == ["a-0"]


def test_in_an_outage_no_mark_is_dropped(store: MemoryStore) -> None:
    held = hold(store, "a", rows=1)
    [lease] = held._leases.values()
    flight = publish_next(held)
    held.settle([(flight, Mark(flight.record, Change.PUBLISH, 0))])
    marker = Marker(store, held, Trouble("eventbus-relay"), 10)
    store.away = True
    lease.until = time.monotonic() - 1
    for _ in range(3):
        assert not marker._mark()
    assert held.to_mark == 1
    store.away = False
    assert marker._mark()
    assert store.state("a-0") is RowState.PUBLISHED
    assert (held.held, held.counts.lost) == (0, 0)


# -- publishing ------------------------------------------------------------------------


def test_a_bus_that_cannot_publish_is_no_rows_fault(
    store: MemoryStore, bus: MemoryBus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = bus.publish_envelope
    failures = [StartFailed("not yet"), StartFailed("not yet")]

    def broken(*args: Any, **settings: Any) -> str:
        if failures:
            raise failures.pop()
        return publish(*args, **settings)

    monkeypatch.setattr(bus, "publish_envelope", broken)
    store.add("t", *events(3))
    relay = make()
    assert relay.drain(SLACK)
    assert [m.event_id for m in bus.broker.messages("t")] == ["a-0", "a-1", "a-2"]
    assert {row.attempts for row in store.rows_by_id.values()} == {0}
    assert isinstance(relay.stats().last_error, StartFailed)


def test_a_publish_that_finds_the_bus_closed_ends_the_relay(
    store: MemoryStore, bus: MemoryBus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*args: Any, **settings: Any) -> str:
        raise BusClosed

    monkeypatch.setattr(bus, "publish_envelope", closed)
    store.add("t", *events(3))
    relay = make()
    with pytest.raises(BusClosed, match="so the relay ended"):
        relay.run()
    assert relay.stats().state == "failed"
    assert store.leased() == 0
    assert store.count(RowState.PENDING) == 3


def test_results_of_nobodys_rows_and_without_an_error(
    store: MemoryStore, bus: MemoryBus
) -> None:
    held = hold(store, "a", "b", rows=1)
    trouble = Trouble("eventbus-relay")
    publisher = Publisher(bus, held, Breaker(), QUICK, trouble, Topics(5.0, 99))
    publisher.pump()
    acked = bus.get_publish_result_channel().get_many(2, timeout=SLACK)[0]
    # Somebody else published this on the relay's bus.
    publisher.take_in([attrs.evolve(acked, event_id="nobody")])
    assert (held.in_flight, held.to_mark) == (2, 0)
    # And a bus that does not say why costs no more than the answer.
    publisher.take_in([attrs.evolve(acked, outcome=Outcome.UNKNOWN, error=None)])
    [mark] = held.take_marks()
    assert (mark.record.event_id, mark.change) == (acked.event_id, Change.RETRY)
    assert (mark.error, mark.attempts, held.in_flight) == ("unknown", 0, 1)
    assert trouble.last() == (None, None)


# -- threads ---------------------------------------------------------------------------


def test_a_relay_is_not_copied(make: Make) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        pickle.dumps(make())


def test_an_exception_from_a_signal_handler_stops_run(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("t", *events(3))
    join = Run.join

    def interrupted(run: Run, timeout: float) -> bool:
        eventually(lambda: store.count(RowState.PUBLISHED) == 3, SLACK)
        monkeypatch.setattr(Run, "join", join)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "join", interrupted)
    relay = make()
    with pytest.raises(KeyboardInterrupt):
        relay.run()
    assert relay.stats().state == "stopped"
    assert store.leased() == 0


def test_an_interrupted_stop_ends_at_once(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, stuck: Stuck
) -> None:
    """A second Ctrl-C: what is in flight stays leased until its lease ends."""

    def interrupted(*_: Any) -> list[str]:
        eventually(lambda: store.leased() == 1, SLACK)  # the rest was given back
        raise KeyboardInterrupt

    relay = stuck(3)
    with monkeypatch.context() as patch:
        patch.setattr(running_module, "join_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            relay.stop()
    assert run_of(relay).join(SLACK)
    assert store.leased() == 1


def hanging(store: MemoryStore, error: Exception | None = None) -> threading.Event:
    """The next claims hang until the event is set, and then maybe raise *error*."""
    gate = threading.Event()

    def wait() -> None:
        assert gate.wait(SLACK)
        if error is not None:
            raise error

    store.before_claim = wait
    return gate


def test_a_relay_that_cannot_end_is_not_started_again(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at a time would read one channel."""
    monkeypatch.setattr(running_module, "_GRACE", 0.01)
    gate = hanging(store)
    relay = make()
    relay.start()
    try:
        assert not relay.stop(0)
        with pytest.raises(RuntimeError, match="is being stopped"):
            relay.start()
    finally:
        gate.set()
    eventually(lambda: relay.stats().state == "stopped", SLACK)
    store.add("t", *events(1))
    assert relay.drain(SLACK)
    assert store.count(RowState.PUBLISHED) == 1


def test_what_is_raised_after_a_hasty_stop_starts_nothing_anew(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_module, "_GRACE", 0.01)
    gate = hanging(store, ZeroDivisionError("late"))
    relay = make()
    relay.start()
    assert not relay.stop(0)
    gate.set()
    eventually(lambda: relay.stats().state == "stopped", SLACK)
    assert isinstance(relay.stats().last_error, ZeroDivisionError)


def test_a_drain_waits_as_long_as_it_takes(
    store: MemoryStore,
    bus: MemoryBus,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In pieces, since no platform waits for ever."""
    pieces: list[float] = []

    def soon() -> float:
        pieces.append(time.monotonic())
        if len(pieces) == 5:
            bus.broker.resume()
        return time.monotonic() + 0.02

    monkeypatch.setattr("eventbus_sync.outbox.relay._soon", soon)
    store.add("t", *events(3))
    bus.broker.freeze()
    assert make().drain()
    assert len(pieces) >= 5
    assert store.count(RowState.PUBLISHED) == 3


def test_a_system_without_more_threads(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [2]

    def few(name: str, target: Callable[[], object]) -> threading.Thread:
        if not left[0]:
            msg = "can't start new thread"
            raise RuntimeError(msg)
        left[0] -= 1
        return spawn(name, target)

    monkeypatch.setattr(running_module, "spawn", few)
    relay = make()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        relay.start()
    eventually(lambda: relay.stats().state == "stopped", SLACK)
    left[0] = 3
    store.add("t", *events(1))
    assert relay.drain(SLACK)
    assert store.count(RowState.PUBLISHED) == 1


def test_a_bus_closed_during_the_stop_is_said_to_nobody(
    store: MemoryStore, bus: MemoryBus, caplog: pytest.LogCaptureFixture, stuck: Stuck
) -> None:
    """The stop knows already; and what is in flight was settled by the bus."""
    relay = stuck(3)
    stopper = threading.Thread(target=lambda: relay.stop(SLACK), name="eventbus-stop")
    stopper.start()
    eventually(lambda: store.leased() == 1, SLACK)
    # What the results thread would meet if the channel ended under it.
    run_of(relay)._bus_is_closed(BusClosed())
    first = run_of(relay).failure
    assert first is not None
    run_of(relay)._bus_is_closed(BusClosed())
    assert run_of(relay).failure is first  # several threads meet it; it is one end
    bus.broker.resume()
    stopper.join(SLACK)
    assert not stopper.is_alive()
    assert not [one for one in caplog.records if "the relay ends" in one.getMessage()]


# -- after a fork ----------------------------------------------------------------------


def test_after_a_fork_a_relay_is_new(store: MemoryStore, make: Make) -> None:
    """As a child process sees it; with a real fork: test_relay_process.py."""
    store.add("t", *events(3))
    relay = make()
    assert relay.drain(SLACK)
    assert relay.stats().published == 3
    relay._pid -= 1
    stats = relay.stats()
    assert (stats.state, stats.claimed, stats.published) == ("new", 0, 0)
    store.add("t", *events(2, "b"))
    assert relay.drain(SLACK)
    assert relay.stats().published == 2


def test_after_a_fork_a_consumer_has_neither_thread_nor_batch(bus: MemoryBus) -> None:
    def broken(batch: object) -> None:
        raise ValueError

    bus.publish_envelope("t", events(1)[0])
    consumer = ResultConsumer(bus, broken, name="eventbus-c")
    consumer.start()
    eventually(lambda: consumer.last_error is not None, SLACK)
    assert consumer.stop()
    assert len(consumer.unhandled) == 1
    consumer._pid -= 1
    consumer.start()
    assert consumer.unhandled == []  # the parent's thread has it
    assert consumer.stop()
