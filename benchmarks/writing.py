"""The write side: filling a table, and what ``add`` and ``add_many`` cost."""

import contextlib
import time

from collections.abc import Callable, Iterator
from typing import Final

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks.books import Event
from benchmarks.databases import Place
from benchmarks.figures import Measured
from eventbus_sync import Envelope
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


#: How many aggregates there are.
AGGREGATES: Final = 1000
#: Rows of one ``add_many``.
_AT_ONCE: Final = 1000
#: Events of a transaction that adds several.
_TOGETHER: Final = 100
# So that an envelope has about 290 bytes.
_FILLER: Final = "0123456789"


def envelopes(rows: int, *, hot: bool = False) -> list[Envelope]:
    """Return events of all aggregates; with *hot*, every second one is of the same."""
    found = []
    for number in range(rows):
        aggregate = 0 if hot and number % 2 else number % AGGREGATES
        payload = {"number": number, "note": _FILLER}
        found.append(Envelope(f"order-{aggregate}", "OrderCreated", 1, payload))
    return found


@contextlib.contextmanager
def new_table(place: Place) -> Iterator[SqlAlchemyOutbox]:
    """Yield an outbox with an empty table, which goes away afterwards."""
    engine = create_engine(place.url)
    outbox = SqlAlchemyOutbox(engine, table_name=TABLE)
    try:
        outbox.table.drop(engine, checkfirst=True)
        outbox.create_all()
        yield outbox
        outbox.table.drop(engine)
    finally:
        outbox.close()
        engine.dispose()


#: Not the default name: a database given by URL may have an outbox of its own.
TABLE: Final = "benchmark_outbox"


def fill(
    outbox: SqlAlchemyOutbox, topic: str, rows: int, *, hot: bool = False
) -> list[Event]:
    """Commit *rows* events, and return what was written in its order."""
    written = envelopes(rows, hot=hot)
    for start in range(0, rows, _AT_ONCE):
        with outbox.engine.begin() as connection:
            outbox.add_many(connection, topic, written[start : start + _AT_ONCE])
    return [(one.aggregate_id, one.event_id) for one in written]


def measure_writing(place: Place, rows: int, repeat: int) -> list[Measured]:
    """Return events written per second, in the ways of applications."""
    ways: dict[str, Callable[[SqlAlchemyOutbox, list[Envelope]], None]] = {
        "add, one per transaction": _add_each,
        f"add, {_TOGETHER} per transaction": _add_together,
        f"add_many, {_AT_ONCE:,} per transaction": _add_many,
    }
    found = {way: Measured(f"write: {way}", place.title) for way in ways}
    for _ in range(repeat):
        for way, write in ways.items():
            with new_table(place) as outbox:
                events = envelopes(rows)
                write(outbox, envelopes(10))  # connected, and statements compiled
                before = time.perf_counter()
                write(outbox, events)
                seconds = time.perf_counter() - before
                there = outbox.stats().pending
            run = found[way].add_run(rows, seconds)
            run.note(f"{there - 10:,} rows there", balanced=there == rows + 10)
    return list(found.values())


def _add_each(outbox: SqlAlchemyOutbox, events: list[Envelope]) -> None:
    for one in events:
        with Session(outbox.engine) as session, session.begin():
            outbox.add(session, "orders", one)


def _add_together(outbox: SqlAlchemyOutbox, events: list[Envelope]) -> None:
    for start in range(0, len(events), _TOGETHER):
        with Session(outbox.engine) as session, session.begin():
            for one in events[start : start + _TOGETHER]:
                outbox.add(session, "orders", one)


def _add_many(outbox: SqlAlchemyOutbox, events: list[Envelope]) -> None:
    for start in range(0, len(events), _AT_ONCE):
        with Session(outbox.engine) as session, session.begin():
            outbox.add_many(session, "orders", events[start : start + _AT_ONCE])
