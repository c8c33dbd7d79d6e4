"""
What the commands about the outbox share: the database behind ``--db``, and exit codes.

No secret of a URL is ever printed: neither a URL that was given nor what a library says
about one that it cannot read.
"""

import argparse
import contextlib
import os
import sys

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eventbus_sync.config.fields import nearest
from eventbus_sync.errors import (
    ConfigError,
    EventBusError,
    OutboxError,
    SchemaMismatch,
    StoreFailed,
)


if TYPE_CHECKING:
    from sqlalchemy import URL

    from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox

#: Exit codes.
DONE, NOTHING, USAGE, NO_DATABASE = 0, 1, 2, 3

#: For URLs with passwords, which would stand in the list of processes.
DB_VARIABLE: Final = "OUTBOX_DB_URL"
BUS_VARIABLE: Final = "OUTBOX_BUS_URL"

Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"

#: Database → how its URLs begin.
_SCHEMES: Final = {
    "sqlite": "sqlite:///",
    "postgresql": "postgresql+psycopg://",
    "mysql": "mysql+pymysql://",
    "mariadb": "mariadb+pymysql://",
}
_DRIVERS: Final = {
    "postgresql": "pip install 'psycopg[binary]', and postgresql+psycopg://… in the URL",
    "mysql": "pip install pymysql, and mysql+pymysql://… in the URL",
    "mariadb": "pip install pymysql, and mariadb+pymysql://… in the URL",
}


def add_database(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where the outbox is."""
    parser.add_argument(
        "--db",
        metavar="URL",
        default=os.environ.get(DB_VARIABLE),
        help=f"the database, as SQLAlchemy writes it; default: ${DB_VARIABLE}",
    )
    parser.add_argument(
        "--table", default="", help="its name; default: eventbus_outbox"
    )
    parser.add_argument("--schema", default=None, help="where the table is")


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> "Iterator[SqlAlchemyOutbox]":
    """
    Yield the outbox that the arguments name; its connections are closed afterwards.

    Raises:
        ConfigError: the URL is missing or wrong, or a driver is not installed.
    """
    if not arguments.db:
        msg = (
            "say where the outbox is: --db sqlite:///app.db, or a URL in the "
            f"environment variable {DB_VARIABLE}"
        )
        raise ConfigError(msg)
    try:
        import sqlalchemy  # noqa: PLC0415 - only these commands need it
    except ImportError:
        msg = "SQLAlchemy is not installed: pip install 'eventbus-sync[sqlalchemy]'"
        raise ConfigError(msg) from None
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError  # noqa: PLC0415

    from eventbus_sync.integrations.sqlalchemy import (  # noqa: PLC0415
        SqlAlchemyOutbox,
    )

    kind = arguments.db.partition("://")[0].partition("+")[0]
    try:
        url = sqlalchemy.make_url(arguments.db)
        _check_password(arguments.db, given=url.username is not None)
        _check_file(url, may_be_new=getattr(arguments, "deed", "") == "init")
        engine = sqlalchemy.create_engine(url, pool_pre_ping=True)
    except ConfigError:
        raise
    except NoSuchModuleError:
        meant = nearest(kind, _SCHEMES)
        hint = f"; did you mean {_SCHEMES[meant]}?" if meant else ""
        msg = f"SQLAlchemy knows no such database: {_plain(arguments.db)}://…{hint}"
        raise ConfigError(msg) from None
    except (ArgumentError, ValueError, TypeError):
        msg = (
            "--db is not a URL that SQLAlchemy can read: write "
            "sqlite:///app.db or postgresql+psycopg://user:password@host/name"
        )
        raise ConfigError(msg) from None
    except ImportError as error:
        advice = _DRIVERS.get(kind, "install the driver")
        msg = f"the driver for {kind} is not installed ({error.name}): {advice}"
        raise ConfigError(msg) from None
    sqlalchemy.event.listen(engine, "do_connect", _connect)
    try:
        named = {"table_name": arguments.table} if arguments.table else {}
        yield SqlAlchemyOutbox(
            engine,
            schema=arguments.schema,
            # Only the relay can be told these.
            notify=not getattr(arguments, "no_notify", False),
            commit_order=not getattr(arguments, "no_commit_order", False),
            **named,
        )
    finally:
        engine.dispose()


def _check_file(url: "URL", *, may_be_new: bool) -> None:
    # SQLite would make an empty file of a name with a slip in it. What begins with
    # file: is a URL of its own.
    name = url.database or ""
    ours = url.get_backend_name() == "sqlite" and not name.startswith((":", "file:"))
    if not ours or not name:
        return
    folder = Path(name).absolute().parent
    if not folder.is_dir():
        msg = f"there is no folder {str(folder)!r}: look at --db, or make it"
        raise ConfigError(msg)
    if not may_be_new and not Path(name).exists():
        msg = (
            f"there is no file {name!r}: look at --db, or make the table there with "
            "`python -m eventbus_sync outbox init`"
        )
        raise ConfigError(msg)


def _check_password(text: str, *, given: bool) -> None:
    # What stands behind the first @ of a password is taken for the host; libraries put
    # that into their messages.
    if given and text.count("@") > 1:
        msg = (
            "--db has more than one @: write %40 for those in the password or elsewhere"
        )
        raise ConfigError(msg)


def _connect(dialect: Any, record: Any, args: Sequence[Any], named: Any) -> Any:
    del record
    try:
        return dialect.connect(*args, **named)
    except (TypeError, ValueError) as error:
        # Its text may hold values; the names are in the URL anyway.
        msg = (
            "the driver does not take a setting of --db, or its value: look at what "
            f"stands behind the ? ({type(error).__name__})"
        )
        raise ConfigError(msg) from None


def answered(
    parser: argparse.ArgumentParser,
    run: "Callable[[argparse.Namespace, SqlAlchemyOutbox], int]",
) -> Callable[[argparse.Namespace], int]:
    """Return *run* with the outbox opened, and its errors as exit codes."""

    def command(arguments: argparse.Namespace) -> int:
        try:
            with opened(arguments) as outbox:
                return run(arguments, outbox)
        except StoreFailed as error:
            complain(parser, error, "Is the database up, and are host and login right?")
            return NO_DATABASE
        except (ConfigError, OutboxError) as error:
            # Whoever named a table may have made a slip in the name.
            if isinstance(error, SchemaMismatch) and arguments.table:
                error = ConfigError(f"look at --table: {error}")
            complain(parser, error)
            return USAGE

    return command


def complain(
    parser: argparse.ArgumentParser, error: EventBusError, advice: str = ""
) -> None:
    """Say on standard error what is wrong, and what to do about it."""
    lines = [line for line in (f"{parser.prog}: {error}", advice) if line]
    sys.stderr.write("\n".join(lines) + "\n")


def _plain(url: str) -> str:
    # What stands before the :// of something that is no URL may be a password.
    scheme, found, _ = url.partition("://")
    legal = found and scheme.replace("+", "").replace("_", "").isalnum()
    return scheme[:40] if legal else "?"
