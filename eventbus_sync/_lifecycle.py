"""
Fork and exit: one hook of each kind for all buses of the process.

After ``fork()`` only the forking thread exists in the child. Every lock may be held by
a thread that is gone, and every driver object belongs to the parent's threads and
connections. So a child never uses, closes or frees what it inherited: the bus drops
its running half into ``_abandoned`` and starts afresh at its next use.

At exit the order is: ``threading._register_atexit`` callbacks, newest first (among them
the one of ``concurrent.futures``, after which executors refuse work), then non-daemon
threads are joined, then ``atexit``. Our hook must come before the executor's, or the ack
workers and the resolver are dead when we flush; ``atexit`` is only the fallback, since
``_register_atexit`` is private (gh-86128). Multiprocessing children run it too, and
inherit the parent's registration: every bus compares the pid before it acts.
"""

import atexit
import contextlib
import enum
import logging
import os
import sys
import threading
import time
import weakref

from typing import NamedTuple, Protocol

from eventbus_sync._threads import own_workers
from eventbus_sync.errors import ConfigError


logger = logging.getLogger("eventbus_sync")


class State(enum.Enum):
    """The life of a bus in one process: only ever forward, closed is final."""

    #: Nothing was used yet: no thread, no socket.
    NEW = "new"
    #: Threads run, events are accepted.
    RUNNING = "running"
    #: ``close`` refuses new events and waits for outcomes.
    DRAINING = "draining"
    #: Everything is settled and stopped.
    CLOSED = "closed"


class Activity(NamedTuple):
    """What the end of the process asks a bus."""

    accepted: int
    exit_timeout: float
    #: The threads that wait for results.
    readers: set[int]


class Bus(Protocol):
    """What the hooks need of a bus."""

    def _after_fork_in_child(self) -> None: ...

    def _at_exit(self, started: float) -> None: ...

    def _activity(self) -> Activity: ...


_buses: "weakref.WeakSet[Bus]" = weakref.WeakSet()
# A running bus lives until it is closed, even if its owner forgets it: there may be
# events in flight, and the exit hook must find it.
_running: "set[Bus]" = set()
# What a forked child inherited and must never touch, free or close.
_abandoned: list[object] = []
_exit_hook_registered = False

#: gevent 26 answers to these names, and not to "thread".
_GEVENT_PATCHES = ("_thread", "threading", "queue", "select", "selectors")


def track(bus: Bus) -> None:
    """Make *bus* start afresh in forked children."""
    _buses.add(bus)


def started(bus: Bus) -> None:
    """Keep *bus* alive, and flush it when the process ends."""
    _running.add(bus)
    register_exit_hook()


def closed(bus: Bus) -> None:
    """Let go of *bus*."""
    _running.discard(bus)


def abandon(inherited: object) -> None:
    """Keep what a child inherited from ever being freed."""
    _abandoned.append(inherited)


def refuse_green_threads() -> None:
    """
    Raise ``ConfigError`` if what our threads stand on was monkey-patched.

    With gevent's or eventlet's threads our poll and loop threads would be greenlets on
    the hub's own thread, and the first blocking poll would stop the whole process. With
    its queue the result channel has no lock, with its select no event loop hears of an
    answer.
    """
    for module, test, names in (
        ("gevent.monkey", "is_module_patched", _GEVENT_PATCHES),
        ("eventlet.patcher", "is_monkey_patched", ("thread", "select")),
    ):
        patcher = sys.modules.get(module)
        if patcher is None:
            continue
        patched = [name for name in names if getattr(patcher, test)(name)]
        if patched:
            library = module.partition(".")[0]
            msg = (
                f"{library} has monkey-patched {', '.join(patched)}, and eventbus_sync "
                f"needs the real ones: patch with thread=False, queue=False, "
                f"select=False, or run a threaded worker (gunicorn --worker-class "
                f"gthread)"
            )
            raise ConfigError(msg)


def _after_fork_in_child() -> None:
    own_workers.clear()
    for bus in list(_buses):
        bus._after_fork_in_child()  # noqa: SLF001 - the hook is the bus's own
    # Last: it may be all that keeps a bus alive whose channel somebody holds.
    _running.clear()


def register_exit_hook() -> None:
    """
    Have every bus of this process closed when the process ends.

    Also a bus that was never used: only its end wakes a reader of its channel.
    """
    # Registered at the first use and not at import: it must be younger than the
    # hook of concurrent.futures, which importing this module should not load.
    global _exit_hook_registered  # noqa: PLW0603 - one hook per process
    if _exit_hook_registered:
        return
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        import concurrent.futures.thread  # noqa: F401, PLC0415 - its hook comes first

        register(_at_exit)
    except RuntimeError:  # first used when the main thread has ended already
        atexit.register(_at_exit)
    _exit_hook_registered = True


def _wait_for_publishers() -> None:
    """
    Let the application's own threads finish first, as the interpreter would.

    Threads that wait in our channels are not waited for: it is our close that ends
    them. Neither are threads that do something else than publish for exit_timeout:
    they may depend on such a reader.
    """
    accepted, quiet_since = -1, time.monotonic()
    while True:
        buses = [bus._activity() for bus in _all_buses()]  # noqa: SLF001 - ours
        total = sum(bus.accepted for bus in buses)
        patience = max((bus.exit_timeout for bus in buses), default=0.0)
        readers = {reader for bus in buses for reader in bus.readers}
        ignored = {threading.main_thread(), threading.current_thread()}
        ignored |= _idle_executor_threads()
        busy = [
            thread
            for thread in threading.enumerate()
            if not thread.daemon
            and thread not in ignored
            and thread.ident not in readers
        ]
        now = time.monotonic()
        if total != accepted:
            accepted, quiet_since = total, now
        if not busy or now - quiet_since > patience:
            return
        time.sleep(0.02)


def _idle_executor_threads() -> set[threading.Thread]:
    """
    Return the threads of executors that run no task, our own executors' among them.

    They end only after us: the executors' hook, which lets tasks finish, comes after
    ours for our own workers' sake.
    """
    idle = set(own_workers)
    threads = sys.modules.get("concurrent.futures.thread")
    processes = sys.modules.get("concurrent.futures.process")
    # The names below are Python's own affair: where they are others, tasks just do not
    # count as idle, and exit takes longer. (RuntimeError: one more just came.)
    # ruff: disable[SLF001]
    with contextlib.suppress(AttributeError, RuntimeError):
        if threads is not None:
            with threads._global_shutdown_lock:
                queues = dict(threads._threads_queues)
            frames = sys._current_frames()
            for thread, tasks in queues.items():
                frame = frames.get(thread.ident or 0)
                # A worker without a task waits, in C, in its own loop.
                waits = frame is None or frame.f_code.co_name == "_worker"
                if waits and not tasks.qsize():
                    idle.add(thread)
        if processes is not None:
            for thread in list(processes._threads_wakeups):
                if not thread.pending_work_items:
                    idle.add(thread)
    # ruff: enable[SLF001]
    return idle


def _all_buses() -> list[Bus]:
    while True:
        with contextlib.suppress(RuntimeError):  # another thread makes one just now
            return list(_buses)


def _at_exit() -> None:
    try:
        _wait_for_publishers()
    except BaseException:
        # Ctrl-C, most likely. It ends the waiting for others, not the flush.
        logger.warning("interrupted while threads still publish", exc_info=True)
    # One clock for all: many buses share the exit time, they don't add theirs up.
    now = time.monotonic()
    for bus in _all_buses():
        try:
            bus._at_exit(now)  # noqa: SLF001 - the hook is the bus's own
        except BaseException:
            logger.warning("interrupted while flushing at exit", exc_info=True)
            now = float("-inf")  # no more waiting, for this one and for the others
            with contextlib.suppress(BaseException):
                bus._at_exit(now)  # noqa: SLF001 - settles, and says what it left


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
