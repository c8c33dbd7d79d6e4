"""
The work: threads that change orders, and in the same transaction say so by an event.

``Orders.change`` is what a view of yours does: change rows, ``outbox.add``, commit. No
broker is involved, so it works in the same way while there is none.
"""

import contextlib
import threading
import time

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eventbus_sync._threads import Deadline, join_all, spawn
from eventbus_sync.demo.outbox.journal import Journal, WriterLog
from eventbus_sync.demo.workload import TRICKLE, Hold
from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import EventBusError
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("version", Integer, nullable=False),
)

#: Orders that each thread changes by turns: each is an aggregate with an order to keep.
ORDERS = 50
#: Every so many transactions one is refused after its event was added.
REFUSED_EVERY = 10
#: Seconds that a transaction waits for SQLite's only write lock.
_LOCK_TIMEOUT = 30.0


def open_database(path: Path) -> Engine:
    """Return an engine for an SQLite file, as an application would set it up."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _LOCK_TIMEOUT})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        # Readers need not wait for the writer, and a commit not for the disk. For data
        # that must survive a power cut leave synchronous as it is.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


class Refused(Exception):
    """The order cannot be changed like that: its transaction is rolled back."""


class Orders:
    """
    The application: orders in a database, and an event for every change.

    Args:
        engine: of the database.
        outbox: in the same database.
        topic: where events go.
    """

    def __init__(self, engine: Engine, outbox: SqlAlchemyOutbox, topic: str) -> None:
        self._engine = engine
        self._outbox = outbox
        self._topic = topic

    def change(self, name: str, version: int, log: WriterLog, *, refused: bool) -> None:
        """
        Set an order to its next version, and add the event that says so: both or none.

        Raises:
            Refused: neither happened.
        """
        envelope = Envelope(
            name, "OrderChanged", 1, {"order": name, "version": version}
        )
        note = log.undecided
        try:
            with Session(self._engine) as session, session.begin():
                if version == 1:
                    session.execute(insert(orders).values(name=name, version=version))
                else:
                    order = update(orders).where(orders.c.name == name)
                    session.execute(order.values(version=version))
                self._outbox.add(session, self._topic, envelope)
                if refused:
                    note = log.rolled_back
                    raise Refused
            note = log.committed
        finally:
            note.append(envelope.event_id)


class Writers:
    """
    Threads that commit *events* changes, and try others that are rolled back.

    Args:
        shop: what to change.
        events: how many commits, over all threads.
        threads: how many threads.
        holds: points that no thread passes before something has happened.
    """

    def __init__(
        self, shop: Orders, *, events: int, threads: int, holds: Sequence[Hold] = ()
    ) -> None:
        #: What was seen; complete when ``join`` has returned.
        self.journal = Journal([WriterLog() for _ in range(threads)])
        self._shop = shop
        self._shares = [len(range(n, events, threads)) for n in range(threads)]
        self._holds = holds
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start every thread."""
        for number in range(len(self._shares)):
            self._threads.append(
                spawn(f"demo-writer-{number}", lambda n=number: self._guarded(n))  # type: ignore[misc]
            )

    @property
    def writing(self) -> bool:
        """Whether a thread still writes."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self, timeout: float) -> None:
        """Begin no more transactions, and wait until the last ones have ended."""
        self._stopping.set()
        for hold in self._holds:
            hold.opened.set()
        alive = join_all(self._threads, Deadline.after(timeout))
        self.journal.failures += [f"thread {name} did not end" for name in alive]

    def _guarded(self, number: int) -> None:
        try:
            self._write(number)
        except (EventBusError, SQLAlchemyError) as error:
            name = threading.current_thread().name
            self.journal.failures.append(f"thread {name}: {error}")

    def _write(self, number: int) -> None:
        done, share = 0, self._shares[number]
        for hold in self._holds:
            done = self._write_range(number, done, ceil(share * hold.share))
            while hold.trickle and done < share:
                if hold.opened.wait(TRICKLE):
                    break
                done = self._write_range(number, done, done + 1)
            hold.opened.wait()
        self._write_range(number, done, share)

    def _write_range(self, number: int, first: int, end: int) -> int:
        """Commit the changes from *first* on and return *end*, or *first* if greater."""
        log, change = self.journal.writers[number], self._shop.change
        for turn in range(first, end):
            if self._stopping.is_set():
                return turn
            name = f"order-{number}-{turn % ORDERS}"
            version = turn // ORDERS + 1
            if turn % REFUSED_EVERY == REFUSED_EVERY - 1:
                # The customer's card was declined; the next try goes through.
                with contextlib.suppress(Refused):
                    change(name, version, log, refused=True)
            began = time.perf_counter()
            change(name, version, log, refused=False)
            log.commits.append(time.perf_counter() - began)
        return max(first, end)
