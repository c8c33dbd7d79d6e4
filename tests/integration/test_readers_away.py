"""Nobody reads for two minutes, in both modes, while events go on being published."""

import threading

from collections.abc import Iterator

import pytest

from support.eventually import eventually
from support.patience import let_pass
from support.reader_scene import Scene

from eventbus_sync import PublishResult


CAPACITY = 500
#: Seconds between two looks, and how many.
STEP, LOOKS = 10.0, 12


class Reader(threading.Thread):
    """Reads until the bus is closed."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.results: list[PublishResult] = []
        self._scene = scene
        self.start()

    def run(self) -> None:
        """Take every result."""
        self.results.extend(self._scene.bus.get_publish_result_channel())


@pytest.fixture
def scenes(
    broker: str, request: pytest.FixtureRequest
) -> Iterator[tuple[Scene, Scene]]:
    """A bus that drops results when nobody reads, and one that keeps room for each."""
    drops, reserves = Scene(broker, request), Scene(broker, request)
    drops.open(result_capacity=CAPACITY, publish_timeout=1.0)
    reserves.open(result_capacity=CAPACITY, publish_timeout=1.0, overflow="reserve")
    yield drops, reserves
    drops.bus.close(10)
    reserves.bus.close(10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "broker",
    [
        pytest.param("nats", marks=pytest.mark.nats),
        pytest.param("kafka", marks=pytest.mark.kafka),
    ],
)
def test_promise_4_a_channel_full_for_minutes(scenes: tuple[Scene, Scene]) -> None:
    """With "drop" results go, and are counted; with "reserve" publishers are told."""
    drops, reserves = scenes
    stop = threading.Event()
    publishing = [t for scene in scenes for t in scene.keep_publishing(stop)]
    try:
        for scene in scenes:
            eventually(lambda: scene.bus.stats().queued == CAPACITY, 60)  # noqa: B023
        kept = reserves.bus.stats().accepted
        for _ in range(LOOKS):
            before, refused = drops.bus.stats(), reserves.refused
            let_pass(STEP)
            after, room = drops.bus.stats(), reserves.bus.stats()
            # The publisher gets its acks, whether somebody wants to know or not.
            assert after.acked > before.acked
            assert after.dropped > before.dropped
            assert after.queued == room.queued == CAPACITY
            assert reserves.refused > refused
            assert (room.accepted, room.dropped) == (kept, 0)
        assert kept == CAPACITY
        readers = [Reader(scene) for scene in scenes]
        lost = drops.bus.stats().dropped
        for scene in scenes:
            goal = scene.bus.stats().accepted + CAPACITY
            eventually(lambda: scene.bus.stats().accepted > goal, 60)  # noqa: B023
    finally:
        stop.set()
        for thread in publishing:
            thread.join(30)
    for scene, reader in zip(scenes, readers, strict=True):
        scene.bus.close(20)
        reader.join(20)
        assert not reader.is_alive()
        scene.check(reader.results)
    assert drops.refused == 0
    # With the first reader the dropping ends.
    assert drops.bus.stats().dropped <= lost + CAPACITY
    assert reserves.bus.stats().dropped == 0
