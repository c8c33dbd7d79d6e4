"""Promise 9: close is final, keeps its deadline and leaves nothing behind."""

import collections
import threading

from typing import Any

import pytest

from eventbus_sync import BusClosed, Outcome, PublishResult, ResultChannelClosed
from eventbus_sync.testing.conformance.publishing import envelope
from eventbus_sync.testing.conformance.rigs import Rig
from eventbus_sync.testing.eventually import eventually


class Closing:
    """Close is final, keeps its deadline and leaves nothing behind."""

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
