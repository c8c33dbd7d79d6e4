"""The SQLAlchemy outbox without a server: its table, its texts, what a claim chooses."""

import sys

from pathlib import Path
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from sqlalchemy import (
    REAL,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import QueuePool, StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable
from support.databases import an_engine, an_outbox
from support.outbox_rows import an_event, take, write

from eventbus_sync import EnvelopeError
from eventbus_sync._threads import Deadline
from eventbus_sync.errors import SchemaMismatch, StoreFailed
from eventbus_sync.integrations.sqlalchemy import (
    OutboxMixin,
    SqlAlchemyOutbox,
    outbox_table,
)
from eventbus_sync.integrations.sqlalchemy.choose import (
    Seen,
    fitting,
    go_on_from,
    runs,
    share,
    without_holes,
)
from eventbus_sync.integrations.sqlalchemy.texts import (
    error_to_column,
    from_column,
    to_column,
)
from eventbus_sync.integrations.trace import current_trace
from eventbus_sync.outbox.record import Change, Mark


pytest_plugins = ["support.databases"]


# -- the table -----------------------------------------------------------------------


def test_constructing_does_no_io() -> None:
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    outbox = SqlAlchemyOutbox(engine, table_name="t", schema="s")
    assert outbox.table.fullname == "s.t"
    outbox.wake()
    outbox.close()


def test_a_table_is_made_once_for_a_metadata() -> None:
    metadata = MetaData()
    table = outbox_table(metadata)
    assert outbox_table(metadata) is table
    assert outbox_table(metadata, schema="s") is not table
    engine = create_engine("sqlite://")
    assert SqlAlchemyOutbox(engine, metadata=metadata).table is table


def _definition(table: Table, dialect: Any) -> str:
    parts: list[Any] = [
        CreateTable(table),
        *(CreateIndex(one) for one in sorted_indexes(table)),
    ]
    return "\n".join(str(part.compile(dialect=dialect)) for part in parts)


def sorted_indexes(table: Table) -> list[Any]:
    return sorted(table.indexes, key=lambda index: str(index.name))


@pytest.mark.parametrize("database", [sqlite, postgresql, mysql])
def test_the_mixin_is_the_same_table(database: Any) -> None:
    class Base(DeclarativeBase):
        pass

    class Outbox(OutboxMixin, Base):
        __tablename__ = "eventbus_outbox"

    dialect = database.dialect()
    mixed = Base.metadata.tables["eventbus_outbox"]
    definition = _definition(mixed, dialect)
    assert definition == _definition(outbox_table(MetaData()), dialect)
    assert Outbox.__table__ is mixed


def test_rows_are_read_through_the_orm(sqlite_outbox: SqlAlchemyOutbox) -> None:
    class Base(DeclarativeBase):
        pass

    class Outbox(OutboxMixin, Base):
        __tablename__ = "eventbus_outbox"

    outbox = SqlAlchemyOutbox(sqlite_outbox.engine, metadata=Base.metadata)
    (event_id,) = write(outbox, "a")
    with Session(outbox.engine) as session:
        row = session.query(Outbox).one()
        assert (row.event_id, row.state, row.attempts) == (event_id, "pending", 0)


def test_another_name(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    outbox = SqlAlchemyOutbox(engine, table_name="order_events")
    outbox.create_all()
    outbox.create_all()  # is there already
    write(outbox, "a")
    assert len(take(outbox).records) == 1
    assert inspect(engine).get_table_names() == ["order_events"]
    engine.dispose()


def test_an_idle_claim_does_not_wait_for_writers(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    take(sqlite_outbox)
    with sqlite_outbox.engine.connect() as writer:
        sqlite_outbox.add(writer, "t", an_event())
        assert take(sqlite_outbox).records == ()


# -- texts ---------------------------------------------------------------------------


@given(
    st.text(st.characters(codec="utf-8") | st.sampled_from("\x00\x1a0"), max_size=99)
)
def test_any_text_comes_back(text: str) -> None:
    stored = to_column("topic", text)
    assert "\x00" not in stored
    assert from_column(stored) == text


def test_a_text_may_not_be_longer_than_its_column() -> None:
    assert len(to_column("aggregate_id", "x" * 256)) == 256
    with pytest.raises(EnvelopeError, match="topic has 513"):
        to_column("topic", "x" * 513)
    with pytest.raises(EnvelopeError, match="topic has 520"):
        to_column("topic", "\x00" * 260)


def test_errors_are_stored_whatever_they_hold() -> None:
    assert error_to_column("a\x00b\ud800c" + "x" * 9999).startswith("a\ufffdb?cxxx")
    assert len(error_to_column("x" * 9999)) == 4000


# -- what a claim chooses ------------------------------------------------------------


def seen(position: int, aggregate: str, **more: Any) -> Seen:
    how: dict[str, Any] = {"free": True, "due_in": -1.0, "visible": True, **more}
    return Seen(position, aggregate, **how)


def test_runs_end_at_the_first_hole() -> None:
    window = [
        seen(1, "a"),
        seen(2, "b"),
        seen(3, "a", due_in=5.0),
        seen(4, "a"),
        seen(5, "b"),
        seen(6, "c", visible=False),
        seen(7, "c"),
        seen(8, "d"),
        seen(9, "d", free=False),
        seen(10, "e"),
    ]
    assert runs(window, without={"e"}) == {"a": [1], "b": [2, 5]}


def test_heads_come_first() -> None:
    candidates = [[1, 2, 3, 4], [5], [6, 7]]
    assert share(candidates, 2) == {1, 5}
    assert share(candidates, 5) == {1, 2, 3, 5, 6}
    assert share(candidates, 99) == {1, 2, 3, 4, 5, 6, 7}
    assert without_holes(candidates, {1, 2, 4, 7}) == [[1, 2]]


def test_what_fits_is_taken_in_the_same_order() -> None:
    taken = [[1, 2, 3], [5], [6, 7]]
    sizes = {1: 10, 2: 10, 3: 10, 5: 10, 6: 10, 7: 1}
    assert fitting(taken, sizes, None) == {1, 2, 3, 5, 6, 7}
    assert fitting(taken, sizes, 51) == {1, 2, 3, 5, 6, 7}
    assert fitting(taken, sizes, 49) == {1, 2, 5, 6}  # not 7, which would make a hole
    assert fitting(taken, sizes, 25) == {1, 5}
    assert fitting(taken, sizes, 0) == {1}
    assert fitting([], {}, 0) == set()


def test_where_the_next_claim_goes_on() -> None:
    window = [seen(n, "a") for n in (10, 20, 30)]
    assert go_on_from(window, 3, [10, 20, 30], {10}) == 19
    assert go_on_from(window, 3, [10, 20, 30], {10, 20, 30}) == 30
    assert go_on_from(window, 4, [10], {10}) == 0
    assert go_on_from([], 4, [], set()) == 0


# -- trace context -------------------------------------------------------------------


def test_the_current_span_of_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_trace() == {}  # loaded, but there is no span
    context = trace.SpanContext(
        trace_id=0x4BF92F3577B34DA6A3CE929D0E0E4736,
        span_id=0x00F067AA0BA902B7,
        is_remote=False,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        trace_state=trace.TraceState([("vendor", "x")]),
    )
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert current_trace() == {
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "tracestate": "vendor=x",
        }
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        assert current_trace() == {}


def test_a_span_without_a_state_has_none_on_the_wire() -> None:
    context = trace.SpanContext(trace_id=0xAB, span_id=0xCD, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert set(current_trace()) == {"traceparent"}


# -- what is wrong with a table --------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (Column("topic", String(100), nullable=False), "topic.*512 characters"),
        (Column("topic", LargeBinary, nullable=False), "topic.*must be a text"),
        (Column("attempts", Text, nullable=False), "attempts.*whole number"),
        (Column("created_at", Text, nullable=False), "created_at.*DOUBLE PRECISION"),
        (Column("due_at", REAL), "due_at.*DOUBLE PRECISION"),
        (Column("attempts", Integer, nullable=False), "attempts.*no default"),
        (Column("lease", String(64), nullable=False), "lease.*must be nullable"),
        (Column("event_id", String(512), nullable=False), "event_id.*unique index"),
    ],
    ids=lambda x: "" if isinstance(x, Column) else x[:12],
)
def test_the_wrong_column_is_named(
    sqlite_url: str, wrong: Column[Any], problem: str
) -> None:
    engine = create_engine(sqlite_url)
    ours = outbox_table(MetaData()).columns
    columns = [wrong._copy() if c.name == wrong.name else c._copy() for c in ours]
    named: Any = {"sqlite_autoincrement": True}
    Table("eventbus_outbox", MetaData(), *columns, **named).create(engine)
    outbox = SqlAlchemyOutbox(engine)
    with pytest.raises(SchemaMismatch, match=problem) as caught:
        take(outbox)
    assert caught.value.column == wrong.name
    assert not caught.value.retriable
    engine.dispose()


def test_add_many_names_it_too() -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    outbox = SqlAlchemyOutbox(engine)
    with (
        engine.begin() as connection,
        pytest.raises(SchemaMismatch, match="no table eventbus_outbox"),
    ):
        outbox.add_many(connection, "t", [an_event()])
    engine.dispose()


def test_only_marks_are_marked(sqlite_outbox: SqlAlchemyOutbox) -> None:
    write(sqlite_outbox, "a")
    record = take(sqlite_outbox).records[0]
    with pytest.raises(ValueError, match="no mark"):
        sqlite_outbox.mark([Mark(record, Change.DISCARD, 0)])


# -- what databases answer, rarely -----------------------------------------------------


def test_a_begin_by_an_event_hook(sqlite_url: str) -> None:
    """The usual recipe for SQLite: the driver begins nothing, a hook does."""
    engine = create_engine(sqlite_url)

    @event.listens_for(engine, "connect")
    def connected(driver: Any, _: Any) -> None:
        driver.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    with an_outbox(engine) as outbox:
        (event_id,) = write(outbox, "a")
        [record] = take(outbox).records
        assert record.event_id == event_id
        assert outbox.mark([Mark(record, Change.PUBLISH, 0)]) == {record.position}
        assert outbox.stats().published == 1
    engine.dispose()


def test_a_pool_without_a_connection_left_is_store_failed(sqlite_url: str) -> None:
    engine = create_engine(
        sqlite_url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    with an_outbox(engine) as outbox:
        write(outbox, "a")
        with engine.connect(), pytest.raises(StoreFailed, match="QueuePool") as caught:
            outbox.stats()
        assert caught.value.retriable
        assert outbox.stats().pending == 1
    engine.dispose()


def test_without_notifications_there_is_nothing_to_wake(sqlite_url: str) -> None:
    with an_engine(sqlite_url) as engine, an_outbox(engine, notify=False) as outbox:
        outbox.wake()
        assert not outbox.wait(Deadline.after(60))
        outbox.close()
        write(outbox, "a")
        assert len(take(outbox).records) == 1


def test_another_failure_of_add_many_stays_what_it_is(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    with sqlite_outbox.engine.connect() as writer:
        sqlite_outbox.add(writer, "t", an_event("a"))
        with (
            an_engine(f"{sqlite_outbox.engine.url}?timeout=0.05") as impatient,
            impatient.connect() as other,
            pytest.raises(OperationalError, match="locked"),
        ):
            sqlite_outbox.add_many(other, "t", [an_event("b")])


def test_a_row_that_the_database_refuses_is_no_duplicate(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    refuse = (
        "CREATE TRIGGER refuse BEFORE INSERT ON eventbus_outbox "
        "BEGIN SELECT RAISE(ABORT, 'not on Sundays'); END"
    )
    with sqlite_outbox.engine.begin() as connection:
        connection.execute(text(refuse))
    with (
        sqlite_outbox.engine.begin() as connection,
        pytest.raises(IntegrityError, match="not on Sundays"),
    ):
        sqlite_outbox.add(connection, "t", an_event("a"))
