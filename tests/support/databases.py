"""
Databases for tests: a SQLite file, PostgreSQL from a wheel, an own MariaDB.

A server that is not installed skips the test with the reason; in CI it fails it.

PYTEST_DONT_REWRITE: nothing is asserted here, and so it may be imported beforehand.
"""

import contextlib

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sqlalchemy import Engine, create_engine
from support.database_servers import (
    DatabaseServer,
    MariadbServer,
    NotInstalled,
    PostgresqlServer,
)

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.testing.pytest_plugin import skip_or_fail


@contextlib.contextmanager
def _running(kind: type[DatabaseServer]) -> Iterator[DatabaseServer]:
    try:
        server = kind()
    except NotInstalled as error:
        skip_or_fail(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[DatabaseServer]:
    """PostgreSQL, one for the whole session: leave it running."""
    with _running(PostgresqlServer) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[DatabaseServer]:
    """MariaDB, one for the whole session: leave it running."""
    with _running(MariadbServer) as server:
        yield server


@contextlib.contextmanager
def an_engine(url: str) -> Iterator[Engine]:
    """An engine whose connections are gone afterwards."""
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def an_outbox(engine: Engine, **settings: Any) -> Iterator[SqlAlchemyOutbox]:
    """An outbox with a new table, which goes with it."""
    outbox = SqlAlchemyOutbox(engine, **settings)
    outbox.table.drop(engine, checkfirst=True)
    outbox.create_all()
    try:
        yield outbox
    finally:
        outbox.close()
        outbox.table.drop(engine)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file of this test alone."""
    return f"sqlite:///{tmp_path / 'outbox.db'}"


@pytest.fixture
def sqlite_outbox(sqlite_url: str) -> Iterator[SqlAlchemyOutbox]:
    """An outbox with its table in a SQLite file of this test alone."""
    with an_engine(sqlite_url) as engine, an_outbox(engine) as outbox:
        yield outbox


@pytest.fixture
def postgresql_outbox(postgresql_server: DatabaseServer) -> Iterator[SqlAlchemyOutbox]:
    """An outbox with an empty table on the session's PostgreSQL."""
    with an_engine(postgresql_server.url) as engine, an_outbox(engine) as outbox:
        yield outbox


@pytest.fixture
def mariadb_outbox(mariadb_server: DatabaseServer) -> Iterator[SqlAlchemyOutbox]:
    """An outbox with an empty table on the session's MariaDB."""
    with an_engine(mariadb_server.url) as engine, an_outbox(engine) as outbox:
        yield outbox
