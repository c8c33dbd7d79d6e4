"""
The verbs that every embedded server has: start, break, mend, end.

A server is a process of its own, on a port of 127.0.0.1 that it keeps for life and in a
folder that it keeps until it is closed; so that an outage in a test looks like one.
"""

import abc
import contextlib
import os
import re
import secrets
import tempfile
import threading
import time
import types
import weakref

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing._process import Remains, ServerProcess
from eventbus_sync.testing.broker_errors import BrokerStartFailed
from eventbus_sync.testing.proxy import TcpProxy


_PORT_ATTEMPTS = 5
_POLL_INTERVAL = 0.02
_LOG_TAIL = 20_000

_PORT_TAKEN = re.compile(r"address (already )?in use", re.IGNORECASE)


class Server(abc.ABC):
    """
    A real server in a process of its own; nothing runs before ``start()`` or ``with``.

    Its verbs may be called from any thread and run one after another. It ends with this
    process at the latest, also when this process is killed. After ``fork()`` it belongs
    to the parent: in the child ``stop``, ``close`` and the end of a ``with`` block do
    nothing, the other verbs raise RuntimeError. Linux and macOS only.

    Args:
        ports: ports to listen on, or none to take free ones at the first start. Once
            taken they stay the same.
        folder: where it keeps data and log; yours to remove. By default a temporary
            folder that goes with ``close()``.
        start_timeout: seconds until it must answer.
        stop_timeout: seconds that it gets to end in good order.
        proxy: where clients find it; started and closed by whoever made it.
    """

    #: How it is called in messages and in the name of its folder.
    name: ClassVar[str]

    def __init__(
        self,
        *,
        ports: Sequence[int] = (),
        folder: Path | None = None,
        start_timeout: float = 30.0,
        stop_timeout: float = 10.0,
        proxy: TcpProxy | None = None,
    ) -> None:
        #: Told to the server and read back from it: the answer on our port may come from
        #: somebody else's server.
        self.identity = f"eventbus-{secrets.token_hex(6)}"
        #: What stands between clients and the server, or None.
        self.proxy = proxy
        self._ports = tuple(ports)
        self._given_folder = folder
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._lock = threading.RLock()
        self._log_start = 0
        self._closed = False
        self._remains = Remains()
        weakref.finalize(self, self._remains.clear)

    @abc.abstractmethod
    def _command(self, folder: Path) -> Sequence[str]:
        """Write what the program reads into ``folder`` and return its command line."""

    @abc.abstractmethod
    def _answers(self) -> bool:
        """Whether this very server gives a real answer now, within about a second."""

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def _choose_ports(self) -> tuple[int, ...]:
        return (free_port(),)

    @property
    def port(self) -> int:
        """
        TCP port of 127.0.0.1, the same for life.

        Raises:
            RuntimeError: not started yet, so no port was chosen.
        """
        if not self._ports:
            message = f"{self.name} has no port before its first start()"
            raise RuntimeError(message)
        return self._ports[0]

    @property
    def public_port(self) -> int:
        """Where clients find it: its proxy's port, else its own; raises as ``port``."""
        return self.port if self.proxy is None else self.proxy.port

    @property
    def running(self) -> bool:
        """Whether the process exists; a frozen one does."""
        process = self._remains.process
        return process is not None and process.running

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was the last that was asked of it."""
        return self._closed

    @property
    def pid(self) -> int | None:
        """Process id of the server, or None while it does not run."""
        process = self._remains.process
        return process.pid if process is not None and process.running else None

    @property
    def log(self) -> str:
        """The last 20,000 bytes of what the server printed, earlier runs included."""
        return self._read_log(-_LOG_TAIL)

    def start(self) -> None:
        """
        The server answers on its port; one that runs already is left as it is.

        Raises:
            BrokerNotInstalled: its program is missing.
            BrokerStartFailed: it ended or did not answer within ``start_timeout``.
        """
        with self._turn():
            self._closed = False
            if self.running:
                return
            if self._ports:
                self._run()
            else:
                self._run_on_free_ports()

    def stop(self) -> None:
        """The server has ended in good order; ``start()`` finds its port and files again."""
        if not self._is_ours():
            return
        with self._lock:
            if self._remains.process is not None:
                self._remains.process.terminate(self._stop_timeout)

    def kill(self) -> None:
        """The server is dead by SIGKILL; what it had written to its folder stays."""
        with self._turn():
            if self._remains.process is not None:
                self._remains.process.kill()

    def freeze(self) -> None:
        """
        The server stands still (SIGSTOP): it takes connections but answers nothing.

        Raises:
            RuntimeError: it does not run.
        """
        with self._turn():
            self._process().freeze()

    def resume(self) -> None:
        """
        The server runs on (SIGCONT), also if it was not frozen.

        Raises:
            RuntimeError: it does not run.
        """
        with self._turn():
            self._process().resume()

    def restart(self) -> None:
        """
        The server was stopped in good order and answers again on the same port.

        For a crash and its repair call ``kill()`` and ``start()``. Raises what
        ``start()`` raises.
        """
        with self._turn():
            self.stop()
            self.start()

    def close(self) -> None:
        """
        The server has ended and its temporary folder, data and log, is gone.

        In a folder of yours it is stopped in good order and everything stays.
        Calling it again does nothing.
        """
        if not self._is_ours():
            return
        with self._lock:
            self._closed = True
            if self._given_folder is not None:
                self.stop()
            self._remains.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = f"{HOST}:{self._ports[0]}" if self._ports else "no port yet"
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<{type(self).__name__} {where}, {state}>"

    def _is_ours(self) -> bool:
        return self._remains.owner == os.getpid()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        # First the owner, then the lock: a forked child's copy may be held for ever.
        if not self._is_ours():
            owner = self._remains.owner
            message = f"this {self.name} belongs to process {owner}, not to this one"
            raise RuntimeError(message)
        with self._lock:
            yield

    def _process(self) -> ServerProcess:
        process = self._remains.process
        if process is None or not process.running:
            message = f"{self!r} does not run"
            raise RuntimeError(message)
        return process

    def _folder(self) -> Path:
        if self._given_folder is not None:
            self._given_folder.mkdir(parents=True, exist_ok=True)
            return self._given_folder
        if self._remains.temporary is None:
            self._remains.temporary = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        return self._remains.temporary

    def _run_on_free_ports(self) -> None:
        attempts_left = _PORT_ATTEMPTS
        while True:
            self._ports = self._choose_ports()
            try:
                self._run()
            except BrokerStartFailed as error:
                self._ports = ()
                attempts_left -= 1
                if not (error.port_taken and attempts_left):
                    raise
            else:
                return

    def _run(self) -> None:
        if self.proxy is not None:
            self.proxy.lead_to(self.port)
        folder = self._folder()
        command = self._command(folder)
        log = folder / "server.log"
        self._log_start = log.stat().st_size if log.exists() else 0
        process = self._remains.process = ServerProcess(
            command, log=log, cwd=folder, env=self._environment()
        )
        deadline = time.monotonic() + self._start_timeout
        while process.running:
            if self._answers():
                return
            if time.monotonic() > deadline:
                process.kill()
                reason = f"did not answer within {self._start_timeout:g} s"
                raise self._start_failed(reason)
            time.sleep(_POLL_INTERVAL)
        process.kill()
        reason = f"ended with code {process.exit_code}"
        raise self._start_failed(reason)

    def _start_failed(self, reason: str) -> BrokerStartFailed:
        said = self._read_log(self._log_start)
        ports = ", ".join(map(str, self._ports))
        taken = bool(_PORT_TAKEN.search(said))
        begins = f"port {ports} is in use by another program. " if taken else ""
        return BrokerStartFailed(
            f"{begins}{self.name} on {HOST}, port {ports}, {reason}. "
            f"The end of its log:\n{said[-_LOG_TAIL:]}",
            port_taken=taken,
        )

    def _read_log(self, offset: int) -> str:
        folder = self._given_folder or self._remains.temporary
        if folder is None or not (log := folder / "server.log").exists():
            return ""
        with log.open("rb") as stream:
            if offset >= 0:
                stream.seek(offset)
            else:
                stream.seek(max(0, log.stat().st_size + offset))
            return stream.read().decode(errors="replace")
