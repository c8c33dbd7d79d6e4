"""Short transactions of our own, and what differs between databases."""

import contextlib

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from eventbus_sync.errors import StoreFailed


T = TypeVar("T")

# Two transactions waited for each other, and the database ended one: simply again.
_AGAIN: Final = frozenset({"40P01", "40001", 1213})
_TRIES: Final = 3


def is_autocommit(connection: Connection) -> bool:
    """Return whether each statement would be committed by itself."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return True
    # Asked of the driver, since engines and URLs can set it too.
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        # None and a BEGIN by an event hook is a usual recipe, and no autocommit.
        return driver.isolation_level is None and not driver.in_transaction
    ask = getattr(driver, "get_autocommit", None)
    return bool(ask() if ask is not None else getattr(driver, "autocommit", False))


class Database:
    """
    An engine, and how to work with its kind of database.

    Attributes:
        name: ``sqlite``, ``postgresql``, ``mysql`` (MariaDB too).
        locks_rows: whether single rows can be locked; else a writer is alone.
        commit_order: whether rows wait for older transactions; see SqlAlchemyOutbox.
    """

    def __init__(self, engine: Engine, *, commit_order: bool) -> None:
        self.engine = engine
        name = engine.dialect.name
        self.name = "mysql" if name == "mariadb" else name
        self.locks_rows = self.name != "sqlite"
        self.commit_order = commit_order
        # Dirty reads on purpose: a row that is not committed yet is seen, cannot be
        # locked, and so holds its aggregate. All that is taken is locked before.
        level = "READ UNCOMMITTED" if commit_order else "READ COMMITTED"
        self._mysql_level = text(f"SET TRANSACTION ISOLATION LEVEL {level}")

    @property
    def returns_updated(self) -> bool:
        """Whether an UPDATE says which rows it changed; known once connected."""
        return bool(self.engine.dialect.update_returning)

    def run(self, work: Callable[[Connection], T], *, writes: bool = True) -> T:
        """
        Do *work* in one short transaction, which is committed when it returns.

        Raises:
            StoreFailed: the database failed, and nothing changed.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                with self._transaction(writes=writes) as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                if not tries_left or not _is_deadlock(error):
                    raise _store_failed(error) from getattr(error, "orig", error)
        raise AssertionError  # pragma: no cover - the last try returned or raised

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            if self.name == "postgresql":
                connection.execution_options(isolation_level="READ COMMITTED")
            elif self.name == "mysql":
                connection.execute(self._mysql_level)
                if is_autocommit(connection):
                    connection.exec_driver_sql("START TRANSACTION")
            elif self.name == "sqlite" and writes:
                _begin_immediate(connection)
            yield connection
            connection.commit()


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


def _is_deadlock(error: SQLAlchemyError) -> bool:
    if not isinstance(error, OperationalError | DBAPIError):
        return False
    driver: Any = error.orig
    code = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
    if code is None and isinstance(driver, BaseException) and driver.args:
        code = driver.args[0]  # PyMySQL has it there
    return isinstance(code, str | int) and code in _AGAIN


def _store_failed(error: SQLAlchemyError) -> StoreFailed:
    # Not str(error): that shows the statement and its parameters, payloads among them.
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return StoreFailed(f"the outbox's database failed: {said}")
