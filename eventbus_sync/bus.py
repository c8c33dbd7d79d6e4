"""EventBus: the one object that request handlers, tasks and scripts hold."""

import time

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from eventbus_sync import _lifecycle
from eventbus_sync._arguments import check_callable, check_seconds, encoded, text
from eventbus_sync._event import InFlightEvent, Waiter
from eventbus_sync._lifecycle import State
from eventbus_sync._process import PerProcess
from eventbus_sync._runtime import Runtime
from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import MakesBackend, OutgoingMessage
from eventbus_sync.config import BusConfig, KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.envelope import Envelope
from eventbus_sync.envelope.headers import check_extra_headers
from eventbus_sync.errors import (
    BusClosed,
    CalledFromCallback,
    ConfigError,
    EnvelopeError,
    JetStreamDisabled,
    MessageTooLarge,
)
from eventbus_sync.observe import (
    ErrorHandler,
    Health,
    PublishCallback,
    ReconnectCallback,
    Stats,
)
from eventbus_sync.results import PublishResult, PublishResultChannel


class EventBus(PerProcess):
    """
    Publishes events from any thread, and never waits for a broker.

    Constructing does no I/O and starts no thread: make one per application, at import
    if you like. The first use in each process starts it, also after a fork. Every
    method may be called from any thread; ``flush``, ``close`` and
    ``publish_envelope_sync`` not from a callback.

    A bus that was used lives until ``close``; ``with EventBus(...)`` closes.

    Args:
        config: ``KafkaConfig``, ``NatsConfig`` or ``MemoryConfig``; or a ``BusConfig``
            of your own that makes a back end of your own, see ``backends/base.py``.

    Raises:
        ConfigError: *config* is none of them.
    """

    def __init__(self, config: BusConfig) -> None:
        ours = isinstance(config, KafkaConfig | NatsConfig | MemoryConfig)
        if not ours and not isinstance(config, MakesBackend):
            msg = (
                "config must be a KafkaConfig, NatsConfig or MemoryConfig, not "
                f"{type(config).__name__}; for a URL use EventBus.from_url"
            )
            raise ConfigError(msg)
        super().__init__(config)
        # Without JetStream no broker says what became of an event.
        self._acks = not (isinstance(config, NatsConfig) and not config.jetstream)

    @classmethod
    def from_url(cls, url: str, **settings: object) -> Self:
        """
        Return a bus for a URL such as ``nats://localhost:4222?stream=ORDERS``.

        Args:
            url: ``kafka://``, ``kafka+tls://``, ``nats://``, ``nats+tls://``,
                ``tls://`` or ``memory://``, a host list, settings as query parameters.
            settings: further settings by name; they win over the URL's.

        Raises:
            ConfigError: names the part that is wrong, without showing secrets.
        """
        from eventbus_sync.config.url import config_from_url  # noqa: PLC0415 - lazy

        return cls(config_from_url(url, **settings))

    @classmethod
    def from_env(cls, prefix: str = "EVENTBUS_") -> Self:
        """
        Return a bus for the environment variables ``<prefix>URL`` and ``<prefix>…``.

        Raises:
            ConfigError: names the variable that is missing, unknown or wrong.
        """
        from eventbus_sync.config.url import config_from_env  # noqa: PLC0415 - lazy

        return cls(config_from_env(prefix))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.value} {self._config!r}>"

    @property
    def config(self) -> BusConfig:
        """The settings that this bus was made with."""
        return self._config

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- publishing ------------------------------------------------------------------

    def publish_envelope(
        self,
        topic: str,
        envelope: Envelope,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> str:
        """
        Accept *envelope*; its outcome will come on the result channel exactly once.

        The outcome comes within ``delivery_timeout`` plus two seconds. If this
        raises, the event was not accepted and no outcome will ever come.

        Args:
            topic: Kafka topic or NATS subject.
            envelope: the event.
            headers: further headers for the wire, such as ``traceparent``.
            timeout: seconds to wait for room; default ``publish_timeout``.

        Returns:
            The event id.

        Raises:
            EnvelopeError: topic, envelope or a header is wrong.
            MessageTooLarge: larger than ``max_message_bytes``.
            BackendBusy: no room in time; ``ChannelFull`` with ``overflow="reserve"``.
            BusClosed: the bus was closed.
            JetStreamDisabled: this bus gets no acknowledgements.
            ConfigError: *timeout* is wrong, or the bus cannot start as configured.
        """
        self._accept(topic, envelope, headers, timeout, None)
        return envelope.event_id

    def publish_envelope_sync(
        self,
        topic: str,
        envelope: Envelope,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> PublishResult:
        """
        Accept *envelope*, wait for its outcome, and return it.

        Waits at most ``delivery_timeout`` plus two seconds. The outcome does not also
        land on the channel, unless the wait is interrupted by an exception from
        outside (Ctrl-C): then it goes there.

        Args and Raises:
            As ``publish_envelope``; ``CalledFromCallback`` inside a callback.
        """
        self._refuse_in_callback("publish_envelope_sync")
        waiter = Waiter()
        try:
            runtime, _ = self._accept(topic, envelope, headers, timeout, waiter)
            # The bound is kept by the table, which settles whatever is overdue.
            while waiter.result is None and not waiter.done.acquire(timeout=1.0):
                runtime.in_flight.expire()
        except BaseException:
            # The event may be accepted, and its outcome may be there already.
            started = self._runtime or self._final_runtime
            if started is not None:
                started.in_flight.forget_waiter(waiter)
            raise
        assert waiter.result is not None  # noqa: S101 - set before the event is
        return waiter.result

    def publish(
        self,
        topic: str,
        message: bytes | str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """
        Send a plain message that may be lost; no outcome will come.

        For notifications and cache invalidation. On NATS this is core NATS.

        Raises:
            EnvelopeError: topic, message, key or a header is wrong.
            MessageTooLarge: larger than ``max_message_bytes``.
            BackendBusy: no room within ``publish_timeout``.
            BusClosed: the bus was closed.
        """
        deadline = Deadline.after(self._config.publish_timeout)
        runtime = self._running()
        if self._state is not State.RUNNING:
            raise BusClosed
        topic = text("topic", topic)
        runtime.backend.check_topic(topic)
        if isinstance(message, str):
            message = encoded("message", message)
        elif not isinstance(message, bytes):
            msg = f"message must be bytes or str, not {type(message).__name__}"
            raise EnvelopeError(msg, field="message")
        key = text("key", key or "")
        key_bytes = encoded("key", key)
        extra = check_extra_headers(headers)
        runtime.backend.check_headers(extra)
        size = self._checked_size(message, len(key_bytes), extra)
        runtime.backend.send_plain(
            OutgoingMessage(topic, key, message, extra, "", size), deadline
        )

    def _accept(
        self,
        topic: str,
        envelope: Envelope,
        headers: Mapping[str, str] | None,
        timeout: float | None,
        waiter: Waiter | None,
    ) -> tuple[Runtime, InFlightEvent]:
        """Steps 1 to 5 of an event's way: checked, encoded, registered, handed over."""
        if not self._acks:
            msg = (
                "this bus has jetstream=False, so no broker would acknowledge the "
                "event: use bus.publish(), or enable JetStream"
            )
            raise JetStreamDisabled(msg)
        if timeout is None:
            timeout = self._config.publish_timeout
        else:
            check_seconds("timeout", timeout)
        deadline = Deadline(time.monotonic() + timeout)
        runtime = self._running()
        if not isinstance(envelope, Envelope):
            msg = f"envelope must be an Envelope, not {type(envelope).__name__}"
            raise EnvelopeError(msg, field="envelope")
        topic = text("topic", topic)
        runtime.backend.check_topic(topic)
        value = envelope.to_bytes()
        wire_headers = envelope.headers()
        if headers is not None:
            wire_headers += check_extra_headers(headers)
        runtime.backend.check_headers(wire_headers)
        # An aggregate id is ASCII, so that its length is its bytes.
        size = self._checked_size(value, len(envelope.aggregate_id), wire_headers)
        event = InFlightEvent(
            topic,
            envelope.event_id,
            envelope.aggregate_id,
            envelope.event_type,
            envelope.tenant_id,
            size,
            waiter,
        )
        message = OutgoingMessage(
            topic, envelope.aggregate_id, value, wire_headers, envelope.event_id, size
        )
        runtime.accept(message, event, deadline)
        return runtime, event

    def _checked_size(
        self, value: bytes, key_size: int, headers: list[tuple[str, str]]
    ) -> int:
        size = len(value) + key_size
        for name, said in headers:
            size += len(name)
            size += len(said) if said.isascii() else len(said.encode())
        if size > self._config.max_message_bytes:
            msg = (
                f"the message is {size} bytes with its headers, more than "
                f"max_message_bytes={self._config.max_message_bytes}: publish less, "
                "or raise the limit here and at the broker"
            )
            raise MessageTooLarge(msg, field="payload")
        return size

    # -- outcomes --------------------------------------------------------------------

    def get_publish_result_channel(self) -> PublishResultChannel:
        """
        Return the one channel of this bus; always the same object.

        Two readers share its results between them: give it one reader.
        """
        self._check_pid()
        # A reader may wait there for ever, also if nothing is ever published.
        _lifecycle.register_exit_hook()
        return self._channel

    def register_publish_callback(self, callback: PublishCallback) -> None:
        """Call *callback* with every result, on the callback thread."""
        check_callable("callback", callback)
        self._callbacks.on_publish.append(callback)

    def register_reconnect_callback(self, callback: ReconnectCallback) -> None:
        """Call *callback* after the connection came back, on the callback thread."""
        check_callable("callback", callback)
        self._callbacks.on_reconnect.append(callback)

    def set_error_handler(self, handler: ErrorHandler | None) -> None:
        """
        Call *handler* with errors that belong to no single event; None for nobody.

        Connection errors, dropped results, failures of our threads. Runs on the
        callback thread; what it raises is logged and changes nothing.
        """
        if handler is not None:
            check_callable("handler", handler)
        self._callbacks.on_error = handler

    def stats(self) -> Stats:
        """Return one consistent snapshot of this process's books."""
        return self._books()

    def health(self) -> Health:
        """Return what is known about the connection now."""
        self._check_pid()
        # A closed bus still tells what went wrong.
        runtime = self._runtime or self._final_runtime
        if runtime is None:
            return Health(state=self._state.value)
        connected, reconnects, error, age = runtime.observer.connection()
        return Health(
            state=self._state.value,
            connected=connected if self._runtime is runtime else False,
            reconnects=reconnects,
            last_error=error,
            last_error_age=age,
            oldest_age=runtime.in_flight.counts().oldest_age,
        )

    # -- lifecycle -------------------------------------------------------------------

    def start(self, timeout: float = 10.0) -> None:
        """
        Return once broker, credentials and stream are proven good; fail fast.

        Optional: the first publish starts the bus too, but waits for no broker. A bus
        whose ``start`` raised goes on trying in the background until it is closed.

        Raises:
            StartFailed: what is wrong, and what to do.
            BusClosed: the bus was closed.
            ConfigError: *timeout* is wrong, or the bus cannot start as configured.
        """
        check_seconds("timeout", timeout)
        self._running().backend.check(Deadline.after(timeout))

    def flush(self, timeout: float | None = None) -> int:
        """
        Wait until everything accepted before this call is settled.

        Args:
            timeout: seconds; default as long as outcomes can take.

        Returns:
            How many of those events are still in flight.
        """
        if timeout is None:
            timeout = self._config.delivery_timeout + 2.0
        check_seconds("timeout", timeout)
        self._refuse_in_callback("flush")
        runtime = self._runtime
        if runtime is None:
            return 0
        return runtime.in_flight.wait_settled(Deadline.after(timeout))

    def close(self, timeout: float | None = None) -> None:
        """
        Refuse new events, wait for outcomes, settle the rest as unknown, and stop.

        Afterwards no thread or socket of the bus is left, the channel gives out what
        it holds and then ends. Final, and may be called again; a second caller waits
        for the first.

        Args:
            timeout: seconds for everything together; default ``close_timeout``.
        """
        if timeout is None:
            timeout = self._config.close_timeout
        check_seconds("timeout", timeout)
        self._refuse_in_callback("close")
        self._close(Deadline.after(timeout))

    def _refuse_in_callback(self, method: str) -> None:
        self._check_pid()
        runtime = self._runtime
        if runtime is not None and runtime.observer.in_callback():
            msg = (
                f"{method}() waits for outcomes and was called from a callback, which "
                "they may need; call it from a thread of your own"
            )
            raise CalledFromCallback(msg)
