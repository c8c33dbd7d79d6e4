"""Deletes what is settled, a bounded batch at a time, strictly the oldest first."""

import itertools

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Table, delete, select

from eventbus_sync.integrations.sqlalchemy.clock import now
from eventbus_sync.integrations.sqlalchemy.database import Database
from eventbus_sync.outbox.record import RowState


_SETTLED: Final = (RowState.PUBLISHED.value, RowState.DISCARDED.value)
_CHUNK: Final = 500


def purge(
    connection: Connection,
    database: Database,
    table: Table,
    older_than: float,
    limit: int,
) -> int:
    """
    Do what ``OutboxStore.purge`` says, strictly the oldest first.

    So what is left tells of what time nothing was purged: ``requeue`` relies on it.
    """
    c = table.c
    positions: list[int] = []
    for state in _SETTLED:
        query = (
            select(c.position)
            .where(c.state == state, c.settled_at < now() - older_than)
            .order_by(c.settled_at)
            .limit(limit - len(positions))
        )
        oldest = connection.scalars(query).all()
        positions += _before_locked(connection, database, table, oldest)
    gone = 0
    for start in range(0, len(positions), _CHUNK):
        some = positions[start : start + _CHUNK]
        statement = delete(table).where(c.position.in_(some), c.state.in_(_SETTLED))
        gone += connection.execute(statement).rowcount
    return gone


def _before_locked(
    connection: Connection, database: Database, table: Table, positions: Sequence[int]
) -> Sequence[int]:
    """Lock *positions* up to the first that somebody else has, or that is gone."""
    if not database.locks_rows:
        return positions
    c = table.c
    locked: set[int] = set()
    for start in range(0, len(positions), _CHUNK):
        some = positions[start : start + _CHUNK]
        query = select(c.position).where(c.position.in_(some))
        locked.update(connection.scalars(query.with_for_update(skip_locked=True)))
    return list(itertools.takewhile(locked.__contains__, positions))
