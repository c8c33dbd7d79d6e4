"""
The table: as a ``Table`` (``outbox_table``) and for the ORM (``OutboxMixin``).

All times are seconds since the epoch by the database's clock. The indexes are those
that keep claiming O(batch), whatever number of published rows is there.
"""

import re

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.dialects.mysql import LONGBLOB, MEDIUMTEXT, VARCHAR
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from eventbus_sync.errors import ConfigError
from eventbus_sync.integrations.sqlalchemy.clock import Xid8, current_xid, now


DEFAULT_NAME: Final = "eventbus_outbox"

_MYSQL: Final = ("mysql", "mariadb")
# PostgreSQL has 63 bytes for the longest name made of it: ix_<name>_aggregate.
_LONGEST_NAME: Final = 50
# No %, which drivers take for a parameter; letters of ASCII take one byte each.
_NAME: Final = re.compile(r"[ -$&-~]+")


def _text(length: int) -> TypeEngine[str]:
    """Return a text that is compared byte by byte, whatever the database's locale."""
    return (
        String(length)
        .with_variant(String(length, collation="C"), "postgresql")
        .with_variant(
            VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL
        )
    )


_LONG_TEXT: Final = Text().with_variant(
    MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL
)
_BYTES: Final = LargeBinary().with_variant(LONGBLOB(), *_MYSQL)
# In SQLite only an INTEGER counts up by itself.
_POSITION: Final = BigInteger().with_variant(Integer(), "sqlite")
_XID: Final = BigInteger().with_variant(Xid8(), "postgresql")

#: How many characters fit.
LENGTHS: Final = {
    "event_id": 512,
    "topic": 512,
    "aggregate_id": 256,
    "event_type": 256,
    "trace_id": 256,
    "correlation_id": 256,
    "idempotency_key": 255,
}

_TYPES: Final[dict[str, tuple[TypeEngine[Any], dict[str, Any]]]] = {
    # The insertion order; identifies a row.
    "position": (_POSITION, {"primary_key": True}),
    # Of the envelope.
    "event_id": (_text(LENGTHS["event_id"]), {"unique": True}),
    "topic": (_text(LENGTHS["topic"]), {}),
    "aggregate_id": (_text(LENGTHS["aggregate_id"]), {}),
    "event_type": (_text(LENGTHS["event_type"]), {}),
    "event_version": (BigInteger(), {}),
    "occurred_at": (_text(40), {}),  # RFC 3339: nanoseconds survive
    "trace_id": (_text(LENGTHS["trace_id"]), {"server_default": ""}),
    "correlation_id": (_text(LENGTHS["correlation_id"]), {"server_default": ""}),
    "tenant_id": (BigInteger(), {"server_default": "0"}),
    "payload": (_BYTES, {}),
    "headers": (_LONG_TEXT, {"nullable": True}),  # a JSON object
    # Where it stands: see outbox/record.py.
    "state": (_text(10), {"server_default": "pending"}),
    "attempts": (Integer(), {"server_default": "0"}),
    "created_at": (Double(), {"server_default": now()}),
    # Since when it could be published; for the age in the stats.
    "due_at": (Double(), {"nullable": True}),  # NULL: since it was written
    # The first attempt that reached a broker failed then: from here the age limit counts.
    # Time in which nobody tried, or no broker was reached, moves it on.
    "failing_since": (Double(), {"nullable": True}),
    "next_attempt_at": (Double(), {"server_default": "0"}),
    "lease": (_text(64), {"nullable": True}),
    "lease_until": (Double(), {"nullable": True}),
    "settled_at": (Double(), {"nullable": True}),
    "error": (_LONG_TEXT, {"nullable": True}),
    "idempotency_key": (
        _text(LENGTHS["idempotency_key"]),
        {"nullable": True, "unique": True},
    ),
    # The transaction that wrote the row (PostgreSQL only).
    "xid": (_XID, {"nullable": True, "server_default": current_xid()}),
}

COLUMNS: Final = tuple(_TYPES)


def _options(name: str) -> dict[str, Any]:
    return {"nullable": False, **_TYPES[name][1]}


def _arguments(name: str) -> list[Any]:
    kind = _TYPES[name][0]
    return [kind, Identity()] if name == "position" else [kind]


def _indexes(table_name: str) -> list[Index]:
    return [
        # The oldest rows to be published; counts by state.
        Index(f"ix_{table_name}_state", "state", "position"),
        # The head of an aggregate, and whether it has dead rows.
        Index(f"ix_{table_name}_aggregate", "aggregate_id", "state", "position"),
        # What relays have now: few rows at any time, and only these, as far as the
        # database allows, so that its planner knows how few.
        Index(
            f"ix_{table_name}_lease",
            "lease",
            sqlite_where=text("lease IS NOT NULL"),
            postgresql_where=text("lease IS NOT NULL"),
        ),
        # What is due next, behind any number of rows that wait for their time: only
        # pending ones, as far as the database allows.
        Index(
            f"ix_{table_name}_due",
            "state",
            "next_attempt_at",
            "position",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        # What can be purged.
        Index(f"ix_{table_name}_settled", "state", "settled_at"),
    ]


def index_names(table_name: str) -> set[str]:
    """Return the names of the indexes that every outbox table has."""
    return {str(index.name) for index in _indexes(table_name)}


def outbox_table(
    metadata: MetaData, name: str = DEFAULT_NAME, *, schema: str | None = None
) -> Table:
    """
    Return the outbox table as part of *metadata*, for Alembic or ``create_all``.

    A table of this name that is there already, of an ``OutboxMixin`` for instance, is
    returned as it is. Without *schema* it is that of *metadata*.

    Raises:
        ConfigError: no table can have this name on every database.
    """
    _check_name(name)
    schema = metadata.schema if schema is None else schema
    found = metadata.tables.get(name if schema is None else f"{schema}.{name}")
    if found is not None:
        return found
    columns = [Column(one, *_arguments(one), **_options(one)) for one in COLUMNS]
    return Table(
        name,
        metadata,
        *columns,
        *_indexes(name),
        schema=schema,
        # A number is never given twice, not even after the last rows were purged.
        sqlite_autoincrement=True,
    )


def _check_name(name: str) -> None:
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        msg = (
            f"the outbox's table name {name!r} cannot be used: pass 1 to {_LONGEST_NAME} "
            "characters of ASCII, no % among them, so that the names of its indexes "
            "fit into every database"
        )
        raise ConfigError(msg)


def _mapped(name: str) -> Any:
    return mapped_column(*_arguments(name), **_options(name))


class OutboxMixin:
    """
    The columns for a declarative class, so that the ORM and Alembic know the table.

    ::

        class Outbox(OutboxMixin, Base):
            __tablename__ = "eventbus_outbox"

        outbox = SqlAlchemyOutbox(engine, metadata=Base.metadata)

    Rows are written by ``SqlAlchemyOutbox.add`` all the same. The class may have a
    ``__table_args__`` of its own: the indexes are there anyhow. A schema named in it has
    to be given to ``SqlAlchemyOutbox`` too.
    """

    position: Mapped[int] = _mapped("position")
    event_id: Mapped[str] = _mapped("event_id")
    topic: Mapped[str] = _mapped("topic")
    aggregate_id: Mapped[str] = _mapped("aggregate_id")
    event_type: Mapped[str] = _mapped("event_type")
    event_version: Mapped[int] = _mapped("event_version")
    occurred_at: Mapped[str] = _mapped("occurred_at")
    trace_id: Mapped[str] = _mapped("trace_id")
    correlation_id: Mapped[str] = _mapped("correlation_id")
    tenant_id: Mapped[int] = _mapped("tenant_id")
    payload: Mapped[bytes] = _mapped("payload")
    headers: Mapped[str | None] = _mapped("headers")
    state: Mapped[str] = _mapped("state")
    attempts: Mapped[int] = _mapped("attempts")
    created_at: Mapped[float] = _mapped("created_at")
    due_at: Mapped[float | None] = _mapped("due_at")
    failing_since: Mapped[float | None] = _mapped("failing_since")
    next_attempt_at: Mapped[float] = _mapped("next_attempt_at")
    lease: Mapped[str | None] = _mapped("lease")
    lease_until: Mapped[float | None] = _mapped("lease_until")
    settled_at: Mapped[float | None] = _mapped("settled_at")
    error: Mapped[str | None] = _mapped("error")
    idempotency_key: Mapped[str | None] = _mapped("idempotency_key")
    xid: Mapped[str | None] = _mapped("xid")


@event.listens_for(OutboxMixin, "instrument_class", propagate=True)
def _complete(mapper: Any, _: type) -> None:
    """
    Give the table of a class its indexes, when the class is mapped.

    Not by ``__table_args__``: one of the class's own would take its place.
    """
    table = mapper.local_table
    if not isinstance(table, Table):  # pragma: no cover - mapped to a query by hand
        return
    there = {index.name for index in table.indexes}
    for index in _indexes(table.name):
        if index.name not in there:
            table.append_constraint(index)
    table.dialect_options["sqlite"]["autoincrement"] = True
