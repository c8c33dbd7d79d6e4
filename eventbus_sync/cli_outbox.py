"""``python -m eventbus_sync outbox …``: make the table, look at it, mend it."""

import argparse
import datetime as dt
import json
import sys

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from eventbus_sync.cli_database import DONE, NOTHING, USAGE, add_database, answered
from eventbus_sync.errors import ConfigError, StoreFailed


if TYPE_CHECKING:
    from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
    from eventbus_sync.outbox import OutboxRow

#: Most rows of ``list``: they are held in memory.
_MOST = 1_000_000

_STATES = ("pending", "published", "dead", "discarded")

_DESCRIPTION = """\
Make the outbox's table, see what is in it, and decide about dead rows: those
that the relay has given up, with the reason in the column "error".
"""

_EPILOG = """\
examples:
  {prog} outbox init --db sqlite:///app.db
  {prog} outbox stats --db sqlite:///app.db --json
  {prog} outbox list --db sqlite:///app.db --state dead
  {prog} outbox requeue --db sqlite:///app.db --all
  {prog} outbox discard --db sqlite:///app.db \\
      order-1:OrderPaid:1:1796080380029584116:252054eadeed56f7-1
  {prog} outbox purge --db sqlite:///app.db --older-than 86400

exit codes:
  0    done
  1    done, but: stats found dead rows; list found no rows; requeue or discard
       found no such dead row
  2    wrong arguments, or a table that does not fit
  3    the database cannot be reached
"""


def add_outbox(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prog: str
) -> None:
    """Add the command and its own commands."""
    parser = commands.add_parser(
        "outbox",
        help="make the outbox's table, look at its rows, requeue or discard dead ones",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    deeds = parser.add_subparsers(title="commands", dest="deed", metavar="command")
    parser.set_defaults(run=lambda _: _taught(parser))

    def add(
        name: str,
        said: str,
        run: "Callable[[argparse.Namespace, SqlAlchemyOutbox], int]",
    ) -> argparse.ArgumentParser:
        deed = deeds.add_parser(name, help=said, description=said, allow_abbrev=False)
        add_database(deed)
        deed.set_defaults(run=answered(deed, run))
        return deed

    add("init", "create the table and its indexes, as far as they are missing", _init)
    stats = add("stats", "count rows by state, and say how old the oldest is", _stats)
    stats.add_argument(
        "--json", action="store_true", help="print JSON, ages in seconds"
    )
    listed = add("list", "show the oldest rows", _list)
    listed.add_argument("--state", choices=_STATES, help="only rows in this state")
    listed.add_argument(
        "--limit", type=_limit, default=100, metavar="N", help="most rows; default: 100"
    )
    listed.add_argument("--json", action="store_true", help="print JSON, one array")
    requeue = add("requeue", "have dead rows published again", _requeue)
    which = requeue.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", nargs="*", default=[], metavar="ID", help="event ids")
    which.add_argument("--all", action="store_true", help="every dead row")
    discard = add(
        "discard", "give dead rows up, so that their aggregate goes on", _discard
    )
    discard.add_argument("ids", nargs="+", metavar="ID", help="event ids")
    purge = add("purge", "delete published and discarded rows", _purge)
    purge.add_argument(
        "--older-than",
        type=_seconds,
        default=7 * 86400.0,
        metavar="SECONDS",
        help="since they were settled; default: 604800, seven days",
    )


def _taught(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return USAGE


# -- commands ----------------------------------------------------------------------------


def _init(_: argparse.Namespace, outbox: "SqlAlchemyOutbox") -> int:
    # It is installed: see opened.
    from sqlalchemy.exc import DBAPIError, ProgrammingError  # noqa: PLC0415

    try:
        outbox.create_all()
    except DBAPIError as error:
        msg = f"the table could not be made: {error.orig}".rstrip()
        # The database answers, and says no. MariaDB and SQLite call that operational.
        no_schema = "unknown database" in str(error.orig).lower()
        if isinstance(error, ProgrammingError) or (outbox.table.schema and no_schema):
            msg += "\nMake the schema first; look at --schema and at the user's rights."
            raise ConfigError(msg) from error
        raise StoreFailed(msg) from error
    outbox.stats()  # a table that was there may be another one's
    sys.stdout.write(f"table {outbox.table.fullname} is ready\n")
    return DONE


def _stats(arguments: argparse.Namespace, outbox: "SqlAlchemyOutbox") -> int:
    stats = outbox.stats()
    if arguments.json:
        _print_json(attrs.asdict(stats))
    else:
        lines = [
            f"pending    {stats.pending:>12,}",
            f"  leased   {stats.leased:>12,}",
            f"  waiting  {stats.waiting:>12,}",
        ]
        if stats.hidden:
            lines.append(f"  hidden   {stats.hidden:>12,}  by {stats.blocked_by}")
        lines += [
            f"published  {stats.published:>12,}",
            f"dead       {stats.dead:>12,}",
            f"discarded  {stats.discarded:>12,}",
            f"oldest unpublished: {stats.oldest_age:,.1f} s",
        ]
        _print(lines)
    return NOTHING if stats.dead else DONE


def _list(arguments: argparse.Namespace, outbox: "SqlAlchemyOutbox") -> int:
    from eventbus_sync.outbox import RowState  # noqa: PLC0415 - --help needs nothing

    state = RowState(arguments.state) if arguments.state else None
    rows = outbox.rows(state, limit=arguments.limit)
    if arguments.json:
        _print_json([{**attrs.asdict(row), "state": row.state.value} for row in rows])
    else:
        _print([_line(row) for row in rows])
    if not rows:
        sys.stderr.write("no rows\n")
    return DONE if rows else NOTHING


def _requeue(arguments: argparse.Namespace, outbox: "SqlAlchemyOutbox") -> int:
    done = outbox.requeue(None if arguments.all else arguments.ids)
    said = dict.fromkeys(
        done.perhaps_overtaken,
        "  perhaps later events of its aggregate were published and purged",
    )
    said |= dict.fromkeys(
        done.overtaken, "  later events of its aggregate were published already"
    )
    _print([event_id + said.get(event_id, "") for event_id in done.event_ids])
    return _told(arguments.ids, done.event_ids, "requeued")


def _discard(arguments: argparse.Namespace, outbox: "SqlAlchemyOutbox") -> int:
    done = outbox.discard(arguments.ids)
    _print(done)
    return _told(arguments.ids, done, "discarded")


def _purge(arguments: argparse.Namespace, outbox: "SqlAlchemyOutbox") -> int:
    batch, gone = 1000, 0
    while True:
        rows = outbox.purge(older_than=arguments.older_than, limit=batch)
        gone += rows
        if rows < batch:
            break
    sys.stdout.write(f"purged {gone:,} rows\n")
    return DONE


# -- words -------------------------------------------------------------------------------


def _told(asked: Sequence[str], done: Sequence[str], what: str) -> int:
    """Say how many there were and which were not, and return the exit code."""
    plural = "row" if len(done) == 1 else "rows"
    sys.stderr.write(f"{what} {len(done):,} {plural}\n")
    left = [event_id for event_id in asked if event_id not in set(done)]
    for event_id in left:
        sys.stderr.write(f"no dead row has the event id {_shown(event_id)}\n")
    return DONE if done and not left else NOTHING


def _line(row: "OutboxRow") -> str:
    written = dt.datetime.fromtimestamp(row.created_at, dt.UTC)
    parts = [
        f"{row.position:>8}",
        f"{row.state.value:<9}",
        f"{written:%Y-%m-%dT%H:%M:%SZ}",
        f"{row.attempts:>2} attempts",
        _shown(row.topic),
        _shown(row.aggregate_id),
        _shown(row.event_id),
    ]
    text = "  ".join(parts)
    return f"{text}\n          {_shown(row.error)}" if row.error else text


def _shown(text: str) -> str:
    # What rows hold came from somewhere: it must not write over the terminal.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _print(lines: Sequence[str]) -> None:
    encoding = sys.stdout.encoding or "ascii"
    for line in lines:
        sys.stdout.write(line.encode(encoding, "replace").decode(encoding) + "\n")


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _limit(text: str) -> int:
    # The length first: Python refuses to read thousands of digits.
    fits = text.isdecimal() and len(text) <= len(str(_MOST))
    if not fits or not 1 <= int(text) <= _MOST:
        msg = f"{text[:40]!r} is not a whole number from 1 up, at most {_MOST:,}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        msg = f"{text!r} is not a number of seconds from 0 up"
        raise argparse.ArgumentTypeError(msg)
    return seconds
