"""Several relays on one real table, and a database that goes away."""

import signal

from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlalchemy import create_engine
from support.database_servers import NotInstalled, PostgresqlServer
from support.databases import (  # noqa: F401 - two are fixtures
    an_outbox,
    mariadb_server,
    postgresql_server,
)
from support.eventually import eventually
from support.order import first_occurrences
from support.patience import let_pass
from support.relay_process import (
    RelayProcess,
    freeze_between_transactions,
    in_table,
)
from support.rigs import unique

from eventbus_sync import Envelope, MemoryConfig
from eventbus_sync.errors import BrokerFull
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay, RetryPolicy, RowState
from eventbus_sync.outbox.claiming import FIRST_PAUSE
from eventbus_sync.testing import MemoryBus, NatsServer
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import read_nats_stream


PATIENCE = 60.0
CONFIG = MemoryConfig(delivery_timeout=1.0, close_timeout=0)
QUICK = RetryPolicy(backoff=0.05, max_backoff=0.2)


@pytest.fixture
def sqlite_db(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'outbox.db'}"


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def db(request: pytest.FixtureRequest, sqlite_db: str) -> str:
    if request.param == "sqlite":
        return sqlite_db
    url: str = request.getfixturevalue(f"{request.param}_server").url
    return url


@pytest.fixture
def outbox(db: str) -> Iterator[SqlAlchemyOutbox]:
    engine = create_engine(db)
    with an_outbox(engine) as outbox:
        yield outbox
    engine.dispose()


def add(
    outbox: SqlAlchemyOutbox, count: int, aggregates: int, topic: str = "t"
) -> None:
    envelopes = [Envelope(f"a{n % aggregates}", "E", 1, n) for n in range(count)]
    with outbox.engine.begin() as connection:
        outbox.add_many(connection, topic, envelopes)


@pytest.mark.parametrize("rows", [400, pytest.param(4000, marks=pytest.mark.slow)])
def test_relays_on_one_table_share_the_work_and_keep_the_order(
    outbox: SqlAlchemyOutbox, rows: int
) -> None:
    """D-O2: nothing is published twice because there are several of them."""
    add(outbox, rows, aggregates=40)
    buses = [MemoryBus(CONFIG) for _ in range(3)]
    relays = []
    for number, bus in enumerate(buses):
        bus.broker = buses[0].broker
        relays.append(
            OutboxRelay(
                outbox,
                bus,
                name=f"eventbus-relay{number}",
                lease=6,
                batch_size=20,
                retry=QUICK,
            )
        )
    buses[0].broker.reject(BrokerFull(), times=20)
    try:
        for relay in relays:
            relay.start()
        eventually(lambda: outbox.stats().published == rows, PATIENCE)
        for relay in relays:
            assert relay.stop(10)
    finally:
        for relay, bus in zip(relays, buses, strict=True):
            relay.stop(0)
            bus.close(0)
    stored = [(m.key, m.event_id) for m in buses[0].broker.messages()]
    assert first_occurrences(iter(stored)) == first_occurrences(iter(in_table(outbox)))
    assert sum(relay.stats().published for relay in relays) == rows
    # Each event was handed to a bus once, but for those that were refused.
    assert sum(bus.stats().accepted for bus in buses) == rows + 20
    assert sum(relay.stats().lost for relay in relays) == 0


def test_stop_gives_leases_back(outbox: SqlAlchemyOutbox) -> None:
    add(outbox, 300, aggregates=3)
    with MemoryBus(CONFIG) as bus:
        bus.broker.delay(0.3)
        relay = OutboxRelay(outbox, bus, name="eventbus-relay", lease=6)
        relay.start()
        eventually(lambda: relay.stats().in_flight == 3, PATIENCE)
        assert outbox.stats().leased == 300
        assert relay.stop()
        assert outbox.stats().leased == 0
        assert relay.stats().released >= 290


def test_the_relay_purges(outbox: SqlAlchemyOutbox) -> None:
    add(outbox, 50, aggregates=3)
    with MemoryBus(CONFIG) as bus:
        relay = OutboxRelay(outbox, bus, name="eventbus-relay", lease=6)
        assert relay.drain(PATIENCE)
        assert outbox.stats().published == 50
        relay = OutboxRelay(
            outbox, bus, name="eventbus-relay", lease=6, purge_after=0.0
        )
        relay.start()
        eventually(lambda: outbox.stats().published == 0, PATIENCE)
        relay.stop()


def test_a_row_added_while_the_relay_is_idle_goes_out_at_once(
    outbox: SqlAlchemyOutbox, db: str
) -> None:
    """By NOTIFY on PostgreSQL; elsewhere by the poll."""
    with MemoryBus(CONFIG) as bus:
        poll = 600.0 if db.startswith("postgresql+psycopg") else 0.2
        relay = OutboxRelay(
            outbox, bus, name="eventbus-relay", lease=6, poll_interval=poll
        )
        relay.start()
        run = relay._run
        assert run is not None
        if poll < PATIENCE:
            # The pause is as long as it gets.
            eventually(lambda: run.claimer._pause == poll, PATIENCE)
        else:
            # It has looked, found nothing, and relies on being told.
            eventually(lambda: run.claimer._pause > FIRST_PAUSE, PATIENCE)
        add(outbox, 1, aggregates=1)
        eventually(lambda: outbox.stats().published == 1, PATIENCE)
        assert relay.stop()


@pytest.mark.nats
@pytest.mark.slow
@pytest.mark.parametrize(
    ("db", "rows"),
    [("sqlite", 3000), ("postgresql", 6000), ("mariadb", 6000)],
    indirect=["db"],
)
def test_a_relay_frozen_beyond_its_lease_changes_nothing_any_more(
    nats_server: NatsServer,
    outbox: SqlAlchemyOutbox,
    db: str,
    rows: int,
    tmp_path: Path,
) -> None:
    """It wakes up with rows and outcomes of which another relay has taken care."""
    stream = unique("FROZEN").upper()
    topic = f"frozen.{stream}"
    bus = f"{nats_server.url}?stream={stream}&subjects={topic}&delivery_timeout=1"
    options = ("--lease", "6", "--no-purge")
    with RelayProcess(db, bus, tmp_path / "frozen.log", *options) as frozen:
        frozen.wait_until_it_runs()
        add(outbox, rows, aggregates=4, topic=topic)
        eventually(lambda: outbox.stats().published > 50, PATIENCE, interval=0.005)
        freeze_between_transactions(frozen, outbox)
        with RelayProcess(db, bus, tmp_path / "other.log", *options) as other:
            eventually(lambda: outbox.stats().published == rows, PATIENCE)
            frozen.send(signal.SIGCONT)
            let_pass(2)  # for what it must not do
            for relay in (frozen, other):
                relay.send(signal.SIGTERM)
            assert (frozen.wait(), other.wait()) == (0, 0), frozen.said()
    stats = outbox.stats()
    assert (stats.published, stats.dead, stats.leased) == (rows, 0, 0)
    read = read_nats_stream(nats_server.url, stream)
    stored = [(e.aggregate_id, e.event_id) for e in read]
    assert first_occurrences(iter(stored)) == first_occurrences(iter(in_table(outbox)))
    assert len(stored) == len(set(stored))


def test_a_database_that_goes_away_and_comes_back() -> None:
    """Outcomes of the meantime are kept and marked; nothing is published twice."""
    try:
        server = PostgresqlServer()
    except NotInstalled as error:
        skip_or_fail(str(error))
    with server:
        engine = create_engine(server.url)
        outbox = SqlAlchemyOutbox(engine)
        outbox.create_all()
        add(outbox, 400, aggregates=100)
        with MemoryBus(MemoryConfig(delivery_timeout=10, close_timeout=0)) as bus:
            relay = OutboxRelay(outbox, bus, name="eventbus-relay", lease=30)
            bus.broker.freeze()
            relay.start()
            eventually(lambda: relay.stats().in_flight == 100, PATIENCE)
            server.kill()
            bus.broker.resume()
            eventually(lambda: relay.stats().last_error is not None, PATIENCE)
            eventually(lambda: relay.stats().in_flight == 0, PATIENCE)
            assert relay.stats().held == 400
            assert relay.stats().published == 0
            server.start()
            eventually(lambda: relay.stats().published == 400, PATIENCE)
            assert outbox.stats().published == 400
            assert bus.stats().accepted == 400
            assert relay.stop()
            assert {row.state for row in outbox.rows()} == {RowState.PUBLISHED}
        outbox.close()
        engine.dispose()
