"""Readers that fail: none, dead with results taken, two, a full channel, a late close."""

import threading

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import pytest

from support.eventually import eventually
from support.rigs import unique

from eventbus_sync import (
    BackendBusy,
    Envelope,
    EventBus,
    KafkaConfig,
    NatsConfig,
    PublishResult,
    ResultChannelClosed,
)
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


MakeBus = Callable[..., EventBus]


class Scene:
    """A bus on a real broker, four threads that publish, and what was stored."""

    def __init__(self, broker: str, request: pytest.FixtureRequest) -> None:
        self._server = request.getfixturevalue(f"{broker}_server")
        self._nats = broker == "nats"
        self._name = unique("READERS").replace("-", "_")
        self.accepted: list[str] = []
        #: Aggregate → its events, in their order.
        self.lines: defaultdict[str, list[str]] = defaultdict(list)
        self.bus: EventBus

    def open(self, **settings: object) -> EventBus:
        """Make the bus."""
        common = {"publish_timeout": 20.0, "delivery_timeout": 30.0, **settings}
        config = (
            NatsConfig(
                servers=self._server.url,
                stream=self._name,
                subjects=[f"{self._name}.a"],
                **common,  # type: ignore[arg-type]
            )
            if self._nats
            else KafkaConfig(
                bootstrap_servers=self._server.bootstrap_servers,
                **common,  # type: ignore[arg-type]
            )
        )
        self.bus = EventBus(config)
        return self.bus

    def publish(self, count: int, threads: int = 4) -> None:
        """Publish so many events from each thread; return when all have."""

        def run(line: int) -> None:
            for number in range(count):
                event = Envelope(f"a{line}", "E", 1, number)
                event_id = self.bus.publish_envelope(f"{self._name}.a", event)
                self.lines[f"a{line}"].append(event_id)

        running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(60)
            assert not thread.is_alive()
        self.accepted = [event_id for line in self.lines.values() for event_id in line]

    def check(self, results: list[PublishResult]) -> None:
        """Assert that the books balance; *results* are all that was read."""
        stats = self.bus.stats()
        assert stats.balanced
        assert stats.in_flight == stats.queued == 0
        assert stats.accepted == len(self.accepted)
        assert stats.taken == len(results) == len(self.accepted) - stats.dropped
        assert set(Counter(r.event_id for r in results).values()) <= {1}
        assert {r.event_id for r in results} <= set(self.accepted)
        assert all(r.success for r in results)
        if self._nats:
            stored = read_nats_stream(self._server.url, self._name)
        else:
            servers = self._server.bootstrap_servers
            stored = read_kafka_topic(servers, f"{self._name}.a")
        ids = [event.event_id for event in stored]
        assert len(ids) == len(set(ids))
        assert set(ids) == set(self.accepted)
        for line in {event.aggregate_id for event in stored}:
            mine = [e.event_id for e in stored if e.aggregate_id == line]
            assert mine == self.lines[line]


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
