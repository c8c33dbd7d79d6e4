"""PostgreSQL says when there is something to do: LISTEN on a connection of its own."""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time

from typing import Any, Final

from sqlalchemy import Connection, Engine

from eventbus_sync._threads import Deadline


_log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
# A connection that a firewall forgot says nothing; it is asked after such a time.
_QUIET: Final = 60.0

# Connections of a parent process: to close one would end it for the parent too.
_of_the_parent: list[Any] = []


def _end(connection: Connection, driver: Any) -> None:
    # The driver's own too: of a detached connection that is invalid SQLAlchemy keeps
    # nothing that it could close.
    for step in (connection.invalidate, connection.close, driver.close):
        with contextlib.suppress(Exception):
            step()


class Listener:
    """
    Waits for notifications; opens its connection when it is first asked to.

    Args:
        engine: whose settings the connection has. It does not count as one of the
            engine's pool.
        channel: what to listen to.
    """

    def __init__(self, engine: Engine, channel: str) -> None:
        self._engine = engine
        quoted = channel.replace('"', '""')
        self._listen = f'LISTEN "{quoted}"'
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self._owner = os.getpid()
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0
        self._heard_at = 0.0
        dialect = engine.dialect
        self._able = (dialect.name, dialect.driver) == ("postgresql", "psycopg")
        self._told = dialect.name != "postgresql"

    def wait(self, deadline: Deadline) -> bool:
        """
        Wait for a notification, ``wake()`` or *deadline*.

        Returns:
            False, at once, if notifications cannot be had now. True, at once, after a
            new connection was made: what was committed before it was not heard.
        """
        if not self._able:
            if not self._told:
                self._told = True
                _log.info(
                    "the driver %s cannot wait for notifications: the relay polls; "
                    "with psycopg 3 it is woken at once",
                    self._engine.dialect.driver,
                )
            return False
        if not self._lock.acquire(blocking=False):
            return False  # somebody waits already; two cannot share a connection
        try:
            return self._wait(deadline)
        except Exception as error:  # noqa: BLE001 - whatever it is, the relay can poll
            self._failed(error)
            return False
        finally:
            self._lock.release()

    def wake(self) -> None:
        """End a ``wait`` of another thread, or the next one."""
        bell = self._bell
        if bell is not None:
            # Full of rings, or closed just now: it rings anyhow.
            with contextlib.suppress(OSError):
                bell[1].send(b"!")

    def close(self) -> None:
        """End the connection; after that ``wait`` may open it again."""
        self.wake()
        with self._lock:
            self._disconnect()
            bell, self._bell = self._bell, None
            for end in bell or ():
                end.close()

    def _wait(self, deadline: Deadline) -> bool:
        self._leave_to_parent()
        bell = self._with_bell()
        if self._connection is None:
            if time.monotonic() < self._not_before:
                return False
            self._connect()
            return True
        driver: Any = self._connection.connection.dbapi_connection
        if time.monotonic() - self._heard_at > _QUIET:
            driver.execute("SELECT 1")
            self._heard_at = time.monotonic()
        # Heard while another statement ran, so that the socket is silent about it.
        if self._heard(driver):
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(driver.fileno(), selectors.EVENT_READ)
            selector.register(bell, selectors.EVENT_READ)
            while not deadline.expired():
                ready = {
                    key.fileobj for key, _ in selector.select(deadline.remaining())
                }
                if bell in ready:
                    bell.recv(4096)
                    return True
                if ready and self._heard(driver):
                    return True
        return True

    def _with_bell(self) -> socket.socket:
        """Return the end of a pair at which ``wake`` rings."""
        if self._bell is None:
            self._bell = socket.socketpair()
            self._bell[1].settimeout(0)  # full of rings is as good as one more
        return self._bell[0]

    def _heard(self, driver: Any) -> bool:
        heard = sum(1 for _ in driver.notifies(timeout=0))
        if heard:
            self._heard_at = time.monotonic()
        return heard > 0

    def _connect(self) -> None:
        connection = self._engine.connect()
        driver = connection.connection.dbapi_connection
        try:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()
            connection.exec_driver_sql(self._listen)
        except BaseException:
            _end(connection, driver)
            raise
        self._connection = connection
        self._heard_at = time.monotonic()
        if self._pause > _FIRST_PAUSE:
            _log.info("notifications of the database are heard again")
        self._pause = _FIRST_PAUSE

    def _failed(self, error: Exception) -> None:
        if self._pause == _FIRST_PAUSE:  # the first failure after a success
            _log.warning(
                "cannot hear notifications of the database, polling: %s",
                getattr(error, "orig", None) or error,
            )
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Never invalidated by SQLAlchemy: this does not connect again.
            _end(connection, connection.connection.dbapi_connection)

    def _leave_to_parent(self) -> None:
        if self._owner != os.getpid():
            _of_the_parent.append((self._connection, self._bell))
            self._connection = self._bell = None
            self._owner = os.getpid()
