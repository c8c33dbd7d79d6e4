"""
One bus in this process: new, running, draining, closed, and new again after a fork.

``bus.py`` is what users call; here is when the running half exists (``_runtime.py``)
and who ends it. The hooks of ``_lifecycle.py`` come in here.
"""

import logging
import os
import threading

from typing import NoReturn

from eventbus_sync import _lifecycle
from eventbus_sync._lifecycle import State
from eventbus_sync._runtime import Runtime, backend_for
from eventbus_sync._threads import Deadline
from eventbus_sync.config import BusConfig
from eventbus_sync.errors import BusClosed, StartFailed
from eventbus_sync.observe import Callbacks, Stats
from eventbus_sync.results import PublishResultChannel


logger = logging.getLogger("eventbus_sync")


class PerProcess:
    """
    State and running half of one bus, once per process. Thread-safe.

    Constructing starts nothing; ``_running`` starts, ``_close`` ends for good.
    """

    def __init__(self, config: BusConfig) -> None:
        _lifecycle.refuse_green_threads()
        self._config = config
        self._callbacks = Callbacks()
        self._channel = PublishResultChannel(config.result_capacity)
        self._pid = os.getpid()
        self._reset(State.NEW)
        _lifecycle.track(self)

    def __reduce__(self) -> NoReturn:
        msg = (
            "an EventBus cannot be pickled or copied: its events in flight belong to this "
            "process. Give the other process the configuration (it can be pickled)"
        )
        raise TypeError(msg)

    def _reset(self, state: State) -> None:
        self._state = state
        self._runtime: Runtime | None = None
        # The last one, for its books; kept when the bus is closed.
        self._final_runtime: Runtime | None = None
        self._lock = threading.Lock()
        # Entered again by a closer that was interrupted and tries once more.
        self._closing = threading.RLock()

    def _close(self, deadline: Deadline) -> None:
        # The lock makes a second closer wait for the first, and lets it take over
        # when the first was interrupted half way.
        closing = self._closing
        if not closing.acquire(timeout=deadline.remaining()):
            logger.warning("%s: another thread still closes it", self._config.name)
            return
        try:
            with self._lock:
                runtime = self._runtime
                self._state = State.CLOSED if runtime is None else State.DRAINING
            if runtime is not None:
                left = runtime.close(deadline)
                if left:
                    logger.warning(
                        "%s: closed with %d events unanswered; their outcomes are "
                        "unknown, or rejected if they were never written",
                        self._config.name,
                        left,
                    )
                with self._lock:
                    self._final_runtime = runtime
                    self._runtime = None
                    self._state = State.CLOSED
            self._channel._end()  # noqa: SLF001 - the bus's side of the channel
            _lifecycle.closed(self)
        finally:
            closing.release()

    def _running(self) -> Runtime:
        """Return the running half; the first use in a process starts it."""
        runtime = self._runtime
        # The pid check is the second net below the fork hook: uWSGI runs hooks only
        # with --py-call-osafterfork.
        if runtime is not None and runtime.pid == os.getpid():
            return runtime
        self._check_pid()
        with self._lock:
            if self._runtime is not None:
                return self._runtime
            if self._state is State.CLOSED:
                raise BusClosed
            _lifecycle.refuse_green_threads()
            runtime = self._new_runtime()
            try:
                runtime.start()
                _lifecycle.started(self)
            except BaseException as exc:
                # Interrupted half way (Ctrl-C), or no thread to be had: leave none.
                runtime.close(Deadline.after(1.0))
                if not isinstance(exc, RuntimeError):
                    raise
                # Python has no better sign of it; otherwise the system has no thread.
                if "shutdown" in str(exc):
                    msg = f"the bus cannot start, the process is ending: {exc}"
                    raise BusClosed(msg) from exc
                msg = f"the bus cannot start its threads: {exc}"
                raise StartFailed(msg) from exc
            self._runtime = runtime
            self._state = State.RUNNING
            return runtime

    def _new_runtime(self) -> Runtime:
        config = self._config
        return Runtime(
            config,
            self._channel,
            self._callbacks,
            lambda sink: backend_for(config, sink),
        )

    def _books(self) -> Stats:
        self._check_pid()
        runtime = self._runtime or self._final_runtime
        if runtime is not None:
            return runtime.stats()
        return Stats(capacity=self._channel.maxsize)

    def _check_pid(self) -> None:
        if self._pid != os.getpid():
            self._after_fork_in_child()

    def _after_fork_in_child(self) -> None:
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        # Kept for ever and never touched: freeing it would run driver destructors
        # that wait for the parent's threads, or close the parent's sockets.
        for inherited in (self._runtime, self._final_runtime):
            if inherited is not None:
                _lifecycle.abandon(inherited)
        self._channel._reset_after_fork()  # noqa: SLF001 - the bus's side of the channel
        closed = self._state is State.CLOSED
        self._reset(State.CLOSED if closed else State.NEW)
        if closed:
            self._channel._end()  # noqa: SLF001 - closed is final, in children too

    def _activity(self) -> _lifecycle.Activity:
        return _lifecycle.Activity(
            self._books().accepted,
            self._config.exit_timeout,
            set(self._channel._waiting),  # noqa: SLF001 - the bus's side of the channel
        )

    def _at_exit(self, started: float) -> None:
        if self._pid != os.getpid() or self._state is State.CLOSED:
            return
        deadline = Deadline(started + self._config.exit_timeout)
        logger.debug("%s: flushing at exit", self._config.name)
        self._close(deadline)
