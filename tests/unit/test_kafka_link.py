"""What the back end knows of the connection, from what the driver says of it."""

import logging
import time

from collections.abc import Callable

import pytest

from confluent_kafka import KafkaError
from support.recording_sink import RecordingSink

from eventbus_sync.backends.kafka.link import Link
from eventbus_sync.errors import AuthenticationFailed, BrokerUnreachable


ALL_DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
REFUSED = KafkaError(KafkaError._TRANSPORT, "localhost:1: connection refused")
LOGIN = KafkaError(KafkaError._AUTHENTICATION, "localhost:1: authentication failed")


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def link(sink: RecordingSink) -> Link:
    return Link(sink, ("secret-too", "secret"))


def test_an_outage_is_told_once_with_its_reason(
    link: Link, sink: RecordingSink
) -> None:
    """The driver reminds each second; the error handler hears of it once."""
    for _ in range(3):
        link.failed(REFUSED)
        link.failed(ALL_DOWN)
    (error,) = sink.states
    assert isinstance(error, BrokerUnreachable)
    assert "connection refused" in str(error)
    assert link.trouble == "localhost:1: connection refused"
    assert sink.logs == []  # whoever hears of it logs it


def test_one_broker_of_several_is_no_outage(link: Link, sink: RecordingSink) -> None:
    """Only when none is left the sink hears of it."""
    link.answered()
    link.failed(REFUSED)
    assert link.up
    assert sink.states == [True]


def test_an_outage_without_a_known_reason(link: Link, sink: RecordingSink) -> None:
    """It is told without one."""
    link.failed(ALL_DOWN)
    assert str(sink.states[0]) == "no broker is reachable"


def test_a_second_outage_is_told_too(link: Link, sink: RecordingSink) -> None:
    """After the connection came back, the next outage is news."""
    link.failed(ALL_DOWN)
    link.answered()
    link.answered()
    link.failed(ALL_DOWN)
    assert [state is True for state in sink.states] == [False, True, False]


def test_a_refused_login_is_told_after_the_outage(
    link: Link, sink: RecordingSink
) -> None:
    """It says more; the outage that follows from it says no more than that."""
    link.failed(ALL_DOWN)
    link.failed(LOGIN)
    link.failed(ALL_DOWN)
    assert [type(s) for s in sink.states] == [BrokerUnreachable, AuthenticationFailed]
    assert link.login_refused is sink.states[1]
    assert "password" in str(link.login_refused)
    assert link.login_refused is not None
    assert link.login_refused.__cause__ is not None


def test_a_refused_login_is_forgotten(link: Link) -> None:
    """Another trouble, or an answer, ends it."""
    link.failed(LOGIN)
    link.failed(REFUSED)
    assert link.login_refused is None
    link.failed(LOGIN)
    link.answered()
    assert link.login_refused is None


def test_the_driver_says_up_in_its_statistics(link: Link, sink: RecordingSink) -> None:
    """An idle bus learns from them that the connection is back."""
    link.statistics('{ "brokers":{ "x/1": { "state":"TRY_CONNECT" } }, "topics":{} }')
    assert not link.up
    link.statistics('{ "brokers":{ "x/1": { "state": "UP" } }, "topics":{} }')
    assert link.up
    assert sink.states == [True]


def test_an_acknowledgement_ends_the_trouble(link: Link) -> None:
    """A later timeout must not name an error of long ago."""
    link.answered()
    link.failed(REFUSED)
    link.answered()
    assert link.trouble
    link.acknowledged()
    assert not link.trouble


@pytest.mark.parametrize("facility", ["FAIL", "REQTMOUT", "GETPID"])
def test_some_troubles_show_in_the_log_alone(
    link: Link, sink: RecordingSink, facility: str
) -> None:
    """A frozen broker gives no error, only a line; the thread's name is left out."""
    link.log(logging.INFO, facility, "[thrd:main]: it did not answer")
    assert link.trouble == "it did not answer"
    assert sink.logs == [(logging.INFO, f"{facility}: it did not answer")]


def test_other_lines_are_no_trouble(link: Link) -> None:
    """Not every line of the log is about the connection."""
    link.log(logging.INFO, "PARTCNT", "partition count changed")
    assert not link.trouble


@pytest.mark.parametrize(
    ("text", "doubted"),
    [
        ("Disconnected (after 450ms in state UP)", True),
        ("Timed out ProduceRequest in flight (after 2996ms, timeout #0)", True),
        ("Connect to localhost:1 failed (after 0ms in state CONNECT)", False),
        ("Timed out ApiVersionRequest in flight (after 1001ms, timeout #0)", False),
    ],
)
def test_what_may_have_gone_unanswered(link: Link, text: str, *, doubted: bool) -> None:
    """Only a connection that carried events leaves a doubt about them."""
    accepted_at = time.monotonic()
    assert not link.doubts(accepted_at)
    link.log(logging.INFO, "FAIL", text)
    assert link.doubts(accepted_at) is doubted
    assert not link.doubts(accepted_at + 3600)


def test_no_secret_leaves_the_link(link: Link, sink: RecordingSink) -> None:
    """Neither logs nor errors hold a password, whatever the driver writes."""
    link.log(logging.INFO, "FAIL", "password=secret-too; password=secret")
    link.failed(KafkaError(KafkaError._AUTHENTICATION, "bad password secret"))
    assert "secret" not in sink.text()
    assert "***" in sink.text()
    assert link.trouble == "bad password ***"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "x: SSL handshake failed: certificate verify failed: …",
            "tls_verify_hostname",
        ),
        ("x: SSL handshake failed: wrong version number", "check tls and its settings"),
        ("x: SASL authentication error", "check sasl_mechanism, username and password"),
    ],
)
def test_what_to_do_about_a_refusal(link: Link, text: str, advice: str) -> None:
    """The settings that can be wrong are named, and no others."""
    link.failed(KafkaError(KafkaError._SSL, text))
    assert advice in str(link.login_refused)
    assert text in str(link.login_refused)


def test_a_refused_certificate_is_a_refused_login(link: Link) -> None:
    """To the driver it is a lost connection like any other."""
    text = "x: Receive failed: tls alert bad certificate: SSL alert number 42"
    link.failed(KafkaError(KafkaError._TRANSPORT, text))
    assert "check tls_cert and tls_key" in str(link.login_refused)


_BOTH = ["SSL connection closed by peer", "connection reset by peer"]
_WHERE = " (after 0ms in state SSL_HANDSHAKE)"


@pytest.mark.parametrize("ended", _BOTH)
@pytest.mark.parametrize("logged", [True, False], ids=["logged", "called back"])
@pytest.mark.parametrize("told", ["poorly", "well"])
def test_tls_where_none_is_spoken(
    link: Link, sink: RecordingSink, told: str, ended: str, *, logged: bool
) -> None:
    """The driver says it in one of two ways, by chance; users get the useful one."""
    useful = (
        f"ssl://localhost:1/bootstrap: SSL handshake failed: Disconnected: {ended}: "
        f"connecting to a PLAINTEXT broker listener?{_WHERE}"
    )
    poor = f"ssl://localhost:1/bootstrap: Disconnected: {ended}{_WHERE}"
    text = useful if told == "well" else poor
    accepted_at = time.monotonic()
    if logged:
        link.log(logging.ERROR, "FAIL", f"[thrd:localhost:1/bootstrap]: {text}")
        assert sink.logs == [(logging.INFO, f"FAIL: {useful}")]
    else:
        link.failed(KafkaError(KafkaError._TRANSPORT, text))
    assert link.trouble == link.trouble_of(accepted_at) == useful
    assert link.hung_up_at is not None
    link.failed(ALL_DOWN)
    (error,) = sink.states
    assert isinstance(error, BrokerUnreachable)
    assert str(error).endswith(useful)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("wrong version number", "check tls and its settings"),
        ("certificate verify failed: broker certificate …", "check that tls_ca"),
    ],
)
def test_tls_that_cannot_be_agreed_on(link: Link, reason: str, advice: str) -> None:
    """Here, too, the driver has two ways; the poor one looks like a lost connection."""
    error = f"error:0A00010B:SSL routines::{reason}{_WHERE}"
    useful = f"ssl://localhost:1/bootstrap: SSL handshake failed: {error}"
    link.failed(KafkaError(KafkaError._SSL, useful))
    first = str(link.login_refused)
    link.failed(
        KafkaError(KafkaError._TRANSPORT, f"ssl://localhost:1/bootstrap: {error}")
    )
    assert first == str(link.login_refused)
    assert useful in first
    assert advice in first


def test_who_ends_every_connection(link: Link) -> None:
    """Known from the first time on, until another trouble or an answer comes."""
    ends: list[Callable[[], None]] = [
        lambda: link.failed(REFUSED),
        link.acknowledged,
        lambda: link.statistics('"state":"UP"'),
    ]
    for end in ends:
        link.log(
            logging.INFO, "FAIL", "Disconnected (after 0ms in state SSL_HANDSHAKE)"
        )
        since = link.hung_up_at
        assert since is not None
        link.log(logging.INFO, "FAIL", "Disconnected (after 2ms in state UP)")
        assert link.hung_up_at == since
        end()
        assert link.hung_up_at is None
    link.log(logging.INFO, "FAIL", "Disconnected (after 600001ms in state UP)")
    assert link.hung_up_at is None


def test_a_trouble_of_every_attempt_is_told_now_and_then(
    link: Link, sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between it is for debugging only."""
    monkeypatch.setattr("eventbus_sync.backends.kafka.link._MAX_LOGGED", 2)
    link.answered()
    for text in ("a (after 1ms)", "a (after 2ms)", "b", "c", "a (after 1ms)"):
        link.log(logging.ERROR, "FAIL", text)
    levels = [level for level, _ in sink.logs]
    assert levels == [logging.ERROR, logging.DEBUG] + [logging.ERROR] * 3


def test_an_outage_is_no_error_besides(link: Link, sink: RecordingSink) -> None:
    """With no broker left, its reason is in the log already; with some it is not."""
    link.log(logging.ERROR, "FAIL", "at the start")
    link.log(logging.ERROR, "GETPID", "not granted")
    link.answered()
    link.log(logging.ERROR, "FAIL", "one of several")
    link.failed(ALL_DOWN)
    link.log(logging.ERROR, "FAIL", "the last one")
    levels = [level for level, _ in sink.logs]
    assert levels == [logging.INFO, logging.ERROR, logging.ERROR, logging.INFO]


def test_what_the_driver_says_for_debugging_is_no_trouble(link: Link) -> None:
    """The end of a spare connection, for one."""
    link.log(logging.DEBUG, "FAIL", "Broker handle is terminating")
    assert not link.trouble


def test_events_that_end_just_after_an_outage_name_it(link: Link) -> None:
    """Those that were accepted before its end, and no others."""
    for end in (link.acknowledged, link.answered):
        before = time.monotonic()
        link.failed(REFUSED)
        link.failed(ALL_DOWN)
        # The driver says the same only once in half a minute.
        during = time.monotonic()
        end()
        assert "refused" in link.trouble_of(before)
        assert "refused" in link.trouble_of(during)
        assert not link.trouble_of(time.monotonic() + 1)


def test_no_secret_is_in_a_cause(link: Link, sink: RecordingSink) -> None:
    """The driver's error is passed on with its text masked too."""
    link.failed(KafkaError(KafkaError._AUTHENTICATION, "bad password secret"))
    (error,) = sink.states
    assert isinstance(error, AuthenticationFailed)
    assert "secret" not in repr(error.__cause__)
    assert "***" in repr(error.__cause__)
