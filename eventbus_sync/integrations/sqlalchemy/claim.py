"""
A relay takes rows: a constant number of statements, each O(batch).

1. The window: pending rows from ``scan_from`` on, those that cannot be claimed among
   them, so that holes in a run are seen.
2. The heads: which aggregates may be begun with.
3. The lock: what was chosen, as far as nobody else is about to take it.
4. The lease.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import attrs

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    ScalarSelect,
    Select,
    Table,
    and_,
    func,
    or_,
    select,
    true,
    update,
)

from eventbus_sync.integrations.sqlalchemy import choose
from eventbus_sync.integrations.sqlalchemy.clock import now
from eventbus_sync.integrations.sqlalchemy.database import Database
from eventbus_sync.integrations.sqlalchemy.texts import (
    from_column,
    headers_from_column,
)
from eventbus_sync.outbox.record import Claim, OutboxRecord, RowState
from eventbus_sync.outbox.store import OnDead, Ordering


PENDING: Final = RowState.PENDING.value
DEAD: Final = RowState.DEAD.value

_READ: Final = (
    "position",
    "event_id",
    "topic",
    "aggregate_id",
    "event_type",
    "event_version",
    "occurred_at",
    "trace_id",
    "correlation_id",
    "tenant_id",
    "payload",
    "headers",
    "attempts",
)


@attrs.frozen(kw_only=True)
class Wish:
    """The arguments of ``OutboxStore.claim``."""

    lease: str
    limit: int
    seconds: float
    scan_from: int
    ordering: Ordering
    on_dead: OnDead
    without: Collection[str]


def is_visible(table: Table) -> ColumnElement[bool]:
    """
    Return whether every transaction as old as the row's has ended (PostgreSQL).

    A number not given out yet comes from another cluster: the row was restored.
    """
    xid = table.c.xid
    snapshot = func.pg_current_snapshot()
    return or_(
        xid.is_(None),
        xid < func.pg_snapshot_xmin(snapshot),
        xid >= func.pg_snapshot_xmax(snapshot),
    )


def anything(connection: Connection, table: Table, scan_from: int) -> bool:
    """Return whether a row is to be published at all."""
    c = table.c
    query = select(c.position).where(c.state == PENDING, c.position > scan_from)
    return connection.scalar(query.limit(1)) is not None


def claim(
    connection: Connection, database: Database, table: Table, wish: Wish
) -> Claim:
    """Do what ``OutboxStore.claim`` says, inside a transaction."""
    ordered = wish.ordering == "aggregate"
    size = choose.window_size(wish.limit)
    check = ordered and database.name == "postgresql" and database.commit_order
    visible = is_visible(table) if check else true()
    seen = _window(connection, table, visible, wish.scan_from, size)
    if ordered:
        runs = choose.runs(seen, wish.without)
        heads = [run[0] for run in runs.values()]
        first = _heads(connection, table, heads, wish.on_dead)
        candidates = [run for run in runs.values() if run[0] in first]
    else:
        outside = set(wish.without)
        candidates = [
            [row.position]
            for row in seen
            if row.claimable and row.aggregate_id not in outside
        ]
    chosen = choose.share(candidates, wish.limit)
    available = _locked(connection, database, table, chosen)
    taken = choose.without_holes(candidates, available)
    claimable = [position for run in candidates for position in run]
    waiting = [row.due_in for row in seen if row.free and row.due_in > 0]
    return Claim(
        _lease(connection, database, table, taken, wish),
        choose.go_on_from(seen, size, claimable, chosen),
        any(not row.visible for row in seen),
        min(waiting, default=None),
    )


def _window(
    connection: Connection,
    table: Table,
    visible: ColumnElement[bool],
    scan_from: int,
    size: int,
) -> list[choose.Seen]:
    c = table.c
    query: Select[Any] = (
        select(
            c.position,
            c.aggregate_id,
            c.lease_until,
            c.next_attempt_at,
            now().label("now"),
            visible.label("visible"),
        )
        .where(c.state == PENDING, c.position > scan_from)
        .order_by(c.position)
        .limit(size)
    )
    return [
        choose.Seen(
            position,
            aggregate_id,
            until is None or until <= at,
            due - at,
            bool(is_visible),
        )
        for position, aggregate_id, until, due, at, is_visible in connection.execute(
            query
        )
    ]


def _heads(
    connection: Connection, table: Table, heads: Sequence[int], on_dead: OnDead
) -> set[int]:
    """Return which of *heads* are the oldest of an aggregate that can be begun with."""
    if not heads:
        return set()
    head, other, leased, dead = (
        table.alias(name) for name in ("head", "other", "leased", "dead")
    )

    def first(rows: FromClause, state: str) -> ScalarSelect[int]:
        # By ORDER BY and LIMIT each database reads one entry of the index; by min(),
        # EXISTS or "is there an older one" some of them read all of the aggregate's,
        # or all that are dead.
        return (
            select(rows.c.position)
            .where(rows.c.aggregate_id == head.c.aggregate_id, rows.c.state == state)
            .order_by(rows.c.position)
            .limit(1)
            .correlate(head)
            .scalar_subquery()
        )

    # Not correlated: what relays have now is little, and is read once. For "is not
    # null" SQLite would not take the index.
    in_use = select(leased.c.aggregate_id).where(
        leased.c.lease > "", leased.c.lease_until > now()
    )
    query = select(head.c.position).where(
        head.c.position.in_(heads),
        head.c.position == first(other, PENDING),
        head.c.aggregate_id.not_in(in_use),
    )
    if on_dead == "hold":
        query = query.where(first(dead, DEAD).is_(None))
    return set(connection.scalars(query))


def is_claimable(table: Table) -> ColumnElement[bool]:
    """Return the guard of a claim: pending, due, and nobody has it."""
    c = table.c
    return and_(
        c.state == PENDING,
        or_(c.lease_until.is_(None), c.lease_until <= now()),
        c.next_attempt_at <= now(),
    )


def _locked(
    connection: Connection, database: Database, table: Table, chosen: Collection[int]
) -> Collection[int]:
    """Lock what is still claimable and return it; who comes second gets the rest."""
    if not chosen or not database.locks_rows:
        return chosen
    query = (
        select(table.c.position)
        .where(table.c.position.in_(sorted(chosen)), is_claimable(table))
        .order_by(table.c.position)
        .with_for_update(skip_locked=True)
    )
    return set(connection.scalars(query))


def _lease(
    connection: Connection,
    database: Database,
    table: Table,
    positions: Sequence[int],
    wish: Wish,
) -> tuple[OutboxRecord, ...]:
    if not positions:
        return ()
    c = table.c
    change = (
        update(table)
        .where(c.position.in_(positions), is_claimable(table))
        .values(lease=wish.lease, lease_until=now() + wish.seconds)
    )
    age = (now() - func.coalesce(c.due_at, c.created_at)).label("age")
    columns = [*(c[name] for name in _READ), age]
    if database.returns_updated:
        rows = connection.execute(change.returning(*columns)).all()
    else:
        connection.execute(change)
        mine = select(*columns).where(c.position.in_(positions), c.lease == wish.lease)
        rows = connection.execute(mine).all()
    records = [_record(row, wish.lease) for row in rows]
    return tuple(sorted(records, key=lambda record: record.position))


def _record(row: Row[Any], lease: str) -> OutboxRecord:
    payload = row.payload
    return OutboxRecord(
        position=row.position,
        event_id=from_column(row.event_id),
        topic=from_column(row.topic),
        aggregate_id=row.aggregate_id,
        event_type=from_column(row.event_type),
        event_version=row.event_version,
        timestamp=row.occurred_at,
        trace_id=from_column(row.trace_id),
        correlation_id=from_column(row.correlation_id),
        tenant_id=row.tenant_id,
        # SQLite keeps a text that somebody put there as a text.
        payload=payload.encode() if isinstance(payload, str) else bytes(payload),
        headers=headers_from_column(row.headers),
        attempts=row.attempts,
        age=max(0.0, row.age),
        lease=lease,
    )
