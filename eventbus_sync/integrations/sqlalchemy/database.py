"""Short transactions of our own, and what differs between databases."""

import contextlib

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from eventbus_sync.errors import ConfigError, StoreFailed


T = TypeVar("T")

# Two transactions waited for each other, and the database ended one: simply again.
_AGAIN: Final = frozenset({"40P01", "40001", 1213})
_TRIES: Final = 3
# A column or a table is not there, or does not take what it must hold: PostgreSQL's
# codes, then MySQL's. No deadlocks, timeouts or lost connections.
_OF_A_SCHEMA: Final = frozenset(
    {"42703", "42P01", "42804", "22001", "23502", 1054, 1146, 1048, 1364, 1406}
)
_SQLITE_OF_A_SCHEMA: Final = ("no such", "has no column", "NOT NULL constraint failed")


def is_autocommit(connection: Connection) -> bool:
    """Return whether each statement would be committed by itself."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return True
    # Asked of the driver, since engines and URLs can set it too.
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        # None and a BEGIN by an event hook is a usual recipe, and no autocommit. The
        # hook runs when the connection begins: see ``writing.connection_of``.
        by_itself = (
            driver.isolation_level is None or getattr(driver, "autocommit", -1) is True
        )
        return by_itself and not driver.in_transaction
    ask = getattr(driver, "get_autocommit", None)
    return bool(ask() if ask is not None else getattr(driver, "autocommit", False))


def begins_before_savepoints(engine: Engine) -> None:
    """
    Have *engine* begin a transaction before a savepoint that would begin it by itself.

    Python's driver for SQLite sends no BEGIN before a SAVEPOINT. If that is the first
    statement, its RELEASE commits, whatever becomes of the transaction around it.
    """
    if engine.dialect.name == "sqlite" and not event.contains(
        engine, "savepoint", begin_before_savepoint
    ):
        event.listen(engine, "savepoint", begin_before_savepoint)


def begin_before_savepoint(connection: Connection, _: str | None = None) -> None:
    """Begin on SQLite what the driver would have begun before an INSERT."""
    if connection.dialect.name != "sqlite":
        return
    driver: Any = connection.connection.dbapi_connection
    # Only in the driver's own way of beginning; who chose another one begins himself.
    legacy = (
        getattr(driver, "isolation_level", None) is not None
        and getattr(driver, "autocommit", -1) == -1
    )
    if legacy and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")


class Database:
    """
    An engine, and how to work with its kind of database.

    Attributes:
        name: ``sqlite``, ``postgresql``, ``mysql`` (MariaDB too).
        locks_rows: whether single rows can be locked; else a writer is alone.
        commit_order: whether rows wait for older transactions; see SqlAlchemyOutbox.
    """

    def __init__(self, engine: Engine, *, commit_order: bool) -> None:
        if not isinstance(engine, Engine):
            kind = type(engine).__name__
            msg = f"engine must be an Engine: create_engine(…), not of type {kind}"
            raise ConfigError(msg)
        self.engine = engine
        name = engine.dialect.name
        self.name = "mysql" if name == "mariadb" else name
        self.locks_rows = self.name != "sqlite"
        self.commit_order = commit_order

    @property
    def returns_updated(self) -> bool:
        """Whether an UPDATE says which rows it changed; known once connected."""
        return bool(self.engine.dialect.update_returning)

    def run(
        self,
        work: Callable[[Connection], T],
        *,
        writes: bool = True,
        dirty: bool = False,
    ) -> T:
        """
        Do *work* in one short transaction, which is committed when it returns.

        Args:
            work: is given the connection; it may be called again after a deadlock.
            writes: whether SQLite's write lock is needed.
            dirty: whether rows that are not committed yet are to be seen, where the
                database can show them (MariaDB, MySQL).

        Raises:
            ConfigError: the pool gives our transactions the application's connection.
            StoreFailed: the database failed; nothing changed, as far as is known: a
                connection that is lost during COMMIT does not say what became of it.
        """
        self._refuse_shared_connection()
        for tries_left in reversed(range(_TRIES)):
            try:
                with self._transaction(writes=writes, dirty=dirty) as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                if not tries_left or not _is_deadlock(error):
                    raise _store_failed(error) from getattr(error, "orig", error)
        raise AssertionError  # pragma: no cover - the last try returned or raised

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool, dirty: bool) -> Iterator[Connection]:
        with self.engine.connect() as connection, contextlib.ExitStack() as stack:
            if self.name == "postgresql":
                connection.execution_options(isolation_level="READ COMMITTED")
            elif self.name == "mysql":
                level = "READ UNCOMMITTED" if dirty else "READ COMMITTED"
                connection.execute(text(f"SET TRANSACTION ISOLATION LEVEL {level}"))
                if is_autocommit(connection):
                    connection.exec_driver_sql("START TRANSACTION")
            elif self.name == "sqlite":  # pragma: no branch - there are no others
                stack.enter_context(_any_text(connection))
                if writes:
                    _begin_immediate(connection)
            yield connection
            connection.commit()

    def _refuse_shared_connection(self) -> None:
        pool = self.engine.pool
        if self.name == "sqlite" and isinstance(pool, StaticPool | SingletonThreadPool):
            msg = (
                f"this engine has a {type(pool).__name__}: a relay would commit or roll "
                "back what the application has not finished on the same connection; "
                "use a database file with a QueuePool or a NullPool"
            )
            raise ConfigError(msg)


@contextlib.contextmanager
def _any_text(connection: Connection) -> Iterator[None]:
    """
    Read texts of SQLite that are no UTF-8 too, instead of failing at the first one.

    Their bytes become lone surrogates, which no event may have.
    """
    driver: Any = connection.connection.dbapi_connection
    before = driver.text_factory
    driver.text_factory = _decode
    try:
        yield
    finally:
        driver.text_factory = before


def _decode(stored: bytes) -> str:
    return stored.decode(errors="surrogateescape")


def _begin_immediate(connection: Connection) -> None:
    """
    Take SQLite's write lock at once.

    A transaction that reads first and writes later fails at once, instead of waiting
    for its turn, if somebody wrote in between.
    """
    connection.begin()
    driver: Any = connection.connection.dbapi_connection
    if driver.in_transaction:  # begun by an event hook, or by autocommit=False
        connection.exec_driver_sql("ROLLBACK")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def may_be_of_schema(error: DBAPIError) -> bool:
    """Return whether *error* is one that a wrong table can be the reason of."""
    if _codes(error) & _OF_A_SCHEMA:
        return True
    said = str(error.orig)
    return type(error.orig).__module__.startswith("sqlite3") and any(
        part in said for part in _SQLITE_OF_A_SCHEMA
    )


def _is_deadlock(error: SQLAlchemyError) -> bool:
    return isinstance(error, DBAPIError) and bool(_codes(error) & _AGAIN)


def _codes(error: DBAPIError) -> set[Any]:
    """Return what a driver says of the error: an SQLSTATE, a number, or both."""
    driver: Any = error.orig
    # PyMySQL has the number as the first argument.
    given = driver.args[:1] if isinstance(driver, BaseException) else ()
    codes = [getattr(driver, name, None) for name in ("sqlstate", "pgcode")]
    return {one for one in (*codes, *given) if isinstance(one, str | int)}


def _store_failed(error: SQLAlchemyError) -> StoreFailed:
    # Not str(error): that shows the statement and its parameters, payloads among them.
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return StoreFailed(f"the outbox's database failed: {said}")
