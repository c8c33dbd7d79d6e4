"""
Embedded brokers and faults as pytest fixtures.

Put ``pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]`` into the ``conftest.py``
at the root of your tests. A broker that is not installed skips the test with the reason;
in CI (environment variable ``CI``) it fails it, so that a green run has run everything.

==============================================  =======================================
``nats_server``, ``kafka_server``               one for the session: leave it running
``fresh_nats_server``, ``fresh_kafka_server``   one for the test: break it
``proxied_nats_server``, ``proxied_…``          the same behind a ``TcpProxy``
``freeze(server)``, ``kill(server)``            stands still, dies; is there again
``cut(server)``, ``deaf(server)``               network gone, network silent
``mute(server)``                                answers lost on their way
``slow(server, delay, bytes_per_second)``       network slow
``reject(broker)``                              events are refused
``faults``                                      the object that has all these verbs
==============================================  =======================================

A fault ends with its ``with`` block, after ``seconds=…``, by its ``undo()``, or with the
test, so that the next test finds everything whole::

    def test_an_outage_loses_nothing(fresh_nats_server, freeze):
        with freeze(fresh_nats_server):
            ...

The network faults take a proxied server or a ``TcpProxy``. See ``faults.py``.

PYTEST_DONT_REWRITE: nothing is asserted here, and so it may be imported beforehand.
"""

import contextlib
import os

from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from eventbus_sync.testing.broker_errors import BrokerNotInstalled
from eventbus_sync.testing.faults import Fault, Faults
from eventbus_sync.testing.kafka_server import KafkaServer
from eventbus_sync.testing.nats_server import NatsServer
from eventbus_sync.testing.proxy import TcpProxy


def skip_or_fail(reason: str) -> NoReturn:
    """The test is skipped with the reason, or fails with it where ``CI`` is set."""
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def _unless_missing() -> Iterator[None]:
    try:
        yield
    except BrokerNotInstalled as error:
        skip_or_fail(str(error))


@pytest.fixture
def faults() -> Iterator[Faults]:
    """Every fault by one name; what is still broken when the test ends is mended."""
    with Faults() as faults:
        yield faults


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """
    A real nats-server with JetStream, one for the whole session.

    Use streams and subjects of your own in each test, and leave it running: a test that
    kills or freezes its server takes ``fresh_nats_server``.
    """
    with contextlib.ExitStack() as stack:
        with _unless_missing():
            server = stack.enter_context(NatsServer())
        yield server


@pytest.fixture
def fresh_nats_server(faults: Faults) -> Iterator[NatsServer]:
    """A real, empty nats-server with JetStream for this test alone: break it."""
    with contextlib.ExitStack() as stack:
        with _unless_missing():
            server = stack.enter_context(NatsServer())
        stack.callback(faults.undo)  # while there is a server to mend
        yield server


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    """
    A Kafka broker, one for the whole session; its ``kind`` says which.

    Use topics of your own in each test, and leave it running: a test that kills or
    freezes its broker takes ``fresh_kafka_server``.
    """
    with contextlib.ExitStack() as stack:
        with _unless_missing():
            server = stack.enter_context(KafkaServer())
        yield server


@pytest.fixture
def fresh_kafka_server(faults: Faults) -> Iterator[KafkaServer]:
    """A real, empty Kafka broker in its own process for this test alone: break it."""
    with contextlib.ExitStack() as stack:
        with _unless_missing():
            server = stack.enter_context(KafkaServer(kind="tansu"))
        stack.callback(faults.undo)  # while there is a server to mend
        yield server


@pytest.fixture
def proxied_nats_server(faults: Faults) -> Iterator[NatsServer]:
    """A fresh nats-server whose ``url`` is that of its ``proxy``: break the network."""
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(TcpProxy())
        with _unless_missing():
            server = stack.enter_context(NatsServer(proxy=proxy))
        stack.callback(faults.undo)  # while there is a server to mend
        yield server


@pytest.fixture
def proxied_kafka_server(faults: Faults) -> Iterator[KafkaServer]:
    """A fresh Kafka broker that clients reach by its ``proxy``: break the network."""
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(TcpProxy())
        with _unless_missing():
            server = stack.enter_context(KafkaServer(kind="tansu", proxy=proxy))
        stack.callback(faults.undo)  # while there is a server to mend
        yield server


# -- faults ----------------------------------------------------------------------------
@pytest.fixture
def freeze(faults: Faults) -> Callable[..., Fault]:
    """A server takes bytes and answers nothing, then runs on."""
    return faults.freeze


@pytest.fixture
def kill(faults: Faults) -> Callable[..., Fault]:
    """A server is dead by SIGKILL, then starts again."""
    return faults.kill


@pytest.fixture
def cut(faults: Faults) -> Callable[..., Fault]:
    """A proxied server's connections are reset, new ones refused."""
    return faults.cut


@pytest.fixture
def mute(faults: Faults) -> Callable[..., Fault]:
    """A proxied server hears everything, and its answers do not get through."""
    return faults.mute


@pytest.fixture
def deaf(faults: Faults) -> Callable[..., Fault]:
    """A proxied server's connections stand, and nothing gets through."""
    return faults.deaf


@pytest.fixture
def slow(faults: Faults) -> Callable[..., Fault]:
    """A proxied server's bytes come late, or few at a time."""
    return faults.slow


@pytest.fixture
def reject(faults: Faults) -> Callable[..., Fault]:
    """A broker refuses every event."""
    return faults.reject
