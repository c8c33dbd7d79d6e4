"""SQL that each database says in its own words: its clock, numbers, transactions."""

from typing import Any, Final

from sqlalchemy import Double
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import UserDefinedType


_SQLITE_NOW: Final = "((julianday('now') - 2440587.5) * 86400.0)"
# The moment at which the statement began, so that one statement has one time.
_POSTGRESQL_NOW: Final = (
    "CAST(extract(epoch from statement_timestamp()) AS DOUBLE PRECISION)"
)
# Not UNIX_TIMESTAMP(NOW()): that repeats an hour when summer time ends.
_MYSQL_NOW: Final = (
    "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6)) / 1000000e0)"
)


class now(FunctionElement[float]):  # noqa: N801 - it is a function in SQL
    """Seconds since the epoch, by the database's clock."""

    type = Double()
    inherit_cache = True


class number(FunctionElement[float]):  # noqa: N801
    """
    A column as the number it must hold; what is none counts as 0.

    Only SQLite keeps a text in a column of numbers, and sorts it after all of them.
    """

    type = Double()
    inherit_cache = True


class current_xid(FunctionElement[Any]):  # noqa: N801
    """The number of the running transaction; NULL where there is no such thing."""

    inherit_cache = True


class Xid8(UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction number; a driver gives it as text."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name."""
        return "XID8"


# So that reflection, Alembic's too, knows what it finds.
PGDialect.ischema_names.setdefault("xid8", Xid8)


@compiles(now)
@compiles(now, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    return _SQLITE_NOW


@compiles(now, "postgresql")
def _postgresql_now(*_: Any, **__: Any) -> str:
    return _POSTGRESQL_NOW


@compiles(now, "mysql", "mariadb")
def _mysql_now(*_: Any, **__: Any) -> str:
    return _MYSQL_NOW


@compiles(number)
def _number(element: Any, compiler: Any, **how: Any) -> str:
    given: str = compiler.process(element.clauses, **how)
    return given


@compiles(number, "sqlite")
def _sqlite_number(element: Any, compiler: Any, **how: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **how)} AS REAL)"


@compiles(current_xid)
def _no_xid(*_: Any, **__: Any) -> str:
    return "NULL"


@compiles(current_xid, "postgresql")
def _postgresql_xid(*_: Any, **__: Any) -> str:
    return "pg_current_xact_id()"
