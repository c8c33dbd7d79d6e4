"""
The thread that looks host names up for the loop: asyncio's default executor.

A look-up cannot be cancelled, and takes half a minute where a name server is dead. The
threads of a ``ThreadPoolExecutor`` are joined when the process ends, whatever
``exit_timeout`` says; this one is a daemon.
"""

import queue

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from eventbus_sync._threads import Deadline, spawn


class Resolver(ThreadPoolExecutor):
    """
    An executor, as asyncio wants one, of one daemon thread that runs from the start.

    Raises:
        RuntimeError: no thread can be started.
    """

    def __init__(self, name: str) -> None:
        super().__init__(1)  # asyncio takes no other kind; its own threads never start
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = spawn(name, self._run)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Have *fn* called behind all that was submitted before."""
        future: Future[Any] = Future()
        self._jobs.put(partial(_settle, future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's signature
        """End the thread when it is through; waits for nobody."""
        del wait, cancel_futures
        self._jobs.put(None)

    def close(self, deadline: Deadline) -> None:
        """End the thread, waiting for a look-up until *deadline*."""
        self.shutdown()
        self._thread.join(deadline.remaining())

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _settle(future: "Future[Any]", look_up: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(look_up())
        except Exception as exc:  # noqa: BLE001 - it is its caller's
            future.set_exception(exc)
