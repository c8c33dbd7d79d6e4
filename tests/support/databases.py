"""Databases for tests: a SQLite file, PostgreSQL from a wheel, an own MariaDB."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlalchemy import create_engine

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


@pytest.fixture
def sqlite_outbox(tmp_path: Path) -> Iterator[SqlAlchemyOutbox]:
    """An outbox with its table in a SQLite file of this test alone."""
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    outbox = SqlAlchemyOutbox(engine)
    outbox.create_all()
    yield outbox
    outbox.close()
    engine.dispose()
