"""
A relay says what became of its rows. Every UPDATE carries its guard: pending, and the
very lease under which the row was claimed.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    Update,
    and_,
    case,
    literal,
    null,
    or_,
    select,
    update,
)

from eventbus_sync.integrations.sqlalchemy.claim import DEAD, PENDING
from eventbus_sync.integrations.sqlalchemy.clock import now
from eventbus_sync.integrations.sqlalchemy.database import Database
from eventbus_sync.integrations.sqlalchemy.texts import error_to_column
from eventbus_sync.outbox.record import Change, Mark, RowState


# A mark takes up to twelve parameters, and SQLite allows 32,766 in one statement.
_MOST_AT_ONCE: Final = 2000
_MARKS: Final = frozenset({Change.PUBLISH, Change.RETRY, Change.BURY, Change.RELEASE})


def renew(
    connection: Connection, table: Table, leases: Collection[str], seconds: float
) -> int:
    """Do what ``OutboxStore.renew`` says."""
    if not leases:
        return 0
    c = table.c
    change = (
        update(table)
        .where(
            c.lease.in_(sorted(set(leases))),
            c.state == PENDING,
            # What has ended is not renewed: somebody may be about to claim it.
            c.lease_until > now(),
        )
        .values(lease_until=now() + seconds)
    )
    return connection.execute(change).rowcount


def mark(
    connection: Connection, database: Database, table: Table, marks: Sequence[Mark]
) -> set[int]:
    """Do what ``OutboxStore.mark`` says: a statement for those published, one more."""
    # The first of several that speak of one row under one lease counts.
    unique: dict[tuple[int, str], Mark] = {}
    for one in marks:
        if one.change not in _MARKS:
            msg = f"{one.change} is no mark: pass publish, retry, bury or release"
            raise ValueError(msg)
        unique.setdefault((one.record.position, one.record.lease), one)
    todo = list(unique.values())
    moved: set[int] = set()
    for start in range(0, len(todo), _MOST_AT_ONCE):
        moved |= _mark(connection, database, table, todo[start : start + _MOST_AT_ONCE])
    return moved


def _mark(
    connection: Connection, database: Database, table: Table, marks: Sequence[Mark]
) -> set[int]:
    if not database.returns_updated:
        # Nothing says afterwards which rows it were: find out first, and lock them.
        c = table.c
        query = (
            select(c.position, c.lease)
            .where(_guard(table, marks))
            .order_by(c.position)
            .with_for_update()
        )
        mine = {(row.position, row.lease) for row in connection.execute(query)}
        marks = [
            one for one in marks if (one.record.position, one.record.lease) in mine
        ]
    published = [one for one in marks if one.change is Change.PUBLISH]
    others = [one for one in marks if one.change is not Change.PUBLISH]
    moved: set[int] = set()
    for group, change in ((published, _publish), (others, _put_back)):
        if not group:
            continue
        statement = change(table, group).where(_guard(table, group))
        if database.returns_updated:
            moved.update(connection.scalars(statement.returning(table.c.position)))
        else:
            connection.execute(statement)
            moved.update(one.record.position for one in group)
    return moved


def _guard(table: Table, marks: Iterable[Mark]) -> ColumnElement[bool]:
    return and_(table.c.state == PENDING, _these(table, marks))


def _these(table: Table, marks: Iterable[Mark]) -> ColumnElement[bool]:
    """
    Return the condition that a row is one of *marks* under that mark's own lease.

    Not "any of their leases": a row may have been lost under one and claimed again
    under another one of the same batch.
    """
    by_lease = defaultdict(list)
    for one in marks:
        by_lease[one.record.lease].append(one.record.position)
    c = table.c
    return or_(
        *(
            and_(c.lease == lease, c.position.in_(sorted(positions)))
            for lease, positions in by_lease.items()
        )
    )


def _publish(table: Table, marks: Sequence[Mark]) -> Update:
    c = table.c
    return update(table).ordered_values(
        (c.state, RowState.PUBLISHED.value),
        (c.settled_at, now()),
        (c.attempts, _each(table, marks, lambda one: one.attempts, c.attempts)),
        # The lease comes last: MySQL would see it gone in what follows.
        (c.lease_until, null()),
        (c.lease, null()),
    )


def _put_back(table: Table, marks: Sequence[Mark]) -> Update:
    """Return the UPDATE for what is tried again, given up or given back."""
    c = table.c
    buried = [one for one in marks if one.change is Change.BURY]
    retried = [one for one in marks if one.change is Change.RETRY]
    told = [*buried, *retried]
    values: list[tuple[Any, Any]] = []
    if retried:
        due = _each(
            table,
            retried,
            lambda one: one.delay,
            c.next_attempt_at,
            lambda delay: now() + delay,
        )
        values.append((c.next_attempt_at, due))
    if told:
        said = _each(table, told, lambda one: error_to_column(one.error), c.error)
        values.append((c.error, said))
    if buried:
        dies = _these(table, buried)
        values += [
            (c.settled_at, case((dies, now()), else_=c.settled_at)),
            (c.state, case((dies, literal(DEAD)), else_=c.state)),
        ]
    attempts = _each(table, marks, lambda one: one.attempts, c.attempts)
    values += [(c.attempts, attempts), (c.lease_until, null()), (c.lease, null())]
    return update(table).ordered_values(*values)


def _each(
    table: Table,
    marks: Iterable[Mark],
    value: Callable[[Mark], Any],
    otherwise: ColumnElement[Any],
    expression: Callable[[Any], Any] = literal,
) -> ColumnElement[Any]:
    """Return for each row the value of its mark, as short as equal values allow."""
    by_value = defaultdict(list)
    for one in marks:
        by_value[value(one)].append(one)
    whens = [
        (_these(table, group), expression(found)) for found, group in by_value.items()
    ]
    return case(*whens, else_=otherwise)
