"""Promises 1 to 3: every accepted event has one outcome, the books balance, nobody waits."""

import threading

from typing import Any

import pytest

from eventbus_sync import BackendBusy, EnvelopeError, Outcome, PublishResult
from eventbus_sync.testing.conformance.books import (
    books_agree,
    settled,
    stored_exactly,
)
from eventbus_sync.testing.conformance.publishing import envelope, publish_all, read
from eventbus_sync.testing.conformance.rigs import Rig
from eventbus_sync.testing.eventually import eventually


class Outcomes:
    """Every accepted event has one outcome, the books balance, nobody waits."""

    # -- promise 1 ---------------------------------------------------------------

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
        good = bus.publish_envelope_sync(topic, envelope(4))
        assert good.success

        stats = bus.stats()
        assert stats.accepted == stats.returned == 1
        stored_exactly(rig.stored(topic), [good.event_id])

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
        times = 1 if rig.recognises_repeats else 50
        stored_exactly(rig.stored(topic), ["the-same"] * times)

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
        """
        A broker that answers nothing: every event is settled, not acked, in time.

        And what it has stored when it is back was not called rejected.
        """
        bus, topic = make(delivery_timeout=2.0), rig.new_topic()
        first = bus.publish_envelope_sync(topic, envelope(0))
        assert first.success
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

        def goes_on() -> bool:
            results.append(bus.publish_envelope_sync(topic, envelope(200)))
            return results[-1].success

        eventually(goes_on, timeout=40)
        stored = settled(lambda: rig.stored(topic))
        books_agree(stored, [first, *results], once=rig.recognises_repeats)

    # -- promise 2 ---------------------------------------------------------------

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
                    unbalanced.append(stats)  # pragma: no cover - a broken promise

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

    # -- promise 3 ---------------------------------------------------------------

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
