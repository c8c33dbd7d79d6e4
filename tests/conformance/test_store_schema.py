"""What check_schema refuses on each database: rows without numbers, or taken for others."""

import threading

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError
from support.databases import an_engine
from support.outbox_rows import an_event, take, write

from eventbus_sync.errors import SchemaMismatch
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


pytest_plugins = ["support.databases"]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def outbox(request: pytest.FixtureRequest) -> SqlAlchemyOutbox:
    """An empty one of each database in turn."""
    found: SqlAlchemyOutbox = request.getfixturevalue(f"{request.param}_outbox")
    return found


def refused(outbox: SqlAlchemyOutbox) -> SchemaMismatch:
    """What the check says, which a relay makes before it claims."""
    with pytest.raises(SchemaMismatch) as caught:
        take(outbox)
    with pytest.raises(SchemaMismatch):
        outbox.check_schema()
    assert "outbox_table()" in str(caught.value)
    return caught.value


# -- the position ----------------------------------------------------------------------


def made_anew(connection: Connection, position: str) -> None:
    """Make SQLite's table again, with another *position*."""
    made = text("SELECT sql FROM sqlite_master WHERE tbl_name = 'eventbus_outbox'")
    table, *indexes = [sql for sql in connection.scalars(made) if sql]
    ours = "position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT"
    assert ours in table
    connection.execute(text("DROP TABLE eventbus_outbox"))
    for sql in (table.replace(ours, position), *indexes):
        connection.exec_driver_sql(sql)


@pytest.mark.parametrize(
    ("position", "problem"),
    [
        ("position BIGINT PRIMARY KEY", "BIGINT and must be INTEGER"),
        ("position INT PRIMARY KEY", "INT and must be INTEGER"),
        ("position INTEGER", "must be the primary key"),
        ("position INTEGER PRIMARY KEY", "AUTOINCREMENT"),
    ],
)
def test_rows_of_sqlite_count_up(
    sqlite_outbox: SqlAlchemyOutbox, position: str, problem: str
) -> None:
    with sqlite_outbox.engine.begin() as connection:
        made_anew(connection, position)
    write(sqlite_outbox, "a")  # it is taken; so a relay has to say that it is lost
    error = refused(sqlite_outbox)
    assert error.column == "position"
    assert problem in str(error)


def test_the_table_of_an_attached_file(sqlite_outbox: SqlAlchemyOutbox) -> None:
    engine = sqlite_outbox.engine
    with engine.connect() as connection:
        connection.execute(text("""ATTACH ':memory:' AS "my app" """))
        connection.commit()
        other = SqlAlchemyOutbox(engine, schema="my app")
        other.table.create(connection)
        other._check(connection)
        connection.commit()
        connection.execute(text('DETACH "my app"'))


@pytest.mark.parametrize(
    ("database", "changes", "problem"),
    [
        ("postgresql", ["ALTER position DROP IDENTITY"], "no identity and no default"),
        ("postgresql", ["DROP CONSTRAINT eventbus_outbox_pkey"], "the primary key"),
        (
            "postgresql",
            [
                "DROP CONSTRAINT eventbus_outbox_pkey",
                "ADD PRIMARY KEY (position, event_id)",
            ],
            "the primary key",
        ),
        ("mariadb", ["MODIFY position BIGINT NOT NULL"], "not AUTO_INCREMENT"),
        (
            "mariadb",
            ["DROP PRIMARY KEY, ADD PRIMARY KEY (position, event_id)"],
            "the primary key",
        ),
    ],
)
def test_rows_of_a_server_count_up(
    request: pytest.FixtureRequest, database: str, changes: list[str], problem: str
) -> None:
    outbox: Any = request.getfixturevalue(f"{database}_outbox")
    with outbox.engine.begin() as connection:
        for change in changes:
            connection.execute(text(f"ALTER TABLE eventbus_outbox {change}"))
    error = refused(outbox)
    assert error.column == "position"
    assert problem in str(error)


def test_a_sequence_counts_too(postgresql_outbox: SqlAlchemyOutbox) -> None:
    """As tables had it before PostgreSQL knew identities."""
    with postgresql_outbox.engine.begin() as connection:
        for change in (
            "ALTER TABLE eventbus_outbox ALTER position DROP IDENTITY",
            "CREATE SEQUENCE counted OWNED BY eventbus_outbox.position",
            "ALTER TABLE eventbus_outbox ALTER position SET DEFAULT nextval('counted')",
        ):
            connection.execute(text(change))
    postgresql_outbox.check_schema()
    write(postgresql_outbox, "a")
    assert len(take(postgresql_outbox).records) == 1


# -- texts that would be taken for others ------------------------------------------------


@pytest.mark.parametrize("column", ["event_id", "idempotency_key", "aggregate_id"])
def test_texts_are_compared_by_their_bytes(
    mariadb_outbox: SqlAlchemyOutbox, column: str
) -> None:
    def collate(collation: str) -> None:
        null = "NULL" if column == "idempotency_key" else "NOT NULL"
        with mariadb_outbox.engine.begin() as connection:
            connection.execute(
                text(
                    f"ALTER TABLE eventbus_outbox MODIFY {column} VARCHAR(512) "
                    f"CHARACTER SET utf8mb4 COLLATE {collation} {null}"
                )
            )

    collate("utf8mb4_general_ci")
    error = refused(mariadb_outbox)
    assert error.column == column
    assert "utf8mb4_general_ci" in str(error)
    collate("utf8mb4_nopad_bin")
    mariadb_outbox.check_schema()


def test_what_create_all_makes_is_as_it_must_be(outbox: SqlAlchemyOutbox) -> None:
    outbox.check_schema()


# -- create_all --------------------------------------------------------------------------


def test_create_all_checks_what_is_there(sqlite_outbox: SqlAlchemyOutbox) -> None:
    with sqlite_outbox.engine.begin() as connection:
        connection.execute(text("ALTER TABLE eventbus_outbox DROP COLUMN headers"))
    with pytest.raises(SchemaMismatch, match="column headers"):
        sqlite_outbox.create_all()


@pytest.mark.parametrize("first", ["table", "index"])
def test_create_all_where_somebody_is_faster(
    outbox: SqlAlchemyOutbox, first: str
) -> None:
    """What it was about to make is there when it comes to it."""
    other = SqlAlchemyOutbox(outbox.engine, notify=False)
    told: list[str] = []

    def be_faster(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(f"CREATE {first.upper()}") and not told:
            told.append(statement)
            with an_engine(url) as engine:
                SqlAlchemyOutbox(engine).create_all()

    url = outbox.engine.url.render_as_string(hide_password=False)
    if first == "table":
        outbox.table.drop(outbox.engine)
    else:
        for index in outbox.table.indexes:
            index.drop(outbox.engine)
    event.listen(outbox.engine, "before_cursor_execute", be_faster)
    other.create_all()
    assert told
    other.check_schema()


def test_create_all_at_once(outbox: SqlAlchemyOutbox) -> None:
    url = outbox.engine.url.render_as_string(hide_password=False)
    outbox.table.drop(outbox.engine)
    start = threading.Barrier(4)

    def create() -> None:
        with an_engine(url) as engine:
            start.wait()
            SqlAlchemyOutbox(engine).create_all()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(create) for _ in range(4)]:
            done.result()
    outbox.check_schema()


def test_create_all_gives_up_where_it_gets_no_further(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    url = f"{sqlite_outbox.engine.url}?timeout=0.05"
    sqlite_outbox.table.indexes.copy().pop().drop(sqlite_outbox.engine)
    with an_engine(url) as engine, sqlite_outbox.engine.connect() as writer:
        sqlite_outbox.add(writer, "t", an_event())
        with pytest.raises(OperationalError, match="locked"):
            SqlAlchemyOutbox(engine).create_all()


def test_the_table_may_go_while_indexes_are_made(
    sqlite_outbox: SqlAlchemyOutbox,
) -> None:
    """Then it is made anew."""
    sqlite_outbox.table.indexes.copy().pop().drop(sqlite_outbox.engine)
    dropped: list[str] = []

    @event.listens_for(sqlite_outbox.engine, "before_cursor_execute")
    def drop(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("CREATE INDEX") and not dropped:
            dropped.append(statement)
            cursor.execute("DROP TABLE eventbus_outbox")

    SqlAlchemyOutbox(sqlite_outbox.engine).create_all()
    assert dropped
    sqlite_outbox.check_schema()
