"""A bus on a real broker, threads that publish, and what was stored: for tests of readers."""

import threading

from collections import Counter, defaultdict

import pytest

from support.rigs import unique
from support.verdict import verdict

from eventbus_sync import (
    BackendBusy,
    Envelope,
    EventBus,
    KafkaConfig,
    NatsConfig,
    PublishResult,
)
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


class Scene:
    """A bus on a real broker, four threads that publish, and what was stored."""

    def __init__(self, broker: str, request: pytest.FixtureRequest) -> None:
        self._server = request.getfixturevalue(f"{broker}_server")
        self._nats = broker == "nats"
        self._name = unique("READERS").replace("-", "_")
        self.accepted: list[str] = []
        #: Aggregate → its events, in their order.
        self.lines: defaultdict[str, list[str]] = defaultdict(list)
        #: How often a publisher was told to come again.
        self.refused = 0
        self.bus: EventBus
        self._lock = threading.Lock()

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

    def keep_publishing(
        self, stop: threading.Event, threads: int = 4
    ) -> list[threading.Thread]:
        """Publish until told to stop; who is refused tries again."""

        def run(line: int) -> None:
            number = 0
            while not stop.wait(0.005 * threads):
                event = Envelope(f"a{line}", "E", 1, number)
                try:
                    event_id = self.bus.publish_envelope(f"{self._name}.a", event)
                except BackendBusy:
                    with self._lock:
                        self.refused += 1
                    continue
                with self._lock:
                    self.lines[f"a{line}"].append(event_id)
                    self.accepted.append(event_id)
                number += 1

        running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
        for thread in running:
            thread.start()
        return running

    @verdict
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
