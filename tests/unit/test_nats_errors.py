"""Everything that nats-py and JetStream may say has a class of ours; none is forgotten."""

import inspect
import socket
import ssl

from types import ModuleType

import nats.aio.errors
import nats.errors
import nats.js.errors
import pytest

from eventbus_sync.backends.nats.errors import (
    CONNECTION,
    DRIVER_ERRORS,
    INBOX,
    JETSTREAM_ERRORS,
    PROTOCOL,
    PUBLISH,
    Refusal,
    api_denied,
    connection_error,
    driver_error,
    inbox_denied,
    jetstream_refusal,
    sort_error_text,
)
from eventbus_sync.errors import (
    AuthenticationFailed,
    BrokerFull,
    BrokerUnreachable,
    ConfigError,
    ConnectionLost,
    DestinationNotFound,
    MessageRefused,
    NotAuthorized,
    PublishRejected,
    PublishUnknown,
    StartFailed,
    StreamInvalid,
)


SERVER = "nats://nats.example.org:4222"

#: What only consumers, key-value buckets and object stores raise: nothing of ours.
NOT_OURS = {
    "BadBucketError",
    "BadObjectMetaError",
    "BucketNotFoundError",
    "ConsumerInvalidResetError",
    "ConsumerSequenceMismatchError",
    "DigestMismatchError",
    "FetchTimeoutError",
    "InvalidBucketNameError",
    "InvalidKeyError",
    "InvalidObjectNameError",
    "KeyDeletedError",
    "KeyHistoryTooLargeError",
    "KeyNotFoundError",
    "KeyValueError",
    "KeyValueLimitMarkerTTLNotSupportedError",
    "KeyWrongLastSequenceError",
    "LinkIsABucketError",
    "NoKeysError",
    "ObjectAlreadyExists",
    "ObjectDeletedError",
    "ObjectNotFoundError",
}


def exceptions_of(module: ModuleType) -> list[type[Exception]]:
    """Return the exception classes that *module* defines."""
    return [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == module.__name__
    ]


@pytest.mark.parametrize(
    "kind", exceptions_of(nats.errors) + exceptions_of(nats.js.errors), ids=repr
)
def test_contract_7_every_exception_of_the_driver_is_mapped(
    kind: type[Exception],
) -> None:
    """nats-py's classes are in the table one by one, or known to be nothing of ours."""
    assert (kind in DRIVER_ERRORS) != (kind.__name__ in NOT_OURS)


@pytest.mark.parametrize("kind", exceptions_of(nats.aio.errors), ids=repr)
def test_old_names_are_mapped_by_their_bases(kind: type[Exception]) -> None:
    """Each deprecated class means what the one that replaced it means."""
    expected = next(DRIVER_ERRORS[b] for b in kind.__mro__ if b in DRIVER_ERRORS)
    assert driver_error(kind.__new__(kind)) is expected


def test_what_nobody_knows_is_a_lost_connection() -> None:
    """An exception outside of the table makes the connection unusable, no more."""
    assert driver_error(ZeroDivisionError()) is ConnectionLost
    error = connection_error(ZeroDivisionError(), SERVER)
    assert isinstance(error, ConnectionLost)
    assert "ZeroDivisionError" in str(error)


CONNECTION_ERRORS = [
    (ConnectionRefusedError(111, "Connect call failed"), BrokerUnreachable, "efused"),
    (ConnectionResetError(), BrokerUnreachable, "ConnectionResetError"),
    (socket.gaierror(-2, "Name or service not known"), BrokerUnreachable, "Name"),
    (TimeoutError(), BrokerUnreachable, "did not answer in time"),
    (nats.errors.TimeoutError(), BrokerUnreachable, "did not answer in time"),
    (
        nats.errors.Error(
            "nats: empty response from server when expecting INFO message"
        ),
        BrokerUnreachable,
        "is a NATS server running there?",
    ),
    (nats.errors.NoServersError(), BrokerUnreachable, "no servers available"),
    (nats.errors.StaleConnectionError(), ConnectionLost, "stale connection"),
    (nats.errors.UnexpectedEOF(), ConnectionLost, "unexpected EOF"),
    (nats.errors.AuthorizationError(), AuthenticationFailed, "credentials"),
    (nats.errors.SecureConnWantedError(), AuthenticationFailed, "offers no TLS"),
    (nats.errors.BadSubjectError(), ConfigError, "settings"),
    (ssl.SSLError(1, "alert bad certificate"), AuthenticationFailed, "TLS"),
    (ssl.SSLEOFError(8, "EOF occurred"), BrokerUnreachable, "EOF"),
    (ssl.SSLCertVerificationError(1, "self-signed"), AuthenticationFailed, "tls_ca"),
    (
        nats.errors.Error("nats: 'Authorization Violation'"),
        AuthenticationFailed,
        "refused the credentials",
    ),
    (
        nats.errors.Error("nats: User Authentication Expired"),
        AuthenticationFailed,
        "Expired",
    ),
    (
        nats.errors.Error("nats: Account Authentication Expired"),
        AuthenticationFailed,
        "Account",
    ),
    (
        nats.errors.Error("nats: 'Authentication Timeout'"),
        ConnectionLost,
        "Authentication Timeout",
    ),
    (
        nats.errors.Error("nats: maximum connections exceeded"),
        ConnectionLost,
        "maximum connections exceeded",
    ),
]


@pytest.mark.parametrize(
    ("exc", "kind", "text"),
    CONNECTION_ERRORS,
    ids=map(str, range(len(CONNECTION_ERRORS))),
)
def test_connection_errors(exc: Exception, kind: type, text: str) -> None:
    """Class, server, reason and cause of what ends a connection or an attempt."""
    error = connection_error(exc, SERVER)
    assert type(error) is kind
    assert SERVER in str(error)
    assert text in str(error)
    assert error.__cause__ is exc


def test_texts_are_short_and_of_one_line() -> None:
    """However long a server's text is, ours stays readable."""
    error = connection_error(nats.errors.Error("a\r\nb " + "x" * 10_000), SERVER)
    assert "a b x" in str(error)
    assert len(str(error)) < 500
    refusal = jetstream_refusal(400, 1, "a\nb " + "x" * 10_000)
    assert len(str(refusal)) < 500


@pytest.mark.parametrize("kind", sorted(set(DRIVER_ERRORS.values()), key=str), ids=str)
def test_connections_end_in_known_ways(kind: type) -> None:
    """Only errors that health and start() know come out of the table."""
    assert issubclass(kind, (StartFailed, ConnectionLost, ConfigError))


# -- JetStream -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("err_code", "kind", "retriable"),
    [
        (10077, BrokerFull, True),
        (10023, BrokerFull, True),
        (10167, BrokerFull, True),
        (10054, MessageRefused, False),
        (10097, MessageRefused, False),
        (10059, DestinationNotFound, True),
        (10060, DestinationNotFound, True),
        (10035, NotAuthorized, True),
        (10158, PublishUnknown, True),
        (10070, PublishRejected, True),
        (10071, PublishRejected, True),
        (10003, PublishRejected, True),
        (0, PublishRejected, True),
    ],
)
def test_jetstream_refusals(err_code: int, kind: type, retriable: bool) -> None:
    """Class and retriable of error acks; what is not listed is a refusal too."""
    refusal = jetstream_refusal(503, err_code, "the server's words")
    assert type(refusal) is kind
    assert refusal.retriable is retriable
    assert refusal.maybe_delivered is issubclass(kind, PublishUnknown)
    assert "the server's words" in str(refusal)
    assert f"(code 503, {err_code})" in str(refusal)


def test_only_its_own_size_is_held_against_an_event() -> None:
    """Whatever somebody can mend at the broker may be tried again."""
    final = {kind for kind in JETSTREAM_ERRORS.values() if not kind.default_retriable}
    assert final == {MessageRefused}


# -- -ERR ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'Permissions Violation for Publish to "orders.New"',
            Refusal(PUBLISH, "orders.New"),
        ),
        (
            r'Permissions Violation for Publish to "a\"b\\c\u00adé"',
            Refusal(PUBLISH, 'a"b\\c\u00adé'),
        ),
        (
            r'Permissions Violation for Publish to "a\xffb"',
            Refusal(PUBLISH, r"a\xffb"),
        ),
        (
            'Permissions Violation for Publish with Reply of "_R_.x"',
            Refusal(INBOX, "_R_.x"),
        ),
        (
            'Permissions Violation for Subscription to "_INBOX.x.*"',
            Refusal(INBOX, "_INBOX.x.*"),
        ),
        (
            'Permissions Violation for Subscription to "a" using queue "b" (sid "1")',
            Refusal(INBOX, "a"),
        ),
        ("Maximum Payload Violation", Refusal(PROTOCOL)),
        ("maximum control line exceeded", Refusal(PROTOCOL)),
        ("Unknown Protocol Operation", Refusal(PROTOCOL)),
        ("Invalid Publish Subject", Refusal(PROTOCOL)),
        ("message headers not supported", Refusal(PROTOCOL)),
        ("Authorization Violation", Refusal(CONNECTION)),
        ("Stale Connection", Refusal(CONNECTION)),
        ("maximum subscriptions exceeded", Refusal(CONNECTION)),
        ("", Refusal(CONNECTION)),
    ],
)
def test_error_texts(text: str, expected: Refusal) -> None:
    """What each -ERR is about, with the subject as it was written."""
    assert sort_error_text(text) == expected


@pytest.mark.parametrize("make", [api_denied, inbox_denied])
def test_denied_subjects_are_named(make: type) -> None:
    """Text and cause of what makes a bus useless."""
    cause = nats.errors.Error("no")
    error = make("the.subject", cause)
    assert type(error) is AuthenticationFailed
    assert "'the.subject'" in str(error)
    assert error.__cause__ is cause


def test_stream_errors_are_mapped() -> None:
    """What JetStream's API raises is about the stream."""
    assert driver_error(nats.js.errors.APIError(code=400)) is StreamInvalid
    assert driver_error(nats.js.errors.NotFoundError()) is StreamInvalid
