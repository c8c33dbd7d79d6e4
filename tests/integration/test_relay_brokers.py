"""The relay on real brokers that are killed, frozen, and come back."""

import contextlib
import itertools

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sqlalchemy import create_engine
from support.databases import an_outbox
from support.eventually import eventually
from support.order import first_occurrences
from support.patience import let_pass
from support.rigs import unique
from support.verdict import verdict

from eventbus_sync import Envelope, EventBus, KafkaConfig, NatsConfig
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay, RetryPolicy, RowState
from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


PATIENCE = 60.0
QUICK = RetryPolicy(backoff=0.1, max_backoff=0.5)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SqlAlchemyOutbox]:
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    with an_outbox(engine) as outbox:
        yield outbox
    engine.dispose()


class Application:
    """Adds events, and knows in which order they must be stored."""

    def __init__(self, outbox: SqlAlchemyOutbox, topic: str) -> None:
        self.outbox = outbox
        self.topic = topic
        self.added: list[tuple[str, str]] = []
        self._numbers = itertools.count()

    def add(self, count: int, aggregates: int = 10) -> None:
        with self.outbox.engine.begin() as connection:
            for _ in range(count):
                number = next(self._numbers)
                envelope = Envelope(f"a{number % aggregates}", "E", 1, number)
                self.outbox.add(connection, self.topic, envelope)
                self.added.append((envelope.aggregate_id, envelope.event_id))

    def all_published(self) -> bool:
        return self.outbox.stats().published == len(self.added)

    @verdict
    def check(self, stored: list[tuple[str, str]], *, once: bool) -> None:
        """All is stored, in order by first occurrence; once, or at least once."""
        found = first_occurrences(iter(stored))
        assert found == first_occurrences(iter(self.added))
        assert len(stored) == len(self.added) or not once, "stored twice"


@contextlib.contextmanager
def relaying(
    outbox: SqlAlchemyOutbox, bus: EventBus, **settings: Any
) -> Iterator[OutboxRelay]:
    settings.setdefault("name", "eventbus-relay")
    settings.setdefault("lease", 9.0)
    relay = OutboxRelay(outbox, bus, retry=QUICK, **settings)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop(10)
        bus.close(2)


# -- NATS ------------------------------------------------------------------------------


def nats_bus(server: NatsServer, stream: str, **settings: Any) -> EventBus:
    return EventBus(
        NatsConfig(
            servers=server.url, stream=stream, subjects=[f"{stream}.>"], **settings
        )
    )


def on_nats(server: NatsServer, stream: str) -> list[tuple[str, str]]:
    return [(e.aggregate_id, e.event_id) for e in read_nats_stream(server.url, stream)]


@pytest.mark.nats
@pytest.mark.parametrize(
    "delivery_timeout", [1.0, pytest.param(4.0, marks=pytest.mark.slow)]
)
def test_nats_killed_and_back(
    fresh_nats_server: NatsServer, outbox: SqlAlchemyOutbox, delivery_timeout: float
) -> None:
    """An outage longer, and one shorter, than the bus tries by itself."""
    stream = "OUTAGE"
    application = Application(outbox, f"{stream}.orders")
    bus = nats_bus(fresh_nats_server, stream, delivery_timeout=delivery_timeout)
    with relaying(outbox, bus) as relay:
        application.add(200)
        eventually(lambda: relay.stats().published > 50, PATIENCE)
        fresh_nats_server.kill()
        application.add(200)
        eventually(lambda: relay.stats().breaker == "open", PATIENCE)
        if delivery_timeout < 2:
            eventually(lambda: bus.stats().unknown + bus.stats().rejected > 0, PATIENCE)
        # The rest was given back, so that a relay that has a broker could take it.
        eventually(lambda: outbox.stats().leased <= 1, PATIENCE)
        fresh_nats_server.start()
        application.add(50)
        eventually(application.all_published, PATIENCE)
        assert relay.stats().breaker == "closed"
    assert {row.attempts for row in outbox.rows(limit=2000)} == {0}
    stored = on_nats(fresh_nats_server, stream)
    application.check(stored, once=True)


@pytest.mark.nats
def test_nats_frozen_for_longer_than_any_answer_may_take(
    fresh_nats_server: NatsServer, outbox: SqlAlchemyOutbox
) -> None:
    stream = "FROZEN"
    application = Application(outbox, f"{stream}.orders")
    bus = nats_bus(fresh_nats_server, stream, delivery_timeout=1.0)
    with relaying(outbox, bus) as relay:
        application.add(20)
        eventually(application.all_published, PATIENCE)
        fresh_nats_server.freeze()
        application.add(100)
        eventually(lambda: relay.stats().retried > 0, PATIENCE)
        fresh_nats_server.resume()
        eventually(application.all_published, PATIENCE)
    stored = on_nats(fresh_nats_server, stream)
    # Repeats were published, and recognised.
    application.check(stored, once=True)


@pytest.mark.nats
def test_a_stream_that_is_away_dooms_nothing(
    nats_server: NatsServer, outbox: SqlAlchemyOutbox
) -> None:
    """A subject that no stream takes is retriable: the row waits, and then goes out."""
    stream = unique("LATER").upper().replace("-", "_")
    bus = EventBus(
        NatsConfig(servers=nats_server.url, ensure_stream="skip", delivery_timeout=1)
    )
    application = Application(outbox, f"{stream}.orders")
    with relaying(outbox, bus) as relay:
        application.add(20, aggregates=4)
        eventually(lambda: relay.stats().retried > 0, PATIENCE)
        with nats_bus(nats_server, stream, delivery_timeout=1) as creates:
            creates.start()
        eventually(application.all_published, PATIENCE)
    application.check(on_nats(nats_server, stream), once=True)


# -- Kafka -----------------------------------------------------------------------------


def kafka_bus(server: KafkaServer, **settings: Any) -> EventBus:
    return EventBus(KafkaConfig(bootstrap_servers=server.bootstrap_servers, **settings))


@pytest.mark.kafka
@pytest.mark.slow
def test_kafka_frozen_and_back(
    fresh_kafka_server: KafkaServer, outbox: SqlAlchemyOutbox
) -> None:
    topic = unique("frozen")
    application = Application(outbox, topic)
    bus = kafka_bus(fresh_kafka_server, delivery_timeout=2.0)
    with relaying(outbox, bus) as relay:
        application.add(100)
        eventually(application.all_published, PATIENCE)
        fresh_kafka_server.freeze()
        application.add(100)
        eventually(lambda: relay.stats().retried > 0, PATIENCE)
        fresh_kafka_server.resume()
        application.add(20)
        eventually(application.all_published, PATIENCE)
    assert {row.attempts for row in outbox.rows(limit=2000)} == {0}
    read = read_kafka_topic(fresh_kafka_server.bootstrap_servers, topic)
    application.check([(e.aggregate_id, e.event_id) for e in read], once=False)


@pytest.mark.kafka
def test_kafka_that_comes_later_than_the_relay(
    fresh_kafka_server: KafkaServer, outbox: SqlAlchemyOutbox
) -> None:
    """Nothing of a backlog is dead because the broker was away from the start."""
    topic = unique("late")
    application = Application(outbox, topic)
    application.add(50)
    fresh_kafka_server.kill()
    bus = kafka_bus(fresh_kafka_server, delivery_timeout=1.0)
    with relaying(outbox, bus) as relay:
        eventually(lambda: relay.stats().breaker == "open", PATIENCE)
        # It failed for events, too.
        eventually(lambda: bus.stats().unknown + bus.stats().rejected > 0, PATIENCE)
        fresh_kafka_server.start()
        eventually(application.all_published, PATIENCE)
    assert {row.attempts for row in outbox.rows(RowState.PUBLISHED)} == {0}
    read = read_kafka_topic(fresh_kafka_server.bootstrap_servers, topic)
    application.check([(e.aggregate_id, e.event_id) for e in read], once=False)


# -- both ------------------------------------------------------------------------------


@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.slow
def test_brokers_gone_for_minutes(
    proxied_nats_server: NatsServer, proxied_kafka_server: KafkaServer, tmp_path: Path
) -> None:
    """
    A hundred times as long as the bus tries by itself, and rows come all the time.

    Both brokers at the same time. The network is cut: the embedded Kafka broker would
    not have what it stored if it was killed.
    """
    topic = unique("minutes")
    buses = {
        f"{topic}.nats": nats_bus(proxied_nats_server, topic, delivery_timeout=1.0),
        topic: kafka_bus(proxied_kafka_server, delivery_timeout=1.0),
    }
    proxies = [proxied_nats_server.proxy, proxied_kafka_server.proxy]
    with contextlib.ExitStack() as stack:
        applications = []
        for number, (where, bus) in enumerate(buses.items()):
            engine = create_engine(f"sqlite:///{tmp_path / f'outbox-{number}.db'}")
            stack.callback(engine.dispose)
            outbox = stack.enter_context(an_outbox(engine))
            application = Application(outbox, where)
            relay = stack.enter_context(relaying(outbox, bus))
            application.add(100)
            eventually(application.all_published, PATIENCE)
            applications.append((application, relay))
        for proxy in proxies:
            assert proxy is not None
            proxy.cut()
        for _ in range(60):
            for application, _ in applications:
                application.add(20)
            let_pass(2)
        for application, relay in applications:
            assert relay.stats().breaker == "open"
            assert application.outbox.stats().pending == 1200
        for proxy in proxies:
            assert proxy is not None
            proxy.heal()
        for application, relay in applications:
            eventually(application.all_published, PATIENCE)
            assert relay.stats().breaker == "closed"
            rows = application.outbox.rows(limit=2000)
            assert {row.attempts for row in rows} == {0}
    (on_stream, _), (on_topic, _) = applications
    stored = on_nats(proxied_nats_server, topic)
    on_stream.check(stored, once=True)
    read = read_kafka_topic(proxied_kafka_server.bootstrap_servers, topic)
    on_topic.check([(e.aggregate_id, e.event_id) for e in read], once=False)
