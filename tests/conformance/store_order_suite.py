"""Sentence 4 of outbox/store.py as tests: what a claim takes, and in which order."""

import time

import pytest

from support.outbox_rows import (
    aggregates,
    an_event,
    buried,
    expire,
    published,
    released,
    retried,
    set_rows,
    take,
    write,
)

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


class OrderConformance:
    """What holds on every database."""

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

    def test_4_a_dead_row_holds_nothing_that_is_older(
        self, outbox: SqlAlchemyOutbox
    ) -> None:
        """So a row that was requeued need not wait for a younger one's decision."""
        write(outbox, "a", "b", "a", "a", "b", "a")
        a1, b1, a2, a3, b2, a4 = take(outbox).records
        outbox.mark([buried(a1), buried(a3), *map(released, (b1, a2, b2, a4))])
        assert outbox.requeue([a1.event_id]).event_ids == (a1.event_id,)
        claim = take(outbox)
        ours = [record.position for record in claim.records]
        assert ours == [a1.position, b1.position, a2.position, b2.position]
        assert claim.scanned_to == 0  # what a dead row holds is not looked for again
        outbox.mark([published(record) for record in claim.records])
        assert take(outbox).records == ()
        outbox.discard([a3.event_id])
        assert aggregates(take(outbox)) == ["a"]

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

    @pytest.mark.parametrize("ordering", ["aggregate", "none"])
    def test_4_rows_scheduled_for_later_are_passed_by(
        self, outbox: SqlAlchemyOutbox, ordering: str
    ) -> None:
        with outbox.engine.begin() as connection:
            later = [an_event(f"later-{n}") for n in range(1500)]
            outbox.add_many(connection, "orders", later)
        set_rows(outbox, next_attempt_at=4e9)
        idle = take(outbox, ordering=ordering)
        assert (idle.records, idle.scanned_to) == ((), 0)
        assert idle.next_due == pytest.approx(4e9 - time.time(), abs=60)
        write(outbox, "tried")
        tried = take(outbox, ordering=ordering, scan_from=1400).records
        outbox.mark([retried(record) for record in tried])
        write(outbox, "new", "later-7")
        # Both are found at once, and what its aggregate's older row holds is not.
        first = take(outbox, ordering=ordering)
        assert first.records == ()
        second = take(outbox, ordering=ordering, scan_from=first.scanned_to)
        held = [] if ordering == "aggregate" else ["later-7"]
        assert aggregates(second) == ["tried", "new", *held]
        assert second.scanned_to == 0
