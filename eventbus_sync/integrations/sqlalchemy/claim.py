"""
A relay takes rows: a constant number of statements, each O(batch), for each thousand
rows that it takes.

1. The window: pending rows from ``scan_from`` on, those that cannot be claimed among
   them, so that holes in a run are seen.
2. The heads: which aggregates may be begun with.
3. The lock: what was chosen, as far as nobody else is about to take it, and how many
   bytes each row has.
4. The lease, and only now the payloads: of the rows that fit into the caller's memory.

A window in which there is nothing to take is followed by a look for the next row that
is due (``due_later.py``), so that a hundred thousand that are scheduled for next week
do not have to be gone through.
"""

import math

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import attrs

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    ScalarSelect,
    Select,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal,
    null,
    or_,
    select,
    true,
    update,
)

from eventbus_sync.integrations.sqlalchemy import choose, due_later
from eventbus_sync.integrations.sqlalchemy.clock import now, number
from eventbus_sync.integrations.sqlalchemy.database import Database
from eventbus_sync.integrations.sqlalchemy.reading import columns_read, record_of
from eventbus_sync.integrations.sqlalchemy.texts import from_column
from eventbus_sync.outbox.record import Claim, OutboxRecord, RowState
from eventbus_sync.outbox.store import LONGEST_LEASE, OnDead, Ordering


PENDING: Final = RowState.PENDING.value
DEAD: Final = RowState.DEAD.value

# So many positions are written into one statement: of a list of a thousand or more
# MariaDB makes a table of its own.
_AT_ONCE: Final = 999


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
    max_bytes: int | None


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


def among(column: ColumnElement[Any], positions: Iterable[int]) -> ColumnElement[bool]:
    """
    Return the condition that *column* is one of *positions*.

    They are written into the statement: with a parameter for each, a third of a
    relay's time would go into rendering, splitting and parsing these. An array as one
    parameter gets prepared, and PostgreSQL's plan for any array is a slow one.
    """
    numbers = sorted(positions)
    given = bindparam(
        None, numbers, BigInteger, unique=True, expanding=True, literal_execute=True
    )
    return column.in_(given)


def parts(positions: Collection[int]) -> Iterator[list[int]]:
    """Return *positions* in their order, as many at once as a statement may have."""
    numbers = sorted(positions)
    for start in range(0, len(numbers), _AT_ONCE):
        yield numbers[start : start + _AT_ONCE]


def nothing(connection: Connection, table: Table, scan_from: int) -> Claim | None:
    """Return the answer to a claim that cannot find anything, else None."""
    c = table.c
    behind = select(c.position).where(c.state == PENDING, c.position > scan_from)
    looks = (due_later.any_due(table), behind.limit(1).scalar_subquery())
    due_in, *found = connection.execute(select(due_later.soonest(table), *looks)).one()
    return Claim((), next_due=due_in) if None in found else None


def claim(
    connection: Connection, database: Database, table: Table, wish: Wish
) -> Claim:
    """Do what ``OutboxStore.claim`` says, inside a transaction."""
    ordered = wish.ordering == "aggregate"
    limit = min(wish.limit, choose.LARGEST_CLAIM)
    size = choose.window_size(limit)
    check = ordered and database.name == "postgresql" and database.commit_order
    visible = is_visible(table) if check else true()
    # Who locks rows is told their sizes then: MariaDB reads a payload to measure it.
    bytes_each = literal(0) if database.locks_rows else _bytes_of(table, func.length)
    shown = (visible.label("visible"), bytes_each.label("bytes"))
    seen = _window(connection, table, shown, wish.scan_from, size)
    unasked: list[list[int]] = []
    if ordered:
        runs = choose.by_age(choose.runs(seen, wish.without).values())
        candidates, unasked = _beginnable(connection, table, runs, limit, wish.on_dead)
    else:
        outside = set(wish.without)
        candidates = [
            [row.position]
            for row in seen
            if row.claimable and row.aggregate_id not in outside
        ]
    chosen = choose.share(candidates, limit)
    if database.locks_rows:
        sizes = _locked(connection, table, chosen)
    else:  # whoever writes is alone
        sizes = {row.position: row.size for row in seen if row.position in chosen}
    free = choose.without_holes(candidates, sizes)
    taken = choose.fitting(free, sizes, wish.max_bytes)
    # So that the next claim finds them.
    chosen.difference_update(*({*run} - taken for run in free))
    claimable = [position for run in (*candidates, *unasked) for position in run]
    go_on = choose.go_on_from(seen, size, claimable, chosen)
    next_due = min(
        (row.due_in for row in seen if row.free and row.due_in > 0), default=None
    )
    if go_on and not chosen:
        # Perhaps these are the first of very many that are scheduled for later.
        go_on, next_due = due_later.look_behind(connection, table, go_on)
    return Claim(
        _leased(connection, database, table, taken, candidates, wish),
        go_on,
        any(not row.visible for row in seen),
        next_due,
        choose.seen_to(seen),
    )


def _beginnable(
    connection: Connection,
    table: Table,
    runs: Sequence[list[int]],
    limit: int,
    on_dead: OnDead,
) -> tuple[list[list[int]], list[list[int]]]:
    """
    Return which of *runs*, the oldest first, can be begun with, and which were not asked
    about: when *limit* of them can, the others have no place in the claim.
    """
    found: list[list[int]] = []
    asked = 0
    while asked < len(runs) and len(found) < limit:
        some = runs[asked : asked + limit]
        ends = _heads(connection, table, [run[0] for run in some], on_dead)
        cut = ([one for one in run if one < ends.get(run[0], 0)] for run in some)
        found += filter(None, cut)
        asked += limit
    return found, list(runs[asked:])


def _window(
    connection: Connection,
    table: Table,
    shown: Iterable[ColumnElement[Any]],
    scan_from: int,
    size: int,
) -> list[choose.Seen]:
    c = table.c
    query: Select[Any] = (
        select(
            c.position,
            c.aggregate_id,
            number(c.lease_until),
            number(c.next_attempt_at),
            now().label("now"),
            *shown,
        )
        .where(c.state == PENDING, c.position > scan_from)
        .order_by(c.position)
        .limit(size)
    )
    return [
        choose.Seen(
            position,
            from_column(aggregate_id),
            until is None or not at < until <= at + LONGEST_LEASE,
            due - at,
            bool(is_visible),
            bytes_each or 0,
        )
        for (
            position,
            aggregate_id,
            until,
            due,
            at,
            is_visible,
            bytes_each,
        ) in connection.execute(query)
    ]


def _heads(
    connection: Connection, table: Table, heads: Sequence[int], on_dead: OnDead
) -> dict[int, float]:
    """
    Return which of *heads* are the oldest of an aggregate that can be begun with, and
    for each of them the position of the first dead row, which holds what is behind it.
    """
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
    in_use = select(leased.c.aggregate_id).where(leased.c.lease > "", stands(leased))
    end = first(dead, DEAD) if on_dead == "hold" else null()
    query = select(head.c.position, end).where(
        head.c.position == first(other, PENDING),
        head.c.aggregate_id.not_in(in_use),
    )
    found: dict[int, float] = {}
    for some in parts(heads):
        for position, dead_at in connection.execute(
            query.where(among(head.c.position, some))
        ):
            found[position] = math.inf if dead_at is None else dead_at
    return found


def stands(rows: FromClause) -> ColumnElement[bool]:
    """Return whether the lease of a row stands; infinity and the like are no end."""
    until = number(rows.c.lease_until)
    return and_(until > now(), until <= now() + LONGEST_LEASE)


def is_claimable(table: Table) -> ColumnElement[bool]:
    """Return the guard of a claim: pending, due, and nobody has it."""
    c = table.c
    return and_(
        c.state == PENDING,
        or_(c.lease_until.is_(None), ~stands(table)),
        number(c.next_attempt_at) <= now(),
    )


def _bytes_of(table: Table, measure: Callable[..., Any]) -> ColumnElement[int]:
    """Return what a row will take in memory, in SQL that does not read its payload."""
    payload, headers = table.c.payload, table.c.headers
    in_headers = func.coalesce(measure(headers, type_=BigInteger), 0)
    size: ColumnElement[int] = measure(payload, type_=BigInteger) + in_headers
    return size


def _locked(
    connection: Connection, table: Table, chosen: Collection[int]
) -> dict[int, int]:
    """
    Lock what is still claimable; who comes second gets the rest.

    Returns:
        Their positions, and the bytes that each has.
    """
    query = (
        select(table.c.position, _bytes_of(table, func.octet_length))
        .where(is_claimable(table))
        .order_by(table.c.position)
        .with_for_update(skip_locked=True)
    )
    locked: dict[int, int] = {}
    for some in parts(chosen):
        these = connection.execute(query.where(among(table.c.position, some)))
        locked.update((position, size) for position, size in these)
    return locked


def _leased(  # noqa: PLR0913
    connection: Connection,
    database: Database,
    table: Table,
    taken: Collection[int],
    candidates: Sequence[list[int]],
    wish: Wish,
) -> tuple[OutboxRecord, ...]:
    """
    Lease *taken* and return them, without holes.

    One is missing if the clock of the database was set back since it was seen: it is
    not due any more, and what is behind it in its run is given back.
    """
    records = _lease(connection, database, table, taken, wish)
    leased = {record.position for record in records}
    behind = leased.difference(*choose.without_holes(candidates, leased))
    c = table.c
    give_back = update(table).values(lease=null(), lease_until=null())
    for some in parts(behind):
        these = among(c.position, some)
        connection.execute(give_back.where(these, c.lease == wish.lease))
    return tuple(record for record in records if record.position not in behind)


def _lease(
    connection: Connection,
    database: Database,
    table: Table,
    positions: Collection[int],
    wish: Wish,
) -> tuple[OutboxRecord, ...]:
    c = table.c
    # That nobody tried a row though it was due, in an outage for instance, must not make
    # it dead by its age: of what has failed before, the clock moves by that time.
    failed = c.failing_since.is_not(None)
    waited = now() - number(c.next_attempt_at)
    change = (
        update(table)
        .where(is_claimable(table))
        .ordered_values(
            # In this order: MySQL sees what was set before.
            (c.failing_since, number(c.failing_since) + waited),
            (c.next_attempt_at, case((failed, now()), else_=c.next_attempt_at)),
            (c.lease, wish.lease),
            (c.lease_until, now() + wish.seconds),
        )
    )
    columns = columns_read(table)
    records: list[OutboxRecord] = []
    for some in parts(positions):
        these = among(c.position, some)
        if database.returns_updated:
            rows = connection.execute(change.where(these).returning(*columns)).all()
        else:
            connection.execute(change.where(these))
            mine = select(*columns).where(these, c.lease == wish.lease)
            rows = connection.execute(mine).all()
        records += [record_of(row, wish.lease) for row in rows]
    return tuple(sorted(records, key=lambda record: record.position))
