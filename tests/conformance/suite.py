"""
The contract as tests, one for each sentence; every back end runs all of them.

A back end subclasses ``BackendConformance`` and gives a ``rig`` (see support/rigs.py).
"""

import collections
import math
import threading

from collections.abc import Iterator
from typing import Any

import pytest

from support.eventually import eventually
from support.rigs import Rig

from eventbus_sync import (
    BackendBusy,
    BusClosed,
    ChannelFull,
    Envelope,
    EnvelopeError,
    EventBus,
    Outcome,
    PublishResult,
    ResultChannelClosed,
)


def envelope(number: int = 0, aggregate: str = "order-1", **more: Any) -> Envelope:
    """Return an event whose payload tells it from others."""
    return Envelope(aggregate, "OrderCreated", 1, {"n": number}, **more)


def read(bus: EventBus, count: int, timeout: float = 40) -> list[PublishResult]:
    """Return exactly *count* results, or fail when they don't come."""
    taken: list[PublishResult] = []
    channel = bus.get_publish_result_channel()
    while len(taken) < count:
        batch = channel.get_many(count - len(taken), timeout=timeout)
        assert batch, f"only {len(taken)} of {count} outcomes came: {bus.stats()}"
        taken += batch
    return taken


def publish_all(bus: EventBus, topic: str, events: list[Envelope]) -> None:
    """Publish from four threads, each the events of its own aggregates, in order."""
    lanes: dict[int, list[Envelope]] = collections.defaultdict(list)
    for event in events:
        lanes[sum(event.aggregate_id.encode()) % 4].append(event)

    def publish(lane: list[Envelope]) -> None:
        for event in lane:
            bus.publish_envelope(topic, event, timeout=30)

    threads = [threading.Thread(target=publish, args=(x,)) for x in lanes.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def order_kept(stored: list[tuple[str, str, bytes]]) -> bool:
    """Return whether the events of each aggregate are stored as they were numbered."""
    last: dict[str, int] = {}
    for _, aggregate, body in stored:
        number = int(body.rpartition(b'{"n":')[2].rstrip(b"}"))
        if last.get(aggregate, -1) >= number:
            return False
        last[aggregate] = number
    return True


class BackendConformance:
    """What holds on every back end (promise 7)."""

    @pytest.fixture
    def buses(self, rig: Rig) -> Iterator[list[EventBus]]:
        """Whatever a test opens is closed, and no thread is left."""
        before = set(threading.enumerate())
        opened: list[EventBus] = []
        yield opened
        rig.resume()
        for bus in opened:
            bus.close(10)
        eventually(lambda: set(threading.enumerate()) <= before)

    @pytest.fixture
    def make(self, rig: Rig, buses: list[EventBus]) -> Any:
        """Return a function that makes a bus with some settings."""

        def make(**settings: Any) -> EventBus:
            bus = rig.bus(**settings)
            buses.append(bus)
            return bus

        return make

    # -- promise 1 -----------------------------------------------------------------

    def test_promise_1_every_accepted_event_gets_one_outcome(
        self, rig: Rig, make: Any
    ) -> None:
        """Many threads, many events: as many outcomes, each event's own, all acked."""
        bus, topic = make(), rig.new_topic()
        events = [envelope(n, f"order-{n % 50}") for n in range(2000)]
        publish_all(bus, topic, events)

        results = read(bus, len(events))
        assert bus.flush(30) == 0
        stats = bus.stats()

        assert {r.outcome for r in results} == {Outcome.ACKED}
        assert sorted(r.event_id for r in results) == sorted(e.event_id for e in events)
        assert stats.accepted == stats.acked == stats.taken == len(events)
        assert stats.late_outcomes == 0
        assert stats.balanced

    def test_promise_1_what_was_raised_has_no_outcome(
        self, rig: Rig, make: Any
    ) -> None:
        """An event that was refused by an exception is in no book and on no broker."""
        bus, topic = make(max_message_bytes=2000), rig.new_topic()
        with pytest.raises(EnvelopeError, match="max_message_bytes"):
            bus.publish_envelope(topic, envelope(1, trace_id="x" * 3000))
        with pytest.raises(EnvelopeError, match="topic"):
            bus.publish_envelope("not legal\n", envelope(2))
        with pytest.raises(EnvelopeError, match="X-Event-ID"):
            bus.publish_envelope(topic, envelope(3), headers={"X-Event-ID": "mine"})
        assert bus.publish_envelope_sync(topic, envelope(4)).success

        stats = bus.stats()
        assert stats.accepted == stats.returned == 1
        assert [body[-9:] for _, _, body in rig.stored(topic)] == [b':{"n":4}}']

    def test_promise_1_one_event_id_twice_is_two_outcomes(
        self, rig: Rig, make: Any
    ) -> None:
        """Two publishes of one event id, both in flight, have an outcome each."""
        bus, topic = make(), rig.new_topic()
        event = envelope(1, event_id="the-same")
        for _ in range(50):
            bus.publish_envelope(topic, event)

        results = read(bus, 50)
        assert [r.event_id for r in results] == ["the-same"] * 50
        assert all(r.success for r in results)
        assert len(rig.stored(topic)) == (1 if rig.recognises_repeats else 50)

    def test_promise_1_callbacks_that_raise_change_nothing(
        self, rig: Rig, make: Any
    ) -> None:
        """A callback that raises loses no outcome."""
        bus, topic = make(), rig.new_topic()
        seen: list[PublishResult] = []

        def callback(result: PublishResult) -> None:
            seen.append(result)
            raise ValueError(result.event_id)

        bus.register_publish_callback(callback)
        for number in range(20):
            bus.publish_envelope(topic, envelope(number))

        assert len(read(bus, 20)) == 20
        eventually(lambda: len(seen) == 20)
        eventually(lambda: bus.stats().callback_errors == 20)

    def test_promise_1_frozen_broker_ends_in_outcomes(
        self, rig: Rig, make: Any
    ) -> None:
        """A broker that answers nothing: every event is settled, not acked, in time."""
        bus, topic = make(delivery_timeout=2.0), rig.new_topic()
        assert bus.publish_envelope_sync(topic, envelope(0)).success
        rig.freeze()
        for number in range(1, 101):
            bus.publish_envelope(topic, envelope(number))

        results = read(bus, 100)
        assert {r.outcome for r in results} <= {Outcome.UNKNOWN, Outcome.REJECTED}
        assert all(r.error is not None and r.error.retriable for r in results)
        # Promise 1 gives two seconds; the machine that runs this may be asleep.
        assert min(r.latency for r in results) >= 2.0
        assert bus.stats().in_flight == 0

        rig.resume()
        eventually(
            lambda: bus.publish_envelope_sync(topic, envelope(200)).success, timeout=40
        )

    # -- promise 2 -----------------------------------------------------------------

    def test_promise_2_books_balance_in_every_snapshot(
        self, rig: Rig, make: Any
    ) -> None:
        """Whenever one looks, while events come and go, both equations hold."""
        bus, topic = make(result_capacity=500), rig.new_topic()
        stop = threading.Event()
        unbalanced: list[object] = []

        def look() -> None:
            while not stop.is_set():
                stats = bus.stats()
                if not stats.balanced:
                    unbalanced.append(stats)

        def take() -> None:
            while not stop.is_set():
                bus.get_publish_result_channel().get_many(7, timeout=0.01)

        watchers = [threading.Thread(target=look), threading.Thread(target=take)]
        for watcher in watchers:
            watcher.start()
        publish_all(bus, topic, [envelope(n, f"o-{n % 9}") for n in range(3000)])
        left = bus.flush(40)
        stop.set()
        for watcher in watchers:
            watcher.join()

        assert unbalanced == []
        assert left == 0
        stats = bus.stats()
        assert stats.accepted == stats.acked == 3000
        assert stats.balanced

    # -- promise 3 -----------------------------------------------------------------

    def test_promise_3_the_caller_never_waits_for_the_broker(
        self, rig: Rig, make: Any
    ) -> None:
        """While the broker is frozen events are accepted until there is no room."""
        bus, topic = make(max_in_flight=50, publish_timeout=0.05), rig.new_topic()
        assert bus.publish_envelope_sync(topic, envelope(0)).success
        rig.freeze()
        for number in range(50):
            bus.publish_envelope(topic, envelope(number))
        with pytest.raises(BackendBusy, match="max_in_flight"):
            bus.publish_envelope(topic, envelope(51))

        stats = bus.stats()
        assert (stats.accepted, stats.in_flight) == (51, 50)
        rig.resume()
        assert len(read(bus, 50)) == 50

    # -- promise 4 -----------------------------------------------------------------

    def test_promise_4_a_full_channel_costs_results_not_acks(
        self, rig: Rig, make: Any
    ) -> None:
        """With no reader all events are acked; what does not fit is counted."""
        bus, topic = make(result_capacity=100), rig.new_topic()
        errors: list[Exception] = []
        bus.set_error_handler(errors.append)
        for number in range(300):
            bus.publish_envelope(topic, envelope(number), timeout=30)

        assert bus.flush(30) == 0
        stats = bus.stats()
        assert (stats.acked, stats.queued, stats.dropped) == (300, 100, 200)
        eventually(lambda: any("result channel is full" in str(e) for e in errors))

    def test_promise_4_reserve_never_drops(self, rig: Rig, make: Any) -> None:
        """With overflow="reserve" the publisher is refused and no result is lost."""
        bus = make(result_capacity=100, overflow="reserve", publish_timeout=0.05)
        topic = rig.new_topic()
        for number in range(100):
            bus.publish_envelope(topic, envelope(number))
        with pytest.raises(ChannelFull, match="reading"):
            bus.publish_envelope(topic, envelope(100))
        assert bus.flush(30) == 0
        with pytest.raises(ChannelFull):
            bus.publish_envelope(topic, envelope(100))

        taken = read(bus, 60)
        for number in range(60):
            bus.publish_envelope(topic, envelope(200 + number))
        taken += read(bus, 100)
        stats = bus.stats()
        assert (stats.accepted, stats.taken, stats.dropped) == (160, 160, 0)
        assert len({r.event_id for r in taken}) == 160

    def test_promise_4_reserve_wakes_the_publisher(self, rig: Rig, make: Any) -> None:
        """A publisher that waits for a place goes on when a reader takes a result."""
        bus = make(result_capacity=1, overflow="reserve")
        topic = rig.new_topic()
        bus.publish_envelope(topic, envelope(0))
        assert bus.flush(30) == 0
        reader = threading.Timer(0.1, lambda: read(bus, 1))
        reader.start()
        bus.publish_envelope(topic, envelope(1), timeout=30)
        reader.join()
        assert len(read(bus, 1)) == 1

    # -- promises 5 and 6 ----------------------------------------------------------

    def test_promise_6_order_per_aggregate(self, rig: Rig, make: Any) -> None:
        """What one thread publishes for an aggregate is stored in that order, once."""
        bus, topic = make(), rig.new_topic()
        events = [envelope(n, f"order-{n % 20}") for n in range(2000)]
        publish_all(bus, topic, events)
        assert bus.flush(40) == 0

        stored = rig.stored(topic)
        assert len(stored) == len({event_id for event_id, _, _ in stored}) == 2000
        assert order_kept(stored)

    def test_promise_5_and_6_across_a_freeze(self, rig: Rig, make: Any) -> None:
        """A broker that sleeps for a while stores each event once and in order."""
        bus, topic = make(), rig.new_topic()
        assert bus.publish_envelope_sync(topic, envelope(0, "warm")).success
        events = [envelope(n, f"order-{n % 20}") for n in range(2000)]
        thaw = threading.Timer(1.0, rig.resume)
        rig.freeze()
        thaw.start()
        publish_all(bus, topic, events)
        results = read(bus, 2000)
        thaw.join()

        assert {r.outcome for r in results} == {Outcome.ACKED}
        stored = [entry for entry in rig.stored(topic) if entry[1] != "warm"]
        assert len(stored) == len({event_id for event_id, _, _ in stored}) == 2000
        assert order_kept(stored)

    def test_promise_10_a_repeat_is_recognisable(self, rig: Rig, make: Any) -> None:
        """The same envelope published again carries the same id, and is acked."""
        bus, topic = make(), rig.new_topic()
        event = envelope(1)
        first = bus.publish_envelope_sync(topic, event)
        again = bus.publish_envelope_sync(topic, event)

        assert first.success
        assert again.success
        assert again.duplicate is rig.recognises_repeats
        assert {event_id for event_id, _, _ in rig.stored(topic)} == {event.event_id}

    # -- promise 9 -----------------------------------------------------------------

    def test_promise_9_close_settles_everything_and_is_final(
        self, rig: Rig, make: Any
    ) -> None:
        """After close each event has an outcome, the channel ends, nothing runs."""
        before = set(threading.enumerate())
        bus, topic = make(), rig.new_topic()
        for number in range(500):
            bus.publish_envelope(topic, envelope(number), timeout=30)
        bus.close(30)
        bus.close(30)

        assert set(threading.enumerate()) <= before
        assert len(list(bus.get_publish_result_channel())) == 500
        assert bus.stats().balanced
        assert bus.stats().acked == 500
        assert bus.health().state == "closed"
        with pytest.raises(BusClosed):
            bus.publish_envelope(topic, envelope(1))
        with pytest.raises(BusClosed):
            bus.publish(topic, b"x")
        with pytest.raises(BusClosed):
            bus.start(1)
        with pytest.raises(ResultChannelClosed):
            bus.get_publish_result_channel().get(timeout=1)

    def test_promise_9_close_with_a_frozen_broker(self, rig: Rig, make: Any) -> None:
        """Close keeps its deadline; what had no answer is unknown, not lost."""
        before = set(threading.enumerate())
        bus, topic = make(), rig.new_topic()
        assert bus.publish_envelope_sync(topic, envelope(0)).success
        rig.freeze()
        for number in range(50):
            bus.publish_envelope(topic, envelope(number))
        bus.close(2)

        results = list(bus.get_publish_result_channel())
        assert len(results) == 50
        assert {r.outcome for r in results} <= {Outcome.UNKNOWN, Outcome.REJECTED}
        assert bus.stats().balanced
        assert bus.stats().in_flight == 0
        eventually(lambda: set(threading.enumerate()) <= before)

    def test_promise_9_close_while_others_publish_wait_and_read(
        self, rig: Rig, make: Any
    ) -> None:
        """Publishers in full flight get BusClosed, a blocked reader the end, no hang."""
        bus, topic = make(max_in_flight=20), rig.new_topic()
        accepted = collections.Counter[str]()
        started = threading.Barrier(5)

        def publish(name: str) -> None:
            started.wait()
            number = 0
            while True:
                try:
                    bus.publish_envelope(topic, envelope(number, name), timeout=30)
                except BusClosed:
                    return
                accepted[name] += 1
                number += 1

        taken: list[PublishResult] = []
        reader = threading.Thread(
            target=lambda: taken.extend(bus.get_publish_result_channel())
        )
        threads = [threading.Thread(target=publish, args=(f"o-{n}",)) for n in range(4)]
        for thread in [*threads, reader]:
            thread.start()
        started.wait()
        eventually(lambda: bus.stats().acked > 100, timeout=30)
        closers = [threading.Thread(target=bus.close, args=(20,)) for _ in range(2)]
        for closer in closers:
            closer.start()
        for thread in [*threads, *closers, reader]:
            thread.join(60)
            assert not thread.is_alive()

        assert len(taken) == sum(accepted.values()) == bus.stats().accepted
        assert bus.stats().balanced

    # -- the rest of the contract ---------------------------------------------------

    def test_contract_9_constructing_starts_nothing(self, make: Any) -> None:
        """A bus that is never used has no thread, and closes at once."""
        before = threading.active_count()
        bus = make()
        assert threading.active_count() == before
        assert bus.stats().accepted == 0
        assert bus.health().state == "new"
        assert bus.flush(1) == 0
        bus.close(1)
        assert threading.active_count() == before

    def test_start_checks_the_broker(self, rig: Rig, make: Any) -> None:
        """start() returns when all is well, may be called again, and shows in health."""
        bus, topic = make(), rig.new_topic()
        bus.start(20)
        bus.start(20)
        assert bus.publish_envelope_sync(topic, envelope(1)).success
        eventually(lambda: bus.health().connected is True)
        assert bus.health().state == "running"

    def test_results_carry_what_go_gives(self, rig: Rig, make: Any) -> None:
        """A result names event, topic, aggregate, type, tenant, place and latency."""
        bus, topic = make(), rig.new_topic()
        event = envelope(1, tenant_id=7)
        result = bus.publish_envelope_sync(topic, event, headers={"traceparent": "x"})

        assert result.success
        assert result.outcome is Outcome.ACKED
        assert result.error is None
        assert (result.event_id, result.topic) == (event.event_id, topic)
        assert (result.aggregate_id, result.event_type) == ("order-1", "OrderCreated")
        assert result.tenant_id == 7
        assert 0 < result.latency < math.inf
        assert result.timestamp.tzinfo is not None
        place = (result.partition, result.offset), (result.stream, result.sequence)
        assert (None, None) in place
        assert any(isinstance(p[1], int) for p in place)

    def test_plain_messages_have_no_outcome(self, rig: Rig, make: Any) -> None:
        """publish() sends what nobody hears of again."""
        bus, topic = make(), rig.new_topic()
        bus.publish(topic, b"cache", key="k", headers={"kind": "hint"})
        bus.publish(topic, "text")
        assert bus.publish_envelope_sync(topic, envelope(1)).success

        assert bus.stats().accepted == 1
        bodies = [body for _, _, body in rig.stored(topic)]
        assert bodies.count(b"cache") == 1
        assert bodies.count(b"text") == 1

    def test_large_events_up_to_the_limit(self, rig: Rig, make: Any) -> None:
        """The largest event that is accepted is also stored."""
        bus, topic = make(), rig.new_topic()
        room = 1_000_000 - 700
        result = bus.publish_envelope_sync(topic, envelope(0, trace_id="t"))
        assert result.success
        big = Envelope("order-1", "Big", 1, {"blob": "x" * room})
        assert bus.publish_envelope_sync(topic, big).success
        with pytest.raises(EnvelopeError, match="max_message_bytes"):
            bus.publish_envelope(
                topic, Envelope("order-1", "Big", 1, {"blob": "x" * 1_000_000})
            )
