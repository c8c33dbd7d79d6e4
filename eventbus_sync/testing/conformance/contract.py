"""The rest of the contract: start, results, plain messages, sizes."""

import math
import threading

from typing import Any

import pytest

from eventbus_sync import Envelope, EnvelopeError, Outcome
from eventbus_sync.testing.conformance.publishing import envelope
from eventbus_sync.testing.conformance.rigs import Rig
from eventbus_sync.testing.eventually import eventually


class Contract:
    """Start, results, plain messages, sizes."""

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
