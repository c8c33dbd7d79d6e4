"""Rows that are committed late are neither skipped nor overtaken; notifications."""

import contextlib
import threading
import time

from collections.abc import Iterator
from typing import Any

import pytest

from sqlalchemy import TwoPhaseTransaction, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from support.database_servers import DatabaseServer
from support.databases import an_engine
from support.eventually import eventually
from support.outbox_rows import aggregates, an_event, published, statements, take, write

from eventbus_sync._threads import Deadline
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


pytest_plugins = ["support.databases"]


class TestPostgresqlOrder:
    """By transaction number: whoever is older may still bring an older row."""

    @pytest.fixture
    def outbox(self, postgresql_outbox: SqlAlchemyOutbox) -> SqlAlchemyOutbox:
        return postgresql_outbox

    def test_a_late_commit_is_neither_skipped_nor_overtaken(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        with outbox.engine.connect() as late:
            first = outbox.add(late, "t", an_event("a"))
            second = write(outbox, "a", "b")
            claim = take(outbox)
            # Nobody knows what the open one will bring: all that is younger waits.
            assert (claim.records, claim.hidden) == ((), True)
            # Without order nothing has to wait.
            loose = take(outbox, ordering="none")
            assert [r.event_id for r in loose.records] == second
            late.commit()
        outbox.renew([loose.records[0].lease], seconds=0)
        claim = take(outbox)
        assert [r.event_id for r in claim.records] == [first, *second]
        assert not claim.hidden

    def test_two_writers_of_one_aggregate_and_the_younger_commits_first(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        """Its row, though older by position, waits for what the other one brings."""
        with outbox.engine.connect() as older, outbox.engine.connect() as younger:
            older.execute(text("SELECT pg_current_xact_id()"))  # it has its number
            first = outbox.add(younger, "t", an_event("a"))
            second = outbox.add(older, "t", an_event("a"))
            younger.commit()
            claim = take(outbox)
            assert (claim.records, claim.hidden) == ((), True)
            older.commit()
        assert [r.event_id for r in take(outbox).records] == [first, second]

    def test_two_writers_of_one_aggregate_and_the_older_commits_first(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        """
        What is documented as not guaranteed: without a common lock the row added first
        is sent later, since nobody can know of it; it is not skipped.
        """
        with outbox.engine.connect() as older, outbox.engine.connect() as younger:
            older.execute(text("SELECT pg_current_xact_id()"))
            first = outbox.add(younger, "t", an_event("a"))
            second = outbox.add(older, "t", an_event("a"))
            older.commit()
            claim = take(outbox)
            assert [r.event_id for r in claim.records] == [second]
            outbox.mark([published(r) for r in claim.records])
            younger.commit()
        assert [r.event_id for r in take(outbox).records] == [first]

    def test_a_common_lock_keeps_two_writers_in_order(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        """As by an UPDATE of the aggregate's own row before ``add``."""
        lock = text("SELECT pg_advisory_xact_lock(4711)")
        added: list[str] = []

        def second() -> None:
            with outbox.engine.begin() as connection:
                connection.execute(text("SELECT pg_current_xact_id()"))
                older.set()
                connection.execute(lock)
                added.append(outbox.add(connection, "t", an_event("a")))

        older = threading.Event()
        with outbox.engine.connect() as connection:
            connection.execute(lock)
            waits = threading.Thread(target=second)
            waits.start()
            assert older.wait(20)
            added.append(outbox.add(connection, "t", an_event("a")))
            connection.commit()
        waits.join(20)
        assert [r.event_id for r in take(outbox).records] == added

    def test_an_invisible_row_cuts_the_run(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a")
        with outbox.engine.connect() as late:
            outbox.add(late, "t", an_event("z"))
            write(outbox, "a")
            claim = take(outbox)
            assert aggregates(claim) == ["a"]
            assert claim.hidden

    def test_stats_say_who_holds_rows(self, outbox: SqlAlchemyOutbox) -> None:
        with outbox.engine.connect() as late:
            late.execute(text("SET application_name = 'nightly-report'"))
            pid = late.scalar(text("SELECT pg_backend_pid()"))
            outbox.add(late, "t", an_event("z"))
            write(outbox, "a", "b")
            stats = outbox.stats()
            assert stats.hidden == 2
            assert "nightly-report" in stats.blocked_by
            assert f"backend {pid} " in stats.blocked_by
            assert "s ago" in stats.blocked_by
        stats = outbox.stats()
        assert (stats.hidden, stats.blocked_by) == (0, "")

    def test_a_prepared_transaction_is_named(self, outbox: SqlAlchemyOutbox) -> None:
        with outbox.engine.connect() as late:
            late.begin_twophase(transaction := "forgotten")
            outbox.add(late, "t", an_event("z"))
            prepared = late.get_transaction()
            assert isinstance(prepared, TwoPhaseTransaction)
            prepared.prepare()
            write(outbox, "a")
            blocked_by = outbox.stats().blocked_by
            assert f"prepared transaction {transaction}" in blocked_by
            prepared.commit()
        assert aggregates(take(outbox)) == ["z", "a"]

    def test_rows_of_another_cluster_stay_claimable(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a", "b", "c")
        change = "UPDATE eventbus_outbox SET xid = '{}' WHERE aggregate_id = '{}'"
        with outbox.engine.begin() as connection:
            beyond = 2**60
            connection.execute(text(change.format(beyond, "a")))
            connection.execute(text(change.format(3, "b")))
            connection.execute(
                text("UPDATE eventbus_outbox SET xid = NULL WHERE aggregate_id = 'c'")
            )
        claim = take(outbox)
        assert aggregates(claim) == ["a", "b", "c"]
        assert not claim.hidden

    def test_it_can_be_switched_off(self, outbox: SqlAlchemyOutbox) -> None:
        loose = SqlAlchemyOutbox(outbox.engine, commit_order=False)
        with outbox.engine.connect() as late:
            outbox.add(late, "t", an_event("a"))
            write(outbox, "a")
            assert aggregates(take(loose)) == ["a"]
            assert loose.stats().hidden == 0


class TestMariadbOrder:
    """By dirty reads: a row that is not committed yet holds its aggregate."""

    @pytest.fixture
    def outbox(self, mariadb_outbox: SqlAlchemyOutbox) -> SqlAlchemyOutbox:
        return mariadb_outbox

    def test_a_late_commit_is_neither_skipped_nor_overtaken(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        with outbox.engine.connect() as late:
            first = outbox.add(late, "t", an_event("a"))
            second, _ = write(outbox, "a", "b")
            # Only this aggregate waits.
            assert aggregates(take(outbox)) == ["b"]
            late.commit()
        assert [r.event_id for r in take(outbox).records] == [first, second]

    def test_what_is_rolled_back_holds_nobody(self, outbox: SqlAlchemyOutbox) -> None:
        with outbox.engine.connect() as late:
            outbox.add(late, "t", an_event("a"))
            write(outbox, "a")
            assert take(outbox).records == ()
            late.rollback()
        assert aggregates(take(outbox)) == ["a"]

    def test_it_can_be_switched_off(self, outbox: SqlAlchemyOutbox) -> None:
        loose = SqlAlchemyOutbox(outbox.engine, commit_order=False)
        with outbox.engine.connect() as late:
            outbox.add(late, "t", an_event("a"))
            write(outbox, "a")
            assert aggregates(take(loose)) == ["a"]


class TestSqliteOrder:
    def test_there_is_one_writer_at_a_time(
        self, sqlite_outbox: SqlAlchemyOutbox
    ) -> None:
        with sqlite_outbox.engine.connect() as late:
            sqlite_outbox.add(late, "t", an_event("a"))
            url = f"{sqlite_outbox.engine.url}?timeout=0.1"
            with (
                an_engine(url) as impatient,
                Session(impatient) as session,
                pytest.raises(DBAPIError, match="locked"),
            ):
                sqlite_outbox.add(session, "t", an_event("a"))


def listener_of(outbox: SqlAlchemyOutbox) -> Any:
    assert outbox._listener is not None
    return outbox._listener


@contextlib.contextmanager
def connections_of(outbox: SqlAlchemyOutbox) -> Iterator[list[Any]]:
    """The driver's connections that are made in between."""
    made: list[Any] = []

    def note(driver: Any, _: Any) -> None:
        made.append(driver)

    event.listen(outbox.engine, "connect", note)
    try:
        yield made
    finally:
        event.remove(outbox.engine, "connect", note)


class TestNotifications:
    """PostgreSQL wakes a relay."""

    @pytest.fixture
    def outbox(self, postgresql_outbox: SqlAlchemyOutbox) -> SqlAlchemyOutbox:
        assert postgresql_outbox.wait(Deadline.after(5))  # a new connection: look
        return postgresql_outbox

    @staticmethod
    def waited(outbox: SqlAlchemyOutbox, seconds: float) -> float:
        begun = time.monotonic()
        assert outbox.wait(Deadline.after(seconds))
        return time.monotonic() - begun

    def test_a_commit_ends_a_wait(self, outbox: SqlAlchemyOutbox) -> None:
        assert self.waited(outbox, 0.3) >= 0.3
        timer = threading.Timer(0.2, write, (outbox, "a", "b"))
        timer.start()
        assert self.waited(outbox, 20) < 10
        timer.join()
        assert self.waited(outbox, 0.2) >= 0.2  # once for the transaction

    def test_a_commit_before_the_wait_ends_it(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a")
        assert self.waited(outbox, 20) < 10

    def test_a_rollback_does_not(self, outbox: SqlAlchemyOutbox) -> None:
        with outbox.engine.connect() as connection:
            outbox.add(connection, "t", an_event())
        assert self.waited(outbox, 0.3) >= 0.3

    def test_wake_ends_a_wait(self, outbox: SqlAlchemyOutbox) -> None:
        timer = threading.Timer(0.2, outbox.wake)
        timer.start()
        assert self.waited(outbox, 20) < 10
        timer.join()
        outbox.wake()  # before the wait
        assert self.waited(outbox, 20) < 10

    def test_notified_once_for_each_transaction(self, outbox: SqlAlchemyOutbox) -> None:
        def told(sent: list[str]) -> int:
            return sum("pg_notify" in one for one in sent)

        for _ in range(2):
            with (
                statements(outbox.engine) as sent,
                Session(outbox.engine) as session,
                session.begin(),
            ):
                for _ in range(3):
                    outbox.add(session, "t", an_event())
                outbox.add_many(session, "t", [an_event(), an_event()])
                with session.begin_nested():
                    outbox.add(session, "t", an_event())
            assert told(sent) == 1
        # What a savepoint takes back is told again.
        with statements(outbox.engine) as sent, Session(outbox.engine) as session:
            with contextlib.suppress(KeyError), session.begin_nested():
                outbox.add(session, "t", an_event())
                raise KeyError
            outbox.add(session, "t", an_event())
            session.commit()
        assert told(sent) == 2
        quiet = SqlAlchemyOutbox(outbox.engine, notify=False)
        with statements(outbox.engine) as sent:
            write(quiet, "a")
        assert told(sent) == 0
        assert not quiet.wait(Deadline.after(5))

    def test_a_lost_connection_is_made_again(
        self, outbox: SqlAlchemyOutbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'LISTEN%' OR query LIKE 'SELECT 1%'"
        )
        with outbox.engine.begin() as connection:
            connection.execute(text(kill))
        eventually(lambda: not outbox.wait(Deadline.after(1)))
        assert sum("cannot hear" in one.message for one in caplog.records) == 1
        assert not outbox.wait(Deadline.after(1))  # not at once again
        eventually(lambda: outbox.wait(Deadline.after(1)), timeout=15)
        write(outbox, "a")
        assert self.waited(outbox, 20) < 10

    def test_a_quiet_connection_is_asked_whether_it_lives(
        self, outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A firewall that forgot it would say nothing, for ever."""
        connection = listener_of(outbox)._connection
        pid = connection.connection.dbapi_connection.info.backend_pid
        asked = text("SELECT query FROM pg_stat_activity WHERE pid = :pid")

        def last_query() -> str:
            with outbox.engine.connect() as connection:
                return str(connection.scalar(asked, {"pid": pid}))

        assert outbox.wait(Deadline.after(0))
        assert last_query().startswith("LISTEN")
        monkeypatch.setattr("eventbus_sync.integrations.sqlalchemy.listen._QUIET", 0.0)
        assert outbox.wait(Deadline.after(0))
        assert last_query() == "SELECT 1"

    def test_a_database_that_refuses_to_notify_is_polled(
        self, outbox: SqlAlchemyOutbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        outbox.close()
        listener = listener_of(outbox)
        listen, listener._listen = listener._listen, "LISTEN to nobody"
        with connections_of(outbox) as made:
            for _ in range(3):
                assert not outbox.wait(Deadline.after(60))
                pool: Any = outbox.engine.pool
                assert pool.checkedout() == 0
                listener._not_before = 0.0  # the pause is over
        for driver in made:
            driver.close()
        assert sum("cannot hear" in one.message for one in caplog.records) == 1
        listener._listen = listen
        assert outbox.wait(Deadline.after(60))
        assert sum("are heard again" in one.message for one in caplog.records) == 1
        write(outbox, "a")
        assert outbox.wait(Deadline.after(600))

    def test_a_refused_listen_leaves_no_connection_open(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        outbox.close()
        listener_of(outbox)._listen = "LISTEN to nobody"
        outbox.engine.dispose()
        with connections_of(outbox) as made:
            assert not outbox.wait(Deadline.after(60))
        left = [driver for driver in made if not driver.closed]
        for driver in left:
            driver.close()
        assert (len(made), left) == (1, [])

    def test_a_child_leaves_the_connection_to_its_parent(
        self, outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As it is after a fork: to close it would end it for the parent too."""
        kept: list[Any] = []
        module = "eventbus_sync.integrations.sqlalchemy.listen"
        monkeypatch.setattr(f"{module}._of_the_parent", kept)
        listener = listener_of(outbox)
        parents = listener._connection
        bell = listener._bell
        listener._owner -= 1
        assert outbox.wait(Deadline.after(60))  # at once: a new connection
        assert listener._connection is not parents
        assert kept == [(parents, bell)]
        assert not parents.closed
        assert parents.connection.dbapi_connection.execute("SELECT 1").fetchone() == (
            1,
        )
        write(outbox, "a")
        assert outbox.wait(Deadline.after(600))
        parents.close()
        for end in bell:
            end.close()

    def test_a_connection_lost_at_add_is_not_the_tables_fault(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        with outbox.engine.connect() as connection:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            with outbox.engine.begin() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            with pytest.raises(DBAPIError) as caught:
                outbox.add(connection, "t", an_event("a"))
            assert caught.value.connection_invalidated

    def test_elsewhere_there_is_nothing_to_wait_for(
        self, sqlite_outbox: SqlAlchemyOutbox
    ) -> None:
        begun = time.monotonic()
        assert not sqlite_outbox.wait(Deadline.after(5))
        sqlite_outbox.wake()
        assert time.monotonic() - begun < 2

    def test_another_driver_is_said_once(
        self,
        outbox: SqlAlchemyOutbox,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO")
        monkeypatch.setattr(outbox.engine.dialect, "driver", "psycopg2")
        other = SqlAlchemyOutbox(outbox.engine)
        assert not other.wait(Deadline.after(5))
        assert not other.wait(Deadline.after(5))
        assert sum("psycopg2" in one.message for one in caplog.records) == 1


def test_the_listening_connection_is_not_of_the_pool(
    postgresql_server: DatabaseServer, postgresql_outbox: SqlAlchemyOutbox
) -> None:
    with an_engine(postgresql_server.url) as engine:
        outbox = SqlAlchemyOutbox(engine)
        assert outbox.wait(Deadline.after(5))
        pool: Any = engine.pool
        assert pool.checkedout() == 0
        outbox.close()
        assert outbox.wait(Deadline.after(5))  # opens again
        outbox.close()


def test_deadlocks_are_tried_again(postgresql_outbox: SqlAlchemyOutbox) -> None:
    outbox = postgresql_outbox
    write(outbox, "a")
    left = [2]

    def deadlock(_c: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> Any:
        if statement.startswith("UPDATE") and left[0]:
            left[0] -= 1
            broken = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$"
            return broken, type(given)()
        return statement, given

    event.listen(outbox.engine, "before_cursor_execute", deadlock, retval=True)
    records = take(outbox).records
    event.remove(outbox.engine, "before_cursor_execute", deadlock)
    assert len(records) == 1
    assert left == [0]
    assert outbox.mark([published(records[0])]) == {records[0].position}
