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
from support.eventually import eventually
from support.outbox_rows import (
    aggregates,
    buried,
    expire,
    let_time_pass,
    published,
    released,
    retried,
    set_rows,
    state_of,
    statements,
    take,
    write,
    write_large,
)

from eventbus_sync.errors import StoreFailed
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox.record import Change, Mark


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

    def test_2_a_late_mark_counts_until_somebody_else_has_the_row(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a")
        record = take(outbox).records[0]
        expire(outbox)
        # The event is stored by now: to send it again would help nobody.
        assert outbox.mark([published(record)]) == {record.position}
        assert state_of(outbox) == ["published"]

    def test_2_what_is_settled_is_not_marked_even_if_a_lease_was_left(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a")
        record = take(outbox).records[0]
        for state in ("published", "dead", "discarded"):
            set_rows(outbox, state=state)  # by hand, and the lease forgotten
            before = outbox.rows()
            for mark in (published, retried, buried, released):
                assert outbox.mark([mark(record)]) == set()
            assert outbox.renew([record.lease], seconds=900) == 0
            assert outbox.rows() == before

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
        assert len(take(outbox, seconds=20).records) == 1
        assert take(outbox).records == ()
        let_time_pass(outbox, 21)
        assert len(take(outbox, seconds=0.001).records) == 1
        eventually(lambda: take(outbox).records)

    def test_3_the_clock_of_this_host_does_not_matter(
        self, outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(outbox, "a")
        for hosts in (0.0, 9e9):
            monkeypatch.setattr(time, "time", lambda hosts=hosts: hosts)
            records = take(outbox).records
            assert len(records) == 1
            assert 0 <= records[0].failing_for < 60
            assert take(outbox).records == ()
            outbox.mark([retried(records[0], 0)])

    def test_3_renewed_leases_last_from_now(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a", "b", "b")
        first = take(outbox, limit=1, seconds=20)
        second = take(outbox, seconds=20)
        leases = [first.records[0].lease, second.records[0].lease, "nobody's"]
        assert outbox.renew(leases, seconds=60) == 3
        let_time_pass(outbox, 30)
        assert take(outbox).records == ()
        expire(outbox)
        assert outbox.renew(leases, seconds=30) == 0
        assert outbox.renew([], seconds=30) == 0

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

    # -- 9: bytes --------------------------------------------------------------------------

    @pytest.mark.parametrize("ordering", ["aggregate", "none"])
    def test_9_a_claim_returns_what_fits_and_the_next_one_the_rest(
        self, outbox: SqlAlchemyOutbox, ordering: str
    ) -> None:
        write_large(outbox, "a", "a", "b", "a", "b", "c", headers={"x": "y" * 900})
        order = [row.position for row in outbox.rows()]
        found: list[list[int]] = []
        scan_from = 0
        # 10 kB a row, and its headers: three are too much for 30 kB.
        for most in (30_000, 0, 5_000, 90_000):
            claim = take(outbox, scan_from=scan_from, ordering=ordering, max_bytes=most)
            scan_from = claim.scanned_to
            found.append([record.position for record in claim.records])
            outbox.mark([published(record) for record in claim.records])
        # The heads of the aggregates come first, as ever.
        one = [0, 2] if ordering == "aggregate" else [0, 1]
        two = [1] if ordering == "aggregate" else [2]
        assert found[0] == [order[n] for n in one]
        assert found[1] == [order[n] for n in two]
        assert found[2] == [order[3]]
        assert found[3] == [order[4], order[5]]
        assert scan_from == 0
        assert state_of(outbox) == ["published"] * 6

    def test_9_what_does_not_fit_is_neither_leased_nor_read(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write_large(outbox, *(f"a-{n}" for n in range(20)))
        outbox.check_schema()  # the first call would, and be counted
        with statements(outbox.engine) as seen:
            few = take(outbox, max_bytes=55_000)
        assert aggregates(few) == [f"a-{n}" for n in range(5)]
        assert all(len(record.payload) == 10_002 for record in few.records)
        assert len([x for x in seen if "BEGIN" not in x]) == self.claim_statements
        # Another relay has it at once.
        assert len(take(outbox, scan_from=few.scanned_to).records) == 15

    def test_9_without_a_limit_all_are_taken(self, outbox: SqlAlchemyOutbox) -> None:
        write_large(outbox, *(f"a-{n}" for n in range(20)))
        assert len(take(outbox).records) == 20
        expire(outbox)
        assert len(take(outbox, max_bytes=10**9).records) == 20
