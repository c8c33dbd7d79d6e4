"""``python -m eventbus_sync outbox …``: make the table, look at it, mend it."""

import argparse
import json
import sys

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from eventbus_sync.cli_database import DONE, NOTHING, USAGE, add_database, answered
from eventbus_sync.cli_rows import lines_of, not_dead, print_lines
from eventbus_sync.errors import ConfigError, StoreFailed


if TYPE_CHECKING:
    from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox

#: Most rows of ``list``: they are held in memory.
_MOST = 1_000_000

_STATES = ("pending", "published", "dead", "discarded")

#: Command → what it does, the end of an example, and what exit code 1 means.
_DEEDS = {
    "init": (
        """\
Create the table and its indexes, as far as they are missing. What is there
already is compared with what is needed, and never changed.""",
        "",
        "",
    ),
    "stats": (
        """\
Count the rows of each state. Of the pending ones, "leased" are with a relay
now, "waiting" wait for their next attempt or their not_before, and "hidden"
(PostgreSQL) wait for the end of an older transaction.""",
        " --json",
        "1 there are dead rows; ",
    ),
    "list": (
        """\
Show rows, the oldest first, with what went wrong below. "not before" is a row
that was written for later; "next attempt" is one that was tried already.""",
        " --state dead",
        "1 no rows; ",
    ),
    "requeue": (
        """\
Make dead rows pending again, so that a relay publishes them. Their attempts
begin at 0. Later events of their aggregate may be out already: it says so.""",
        " --all",
        "1 one was not dead; ",
    ),
    "discard": (
        """\
Give dead rows up: they are never published, and are purged later. The later
events of their aggregate, which they held, go out.""",
        """ \\
      order-1:OrderPaid:1:1796080380029584116:252054eadeed56f7-1""",
        "1 one was not dead; ",
    ),
    "purge": (
        """\
Delete published and discarded rows that were settled so long ago. Pending and
dead rows are safe: they are never deleted. Relays purge by themselves, too.""",
        " --older-than 86400",
        "",
    ),
}

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
        taught, example, one = _DEEDS[name]
        codes = f"exit codes: 0 done; {one}2 wrong use or table; 3 no database"
        deed = deeds.add_parser(
            name,
            help=said,
            description=taught,
            epilog=f"example:\n  {prog} outbox {name} --db sqlite:///app.db{example}\n\n{codes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_database(deed)
        deed.set_defaults(run=answered(deed, run))
        return deed

    add("init", "create the table and its indexes, as far as they are missing", _init)
    stats = add("stats", "count rows by state, and say how old the oldest is", _stats)
    stats.add_argument(
        "--json", action="store_true", help="print JSON, ages in seconds"
    )
    listed = add("list", "show the oldest rows", _list)
    listed.add_argument(
        "--state",
        choices=_STATES,
        metavar="STATE",
        help=f"only rows in this state: {', '.join(_STATES)}",
    )
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
        print_lines(lines)
    return NOTHING if stats.dead else DONE


def _list(arguments: argparse.Namespace, outbox: "SqlAlchemyOutbox") -> int:
    from eventbus_sync.outbox import RowState  # noqa: PLC0415 - --help needs nothing

    state = RowState(arguments.state) if arguments.state else None
    rows = outbox.rows(state, limit=arguments.limit)
    if arguments.json:
        _print_json([{**attrs.asdict(row), "state": row.state.value} for row in rows])
    else:
        print_lines(list(lines_of(rows)))
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
    print_lines([event_id + said.get(event_id, "") for event_id in done.event_ids])
    return _told(outbox, arguments.ids, done.event_ids, "requeued")


def _discard(arguments: argparse.Namespace, outbox: "SqlAlchemyOutbox") -> int:
    done = outbox.discard(arguments.ids)
    print_lines(done)
    return _told(outbox, arguments.ids, done, "discarded")


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


def _told(
    outbox: "SqlAlchemyOutbox", asked: Sequence[str], done: Sequence[str], what: str
) -> int:
    """Say how many there were and which were not, and return the exit code."""
    plural = "row" if len(done) == 1 else "rows"
    sys.stderr.write(f"{what} {len(done):,} {plural}\n")
    left = [event_id for event_id in asked if event_id not in set(done)]
    for why in not_dead(outbox, left, what):
        sys.stderr.write(f"{why}\n")
    return DONE if done and not left else NOTHING


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
