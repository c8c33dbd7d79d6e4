"""
A relay says what became of its rows. Every UPDATE carries its guard: pending, and the
very lease under which the row was claimed.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    Update,
    and_,
    case,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)

from eventbus_sync.integrations.sqlalchemy.claim import DEAD, PENDING, among
from eventbus_sync.integrations.sqlalchemy.clock import now, number
from eventbus_sync.integrations.sqlalchemy.database import Database
from eventbus_sync.integrations.sqlalchemy.texts import error_to_column
from eventbus_sync.outbox.record import Change, Mark, RowState


# What one pair of statements has at most. Each lease is one more level of an expression,
# of which SQLite allows 1,000.
_MOST_MARKS: Final = 2000
_MOST_LEASES: Final = 200
# Each row of these has its own values, and a database compares each with all of them.
_MOST_VALUES: Final = 500
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
            c.state == PENDING,
            # What has ended is not renewed: somebody may be about to claim it.
            number(c.lease_until) > now(),
        )
        .values(lease_until=now() + seconds)
    )
    tokens = sorted(set(leases))
    renewed = 0
    for start in range(0, len(tokens), _MOST_MARKS):
        some = tokens[start : start + _MOST_MARKS]
        renewed += connection.execute(change.where(c.lease.in_(some))).rowcount
    return renewed


def mark(
    connection: Connection, database: Database, table: Table, marks: Sequence[Mark]
) -> set[int]:
    """
    Do what ``OutboxStore.mark`` says: a statement for those published, one more.

    So it is for up to 2,000 marks of up to 200 leases, of which up to 500 are no
    publications; more come in parts.
    """
    # The first of several that speak of one row under one lease counts.
    unique: dict[tuple[int, str], Mark] = {}
    for one in marks:
        if one.change not in _MARKS:
            msg = f"{one.change} is no mark: pass publish, retry, bury or release"
            raise ValueError(msg)
        unique.setdefault((one.record.position, one.record.lease), one)
    moved: set[int] = set()
    for some in _parts(list(unique.values())):
        moved |= _mark(connection, database, table, some)
    return moved


def _parts(todo: Sequence[Mark]) -> Iterator[list[Mark]]:
    """
    Return *todo* in parts that fit into a statement each.

    A row is in a part once: a row may have been lost under one lease and claimed again
    under another one, and a part tells its rows apart by their positions.
    """
    while todo:
        part: list[Mark] = []
        left: list[Mark] = []
        leases: set[str] = set()
        positions: set[int] = set()
        for one in todo:
            record = one.record
            fits = record.lease in leases or len(leases) < _MOST_LEASES
            if not fits or record.position in positions or len(part) >= _MOST_MARKS:
                left.append(one)
                continue
            part.append(one)
            leases.add(record.lease)
            positions.add(record.position)
        yield part
        todo = left


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
    groups: list[tuple[list[Mark], Callable[[Table, Sequence[Mark]], Update]]] = []
    if published:
        groups.append((published, _publish))
    for start in range(0, len(others), _MOST_VALUES):
        groups.append((others[start : start + _MOST_VALUES], _put_back))  # noqa: PERF401
    moved: set[int] = set()
    for group, change in groups:
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
            and_(c.lease == lease, among(c.position, positions))
            for lease, positions in by_lease.items()
        )
    )


def _publish(table: Table, marks: Sequence[Mark]) -> Update:
    c = table.c
    return update(table).ordered_values(
        (c.state, RowState.PUBLISHED.value),
        (c.settled_at, now()),
        (c.attempts, _attempts(table, marks)),
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
        these = _among(table, retried)
        delay = _each(table, retried, lambda one: one.delay, literal(0.0))
        begins = [one for one in retried if one.reached]
        pauses = [one for one in retried if not one.reached]
        since: ColumnElement[Any] = c.failing_since
        if begins:
            begun = func.coalesce(c.failing_since, now())
            since = case((_among(table, begins), begun), else_=since)
        if pauses:
            # Of what failed before, the clock stands still: from the claim, which has
            # set next_attempt_at, to the next attempt. NULL stays NULL.
            moved = number(c.failing_since) + delay + now() - number(c.next_attempt_at)
            since = case((_among(table, pauses), moved), else_=since)
        values += [
            # First: MySQL would see the new next_attempt_at.
            (c.failing_since, since),
            (c.next_attempt_at, case((these, now() + delay), else_=c.next_attempt_at)),
        ]
    if told:
        said = _each(table, told, lambda one: error_to_column(one.error), c.error)
        values.append((c.error, said))
    if buried:
        dies = _among(table, buried)
        values += [
            (c.settled_at, case((dies, now()), else_=c.settled_at)),
            (c.state, case((dies, literal(DEAD)), else_=c.state)),
        ]
    values += [
        (c.attempts, _attempts(table, marks)),
        (c.lease_until, null()),
        (c.lease, null()),
    ]
    return update(table).ordered_values(*values)


def _among(table: Table, marks: Iterable[Mark]) -> ColumnElement[bool]:
    """Return whether a row is one of *marks*, among those that ``_these`` lets pass."""
    return among(table.c.position, (one.record.position for one in marks))


def _attempts(table: Table, marks: Sequence[Mark]) -> ColumnElement[Any]:
    """Return the attempts of *marks*, which are all that the statement touches."""
    counts = {one.attempts for one in marks}
    if len(counts) == 1:
        return literal(counts.pop())
    return _each(table, marks, lambda one: one.attempts, table.c.attempts)


def _each(
    table: Table,
    marks: Iterable[Mark],
    value: Callable[[Mark], Any],
    otherwise: ColumnElement[Any],
) -> ColumnElement[Any]:
    """Return for each row the value of its mark, as short as equal values allow."""
    by_value = defaultdict(list)
    for one in marks:
        by_value[value(one)].append(one)
    position = table.c.position
    whens = [
        (
            position == literal_column(str(group[0].record.position))
            if len(group) == 1
            else _among(table, group),
            literal(found),
        )
        for found, group in by_value.items()
    ]
    return case(*whens, else_=otherwise)
