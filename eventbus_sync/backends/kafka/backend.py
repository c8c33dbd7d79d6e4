"""
The Kafka back end: ``produce()`` on the caller's thread, everything else on one of ours.

::

    publisher ── send ── Client.produce ─▶ librdkafka ─▶ broker
                                               │
    {name}-kafka-poll ── Client.poll ◀── delivery reports, errors, statistics, log lines
                              └─▶ Sink.settle, a chunk at a time

==========================  ==========================================================
this file                   the publishers' side, ``check`` and ``close``
``poller.py``        the poll thread: makes, serves, replaces and ends producers
``client.py``        one producer, and what its delivery reports mean
``slot.py``          where publishers find the producer of the moment
``link.py``          what is known of the connection
``unanswered.py``    what a broker may have stored without saying so
``settings.py``      configuration in librdkafka's words
``errors.py``        Kafka's errors in our words
==========================  ==========================================================
"""

import logging
import re
import threading
import time

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from eventbus_sync._threads import Deadline, spawn
from eventbus_sync.backends.base import Delivery, OutgoingMessage, Sink
from eventbus_sync.backends.kafka.client import Client, Report
from eventbus_sync.backends.kafka.errors import refusal
from eventbus_sync.backends.kafka.link import Link
from eventbus_sync.backends.kafka.poller import Poller
from eventbus_sync.backends.kafka.settings import driver_settings, secrets_of
from eventbus_sync.backends.kafka.slot import Slot
from eventbus_sync.config import KafkaConfig
from eventbus_sync.errors import (
    AuthenticationFailed,
    BackendBusy,
    BackendFailed,
    BrokerUnreachable,
    BusClosed,
    EnvelopeError,
    EventBusError,
    PublishError,
    StartFailed,
)


#: Seconds between two attempts while the driver's queue is full.
_ROOM_PAUSE = 0.002

#: Seconds of one attempt of ``check``, so that a refused login ends it soon.
_CHECK_SLICE = 0.5
_CHECK_PAUSE = 0.02

#: How long whoever listens may end every connection until ``check`` gives up: so many
#: seconds at least, and this part of its time. A broker that starts may look like that,
#: behind a proxy that takes its connections already.
_HUNG_UP_AT_LEAST = 2.0
_HUNG_UP_PART = 0.2

#: How many names are remembered as legal.
_MAX_KNOWN = 10_000

_LEGAL_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}").fullmatch


class KafkaBackend:
    """Keeps the contract of ``backends/base.py`` over confluent-kafka."""

    def __init__(self, config: KafkaConfig, sink: Sink) -> None:
        settings = driver_settings(config)
        self._config = config
        self._sink = sink
        self._slot = Slot()
        self._link = Link(sink, secrets_of(settings))
        self._poller = Poller(settings, sink, self._link, self._slot)
        # Without statistics, which extra can turn off, there is less to be proven.
        self._measured = int(settings["statistics.interval.ms"]) > 0
        self._thread: threading.Thread | None = None
        self._known_topics: set[str] = set()
        self._known_headers: set[str] = set()

    def start(self) -> None:
        """Start the poll thread, which makes the producer: that may block."""
        if not self._config.idempotence:
            self._sink.log(
                logging.WARNING,
                "idempotence=False: promises 5 and 6 are off, an event may be stored "
                "twice or out of order",
            )
        self._thread = spawn(f"{self._config.name}-kafka-poll", self._poller.run)

    def close(self, deadline: Deadline) -> None:
        """
        End the poll thread and the producer, within *deadline*.

        What is still unanswered is settled as abandoned, here or, if the time does not
        suffice, by the bus. A later call waits for the first.
        """
        if not self._slot.closing:
            self._poller.close_by = deadline
        self._slot.close()
        if self._thread is not None:
            self._thread.join(deadline.remaining())

    # -- what the bus asks before it accepts -------------------------------------------

    def check_topic(self, topic: str) -> None:
        """Refuse what Kafka refuses: other characters, ``.``, ``..``, over 249."""
        if topic in self._known_topics:
            return
        if _LEGAL_TOPIC(topic) is None or topic in {".", ".."}:
            msg = (
                f"topic {topic[:100]!r} is not a legal Kafka topic: use 1 to 249 "
                "letters, digits, dots, underscores and hyphens, other than . and .."
            )
            raise EnvelopeError(msg, field="topic")
        _remember(self._known_topics, topic)

    def check_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        """Refuse what has no UTF-8, and a NUL in a name: the driver would cut it."""
        for name, value in headers:
            if name not in self._known_headers:
                if "\0" in name or not _encodable(name):
                    msg = f"header name {name!r} has no UTF-8 or holds a NUL: rename it"
                    raise EnvelopeError(msg, field="headers")
                _remember(self._known_headers, name)
            if not value.isascii() and not _encodable(value):
                msg = (
                    f"header {name} holds half of a surrogate pair, which has no "
                    "UTF-8: correct the text"
                )
                raise EnvelopeError(msg, field=name)

    # -- an event out ------------------------------------------------------------------

    def send(
        self, message: OutgoingMessage, delivery: Delivery, deadline: Deadline
    ) -> None:
        """
        Queue *message* in the driver; its outcome comes from the poll thread.

        Waits until *deadline* for room and for a producer, never for a broker.

        Raises:
            BackendBusy: neither came in time.
            BusClosed: the back end is closing.
            ConfigError: the driver does not accept the settings.
            EnvelopeError, BackendFailed: the driver cannot take this message.
        """
        refused = self._hand_over(message, delivery, deadline)
        if refused is not None:
            self._sink.settle([(delivery, refused)])

    def send_plain(self, message: OutgoingMessage, deadline: Deadline) -> None:
        """Queue *message*; if it is refused at once, the error handler hears of it."""
        refused = self._hand_over(message, None, deadline)
        if refused is not None:
            self._sink.report(refused)

    def _hand_over(
        self, message: OutgoingMessage, delivery: Delivery | None, deadline: Deadline
    ) -> PublishError | None:
        """Queue in the driver; return the outcome if there is one already."""
        try:
            return self._produce(message, delivery, deadline)
        except EventBusError:
            raise
        except KafkaException as exc:
            return refusal(exc.args[0])
        except (TypeError, ValueError) as exc:
            msg = f"the Kafka driver cannot take this message: {exc}"
            raise EnvelopeError(msg, field="message") from exc
        except (RuntimeError, SystemError, MemoryError, ArithmeticError) as exc:
            # Not any Exception: Celery's soft time limit is one, and may land when the
            # driver has the message already. It goes through as it is, and the event
            # stays in flight until its report comes.
            msg = f"the Kafka driver failed: {exc!r}"
            raise BackendFailed(msg) from exc

    def _produce(
        self, message: OutgoingMessage, delivery: Delivery | None, deadline: Deadline
    ) -> PublishError | None:
        headers: Any = message.headers
        for _, value in message.headers:
            if "\0" in value:
                # The driver takes a str up to its first NUL, but bytes as they are.
                headers = [(name, text.encode()) for name, text in message.headers]
                break
        lost: Client | None = None
        while True:
            client = self._slot.client
            if client is None or client is lost:
                found = self._slot.next_client(lost, deadline)
                if not isinstance(found, Client):
                    return found
                client = found
            try:
                # By position: keywords cost 0.4 µs.
                client.produce(
                    message.topic,
                    message.value,
                    message.key or None,
                    -1,  # the partitioner's choice
                    None if delivery is None else Report(delivery, client),
                    None,
                    0,  # now
                    headers,
                )
            except BufferError:
                _await_room(deadline)
            except (KafkaException, RuntimeError) as exc:
                if not _says_lost(exc):
                    raise
                lost = client
            else:
                return None

    # -- proving the broker good -------------------------------------------------------

    def check(self, deadline: Deadline) -> None:
        """
        Return once a broker has answered and granted a producer id; fail fast.

        Raises:
            AuthenticationFailed: login or certificate were refused.
            BrokerUnreachable: nobody answered until *deadline*, or somebody who speaks
                another protocol.
            StartFailed: the settings are wrong, or no producer id is granted.
            BusClosed: the back end is closing.
        """
        answered, began = False, time.monotonic()
        patience = max(_HUNG_UP_AT_LEAST, deadline.remaining() * _HUNG_UP_PART)
        why: Exception | None = None
        while not (answered and self._proven()):
            if self._slot.closing:
                raise BusClosed
            verdict = self._slot.verdict
            if verdict is not None:
                raise StartFailed(str(verdict), code=verdict.code) from verdict
            if not answered:
                seconds = min(_CHECK_SLICE, deadline.remaining())
                answered, why = self._ask(seconds)
            if not answered:
                self._raise_if_refused(began, patience, why)
            if deadline.expired():
                raise self._unproven(answered=answered) from why
            self._slot.pause(min(_CHECK_PAUSE, deadline.remaining()))

    def _ask(self, seconds: float) -> tuple[bool, Exception | None]:
        """Return whether a broker answers, and what the driver raised if none does."""
        client = self._slot.client
        if client is None:
            return False, None
        try:
            client.list_topics(max(0.01, seconds))
        except (KafkaException, RuntimeError) as exc:
            # The connection errors behind it come through the link.
            return False, exc
        return True, None

    def _raise_if_refused(
        self, began: float, patience: float, why: Exception | None
    ) -> None:
        refused, hung_up_at = self._link.login_refused, self._link.hung_up_at
        if refused is not None:
            # A new one each time: the link's is shared, and would collect tracebacks.
            raise AuthenticationFailed(str(refused)) from refused.__cause__
        if hung_up_at is None:
            return
        if time.monotonic() > max(began, hung_up_at) + patience:
            msg = (
                f"who listens at {self._config.bootstrap_servers} ends every connection "
                f"at once ({self._link.trouble}); check that tls and sasl_mechanism are "
                "what this listener wants"
            )
            raise BrokerUnreachable(msg) from why

    def _proven(self) -> bool:
        if not self._measured:
            return True
        client = self._slot.client
        if client is None or not self._link.up:
            return False
        return client.has_producer_id or not self._config.idempotence

    def _unproven(self, *, answered: bool) -> StartFailed:
        trouble = self._link.trouble or "none"
        if answered:
            return StartFailed(
                f"the broker granted no producer id in time (last error: {trouble}); "
                "wait until the cluster is complete, or set idempotence=False"
            )
        return BrokerUnreachable(
            f"no Kafka broker answered at {self._config.bootstrap_servers} (last "
            f"connection error: {trouble}); check bootstrap_servers, the network, and "
            "that tls and sasl_mechanism are what this listener wants"
        )


def _await_room(deadline: Deadline) -> None:
    """Sleep a little, so that others get the GIL and the driver's queue gets shorter."""
    remaining = deadline.remaining()
    if remaining <= 0:
        msg = (
            "the Kafka driver's queue is full: plain messages come faster than the "
            "broker takes them, or it is out of reach"
        )
        raise BackendBusy(msg)
    time.sleep(min(remaining, _ROOM_PAUSE))


def _says_lost(exc: KafkaException | RuntimeError) -> bool:
    """Whether the producer is of no more use; the message was not queued then."""
    if isinstance(exc, KafkaException):
        # The fatal error itself comes out of poll().
        return bool(exc.args[0].code() == KafkaError._FATAL)  # noqa: SLF001 - public code
    # Retired, emptied and closed while this thread held on to it.
    return True


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remember(known: set[str], text: str) -> None:
    if len(known) >= _MAX_KNOWN:
        known.clear()
    known.add(text)
