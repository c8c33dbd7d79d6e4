"""
The ack workers: a fixed crew of threads that parse acknowledgements and settle events.
"""

import os
import threading

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from eventbus_sync._threads import Deadline, own_workers
from eventbus_sync.backends.base import Ack, Settlement, Sink
from eventbus_sync.backends.nats.ack import read_ack
from eventbus_sync.backends.nats.answers import Answered


def started_pool(size: int, name: str) -> ThreadPoolExecutor:
    """
    Return a pool whose threads all run already: none can start at process exit.

    Raises:
        RuntimeError: no thread could be started; none is left.
    """
    pool = ThreadPoolExecutor(size, thread_name_prefix=name)
    # Each task waits for all others, so each needs a thread of its own.
    together = threading.Barrier(size + 1)

    def wait() -> None:
        with suppress(threading.BrokenBarrierError):
            together.wait()

    try:
        for _ in range(size):
            pool.submit(wait)
        together.wait()
    except BaseException:
        together.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    own_workers.update(pool._threads)  # noqa: SLF001 - there is no public way to them
    return pool


def end_pool(pool: ThreadPoolExecutor, deadline: Deadline) -> None:
    """End the threads of *pool* when they are through, waiting until *deadline*."""
    with suppress(RuntimeError, TimeoutError):  # ended before; not through in time
        # Behind all other jobs, since executors know no wait with a timeout.
        last = pool.submit(lambda: None)
        pool.shutdown(wait=False)
        last.result(deadline.remaining())
        pool.shutdown(wait=True)


class AckWorkers:
    """
    Two threads for each CPU, which do what acknowledgements cost.

    Args:
        size: how many threads; None is two for each CPU that this process may use.
        name: what the threads' names begin with.
        sink: is given the outcomes.
    """

    def __init__(self, size: int | None, name: str, sink: Sink) -> None:
        self._size = size if size is not None else 2 * _cpus()
        self._name = name
        self._sink = sink
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Start all threads."""
        self._pool = started_pool(self._size, self._name)

    def submit(self, answers: list[Answered]) -> None:
        """Have a chunk of answers parsed and settled; on any thread."""
        assert self._pool is not None  # noqa: S101 - started before the loop
        try:
            self._pool.submit(self._settle, answers)
        except RuntimeError:
            # The interpreter ends without our exit hook; better late than never.
            self._settle(answers)

    def close(self, deadline: Deadline) -> None:
        """End the threads when they have settled what they were given."""
        if self._pool is not None:
            end_pool(self._pool, deadline)

    def _settle(self, answers: Sequence[Answered]) -> None:
        chunk: list[Settlement] = []
        for record, data in answers:
            said = data if isinstance(data, Ack) else read_ack(data)
            if not isinstance(said, Ack):
                said = record.refused(said)
            chunk.append((record.delivery, said))
        self._sink.settle(chunk)


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
