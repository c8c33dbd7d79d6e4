"""
One server process: its signals, and an end that is certain.

A broker that outlives the test run holds its port and its memory until somebody notices.
So each process gets a watchdog, a ``/bin/sh`` that holds the other end of a pipe of ours:
however we end, SIGKILL included, the pipe closes and the watchdog kills the server.
Linux's parent-death signal would need Python code between fork and exec, which may
deadlock in a threaded process, and it fires when the starting *thread* ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time

from collections.abc import Mapping, Sequence
from pathlib import Path


_SHELL = "/bin/sh"

# "done" says that the server is dead already and its pid may belong to somebody else.
_WATCHDOG = 'read -r word; [ "$word" = done ] || kill -9 "$1"'

_FREEZE_TIMEOUT = 5.0


class ServerProcess:
    """
    The server has been started; whether it serves already is for the caller to ask.

    It gets a session of its own: Ctrl-C in the terminal stops the tests, and their
    teardown stops the server. After ``fork()`` it belongs to the parent alone
    (``owner``); the child must leave it be. Not thread-safe; its owner locks.

    Args:
        command: program and arguments.
        log: file to which standard output and error are appended.
        cwd: working directory.
        env: the whole environment of the server.

    Raises:
        OSError: the program cannot be executed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
    ) -> None:
        self.owner = os.getpid()
        with log.open("ab") as sink:
            self._popen = subprocess.Popen(  # noqa: S603 - a program that we resolved
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )
        try:
            self._watchdog = subprocess.Popen(  # noqa: S603 - text of ours and a number
                [_SHELL, "-c", _WATCHDOG, "watchdog", str(self._popen.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            self._popen.kill()
            self._popen.wait()
            raise

    @property
    def pid(self) -> int:
        """Process id, also after the end."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """Whether the process exists; a frozen one does."""
        return self._popen.poll() is None

    def terminate(self, timeout: float) -> None:
        """The process has ended: by SIGTERM, or after ``timeout`` seconds by SIGKILL."""
        self._popen.send_signal(signal.SIGTERM)
        # A frozen process sees SIGTERM only once it runs again.
        self._popen.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """The process has ended, by SIGKILL if it was still there, frozen or not."""
        self._popen.kill()
        self._popen.wait()
        self._dismiss_watchdog()

    def freeze(self) -> None:
        """Every thread of the process stands still; the kernel still takes connections."""
        self._popen.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + _FREEZE_TIMEOUT
        while not self._stopped():
            if time.monotonic() > deadline or not self.running:
                message = f"process {self.pid} did not stop on SIGSTOP"
                raise TimeoutError(message)
            time.sleep(0.001)

    def resume(self) -> None:
        """The process runs on."""
        self._popen.send_signal(signal.SIGCONT)

    def _stopped(self) -> bool:
        # kill(2) returns before the threads on other cores have stopped. waitid() asks
        # for that alone, so it cannot take the exit status away from Popen. macOS got it
        # with Python 3.13; before that the signal has to do.
        if not hasattr(os, "waitid"):  # pragma: no cover - macOS before 3.13
            return True
        # WNOWAIT leaves the answer there, for a second freeze of a frozen process.
        flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def _dismiss_watchdog(self) -> None:
        if self._watchdog.returncode is None:
            self._watchdog.communicate(b"done\n")


class Remains:
    """What must be gone when the server is: its process and its temporary folder."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.process: ServerProcess | None = None
        self.temporary: Path | None = None

    def clear(self) -> None:
        """Process and folder are gone, unless they belong to another process."""
        # A forked child inherits this object and runs its exit hooks too.
        if self.owner != os.getpid():
            return
        if self.process is not None:
            self.process.kill()
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary = None
