"""The relay on a store and a broker in memory: what is published, marked, given back."""

import math
import threading
import time

from typing import Any

import pytest

from support.eventually import eventually
from support.patience import SLACK, let_pass
from support.relay_store import DatabaseAway, MemoryStore
from support.relays import QUICK, Make, Stuck, events

from eventbus_sync import BusClosed, ConfigError, Envelope, MemoryConfig, NatsConfig
from eventbus_sync.bus import EventBus
from eventbus_sync.errors import (
    BrokerFull,
    BrokerUnavailable,
    IllegalTopic,
    JetStreamDisabled,
)
from eventbus_sync.outbox import OutboxRelay, RetryPolicy
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.lines import Counts, Lease
from eventbus_sync.outbox.publishing import Publisher
from eventbus_sync.outbox.record import Change, Mark, RowState
from eventbus_sync.outbox.topics import Topics
from eventbus_sync.outbox.trouble import Trouble
from eventbus_sync.testing import MemoryBus


def stored(bus: MemoryBus, topic: str = "t") -> list[str]:
    return [message.event_id for message in bus.broker.messages(topic)]


# -- the way of a row ------------------------------------------------------------------


def test_rows_are_published_and_marked(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    for aggregate in "abc":
        store.add("t", *events(30, aggregate))
    relay = make()
    assert relay.drain(SLACK)
    assert store.count(RowState.PUBLISHED) == 90
    for aggregate in "abc":
        of_it = [i for i in stored(bus) if i.startswith(aggregate)]
        assert of_it == [f"{aggregate}-{n}" for n in range(30)]
    stats = relay.stats()
    assert (stats.claimed, stats.published, stats.held) == (90, 90, 0)
    assert (stats.state, stats.last_error) == ("stopped", None)


def test_the_envelope_on_the_wire_is_the_one_that_was_added(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """D-O12: version, ids and payload are the row's own."""
    envelope = Envelope(
        "a", "E", 7, b'{"a": 1}', timestamp="2026-01-02T03:04:05.123456789+02:00",
        trace_id="trace", correlation_id="corr", tenant_id=3,
    )  # fmt: skip
    store.add("t", envelope, headers={"traceparent": "00-1-2-01"})
    assert make().drain(SLACK)
    [message] = bus.broker.messages("t")
    assert message.value == envelope.to_bytes()
    assert dict(message.headers)["traceparent"] == "00-1-2-01"


def test_a_hot_aggregate_pays_no_round_trip_per_event(
    store: MemoryStore, make: Make
) -> None:
    store.add("t", *events(1000))
    assert make(batch_size=500).drain(SLACK)
    assert len(store.claims) < 15
    assert len(store.marked) < 500


def test_one_event_of_an_aggregate_is_in_flight(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    store.add("t", *events(10, "a"), *events(10, "b"))
    bus.broker.freeze()
    relay = make()
    relay.start()
    eventually(lambda: bus.stats().in_flight == 2)
    let_pass(0.1)
    assert bus.stats().in_flight == 2
    bus.broker.resume()
    assert relay.drain(SLACK)


def test_without_order_all_is_in_flight(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    store.add("t", *events(50, "a"))
    bus.broker.freeze()
    relay = make(ordering="none")
    relay.start()
    eventually(lambda: bus.stats().in_flight == 50)
    bus.broker.resume()
    assert relay.drain(SLACK)


def test_memory_is_bounded_whatever_the_backlog(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    for number in range(500):
        store.add("t", *events(1, f"a{number}"))
    bus.broker.freeze()
    relay = make(batch_size=20)
    relay.start()
    eventually(lambda: relay.stats().held >= 40)
    let_pass(0.2)
    assert relay.stats().held <= 60
    assert store.leased() <= 60
    bus.broker.resume()
    assert relay.drain(SLACK)


def test_a_busy_bus_is_no_attempt_and_keeps_the_order(
    store: MemoryStore, make: Make
) -> None:
    """A bus with room for one event: every other publish finds no room."""
    with MemoryBus(MemoryConfig(delivery_timeout=1, max_in_flight=1)) as small:
        for aggregate in "abcd":
            store.add("t", *events(20, aggregate))
        relay = OutboxRelay(store, small, name="eventbus-small", lease=6)
        assert relay.drain(SLACK)
        for aggregate in "abcd":
            of_it = [i for i in stored(small) if i.startswith(aggregate)]
            assert of_it == [f"{aggregate}-{n}" for n in range(20)]
    assert {row.attempts for row in store.rows_by_id.values()} == {0}


# -- outcomes --------------------------------------------------------------------------


def test_a_refused_head_holds_its_aggregate_and_no_other(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """D-O13: order is kept through retries; D-O1: and the refusal is counted."""
    store.add("bad", *events(5, "a"))
    store.add("t", *events(5, "b"))
    bus.broker.reject(BrokerFull("no space"), topic="bad", times=3)
    relay = make()
    relay.start()
    eventually(lambda: store.count(RowState.PUBLISHED) == 10, SLACK)
    assert stored(bus, "bad") == [f"a-{n}" for n in range(5)]
    assert store.rows_by_id["a-0"].attempts == 3
    assert {store.rows_by_id[f"a-{n}"].attempts for n in range(1, 5)} == {0}


def test_a_head_refused_for_good_is_dead_and_holds_its_aggregate(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    store.add("t", *events(3, "a"), *events(3, "b"))
    bus.broker.reject(IllegalTopic("bad name"), times=1)
    relay = make()
    assert relay.drain(SLACK)
    assert store.count(RowState.DEAD) == 1
    assert store.count(RowState.PUBLISHED) == 3
    assert store.leased() == 0
    [dead] = [r for r in store.rows_by_id.values() if r.state is RowState.DEAD]
    assert dead.error == "illegal_topic: bad name"
    store.requeue()
    assert relay.drain(SLACK)
    assert store.count(RowState.PUBLISHED) == 6
    for aggregate in "ab":
        of_it = [i for i in stored(bus) if i.startswith(aggregate)]
        assert of_it == [f"{aggregate}-{n}" for n in range(3)]


def test_on_dead_skip_passes_it(store: MemoryStore, bus: MemoryBus, make: Make) -> None:
    store.add("t", *events(3, "a"))
    bus.broker.reject(IllegalTopic("bad name"), times=1)
    assert make(on_dead="skip").drain(SLACK)
    assert stored(bus) == ["a-1", "a-2"]


def test_enough_refusals_bury(store: MemoryStore, bus: MemoryBus, make: Make) -> None:
    """D-O3: max_attempts attempts, no fewer, and the row is dead."""
    store.add("t", *events(1))
    bus.broker.reject(BrokerFull("no space"), times=math.inf)
    relay = make(retry=RetryPolicy(max_attempts=3, backoff=0.01))
    relay.start()
    eventually(lambda: store.state("a-0") is RowState.DEAD, SLACK)
    assert store.rows_by_id["a-0"].attempts == 3
    stats = relay.stats()
    assert (stats.retried, stats.buried) == (2, 1)


def test_an_unknown_outcome_is_tried_again_and_no_attempt(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    store.add("t", *events(3))
    bus.broker.drop_acks(1)
    relay = make()
    relay.start()
    eventually(lambda: store.count(RowState.PUBLISHED) == 3, SLACK)
    assert stored(bus) == ["a-0", "a-1", "a-2"]  # the repeat was recognised
    assert store.rows_by_id["a-0"].attempts == 0


def test_a_success_after_a_failure_is_published(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """D-O4: what failed once and then succeeds is marked, and never sent again."""
    store.add("t", *events(2))
    bus.broker.reject(BrokerFull(), times=1)
    relay = make()
    relay.start()
    eventually(lambda: store.count(RowState.PUBLISHED) == 2, SLACK)
    accepted = bus.stats().accepted
    let_pass(0.2)
    assert bus.stats().accepted == accepted == 3


def test_a_slow_answer_is_no_reason_to_publish_again(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """D-O2: an answer slower than any poll; the row is leased and sent once."""
    store.add("t", *events(1))
    bus.broker.delay(0.6)
    relay = make(poll_interval=0.02)
    assert relay.drain(SLACK)
    assert bus.stats().accepted == 1


def test_an_outcome_that_was_dropped_loses_nothing(
    store: MemoryStore, bus: MemoryBus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("t", *events(2))
    monkeypatch.setattr("eventbus_sync.outbox.claiming.OVERDUE", -0.9)
    relay = make()
    publisher_takes = "eventbus_sync.outbox.publishing.Publisher.take_in"
    with monkeypatch.context() as patch:
        patch.setattr(publisher_takes, lambda self, results: None)
        relay.start()
        eventually(lambda: relay.stats().retried >= 1, SLACK)
    eventually(lambda: store.count(RowState.PUBLISHED) == 2, SLACK)
    assert stored(bus) == ["a-0", "a-1"]


# -- bad rows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "settings", "reason"),
    [
        ("not legal", {}, "invalid: topic"),
        ("", {}, "invalid: topic"),
        ("t", {"payload": b"{broken"}, "invalid: payload"),
        ("t", {"payload": 3.5j}, "payload"),
        ("t", {"headers": {"X-Event-ID": "mine"}}, "invalid: header X-Event-ID"),
        ("t", {"headers": {"bad name": "x"}}, "invalid: header name"),
        ("t", {"payload": b'"' + b"x" * 1_000_000 + b'"'}, "message_too_large: "),
    ],
)
def test_a_row_that_cannot_be_published_is_dead_with_its_reason(
    store: MemoryStore, make: Make, topic: str, settings: dict[str, Any], reason: str
) -> None:
    store.add(topic, *events(1, "a"), **settings)
    store.add("t", *events(1, "a", first=1), *events(1, "b"))
    relay = make()
    assert relay.drain(SLACK)
    assert store.state("a-0") is RowState.DEAD
    assert reason in store.rows_by_id["a-0"].error
    # It holds nobody but its aggregate.
    assert store.state("b-0") is RowState.PUBLISHED
    assert store.state("a-1") is RowState.PENDING
    assert relay.stats().buried == 1


def test_a_bug_at_publishing_costs_its_row_attempts_and_nobody_else(
    store: MemoryStore, bus: MemoryBus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("t", *events(1, "a"), *events(5, "b"))
    publish = bus.publish_envelope

    def broken(topic: str, envelope: Envelope, **settings: Any) -> str:
        if envelope.aggregate_id == "a":
            raise ZeroDivisionError
        return publish(topic, envelope, **settings)

    monkeypatch.setattr(bus, "publish_envelope", broken)
    relay = make(retry=RetryPolicy(max_attempts=2, backoff=0.01))
    relay.start()
    eventually(lambda: store.state("a-0") is RowState.DEAD, SLACK)
    assert store.rows_by_id["a-0"].error.startswith("ZeroDivisionError")
    eventually(lambda: store.count(RowState.PUBLISHED) == 5, SLACK)


# -- marks, leases ---------------------------------------------------------------------


def test_marks_that_the_database_did_not_take_are_kept(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """D-O9: an outage of the database costs time and no mark; memory stays bounded."""
    for number in range(100):
        store.add("t", *events(1, f"a{number}"))
    relay = make(batch_size=10)

    def away() -> None:
        store.away = True

    store.before_mark = away
    relay.start()
    eventually(lambda: relay.stats().last_error is not None, SLACK)
    let_pass(0.2)
    assert relay.stats().held <= 30
    assert relay.stats().state == "running"
    store.before_mark = None
    store.away = False
    eventually(lambda: store.count(RowState.PUBLISHED) == 100, SLACK)
    assert bus.stats().accepted == 100  # nothing was sent twice
    assert isinstance(relay.stats().last_error, DatabaseAway)


def test_a_late_mark_changes_nothing_and_the_rest_is_forgotten(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """D-O8: a foreign lease wins over any outcome that comes late."""
    store.add("t", *events(20))
    bus.broker.delay(0.2)
    relay = make()
    relay.start()
    eventually(lambda: bus.stats().in_flight == 1)
    with store.lock:  # another relay took the aggregate, and has it
        for row in store.rows_by_id.values():
            row.lease, row.until = "foreign", time.monotonic() + 1000
    eventually(lambda: relay.stats().lost >= 1, SLACK)
    eventually(lambda: relay.stats().held == 0, SLACK)
    assert store.count(RowState.PENDING) == 20
    assert {row.lease for row in store.rows_by_id.values()} == {"foreign"}
    # The outcome had sent the next one on its way before the loss was known; no more.
    assert bus.stats().accepted <= 3


def let_leases_age(relay: OutboxRelay, seconds: float) -> None:
    """What the relay has was claimed so much earlier."""
    run = relay._run
    assert run is not None
    with run.held.lock:
        for lease in run.held._leases.values():
            lease.until -= seconds


def test_leases_are_renewed_while_rows_are_held(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """A run that takes longer than the lease is never another relay's."""
    store.add("t", *events(20))
    bus.broker.delay(0.3)
    relay = make(lease=6.0)
    relay.start()
    for _ in range(3):
        eventually(lambda: relay.stats().in_flight == 1, SLACK)
        store.calls.clear()
        let_leases_age(relay, 1.5)
        eventually(lambda: "renew" in store.calls, SLACK)
    bus.broker.delay(0)
    eventually(lambda: store.count(RowState.PUBLISHED) == 20, SLACK)
    assert (relay.stats().lost, relay.stats().released) == (0, 0)


def test_nothing_is_published_under_a_lease_that_is_too_short(
    store: MemoryStore, bus: MemoryBus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that took too long is renewed first, or given back if it ended."""
    monkeypatch.setattr("eventbus_sync.outbox.settings.LEASE_MARGIN", 3.0)
    store.add("t", *events(3))

    def slow() -> None:
        store.before_claim = None
        let_pass(0.6)  # 4.5 s of lease less 0.6 s is less than 1 s + 3 s

    store.before_claim = slow
    publish = bus.publish_envelope
    renewed: list[bool] = []

    def watched(*args: Any, **settings: Any) -> str:
        renewed.append("renew" in store.calls)
        return publish(*args, **settings)

    monkeypatch.setattr(bus, "publish_envelope", watched)
    assert make(lease=4.5).drain(SLACK)
    assert renewed == [True] * 3
    assert store.count(RowState.PUBLISHED) == 3


def test_a_lease_that_ended_before_anything_went_out_is_given_up(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """A host that stood still between claim and publish: the rows may be another's."""
    store.add("t", *events(3))
    relay = make(lease=6.0)
    relay.start()
    run = relay._run
    assert run is not None
    eventually(lambda: store.count(RowState.PUBLISHED) == 3, SLACK)
    run.held.stopped = True
    store.add("t", *events(3, "b"))
    eventually(lambda: relay.stats().held == 3, SLACK)
    with run.held.lock:
        for lease in run.held._leases.values():
            lease.until = time.monotonic() - 1
    run.held.stopped = False
    eventually(lambda: relay.stats().released == 3, SLACK)
    eventually(lambda: store.count(RowState.PUBLISHED) == 6, SLACK)


def test_a_renewal_that_found_fewer_rows_gives_the_rest_back(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    store.add("t", *events(5, "a"), *events(5, "b"))
    bus.broker.delay(0.9)
    relay = make(lease=6.0)
    relay.start()
    eventually(lambda: relay.stats().in_flight == 2, SLACK)
    with store.lock:
        store.rows_by_id["b-4"].lease = "foreign"
        store.rows_by_id["b-4"].until = time.monotonic() + 1000
    let_leases_age(relay, 1.5)
    eventually(lambda: relay.stats().released >= 5, SLACK)
    bus.broker.delay(0)
    eventually(lambda: store.count(RowState.PUBLISHED) == 9, SLACK)
    assert store.rows_by_id["b-4"].lease == "foreign"


# -- idle ------------------------------------------------------------------------------


def test_an_idle_relay_asks_seldom(store: MemoryStore, make: Make) -> None:
    relay = make(poll_interval=0.3)
    relay.start()
    run = relay._run
    assert run is not None
    eventually(lambda: run.claimer._pause == 0.3, SLACK)
    before = len(store.calls)
    let_pass(0.6)
    assert len(store.calls) - before <= 3
    # And yet it is awake soon.
    store.add("t", *events(1))
    eventually(lambda: store.count(RowState.PUBLISHED) == 1, SLACK)


def test_a_notification_wakes_at_once(bus: MemoryBus, make: Make) -> None:
    store = MemoryStore(notifies=True)
    relay = make(store=store, poll_interval=600.0)
    relay.start()
    eventually(lambda: store.claims, SLACK)  # it found nothing, and waits
    store.add("t", *events(1))
    eventually(lambda: store.count(RowState.PUBLISHED) == 1, SLACK)
    assert relay.stop(5)


def test_a_retry_is_not_later_than_it_is_due(store: MemoryStore, make: Make) -> None:
    store.add("t", *events(1), not_before=0.3)
    relay = make(poll_interval=30.0)
    relay.start()
    eventually(lambda: store.count(RowState.PUBLISHED) == 1, 10)


def test_rows_behind_an_open_transaction_are_looked_for_soon(
    store: MemoryStore, make: Make
) -> None:
    store.hidden = True
    relay = make(poll_interval=30.0)
    relay.start()
    eventually(lambda: len(store.claims) > 4, SLACK)
    assert not relay.drain(0.1)  # what is hidden is due


# -- breaker ---------------------------------------------------------------------------


def test_an_unreachable_broker_opens_the_breaker_and_counts_no_attempt(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    for number in range(100):
        store.add("t", *events(2, f"a{number}"))
    bus.broker.reject(BrokerUnavailable("nobody there"), times=math.inf)
    relay = make(batch_size=10)
    relay.start()
    eventually(lambda: relay.stats().breaker == "open", SLACK)
    eventually(lambda: store.leased() <= 1, SLACK)
    before = bus.stats().accepted
    let_pass(0.6)
    assert bus.stats().accepted - before <= 3  # probes, with growing pauses
    assert {row.attempts for row in store.rows_by_id.values()} == {0}
    bus.broker.clear()
    eventually(lambda: store.count(RowState.PUBLISHED) == 200, SLACK)
    assert relay.stats().breaker == "closed"


def test_a_lost_connection_opens_the_breaker(store: MemoryStore) -> None:
    config = MemoryConfig(delivery_timeout=2, close_timeout=0)
    with MemoryBus(config) as bus:
        bus.start()
        assert bus._runtime is not None
        observer = bus._runtime.observer
        bus.broker.freeze()
        store.add("t", *events(5, "a"), *events(5, "b"))
        relay = OutboxRelay(store, bus, name="eventbus-relay", lease=8, retry=QUICK)
        relay.start()
        try:
            eventually(lambda: bus.stats().in_flight == 2, SLACK)
            assert store.leased() == 10
            observer.disconnected(BrokerUnavailable("gone"))
            eventually(lambda: relay.stats().breaker == "open", SLACK)
            # What is not in flight is given back, for relays that have a broker; not
            # only when what is in flight has failed.
            eventually(lambda: store.leased() == 2, SLACK)
            assert (relay.stats().released, relay.stats().retried) == (8, 0)
            store.add("t", *events(5, "c"), *events(5, "d"))
            # After that, one probe at a time goes out.
            eventually(lambda: bus.stats().unknown >= 2, SLACK)
            for _ in range(20):
                assert bus.stats().in_flight <= 1
                let_pass(0.01)
            observer.connected()
            bus.broker.resume()
            eventually(lambda: store.count(RowState.PUBLISHED) == 20, SLACK)
            assert relay.stats().breaker == "closed"
        finally:
            relay.stop(5)


def test_an_open_breaker_lets_one_out_of_many_go(bus: MemoryBus) -> None:
    store = MemoryStore()
    store.add("t", *events(1, "a"), *events(1, "b"), *events(1, "c"))
    claim = store.claim(
        "lease", limit=9, seconds=60, scan_from=0, ordering="aggregate", on_dead="hold"
    )
    held = HeldRows("aggregate", "hold", 4.0, Counts())
    held.add(Lease("lease", time.monotonic() + 60), claim.records)
    breaker = Breaker()
    publisher = Publisher(
        bus, held, breaker, QUICK, Trouble("eventbus-relay"), Topics(5.0, 99)
    )
    breaker.disconnected()
    publisher.pump()
    assert (held.in_flight, bus.stats().accepted) == (1, 1)
    breaker.acked()
    publisher.pump()
    assert bus.stats().accepted == 3


def test_probes_come_at_growing_pauses_and_at_once_when_the_connection_is_back() -> (
    None
):
    now = [100.0]
    breaker = Breaker(lambda: now[0])
    assert not breaker.unreachable()
    assert not breaker.unreachable()
    breaker.answered()  # somebody is there: they have to be in a row
    assert not breaker.unreachable()
    assert not breaker.is_open
    assert breaker.disconnected()
    assert not breaker.disconnected()  # it is open
    pauses = []
    for _ in range(7):
        began = now[0]
        while not breaker.may_probe(connected=False):
            now[0] += 0.25
        pauses.append(now[0] - began)
    assert pauses == [0.5, 0.5, 1, 2, 4, 8, 15]
    assert breaker.may_probe(connected=True)
    assert not breaker.may_probe(connected=True)  # once
    breaker.answered()
    assert breaker.may_probe(connected=True)
    breaker.acked()
    assert not breaker.is_open


# -- purge -----------------------------------------------------------------------------


def test_published_rows_are_purged_in_batches(store: MemoryStore, make: Make) -> None:
    store.add("t", *events(30, "a"))
    assert make(purge_after=None).drain(SLACK)
    assert "purge" not in store.calls
    # The second batch waits for no poll.
    relay = make(purge_after=0.0, purge_batch=20, poll_interval=600.0)
    relay.start()
    eventually(lambda: len(store.rows_by_id) == 0, SLACK)
    assert 2 <= store.calls.count("purge") <= 4


# -- start and stop --------------------------------------------------------------------


def test_stop_waits_for_what_is_in_flight_and_gives_the_rest_back(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """D-O5: every outcome that comes is marked, also while the relay stops."""
    store.add("t", *events(10, "a"), *events(10, "b"))
    bus.broker.delay(0.3)
    relay = make()
    relay.start()
    eventually(lambda: relay.stats().in_flight == 2)
    assert relay.stop()
    assert store.leased() == 0
    published = store.count(RowState.PUBLISHED)
    assert published == len(stored(bus)) == 2
    stats = relay.stats()
    assert (stats.state, stats.held) == ("stopped", 0)
    assert stats.claimed == stats.published + stats.released


def test_stop_under_load_leaves_no_acked_event_unmarked(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """D-O5, with thousands of outcomes on their way."""
    for number in range(200):
        store.add("t", *events(20, f"a{number}"))
    relay = make()
    relay.start()
    eventually(lambda: relay.stats().published > 500, SLACK)
    assert relay.stop()
    assert set(stored(bus)) == {
        i for i, row in store.rows_by_id.items() if row.state is RowState.PUBLISHED
    }
    assert store.leased() == 0


def test_stop_leaves_what_has_no_outcome_leased(
    store: MemoryStore, stuck: Stuck
) -> None:
    relay = stuck(3)
    assert not relay.stop(0.1)
    # It may be stored yet: nobody may try it before the lease has ended.
    assert store.leased() == 1


def test_a_second_stop_ends_the_first_at_once(store: MemoryStore, stuck: Stuck) -> None:
    relay = stuck(10)
    first = threading.Thread(target=lambda: relay.stop(600), name="eventbus-stopper")
    first.start()
    eventually(lambda: relay.stats().state == "stopping")
    # The rest is given back before the wait, not after it.
    eventually(lambda: store.leased() == 1)
    assert first.is_alive()
    relay.stop()
    first.join(SLACK)
    assert not first.is_alive()


def test_start_after_stop_works(store: MemoryStore, bus: MemoryBus, make: Make) -> None:
    """D-O7."""
    relay = make()
    for number in range(3):
        relay.start()
        relay.start()  # does nothing
        store.add("t", *events(2, f"a{number}"))
        eventually(lambda: store.count(RowState.PENDING) == 0, SLACK)
        assert relay.stop()
        assert relay.stop()
    assert len(stored(bus)) == 6
    assert relay.stats().published == 6


def test_a_stop_before_the_start_is_fine(make: Make) -> None:
    relay = make()
    assert relay.stop()
    assert relay.stats().state == "new"
    assert "new" in repr(relay)


def test_outcomes_of_an_earlier_run_are_nobodys(
    store: MemoryStore, bus: MemoryBus, stuck: Stuck
) -> None:
    """What was in flight at a hasty stop is settled for nobody, and tried again."""
    relay = stuck(1)
    relay.stop(0)
    bus.broker.resume()
    bus.flush(5)
    with store.lock:
        store.rows_by_id["a-0"].until = 0.0  # the lease has ended
    bus.broker.reject(BrokerFull(), times=1)
    relay.start()
    eventually(lambda: store.count(RowState.PUBLISHED) == 1, SLACK)
    assert store.rows_by_id["a-0"].attempts == 1


def test_run_returns_after_stop(store: MemoryStore, make: Make) -> None:
    relay = make()
    thread = threading.Thread(target=relay.run, name="eventbus-runner")
    thread.start()
    store.add("t", *events(3))
    eventually(lambda: store.count(RowState.PUBLISHED) == 3, SLACK)
    assert relay.stop()
    thread.join(SLACK)
    assert not thread.is_alive()


def test_a_closed_bus_ends_the_relay_and_run_says_so(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    store.add("t", *events(5, "a"), *events(5, "b"))
    bus.broker.freeze()
    relay = make()
    caught: list[BaseException] = []

    def run() -> None:
        try:
            relay.run()
        except BusClosed as error:
            caught.append(error)

    thread = threading.Thread(target=run, name="eventbus-runner")
    thread.start()
    eventually(lambda: relay.stats().in_flight == 2)
    bus.close(0)
    thread.join(SLACK)
    assert caught
    assert relay.stats().state == "failed"
    assert isinstance(relay.stats().last_error, BusClosed | Exception)
    assert store.leased() == 0
    with pytest.raises(BusClosed):
        relay.start()


def test_a_closed_bus_ends_the_relay_also_if_outcomes_were_dropped(
    store: MemoryStore,
) -> None:
    store.add("t", *events(2, "a"), *events(2, "b"), *events(2, "c"))
    config = MemoryConfig(delivery_timeout=1, result_capacity=1)
    with MemoryBus(config) as bus:
        bus.broker.freeze()
        relay = OutboxRelay(store, bus, name="eventbus-relay", lease=6)
        relay.start()
        eventually(lambda: relay.stats().in_flight == 3)
        bus.close(0)
        eventually(lambda: relay.stats().state == "failed", SLACK)
        assert bus.stats().dropped >= 1
    assert store.leased() == 0


def test_two_kinds_of_errors_in_threads_do_not_end_the_relay(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D-O6: whatever escapes is logged, shown, and the loop goes on."""
    monkeypatch.setattr("eventbus_sync.outbox.running.RESTART_PAUSE", 0.02)
    errors = iter([ZeroDivisionError("one"), KeyError("other"), DatabaseAway()])

    def fail() -> None:
        error = next(errors, None)
        if error is not None:
            raise error

    store.before_claim = fail
    store.add("t", *events(3))
    relay = make()
    relay.start()
    eventually(lambda: store.count(RowState.PUBLISHED) == 3, SLACK)
    store.before_mark = iter([1]).__next__  # StopIteration, of all things
    store.add("t", *events(3, "b"))
    eventually(lambda: relay.stats().last_error is not None)
    store.before_mark = None
    eventually(lambda: store.count(RowState.PUBLISHED) == 6, SLACK)
    assert relay.stats().state == "running"


def test_an_error_in_the_results_thread_does_not_end_it(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_sync.outbox.running.RESTART_PAUSE", 0.02)
    relay = make()
    relay.start()
    run = relay._run
    assert run is not None
    take_in = run.publisher.take_in
    failures = [ZeroDivisionError("a bug")]

    def broken(results: Any) -> None:
        take_in(results)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(run.publisher, "take_in", broken)
    store.add("t", *events(20))
    eventually(lambda: store.count(RowState.PUBLISHED) == 20, SLACK)
    assert isinstance(relay.stats().last_error, ZeroDivisionError)


def test_counters_count_once(store: MemoryStore, bus: MemoryBus, make: Make) -> None:
    """D-O10: published is what the database was told, once per row."""
    for number in range(50):
        store.add("t", *events(10, f"a{number}"))
    bus.broker.reject(BrokerFull(), times=7)
    relay = make()
    relay.start()
    eventually(lambda: store.count(RowState.PUBLISHED) == 500, SLACK)
    relay.stop()
    stats = relay.stats()
    assert (stats.published, stats.retried, stats.buried) == (500, 7, 0)
    done = stats.published + stats.retried + stats.released + stats.lost
    assert stats.claimed == done


# -- what is refused -------------------------------------------------------------------


def test_a_lease_too_short_for_the_bus_names_both_numbers(store: MemoryStore) -> None:
    with (
        MemoryBus(MemoryConfig(delivery_timeout=30)) as bus,
        pytest.raises(ConfigError, match=r"lease=30 .*delivery_timeout=30.* 35"),
    ):
        OutboxRelay(store, bus)


def test_a_bus_that_gets_no_acknowledgements_is_refused(store: MemoryStore) -> None:
    with (
        EventBus(NatsConfig(jetstream=False, delivery_timeout=1)) as bus,
        pytest.raises(JetStreamDisabled),
    ):
        OutboxRelay(store, bus)


def test_two_readers_of_one_bus_are_refused(store: MemoryStore, make: Make) -> None:
    """D-O11: two readers would split the results of one bus."""
    first = make(name="eventbus-first")
    with pytest.raises(ConfigError, match="read by 'eventbus-first' already"):
        make(name="eventbus-second")
    first.start()
    first.stop()
    second = make(name="eventbus-second")  # the first has ended
    with pytest.raises(ConfigError, match="read by 'eventbus-second'"):
        first.start()
    store.add("t", *events(1))
    assert second.drain(SLACK)


def test_who_reads_beside_a_relay_is_told(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    """Its results would never come: refused, also where it waits for one already."""
    channel = bus.get_publish_result_channel()
    told: list[ConfigError] = []

    def read() -> None:
        try:
            channel.get()
        except ConfigError as error:
            told.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: channel._waiting, SLACK)
    relay = make(name="eventbus-relay")
    relay.start()
    reader.join(SLACK)
    assert "read by 'eventbus-relay'" in str(told[0])
    for take in (channel.get_nowait, channel.get_many, lambda: next(iter(channel))):
        with pytest.raises(ConfigError, match="read by 'eventbus-relay'"):
            take()
    store.add("t", *events(3))
    assert relay.drain(SLACK)
    relay.stop()
    bus.publish_envelope("t", events(1)[0])
    assert channel.get(timeout=SLACK).success
    relay.start()  # it reads what is there itself


def test_a_relay_that_never_ran_gives_its_bus_up_when_it_is_stopped(
    make: Make,
) -> None:
    first = make(name="eventbus-first")
    first.stop()
    make(name="eventbus-second")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"lease": "long"}, "lease"),
        ({"ordering": "some"}, "ordering"),
        ({"on_dead": "forget"}, "on_dead"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"purge_after": -1}, "purge_after"),
        ({"purge_batch": 0}, "purge_batch"),
        ({"retry": 3}, "retry"),
        ({"name": ""}, "name"),
    ],
)
def test_a_wrong_setting_is_named(
    make: Make, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        make(**settings)


def test_a_relay_needs_a_bus(store: MemoryStore) -> None:
    with pytest.raises(ConfigError, match="must be an EventBus, not str"):
        OutboxRelay(store, "memory://")  # type: ignore[arg-type]


def test_marks_are_made_in_one_call_per_batch(
    store: MemoryStore, bus: MemoryBus, make: Make
) -> None:
    for number in range(300):
        store.add("t", *events(1, f"a{number}"))
    assert make(batch_size=300).drain(SLACK)
    sizes = [len(marks) for marks in store.marked]
    assert sum(sizes) == 300
    assert len(sizes) < 60
    assert all(isinstance(mark, Mark) for marks in store.marked for mark in marks)
    assert {m.change for marks in store.marked for m in marks} == {Change.PUBLISH}
