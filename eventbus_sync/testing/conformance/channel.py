"""Promise 4: the result channel, full and empty."""

import threading

from typing import Any

import pytest

from eventbus_sync import ChannelFull
from eventbus_sync.testing.conformance.publishing import envelope, read
from eventbus_sync.testing.conformance.rigs import Rig
from eventbus_sync.testing.eventually import eventually


class Channel:
    """The result channel, full and empty."""

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
