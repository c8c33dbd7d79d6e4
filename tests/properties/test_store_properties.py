"""A store against a model that knows nothing but the table of transitions."""

from tempfile import TemporaryDirectory
from typing import Any

import attrs
import hypothesis
import pytest

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import create_engine, event, update
from support.outbox_rows import an_event, expire

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox.record import (
    TRANSITIONS,
    Change,
    Mark,
    OutboxRecord,
    RowState,
)


FAR = 10_000.0
MARKS = (Change.PUBLISH, Change.RETRY, Change.BURY, Change.RELEASE)


@attrs.define
class Row:
    """What the model knows of a row."""

    position: int
    event_id: str
    aggregate: str
    state: RowState = RowState.PENDING
    lease: str | None = None
    stands: bool = False
    waits: bool = False
    attempts: int = 0

    def move(self, change: Change, lease: str | None = None) -> bool:
        """Whether *change* may happen; if so it has."""
        how = TRANSITIONS[change]
        if self.state is not how.source:
            return False
        # A lease that has ended counts for marks until somebody else has the row.
        if how.leased is True and (lease is None or self.lease != lease):
            return False
        if how.leased is False and self.stands:
            return False
        self.state = how.target
        if not how.keeps_lease:
            self.lease, self.stands = None, False
        return True


def fast(driver: Any) -> None:
    driver.execute("PRAGMA synchronous = OFF")
    driver.execute("PRAGMA journal_mode = MEMORY")


class StoreMachine(RuleBasedStateMachine):
    """Everything that can happen to rows, in any order and with repeats."""

    records = Bundle("records")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.engine = create_engine(f"sqlite:///{self.folder.name}/outbox.db")
        # Nobody has to find these rows after a power failure.
        event.listen(self.engine, "connect", lambda driver, _: fast(driver))
        self.outbox = SqlAlchemyOutbox(self.engine)
        self.outbox.create_all()
        self.rows: dict[int, Row] = {}
        self.purged: list[Row] = []
        self.claims = 0

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @rule(aggregates=st.lists(st.sampled_from("abc"), max_size=5), commit=st.booleans())
    def add(self, aggregates: list[str], *, commit: bool) -> None:
        with self.engine.connect() as connection:
            ids = [
                self.outbox.add(connection, "t", an_event(one)) for one in aggregates
            ]
            (connection.commit if commit else connection.rollback)()
        if not commit:
            return
        found = [row for row in self.outbox.rows() if row.event_id in set(ids)]
        assert [row.event_id for row in found] == ids
        assert not self.rows or all(row.position > max(self.rows) for row in found)
        for row in found:
            self.rows[row.position] = Row(row.position, row.event_id, row.aggregate_id)

    def candidates(self, on_dead: str, without: set[str]) -> list[list[Row]]:
        """The runs that can be claimed, by the words of the contract."""
        runs = []
        for name in sorted({row.aggregate for row in self.rows.values()} - without):
            mine = [row for row in self.rows.values() if row.aggregate == name]
            pending = [row for row in mine if row.state is RowState.PENDING]
            if any(row.stands for row in pending):
                continue
            run: list[Row] = []
            for row in mine:
                dead = row.state is RowState.DEAD and on_dead == "hold"
                if dead or (row.state is RowState.PENDING and row.waits):
                    break
                if row.state is RowState.PENDING:
                    run.append(row)
            if run:
                runs.append(run)
        return sorted(runs, key=lambda run: run[0].position)

    @rule(
        target=records,
        limit=st.integers(1, 12),
        ordering=st.sampled_from(["aggregate", "aggregate", "none"]),
        on_dead=st.sampled_from(["hold", "skip"]),
        without=st.sets(st.sampled_from("abc"), max_size=1),
    )
    def claim(self, limit: int, ordering: Any, on_dead: Any, without: set[str]) -> Any:
        self.claims += 1
        lease = f"lease-{self.claims}"
        if ordering == "none":
            runs = [
                [row]
                for row in self.rows.values()
                if row.state is RowState.PENDING
                and not (row.stands or row.waits or row.aggregate in without)
            ]
        else:
            runs = self.candidates(on_dead, without)
        chosen = runs[:limit]
        expected = {run[0].position for run in chosen}
        more = sorted(row.position for run in chosen for row in run[1:])
        expected.update(more[: limit - len(expected)])

        claim = self.outbox.claim(
            lease,
            limit=limit,
            seconds=FAR,
            scan_from=0,
            ordering=ordering,
            on_dead=on_dead,
            without=without,
        )
        assert [record.position for record in claim.records] == sorted(expected)
        waiting = any(
            row.waits and not row.stands and row.state is RowState.PENDING
            for row in self.rows.values()
        )
        assert (claim.next_due is not None) == waiting
        for record in claim.records:
            row = self.rows[record.position]
            assert row.move(Change.CLAIM)
            row.lease, row.stands = lease, True
            assert record.attempts == row.attempts
            assert record.event_id == row.event_id
        return multiple(*claim.records)

    @rule(
        batch=st.lists(
            st.tuples(records, st.sampled_from(MARKS), st.booleans()), max_size=6
        )
    )
    def mark(self, batch: list[tuple[OutboxRecord, Change, bool]]) -> None:
        marks = [
            Mark(record, change, record.attempts + 1, FAR if wait else 0.0, "why")
            for record, change, wait in batch
        ]
        # The first of several for one row and lease counts.
        first: dict[tuple[int, str], Mark] = {}
        for one in marks:
            first.setdefault((one.record.position, one.record.lease), one)
        moved = set()
        for one in first.values():
            row = self.rows.get(one.record.position)
            if row is not None and row.move(one.change, one.record.lease):
                moved.add(row.position)
                row.attempts = one.attempts
                if one.change is Change.RETRY:
                    row.waits = one.delay > 0
        assert self.outbox.mark(marks) == moved

    @rule(some=st.lists(records, max_size=3))
    def renew(self, some: list[OutboxRecord]) -> None:
        leases = {record.lease for record in some}
        standing = sum(row.stands and row.lease in leases for row in self.rows.values())
        assert self.outbox.renew(leases, seconds=FAR) == standing

    @rule()
    def time_passes(self) -> None:
        """Leases end and waits too, by the database's clock."""
        expire(self.outbox)
        with self.engine.begin() as connection:
            connection.execute(update(self.outbox.table).values(next_attempt_at=0.0))
        for row in self.rows.values():
            row.stands = row.waits = False

    @rule(record=records)
    def requeue(self, record: OutboxRecord) -> None:
        self.check_requeued([record.event_id])

    @rule()
    def requeue_all(self) -> None:
        self.check_requeued(None)

    def check_requeued(self, ids: list[str] | None) -> None:
        done = self.outbox.requeue(ids)
        expected, overtaken, unseen = [], [], set()
        for row in self.rows.values():
            wanted = ids is None or row.event_id in ids
            if wanted and row.move(Change.REQUEUE):
                row.attempts, row.waits = 0, False
                expected.append(row.event_id)
                if any(
                    (other.state is RowState.PUBLISHED or other.stands)
                    and other.aggregate == row.aggregate
                    and other.position > row.position
                    for other in self.rows.values()
                ):
                    overtaken.append(row.event_id)
                elif any(
                    other.aggregate == row.aggregate and other.position > row.position
                    for other in self.purged
                ):
                    unseen.add(row.event_id)
        assert done.event_ids == tuple(expected)
        assert done.overtaken == tuple(overtaken)
        # Never silent about what was purged.
        assert unseen <= set(done.perhaps_overtaken) <= set(expected) - set(overtaken)

    @rule(record=records)
    def discard(self, record: OutboxRecord) -> None:
        row = self.rows.get(record.position)
        moved = row is not None and row.move(Change.DISCARD)
        gone = self.outbox.discard([record.event_id])
        assert gone == ((record.event_id,) if moved else ())

    @rule(limit=st.sampled_from([1, 2, 1000]))
    def purge(self, limit: int) -> None:
        settled = [
            row.position
            for row in self.rows.values()
            if row.state in {RowState.PUBLISHED, RowState.DISCARDED}
        ]
        gone = self.outbox.purge(older_than=-FAR, limit=limit)
        assert gone == min(limit, len(settled))
        left = {row.position for row in self.outbox.rows(limit=10_000)}
        purged = [position for position in settled if position not in left]
        assert len(purged) == gone
        for position in purged:
            row = self.rows.pop(position)
            if row.state is RowState.PUBLISHED:
                self.purged.append(row)

    @invariant()
    def the_same_rows(self) -> None:
        """The table is what the model says, all of it."""
        found = [
            (row.position, row.state, row.attempts, row.leased_until is not None)
            for row in self.outbox.rows(limit=10_000)
        ]
        assert found == [
            (row.position, row.state, row.attempts, row.lease is not None)
            for row in self.rows.values()
        ]
        stats = self.outbox.stats()
        states = [row.state for row in self.rows.values()]
        assert stats.pending == states.count(RowState.PENDING)
        assert stats.published == states.count(RowState.PUBLISHED)
        assert stats.dead == states.count(RowState.DEAD)
        assert stats.discarded == states.count(RowState.DISCARDED)
        assert stats.leased == sum(row.stands for row in self.rows.values())


def test_a_store_is_what_the_model_says() -> None:
    """A look at it."""
    run_state_machine_as_test(
        StoreMachine,
        settings=hypothesis.settings(max_examples=8, stateful_step_count=30),
    )


@pytest.mark.slow
def test_a_store_is_what_the_model_says_at_length() -> None:
    """With as many examples as the profile says; CI's has three times the usual."""
    run_state_machine_as_test(StoreMachine, settings=hypothesis.settings())
