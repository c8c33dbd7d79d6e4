"""
Relays killed with ``kill -9`` at random, while transactions commit and roll back.

Every committed event reaches the broker, in order per aggregate by first occurrence; no
rolled-back one ever does; and on JetStream each is stored once.
"""

import contextlib
import itertools
import os
import random
import threading
import time

from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from support.database_servers import DatabaseServer
from support.databases import an_outbox, mariadb_server, postgresql_server  # noqa: F401 - two are fixtures
from support.eventually import eventually
from support.order import first_occurrences
from support.relay_process import RelayProcess
from support.rigs import unique
from support.verdict import verdict

from eventbus_sync import Envelope
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


#: As short as they may be, so that killed relays' rows come back soon.
DELIVERY_TIMEOUT, LEASE = 1, 6
#: A round kills one of two relays. With six pairs of a database and a broker the slow
#: tier makes 120; ``RELAY_ROUNDS=100`` makes a hundred of each pair.
ROUNDS = int(os.environ.get("RELAY_ROUNDS", "20"))

OPTIONS = ("--lease", str(LEASE), "--batch-size", "40", "--no-purge")


def engine_for(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def patient(connection: object, _: object) -> None:
            connection.execute("PRAGMA busy_timeout = 30000")  # type: ignore[attr-defined]

    return engine


#: The application's own rows, one for each aggregate. To change that of an aggregate
#: before its event is added is what puts concurrent transactions in one order.
AGGREGATES = Table(
    "kills_aggregates",
    MetaData(),
    Column("id", String(20), primary_key=True),
    Column("version", Integer, nullable=False),
)


@contextlib.contextmanager
def the_aggregates(engine: Engine) -> Iterator[None]:
    AGGREGATES.metadata.create_all(engine)
    try:
        with engine.begin() as connection:
            rows = [{"id": f"a{number}", "version": 0} for number in range(40)]
            connection.execute(insert(AGGREGATES), rows)
        yield
    finally:
        AGGREGATES.metadata.drop_all(engine)


def change(connection: Connection, aggregate: str) -> None:
    c = AGGREGATES.c
    connection.execute(
        update(AGGREGATES).where(c.id == aggregate).values(version=c.version + 1)
    )


class Writer:
    """Transactions of a few events each; every third one is rolled back."""

    def __init__(self, outbox: SqlAlchemyOutbox, topic: str, seed: int) -> None:
        self.committed: list[str] = []
        self.rolled_back: list[str] = []
        self.stopping = False
        self._outbox = outbox
        self._topic = topic
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._name = f"w{seed}"
        self.thread = threading.Thread(target=self._run, name=f"eventbus-{self._name}")
        self.thread.start()

    def stop(self) -> None:
        self.stopping = True
        self.thread.join(60)
        assert not self.thread.is_alive()

    def _run(self) -> None:
        while not self.stopping:
            ids = []
            with Session(self._outbox.engine) as session:
                names = [self._aggregate() for _ in range(self._random.randint(1, 4))]
                try:
                    # In one order, so that two writers do not wait for each other.
                    for name in sorted(set(names)):
                        change(session.connection(), name)
                    for name in names:
                        ids.append(self._add(session, name))  # noqa: PERF401 - kept if one fails
                except DBAPIError:  # a deadlock, say: the application would try again
                    session.rollback()
                    self.rolled_back += ids
                    continue
                if self._random.random() < 0.3:
                    session.rollback()
                    self.rolled_back += ids
                else:
                    session.commit()
                    self.committed += ids
            time.sleep(self._random.random() * 0.02)

    def _aggregate(self) -> str:
        # Half of the events on two hot ones, shared by all writers.
        hot = self._random.random() < 0.5
        return f"a{self._random.randrange(2 if hot else 40)}"

    def _add(self, session: Session, aggregate: str) -> str:
        number = next(self._numbers)
        event_id = f"{self._name}-{number}"
        envelope = Envelope(aggregate, "E", 1, number, event_id=event_id)
        return self._outbox.add(session, self._topic, envelope)


def kill_relays_at_random(
    db: str, bus: str, topic: str, folder: Path
) -> tuple[dict[str, list[str]], set[str]]:
    """Return what must be stored, in order per aggregate, and what must not be."""
    seed = int(os.environ.get("RELAY_SEED", "0")) or random.randrange(1, 10**6)
    print("RELAY_SEED", seed)  # noqa: T201 - to repeat a failure
    chance = random.Random(seed)
    engine = engine_for(db)
    numbers = itertools.count()

    def relay() -> RelayProcess:
        return RelayProcess(db, bus, folder / f"relay-{next(numbers)}.log", *OPTIONS)

    with an_outbox(engine) as outbox, the_aggregates(engine):
        writers = [Writer(outbox, topic, seed + number) for number in range(2)]
        relays = [relay(), relay()]
        try:
            relays[0].wait_until_it_runs()
            for _ in range(ROUNDS):
                time.sleep(chance.uniform(0.2, 1.5))
                victim = chance.randrange(len(relays))
                relays[victim].kill()
                relays[victim] = relay()
            for writer in writers:
                writer.stop()
            for one in relays:
                one.wait_until_it_runs()
            try:
                eventually(lambda: outbox.stats().pending == 0, 60, interval=0.2)
            except AssertionError:
                print(outbox.stats(), [one.said() for one in relays])  # noqa: T201
                raise
        finally:
            for writer in writers:
                writer.stop()
            for one in relays:
                one.kill()
        stats = outbox.stats()
        c = outbox.table.c
        with engine.connect() as connection:
            rows = connection.execute(
                select(c.aggregate_id, c.event_id).order_by(c.position)
            ).all()
    engine.dispose()
    committed = {event_id for writer in writers for event_id in writer.committed}
    rolled_back = {event_id for writer in writers for event_id in writer.rolled_back}
    counts = (ROUNDS, len(committed), len(rolled_back))
    print("{} kills, {:,} events committed, {:,} rolled back".format(*counts))  # noqa: T201
    assert rolled_back
    assert stats.published == len(committed) > ROUNDS
    assert (stats.dead, stats.leased) == (0, 0)
    assert {event_id for _, event_id in rows} == committed
    expected = first_occurrences((row[0], row[1]) for row in rows)
    return expected, rolled_back


@verdict
def check(
    stored: list[tuple[str, str]], expected: dict[str, list[str]], phantoms: set[str]
) -> None:
    assert not phantoms & {event_id for _, event_id in stored}
    found = first_occurrences(iter(stored))
    for name, ids in expected.items():
        assert found.pop(name, None) == ids
    assert found == {}


@pytest.mark.nats
@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
def test_killed_relays_on_jetstream(
    database: str,
    request: pytest.FixtureRequest,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    db = url_of(database, request, tmp_path)
    stream = unique("KILLS").upper()
    topic = f"kills.{stream}"
    bus = (
        f"{nats_server.url}?stream={stream}&subjects={topic}"
        f"&delivery_timeout={DELIVERY_TIMEOUT}"
    )
    expected, phantoms = kill_relays_at_random(db, bus, topic, tmp_path)
    read = read_nats_stream(nats_server.url, stream)
    stored = [(e.aggregate_id, e.event_id) for e in read]
    check(stored, expected, phantoms)
    # Inside of the duplicate window each is stored once.
    assert len(stored) == len(set(stored))


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
def test_killed_relays_on_kafka(
    database: str,
    request: pytest.FixtureRequest,
    kafka_server: KafkaServer,
    tmp_path: Path,
) -> None:
    db = url_of(database, request, tmp_path)
    topic = unique("kills")
    servers = kafka_server.bootstrap_servers
    bus = f"kafka://{servers}?delivery_timeout={DELIVERY_TIMEOUT}"
    expected, phantoms = kill_relays_at_random(db, bus, topic, tmp_path)
    read = read_kafka_topic(servers, topic)
    # One partition holds all of an aggregate, so that they are in order here.
    check([(e.aggregate_id, e.event_id) for e in read], expected, phantoms)


def url_of(database: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if database == "sqlite":
        return f"sqlite:///{folder / 'outbox.db'}"
    server: DatabaseServer = request.getfixturevalue(f"{database}_server")
    return server.url
