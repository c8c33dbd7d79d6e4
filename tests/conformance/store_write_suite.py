"""The write side as tests: what ``add`` promises on every database."""

import contextlib
import sys
import types

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from sqlalchemy import Column, Integer, MetaData, Table, create_engine, func, select
from sqlalchemy import text as sql
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from support.outbox_rows import aggregates, an_event, set_rows, take, write

from eventbus_sync import Envelope, EnvelopeError
from eventbus_sync.envelope.headers import check_extra_headers
from eventbus_sync.errors import AutocommitRefused, DuplicateKey, SchemaMismatch
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox.publishing import envelope_of


VECTORS = Path(__file__).parent.parent / "vectors" / "envelope.jsonl"


def count(outbox: SqlAlchemyOutbox) -> int:
    with outbox.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(outbox.table)) or 0


class WriteConformance:
    """What holds on every database."""

    def test_rollback_leaves_nothing(self, outbox: SqlAlchemyOutbox) -> None:
        with Session(outbox.engine) as session:
            outbox.add(session, "orders", an_event())
            outbox.add_many(session, "orders", [an_event(), an_event()])
            session.rollback()
        with outbox.engine.connect() as connection:
            outbox.add(connection, "orders", an_event())  # and never committed
        with contextlib.suppress(KeyError), outbox.engine.begin() as connection:
            outbox.add(connection, "orders", an_event())
            raise KeyError
        assert count(outbox) == 0
        assert take(outbox).records == ()

    def test_add_inserts_at_once_and_never_commits(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        with Session(outbox.engine, autoflush=False) as session:
            first = outbox.add(session, "orders", an_event())
            assert session.in_transaction()  # begun by itself
            stored = select(outbox.table.c.event_id)
            assert session.scalars(stored).all() == [first]
            assert not session.new
            session.rollback()
        with scoped_session(sessionmaker(outbox.engine))() as session:
            outbox.add(session, "orders", an_event())
            session.commit()
        assert count(outbox) == 1

    def test_a_scoped_session_can_be_given(self, outbox: SqlAlchemyOutbox) -> None:
        session = scoped_session(sessionmaker(outbox.engine))
        outbox.add(session, "orders", an_event())
        session.commit()
        session.remove()
        assert count(outbox) == 1
        with pytest.raises(TypeError, match="Session or Connection"):
            outbox.add(outbox.engine, "orders", an_event())  # type: ignore[arg-type]

    def test_autocommit_is_refused(self, outbox: SqlAlchemyOutbox) -> None:
        mode = {"isolation_level": "AUTOCOMMIT"}
        with (
            outbox.engine.connect().execution_options(**mode) as connection,
            pytest.raises(AutocommitRefused),
        ):
            outbox.add(connection, "orders", an_event())
        engine = create_engine(outbox.engine.url, **mode)
        with Session(engine) as session, pytest.raises(AutocommitRefused):
            outbox.add_many(session, "orders", [an_event()])
        # The store's own transactions are transactions all the same.
        write(outbox, "a")
        assert aggregates(take(SqlAlchemyOutbox(engine))) == ["a"]
        engine.dispose()
        assert count(outbox) == 1

    @pytest.mark.parametrize("line", VECTORS.read_bytes().splitlines(), ids=range(3))
    def test_events_of_go_survive_byte_for_byte(
        self, outbox: SqlAlchemyOutbox, line: bytes
    ) -> None:
        envelope = Envelope.from_bytes(line)
        with outbox.engine.begin() as connection:
            assert outbox.add(connection, "t", envelope) == envelope.event_id
        record = take(outbox).records[0]
        assert record.payload == envelope.payload
        assert envelope_of(record).to_bytes() == envelope.to_bytes() == line
        assert outbox.rows()[0].event_type == envelope.event_type

    def test_hard_texts_and_numbers_survive(self, outbox: SqlAlchemyOutbox) -> None:
        hard = "\x1a0\x00\x1a\x1a é😀\\%_'\" "
        envelope = Envelope(
            "A:b_c.d/e-F",
            hard,
            2**63 - 1,
            b'{ "n": 1e400,\n\t"\xc3\xa9": "\\u0000" }',
            event_id=hard + "id",
            timestamp="2026-08-08T13:02:28.123456789+08:00",
            trace_id=hard,
            correlation_id="c" * 256,
            tenant_id=-(2**63),
        )
        with outbox.engine.begin() as connection:
            outbox.add(connection, hard, envelope, headers={"h": "é\x01😀"})
        record = take(outbox).records[0]
        assert envelope_of(record) == envelope
        assert (record.topic, dict(record.headers)) == (hard, {"h": "é\x01😀"})

    def test_ids_that_differ_in_case_are_different(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        with outbox.engine.begin() as connection:
            for one in ("x", "X", "é", "e"):
                outbox.add(connection, "t", an_event(event_id=one))
            for aggregate in ("agg", "AGG"):
                outbox.add(connection, "t", an_event(aggregate))
        assert count(outbox) == 6
        taken = take(outbox, without=["agg", "order-1"])
        assert aggregates(taken) == ["AGG"]

    def test_large_payloads(self, outbox: SqlAlchemyOutbox) -> None:
        payload = b'"' + b"x" * 900_000 + b'"'
        with outbox.engine.begin() as connection:
            outbox.add(connection, "t", Envelope("a", "T", 1, payload))
        assert take(outbox).records[0].payload == payload

    @pytest.mark.parametrize(
        ("field", "longest"),
        [
            ("event_id", 512),
            ("event_type", 256),
            ("trace_id", 256),
            ("correlation_id", 256),
        ],
    )
    def test_what_does_not_fit_is_refused_before_the_database(
        self, outbox: SqlAlchemyOutbox, field: str, longest: int
    ) -> None:
        fits, too_long = (
            attrs.evolve(an_event(), **cast("Any", {field: "x" * length}))
            for length in (longest, longest + 1)
        )
        with outbox.engine.begin() as connection:
            with pytest.raises(EnvelopeError, match=field) as caught:
                outbox.add(connection, "t", too_long)
            assert caught.value.field == field
            outbox.add(connection, "t", fits)  # the transaction can go on
        assert count(outbox) == 1

    def test_bad_arguments(self, outbox: SqlAlchemyOutbox) -> None:
        bad: dict[str, dict[str, Any]] = {
            "topic": {"topic": "  "},
            "envelope": {"envelope": b"{}"},
            "not_before": {"not_before": datetime(2026, 1, 1)},  # noqa: DTZ001
            "idempotency_key": {"idempotency_key": ""},
            "X-Event-ID": {"headers": {"X-Event-ID": "mine"}},
        }
        with outbox.engine.begin() as connection:
            for field, wrong in bad.items():
                given: dict[str, Any] = {"topic": "t", "envelope": an_event(), **wrong}
                with pytest.raises(EnvelopeError) as caught:
                    outbox.add(connection, **given)
                assert caught.value.field == field
        assert count(outbox) == 0

    def test_an_event_is_added_once(self, outbox: SqlAlchemyOutbox) -> None:
        envelope = an_event()
        with outbox.engine.begin() as connection:
            outbox.add(connection, "t", envelope)
            with pytest.raises(DuplicateKey, match="order-1"):
                outbox.add(connection, "t", envelope)
            outbox.add(connection, "t", an_event())  # the transaction can go on
        assert count(outbox) == 2
        with (
            pytest.raises(DuplicateKey),
            outbox.engine.begin() as connection,
        ):
            outbox.add_many(connection, "t", [an_event(), envelope])
        assert count(outbox) == 2

    def test_add_many_adds_all_or_none(self, outbox: SqlAlchemyOutbox) -> None:
        twice = an_event()
        many = [an_event() for _ in range(1500)]
        with outbox.engine.begin() as connection:
            outbox.add(connection, "t", an_event("before"))
            for wrong in ([*many, twice, twice], [twice, *many, twice]):
                with pytest.raises(DuplicateKey):
                    outbox.add_many(connection, "t", wrong)
            outbox.add(connection, "t", an_event("after"))  # it can go on
        assert [row.aggregate_id for row in outbox.rows()] == ["before", "after"]
        with outbox.engine.connect() as connection:
            with pytest.raises(DuplicateKey):  # as the first thing of a transaction
                outbox.add_many(connection, "t", [*many, twice, twice])
            outbox.add_many(connection, "t", many)
            connection.rollback()
        assert count(outbox) == 2

    def test_what_a_savepoint_brought_goes_with_its_transaction(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        with Session(outbox.engine) as session:
            with session.begin_nested():  # the first thing of the transaction
                outbox.add(session, "t", an_event())
            session.rollback()
            with session.begin_nested():
                outbox.add_many(session, "t", [an_event(), an_event()])
            session.rollback()
            with session.begin_nested() as savepoint:
                outbox.add(session, "t", an_event("gone"))
                savepoint.rollback()
            with session.begin_nested():
                outbox.add(session, "t", an_event("stays"))
            session.commit()
        assert [row.aggregate_id for row in outbox.rows()] == ["stays"]

    def test_an_idempotency_key_adds_once_until_the_purge(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        def add(key: str) -> str:
            with outbox.engine.begin() as connection:
                return outbox.add(connection, "t", an_event(), idempotency_key=key)

        first = add("k")
        assert [add("k"), add("k")] == [first, first]
        assert add("K") != first
        set_rows(outbox, state="published", settled_at=1.0)
        assert add("k") == first
        assert outbox.purge(older_than=1, limit=10) == 2
        assert add("k") != first
        write(outbox, "a", "a")  # without keys: as many as one likes

    def test_not_before(self, outbox: SqlAlchemyOutbox) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=120)
        past = datetime.now(UTC) - timedelta(days=9)
        write(outbox, "a", not_before=soon)
        write(outbox, "b", not_before=past)
        claim = take(outbox)
        assert aggregates(claim) == ["b"]
        assert claim.next_due == pytest.approx(120, abs=20)
        assert outbox.stats().waiting == 1
        # The age counts from when it was due: test_store_hard_cases.py.

    def test_headers_and_the_trace_of_the_moment(
        self, outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(outbox, "a", headers={"k": "v"})
        monkeypatch.setitem(sys.modules, "opentelemetry.trace", a_tracer())
        write(outbox, "b", headers={"k": "v"})
        write(outbox, "c", headers={"TraceParent": "mine"})
        broken = types.ModuleType("opentelemetry.trace")
        monkeypatch.setitem(sys.modules, "opentelemetry.trace", broken)
        write(outbox, "d")
        found = {r.aggregate_id: dict(r.headers) for r in take(outbox).records}
        parent = "00-" + "0" * 30 + "ab-00000000000000cd-01"
        assert found == {
            "a": {"k": "v"},
            "b": {"traceparent": parent, "tracestate": "x=y", "k": "v"},
            "c": {"TraceParent": "mine"},
            "d": {},
        }

    def test_damaged_headers_make_the_event_unpublishable(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a", "b", "c")
        set_rows(outbox, headers="{not json")
        for record in take(outbox).records:
            with pytest.raises(EnvelopeError, match="no JSON object"):
                check_extra_headers(record.headers)

    def test_ids_and_keys_have_no_blanks_at_their_ends(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        """MariaDB would take "k " for "k", and add nothing."""
        with outbox.engine.begin() as connection:
            outbox.add(connection, "t", an_event(event_id="e 1"), idempotency_key="k 1")
            for text in ("k 1 ", " k 1", " "):
                with pytest.raises(EnvelopeError, match="blank") as caught:
                    outbox.add(connection, "t", an_event(), idempotency_key=text)
                assert caught.value.field == "idempotency_key"
            for text in ("e 1 ", " e"):
                padded = an_event(event_id=text)
                with pytest.raises(EnvelopeError, match="blank") as caught:
                    outbox.add(connection, "t", padded)
                assert caught.value.field == "event_id"
                with pytest.raises(EnvelopeError, match="blank"):
                    outbox.add_many(connection, "t", [an_event(), padded])
        assert [row.event_id for row in outbox.rows()] == ["e 1"]

    def test_add_many_keeps_the_order(self, outbox: SqlAlchemyOutbox) -> None:
        events = [an_event(f"a-{n % 3}") for n in range(2500)]
        with outbox.engine.begin() as connection:
            ids = outbox.add_many(connection, "t", iter(events), headers={"k": "v"})
        assert ids == [one.event_id for one in events]
        assert [row.event_id for row in outbox.rows(limit=9999)] == ids
        assert dict(take(outbox).records[0].headers) == {"k": "v"}
        with outbox.engine.begin() as connection:
            assert outbox.add_many(connection, "t", []) == []

    # -- the schema --------------------------------------------------------------------

    @pytest.mark.parametrize("column", ["due_at", "payload", "idempotency_key"])
    def test_a_missing_column_is_named(
        self, outbox: SqlAlchemyOutbox, column: str
    ) -> None:
        other = self._other_table(outbox, without=column)
        try:
            for use in (other.stats, lambda: write(other, "a")):
                with pytest.raises(SchemaMismatch, match=f"{column}.*missing") as found:
                    use()
                assert found.value.column == column
        finally:
            with outbox.engine.begin() as connection:
                connection.execute(sql("DROP TABLE other_outbox"))

    def test_a_wrong_column_is_named(self, outbox: SqlAlchemyOutbox) -> None:
        for column, wrong in {
            "payload": Column("payload", Integer, nullable=False),
            "extra": Column("extra", Integer, nullable=False),
            "event_id": Column("event_id", outbox.table.c.event_id.type),
        }.items():
            other = self._other_table(outbox, without=column, instead=wrong)
            try:
                with pytest.raises(SchemaMismatch, match=column):
                    other.stats()
            finally:
                with outbox.engine.begin() as connection:
                    connection.execute(sql("DROP TABLE other_outbox"))

    def test_a_missing_index_is_named(self, outbox: SqlAlchemyOutbox) -> None:
        for index in outbox.table.indexes:
            columns = [column.name for column in index.columns]
            index.drop(outbox.engine)
            with pytest.raises(SchemaMismatch, match=", ".join(columns)) as found:
                outbox.check_schema()
            assert found.value.column == columns[0]
            write(outbox, "a")  # who adds is not kept from it
            # Another name and one column more.
            columns.append("attempts")
            with outbox.engine.begin() as connection:
                connection.execute(
                    sql(
                        f"CREATE INDEX other_{index.name} "
                        f"ON eventbus_outbox ({', '.join(columns)})"
                    )
                )
            outbox.check_schema()

    def test_a_missing_index_is_made_by_create_all(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        """A table that an earlier version made gets what is new."""
        for index in outbox.table.indexes:
            index.drop(outbox.engine)
        with pytest.raises(SchemaMismatch, match="outbox init"):
            outbox.check_schema()
        outbox.create_all()
        outbox.check_schema()
        with outbox.engine.begin() as connection:
            connection.execute(sql("DROP TABLE eventbus_outbox"))
            connection.execute(
                sql("CREATE TABLE eventbus_outbox (position INTEGER PRIMARY KEY)")
            )
        with pytest.raises(SchemaMismatch, match="event_id"):
            outbox.create_all()

    def test_no_table_is_said(self, outbox: SqlAlchemyOutbox) -> None:
        other = SqlAlchemyOutbox(outbox.engine, table_name="not_there")
        with pytest.raises(SchemaMismatch, match="no table not_there"):
            take(other)
        with pytest.raises(SchemaMismatch, match="no table not_there"):
            write(other, "a")
        other.create_all()
        write(other, "a")
        assert len(take(other).records) == 1
        other.table.drop(outbox.engine)

    @staticmethod
    def _other_table(
        outbox: SqlAlchemyOutbox, without: str, instead: Column[int] | None = None
    ) -> SqlAlchemyOutbox:
        columns = [
            column._copy() for column in outbox.table.columns if column.name != without
        ]
        if instead is not None:
            columns.append(instead)
        Table("other_outbox", MetaData(), *columns).create(outbox.engine)
        return SqlAlchemyOutbox(outbox.engine, table_name="other_outbox")


def a_tracer() -> types.ModuleType:
    """A stand-in for OpenTelemetry, within a span."""
    context = types.SimpleNamespace(
        is_valid=True,
        trace_id=0xAB,
        span_id=0xCD,
        trace_flags=1,
        trace_state=types.SimpleNamespace(to_header=lambda: "x=y"),
    )
    span = types.SimpleNamespace(get_span_context=lambda: context)
    module = types.ModuleType("opentelemetry.trace")
    module.get_current_span = lambda: span  # type: ignore[attr-defined]
    return module
