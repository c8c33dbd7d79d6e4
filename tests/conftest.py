"""What every test gets: real brokers by fixture, a clean environment, a leak guard."""

import os
import signal
import socket
import threading

from collections.abc import Iterator

import hypothesis
import pytest

from support.eventually import eventually


pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]

# Started in the background by a script, pytest and all its children would ignore
# Ctrl-C, and tests that send it would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CI = os.environ.get("CI") == "true"

# The machines of CI are slow and shared: no deadline for a single example.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=300)
hypothesis.settings.load_profile("ci" if CI else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave the slow tier to CI and to those who ask for it."""
    if CI or config.getoption("--slow"):
        return
    slow = pytest.mark.skip(reason="slow tier: run with --slow, CI runs it always")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(slow)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith("EVENTBUS_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """A test that leaves a thread of ours behind fails."""
    before = set(threading.enumerate())
    yield

    def left() -> list[str]:
        return [
            thread.name
            for thread in set(threading.enumerate()) - before
            if thread.name.startswith("eventbus")
        ]

    eventually(lambda: not left(), timeout=5)


@pytest.fixture
def unused_tcp_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
