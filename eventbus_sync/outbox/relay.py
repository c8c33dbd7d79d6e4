"""
The relay: publishes the rows of an outbox, and marks what became of each.

::

    claim a batch -> publish all of it -> take outcomes as they come -> mark a batch
    (claiming.py)    (publishing.py)      (retry.py decides)            (marking.py)

``held.py`` has the rows in between, ``running.py`` the threads.

What the relay promises, while several of them in threads, processes and on hosts share
one table, and whichever of them are killed:

* every committed row is published, unless it is dead, with its reason in the table;
* rows of one aggregate are stored in their order, by first occurrence;
* a row that was published twice has the same event id both times;
* never are two attempts of one event in flight. (A process that is frozen between
  looking at its lease and handing over the event could break this; that takes a freeze
  of seconds at one of a few instructions.)
"""

import os
import threading
import time

from typing import NoReturn

from eventbus_sync._arguments import check_seconds
from eventbus_sync._threads import Deadline
from eventbus_sync.bus import EventBus
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import ConfigError, JetStreamDisabled
from eventbus_sync.outbox.lines import Counts
from eventbus_sync.outbox.reader import read_alone, take_channel
from eventbus_sync.outbox.relay_stats import RelayStats, snapshot
from eventbus_sync.outbox.retry import RetryPolicy
from eventbus_sync.outbox.running import Run
from eventbus_sync.outbox.settings import Settings, check_lease
from eventbus_sync.outbox.store import OnDead, Ordering, OutboxStore
from eventbus_sync.outbox.trouble import Trouble


#: Seconds between two looks of ``run`` for its end; a signal handler may not take locks.
_LOOK = 0.5


class OutboxRelay:
    """
    Publishes the rows of *outbox* through *bus*. Thread-safe.

    The relay reads the results of its bus, so it needs a bus for itself. Close the bus
    after the relay was stopped; the relay does not.

    Args:
        outbox: where the rows are, such as a ``SqlAlchemyOutbox``.
        bus: a bus that nobody else reads results of.
        name: begins the names of its threads and its lines in the log.
        batch_size: rows per claim; at most three times as many are in memory. Fewer
            when they are large: at most 64 MiB of payloads and headers, and one row
            more, are in memory.
        lease: seconds for which a claimed row is this relay's; renewed while it has
            it. A killed relay's rows come back after that.
        ordering: "aggregate": one event per aggregate in flight, so that their order
            is kept whatever fails. "none": all at once.
        on_dead: what a dead row means for later rows of its aggregate. "hold": none is
            published until the row is requeued or discarded. "skip": they go on.
        retry: how often and how long an event is tried.
        poll_interval: the longest pause between two looks for new rows, where the
            database sends no notifications. In a long backlog of rows that cannot be
            claimed, what becomes free again without a word from this relay is found
            within 30 seconds, or this if it is longer, and a look at the whole table.
        purge_after: seconds after which published and discarded rows are deleted; None
            for never.
        purge_batch: how many of them at once.

    Raises:
        ConfigError: a setting is wrong; the lease is too short for the bus; or the
            results of the bus are read by somebody else.
    """

    def __init__(  # noqa: PLR0913 - settings by name
        self,
        outbox: OutboxStore,
        bus: EventBus,
        *,
        name: str = "relay",
        batch_size: int = 500,
        lease: float = 30.0,
        ordering: Ordering = "aggregate",
        on_dead: OnDead = "hold",
        retry: RetryPolicy | None = None,
        poll_interval: float = 1.0,
        purge_after: float | None = 7 * 86400.0,
        purge_batch: int = 1000,
    ) -> None:
        if not isinstance(bus, EventBus):
            msg = f"bus must be an EventBus, not {type(bus).__name__}"
            raise ConfigError(msg)
        if isinstance(bus.config, NatsConfig) and not bus.config.jetstream:
            msg = (
                "the relay's bus has jetstream=False, so nothing would ever be "
                "acknowledged: enable JetStream"
            )
            raise JetStreamDisabled(msg)
        self._store = outbox
        self._bus = bus
        self._settings = Settings(
            name=name,
            retry=RetryPolicy() if retry is None else retry,
            batch_size=batch_size,
            lease=lease,
            ordering=ordering,
            on_dead=on_dead,
            poll_interval=poll_interval,
            purge_after=purge_after,
            purge_batch=purge_batch,
            delivery_timeout=bus.config.delivery_timeout,
        )
        check_lease(lease, bus.config.delivery_timeout)
        self._reset()
        self._channel = bus.get_publish_result_channel()
        take_channel(self._channel, self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._run: Run | None = None
        # It was stopped before it was ever started.
        self._given_up = False
        self._counts = Counts()
        self._trouble = Trouble(self._settings.name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._settings.name!r} {self._state()}>"

    def __reduce__(self) -> NoReturn:
        msg = "an OutboxRelay cannot be pickled or copied: its threads are here"
        raise TypeError(msg)

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self._settings.name

    @property
    def finished(self) -> bool:
        """Whether it was stopped, so that another relay may take the bus."""
        if self._pid != os.getpid():
            return True  # its threads are the parent's
        run = self._run
        return self._given_up if run is None else run.stopping and not run.alive

    # -- start and stop ---------------------------------------------------------------

    def run(self) -> None:
        """
        Publish until ``stop`` is called.

        Ctrl-C, or another exception that a signal handler raises here, stops the relay
        as ``stop()`` does and is raised again; a second one ends it at once.

        Raises:
            BusClosed: the bus was closed under the relay.
            ConfigError: as ``start``.
        """
        self.start()
        run = self._run
        assert run is not None  # noqa: S101 - it was just started
        try:
            while not run.join(_LOOK):
                pass
        except BaseException:
            self.stop()
            raise
        if run.failure is not None:
            raise run.failure

    def start(self) -> None:
        """
        Start publishing, in threads of its own; returns at once.

        Does nothing if it runs. After ``stop`` it starts anew, also after a fork. An
        unreachable broker or database is not an error: the relay goes on trying.

        Raises:
            BusClosed: the bus was closed.
            ConfigError: the bus cannot start as configured, or is another reader's.
            RuntimeError: the last ``stop`` could not end it, and its threads still run.
        """
        self._check_pid()
        with self._lock:
            run = self._run
            if run is not None and run.alive:
                if not run.stopping:
                    return
                msg = (
                    f"{self._settings.name} is being stopped and its threads still run (the "
                    "database hangs?): wait for stop(), or make a new relay"
                )
                raise RuntimeError(msg)
            take_channel(self._channel, self)
            # A bus that cannot start as configured is no row's fault: say so here.
            self._bus._running()  # noqa: SLF001 - what the first publish would do
            # Nothing of an earlier run is used again: no ended thread, no closed queue.
            run = Run(
                self._settings.name,
                self._store,
                self._bus,
                self._channel,
                self._settings,
                self._settings.retry,
                self._counts,
                self._trouble,
            )
            # First, so that threads that were started can be stopped, whatever happens.
            self._run = run
            run.start()
            read_alone(self._channel, self)

    def stop(self, timeout: float | None = None) -> bool:
        """
        Claim no more, wait for what is in flight, mark it, and give the rest back.

        May be called again, and from any thread: a second call while the first one
        waits ends the wait at once. What is then in flight stays leased until its
        lease ends, so that nobody else tries it meanwhile.

        Args:
            timeout: seconds; by default as long as outcomes can take.

        Returns:
            Whether every row was marked or given back.
        """
        if timeout is None:
            timeout = self._settings.delivery_timeout + 2.0
        check_seconds("timeout", timeout)
        self._check_pid()
        run = self._run
        if run is None:
            self._given_up = True
            return True
        if run.stop_asked and run.alive:
            run.abandon()
            return run.join(_LOOK) and not run.held.held
        return run.stop(Deadline.after(timeout))

    def drain(self, timeout: float | None = None, *, start: bool = True) -> bool:
        """
        Publish until nothing is due.

        Rows that wait for their next attempt or for ``not_before`` are not due, nor are
        those that a dead row or another relay's lease holds. Rows that wait for an older
        transaction of the database are: it is waited for them.

        Args:
            timeout: seconds; None for any time.
            start: whether a relay that does not run is started for that and stopped
                again; else there is nothing to wait for.

        Returns:
            False if something was still due after *timeout*, or it was stopped.

        Raises:
            BusClosed, ConfigError: as ``start``.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        started = self._state() not in {"running", "stopping"}
        if started and not start:
            return False
        if started:
            self.start()
        deadline = Deadline(float("inf"))
        if timeout is not None:
            deadline = Deadline.after(timeout)
        run = self._run
        assert run is not None  # noqa: S101 - it runs, or has run
        try:
            while not (done := run.drain(Deadline(min(deadline.at, _soon())))):
                if deadline.expired() or run.stopping:
                    break
        finally:
            if started:
                self.stop()
        return done

    # -- looking on -------------------------------------------------------------------

    def stats(self) -> RelayStats:
        """Return one consistent snapshot."""
        self._check_pid()
        return snapshot(self._state(), self._run, self._counts, self._trouble)

    def _state(self) -> str:
        run = self._run
        if run is None:
            return "new"
        if run.alive:
            return "stopping" if run.stopping else "running"
        return "failed" if run.failure is not None else "stopped"

    def _check_pid(self) -> None:
        # After a fork the threads, and the rows they held, are the parent's.
        if self._pid != os.getpid():
            self._reset()


def _soon() -> float:
    # Waits are cut, since some platforms cannot wait for ever.
    return time.monotonic() + 3600.0
