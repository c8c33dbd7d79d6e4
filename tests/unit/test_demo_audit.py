"""Each way in which books can fail to balance is found, by name and example."""

import pytest

from support.demo_runs import journal_of, stats_of, stored_as

from eventbus_sync.demo.audit import MEANING, Violation, audit


def kinds(violations: list[Violation]) -> dict[str, int]:
    """Return what was found, and how often."""
    return {violation.kind: violation.count for violation in violations}


def test_books_that_balance() -> None:
    """Acked and unknown events stored once and in order: nothing to find."""
    journal = journal_of(["a1", "a2", "a3"], unknown=["a2"])
    assert audit(journal, stats_of(journal), stored_as("a1", "a2", "a3")) == []


def test_an_unknown_event_may_be_absent() -> None:
    journal = journal_of(["a1", "a2"], unknown=["a2"])
    assert audit(journal, stats_of(journal), stored_as("a1")) == []


def test_a_rejected_event_is_absent() -> None:
    journal = journal_of(["a1", "a2"], rejected=["a2"])
    assert audit(journal, stats_of(journal), stored_as("a1")) == []


def test_acked_but_not_stored() -> None:
    journal = journal_of(["a1", "a2"])
    found = audit(journal, stats_of(journal), stored_as("a1"))
    assert found == [Violation("lost", 1, "a2")]


def test_stored_though_rejected() -> None:
    journal = journal_of(["a1", "a2"], rejected=["a2"])
    found = audit(journal, stats_of(journal), stored_as("a1", "a2"))
    assert found == [Violation("phantom", 1, "a2")]


def test_stored_though_never_accepted() -> None:
    journal = journal_of(["a1"])
    found = audit(journal, stats_of(journal), stored_as("a1", "ghost"))
    assert found == [Violation("phantom", 1, "ghost")]


@pytest.mark.parametrize("unknown", [[], ["a1"]])
def test_stored_twice(unknown: list[str]) -> None:
    journal = journal_of(["a1", "a2"], unknown=unknown)
    found = audit(journal, stats_of(journal), stored_as("a1", "a2", "a1"))
    assert found == [Violation("twice", 1, "a1")]


def test_stored_out_of_order() -> None:
    journal = journal_of(["a1", "a2", "a3"])
    found = audit(journal, stats_of(journal), stored_as("a1", "a3", "a2"))
    assert found == [Violation("disordered", 1, "a2")]


def test_an_event_that_was_overtaken_by_many_counts_once() -> None:
    journal = journal_of(["a1", "a2", "a3"])
    found = audit(journal, stats_of(journal), stored_as("a2", "a3", "a1"))
    assert found == [Violation("disordered", 1, "a1")]


def test_threads_have_no_order_between_them() -> None:
    journal = journal_of(["a1", "a2"], ["b1", "b2"])
    stored = stored_as("b1", "a1", "b2", "a2")
    assert audit(journal, stats_of(journal), stored) == []


def test_aggregates_have_no_order_between_them() -> None:
    journal = journal_of(["a1", "b1"])
    stored = stored_as("b1", aggregate="b") + stored_as("a1", aggregate="a")
    assert audit(journal, stats_of(journal), stored) == []


def test_an_aggregate_on_two_partitions_has_no_order() -> None:
    journal = journal_of(["a1", "a2"])
    stored = stored_as("a1") + stored_as("a2", partition=1)
    assert audit(journal, stats_of(journal), stored) == [
        Violation("disordered", 1, "a2")
    ]


def test_first_occurrences_make_the_order() -> None:
    """A repeat that comes late is a repeat, not disorder."""
    journal = journal_of(["a1", "a2"])
    found = audit(journal, stats_of(journal), stored_as("a1", "a2", "a1"))
    assert kinds(found) == {"twice": 1}


def test_two_results_for_one_event() -> None:
    journal = journal_of(["a1"])
    journal.reader.unknown.append("a1")
    found = audit(journal, stats_of(journal, unknown=0), stored_as("a1"))
    assert kinds(found) == {"answered_twice": 1, "miscounted": 2}


def test_no_result_for_an_event() -> None:
    journal = journal_of(["a1", "a2"], unread=["a2"])
    found = audit(journal, stats_of(journal, acked=2, queued=1), stored_as("a1", "a2"))
    assert kinds(found) == {"unanswered": 1, "miscounted": 1}


def test_a_dropped_result_is_accounted_for() -> None:
    """Whether its event was acked nobody can tell, so it may be stored or not."""
    journal = journal_of(["a1", "a2"], unread=["a2"])
    stats = stats_of(journal, dropped=1)
    assert audit(journal, stats, stored_as("a1", "a2")) == []
    assert audit(journal, stats, stored_as("a1")) == []


def test_more_results_are_missing_than_were_dropped() -> None:
    journal = journal_of(["a1", "a2", "a3"], unread=["a2", "a3"])
    stats = stats_of(journal, dropped=1, acked=3, queued=1)
    found = audit(journal, stats, stored_as("a1", "a2", "a3"))
    assert kinds(found) == {"unanswered": 1}


def test_a_result_for_nothing() -> None:
    journal = journal_of(["a1"])
    journal.reader.acked.append("ghost")
    found = audit(
        journal, stats_of(journal, accepted=1, acked=1, taken=1), stored_as("a1")
    )
    assert kinds(found) == {"uncalled": 1, "miscounted": 2, "lost": 1}


@pytest.mark.parametrize(
    "counter", ["accepted", "acked", "rejected", "unknown", "taken"]
)
def test_counters_that_contradict_the_run(counter: str) -> None:
    """One counter off is found twice: against the run, and in its own equations."""
    journal = journal_of(["a1"])
    stats = stats_of(journal, **{counter: 7})
    found = audit(journal, stats, stored_as("a1"))
    assert kinds(found) == {"miscounted": 2}
    assert f"{counter}: 7 there" in str(found[0])


def test_an_event_left_in_flight() -> None:
    journal = journal_of(["a1"])
    found = audit(journal, stats_of(journal, in_flight=1), stored_as("a1"))
    assert kinds(found) == {"miscounted": 1}


@pytest.mark.parametrize("kind", sorted(MEANING))
def test_every_violation_can_be_said(kind: str) -> None:
    text = str(Violation(kind, 1234, "order-7"))
    assert text == f"1,234 {MEANING[kind]} (such as order-7)"
