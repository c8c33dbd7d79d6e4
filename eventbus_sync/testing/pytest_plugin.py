"""
Embedded brokers as pytest fixtures.

Put ``pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]`` into the ``conftest.py``
at the root of your tests. A broker that is not installed skips the test with the reason;
in CI (environment variable ``CI``) it fails it, so that a green run has run everything.

PYTEST_DONT_REWRITE: nothing is asserted here, and so it may be imported beforehand.
"""

import contextlib
import os

from collections.abc import Iterator
from typing import NoReturn

import pytest

from eventbus_sync.testing.broker_errors import BrokerNotInstalled
from eventbus_sync.testing.kafka_server import KafkaServer
from eventbus_sync.testing.nats_server import NatsServer


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
def fresh_nats_server() -> Iterator[NatsServer]:
    """A real, empty nats-server with JetStream for this test alone: break it."""
    with contextlib.ExitStack() as stack:
        with _unless_missing():
            server = stack.enter_context(NatsServer())
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
def fresh_kafka_server() -> Iterator[KafkaServer]:
    """A real, empty Kafka broker in its own process for this test alone: break it."""
    with contextlib.ExitStack() as stack:
        with _unless_missing():
            server = stack.enter_context(KafkaServer(kind="tansu"))
        yield server
