"""Short words for tests of outbox stores: add, claim, mark, look."""

import itertools

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event, update
from sqlalchemy.orm import Session

from eventbus_sync import Envelope
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox.record import Change, Claim, Mark, OutboxRecord


_leases = itertools.count(1)


def an_event(aggregate: str = "order-1", **more: Any) -> Envelope:
    """An event of some aggregate."""
    return Envelope(aggregate, "OrderCreated", 1, {"n": 1}, **more)


def write(outbox: SqlAlchemyOutbox, *aggregates: str, **more: Any) -> list[str]:
    """Commit an event for each of *aggregates*, in their order; return their ids."""
    with Session(outbox.engine) as session, session.begin():
        return [
            outbox.add(session, "orders", an_event(one), **more) for one in aggregates
        ]


def write_large(outbox: SqlAlchemyOutbox, *aggregates: str, **more: Any) -> None:
    """Commit an event of 10,002 bytes for each of *aggregates*, in their order."""
    large = [Envelope(one, "OrderCreated", 1, "x" * 10_000) for one in aggregates]
    with outbox.engine.begin() as connection:
        outbox.add_many(connection, "orders", large, **more)


def take(outbox: SqlAlchemyOutbox, limit: int = 100, **more: Any) -> Claim:
    """Claim as a relay does by default, under a lease of its own."""
    wish: dict[str, Any] = {
        "limit": limit,
        "seconds": 30.0,
        "scan_from": 0,
        "ordering": "aggregate",
        "on_dead": "hold",
    }
    lease = more.pop("lease", None) or f"lease-{next(_leases)}"
    return outbox.claim(lease, **(wish | more))


def aggregates(claim: Claim) -> list[str]:
    """The aggregates of what was claimed, in order."""
    return [record.aggregate_id for record in claim.records]


def published(record: OutboxRecord) -> Mark:
    return Mark(record, Change.PUBLISH, record.attempts)


def retried(record: OutboxRecord, delay: float = 0.0) -> Mark:
    return Mark(record, Change.RETRY, record.attempts + 1, delay, "full: no room")


def unreached(record: OutboxRecord, delay: float = 0.0) -> Mark:
    why = "unavailable: nobody there"
    return Mark(record, Change.RETRY, record.attempts, delay, why, reached=False)


def buried(record: OutboxRecord) -> Mark:
    return Mark(record, Change.BURY, record.attempts + 1, error="illegal_topic: no")


def released(record: OutboxRecord) -> Mark:
    return Mark(record, Change.RELEASE, record.attempts)


def set_rows(outbox: SqlAlchemyOutbox, **values: Any) -> None:
    """Change all rows behind the store's back."""
    with outbox.engine.begin() as connection:
        connection.execute(update(outbox.table).values(**values))


def let_time_pass(outbox: SqlAlchemyOutbox, seconds: float) -> None:
    """Move all times of the table so far into the past."""
    c = outbox.table.c
    names = (
        *("created_at", "due_at", "failing_since"),
        *("next_attempt_at", "lease_until", "settled_at"),
    )
    set_rows(outbox, **{name: c[name] - seconds for name in names})


def expire(outbox: SqlAlchemyOutbox) -> None:
    """Let every lease end, by the database's clock."""
    rows = outbox.table
    with outbox.engine.begin() as connection:
        ended = update(rows).where(rows.c.lease.is_not(None)).values(lease_until=1.0)
        connection.execute(ended)


def state_of(outbox: SqlAlchemyOutbox) -> list[str]:
    """The states of all rows, the oldest first."""
    return [row.state.value for row in outbox.rows(limit=100_000)]


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """What is sent to the database in between."""
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
