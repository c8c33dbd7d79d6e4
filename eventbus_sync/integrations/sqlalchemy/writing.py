"""
An envelope becomes a row, in the caller's own transaction.

Nothing here begins, commits or rolls back. A refused row leaves the transaction fit to
go on, also on PostgreSQL.
"""

import contextlib
import weakref

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Table,
    TwoPhaseTransaction,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session

from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import AutocommitRefused, DuplicateKey, EnvelopeError
from eventbus_sync.integrations.sqlalchemy.database import (
    begin_before_savepoint,
    is_autocommit,
)
from eventbus_sync.integrations.sqlalchemy.texts import (
    from_column,
    headers_to_column,
    to_column,
)
from eventbus_sync.integrations.trace import current_trace


#: What ``add`` takes: the caller's own.
Transactional = Session | scoped_session[Any] | Connection

# What is written at once, in rows and in characters: some drivers make one statement of
# it, and MariaDB ends the connection if that exceeds max_allowed_packet.
_CHUNK: Final = 1000
_CHUNK_SIZE: Final = 2**20


def connection_of(given: Transactional, table: Table) -> Connection:
    """
    Return the connection of the caller's transaction; a Session begins one by itself.

    Raises:
        AutocommitRefused: there is no transaction that could be rolled back.
    """
    if isinstance(given, Connection):
        connection = given
    elif isinstance(given, Session | scoped_session):
        connection = given.connection(bind_arguments={"clause": table})
    else:
        msg = (
            f"add was given a {type(given).__name__}: pass the Session or Connection "
            "whose transaction the event belongs to"
        )
        raise TypeError(msg)
    begun = connection.dialect.name == "sqlite" and not connection.in_transaction()
    if begun:
        # So that an event hook can do what the driver does not: see is_autocommit.
        connection.begin()
    if is_autocommit(connection):
        if begun:
            connection.rollback()
        msg = (
            "this connection is in AUTOCOMMIT mode, so that the event would be sent "
            "whatever becomes of your other changes: use a connection with transactions"
        )
        raise AutocommitRefused(msg)
    return connection


def row_of(
    topic: object,
    envelope: object,
    not_before: object,
    headers: object,
    idempotency_key: object,
) -> dict[str, Any]:
    """
    Return the row for an event, with the trace context of the moment.

    Raises:
        EnvelopeError: something cannot be stored; its ``field`` says what.
    """
    if not isinstance(envelope, Envelope):
        msg = f"envelope is a {type(envelope).__name__}: pass an Envelope"
        raise EnvelopeError(msg, field="envelope")
    if not isinstance(topic, str) or not topic.strip():
        msg = f"topic is {topic!r}: pass the name of where the event goes"
        raise EnvelopeError(msg, field="topic")
    due = None if not_before is None else _moment(not_before)
    return {
        "event_id": _unique("event_id", envelope.event_id),
        "topic": to_column("topic", topic),
        "aggregate_id": envelope.aggregate_id,
        "event_type": to_column("event_type", envelope.event_type),
        "event_version": envelope.event_version,
        "occurred_at": envelope.timestamp_text,
        "trace_id": to_column("trace_id", envelope.trace_id),
        "correlation_id": to_column("correlation_id", envelope.correlation_id),
        "tenant_id": envelope.tenant_id,
        # Exactly bytes: a driver may not know what to do with a subclass.
        "payload": bytes(memoryview(envelope.payload)),
        "headers": headers_to_column(_traced(headers)),
        "next_attempt_at": 0.0 if due is None else due,
        "due_at": due,
        "idempotency_key": _key(idempotency_key),
    }


def _moment(not_before: object) -> float:
    if not isinstance(not_before, datetime) or not_before.utcoffset() is None:
        msg = (
            f"not_before is {not_before!r}: pass an aware datetime, such as "
            "datetime.now(UTC) + timedelta(minutes=5)"
        )
        raise EnvelopeError(msg, field="not_before")
    return not_before.timestamp()


def _key(idempotency_key: object) -> str | None:
    if idempotency_key is None:
        return None
    if not isinstance(idempotency_key, str) or not idempotency_key:
        msg = f"idempotency_key is {idempotency_key!r}: pass a text, or None for none"
        raise EnvelopeError(msg, field="idempotency_key")
    return _unique("idempotency_key", idempotency_key)


def _unique(field: str, text: str) -> str:
    """Return *text* as it is stored, if every database tells it from all others."""
    if text != text.strip(" "):
        # MariaDB takes "k " for "k"; the same code shall do the same everywhere.
        msg = (
            f"{field} is {text[:80]!r}: pass one without blanks at its ends, since for "
            "some databases those at the end do not count"
        )
        raise EnvelopeError(msg, field=field)
    return to_column(field, text)


def _traced(headers: Any) -> Any:
    """Return *headers* with the current trace, unless they bring one or are no headers."""
    if headers is not None and (
        not isinstance(headers, Mapping)
        or any(str(name).lower() == "traceparent" for name in headers)
    ):
        return headers
    trace = current_trace()
    return {**trace, **headers} if headers else trace


def add(connection: Connection, table: Table, row: dict[str, Any]) -> str:
    """
    Insert *row* and return the event id, or that of an equal idempotency key.

    Raises:
        DuplicateKey: there is a row of this event id.
        IntegrityError: another rule of the table refused the row.
    """
    cause: IntegrityError | None = None
    if connection.dialect.name == "postgresql":
        # There an error would end the whole transaction, and commit() say nothing.
        statement = postgresql.insert(table).on_conflict_do_nothing()
        done = connection.execute(statement.returning(table.c.position), row)
        if done.first() is not None:
            return from_column(row["event_id"])
    else:
        try:
            connection.execute(insert(table).inline(), row)
        except IntegrityError as error:
            cause = error
        else:
            return from_column(row["event_id"])
    found = _present(connection, table, row, cause)
    if found is not None:
        return found
    if cause is not None:
        raise cause
    # Refused by a rule of somebody else's, which shall say so itself; or what refused
    # it was purged just now, and then this adds it.
    connection.execute(insert(table).inline(), row)
    return from_column(row["event_id"])


def _present(
    connection: Connection,
    table: Table,
    row: dict[str, Any],
    cause: IntegrityError | None,
) -> str | None:
    """
    Return the id of the row that has the idempotency key already; None without one.

    Raises:
        DuplicateKey: there is a row of this event id.
    """
    key = row["idempotency_key"]
    if key is not None:
        found = _ids_with(connection, table, "idempotency_key", [key])
        if found:
            return from_column(found[0])
    if _ids_with(connection, table, "event_id", [row["event_id"]]):
        event_id = from_column(row["event_id"])
        msg = f"the outbox holds event {event_id} already: each event is added once"
        raise DuplicateKey(msg) from getattr(cause, "orig", None)
    return None


def _ids_with(
    connection: Connection, table: Table, column: str, values: Collection[str]
) -> Sequence[str]:
    """Return the event ids of rows by a unique *column*: an entry of the index each."""
    query = select(table.c.event_id).where(table.c[column].in_(values))
    if connection.dialect.name in {"mysql", "mariadb"}:
        # Under REPEATABLE READ only a locking read sees what others have committed.
        query = query.with_for_update(read=True)
    return connection.scalars(query).all()


def add_many(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]]
) -> list[str]:
    """
    Insert *rows* in their order, all or none, and return their event ids.

    Raises:
        DuplicateKey: there is a row of one of the ids; the transaction can go on.
        IntegrityError: another rule of the table refused a row.
    """
    if not rows:
        return []
    begin_before_savepoint(connection)
    savepoint = connection.begin_nested()
    try:
        for some in _chunks(rows):
            connection.execute(insert(table).inline(), some)
    except BaseException as error:
        # A deadlock of MariaDB has taken the savepoint along; it is what is to be told.
        with contextlib.suppress(SQLAlchemyError):
            savepoint.rollback()
        if isinstance(error, IntegrityError) and _is_there(connection, table, rows):
            msg = "one of these events is in the outbox already: none was added"
            raise DuplicateKey(msg) from error.orig
        raise
    savepoint.commit()
    return [from_column(row["event_id"]) for row in rows]


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Return *rows* in their order, in parts that are not too large to be sent."""
    chunk: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        own = sum(len(one) for one in row.values() if isinstance(one, str | bytes))
        if chunk and (len(chunk) >= _CHUNK or size + own > _CHUNK_SIZE):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += own
    yield chunk


def _is_there(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]]
) -> bool:
    """Return whether one of *rows* is there already, or among them twice."""
    ids = sorted({row["event_id"] for row in rows})
    return len(ids) < len(rows) or any(
        _ids_with(connection, table, "event_id", ids[start : start + _CHUNK])
        for start in range(0, len(ids), _CHUNK)
    )


class Notifier:
    """
    Tells relays of new rows, on PostgreSQL: once for each transaction.

    A savepoint counts as one, since its notification goes when it is rolled back.
    """

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._told: weakref.WeakSet[Any] = weakref.WeakSet()

    def tell(self, connection: Connection) -> None:
        """Send the notification with the transaction's commit."""
        if connection.dialect.name != "postgresql":
            return
        root, nested = connection.get_transaction(), connection.get_nested_transaction()
        if root in self._told or nested in self._told:
            return
        if isinstance(root, TwoPhaseTransaction):
            return  # PostgreSQL prepares no transaction that notifies: relays poll
        connection.execute(select(func.pg_notify(self._channel, "")))
        self._told.add(nested or root)
