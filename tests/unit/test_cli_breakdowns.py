"""Commands that get secrets in wrong places, or lose their terminal."""

import contextlib
import datetime as dt
import os
import pty
import sys
import threading
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from sqlalchemy import create_engine
from support.eventually import eventually
from support.patience import SLACK

from eventbus_sync import Envelope, MemoryConfig, cli, cli_relay, cli_status
from eventbus_sync.cli_parser import masked
from eventbus_sync.errors import BrokerFull
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay, OutboxStats, RelayStats, RetryPolicy
from eventbus_sync.testing import MemoryBus


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'app.db'}"


@pytest.fixture
def outbox(url: str) -> Iterator[SqlAlchemyOutbox]:
    engine = create_engine(url)
    outbox = SqlAlchemyOutbox(engine)
    outbox.create_all()
    yield outbox
    engine.dispose()


def said_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    try:
        code = cli.main(arguments)
    except SystemExit as error:
        code = cast("int", error.code)
    out, err = capsys.readouterr()
    return code, out + err


# -- secrets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "db",
    [
        "postgresql+psycopg://u:hun@ter2@127.0.0.1:1/d",
        "postgresql+psycopg://u:hun@ter2/x@127.0.0.1:1/d",
        "postgresql+psycopg://u@hun:ter2@127.0.0.1:1/d",
    ],
)
def test_an_at_sign_in_a_password_is_refused_without_showing_it(
    db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = said_by(capsys, "outbox", "stats", "--db", db)
    assert code == 2
    assert "write %40" in said
    assert "hun" not in said
    assert "ter2" not in said


def test_an_at_sign_that_is_written_as_such_is_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    db = "postgresql+psycopg://u:hun%40ter2@127.0.0.1:1/d"
    code, said = said_by(capsys, "outbox", "stats", "--db", db)
    assert code == 3
    assert "ter2" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["outbox", "stats", "postgresql://u:hush@h"],
        ["outbox", "stats", "--database=postgresql://u:hush@h"],
        ["outbox", "list", "--limit", "postgresql://u:hush@h"],
        ["outbox", "postgresql://u:hush@h"],
        ["relay", "nats://u:hu sh@h"],
        ["postgresql://u:hush@h"],
    ],
)
def test_wrong_arguments_are_not_repeated_with_their_secrets(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = said_by(capsys, *arguments)
    assert code == 2
    assert "error:" in said
    assert "://…" in said
    assert "hush" not in said
    assert "sh@h" not in said


def test_what_holds_no_url_is_said_as_it_is() -> None:
    assert masked("invalid choice: 'x'") == "invalid choice: 'x'"
    assert masked("no me:pw+a://sec\nret x").startswith("no …://… (not shown")
    assert "ret" not in masked("no me:pw+a://sec\nret x")


# -- arguments that a driver or a database cannot take ---------------------------------


def test_a_setting_that_the_driver_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pymysql")
    db = "mysql+pymysql://u:hush@127.0.0.1:1/d?foo=1"
    code, said = said_by(capsys, "outbox", "stats", "--db", db)
    assert code == 2
    assert "does not take a setting of --db" in said
    assert "hush" not in said


@pytest.mark.parametrize("limit", ["999999999999999999999", "9" * 5000, "1000001"])
def test_more_rows_than_anybody_reads(
    limit: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = said_by(capsys, "outbox", "list", "--db", url, "--limit", limit)
    assert code == 2
    assert "at most 1,000,000" in said
    assert len(said) < 1000


# -- --once ----------------------------------------------------------------------------


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryBus]:
    """The bus of the next ``relay`` command."""
    with MemoryBus(MemoryConfig(delivery_timeout=1.0, close_timeout=0)) as made:
        monkeypatch.setattr(cli_relay, "_bus", lambda _: contextlib.nullcontext(made))
        yield made


def add(outbox: SqlAlchemyOutbox, event_id: str, **settings: Any) -> None:
    with outbox.engine.begin() as connection:
        envelope = Envelope(event_id, "E", 1, 0, event_id=event_id)
        outbox.add(connection, "orders", envelope, **settings)


def once(url: str) -> int:
    return cli.main(["relay", "--db", url, "--bus", "ours", "--once"])


def test_a_row_for_later_is_no_failure_even_if_another_one_was_retried(
    outbox: SqlAlchemyOutbox, url: str, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "pause", lambda *_: 0.0)
    add(outbox, "later", not_before=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    add(outbox, "now")
    bus.broker.reject(BrokerFull(), times=1)
    bus.broker.delay(0.1)
    assert once(url) == 0
    stats = outbox.stats()
    assert (stats.published, stats.pending) == (1, 1)
    assert once(url) == 0  # there is nothing to do


def test_a_row_that_was_refused_and_waits_is_a_failure(
    outbox: SqlAlchemyOutbox, url: str, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "pause", lambda *_: 60.0)
    add(outbox, "a")
    add(outbox, "b")
    bus.broker.reject(BrokerFull(), times=1)
    assert once(url) == 1
    assert outbox.stats().published == 1


# -- the status line -------------------------------------------------------------------


STATS = RelayStats(
    state="running",
    held=0,
    in_flight=1,
    rate=0.0,
    breaker="closed",
    last_error=None,
    last_error_age=None,
    claimed=8,
    published=7,
    retried=0,
    held_back=0,
    buried=0,
    released=0,
    lost=0,
)


class Relay:
    """Stands in for a relay."""

    def stats(self) -> RelayStats:
        return STATS


class SlowOutbox:
    """Stands in for a table that takes its time to be counted."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = threading.Event()

    def stats(self, *, settled: bool = True) -> OutboxStats:
        assert not settled  # they may be millions
        self.asked += 1
        assert self.gate.wait(SLACK)
        return OutboxStats(
            pending=1234,
            leased=0,
            waiting=0,
            published=0,
            dead=2,
            discarded=0,
            oldest_age=9.0,
        )


def test_counting_the_rows_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_status, "INTERVAL", 0.0)
    monkeypatch.setattr(cli_status, "ASK", 0.0)
    outbox = SlowOutbox()
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        relay = cast("OutboxRelay", Relay())
        status = cli_status.Status(terminal, relay, cast("SqlAlchemyOutbox", outbox))
        status._live = True
        began = time.monotonic()
        for _ in range(5):
            status.show()
        assert time.monotonic() - began < 5.0
        assert b"pending" not in os.read(ours, 4096)
        assert outbox.asked == 1  # one question at a time
        time.sleep(0.2)
        outbox.gate.set()
        eventually(lambda: status._rows is not None, SLACK)
        eventually(lambda: not status._asking or not status._asking.is_alive(), SLACK)
        status.show()
        shown = bytearray()

        def complete() -> bool:
            # A terminal gives out what it has, which may be a part.
            shown.extend(os.read(ours, 4096))
            return b"1,234 pending  oldest 9 s  2 dead" in shown

        eventually(complete, SLACK)
        assert outbox.asked == 1  # it was slow: not so soon again
    os.close(ours)


def test_a_terminal_that_went_away_does_not_end_a_relay(
    outbox: SqlAlchemyOutbox, url: str, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)  # writing is a BrokenPipeError from here on
    add(outbox, "a")
    with contextlib.suppress(OSError), os.fdopen(theirs, "w") as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        assert once(url) == 0
    assert outbox.stats().published == 1
    assert outbox.stats().leased == 0


def test_whatever_goes_wrong_the_relay_is_stopped(
    outbox: SqlAlchemyOutbox, url: str, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[Any] = []
    stop = OutboxRelay.stop

    def noted(relay: OutboxRelay, timeout: float | None = None) -> bool:
        stops.append(timeout)
        return stop(relay, timeout)

    def broken(*_: Any, **__: Any) -> bool:
        raise error

    monkeypatch.setattr(OutboxRelay, "stop", noted)
    monkeypatch.setattr(cli_relay, "_until", broken)
    for error in (ZeroDivisionError(), SystemExit(143)):
        with pytest.raises(type(error)):
            cli.main(["relay", "--db", url, "--bus", "ours"])
    assert stops == [None, 0.0]  # a second signal: at once
