"""``python -m eventbus_sync relay`` as a process: signals, exit codes, status line."""

import os
import pty
import select
import signal
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlalchemy import create_engine
from support.databases import an_outbox
from support.eventually import eventually
from support.patience import let_pass
from support.relay_process import RelayProcess
from support.rigs import unique

from eventbus_sync import Envelope, cli
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.testing import NatsServer


pytestmark = pytest.mark.nats


class Rig:
    """A SQLite outbox, and URLs for a relay from it to a stream of its own."""

    def __init__(self, outbox: SqlAlchemyOutbox, server: NatsServer) -> None:
        stream = unique("CLI").upper()
        self.outbox = outbox
        self.topic = f"cli.{stream}"
        self.db = outbox.engine.url.render_as_string()
        self.bus = f"{server.url}?stream={stream}&subjects={self.topic}"

    def add(self, count: int, topic: str = "") -> None:
        with self.outbox.engine.begin() as connection:
            for number in range(count):
                envelope = Envelope(f"a{number % 7}", "E", 1, number)
                self.outbox.add(connection, topic or self.topic, envelope)

    def published(self) -> int:
        return self.outbox.stats().published


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SqlAlchemyOutbox]:
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    with an_outbox(engine) as outbox:
        yield outbox
    engine.dispose()


@pytest.fixture
def rig(outbox: SqlAlchemyOutbox, nats_server: NatsServer) -> Rig:
    return Rig(outbox, nats_server)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_in_good_order(
    rig: Rig, tmp_path: Path, number: signal.Signals
) -> None:
    rig.add(3000)
    with RelayProcess(rig.db, rig.bus, tmp_path / "log") as relay:
        relay.wait_until_it_runs()
        eventually(lambda: rig.published() > 100, 30)
        relay.send(number)
        assert relay.wait() == 0, relay.said()
        assert " published, 0 retried, 0 dead, " in relay.said()
        assert relay.said().endswith(" 0 still leased\n")
    assert rig.outbox.stats().leased == 0


def test_a_second_signal_ends_it_at_once(
    outbox: SqlAlchemyOutbox, fresh_nats_server: NatsServer, tmp_path: Path
) -> None:
    rig = Rig(outbox, fresh_nats_server)
    # It would wait for what is in flight for longer than the test does.
    bus = f"{rig.bus}&delivery_timeout=300"
    with RelayProcess(rig.db, bus, tmp_path / "log", "--lease", "310") as relay:
        relay.wait_until_it_runs()
        fresh_nats_server.freeze()
        rig.add(50)
        eventually(lambda: rig.outbox.stats().leased > 0, 30)
        let_pass(0.5)  # what was claimed goes out, which nobody outside can see
        relay.send(signal.SIGTERM)
        eventually(lambda: rig.outbox.stats().leased <= 7, 30)
        assert "stopping: waiting" in relay.said()
        assert not relay.ended  # it waits for what is in flight
        relay.send(signal.SIGTERM)
        assert relay.wait() == 128 + signal.SIGTERM, relay.said()
    # What is in flight may be stored: it is nobody's until its lease has ended.
    assert 0 < rig.outbox.stats().leased <= 7


def run(rig: Rig, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "eventbus_sync", "relay", *options]
    environment = {
        **os.environ,
        "OUTBOX_DB_URL": rig.db,
        "OUTBOX_BUS_URL": rig.bus,
    }
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


def test_once_publishes_what_is_due_and_ends(rig: Rig) -> None:
    rig.add(500)
    done = run(rig, "--once")
    assert done.returncode == 0, done.stderr
    assert rig.published() == 500
    assert "stopped: 500 published, 0 retried, 0 dead" in done.stderr


def test_once_says_by_its_code_that_rows_are_dead(rig: Rig) -> None:
    rig.add(5)
    rig.add(5, topic="not legal")
    done = run(rig, "--once", "--on-dead", "skip")
    assert done.returncode == 1, done.stderr
    assert "a row cannot be published" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == "exit 1: 5 dead rows are left (outbox list --state dead)"
    assert rig.outbox.stats().dead == 5


@pytest.mark.parametrize("secret", ["", ":hush-hush@", "me:hush-hush@"])
def test_once_without_a_broker_gives_up(
    rig: Rig,
    unused_tcp_port: int,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("eventbus_sync.cli_relay._BROKER", 0.5)
    rig.add(5)
    bus = f"nats://{secret}127.0.0.1:{unused_tcp_port}?delivery_timeout=1"
    code = cli.main(["relay", "--once", "--db", rig.db, "--bus", bus])
    said = "".join(capsys.readouterr())
    assert "hush" not in said
    if secret.startswith(":"):
        assert code == 2  # a password of nobody
    else:
        assert code == 1, said
        assert "Trying on." in said
        last = said.splitlines()[-1]
        assert last.startswith("exit 1: ")
        assert last.endswith("no broker was reached")
    stats = rig.outbox.stats()
    assert (stats.pending, stats.dead) == (5, 0)


def test_a_status_line_on_a_terminal(rig: Rig) -> None:
    rig.add(50)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "eventbus_sync", "relay"),
            *("--db", rig.db, "--bus", rig.bus),
        ],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        said = b""

        def shown(text: bytes) -> bool:
            nonlocal said
            while select.select([ours], [], [], 0)[0]:
                try:
                    said += os.read(ours, 4096)
                except OSError:
                    break
            return text in said

        try:
            eventually(lambda: shown(b"\r\x1b[K50 published"), 30)
            assert shown(b"0 pending")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            shown(b"")
            os.close(ours)
    assert process.returncode == 0
    assert b"stopped: 50 published" in said
