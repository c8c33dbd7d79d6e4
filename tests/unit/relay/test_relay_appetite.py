"""How much a relay claims: bounded in bytes, from its first claim on."""

from typing import Any

import attrs
import pytest

from support.eventually import eventually
from support.patience import SLACK, let_pass
from support.relay_store import DatabaseAway, MemoryStore
from support.relays import Make, events, run_of

from eventbus_sync import Envelope
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import appetite
from eventbus_sync.outbox.lines import size_of
from eventbus_sync.outbox.record import Claim, OutboxRecord, RowState
from eventbus_sync.testing import MemoryBus


pytest_plugins = ["support.databases"]


def taken(store: MemoryStore) -> tuple[OutboxRecord, ...]:
    return store.claim(
        "lease", limit=9, seconds=60, scan_from=0, ordering="aggregate", on_dead="hold"
    ).records


def test_large_payloads_are_claimed_a_few_at_a_time(
    store: MemoryStore, bus: MemoryBus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first claim on: the database says what fits before it sends it."""
    monkeypatch.setattr(appetite, "MOST_BYTES", 20_000)
    store.add("t", Envelope("small", "E", 1, 1))  # which says nothing of the others
    for number in range(40):
        store.add("t", Envelope(f"k{number}", "E", 1, "x" * 5000))
    relay = make(batch_size=10)
    bus.broker.freeze()
    relay.start()
    # The last of them goes beyond, since one row is taken whatever it has.
    eventually(lambda: relay.stats().held == 5, SLACK)
    let_pass(0.2)
    assert relay.stats().held == 5
    bus.broker.resume()
    assert relay.drain(SLACK)
    assert store.count(RowState.PUBLISHED) == 41
    assert max(store.claims) <= 4
    assert run_of(relay).held.bytes == 0


def test_a_claim_that_fails_is_tried_smaller(
    store: MemoryStore, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database, or this process, may have no memory for that many rows."""
    monkeypatch.setattr("eventbus_sync.outbox.claiming.FIRST_BACKOFF", 0.001)
    monkeypatch.setattr("eventbus_sync.outbox.claiming.LONGEST_BACKOFF", 0.001)
    asked: list[int] = []
    claim = store.claim

    def out_of_memory(lease: str, **wish: Any) -> Claim:
        asked.append(wish["limit"])
        if wish["limit"] > 5:
            raise DatabaseAway
        return claim(lease, **wish)

    monkeypatch.setattr(store, "claim", out_of_memory)
    for number in range(40):
        store.add("t", *events(1, f"a{number}"))
    relay = make(batch_size=40)
    assert relay.drain(SLACK)
    assert store.count(RowState.PUBLISHED) == 40
    assert asked[:5] == [40, 20, 10, 5, 7]


def test_a_claim_shrinks_to_one_row_and_grows_back(store: MemoryStore) -> None:
    limits = appetite.Appetite(500)
    for _ in range(30):
        limits.failed()
    assert limits.rows(0) == 1
    store.add("t", *events(1))
    (one,) = taken(store)
    for _ in range(30):
        limits.took([])
    assert limits.rows(0) == 1  # nothing is shown by finding nothing
    for _ in range(30):
        limits.took([one])
    assert limits.rows(0) == 500
    assert limits.bytes(0) == appetite.MOST_BYTES
    assert limits.bytes(2 * appetite.MOST_BYTES) == 0
    assert limits.rows(2 * appetite.MOST_BYTES) == 1


def test_headers_count_and_damaged_ones_do_not(store: MemoryStore) -> None:
    store.add("t", Envelope("a", "E", 1, 1), headers={"name": "value"})
    (one,) = taken(store)
    assert size_of(one) == 1 + 4 + 5
    damaged: dict[str, Any] = {"headers": {"name": 5}, "payload": None}
    assert size_of(attrs.evolve(one, **damaged)) == 4


@pytest.mark.parametrize("batch_size", [3, 500])
def test_payloads_in_a_database_are_read_as_far_as_there_is_room(
    sqlite_outbox: SqlAlchemyOutbox,
    bus: MemoryBus,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    """Some small rows, then large ones: nothing before them says how large they are."""
    monkeypatch.setattr(appetite, "MOST_BYTES", 300_000)
    claim = sqlite_outbox.claim
    read: list[int] = []
    held: list[int] = []

    def watched(lease: str, **wish: Any) -> Claim:
        found = claim(lease, **wish)
        read.append(sum(map(size_of, found.records)))
        held.append(run_of(relay).held.bytes + read[-1])
        return found

    monkeypatch.setattr(sqlite_outbox, "claim", watched)
    with sqlite_outbox.engine.begin() as connection:
        for size in (1, 90_000):
            many = [Envelope(f"k{n % 9}", "E", 1, "x" * size) for n in range(30)]
            sqlite_outbox.add_many(connection, "t", many)
    relay = make(store=sqlite_outbox, batch_size=batch_size)
    assert relay.drain(SLACK)
    assert sqlite_outbox.stats().published == 60
    one_more = 90_002
    assert max(held) <= 300_000 + one_more
    if batch_size > 3:
        assert max(read) > 200_000  # and the room is used
    order = [message.event_id for message in bus.broker.messages("t")]
    assert len(order) == 60
