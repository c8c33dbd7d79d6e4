"""What operators do with the outbox, and what they see of it."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    Table,
    case,
    func,
    literal,
    null,
    or_,
    select,
    text,
    update,
)

from eventbus_sync.integrations.sqlalchemy.claim import (
    DEAD,
    PENDING,
    is_visible,
    stands,
)
from eventbus_sync.integrations.sqlalchemy.clock import now, number
from eventbus_sync.integrations.sqlalchemy.database import Database
from eventbus_sync.integrations.sqlalchemy.texts import to_column, to_show
from eventbus_sync.outbox.record import OutboxRow, OutboxStats, Requeued, RowState


_CHUNK: Final = 500

# The oldest transaction of the server that has written; nobody's rows written since can
# be claimed before it ends. Prepared ones have no backend.
_OLDEST_WRITER: Final = text("""
    SELECT 'backend ' || pid || ' (' || coalesce(nullif(application_name, ''), 'no name')
           || ', database ' || coalesce(datname, '?') || ', '
           || coalesce(state, 'state hidden') || '), whose transaction began '
           || coalesce(round(extract(epoch FROM clock_timestamp() - xact_start))::text,
                       '?') || ' s ago' AS who,
           age(backend_xid) AS age
      FROM pg_stat_activity WHERE backend_xid IS NOT NULL
    UNION ALL
    SELECT 'prepared transaction ' || gid || ', '
           || round(extract(epoch FROM clock_timestamp() - prepared)) || ' s old',
           age(transaction)
      FROM pg_prepared_xacts
     ORDER BY age DESC LIMIT 1
""")


def stats(
    connection: Connection, database: Database, table: Table, *, settled: bool
) -> OutboxStats:
    """Do what ``OutboxStore.stats`` says."""
    c = table.c
    is_leased = stands(table)
    waits = number(c.next_attempt_at) > now()
    # What was never due is not late; what failed once is, while it waits too.
    late = or_(~waits, c.attempts > 0, c.error.is_not(None))
    # A not_before in the past did not make it due before it was there.
    due, written = number(c.due_at), number(c.created_at)
    since = case((due > written, due), else_=written)
    counted = {
        state: (rows, leased or 0, waiting or 0, age or 0.0)
        for state, rows, leased, waiting, age in connection.execute(
            select(
                c.state,
                func.count(),
                func.sum(case((is_leased, 1), else_=0)),
                func.sum(case((waits, 1), else_=0)),
                func.max(case((late, now() - since))),
            )
            .where(c.state == PENDING)
            .group_by(c.state)
        )
    }
    # By the index alone: nothing but the state is asked of them.
    asked = c.state != PENDING if settled else c.state == DEAD
    by_state = select(c.state, func.count()).where(asked).group_by(c.state)
    others: dict[str, int] = {row.state: row[1] for row in connection.execute(by_state)}
    hidden, blocked_by = _hidden(connection, database, table)
    pending, leased, waiting, oldest = counted.get(PENDING, (0, 0, 0, 0.0))
    return OutboxStats(
        pending=pending,
        leased=int(leased),
        waiting=int(waiting),
        published=others.get(RowState.PUBLISHED.value, 0),
        dead=others.get(DEAD, 0),
        discarded=others.get(RowState.DISCARDED.value, 0),
        oldest_age=max(0.0, oldest),
        hidden=hidden,
        blocked_by=blocked_by,
    )


def _hidden(
    connection: Connection, database: Database, table: Table
) -> tuple[int, str]:
    if database.name != "postgresql" or not database.commit_order:
        return 0, ""
    rows = connection.scalar(
        select(func.count()).where(table.c.state == PENDING, ~is_visible(table))
    )
    if not rows:
        return 0, ""
    who = connection.execute(_OLDEST_WRITER).first()
    # What others do is shown only to members of pg_read_all_stats.
    return rows, who.who if who else "a transaction that this user may not see"


def rows(
    connection: Connection, table: Table, state: RowState | None, limit: int
) -> list[OutboxRow]:
    """Do what ``OutboxStore.rows`` says."""
    c = table.c
    query = select(
        c.position,
        c.event_id,
        c.topic,
        c.aggregate_id,
        c.event_type,
        c.state,
        c.attempts,
        number(c.created_at).label("created_at"),
        number(c.next_attempt_at).label("next_attempt_at"),
        number(c.lease_until).label("lease_until"),
        number(c.settled_at).label("settled_at"),
        c.error,
    )
    if state is not None:
        query = query.where(c.state == state.value)
    else:  # and no state that somebody made up
        query = query.where(c.state.in_([one.value for one in RowState]))
    found = connection.execute(query.order_by(c.position).limit(limit))
    return [_row(row) for row in found]


def _row(row: Any) -> OutboxRow:
    return OutboxRow(
        position=row.position,
        event_id=to_show(row.event_id),
        topic=to_show(row.topic),
        aggregate_id=to_show(row.aggregate_id),
        event_type=to_show(row.event_type),
        state=RowState(row.state),
        attempts=row.attempts if isinstance(row.attempts, int) else 0,
        created_at=row.created_at or 0.0,
        next_attempt_at=row.next_attempt_at or 0.0,
        leased_until=row.lease_until,
        settled_at=row.settled_at,
        error=to_show(row.error),
    )


def requeue(
    connection: Connection,
    database: Database,
    table: Table,
    event_ids: Collection[str] | None,
) -> Requeued:
    """
    Do what ``OutboxStore.requeue`` says.

    Raises:
        TypeError: the ids are one text.
    """
    dead, later = table.alias("dead"), table.alias("later")
    # One entry of the index, as in a claim: the last one published of the aggregate.
    passed = (
        select(later.c.position)
        .where(
            later.c.aggregate_id == dead.c.aggregate_id,
            later.c.state == RowState.PUBLISHED.value,
        )
        .order_by(later.c.position.desc())
        .limit(1)
        .correlate(dead)
        .scalar_subquery()
    )
    query = (
        select(
            dead.c.position,
            dead.c.event_id,
            dead.c.aggregate_id,
            number(dead.c.created_at).label("created_at"),
            passed.label("passed"),
        )
        .where(dead.c.state == DEAD)
        .order_by(dead.c.position)
    )
    found = _of_ids(connection, database, query, dead.c.event_id, event_ids)
    in_flight = _in_flight(connection, table) if found else {}
    nothing_purged_since = _first_published(connection, table) if found else None
    values = {
        "state": PENDING,
        "attempts": 0,
        "next_attempt_at": 0,
        "due_at": now(),
        "failing_since": null(),
        "settled_at": null(),
        "lease": null(),
        "lease_until": null(),
    }
    _move(connection, table, found, values)
    overtaken, perhaps = [], []
    for row in found:
        if max(row.passed or 0, in_flight.get(row.aggregate_id, 0)) > row.position:
            overtaken.append(to_show(row.event_id))
        elif nothing_purged_since is None or nothing_purged_since >= row.created_at:
            perhaps.append(to_show(row.event_id))
    event_ids = tuple(to_show(row.event_id) for row in found)
    return Requeued(event_ids, tuple(overtaken), tuple(perhaps))


def _first_published(connection: Connection, table: Table) -> float | None:
    """
    Return when the first of the published rows was published that are still there.

    Whatever was published later is there, too. What a dead row was overtaken by was
    published after that row was written, since it has a higher position.
    """
    c = table.c
    query = (
        select(number(c.settled_at))
        .where(c.state == RowState.PUBLISHED.value, c.settled_at > 0)
        .order_by(c.settled_at)
        .limit(1)
    )
    return connection.scalar(query)


def _in_flight(connection: Connection, table: Table) -> dict[str, int]:
    """Return the last position that relays have now, for each aggregate."""
    c = table.c
    # By the index of leases: asked for the state, or grouped, SQLite takes another one.
    query = select(c.aggregate_id, c.position, c.state).where(
        c.lease > "", stands(table)
    )
    last: dict[str, int] = {}
    for name, position, state in connection.execute(query):
        if state == PENDING:
            last[name] = max(position, last.get(name, 0))
    return last


def discard(
    connection: Connection,
    database: Database,
    table: Table,
    event_ids: Collection[str],
) -> tuple[str, ...]:
    """
    Do what ``OutboxStore.discard`` says.

    Raises:
        TypeError: the ids are one text.
    """
    c = table.c
    query = select(c.position, c.event_id).where(c.state == DEAD).order_by(c.position)
    found = _of_ids(connection, database, query, c.event_id, event_ids)
    values = {"state": RowState.DISCARDED.value, "settled_at": now()}
    _move(connection, table, found, values)
    return tuple(to_show(row.event_id) for row in found)


def _of_ids(
    connection: Connection,
    database: Database,
    query: Any,
    column: Any,
    event_ids: Collection[str] | None,
) -> Sequence[Row[Any]]:
    """Return the dead rows of *query*, locked, of some ids or of all with None."""
    if isinstance(event_ids, str):
        # Each of its letters would be an id.
        msg = (
            f"event_ids is the text {event_ids!r}: pass a list of ids, [{event_ids!r}]"
        )
        raise TypeError(msg)
    if database.locks_rows:
        query = query.with_for_update(of=column.table)
    if event_ids is None:
        return connection.execute(query).all()
    ids = sorted({stored for one in event_ids if (stored := _stored(one)) is not None})
    found: list[Row[Any]] = []
    for start in range(0, len(ids), _CHUNK):
        some = query.where(column.in_(ids[start : start + _CHUNK]))
        found += connection.execute(some)
    return sorted(found, key=lambda row: int(row.position))


def _stored(event_id: str) -> str | None:
    """Return an id as it is stored; one that is too long for the table is in none."""
    try:
        return to_column("event_id", event_id)
    except ValueError:
        return None


def _move(
    connection: Connection,
    table: Table,
    found: Sequence[Row[Any]],
    values: dict[str, Any],
) -> None:
    c = table.c
    for start in range(0, len(found), _CHUNK):
        positions = [row.position for row in found[start : start + _CHUNK]]
        connection.execute(
            update(table)
            .where(c.position.in_(positions), c.state == literal(DEAD))
            .values(**values)
        )
