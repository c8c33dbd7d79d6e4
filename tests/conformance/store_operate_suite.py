"""What operators do with a store, as tests."""

import pytest

from support.outbox_rows import (
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
    unreached,
    write,
)

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox.record import RowState


class OperateConformance:
    """What holds on every database."""

    def test_requeue_and_what_was_overtaken(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "b", "a", "a", "b", "c")
        b0, a1, a2, b, c = take(outbox).records
        outbox.mark([published(b0), buried(a1), published(a2), buried(b), released(c)])
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

    def test_requeue_says_what_a_purge_may_have_hidden(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "z")
        outbox.mark([published(take(outbox).records[0])])
        let_time_pass(outbox, 10)
        write(outbox, "a", "a", "b")
        a1, a2, b = take(outbox).records
        outbox.mark([buried(a1), published(a2), buried(b)])
        # What was published before they were written is there; so is what came later.
        done = outbox.requeue()
        assert (done.overtaken, done.perhaps_overtaken) == ((a1.event_id,), ())
        again = take(outbox).records
        outbox.mark([buried(record) for record in again])
        assert outbox.purge(older_than=5, limit=10) == 1  # of z
        done = outbox.requeue()
        assert done.overtaken == (a1.event_id,)
        assert done.perhaps_overtaken == (b.event_id,)
        outbox.mark([buried(record) for record in take(outbox).records])
        assert outbox.purge(older_than=-1, limit=10) == 1  # of a
        done = outbox.requeue()
        assert (done.overtaken, done.perhaps_overtaken) == (
            (),
            (a1.event_id, b.event_id),
        )

    def test_purge_takes_the_oldest_first(self, outbox: SqlAlchemyOutbox) -> None:
        ids = write(outbox, "a", "b", "c")
        for n in (1, 2, 0):
            [record] = [r for r in take(outbox).records if r.event_id == ids[n]]
            outbox.mark([published(record)])
            expire(outbox)
            let_time_pass(outbox, 10)
        for n in (1, 2, 0):
            assert outbox.purge(older_than=-1, limit=1) == 1
            assert ids[n] not in [row.event_id for row in outbox.rows()]

    def test_requeue_and_discard_wake_relays(self, outbox: SqlAlchemyOutbox) -> None:
        """Where a notification can: the rows can go now, or what they held."""
        write(outbox, "a", "b")
        a, b = take(outbox).records
        outbox.mark([buried(a), buried(b)])
        told = int(outbox.engine.dialect.name == "postgresql")
        with statements(outbox.engine) as sent:
            outbox.requeue([a.event_id])
            assert sum("pg_notify" in one for one in sent) == told
            outbox.discard([b.event_id])
            assert sum("pg_notify" in one for one in sent) == 2 * told

    def test_requeue_begins_the_age_anew(self, outbox: SqlAlchemyOutbox) -> None:
        write(outbox, "a")
        outbox.mark([retried(take(outbox).records[0], 500)])
        let_time_pass(outbox, 500)
        record = take(outbox).records[0]
        assert 499 <= record.failing_for < 600
        outbox.mark([buried(record)])
        outbox.requeue()
        assert take(outbox).records[0].failing_for == 0.0

    def test_time_in_which_nobody_tried_is_no_age(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        """An outage of the broker, or of all relays, makes no row dead."""
        write(outbox, "a", "b")
        a, b = take(outbox).records
        outbox.mark([retried(a, 100), unreached(b, 100)])
        # Due after 100 s; then the breaker was open, or no relay ran.
        let_time_pass(outbox, 9100)
        a, b = take(outbox).records
        assert 99 <= a.failing_for < 160
        assert b.failing_for == 0.0
        # Given back untried, and claimed much later.
        outbox.mark([released(a), released(b)])
        let_time_pass(outbox, 9000)
        a, b = take(outbox).records
        assert 99 <= a.failing_for < 160
        # Attempts that reach no broker, with their pauses, do not count either.
        let_time_pass(outbox, 20)
        outbox.mark([unreached(a, 1000), unreached(b, 1000)])
        let_time_pass(outbox, 1000)
        a, b = take(outbox, seconds=90).records
        assert 99 <= a.failing_for < 160
        assert b.failing_for == 0.0
        # Attempts that do reach one, without an answer for instance, count.
        let_time_pass(outbox, 80)
        outbox.mark([retried(a, 20), retried(b, 20)])
        let_time_pass(outbox, 20)
        a, b = take(outbox).records
        assert 199 <= a.failing_for < 260
        assert 19 <= b.failing_for < 60

    def test_what_reached_no_broker_is_late_while_it_waits(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        write(outbox, "a")
        outbox.mark([unreached(take(outbox).records[0], 900)])
        let_time_pass(outbox, 500)
        stats = outbox.stats()
        assert (stats.waiting, stats.pending) == (1, 1)
        assert 499 <= stats.oldest_age < 600

    def test_one_id_is_no_collection_of_ids(self, outbox: SqlAlchemyOutbox) -> None:
        (event_id,) = write(outbox, "a")
        outbox.mark([buried(take(outbox).records[0])])
        for refused in (outbox.requeue, outbox.discard):
            with pytest.raises(TypeError, match=r"pass a list of ids, \["):
                refused(event_id)
        assert state_of(outbox) == ["dead"]

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
        few = outbox.stats(settled=False)
        assert (few.published, few.dead, few.discarded) == (0, 1, 0)
        assert (few.pending, few.leased, few.waiting) == counts
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
