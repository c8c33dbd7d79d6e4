"""Web servers for the README's tests: a real process, its log, requests on loopback."""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import urllib.request

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from support import readme
from support.eventually import eventually
from support.processes import unmeasured
from support.readme import Workshop

from eventbus_sync.testing._ports import free_port


# gunicorn leaves the loggers of others alone unless it is told.
LOG_CONFIG: Final = """\
[loggers]
keys = root, error, access
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = DEBUG
handlers = console
[logger_error]
level = INFO
qualname = gunicorn.error
handlers =
[logger_access]
level = WARNING
qualname = gunicorn.access
handlers =
[handler_console]
class = StreamHandler
formatter = plain
args = (sys.stderr,)
[formatter_plain]
format = %(name)s: %(message)s
"""


class Process:
    """A program that runs until it is told to end; what it prints is in ``log``."""

    def __init__(self, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self._popen = popen
        self._log = log

    @property
    def log(self) -> str:
        """Everything that it printed."""
        return self._log.read_text()

    def lines(self, beginning: str) -> list[str]:
        """Return what follows *beginning* in the lines of the log that have it."""
        found = [line.partition(beginning) for line in self.log.splitlines()]
        return [rest for _, here, rest in found if here]

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to it and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def ended(self, timeout: float = 30) -> int:
        """Wait for the end and return the exit code."""
        return self._popen.wait(timeout)


@contextlib.contextmanager
def running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[Process]:
    """
    Run a program in *folder*; however the test ends, it does not survive.

    Coverage does not watch it, since SIGTERM raises in some of them.
    """
    log = folder / "process.log"
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            command,
            cwd=folder,
            env=unmeasured(environment),
            stdout=sink,
            stderr=sink,
            start_new_session=True,  # so that its children can be killed with it
        )
    process = Process(popen, log)
    try:
        yield process
    except BaseException:
        print(process.log)  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        if popen.poll() is None:
            popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(20)
        process.kill()
        popen.wait(20)


def post(url: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """POST an order as JSON and return the answer."""
    request = urllib.request.Request(
        url, json.dumps(order).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def post_many(url: str, numbers: range) -> set[str]:
    """POST an order for each number from four threads; return the event ids."""
    with ThreadPoolExecutor(4) as executor:
        answers = executor.map(lambda number: post(url, {"id": number}), numbers)
        return {answer["event_id"] for answer in answers}


@contextlib.contextmanager
def flask_running(
    workshop: Workshop, section: str
) -> Iterator[tuple[Process, dict[str, Any]]]:
    """Run the section's ``flask … run`` and its curl; yield the server and the answer."""
    served, asked = readme.commands(section)[:2]
    program, *arguments = shlex.split(served)
    assert program == "flask"
    port = free_port()
    given = workshop.python("-m", "flask", *arguments, "--port", str(port))
    with running(given, workshop.folder, workshop.environment()) as process:
        url, body = _curled(asked)
        url = url.replace(":5000", f":{port}")
        yield process, eventually(lambda: post(url, json.loads(body)), timeout=20)


def _curled(command: str) -> tuple[str, str]:
    """Return URL and body of a curl command, which need not be installed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=["curl"])
    parser.add_argument("-i", action="store_true")
    parser.add_argument("-H", choices=["Content-Type: application/json"], required=True)
    parser.add_argument("-d", required=True)
    parser.add_argument("url")
    given = parser.parse_args(shlex.split(command))
    return given.url, given.d


def answers(url: str) -> set[str]:
    """Wait until the server takes an order, and return its event id in a set."""
    return {eventually(lambda: post(url, {"id": 0}), timeout=20)["event_id"]}
