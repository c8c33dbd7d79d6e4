"""Whatever becomes of single attempts: no event is lost, and none overtakes another."""

import time

from collections import defaultdict
from unittest import mock

import hypothesis

from hypothesis import strategies as st
from support.patience import SLACK
from support.relay_store import MemoryStore

from eventbus_sync import Envelope, MemoryConfig
from eventbus_sync.backends.base import Ack, OutgoingMessage
from eventbus_sync.errors import (
    BrokerFull,
    BrokerUnavailable,
    DeliveryTimedOut,
    IllegalTopic,
    PublishError,
)
from eventbus_sync.outbox import OutboxRelay, RetryPolicy
from eventbus_sync.outbox.record import RowState
from eventbus_sync.testing import MemoryBus


#: What may become of one attempt; "maybe" is an unknown outcome of a stored event.
FATES = ("ack", "full", "illegal", "unavailable", "unknown", "maybe")

ERRORS: dict[str, type[PublishError]] = {
    "full": BrokerFull,
    "illegal": IllegalTopic,
    "unavailable": BrokerUnavailable,
    "unknown": DeliveryTimedOut,
    "maybe": DeliveryTimedOut,
}

scripts = st.lists(st.sampled_from(FATES), max_size=4)
backlogs = st.lists(st.tuples(st.sampled_from("abc"), scripts), max_size=25)


class ScriptedBroker:
    """Stands before a broker and gives each event its fates, one per attempt."""

    def __init__(self, bus: MemoryBus, fates: dict[str, list[str]]) -> None:
        self.fates = fates
        self._take = bus.broker.take
        bus.broker.take = self.take  # type: ignore[method-assign]

    def take(self, message: OutgoingMessage) -> Ack | PublishError | None:
        left = self.fates[message.event_id]
        fate = left.pop(0) if left else "ack"
        if fate in {"ack", "maybe"}:
            answer = self._take(message)
        return answer if fate == "ack" else ERRORS[fate](fate)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    backlog=backlogs,
    relays=st.integers(1, 2),
    batch_size=st.integers(1, 8),
    on_dead=st.sampled_from(["hold", "skip"]),
)
@hypothesis.example(
    backlog=[("a", ["illegal", "maybe"]), ("a", []), ("b", ["unavailable"] * 4)],
    relays=2,
    batch_size=1,
    on_dead="hold",
)
def test_no_event_is_lost_and_order_is_kept(
    backlog: list[tuple[str, list[str]]], relays: int, batch_size: int, on_dead: str
) -> None:
    """D-O13: per aggregate, by first occurrence, also with two relays on one table."""
    store = MemoryStore()
    fates = {}
    order = defaultdict(list)
    for number, (aggregate, script) in enumerate(backlog):
        event_id = f"{aggregate}-{number}"
        store.add("t", Envelope(aggregate, "E", 1, number, event_id=event_id))
        fates[event_id] = list(script)
        order[aggregate].append(event_id)
    deaths = any(
        "illegal" in script or script.count("full") > 1 for _, script in backlog
    )
    # One broker for all, as it is in life.
    config = MemoryConfig(delivery_timeout=1, close_timeout=0)
    first = MemoryBus(config)
    ScriptedBroker(first, fates)
    buses = [first]
    for _ in range(relays - 1):
        bus = MemoryBus(config)
        bus.broker = first.broker
        buses.append(bus)
    quick = RetryPolicy(max_attempts=2, backoff=0.001)
    with (
        mock.patch("eventbus_sync.outbox.breaker.FIRST_PAUSE", 0.001),
        mock.patch("eventbus_sync.outbox.breaker.LONGEST_PAUSE", 0.002),
    ):
        running = [
            OutboxRelay(
                store,
                bus,
                name=f"eventbus-relay{number}",
                batch_size=batch_size,
                lease=6,
                on_dead="hold" if on_dead == "hold" else "skip",
                retry=quick,
                poll_interval=0.02,
            )
            for number, bus in enumerate(buses)
        ]
        for relay in running:
            relay.start()
        try:
            deadline = time.monotonic() + SLACK
            while store.count(RowState.PUBLISHED) < len(backlog):
                assert time.monotonic() < deadline, [r.stats() for r in running]
                store.requeue()
                time.sleep(0.005)
            assert [relay.stop(5) for relay in running] == [True] * relays
        finally:
            for relay in running:
                relay.stop(0)
            for bus in buses:
                bus.close(0)
    stored = first.broker.messages("t")
    seen = defaultdict(list)
    for message in stored:
        seen[message.key].append(message.event_id)
    assert {m.event_id for m in stored} == set(fates)
    if on_dead == "hold" or not deaths:
        assert dict(seen) == dict(order)
    assert sum(relay.stats().published for relay in running) == len(backlog)
    assert {relay.stats().held for relay in running} == {0}
    assert store.leased() == 0
