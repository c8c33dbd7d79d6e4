"""A hostile server answers with acks that are nearly right: no thread dies of it."""

import random
import threading

from collections import Counter

import pytest

from conformance.suite import envelope, read
from support.fake_nats import Client, FakeNats, Published, acknowledge
from support.fuzz import ACKS
from support.jetstream import buses
from support.mutations import mutated

from eventbus_sync import EventBus, Outcome


def _ours() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("eventbus")}


def _hostile(bus: EventBus, fake: FakeNats, count: int, seed: int) -> None:
    source = random.Random(seed)

    def answer(client: Client, message: Published) -> None:
        fake.published.clear()
        fake.received = b""
        client.deliver(message.reply, mutated(source, ACKS))

    assert bus.publish_envelope_sync("orders", envelope()).success
    before = _ours()
    fake.on_publish = answer
    for number in range(count):
        bus.publish_envelope("orders", envelope(number), timeout=30)
    outcomes = Counter(result.outcome for result in read(bus, count))
    # Nothing is left in flight, and each kind of nonsense got its own answer.
    assert set(outcomes) == set(Outcome)
    assert min(outcomes.values()) > count // 100
    fake.on_publish = acknowledge
    assert bus.publish_envelope_sync("orders", envelope()).success
    assert _ours() >= before
    assert len(fake.connections) == 1
    stats = bus.stats()
    assert stats.balanced
    assert (stats.in_flight, stats.late_outcomes) == (0, 0)


@pytest.mark.parametrize(
    ("count", "seed"), [(500, 1), pytest.param(20_000, 2, marks=pytest.mark.slow)]
)
def test_promise_1_acks_that_are_nearly_right(count: int, seed: int) -> None:
    """Each event is settled, unknown or rejected or acked, and the bus goes on."""
    with FakeNats() as fake, buses() as make:
        _hostile(make(fake.url), fake, count, seed)
