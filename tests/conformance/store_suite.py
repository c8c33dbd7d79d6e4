"""
The contract of a store as tests, one for each numbered sentence of outbox/store.py.

A database subclasses ``StoreConformance`` and gives an ``outbox`` with an empty table.
"""

import threading
import time

from typing import Any

import pytest

from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool
from support.outbox_rows import (
    aggregates,
    buried,
    expire,
    published,
    released,
    retried,
    set_rows,
    state_of,
    statements,
    take,
    write,
)

from eventbus_sync.errors import StoreFailed
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox.record import Change, Mark, RowState


class StoreConformance:
    """What holds on every database."""

    #: Statements of one claim that finds rows, and of one mark with both kinds.
    claim_statements: int
    mark_statements: int

    # -- 1: short transactions -------------------------------------------------------

    def test_1_no_transaction_is_open_when_a_method_returns(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        open_now: set[int] = set()
        most = 0

        def began(connection: Any, *_: Any) -> None:
            nonlocal most
            open_now.add(id(connection.connection.dbapi_connection))
            most = max(most, len(open_now))

        def ended(connection: Any) -> None:
            open_now.discard(id(connection.connection.dbapi_connection))

        write(outbox, "a", "a", "b")
        for name, hook in {"begin": began, "commit": ended, "rollback": ended}.items():
            event.listen(outbox.engine, name, hook)
        try:
            records = take(outbox).records
            assert not open_now
            assert outbox.renew([records[0].lease], seconds=30) == 3
            assert not open_now
            outbox.mark([published(records[0]), released(records[1])])
            assert not open_now
            assert outbox.purge(older_than=-1, limit=10) == 1
            assert not open_now
        finally:
            for name, hook in {
                "begin": began,
                "commit": ended,
                "rollback": ended,
            }.items():
                event.remove(outbox.engine, name, hook)
        assert most == 1

    def test_1_statements_do_not_grow_with_the_batch(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, *(f"a-{n % 70}" for n in range(200)))
        take(outbox, limit=1, without=[f"a-{n}" for n in range(70)])  # warm
        counts = set()
        for limit in (2, 20, 100):
            with statements(outbox.engine) as seen:
                claim = take(outbox, limit)
            assert len(claim.records) == limit
            assert len([x for x in seen if "BEGIN" not in x]) == self.claim_statements
            counts.add(len(seen))
            expire(outbox)
        assert len(counts) == 1
        # One that finds nothing: the window.
        set_rows(outbox, state="published", settled_at=1.0)
        with statements(outbox.engine) as seen:
            assert take(outbox).records == ()
        assert len([x for x in seen if "SELECT" in x]) == 1

    # -- 2: one at a time, fenced ------------------------------------------------------

    def test_2_a_claimed_row_is_claimed_by_nobody_else(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a", "b", "b")
        assert aggregates(take(outbox)) == ["a", "b", "b"]
        for ordering in ("aggregate", "none"):
            assert take(outbox, ordering=ordering).records == ()

    def test_2_claimers_in_threads_never_share_a_row(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, *(f"a-{n % 23}" for n in range(300)))
        start = threading.Barrier(2)
        got: list[list[tuple[str, int]]] = [[], []]
        wrong: list[BaseException] = []

        def relay(mine: list[tuple[str, int]]) -> None:
            try:
                start.wait(10)
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    records = take(outbox, limit=17).records
                    mine += [(r.aggregate_id, r.position) for r in records]
                    moved = outbox.mark([published(r) for r in records])
                    assert moved == {r.position for r in records}
                    if not records and not outbox.stats().pending:
                        return
            except BaseException as error:  # noqa: BLE001 - told by the test
                wrong.append(error)

        threads = [threading.Thread(target=relay, args=(one,)) for one in got]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not wrong
        everything = got[0] + got[1]
        assert len(everything) == len(set(everything)) == 300
        assert state_of(outbox) == ["published"] * 300
        for mine in got:  # what one relay gets of an aggregate, it gets in order
            for name in {aggregate for aggregate, _ in mine}:
                places = [place for aggregate, place in mine if aggregate == name]
                assert places == sorted(places)

    @pytest.mark.parametrize("change", list(Change)[2:6], ids=lambda c: c.value)
    def test_2_who_lost_the_lease_changes_nothing(
        self, outbox: SqlAlchemyOutbox, change: Change
    ) -> None:
        write(outbox, "a")
        late = take(outbox).records[0]
        expire(outbox)
        mine = take(outbox).records[0]
        before = outbox.rows()
        assert outbox.mark([Mark(late, change, 7, 5.0, "late")]) == set()
        assert outbox.renew([late.lease], seconds=900) == 0
        assert outbox.rows() == before
        # Nor with a mark of the new lease in the same batch.
        assert outbox.mark([Mark(late, change, 7, 5.0, "late"), released(mine)]) == {
            mine.position
        }
        assert outbox.rows()[0].attempts == 0
        assert state_of(outbox) == ["pending"]

    def test_2_duplicate_marks_count_once(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "b")
        a, b = take(outbox).records
        assert outbox.mark([published(a), retried(a), published(a), buried(b)]) == {
            a.position,
            b.position,
        }
        assert outbox.mark([published(a), released(a), retried(b, 9)]) == set()
        assert state_of(outbox) == ["published", "dead"]

    # -- 3: the database's clock ---------------------------------------------------------

    def test_3_a_lease_ends_by_itself(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a")
        assert len(take(outbox, seconds=0.5).records) == 1
        assert take(outbox).records == ()
        time.sleep(0.7)
        assert len(take(outbox).records) == 1

    def test_3_the_clock_of_this_host_does_not_matter(
        self, outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(outbox, "a")
        for hosts in (0.0, 9e9):
            monkeypatch.setattr(time, "time", lambda hosts=hosts: hosts)
            records = take(outbox).records
            assert len(records) == 1
            assert 0 <= records[0].age < 60
            assert take(outbox).records == ()
            outbox.mark([retried(records[0], 0)])

    def test_3_renewed_leases_last_from_now(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "b", "b")
        first = take(outbox, limit=1, seconds=0.8)
        second = take(outbox, seconds=0.8)
        leases = [first.records[0].lease, second.records[0].lease, "nobody's"]
        assert outbox.renew(leases, seconds=30) == 3
        time.sleep(1)
        assert take(outbox).records == ()
        expire(outbox)
        assert outbox.renew(leases, seconds=30) == 0
        assert outbox.renew([], seconds=30) == 0

    # -- 4: order ------------------------------------------------------------------------

    def test_4_runs_begin_with_the_oldest_and_have_no_holes(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a", "a", "a", "b", "a")
        a1, a2 = take(outbox, limit=3).records[:2]
        assert outbox.stats().leased == 3
        # The head waits: nothing of the aggregate, though the second is free.
        outbox.mark([retried(a1, 60), released(a2)])
        claim = take(outbox)
        assert claim.records == ()
        assert claim.next_due == pytest.approx(60, abs=5)
        set_rows(outbox, next_attempt_at=0.0)
        expire(outbox)
        assert aggregates(take(outbox)) == ["a", "a", "a", "b", "a"]

    def test_4_a_row_that_waits_cuts_the_run(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "b")
        records = take(outbox).records
        write(outbox, "a", "a", "b")
        outbox.mark([released(record) for record in records])
        late = outbox.rows()[2]
        rows = outbox.table
        with outbox.engine.begin() as connection:
            connection.execute(
                rows.update()
                .where(rows.c.position == late.position)
                .values(next_attempt_at=9e9)
            )
        assert aggregates(take(outbox)) == ["a", "b", "b"]

    def test_4_an_aggregate_in_use_is_left_alone(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a", "a", "b")
        a1, a2, b = take(outbox).records
        outbox.mark([released(a1), published(b)])
        # The head is free, but the row after it is still somebody's.
        assert take(outbox).records == ()
        outbox.mark([released(a2)])
        assert aggregates(take(outbox)) == ["a", "a"]

    def test_4_rows_in_use_far_behind_the_window_count_too(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a")
        write(outbox, *(f"b-{n}" for n in range(99)))
        write(outbox, "a")
        records = take(outbox).records + take(outbox, scan_from=50).records
        assert len(records) == 100
        expire(outbox)
        last = take(outbox, limit=200).records
        assert [record.aggregate_id for record in last].count("a") == 2
        outbox.mark([released(record) for record in last[:-1]])
        assert aggregates(take(outbox, limit=1)) == ["b-0"]

    def test_4_a_dead_row_holds_its_aggregate_or_is_passed(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a", "a", "b")
        a1, a2, b = take(outbox).records
        assert outbox.mark([buried(a1), released(a2), released(b)])
        assert aggregates(take(outbox, on_dead="hold")) == ["b"]
        assert aggregates(take(outbox, on_dead="skip")) == ["a"]
        expire(outbox)
        outbox.discard([a1.event_id])
        assert aggregates(take(outbox, on_dead="hold")) == ["a", "b"]

    def test_4_the_head_before_scan_from_counts(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "b", "a", "c")
        second = outbox.rows()[1].position
        assert aggregates(take(outbox, scan_from=second)) == ["c"]

    def test_4_without_leaves_aggregates_alone(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "b", "c")
        assert aggregates(take(outbox, without={"a", "c"})) == ["b"]
        assert aggregates(take(outbox, without={"a"}, ordering="none")) == ["c"]

    def test_4_no_order_every_due_row(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "a", "a")
        one, two, three = take(outbox).records
        outbox.mark([buried(one), retried(two, 60), released(three)])
        claim = take(outbox, ordering="none")
        assert [record.position for record in claim.records] == [three.position]

    def test_4_heads_first_then_the_hot_aggregate(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, *["hot"] * 20, "b", "c")
        assert aggregates(take(outbox, limit=8)) == [*["hot"] * 6, "b", "c"]

    def test_4_a_hot_aggregate_of_somebody_else_hides_nobody(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        with outbox.engine.begin() as connection:
            from support.outbox_rows import an_event

            hot = [an_event("hot") for _ in range(3000)]
            outbox.add_many(connection, "orders", hot)
        assert len(take(outbox, limit=10).records) == 10  # somebody else's
        write(outbox, "cold")
        found: list[str] = []
        scan, looks = 0, 0
        while not found:
            claim = take(outbox, limit=100, scan_from=scan)
            found, scan, looks = aggregates(claim), claim.scanned_to, looks + 1
            assert found or scan, "the end was reached, and nothing found"
        assert found == ["cold"]
        assert looks <= 3000 / 400 + 1
        assert claim.scanned_to == 0  # from the oldest row again

    def test_4_what_was_too_much_is_found_next(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, *(f"a-{n}" for n in range(10)))
        first = take(outbox, limit=4)
        rows = outbox.rows()
        assert first.scanned_to == rows[3].position
        second = take(outbox, limit=4, scan_from=first.scanned_to)
        assert aggregates(second) == ["a-4", "a-5", "a-6", "a-7"]
        third = take(outbox, limit=4, scan_from=second.scanned_to)
        assert aggregates(third) == ["a-8", "a-9"]
        assert third.scanned_to == 0

    # -- 5: marks in batches -----------------------------------------------------------

    def test_5_a_mixed_batch_moves_each_row_its_way(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a", "b", "c", "d", "e", "f")
        one = take(outbox, limit=3).records
        two = take(outbox, limit=3).records
        a, b, c, d, e, f = one + two
        with statements(outbox.engine) as seen:
            moved = outbox.mark(
                [
                    published(a),
                    retried(b, 100),
                    buried(c),
                    released(d),
                    retried(e, 200),
                    published(f),
                ]
            )
        sent = [x for x in seen if "UPDATE" in x or "SELECT" in x]
        assert len(sent) == self.mark_statements
        assert moved == {r.position for r in one + two}
        rows = outbox.rows()
        assert [(row.state.value, row.attempts, row.error) for row in rows] == [
            ("published", 0, ""),
            ("pending", 1, "full: no room"),
            ("dead", 1, "illegal_topic: no"),
            ("pending", 0, ""),
            ("pending", 1, "full: no room"),
            ("published", 0, ""),
        ]
        assert {row.leased_until for row in rows} == {None}
        settled = [row.settled_at is not None for row in rows]
        assert settled == [True, False, True, False, False, True]
        now = rows[0].created_at
        waits = [row.next_attempt_at - now for row in (rows[1], rows[4])]
        assert waits == pytest.approx([100, 200], abs=20)
        assert aggregates(take(outbox)) == ["d"]

    def test_5_marks_say_which_rows_moved(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "b")
        lost = take(outbox, limit=1).records[0]
        expire(outbox)
        kept = take(outbox, limit=1, without=["a"]).records[0]
        assert take(outbox).records[0].position == lost.position
        assert outbox.mark([published(lost), published(kept)]) == {kept.position}
        assert outbox.mark([]) == set()

    def test_5_a_large_batch(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, *(f"a-{n}" for n in range(1200)))
        records = take(outbox, limit=1000).records
        assert len(records) == 1000
        # Jitter makes every delay another one.
        marks = [
            retried(record, 60 + n / 1000) if n % 2 else published(record)
            for n, record in enumerate(records)
        ]
        with statements(outbox.engine) as seen:
            assert outbox.mark(marks) == {r.position for r in records}
        sent = [x for x in seen if "UPDATE" in x or "SELECT" in x]
        assert len(sent) == self.mark_statements

    # -- 6: what is gone is no error -----------------------------------------------------

    def test_6_marks_of_purged_rows_do_nothing(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a")
        record = take(outbox).records[0]
        outbox.mark([published(record)])
        assert outbox.purge(older_than=-1, limit=10) == 1
        for mark in (published, retried, buried, released):
            assert outbox.mark([mark(record)]) == set()
        assert outbox.renew([record.lease], seconds=5) == 0
        assert outbox.rows() == []
        # The number is not given again.
        write(outbox, "a")
        assert outbox.rows()[0].position > record.position

    # -- 8: errors -------------------------------------------------------------------------

    def test_8_a_database_error_is_store_failed(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "secret")
        take(outbox)
        expire(outbox)

        def spoil(
            _c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
        ) -> tuple[str, Any]:
            if statement.startswith("UPDATE"):
                return "UPDATE broken_on_purpose SET a = 1", type(parameters)()
            return statement, parameters

        before = outbox.rows()
        event.listen(outbox.engine, "before_cursor_execute", spoil, retval=True)
        try:
            with pytest.raises(StoreFailed, match="broken_on_purpose") as caught:
                take(outbox)
        finally:
            event.remove(outbox.engine, "before_cursor_execute", spoil)
        assert caught.value.retriable
        assert isinstance(caught.value.__cause__, Exception)
        assert "secret" not in str(caught.value)
        assert outbox.rows() == before

    def test_8_no_database_is_store_failed(self, outbox: SqlAlchemyOutbox) -> None:
        url = outbox.engine.url.set(port=1) if outbox.engine.url.port else None
        target = "sqlite:////no/such/folder/outbox.db" if url is None else url
        engine = create_engine(target, poolclass=NullPool)
        with pytest.raises(StoreFailed) as caught:
            SqlAlchemyOutbox(engine).stats()
        assert type(caught.value.__cause__).__module__.split(".")[0] in {
            "sqlite3",
            "psycopg",
            "pymysql",
        }

    # -- what operators do ---------------------------------------------------------------

    def test_requeue_and_what_was_overtaken(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "a", "b", "c")
        a1, a2, b, c = take(outbox).records
        outbox.mark([buried(a1), published(a2), buried(b), released(c)])
        assert outbox.requeue(["nothing", c.event_id, "x" * 9999]).event_ids == ()
        done = outbox.requeue([a1.event_id])
        assert (done.event_ids, done.overtaken) == ((a1.event_id,), (a1.event_id,))
        rest = outbox.requeue()
        assert (rest.event_ids, rest.overtaken) == ((b.event_id,), ())
        again = take(outbox).records
        assert [(r.position, r.attempts) for r in again] == [
            (a1.position, 0),
            (b.position, 0),
            (c.position, 0),
        ]

    def test_requeue_begins_the_age_anew(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a")
        set_rows(outbox, created_at=1.0)
        record = take(outbox).records[0]
        assert record.age > 1e9
        outbox.mark([buried(record)])
        outbox.requeue()
        assert take(outbox).records[0].age < 60

    def test_discard(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "b")
        a, b = take(outbox).records
        outbox.mark([buried(a), released(b)])
        given = [a.event_id, b.event_id, "no such"]
        assert outbox.discard(given) == (a.event_id,)
        assert outbox.discard(given) == ()
        assert state_of(outbox) == ["discarded", "pending"]

    def test_purge_takes_bounded_batches_of_what_is_old_enough(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, *(f"a-{n}" for n in range(7)))
        records = take(outbox).records
        outbox.mark([*map(published, records[:4]), *map(buried, records[4:6])])
        outbox.discard([records[4].event_id])
        assert outbox.purge(older_than=60, limit=100) == 0
        assert [outbox.purge(older_than=-1, limit=2) for _ in range(4)] == [2, 2, 1, 0]
        # Neither the dead nor those in flight.
        assert state_of(outbox) == ["dead", "pending"]

    def test_stats(self, outbox: SqlAlchemyOutbox) -> None:
        assert outbox.stats().oldest_age == 0.0
        write(outbox, "a", "b", "c", "d", "e")
        a, b, c, _, e = take(outbox).records
        outbox.mark([published(a), buried(b), retried(c, 60), buried(e)])
        outbox.discard([e.event_id])
        stats = outbox.stats()
        counts = (stats.pending, stats.leased, stats.waiting)
        assert counts == (2, 1, 1)
        assert (stats.published, stats.dead, stats.discarded) == (1, 1, 1)
        assert 0 <= stats.oldest_age < 60
        set_rows(outbox, created_at=1.0)
        assert outbox.stats().oldest_age > 1e9

    def test_rows_by_state(self, outbox: SqlAlchemyOutbox) -> None:
        ids = write(outbox, "a", "b", "c")
        a, _, _ = take(outbox).records
        outbox.mark([buried(a)])
        assert [row.event_id for row in outbox.rows(limit=2)] == ids[:2]
        (dead,) = outbox.rows(RowState.DEAD)
        assert (dead.event_id, dead.topic, dead.aggregate_id) == (ids[0], "orders", "a")
        assert dead.event_type == "OrderCreated"
        leased = outbox.rows(RowState.PENDING)
        assert all(row.leased_until is not None for row in leased)
