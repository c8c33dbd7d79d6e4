"""Relays as processes, to be killed, frozen and told to end."""

import contextlib
import os
import signal
import subprocess
import sys
import time

from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from support.eventually import eventually

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import RowState


class RelayProcess:
    """``python -m eventbus_sync relay …``; gone at the end of the ``with`` block."""

    def __init__(self, db: str, bus: str, log: Path, *options: str) -> None:
        self.log = log
        with log.open("ab") as stream:
            self._start = stream.tell()
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "eventbus_sync", "relay"),
                    *("--db", db, "--bus", bus, *options),
                ],
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                env=dict(os.environ),
            )

    def said(self) -> str:
        return self.log.read_bytes()[self._start :].decode()

    def wait_until_it_runs(self) -> None:
        eventually(lambda: "relaying" in self.said() or self.ended, 30)
        assert not self.ended, self.said()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As ``kill -9``."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(30)

    def wait(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def in_table(outbox: SqlAlchemyOutbox) -> list[tuple[str, str]]:
    """Return (aggregate, event id) of every row, in the order of the table."""
    rows = outbox.rows(limit=100_000)
    return [(row.aggregate_id, row.event_id) for row in rows]


def freeze_between_transactions(relay: RelayProcess, outbox: SqlAlchemyOutbox) -> None:
    """
    Stop the process at a moment when it holds no lock of the database.

    Who is frozen inside of a transaction holds up others until the database ends it, on
    SQLite for ever; a relay is there for milliseconds only, but it is there often.
    """
    for _ in range(100):
        relay.send(signal.SIGSTOP)
        time.sleep(0.05)
        try:
            with outbox.engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("PRAGMA busy_timeout = 100")
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    rows = select(outbox.table.c.position).where(
                        outbox.table.c.state == RowState.PENDING.value
                    )
                    connection.execute(rows.with_for_update(nowait=True))
                connection.rollback()
                connection.invalidate()  # its timeout was for this only
            if outbox.stats().leased:
                return
        except DBAPIError:
            pass  # it holds a lock
        relay.send(signal.SIGCONT)
        time.sleep(0.003)
    pytest.fail("the relay was inside of a transaction each time")
