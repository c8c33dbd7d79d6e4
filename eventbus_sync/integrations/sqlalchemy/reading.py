"""A claimed row becomes a record, whatever somebody wrote into it."""

from typing import Any, Final

from sqlalchemy import ColumnElement, Table, type_coerce
from sqlalchemy.types import NullType

from eventbus_sync.integrations.sqlalchemy.clock import now, number
from eventbus_sync.integrations.sqlalchemy.texts import (
    bytes_from_column,
    from_column,
    headers_from_column,
)
from eventbus_sync.outbox.record import OutboxRecord


_READ: Final = (
    "position",
    "event_id",
    "topic",
    "aggregate_id",
    "event_type",
    "event_version",
    "occurred_at",
    "trace_id",
    "correlation_id",
    "tenant_id",
    "headers",
    "attempts",
)


def columns_read(table: Table) -> list[ColumnElement[Any]]:
    """Return what ``record_of`` needs of a row."""
    c = table.c
    return [
        *(c[name] for name in _READ),
        # As the driver gives it: SQLite keeps what is no bytes too.
        type_coerce(c.payload, NullType()).label("payload"),
        (now() - number(c.failing_since)).label("failing_for"),
    ]


def record_of(row: Any, lease: str) -> OutboxRecord:
    """
    Return a row's record, whatever somebody wrote into it: a relay buries what is no
    event, and goes on.
    """
    attempts = row.attempts
    return OutboxRecord(
        position=row.position,
        event_id=from_column(row.event_id),
        topic=from_column(row.topic),
        aggregate_id=from_column(row.aggregate_id),
        event_type=from_column(row.event_type),
        event_version=row.event_version,
        timestamp=from_column(row.occurred_at),
        trace_id=from_column(row.trace_id),
        correlation_id=from_column(row.correlation_id),
        tenant_id=row.tenant_id,
        payload=bytes_from_column(row.payload),
        headers=headers_from_column(row.headers),
        attempts=attempts if isinstance(attempts, int) else 0,
        failing_for=max(0.0, row.failing_for or 0.0),
        lease=lease,
    )
