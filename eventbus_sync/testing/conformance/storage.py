"""Promises 5, 6 and 10: stored once, in order, and recognisable."""

import threading

from typing import Any

from eventbus_sync import Outcome
from eventbus_sync.testing.conformance.books import stored_exactly, stored_once_in_order
from eventbus_sync.testing.conformance.publishing import envelope, publish_all, read
from eventbus_sync.testing.conformance.rigs import Rig


class Storage:
    """Stored once, in order, and recognisable."""

    def test_promise_6_order_per_aggregate(self, rig: Rig, make: Any) -> None:
        """What one thread publishes for an aggregate is stored in that order, once."""
        bus, topic = make(), rig.new_topic()
        events = [envelope(n, f"order-{n % 20}") for n in range(2000)]
        publish_all(bus, topic, events)
        assert bus.flush(40) == 0

        stored_once_in_order(rig.stored(topic), 2000)

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
        stored_once_in_order(stored, 2000)

    def test_promise_10_a_repeat_is_recognisable(self, rig: Rig, make: Any) -> None:
        """The same envelope published again carries the same id, and is acked."""
        bus, topic = make(), rig.new_topic()
        event = envelope(1)
        first = bus.publish_envelope_sync(topic, event)
        again = bus.publish_envelope_sync(topic, event)

        assert first.success
        assert again.success
        assert again.duplicate is rig.recognises_repeats
        times = 1 if rig.recognises_repeats else 2
        stored_exactly(rig.stored(topic), [event.event_id] * times)
