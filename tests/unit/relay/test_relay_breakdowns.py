"""The relay where something gives way: one mark, one decision, the process itself."""

import logging
import os
import threading
import time

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import pytest

from support.eventually import eventually
from support.patience import SLACK, let_pass
from support.relay_store import MemoryStore
from support.relays import QUICK, Make, Stuck, events, run_of

from eventbus_sync import Envelope
from eventbus_sync.errors import BrokerFull, ConfigError, EnvelopeError, StoreFailed
from eventbus_sync.outbox import (
    OutboxRelay,
    OutboxStats,
    ResultConsumer,
    RetryPolicy,
    publishing,
)
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.hidden import HiddenRows
from eventbus_sync.outbox.lines import Counts, Lease
from eventbus_sync.outbox.mark_queue import MarkQueue
from eventbus_sync.outbox.publishing import Publisher
from eventbus_sync.outbox.record import Change, Claim, Mark, OutboxRecord, RowState
from eventbus_sync.outbox.topics import Topics
from eventbus_sync.outbox.trouble import Trouble
from eventbus_sync.testing import MemoryBus


# -- marks -----------------------------------------------------------------------------


def test_one_mark_that_always_fails_holds_up_no_other(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_sync.outbox.marking.FIRST_BACKOFF", 0.01)
    mark = store.mark

    def broken(marks: Sequence[Mark]) -> set[int]:
        if any(one.record.event_id == "k3-0" for one in marks):
            msg = "this one, always"
            raise StoreFailed(msg)
        return mark(marks)

    monkeypatch.setattr(store, "mark", broken)
    for number in range(50):
        store.add("t", *events(2, f"k{number}"))
    relay = make()
    relay.start()
    # All but this one, and what follows it in its aggregate.
    eventually(lambda: store.count(RowState.PUBLISHED) >= 98, SLACK)
    assert store.state("k3-0") is RowState.PENDING
    monkeypatch.setattr(store, "mark", mark)
    eventually(lambda: store.count(RowState.PUBLISHED) == 100, SLACK)
    assert relay.stats().lost == 0


def test_a_batch_that_is_too_large_is_halved_and_grows_again(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_sync.outbox.marking.FIRST_BACKOFF", 0.01)
    mark = store.mark

    def limited(marks: Sequence[Mark]) -> set[int]:
        if len(marks) > 7:
            msg = "too many parameters"
            raise StoreFailed(msg)
        return mark(marks)

    monkeypatch.setattr(store, "mark", limited)
    for number in range(60):
        store.add("t", *events(1, f"k{number}"))
    assert make().drain(SLACK)
    assert store.count(RowState.PUBLISHED) == 60
    assert max(len(marks) for marks in store.marked) <= 7


def a_mark(event_id: str, change: Change = Change.PUBLISH) -> Mark:
    aggregate = event_id[0]
    record = OutboxRecord(
        *(1, event_id, "t", aggregate, "E", 1, "2026-01-01T00:00:00Z", "", "", 0),
        *(b"1", {}, 0, 0.0, "lease"),
    )
    return Mark(record, change, 0)


def test_what_is_put_last_takes_its_aggregate_along() -> None:
    """The rows given back behind a failed one are never marked before it."""
    marks = [
        a_mark("a-0", Change.RETRY),
        a_mark("a-1", Change.RELEASE),
        a_mark("b-0"),
        a_mark("a-2", Change.RELEASE),
        a_mark("c-0"),
    ]
    queue = MarkQueue(marks)
    queue.put_last(marks[0])
    ids = [one.record.event_id for one in queue]
    assert ids == ["b-0", "c-0", "a-0", "a-1", "a-2"]
    assert [one.record.event_id for one in queue.take(2)] == ["b-0", "c-0"]
    assert len(queue.take()) == 3


# -- stop ------------------------------------------------------------------------------


def test_a_stop_as_a_row_is_handed_over_loses_no_outcome(
    store: MemoryStore, bus: MemoryBus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = make()
    relay.start()
    run = run_of(relay)
    at, gate = threading.Event(), threading.Event()
    take = run.held.next_to_publish

    def slow() -> Any:
        if threading.current_thread().name.endswith("claim") and run.held.has_ready:
            at.set()
            assert gate.wait(SLACK)
        return take()

    monkeypatch.setattr(run.held, "next_to_publish", slow)
    store.add("t", *events(1))
    assert at.wait(SLACK)
    opener = threading.Timer(0.3, gate.set)
    opener.start()
    assert relay.stop()
    opener.join()
    assert bus.broker.messages("t") == []
    assert (relay.stats().released, store.leased()) == (1, 0)


def test_a_bus_closed_in_haste_changes_no_row_in_flight(
    store: MemoryStore, bus: MemoryBus, stuck: Stuck
) -> None:
    """It calls them unknown, but they may yet be stored: their lease guards them."""
    relay = stuck(1)
    run_of(relay).abandon()
    bus.close(0)
    assert run_of(relay).join(SLACK)
    assert (store.leased(), store.marked) == (1, [])


# -- deciding --------------------------------------------------------------------------


class Broken(RetryPolicy):
    """A policy of the application's own, with an error."""

    def pause(self, *_: object) -> float:
        raise ZeroDivisionError


def test_a_policy_that_raises_loses_no_row(
    store: MemoryStore, bus: MemoryBus, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    store.add("t", *events(1), *events(1, "b"))
    bus.broker.reject(BrokerFull(), times=1)
    relay = make(retry=Broken())
    relay.start()
    eventually(lambda: relay.stats().retried == 1, SLACK)
    eventually(lambda: store.count(RowState.PUBLISHED) == 2, SLACK)
    assert "deciding about a row failed (position 1, a-0): ZeroDivision" in caplog.text


def test_a_damaged_record_is_buried_and_the_rest_of_its_batch_decided(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    store.add("t", *events(1, "bad"), *events(1, "good"))
    store.rows_by_id["bad-0"].attempts = "x"  # type: ignore[assignment]
    bus.broker.reject(BrokerFull(), times=2)
    relay = make()
    relay.start()
    eventually(lambda: store.state("bad-0") is RowState.DEAD, SLACK)
    eventually(lambda: store.state("good-0") is RowState.PUBLISHED, SLACK)
    assert "TypeError" in store.rows_by_id["bad-0"].error
    assert relay.stop()


def test_publishing_that_fails_on_a_damaged_record_buries_it(
    store: MemoryStore, bus: MemoryBus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(bus, "publish_envelope", broken)
    store.add("t", *events(1))
    store.rows_by_id["a-0"].attempts = "x"  # type: ignore[assignment]
    relay = make()
    relay.start()
    eventually(lambda: store.state("a-0") is RowState.DEAD, SLACK)
    assert store.rows_by_id["a-0"].attempts == 0


def test_a_lack_of_memory_says_nothing_of_a_row(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again; a good row does not become dead of it."""
    read, lacking = publishing.envelope_of, [MemoryError(), MemoryError()]

    def envelope_of(record: OutboxRecord) -> Envelope:
        if lacking:
            msg = "payload is not JSON: "
            raise EnvelopeError(msg, field="payload") from lacking.pop()
        return read(record)

    monkeypatch.setattr(publishing, "envelope_of", envelope_of)
    store.add("t", *events(1))
    relay = make()
    relay.start()
    eventually(lambda: store.state("a-0") is RowState.PUBLISHED, SLACK)
    assert relay.stats().retried == 2


def test_an_outcome_in_the_channel_counts_before_it_is_missed(
    store: MemoryStore, bus: MemoryBus
) -> None:
    """A process that stood still: what it did not read is there all the same."""
    store.add("t", *events(1))
    claim = store.claim(
        "lease", limit=9, seconds=60, scan_from=0, ordering="aggregate", on_dead="hold"
    )
    held = HeldRows("aggregate", "hold", 4.0, Counts())
    held.add(Lease("lease", time.monotonic() + 60), claim.records)
    publisher = Publisher(
        bus, held, Breaker(), QUICK, Trouble("eventbus-relay"), Topics(5.0, 99)
    )
    publisher.pump()
    channel = bus.get_publish_result_channel()
    eventually(lambda: channel.qsize() == 1, SLACK)
    publisher.sweep(-1.0)
    assert [mark.change for mark in held.take_marks()] == [Change.PUBLISH]
    publisher.sweep(-1.0)  # nothing is in flight any more
    assert held.take_marks() == []


# -- rows that nobody may see yet ------------------------------------------------------


class Hiding(MemoryStore):
    """Rows wait for a transaction."""

    def stats(self, *, settled: bool = True) -> OutboxStats:
        return attrs.evolve(
            super().stats(settled=settled),
            hidden=7,
            blocked_by="backend 12 (report, idle)",
        )


def test_what_rows_wait_for_is_said_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    hidden = HiddenRows(Hiding(), "eventbus-relay", lambda: now[0])

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.WARNING, "eventbus_sync"):
        hidden.seen()
        now[0] += 4.9
        hidden.seen()
        assert said() == []
        now[0] += 0.2
        hidden.seen()
        (line,) = said()
        assert line.startswith("eventbus-relay: 7 rows wait for the end of an older")
        assert line.endswith("transaction of the database: backend 12 (report, idle)")
        now[0] += 59
        hidden.seen()
        assert len(said()) == 1
        now[0] += 2
        hidden.seen()
        assert len(said()) == 2
        hidden.gone()
        now[0] += 100
        hidden.seen()
        assert len(said()) == 2


def test_a_relay_says_what_hides_its_rows_and_looks_ever_more_seldom(
    bus: MemoryBus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_sync.outbox.hidden.FIRST_LINE", 0.1)
    store = Hiding()
    store.hidden = True
    relay = OutboxRelay(store, bus, name="eventbus-relay", lease=6.0, poll_interval=0.3)
    relay.start()
    try:
        eventually(lambda: "backend 12" in caplog.text, SLACK)
        claimer = run_of(relay).claimer
        eventually(lambda: claimer._hidden_pause == 0.3, SLACK)
        before = len(store.claims)
        let_pass(0.6)
        assert len(store.claims) - before <= 3
    finally:
        assert relay.stop()


def test_rows_hidden_now_and_then_are_no_news(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is traffic the newest are, for a moment."""
    asked: list[None] = []
    monkeypatch.setattr("eventbus_sync.outbox.hidden.FIRST_LINE", 0.05)
    stats = store.stats

    def counted(*, settled: bool = True) -> OutboxStats:
        asked.append(None)
        return stats(settled=settled)

    monkeypatch.setattr(store, "stats", counted)
    claim = store.claim

    def hiding(lease: str, **settings: Any) -> Claim:
        found = claim(lease, **settings)
        return attrs.evolve(found, hidden=bool(found.records))

    monkeypatch.setattr(store, "claim", hiding)
    relay = make()
    relay.start()
    for number in range(10):
        store.add("t", *events(1, f"k{number}"))
        let_pass(0.02)
    eventually(lambda: store.count(RowState.PUBLISHED) == 10, SLACK)
    assert asked == []


# -- age -------------------------------------------------------------------------------


def test_the_age_limit_survives_a_restart(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """Whichever relay has the row: the database knows since when it fails."""
    store.add("t", *events(1))
    bus.broker.reject(BrokerFull(), times=1000)
    policy = RetryPolicy(backoff=0.05, max_backoff=0.05, max_age=0.3, jitter=False)

    def failures(relay: OutboxRelay) -> int:
        return relay.stats().retried + relay.stats().buried

    relays = 0
    while store.state("a-0") is RowState.PENDING:
        relay = make(retry=policy)
        relays += 1
        relay.start()
        # One failure for each of them; none sees the whole time.
        eventually(partial(failures, relay), SLACK)
        assert relay.stop()
    assert relays > 2
    assert "max_age=0.3" in store.rows_by_id["a-0"].error


# -- readers ---------------------------------------------------------------------------


def test_a_consumer_stopped_before_it_began_is_no_reader(bus: MemoryBus) -> None:
    first = ResultConsumer(bus, print, name="eventbus-first")
    with pytest.raises(ConfigError, match="read by 'eventbus-first' already"):
        ResultConsumer(bus, print, name="eventbus-second")
    assert first.stop()
    ResultConsumer(bus, print, name="eventbus-second").stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_child_a_new_relay_reads_the_inherited_bus(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    make().start()
    other = MemoryBus()
    mine = ResultConsumer(other, print, name="eventbus-mine")  # never started
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover - coverage does not see the child
        said = b"?"
        try:
            relay = OutboxRelay(store, bus, name="eventbus-child", lease=6.0)
            relay.start()
            ResultConsumer(other, print).stop()
            said = b"ok"
        except BaseException as error:  # noqa: BLE001 - it is told to the parent
            said = repr(error).encode()
        finally:
            os.write(theirs, said)
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read() == b"ok"
    assert os.waitpid(child, 0)[1] == 0
    assert mine.stop()
    other.close(0)
