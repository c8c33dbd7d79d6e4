"""For users of a bus without an outbox: a thread that hands results to a handler."""

import os
import threading

from collections.abc import Callable
from typing import NoReturn, Self

from eventbus_sync._arguments import check_callable, check_seconds
from eventbus_sync._threads import Deadline, WaitList, join_all, spawn
from eventbus_sync.bus import EventBus
from eventbus_sync.errors import ConfigError, ResultChannelClosed
from eventbus_sync.outbox.reader import channel_of, read_alone, take, take_channel
from eventbus_sync.outbox.trouble import Trouble
from eventbus_sync.results import PublishResult, PublishResultChannel


#: Seconds after the handler failed: at first, and at most.
FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0

Handler = Callable[[list[PublishResult]], object]


class ResultConsumer:
    """
    Takes results off a channel in batches and calls ``handler(batch)``. Thread-safe.

    A handler that raises is called again **with the same batch**, after a pause that
    doubles from 0.1 to 10 s, until it returns or the consumer is stopped: make it
    repeatable, as an UPDATE by event id is. Meanwhile results gather in the channel,
    up to its capacity. The thread ends by itself when the bus is closed and the last
    result was handled; what it does not handle is left to ``unhandled``.

    ::

        with ResultConsumer(bus, mark_rows):
            ...

    Args:
        source: a bus, or its result channel; nobody else may read it.
        handler: called with 1 to *max_items* results, on the consumer's thread.
        max_items: the largest batch.
        timeout: seconds between two looks for ``stop`` while no result comes.
        name: begins the name of its thread, and its lines in the log.

    Raises:
        ConfigError: a setting is wrong, or somebody else reads the channel.
    """

    def __init__(
        self,
        source: EventBus | PublishResultChannel,
        handler: Handler,
        *,
        max_items: int = 1000,
        timeout: float = 0.5,
        name: str = "results",
    ) -> None:
        check_callable("handler", handler)
        check_seconds("timeout", timeout)
        if max_items < 1:
            msg = f"max_items must be a whole number from 1 up, not {max_items!r}"
            raise ConfigError(msg)
        self._channel = channel_of(source)
        self._handler = handler
        self._max_items = max_items
        self._timeout = timeout
        self._name = name
        self._trouble = Trouble(name)
        self._reset()
        take_channel(self._channel, self)

    def _reset(self) -> None:
        # Also after a fork: thread, batch and lock are the parent's.
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._changed = WaitList()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._batch: list[PublishResult] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __reduce__(self) -> NoReturn:
        msg = "a ResultConsumer cannot be pickled or copied: its thread is here"
        raise TypeError(msg)

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self._name

    @property
    def finished(self) -> bool:
        """Whether it has ended, so that another one may read the channel."""
        thread = self._thread
        # Stopped before it was ever started, it will not read either.
        return self._stopping if thread is None else not thread.is_alive()

    @property
    def unhandled(self) -> list[PublishResult]:
        """The batch that the handler did not take; the next ``start`` begins with it."""
        return list(self._batch)

    @property
    def last_error(self) -> Exception | None:
        """What the handler raised last, else None."""
        return self._trouble.last()[0]

    def start(self) -> None:
        """Start the thread; does nothing if it runs."""
        self._check_pid()
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            take_channel(self._channel, self)
            self._stopping = False
            self._thread = spawn(f"{self._name}-consumer", self._run)
            read_alone(self._channel, self)

    def stop(self, timeout: float = 10.0) -> bool:
        """
        End after the batch that is being handled; return whether it ended in time.

        What is in the channel stays there.
        """
        check_seconds("timeout", timeout)
        self._check_pid()
        with self._lock:
            self._stopping = True
            self._changed.wake_all_locked()
        return self.join(timeout)

    def join(self, timeout: float) -> bool:
        """Wait for the end of the stream at most *timeout* seconds."""
        thread = self._thread
        return thread is None or not join_all([thread], Deadline.after(timeout))

    def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping:
            if not self._batch:
                # On the object before the handler sees it: nothing is lost if it fails.
                try:
                    self._batch = take(self._channel, self._max_items, self._timeout)
                except ResultChannelClosed:
                    return
                continue
            try:
                self._handler(list(self._batch))
            except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler, too
                caught = error if isinstance(error, Exception) else RuntimeError(error)
                self._trouble.note("the handler failed", caught, unforeseen=True)
                self._sleep(backoff)
                backoff = min(LONGEST_BACKOFF, backoff * 2)
            else:
                self._batch = []
                backoff = FIRST_BACKOFF

    def _sleep(self, seconds: float) -> None:
        deadline = Deadline.after(seconds)
        ticket = None
        while True:
            with self._lock:
                self._changed.leave_locked(ticket)
                if self._stopping or deadline.expired():
                    return
                ticket = self._changed.enlist_locked()
            ticket.acquire(timeout=deadline.remaining())

    def _check_pid(self) -> None:
        if self._pid != os.getpid():
            self._reset()
