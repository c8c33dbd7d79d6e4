"""
Are rows numbered and told apart as they must be? What a column's type does not say.

A table that lacks this takes rows all the same, and then some are never published, or
one is taken for another.
"""

import re

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Table, text
from sqlalchemy.engine.interfaces import ReflectedColumn


_POSITION: Final = "position"
# Rows are found and kept apart by these. With the usual collations "a" is "A".
_COMPARED_ALIKE: Final = text("""
    SELECT column_name, collation_name FROM information_schema.columns
     WHERE table_schema = coalesce(:schema, database()) AND table_name = :name
       AND column_name IN ('event_id', 'idempotency_key', 'aggregate_id')
       AND collation_name NOT REGEXP '^utf8mb4_([a-z0-9]+_)?bin$'
     ORDER BY column_name DESC
""")
_COUNTS: Final = re.compile(r"\bAUTOINCREMENT\b", re.IGNORECASE)


def problems(
    connection: Connection,
    inspector: Any,
    table: Table,
    found: Mapping[str, ReflectedColumn],
) -> Iterator[tuple[str, str]]:
    """
    Return what is wrong with the columns that identify a row: which one, and what.

    Args:
        connection: to the database.
        inspector: of that connection.
        table: as it should be.
        found: the columns that are there; all of ours are.
    """
    key = inspector.get_pk_constraint(table.name, schema=table.schema)
    if key["constrained_columns"] != [_POSITION]:
        yield _POSITION, "must be the primary key, and no other column with it"
    there: Any = found[_POSITION]
    match connection.dialect.name:
        case "sqlite":
            yield from _sqlite(connection, table)
        case "postgresql":
            if there.get("identity") is None and there["default"] is None:
                yield _POSITION, "has no identity and no default: rows get no number"
        case _:
            if there.get("autoincrement") is not True:
                yield _POSITION, "is not AUTO_INCREMENT: rows get no number"
            yield from _mysql(connection, table)


def _sqlite(connection: Connection, table: Table) -> Iterator[tuple[str, str]]:
    quote = connection.dialect.identifier_preparer.quote
    schema = f"{quote(table.schema)}." if table.schema else ""
    columns = connection.exec_driver_sql(
        f"PRAGMA {schema}table_info({quote(table.name)})"
    )
    [declared] = [row[2] for row in columns if row[1] == _POSITION]
    # Of any other type, BIGINT for instance, it is a column like others: without a
    # value it is NULL, and such a row is never seen.
    if declared.upper() != "INTEGER":
        yield _POSITION, f"is {declared or 'untyped'} and must be INTEGER on SQLite"
    made = connection.exec_driver_sql(
        f"SELECT sql FROM {schema}sqlite_master "  # noqa: S608 - quoted
        "WHERE type = 'table' AND lower(name) = lower(?)",
        (table.name,),
    ).scalar_one()
    if not _COUNTS.search(made):
        problem = "is not AUTOINCREMENT: after a purge numbers would be given again"
        yield _POSITION, problem


def _mysql(connection: Connection, table: Table) -> Iterator[tuple[str, str]]:
    given = {"schema": table.schema, "name": table.name}
    for name, collation in connection.execute(_COMPARED_ALIKE, given):
        problem = f"has the collation {collation}, in which different texts are equal"
        yield name, f"{problem}, and must have utf8mb4_bin"
