"""``relay --once``: when it ends, and what it says of rows that it leaves."""

import contextlib
import threading

from collections.abc import Callable
from typing import cast

import attrs
import pytest

from sqlalchemy import text, update
from support.outbox_rows import an_event, buried, take, write
from support.patience import SLACK
from support.relay_store import MemoryStore

from eventbus_sync import MemoryConfig, cli, cli_once, cli_relay
from eventbus_sync.cli_once import PATIENCE, Standstill
from eventbus_sync.errors import BusClosed, StoreFailed
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay, OutboxStats
from eventbus_sync.testing import MemoryBus


pytest_plugins = ["support.databases"]


@attrs.define
class Both:
    """Stands in for a relay and its table, and for a clock."""

    claimed: int = 0
    held: int = 0
    hidden: int = 0
    blocked_by: str = "backend 7"
    away: bool = False
    asked: int = 0
    now: float = 100.0

    def stats(self, *, settled: bool = True) -> "Both | OutboxStats":
        if settled:
            return self  # the relay's
        self.asked += 1
        if self.away:
            raise StoreFailed
        return OutboxStats(
            pending=self.hidden, leased=0, waiting=0, published=0, dead=0, discarded=0,
            oldest_age=0.0, hidden=self.hidden, blocked_by=self.blocked_by,
        )  # fmt: skip

    def after(self, look: Callable[[], str], seconds: float) -> str:
        self.now += seconds
        return look()


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.fixture
def look(both: Both) -> Callable[[], str]:
    relay, outbox = cast("OutboxRelay", both), cast("SqlAlchemyOutbox", both)
    return Standstill(relay, outbox, lambda: both.now).look


def test_it_ends_when_rows_are_hidden_and_nothing_came_for_long(
    both: Both, look: Callable[[], str]
) -> None:
    both.hidden = 1200
    assert look() == ""
    assert both.after(look, PATIENCE - 0.1) == ""
    assert both.asked == 0  # not at each look
    assert both.after(look, 0.2) == (
        "1,200 rows wait for the end of an older transaction of the database: backend 7"
    )
    both.hidden, both.blocked_by = 1, ""
    said = both.after(look, PATIENCE)
    assert said.startswith("1 row waits for ")
    assert said.endswith(": it is not known which")


def test_it_goes_on_while_there_is_work(both: Both, look: Callable[[], str]) -> None:
    both.hidden = 5
    for _ in range(9):
        both.claimed += 1
        assert both.after(look, PATIENCE - 1) == ""
    both.held = 1
    for _ in range(9):
        assert both.after(look, PATIENCE + 1) == ""
    assert both.asked == 0


def test_it_goes_on_while_nothing_is_hidden_or_the_database_is_away(
    both: Both, look: Callable[[], str]
) -> None:
    look()
    for away in (False, True, False):
        both.away = away
        assert both.after(look, PATIENCE) == ""
        assert both.after(look, PATIENCE / 2) == ""
    assert both.asked == 3


def test_once_does_not_wait_for_ever_for_a_transaction_of_others(
    postgresql_outbox: SqlAlchemyOutbox,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outbox = postgresql_outbox
    url = outbox.engine.url.render_as_string(hide_password=False)
    monkeypatch.setattr(cli_once, "PATIENCE", 0.5)
    once = ["relay", "--once", "--db", url, "--bus", "ours"]
    with MemoryBus(MemoryConfig(delivery_timeout=1, close_timeout=0)) as bus:
        monkeypatch.setattr(cli_relay, "_bus", lambda _: contextlib.nullcontext(bus))
        write(outbox, "before")
        with outbox.engine.connect() as late:
            late.execute(text("SET application_name = 'nightly-report'"))
            outbox.add(late, "orders", an_event("late"))
            write(outbox, "a", "b")
            assert cli.main(once) == 1
            said = capsys.readouterr().err
            assert "2 rows wait for the end of an older transaction" in said
            assert "nightly-report" in said
            assert said.splitlines()[-1].startswith("exit 1: 2 rows wait for the end")
            assert (outbox.stats().published, outbox.stats().leased) == (1, 0)
            late.commit()
        assert cli.main(once) == 0
    assert outbox.stats().published == 4


def test_drain_starts_no_relay_that_was_stopped_if_told_so() -> None:
    """The signal may come before the thread that waits for the end."""
    store = MemoryStore()
    with MemoryBus(MemoryConfig(delivery_timeout=1, close_timeout=0)) as bus:
        relay = OutboxRelay(store, bus, name="eventbus-relay", lease=6.0)
        assert not relay.drain(start=False)
        relay.start()
        assert relay.drain(SLACK, start=False)
        relay.stop()
        before = len(store.calls)
        assert not relay.drain(start=False)
        assert (len(store.calls), relay.stats().state) == (before, "stopped")
        assert not [t for t in threading.enumerate() if t.name.startswith(relay.name)]


def test_drain_of_a_relay_whose_bus_was_closed_says_so() -> None:
    with MemoryBus(MemoryConfig(delivery_timeout=1, close_timeout=0)) as bus:
        relay = OutboxRelay(MemoryStore(), bus, name="eventbus-relay", lease=6.0)
        relay.start()
        bus.close()
        with pytest.raises(BusClosed):
            relay.run()
        assert relay.stats().state == "failed"
        with pytest.raises(BusClosed):
            relay.drain(SLACK)
        assert not relay.drain(start=False)


def test_what_is_left_is_told_by_the_table(sqlite_outbox: SqlAlchemyOutbox) -> None:
    outbox = sqlite_outbox
    write(outbox, "a")
    assert cli_once.left(outbox) == []
    outbox.mark([buried(record) for record in take(outbox).records])
    dead = "1 dead row is left (outbox list --state dead)"
    assert cli_once.left(outbox) == [dead]
    write(outbox, "b", "c", "d")
    with outbox.engine.begin() as connection:
        waits = {"error": "full: no", "attempts": 1}
        connection.execute(
            update(outbox.table).where(outbox.table.c.state == "pending").values(waits)
        )
    assert cli_once.left(outbox) == [dead, "3 rows wait for their next attempt"]
    take(outbox, limit=1)
    another = "leased by another relay, which is at work or was killed"
    assert cli_once.left(outbox) == [
        dead,
        "2 rows wait for their next attempt",
        f"1 row is {another}",
    ]


def test_a_table_that_went_away_meanwhile_is_store_failed(
    sqlite_outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = sqlite_outbox.stats()
    monkeypatch.setattr(sqlite_outbox, "stats", lambda **_: stats)
    sqlite_outbox.table.drop(sqlite_outbox.engine)
    with pytest.raises(StoreFailed, match="the outbox's database failed"):
        cli_once.left(sqlite_outbox)
    sqlite_outbox.create_all()
