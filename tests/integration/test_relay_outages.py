"""Relays as processes: PostgreSQL restarted under them, one frozen beyond its lease."""

import signal
import threading

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from support.database_servers import (
    DatabaseServer,
    NotInstalled,
    PostgresqlServer,
)
from support.databases import an_outbox, postgresql_server  # noqa: F401 - a fixture
from support.eventually import eventually
from support.order import first_occurrences
from support.patience import let_pass
from support.relay_process import (
    RelayProcess,
    freeze_between_transactions,
    in_table,
)
from support.stored import BROKERS, Place, place_on
from support.verdict import verdict

from eventbus_sync import Envelope
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.testing import KafkaServer
from eventbus_sync.testing.pytest_plugin import skip_or_fail


PATIENCE = 60.0
OPTIONS = ("--lease", "6", "--batch-size", "40", "--no-purge")


class Application:
    """Two threads that add events, and go on when the database is away."""

    def __init__(self, outbox: SqlAlchemyOutbox, topic: str) -> None:
        self.committed: set[str] = set()
        self.failures = 0
        self._outbox = outbox
        self._topic = topic
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(n,)) for n in range(2)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _run(self, line: int) -> None:
        number = 0
        while not self._stopping.wait(0.005):
            number += 1
            event = Envelope(f"a{line}-{number % 5}", "E", 1, number)
            try:
                with self._outbox.engine.begin() as connection:
                    self._outbox.add(connection, self._topic, event)
            except DBAPIError:
                # It may have been committed, or not: the table will say.
                self.failures += 1
                continue
            self.committed.add(event.event_id)


@pytest.fixture
def own_postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL of this test alone."""
    try:
        server = PostgresqlServer()
    except NotInstalled as error:
        skip_or_fail(str(error))
    with server:
        yield server


@verdict
def check(outbox: SqlAlchemyOutbox, place: Place, *, once: bool) -> None:
    """Assert that what is in the table is stored, in order by first occurrence."""
    stored = [(event.aggregate_id, event.event_id) for event in place.stored()]
    rows = in_table(outbox)
    stats = outbox.stats()
    assert (stats.published, stats.dead, stats.leased) == (len(rows), 0, 0)
    assert first_occurrences(iter(stored)) == first_occurrences(iter(rows))
    if once:
        assert len(stored) == len(set(stored))


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_postgresql_restarted_under_load(
    broker: str,
    request: pytest.FixtureRequest,
    own_postgresql: PostgresqlServer,
    tmp_path: Path,
) -> None:
    """Three times by ``kill -9``: what was committed is published, in its order."""
    place = place_on(broker, request, fresh=False)
    engine = create_engine(own_postgresql.url, pool_pre_ping=True)
    outbox = SqlAlchemyOutbox(engine)
    outbox.create_all()
    bus = f"{place.url}&delivery_timeout=1"
    with (
        RelayProcess(
            own_postgresql.url, bus, tmp_path / "relay.log", *OPTIONS
        ) as relay,
        Application(outbox, place.topic) as application,
    ):
        relay.wait_until_it_runs()
        for _ in range(3):
            goal = len(application.committed) + 100
            eventually(lambda: len(application.committed) > goal, PATIENCE)  # noqa: B023
            failures = application.failures
            own_postgresql.kill()
            eventually(lambda: application.failures > failures, PATIENCE)  # noqa: B023
            own_postgresql.start()
        goal = len(application.committed) + 100
        eventually(lambda: len(application.committed) > goal, PATIENCE)
        application.__exit__()
        eventually(lambda: outbox.stats().pending == 0, PATIENCE, interval=0.2)
        relay.send(signal.SIGTERM)
        assert relay.wait() == 0, relay.said()
    assert application.committed <= {event_id for _, event_id in in_table(outbox)}
    check(outbox, place, once=broker == "nats")
    outbox.close()
    engine.dispose()


@pytest.mark.kafka
@pytest.mark.slow
def test_on_kafka_a_relay_frozen_beyond_its_lease_changes_nothing_any_more(
    kafka_server: KafkaServer,
    postgresql_server: DatabaseServer,  # noqa: F811 - the fixture
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """Another relay took over; what the first one repeats is out of nobody's order."""
    place = place_on("kafka", request, fresh=False)
    db, bus, rows = postgresql_server.url, f"{place.url}&delivery_timeout=1", 6000
    engine = create_engine(db)
    with an_outbox(engine) as outbox:
        options = ("--lease", "6", "--no-purge")
        with RelayProcess(db, bus, tmp_path / "frozen.log", *options) as frozen:
            frozen.wait_until_it_runs()
            events = [Envelope(f"a{n % 4}", "E", 1, n) for n in range(rows)]
            with engine.begin() as connection:
                outbox.add_many(connection, place.topic, events)
            eventually(lambda: outbox.stats().published > 50, PATIENCE, interval=0.005)
            freeze_between_transactions(frozen, outbox)
            with RelayProcess(db, bus, tmp_path / "other.log", *options) as other:
                eventually(lambda: outbox.stats().published == rows, PATIENCE)
                frozen.send(signal.SIGCONT)
                let_pass(2)  # for what it must not do
                for relay in (frozen, other):
                    relay.send(signal.SIGTERM)
                assert (frozen.wait(), other.wait()) == (0, 0), frozen.said()
        check(outbox, place, once=False)
    engine.dispose()
