"""What was wrong once, on each database."""

import math
import random

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from sqlalchemy import String, cast, event, literal, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from support.databases import an_engine
from support.outbox_rows import (
    aggregates,
    an_event,
    buried,
    expire,
    let_time_pass,
    published,
    released,
    retried,
    set_rows,
    statements,
    take,
    write,
)

from eventbus_sync._threads import Deadline
from eventbus_sync.errors import BrokerFull, DuplicateKey
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import RetryPolicy
from eventbus_sync.outbox.record import Change, Mark, RowState
from eventbus_sync.outbox.retry import decide
from eventbus_sync.outbox.store import LONGEST_LEASE
from eventbus_sync.results import Outcome, PublishResult


pytest_plugins = ["support.databases"]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def outbox(request: pytest.FixtureRequest) -> SqlAlchemyOutbox:
    """An empty one of each database in turn."""
    found: SqlAlchemyOutbox = request.getfixturevalue(f"{request.param}_outbox")
    return found


@contextmanager
def rows_read(outbox: SqlAlchemyOutbox) -> Iterator[list[int]]:
    """How many rows the SELECTs in between would give, one number each."""
    read: list[int] = []
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, given))

    event.listen(outbox.engine, "before_cursor_execute", note)
    yield read
    event.remove(outbox.engine, "before_cursor_execute", note)
    with outbox.engine.connect() as connection:
        for statement, given in asked:
            read.append(len(connection.exec_driver_sql(statement, given).all()))


# -- duplicates ------------------------------------------------------------------------


def test_a_duplicate_is_looked_up_by_itself(outbox: SqlAlchemyOutbox) -> None:
    """Without a key, "the key is NULL" is true of most of the table."""
    write(outbox, *(f"a-{n}" for n in range(50)))
    twice = an_event("b", event_id="twice")
    with outbox.engine.begin() as connection:
        outbox.add(connection, "t", twice)
    for key in (None, "new"):
        with rows_read(outbox) as read, outbox.engine.begin() as connection:
            with pytest.raises(DuplicateKey, match="twice"):
                outbox.add(connection, "t", twice, idempotency_key=key)
            connection.rollback()
        assert sum(read) == 1


def test_an_idempotency_key_wins_over_the_event_id(outbox: SqlAlchemyOutbox) -> None:
    with outbox.engine.begin() as connection:
        outbox.add(connection, "t", an_event(event_id="one"))
        outbox.add(connection, "t", an_event(event_id="two"), idempotency_key="k")
        again = an_event(event_id="one")
        assert outbox.add(connection, "t", again, idempotency_key="k") == "two"


def test_a_rule_of_ones_own_stays_an_integrity_error(outbox: SqlAlchemyOutbox) -> None:
    with outbox.engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX one ON eventbus_outbox (topic)"))
    write(outbox, "a")
    for add in (
        lambda c: outbox.add(c, "orders", an_event("b")),
        lambda c: outbox.add(c, "orders", an_event("b"), idempotency_key="k"),
        lambda c: outbox.add_many(c, "orders", [an_event("b")]),
    ):
        with outbox.engine.connect() as connection, pytest.raises(IntegrityError):
            add(connection)
    assert len(outbox.rows()) == 1


def test_one_event_twice_in_a_batch(outbox: SqlAlchemyOutbox) -> None:
    twice = an_event("b")
    with outbox.engine.connect() as connection, pytest.raises(DuplicateKey):
        outbox.add_many(connection, "more", [twice, an_event(), twice])
    assert outbox.rows() == []


def test_what_refused_a_row_may_be_purged_meanwhile(
    postgresql_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = postgresql_outbox
    with outbox.engine.begin() as connection:
        outbox.add(connection, "t", an_event(), idempotency_key="k")

    url = outbox.engine.url.render_as_string(hide_password=False)

    def purge(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            with an_engine(url) as other, other.begin() as connection:
                connection.execute(outbox.table.delete())

    with outbox.engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", purge)
        event_id = outbox.add(connection, "t", an_event(), idempotency_key="k")
        connection.commit()
    assert [row.event_id for row in outbox.rows()] == [event_id]


def test_only_the_row_that_is_there_is_locked(
    mariadb_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = mariadb_outbox
    ids = write(outbox, *(f"a-{n}" for n in range(50)))
    with outbox.engine.connect() as connection:
        with pytest.raises(DuplicateKey):
            outbox.add(connection, "t", an_event(event_id=ids[7]))
        # All others, at least, can be claimed, and others can add.
        assert len(take(outbox).records) >= 49
        write(outbox, "b")


# -- marks -----------------------------------------------------------------------------


def test_marks_of_many_leases_and_many_values(outbox: SqlAlchemyOutbox) -> None:
    count = 240
    write(outbox, *(f"a-{n}" for n in range(count)))
    rows = outbox.table
    # As if each had been claimed by itself.
    by_itself = literal("alone-").concat(cast(rows.c.position, String(9)))
    records = [
        attrs.evolve(record, lease=f"alone-{record.position}")
        for record in take(outbox, limit=count).records
    ]
    set_rows(outbox, lease=by_itself)
    assert len(records) == count
    changes = [Change.PUBLISH, Change.RETRY, Change.BURY, Change.RELEASE]
    marks = [
        Mark(record, changes[n % 4], n % 5, 1000.0 + n, f"error {n}")
        for n, record in enumerate(records)
    ]
    assert outbox.mark(marks) == {record.position for record in records}
    states = ["published", "pending", "dead", "pending"]
    for n, row in enumerate(outbox.rows(limit=count)):
        assert row.state.value == states[n % 4]
        assert row.attempts == n % 5
        told = changes[n % 4] in {Change.RETRY, Change.BURY}
        assert row.error == (f"error {n}" if told else "")
        if changes[n % 4] is Change.RETRY:
            waits = row.next_attempt_at - row.created_at
            assert 1000 + n <= waits < 1000 + n + 100


def test_a_claim_in_parts(
    outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_sync.integrations.sqlalchemy.claim._AT_ONCE", 7)
    write(outbox, *(f"a-{n % 20}" for n in range(40)))
    records = take(outbox, limit=33).records
    assert len(records) == 33
    assert [r.position for r in records] == sorted(r.position for r in records)
    assert outbox.mark([published(r) for r in records]) == {r.position for r in records}
    assert len(take(outbox).records) == 7


def test_attempts_beyond_all_bounds_are_marked(outbox: SqlAlchemyOutbox) -> None:
    write(outbox, "a")
    set_rows(outbox, attempts=2**31 - 1)
    [record] = take(outbox).records
    said = PublishResult(
        record.event_id, "t", Outcome.REJECTED, BrokerFull(), 0.0, "a", "E", 0, 0.1
    )
    mark = decide(said, record, RetryPolicy(), random.random)
    assert outbox.mark([mark]) == {record.position}
    assert outbox.rows()[0].state is RowState.DEAD


# -- leases ----------------------------------------------------------------------------


@pytest.mark.parametrize("until", [math.inf, math.nan, 1e300, 1e10, -math.inf])
def test_3_a_lease_that_nobody_can_have_given_has_ended(
    outbox: SqlAlchemyOutbox, until: float
) -> None:
    if outbox.engine.dialect.name == "mysql" and not math.isfinite(until):
        until = math.copysign(1.7e308, until)  # the largest that it has
    write(outbox, "a", "b")
    take(outbox)
    set_rows(outbox, lease_until=until)
    assert outbox.stats().leased == 0
    assert aggregates(take(outbox)) == ["a", "b"]


def test_the_longest_lease_stands(outbox: SqlAlchemyOutbox) -> None:
    write(outbox, "a")
    assert len(take(outbox, seconds=LONGEST_LEASE).records) == 1
    assert take(outbox).records == ()
    assert outbox.stats().leased == 1


@pytest.mark.parametrize("ordering", ["aggregate", "none"])
def test_4_a_row_that_is_not_due_any_more_ends_its_run(
    outbox: SqlAlchemyOutbox, ordering: str
) -> None:
    """The database's clock was set back between two statements of a claim."""
    write(outbox, "a", "a", "b", "a")
    second = outbox.rows()[1].position
    done: list[str] = []

    def set_back(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE") and not done:
            done.append(statement)
            cursor.execute(
                "UPDATE eventbus_outbox SET next_attempt_at = 4e9 "
                f"WHERE position = {second}"
            )

    event.listen(outbox.engine, "before_cursor_execute", set_back)
    held = ["a", "b"] if ordering == "aggregate" else ["a", "b", "a"]
    assert aggregates(take(outbox, ordering=ordering)) == held
    # What was not returned is nobody's.
    assert outbox.stats().leased == len(held)
    leased = [row.aggregate_id for row in outbox.rows() if row.leased_until is not None]
    assert leased == held


# -- since when ------------------------------------------------------------------------


def test_failing_counts_from_the_first_retry(outbox: SqlAlchemyOutbox) -> None:
    write(outbox, "a", "b")
    set_rows(outbox, created_at=1.0)  # long ago, and never tried
    a, b = take(outbox).records
    assert (a.failing_for, b.failing_for) == (0.0, 0.0)
    outbox.mark([retried(a, 300), released(b)])
    let_time_pass(outbox, 300)
    a, b = take(outbox).records
    assert 299 <= a.failing_for < 360
    assert b.failing_for == 0.0
    outbox.mark([retried(a, 200), retried(b, 200)])
    let_time_pass(outbox, 200)
    again, b = take(outbox).records
    # Not from the last one, nor from another row's.
    assert 499 <= again.failing_for < 560
    assert 199 <= b.failing_for < 260
    outbox.mark([buried(again), released(b)])
    outbox.requeue()
    assert {r.aggregate_id: r.failing_for > 0 for r in take(outbox).records} == {
        "a": False,
        "b": True,
    }


def test_the_oldest_age_counts_from_when_a_row_was_due(
    outbox: SqlAlchemyOutbox,
) -> None:
    now = datetime.now(UTC)
    write(outbox, "later", not_before=now + timedelta(days=1))
    set_rows(outbox, created_at=1.0)
    assert outbox.stats().oldest_age == 0.0  # not due yet
    write(outbox, "early", not_before=now - timedelta(days=9))
    assert 0 <= outbox.stats().oldest_age < 60  # written just now
    rows = outbox.table
    with outbox.engine.begin() as connection:
        was_due = rows.update().where(rows.c.aggregate_id == "later")
        connection.execute(
            was_due.values(due_at=rows.c.due_at - 86_400 - 500, next_attempt_at=0)
        )
    assert 500 <= outbox.stats().oldest_age < 600
    # One that was tried is late, though it waits for its next attempt.
    records = take(outbox).records
    outbox.mark([retried(record, 900) for record in records])
    stats = outbox.stats()
    assert stats.waiting == 2
    assert 500 <= stats.oldest_age < 600


def test_what_is_in_flight_overtakes_too(outbox: SqlAlchemyOutbox) -> None:
    write(outbox, "a", "b", "b")
    a, b, later = take(outbox).records
    outbox.mark([buried(a), buried(b), released(later)])
    assert aggregates(take(outbox, on_dead="skip")) == ["b"]
    done = outbox.requeue()
    assert done.event_ids == (a.event_id, b.event_id)
    assert done.overtaken == (b.event_id,)


def test_a_lease_that_ended_overtakes_nobody(outbox: SqlAlchemyOutbox) -> None:
    write(outbox, "b", "b")
    b, later = take(outbox).records
    outbox.mark([buried(b), released(later)])
    assert len(take(outbox, on_dead="skip").records) == 1
    expire(outbox)
    assert outbox.requeue().overtaken == ()


def test_a_lease_left_on_a_settled_row_is_nobodys(outbox: SqlAlchemyOutbox) -> None:
    write(outbox, "b", "b")
    b, _ = take(outbox).records
    outbox.mark([buried(b)])
    rows = outbox.table
    with outbox.engine.begin() as connection:
        by_hand = rows.update().where(rows.c.state == "pending")
        connection.execute(by_hand.values(state="discarded"))
    assert outbox.requeue().overtaken == ()


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_a_purge_takes_nothing_newer_than_what_somebody_locks(
    request: pytest.FixtureRequest, database: str
) -> None:
    """Nor waits for it: what is left shows requeue that nothing newer was purged."""
    outbox: SqlAlchemyOutbox = request.getfixturevalue(f"{database}_outbox")
    ids = write(outbox, "a", "b", "c")
    for event_id in ids:
        [record] = [r for r in take(outbox).records if r.event_id == event_id]
        outbox.mark([published(record)])
        expire(outbox)
        let_time_pass(outbox, 10)
    rows = outbox.table
    with outbox.engine.connect() as reader:
        second = rows.select().where(rows.c.event_id == ids[1])
        assert reader.execute(second.with_for_update(read=True)).all()
        assert outbox.purge(older_than=0, limit=10) == 1
        assert [row.event_id for row in outbox.rows()] == ids[1:]
    assert outbox.purge(older_than=0, limit=10) == 2


# -- what is seen of others' transactions ----------------------------------------------


def test_only_a_claim_sees_what_is_not_committed(
    mariadb_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = mariadb_outbox
    write(outbox, "a")
    with outbox.engine.connect() as open_one:
        outbox.add(open_one, "t", an_event("b"))
        assert outbox.stats().pending == 1
        assert [row.aggregate_id for row in outbox.rows()] == ["a"]
        write(outbox, "b")
        assert aggregates(take(outbox)) == ["a"]
        open_one.rollback()


# -- errors --------------------------------------------------------------------------


def test_a_timeout_of_add_asks_for_no_other_connection(
    postgresql_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = postgresql_outbox
    with (
        an_engine(outbox.engine.url.render_as_string(hide_password=False)) as engine,
        outbox.engine.connect() as locker,
        engine.connect() as connection,
    ):
        made: list[Any] = []
        event.listen(engine, "checkout", lambda *_: made.append(1))
        connection.execute(text("SET statement_timeout = 100"))
        locker.execute(text("LOCK TABLE eventbus_outbox IN EXCLUSIVE MODE"))
        with pytest.raises(DBAPIError, match="statement timeout"):
            SqlAlchemyOutbox(engine).add(connection, "t", an_event())
        assert made == []
        locker.rollback()


def test_a_refused_listen_leaves_no_connection(
    postgresql_outbox: SqlAlchemyOutbox,
) -> None:
    outbox = postgresql_outbox
    made: list[Any] = []
    event.listen(outbox.engine, "connect", lambda driver, _: made.append(driver))
    listener: Any = outbox._listener
    listen, listener._listen = listener._listen, "LISTEN to nobody"
    outbox.engine.dispose()
    assert not outbox.wait(Deadline.after(60))
    assert [driver.closed for driver in made] == [True]
    listener._listen, listener._not_before = listen, 0.0
    assert outbox.wait(Deadline.after(60))
    outbox.close()
    assert [driver.closed for driver in made] == [True, True]


def test_an_update_is_not_repeated_for_each_row(outbox: SqlAlchemyOutbox) -> None:
    write(outbox, *(f"a-{n}" for n in range(300)))
    records = take(outbox, limit=300).records
    with statements(outbox.engine) as sent:
        outbox.mark([retried(record, 60 + n) for n, record in enumerate(records)])
    assert sum("UPDATE" in one and "SELECT" not in one for one in sent) == 1
