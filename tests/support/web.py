"""A WSGI application that publishes an event for each request, and load on it."""

import contextlib
import http.client
import os
import threading
import urllib.request

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from support.books import FIND_SUPPORT
from support.processes import unmeasured
from support.stored import Place

import eventbus_sync


# ``prefork`` uses the bus where the application is imported: in the master, if it forks.
APPLICATION = (
    FIND_SUPPORT
    + """
import os, threading
from eventbus_sync import EventBus

keeper = Keeper(EventBus.from_url(URL), TOPIC, FOLDER)
reader = None
if PREFORK:
    keeper.publish("imported")
    keeper.bus.flush(20)


def begin():
    global reader
    reader = keeper.start_reader()


def end():
    keeper.end(reader=reader)


def app(environ, start_response):
    event_id = keeper.publish(str(threading.get_ident()))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [event_id.encode()]
"""
)


def write_application(folder: Path, place: Place, *, prefork: bool) -> None:
    """Write ``web.py``, whose ``app`` publishes to the place."""
    # A worker that ends on a busy machine may need long for its first connection.
    url = f"{place.url}&exit_timeout=30"
    names = {"URL": url, "TOPIC": place.topic, "FOLDER": str(place.folder)}
    constants = [f"{name} = {value!r}" for name, value in names.items()]
    head = "\n".join([*constants, f"PREFORK = {prefork}"])
    (folder / "web.py").write_text(head + APPLICATION)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a program in *folder* that may fork."""
    root = str(Path(eventbus_sync.__file__).parents[1])
    paths = os.pathsep.join([str(folder), root])
    here = unmeasured(os.environ)
    return {**here, "PYTHONPATH": paths, "HOME": str(folder), **more}


class Load:
    """
    Four threads that ask *url* again and again.

    Attributes:
        answered: the bodies of what was answered.
    """

    def __init__(self, url: str) -> None:
        self.answered: list[str] = []
        self._url = url
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _ask(self) -> None:
        while not self._stopping.is_set():
            # A worker that ends closes the door; who stands before it comes again.
            with contextlib.suppress(OSError, http.client.HTTPException):
                with urllib.request.urlopen(self._url, timeout=20) as response:
                    self.answered.append(response.read().decode())
                continue
            self._stopping.wait(0.05)


@contextlib.contextmanager
def load_on(port: int) -> Iterator[Load]:
    """Ask the server on *port* until the block ends."""
    with Load(f"http://127.0.0.1:{port}/") as load:
        yield load
