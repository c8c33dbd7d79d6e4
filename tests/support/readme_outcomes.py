"""The README's code about outcomes, run on the rows of an application."""

from typing import Any


# Each row with what its broker does, and what it must become.
ROWS = """
from eventbus_sync import Envelope, MemoryConfig
from eventbus_sync.errors import BrokerFull, BrokerUnavailable, IllegalTopic
from eventbus_sync.testing import MemoryBus
from marks import hand_over, mark

row = Envelope("order-1", "Made", 1, {}, event_id="e").to_bytes()
expected = {
    None: ("published", 0),
    BrokerFull("no space"): ("pending", 1),
    BrokerUnavailable("nobody there"): ("pending", 0),
    IllegalTopic("no name"): ("dead", 1),
}
for error, what in expected.items():
    with MemoryBus() as bus:
        if error is not None:
            bus.broker.reject(error)
        assert hand_over(bus, "orders", row) == "in flight"
        result = bus.get_publish_result_channel().get(timeout=10)
        assert (result.event_id, mark(result)) == ("e", what), result

with MemoryBus(MemoryConfig(delivery_timeout=0.1)) as bus:
    bus.broker.drop_acks()
    assert hand_over(bus, "orders", row) == "in flight"
    result = bus.get_publish_result_channel().get(timeout=10)
    assert mark(result) == ("pending", 0), result
    # Published again it is recognisable.
    hand_over(bus, "orders", row)
    assert bus.flush(10) == 0
    assert {stored.event_id for stored in bus.broker.messages()} == {"e"}

with MemoryBus(MemoryConfig(max_in_flight=1, publish_timeout=0)) as bus:
    bus.broker.freeze()
    states = [hand_over(bus, "orders", row) for _ in range(2)]
    assert states == ["in flight", "pending"]
    assert hand_over(bus, " ", row) == "dead"
    bus.broker.resume()
"""


def marked(stand: Any) -> None:
    """Each kind of outcome becomes the state that the table asks for."""
    stand.workshop.run("-c", ROWS)
