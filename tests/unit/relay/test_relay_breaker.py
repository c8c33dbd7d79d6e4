"""The breaker after an outage on a quiet outbox: nobody waits for a long pause."""

import attrs
import pytest

from support.eventually import eventually
from support.patience import SLACK
from support.relay_store import MemoryStore

from eventbus_sync import Envelope
from eventbus_sync.outbox import OutboxRelay
from eventbus_sync.outbox.breaker import FIRST_PAUSE, Breaker
from eventbus_sync.outbox.record import RowState
from eventbus_sync.testing import MemoryBus


def test_what_a_lost_connection_opened_its_return_closes() -> None:
    breaker = Breaker(lambda: 100.0)
    assert breaker.disconnected()
    breaker.connected()
    assert not breaker.is_open


def test_what_unreachable_brokers_opened_an_acknowledgement_closes() -> None:
    """A bus may be connected to one broker while the others cannot be reached."""
    breaker = Breaker(lambda: 100.0)
    assert [breaker.unreachable() for _ in range(3)] == [False, False, True]
    breaker.connected()
    assert breaker.is_open
    assert not breaker.disconnected()  # it is open
    breaker.connected()
    assert breaker.is_open
    breaker.acked()
    assert not breaker.is_open


def test_a_probe_that_found_nothing_is_given_back() -> None:
    now = [100.0]
    breaker = Breaker(lambda: now[0])
    breaker.disconnected()
    for _ in range(8):
        now[0] += 15.0
        assert breaker.may_probe(connected=False)
        breaker.give_back_probe()
    assert not breaker.may_probe(connected=False)
    now[0] += FIRST_PAUSE
    assert breaker.may_probe(connected=False)


def test_after_an_outage_without_rows_the_next_row_goes_at_once(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    connected = [False]
    health = bus.health
    monkeypatch.setattr(
        bus, "health", lambda: attrs.evolve(health(), connected=connected[0])
    )
    relay = OutboxRelay(store, bus, name="eventbus-relay", lease=6.0)
    relay.start()
    try:
        eventually(lambda: relay.stats().breaker == "open", SLACK)
        connected[0] = True
        eventually(lambda: relay.stats().breaker == "closed", SLACK)
    finally:
        assert relay.stop()


def test_a_quiet_outage_does_not_make_the_first_row_wait(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened by refusals, so that nothing but a probe can close it."""
    monkeypatch.setattr("eventbus_sync.outbox.breaker.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("eventbus_sync.outbox.claiming.MAINTENANCE", 0.01)
    store = MemoryStore()
    relay = OutboxRelay(
        store, bus, name="eventbus-relay", lease=6.0, poll_interval=0.05
    )
    relay.start()
    try:
        run = relay._run
        assert run is not None
        for _ in range(3):
            run.breaker.unreachable()
        probes = len(store.claims)
        eventually(lambda: len(store.claims) > probes + 5, SLACK)
        assert relay.stats().breaker == "open"
        # Not doubled five times: a probe that finds nothing is given back.
        assert run.breaker._pause <= 0.04
        store.add("t", Envelope("a", "E", 1, 0, event_id="a-0"))
        eventually(lambda: store.state("a-0") is RowState.PUBLISHED, SLACK)
        assert relay.stats().breaker == "closed"
    finally:
        assert relay.stop()
