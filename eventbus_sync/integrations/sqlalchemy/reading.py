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
    # By place: by name a row is asked twice as long, and a claim reads thousands.
    (
        position,
        event_id,
        topic,
        aggregate_id,
        event_type,
        event_version,
        occurred_at,
        trace_id,
        correlation_id,
        tenant_id,
        headers,
        attempts,
        payload,
        failing_for,
    ) = row
    return OutboxRecord(
        position,
        from_column(event_id),
        from_column(topic),
        from_column(aggregate_id),
        from_column(event_type),
        event_version,
        from_column(occurred_at),
        from_column(trace_id),
        from_column(correlation_id),
        tenant_id,
        bytes_from_column(payload),
        headers_from_column(headers),
        attempts if isinstance(attempts, int) else 0,
        max(0.0, failing_for or 0.0),
        lease,
    )
