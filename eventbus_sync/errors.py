"""
Every error of eventbus_sync, in one tree.

::

    EventBusError
    ├── ConfigError                 a setting is wrong (also a ValueError)
    │   └── JetStreamDisabled       publish_envelope on a bus that has no acks
    ├── EnvelopeError               envelope, topic or header is wrong (also a ValueError)
    │   └── MessageTooLarge         larger than max_message_bytes
    ├── BusClosed                   the bus was closed: it stays closed
    ├── CalledFromCallback          flush, close or a waiting publish inside a callback
    ├── BackendBusy                 no room within publish_timeout: not accepted
    │   └── ChannelFull             no room in the result channel (overflow="reserve")
    ├── ResultChannelClosed         the channel has ended: no result will ever come
    ├── StartFailed                 start() could not reach or verify the broker
    │   ├── BrokerUnreachable
    │   ├── AuthenticationFailed
    │   └── StreamInvalid           JetStream stream absent, or unfit for the promises
    ├── ResultsDropped              reported: the result channel was full
    ├── BackendFailed               reported: a thread of ours failed
    ├── OutboxError                 the outbox's table or database
    │   ├── StoreFailed             the database failed
    │   ├── SchemaMismatch          the table is not as this version needs it
    │   ├── AutocommitRefused       add outside any transaction
    │   └── DuplicateKey            this event id is in the outbox already
    └── PublishError                what PublishResult.error holds
        ├── PublishRejected         the broker refused every attempt: not stored
        │   ├── IllegalTopic
        │   ├── MessageRefused      refused for its own size
        │   ├── NotAuthorized
        │   ├── DestinationNotFound no such topic or stream
        │   ├── BrokerFull          quota, stream or disk is full
        │   └── BrokerUnavailable   never written to any broker
        └── PublishUnknown          an attempt went unanswered: it may be stored
            ├── DeliveryTimedOut
            ├── ConnectionLost
            ├── ProducerLost        fatal or fenced Kafka producer
            └── Abandoned           the bus was closed before the answer came

Errors above ``PublishError`` are raised: the event was *not* accepted and no outcome
will come. ``PublishError`` and below are never raised by the bus; they are carried by
a result. A driver's own exception is always the ``__cause__``, never the error itself.
"""

import queue
import re
import sys

from typing import ClassVar


def _default_message(kind: type[BaseException]) -> str:
    """Return what an error says that was given no message."""
    if kind.__doc__:
        # Its first line, so that neither can rot.
        return kind.__doc__.strip().split("\n")[0]
    # python -OO leaves docstrings out; names of errors say what happened.
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


class EventBusError(Exception):
    """
    Base of everything this library raises or reports.

    Attributes:
        code: short and stable, for logs, metrics and database columns.
        retriable: whether publishing the same event again can succeed.
        maybe_delivered: whether the broker may hold the event all the same.
    """

    default_code: ClassVar[str] = "eventbus"
    default_retriable: ClassVar[bool] = False
    default_maybe_delivered: ClassVar[bool] = False

    code: str
    retriable: bool
    maybe_delivered: bool

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        retriable: bool | None = None,
    ) -> None:
        super().__init__(message or _default_message(type(self)))
        self.code = self.default_code if code is None else code
        self.retriable = self.default_retriable if retriable is None else retriable
        self.maybe_delivered = self.default_maybe_delivered


class ConfigError(EventBusError, ValueError):
    """A setting is wrong; the message names it and says what to do."""

    default_code = "config"


class JetStreamDisabled(ConfigError):
    """JetStream is disabled by configuration, so no event can be acknowledged."""

    default_code = "jetstream_disabled"


class EnvelopeError(EventBusError, ValueError):
    """
    An envelope, topic or header cannot be published as it is.

    ``field`` names the part at fault.
    """

    default_code = "invalid"

    def __init__(self, message: str = "", *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class MessageTooLarge(EnvelopeError):
    """The encoded event is larger than max_message_bytes."""

    default_code = "message_too_large"


class BusClosed(EventBusError, RuntimeError):
    """The bus is closed; closed is final, make a new EventBus."""

    default_code = "closed"


class CalledFromCallback(EventBusError, RuntimeError):
    """A call that waits for outcomes would wait for its own thread."""

    default_code = "called_from_callback"


class BackendBusy(EventBusError):
    """There was no room within publish_timeout; the event was not accepted."""

    default_code = "busy"
    default_retriable = True


class ChannelFull(BackendBusy):
    """No room in the result channel could be reserved: is anybody reading it?"""

    default_code = "channel_full"


# From Python 3.13 on, code that knows queue.ShutDown ends its loop for us too.
if sys.version_info >= (3, 13):  # pragma: no cover - coverage is measured on 3.11

    class _EndOfQueue(queue.ShutDown):
        pass

else:

    class _EndOfQueue(Exception):
        pass


class ResultChannelClosed(EventBusError, _EndOfQueue):
    """The bus is closed and its last result was taken: no result will come."""

    default_code = "channel_closed"


class StartFailed(EventBusError):
    """start() could not verify that events can be published."""

    default_code = "start_failed"
    default_retriable = True


class BrokerUnreachable(StartFailed):
    """No broker answered in time."""

    default_code = "unreachable"


class AuthenticationFailed(StartFailed):
    """The broker refused the credentials or the certificate."""

    default_code = "authentication"


class StreamInvalid(StartFailed):
    """The JetStream stream is absent, or cannot keep the promises of this bus."""

    default_code = "stream_invalid"


class ResultsDropped(EventBusError):
    """Results were dropped because the result channel was full."""

    default_code = "results_dropped"


class BackendFailed(EventBusError):
    """A thread of the back end failed; what it had in flight is settled as unknown."""

    default_code = "backend_failed"


class OutboxError(EventBusError):
    """The outbox cannot do what it was asked to."""

    default_code = "outbox"


class StoreFailed(OutboxError):
    """
    The database failed; nothing changed, as far as is known.

    A connection that is lost during COMMIT does not say what became of it.
    """

    default_code = "store_failed"
    default_retriable = True


class SchemaMismatch(OutboxError):
    """
    The outbox's table is not as this version of the library needs it.

    ``column`` names the one at fault; ``""`` is the table itself.
    """

    default_code = "schema_mismatch"

    def __init__(self, message: str = "", *, column: str = "") -> None:
        super().__init__(message)
        self.column = column


class AutocommitRefused(OutboxError, ValueError):
    """The connection commits each statement by itself: the event would be too early."""

    default_code = "autocommit"


class DuplicateKey(OutboxError, ValueError):
    """The outbox holds an event with this event id already."""

    default_code = "duplicate_key"


class PublishError(EventBusError):
    """Why an event was not acknowledged."""

    default_code = "publish"


class PublishRejected(PublishError):
    """The broker refused the event; it is not stored."""

    default_code = "rejected"
    default_retriable = True


class IllegalTopic(PublishRejected):
    """The broker does not accept this topic name."""

    default_code = "illegal_topic"
    default_retriable = False


class MessageRefused(PublishRejected):
    """The broker refused the event for its own size."""

    default_code = "message_refused"
    default_retriable = False


class NotAuthorized(PublishRejected):
    """These credentials may not publish there."""

    default_code = "not_authorized"


class DestinationNotFound(PublishRejected):
    """There is no such topic, or no stream that takes this subject."""

    default_code = "destination_not_found"


class BrokerFull(PublishRejected):
    """A quota, the stream or the broker's disk is full."""

    default_code = "full"


class BrokerUnavailable(PublishRejected):
    """The event was never written to any broker."""

    default_code = "unavailable"


class PublishUnknown(PublishError):
    """An attempt went unanswered; the event may be stored."""

    default_code = "unknown"
    default_retriable = True
    default_maybe_delivered = True


class DeliveryTimedOut(PublishUnknown):
    """The broker did not answer within delivery_timeout."""

    default_code = "timed_out"


class ConnectionLost(PublishUnknown):
    """The connection ended before the answer came."""

    default_code = "connection_lost"


class ProducerLost(PublishUnknown):
    """The Kafka producer was fenced, failed or was given up; it has been replaced."""

    default_code = "producer_lost"


class Abandoned(PublishUnknown):
    """The bus was closed before the broker answered."""

    default_code = "abandoned"
