"""The SQLAlchemy outbox at its limits: names, pools, large batches, damaged rows."""

import time

from typing import Any, cast

import attrs
import pytest

from sqlalchemy import Engine, Index, MetaData, create_engine, event, text
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, declarative_base
from sqlalchemy.pool import SingletonThreadPool, StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable
from support.databases import an_engine, an_outbox
from support.eventually import eventually
from support.outbox_rows import (
    aggregates,
    an_event,
    let_time_pass,
    published,
    released,
    statements,
    take,
    write,
)
from support.patience import SLACK

from eventbus_sync import Envelope, EnvelopeError, MemoryConfig
from eventbus_sync.errors import AutocommitRefused, ConfigError, DuplicateKey
from eventbus_sync.integrations.sqlalchemy import (
    OutboxMixin,
    SqlAlchemyOutbox,
    outbox_table,
    writing,
)
from eventbus_sync.integrations.sqlalchemy import claim as claim_module
from eventbus_sync.integrations.sqlalchemy.choose import LARGEST_CLAIM, window_size
from eventbus_sync.integrations.sqlalchemy.database import may_be_of_schema
from eventbus_sync.integrations.sqlalchemy.texts import from_column, to_show
from eventbus_sync.outbox import OutboxRelay
from eventbus_sync.outbox.publishing import envelope_of
from eventbus_sync.outbox.record import Change, Mark, OutboxRecord, RowState
from eventbus_sync.testing import MemoryBus


pytest_plugins = ["support.databases"]


# -- names, schemas, indexes -----------------------------------------------------------


@pytest.mark.parametrize("name", ["", "x" * 51, "é", "a%b", "a\nb"])
def test_a_name_that_cannot_work_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="table name"):
        outbox_table(MetaData(), name)
    with pytest.raises(ConfigError, match="ASCII"):
        SqlAlchemyOutbox(create_engine("sqlite://"), table_name=name)


def test_an_engine_is_no_url() -> None:
    with pytest.raises(ConfigError, match=r"engine must be an Engine: create_engine\("):
        SqlAlchemyOutbox(cast("Engine", "sqlite:///x.db"))


@pytest.mark.parametrize("database", [postgresql, mysql])
def test_the_longest_name_has_indexes(database: Any) -> None:
    dialect = database.dialect()
    for index in outbox_table(MetaData(), "x" * 50).indexes:
        CreateIndex(index).compile(dialect=dialect)


def test_the_schema_of_the_metadata() -> None:
    metadata = MetaData(schema="app")
    table = outbox_table(metadata)
    assert table.fullname == "app.eventbus_outbox"
    assert outbox_table(metadata) is table
    assert outbox_table(metadata, schema="app") is table

    class Base(DeclarativeBase):
        metadata = MetaData(schema="app")

    class Outbox(OutboxMixin, Base):
        __tablename__ = "eventbus_outbox"

    outbox = SqlAlchemyOutbox(create_engine("sqlite://"), metadata=Base.metadata)
    assert outbox.table is Outbox.__table__


def test_an_engine_that_translates_the_schema_is_refused() -> None:
    """It would be asked for the schema in one place, and write into another."""
    engine = create_engine("sqlite://")
    tenant = engine.execution_options(schema_translate_map={None: "ten1", "x": "y"})
    with pytest.raises(ConfigError, match="name the schema, schema='ten1'"):
        SqlAlchemyOutbox(tenant)
    with pytest.raises(ConfigError, match="schema='y'"):
        SqlAlchemyOutbox(tenant, schema="x")
    SqlAlchemyOutbox(tenant, schema="ten1")


def test_the_mixin_has_its_indexes_whatever_table_args_the_class_has() -> None:
    class Base(DeclarativeBase):
        pass

    class InSchema(OutboxMixin, Base):
        __tablename__ = "eventbus_outbox"
        __table_args__ = {"schema": "app"}  # noqa: RUF012 - as people write it

    class Plain(OutboxMixin, declarative_base()):  # type: ignore[misc]
        __tablename__ = "eventbus_outbox"

    class OneOfItsOwn(OutboxMixin, Base):
        __tablename__ = "other"
        __table_args__ = (Index("ix_other_lease", "lease_until"),)

    [mine] = [
        index
        for index in outbox_table(Base.metadata, "other").indexes
        if index.name == "ix_other_lease"
    ]
    assert [column.name for column in mine.columns] == ["lease_until"]
    assert OneOfItsOwn.__table__ is mine.table

    def names(table: Any) -> list[str]:
        return sorted(index.name for index in table.indexes)

    tables: list[Any] = [InSchema.__table__, Plain.__table__]
    for table in tables:
        assert names(table) == names(outbox_table(MetaData()))
        assert names(table.to_metadata(MetaData())) == names(table)
        dialect = create_engine("sqlite://").dialect
        assert "AUTOINCREMENT" in str(CreateTable(table).compile(dialect=dialect))


# -- whose connection it is ---------------------------------------------------------------


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool])
def test_a_relay_does_not_share_the_applications_connection(pool: Any) -> None:
    engine = create_engine("sqlite://", poolclass=pool)
    outbox = SqlAlchemyOutbox(engine)
    outbox.create_all()
    write(outbox, "a")  # this side may
    record = OutboxRecord(
        **dict.fromkeys(
            ("event_id", "topic", "aggregate_id", "event_type", "timestamp"), "x"
        ),
        position=1,
        event_version=1,
        trace_id="",
        correlation_id="",
        tenant_id=0,
        payload=b"{}",
        headers={},
        attempts=0,
        failing_for=0.0,
        lease="x",
    )
    with engine.connect() as connection:
        outbox.add(connection, "t", an_event("b"))
        for use in (
            lambda: take(outbox),
            lambda: outbox.renew(["x"], seconds=1),
            lambda: outbox.mark([published(record)]),
            lambda: outbox.purge(older_than=0, limit=1),
            outbox.stats,
            outbox.rows,
            outbox.requeue,
            lambda: outbox.discard(["x"]),
            outbox.check_schema,
        ):
            with pytest.raises(ConfigError, match=pool.__name__):
                use()
        assert connection.in_transaction()
    with engine.connect() as connection:
        # What was rolled back is not there, and nobody has committed it.
        count = text("SELECT count(*) FROM eventbus_outbox")
        assert connection.scalar(count) == 1
    engine.dispose()


def test_add_first_on_a_connection_with_a_begin_by_a_hook(sqlite_url: str) -> None:
    """SQLAlchemy's own recipe for SQLite."""
    engine = create_engine(sqlite_url)

    @event.listens_for(engine, "connect")
    def connected(driver: Any, _: Any) -> None:
        driver.isolation_level = None

    with an_outbox(engine) as outbox:
        with engine.connect() as connection:
            with pytest.raises(AutocommitRefused):  # there is no hook yet
                outbox.add(connection, "t", an_event("a"))
            assert not connection.in_transaction()

        @event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

        with engine.connect() as connection:
            outbox.add(connection, "t", an_event("a"))
            connection.rollback()
            outbox.add(connection, "t", an_event("b"))
            connection.commit()
        assert aggregates(take(outbox)) == ["b"]
    engine.dispose()


# -- large batches ---------------------------------------------------------------------


def fill(outbox: SqlAlchemyOutbox, rows: int) -> None:
    with outbox.engine.begin() as connection:
        outbox.add_many(connection, "t", [an_event(f"a-{n}") for n in range(rows)])


def test_marks_of_more_leases_than_an_expression_may_be_deep(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = sqlite_outbox
    fill(outbox, 1100)
    records = list(take(outbox, limit=1100).records)
    with outbox.engine.begin() as connection:
        connection.execute(
            text("UPDATE eventbus_outbox SET lease = 'lease-' || position")
        )
    marks = []
    for n, record in enumerate(records):
        own = attrs.evolve(record, lease=f"lease-{record.position}")
        change = Change.PUBLISH if n % 2 else Change.BURY
        marks.append(Mark(own, change, 0, error="x"))
    assert outbox.renew({one.record.lease for one in marks}, seconds=60) == 1100
    with statements(outbox.engine) as sent:
        assert outbox.mark(marks) == {r.position for r in records}
    # Six parts of up to 200 leases, of two statements each.
    assert sum("UPDATE" in one for one in sent) == 12
    stats = outbox.stats()
    assert (stats.published, stats.dead) == (550, 550)


def test_two_leases_of_one_row_in_a_batch(sqlite_outbox: SqlAlchemyOutbox) -> None:
    write(sqlite_outbox, "a")
    late = take(sqlite_outbox, seconds=10).records[0]
    let_time_pass(sqlite_outbox, 20)
    mine = take(sqlite_outbox).records[0]
    for turned in (False, True):
        marks = [
            Mark(late, Change.RETRY, 7, 900.0, "late"),
            Mark(mine, Change.RETRY, 1, 0.0, "mine"),
        ]
        moved = sqlite_outbox.mark(marks[::-1] if turned else marks)
        assert moved == {mine.position}
        (row,) = sqlite_outbox.rows()
        assert (row.attempts, row.error) == (1, "mine")
        mine = take(sqlite_outbox).records[0]


def test_many_different_delays_and_errors_are_marked_fast(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = sqlite_outbox
    fill(outbox, 2000)
    records = take(outbox, limit=2000).records
    assert len(records) == 2000
    marks = [
        Mark(r, Change.RETRY, 1 + r.position % 7, 60 + r.position, f"no {r.event_id}")
        for r in records
    ]
    began = time.process_time()
    assert len(outbox.mark(marks)) == 2000
    # It was 2.3 s, by comparing each row with the marks of all.
    assert time.process_time() - began < 1.2
    for row in outbox.rows(limit=2000):
        assert row.attempts == 1 + row.position % 7
        assert row.error == f"no {row.event_id}"
        waits = row.next_attempt_at - row.created_at - row.position
        assert 59 < waits < 120


def test_a_claim_is_as_large_as_it_may_be(
    sqlite_outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert window_size(1) == 64
    assert window_size(100_000) == window_size(LARGEST_CLAIM) == 4 * LARGEST_CLAIM
    monkeypatch.setattr("eventbus_sync.integrations.sqlalchemy.choose.LARGEST_CLAIM", 7)
    monkeypatch.setattr(claim_module, "_AT_ONCE", 3)
    fill(sqlite_outbox, 20)
    with statements(sqlite_outbox.engine) as sent:
        claim = take(sqlite_outbox, limit=100_000)
    assert [r.position for r in claim.records] == list(range(1, 8))
    assert sum("UPDATE" in one for one in sent) == 3
    assert claim.scanned_to == 7
    again = take(sqlite_outbox, limit=100_000, scan_from=7)
    assert [r.position for r in again.records] == list(range(8, 15))


def test_a_batch_is_written_in_parts_of_bounded_size(
    sqlite_outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some drivers make one statement of it, and a server takes 16 MiB of that."""
    monkeypatch.setattr(writing, "_CHUNK_SIZE", 10_000)
    sizes: list[int] = []

    def note(_c: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if statement.startswith("INSERT"):
            sizes.append(len(given) if isinstance(given, list) else 1)

    event.listen(sqlite_outbox.engine, "before_cursor_execute", note)
    texts = ["x" * 4000] * 3 + ["x" * 30_000] + ["x"] * 5
    events = [Envelope("a", "T", 1, {"x": text}) for text in texts]
    with sqlite_outbox.engine.begin() as connection:
        ids = sqlite_outbox.add_many(connection, "t", events)
    assert sizes == [2, 1, 1, 5]
    assert [row.event_id for row in sqlite_outbox.rows()] == ids


def test_one_parameter_for_each_row_is_too_many(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    """SQLite takes 32,766, PostgreSQL 65,535."""
    fill(sqlite_outbox, 1000)
    most = 0

    def note(_c: Any, _cursor: Any, _statement: str, given: Any, *_: Any) -> None:
        nonlocal most
        most = max(most, len(given))

    event.listen(sqlite_outbox.engine, "before_cursor_execute", note)
    records = take(sqlite_outbox, limit=1000).records
    sqlite_outbox.mark([published(record) for record in records])
    assert len(records) == 1000
    assert most < 20


# -- rows that somebody damaged --------------------------------------------------------

NOT_UTF8 = "CAST(x'ff' AS TEXT)"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("payload", "1.5"),
        ("payload", "7"),
        ("payload", "'no JSON'"),
        ("payload", NOT_UTF8),
        ("event_id", NOT_UTF8),
        ("aggregate_id", NOT_UTF8),
        ("aggregate_id", "x'ff'"),
        ("event_type", NOT_UTF8),
        ("event_type", "x'ff'"),
        ("occurred_at", "'yesterday'"),
        ("trace_id", NOT_UTF8),
        ("correlation_id", NOT_UTF8),
        ("event_version", "'x'"),
        ("event_version", "1.5"),
        ("tenant_id", "x'00'"),
    ],
)
def test_a_damaged_row_holds_nobody_else(
    sqlite_outbox: SqlAlchemyOutbox, column: str, value: str
) -> None:
    outbox = sqlite_outbox
    write(outbox, "a", "b", "b")
    damage(outbox.engine, column, value)
    bad, *good = take(outbox).records
    assert [record.aggregate_id for record in good] == ["b", "b"]
    with pytest.raises(EnvelopeError):
        envelope_of(bad)
    (row, *_) = outbox.rows()
    row.event_id.encode()
    row.aggregate_id.encode()
    outbox.mark([released(bad), *map(published, good)])
    left = take(outbox, without=[bad.aggregate_id])
    assert left.records == ()
    assert outbox.mark([Mark(take(outbox).records[0], Change.BURY, 1, error="x")])
    assert outbox.requeue().event_ids[0].encode()


def damage(engine: Engine, column: str, value: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE eventbus_outbox SET {column} = {value} WHERE position = 1"
        )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("attempts", "'x'"),
        ("next_attempt_at", "'soon'"),
        ("created_at", "'yesterday'"),
        ("due_at", "'never'"),
        ("failing_since", "'x'"),
        ("lease_until", "'soon'"),
        ("settled_at", "'x'"),
    ],
)
def test_damaged_bookkeeping_is_made_good(
    sqlite_outbox: SqlAlchemyOutbox, column: str, value: str
) -> None:
    outbox = sqlite_outbox
    write(outbox, "a", "b")
    damage(outbox.engine, column, value)
    records = take(outbox).records
    assert aggregates(take(outbox, lease="other")) == []
    assert [record.aggregate_id for record in records] == ["a", "b"]
    envelope_of(records[0])
    assert isinstance(records[0].attempts, int)
    assert isinstance(records[0].failing_for, float)
    outbox.stats()
    for row in outbox.rows():
        assert isinstance(row.created_at + row.next_attempt_at, float)
    assert len(outbox.mark([published(record) for record in records])) == 2


def test_a_relay_buries_damaged_rows_and_goes_on(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = sqlite_outbox
    columns = ["payload", "event_type", "topic", "aggregate_id", "event_id", "headers"]
    write(outbox, *(f"a-{n}" for n in range(len(columns))), "good")
    for position, column in enumerate(columns, 1):
        with outbox.engine.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE eventbus_outbox SET {column} = {NOT_UTF8} "
                f"WHERE position = {position}"
            )
    settings = MemoryConfig(delivery_timeout=2.0, close_timeout=0)
    with MemoryBus(settings) as bus:
        relay = OutboxRelay(outbox, bus, lease=8.0)
        relay.start()
        eventually(lambda: not outbox.stats().pending, SLACK)
        assert relay.stop(10)
        sent = [message.event_id for message in bus.broker.messages("orders")]
    states = [row.state for row in outbox.rows()]
    assert states == [RowState.DEAD] * len(columns) + [RowState.PUBLISHED]
    assert len(sent) == 1


def test_a_made_up_state_is_not_shown(sqlite_outbox: SqlAlchemyOutbox) -> None:
    write(sqlite_outbox, "a", "b")
    damage(sqlite_outbox.engine, "state", "'lost'")
    assert [row.aggregate_id for row in sqlite_outbox.rows()] == ["b"]
    assert sqlite_outbox.stats().pending == 1


def test_what_is_no_text_is_read_as_one() -> None:
    assert from_column(7) == "7"
    assert from_column(b"\xc3\xa9") == "\u00e9"
    assert to_show(b"\xff") == "?"


# -- which errors are looked into ---------------------------------------------------------


class Said(Exception):
    """What a driver raises."""

    def __init__(self, *given: Any, sqlstate: str | None = None) -> None:
        super().__init__(*given)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("said", "looked"),
    [
        (Said("no column", sqlstate="42703"), True),
        (Said("no table", sqlstate="42P01"), True),
        (Said("deadlock", sqlstate="40P01"), False),
        (Said("canceled", sqlstate="57014"), False),
        (Said(1054, "Unknown column"), True),
        (Said(1146, "no such table"), True),
        (Said(1054, "Unknown column", sqlstate="42S22"), True),
        (Said(1213, "deadlock", sqlstate="40001"), False),
        (Said(1205, "Lock wait timeout"), False),
        (Said(), False),
    ],
)
def test_only_what_a_table_can_be_the_reason_of_is_looked_into(
    said: Said, *, looked: bool
) -> None:
    assert may_be_of_schema(DBAPIError("INSERT", {}, said)) is looked


def test_a_locked_database_is_not_inspected(sqlite_outbox: SqlAlchemyOutbox) -> None:
    with sqlite_outbox.engine.connect() as writer:
        sqlite_outbox.add(writer, "t", an_event("a"))
        with (
            an_engine(f"{sqlite_outbox.engine.url}?timeout=0.05") as impatient,
            statements(impatient) as sent,
            impatient.connect() as other,
            pytest.raises(OperationalError, match="locked"),
        ):
            sqlite_outbox.add(other, "t", an_event("b"))
    assert len(sent) == 1


# -- duplicates --------------------------------------------------------------------------


def test_a_unique_index_of_ones_own_is_no_duplicate_event(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = sqlite_outbox
    with outbox.engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX one ON eventbus_outbox (topic)"))
    write(outbox, "a")
    twice = an_event("c")
    with outbox.engine.begin() as connection:
        with pytest.raises(IntegrityError):
            outbox.add(connection, "orders", an_event("b"))
        with pytest.raises(IntegrityError):
            outbox.add_many(connection, "orders", [an_event("b")])
        outbox.add(connection, "other", twice)
        with pytest.raises(DuplicateKey):
            outbox.add(connection, "more", twice)
        with pytest.raises(DuplicateKey):
            outbox.add_many(connection, "more", [twice])
