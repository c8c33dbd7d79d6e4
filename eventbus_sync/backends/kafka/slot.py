"""Where publishers find the producer of the moment, or learn why there is none."""

import threading

from eventbus_sync._threads import Deadline, WaitList
from eventbus_sync.backends.kafka.client import Client
from eventbus_sync.errors import BackendBusy, BusClosed, ConfigError, PublishError


class Slot:
    """
    Holds the client that publishers use. Thread-safe; no method calls the driver.

    Attributes:
        client: None while there is none. Read without the lock, once per event.
        verdict: why there will be none for long: a ConfigError is raised to the
            publishers, a PublishError becomes the outcome of their events.
        closing: true for good from ``close`` on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = WaitList()
        self.client: Client | None = None
        self.verdict: ConfigError | PublishError | None = None
        self.closing = False

    def offer(
        self, client: Client | None, verdict: ConfigError | PublishError | None
    ) -> None:
        """Give publishers a client, or the reason why there is none."""
        with self._lock:
            self.client = None if self.closing else client
            self.verdict = verdict
            self._changed.wake_all_locked()

    def withdraw(self, client: Client) -> None:
        """Let publishers take *client* no more; those who hold it may still use it."""
        with self._lock:
            if self.client is client:
                self.client = None

    def close(self) -> None:
        """End every wait with ``BusClosed``, now and from now on."""
        with self._lock:
            self.closing = True
            self.client = None
            self._changed.wake_all_locked()

    def pause(self, seconds: float) -> None:
        """Wait until something changes, at most *seconds*, not at all once closing."""
        with self._lock:
            if self.closing:
                return
            ticket = self._changed.enlist_locked()
        ticket.acquire(timeout=seconds)
        with self._lock:
            self._changed.leave_locked(ticket)

    def next_client(
        self, lost: Client | None, deadline: Deadline
    ) -> Client | PublishError:
        """
        Return a client other than *lost*, or what the event gets without one.

        Raises:
            BackendBusy: none came until *deadline*.
            BusClosed: the back end is closing.
            ConfigError: the driver does not accept the settings.
        """
        ticket = None
        while True:
            with self._lock:
                self._changed.leave_locked(ticket)
                if self.closing:
                    raise BusClosed
                if self.client is not None and self.client is not lost:
                    return self.client
                verdict = self.verdict
                if isinstance(verdict, PublishError):
                    return verdict
                if verdict is not None:
                    raise ConfigError(str(verdict))
                remaining = deadline.remaining()
                if remaining <= 0:
                    msg = (
                        "the Kafka producer is being started or replaced, and was not "
                        "ready in time"
                    )
                    raise BackendBusy(msg)
                ticket = self._changed.enlist_locked()
            ticket.acquire(timeout=remaining)
