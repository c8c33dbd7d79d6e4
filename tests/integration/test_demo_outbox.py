"""``python -m eventbus_sync demo --outbox``: real processes, brokers that go away."""

import json
import os
import signal
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.patience import SLACK

from eventbus_sync.demo.embedded import check_installed
from eventbus_sync.testing import BrokerNotInstalled, NatsServer
from eventbus_sync.testing.pytest_plugin import skip_or_fail


COMMAND = [sys.executable, "-m", "eventbus_sync", "demo", "--outbox"]

NATS = pytest.param("nats", marks=[pytest.mark.nats, pytest.mark.slow])
KAFKA = pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the demo keeps database and broker; nothing of it may be left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    yield temporary
    eventually(lambda: list(temporary.iterdir()) == [], timeout=5)


def demo(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start the demo."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def one_run(out: str) -> dict[str, Any]:
    """Return the figures of a demo with one broker."""
    (run,) = json.loads(out)["runs"]
    assert isinstance(run, dict)
    return run


def needs(backend: str) -> None:
    """Skip, or in CI fail, where the broker is not installed."""
    try:
        check_installed(backend)
    except BrokerNotInstalled as error:
        skip_or_fail(str(error))


@pytest.mark.parametrize("backend", [NATS, KAFKA])
def test_a_small_run(backend: str, folder: Path) -> None:
    """The broker goes away in the middle; all that was committed is published."""
    needs(backend)
    arguments = ["--backend", backend, "--events", "800", "--json"]
    with demo(folder, *arguments) as process:
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    run = one_run(out)
    assert (run["committed"], run["rolled_back"]) == (800, 80)
    assert run["rows"] == {"published": 800}
    assert run["relay"]["published"] == 800
    assert (run["violations"], run["failures"]) == ([], [])
    assert run["stored"] == 800 if backend == "nats" else run["stored"] >= 800
    (fault,) = run["faults"]
    assert fault["done"] == ("killed" if backend == "nats" else "frozen")
    assert 3.0 <= fault["seconds"] < 15 + SLACK
    # Nobody who wrote has waited for the broker: rows waited instead.
    assert run["most_pending"] > 100
    assert run["oldest_age"] > 1
    assert fault["done"] in err


@pytest.mark.nats
@pytest.mark.slow
def test_for_people(folder: Path) -> None:
    """A table, and one line with the verdict."""
    needs("nats")
    with demo(folder, "--events", "300", "--threads", "1") as process:
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    lines = out.splitlines()
    assert lines[0].startswith("the outbox on SQLite, and NATS JetStream")
    assert lines[-1].startswith("the outbox kept its word on nats: ")
    assert "pending  oldest" in err
    assert "\x1b" not in out + err


@pytest.mark.nats
def test_a_broker_of_the_users(nats_server: NatsServer, folder: Path) -> None:
    """It is not broken, and left as it was found."""
    arguments = ["--url", nats_server.url, "--events", "200", "--json"]
    with demo(folder, *arguments) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    run = one_run(out)
    assert (run["committed"], run["stored"], run["faults"]) == (200, 200, [])


@pytest.mark.nats
@pytest.mark.slow
def test_ctrl_c_while_the_broker_is_away(folder: Path) -> None:
    """It comes back, what was committed is published, the books are shown."""
    needs("nats")
    with demo(folder, "--json", "--events", "3000") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "killed" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    data = json.loads(out)
    assert (data["interrupted"], data["balanced"]) == (True, True), out
    (run,) = data["runs"]
    assert 0 < run["committed"] == run["stored"]
    assert run["faults"][0]["seconds"] < 3 + SLACK
