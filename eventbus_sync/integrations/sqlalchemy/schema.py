"""Is the table as this version needs it? Says which column is not."""

import math

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from sqlalchemy import Connection, Engine, Index, Table, inspect
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import (
    Double,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    String,
    TypeEngine,
    _Binary,
)

from eventbus_sync.errors import ConfigError, SchemaMismatch
from eventbus_sync.integrations.sqlalchemy import keys
from eventbus_sync.integrations.sqlalchemy.table import index_names


# Left to their defaults by ``add``.
_DEFAULTS: Final = ("state", "attempts", "created_at")
_UNIQUE: Final = ("event_id", "idempotency_key")
# In more digits than this a moment of this century has microseconds.
_ENOUGH_BITS: Final = 53


def refuse_translation(engine: Engine, table: Table) -> None:
    """
    Refuse an engine that looks for *table* in another schema than it says.

    Raises:
        ConfigError: it has a ``schema_translate_map`` for the schema. It counts for
            statements but not for looks at the schema, and would not for a relay.
    """
    translated = engine.get_execution_options().get("schema_translate_map") or {}
    if table.schema in translated:
        msg = (
            f"the engine's schema_translate_map has an entry for {table.schema!r}, the "
            f"schema of {table.fullname}: give the outbox an engine without one, and "
            f"name the schema, schema={translated[table.schema]!r}"
        )
        raise ConfigError(msg)


def create(engine: Engine, table: Table, *, commit_order: bool) -> None:
    """
    Create *table* and its indexes, as far as they are not there.

    Raises:
        SchemaMismatch: there is a table of this name with other columns.
    """
    left = math.inf
    while True:
        try:
            _create(engine, table, commit_order=commit_order)
        except DBAPIError:
            # Perhaps somebody else makes them at the same time, and was first. Each of
            # them says that in its own words; so look whether there is less to do.
            with engine.connect() as connection:
                missing = _count_missing(connection, table)
            if missing >= left:
                raise
            left = missing
        else:
            return


def _create(engine: Engine, table: Table, *, commit_order: bool) -> None:
    table.metadata.create_all(engine, [table])
    with engine.begin() as connection:
        check(connection, table, commit_order=commit_order)
        for index in missing_indexes(connection, table):
            index.create(connection)


def _count_missing(connection: Connection, table: Table) -> int:
    """Return how much there is to make: the table, or indexes of it."""
    if not inspect(connection).has_table(table.name, schema=table.schema):
        return 1 + len(table.indexes)
    return len(missing_indexes(connection, table))


def check(connection: Connection, table: Table, *, commit_order: bool) -> None:
    """
    Compare the table in the database with *table*.

    Raises:
        SchemaMismatch: it is missing, or a column of it is not as it must be.
    """
    inspector = inspect(connection)
    if not inspector.has_table(table.name, schema=table.schema):
        msg = (
            f"there is no table {table.fullname}: call create_all(), run "
            "`python -m eventbus_sync outbox init`, or your migrations"
        )
        raise SchemaMismatch(msg)
    found = {
        str(one["name"]): one
        for one in inspector.get_columns(table.name, schema=table.schema)
    }
    _check_ours(table, found)
    postgresql = connection.dialect.name == "postgresql"
    for name in (*_DEFAULTS, *(["xid"] if postgresql and commit_order else ())):
        if found[name]["default"] is None:
            _refuse(table, name, "has no default in the database")
    for name, there in found.items():
        if name not in table.columns and not (
            there["nullable"] or there["default"] is not None or there.get("computed")
        ):
            _refuse(table, name, "is none of ours, and is NOT NULL without a default")
    unique = _unique(inspector, table)
    for name in _UNIQUE:
        if name not in unique:
            _refuse(table, name, "has no unique index of its own")
    for name, problem in keys.problems(connection, inspector, table, found):
        _refuse(table, name, problem)


def check_indexes(connection: Connection, table: Table) -> None:
    """
    Look for the indexes without which each claim would read the whole table.

    Raises:
        SchemaMismatch: one is missing.
    """
    for index in missing_indexes(connection, table):
        wanted = [column.name for column in index.columns]
        msg = (
            f"table {table.fullname} has no index on ({', '.join(wanted)}): create "
            f"{index.name} as outbox_table() says, or run "
            "`python -m eventbus_sync outbox init`"
        )
        raise SchemaMismatch(msg, column=wanted[0])


def missing_indexes(connection: Connection, table: Table) -> list[Index]:
    """
    Return those of our indexes that the table in the database has not.

    By their columns: one of another name, or with further columns behind, will do.
    """
    inspector = inspect(connection)
    found = inspector.get_indexes(table.name, schema=table.schema)
    there = [one["column_names"] for one in found]
    # A table of the application's own metadata may have more of them.
    ours = [one for one in table.indexes if one.name in index_names(table.name)]
    return [
        index
        for index in sorted(ours, key=lambda one: str(one.name))
        if not any(
            columns[: len(index.columns)] == [column.name for column in index.columns]
            for columns in there
        )
    ]


def _check_ours(table: Table, found: Mapping[str, ReflectedColumn]) -> None:
    for column in table.columns:
        there = found.get(column.name)
        if there is None:
            _refuse(table, column.name, "is missing")
        _check_type(table, column.name, column.type, there["type"])
        if column.nullable and not there["nullable"] and there["default"] is None:
            _refuse(table, column.name, "must be nullable")


def _check_type(
    table: Table, name: str, wanted: TypeEngine[Any], there: TypeEngine[Any]
) -> None:
    if isinstance(wanted, Integer):
        if name != "xid" and not isinstance(there, Integer):
            _refuse(table, name, f"is {there!r} and must be a whole number")
    elif isinstance(wanted, LargeBinary):
        if not isinstance(there, _Binary):
            _refuse(table, name, f"is {there!r} and must hold bytes")
    elif isinstance(wanted, Double):
        if not _is_exact(there):
            _refuse(table, name, f"is {there!r} and must be DOUBLE PRECISION")
    elif isinstance(wanted, String):  # pragma: no branch - there is no other type
        if not isinstance(there, String):
            _refuse(table, name, f"is {there!r} and must be a text")
        if wanted.length and there.length and there.length < wanted.length:
            _refuse(table, name, f"must hold {wanted.length} characters")


def _is_exact(there: TypeEngine[Any]) -> bool:
    if isinstance(there, Double):
        return True
    if isinstance(there, Float):
        # SQLite has one kind of float only, whatever it is called.
        return there.precision is not None and there.precision >= _ENOUGH_BITS
    return isinstance(there, Numeric)


def _unique(inspector: Any, table: Table) -> set[str]:
    constraints = inspector.get_unique_constraints(table.name, schema=table.schema)
    indexes = inspector.get_indexes(table.name, schema=table.schema)
    return {
        one["column_names"][0]
        for one in (*constraints, *(x for x in indexes if x["unique"]))
        if len(one["column_names"]) == 1
    }


def _refuse(table: Table, column: str, problem: str) -> NoReturn:
    msg = (
        f"column {column} of table {table.fullname} {problem}: migrate the table to "
        "what outbox_table() says"
    )
    raise SchemaMismatch(msg, column=column)
