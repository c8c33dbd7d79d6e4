"""What an outcome means for a row: attempts, pauses, limits."""

import attrs
import pytest

from eventbus_sync.errors import (
    BrokerFull,
    BrokerUnavailable,
    ConfigError,
    DeliveryTimedOut,
    IllegalTopic,
    NotAuthorized,
    PublishError,
)
from eventbus_sync.outbox import RetryPolicy
from eventbus_sync.outbox.record import Change, OutboxRecord
from eventbus_sync.outbox.retry import decide, failed, refused, unanswered
from eventbus_sync.results import Outcome, PublishResult


RECORD = OutboxRecord(
    *(7, "id-7", "orders", "a", "E", 1, "2026-01-01T00:00:00Z", "", "", 0),
    *(b"1", {}, 0, 1.0, "lease"),
)
POLICY = RetryPolicy(backoff=1.0, max_backoff=300.0)


def result(outcome: Outcome, error: PublishError | None = None) -> PublishResult:
    return PublishResult("id-7", "orders", outcome, error, 0.0, "a", "E", 0, 0.1)


def record(**changes: object) -> OutboxRecord:
    return attrs.evolve(RECORD, **changes)  # type: ignore[arg-type]


def high() -> float:
    return 1.0


def test_acked_is_published_and_no_attempt() -> None:
    mark = decide(result(Outcome.ACKED), record(attempts=3), POLICY, high)
    assert (mark.change, mark.attempts, mark.error) == (Change.PUBLISH, 3, "")


def test_refused_for_good_is_dead_with_its_reason() -> None:
    said = result(Outcome.REJECTED, IllegalTopic("no such name"))
    mark = decide(said, RECORD, POLICY, high)
    assert (mark.change, mark.attempts) == (Change.BURY, 1)
    assert mark.error == "illegal_topic: no such name"


def test_refused_counts_and_waits_longer_each_time() -> None:
    """D-O1: a refusal leaves a trace; the row does not stand at the head for ever."""
    said = result(Outcome.REJECTED, BrokerFull("no space"))
    pauses = []
    for attempts in range(19):
        mark = decide(said, record(attempts=attempts), POLICY, high)
        assert (mark.change, mark.attempts) == (Change.RETRY, attempts + 1)
        assert mark.error == "full: no space"
        pauses.append(mark.delay)
    assert pauses[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert set(pauses[9:]) == {300.0}


def test_the_last_attempt_buries() -> None:
    """D-O3: as many attempts as the limit says, and then the row is dead, not lost."""
    said = result(Outcome.REJECTED, NotAuthorized("no"))
    policy = RetryPolicy(max_attempts=3)
    changes = [decide(said, record(attempts=n), policy, high).change for n in range(3)]
    assert changes == [Change.RETRY, Change.RETRY, Change.BURY]
    last = decide(said, record(attempts=2), policy, high)
    assert last.attempts == 3
    assert last.error == "not_authorized: no (refused 3 times)"


def test_attempts_stay_what_a_column_can_hold() -> None:
    """Whatever somebody wrote there: a mark that fails would fail for ever."""
    said = result(Outcome.REJECTED, BrokerFull())
    most = 2**31 - 1
    many = RetryPolicy(max_attempts=most)
    for attempts in (most - 1, most, 2**63 - 1):
        for policy in (POLICY, many):
            mark = decide(said, record(attempts=attempts), policy, high)
            assert (mark.change, mark.attempts) == (Change.BURY, most)
        mark = failed(record(attempts=attempts), KeyError(), POLICY, high)
        assert (mark.change, mark.attempts) == (Change.BURY, most)


def test_full_jitter_is_drawn_between_nothing_and_the_whole_pause() -> None:
    said = result(Outcome.REJECTED, BrokerFull())
    for drawn in (0.0, 0.25, 0.999):
        mark = decide(said, record(attempts=4), POLICY, iter([drawn]).__next__)
        assert mark.delay == pytest.approx(16 * drawn, rel=0.05)
    plain = RetryPolicy(jitter=False)
    assert decide(said, record(attempts=4), plain, lambda: 0.0).delay == 16


def test_unknown_is_tried_again_soon_and_never_counts() -> None:
    said = result(Outcome.UNKNOWN, DeliveryTimedOut("silence"))
    mark = decide(said, record(attempts=19), POLICY, high)
    assert (mark.change, mark.attempts) == (Change.RETRY, 19)
    assert mark.delay <= 1.0
    assert mark.error == "timed_out: silence"


def test_no_broker_reached_never_counts_and_never_buries() -> None:
    """An outage does not use up the attempts of a backlog, however long it lasts."""
    said = result(Outcome.REJECTED, BrokerUnavailable("nobody there"))
    old = record(attempts=19, failing_for=1e9)
    mark = decide(said, old, POLICY, high)
    assert (mark.change, mark.attempts) == (Change.RETRY, 19)
    assert mark.delay <= 1.0
    # Nor does it begin or continue the time that is limited by max_age.
    assert not mark.reached


@pytest.mark.parametrize(
    ("outcome", "error"),
    [(Outcome.UNKNOWN, DeliveryTimedOut()), (Outcome.REJECTED, BrokerFull())],
)
def test_the_age_limit_buries(outcome: Outcome, error: PublishError) -> None:
    policy = RetryPolicy(max_age=60)
    mark = decide(result(outcome, error), record(failing_for=59), policy, high)
    assert (mark.change, mark.reached) == (Change.RETRY, True)
    mark = decide(result(outcome, error), record(failing_for=61), policy, high)
    assert mark.change is Change.BURY
    assert "max_age=60" in mark.error


def test_a_row_without_any_answer_is_dead_by_its_age_too() -> None:
    policy = RetryPolicy(max_age=60)
    assert unanswered(record(failing_for=59), policy, high).change is Change.RETRY
    mark = unanswered(record(failing_for=61), policy, high)
    assert mark.change is Change.BURY
    assert "max_age=60" in mark.error


def test_a_drawn_pause_has_two_digits_so_that_marks_share_theirs() -> None:
    said = result(Outcome.REJECTED, BrokerFull())
    drawn = [n / 1000 for n in range(1000)]
    draw = iter(drawn).__next__
    pauses = {decide(said, RECORD, POLICY, draw).delay for _ in drawn}
    assert len(pauses) <= 200
    assert max(pauses) <= 1.0


def test_marks_without_an_outcome() -> None:
    gone = unanswered(record(attempts=2), POLICY, high)
    assert (gone.change, gone.attempts) == (Change.RETRY, 2)
    bad = refused(record(attempts=2), ValueError("rubbish"))
    assert (bad.change, bad.error) == (Change.BURY, "ValueError: rubbish")
    odd = failed(record(attempts=2), ValueError("a bug"), POLICY, high)
    assert (odd.change, odd.attempts, odd.delay) == (Change.RETRY, 3, 4)
    enough = failed(record(attempts=19), ValueError("a bug"), POLICY, high)
    assert (enough.change, enough.attempts) == (Change.BURY, 20)


def test_defaults_of_the_policy() -> None:
    assert attrs.astuple(RetryPolicy()) == (20, 7 * 86400.0, 1.0, 300.0, True)


@pytest.mark.parametrize(
    "setting",
    [
        {"max_attempts": 0},
        {"max_age": 0},
        {"backoff": -1},
        {"max_backoff": "1"},
        {"jitter": 1},
        {"attempts": 3},
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        RetryPolicy(**setting)  # type: ignore[arg-type]
