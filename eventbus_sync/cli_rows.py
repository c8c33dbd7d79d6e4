"""Rows of the outbox as text for people: a table, and what became of an event id."""

import datetime as dt
import sys
import time

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from eventbus_sync.errors import StoreFailed


if TYPE_CHECKING:
    from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
    from eventbus_sync.outbox import OutboxRow

#: A column is no wider, so that one long name does not push all others away.
_WIDEST: Final = 40
_INDENT: Final = " " * 10


def lines_of(rows: Sequence["OutboxRow"]) -> Iterator[str]:
    """Return a heading, and each row with its reason or its time below it."""
    if not rows:
        return
    topic = _width("topic", [row.topic for row in rows])
    aggregate = _width("aggregate", [row.aggregate_id for row in rows])
    yield (
        f"position  state      {'written':<20}  attempts  "
        f"{'topic':<{topic}}  {'aggregate':<{aggregate}}  event id"
    )
    for row in rows:
        yield (
            f"{row.position:>8}  {row.state.value:<9}  {_moment(row.created_at)}  "
            f"{row.attempts:>8}  {shown(row.topic):<{topic}}  "
            f"{shown(row.aggregate_id):<{aggregate}}  {shown(row.event_id)}"
        )
        if told := "; ".join(_told(row)):
            yield _INDENT + told


def _width(title: str, texts: Sequence[str]) -> int:
    return min(_WIDEST, max(map(len, [title, *texts])))


def _told(row: "OutboxRow") -> Iterator[str]:
    """Return why the row waits, as far as it does, and what went wrong."""
    if row.state.value == "pending" and row.next_attempt_at > time.time():
        # A row that nobody has tried was written to wait.
        scheduled = not row.attempts and not row.error
        what = "not before" if scheduled else "next attempt"
        yield f"{what} {_moment(row.next_attempt_at)}"
    if row.error:
        yield shown(row.error)


def _moment(seconds: float) -> str:
    # Python's calendar ends with the year 9999; what rows hold came from somewhere.
    seconds = min(max(seconds, 0.0), 253402300799.0)
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def not_dead(
    outbox: "SqlAlchemyOutbox", event_ids: Sequence[str], what: str
) -> Iterator[str]:
    """
    Return for each event id why nothing was done about it.

    Raises:
        StoreFailed: the database could not be asked.
    """
    from sqlalchemy import select  # noqa: PLC0415 - it is installed, see opened
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    c = outbox.table.c
    try:
        with outbox.engine.connect() as connection:
            for event_id in event_ids:
                query = select(c.state).where(c.event_id == event_id)
                state = connection.scalar(query)
                if state is None:
                    yield f"there is no row with the event id {shown(event_id)}"
                else:
                    only = f"only dead rows can be {what}"
                    yield f"{shown(event_id)} is {shown(state)}: {only}"
    except DBAPIError as error:
        msg = f"the outbox's database failed: {error.orig}"
        raise StoreFailed(msg) from error


def shown(text: str) -> str:
    """Return *text* without what would write over the terminal: rows may hold it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_lines(lines: Sequence[str]) -> None:
    """Write lines to standard output, whatever its encoding cannot hold."""
    encoding = sys.stdout.encoding or "ascii"
    for line in lines:
        sys.stdout.write(line.encode(encoding, "replace").decode(encoding) + "\n")
