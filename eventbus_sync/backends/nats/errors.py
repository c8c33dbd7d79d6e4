"""
What NATS says, in our words: JetStream error codes, driver exceptions, ``-ERR`` texts.

JetStream codes are those of the server's ``errors.json``. A code that is not in the
table is a refusal all the same: the server answered, and it did not store.
"""

import asyncio
import json
import os
import re
import ssl

from typing import Final, NamedTuple

import nats.errors
import nats.js.errors

from eventbus_sync.errors import (
    AuthenticationFailed,
    BrokerFull,
    BrokerUnreachable,
    ConfigError,
    ConnectionLost,
    DestinationNotFound,
    EventBusError,
    MessageRefused,
    NotAuthorized,
    PublishError,
    PublishRejected,
    PublishUnknown,
    StartFailed,
    StreamInvalid,
)


#: JetStream ``err_code`` → our class. What is not listed is a ``PublishRejected``.
JETSTREAM_ERRORS: dict[int, type[PublishError]] = {
    10002: BrokerFull,  # resource limits exceeded for account
    10023: BrokerFull,  # insufficient resources
    10028: BrokerFull,  # insufficient memory resources available
    10035: NotAuthorized,  # account not found
    10039: DestinationNotFound,  # JetStream not enabled for account
    10047: BrokerFull,  # insufficient storage resources available
    10054: MessageRefused,  # larger than the stream's max_msg_size
    10059: DestinationNotFound,  # stream not found
    10060: DestinationNotFound,  # expected stream does not match
    10063: PublishUnknown,  # a cluster's stream out of step: nobody knows what it took
    10076: DestinationNotFound,  # JetStream not enabled
    10077: BrokerFull,  # store failed: maximum messages, bytes, messages per subject
    10097: MessageRefused,  # headers larger than 64 kB
    10109: DestinationNotFound,  # the stream is sealed
    10118: DestinationNotFound,  # the stream is offline
    10120: BrokerFull,  # no limits that apply to this account
    10158: PublishUnknown,  # the same message is being stored at this moment
    10167: BrokerFull,  # too many requests
    10194: DestinationNotFound,  # the stream is offline, and why
}

#: Driver exception → our class, most specific wins. A test holds it against the
#: driver's list, so that no exception is forgotten.
DRIVER_ERRORS: dict[type[BaseException], type[EventBusError]] = {
    nats.errors.Error: ConnectionLost,
    nats.errors.TimeoutError: BrokerUnreachable,
    nats.errors.NoRespondersError: StreamInvalid,
    nats.errors.StaleConnectionError: ConnectionLost,
    nats.errors.OutboundBufferLimitError: ConnectionLost,
    nats.errors.UnexpectedEOF: ConnectionLost,
    nats.errors.FlushTimeoutError: ConnectionLost,
    nats.errors.ConnectionClosedError: ConnectionLost,
    nats.errors.SecureConnRequiredError: AuthenticationFailed,
    nats.errors.SecureConnWantedError: AuthenticationFailed,
    nats.errors.SecureConnFailedError: AuthenticationFailed,
    nats.errors.BadSubscriptionError: ConnectionLost,
    nats.errors.BadSubjectError: ConfigError,
    nats.errors.BadHeaderError: ConnectionLost,
    nats.errors.SlowConsumerError: ConnectionLost,
    nats.errors.BadTimeoutError: ConnectionLost,
    nats.errors.AuthorizationError: AuthenticationFailed,
    nats.errors.NoServersError: BrokerUnreachable,
    nats.errors.JsonParseError: BrokerUnreachable,
    nats.errors.MaxPayloadError: ConnectionLost,
    nats.errors.DrainTimeoutError: ConnectionLost,
    nats.errors.ConnectionDrainingError: ConnectionLost,
    nats.errors.ConnectionReconnectingError: ConnectionLost,
    nats.errors.InvalidUserCredentialsError: ConfigError,
    nats.errors.InvalidCallbackTypeError: ConfigError,
    nats.errors.ProtocolError: ConnectionLost,
    nats.errors.ServerNotInPoolError: BrokerUnreachable,
    nats.errors.NotJSMessageError: ConnectionLost,
    nats.errors.MsgAlreadyAckdError: ConnectionLost,
    nats.js.errors.Error: StreamInvalid,
    nats.js.errors.APIError: StreamInvalid,
    nats.js.errors.ServiceUnavailableError: StreamInvalid,
    nats.js.errors.ServerError: StreamInvalid,
    nats.js.errors.NotFoundError: StreamInvalid,
    nats.js.errors.BadRequestError: StreamInvalid,
    nats.js.errors.NoStreamResponseError: StreamInvalid,
    nats.js.errors.TooManyStalledMsgsError: ConnectionLost,
    ssl.SSLError: AuthenticationFailed,
    # The other side went away in the middle of a handshake: it may be restarting.
    ssl.SSLEOFError: BrokerUnreachable,
    ssl.SSLZeroReturnError: BrokerUnreachable,
    asyncio.TimeoutError: BrokerUnreachable,
    OSError: BrokerUnreachable,
}

#: What an ``-ERR`` is about: a message that was refused; the inbox, without which no
#: answer comes; something written that ends the connection; or the connection itself.
PUBLISH: Final = "publish"
INBOX: Final = "inbox"
PROTOCOL: Final = "protocol"
CONNECTION: Final = "connection"

_MAX_TEXT: Final = 300

_authentication = re.compile(
    r"authorization violation|authentication (?:expired|revoked)", re.IGNORECASE
).search
# What nats-py says of a Web server, a database, or a proxy with nothing behind it.
_no_greeting = re.compile(r"expecting INFO").search
# After these the server closes the connection because of something that we wrote.
_protocol = re.compile(
    r"maximum payload|maximum control line|unknown protocol|publish subject|header",
    re.IGNORECASE,
).search
_permission = re.compile(
    r"permissions violation for (publish to|publish with reply of|subscription to) "
    r'"((?:[^"\\]|\\.)*)"',
    re.IGNORECASE,
).search


class Refusal(NamedTuple):
    """
    What an ``-ERR`` of the server means.

    Attributes:
        kind: ``PUBLISH``, ``INBOX``, ``PROTOCOL`` or ``CONNECTION``.
        subject: which one, for the first two.
    """

    kind: str
    subject: str = ""


def jetstream_refusal(code: int, err_code: int, text: str) -> PublishError:
    """Return the refusal for an error ack; the texts are the server's own."""
    kind = JETSTREAM_ERRORS.get(err_code, PublishRejected)
    said = " ".join(text.split())[:_MAX_TEXT]
    return kind(f"JetStream refused the event: {said} (code {code}, {err_code})")


def sort_error_text(text: str) -> Refusal:
    """Return what the text of an ``-ERR`` means, given as the server wrote it."""
    found = _permission(text)
    if found is not None:
        publishing = found[1].lower() == "publish to"
        return Refusal(PUBLISH if publishing else INBOX, _unquoted(found[2]))
    return Refusal(PROTOCOL if _protocol(text) else CONNECTION)


def connection_error(exc: BaseException, server: str) -> EventBusError:
    """
    Return *exc* of a connection attempt as one of ours, with *exc* as its cause.

    The text names the server, what went wrong and what to look at; never a secret.
    """
    kind = driver_error(exc)
    text = " ".join(str(exc).split())[:_MAX_TEXT] or type(exc).__name__
    if isinstance(exc, ConnectionError) and exc.errno is not None:
        text = os.strerror(exc.errno)  # asyncio says "Connect call failed"
    if type(exc) is nats.errors.Error and _authentication(text):
        kind = AuthenticationFailed
    error: EventBusError
    if isinstance(exc, TimeoutError):
        error = kind(
            f"{server} did not answer in time; is a NATS server running there?"
        )
    elif type(exc) is nats.errors.Error and _no_greeting(text):
        error = BrokerUnreachable(
            f"{server} took the connection, but did not say what a NATS server says "
            f"first ({text}); is a NATS server running there?"
        )
    elif isinstance(exc, nats.errors.SecureConnWantedError):
        error = kind(f"{server} offers no TLS, so no credentials were sent to it")
    elif isinstance(exc, ssl.SSLCertVerificationError):
        error = kind(
            f"the certificate of {server} cannot be trusted: {text}; look at tls_ca and "
            "tls_hostname"
        )
    elif kind is AuthenticationFailed:
        what = "TLS connection" if isinstance(exc, ssl.SSLError) else "credentials"
        error = kind(f"{server} refused the {what}: {text}")
    elif issubclass(kind, StartFailed):
        error = kind(f"{server} cannot be reached: {text}; is a server running there?")
    elif issubclass(kind, ConfigError):
        error = kind(f"the settings for {server} cannot be used: {text}")
    else:
        error = ConnectionLost(f"the connection to {server} failed: {text}")
    error.__cause__ = exc
    return error


def api_denied(subject: str, exc: Exception) -> AuthenticationFailed:
    """Return why a stream cannot be looked at."""
    error = AuthenticationFailed(
        f"these credentials may not publish to {subject!r}, where JetStream is asked "
        'about streams: permit it, or set ensure_stream="skip"'
    )
    error.__cause__ = exc
    return error


def inbox_denied(subject: str, exc: Exception) -> AuthenticationFailed:
    """Return why no answer would ever come."""
    error = AuthenticationFailed(
        f"these credentials may not use {subject!r}, where answers come: permit to "
        "subscribe to it, or set inbox_prefix"
    )
    error.__cause__ = exc
    return error


def driver_error(exc: BaseException) -> type[EventBusError]:
    """Return our class for an exception of the driver, by its nearest relative."""
    for base in type(exc).__mro__:
        if base in DRIVER_ERRORS:
            return DRIVER_ERRORS[base]
    return ConnectionLost


def _unquoted(text: str) -> str:
    """Return what the server quoted as Go does, which is almost JSON."""
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
