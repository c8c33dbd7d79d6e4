"""
Rows that wait for their time: how a claim passes by any number of them.

All of it reads the index on ``(state, next_attempt_at, position)``, and little of it. A
row that never waited has 0 there; so the first of these behind some position is one
entry, while of those that waited all that are due by now are read.
"""

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Table,
    func,
    literal_column,
    select,
)

from eventbus_sync.integrations.sqlalchemy.clock import now
from eventbus_sync.outbox.record import RowState


def _is_pending(table: Table) -> ColumnElement[bool]:
    """
    Return the condition under which a row is in that index.

    Written out: for a parameter, SQLite would not take an index of some rows only.
    """
    return table.c.state == literal_column(f"'{RowState.PENDING.value}'")


def _is_due(table: Table) -> ColumnElement[bool]:
    """Return whether a row need not wait; by the column alone, for the index."""
    return table.c.next_attempt_at <= now()


def _is_damaged(table: Table) -> ColumnElement[bool]:
    """
    Return whether a row has no number for its time, which counts as 0.

    Only SQLite takes a text there, and sorts it after all numbers.
    """
    return table.c.next_attempt_at >= literal_column("''")


def any_due(table: Table) -> ColumnElement[int]:
    """Return the position of some row that is due, NULL without one (SQLite)."""
    # Two of them: with an "or", all rows of the index would be gone through.
    some = select(table.c.position).where(_is_pending(table), _is_due(table))
    damaged = select(table.c.position).where(_is_pending(table), _is_damaged(table))
    return func.coalesce(
        *(query.limit(1).scalar_subquery() for query in (some, damaged))
    )


def look_behind(
    connection: Connection, table: Table, after: int
) -> tuple[int, float | None]:
    """
    Look for what is due next behind the position *after*.

    Returns:
        Where to go on to see it, 0 if nothing is due; and in how many seconds the first
        row that waits is due, None without one.
    """
    c = table.c
    fresh = (
        select(c.position)
        .where(_is_pending(table), c.next_attempt_at == 0, c.position > after)
        .order_by(c.position)
        .limit(1)
        .scalar_subquery()
    )
    # "+ 0", or some databases would go through the rows by their positions.
    place = c.position + 0
    waited = (
        select(func.min(place))
        .where(_is_pending(table), c.next_attempt_at > 0, _is_due(table), place > after)
        .scalar_subquery()
    )
    looks = [fresh, waited]
    if connection.dialect.name == "sqlite":
        damaged = select(func.min(place)).where(
            _is_pending(table), _is_damaged(table), place > after
        )
        looks.append(damaged.scalar_subquery())
    due_in, *places = connection.execute(select(soonest(table), *looks)).one()
    found = [place for place in places if place is not None]
    return (min(found) - 1 if found else 0), due_in


def soonest(table: Table) -> ScalarSelect[float]:
    """Return in how many seconds the first row that waits is due; NULL without one."""
    at = table.c.next_attempt_at
    # The first of the index: not min(), for which a text would do.
    return (
        select((at - now()).label("due_in"))
        .where(_is_pending(table), at > now())
        .order_by(at)
        .limit(1)
        .scalar_subquery()
    )
