"""Readers that fail: none, dead with results taken, two, a full channel, a late close."""

import threading

from collections.abc import Callable, Iterator

import pytest

from support.eventually import eventually
from support.reader_scene import Scene

from eventbus_sync import (
    BackendBusy,
    Envelope,
    EventBus,
    PublishResult,
    ResultChannelClosed,
)


MakeBus = Callable[..., EventBus]


@pytest.fixture(
    params=[
        pytest.param("nats", marks=pytest.mark.nats),
        pytest.param("kafka", marks=pytest.mark.kafka),
    ]
)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(request.param, request)
    yield scene
    scene.bus.close(10)


def drain(bus: EventBus) -> list[PublishResult]:
    """Return every result that is left in the channel of a closed bus."""
    return list(bus.get_publish_result_channel())


def test_promise_4_nobody_ever_reads(scene: Scene) -> None:
    """Twice as many results as there are places: the rest is dropped, none is lost."""
    bus = scene.open(result_capacity=1000)
    scene.publish(500)
    assert bus.flush(30) == 0
    stats = bus.stats()
    assert (stats.acked, stats.queued, stats.dropped) == (2000, 1000, 1000)
    bus.close(10)
    scene.check(drain(bus))


def test_a_reader_dies_with_results_taken(scene: Scene) -> None:
    """What it took is gone with it, and nothing else: the next one has the rest."""
    bus = scene.open()
    died: list[PublishResult] = []

    def die() -> None:
        while len(died) < 300:
            died.extend(bus.get_publish_result_channel().get_many(100, timeout=20))

    reader = threading.Thread(target=die)
    reader.start()
    scene.publish(500)
    reader.join(30)
    rest: list[PublishResult] = []
    heir = threading.Thread(
        target=lambda: rest.extend(bus.get_publish_result_channel())
    )
    heir.start()
    scene.publish(250)
    bus.close(20)
    heir.join(20)
    assert len(died) >= 300
    assert rest
    scene.check(died + rest)


def test_two_readers_share_the_results(scene: Scene) -> None:
    """Each result goes to one of them; both end with the bus."""
    bus = scene.open()
    taken: list[list[PublishResult]] = [[], []]

    def read(mine: list[PublishResult]) -> None:
        try:
            while True:
                mine.append(bus.get_publish_result_channel().get())
        except ResultChannelClosed:
            pass

    readers = [threading.Thread(target=read, args=(mine,)) for mine in taken]
    for reader in readers:
        reader.start()
    scene.publish(1000)
    bus.close(20)
    for reader in readers:
        reader.join(20)
        assert not reader.is_alive()
    assert all(taken)
    scene.check(taken[0] + taken[1])


def test_promise_9_close_while_the_channel_is_full_and_drops(scene: Scene) -> None:
    """Close waits for no reader; what fitted is there to be read afterwards."""
    bus = scene.open(result_capacity=100)
    scene.publish(250)
    bus.close(20)
    stats = bus.stats()
    assert (stats.acked, stats.queued, stats.dropped) == (1000, 100, 900)
    scene.check(drain(bus))


def test_promise_9_close_while_publishers_wait_for_a_full_channel(
    scene: Scene,
) -> None:
    """With "reserve" those who wait get an error, those who were accepted a result."""
    bus = scene.open(result_capacity=100, overflow="reserve")
    scene.publish(25)
    with pytest.raises(BackendBusy):
        bus.publish_envelope("t", Envelope("a", "E", 1, 0), timeout=0.1)
    caught: list[BaseException] = []
    entered = threading.Event()

    def one_more() -> None:
        entered.set()
        try:
            bus.publish_envelope("t", Envelope("a", "E", 1, 0), timeout=30)
        except BaseException as error:  # noqa: BLE001 - looked at below
            caught.append(error)

    waiting = threading.Thread(target=one_more)
    waiting.start()
    entered.wait(10)
    eventually(lambda: len(bus._runtime.in_flight._room) > 0)  # type: ignore[union-attr]
    bus.close(20)
    waiting.join(20)
    assert [type(error).__name__ for error in caught] == ["BusClosed"]
    assert bus.stats().queued == 100
    scene.check(drain(bus))
