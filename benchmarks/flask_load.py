"""A Flask application that publishes in each request: ``python -m benchmarks flask``."""

import contextlib
import http.client
import importlib.util
import json
import os
import subprocess
import sys
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks import ours
from benchmarks.brokers import Broker, Destination
from benchmarks.databases import NotHere
from benchmarks.figures import Measured, ratio
from benchmarks.pacing import percentiles
from benchmarks.parts import Part, Settings
from eventbus_sync.testing._ports import HOST, free_port


_DESCRIPTION: Final = """\
Requests per second and their latency, of a Flask application under gunicorn (one worker
process, 8 threads), with 8 connections from a second process on loopback. In turns: the
view publishes with the bus; it only answers; it publishes and waits for the outcome. On
few cores load generator, server and broker share them: ratios count.
"""

_THREADS: Final = 8
_START: Final = 20.0
_ROOT: Final = Path(__file__).parents[1]
#: What the view does, in words.
_MODES: Final = {
    "bus": "view publishes with the bus",
    "none": "view without publishing",
    "wait": "view publishes and waits",
}


def measure(settings: Settings) -> Iterator[Measured]:
    """
    Yield figures of each broker.

    Raises:
        NotHere: Flask or gunicorn is missing.
    """
    for name in ("flask", "gunicorn"):
        if importlib.util.find_spec(name) is None:
            msg = f"there is no {name} here: pip install flask gunicorn"
            raise NotHere(msg)
    choices = list(settings.each_broker(once_per_kind=True))
    for opened in choices[:1] if settings.quick else choices:
        with opened as broker:
            found = {
                mode: Measured(text, broker.title, "requests/s")
                for mode, text in _MODES.items()
            }
            for _ in range(settings.rounds()):
                for mode, measured in found.items():
                    _one(broker, mode, settings, measured)
            yield from found.values()
            yield ratio("with the bus / without", found["bus"], found["none"])
            yield ratio("with the bus / waiting", found["bus"], found["wait"])


def _one(broker: Broker, mode: str, settings: Settings, measured: Measured) -> None:
    seconds = 1.0 if settings.quick else 5.0
    to = broker.destination()
    with ours.connected(to):
        pass
    with _gunicorn(to, mode) as port:
        _load(port, 0.3)
        before = _books(port)
        done = _load(port, seconds)
        books = _books(port)
    to.remove()
    requests, failed = len(done["took"]), done["failed"]
    details = {f"{name}": value for name, value in percentiles(done["took"]).items()}
    run = measured.add_run(requests, done["seconds"], **details)
    accepted = books["accepted"] - before["accepted"]
    acked = books["acked"] - before["acked"]
    told = (
        f"{requests:,} answered, {failed} badly; {accepted:,} accepted, {acked:,} acked"
    )
    expected = 0 if mode == "none" else requests
    right = accepted == acked == expected and not failed and books["balanced"]
    run.note(told, balanced=right)


@contextlib.contextmanager
def _gunicorn(to: Destination, mode: str) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}"]
    command += ["--workers", "1", "--worker-class", "gthread"]
    command += ["--threads", str(_THREADS), "--log-level", "error"]
    given = {"MODE": mode, "URL": to.url, "TOPIC": to.topic}
    environment = {f"BENCHMARK_{name}": value for name, value in given.items()}
    with subprocess.Popen(  # noqa: S603 - our own program
        [*command, "benchmarks.flask_app:app"],
        cwd=_ROOT,
        env={**os.environ, **environment},
    ) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    give_up_at = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < give_up_at:
        with contextlib.suppress(OSError):
            _books(port)
            return
        time.sleep(0.05)
    msg = "gunicorn did not start; what it said stands above"
    raise RuntimeError(msg)


def _books(port: int) -> dict[str, Any]:
    client = http.client.HTTPConnection(HOST, port, timeout=30)
    client.request("GET", "/books")
    found: dict[str, Any] = json.loads(client.getresponse().read())
    client.close()
    return found


def _load(port: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(  # noqa: S603 - our own program
        [*command, str(port), str(seconds), str(_THREADS)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


PART: Final = Part(
    "flask", "requests/s and p99 of a view that publishes", _DESCRIPTION, measure
)
